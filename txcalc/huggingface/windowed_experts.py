"""Decoder-only families with experts whose layers differ in attention too: in windows, positions, heads."""

from __future__ import annotations

from txcalc.huggingface.build import (
    Data,
    gated,
    grouped_query,
    layer_types,
    layered,
    layernorm,
    rms,
    rope,
)
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoders import common, head_dim
from txcalc.huggingface.experts import experts, granitemoeshared, shared_experts, sparse_layers, with_experts
from txcalc.huggingface.llamas import exaone_layers


def _windows(c: Config, kinds: list[str], size: int | None = None) -> list[Data]:
    """The window of every layer that slides; nothing for the others."""
    c.ignore("sliding_window")
    return [{"window": size or c.size("sliding_window")} if kind == "sliding_attention" else {} for kind in kinds]


def exaone_moe(c: Config, kind: str) -> Data:
    """K-EXAONE: EXAONE 4's attention behind norms before each sublayer, DeepSeek V3's experts."""
    c.ignore("n_group", "topk_group", "topk_method", "routed_scaling_factor", "num_nextn_predict_layers")
    c.only("scoring_func", "sigmoid")
    spec, extra = exaone_layers(c, kind)
    moe = experts(c, count=("num_experts",), normalize=c.flag("norm_topk_prob"), routing="sigmoid-topk",
                  **shared_experts(c))
    dense = c.size("first_k_dense_replace", least=0)
    sparse = sparse_layers(c, [i >= dense for i in range(spec["layers"])])
    c.only("is_moe_layer", None, sparse)
    c.only("first_last_k_dense_replace", None, dense)
    return with_experts(spec, sparse, moe, extra)


def afmoe(c: Config, kind: str) -> Data:
    """Arcee's Trinity: a gate on each head's output, norms around sublayers, positions in sliding layers alone.

    What is added to the scores before the best are chosen is a parameter, one number for each expert.
    """
    c.ignore("route_scale", "load_balance_coeff", "n_group", "topk_group", "num_expert_groups", "num_limited_groups",
             "use_grouped_mm")
    c.only("attention_bias", False)  # the gate would have none
    c.only("route_norm", True)
    c.only("score_func", "sigmoid")
    attention = grouped_query(c, qk_norm=rms(over="head"), output_gate=True)
    moe = experts(c, count=("num_experts",), routing="sigmoid-topk", router_bias=True, **shared_experts(c))
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(placement="sandwich"),
                  embedding_scale=c.flag("mup_enabled", default=False), position=rope(c, head_dim(c, attention)))
    layers, every = spec["layers"], c.size("global_attn_every_n_layers")
    kinds = layer_types(c, layers, ["sliding_attention" if (i + 1) % every else "full_attention"
                                    for i in range(layers)])
    extra: list[Data] = [{"attention": window or {"rope": False}} for window in _windows(c, kinds)]
    dense = c.size("num_dense_layers", least=0)
    return with_experts(spec, [i >= dense for i in range(layers)], moe, extra)


def mellum(c: Config, kind: str) -> Data:
    """Mellum 2: Qwen 3's layers, the kind of each listed; its multi-token prediction is never built."""
    c.ignore("num_nextn_predict_layers", "num_mtp_layers", "mtp_layer_types", "mtp_mlp_layer_types")
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="head"))
    moe = experts(c, count=("num_experts", "num_local_experts"), normalize=c.flag("norm_topk_prob"))
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(), position={"kind": "rope"})
    layers = spec["layers"]
    kinds = layer_types(c, layers, ["full_attention"] * layers)
    extra: list[Data] = [{"attention": window} if window else {} for window in _windows(c, kinds)]
    return with_experts(spec, sparse_layers(c, [True] * layers), moe, extra)


def granitemoe_swa(c: Config, kind: str) -> Data:
    """Granite with experts, sinks in every layer, a window in three of four, and positions where theta is not 0."""
    spec = granitemoeshared(c, kind)
    spec["attention"]["sinks"] = True
    layers = spec["layers"]
    thetas = c.take("layer_rope_theta", default=None) or [1] * layers
    if not isinstance(thetas, list) or len(thetas) != layers:
        raise c.error("layer_rope_theta", f"must be a list of {layers} entries, one per layer")
    kinds = layer_types(c, layers, ["sliding_attention" if i % 4 else "full_attention" for i in range(layers)])
    own = [w | ({} if theta else {"rope": False}) for w, theta in zip(_windows(c, kinds), thetas, strict=True)]
    return layered(spec, [{"attention": o} if o else {} for o in own])


def cohere2_moe(c: Config, kind: str) -> Data:
    """Cohere 2 with experts; dense layers before them have a width, and a pattern of windows, of their own."""
    c.only("use_qk_norm", False, None)
    c.only("shared_expert_combination_strategy", "average", "sum")
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    shared = shared_experts(c)
    routing = c.choice("expert_selection_fn", {"softmax": "topk-softmax", "sigmoid": "sigmoid-topk"})
    moe = experts(c, count=("num_experts",), d_ff="intermediate_size", routing=routing,
                  normalize=routing == "topk-softmax" or c.flag("norm_topk_prob"), **shared)
    c.ignore("norm_topk_prob")
    norm = layernorm(bias=False) if c.take("rms_norm_eps", default=None) is None else rms()
    width = c.size_or(c.size("intermediate_size"), "prefix_dense_intermediate_size")
    spec = common(c, kind, attention=attention, feed_forward=gated(c, d_ff=width), norm=norm | {"shared": True},
                  residual="parallel", position=rope(c, head_dim(c, attention)))
    layers, dense = spec["layers"], c.size("first_k_dense_replace", default=0, least=0)
    first, rest = c.size("prefix_dense_sliding_window_pattern"), c.size("sliding_window_pattern")
    steps = [((i + 1) % first if i < dense else (i - dense + 1) % rest) for i in range(layers)]
    kinds = layer_types(c, layers, ["sliding_attention" if s else "full_attention" for s in steps])
    sparse = sparse_layers(c, [i >= dense for i in range(layers)])
    extra: list[Data] = [
        {"attention": window} if window else {} if first == 1 and not s else {"attention": {"rope": False}}
        for window, s in zip(_windows(c, kinds), sparse, strict=True)
    ]
    return with_experts(spec, sparse, moe, extra)


