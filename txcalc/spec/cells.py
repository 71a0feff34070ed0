"""Recurrent cells and 1-D convolutions: layers of a block, and single layers of ``txcalc mixers``.

They map (b, n, d) to a width of their own, (b, n, hidden) or (b, n, channels).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from txcalc.spec.base import Activation, Flag, Size, Spec, Switches
from txcalc.spec.errors import FieldError


class CellBias(Switches):
    """Which of a cell's products add a bias. ``bias: true`` in a spec means both, as in PyTorch."""

    input: Flag = True
    hidden: Flag = True


class AdditiveAttention(Spec):
    """In every step the state before looks at the encoder's output: v^T tanh(W s + U h) (arXiv 1409.0473, A.1.2).

    U h is computed once per source token. The weighted sum of the encoder's output, the context, goes into the gates.
    """

    kind: Literal["additive"] = "additive"
    width: Size = Field(description="rows of W and U, columns of v^T")
    bias: Flag = Field(default=False, description="a bias on U h")
    readout: tuple[Literal["state", "previous", "input", "context"], ...] = Field(
        default=("state",), min_length=1,
        description="what the layer hands on, side by side: the state, the one before, its input, the context",
    )

    @model_validator(mode="after")
    def _check(self) -> AdditiveAttention:
        if len(set(self.readout)) < len(self.readout):
            raise FieldError(("readout",), "names a part twice")
        if "state" not in self.readout and not {"input", "context"} <= set(self.readout):
            raise FieldError(("readout",), "needs the state, or else the input and the context")
        return self


class InitialState(Spec):
    """The state before the first step: tanh of a projection of an encoder's last state (arXiv 1409.0473, A.2.2).

    ``reverse``: of its reverse direction, which ends on the first token. ``forward``: the other.
    """

    of: Literal["reverse", "forward"] = "reverse"
    bias: Flag = False


class RecurrentCell(Spec):
    """What the recurrent layers share: PyTorch's parametrisation of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``."""

    kind: Literal["rnn", "lstm", "gru"]
    hidden: Size
    bias: CellBias = CellBias()
    bidirectional: Flag = Field(default=False, description="one more cell from the end; their states side by side")
    attends: AdditiveAttention | None = Field(default=None, description="to the encoder's output, in every step")
    initial: InitialState | None = Field(default=None, description="default: zeros")

    @model_validator(mode="after")
    def _check(self) -> RecurrentCell:
        for name in ("attends", "initial"):
            if self.bidirectional and getattr(self, name) is not None:
                raise FieldError((name,), "needs a cell of one direction")
        return self


class RNN(RecurrentCell):
    """``nn.RNN`` with tanh."""

    kind: Literal["rnn"]


class LSTM(RecurrentCell):
    """``nn.LSTM``: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000."""

    kind: Literal["lstm"]


class GRU(RecurrentCell):
    """``nn.GRU`` (arXiv 1406.1078, section 2.3, whose reset gate stands before the product)."""

    kind: Literal["gru"]
    reset: Literal["after", "before"] = Field(
        default="after", description="the reset gate multiplies the state's product (PyTorch) or the state itself"
    )


class Convolution1D(Spec):
    """A full (not depthwise) 1-D convolution over ``width`` positions: the last ones where the stack is causal.

    ``gated``: twice the channels, one half times the sigmoid of the other (arXiv 1612.08083, equation 1).
    """

    kind: Literal["convolution"] = "convolution"
    width: Size
    channels: Size | None = Field(default=None, description="default: as many as it reads")
    bias: Flag = True
    gated: Flag = False
    activation: Activation | None = None

    @model_validator(mode="after")
    def _check(self) -> Convolution1D:
        if self.gated and self.activation is not None:
            raise FieldError(("activation",), "a gated convolution has its gate and no other")
        return self
