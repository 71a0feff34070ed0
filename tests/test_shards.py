"""Weights sharded over ranks by FSDP2: live bytes of a rank's step, event by event, against PyTorch's fake group."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import txcalc
from tests.live_families import FAMILIES
from tests.test_implementations import CONFIGS
from tests.test_live import GPT, LLAMA
from tests.test_live import MODELS as DECODERS
from tests.test_step import compared
from txcalc.check import fake_cuda
from txcalc.check.fake_cuda import NotRun
from txcalc.check.live import changes
from txcalc.check.validate import has_loss
from txcalc.count import step
from txcalc.count.collectives import collectives
from txcalc.count.entries import total
from txcalc.count.lifetimes import live_bytes
from txcalc.count.params import params
from txcalc.huggingface.importer import spec_from_config
from txcalc.show import capacity, terminal
from txcalc.spec.adapters import Adapter
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import positions
from txcalc.spec.model import Model
from txcalc.trace.layout import Fsdp, Layout
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

MODELS: dict[str, dict[str, Any]] = DECODERS | FAMILIES | {
    "gpt": GPT, "llama": LLAMA, "deep": LLAMA | {"layers": 7}}


def workload(dp: int, fsdp: dict[str, Any], **more: Any) -> Workload:
    return Workload(**{"phase": "training", "batch": 2, "seq": 7, "dtype": "bf16"} | more,
                    layout=Layout(dp=dp, fsdp=Fsdp(**fsdp)))


def compare(name: str, dp: int, fsdp: dict[str, Any], **more: Any) -> None:
    spec = Model.from_data(MODELS[name])
    source = None if spec.encoder is None else positions(spec.encoder.input, 5)
    w = workload(dp, fsdp, **{"seq": positions(spec.input, 7), "source_seq": source} | more)
    assert w.layout is not None and w.layout.fsdp is not None
    row = compared(spec, w, what="tests.measures.sharded.step_live_bytes", shards={"dp": dp, **vars(w.layout.fsdp)})
    assert row.verdict == "equal", row.differences
    assert total(step.at_peak(trace(spec, w), in_place=False)) == row.counted


RUNS: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    ("llama", 4, {}, {}),
    ("llama", 2, {"reshard": False}, {"recompute": "full", "accumulate": 3}),
    ("llama", 4, {}, {"lora": Adapter(r=3, targets=("all",), dtype="bf16")}),
    ("llama", 3, {"params": "fp32"}, {"dtype": "fp32", "optimizer_kernel": "fused"}),
    ("gpt", 6, {"replicas": 2, "reduce": "bf16"}, {"optimizer_kernel": "loop"}),
    ("gpt", 1024, {"reduce": "bf16"}, {"clip": True}),
    ("gpt", 4, {}, {"optimizer": "sgd-momentum", "dropout": 0.1}),
    ("deep", 6, {"replicas": 2, "reduce": "bf16"}, {}),
    ("llama", 3, {"unit": "model"}, {"freeze": ("head",), "recompute": "full:2"}),
    ("gpt", 4, {"reshard": False, "reduce": "bf16"}, {"recompute": "ops:2"}), ("mixtral", 4, {}, {"recompute": "ops"}),
    ("mixtral", 4, {"unit": "model", "reshard": True}, {"recompute": "full", "accumulate": 2}),
    ("gpt", 4, {}, {"freeze": ("token_embedding", "position_embedding", "layers.feed_forward")}),
    ("mixtral", 4, {"reshard": False, "reduce": "bf16"}, {"freeze": ("layers.feed_forward.router",)}),
    ("sinks", 2, {"unit": "model"}, {"attention": "eager"}), ("layer-scale", 4, {"unit": "model"}, {}),
    ("gpt", 3, {"unit": "model"}, {"freeze": ("final_norm", "token_embedding")}),
    ("llama", 4, {}, {"lora": Adapter(r=3, targets=("all",))}),
    ("llama", 3, {"unit": "model"}, {"freeze": ("final_norm", "head")}),
    ("bert-classifier", 3, {}, {"freeze": ("layers.attention.v", "head", "embedding_norm")}),
    ("mixtral", 3, {}, {}),
    ("more-experts-than-rows", 3, {}, {}),
    ("two-layers-before-head", 3, {}, {}), ("vit-registers", 3, {}, {}),
]


@pytest.mark.grid(3)
@pytest.mark.parametrize(("name", "dp", "fsdp", "more"), RUNS)
def test_a_step_of_a_rank(name: str, dp: int, fsdp: dict[str, Any], more: dict[str, Any]) -> None:
    compare(name, dp, fsdp, **more)


OFFLOADED: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    ("llama", 4, {}, {}), ("gpt", 6, {"replicas": 2}, {"accumulate": 2}), ("gpt", 4, {}, {"optimizer": "sgd"}),
    ("mixtral", 3, {"params": "fp32"}, {"dtype": "fp32"}), ("llama", 3, {"unit": "model"}, {}),
    ("gpt", 4, {"reduce": "bf16", "reshard": False}, {"recompute": "full", "accumulate": 2}),
    ("gpt", 6, {"replicas": 2, "reduce": "bf16"}, {}), ("bert-classifier", 3, {}, {}),
    ("llama", 4, {}, {"lora": Adapter(r=3, targets=("all",), dtype="bf16")}),
]


@pytest.mark.grid(9)
@pytest.mark.parametrize(("name", "dp", "fsdp", "more"), OFFLOADED)
def test_shards_in_the_memory_of_the_cpu(name: str, dp: int, fsdp: dict[str, Any], more: dict[str, Any]) -> None:
    """The peak: shards are copied one by one to the device, which is never the most that is alive."""
    spec, w = Model.from_data(MODELS[name]), workload(dp, fsdp | {"offload": True}, **more)
    assert w.layout is not None and w.layout.fsdp is not None
    row = compared(spec, w, what="tests.measures.sharded.step_live_bytes", shards={"dp": dp, **vars(w.layout.fsdp)})
    assert row.counted == row.measured
    assert {each.part for each in step.resident(trace(spec, w))} == {"inputs"}


WITHOUT_LOSS = {name for name, data in MODELS.items() if not has_loss(Model.from_data(data))}
"""Their targets are nothing of the run's, and still there when it is measured."""
SHARED = {"shared-layers", "shared-groups", "albert"}
TOGETHER = {name for name in MODELS if name.startswith("t5")}
"""Gradients of an encoder's output and of a bias are handed on together: between two peaks, in another order."""


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [{}, {"reshard": False, "reduce": "bf16"}])
@pytest.mark.parametrize("dp", [3, 8])
@pytest.mark.parametrize("name", sorted(MODELS.keys() - WITHOUT_LOSS - SHARED - TOGETHER))
def test_other_models(name: str, dp: int, fsdp: dict[str, Any]) -> None:
    compare(name, dp, fsdp, **({"images": 2} if name.startswith("vlm") else {}))


