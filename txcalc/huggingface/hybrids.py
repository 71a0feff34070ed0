"""Decoder-only families that mix attention with recurrent layers."""

from __future__ import annotations

from typing import Any

from txcalc.huggingface.build import Data, gated, grouped_query, layer_types, layered, plain, rms, rope
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoders import common, head_dim
from txcalc.huggingface.experts import attention_or_delta, experts, gated_delta
from txcalc.huggingface.latents import latent
from txcalc.spec.errors import shown


def jamba(c: Config, kind: str) -> Data:
    """Jamba: one attention layer in eight, Mamba in the others, experts in every second layer; no positions."""
    c.ignore("use_mamba_kernels", "use_mambapy", "use_associative_scan", "num_logits_to_keep", "sliding_window",
             "calc_logits_for_entire_prompt", "n_ctx")
    c.only("mamba_inner_layernorms", True)
    d = c.size("hidden_size")
    attention = grouped_query(c)
    rank = c.take("mamba_dt_rank")
    mamba = {"kind": "mamba", "inner": c.size("mamba_expand") * d, "state": c.size("mamba_d_state"),
             "rank": -(-d // 16) if rank == "auto" else c.size("mamba_dt_rank"), "conv": c.size("mamba_d_conv"),
             "conv_bias": c.flag("mamba_conv_bias"), "bias": c.flag("mamba_proj_bias"), "norms": True}
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(), position="none")
    moe = experts(c, count=("num_experts",), d_ff="intermediate_size", normalize=False)
    attention_period, attention_offset = c.size("attn_layer_period"), c.take("attn_layer_offset")
    expert_period, expert_offset = c.size("expert_layer_period"), c.take("expert_layer_offset")
    many = c.size("num_experts") > 1
    return layered(spec, [
        ({} if i % attention_period == attention_offset else {"attention": None, "recurrent": mamba})
        | ({"feed_forward": moe} if many and i % expert_period == expert_offset else {})
        for i in range(spec["layers"])
    ])


def nemotron_h(c: Config, kind: str) -> Data:
    """Nemotron-H: every layer is one of Mamba-2, attention, a plain feed-forward or experts."""
    c.ignore("chunk_size", "time_step_floor", "time_step_max", "time_step_min", "time_step_limit", "time_step_rank",
             "use_mamba_kernels", "residual_in_fp32", "num_logits_to_keep", "moe_shared_expert_overlap", "n_group",
             "topk_group", "routed_scaling_factor", "expand", "mamba_hidden_act", "num_nextn_predict_layers",
             "mtp_layers_block_type", "mtp_hybrid_override_pattern", "num_hidden_layers", "num_query_groups")
    c.only("mamba_ssm_cache_dtype", "float32")
    c.only("moe_latent_size", None)
    c.only("sliding_window", None)
    blocks = _block_kinds(c)
    parts: dict[str, Data] = {}
    if "mamba" in blocks:
        parts["mamba"] = {"recurrent": {
            "kind": "mamba2", "heads": c.size("mamba_num_heads"), "head_dim": c.size("mamba_head_dim"),
            "state": c.size("ssm_state_size"), "groups": c.size("n_groups"), "conv": c.size("conv_kernel"),
            "conv_bias": c.flag("use_conv_bias"), "bias": c.flag("use_bias")}}
    c.ignore("attention_bias")  # the class builds none whatever it says, and never ties its head
    parts["attention"] = {"attention": grouped_query(c)}
    parts["mlp"] = {"feed_forward": plain(c, c.size("intermediate_size"), bias=c.flag("mlp_bias"),
                                          act="mlp_hidden_act")}
    if "moe" in blocks:
        if c.flag("mlp_bias"):
            raise c.error("mlp_bias", "true is not understood beside experts, whose routed ones then have none")
        parts["moe"] = {"feed_forward": experts(
            c, count=("n_routed_experts",), act="mlp_hidden_act", normalize=c.flag("norm_topk_prob"), gated=False,
            routing="sigmoid-topk", shared_experts=1, shared_d_ff=c.size("moe_shared_expert_intermediate_size"))}
    c.ignore("n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size",
             "num_experts_per_tok", "norm_topk_prob", "ssm_state_size", "mamba_num_heads", "mamba_head_dim",
             "n_groups", "conv_kernel", "use_conv_bias", "use_bias")
    c.defaults = {**c.defaults, "num_hidden_layers": len(blocks)}
    spec = common(c, kind, feed_forward="none", norm=rms(), position="none") | {"layers": len(blocks)}
    if kind == "lm":
        spec["head"]["tied"] = False
    return layered(spec, [parts[block] for block in blocks])


