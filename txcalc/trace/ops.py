"""Operations: weights, FLOPs, what autograd keeps for each, and what its backward pass makes.

One multiply-accumulate is 2 FLOPs; only matrix products are counted. An operation here is one of ATen's, which the
function names; what is composed in PyTorch is composed here. What is kept was measured with
``torch.autograd.graph.saved_tensors_hooks`` on torch 2.13, and the steps of each backward pass are those of
PyTorch's ``tools/autograd/derivatives.yaml``. Parameters and buffers are never listed as kept: they exist anyway.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from txcalc.trace import float8, packed
from txcalc.trace.autocast import Operator, autocast, widest
from txcalc.trace.kinds import Name
from txcalc.trace.record import Part, Trace
from txcalc.trace.sizes import Product
from txcalc.trace.tensors import Gradient, How, Number, Role, Steps, Tensor

if TYPE_CHECKING:
    from txcalc.trace.cache import Cache


# ---------------------------------------------------------------- gradients


def to(x: Tensor) -> Gradient:
    """The gradient of ``x`` in memory of its own."""
    return Gradient(x, x.shape, x.made)


def through(x: Tensor) -> Gradient:
    """The output's gradient as that of ``x``."""
    return Gradient(x, how="same")


def part_of(x: Tensor) -> Gradient:
    """A view of the output's gradient as that of ``x``."""
    return Gradient(x, how="part")


def temporary(x: Tensor, *, passing: int = 0) -> Gradient:
    """Memory as large as ``x`` that the backward pass uses for a moment: for so many steps more, or to its end."""
    return Gradient(None, x.shape, x.role, passing=passing)


def summed(x: Tensor) -> Gradient:
    """The gradient of ``x``, which was broadcast: summed when the operation's own formula is through."""
    return to(x)._replace(summed=True)


def of_weight(path: str, *shape: Number, viewed: bool = False) -> Gradient:
    """The gradient of the weight at ``path``; ``viewed``, if its backward pass transposes or reshapes it."""
    return Gradient(path, shape, Role.WEIGHT, how="view" if viewed else "new")


def into_zeros(made: Gradient) -> Steps:
    """A gradient written into zeros at an index: in place, but under a dispatch mode.

    ``index_backward`` and ``value_selecting_reduction_backward`` in PyTorch's ``FunctionsManual.cpp``.
    """
    return (made._replace(of=None, how="new", passing=1, watched=True),), (made,)


# ---------------------------------------------------------------- products


def linear(
    t: Trace, name: str, x: Tensor, d_out: Number, *, bias: bool = False, tied: str | None = None,
    kind: Name = "linear", part: Part = "", copied: bool = False,
    read: Matrix | None = None, weighs: bool = True,
) -> Tensor:
    """``F.linear``: (..., d_in) -> (..., d_out). Keeps its input. ``tied``: the path of another op's weight.

    ``part``: what it is in the model. ``copied``: its gradient comes in another order. ``read``: its weights as other
    products read them as well; ``weighs``: they have not been yet. With an adapter where the workload has one of it.
    """
    adapter = None if t.frozen is None else t.frozen.adapter(t.path(""), name, kind)
    if adapter is None or t.frozen is None:
        return dense(t, name, x, d_out, bias=bias, tied=tied, kind=kind, part=part, copied=copied, read=read,
                     weighs=weighs)
    return t.frozen.adapted(t, name, x, d_out, adapter, bias=bias, tied=tied, part=part, copied=copied)


def dense(
    t: Trace, name: str, x: Tensor, d_out: Number, *, bias: bool = False, tied: str | None = None,
    kind: Name = "linear", part: Part = "", copied: bool = False, read: Matrix | None = None, weighs: bool = True,
) -> Tensor:
    """The same without adapters."""
    *lead, d_in = x.shape
    if float8.converts(t, kind):
        with t.frame(x):
            y = float8.linear(t, name, x, d_out, tied=tied, kind=kind, part=part, copied=copied)
            return add(t, y, learned(t, f"{name}.bias", (d_out,), d_out, how="same"), name) if bias else y
    weights = ({} if tied else {"weight": (d_out, d_in)}) | ({"bias": (d_out,)} if bias else {}) if weighs else {}
    own, given = tied or f"{t.path(name)}.weight", x
    product = Product(1, prod(lead), d_out, d_in, backward=t.trains(own, kind) + t.needs(x))
    x, copies, steps, reads = _operands(t, name, x, d_out, own, kind, bias=bias, read=read)
    if bias and t.layout.tp > 1 and part in ("attention output", "down"):  # each rank adds a part of it
        reads = (*reads, t.op(name, "bias_part", writes=(t.tensor(d_out, role=Role.WEIGHT, label="part of a bias"),)))
    layout = None if tied else packed.layout(t, kind, prod(lead))
    if layout is not None:
        x = cast(t, name, x, packed.computed(t, layout))
        unpacked, again = packed.unpacked(t, name, layout, d_out, d_in)
        reads, steps = (x, *unpacked), (*again, (to(x.view(prod(lead), d_in) if len(lead) > 1 else x),))
    y = t.op(name, kind, weights=weights, products=(product,), saves=(x, *copies), reads=(*reads, given),
             apart=layout is None or t.frozen is None or not t.frozen.held, backward=steps, part=part,
             writes=(t.tensor(*lead, d_out, label=name, role=x.made),))
    y = y if layout is None else cast(t, name, y, given.made)
    return view(t, name, y, copied=True) if copied else y