def test_experts_are_sharded_over_the_ranks_that_have_the_same() -> None:
    """By hand, in rows of the first rank: of 6 experts a rank has 2, each over 4 ranks, and of all else a 12th."""
    spec = Model.from_data(MODELS["mixtral"] | {"feed_forward": MODELS["mixtral"]["feed_forward"] | {"experts": 6}})
    layout = Layout(dp=12, ep=3, fsdp=Fsdp())
    t = trace(spec, Workload(phase="training", batch=2, seq=7, layout=layout))
    experts = 2 * (4 * 22 + 6 * 13 + 4 * 22 * spec.feed_forward.gated)  # type: ignore[union-attr]
    layer = 2 * 22 + 1 * 22 + 1 * 22 + 2 * 24 + 1 * 22 + 2 * 2 + experts
    held = {part: sum(each.value for each in step.resident(t) if each.part == part)
            for part in ("weights", "optimizer state")}
    assert held["weights"] == 4 * (2 * layer + 2 * 9 * 22 + 2)
    assert held["optimizer state"] == pytest.approx(2 * held["weights"], abs=4 * len(t.ops))  # and a number of each
    assert step.certainty(t) == "estimate"
    with pytest.raises(SpecError, match="ep: 4 ranks do not divide the 6 that shard weights"):
        Layout(dp=12, ep=4, fsdp=Fsdp(replicas=2))


CLASSES = ("llama", "llama-tied", "qwen3", "mixtral", "gpt2", "neox", "bert", "vit", "phi3", "qwen3-moe",
           "deepseek-v3", "gemma3")