def _block_kinds(c: Config) -> list[str]:
    letters = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    names = {"linear_attention": "mamba", "full_attention": "attention"}
    pattern = c.take("hybrid_override_pattern", default=None)
    field = "hybrid_override_pattern" if pattern else "layers_block_type"
    given = c.take("layers_block_type", "layer_types", default=None)
    marks = pattern or given
    if not isinstance(marks, str if pattern else list):
        raise c.error(field, f"must name a known kind for every layer, got {shown(marks)}")
    kinds = [(letters if pattern else names).get(mark, mark) if isinstance(mark, str) else shown(mark)
             for mark in marks]
    unknown = [kind for kind in kinds if kind not in letters.values()]
    if unknown or not kinds:
        raise c.error(field, f"must name a known kind for every layer, got {unknown[0] if unknown else 'none'}")
    return kinds


def minimax(c: Config, kind: str) -> Data:
    """MiniMax-01: lightning attention but for every few layers, which have softmax attention; experts in all."""
    c.ignore("block_size", "full_attn_alpha_factor", "full_attn_beta_factor", "linear_attn_alpha_factor",
             "linear_attn_beta_factor", "mlp_alpha_factor", "mlp_beta_factor")
    c.only("sliding_window", None)
    attention = grouped_query(c)
    feed = experts(c, count=("num_local_experts",), d_ff="intermediate_size")
    width = head_dim(c, attention)
    spec = common(c, kind, attention=attention, feed_forward=feed, norm=rms(), position=rope(c, width))
    lightning = {"kind": "lightning", "heads": attention["heads"], "head_dim": width}
    default = ["full_attention" if (i + 1) % 2 else "linear_attention" for i in range(spec["layers"])]
    return layered(spec, [{"attention": None, "recurrent": lightning} if k == "linear_attention" else {}
                          for k in layer_types(c, spec["layers"], default, "linear_attention")])


def mamba2(c: Config, kind: str) -> Data:
    """Mamba-2 alone: no attention, no feed-forward."""
    c.ignore("residual_in_fp32", "chunk_size", "time_step_rank", "time_step_min", "time_step_max", "time_step_floor",
             "time_step_limit", "rms_norm", "expand", "num_logits_to_keep", "use_mambapy")
    c.only("hidden_act", "silu", "swish")
    c.only("norm_before_gate", True)
    c.only("intermediate_size", c.size("num_heads") * c.size("head_dim"))
    layer = {"kind": "mamba2", "heads": c.size("num_heads"), "head_dim": c.size("head_dim"),
             "state": c.size("state_size"), "groups": c.size("n_groups"), "conv": c.size("conv_kernel"),
             "conv_bias": c.flag("use_conv_bias"), "bias": c.flag("use_bias")}
    return common(c, kind, recurrent=layer, feed_forward="none", norm=rms(), position="none")


