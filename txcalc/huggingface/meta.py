"""Meta's decoders, and Llama's descendants under other names that change nothing."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.decoder import decoder
from txcalc.huggingface.rows import Rows, every, flag, gated, windows

llama = partial(decoder, bias=flag("attention_bias"), feed_forward=gated(bias=flag("mlp_bias", default=False)),
                only={"activation": "swiglu"})

ROWS: Final[Rows] = {
    "llama": llama("Llama"),
    "cwm": decoder("Cwm", feed_forward=gated(bias=flag("mlp_bias")), layers=[windows(every(4, first=0))]),
}
