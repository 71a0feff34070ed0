"""The reference's rarer recurrent layers compute what transformers computes, weights copied, logits compared."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_reference_decoders import mamba_names, split_experts  # noqa: E402
from test_reference_transformers import LLAMA_NAMES, VOCAB, check, ids, renamed, spec, twin  # noqa: E402

torch.set_num_threads(1)

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 30, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 1, "max_position_embeddings": 29, "tie_word_embeddings": False, "pad_token_id": 0,
    "bos_token_id": 0, "eos_token_id": 0,
}
BODY: dict[str, Any] = {
    "d_model": 30, "norm": {"kind": "rmsnorm", "eps": 1e-5}, "head": {"kind": "lm", "tied": False},
    "attention": {"heads": 3, "kv_heads": 1}, "feed_forward": {"d_ff": 37, "activation": "silu", "gated": True},
}
BLOCK = r"model\.layers\.(\d+)\."


def test_falcon_mamba_has_norms_without_weights() -> None:
    theirs = twin(transformers.FalconMambaForCausalLM, transformers.FalconMambaConfig(
        vocab_size=VOCAB, hidden_size=15, intermediate_size=22, num_hidden_layers=2, state_size=7, time_step_rank=5,
        conv_kernel=3, layer_norm_epsilon=1e-5, mixer_rms_eps=1e-6, tie_word_embeddings=False, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, residual_in_fp32=False,
    ))
    mixer = r"backbone\.layers\.(\d+)\.mixer\."
    weights = renamed(dict(theirs.named_parameters()), [
        (mixer + r"([a-z]+_proj\..*)", r"layers.\1.recurrent.\2"), *mamba_names(mixer),
    ])
    model = spec(
        d_model=15, norm={"kind": "rmsnorm"}, head={"kind": "lm", "tied": False}, feed_forward=None, position=None,
        recurrent={
            "kind": "mamba", "inner": 22, "state": 7, "rank": 5, "conv": 3, "norms": True, "norm_scale": False,
        },
    )
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=True)


@pytest.mark.parametrize("bias", [True, False])
def test_lfm2_convolves_between_two_gates(bias: bool) -> None:
    theirs = twin(transformers.Lfm2ForCausalLM, transformers.Lfm2Config(
        **SIZES, norm_eps=1e-5, conv_L_cache=4, conv_bias=bias, block_auto_adjust_ff_dim=False,
        layer_types=["conv", "full_attention"], rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ))
    one, two = r"model\.layers\.0\.", r"model\.layers\.1\."
    weights = renamed(dict(theirs.named_parameters()), [
        (r"model\.embedding_norm\.(.*)", r"final_norm.\1"),
        (one + r"conv\.(.*)", r"layers.0.0.0.recurrent.\1"), (one + r"operator_norm\.(.*)",
                                                              r"layers.0.0.0.recurrent_norm.\1"),
        (two + r"operator_norm\.(.*)", r"layers.0.1.0.attention_norm.\1"),
        (two + r"self_attn\.out_proj\.(.*)", r"layers.0.1.0.attention.o.\1"),
        (two + r"self_attn\.([qk])_layernorm\.(.*)", r"layers.0.1.0.attention.\1_norm.\2"),
        (two + r"self_attn\.([qkv])_proj\.(.*)", r"layers.0.1.0.attention.\1.\2"),
        (BLOCK + r"ffn_norm\.(.*)", r"layers.0.\1.0.feed_forward_norm.\2"),
        (BLOCK + r"feed_forward\.w1\.(.*)", r"layers.0.\1.0.feed_forward.gate.\2"),
        (BLOCK + r"feed_forward\.w3\.(.*)", r"layers.0.\1.0.feed_forward.up.\2"),
        (BLOCK + r"feed_forward\.w2\.(.*)", r"layers.0.\1.0.feed_forward.down.\2"), *LLAMA_NAMES,
    ])
    attention = {**BODY["attention"], "qk_norm": {"over": "head", "eps": 1e-5}}
    model = spec(**BODY | {"attention": attention, "position": {"kind": "rope"}}, groups=[{"blocks": [
        {"attention": None, "recurrent": {"kind": "short-convolution", "conv": 4, "bias": bias}}, {},
    ]}])
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=True)


@pytest.mark.parametrize("norm", [True, False])
def test_falcon_h1_mixes_attention_and_a_state_space(norm: bool) -> None:
    theirs = twin(transformers.FalconH1ForCausalLM, transformers.FalconH1Config(
        **SIZES, rms_norm_eps=1e-5, mamba_d_ssm=24, mamba_n_heads=6, mamba_n_groups=2, mamba_d_state=7, mamba_d_conv=3,
        mamba_rms_norm=norm, mamba_norm_before_gate=False, mamba_chunk_size=8,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ))
    mixer = BLOCK + r"mamba\."
    weights = renamed(dict(theirs.named_parameters()), [
        (r"model\.final_layernorm\.(.*)", r"final_norm.\1"),
        (mixer + "A_log", r"layers.\1.recurrent.a_log"), (mixer + "D", r"layers.\1.recurrent.skip"),
        (mixer + r"conv1d\.(.*)", r"layers.\1.recurrent.conv.\2"), (mixer + "(.*)", r"layers.\1.recurrent.\2"),
        (BLOCK + r"pre_ff_layernorm\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (BLOCK + r"feed_forward\.(up|gate|down)_proj\.(.*)", r"layers.\1.feed_forward.\2.\3"), *LLAMA_NAMES,
    ])
    model = spec(**BODY | {"position": {"kind": "rope"}}, residual="mixers", recurrent={
        "kind": "mamba2", "heads": 6, "head_dim": 4, "state": 7, "groups": 2, "conv": 3, "norm": norm})
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=True)


def test_kimi_linear_has_a_decay_for_every_channel() -> None:
    theirs = twin(transformers.KimiLinearForCausalLM, transformers.KimiLinearConfig(
        **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, num_key_value_heads=3, kv_lora_rank=14,
        qk_nope_head_dim=12, qk_rope_head_dim=6, v_head_dim=10, num_experts=5, num_experts_per_token=2,
        moe_intermediate_size=11, num_expert_group=1, topk_group=1, routed_scaling_factor=1.0, linear_num_heads=4,
        linear_head_dim=5, linear_conv_kernel_dim=3, layer_types=["linear_attention", "full_attention"],
        rms_norm_eps=1e-6,
    ))
    one, two = r"model\.layers\.0\.", r"model\.layers\.1\."
    fused = dict(theirs.named_parameters())
    mixer = "model.layers.0.self_attn."
    fused[mixer + "in_proj.weight"] = torch.cat([fused.pop(f"{mixer}{x}_proj.weight") for x in "qkv"])
    fused[mixer + "forget_gate.A_log"] = fused[mixer + "forget_gate.A_log"].flatten()
    attention, recurrent = r"layers.0.1.0.attention.", r"layers.0.0.0.recurrent."
    weights = renamed(split_experts(fused), [
        (one + r"self_attn\.(in_proj\..*)", recurrent + r"\1"), (one + r"self_attn\.b_proj\.(.*)",
                                                                 recurrent + r"strength.\1"),
        (one + r"self_attn\.conv1d\.(.*)", recurrent + r"conv.\1"),
        (one + r"self_attn\.forget_gate\.A_log", recurrent + "a_log"),
        (one + r"self_attn\.forget_gate\.dt_bias", recurrent + "dt_bias"),
        (one + r"self_attn\.forget_gate\.f_a_proj\.(.*)", recurrent + r"decay_down.\1"),
        (one + r"self_attn\.forget_gate\.f_b_proj\.(.*)", recurrent + r"decay_up.\1"),
        (one + r"self_attn\.g_a_proj\.(.*)", recurrent + r"gate_down.\1"),
        (one + r"self_attn\.g_b_proj\.(.*)", recurrent + r"gate_up.\1"),
        (one + r"self_attn\.o_norm\.(.*)", recurrent + r"norm.\1"),
        (one + r"self_attn\.o_proj\.(.*)", recurrent + r"out_proj.\1"),
        (one + r"input_layernorm\.(.*)", r"layers.0.0.0.recurrent_norm.\1"),
        (two + r"input_layernorm\.(.*)", r"layers.0.1.0.attention_norm.\1"),
        (two + r"self_attn\.kv_a_proj_with_mqa\.(.*)", attention + r"kv_down.\1"),
        (two + r"self_attn\.kv_a_layernorm\.(.*)", attention + r"kv_norm.\1"),
        (two + r"self_attn\.kv_b_proj\.(.*)", attention + r"kv_up.\1"),
        (two + r"self_attn\.([qo])_proj\.(.*)", attention + r"\1.\2"),
        (BLOCK + r"post_attention_layernorm\.(.*)", r"layers.0.\1.0.feed_forward_norm.\2"),
        (BLOCK + r"mlp\.(up|gate|down)_proj\.(.*)", r"layers.0.\1.0.feed_forward.\2.\3"),
        (BLOCK + r"mlp\.shared_experts\.(up|gate|down)_proj\.(.*)", r"layers.0.\1.0.feed_forward.shared.\2.\3"),
        (BLOCK + r"mlp\.experts\.(.*)", r"layers.0.\1.0.feed_forward.experts.\2"),
        (BLOCK + r"mlp\.gate\.(.*)", r"layers.0.\1.0.feed_forward.router.\2"), *LLAMA_NAMES,
    ])
    moe = {"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 11, "routing": "sigmoid-topk", "shared_experts": 1}
    latent = {"kind": "mla", "heads": 3, "kv_rank": 14, "nope_dim": 12, "rope_dim": 6, "value_dim": 10}
    model = spec(**BODY | {"attention": latent, "norm": {"kind": "rmsnorm", "eps": 1e-6}}, groups=[{"blocks": [
        {"attention": None, "recurrent": {"kind": "kimi-delta", "heads": 4, "head_dim": 5, "conv": 3}},
        {"feed_forward": moe},
    ]}])
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=True)


def test_recurrent_gemma_is_griffin() -> None:
    theirs = twin(transformers.RecurrentGemmaForCausalLM, transformers.RecurrentGemmaConfig(
        **SIZES | {"hidden_size": 36, "intermediate_size": 74, "tie_word_embeddings": True}, lru_width=21,
        conv1d_width=3,
        attention_window_size=5, rms_norm_eps=1e-5, block_types=["recurrent", "attention"]))
    one, two = (rf"model\.layers\.{i}\.temporal_block\." for i in range(2))
    recurrent = "layers.0.0.0.recurrent."
    weights = renamed({
        name: weight + 1 if name.endswith("norm.weight") else weight for name, weight in theirs.named_parameters()
    }, [
        (one + r"linear_y\.(.*)", recurrent + r"gate.\1"), (one + r"linear_x\.(.*)", recurrent + r"in_proj.\1"),
        (one + r"conv_1d\.(.*)", recurrent + r"conv.\1"), (one + r"linear_out\.(.*)", recurrent + r"out_proj.\1"),
        (one + r"rg_lru\.recurrent_param", recurrent + "decay"),
        (one + r"rg_lru\.input_gate_(.*)", recurrent + r"input_gate.\1"),
        (one + r"rg_lru\.recurrent_gate_(.*)", recurrent + r"recurrence_gate.\1"),
        (two + r"([qkvo])_proj\.(.*)", r"layers.0.1.0.attention.\1.\2"),
        (r"model\.layers\.0\.temporal_pre_norm\.(.*)", r"layers.0.0.0.recurrent_norm.\1"),
        (r"model\.layers\.1\.temporal_pre_norm\.(.*)", r"layers.0.1.0.attention_norm.\1"),
        (BLOCK + r"channel_pre_norm\.(.*)", r"layers.0.\1.0.feed_forward_norm.\2"),
        (BLOCK + r"mlp_block\.(up|gate|down)_proj\.(.*)", r"layers.0.\1.0.feed_forward.\2.\3"),
        (r"model\.final_norm\.(.*)", r"final_norm.\1"), *LLAMA_NAMES,
    ])
    weights["head.weight"] = weights["token_embedding.weight"]
    model = spec(
        d_model=36, norm={"kind": "rmsnorm", "eps": 1e-5}, embedding_scale=True, position={"kind": "rope", "dim": 6},
        head={"kind": "lm", "tied": True, "softcap": 30.0},
        attention={"heads": 3, "kv_heads": 1, "window": 5, "bias": {"o": True}},
        feed_forward={"d_ff": 37, "activation": "gelu_tanh", "gated": True, "bias": True},
        groups=[{"blocks": [{"attention": None, "recurrent": {
            "kind": "rg-lru", "inner": 21, "heads": 3, "conv": 3}}, {}]}])
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens, use_cache=False).logits, tokens, eager=True)


def test_rwkv_mixes_tokens_and_columns() -> None:
    theirs = twin(transformers.RwkvForCausalLM, transformers.RwkvConfig(
        vocab_size=VOCAB, hidden_size=15, num_hidden_layers=2, context_length=29, intermediate_size=23,
        rescale_every=0))
    block = r"rwkv\.blocks\.(\d+)\."
    named = {name: weight.flatten() if "time_mix" in name else weight for name, weight in theirs.named_parameters()}
    weights = renamed(named, [
        (r"rwkv\.embeddings\.(.*)", r"token_embedding.\1"), (r"rwkv\.ln_out\.(.*)", r"final_norm.\1"),
        (r"head\.(.*)", r"head.\1"), (block + r"pre_ln\.(.*)", r"embedding_norm.\2"),
        (block + r"ln1\.(.*)", r"layers.\1.recurrent_norm.\2"),
        (block + r"ln2\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (block + r"attention\.time_mix_(.*)", r"layers.\1.recurrent.mix.\2"),
        (block + r"attention\.(.*)", r"layers.\1.recurrent.\2"),
        (block + r"feed_forward\.time_mix_key", r"layers.\1.feed_forward.mix.up"),
        (block + r"feed_forward\.time_mix_receptance", r"layers.\1.feed_forward.mix.receptance"),
        (block + r"feed_forward\.key\.(.*)", r"layers.\1.feed_forward.up.\2"),
        (block + r"feed_forward\.value\.(.*)", r"layers.\1.feed_forward.down.\2"),
        (block + r"feed_forward\.(receptance\..*)", r"layers.\1.feed_forward.\2"),
    ])
    model = spec(d_model=15, norm={"kind": "layernorm"}, embedding_norm=True, head={"kind": "lm", "tied": False},
                 attention=None, recurrent={"kind": "wkv", "inner": 15},
                 feed_forward={"d_ff": 23, "activation": "relu2", "channel_mix": True})
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens, use_cache=False).logits, tokens, eager=True)


def test_xlstm_has_a_matrix_for_a_memory() -> None:
    theirs = twin(transformers.xLSTMForCausalLM, transformers.xLSTMConfig(
        vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_heads=3, qk_dim_factor=0.5, v_dim_factor=0.75,
        ffn_proj_factor=1.5, ffn_round_up_to_multiple_of=5, autocast_kernel_dtype="float32", eps=1e-6,
        chunkwise_kernel="chunkwise--native_autograd", mode="inference", norm_eps=1e-6, pad_token_id=0, bos_token_id=0,
        eos_token_id=0))
    block = r"backbone\.blocks\.(\d+)\."
    weights = dict(theirs.named_parameters())
    for i in range(2):
        for kind in ("weight", "bias"):
            name = f"backbone.blocks.{i}.mlstm_layer."
            weights[f"{name}rates.{kind}"] = torch.cat([weights.pop(f"{name}{x}gate_preact.{kind}") for x in "if"])
        norm = f"backbone.blocks.{i}.mlstm_layer.multihead_norm.weight"
        weights[norm] = weights[norm].view(3, -1)
    weights = renamed(weights, [
        (r"backbone\.embeddings\.(.*)", r"token_embedding.\1"), (r"backbone\.out_norm\.(.*)", r"final_norm.\1"),
        (r"lm_head\.(.*)", r"head.\1"), (block + r"norm_mlstm\.(.*)", r"layers.\1.recurrent_norm.\2"),
        (block + r"norm_ffn\.(.*)", r"layers.\1.feed_forward_norm.\2"),
        (block + r"mlstm_layer\.ogate_preact\.(.*)", r"layers.\1.recurrent.gate.\2"),
        (block + r"mlstm_layer\.multihead_norm\.(.*)", r"layers.\1.recurrent.norm.\2"),
        (block + r"mlstm_layer\.(.*)", r"layers.\1.recurrent.\2"),
        (block + r"ffn\.proj_up_gate\.(.*)", r"layers.\1.feed_forward.gate.\2"),
        (block + r"ffn\.proj_(up|down)\.(.*)", r"layers.\1.feed_forward.\2.\3"),
    ])
    model = spec(d_model=24, norm={"kind": "rmsnorm", "eps": 1e-6}, head={"kind": "lm", "tied": False, "softcap": 30.0},
                 attention=None, recurrent={"kind": "mlstm", "heads": 3, "key_dim": 4, "value_dim": 6},
                 feed_forward={"d_ff": 40, "activation": "silu", "gated": True})
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens, use_cache=False).logits, tokens, eager=True)


@pytest.mark.parametrize("eager", [True, False])
def test_diffllama_takes_half_of_its_heads_from_the_others(eager: bool) -> None:
    theirs = twin(transformers.DiffLlamaForCausalLM, transformers.DiffLlamaConfig(
        **SIZES | {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}, head_dim=6,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))
    weights = renamed(dict(theirs.named_parameters()), [
        (BLOCK + r"self_attn\.lambda_(.*)", r"layers.\1.attention.differences.\2"), *LLAMA_NAMES])
    model = spec(**BODY | {"attention": {"heads": 4, "kv_heads": 2, "head_dim": 6, "differential": True}}, layers=1,
                 position={"kind": "rope"})
    tokens = ids(2, 13)
    check(model, weights, lambda: theirs(tokens).logits, tokens, eager=eager)