def _rotated(c: Config, width: int, default: dict[str, float]) -> Data:
    """Rotary positions, over part of each head where layers of all kinds rotate the same; it changes no size."""
    c.ignore("partial_rotary_factor")
    own = c.section("rope_parameters", "")
    parts = {int(width * (own.section(kind, "").number("partial_rotary_factor", default=None) or part))
             for kind, part in default.items()}
    dim = parts.pop()
    return {"kind": "rope", "dim": dim} if not parts and 2 <= dim < width else {"kind": "rope"}


def mimo_v2_flash(c: Config, kind: str) -> Data:
    """MiMo-V2-Flash: values narrower than keys; sliding layers have sinks, and twice as many heads of keys."""
    c.ignore("n_group", "topk_group", "topk_method", "routed_scaling_factor", "attention_value_scale", "swa_rope_theta",
             "moe_router_dtype", "num_nextn_predict_layers")
    c.only("scoring_func", "sigmoid")
    c.only("hybrid_block_size", None)
    c.only("n_shared_experts", None, 0)
    bias = c.flag("attention_bias")
    attention = grouped_query(c, bias={"q": bias, "k": bias, "v": bias})
    width, value = head_dim(c, attention), c.size("v_head_dim")
    if value != width:
        attention["value_dim"] = value
    twice = 2 * attention["kv_heads"]
    for name, built in (("num_attention_heads", attention["heads"]), ("num_key_value_heads", twice),
                        ("head_dim", width), ("v_head_dim", value)):
        c.only(f"swa_{name}", built)
    moe = experts(c, count=("n_routed_experts",), normalize=c.flag("norm_topk_prob"), routing="sigmoid-topk")
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(),
                  position=_rotated(c, width, {"full_attention": 0.334, "sliding_attention": 0.334}))
    layers = spec["layers"]
    kinds = layer_types(c, layers, ["sliding_attention" if i and (i + 1) % 6 else "full_attention"
                                    for i in range(layers)])
    behind = c.take("sliding_window_size", default=None)  # keys before the query itself
    windows = _windows(c, kinds, None if behind is None else c.size("sliding_window_size") + 1)
    c.only("attention_chunk_size", None, behind)  # the class does not read it
    own: Data = {"kv_heads": twice, "sinks": True}
    sparse = sparse_layers(c, [i > 0 for i in range(layers)])
    c.only("hybrid_layer_pattern", None, [int(bool(window)) for window in windows])
    c.only("moe_layer_freq", None, [int(s) for s in sparse])
    c.only("add_swa_attention_sink_bias", True)
    c.only("add_full_attention_sink_bias", False)
    return with_experts(spec, sparse, moe, [{"attention": own | window} if window else {} for window in windows])


def laguna(c: Config, kind: str) -> Data:
    """Laguna: heads that differ by layer, and a softplus gate on each head's output, or on each channel of it.

    What is added to the scores before the best are chosen is a parameter, one number for each expert.
    """
    c.ignore("moe_routed_scaling_factor")
    c.only("moe_apply_router_weight_on_input", False)
    c.only("moe_router_logit_softcapping", 0.0)
    c.only("attention_bias", False)  # the gate would have none
    over = c.choice("gating", {True: "head", "per-head": "head", "per-element": "channel"})
    attention = grouped_query(c, qk_norm=rms(over="head"), output_gate=True, gate_over=over, gate_activation="softplus")
    moe = experts(c, count=("num_experts",), routing="sigmoid-topk", router_bias=True, shared_experts=1,
                  shared_d_ff=c.size("shared_expert_intermediate_size"))
    spec = common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(), position=_rotated(
        c, head_dim(c, attention), {"full_attention": 1.0, "sliding_attention": 1.0}
        if c.take("rope_parameters", default=None) else {"full_attention": 0.5, "sliding_attention": 1.0}))
    layers = spec["layers"]
    heads = c.take("num_attention_heads_per_layer", default=None) or [attention["heads"]] * layers
    if not isinstance(heads, list) or len(heads) != layers or not all(type(h) is int and h > 0 for h in heads):
        raise c.error("num_attention_heads_per_layer", f"must be a list of {layers} whole numbers of at least 1")
    kinds = layer_types(c, layers, ["full_attention"] * layers)
    own = [window | ({} if h == attention["heads"] else {"heads": h})
           for window, h in zip(_windows(c, kinds), heads, strict=True)]
    extra: list[Data] = [{"attention": o} if o else {} for o in own]
    return with_experts(spec, sparse_layers(c, [i > 0 for i in range(layers)]), moe, extra)
