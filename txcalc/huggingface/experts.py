"""Decoder-only families with mixtures of experts, and Qwen3-Next, whose layers mostly recur."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import (
    Data,
    activation,
    gated,
    grouped_query,
    layer_types,
    layered,
    layernorm,
    rms,
    rope,
    windowed,
)
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoders import common, head_dim
from txcalc.huggingface.llamas import hunyuan
from txcalc.spec.errors import shown


def experts(c: Config, *, count: tuple[str, ...], d_ff: str = "moe_intermediate_size", act: str = "hidden_act",
            active: tuple[str, ...] = ("num_experts_per_tok",), normalize: bool = True, **more: object) -> Data:
    """Gated experts under their common field names."""
    return {"kind": "moe", "experts": c.size(*count), "active_experts": c.size(*active),
            "d_ff": c.size(d_ff), "activation": activation(c, act), "normalize": normalize, **more}


def _sparse_layers(c: Config, layers: int) -> list[bool]:
    """Qwen's rule: every ``decoder_sparse_step``-th layer, but those listed as dense."""
    step, dense = c.size("decoder_sparse_step"), c.take("mlp_only_layers", default=None) or []
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def with_experts(base: Data, sparse: list[bool], moe: Data, extra: list[Data] | None = None) -> Data:
    """``base`` with its dense feed-forward, and ``moe`` where a layer is sparse."""
    extra = extra or [{} for _ in sparse]
    if all(sparse):
        return layered({**base, "feed_forward": moe}, extra)
    return layered(base, [{**e, **({"feed_forward": moe} if s else {})} for s, e in zip(sparse, extra, strict=True)])


def sparse_layers(c: Config, default: list[bool]) -> list[bool]:
    """Which layers have experts: as the file lists them, or the pattern that the class makes up."""
    given = c.take("mlp_layer_types", default=None)
    if given is None:
        return default
    if not isinstance(given, list) or len(given) != len(default):
        raise c.error("mlp_layer_types", f"must be a list of {len(default)} entries, one per layer")
    for kind in given:
        if kind not in ("dense", "sparse"):
            raise c.error("mlp_layer_types", f"{shown(kind)} is not known; txcalc knows dense, sparse")
    return [kind == "sparse" for kind in given]


def olmoe(c: Config, kind: str) -> Data:
    """OLMo with experts: norms over the whole of q and k, before each sublayer RMSNorm."""
    c.ignore("clip_qkv")
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="full"))
    feed = experts(c, count=("num_experts",), d_ff="intermediate_size", normalize=c.flag("norm_topk_prob"))
    return common(c, kind, attention=attention, feed_forward=feed, norm=rms(), position=rope(c, head_dim(c, attention)))


def granitemoe(c: Config, kind: str) -> Data:
    """Granite with experts."""
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    feed = experts(c, count=("num_local_experts",), d_ff="intermediate_size", routing="topk-softmax")
    return common(c, kind, attention=attention, feed_forward=feed, norm=rms(), position=rope(c, head_dim(c, attention)))


def granitemoeshared(c: Config, kind: str) -> Data:
    """Granite with experts and a shared one of its own width; width 0 stands for none."""
    spec = granitemoe(c, kind)
    if c.take("shared_intermediate_size"):
        spec["feed_forward"] |= {"shared_experts": 1, "shared_d_ff": c.size("shared_intermediate_size")}
    return spec


def flex_olmo(c: Config, kind: str) -> Data:
    """FlexOlmo: OLMo 2's norms after each sublayer around OLMoE's experts."""
    spec = olmoe(c, kind)
    spec["norm"] = rms(placement="res-post")
    return spec


def minimax_m2(c: Config, kind: str) -> Data:
    """MiniMax-M2: norms over the whole of q and k, sigmoid routing with a bias that is no parameter."""
    c.only("use_qk_norm", True)
    c.only("qk_norm_type", "per_layer")
    c.only("attn_type_list", None, [1] * c.size("num_hidden_layers"))
    c.only("shared_intermediate_size", 0)
    c.only("scoring_func", "sigmoid")
    c.only("attn_window_size", None)
    c.ignore("use_routing_bias", "use_mtp", "num_mtp_modules", "mtp_transformer_layers", "mlp_intermediate_size",
             "shared_moe_mode", "layernorm_full_attention_beta", "layernorm_linear_attention_beta",
             "layernorm_mlp_beta")
    attention = grouped_query(c, qk_norm=rms(over="full"))
    feed = experts(c, count=("num_local_experts", "num_experts"), d_ff="intermediate_size", routing="sigmoid-topk")
    width = head_dim(c, attention)
    part = {"kind": "rope", "dim": c.size("rotary_dim")} if "rotary_dim" in c.data else rope(c, width)
    return common(c, kind, attention=attention, feed_forward=feed, norm=rms(), position=part)