class Matrix(NamedTuple):
    """A linear layer's bias and weight as it reads them: autocast's copies, if any, and what their gradients are of."""

    added: tuple[Tensor, ...]
    offset: Gradient | None
    copies: tuple[Tensor, ...]
    weight: Gradient


def matrix(t: Trace, name: str, own: str, *shape: Number, bias: bool, by: Operator = "linear", **of: Any) -> Matrix:
    """The weights of the linear layer of this name, whose matrix is at the path ``own``."""
    added, offset = _weight(t, name, "linear", f"{t.path(name)}.bias", shape[-2]) if bias else ((), None)
    return Matrix(added, offset, *_weight(t, name, by, own, *shape, viewed=True, **of))


def _operands(
    t: Trace, name: str, x: Tensor, d_out: Number, own: str, kind: Name, *, bias: bool, sets: tuple[Number, ...] = (),
    read: Matrix | None = None,
) -> tuple[Tensor, tuple[Tensor, ...], Steps, tuple[Tensor, ...]]:
    """Input of a linear layer, a copy of its weight (at ``own``) if kept, the steps back, and all that is read."""
    *lead, d_in = x.shape
    by: Operator = "grouped_mm" if sets else "linear"
    if t.code.linear == "columns" and kind == "linear" and read is None:  # its weight is cast first, then its input
        copies, weight = _weight(t, name, by, own, *sets, d_out, d_in, viewed=True)
        (x,) = casts(t, name, by, x)
        added, offset = _weight(t, name, "linear", f"{t.path(name)}.bias", d_out) if bias else ((), None)
    else:
        added, offset, copies, weight = read or matrix(t, name, own, *sets, d_out, d_in, bias=bias, kind=kind, by=by)
        (x,) = casts(t, name, by, x)
    if x.strided and t.trains(own, kind):  # of a matrix that is not trained each sequence is a product by itself
        x = copy(t, name, x)
    how: How = "added" if t.code.adds_gradients and kind != "router" else weight.how
    rows, weight = x.view(prod(lead), d_in) if len(lead) > 1 else x, weight._replace(role=x.made, how=how)
    steps: Steps = ((to(rows),), (weight,))[::1 if bias else -1]
    if bias and offset is not None:
        steps = (*steps, (offset._replace(first=True, summed=True),))
    return x, copies if x.grad else (), steps, (x, *copies, *added)


def linears(
    t: Trace, x: Tensor, sizes: dict[str, tuple[Number, Part]], *, bias: bool, sets: tuple[Number, ...] = (),
    bounds: tuple[Tensor, ...] = (), adapted: bool = False, read: Matrix | None = None,
) -> Tensor:
    """One ``F.linear`` of several layers' weights, one below the other: (..., d_in) -> (..., all of their widths).

    ``sizes``: the width of each layer, and its part in the model; the first one stands for all in the backward pass.
    ``sets`` of weights for rows up to ``bounds``: ``F.grouped_mm``, which keeps those, of weights as they are ``read``.
    With one adapter of all layers.
    """
    *lead, d_in = x.shape
    total, first = sum(width for width, _ in sizes.values()), next(iter(sizes))
    adapter = None if t.frozen is None or adapted or sets else t.frozen.over(t.path(""), sizes)
    if adapter is not None and t.frozen is not None:
        return t.frozen.adapted(t, first, x, total, adapter, bias=bias, tied=None, part="", copied=False, joined=sizes)
    x, copies, steps, reads = _operands(t, first, x, total, f"{t.path(first)}.weight", "linear", bias=bias, sets=sets,
                                        read=read)
    wide = t.tensor(*lead, total, role=x.made, label=" ".join(sizes))
    for i, (name, (width, part)) in enumerate(sizes.items()):
        t.op(name, "linear", saves=(x, *copies, *bounds), part=part,
             weights={"weight": (width, d_in)} | ({"bias": (width,)} if bias else {}),
             products=(Product(1, prod(lead), width, d_in,
                               backward=(bool(read) or t.trains(f"{t.path(name)}.weight", "linear")) + t.needs(x)),),
             reads=(x, *bounds, wide) if i else (*reads, *bounds),
             writes=(t.alias(wide, *lead, width) if i else wide,), backward=() if i else steps,
             apart=True)
    return wide


