"""Ways of mixing the positions of a sequence, one layer each, beside attention and the state-space layers.

Stand-alone layers that ``txcalc mixers`` puts side by side; each maps (b, n, d) to (b, n, d).
"""

from __future__ import annotations

from typing import Literal

from txcalc.spec.base import Flag, Size, Spec
from txcalc.spec.layers import Attention, Mamba2


class RecurrentCell(Spec):
    """A recurrent layer with PyTorch's parametrisation: ``nn.RNN`` (tanh), ``nn.LSTM`` or ``nn.GRU``, one direction.

    LSTM: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; GRU: arXiv 1406.1078.
    """

    kind: Literal["rnn", "lstm", "gru"]
    hidden: Size
    bias: Flag = True

    @property
    def gates(self) -> int:
        """Blocks of ``hidden`` rows in each weight matrix."""
        return {"rnn": 1, "lstm": 4, "gru": 3}[self.kind]


class CausalConvolution(Spec):
    """A full (not depthwise) 1-D convolution that sees the last ``width`` positions."""

    kind: Literal["convolution"] = "convolution"
    width: Size
    bias: Flag = True


class LinearAttention(Spec):
    """Causal attention with the feature map elu + 1 in place of the softmax (arXiv 2006.16236, section 3.2)."""

    kind: Literal["linear-attention"] = "linear-attention"
    heads: Size
    head_dim: Size
    bias: Flag = True


Mixer = RecurrentCell | CausalConvolution | LinearAttention | Attention | Mamba2
