"""Ways of mixing the positions of a sequence, one layer each, as ``txcalc mixers`` puts them side by side.

Each maps (b, n, d) to (b, n, d), causally.
"""

from __future__ import annotations

from typing import Literal

from txcalc.spec.base import Flag, Size, Spec
from txcalc.spec.layers import Attention, Mamba2
from txcalc.spec.rnn import GRU, LSTM, RNN, Convolution1D


class LinearAttention(Spec):
    """Causal attention with the feature map elu + 1 in place of the softmax (arXiv 2006.16236, section 3.2)."""

    kind: Literal["linear-attention"] = "linear-attention"
    heads: Size
    head_dim: Size
    bias: Flag = True


Mixer = RNN | LSTM | GRU | Convolution1D | LinearAttention | Attention | Mamba2
