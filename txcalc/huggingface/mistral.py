"""Mistral's decoders: Llama's shape with a sliding window."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.decoder import decoder, experts
from txcalc.huggingface.layerwise import WINDOW, windows
from txcalc.huggingface.rows import Rows

mistral = partial(decoder, window=WINDOW, ignore="attention_sink_size attention_bias mlp_bias")


ROWS: Final[Rows] = {
    "mistral": mistral("Mistral"),
    "ministral": decoder("Ministral", layers=[windows(lambda c, layers: [True] * layers)]),  # as the file lists them
    "ministral3": mistral("Ministral3"),
    "mixtral": decoder("Mixtral", window=WINDOW, feed_forward=experts()),
}
