"""Liquid AI's decoders: gated short convolutions beside attention with normed heads."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, HEADS, decoder, experts
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.layerwise import after, layer_kinds, layer_types, sparse
from txcalc.huggingface.mamba import listed_attention
from txcalc.huggingface.rows import RMS, WIDTH, Fields, Rows, flag, given, passed_over, size

_D: Final = size("hidden_size")


def _width(c: Config) -> int:
    width = c.size("block_ff_dim") if "block_ff_dim" in c.data else c.size("intermediate_size")
    c.ignore("intermediate_size", "block_ffn_dim_multiplier", "block_multiple_of")
    if c.flag("block_auto_adjust_ff_dim"):
        width = int(2 * width / 3)
        factor, step = c.number("block_ffn_dim_multiplier"), c.size("block_multiple_of")
        width = width if factor is None else -(-int(factor * width) // step) * step
    return width


def _convolution(c: Config) -> Fields:
    passed_over(c, "conv_use_xavier_init", {"conv_dim": _D, "conv_dim_out": _D})
    return {"kind": "short-convolution", "conv": size("conv_L_cache"), "bias": flag("conv_bias")}


def _listed(c: Config, layers: int) -> list[bool]:
    listed = listed_attention(c, "full_attn_idxs")
    return [listed is not None and i not in listed for i in range(layers)]


def _tied(c: Config) -> bool:
    return c.flag("tie_embedding", default=c.take("tie_word_embeddings"))  # the one that counts where both are given


_GATE: Final = {"output_gate": True, "gate_over": "head", "gate_bias": "none"}
lfm2 = partial(decoder, qk_norm="head", tied=_tied)


def _in_fours(c: Config, layers: int) -> list[str]:
    return [{0: "sliding_attention" if i else "conv", 2: "full_attention"}.get(i % 4, "conv") for i in range(layers)]



_CONVOLUTION: Final[Fields] = {"attention": None, "recurrent": _convolution}


def _must_be_listed(c: Config, layers: int) -> list[bool]:
    if c.take("layer_types", default=None) is None:
        raise c.error("layer_types", f"must be a list of {layers} entries, one per layer")
    return []


ROWS: Final[Rows] = {
    "lfm2": lfm2(
        "Lfm2", feed_forward={"d_ff": _width, "activation": "silu", "gated": True},
        layers=[layer_types("conv", _listed, _CONVOLUTION)],
        ignore="block_mlp_init_scale block_norm_eps block_out_init_scale block_use_xavier_init theta",
        only={"block_use_swiglu": True, "use_pos_enc": True, "block_dim": _D, "num_heads": HEADS}),
    "lfm2_moe": lfm2(
        "Lfm2Moe", feed_forward={"d_ff": WIDTH, "activation": "silu", "gated": True}, layers=[
            layer_types("conv", _must_be_listed, _CONVOLUTION),
            sparse({**experts(routing="sigmoid-topk"), "activation": "silu"},
                   after(size("num_dense_layers", least=0)))],
        ignore="use_expert_bias routed_scaling_factor"),
    # Windows as a third kind of layer, norms on both sides, and a gate on each head's output.
    "lfm3": decoder(
        lm_classes("Lfm3"), qk_norm="head", position={"kind": "rope"}, attention={
            **GROUPED, **{field: given(flag("use_attention_gate"), gate) for field, gate in _GATE.items()}},
        feed_forward={"d_ff": WIDTH, "activation": "silu", "gated": True},
        norm={**RMS, "placement": given(flag("use_sandwich_norm"), "sandwich", "pre")}, layers=[layer_kinds(_in_fours, {
            "full_attention": {}, "sliding_attention": {"attention": {"window": size("sliding_window")}},
            "conv": _CONVOLUTION}, unread="sliding_window conv_L_cache conv_bias")]),
}
