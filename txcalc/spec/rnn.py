"""Recurrent cells and 1-D convolutions: layers of a block, and single layers of ``txcalc mixers``.

They map (b, n, d) to a width of their own, (b, n, hidden) or (b, n, channels).
"""

from __future__ import annotations

from typing import Annotated, Literal

from txcalc.spec.base import Activation, Count, Flag, Least, Size, Spec, Switches
from txcalc.spec.errors import FieldError


class CellBias(Switches):
    """Biases of a cell's products. ``bias: true`` in a spec means both, as in PyTorch."""

    input: Flag = True
    hidden: Flag = True


class AdditiveAttention(Spec):
    """In every step the state before looks at the encoder's output: v^T tanh(W s + U h) (arXiv 1409.0473, A.1.2).

    U h is computed once per source token. The weighted sum of the encoder's output, the context, goes into the gates.
    """

    kind: Literal["additive"] = "additive"
    width: Annotated[Size, "rows of W and U, columns of v^T"]
    bias: Annotated[Flag, "a bias on U h"] = False
    readout: Annotated[
        tuple[Literal["state", "previous", "input", "context"], ...], Least(1),
        "what the layer hands on, side by side: the state, the one before, its input, the context",
    ] = ("state",)

    def _check(self) -> None:
        if len(set(self.readout)) < len(self.readout):
            raise FieldError(("readout",), "names a part twice")
        if "state" not in self.readout and not {"input", "context"} <= set(self.readout):
            raise FieldError(("readout",), "needs the state, or else the input and the context")


class InitialState(Spec):
    """The state before the first step: tanh of a projection of an encoder's last state (arXiv 1409.0473, A.2.2).

    ``reverse``: of its reverse direction, which ends on the first token. ``forward``: the other.
    """

    of: Literal["reverse", "forward"] = "reverse"
    bias: Flag = False


class RecurrentCell(Spec):
    """The base of recurrent layers: PyTorch's parametrisation of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``."""

    kind: Literal["rnn", "lstm", "gru"]
    hidden: Size
    bias: CellBias = CellBias()
    bidirectional: Annotated[Flag, "one more cell from the end; their states side by side"] = False
    attends: Annotated[AdditiveAttention | None, "to the encoder's output, in every step"] = None
    initial: Annotated[InitialState | None, "default: zeros"] = None

    def _check(self) -> None:
        for name in ("attends", "initial"):
            if self.bidirectional and getattr(self, name) is not None:
                raise FieldError((name,), "needs a cell of one direction")


class RNN(RecurrentCell):
    """``nn.RNN`` with tanh."""

    kind: Literal["rnn"]


class LSTM(RecurrentCell):
    """``nn.LSTM``: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000."""

    kind: Literal["lstm"]


class GRU(RecurrentCell):
    """``nn.GRU`` (arXiv 1406.1078, section 2.3, whose reset gate stands before the product)."""

    kind: Literal["gru"]
    reset: Annotated[
        Literal["after", "before"], "the reset gate multiplies the state's product (PyTorch) or the state itself",
    ] = "after"


class Convolution1D(Spec):
    """A full (not depthwise) 1-D convolution over ``width`` positions: the last ones where the stack is causal.

    ``gated``: twice the channels, one half times the sigmoid of the other (arXiv 1612.08083, equation 1).
    """

    kind: Literal["convolution"] = "convolution"
    width: Size
    channels: Annotated[Size | None, "default: as many as it reads"] = None
    bias: Flag = True
    gated: Flag = False
    activation: Activation | None = None

    def _check(self) -> None:
        if self.gated and self.activation is not None:
            raise FieldError(("activation",), "a gated convolution has its gate and no other")


class PatchMerging(Spec):
    """Squares of patches side by side and projected: fewer positions, of another width (Swin, arXiv 2103.14030, 3.1).

    A block has it alone, without a residual connection.
    """

    kind: Literal["patch-merging"]
    merge: Annotated[Size, "patches along a square"] = 2
    width: Annotated[Size, "columns of what comes out"]
    norm: Annotated[Flag, "a layernorm on the columns side by side"] = True
    d_ff: Annotated[Size | None, "width of a layer between, with an activation"] = None
    activation: Activation = "gelu_tanh"
    bias: Flag = False
    mean: Annotated[Flag, "what it makes is added to the mean of the square (MiniCPM-V 4.6)"] = False
    heads: Annotated[Size | None, "the patches of a square attend to each other first, normed, with biases"] = None
    skipped: Annotated[Flag, "its weights are there, and no image passes it"] = False

    def side(self, side: int) -> int:
        """Positions along an image of ``side`` patches."""
        return side if self.skipped else side // self.merge


