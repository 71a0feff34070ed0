"""The Allen Institute's decoders: OLMo 1 to 3, with experts, and with recurrent layers."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import Data, rope
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import HEADS, decoder, experts
from txcalc.huggingface.layerwise import all_but, every, layer_types, windows
from txcalc.huggingface.rows import PLAIN_LAYERNORM, Fields, Rows, size

olmo2 = partial(decoder, qk_norm="full", norm="res-post")
olmoe = partial(decoder, qk_norm="full", feed_forward=experts(), ignore="clip_qkv")


def _delta(c: Config) -> Fields:
    heads = HEADS(c)
    key_heads = c.size_or(heads, "linear_num_key_heads")
    key_dim = c.size_or(int(0.75 * c.size("hidden_size") / key_heads), "linear_key_head_dim")
    return {"kind": "gated-delta", "key_heads": key_heads, "value_heads": c.size_or(heads, "linear_num_value_heads"),
            "key_dim": key_dim, "value_dim": c.size_or(2 * key_dim, "linear_value_head_dim"),
            "conv": size("linear_conv_kernel_dim")}


def _rotary_or_none(c: Config, width: int) -> Data:
    given = c.take("rope_parameters", default=None)
    places = (given if isinstance(given, dict) else {}, c.data)
    rotary = next((place["rope_theta"] for place in places if "rope_theta" in place), 0) is not None
    return rope(c, width) if rotary else {"kind": "none"}


def _three_in_four(c: Config, layers: int) -> list[bool]:
    return [i % 4 != 3 and (layers >= 4 or i != layers - 1) for i in range(layers)]


ROWS: Final[Rows] = {
    "olmo": decoder("Olmo", norm={**PLAIN_LAYERNORM, "scale": False}, ignore="clip_qkv mlp_bias"),
    "olmo2": olmo2("Olmo2", ignore="mlp_bias"),
    "olmo3": olmo2("Olmo3", layers=[windows(all_but(every(4)))], ignore="mlp_bias"),
    "olmoe": olmoe("Olmoe"),
    "flex_olmo": olmoe("FlexOlmo", norm="res-post"),
    "olmo_hybrid": olmo2(  # norms before the recurrent layers, after those of attention
        "OlmoHybrid", position=_rotary_or_none, layers=[layer_types("linear_attention", _three_in_four, {
            "attention": None, "recurrent": _delta, "norm": {"placement": "pre"}})],
        ignore="linear_a_log_min linear_a_log_max linear_dt_min linear_dt_max linear_dt_init_floor sliding_window "
               "linear_allow_neg_eigval fla_hybrid_attention_indices mlp_bias linear_use_gate"),
}