def _weight(
    t: Trace, name: str, operator: Operator, path: str, *shape: Number, viewed: bool = False, kind: Name = "linear",
) -> tuple[tuple[Tensor, ...], Gradient]:
    """The weight at ``path`` as an operator reads it: autocast's copy, or none; and its gradient.

    Weights that are trained are cast once, others for every operator (``cached_cast`` in ``autocast_mode.cpp``).
    """
    role = autocast(t, operator)
    if role is None or t.workload.bytes_of(role) == t.workload.bytes_of(Role.WEIGHT):
        return (), of_weight(path, *shape, viewed=viewed)
    trained = t.trains(path, kind)
    x = t.tensor(*shape, role=role, label=f"{name}, cast", grad=trained)
    t.op(name, "cast" if trained else "elementwise", writes=(x,), backward=((of_weight(path, *shape),),) * trained)
    return (x,), to(x.view(*shape) if viewed else x)


def convolution(
    t: Trace, name: str, x: Tensor, d_out: Number, positions: Number, kernel: tuple[Number, ...], *, bias: bool,
    groups: Number = 1,
) -> Tensor:
    """``F.conv1d``/``F.conv2d``: (b, d_in, ...) -> (b, positions, d_out), as many output ``positions`` as the
    stride leaves. Keeps its input. Every output is a product with d_in / groups x kernel inputs."""
    b, d_in, *_ = x.shape
    d_in = d_in // groups
    weights = {"weight": (d_out, d_in, *kernel)} | ({"bias": (d_out,)} if bias else {})
    product = Product(groups, b * positions, d_out // groups, d_in * prod(kernel),
                      backward=t.trains(f"{t.path(name)}.weight", "linear") + t.needs(x))
    reach = kernel[0] if len(kernel) == 1 else None
    path = t.path(name)
    added, offset = _weight(t, name, "convolution", f"{path}.bias", d_out) if bias else ((), None)
    own, weight = _weight(t, name, "convolution", f"{path}.weight", d_out, d_in, *kernel)
    (x,) = casts(t, name, "convolution", x)
    made = [to(x), weight, *([] if offset is None else [offset])]
    return t.op(name, "linear", weights=weights, products=(product,), saves=(x, *own), reach=reach,
                reads=(x, *own, *added), writes=(t.tensor(b, positions, d_out, label=name),), backward=(tuple(made),))


def matmul(
    t: Trace, name: str, a: Tensor, b: Tensor, product: Product, out: Tensor, *, kind: Name = "core",
    cache: Cache | None = None, reach: Number | None = None,
) -> Tensor:
    """``torch.matmul`` to ``out``: keeps both factors, and makes the gradient of the second one first."""
    product = product._replace(backward=min(product.backward, t.needs(a) + t.needs(b)))
    return t.op(name, kind, products=(product,), saves=(a, b), cache=cache, reads=(a, b), writes=(out,), reach=reach,
                backward=((to(b),), (to(a),)), apart=True)


def parameter(t: Trace, name: str, *shape: Number, kind: Name = "elementwise") -> None:
    """A bare weight that is added or joined to the hidden states: keeps nothing."""
    t.op(name, kind, weights={"": shape})


def learned(
    t: Trace, name: str, shape: tuple[Number, ...], *view: Number, how: How = "new", weighs: bool = True
) -> Tensor:
    """A bare weight as a tensor of the shape ``view``. ``how``: its gradient comes. ``weighs``: it has not been yet."""
    return t.op(name, "elementwise", weights={"": shape} if weighs else {},
                writes=(t.tensor(*(view or shape), role=Role.PARAMETER, label=name),),
                backward=((Gradient(t.path(name), shape, Role.WEIGHT, how=how),),))


