"""Transformer-XL's relative positions: against the paper's equation and XLNet's class, and counted against measured."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")


from txcalc.check import measure  # noqa: E402
from txcalc.check.reference.transformer import build  # noqa: E402
from txcalc.check.validate import validate  # noqa: E402
from txcalc.count.flops import forward_flops  # noqa: E402
from txcalc.count.params import params  # noqa: E402
from txcalc.spec.errors import SpecError  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402
from txcalc.trace.model import trace  # noqa: E402
from txcalc.trace.workload import Workload  # noqa: E402

torch.set_num_threads(1)

BASE: dict[str, Any] = {
    "name": "tiny", "vocab": 31, "layers": 3, "context": 29, "d_model": 14,
    "attention": {"heads": 3, "head_dim": 5, "bias": True}, "feed_forward": {"d_ff": 23},
    "position": {"kind": "transformer-xl"},
}
GROUPED = {"heads": 6, "kv_heads": 2, "head_dim": 5}
MODELS: dict[str, dict[str, Any]] = {
    "each layer's biases": {},
    "one pair of biases": {"position": {"kind": "transformer-xl", "per_layer": False}, "attention": GROUPED},
    "inputs cached": {
        "position": {"kind": "transformer-xl", "cached": "inputs"}, "attention": {**GROUPED, "window": 7},
    },
    "both ways": {"architecture": "encoder-only"},
    "both ways, window": {"architecture": "encoder-only", "attention": {**GROUPED, "window": 4, "sinks": True}},
    "two stacks": {"architecture": "encoder-decoder"},
    "norms of heads": {"attention": {**GROUPED, "qk_norm": {"over": "heads"}, "output_gate": True}},
}


def model(name: str = "each layer's biases", **more: Any) -> Model:
    return Model.from_data({**BASE, **MODELS[name], **more})


@pytest.mark.grid(7)
@pytest.mark.parametrize("name", MODELS)
def test_everything_counted_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txcalc.check.validate.CURVE", (16, 32, 64, 128, 256))
    result = validate(model(name), one_of_many=True)
    assert result.agrees, [row for row in result.rows if row.verdict != "equal"]


@pytest.mark.parametrize("cached", ["keys", "inputs"])
@pytest.mark.parametrize("window", [None, 4])
def test_a_step_of_generation_projects_what_was_not_cached(cached: str, window: int | None) -> None:
    """The distances in every step; earlier keys and values only where inputs are kept."""
    spec = model(position={"kind": "transformer-xl", "cached": cached}, attention={**GROUPED, "window": window})
    counted = trace(spec, Workload.decode(batch=2, past=11, seq=3, attention="eager", dtype="fp32"))
    measured = measure.flops(spec, 2, 3, past=11).forward
    assert forward_flops(counted) == sum(measured.values())
    keys = 14 if window is None else 6  # the 3 new ones, and the 3 before the first that it may still see
    assert measured["layers.attention.position"] == 3 * 2 * keys * 14 * 30
    assert measured["layers.attention.k"] == 3 * 2 * 2 * (keys if cached == "inputs" else 3) * 14 * 10
    held = {op.cache.per_token * op.cache.tokens for op in counted.ops if op.cache is not None}
    assert held == {(14 if cached == "inputs" else 2 * 2 * 5) * (4 if window else 14)}


@pytest.mark.parametrize("causal", [True, False])
def test_scores_are_those_of_the_paper(causal: bool) -> None:
    """(q + u) k + (q + v) W R for every pair, R's row that of their distance (arXiv 1901.02860, section 3.3)."""
    n, d, heads, width = 7, 14, 3, 5
    torch.manual_seed(1)
    root = build(model(architecture="decoder-only" if causal else "encoder-only"), length=n, dtype=torch.float64).eval()
    layer = next(iter(root.stack.blocks_in_order())).attention
    x = torch.randn(1, n, d, dtype=torch.float64)

    def heads_of(y: Any) -> Any:
        return y.view(n, heads, width)

    def wave(distance: int) -> Any:
        angles = [distance / 10000 ** (2 * (c // 2) / d) for c in range(d)]
        return torch.tensor([math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)], dtype=torch.float64)

    with torch.no_grad():
        q, k, v = heads_of(layer.q(x[0])), heads_of(layer.k(x[0])), heads_of(layer.v(x[0]))
        (content, position), out = layer.query_bias, torch.zeros(n, heads, width, dtype=torch.float64)
        for h in range(heads):
            for i in range(n):
                seen = range(i + 1 if causal else n)
                scores = torch.stack([
                    (q[i, h] + content[h]) @ k[j, h]
                    + (q[i, h] + position[h]) @ layer.position(wave(i - j)).view(heads, width)[h]
                    for j in seen
                ])
                weights = (scores / math.sqrt(width)).softmax(0)
                out[i, h] = sum(weight * v[j, h] for weight, j in zip(weights, seen, strict=True))
        expected = layer.o(out.flatten(1))
        torch.testing.assert_close(layer(x, None, 0, None)[0], expected, atol=1e-12, rtol=0)


XLNET_NAMES = {
    "rel_attn.q": "attention.q.weight", "rel_attn.k": "attention.k.weight", "rel_attn.v": "attention.v.weight",
    "rel_attn.r": "attention.position.weight", "rel_attn.layer_norm.weight": "attention_norm.weight",
    "rel_attn.layer_norm.bias": "attention_norm.bias", "ff.layer_norm.weight": "feed_forward_norm.weight",
    "ff.layer_norm.bias": "feed_forward_norm.bias", "ff.layer_1.weight": "feed_forward.up.weight",
    "ff.layer_1.bias": "feed_forward.up.bias", "ff.layer_2.weight": "feed_forward.down.weight",
    "ff.layer_2.bias": "feed_forward.down.bias",
}


@pytest.mark.parametrize("causal", [True, False])
def test_xlnet_computes_the_same(causal: bool) -> None:
    """XLNet's content stream (arXiv 1906.08237, section 2.3), the one class in transformers with these positions.

    Without segments, whose weights it has besides. Its sinusoids are fp32 and stand beside each other, sines first:
    ours are compared with them at that precision, and replaced by them for everything else.
    """
    transformers = pytest.importorskip("transformers")
    d, heads, width, layers, n = 12, 3, 4, 2, 9
    torch.manual_seed(2)
    theirs = transformers.XLNetModel(transformers.XLNetConfig(
        vocab_size=31, d_model=d, n_layer=layers, n_head=heads, d_head=width, d_inner=23, ff_activation="relu",
        attn_type="uni" if causal else "bi", layer_norm_eps=1e-5, dropout=0.0,
    )).double().eval()
    spec = model(
        architecture="decoder-only" if causal else "encoder-only", d_model=d, layers=layers, final_norm=False,
        attention={"heads": heads, "head_dim": width}, norm={"placement": "post"}, head={"kind": "none"},
        feed_forward={"d_ff": 23, "activation": "relu", "bias": True},
    )
    ours = build(spec, length=n, dtype=torch.float64).eval()
    weights: dict[str, Any] = {"token_embedding.weight": theirs.word_embedding.weight}
    with torch.no_grad():
        for at, layer in enumerate(theirs.layer):
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
            found = dict(layer.named_parameters())
            attention = layer.rel_attn
            for name, own in XLNET_NAMES.items():
                weights[f"layers.{at}.{own}"] = found[name] if "." in name[9:] or "ff" in name else (
                    found[name].flatten(1).T)
            weights[f"layers.{at}.attention.o.weight"] = attention.o.flatten(1)
            weights[f"layers.{at}.attention.query_bias"] = torch.stack((attention.r_w_bias, attention.r_r_bias))
        ours.load_state_dict(weights)
        sinusoids = theirs.relative_positional_encoding(n, n)[1:, 0].double()  # theirs has one distance more
        table = next(iter(ours.stack.blocks_in_order())).attention.distances.table
        torch.testing.assert_close(torch.cat((table[:, ::2], table[:, 1::2]), dim=1), sinusoids, atol=1e-6, rtol=0)
        table.copy_(sinusoids)
        tokens = torch.randint(0, 31, (2, n))
        expected = theirs(tokens, use_mems=False).last_hidden_state
        torch.testing.assert_close(ours(tokens).hidden, expected, atol=1e-10, rtol=0)
    segments = layers * (heads * width + 2 * heads * width)
    mask = theirs.mask_emb.numel()
    assert sum(p.numel() for p in theirs.parameters()) == params(trace(spec, Workload(seq=n))) + segments + mask


@pytest.mark.parametrize(("fields", "says"), [
    ({"attention": {"heads": 3, "head_dim": 5, "softcap": 3.0}}, "no cap on their scores"),
    ({"attention": {"kind": "mla", "heads": 3, "kv_rank": 7, "nope_dim": 5, "rope_dim": 4, "value_dim": 6}},
     "need standard attention"),
    ({"position": {"kind": "transformer-xl", "per_layer": False},
      "groups": [{"blocks": [{}, {"attention": {"heads": 5}}]}], "layers": 2}, "share u and v only if"),
])
def test_what_cannot_be_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Model.from_data({**BASE, **fields})
