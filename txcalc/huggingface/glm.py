"""Zhipu's decoders: half-rotary heads, biases on queries, keys and values."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.decoder import ROUTING, decoder, qkv, rope
from txcalc.huggingface.deepseek import routed
from txcalc.huggingface.layerwise import after, sparse
from txcalc.huggingface.rows import NORMS, Rows, flag, given, size

glm = partial(decoder, bias=qkv(flag("attention_bias")), position=rope(part=0.5))

ROWS: Final[Rows] = {
    "glm": glm("Glm"),
    "glm4": glm("Glm4", norm="sandwich"),
    "glm4_moe": glm("Glm4Moe", qk_norm=given(flag("use_qk_norm"), NORMS["head"]), ignore=ROUTING,
                    layers=[sparse(routed(), after(size("first_k_dense_replace", least=0)))]),
    "solar_open": glm("SolarOpen", position=rope(), ignore=f"{ROUTING} intermediate_size",
                      feed_forward={**routed(), "shared_experts": size("n_shared_experts", least=0)},
                      only={"use_qk_norm": False, "first_k_dense_replace": 0}),
}
