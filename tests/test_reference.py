"""The reference agrees with itself where it must: cached with whole, flash with eager, masks and experts by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from txcalc.answer.report import count  # noqa: E402
from txcalc.check.measure import balance, visible  # noqa: E402
from txcalc.check.reference.attention import AdditiveMask, alibi_slopes  # noqa: E402
from txcalc.check.reference.block import sinusoids  # noqa: E402
from txcalc.check.reference.layers import MixtureOfExperts, Normalization, Options, activate  # noqa: E402
from txcalc.check.reference.scope import UNDERSTOOD, not_understood  # noqa: E402
from txcalc.check.reference.transformer import build  # noqa: E402
from txcalc.spec.layers import HeadNorm, MoE  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402
from txcalc.trace.model import trace  # noqa: E402
from txcalc.trace.sizes import visible_pairs  # noqa: E402
from txcalc.trace.workload import Workload  # noqa: E402

torch.set_num_threads(1)

VOCAB = 31
BASE = {
    "name": "tiny", "vocab": VOCAB, "layers": 3, "context": 29, "d_model": 15,
    "attention": {"heads": 3}, "feed_forward": {"d_ff": 23}, "position": "none",
}
LATENT = {"kind": "mla", "heads": 3, "kv_rank": 7, "nope_dim": 5, "rope_dim": 4, "value_dim": 6}
CHOSEN = {**LATENT, "q_rank": 11, "index_topk": 3, "indexer": {"heads": 13, "head_dim": 5}}  # none tie at 0
DELTA = {"kind": "gated-delta", "key_heads": 2, "value_heads": 4, "key_dim": 5, "value_dim": 3, "conv": 4}
MAMBA = {"kind": "mamba2", "heads": 4, "head_dim": 3, "state": 5, "groups": 2, "conv": 3}
GROUPED = {"heads": 6, "kv_heads": 2, "head_dim": 10}
MIXED = [
    {"repeat": 2, "blocks": [
        {"attention": {"window": 4}, "repeat": 2},
        {"feed_forward": {"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 7}},
    ]},
    {"blocks": [{"attention": {"kv_heads": 1}}]},
]

CAUSAL = {
    "learned": {"position": {"kind": "learned"}},
    "sinusoidal": {"position": {"kind": "sinusoidal"}},
    "stored": {"position": {"kind": "sinusoidal", "stored": True}},
    "rope": {"position": {"kind": "rope"}, "attention": GROUPED},
    "partial rope": {"position": {"kind": "rope", "dim": 3}},
    "alibi": {"position": {"kind": "alibi"}},
    "alibi grouped": {"position": {"kind": "alibi"}, "attention": {**GROUPED, "window": 6}},
    "relative": {"position": {"kind": "relative", "buckets": 7, "max_distance": 11}},
    "relative per layer": {"position": {"kind": "relative", "buckets": 7, "max_distance": 11, "per_layer": True}},
    "relative window": {"position": {"kind": "relative", "buckets": 7}, "attention": {"heads": 3, "window": 4}},
    "distances": {"position": {"kind": "transformer-xl"}, "attention": {**GROUPED, "bias": True}},
    "distances, one pair of biases": {"position": {"kind": "transformer-xl", "per_layer": False}},
    "distances, inputs cached": {"position": {"kind": "transformer-xl", "cached": "inputs"}},
    "distances, window of inputs cached": {
        "position": {"kind": "transformer-xl", "cached": "inputs"}, "attention": {"heads": 3, "window": 4},
    },
    "distances, chunks": {"position": {"kind": "transformer-xl"}, "attention": {**GROUPED, "chunk": 4}},
    "window": {"attention": {**GROUPED, "window": 5}, "position": {"kind": "rope"}},
    "window of 1": {"attention": {"heads": 3, "window": 1}},
    "chunk": {"attention": {"heads": 3, "chunk": 4}},
    "no rope": {"position": {"kind": "rope"}, "attention": {"heads": 3, "rope": False}},
    "softcap": {"attention": {"heads": 3, "softcap": 1.5}},
    "multi-query": {"attention": {"heads": 3, "kv_heads": 1, "bias": True, "scale": 0.3}},
    "qk norm per head": {"attention": {"heads": 3, "qk_norm": {"kind": "rmsnorm", "over": "head", "bias": False}}},
    "qk norm of heads": {"attention": {**GROUPED, "qk_norm": {"kind": "layernorm", "over": "heads"}}},
    "qk norm of all": {"attention": {**GROUPED, "qk_norm": {"kind": "rmsnorm", "over": "full"}}},
    "parallel": {"residual": "parallel"},
    "parallel shared": {"residual": "parallel", "norm": {"shared": True}},
    "post": {"norm": {"placement": "post"}, "final_norm": False},
    "sandwich": {"norm": {"placement": "sandwich", "kind": "rmsnorm"}},
    "res-post": {"norm": {"placement": "res-post", "kind": "rmsnorm", "bias": True}},
    "shared layers": {"share_layers": True, "embedding_norm": True, "embedding_scale": True},
    "mixed": {"groups": MIXED, "layers": 7, "attention": GROUPED, "position": {"kind": "rope"}},
    "factorised": {"embedding_dim": 8, "head": {"kind": "lm", "transform": {}}, "position": {"kind": "learned"}},
    "factorised tokens": {
        "embedding_dim": 8, "embedding_projection": "tokens", "head": {"kind": "lm", "tied": False},
        "position": {"kind": "learned"}, "embedding_projection_bias": False,
    },
    "attention only": {"feed_forward": None},
    "sinks": {"attention": {**GROUPED, "sinks": True, "window": 5}},
    "output gate": {"attention": {**GROUPED, "output_gate": True, "bias": True}},
    "inner norms": {"attention": {**GROUPED, "inner_norm": {"kind": "rmsnorm"}},
                    "feed_forward": {"d_ff": 37, "activation": "relu2", "gated": True, "inner_norm": {}}},
    "xielu": {"feed_forward": {"d_ff": 37, "activation": "xielu"}},
    "a gate for each head": {"attention": {**GROUPED, "output_gate": True, "gate_over": "head",
                                           "gate_activation": "softplus"}},
    "values from keys": {"attention": {**GROUPED, "value_from": "key"}},
    "values from keys, normed": {"attention": {**GROUPED, "value_from": "key", "value_norm": {"kind": "rmsnorm"}}},
    "values normed, keys rotated": {
        "position": {"kind": "rope"}, "attention": {**GROUPED, "value_from": "key", "value_norm": {"scale": False}},
    },
    "keys of a layer before": {"position": {"kind": "rope"}, "attention": GROUPED, "layers": 4, "groups": [{"blocks": [
        {"attention": {"window": 4}}, {}, {"attention": {"kv_shared": True}},
        {"attention": {"window": 4, "kv_shared": True}},
    ]}]},
    "per-layer embedding": {"per_layer_embedding": {"rows": VOCAB, "width": 4}},
    "experts apart": {"feed_forward": {
        "kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 7, "shared_experts": 1, "separate_norms": True,
    }},
    "a window that drops nothing": {"attention": {"heads": 3, "window": 4, "cached": "all"}},
    "narrow values": {"attention": {**GROUPED, "value_dim": 4, "window": 5}, "position": {"kind": "rope"}},
    "wide values, gated": {"attention": {"heads": 3, "value_dim": 11, "output_gate": True, "bias": True}},
    "window that drops nothing": {"attention": {"heads": 3, "window": 4, "cached": "all"}},
    "softcap on logits": {"head": {"softcap": 1.5}},
    "latents": {"attention": {**LATENT, "q_rank": 11, "bias": True}, "position": {"kind": "rope"}},
    "chosen latents": {"attention": CHOSEN, "position": {"kind": "rope"}},
    "chosen latents, shared": {
        "attention": {**CHOSEN, "indexer": None}, "layers": 4, "position": {"kind": "rope"},
        "groups": [{"repeat": 2, "blocks": [{"attention": {"indexer": CHOSEN["indexer"]}}, {}]}],
    },
    "latents of a window, gated": {"position": {"kind": "rope"}, "attention": {
        **LATENT, "window": 5, "sinks": True, "output_gate": True, "rope_norm": True}},
    "latents with a gate for each head": {"attention": {
        **LATENT, "q_rank": 11, "output_gate": True, "gate_over": "head"}, "position": {"kind": "rope"}},
    "latents without a query's": {"attention": LATENT, "position": {"kind": "alibi"}},
    "delta rule": {"attention": None, "recurrent": DELTA},
    "delta rule by channel": {"attention": None, "recurrent": {
        "kind": "kimi-delta", "heads": 3, "head_dim": 5, "conv": 3}},
    "delta rule by channel, no bottleneck": {"attention": None, "recurrent": {
        "kind": "kimi-delta", "heads": 3, "head_dim": 5, "conv": 3, "bottleneck": False}},
    "experts of a latent, normed": {"feed_forward": {
        "kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 7, "shared_experts": 1, "latent": 9,
        "output_norm": {"kind": "rmsnorm"}}},
    "experts of queries": {"attention": {
        "heads": 6, "kv_heads": 3, "head_dim": 4, "query_experts": 5, "window": 4, "bias": {"o": True}},
        "position": {"kind": "rope"}, "feed_forward": {
            "kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 7, "output_bias": True}},
    "heads of codebooks": {"head": {"tied": False, "copies": 3, "softcap": 3.0}, "token_tables": [{"rows": VOCAB}]},
    "tokens without logits": {"extra_tokens": 3, "head": {"tied": False}},
    "state space": {"attention": None, "recurrent": {**MAMBA, "bias": True}},
    "selective scan": {"attention": None, "recurrent": {
        "kind": "mamba", "inner": 14, "state": 5, "rank": 3, "conv": 3, "norms": True,
    }},
    "selective scan with norms that have no weights": {"attention": None, "recurrent": {
        "kind": "mamba", "inner": 14, "state": 5, "rank": 3, "conv": 3, "norms": True, "norm_scale": False,
    }},
    "short convolution": {"attention": None, "recurrent": {"kind": "short-convolution", "conv": 4, "bias": True}},
    "gates of latents and norms": {"attention": {
        **CHOSEN, "output_gate": True, "joint": True}, "norm": {
            "kind": "rmsnorm", "gate_rank": 2, "gate_on": "attention"}, "position": {"kind": "rope"}},
    "residual streams": {"streams": 3, "norm": {"placement": "sandwich"}},
    "residual streams of layers that differ": {
        "streams": 2, "groups": MIXED, "layers": 7, "attention": GROUPED, "position": {"kind": "rope"}},
    "differential": {"attention": {"heads": 4, "kv_heads": 2, "head_dim": 4, "differential": True},
                     "position": {"kind": "rope"}},
    "matrix memory": {"attention": None, "recurrent": {
        "kind": "mlstm", "heads": 3, "key_dim": 4, "value_dim": 5, "bias": True}},
    "gated unit": {"attention": None, "recurrent": {"kind": "rg-lru", "inner": 14, "heads": 2, "conv": 3},
                   "norm": {"gate_rank": 2, "gate_on": "attention"}},
    "time and channel mixing": {"attention": None, "recurrent": {"kind": "wkv", "inner": 13}, "feed_forward": {
        "d_ff": 23, "activation": "relu2", "channel_mix": True}},
    "lightning": {"attention": None, "recurrent": {"kind": "lightning", "heads": 3, "head_dim": 4}},
    "state space beside attention": {"recurrent": MAMBA, "position": {"kind": "rope"}},
    "attention and state space at once": {"residual": "mixers", "recurrent": {**MAMBA, "norm": False}},
    "attention and a cell at once, scaled": {
        "residual": "mixers", "layer_scale": True, "recurrent": {"kind": "short-convolution"}},
    "shared group": {"groups": [{"repeat": 2, "shared": True, "blocks": [{"repeat": 2}]}], "layers": 4},
    "scaled layers": {"layer_scale": True, "norm": {"placement": "sandwich"}},
    "scaled parallel layers": {"layer_scale": True, "residual": "parallel"},
}
ENCODER_DECODER = {
    "cross": {"architecture": "encoder-decoder", "position": {"kind": "learned"}},
    "cross grouped": {"architecture": "encoder-decoder", "attention": GROUPED, "position": {"kind": "rope"}},
    "cross window": {
        "architecture": "encoder-decoder", "attention": {"heads": 3, "window": 5}, "position": {"kind": "alibi"},
    },
    "cross and a stream ahead": {
        "architecture": "encoder-decoder", "position": {"kind": "learned"},
        "attention": {"heads": 3, "bias": True, "ahead": {"streams": 1, "buckets": 5}}},
    "cross relative": {"architecture": "encoder-decoder", "position": {"kind": "relative", "buckets": 7}},
}


def spec(fields: dict) -> Model:
    return Model.from_data({**BASE, **fields})


def reference(model: Model, **options):
    """Seeded, in float64, with weights large enough that nothing is lost to rounding."""
    torch.manual_seed(3)
    root = build(model, length=29, dtype=torch.float64, **options).eval()
    with torch.no_grad():
        for weight in root.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return root


def ids(b: int, n: int):
    return torch.randint(0, VOCAB, (b, n), generator=torch.Generator().manual_seed(5))


def equal(a, b) -> None:
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("name", [*CAUSAL, *ENCODER_DECODER])
def test_generation_with_the_cache_is_the_whole_forward_pass(name: str, eager: bool) -> None:
    model = spec((CAUSAL | ENCODER_DECODER)[name])
    root, tokens = reference(model, eager=eager), ids(2, 17)
    source = ids(2, 13) if name in ENCODER_DECODER else None
    with torch.no_grad():
        whole = root(tokens, source).logits
        out, cache = root.prefill(tokens[:, :7], source)
        steps = [out.logits]
        for start, stop in [(7, 8), (8, 11), (11, 12), (12, 17)]:
            steps.append(root(tokens[:, start:stop], cache=cache).logits)
    equal(torch.cat(steps, dim=1), whole)
    assert whole.std() > 1e-2


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODER_DECODER])
def test_a_step_costs_what_is_counted(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = spec((CAUSAL | ENCODER_DECODER)[name])
    root, past = reference(model, eager=True), 7
    source = ids(2, 13) if name in ENCODER_DECODER else None
    with torch.no_grad():
        _, cache = root.prefill(ids(2, past), source)
        for new in (1, 3):
            with FlopCounterMode(display=False) as counter:
                root(ids(2, new), cache=cache)
            given = {} if source is None else {"source_seq": 13}
            step = Workload.decode(batch=2, past=past, seq=new, attention="eager", latents="expanded", **given)
            assert count(model, step).totals.flops_forward.value == counter.get_total_flops(), new
            past += new


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODER_DECODER])
@pytest.mark.parametrize("causal", [True, False])
def test_flash_is_eager(name: str, causal: bool) -> None:
    fields = (CAUSAL | ENCODER_DECODER)[name]
    if not causal:
        if name in ENCODER_DECODER:
            pytest.skip("its decoder is causal")
        fields = {**fields, "architecture": "encoder-only"}
    model, source = spec(fields), ids(2, 13) if name in ENCODER_DECODER else None
    with torch.no_grad():
        eager, flash = (reference(model, eager=eager)(ids(2, 17), source).logits for eager in (True, False))
    equal(eager, flash)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("window", "chunk"), [(None, None), (1, None), (4, None), (5, None), (99, None), (None, 3)])
def test_the_mask_lets_through_what_a_brute_force_count_finds(causal: bool, window, chunk) -> None:
    mask = AdditiveMask(19, causal=causal, window=window, chunk=chunk, alibi_heads=None)
    for n, past in [(1, 0), (11, 0), (7, 5), (1, 18)]:
        shown = int((mask(past, n, past + n) == 0).sum())
        assert shown == visible(n, past, causal=causal, window=window, chunk=chunk)


def test_visible_by_hand() -> None:
    assert visible(5) == 15
    assert visible(5, causal=False) == 25
    assert visible(5, causal=False, chunk=3) == visible_pairs(5, 0, causal=False, chunk=3) == 9 + 4
    assert visible(5, window=2) == 1 + 2 + 2 + 2 + 2
    assert visible(2, past=3, window=3) == 6
    assert visible(2, past=3) == 4 + 5
    assert visible(4, causal=False, window=3) == 2 + 3 + 3 + 2
    assert visible(5, chunk=2) == 1 + 2 + 1 + 2 + 1


def test_an_indexer_lets_through_as_many_keys_as_a_window_of_them() -> None:
    model = spec(CAUSAL["chosen latents"])
    root = reference(model)
    with torch.no_grad():
        root(ids(2, 17))
    chosen = root.layers[0].attention.chosen.mask[0, 0] == 0
    pairs = visible(17, window=3)
    assert int((chosen & torch.ones(17, 17, dtype=torch.bool).tril()).sum()) == pairs
    ops = trace(model, Workload(seq=17)).ops
    flops = {op.path: sum(each.flops("skipped") for each in op.products) for op in ops if op.kind.group == "core"}
    assert flops["layers.attention.core.scores"] == 2 * pairs * 3 * (5 + 4)
    assert flops["layers.attention.indexer.scores"] == 2 * visible(17) * 13 * 5


def test_a_token_sees_no_further_than_its_window_reaches() -> None:
    """Through 3 layers of window 4, position i depends on i - 9..i."""
    root = reference(spec({"attention": {"heads": 3, "window": 4}}))
    tokens = ids(1, 17)
    changed = tokens.clone()
    changed[0, 2] = (changed[0, 2] + 1) % VOCAB
    with torch.no_grad():
        differs = (root(tokens).logits != root(changed).logits).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == list(range(2, 12))


@pytest.mark.parametrize("routing", ["softmax-topk", "topk-softmax", "sigmoid-topk"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shared", [
    {}, {"shared_experts": 2, "shared_gate": True}, {"shared_experts": 1, "shared_d_ff": 13, "bias": True},
])
def test_experts_are_a_loop_over_tokens(routing: str, normalize: bool, shared: dict) -> None:
    plan = MoE(kind="moe", experts=7, active_experts=3, d_ff=11, routing=routing, normalize=normalize, **shared)
    torch.set_default_dtype(torch.float64)
    try:
        layer = MixtureOfExperts(plan, 5, Options(length=1)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    x = torch.randn(2, 13, 5, dtype=torch.float64)

    def one(token):
        scores = layer.router(token)
        probability = scores.softmax(0) if routing == "softmax-topk" else scores.sigmoid()
        chosen = sorted(range(7), key=lambda e: -scores[e])[:3]
        if routing == "topk-softmax":
            weights = scores[chosen].softmax(0)
        else:
            weights = probability[chosen] / (probability[chosen].sum() if normalize else 1)
        out = sum(w * layer.experts[e](token) for w, e in zip(weights, chosen, strict=True))
        if layer.shared is not None:
            gate = 1 if layer.shared_gate is None else layer.shared_gate(token).sigmoid()
            out = out + gate * layer.shared(token)
        return out

    with torch.no_grad():
        equal(layer(x), torch.stack([torch.stack([one(token) for token in row]) for row in x]))


def test_groups_run_in_order_and_keep_their_paths() -> None:
    root = build(spec(CAUSAL["mixed"]), length=5)
    names = {module: name for name, module in root.named_modules()}
    assert [names[block] for block in root.stack.blocks_in_order()] == [
        "layers.0.0.0", "layers.0.0.1", "layers.0.1.0", "layers.0.0.2", "layers.0.0.3", "layers.0.1.1", "layers.1.0.0",
    ]


def test_norms_and_activations_are_their_formulas() -> None:
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    grouped = Normalization(HeadNorm(kind="layernorm", over="heads"), 7, groups=5).double()
    torch.nn.init.normal_(grouped.weight)
    torch.nn.init.normal_(grouped.bias)
    centred = x - x.mean(-1, keepdim=True)
    plain = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    equal(grouped(x), plain * grouped.weight + grouped.bias)
    equal(activate("quick_gelu", x), x / (1 + torch.exp(-1.702 * x)))
    equal(activate("relu2", x), x.clamp(min=0) ** 2)
    equal(activate("gelu", x), x * 0.5 * (1 + torch.erf(x / 2**0.5)))


def test_position_tables() -> None:
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    table = sinusoids(4, 5)
    assert table.shape == (4, 5)
    torch.testing.assert_close(table[3, 2:4], torch.tensor([3 / 10000**0.4] * 2).sin() * torch.tensor([1, 0])
                               + torch.tensor([3 / 10000**0.4] * 2).cos() * torch.tensor([0, 1]))


def test_a_training_step_reaches_every_weight() -> None:
    for fields in [*CAUSAL.values(), *ENCODER_DECODER.values()]:
        model = spec({**fields, "token_types": 2})
        root = build(model, length=29, dropout=0.1)
        balance(root)
        source = ids(5, 13) if model.encoder is not None else None
        out = root(ids(5, 17), source)
        root.loss_of(out, (ids(5, 17),) * (1 + len(out.extra))).backward()
        missing = [name for name, w in root.named_parameters() if w.grad is None and w.requires_grad]
        assert not missing, missing


def test_what_it_cannot_run_is_refused_by_name() -> None:
    model = spec({})
    assert list(not_understood(model)) == []
    known = UNDERSTOOD[type(model.attention)]
    known.discard("softcap")
    try:
        with pytest.raises(NotImplementedError, match=r"attention\.softcap"):
            build(spec(CAUSAL["softcap"]), length=3)
    finally:
        known.add("softcap")
    latents = UNDERSTOOD.pop(type(spec(CAUSAL["latents"]).attention))
    try:
        with pytest.raises(NotImplementedError, match="attention of kind MLA"):
            build(spec(CAUSAL["latents"]), length=3)
    finally:
        UNDERSTOOD[type(spec(CAUSAL["latents"]).attention)] = latents


def test_everything_a_spec_can_say_is_understood() -> None:
    unknown = [
        f"{kind.__name__}.{name}" for kind, names in UNDERSTOOD.items() for name in set(kind.names()) - names
    ]
    assert not unknown


def test_errors() -> None:
    with pytest.raises(ValueError, match="causal"):
        build(spec({"architecture": "encoder-only"}), length=5).prefill(ids(1, 3))
    bare = build(spec({"head": {"kind": "none"}}), length=5)
    with pytest.raises(ValueError, match="head"):
        bare.loss_of(bare(ids(1, 3)), (ids(1, 3),))
    with pytest.raises(ValueError, match="source"):
        build(spec(ENCODER_DECODER["cross"]), length=5)(ids(1, 3))
    with pytest.raises(ValueError, match="source"):
        build(spec({}), length=5)(ids(1, 3), ids(1, 3))


def test_it_is_independent_of_what_it_checks() -> None:
    code = "import sys, txcalc.check.measure; print([m for m in sys.modules if m.startswith('txcalc.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "txcalc.check.reference.transformer" in loaded
    assert "txcalc.trace" not in loaded and "txcalc.count." not in loaded
