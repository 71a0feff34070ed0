"""Parts of a tensor and tensors of parts: columns, positions, weights beside them, and their rotation.

What one operation costs is said as in ``txcalc.trace.ops``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops
from txcalc.trace.record import Gradient, Number, Role, Tensor, Trace
from txcalc.trace.sizes import several

if TYPE_CHECKING:
    from txcalc.spec.inputs import RotaryPosition


def narrow(t: Trace, name: str, x: Tensor, width: Number) -> Tensor:
    """``x[..., a:b]``, ``width`` columns of it: a view, whose gradient is put into zeros as large as ``x``."""
    return part_of(t, name, x, *x.shape[:-1], width)


def part_of(t: Trace, name: str, x: Tensor, *shape: Number) -> Tensor:
    """``x[...]`` of that shape: a view, whose gradient is put into zeros as large as ``x``."""
    y = t.alias(x, *shape)
    t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((ops.to(x),),))
    return y


def widen(t: Trace, name: str, x: Tensor, width: Number, how: str) -> Tensor:
    """A copy with more columns: zeros after each head's own, or heads repeated, whose gradients are added up."""
    y = t.tensor(*x.shape[:-1], width, role=x.role, label=x.label + how)
    return ops.elementwise(t, name, "elementwise", x, y)


def join(t: Trace, name: str, xs: tuple[Tensor, ...], label: str = "", *, scores: bool = False) -> Tensor:
    """``torch.cat`` along the last axis: each one's gradient is a view of the output's."""
    first = xs[0]
    y = t.tensor(*first.shape[:-1], sum(x.shape[-1] for x in xs), role=first.role, label=label, scores=scores)
    t.op(name, "elementwise", reads=xs, writes=(y,), backward=(tuple(ops.part(x) for x in xs),))
    return y


def plus(t: Trace, name: str, x: Tensor, *shape: Number) -> Tensor:
    """``x + weight[:n]``, one table (rows, width) for all of (b, n, width): keeps nothing."""
    _, n, width = x.shape
    y = ops.like(t, x, x.label)
    summed = Gradient(None, (n, width), passing=1)
    t.op(name, "embedding", weights={"": shape}, reads=(x,), writes=(y,),
         backward=((ops.through(x),), (summed,), (ops.of_weight(t.path(name), *shape, viewed=True),)))
    return y


def learned(t: Trace, name: str, count: Number, width: Number, *, weighs: bool = True) -> Tensor:
    """``weight.expand(b, -1, -1)``, learned rows (count, width) for every sequence: a view of the weight."""
    y = t.tensor(count, width, role=Role.PARAMETER, label=name)
    t.op(name, "elementwise", weights={"": (count, width)} if weighs else {}, writes=(y,),
         backward=((ops.of_weight(t.path(name), count, width),),))
    return y


def two_tables(t: Trace, name: str, rows: Number, width: Number) -> tuple[Tensor, ...]:
    """Both tables of a weight (2, rows, width): views, whose gradients are stacked."""
    tables = tuple(t.tensor(rows, width, role=Role.PARAMETER, label=name) for _ in range(2))
    t.op(name, "embedding", weights={"": (2, rows, width)}, writes=tables,
         backward=((ops.of_weight(t.path(name), 2, rows, width),),))
    return tables


def look_up(t: Trace, name: str, table: Tensor, n: Number) -> Tensor:
    """``F.embedding`` of a buffer of indices (n,) in a table that is a view: keeps nothing."""
    y = t.tensor(n, table.shape[-1], label=name)
    t.op(name, "embedding", reads=(table,), writes=(y,), backward=((ops.to(table),),))
    return y


def join_rows(t: Trace, name: str, xs: tuple[Tensor, ...], b: Number, label: str) -> Tensor:
    """``torch.cat(xs, dim=1)``, (b, n, d) each, or learned rows: each one's gradient is a view of the output's."""
    y = t.tensor(b, sum(x.shape[-2] for x in xs), xs[0].shape[-1], label=label)
    t.op(name, "elementwise", reads=xs, writes=(y,), backward=(tuple(ops.part(x) for x in xs),))
    return y


def replace_first(t: Trace, name: str, x: Tensor, rows: Tensor) -> Tensor:
    """``torch.cat((rows, x[len(rows):]))`` of all rows of (images, tokens, d) and of (b, n, d). Keeps nothing."""
    b, n, d = x.shape
    images, tokens, _ = rows.shape
    rest = part_of(t, name, x, b * n - images * tokens, d)
    y = t.tensor(b, n, d, label=x.label)
    t.op(name, "elementwise", reads=(rows, rest), writes=(y,), backward=((ops.part(rows), ops.part(rest)),))
    return y


