"""Decoders with mixtures of experts whose makers have a family or two here."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, HEADS, NO_ROPE, ROUTING, Position, decoder, experts, head_dim, qkv
from txcalc.huggingface.deepseek import grouped, routed
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.layerwise import (
    Layers,
    after,
    all_but,
    every,
    layer_types,
    listed_layers,
    listed_sparse,
    sparse,
    windows,
)
from txcalc.huggingface.rows import PLAIN_LAYERNORM, Fields, Reader, Rows, choice, flag, number, passed_over, read, size

_SLIDING: Final = size("sliding_window")
_FULL: Final = all_but(after(0))
"""All layers have full attention, unless the file lists others."""


def rotated(**parts: float) -> Position:
    """Rotary positions, over part of each head where layers of all kinds rotate the same; it changes no size."""
    def position(c: Config, width: int) -> Data:
        c.ignore("partial_rotary_factor")
        own, default = c.section("rope_parameters", ""), parts
        if own.data and "otherwise" in parts:
            default = dict.fromkeys(parts, parts["otherwise"])
        dims = {int(width * (own.section(kind, "").number("partial_rotary_factor", default=None) or part))
                for kind, part in default.items() if kind != "otherwise"}
        dim = dims.pop()
        return {"kind": "rope", "dim": dim} if not dims and 2 <= dim < width else {"kind": "rope"}
    return position


# ---------------------------------------------------------------- ERNIE 4.5


def _no_bias(c: Config) -> bool:
    if c.flag("use_bias"):
        raise c.error("use_bias", "true is not understood beside experts, whose routed ones then have none")
    return False


def _every_so_many(c: Config, layers: int) -> list[bool]:
    step, first = c.size("moe_layer_interval"), c.size("moe_layer_start_index", least=0)
    last = c.size("moe_layer_end_index", least=-1)
    last = layers - 1 if last == -1 else last
    return [(i + 1) % step == 0 and first <= i <= last for i in range(layers)]


# ---------------------------------------------------------------- DBRX


def _dbrx_attention(c: Config) -> Fields:
    c.by_its_name("d_model")
    attn = c.section("attn_config", "")
    attn.ignore("clip_qkv", "attn_pdrop", "model_type")
    kv_heads = attn.size("kv_n_heads", default=1)
    attn.finish()
    return {"heads": size("n_heads", "num_attention_heads"), "kv_heads": kv_heads}


def _dbrx_experts(c: Config) -> Fields:
    ffn = c.section("ffn_config", "")
    act = ffn.take("ffn_act_fn", default=None) or {"name": "silu"}
    feed = {"kind": "moe", "experts": ffn.size("moe_num_experts", default=4),
            "active_experts": ffn.size("moe_top_k", default=1), "d_ff": ffn.size("ffn_hidden_size", default=3584),
            "activation": act["name"], "normalize": ffn.take("moe_normalize_expert_weights", default=1.0) is not None}
    ffn.ignore("moe_jitter_eps", "moe_loss_weight", "uniform_expert_assignment", "model_type", "hidden_size")
    ffn.finish()
    return feed


# ---------------------------------------------------------------- dots


def _from_max_window_layers(c: Config, layers: int) -> list[bool]:
    if c.take("sliding_window") is None:
        c.ignore("max_window_layers")
        return [False] * layers
    return [i >= c.size("max_window_layers", least=0) for i in range(layers)]


# ---------------------------------------------------------------- MiMo


def _value_dim(c: Config) -> int | None:
    width, value = head_dim(c, read(c, GROUPED)), c.size("v_head_dim")
    passed_over(c, "", {"swa_num_attention_heads": HEADS, "swa_head_dim": width, "swa_v_head_dim": value,
                        "swa_num_key_value_heads": _twice})
    return value if value != width else None


def _twice(c: Config) -> int:
    return 2 * int(read(c, GROUPED)["kv_heads"])


def _behind(c: Config) -> int:
    """A window by its own name counts the keys before the query itself."""
    behind = c.take("sliding_window_size", default=None)
    c.only("attention_chunk_size", None, behind)  # the class does not read it
    c.ignore("sliding_window")
    return c.size("sliding_window") if behind is None else c.size("sliding_window_size") + 1


_MIMO_SPARSE: Final = listed_sparse(after(1))
_MIMO_WINDOWS: Final = layer_types(
    "sliding_attention", lambda c, layers: [i > 0 and (i + 1) % 6 > 0 for i in range(layers)],
    {"attention": {"kv_heads": _twice, "sinks": True, "window": _behind}})


def _zero_or_one(layers: Layers) -> Reader:
    """Layers that differ from the others, as one number each."""
    return lambda c: [int(bool(own)) for own in layers(c, c.size("num_hidden_layers"))]


# ---------------------------------------------------------------- Laguna


def _heads_by_layer(c: Config, layers: int) -> list[Data]:
    usual = HEADS(c)
    heads = c.take("num_attention_heads_per_layer", default=None) or [usual] * layers
    if not isinstance(heads, list) or len(heads) != layers or not all(type(h) is int and h > 0 for h in heads):
        raise c.error("num_attention_heads_per_layer", f"must be a list of {layers} whole numbers of at least 1")
    return [{} if h == usual else {"attention": {"heads": h}} for h in heads]


# ---------------------------------------------------------------- Flint


def _flint_slides(c: Config, layers: int) -> list[bool]:
    return [i >= 2 and i % 4 != 1 and i < layers - 1 for i in range(layers)]


def _fifths_slide(c: Config, layers: int) -> list[bool]:
    return [(i + 1) % 6 > 0 and i < layers - 1 for i in range(layers)]


def _after_two(c: Config, layers: int) -> list[bool]:
    dense = (0, 1) if (listed := listed_layers(c, "mlp_only_layers")) is None else listed
    return [one and i not in dense for i, one in enumerate(every(size("decoder_sparse_step"))(c, layers))]


_SHARED_ONE: Final[Fields] = {"shared_experts": 1, "shared_d_ff": size("shared_expert_intermediate_size")}

ROWS: Final[Rows] = {
    # Qwen 3's experts beside a shared one; sinks in all layers, positions in those that slide alone.
    "flint": decoder(
        lm_classes("Flint"), qk_norm="head", attention={**GROUPED, "sinks": True}, layers=[
            windows(_flint_slides, window=_SLIDING, attention=NO_ROPE),
            sparse(experts(routing="sigmoid-topk", **_SHARED_ONE), _after_two)]),
    # EXAONE 4's attention between the norms of GLM 4, and experts in every layer.
    "kolibri1": decoder(
        lm_classes("Kolibri1"), qk_norm="head", norm="sandwich", feed_forward=experts(
            routing="sigmoid-topk", **_SHARED_ONE),
        layers=[windows(all_but(every(5)), window=_SLIDING, attention=NO_ROPE)]),
    # A gate on attention's output with one number for each head, experts in groups, positions in windows alone;
    # residuals weighed by depth, which is no product.
    "beam": decoder(
        lm_classes("Beam"), attention={**GROUPED, "output_gate": True, "gate_bias": "head"}, qk_norm="head",
        norm="sandwich", softcap=number("final_logit_softcapping"), layers=[
            windows(_fifths_slide, window=_SLIDING, attention=NO_ROPE),
            sparse(grouped, listed_sparse(after(3)))], ignore="routed_scaling_factor"),
    # What is added to the scores before the best are chosen is a parameter, one number for each expert.
    "ernie4_5_moe": decoder(
        "Ernie4_5_Moe", bias=_no_bias, layers=[sparse(experts(router_bias=True, bias=False), _every_so_many)],
        ignore="moe_norm_min moe_capacity num_nextn_predict_layers",
        only={"moe_gate": "topk", "moe_use_aux_free": True}),
    "dbrx": decoder("Dbrx", attention=_dbrx_attention, feed_forward=_dbrx_experts, norm=PLAIN_LAYERNORM,
                    position={"kind": "rope"}, fused=[["q", "k", "v"]], ignore="num_key_value_heads"),
    "dots1": decoder(  # Qwen 3's attention, DeepSeek V3's experts
        "Dots1", qk_norm="head", layers=[
            sparse(routed(), after(size("first_k_dense_replace", least=0))), windows(_from_max_window_layers)],
        ignore=f"{ROUTING} topk_method scoring_func ep_size", only={"moe_layer_freq": 1, "use_sliding_window": False}),
    "mellum": decoder(  # Qwen 3's layers, the kind of each listed; its multi-token prediction is never built
        "Mellum", qk_norm="head", position={"kind": "rope"}, layers=[
            windows(_FULL, window=_SLIDING), sparse(experts(), listed_sparse(after(0)))],
        ignore="num_nextn_predict_layers num_mtp_layers mtp_layer_types mtp_mlp_layer_types"),
    # Arcee's Trinity: a gate on each head's output, positions in sliding layers alone. As in ERNIE, what is added to
    # the scores is a parameter.
    "afmoe": decoder(
        "Afmoe", attention={**GROUPED, "output_gate": True, "gate_bias": "none"}, qk_norm="head", norm="sandwich",
        embedding_scale=flag("mup_enabled", default=False), layers=[
            windows(all_but(every(size("global_attn_every_n_layers"))), window=_SLIDING, attention=NO_ROPE),
            sparse(experts(routing="sigmoid-topk", router_bias=True), after(size("num_dense_layers", least=0)))],
        ignore="route_scale load_balance_coeff n_group topk_group num_expert_groups num_limited_groups use_grouped_mm",
        only={"route_norm": True, "score_func": "sigmoid"}),
    # Values narrower than keys; sliding layers have sinks, and twice as many heads of keys.
    "mimo_v2_flash": decoder(
        "MiMoV2Flash", attention={**GROUPED, "value_dim": _value_dim}, bias=qkv(flag("attention_bias")),
        position=rotated(full_attention=0.334, sliding_attention=0.334),
        layers=[_MIMO_WINDOWS, sparse({**routed(), "shared_experts": 0}, _MIMO_SPARSE)],
        ignore=f"{ROUTING} topk_method attention_value_scale swa_rope_theta moe_router_dtype", only={
            "scoring_func": "sigmoid", "hybrid_block_size": None, "n_shared_experts": (None, 0),
            "hybrid_layer_pattern": (None, _zero_or_one(_MIMO_WINDOWS)),
            "moe_layer_freq": (None, lambda c: [int(s) for s in _MIMO_SPARSE(c, c.size("num_hidden_layers"))]),
            "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False}),
    # Heads that differ by layer, and a softplus gate on each head's output, or on each channel of it. As in ERNIE, what
    # is added to the scores is a parameter.
    "laguna": decoder(
        "Laguna", qk_norm="head", attention={
            **GROUPED, "output_gate": True, "gate_activation": "softplus",
            "gate_over": choice("gating", {True: "head", "per-head": "head", "per-element": "channel"}),
            "gate_bias": "none"},
        position=rotated(full_attention=0.5, sliding_attention=1.0, otherwise=1.0), layers=[
            windows(_FULL, window=_SLIDING), _heads_by_layer, sparse(experts(
                routing="sigmoid-topk", router_bias=True, shared_experts=1,
                shared_d_ff=size("shared_expert_intermediate_size")), listed_sparse(after(1)))],
        ignore="moe_routed_scaling_factor decoder_sparse_step", only={
            "moe_apply_router_weight_on_input": False, "moe_router_logit_softcapping": 0.0}),
}