def ernie4_5_moe(c: Config, kind: str) -> Data:
    """ERNIE 4.5 with experts: one switch for every bias, the head's among them.

    What is added to the scores before the best are chosen is a parameter here, one number for each expert.
    """
    bias = c.flag("use_bias")
    c.ignore("moe_norm_min", "moe_capacity", "num_nextn_predict_layers")
    c.only("moe_gate", "topk")
    c.only("moe_use_aux_free", True)
    attention = grouped_query(c, bias=bias)
    shared = c.take("moe_num_shared_experts")
    moe = {"kind": "moe", "experts": c.size("moe_num_experts", "num_experts"),
           "active_experts": c.size("moe_k", "num_experts_per_tok"), "d_ff": c.size("moe_intermediate_size"),
           "activation": activation(c, "hidden_act"), "router_bias": True, "bias": False,
           **({"shared_experts": shared} if shared else {})}
    if bias:
        raise c.error("use_bias", "true is not understood beside experts, whose routed ones then have none")
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(),
                  position=rope(c, head_dim(c, attention)))
    layers, step = spec["layers"], c.size("moe_layer_interval")
    first, last = c.take("moe_layer_start_index"), c.take("moe_layer_end_index")
    last = layers - 1 if last == -1 else last
    return with_experts(spec, [(i + 1) % step == 0 and first <= i <= last for i in range(layers)], moe)


def dots1(c: Config, kind: str) -> Data:
    """dots.llm1: Qwen 3's attention, DeepSeek V3's experts."""
    c.ignore("n_group", "topk_group", "routed_scaling_factor", "topk_method", "scoring_func", "ep_size",
             "num_nextn_predict_layers")
    c.only("moe_layer_freq", 1)
    c.only("use_sliding_window", False)
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="head"))
    shared = c.take("n_shared_experts")
    moe = experts(c, count=("n_routed_experts", "num_local_experts"), normalize=c.flag("norm_topk_prob"),
                  routing="sigmoid-topk", **({"shared_experts": shared} if shared else {}))
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(),
                  position=rope(c, head_dim(c, attention)))
    layers, window, first = spec["layers"], c.take("sliding_window"), c.take("max_window_layers")
    default = ["sliding_attention" if window is not None and i >= first else "full_attention" for i in range(layers)]
    extra: list[Data] = [{"attention": {"window": window}} if k == "sliding_attention" and window else {}
                         for k in layer_types(c, layers, default)]
    dense = c.take("first_k_dense_replace")
    return with_experts(spec, [i >= dense for i in range(layers)], moe, extra)


def phimoe(c: Config, kind: str) -> Data:
    """Phi-3.5-MoE: LayerNorm, biases as the configuration says, a biased head."""
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    c.only("num_experts_per_tok", 2)  # the class picks two, one after the other
    feed = experts(c, count=("num_local_experts",), d_ff="intermediate_size")
    spec = common(c, kind, head_bias=c.flag("lm_head_bias"), attention=attention, feed_forward=feed, norm=layernorm(),
                  position=rope(c, head_dim(c, attention)))
    return windowed(spec, [c.take("sliding_window")] * spec["layers"])


def dbrx(c: Config, kind: str) -> Data:
    """DBRX: its own field names, LayerNorm without bias."""
    c.by_its_name("d_model")
    attn, ffn = c.section("attn_config", ""), c.section("ffn_config", "")
    attention = {"heads": c.size("n_heads", "num_attention_heads"), "kv_heads": attn.size("kv_n_heads", default=1)}
    attn.ignore("clip_qkv", "attn_pdrop", "model_type")
    act = ffn.take("ffn_act_fn", default=None) or {"name": "silu"}
    feed = {"kind": "moe", "experts": ffn.size("moe_num_experts", default=4),
            "active_experts": ffn.size("moe_top_k", default=1), "d_ff": ffn.size("ffn_hidden_size", default=3584),
            "activation": act["name"], "normalize": ffn.take("moe_normalize_expert_weights", default=1.0) is not None}
    ffn.ignore("moe_jitter_eps", "moe_loss_weight", "uniform_expert_assignment", "model_type", "hidden_size")
    attn.finish()
    ffn.finish()
    c.ignore("num_key_value_heads")
    found = common(c, kind, attention=attention, feed_forward=feed, norm=layernorm(bias=False),
                   position={"kind": "rope"})
    return {**found, "fused": [["q", "k", "v"]]}