class ImageConvolution(Spec):
    """One convolution over both sides of an image, with zeros around it where its kernel has a middle."""

    channels: Annotated[Size, "that it makes"]
    kernel: Size = 3
    stride: Size = 1
    groups: Annotated[Size, "of channels, each made of its own share of those read"] = 1
    bias: Flag = False
    norm: Annotated[Literal["layernorm", "batchnorm"] | None, "on what it makes, of all channels"] = None
    activation: Activation | None = None

    def side(self, side: int) -> int:
        """Positions along an image of which ``side`` are read."""
        return (side - (1 - self.kernel % 2) * (self.kernel - 1) - 1) // self.stride + 1


class ImageConvolutions(Spec):
    """Convolutions over an image, one after the other: a neck of SAM (arXiv 2304.02643), the feed-forward of SegFormer
    (arXiv 2105.15203, 3.1), the way to the next stage."""

    kind: Literal["image-convolutions"]
    norm: Annotated[Literal["batchnorm"] | None, "on what the first of them reads"] = None
    activation: Annotated[Activation | None, "behind that norm"] = None
    layers: Annotated[tuple[ImageConvolution, ...], "none: a norm alone"]
    positions: Annotated[Flag, "a learned table is added to what comes out (PVT)"] = False
    class_tokens: Annotated[Count, "learned vectors put before it, which have positions, too"] = 0

    def _check(self) -> None:
        if self.norm is None and (self.activation is not None or not self.layers):
            raise FieldError(("layers",), "needs one, or a norm, behind which an activation can stand")

    def side(self, side: int) -> int:
        """Positions along an image after all of them."""
        for layer in self.layers:
            side = layer.side(side)
        return side


OverImages = PatchMerging | ImageConvolutions


class GlobalAttention(Spec):
    """Additive attention: each position meets one sum of all, weighted by their scores (SwiftFormer, arXiv 2303.15446).
    """

    kind: Literal["additive-attention"]
    separable: Annotated[Flag, "scores are one more column, values pass a ReLU (arXiv 2206.02680, 3.2)"] = False


class FourierMixing(Spec):
    """The real part of a Fourier transform over positions and columns (FNet, arXiv 2105.03824): no weights."""

    kind: Literal["fourier"]


class Mamba(Spec):
    """A selective state-space layer (Mamba, arXiv 2312.00752 section 3)."""

    kind: Literal["mamba"]
    inner: Annotated[Size, "channels of the recurrence"]
    state: Annotated[Size, "state dimension N of each channel"]
    rank: Annotated[Size, "width of the step sizes' projection"]
    conv: Annotated[Size, "length of the short causal convolution"] = 4
    conv_bias: Flag = True
    bias: Flag = False
    norms: Annotated[Flag, "norms on step sizes, B and C (Jamba, arXiv 2403.19887)"] = False
    norm_scale: Annotated[Flag, "false: these norms have no weights (Falcon Mamba)"] = True
    heads: Annotated[Size, "groups of channels with step sizes, B and C of their own (Zamba)"] = 1

    def _check(self) -> None:
        if self.inner % self.heads or (self.heads > 1 and self.norms):
            raise FieldError(("heads",), f"{self.heads} must divide inner {self.inner}, and have no norms")


class RGLRU(Spec):
    """Griffin's block: a real-gated linear recurrent unit after a short convolution (arXiv 2402.19427, section 2.4).

    Its state is one number for each channel; the gates of a head's channels read these alone.
    """

    kind: Literal["rg-lru"]
    inner: Annotated[Size, "channels of the recurrence"]
    heads: Size
    conv: Annotated[Size, "length of the short causal convolution"] = 4
    activation: Annotated[Activation, "of the branch that gates"] = "gelu_tanh"

    def _check(self) -> None:
        if self.inner % self.heads:
            raise FieldError(("heads",), f"{self.heads} does not divide inner {self.inner}")


class MLSTM(Spec):
    """xLSTM's matrix memory (arXiv 2405.04517, section 2.3): of each head a matrix, a vector and the largest gate."""

    kind: Literal["mlstm"]
    heads: Size
    key_dim: Size
    value_dim: Size
    bias: Annotated[Flag, "on projections and the norm; those of the gates of a head have one anyway"] = False


class WKV(Spec):
    """RWKV's time mixing: an average of values, with weights that decay per channel (arXiv 2305.13048, section 3.1.2).

    Keys, values and receptance read a mix of a token's vector and the one before.
    """

    kind: Literal["wkv"]
    inner: Annotated[Size, "channels of the recurrence"]


ByChannel = Mamba | RGLRU | WKV | MLSTM
"""Linear recurrences whose state is a few numbers for each channel, or a matrix for each head."""


class LinearAttention(Spec):
    """Causal attention with the feature map elu + 1 in place of the softmax (arXiv 2006.16236, section 3.2).

    A layer of ``txcalc mixers`` alone.
    """

    kind: Literal["linear-attention"] = "linear-attention"
    heads: Size
    head_dim: Size
    bias: Flag = True
