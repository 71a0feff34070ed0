"""Latents read as they are or expanded: the same outputs, each with the FLOPs and the kept tensors of its program."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.test_sparse_attention import ATTENTION, BASE, INDEXER  # noqa: E402
from tests.totals import backward_flops  # noqa: E402
from txcalc.answer.report import count  # noqa: E402
from txcalc.check.reference.transformer import build  # noqa: E402
from txcalc.check.validate import Case, decoding, kept  # noqa: E402
from txcalc.count.flops import forward_flops  # noqa: E402
from txcalc.models.load import load  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402
from txcalc.trace.model import trace  # noqa: E402
from txcalc.trace.workload import Workload  # noqa: E402

PLAIN = {name: value for name, value in ATTENTION.items() if name != "index_topk"}
KINDS: dict[str, dict[str, Any]] = {
    "query latents": {"attention": PLAIN},
    "queries of x": {"attention": {**PLAIN, "q_rank": None}},
    "one head": {"attention": {**PLAIN, "heads": 1}},
    "an indexer": {"attention": {**ATTENTION, "indexer": INDEXER}},
    "an indexer of two layers": {"groups": [{"repeat": 2, "blocks": [
        {"attention": {**ATTENTION, "indexer": INDEXER}}, {"attention": ATTENTION}]}]},
    "layers without latents": {"layers": 2, "groups": [{"blocks": [
        {"attention": PLAIN}, {"attention": {"kind": "standard", "heads": 3, "kv_heads": 1, "head_dim": 8}}]}]},
}


def model(kind: str) -> Model:
    return Model.from_data({**BASE, "attention": PLAIN, **KINDS[kind]})


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_compute_the_same(kind: str) -> None:
    """A prompt, then tokens one by one and two at once, over the cache that each way has filled."""
    torch.manual_seed(0)
    spec = model(kind)
    ways = [build(spec, length=24, absorbed=absorbed, dtype=torch.float64).eval() for absorbed in (False, True)]
    ways[1].load_state_dict(copy.deepcopy(ways[0].state_dict()))
    ids = torch.randint(0, 101, (2, 17))
    with torch.no_grad():
        outs, caches = zip(*(way.prefill(ids) for way in ways), strict=True)
        assert torch.allclose(outs[0].logits, outs[1].logits, rtol=1e-12, atol=1e-12)
        for new in (1, 1, 2):
            step = torch.randint(0, 101, (2, new))
            a, b = (way(step, cache=cache).logits for way, cache in zip(ways, caches, strict=True))
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
        assert caches[0].bytes() == caches[1].bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_flops_of_decoding_are_those_of_the_modules(kind: str) -> None:
    rows = list(decoding(model(kind)))
    assert [row.quantity.split()[-1] for row in rows] == ["absorbed", "expanded"]
    assert all(row.verdict == "equal" for row in rows), [row.differences for row in rows]
    assert rows[0].counted != rows[1].counted


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "flash", "math", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_absorbed_latents_keep(kind: str, attention: Any, dtype: Any, dropout: float) -> None:
    row = kept(model(kind), Case(attention, dtype, dropout, loss=True, latents="absorbed"), "cpu", "")
    assert row.verdict == "equal", row.differences


@pytest.mark.parametrize("kind", KINDS)
def test_backward_of_absorbed_latents(kind: str) -> None:
    from txcalc.check import measure

    spec = model(kind)
    w = Workload(phase="training", seq=13, batch=2, attention="eager", latents="absorbed", kernels="cpu")
    got = measure.flops(spec, 2, 13, eager=True, loss=True, backward=True, absorbed=True)
    t = trace(spec, w)
    assert forward_flops(t) == sum(got.forward.values())
    assert backward_flops(t) == sum(got.backward.values())


def test_the_option_arrives() -> None:
    from typer.testing import CliRunner

    from txcalc.cli.app import app

    for asked, found in (("absorbed", "absorbed"), ("expanded", "expanded")):
        result = CliRunner().invoke(app, ["count", "deepseek-v2-lite", "--seq", "8", "--latents", asked, "--json"])
        assert f'"latents": "{found}"' in result.stdout
    assert "· latents" not in CliRunner().invoke(app, ["memory", "gpt2", "--seq", "8", "--latents", "absorbed"]).stdout


def test_absorbed_is_the_default_of_decoding_alone() -> None:
    spec = model("query latents")
    assert count(spec, Workload.decode(past=5)).workload.latents == "absorbed"
    for phase in ("forward", "training", "prefill"):
        assert count(spec, Workload(phase=phase, seq=5)).workload.latents == "expanded"
    other = Model.from_data({**BASE, "attention": {"heads": 3}})
    assert count(other, Workload.decode(past=5)).workload.latents is None


@pytest.mark.parametrize(("name", "absorbed", "expanded"), [
    ("deepseek-v3", 629_984_329_728, 67_305_157_296_128), ("deepseek-v2-lite", 35_705_585_664, None),
    ("kimi-k2", 341_739_700_224, None),
])
def test_engines_decode_over_latents(name: str, absorbed: int, expanded: int | None) -> None:
    spec = load(name).model
    w = Workload.decode(past=32767)
    assert count(spec, w).totals.flops_forward.value == absorbed
    if expanded is not None:
        assert count(spec, w.replaced(latents="expanded")).totals.flops_forward.value == expanded


def test_the_formula() -> None:
    """Of a layer: 2 h r (nope + v) + 2 T h (2 r + rope), in place of 2 T r h (nope + v) + 2 T h (nope + rope + v)."""
    h, r, nope, rope, v, past = 3, 14, 12, 6, 10, 20
    spec, keys = model("query latents"), past + 1
    for latents, flops in (
        ("absorbed", 2 * h * r * (nope + v) + 2 * keys * h * (2 * r + rope)),
        ("expanded", 2 * keys * r * h * (nope + v) + 2 * keys * h * (nope + rope + v)),
    ):
        ops = trace(spec, Workload.decode(past=past, latents=latents)).ops  # type: ignore[arg-type]
        names = ("kv_up", "absorb_q", "absorb_v", "flash", "efficient", "scores", "context")
        assert sum(op.flops for op in ops if op.path.rsplit(".", 1)[-1] in names) == flops