def mamba(c: Config, kind: str) -> Data:
    """Mamba alone: no attention, no feed-forward. Its channels are as many as the file says, whatever ``expand`` is."""
    c.ignore("residual_in_fp32", "time_step_scale", "time_step_min", "time_step_max", "time_step_init_scheme",
             "time_step_floor", "use_mambapy", "use_associative_scan", "fused_add_norm", "pad_vocab_size_multiple",
             "num_logits_to_keep", "ssm_cfg")
    c.only("hidden_act", "silu")
    c.only("rms_norm", True)
    d = c.size("hidden_size")
    inner = c.size("intermediate_size", default=int((c.number("expand") or 0) * d))
    for other, size in (("d_model", d), ("d_inner", inner), ("n_layer", c.size("num_hidden_layers"))):
        c.only(other, size)
    rank = c.take("time_step_rank")
    layer = {"kind": "mamba", "inner": inner, "state": c.size("state_size"),
             "rank": -(-d // 16) if rank == "auto" else c.size("time_step_rank"), "conv": c.size("conv_kernel"),
             "conv_bias": c.flag("use_conv_bias"), "bias": c.flag("use_bias")}
    return common(c, kind, recurrent=layer, feed_forward="none", norm=rms(), position="none")


def falcon_mamba(c: Config, kind: str) -> Data:
    """Mamba with norms on step sizes, B and C that have no weights."""
    c.ignore("mixer_rms_eps", "use_falcon_mambapy")
    spec = mamba(c, kind)
    spec["recurrent"] |= {"norms": True, "norm_scale": False}
    return spec


def _mamba2_beside(c: Config) -> Data:
    """Mamba-2 as models with attention name its fields."""
    c.ignore("mamba_chunk_size", "time_step_limit", "time_step_min", "time_step_max", "time_step_floor",
             "use_mamba_kernels")
    c.only("hidden_act", "silu")
    inner = c.size_or(c.size("mamba_expand") * c.size("hidden_size"), "mamba_d_ssm")
    heads = c.size("mamba_n_heads")
    width = inner // heads if c.take("mamba_d_head") == "auto" else c.size("mamba_d_head")
    if heads * width != inner:
        raise c.error("mamba_n_heads", f"{heads} heads of {width} are not the {inner} channels")
    return {"kind": "mamba2", "heads": heads, "head_dim": width, "state": c.size("mamba_d_state"),
            "groups": c.size("mamba_n_groups"), "conv": c.size("mamba_d_conv"),
            "conv_bias": c.flag("mamba_conv_bias"), "bias": c.flag("mamba_proj_bias")}


def granitemoehybrid(c: Config, kind: str) -> Data:
    """Granite 4: Mamba-2 in most layers or in none, and experts beside a shared one, or that one alone.

    Attention has rotary positions or none. Without experts what is shared is the feed-forward.
    """
    c.only("normalization_function", "rmsnorm")
    c.ignore("intermediate_size", "num_experts_per_tok", "num_local_experts", "init_method")
    shared = c.size("shared_intermediate_size")
    feed = gated(c, d_ff=shared)
    if c.take("num_local_experts"):
        feed = experts(c, count=("num_local_experts",), d_ff="intermediate_size", routing="topk-softmax",
                       shared_experts=1, shared_d_ff=shared)
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    rotary = c.choice("position_embedding_type", {"rope": True, "nope": False, None: False})
    spec = common(c, kind, attention=attention, feed_forward=feed, norm=rms(),
                  position=rope(c, head_dim(c, attention)) if rotary else {"kind": "none"})
    kinds = layer_types(c, spec["layers"], ["linear_attention"] * spec["layers"], "linear_attention")
    mamba2 = _mamba2_beside(c) if "linear_attention" in kinds else _no_mamba2(c)
    return layered(spec, [{"attention": None, "recurrent": mamba2} if k == "linear_attention" else {} for k in kinds])


def _no_mamba2(c: Config) -> Data:
    """Pass over the sizes of a layer that no layer is."""
    c.ignore("mamba_chunk_size", "mamba_conv_bias", "mamba_d_conv", "mamba_d_head", "mamba_d_state", "mamba_expand",
             "mamba_n_groups", "mamba_n_heads", "mamba_proj_bias", "time_step_limit")
    return {}


def bamba(c: Config, kind: str) -> Data:
    """Bamba: Mamba-2 but for the layers listed, whose heads are half rotary; a dense feed-forward in all."""
    c.ignore("z_loss_coefficient", "num_logits_to_keep", "partial_rotary_factor")
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    width = head_dim(c, attention)
    if width % 2:
        raise c.error("head_dim", f"half of a head's {width} columns rotate")
    c.only("attn_rotary_emb", width // 2)
    spec = common(c, kind, attention=attention, feed_forward=gated(c, bias=c.flag("mlp_bias")), norm=rms(),
                  position={"kind": "rope", "dim": width // 2})
    listed, mamba2 = _listed(c, "attn_layer_indices") or [], _mamba2_beside(c)
    return layered(spec, [{} if i in listed else {"attention": None, "recurrent": mamba2}
                          for i in range(spec["layers"])])


def falcon_h1(c: Config, kind: str) -> Data:
    """Falcon-H1: attention and Mamba-2 read one norm and are added up in every layer, which a feed-forward follows."""
    c.ignore("num_logits_to_keep", "lm_head_multiplier", "mlp_multipliers", "key_multiplier", "ssm_multipliers",
             "attention_in_multiplier", "attention_out_multiplier", "ssm_in_multiplier", "ssm_out_multiplier",
             "mamba_norm_before_gate", "mlp_expansion_factor", "layers_block_type", "layer_types")
    c.only("mamba_use_mlp", True)
    c.only("attn_layer_indices", None)
    c.only("projectors_bias", c.flag("mamba_proj_bias"))  # the one is on the way out, the other on the way in
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    return common(c, kind, attention=attention, feed_forward=gated(c, bias=c.flag("mlp_bias")), norm=rms(),
                  recurrent=_mamba2_beside(c) | {"norm": c.flag("mamba_rms_norm")}, residual="mixers",
                  position=rope(c, head_dim(c, attention)))


def kimi_linear(c: Config, kind: str) -> Data:
    """Kimi Linear: three layers of Kimi delta attention to each of latent attention, without rotary positions."""
    c.ignore("num_key_value_heads", "head_dim", "qk_head_dim", "n_group", "num_expert_group", "topk_group",
             "routed_scaling_factor", "use_grouped_topk", "num_nextn_predict_layers")
    c.rename(model_max_length="max_position_embeddings")
    c.only("moe_layer_freq", 1)
    c.only("mla_use_nope", True)
    c.only("moe_router_activation_func", "sigmoid")
    given = c.section("linear_attn_config", "")
    delta = {"kind": "kimi-delta", "heads": given.size("num_heads", default=c.size("linear_num_heads")),
             "head_dim": given.size("head_dim", default=c.size("linear_head_dim")),
             "conv": given.size("short_conv_kernel_size", default=c.size("linear_conv_kernel_dim"))}
    shared = c.take("n_shared_experts", "num_shared_experts")
    moe = experts(c, count=("num_local_experts", "num_experts"),
                  active=("num_experts_per_tok", "num_experts_per_token"), routing="sigmoid-topk",
                  normalize=c.flag("norm_topk_prob", "moe_renormalize"),
                  **({"shared_experts": shared} if shared else {}))
    spec = common(c, kind, attention=latent(c), feed_forward=gated(c), norm=rms(), position="none")
    if kind == "lm":
        spec["head"]["tied"] = False  # the class ties none, whatever the file says
    layers, first = spec["layers"], c.take("first_k_dense_replace", default=1)
    full = _one_based(given, layers)
    kinds = layer_types(c, layers, ["full_attention" if i in full else "linear_attention" for i in range(layers)],
                        "linear_attention")
    given.finish()
    feeds = c.take("mlp_layer_types", default=None) or ["dense" if i < first else "sparse" for i in range(layers)]
    if len(feeds) != layers or not set(feeds) <= {"dense", "sparse"}:
        raise c.error("mlp_layer_types", f"must say dense or sparse for each of {layers} layers")
    return layered(spec, [
        ({"attention": None, "recurrent": delta} if k == "linear_attention" else {})
        | ({"feed_forward": moe} if feed == "sparse" else {}) for k, feed in zip(kinds, feeds, strict=True)
    ])


def _one_based(c: Config, layers: int) -> set[int]:
    """The layers with full attention: those that the file lists, numbered from 1, or 4, 8, 12 and so on."""
    full, other = c.take("full_attn_layers", default=None), c.take("kda_layers", default=None)
    if full is None or other is None:
        return {i for i in range(layers) if i and i % 4 == 0}
    if not isinstance(full, list) or not isinstance(other, list) or sorted(full + other) != list(range(1, layers + 1)):
        raise c.error("full_attn_layers", f"and kda_layers must list each of {layers} layers once, from 1")
    return {i - 1 for i in full}


def _listed(c: Config, name: str) -> list[Any] | None:
    """The layers that have attention, where the file lists them."""
    listed = c.take(name, default=None)
    if listed is not None and not isinstance(listed, list):
        raise c.error(name, f"must list the layers with attention, got {shown(listed)}")
    return listed


def olmo_hybrid(c: Config, kind: str) -> Data:
    """OLMo 3 with the gated delta rule: norms before its layers, after those of attention, rotary positions or none."""
    c.ignore("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max", "linear_dt_init_floor",
             "linear_allow_neg_eigval", "fla_hybrid_attention_indices", "mlp_bias", "sliding_window", "linear_use_gate")
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="full"))
    heads, key_heads = attention["heads"], c.size_or(attention["heads"], "linear_num_key_heads")
    key_dim = c.size_or(int(0.75 * c.size("hidden_size") / key_heads), "linear_key_head_dim")
    delta = {"kind": "gated-delta", "key_heads": key_heads, "value_heads": c.size_or(heads, "linear_num_value_heads"),
             "key_dim": key_dim, "value_dim": c.size_or(2 * key_dim, "linear_value_head_dim"),
             "conv": c.size("linear_conv_kernel_dim")}
    given = c.take("rope_parameters", default=None)
    places = (given if isinstance(given, dict) else {}, c.data)
    rotary = next((place["rope_theta"] for place in places if "rope_theta" in place), 0) is not None
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(placement="res-post"),
                  position=rope(c, head_dim(c, attention)) if rotary else {"kind": "none"})
    layers = spec["layers"]
    default = ["full_attention" if i % 4 == 3 or (layers < 4 and i == layers - 1) else "linear_attention"
               for i in range(layers)]
    kinds = layer_types(c, layers, default, "linear_attention")
    return layered(spec, [{"attention": None, "recurrent": delta, "norm": {"placement": "pre"}}
                          if k == "linear_attention" else {} for k in kinds])


def _lfm2_attention(c: Config) -> Data:
    return grouped_query(c, qk_norm=rms(over="head"))


def _short_convolution(c: Config) -> Data:
    c.ignore("conv_use_xavier_init")
    for name in ("conv_dim", "conv_dim_out"):
        c.only(name, c.size("hidden_size"))
    return {"attention": None,
            "recurrent": {"kind": "short-convolution", "conv": c.size("conv_L_cache"), "bias": c.flag("conv_bias")}}


def _lfm2(c: Config, kind: str, attention: Data, feed_forward: Data) -> Data:
    spec = common(c, kind, attention=attention, feed_forward=feed_forward, norm=rms(),
                  position=rope(c, head_dim(c, attention)))
    tied = c.flag("tie_embedding", default=c.take("tie_word_embeddings"))  # the one that counts where both are given
    if kind == "lm":
        spec["head"]["tied"] = tied
    return spec


def lfm2(c: Config, kind: str) -> Data:
    """LFM2: gated short convolutions beside attention with normed heads; a feed-forward width that is adjusted."""
    c.ignore("block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_xavier_init", "theta")
    c.only("block_use_swiglu", True)
    c.only("use_pos_enc", True)
    d, attention = c.size("hidden_size"), _lfm2_attention(c)
    for other, size in (("block_dim", d), ("num_heads", attention["heads"])):
        c.only(other, size)
    width = c.size("block_ff_dim") if "block_ff_dim" in c.data else c.size("intermediate_size")
    c.ignore("intermediate_size", "block_ffn_dim_multiplier", "block_multiple_of")
    if c.flag("block_auto_adjust_ff_dim"):
        width = int(2 * width / 3)
        factor, step = c.number("block_ffn_dim_multiplier"), c.size("block_multiple_of")
        width = width if factor is None else -(-int(factor * width) // step) * step
    feed = {"d_ff": width, "activation": "silu", "gated": True}
    spec = _lfm2(c, kind, attention, feed)
    listed = _listed(c, "full_attn_idxs")
    default = ["full_attention" if listed is None or i in listed else "conv" for i in range(spec["layers"])]
    mixer = _short_convolution(c)
    return layered(spec, [mixer if k == "conv" else {} for k in layer_types(c, spec["layers"], default, "conv")])


def lfm2_moe(c: Config, kind: str) -> Data:
    """LFM2 with experts in all but the first layers, chosen by sigmoids and a bias that is no parameter."""
    c.ignore("use_expert_bias", "routed_scaling_factor")
    dense = {"d_ff": c.size("intermediate_size"), "activation": "silu", "gated": True}
    moe = {"kind": "moe", "experts": c.size("num_experts"), "active_experts": c.size("num_experts_per_tok"),
           "d_ff": c.size("moe_intermediate_size"), "activation": "silu", "normalize": c.flag("norm_topk_prob"),
           "routing": "sigmoid-topk"}
    spec = _lfm2(c, kind, _lfm2_attention(c), dense)
    mixer, first, layers = _short_convolution(c), c.take("num_dense_layers"), spec["layers"]
    kinds = layer_types(c, layers, [], "conv")
    return layered(spec, [(mixer if k == "conv" else {}) | ({} if i < first else {"feed_forward": moe})
                          for i, k in enumerate(kinds)])


def _qwen3_5(c: Config, kind: str, feed_forward: Data) -> Data:
    c.ignore("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mamba_ssm_dtype", "mlp_only_layers")
    c.only("attn_output_gate", True)
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="head"), output_gate=True)
    spec = common(c, kind, attention=attention, feed_forward=feed_forward, norm=rms(),
                  position=rope(c, head_dim(c, attention), default=0.25))
    return layered(spec, attention_or_delta(c, spec["layers"], gated_delta(c)))


def qwen3_5(c: Config, kind: str) -> Data:
    """Qwen 3.5's text model: Qwen3-Next's layers with a dense feed-forward."""
    return _qwen3_5(c, kind, gated(c))


def qwen3_5_moe(c: Config, kind: str) -> Data:
    """Qwen 3.5's text model with experts in every layer: a shared one behind a gate."""
    c.only("norm_topk_prob", True)
    c.only("decoder_sparse_step", 1)
    c.ignore("intermediate_size")
    return _qwen3_5(c, kind, experts(c, count=("num_experts",), shared_experts=1, shared_gate=True,
                                     shared_d_ff=c.size("shared_expert_intermediate_size")))
