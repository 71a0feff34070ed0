"""State space models and the hybrids of others with attention: Mamba, Jamba, Bamba, Granite 4's part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import decoder, experts
from txcalc.huggingface.layerwise import all_but, every, sparse, where
from txcalc.huggingface.rows import Fields, Rows, flag, gated, number, passed_over, read, size
from txcalc.spec.errors import shown

_STEPS: Final = "time_step_limit time_step_min time_step_max time_step_floor"
_MIXER: Final = {"state": size("state_size"), "conv": size("conv_kernel"), "conv_bias": flag("use_conv_bias"),
                 "bias": flag("use_bias")}
MAMBA2: Final[Fields] = {"kind": "mamba2", "heads": size("num_heads"), "head_dim": size("head_dim"),
                       "groups": size("n_groups"), **_MIXER}
alone = partial(decoder, attention=None, feed_forward="none", position="none")


def rank(name: str) -> Any:
    """The rank of the step sizes, a sixteenth of the width where it is left to the class."""
    return lambda c: -(-c.size("hidden_size") // 16) if c.take(name) == "auto" else c.size(name)


def _mamba(c: Config) -> Fields:
    """Its channels are as many as the file says, whatever ``expand`` is."""
    d = c.size("hidden_size")
    inner = c.size("intermediate_size", default=int((c.number("expand") or 0) * d))
    passed_over(c, "", {"d_model": d, "d_inner": inner, "n_layer": size("num_hidden_layers")})
    return {"kind": "mamba", "inner": inner, "rank": rank("time_step_rank"), **_MIXER}


_IGNORED: Final = ("residual_in_fp32 time_step_scale time_step_min time_step_max time_step_init_scheme time_step_floor "
                   "use_mambapy use_associative_scan fused_add_norm pad_vocab_size_multiple num_logits_to_keep ssm_cfg")


def beside_attention(c: Config) -> Data:
    """Mamba-2 as models with attention name its fields."""
    passed_over(c, f"mamba_chunk_size use_mamba_kernels {_STEPS}", {"hidden_act": "silu"})
    inner = c.size_or(c.size("mamba_expand") * c.size("hidden_size"), "mamba_d_ssm")
    heads = c.size("mamba_n_heads")
    width = inner // heads if c.take("mamba_d_head") == "auto" else c.size("mamba_d_head")
    if heads * width != inner:
        raise c.error("mamba_n_heads", f"{heads} heads of {width} are not the {inner} channels")
    return {"kind": "mamba2", "heads": heads, "head_dim": width, "state": c.size("mamba_d_state"),
            "groups": c.size("mamba_n_groups"), "conv": c.size("mamba_d_conv"),
            "conv_bias": c.flag("mamba_conv_bias"), "bias": c.flag("mamba_proj_bias")}


_JAMBA: Final[Fields] = {"attention": None, "recurrent": {
    "kind": "mamba", "inner": lambda c: c.size("mamba_expand") * c.size("hidden_size"), "state": size("mamba_d_state"),
    "rank": rank("mamba_dt_rank"), "conv": size("mamba_d_conv"), "conv_bias": flag("mamba_conv_bias"),
    "bias": flag("mamba_proj_bias"), "norms": True}}


def _with_experts(c: Config, layers: int) -> list[bool]:
    chosen = every(size("expert_layer_period"), first=size("expert_layer_offset", least=0))(c, layers)
    return [c.size("num_experts") > 1 and one for one in chosen]


def listed_attention(c: Config, name: str) -> list[Any] | None:
    """The layers that have attention, where the file lists them."""
    listed = c.take(name, default=None)
    if listed is not None and not isinstance(listed, list):
        raise c.error(name, f"must list the layers with attention, got {shown(listed)}")
    return listed


def _not_listed(c: Config, layers: int) -> list[bool]:
    listed = listed_attention(c, "attn_layer_indices") or []
    return [i not in listed for i in range(layers)]


def _half_rotary(c: Config, width: int) -> Data:
    if width % 2:
        raise c.error("head_dim", f"half of a head's {width} columns rotate")
    c.only("attn_rotary_emb", width // 2)
    return {"kind": "rope", "dim": width // 2}


def _matrix_memory(c: Config) -> Fields:
    """Widths of all heads are fractions of the model's, each rounded down; a head's is what is left of them."""
    d, heads = c.size("hidden_size"), c.size("num_heads")
    widths = {name: int(d * (c.number(f"{field}_dim_factor") or 0)) for name, field in (("key", "qk"), ("value", "v"))}
    for name, width in widths.items():
        if width < heads or width % heads:
            raise c.error("num_heads", f"{heads} do not divide the {width} columns of all {name}s")
    return {"kind": "mlstm", "heads": heads, **{f"{name}_dim": width // heads for name, width in widths.items()}}


def _xlstm_feed_forward(c: Config) -> Fields:
    step = c.size("ffn_round_up_to_multiple_of")
    width = int((c.size("hidden_size") * (c.number("ffn_proj_factor") or 0) + step - 1) // step) * step
    return {"d_ff": width, "activation": "silu", "gated": True}


# ---------------------------------------------------------------- Zamba


def _shared_attention(c: Config, **more: Any) -> Data:
    heads, wide = c.size("num_attention_heads"), 2 * c.size("hidden_size")
    return {"heads": heads, "kv_heads": c.size_or(heads, "num_key_value_heads"), "head_dim": wide // heads, **more}


def _hybrid_layers(c: Config, layers: int, default: Callable[[], list[str]]) -> list[bool]:
    c.by_its_name("layers_block_type")  # the class makes others of them before it looks at what they may be called
    listed = c.take("layers_block_type", default=None) or default()
    names = {"mamba": False, "linear_attention": False, "hybrid": True}
    if not isinstance(listed, list) or len(listed) != layers or not {*listed} <= names.keys():
        raise c.error("layers_block_type", f"must say {' or '.join(names)} of each of {layers} layers")
    return [names[kind] for kind in listed]


def _zamba(c: Config, layers: int) -> list[Data]:
    """One transformer for all hybrid layers, or where nothing is tied one for each."""
    period, offset = c.size("attn_layer_period"), c.size("attn_layer_offset", least=0)
    hybrid = _hybrid_layers(c, layers, lambda: ["mamba", "mamba", "hybrid"] + [
        "hybrid" if i % period == offset else "mamba" for i in range(layers - 3)])
    attention = _shared_attention(c)
    passed_over(c, "", {"attention_hidden_size": (None, 2 * c.size("hidden_size")),
                        "attention_head_dim": (None, attention["head_dim"])})
    block = {"attention": attention, "feed_forward": read(c, gated(bias=False))}
    sets = 1 if c.flag("tie_word_embeddings") else layers
    return [{"shared_block": {**block, "index": sum(hybrid[:i]) % sets}} if one else {} for i, one in enumerate(hybrid)]


def _zamba2_mamba(c: Config) -> Data:
    heads, inner = c.size("n_mamba_heads"), c.size("mamba_expand") * c.size("hidden_size")
    if inner % heads:
        raise c.error("n_mamba_heads", f"{heads} do not divide {inner} channels")
    c.only("mamba_headdim", inner // heads)
    return {"kind": "mamba2", "heads": heads, "groups": c.size("mamba_ngroups"), "head_dim": inner // heads,
            "state": c.size("mamba_d_state"), "conv": c.size("mamba_d_conv"), "bias": c.flag("add_bias_linear")}


def _zamba2(c: Config, layers: int) -> list[Data]:
    """Several transformers in turn, and adapters of each use."""
    usual = [i in (6, 12, 18, 24, 30, 36, 42, 47, 51) for i in range(54)]
    hybrid = _hybrid_layers(c, layers, lambda: ["hybrid" if one else "mamba" for one in usual])
    wide = 2 * c.size("hidden_size")  # what the class derives, but a file that says another is followed
    passed_over(c, "", {"attention_hidden_size": wide, "attention_head_dim": wide // c.size("num_attention_heads"),
                        "hybrid_layer_ids": [i for i, one in enumerate(hybrid) if one]})
    attention = _shared_attention(c)
    block = {"attention": attention, "rank": c.size("adapter_rank"), "feed_forward": {
        **read(c, gated(bias=flag("add_bias_linear"))),
        "d_ff": c.size_or(4 * c.size("hidden_size"), "intermediate_size")},
        "attention_adapters": c.flag("use_shared_attention_adapter")}
    for name, heads in (("num_attention_heads", "heads"), ("num_key_value_heads", "kv_heads")):
        if block["attention_adapters"] and attention[heads] * attention["head_dim"] != wide:
            raise c.error(name, f"{attention[heads]} of {attention['head_dim']} are not the {wide} columns of adapters")
    sets = c.size("num_mem_blocks")
    return [{"shared_block": {**block, "index": sum(hybrid[:i]) % sets}} if one else {} for i, one in enumerate(hybrid)]


ROWS: Final[Rows] = {
    "zamba": alone(
        {"ZambaForCausalLM": "lm", "ZambaModel": "none"}, layers=[_zamba], recurrent={
            "kind": "mamba", "inner": lambda c: c.size("mamba_expand") * c.size("hidden_size"), "heads": size(
                "n_mamba_heads"), "state": size("mamba_d_state"), "rank": rank("mamba_dt_rank"),
            "conv": size("mamba_d_conv"), "conv_bias": flag("mamba_conv_bias"), "bias": flag("mamba_proj_bias")},
        ignore=f"use_mamba_kernels use_associative_scan num_logits_to_keep {_STEPS}",
        only={"hidden_mamba_act": "silu"}),
    "zamba2": alone(
        {"Zamba2ForCausalLM": "lm", "Zamba2Model": "none"}, layers=[_zamba2],
        recurrent=_zamba2_mamba,
        position={"kind": lambda c: "rope" if c.flag("use_mem_rope") else "none"},
        ignore=f"use_mamba_kernels use_mem_eff_path chunk_size num_logits_to_keep use_long_context use_conv_bias "
               f"kv_channels num_query_groups {_STEPS}",
        only={"tie_word_embeddings": True}),  # else blocks hold adapters of others' uses, which nothing reads
    "mamba2": alone(
        {"Mamba2ForCausalLM": "lm", "Mamba2Model": "none"}, recurrent=MAMBA2,
        ignore=f"residual_in_fp32 chunk_size time_step_rank rms_norm expand num_logits_to_keep use_mambapy {_STEPS}",
        only={"hidden_act": ("silu", "swish"), "norm_before_gate": True,
              "intermediate_size": lambda c: c.size("num_heads") * c.size("head_dim")}),
    "mamba": alone({"MambaForCausalLM": "lm", "MambaModel": "none"}, recurrent=_mamba, ignore=_IGNORED,
                   only={"hidden_act": "silu", "rms_norm": True}),
    "falcon_mamba": alone(  # norms on step sizes, B and C that have no weights
        {"FalconMambaForCausalLM": "lm", "FalconMambaModel": "none"},
        recurrent=lambda c: {**_mamba(c), "norms": True, "norm_scale": False},
        ignore=f"{_IGNORED} mixer_rms_eps use_falcon_mambapy", only={"hidden_act": "silu", "rms_norm": True}),
    "rwkv": alone(  # arXiv 2305.13048
        {"RwkvForCausalLM": "lm", "RwkvModel": "none"}, norm="layernorm", embedding_norm=True,
        recurrent={"kind": "wkv", "inner": lambda c: c.size_or(c.size("hidden_size"), "attention_hidden_size")},
        feed_forward={"d_ff": lambda c: c.size_or(4 * c.size("hidden_size"), "intermediate_size"),
                      "activation": "relu2", "channel_mix": True},
        context=size("context_length"), ignore="rescale_every"),
    "xlstm": alone(  # arXiv 2503.13427
        {"xLSTMForCausalLM": "lm", "xLSTMModel": "none"}, feed_forward=_xlstm_feed_forward, recurrent=_matrix_memory,
        softcap=number("output_logit_soft_cap"), tied=False, ignore=(
            "norm_reduction_force_float32 add_out_norm chunkwise_kernel sequence_kernel step_kernel mode chunk_size "
            "return_last_states autocast_kernel_dtype inference_state_dtype gate_soft_cap weight_mode "
            "max_inference_chunksize tie_word_embeddings"),  # its class ties nothing
        only={"use_bias": False,  # with biases every norm has one but the last
              "embedding_dim": (None, size("hidden_size")), "num_blocks": (None, size("num_hidden_layers"))}),
    "jamba": decoder(  # one attention layer in eight, experts in every second, no positions
        "Jamba", position="none", layers=[
            where(all_but(every(size("attn_layer_period"), first=size("attn_layer_offset", least=0))), _JAMBA),
            sparse(experts(normalize=False), _with_experts)],
        ignore="use_mamba_kernels use_mambapy use_associative_scan num_logits_to_keep sliding_window "
               "calc_logits_for_entire_prompt n_ctx", only={"mamba_inner_layernorms": True}),
    "bamba": decoder(
        "Bamba", feed_forward=gated(bias=flag("mlp_bias")), position=_half_rotary,
        layers=[where(_not_listed, {"attention": None, "recurrent": beside_attention})],
        ignore="z_loss_coefficient num_logits_to_keep partial_rotary_factor"),
    "falcon_h1": decoder(  # attention and Mamba-2 read one norm and are added up in every layer
        "FalconH1", feed_forward=gated(bias=flag("mlp_bias")), residual="mixers",
        recurrent=lambda c: {**beside_attention(c), "norm": flag("mamba_rms_norm")},
        ignore="num_logits_to_keep lm_head_multiplier mlp_multipliers key_multiplier ssm_multipliers layer_types "
               "attention_in_multiplier attention_out_multiplier ssm_in_multiplier ssm_out_multiplier "
               "mamba_norm_before_gate mlp_expansion_factor layers_block_type",
        # The one is on the way out, the other on the way in.
        only={"mamba_use_mlp": True, "attn_layer_indices": None, "projectors_bias": flag("mamba_proj_bias")}),
}
