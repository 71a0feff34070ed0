"""Mistral's decoders: Llama's shape with a sliding window."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import decoder, experts
from txcalc.huggingface.layerwise import WINDOW, windows
from txcalc.huggingface.rows import Rows

mistral = partial(decoder, window=WINDOW, ignore="attention_sink_size attention_bias mlp_bias")


def _all_slide(c: Config, layers: int) -> list[bool]:
    return [True] * layers


ROWS: Final[Rows] = {
    "mistral": mistral("Mistral"),
    "ministral": decoder("Ministral", layers=[windows(_all_slide)]),  # as the file lists them
    "ministral3": mistral("Ministral3"),
    "mixtral": decoder("Mixtral", window=WINDOW, feed_forward=experts()),
}
