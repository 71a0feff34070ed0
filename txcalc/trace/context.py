"""Attention of ranks that split each sequence (context parallelism).

All-to-all (DeepSpeed-Ulysses, arXiv 2309.14509): before the core each rank gets all positions of a part of the heads,
and after it its own positions of all heads. A rank's part of every other comes in front, in a copy; where there are
several sequences, what is received is put in order in another.
"""

from __future__ import annotations

from txcalc.trace import ops
from txcalc.trace.record import Trace
from txcalc.trace.sizes import several
from txcalc.trace.tensors import Number, Steps, Tensor


def positions(t: Trace, name: str, x: Tensor, count: Number) -> Tensor:
    """(b, n / cp, heads x dim) to (b, n, heads / cp x dim), of which a rank has a ``count``."""
    (b, n, width), cp = x.shape, t.layout.by_head
    name = f"{name}_exchange"
    with t.frame():
        sent = t.hold(_sent(t, name, x, copied=several(t, count)))
        got = t.hold(_exchange(t, name, sent, copied=several(t, b)))
        return (ops.copy(t, name, got) if several(t, b) else got).view(b, n * cp, width // cp)


def heads(t: Trace, name: str, x: Tensor, *, in_front: bool) -> Tensor:
    """(b, n, heads / cp x dim) to (b, n / cp, heads x dim). ``in_front``: heads lie before positions."""
    (b, n, width), cp = x.shape, t.layout.by_head
    name = f"{name}_exchange"
    with t.frame(x):
        sent = _sent(t, name, x, copied=several(t, b)) if in_front or several(t, b) else x
        got = t.hold(_exchange(t, name, t.hold(sent), copied=True))
        return ops.copy(t, name, got).view(b, n // cp, width * cp)


def _sent(t: Trace, name: str, x: Tensor, *, copied: bool) -> Tensor:
    """Every rank's part in front. ``copied``: the gradient comes in a copy, as its parts do not lie side by side."""
    y = ops.like(t, x, x.label)
    return t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((ops.to(x) if copied else ops.through(x),),))


def _exchange(t: Trace, name: str, x: Tensor, *, copied: bool) -> Tensor:
    """``copied``: the gradient is, since it lies in another order."""
    buffer: Steps = ((ops.temporary(x),),) if copied else ()
    return t.op(name, "resharded", reads=(x,), writes=(ops.like(t, x, x.label),), backward=(*buffer, (ops.to(x),)))