@pytest.mark.parametrize(("name", "dp", "fsdp", "recompute"), [
    ("llama", 4, {}, "full"), ("mixtral", 7, {}, None),
    *(pytest.param(name, dp, fsdp, recompute, marks=pytest.mark.slow) for name in CLASSES for dp in (2, 5)
      for fsdp, recompute in (({}, None), ({"reshard": False, "reduce": "bf16"}, "full"))),
])
def test_transformers_classes(name: str, dp: int, fsdp: dict[str, Any], recompute: str | None) -> None:
    """What a step has alive above weights and states, of experts' weights that are one, and of fused projections."""
    pytest.importorskip("transformers")
    config = CONFIGS[name]
    spec = Model.from_data(spec_from_config(config, "config.json", name))
    w = workload(dp, fsdp, seq=positions(spec.input, 7), implementation="transformers", attention="sdpa",
                 recompute=recompute)
    assert w.layout is not None and w.layout.fsdp is not None
    try:
        real = fake_cuda.ask("tests.measures.sharded.class_live_bytes", config, 2, 7, dtype="bf16",
                             attention="sdpa", dropout=0.0, recompute=recompute == "full",
                             shards={"dp": dp, **vars(w.layout.fsdp)})
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    counted = [(event.path, event.live) for event in live_bytes(trace(spec, w), in_place=False)]
    ours, theirs = ([live for _, live in changes([("", 0), *events])] for events in (counted, real))
    assert ours == theirs


@pytest.mark.parametrize(("name", "more", "why"), [
    ("shared-layers", {}, "fsdp: weights that several layers share are not counted in units yet"),
    ("llama", {"dtype": "fp32"}, "fsdp: gathers weights in bf16, and --dtype is fp32: give the same in both"),
    ("llama", {"precision": "mixed"}, "fsdp: has fp32 weights and states by itself: leave --precision and bytes of "
     "--optimizer out"),
    ("transformer-xl-shared", {"layout": Layout(dp=4, fsdp=Fsdp(unit="model"))}, "fsdp: weights with biases of queries "
     "that layers share, in one unit, are not counted in units yet"),
    ("llama", {"layout": Layout(dp=4, fsdp=Fsdp(replicas=4))}, "fsdp: weights of groups of one rank each, which share "
     "nothing, are not counted in units yet"),
])
def test_what_is_refused(name: str, more: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError) as error:
        step.phases(trace(Model.from_data(MODELS[name]), workload(4, {}).replaced(**more)))
    assert str(error.value) == why


@pytest.mark.parametrize(("stage", "resident", "gradients"), [
    (0, {"weights": 2, "master weights": 4, "optimizer state": 8}, 2),
    (1, {"weights": 2, "master weights": 0.5, "optimizer state": 1}, 2),
    (2, {"weights": 2, "master weights": 0.5, "optimizer state": 1, "gradients": 0.25}, 0),
    (3, {"weights": 0.25, "master weights": 0.5, "optimizer state": 1, "gradients": 0.25}, 0),
])
def test_stages_of_zero(stage: int, resident: dict[str, float], gradients: int) -> None:
    """In bytes of a parameter, on 8 ranks; the rest of the peak is what it is without."""
    w = Workload(phase="training", batch=2, seq=7, dtype="bf16", precision="mixed", layout=Layout(dp=8, zero=stage))
    spec = Model.from_data(LLAMA | {"vocab": 104, "d_model": 24, "feed_forward": LLAMA["feed_forward"] | {"d_ff": 40}})
    t = trace(spec, w)
    found = {part: sum(each.value for each in step.resident(t) if each.part == part) for part in resident}
    assert found == {part: width * params(t) for part, width in resident.items()}
    whole = trace(spec, w.replaced(layout=None))
    peak, before = (max(each.peak_bytes for each in step.phases(each, in_place=False) if each.name == "optimizer")
                    for each in (t, whole))
    assert before - peak == (14 + 2 - sum(resident.values()) - gradients) * params(t)
    assert step.certainty(t) == ("estimate" if stage else "bound")


