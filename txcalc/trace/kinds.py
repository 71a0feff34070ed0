"""Kinds of operations: why each keeps something for the backward pass, and where that was measured or read.

Which tensors it keeps is said by the operation itself, as its ``saves``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from txcalc.trace.layout import Axis
from txcalc.trace.tensors import Number

Group = Literal["linear", "embedding", "head", "norm", "core", "recurrence", "elementwise", "shift", "router", "loss"]
Name = Literal[
    "linear", "embedding", "head", "norm", "core", "recurrence", "elementwise", "shift", "router", "loss", "flash",
    "efficient", "by_distance", "mix", "choice", "softmax", "dropout", "product", "weighing", "scale", "slope_in",
    "slope_out", "xielu", "index", "where", "cache", "past", "recomputation", "adapter", "cast", "bias_part",
    "fused_loss", "entered", "reduced", "gathering", "gathered", "scattered", "loss_reduced", "exchanged",
    "resharded", "rotated", "ring_gathered", "regathered",
]
MEASURED: Final = "measured: on torch 2.13 with torch.autograd.graph.saved_tensors_hooks"
_KORTHIKANTI: Final = "measured; arXiv 2205.05198, section 4.1"


Call = Literal["pass", "stack", "layer", "sublayer", "weights", ""]
"""Frames that what runs inside may leave something to."""


class Scopes(NamedTuple):
    """The scopes of these kinds that an operation stands in, each by its path: none is empty."""

    tower: str = ""
    layer: str = ""  # of a stack, alike ones among them
    experts: str = ""  # that are routed to
    again: str = ""  # that the backward pass runs once more


class Keeps(NamedTuple):
    """A tensor that is kept: what it is to the operation in a word, in a sentence, and the source."""

    role: str
    why: str
    source: str


class Collective(NamedTuple):
    """The collective of an axis in the forward pass, and in the backward pass: its name, or nothing."""

    forward: str = ""
    backward: str = ""
    axis: Axis = "tp"


class Kind(NamedTuple):
    """A kind of operation."""

    name: Name
    group: Group  # what is counted alike
    keeps: Keeps | None = None  # why it may keep something; None: it keeps nothing
    statistics: Keeps | None = None  # why, of what it keeps in fp32 besides
    fused: bool = False  # one kernel is all of attention's core
    # What it writes, else reads, is from then on; or was before the run; or is by autocast until the forward pass ends.
    cached: Literal["after", "before", "autocast"] | None = None
    # Saved by a policy that saves matrix products of weights and fused attention, so not computed again.
    listed: bool = False
    collective: Collective | None = None


_LINEAR: Final = Keeps("input", "a linear layer keeps its input", f"F.linear, {_KORTHIKANTI}")
_PRODUCT: Final = Keeps("factor", "a matrix product keeps both factors", f"torch.matmul, {_KORTHIKANTI}")
_MULTIPLY: Final = Keeps("factor", "a product keeps both factors", "a * b, measured")

KINDS: Final = {kind.name: kind for kind in (
    Kind("linear", "linear", _LINEAR, listed=True),
    Kind("head", "head", _LINEAR),
    Kind("router", "router", _LINEAR, listed=True),
    Kind("adapter", "linear", Keeps("input", "an adapter keeps its input, or the norms of rows", "by peft, measured"),
         listed=True),
    Kind("embedding", "embedding", Keeps("indices", "a table keeps the rows looked up", "F.embedding, measured")),
    Kind("norm", "norm", Keeps("input", "a norm keeps its input", f"F.layer_norm and F.rms_norm, {_KORTHIKANTI}"),
         Keeps("statistics", "a norm keeps the statistics of every row",
               "F.layer_norm and F.rms_norm, measured; left out in arXiv 2205.05198")),
    Kind("core", "core", _PRODUCT),
    Kind("by_distance", "core", _PRODUCT),
    Kind("mix", "core", _PRODUCT),
    Kind("flash", "core", Keeps("kernel", "the flash kernel keeps q, k, v, its output and one number per row",
                                "arXiv 2205.14135, algorithm 1; F.scaled_dot_product_attention"),
         fused=True, listed=True),
    Kind("efficient", "core", Keeps(
        "kernel", "the memory-efficient kernel keeps q, k, v, its output, one number per row and its mask",
        "arXiv 2112.05682; F.scaled_dot_product_attention"), fused=True, listed=True),
    Kind("recurrence", "recurrence", Keeps("states", "the recurrence keeps its states", "arXiv 2405.21060, section 7")),
    Kind("choice", "router", Keeps("choice", "routing keeps its choice",
                                   "torch.topk, measured; arXiv 1701.06538, section 2.1")),
    Kind("weighing", "router", _MULTIPLY),
    Kind("loss", "loss", Keeps("target", "the loss keeps log-probabilities and targets", "F.cross_entropy, measured")),
    Kind("fused_loss", "loss", Keeps("gradient", "a fused loss keeps the gradients that it has made already",
                                     "LigerFusedLinearCrossEntropyFunction, liger-kernel 0.8.5, measured")),
    Kind("shift", "shift"),
    Kind("elementwise", "elementwise"),
    Kind("product", "elementwise", _MULTIPLY),
    Kind("scale", "elementwise", Keeps("input", "a learned scale keeps its input", "x * weight, measured")),
    Kind("softmax", "elementwise", Keeps("output", "softmax keeps its output", f"F.softmax, {_KORTHIKANTI}")),
    Kind("dropout", "elementwise", Keeps("mask", "dropout keeps its mask", f"F.dropout, {_KORTHIKANTI}")),
    Kind("slope_in", "elementwise",
         Keeps("input", "gelu and silu keep their input", f"F.gelu and F.silu, {_KORTHIKANTI}")),
    Kind("slope_out", "elementwise", Keeps("output", "relu, tanh and sigmoid keep their output",
                                           "F.relu, torch.tanh and torch.sigmoid, measured")),
    Kind("xielu", "elementwise", Keeps(
        "parts", "xIELU keeps its input, what its learned slopes multiply, and the slopes",
        "arXiv 2411.13010, section 4, composed of PyTorch's functions, measured")),
    Kind("index", "elementwise", Keeps("index", "an indexed copy keeps its index", "x[index], measured")),
    Kind("where", "elementwise", Keeps("condition", "a choice keeps its condition", "torch.where, measured")),
    Kind("recomputation", "elementwise", Keeps("input", "what is recomputed keeps its inputs",
                                               "torch.utils.checkpoint, measured; arXiv 1604.06174")),
    Kind("bias_part", "elementwise"),
    Kind("cache", "elementwise", cached="after"),
    Kind("past", "elementwise", cached="before"),
    Kind("cast", "elementwise", cached="autocast"),
    Kind("entered", "elementwise", collective=Collective("", "all-reduce")),
    Kind("reduced", "elementwise", collective=Collective("all-reduce")),
    Kind("gathering", "elementwise", collective=Collective("all-gather")),
    Kind("regathered", "elementwise", collective=Collective("all-gather", "all-gather")),
    Kind("gathered", "elementwise", collective=Collective("", "reduce-scatter")),
    Kind("scattered", "elementwise", collective=Collective("reduce-scatter", "all-gather")),
    Kind("exchanged", "elementwise", collective=Collective("all-to-all", "all-to-all", "ep")),
    Kind("resharded", "elementwise", collective=Collective("all-to-all", "all-to-all", "cp")),
    Kind("rotated", "elementwise", collective=Collective("send/receive", "", "cp")),
    Kind("ring_gathered", "elementwise", collective=Collective("all-gather", "", "cp")),
    Kind("loss_reduced", "loss", collective=Collective("all-reduce")),
)}


def listed(kind: Kind, weights: Iterable[tuple[str, tuple[Number, ...]]]) -> bool:
    """True where the policy saves the output of an operation of this kind with these weights: not a convolution's."""
    return kind.listed and all(len(shape) < 3 for _, shape in weights)
