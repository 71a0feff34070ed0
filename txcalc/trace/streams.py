"""Residual streams side by side: hyper-connections (arXiv 2409.19606) whose weights come of the streams themselves.

What a sublayer reads is their sum with weights that are sigmoids, and so are those with which its output is added to
each (Hunyuan 4's independent hyper-connections). They may as well be mixed among themselves, by weights whose rows and
columns Sinkhorn's steps make sum to one (manifold-constrained ones, arXiv 2512.24880).
"""

from __future__ import annotations

from txcalc.trace import curves, norms, ops
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product
from txcalc.trace.tensors import Number, Tensor


def spread(t: Trace, x: Tensor, count: Number) -> Tensor:
    """(b, n, d) to as many alike, (b, n, count, d)."""
    b, n, d = x.shape
    y = t.tensor(b, n, count, d, label="streams")
    return t.op("streams", "elementwise", reads=(x,), writes=(y,), backward=((ops.to(x),),))


def mixed(t: Trace, name: str, x: Tensor, *, adds: bool, rank: Number | None) -> tuple[Tensor, Tensor | None]:
    """The sum of streams (b, n, count, d) that is read, and the weights with which an output ``adds`` to them.

    ``rank``: of what gates every column of the streams, which are normed: then the mean of those is read (Qwen4-Exp).
    """
    b, n, count, d = x.shape
    if rank is not None:
        with t.scope(name, component="streams"):
            normed = norms.norm(t, "norm", x, norms.RMS, weight_shape=(count, d))
            flat = normed.view(b, n, count * d)
            hidden = curves.activation(t, "hidden", ops.scaled(t, "mean", ops.linear(t, "down", flat, rank)), "silu")
            gates = curves.activation(t, "gates", ops.linear(t, "up", hidden, count * d), "sigmoid").view(*x.shape)
            t.op("gated", "product", saves=(gates, normed), reads=(gates, normed),
                 writes=(gated := ops.like(t, x, "gated streams"),), backward=((ops.to(gates),), (ops.to(normed),)))
            summed = t.tensor(b, n, d, label="mix of streams")
            t.op("read", "elementwise", reads=(gated,), writes=(summed,), backward=((ops.to(gated),),))
            if not adds:
                return summed, None
            weights = ops.scaled(t, "mean", ops.linear(t, "weights", flat, count))
            return summed, ops.scaled(t, "added_weights", curves.activation(t, "activation", weights, "sigmoid"))
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


def balanced(t: Trace, name: str, x: Tensor, steps: Number) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of streams (b, n, count, d) that is read, the weights of an output, and the streams mixed."""
    b, n, count, d = x.shape
    columns = (count, count, count**2)
    with t.scope(name, component="streams"):
        flat = norms.norm(t, "norm", x.view(b, n, count * d), norms.RMS._replace(scale=False))
        weights = ops.linear(t, "weights", flat, sum(columns))
        scaled = ops.scale(t, "scale", weights, shape=(3,))
        ops.learned(t, "offset", (sum(columns),), how="same")
        own = [t.tensor(b, n, width, label="weights of streams") for width in columns]
        t.op("offset_added", "elementwise", reads=(scaled,), writes=tuple(own), backward=((ops.to(scaled),),))
        read, gate = (curves.activation(t, "activation", each, "sigmoid") for each in own[:2])
        read, gate = ops.shifted(t, "read_weights", read), ops.scaled(t, "added_weights", gate)
        mix = ops.shifted(t, "mix_weights", ops.softmax(t, "softmax", own[2].view(b, n, count, count)))
        turns = 2 * steps - 1
        with t.scope("", copies=turns, calls=turns):
            total = ops.shifted(t, "sums", t.tensor(b, n, 1, count, label="sums of weights"))
            balanced = ops.like(t, mix, "balanced weights")  # each is kept by what reads it, the last by the product
            t.op("quotient", "product", saves=(total, balanced), reads=(mix, total), writes=(balanced,),
                 backward=((ops.to(mix),), (ops.to(total),)))
        summed = t.tensor(b, n, d, label="mix of streams")
        t.op("read", "product", saves=(read, x), reads=(read, x), writes=(summed,), backward=((ops.to(x),),))
        t.op("mixed", "product", saves=(mix, x), reads=(balanced, x), writes=(mixed := ops.like(t, x, "streams"),),
             products=(Product(b * n, count, d, count),), backward=((ops.to(balanced),), (ops.to(x),)))
        return summed, gate, mixed


def added(t: Trace, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Streams (b, n, count, d), to each of which an output (b, n, d) is added with a weight of its own."""
    t.op("streams", "product", saves=(weights, y), reads=(weights, y))
    return ops.add(t, x, ops.like(t, x, "outputs of streams"))
