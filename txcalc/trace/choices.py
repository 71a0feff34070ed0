"""Operations by index: the best of a row, an order, rows taken in it, and lists of their parts.

Written as in ``txcalc.trace.ops``. What is written into zeros at an index is written in place, but under a dispatch
mode: ``index_backward`` and ``value_selecting_reduction_backward`` in PyTorch's ``FunctionsManual.cpp``.
"""

from __future__ import annotations

from txcalc.trace.ops import of_weight, part, through, to
from txcalc.trace.record import Gradient, Number, Role, Steps, Tensor, Trace


def _into_zeros(made: Gradient) -> Steps:
    return (made._replace(of=None, how="new", passing=1, watched=True),), (made,)


def top_k(t: Trace, name: str, x: Tensor, k: Number, label: str) -> tuple[Tensor, Tensor]:
    """``x.topk(k)``: the values and their index, which it keeps."""
    values = t.tensor(*x.shape[:-1], k, role=x.role, label=label)
    index = t.tensor(*x.shape[:-1], k, role=Role.INDEX, label="top-k index", grad=False)
    t.op(name, "choice", saves=(index,), reads=(x,), writes=(values, index), backward=_into_zeros(to(x)))
    return values, index


def order_of(t: Trace, name: str, index: Tensor) -> Tensor:
    """``torch.argsort``: the sorted values are dropped."""
    n = index.elements
    values, order = (t.tensor(n, role=Role.INDEX, label=label, grad=False) for label in ("sorted", "order"))
    t.op(name, "elementwise", reads=(index,), writes=(values, order))
    return order


def of_index(t: Trace, name: str, index: Tensor, *shape: Number) -> Tensor:
    """Integers made of an index: a quotient, a count of each."""
    y = t.tensor(*shape, role=Role.INDEX, label="row index", grad=False)
    t.op(name, "elementwise", reads=(index,), writes=(y,))
    return y


def take_rows(t: Trace, name: str, x: Tensor, index: Tensor, label: str = "") -> Tensor:
    """``x[index]`` along the first axis: keeps the index."""
    y = t.tensor(*index.shape, *x.shape[1:], role=x.role, label=label or x.label)
    t.op(name, "index", saves=(index,), reads=(x, index), writes=(y,), backward=_into_zeros(to(x)))
    return y


def look_up(t: Trace, name: str, index: Tensor, rows: Number) -> Tensor:
    """``weight[index]`` of a weight with one axis: keeps the index."""
    y = t.tensor(*index.shape, label=name)
    t.op(name, "index", weights={"": (rows,)}, saves=(index,), reads=(index,), writes=(y,),
         backward=_into_zeros(of_weight(t.path(name), rows)))
    return y


def split(t: Trace, name: str, x: Tensor) -> Tensor:
    """``x.split``: a list of views, whose gradients are joined."""
    y = t.alias(x, *x.shape)
    t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((to(x),),))
    return y


def gathered(t: Trace, name: str, items: Tensor, *shape: Number, label: str) -> Tensor:
    """``torch.cat`` or ``torch.stack`` of a list: the gradients of its items are views of one."""
    y = t.tensor(*shape, role=items.role, label=label)
    t.op(name, "elementwise", reads=(items,), writes=(y,), backward=((part(items),),))
    return y


def added_up(t: Trace, name: str, x: Tensor, *shape: Number, label: str) -> Tensor:
    """``x.sum`` over an axis, whose gradient is a view that repeats the sum's."""
    y = t.tensor(*shape, role=x.role, label=label)
    t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((part(x),),))
    return y


def flat(t: Trace, name: str, x: Tensor, *shape: Number) -> Tensor:
    """``x.flatten``: one view for all that read it, so that their gradients are added before it hands on the sum."""
    y = t.alias(x, *shape)
    t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((through(x),),))
    return y