def embedding(
    t: Trace, name: str, ids: Tensor, rows: Number, width: Number, *, tied: str | None = None, frozen: bool = False,
    part: Part = "",
) -> Tensor:
    """``F.embedding``: indices (...) -> (..., width). Keeps the indices, unless the table is ``frozen``.

    ``tied``: the path of another op's table.
    """
    weight = of_weight(tied or f"{t.path(name)}.weight", rows, width)
    return t.op(name, "embedding", weights={} if tied else {"weight": (rows, width)}, saves=() if frozen else (ids,),
                reads=(ids,), writes=(t.tensor(*ids.shape, width, role=Role.WEIGHT, label=name, grad=not frozen),),
                backward=() if frozen else ((weight,),), part=part)


# ---------------------------------------------------------------- views and copies


def view(t: Trace, name: str, x: Tensor, *shape: Number, copied: bool = False) -> Tensor:
    """A view of that shape, or of its own: all of ``x``, as one of several or for all that read it, or a part of it.

    ``copied``: its gradient comes in memory of its own: put into zeros, joined with others, or in another order.
    """
    joins = x.strided and not copied and len(shape or x.shape) < len(x.shape)  # axes that are none in memory: a copy
    y = t.tensor(*shape, role=x.made, label=x.label) if joins else t.alias(x, *(shape or x.shape))
    y = y if shape else y._replace(strided=x.strided)
    return t.op(name, "elementwise", reads=(x,), writes=(y,), backward=((to(x) if copied else through(x),),))


def copy(t: Trace, name: str, x: Tensor, label: str | None = None) -> Tensor:
    """``x.contiguous()`` of a tensor whose axes lie in another order: keeps nothing."""
    return t.op(name, "elementwise", reads=(x,), writes=(like(t, x, x.label if label is None else label),),
                backward=((through(x),),))


def gathered(
    t: Trace, name: str, xs: tuple[Tensor, ...], *shape: Number, label: str = "", scores: bool = False
) -> Tensor:
    """``torch.cat`` or ``torch.stack``: the gradient of each is a view of the output's. Keeps nothing."""
    y = t.tensor(*shape, role=widest(t, *(x.made for x in xs)), label=label, scores=scores)
    return t.op(name, "elementwise", reads=xs, writes=(y,), backward=(tuple(part_of(x) for x in xs),))


# ---------------------------------------------------------------- elementwise


def elementwise(
    t: Trace, name: str, kind: Name, x: Tensor, out: Tensor, *, keeps: tuple[Tensor, ...] = (), temporaries: int = 0,
    others: tuple[Tensor, ...] = (),
) -> Tensor:
    """One output of one input, whose gradient takes so many temporaries."""
    steps = (*((temporary(x),) for _ in range(temporaries)), (to(x),))
    return t.op(name, kind, saves=keeps, reads=(x,), writes=(out, *others), backward=steps)


def made(
    t: Trace, name: str, *shape: Number, role: Role = Role.INDEX, of: Tensor | tuple[Tensor, ...] = (), label: str = "",
    kind: Name = "elementwise", scores: bool = False,
) -> Tensor:
    """A tensor without a gradient, integers if nothing is said, of nothing or of others."""
    return t.op(name, kind, reads=(of,) if isinstance(of, Tensor) else of,
                writes=(t.tensor(*shape, role=role, label=label or name, scores=scores, grad=False),))


def like(t: Trace, x: Tensor, label: str, role: Role | None = None) -> Tensor:
    """A new tensor of the shape of ``x``, in another role where one is given."""
    return t.tensor(*x.shape, role=x.made if role is None else role, label=label, scores=x.scores, grad=x.grad)


def cast(t: Trace, name: str, x: Tensor, role: Role, *, kind: Name = "elementwise", label: str = "") -> Tensor:
    """``x.to(dtype)``: a copy, unless it has that dtype already. Keeps nothing."""
    if t.workload.bytes_of(role) == t.workload.bytes_of(x.made):
        return x
    wide = "fp32" if role is Role.FLOAT32 else t.workload.dtype
    return t.op(name, kind, reads=(x,), writes=(like(t, x, label or f"{x.label} in {wide}", role),),
                backward=((through(x),),))


def casts(t: Trace, name: str, operator: Operator, *xs: Tensor) -> tuple[Tensor, ...]:
    """The inputs of an operator, cast as autocast has it: the last one first. What a stage has received is a leaf, and
    so cast once, as weights are."""
    role = autocast(t, operator, *xs)
    return xs if role is None else tuple(
        cast(t, name, x, role, kind="cast" if t.received(x) and x.grad else "elementwise") for x in xs[::-1])[::-1]