def gpt_oss(c: Config, kind: str) -> Data:
    """Biases on everything, sinks, and a window in every second layer."""
    c.ignore("swiglu_limit", "swiglu_alpha", "experts_per_token", "initial_context_length")
    attention = grouped_query(c, bias=c.flag("attention_bias"), sinks=True)
    feed = experts(c, count=("num_local_experts", "num_experts"), d_ff="intermediate_size", bias=True,
                   router_bias=True, routing="topk-softmax")
    spec = common(c, kind, attention=attention, feed_forward=feed, norm=rms(), position=rope(c, head_dim(c, attention)))
    default = ["sliding_attention" if (i + 1) % 2 else "full_attention" for i in range(spec["layers"])]
    window = c.size("sliding_window")
    kinds = layer_types(c, spec["layers"], default)
    return windowed(spec, [window if k == "sliding_attention" else None for k in kinds])


def glm4_moe(c: Config, kind: str) -> Data:
    """GLM-4.5: half-rotary heads, a shared expert, the first layers dense."""
    c.ignore("num_nextn_predict_layers", "n_group", "topk_group", "routed_scaling_factor")
    bias = c.flag("attention_bias")
    attention = grouped_query(c, bias={"q": bias, "k": bias, "v": bias})
    if c.flag("use_qk_norm"):
        attention["qk_norm"] = rms(over="head")
    shared = c.take("n_shared_experts")
    moe = experts(c, count=("n_routed_experts",), normalize=c.flag("norm_topk_prob"), routing="sigmoid-topk",
                  **({"shared_experts": shared} if shared else {}))
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(),
                  position=rope(c, head_dim(c, attention), default=0.5))
    first = c.take("first_k_dense_replace")
    return with_experts(spec, [i >= first for i in range(spec["layers"])], moe)


def llama4(c: Config, kind: str) -> Data:
    """Llama 4's text model: a shared expert beside one routed, chunked attention, layers without positions."""
    c.ignore("attn_scale", "floor_scale", "attn_temperature_tuning", "for_llm_compression", "for_llm_compressor")
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    if c.flag("use_qk_norm"):
        c.ignore("use_qk_norm")
    width = c.size("intermediate_size")
    moe = experts(c, count=("num_local_experts",), d_ff="intermediate_size", routing="sigmoid-topk", normalize=False,
                  shared_experts=1, shared_d_ff=width)
    dense = gated(c, d_ff=c.size("intermediate_size_mlp"))
    spec = common(c, kind, attention=attention, feed_forward=dense, norm=rms(), position={"kind": "rope"})
    layers = spec["layers"]
    step = c.size("interleave_moe_layer_step")
    listed = c.take("moe_layers", default=None)
    sparse = [i in listed if listed is not None else (i + 1) % step == 0 for i in range(layers)]
    rotary = c.take("no_rope_layers", default=None) or [
        int((i + 1) % c.size("no_rope_layer_interval") != 0) for i in range(layers)
    ]
    c.ignore("no_rope_layer_interval")
    chunk = c.take("attention_chunk_size")
    default = ["chunked_attention" if r else "full_attention" for r in rotary]
    kinds = layer_types(c, layers, default, "chunked_attention")
    extra: list[Data] = []
    for k, r in zip(kinds, rotary, strict=True):
        own = ({"chunk": chunk} if k == "chunked_attention" and chunk else {}) | ({} if r else {"rope": False})
        norm = {"qk_norm": rms(over="head", scale=False)} if r and c.take("use_qk_norm") else {}
        extra.append({"attention": own | norm} if own or norm else {})
    return with_experts(spec, sparse, moe, extra)


def qwen3_next(c: Config, kind: str) -> Data:
    """Three gated delta-rule layers to each layer of gated attention, experts with a gated shared one."""
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="head"), output_gate=True)
    moe = experts(c, count=("num_experts",), normalize=c.flag("norm_topk_prob"), shared_experts=1,
                  shared_d_ff=c.size("shared_expert_intermediate_size"), shared_gate=True)
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(),
                  position=rope(c, head_dim(c, attention), default=0.25))
    layers = spec["layers"]
    return with_experts(spec, _sparse_layers(c, layers), moe, attention_or_delta(c, layers, gated_delta(c)))


