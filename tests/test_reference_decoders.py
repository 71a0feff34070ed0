"""The rarer decoder parts of the reference compute what transformers computes: latents, sinks, gates, recurrences."""

from __future__ import annotations

import re
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_reference_transformers import LLAMA_NAMES, VOCAB, Float64, both, check, ids, renamed, spec, twin  # noqa: E402

from txcalc.check.reference.transformer import build  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402

torch.set_num_threads(1)

EXPERTS = [
    (r"model\.layers\.(\d+)\.mlp\.shared_experts?\.(up|gate|down)_proj\.(.*)", r"layers.\1.feed_forward.shared.\2.\3"),
    (r"model\.layers\.(\d+)\.mlp\.shared_expert_gate\.(.*)", r"layers.\1.feed_forward.shared_gate.\2"),
]


def split_experts(weights: dict[str, Any]) -> dict[str, Any]:
    """Fused (experts, 2 * d_ff, d) and (experts, d, d_ff), as one pair for each expert."""
    out = {}
    for name, weight in weights.items():
        if name.endswith("experts.gate_up_proj"):
            for e, both_halves in enumerate(weight):
                gate, up = both_halves.chunk(2)
                out[name.replace("gate_up_proj", f"{e}.gate.weight")] = gate
                out[name.replace("gate_up_proj", f"{e}.up.weight")] = up
        elif name.endswith("experts.down_proj"):
            out |= {name.replace("down_proj", f"{e}.down.weight"): part for e, part in enumerate(weight)}
        else:
            out[name] = weight
    return out


def grouped(stack: dict[str, str]) -> list[tuple[str, str]]:
    """Layers of transformers, each a group of one block here."""
    return [(r"layers\." + i + r"\.(.*)", f"layers.{path}." + r"\1") for i, path in stack.items()]


