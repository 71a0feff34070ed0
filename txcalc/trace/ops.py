"""What one operation costs: weights, FLOPs forward and backward, and the tensors autograd keeps for it.

One multiply-accumulate is 2 FLOPs; only matrix products are counted. What is kept was measured with
``torch.autograd.graph.saved_tensors_hooks`` on torch 2.13; each function names the PyTorch op it stands for.
Parameters and buffers are never listed as kept: they exist anyway.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal, NamedTuple

from txcalc.trace.record import Kind, Number, Role, Tensor, Trace

if TYPE_CHECKING:
    from txcalc.spec.base import Curve
    from txcalc.spec.layers import Norm


class _NormKind(NamedTuple):
    """A norm that belongs to a layer and is no choice of the spec."""

    kind: Literal["layernorm", "rmsnorm"]
    scale: bool
    bias: bool


def linear(
    t: Trace, name: str, x: Tensor, d_out: Number, *, bias: bool = False, tied: bool = False, kind: Kind = "linear"
) -> Tensor:
    """``F.linear``: (..., d_in) -> (..., d_out). Keeps its input. ``tied``: the weight is another op's."""
    *lead, d_in = x.shape
    weights = ({} if tied else {"weight": (d_out, d_in)}) | ({"bias": (d_out,)} if bias else {})
    flops = 2 * prod(lead) * d_in * d_out
    t.op(name, kind, weights=weights, flops=flops, flops_backward=flops * (1 + x.grad), saves=(x,))
    return t.tensor(*lead, d_out, label=name)


def convolution(
    t: Trace, name: str, x: Tensor, d_out: Number, positions: Number, kernel: tuple[Number, ...], *, bias: bool,
    groups: Number = 1,
) -> Tensor:
    """``F.conv1d``/``F.conv2d``: (b, d_in, ...) -> (b, positions, d_out), as many output ``positions`` as the
    stride leaves. Keeps its input. Every output is a product with d_in / groups x kernel inputs."""
    b, d_in, *_ = x.shape
    d_in = d_in // groups
    weights = {"weight": (d_out, d_in, *kernel)} | ({"bias": (d_out,)} if bias else {})
    flops = 2 * b * positions * d_out * d_in * prod(kernel)
    reach = kernel[0] if len(kernel) == 1 else None
    t.op(name, "linear", weights=weights, flops=flops, flops_backward=flops * (1 + x.grad), saves=(x,), reach=reach)
    return t.tensor(b, positions, d_out, label=name)


def parameter(t: Trace, name: str, *shape: Number, kind: Kind = "elementwise") -> None:
    """A bare weight that is added or joined to the hidden states: keeps nothing."""
    t.op(name, kind, weights={"": shape})


def scale(t: Trace, name: str, x: Tensor) -> Tensor:
    """``x * weight`` over the last axis: keeps its input."""
    *_, d = x.shape
    t.op(name, "elementwise", weights={"": (d,)}, saves=(x,))
    return t.tensor(*x.shape, label=name)


def embedding(t: Trace, name: str, ids: Tensor, rows: Number, width: Number, *, tied: bool = False) -> Tensor:
    """``F.embedding``: indices (...) -> (..., width). Keeps the indices."""
    t.op(name, "embedding", weights={} if tied else {"weight": (rows, width)}, saves=(ids,))
    return t.tensor(*ids.shape, width, label=name)


def norm(
    t: Trace, name: str, x: Tensor, spec: Norm | _NormKind, *, weight_shape: tuple[Number, ...] | None = None
) -> Tensor:
    """``F.layer_norm`` or ``F.rms_norm`` over the last axis.

    LayerNorm keeps its input, the mean and the reciprocal deviation of each row. RMSNorm keeps its input and one
    statistic where it is fused (CUDA); on the CPU it is composed in fp32, and keeps the fp32 input, the
    reciprocal root mean square and, when scaled by a weight, the normalised rows. A weight of more than one axis
    (each head its own) is beyond these kernels: it multiplies the normalised rows, which are kept for it.
    """
    *rows, d = x.shape
    shape = weight_shape or (d,)
    weights = ({"weight": shape} if spec.scale else {}) | ({"bias": shape} if spec.bias else {})
    apart = len(shape) > 1
    if spec.kind == "layernorm":
        saves = [x, *(t.tensor(*rows, 1, role=Role.STATISTIC, label=label) for label in ("mean", "rstd"))]
    elif t.workload.fused_norms:
        saves = [x, t.tensor(*rows, 1, role=Role.STATISTIC, label="rstd")]
    else:
        upcast = x if t.workload.dtype == "fp32" else t.tensor(*x.shape, role=Role.FLOAT32, label=f"{x.label} in fp32")
        saves = [upcast, t.tensor(*rows, 1, role=Role.FLOAT32, label="rstd")]
        if spec.scale and not apart:
            saves.append(t.tensor(*x.shape, role=Role.FLOAT32, label="normalised"))
    if spec.scale and apart:
        saves.append(t.tensor(*x.shape, label="normalised"))
    t.op(name, "norm", weights=weights, saves=tuple(saves))
    return t.tensor(*x.shape, label=name)


