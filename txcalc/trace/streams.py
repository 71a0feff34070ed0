"""Residual streams side by side: hyper-connections (arXiv 2409.19606) whose weights come of the streams themselves.

What a sublayer reads is their sum with weights that are sigmoids, and so are those with which its output is added to
each (Hunyuan 4's independent hyper-connections).
"""

from __future__ import annotations

from txcalc.trace import curves, norms, ops
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Number, Tensor


def spread(t: Trace, x: Tensor, count: Number) -> Tensor:
    """(b, n, d) to as many alike, (b, n, count, d)."""
    b, n, d = x.shape
    y = t.tensor(b, n, count, d, label="streams")
    return t.op("streams", "elementwise", reads=(x,), writes=(y,), backward=((ops.to(x),),))


def mixed(t: Trace, name: str, x: Tensor, *, adds: bool) -> tuple[Tensor, Tensor | None]:
    """The sum of streams (b, n, count, d) that is read, and the weights with which an output ``adds`` to them."""
    b, n, count, d = x.shape
    sets = 2 if adds else 1
    with t.scope(name, component="streams"):
        flat = norms.norm(t, "norm", x.view(b, n, count * d), norms.RMS._replace(scale=False))
        weights = ops.linear(t, "weights", flat, sets * count)
        weights = ops.scale(t, "scale", weights.view(b, n, sets, count), shape=(sets, 1))
        offset = ops.learned(t, "offset", (sets, count), how="same")
        gates = curves.activation(t, "activation", ops.add(t, weights, offset, "offset"), "sigmoid")
        own = [ops.shifted(t, f"{part}_weights", t.alias(gates, b, n, count)) for part in ("read", "added")[:sets]]
        summed = t.tensor(b, n, d, label="mix of streams")
        t.op("read", "product", saves=(own[0], x), reads=(own[0], x), writes=(summed,), backward=((ops.to(x),),))
        return summed, own[1] if adds else None


def added(t: Trace, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Streams (b, n, count, d), to each of which an output (b, n, d) is added with a weight of its own."""
    t.op("streams", "product", saves=(weights, y), reads=(weights, y))
    return ops.add(t, x, ops.like(t, x, "outputs of streams"))