def multiply(t: Trace, name: str, a: Tensor, b: Tensor, *, broadcast: bool = False) -> Tensor:
    """``a * b``: keeps both. ``broadcast``: ``b`` is one column, or one for each head."""
    steps: Steps = ((to(a),), (to(b),))
    if broadcast:
        steps = ((to(a),), (temporary(a, passing=1),), (summed(b),))
    return t.op(name, "product", saves=(a, b), reads=(a, b), writes=(like(t, a, name, widest(t, a.role, b.role)),),
                backward=steps, apart=True)


def scaled(t: Trace, name: str, x: Tensor, *, kind: Name = "elementwise", buffer: bool = False) -> Tensor:
    """``x`` times a number, or a ``buffer``, which is as wide as the weights: keeps nothing."""
    return elementwise(t, name, kind, x, like(t, x, x.label, widest(t, x.made, Role.WEIGHT) if buffer else None))


def shifted(t: Trace, name: str, x: Tensor, *, buffer: bool = False) -> Tensor:
    """``x`` plus a number, or a ``buffer``, which is as wide as the weights: keeps nothing."""
    y = like(t, x, x.label, widest(t, x.made, Role.WEIGHT) if buffer else None)
    return t.op(name, "shift", reads=(x,), writes=(y,), backward=((through(x),),))


def scale(
    t: Trace, name: str, x: Tensor, *, weight: str = "", shape: tuple[Number, ...] = (), kind: Name = "scale",
    first: bool = False,
) -> Tensor:
    """``x * weight`` over the last axis, or over those of ``shape``: keeps its input.

    The weight's gradient is summed in the dtype of ``x``. ``weight``: its name, if it has one. ``first``: it is the
    first factor.
    """
    shape = shape or x.shape[-1:]
    steps: Steps = ((to(x),), (temporary(x, passing=1),))
    if t.workload.bytes_of(x.role) > t.workload.bytes_of(Role.WEIGHT):
        steps = (*steps, (Gradient(None, shape, x.role, passing=1, summed=True),))
    gradient = of_weight(f"{t.path(name)}.{weight}" if weight else t.path(name), *shape, viewed=True)
    gradient = gradient._replace(summed=True, first=first)
    return t.op(name, kind, weights={weight: shape}, saves=(x,), reads=(x,),
                writes=(like(t, x, name, widest(t, x.role, Role.WEIGHT)),), backward=(*steps, (gradient,)), apart=True)


def add(t: Trace, a: Tensor, b: Tensor, name: str = "residual", *, label: str = "") -> Tensor:
    """``a + b`` with ``b`` broadcast to ``a``: keeps nothing and weighs nothing, but its result is a new tensor."""
    steps: Steps = ((through(a), through(b)),) if len(a.shape) == len(b.shape) else ((through(a),), (summed(b),))
    return t.op(name, "elementwise", reads=(a, b),
                writes=(like(t, a, label or name, widest(t, a.made, b.made)),), backward=steps)


def dropout(t: Trace, name: str, x: Tensor, p: float | None = None) -> Tensor:
    """``F.dropout``: keeps its mask. Without dropout there is no such op, and ``x`` goes on as it is.

    CUDA has one kernel for it; the CPU makes a mask as wide as its input, and multiplies. ``p``: one of its own.
    """
    if not (t.workload.drops if p is None else p > 0):
        return x
    on_cuda = t.workload.kernels == "cuda"
    mask = t.tensor(*x.shape, role=Role.BOOL if on_cuda else x.made, label="dropout mask", scores=x.scores, grad=False)
    out = like(t, x, f"{x.label} after dropout")
    if on_cuda:
        return elementwise(t, name, "dropout", x, out, keeps=(mask,), others=(mask,))
    t.op(name, "dropout", reads=(x,), writes=(mask,))
    return t.op(name, "dropout", saves=(mask,), reads=(x, mask), writes=(out,), backward=((to(x),),))


def softmax(t: Trace, name: str, x: Tensor, *, wide: str = "") -> Tensor:
    """``F.softmax`` in the dtype of its input: keeps its output. ``wide``: with ``dtype=torch.float32``, by a cast of
    that name, unless CUDA's kernel reads fp16 itself (``SoftMax.cpp``)."""
    fused = wide != "" and t.workload.kernels == "cuda" and t.workload.dtype == "fp16"
    if not fused:
        (x,) = (cast(t, wide, x, Role.FLOAT32),) if wide else casts(t, name, "softmax", x)
    out = like(t, x, name, Role.FLOAT32 if fused else None)
    gradient = to(x)._replace(own=fused)
    return t.op(name, "softmax", saves=(out,), reads=(x,), writes=(out,), backward=((gradient,),))