def gated_delta(c: Config) -> Data:
    """A gated delta-rule layer under Qwen's field names."""
    return {"kind": "gated-delta", "key_heads": c.size("linear_num_key_heads"),
            "value_heads": c.size("linear_num_value_heads"), "key_dim": c.size("linear_key_head_dim"),
            "value_dim": c.size("linear_value_head_dim"), "conv": c.size("linear_conv_kernel_dim")}


def attention_or_delta(c: Config, layers: int, delta: Data) -> list[Data]:
    """What differs from layer to layer: ``delta`` in place of attention, three times in four unless said otherwise."""
    interval = c.take("full_attention_interval", default=4)
    default = ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)]
    return [{"attention": None, "recurrent": delta} if k == "linear_attention" else {}
            for k in layer_types(c, layers, default, "linear_attention")]


# What Hunyuan-A13B's file has for other models of the same code: latents that are off, images, sampling of tokens.
_HUNYUAN_UNREAD: Final = tuple("""
moe_drop_tokens moe_random_routing_dropped_token routed_scaling_factor group_limited_greedy n_group topk_group
kv_lora_rank q_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim xdrope_section mask_init_id pad_id pool_type
im_start_id im_end_id im_newline_id image_token_id video_start_id video_end_id text_start_id text_end_id
num_media_embeds skip_cls_token anyres_pooling_size anyres_vit_max_image_size anyres_vit_two_views
vit_add_patchemb_bias vit_input_resolution vit_mapping_type vit_norm_type vit_patch vit_path vit_remove_prenorm
vit_token vit_type vit_used_rms_norm
""".split())  # noqa: SIM905  as in config.py


def hunyuan_v1_moe(c: Config, kind: str) -> Data:
    """Hunyuan-A13B: the dense model's attention, and a shared expert as wide as those routed; k may differ by layer."""
    spec = hunyuan(c, kind)
    layers, width = spec["layers"], c.size("intermediate_size")
    c.only("moe_intermediate_size", width, [width] * layers)  # the class does not read it
    c.only("num_shared_expert", 1, [1] * layers)
    c.only("moe_layer_num_skipped", 0)
    for name, built in (("use_mixed_mlp_moe", True), ("norm_topk_prob", True), ("use_rotary_pos_emb", True),
                        ("use_mla", False), ("position_embedding_xdrope", False)):
        c.only(name, built)
    c.ignore(*_HUNYUAN_UNREAD)
    chosen = c.take("moe_topk")
    listed = chosen if isinstance(chosen, list) else [chosen] * layers
    if len(listed) != layers or not all(type(k) is int and k > 0 for k in listed):
        raise c.error("moe_topk", f"must be a whole number of at least 1, or a list of {layers} of them")
    spec["feed_forward"] = {"kind": "moe", "experts": c.size("num_experts"), "active_experts": listed[0], "d_ff": width,
                            "activation": activation(c, "hidden_act"), "shared_experts": 1}
    return layered(spec, [{"feed_forward": {"active_experts": k}} for k in listed])


def shared_experts(c: Config, name: str = "num_shared_experts") -> Data:
    """Shared experts as wide as those routed; 0 stands for none."""
    number = c.size(name, least=0)
    return {"shared_experts": number} if number else {}


def solar_open(c: Config, kind: str) -> Data:
    """Solar Open: GLM-4.5's attention with whole heads rotated, experts in every layer."""
    c.ignore("n_group", "topk_group", "routed_scaling_factor", "num_nextn_predict_layers", "intermediate_size")
    c.only("use_qk_norm", False)
    c.only("first_k_dense_replace", 0)
    bias = c.flag("attention_bias")
    attention = grouped_query(c, bias={"q": bias, "k": bias, "v": bias})
    moe = experts(c, count=("n_routed_experts",), normalize=c.flag("norm_topk_prob"), routing="sigmoid-topk",
                  **shared_experts(c, "n_shared_experts"))
    return common(c, kind, attention=attention, feed_forward=moe, norm=rms(), position=rope(c, head_dim(c, attention)))


def hy_v3(c: Config, kind: str) -> Data:
    """Hunyuan 3: normed queries and keys, sigmoid routing; without shared experts one as wide as a dense layer."""
    c.ignore("router_scaling_factor", "enable_moe_fp32_combine", "num_nextn_predict_layers")
    c.only("mlp_bias", False)
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="head"))
    shared = shared_experts(c) or {"shared_experts": 1, "shared_d_ff": c.size("intermediate_size")}
    moe = experts(c, count=("num_experts",), routing="sigmoid-topk", **shared)
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(),
                  position=rope(c, head_dim(c, attention)))
    return with_experts(spec, sparse_layers(c, [i > 0 for i in range(spec["layers"])]), moe)
