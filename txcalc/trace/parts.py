"""Parts of a tensor, tensors of parts, and their rotation. What one operation costs is said as in ``trace.ops``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops
from txcalc.trace.autocast import autocast
from txcalc.trace.record import Trace
from txcalc.trace.sizes import several
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.inputs import RotaryPosition


def given(t: Trace, label: str, n: Number) -> Tensor:
    """Integers (b, n) that are there before a run; in a beam search those of its prompt stay all along."""
    rows, search = t.workload.rows, t.workload.beams is not None
    x = t.tensor(rows, t.workload.search[1] if search else n, role=Role.INDEX, label=label, grad=False)
    return x._replace(shape=(rows, n))


def narrow(t: Trace, name: str, x: Tensor, width: Number) -> Tensor:
    """``x[..., a:b]``, ``width`` columns of it: a view, whose gradient is put into zeros as large as ``x``."""
    return ops.view(t, name, x, *x.shape[:-1], width, copied=True)


def columns(t: Trace, name: str, x: Tensor, *widths: Number) -> tuple[Tensor, ...]:
    """``x.split(widths, dim=-1)``: views, whose gradients are joined."""
    ys = tuple(t.alias(x, *x.shape[:-1], width) for width in widths)
    t.op(name, "elementwise", reads=(x,), writes=ys, backward=((ops.to(x),),))
    return ys


def join(t: Trace, name: str, xs: tuple[Tensor, ...], label: str = "", *, scores: bool = False) -> Tensor:
    """``torch.cat`` along the last axis."""
    with t.frame(*xs):
        xs = ops.casts(t, name, "cat", *xs)
        return ops.gathered(t, name, xs, *xs[0].shape[:-1], sum(x.shape[-1] for x in xs), label=label, scores=scores)


def position(t: Trace, name: str, x: Tensor) -> Tensor:
    """``x[:, i]``, one position (b, d) of (b, n, d): a view, whose gradient is put into zeros as large as ``x``."""
    b, _, *rest = x.shape
    return ops.view(t, name, x, b, *rest, copied=True)


def positions(t: Trace, name: str, x: Tensor, count: Number) -> Tensor:
    """``x[:, i:]``, ``count`` positions of (b, n, d): a view, whose gradient is put into zeros as large as ``x``."""
    b, n, *rest = x.shape
    if t.size(count) == t.size(n):
        return x
    return ops.view(t, name, x, b, count, *rest, copied=True)._replace(strided=several(t, b, count))


def join_positions(t: Trace, name: str, xs: tuple[Tensor, ...], b: Number, label: str) -> Tensor:
    """``torch.cat(xs, dim=1)``, (b, n, d) each, or learned rows."""
    with t.frame(*xs):
        xs = ops.casts(t, name, "cat", *xs)
        return ops.gathered(t, name, xs, b, sum(x.shape[-2] for x in xs), xs[0].shape[-1], label=label)


def take_rows(t: Trace, name: str, x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` along the first axis: keeps the index."""
    y = t.tensor(*index.shape, *x.shape[1:], role=x.made, label=x.label)
    return t.op(name, "index", saves=(index,), reads=(x, index), writes=(y,), backward=ops.into_zeros(ops.to(x)))


def mean(t: Trace, name: str, x: Tensor, label: str) -> Tensor:
    """``x.mean(dim=1)``, (b, n, d) to (b, d): keeps nothing."""
    return remade(t, name, x, x.shape[0], x.shape[-1], label=label)


def rotate(t: Trace, name: str, x: Tensor, position: RotaryPosition) -> Tensor:
    """RoPE on (b, n, heads, head_dim), the two halves of the rotated columns paired (arXiv 2104.09864).

    ``x cos + (-x2, x1) sin``: the tables are buffers, so that it keeps nothing.
    """
    head_dim, rotated = x.shape[-1], rotated_columns(position, x.shape[-1])
    with t.frame(x):
        turned = x if rotated is None else narrow(t, name, x, rotated)
        rest = None if rotated is None else narrow(t, name, x, head_dim - rotated)
        half = (head_dim if rotated is None else rotated) // 2
        negated = ops.scaled(t, name, narrow(t, name, turned, half))
        crossed = t.hold(join(t, name, (negated, narrow(t, name, turned, half))))
        with t.frame():
            along, across = (t.hold(ops.scaled(t, name, each, buffer=True)) for each in (turned, crossed))
            y = ops.add(t, along, across, name, label=f"rotated {x.label}")
        return y if rest is None else join(t, name, (t.hold(y), rest), label=f"rotated {x.label}")


def rotated_columns(position: RotaryPosition, width: Number) -> Number | None:
    """Columns of so many that are rotated, None for all: a column that has no partner is left as it is."""
    if position.dim is not None:
        return 2 * (position.dim // 2)
    return width - 1 if isinstance(width, int) and width % 2 else None


def sum_of(t: Trace, name: str, x: Tensor, *shape: Number, label: str) -> Tensor:
    """``x.sum``: its gradient is a view of the output's. Keeps nothing."""
    y = t.tensor(*shape, role=autocast(t, "sum") or x.made, label=label)
    return t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((ops.part_of(x),),))


def remade(t: Trace, name: str, x: Tensor, *shape: Number, label: str) -> Tensor:
    """Another tensor of the elements of ``x``, padded, repeated, averaged or in another order. Keeps nothing."""
    return ops.elementwise(t, name, "elementwise", x, t.tensor(*shape, role=x.made, label=label))
