"""Gemma 4's parts: layers that read others' keys, values that are keys, per-layer embeddings, experts apart."""

from __future__ import annotations

import re
from typing import Any

import pytest

from txcalc.answer.report import count
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

NORMED: dict[str, Any] = {"qk_norm": {"over": "head"}, "value_norm": {"kind": "rmsnorm", "scale": False}, "scale": 1.0}
NEAR: dict[str, Any] = {"heads": 6, "kv_heads": 2, "head_dim": 10, "window": 5, **NORMED}
FULL: dict[str, Any] = {"heads": 6, "kv_heads": 1, "head_dim": 14, "value_from": "key", **NORMED}
SHAPE: dict[str, Any] = {
    "name": "drawn", "vocab": 61, "d_model": 30, "context": 29, "position": {"kind": "rope"}, "embedding_scale": True,
    "norm": {"kind": "rmsnorm", "placement": "sandwich"}, "head": {"tied": True, "softcap": 2.5},
    "per_layer_embedding": {"rows": 61, "width": 6},
    "feed_forward": {"d_ff": 37, "activation": "gelu_tanh", "gated": True},
}
OWN = [{"attention": NEAR}, {"attention": FULL}]
READERS = [{"attention": {**own["attention"], "kv_shared": True}, "feed_forward": {"d_ff": 74}} for own in OWN]
APART: dict[str, Any] = {
    "kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 11, "activation": "gelu_tanh", "shared_experts": 1,
    "shared_d_ff": 37, "separate_norms": True,
}
LAYER = r"model\.layers\.(\d+)\."
EXPERTS_APART = [
    (LAYER + r"mlp\.(up|gate|down)_proj\.(.*)", r"layers.\1.feed_forward.shared.\2.\3"),
    (LAYER + r"router\.proj\.(.*)", r"layers.\1.feed_forward.router.\2"),
    (LAYER + r"router\.scale", r"layers.\1.feed_forward.router_scale"),
    (LAYER + r"router\.per_expert_scale", r"layers.\1.feed_forward.expert_scale"),
    (LAYER + r"(experts\..*)", r"layers.\1.feed_forward.\2"),
    (LAYER + r"post_feedforward_layernorm_1\.(.*)", r"layers.\1.feed_forward.shared_norm.\2"),
    (LAYER + r"post_feedforward_layernorm_2\.(.*)", r"layers.\1.feed_forward.routed_post_norm.\2"),
    (LAYER + r"pre_feedforward_layernorm_2\.(.*)", r"layers.\1.feed_forward.routed_norm.\2"),
]


def model(blocks: list[dict[str, Any]], **fields: Any) -> Model:
    return Model.from_data({**SHAPE, "groups": [{"blocks": blocks}], **fields})


def test_what_shared_keys_save() -> None:
    alone, shared = (count(model(blocks), Workload.prefill(seq=13)).totals
                     for blocks in ([*OWN, *({**o, "feed_forward": {"d_ff": 74}} for o in OWN)], [*OWN, *READERS]))
    near, full = 30 * 2 * 10, 30 * 1 * 14  # one projection of each kind; the full layer's values are its keys
    assert alone.params.value - shared.params.value == 2 * near + 10 + full + 14
    assert alone.flops_forward.value - shared.flops_forward.value == 2 * 13 * (2 * near + full)
    assert alone.kv_cache_bytes is not None and shared.kv_cache_bytes is not None
    assert alone.kv_cache_bytes.value == 2 * shared.kv_cache_bytes.value


def test_per_layer_embeddings_are_embeddings() -> None:
    plain, embedded = (count(model(OWN, **fields), Workload.prefill(seq=13)).totals
                       for fields in ({"per_layer_embedding": None}, {}))
    layers, width, d = 2, 6, 30
    projections = layers * (d * width + 2 * d * width)
    assert embedded.params.value - plain.params.value == 61 * layers * width + projections + width + layers * d
    assert embedded.params_non_embedding.value - plain.params_non_embedding.value == projections + width + layers * d
    assert embedded.flops_forward.value - plain.flops_forward.value == 2 * 13 * projections


@pytest.mark.parametrize(("blocks", "says"), [
    ([{"attention": {**NEAR, "kv_shared": True}}], "no layer of the same reach (window) before this one has its own"),
    ([OWN[1], READERS[0]], "no layer of the same reach (window) before this one has its own"),
    ([*OWN, {"attention": {**FULL, "heads": 6, "kv_heads": 2, "kv_shared": True}}],
     "kv_heads 2 must be 1, as in the layer whose keys and values it reads"),
    ([*OWN, {"attention": {**NEAR, "window": 7, "kv_shared": True}}], "window 7 must be 5"),
    ([{"attention": {**NEAR, "cached": "all"}}, {"attention": {**NEAR, "kv_shared": True}}],
     "cached window must be all"),
    ([{"attention": {**FULL, "value_dim": 6}}], "values that are keys are as wide: leave it out"),
])
def test_what_cannot_be_shared_is_refused(blocks: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        model(blocks)


def test_a_table_with_too_few_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="60 leaves some of the 61 tokens without a row"):
        model(OWN, per_layer_embedding={"rows": 60, "width": 6})