def rms_norm(
    t: Trace, name: str, x: Tensor, *, weight_shape: tuple[Number, ...] | None = None, scale: bool = True
) -> Tensor:
    """``F.rms_norm`` without a bias, as ``norm`` has it."""
    return norm(t, name, x, _NormKind("rmsnorm", scale=scale, bias=False), weight_shape=weight_shape)


def activation(t: Trace, name: str, x: Tensor, kind: Curve | Literal["softplus"]) -> Tensor:
    """An elementwise nonlinearity. gelu, silu and softplus keep their input, relu, tanh and sigmoid their output."""
    if kind == "xielu":
        return _xielu(t, name, x)
    out = t.tensor(*x.shape, label=kind)
    if kind in ("relu", "tanh", "sigmoid"):
        saves: tuple[Tensor, ...] = (out,)
    elif kind == "relu2":
        saves = (t.tensor(*x.shape, label="relu"),)
    elif kind == "quick_gelu":
        saves = (x, t.tensor(*x.shape, label="sigmoid"))
    else:
        saves = (x,)
    t.op(name, "elementwise", saves=saves)
    return out


def _xielu(t: Trace, name: str, x: Tensor) -> Tensor:
    """``b x + p relu(x)^2 + n (exp(m) - 1 - m)`` with m = min(x, 0) and learned p and n (arXiv 2411.13010, section 4).

    Composed of PyTorch's functions: keeps x, what p and n multiply, what these are made of, and p and n themselves.
    """
    labels = ("relu", "relu squared", "exponential", "exponential beyond its tangent")
    parts = (t.tensor(*x.shape, label=label) for label in labels)
    slopes = (t.tensor(1, label=label) for label in ("slope above", "slope below"))
    t.op(name, "elementwise", weights={"alpha_p": (1,), "alpha_n": (1,)}, saves=(x, *parts, *slopes))
    return t.tensor(*x.shape, label="xielu")


def multiply(t: Trace, name: str, a: Tensor, b: Tensor) -> Tensor:
    """``a * b`` with ``b`` broadcast to ``a``: keeps both."""
    t.op(name, "elementwise", saves=(a, b))
    return t.tensor(*a.shape, label=name)


def add(t: Trace, a: Tensor, b: Tensor) -> Tensor:
    """``a + b``: keeps nothing and weighs nothing, but its result is a new tensor."""
    return t.tensor(*a.shape, label="residual")


def dropout(t: Trace, name: str, x: Tensor) -> Tensor:
    """``F.dropout``: keeps its mask. Without dropout there is no such op, and ``x`` goes on as it is."""
    if not t.workload.dropout:
        return x
    mask = t.tensor(*x.shape, role=Role.MASK, label="dropout mask", scores=x.scores)
    out = t.tensor(*x.shape, label=f"{x.label} after dropout", scores=x.scores)
    t.op(name, "elementwise", saves=(mask,), reads=(x,), writes=(mask, out))
    return out


def softmax(t: Trace, name: str, x: Tensor) -> Tensor:
    """``F.softmax`` in the dtype of its input: keeps its output."""
    out = t.tensor(*x.shape, label=name, scores=x.scores)
    t.op(name, "elementwise", saves=(out,), reads=(x,), writes=(out,))
    return out


def take_rows(t: Trace, name: str, x: Tensor, rows: Number) -> Tensor:
    """``x[index]`` along the first axis: keeps the index."""
    _, *rest = x.shape
    t.op(name, "elementwise", saves=(t.tensor(rows, role=Role.INDEX, label="row index"),))
    return t.tensor(rows, *rest, label=x.label)


def cross_entropy(t: Trace, name: str, logits: Tensor) -> None:
    """``F.cross_entropy`` on fp32 logits: keeps the log-probabilities, the targets and the total weight."""
    *rows, classes = logits.shape
    t.op(name, "loss", saves=(
        t.tensor(*rows, classes, role=Role.FLOAT32, label="log-probabilities"),
        t.tensor(*rows, role=Role.INDEX, label="targets"),
        t.tensor(role=Role.FLOAT32, label="total weight"),
    ))


def contrastive_loss(t: Trace, name: str, logits: Tensor) -> None:
    """The mean of two ``F.cross_entropy``, over the rows and over the columns of fp32 logits, with the same targets."""
    rows, columns = logits.shape
    t.op(name, "loss", saves=(
        t.tensor(rows, columns, role=Role.FLOAT32, label="log-probabilities"),
        t.tensor(columns, rows, role=Role.FLOAT32, label="log-probabilities of columns"),
        t.tensor(rows, role=Role.INDEX, label="targets"),
        *(t.tensor(role=Role.FLOAT32, label="total weight") for _ in range(2)),
    ))


def pairs_loss(t: Trace, name: str, logits: Tensor) -> None:
    """``F.logsigmoid`` of every (text, image) pair in fp32, with a sign for whether they belong together.

    The CPU's kernel also keeps a buffer as large as its input.
    """
    keeps = ("signs", "signed products", *(("exponentials",) if t.workload.kernels == "cpu" else ()))
    t.op(name, "loss", saves=tuple(t.tensor(*logits.shape, role=Role.FLOAT32, label=label) for label in keeps))