def test_layouts_of_so_many_devices() -> None:
    """Every row is the peak of ``memory`` in that layout; the rest of the answer is of the first."""
    found = txcalc.fit("llama3-8b", "h100-80gb", phase="training", seq=2048, gpus=16, recompute="full")
    assert len(found.layouts) >= 6 and found.layouts[0].run == {"tp": 8, "dp": 2, "fsdp": "reshard=no"}
    assert [each.fits for each in found.layouts] == sorted((each.fits for each in found.layouts), reverse=True)
    piped = [each for each in found.layouts if "pp" in each.run]
    assert {each.run["pp"] for each in piped} == {2, 4, 8, 16} and {each.run.get("zero", 0) for each in piped} == {0, 1}
    for each in (found.layouts[0], found.layouts[-1], piped[0], piped[-1]):
        alone = txcalc.memory("llama3-8b", phase="training", seq=2048, device="h100-80gb", recompute="full", **each.run)
        assert alone.fits == each.fits
        assert alone.peak.bytes == each.bytes or (each.kind == "bound" and alone.peak.bytes > each.bytes)
    assert found.peak.bytes == found.layouts[0].bytes
    short, whole = (terminal.write(None, list(capacity.blocks(found)), terminal.Screen(), detail) for detail in (1, 2))
    others = sum(each.fits for each in found.layouts) - 12
    assert short.count("\n--") == 12 and whole.count("\n--") == len(found.layouts) > 12
    assert f"\n{others} others fit, {len(found.layouts) - 12 - others} are too much: -v\n" in short
    assert all("=  exact   ~  estimate   <  at least" in text for text in (short, whole)) and ": -v" not in whole
    with pytest.raises(SpecError, match="gpus: 16 are not as many as tp, pp, cp and dp make"):
        txcalc.fit("llama3-8b", "h100-80gb", phase="training", gpus=16, dp=3)
    sizes = {"phase": "training", "seq": 64, "recompute": "none", "gpus": 4}
    for given, more in (({"dp": 2}, {"tp": 2}), ({"dp": 4}, {}), ({"cp": 4}, {})):
        rows = [each.run for each in txcalc.fit("gpt2@layers=1", "24GB", **sizes, **given).layouts]
        assert len(rows) == 6 and all(row.items() >= more.items() and row.get("tp") == more.get("tp") for row in rows)
        assert {row.get("dp", 1) for row in rows} == {given.get("dp", 1)}
    for share, precision in (({"zero": 1}, "bf16"), ({"fsdp": "yes"}, None)):  # only where there are ranks that share
        found = txcalc.fit("gpt2@layers=1", "24GB", **sizes, **share)
        assert {each.run.get("dp", 1) for each in found.layouts} == {2, 4}
        for each in found.layouts:
            assert each.run.get("precision") == precision
            alone = txcalc.memory("gpt2@layers=1", phase="training", seq=64, device="24GB", **each.run)
            assert alone.peak.bytes == each.bytes
        with pytest.raises(SpecError, match="none of 4 devices are left for dp"):
            txcalc.fit("gpt2@layers=1", "24GB", **sizes, **share, tp=4)


def test_nothing_is_sharded_over_one_rank() -> None:
    """Stages of a pipeline, and what no test has followed, are as without it."""
    for layout in ({"pp": 2}, {"tp": 2}):
        run = {"phase": "training", "seq": 64, "precision": "bf16", **layout}
        plain, *others = (txcalc.memory("gpt2@layers=2", **run, **share)
                          for share in ({}, {"fsdp": "yes"}, {"zero": 3}))
        assert all((plain.peak, plain.at_peak) == (more.peak, more.at_peak) for more in others)


def test_collectives_of_units() -> None:
    """Every unit is gathered forward, all but the root once more, and reduced: counted as the fake group saw them."""
    t = trace(Model.from_data(MODELS["deep"]), workload(4, {}))
    layer, root = 4424, 4600  # elements, with padding
    assert {(each.what, each.phase, each.path): (each.bytes, each.times) for each in collectives(t)} == {
        ("all-gather", "forward", "root"): (2 * root, 1), ("all-gather", "forward", "layers"): (2 * layer, 7),
        ("all-gather", "backward", "layers"): (2 * layer, 7),
        ("reduce-scatter", "backward", "root"): (4 * root, 1), ("reduce-scatter", "backward", "layers"): (4 * layer, 7)}