@pytest.mark.parametrize(("fields", "says"), [
    ({"shared_experts": 0, "shared_d_ff": None}, "needs shared_experts, without a gate"),
    ({"shared_gate": True}, "needs shared_experts, without a gate"),
])
def test_experts_apart_stand_beside_shared_ones(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        model(OWN, feed_forward={**APART, **fields})
    with pytest.raises(ValueError, match="needs a norm before feed_forward: pre or sandwich"):
        model(OWN, feed_forward=APART, norm={"kind": "rmsnorm", "placement": "post"})


@pytest.mark.parametrize("listed", [None, {"5": {"head_dim": 12}}, {"5": {"num_key_value_heads": 1}}])
def test_sizes_that_a_file_lists_by_layer_stand_for_those_of_full_layers(listed: Any) -> None:
    pytest.importorskip("transformers")
    from test_import_encoders import imported, live, unique_params

    config = {"model_type": "gemma4_text", "architectures": ["Gemma4ForCausalLM"], "hidden_size": 32, "vocab_size": 61,
              "intermediate_size": 37, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
              "head_dim": 8, "global_head_dim": 12, "vocab_size_per_layer_input": 61, "per_layer_config": listed}
    counted = count(imported(config), Workload.prefill(seq=3)).totals
    assert counted.params.value == unique_params(live(config))


@pytest.mark.parametrize("experts", [True, False])
@pytest.mark.parametrize("eager", [True, False])
def test_the_reference_computes_what_gemma4_computes(eager: bool, experts: bool) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from test_reference_decoders import split_experts
    from test_reference_transformers import LLAMA_NAMES, VOCAB, check, ids, renamed, twin

    rope = {"rope_type": "default", "rope_theta": 10000.0}
    theirs = twin(transformers.Gemma4ForCausalLM, transformers.Gemma4TextConfig(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=37, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, global_head_dim=14, num_global_key_value_heads=1, attention_k_eq_v=True,
        sliding_window=5, layer_types=["sliding_attention", "full_attention"] * 2, num_kv_shared_layers=2,
        use_double_wide_mlp=True, hidden_size_per_layer_input=6, vocab_size_per_layer_input=VOCAB,
        final_logit_softcapping=2.5, max_position_embeddings=29, rms_norm_eps=1e-5, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, rope_parameters={"sliding_attention": rope, "full_attention": rope}, enable_moe_block=experts,
        num_experts=5, top_k_experts=2, moe_intermediate_size=11,
    ))
    weights = renamed(split_experts(dict(theirs.named_parameters())), [
        *(EXPERTS_APART if experts else ()),
        (r"model\.embed_tokens_per_layer\.(.*)", r"per_layer_embedding.table.\1"),
        (r"model\.per_layer_model_projection\.(.*)", r"per_layer_embedding.projection.\1"),
        (r"model\.per_layer_projection_norm\.(.*)", r"per_layer_embedding.norm.\1"),
        (LAYER + r"per_layer_input_gate\.(.*)", r"layers.\1.per_layer_input.gate.\2"),
        (LAYER + r"per_layer_projection\.(.*)", r"layers.\1.per_layer_input.up.\2"),
        (LAYER + r"post_per_layer_input_norm\.(.*)", r"layers.\1.per_layer_input.norm.\2"),
        (LAYER + r"post_attention_layernorm\.(.*)", r"layers.\1.attention_post_norm.\2"),
        (LAYER + r"pre_feedforward_layernorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (LAYER + r"post_feedforward_layernorm\.(.*)", r"layers.\1.feed_forward_post_norm.\2"), *LLAMA_NAMES,
    ])
    weights = {re.sub(r"layers\.(\d)\.", r"layers.0.\1.0.", name): weight for name, weight in weights.items()}
    weights["head.weight"] = weights["token_embedding.weight"]
    blocks, mixed = [*OWN, *READERS], {}
    if experts:
        blocks = [{**block, "feed_forward": {"shared_d_ff": width}} for block, width in zip(
            blocks, (37, 37, 74, 74), strict=True)]
        mixed = {"feed_forward": APART}
    ours = model(blocks, vocab=VOCAB, per_layer_embedding={"rows": VOCAB, "width": 6}, **mixed)
    tokens = ids(2, 13)
    check(ours, weights, lambda: theirs(tokens).logits, tokens, eager=eager)