def position(t: Trace, name: str, x: Tensor) -> Tensor:
    """``x[:, i]``, one position (b, d) of (b, n, d): a view, whose gradient is put into zeros as large as ``x``."""
    b, _, *rest = x.shape
    return part_of(t, name, x, b, *rest)


def positions(t: Trace, name: str, x: Tensor, count: Number) -> Tensor:
    """``x[:, i:]``, ``count`` positions of (b, n, d): a view, whose gradient is put into zeros as large as ``x``."""
    b, n, *rest = x.shape
    if t.size(count) == t.size(n):
        return x
    return part_of(t, name, x, b, count, *rest)


def mean(t: Trace, name: str, x: Tensor, label: str) -> Tensor:
    """``x.mean(dim=1)``, (b, n, d) to (b, d): keeps nothing."""
    b, _, d = x.shape
    return ops.elementwise(t, name, "elementwise", x, t.tensor(b, d, label=label))


def merged(t: Trace, name: str, x: Tensor, count: Number, side: Number) -> Tensor:
    """Squares of ``side`` by ``side`` positions, their columns side by side: (b, n, d) to (b, count, side^2 d).

    A copy whose gradient comes back in another order, so that it is copied again.
    """
    b, _, d = x.shape
    y = t.tensor(b, count, d * side**2, label="merged positions")
    t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((ops.to(x),),))
    return y


def averaged(t: Trace, name: str, x: Tensor, count: Number) -> Tensor:
    """The means of squares of positions, (b, n, d) to (b, count, d): keeps nothing."""
    b, _, d = x.shape
    return ops.elementwise(t, name, "elementwise", x, t.tensor(b, count, d, label="averaged positions"))


def rotate(t: Trace, name: str, x: Tensor, rotated: Number | None) -> Tensor:
    """RoPE on (b, n, heads, head_dim), the two halves of the ``rotated`` columns paired (arXiv 2104.09864).

    ``x cos + (-x2, x1) sin``: the tables are buffers, so that it keeps nothing. ``rotated``: None for all columns.
    """
    head_dim = x.shape[-1]
    with t.frame(x):
        turned = x if rotated is None else narrow(t, name, x, rotated)
        rest = None if rotated is None else narrow(t, name, x, head_dim - rotated)
        half = (head_dim if rotated is None else rotated) // 2
        negated = ops.scaled(t, name, narrow(t, name, turned, half))
        crossed = t.hold(join(t, name, (negated, narrow(t, name, turned, half))))
        with t.frame():
            along, across = t.hold(ops.scaled(t, name, turned)), t.hold(ops.scaled(t, name, crossed))
            y = ops.add(t, along, across, name, label=f"rotated {x.label}")
        if rest is not None:
            y = join(t, name, (t.hold(y), rest), label=f"rotated {x.label}")
    return y


def rotated(position: RotaryPosition, width: Number) -> Number | None:
    """Columns of so many that are rotated, None for all: a column that has no partner is left as it is."""
    if position.dim is not None:
        return 2 * (position.dim // 2)
    return width - 1 if isinstance(width, int) and width % 2 else None


# ---------------------------------------------------------------- columns and copies


def columns(t: Trace, name: str, x: Tensor, *widths: Number) -> tuple[Tensor, ...]:
    """``x.split(widths, dim=-1)``: views, whose gradients are joined."""
    ys = tuple(t.alias(x, *x.shape[:-1], width) for width in widths)
    t.op(name, "elementwise", reads=(x,), writes=ys, backward=((ops.to(x),),))
    return ys


def repeated(t: Trace, name: str, x: Tensor, heads: Number) -> Tensor:
    """``x.expand``, (b, n, 1, width) for so many heads: a view, whose gradient is a sum."""
    b, n, _, width = x.shape
    y = t.alias(x, b, n, heads, width)
    made = ops.to(x) if several(t, heads) else ops.through(x)
    t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((made,),))
    return y


def extended(t: Trace, name: str, x: Tensor, keys: Number) -> Tensor:
    """What a cache holds, (b, keys, ...), once (b, n, ...) has been added to it."""
    b, _, *rest = x.shape
    y = t.tensor(b, keys, *rest, label=x.label)
    t.op(name, "elementwise", reads=(x,), writes=(y,))
    return y