@both
@pytest.mark.parametrize("q_rank", [26, None])
def test_deepseek_v3_has_latents(eager: bool, q_rank: int | None) -> None:
    theirs = twin(transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=37, moe_intermediate_size=11, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=3, n_shared_experts=1, n_routed_experts=5, kv_lora_rank=14,
        q_lora_rank=q_rank, qk_rope_head_dim=6, qk_nope_head_dim=12, v_head_dim=10, n_group=1, topk_group=1,
        num_experts_per_tok=2, first_k_dense_replace=1, routed_scaling_factor=1.0, rope_interleave=False,
        max_position_embeddings=29, rms_norm_eps=1e-5, tie_word_embeddings=False, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ))
    attention = r"model\.layers\.(\d+)\.self_attn\."
    weights = renamed(split_experts(dict(theirs.named_parameters())), [
        (attention + r"kv_a_proj_with_mqa\.(.*)", r"layers.\1.attention.kv_down.\2"),
        (attention + r"([qk]v?)_a_layernorm\.(.*)", r"layers.\1.attention.\2_norm.\3"),
        (attention + r"([qk]v?)_a_proj\.(.*)", r"layers.\1.attention.\2_down.\3"),
        (attention + r"([qk]v?)_b_proj\.(.*)", r"layers.\1.attention.\2_up.\3"),
        *EXPERTS, *LLAMA_NAMES,
    ])
    weights = {re.sub(r"layers\.([01])\.", r"layers.0.\1.0.", name): weight for name, weight in weights.items()}
    moe = {"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 11, "routing": "sigmoid-topk", "shared_experts": 1}
    model = spec(
        d_model=30, position={"kind": "rope"}, norm={"kind": "rmsnorm"}, head={"kind": "lm", "tied": False},
        attention={"kind": "mla", "heads": 3, "q_rank": q_rank, "kv_rank": 14, "nope_dim": 12, "rope_dim": 6,
                   "value_dim": 10},
        groups=[{"blocks": [
            {"feed_forward": {"d_ff": 37, "activation": "silu", "gated": True}}, {"feed_forward": moe},
        ]}],
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


def halved(weight: Any, rows: int) -> Any:
    """The last ``rows`` with each pair's first before each pair's second, as the reference pairs them."""
    turned = weight[..., -rows:, :]
    return torch.cat((weight[..., :-rows, :], turned[..., 0::2, :], turned[..., 1::2, :]), dim=-2)


@both
@pytest.mark.parametrize("shared", [True, False])
def test_deepseek_v32_and_glm5_choose_their_keys(eager: bool, shared: bool) -> None:
    cls, config = ((transformers.GlmMoeDsaForCausalLM, transformers.GlmMoeDsaConfig) if shared
                   else (transformers.DeepseekV32ForCausalLM, transformers.DeepseekV32Config))
    theirs = twin(cls, config(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=37, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, kv_lora_rank=14, q_lora_rank=26, qk_rope_head_dim=6, qk_nope_head_dim=12, v_head_dim=10,
        first_k_dense_replace=2, index_topk=4, index_n_heads=13, index_head_dim=8, max_position_embeddings=29,
        rms_norm_eps=1e-5, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **({"indexer_types": ["full", "shared"]} if shared else {}),
    ))
    attention = r"model\.layers\.(\d+)\.self_attn\."
    weights = renamed(dict(theirs.named_parameters()), [
        (attention + r"indexer\.wq_b\.(.*)", r"layers.\1.attention.indexer.q.\2"),
        (attention + r"indexer\.wk\.(.*)", r"layers.\1.attention.indexer.k.\2"),
        (attention + r"indexer\.weights_proj\.(.*)", r"layers.\1.attention.indexer.weights.\2"),
        (attention + r"indexer\.k_norm\.(.*)", r"layers.\1.attention.indexer.k_norm.\2"),
        (attention + r"kv_a_proj_with_mqa\.(.*)", r"layers.\1.attention.kv_down.\2"),
        (attention + r"([qk]v?)_a_layernorm\.(.*)", r"layers.\1.attention.\2_norm.\3"),
        (attention + r"([qk]v?)_a_proj\.(.*)", r"layers.\1.attention.\2_down.\3"),
        (attention + r"([qk]v?)_b_proj\.(.*)", r"layers.\1.attention.\2_up.\3"), *LLAMA_NAMES,
    ])
    for name, weight in weights.items():
        if name.endswith("kv_down.weight"):
            weights[name] = halved(weight, 6)
        elif name.endswith("q_up.weight"):
            weights[name] = halved(weight.unflatten(0, (3, 18)), 6).flatten(0, 1)
        elif shared and re.search(r"indexer\.(q|k|k_norm)\.", name):  # GLM-5 pairs the indexer's columns as well
            rows = weight.view(-1, 8, *weight.shape[1:]) if weight.dim() > 1 else weight.view(1, 8, 1)
            turned = torch.cat((rows[:, 0:6:2], rows[:, 1:6:2], rows[:, 6:]), dim=1)
            weights[name] = turned.reshape(weight.shape)
    chosen = {"kind": "mla", "heads": 3, "q_rank": 26, "kv_rank": 14, "nope_dim": 12, "rope_dim": 6, "value_dim": 10,
              "index_topk": 4, "indexer": {"heads": 13, "head_dim": 8}}
    groups = None
    if shared:
        weights = {re.sub(r"layers\.([01])\.", r"layers.0.\1.0.", name): weight for name, weight in weights.items()}
        groups = [{"blocks": [{}, {"attention": {"indexer": None}}]}]
    model = spec(
        d_model=30, position={"kind": "rope"}, norm={"kind": "rmsnorm"}, head={"kind": "lm", "tied": False},
        attention=chosen, feed_forward={"d_ff": 37, "activation": "silu", "gated": True}, groups=groups,
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


@both
def test_qwen3_next_alternates_a_delta_rule_with_gated_attention(eager: bool) -> None:
    theirs = twin(transformers.Qwen3NextForCausalLM, transformers.Qwen3NextConfig(
        vocab_size=VOCAB, hidden_size=30, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, linear_num_value_heads=6, linear_num_key_heads=2, linear_key_head_dim=6,
        linear_value_head_dim=5, linear_conv_kernel_dim=3, moe_intermediate_size=11,
        shared_expert_intermediate_size=13, num_experts=5, num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"], rms_norm_eps=1e-6,
        max_position_embeddings=29, tie_word_embeddings=False, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        norm_topk_prob=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    ))
    weights: dict[str, Any] = {}
    for name, weight in split_experts(dict(theirs.named_parameters())).items():
        if re.search(r"(layernorm|model\.norm|[qk]_norm)\.weight", name):
            weights[name] = 1 + weight
        elif name.endswith("self_attn.q_proj.weight"):
            q, gate = weight.unflatten(0, (4, 2, 16)).unbind(1)
            weights[name] = q.flatten(0, 1)
            weights[name.replace("q_proj", "gate")] = gate.flatten(0, 1)
        elif name.endswith("in_proj_qkvz.weight"):  # for each key head: its query, its key, three values, three z
            parts = weight.unflatten(0, (2, 2 * 6 + 2 * 15)).split((6, 6, 15, 15), dim=1)
            weights[name] = torch.cat([part.flatten(0, 1) for part in parts])
        elif name.endswith("in_proj_ba.weight"):
            weights[name] = torch.cat([part.flatten(0, 1) for part in weight.unflatten(0, (2, 6)).chunk(2, dim=1)])
        else:
            weights[name] = weight
    linear = r"model\.layers\.0\.linear_attn\."
    weights = renamed(weights, [
        (linear + r"in_proj_qkvz\.(.*)", r"layers.0.recurrent.in_proj.\1"),
        (linear + r"in_proj_ba\.(.*)", r"layers.0.recurrent.rates.\1"),
        (linear + r"conv1d\.(.*)", r"layers.0.recurrent.conv.\1"),
        (linear + r"A_log", "layers.0.recurrent.a_log"), (linear + r"(.*)", r"layers.0.recurrent.\1"),
        (r"model\.layers\.0\.input_layernorm\.(.*)", r"layers.0.recurrent_norm.\1"),
        (r"model\.layers\.(\d+)\.self_attn\.gate\.(.*)", r"layers.\1.attention.gate.\2"),
        *EXPERTS, *LLAMA_NAMES,
    ])
    weights = {re.sub(r"layers\.([01])\.", r"layers.0.\1.0.", name): weight for name, weight in weights.items()}
    eps = {"kind": "rmsnorm", "eps": 1e-6}
    model = spec(
        d_model=30, position={"kind": "rope", "dim": 4}, norm=eps, head={"kind": "lm", "tied": False},
        feed_forward={"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 11, "shared_experts": 1,
                      "shared_d_ff": 13, "shared_gate": True},
        groups=[{"blocks": [
            {"recurrent": {"kind": "gated-delta", "key_heads": 2, "value_heads": 6, "key_dim": 6, "value_dim": 5,
                           "conv": 3}},
            {"attention": {"heads": 4, "kv_heads": 2, "head_dim": 16, "output_gate": True,
                           "qk_norm": {"over": "head", **eps}}},
        ]}],
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


DENSE_SIZES = {
    "vocab_size": VOCAB, "hidden_size": 30, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 1, "max_position_embeddings": 29, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
DENSE_SPEC = {
    "d_model": 30, "position": {"kind": "rope"}, "norm": {"kind": "rmsnorm"}, "head": {"kind": "lm", "tied": False},
}


@both
def test_apertus_has_xielu(eager: bool) -> None:
    theirs = twin(transformers.ApertusForCausalLM, transformers.ApertusConfig(**DENSE_SIZES))
    layer = r"model\.layers\.(\d+)\."
    weights = renamed(dict(theirs.named_parameters()), [
        (layer + r"attention_layernorm\.(.*)", r"layers.\1.attention_norm.\2"),
        (layer + r"feedforward_layernorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (layer + r"mlp\.act_fn\.(.*)", r"layers.\1.feed_forward.activation.\2"),
        *LLAMA_NAMES,
    ])
    model = spec(**DENSE_SPEC, attention={"heads": 3, "kv_heads": 1, "qk_norm": {"over": "head"}},
                 feed_forward={"d_ff": 37, "activation": "xielu"})
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


@both
def test_bitnet_norms_inside_its_sublayers(eager: bool) -> None:
    theirs = twin(transformers.BitNetForCausalLM, transformers.BitNetConfig(**DENSE_SIZES))
    layer = r"model\.layers\.(\d+)\."
    weights = renamed(dict(theirs.named_parameters()), [
        (layer + r"self_attn\.attn_sub_norm\.(.*)", r"layers.\1.attention.inner_norm.\2"),
        (layer + r"mlp\.ffn_sub_norm\.(.*)", r"layers.\1.feed_forward.inner_norm.\2"),
        *LLAMA_NAMES,
    ])
    rms = {"kind": "rmsnorm"}
    model = spec(**DENSE_SPEC, attention={"heads": 3, "kv_heads": 1, "inner_norm": rms},
                 feed_forward={"d_ff": 37, "activation": "relu2", "gated": True, "inner_norm": rms})
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


def mamba_names(mixer: str) -> list[tuple[str, str]]:
    return [
        (r"backbone\.embeddings\.weight", "token_embedding.weight"), (r"lm_head\.weight", "head.weight"),
        (r"backbone\.norm_f\.(.*)", r"final_norm.\1"),
        (r"backbone\.layers\.(\d+)\.norm\.(.*)", r"layers.\1.recurrent_norm.\2"),
        (mixer + "A_log", r"layers.\1.recurrent.a_log"), (mixer + "D", r"layers.\1.recurrent.skip"),
        (mixer + r"conv1d\.(.*)", r"layers.\1.recurrent.conv.\2"), (mixer + "(.*)", r"layers.\1.recurrent.\2"),
    ]


@pytest.mark.parametrize("bias", [True, False])
def test_mamba2(bias: bool) -> None:
    theirs = twin(transformers.Mamba2ForCausalLM, transformers.Mamba2Config(
        vocab_size=VOCAB, hidden_size=15, num_hidden_layers=2, num_heads=6, head_dim=5, state_size=7, n_groups=2,
        conv_kernel=3, expand=2, use_bias=bias, use_conv_bias=bias, chunk_size=8, layer_norm_epsilon=1e-5,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=0, eos_token_id=0, residual_in_fp32=False,
    ))
    weights = renamed(dict(theirs.named_parameters()), mamba_names(r"backbone\.layers\.(\d+)\.mixer\."))
    model = spec(
        d_model=15, norm={"kind": "rmsnorm"}, head={"kind": "lm", "tied": False},
        recurrent={"kind": "mamba2", "heads": 6, "head_dim": 5, "state": 7, "groups": 2, "conv": 3, "bias": bias,
                   "conv_bias": bias},
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=True)


@pytest.mark.parametrize("bias", [True, False])
def test_mamba(bias: bool) -> None:
    theirs = twin(transformers.MambaForCausalLM, transformers.MambaConfig(
        vocab_size=VOCAB, hidden_size=15, intermediate_size=22, num_hidden_layers=2, state_size=7, time_step_rank=5,
        conv_kernel=3, use_bias=bias, use_conv_bias=bias, layer_norm_epsilon=1e-5, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, residual_in_fp32=False,
    ))
    inner = theirs.config.intermediate_size
    mixer = r"backbone\.layers\.(\d+)\.mixer\."
    weights = renamed(dict(theirs.named_parameters()), [
        (mixer + r"([a-z]+_proj\..*)", r"layers.\1.recurrent.\2"), *mamba_names(mixer),
    ])
    model = spec(
        d_model=15, norm={"kind": "rmsnorm"}, head={"kind": "lm", "tied": False}, recurrent={
            "kind": "mamba", "inner": inner, "state": 7, "rank": 5, "conv": 3, "bias": bias, "conv_bias": bias,
        },
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=True)


def test_lightning_attention() -> None:
    """The layer alone, with the decay of MiniMax's last layer but one in place of the plain slope."""
    config = transformers.MiniMaxConfig(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=11, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, num_local_experts=5, num_experts_per_tok=2, block_size=4,
        layer_types=["linear_attention"] * 3, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )
    theirs = twin(transformers.MiniMaxModel, config).layers[1].self_attn
    model = spec(layers=1, d_model=30, norm={"kind": "rmsnorm"}, recurrent={
        "kind": "lightning", "heads": 6, "head_dim": 10,
    })
    layer = build(model, length=29, dtype=torch.float64).eval().layers[0].recurrent
    weights = dict(theirs.named_parameters())
    weights["qkv_proj.weight"] = weights["qkv_proj.weight"].unflatten(0, (6, 3, 10)).flatten(0, 2)
    names = [(r"qkv_proj\.(.*)", r"qkv.\1"), (r"output_gate\.(.*)", r"gate.\1"), (r"(.*)", r"\1")]
    layer.load_state_dict(renamed(weights, names), strict=True)
    slopes = theirs.slope_rate.flatten()
    torch.testing.assert_close(layer.slopes.double() * (slopes[0] / layer.slopes[0]), slopes, rtol=1e-6, atol=0)
    layer.slopes = slopes
    x = torch.randn(2, 13, 30, dtype=torch.float64)
    with torch.no_grad(), Float64():
        torch.testing.assert_close(layer(x), theirs(x, None, None)[0], atol=1e-10, rtol=0)


@both
@pytest.mark.parametrize("window", [None, 5])
def test_gpt_oss_attention_has_sinks(eager: bool, window: int | None) -> None:
    """The attention alone: the experts of gpt-oss have an activation of their own, with a clamp."""
    theirs = twin(transformers.GptOssForCausalLM, transformers.GptOssConfig(
        vocab_size=VOCAB, hidden_size=30, num_hidden_layers=1, num_attention_heads=6, num_key_value_heads=2,
        head_dim=10, intermediate_size=11, num_local_experts=5, num_experts_per_tok=2, sliding_window=window or 5,
        layer_types=["sliding_attention" if window else "full_attention"], pad_token_id=0, eos_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, max_position_embeddings=29,
    ))
    model = spec(
        layers=1, d_model=30, position={"kind": "rope"}, norm={"kind": "rmsnorm"},
        attention={"heads": 6, "kv_heads": 2, "head_dim": 10, "bias": True, "sinks": True, "window": window},
    )
    check_attention(theirs, model, eager=eager)


@both
@pytest.mark.parametrize("sliding", [True, False])
def test_mimo_has_narrow_values(eager: bool, sliding: bool) -> None:
    kind = "sliding_attention" if sliding else "full_attention"
    theirs = twin(transformers.MiMoV2FlashForCausalLM, transformers.MiMoV2FlashConfig(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=1, head_dim=12, v_head_dim=10, sliding_window=5, layer_types=[kind],
        attention_value_scale=None, max_position_embeddings=29, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        rope_parameters={kind: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    ))
    model = spec(
        layers=1, d_model=30, position={"kind": "rope", "dim": 6}, norm={"kind": "rmsnorm"},
        attention={"heads": 4, "kv_heads": 2 if sliding else 1, "head_dim": 12, "value_dim": 10, "sinks": sliding,
                   "window": 5 if sliding else None},
    )
    check_attention(theirs, model, eager=eager)


@both
@pytest.mark.parametrize("over", ["head", "channel"])
def test_laguna_has_softplus_gates(eager: bool, over: str) -> None:
    theirs = twin(transformers.LagunaForCausalLM, transformers.LagunaConfig(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=10, gating=f"per-{'head' if over == 'head' else 'element'}",
        max_position_embeddings=29, pad_token_id=0, bos_token_id=0, eos_token_id=0, rms_norm_eps=1e-5,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    ))
    model = spec(
        layers=1, d_model=30, position={"kind": "rope"}, norm={"kind": "rmsnorm"},
        attention={"heads": 4, "kv_heads": 2, "head_dim": 10, "qk_norm": {"over": "head"}, "output_gate": True,
                   "gate_over": over, "gate_activation": "softplus"},
    )
    check_attention(theirs, model, eager=eager)


def check_attention(theirs: Any, model: Model, *, eager: bool) -> None:
    """The first attention alone, on what the library's read in a run of its model."""
    attention = build(model, length=29, eager=eager, dtype=torch.float64).eval().layers[0].attention
    names = [("sinks", "core.sinks"), (r"g_proj\.(.*)", r"gate.\1"), (r"([qkvo])_proj\.(.*)", r"\1.\2"),
             (r"([qk]_norm\..*)", r"\1")]
    attention.load_state_dict(renamed(dict(theirs.model.layers[0].self_attn.named_parameters()), names), strict=True)
    seen: dict[str, Any] = {}

    def keep(module, args, kwargs, out) -> None:
        seen["x"], seen["out"] = kwargs["hidden_states"], out[0]

    theirs.model.layers[0].self_attn.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        with Float64():
            theirs(ids(2, 13))
        got = attention(seen["x"], None, 0, None)
    torch.testing.assert_close(got, seen["out"], atol=1e-10, rtol=0)
    assert got.std() > 1e-2


@both
def test_gemma2_caps_scores_and_logits(eager: bool) -> None:
    theirs = twin(transformers.Gemma2ForCausalLM, transformers.Gemma2Config(
        vocab_size=VOCAB, hidden_size=30, intermediate_size=37, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, query_pre_attn_scalar=16, sliding_window=5, attn_logit_softcapping=1.5,
        final_logit_softcapping=2.5, max_position_embeddings=29, rms_norm_eps=1e-5, pad_token_id=0, bos_token_id=0,
        eos_token_id=0,
    ))
    weights = {name: 1 + w if "norm" in name else w for name, w in theirs.named_parameters()}
    block = r"model\.layers\.(\d+)\."
    weights = renamed(weights, [
        (block + r"post_attention_layernorm\.(.*)", r"layers.\1.attention_post_norm.\2"),
        (block + r"pre_feedforward_layernorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (block + r"post_feedforward_layernorm\.(.*)", r"layers.\1.feed_forward_post_norm.\2"), *LLAMA_NAMES,
    ])
    weights = {re.sub(r"layers\.([01])\.", r"layers.0.\1.0.", name): weight for name, weight in weights.items()}
    weights["head.weight"] = weights["token_embedding.weight"]
    attention = {"heads": 6, "kv_heads": 2, "head_dim": 10, "scale": 0.25, "softcap": 1.5}
    model = spec(
        d_model=30, position={"kind": "rope"}, norm={"kind": "rmsnorm", "placement": "sandwich"}, embedding_scale=True,
        feed_forward={"d_ff": 37, "activation": "gelu_tanh", "gated": True}, head={"kind": "lm", "softcap": 2.5},
        groups=[{"blocks": [{"attention": {**attention, "window": 5}}, {"attention": attention}]}],
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)


@both
def test_opt_350m_projects_in_and_out(eager: bool) -> None:
    theirs = twin(transformers.OPTForCausalLM, transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=30, word_embed_proj_dim=13, num_hidden_layers=2, num_attention_heads=3,
        ffn_dim=37,
        max_position_embeddings=29, do_layer_norm_before=False, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    ))
    block = r"model\.decoder\.layers\.(\d+)\."
    weights = renamed(dict(theirs.named_parameters()), [
        (r"model\.decoder\.embed_tokens\.weight", "token_embedding.weight"),
        (r"model\.decoder\.embed_positions\.weight", "position_embedding.weight"),
        (r"model\.decoder\.project_in\.weight", "embedding_projection.weight"),
        (r"model\.decoder\.project_out\.weight", "output_projection.weight"),
        (block + r"self_attn_layer_norm\.(.*)", r"layers.\1.attention_norm.\2"),
        (block + r"final_layer_norm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (block + r"self_attn\.out_proj\.(.*)", r"layers.\1.attention.o.\2"),
        (block + r"self_attn\.([qkv])_proj\.(.*)", r"layers.\1.attention.\2.\3"),
        (block + r"fc1\.(.*)", r"layers.\1.feed_forward.up.\2"),
        (block + r"fc2\.(.*)", r"layers.\1.feed_forward.down.\2"),
    ])
    weights["head.weight"] = weights["token_embedding.weight"]
    weights["position_embedding.weight"] = weights["position_embedding.weight"][2:]  # the first two are never read
    model = spec(
        d_model=30, position={"kind": "learned"}, norm={"placement": "post"}, final_norm=False, embedding_dim=13,
        embedding_projection="tokens", embedding_projection_bias=False, attention={"heads": 3, "bias": True},
        feed_forward={"d_ff": 37, "activation": "relu", "bias": True},
    )
    tokens = torch.randint(2, VOCAB, (2, 13))
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)
