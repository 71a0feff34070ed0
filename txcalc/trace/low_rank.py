"""Linear layers with adapters, as ``peft`` 0.21 runs them; its functions are named in quotes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from txcalc.spec.errors import SpecError
from txcalc.trace import ops
from txcalc.trace import packed as codes
from txcalc.trace.record import Part, Trace
from txcalc.trace.sizes import Product, several
from txcalc.trace.tensors import Gradient, Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.adapters import Adapter


def linear(
    t: Trace, name: str, x: Tensor, d_out: Number, adapter: Adapter, *, bias: bool, tied: str | None, part: Part,
    copied: bool, joined: dict[str, tuple[Number, Part]] | None = None,
) -> Tensor:
    """``lora.Linear.forward``, or ``Linear4bit.forward`` on packed weights. ``joined``: layers in one matrix."""
    with t.frame(x):
        y = ops.linears(t, x, joined, bias=bias, adapted=True) if joined else ops.dense(
            t, name, x, d_out, bias=bias, tied=tied, part=part, copied=copied)
        packed, own = t.frozen is not None and t.frozen.packing is not None, tied or f"{t.path(name)}.weight"
        with t.scope("_".join(joined or (name,))):
            y = ops.copy(t, "clone", y) if packed else y
            gathered = bool(t.layout.shards)  # in the dtype of what is computed, whatever they are stored in
            wide = Role.FLOAT32 if adapter.dtype in (None, "fp32") and not gathered else Role.ACTIVATION
            x = t.hold(ops.cast(t, "cast", x, wide))
            if t.workload.dora is not None:
                with t.frame(x, y):
                    dropped = t.hold(ops.dropout(t, "lora_dropout", x, adapter.dropout))
                    delta = _decomposed(t, own, dropped, y, d_out, adapter, bias=bias, copied=copied)
                    total = ops.add(t, y, delta, "sum")
                return ops.cast(t, "cast_back", total, y.made, label=name)
            dropped = ops.dropout(t, "lora_dropout", x, adapter.dropout)
            delta = ops.scaled(t, "scaling", _low(t, dropped, d_out, adapter, copied=copied))
            if packed:  # it adds what has been cast
                return ops.add(t, y, t.hold(ops.cast(t, "cast_back", delta, y.made)), "sum", label=name)
            return ops.cast(t, "cast_back", ops.add(t, y, delta, "sum"), y.made, label=name)


def summed(
    t: Trace, joined: tuple[str, ...], sets: Number, d_out: Number, d_in: Number
) -> Callable[[], ops.Matrix | None]:
    """``ParamWrapper`` of a weight (sets, d_out, d_in): what makes W + BA of it, once it is read; nothing without an
    adapter, whose rank is as much higher as layers are ``joined``. The sum is made before as well, to look at it."""
    adapter = None if t.frozen is None else t.frozen.over(t.path(""), joined, experts=True)
    if adapter is None or t.frozen is None:
        return lambda: None
    for what, there in (("dropout", adapter.dropout > 0), ("DoRA", t.workload.dora is not None),
                        ("4-bit weights", t.frozen.packing is not None), ("sharding", t.layout.shards > 0),
                        ("a single one", t.size(sets) == 1)):
        if there:
            why = "refused by peft" if what in ("dropout", "DoRA") else "not counted yet"
            raise SpecError(f"targets: here {joined[0]} is in one tensor of all experts: adapters of it with {what} "
                            f"are {why}; name others, such as attention", field=t.frozen.field)
    r, name = adapter.r * len(joined), "_".join(joined)
    with t.scope(name):
        b, a = (t.hold(_factor(t, adapter, *of)) for of in (
            ("lora_B", (d_out, r), (d_out, sets * r)), ("lora_A", (r, d_in), (sets * r, d_in))))
        product = Product(sets, d_out, d_in, r)
        t.op("check", "adapter", products=(product._replace(backward=0),), reads=(b, a), writes=(
            t.tensor(sets, d_out, d_in, role=Role.WEIGHT, label="W + BA", grad=False),))

    def made() -> ops.Matrix:
        whole = t.tensor(sets, d_out, d_in, role=Role.WEIGHT, label="W + BA")
        before, scales = ops.to(b)._replace(of=None, passing=1), adapter.alpha not in (None, adapter.r)
        steps = [(g,) for x in (b, a) for g in (*(before._replace(shape=x.shape),) * scales, ops.to(x))]
        with t.scope(name):
            t.op("sum", "adapter", products=(product,), saves=(b, a), reads=(b, a), writes=(t.hold(whole),),
                 backward=tuple(steps), apart=True)
        return ops.Matrix((), None, (whole,), ops.to(whole.view(*whole.shape)))

    return made


def _factor(
    t: Trace, adapter: Adapter, name: str, own: tuple[Number, ...], shape: tuple[Number, ...]
) -> Tensor:
    """A factor of all sets in the dtype of the weights; what comes back of B lies in another order, and is copied."""
    role = Role.FLOAT32 if adapter.dtype in (None, "fp32") else Role.WEIGHT
    x = t.tensor(*shape, role=Role.PARAMETER, label=name)
    t.op(name, "adapter", weights={"weight": own}, writes=(x,), backward=((Gradient(
        f"{t.path(name)}.weight", shape, role, how="new" if name == "lora_B" else "same"),),))
    if t.workload.bytes_of(role) == t.workload.bytes_of(Role.WEIGHT):
        return x
    return t.op("cast", "elementwise", reads=(x,), writes=(t.tensor(*shape, role=Role.WEIGHT, label=name),),
                backward=((Gradient(x, shape, role),),))


def _low(t: Trace, x: Tensor, d_out: Number, adapter: Adapter, *, copied: bool) -> Tensor:
    low = ops.dense(t, "lora_A", x, adapter.r, kind="adapter")
    return ops.dense(t, "lora_B", low, d_out, kind="adapter", copied=copied)


def _decomposed(
    t: Trace, own: str, x: Tensor, y: Tensor, d_out: Number, adapter: Adapter, *, bias: bool, copied: bool
) -> Tensor:
    """``DoraLinearLayer.forward`` of (..., d_in) in the adapter's dtype, and of ``y``, what the frozen layer made.

    The norms are those of rows of W + BA; the product BA is ``B(A(identity))``, which autograd saves for as long as its
    result is alive. With dropout the frozen product runs once more, on the weight in the adapter's dtype.
    """
    d_in, role = x.shape[-1], x.made
    eye, low, product = (t.tensor(d_in, n, role=role, label=label, grad=False) for n, label in (
        (d_in, "identity"), (adapter.r, "low rank"), (d_out, "product of adapters")))
    with t.frame(eye, low, saved=True), t.frame(x, y, product):
        with t.frame(eye):
            t.op("dora", "elementwise", writes=(eye,))
            for given, out in ((eye, low), (low, product)):
                t.op("dora", "elementwise", products=(Product(1, d_in, out.shape[1], given.shape[1], backward=0),),
                     reads=(given,), writes=(out,))
        weight = t.hold(_weight(t, d_out, d_in, role))
        norms = t.hold(_norms(t, weight, product))
        magnitude = t.tensor(d_out, role=role, label="magnitude over norm")
        t.op("lora_magnitude_vector", "adapter", weights={"weight": (d_out,)}, saves=(norms,), reads=(norms,),
             writes=(magnitude,), backward=((Gradient(t.path("lora_magnitude_vector.weight"), (d_out,), role),),))
        by_row = t.hold(magnitude.view(1, d_out))
        delta = t.hold(_low(t, x, d_out, adapter, copied=copied))
        if adapter.dropout:
            y = ops.dense(t, "base", x, d_out, tied=own, copied=copied, read=ops.Matrix(
                (), None, (weight,), Gradient(own, (d_out, d_in))))
        elif bias:
            y = ops.shifted(t, "bias", y)
        t.hold(y)
        base = _times(t, "base_scale", ops.shifted(t, "base_scale", by_row), y)
        delta = ops.scaled(t, "scaling", _times(t, "lora_scale", by_row, delta))
        return ops.add(t, base, delta, "dora_sum")


def _weight(t: Trace, d_out: Number, d_in: Number, role: Role) -> Tensor:
    """``dequantize_module_weight`` in the adapter's dtype."""
    layout = None if t.frozen is None else t.frozen.packing
    if layout is None:
        return ops.cast(t, "cast", t.tensor(d_out, d_in, role=Role.PARAMETER, label="weight", grad=False), role)
    weight = t.tensor(d_out, d_in, label="unpacked weight", grad=False)
    scales = codes.scales(t, layout, d_out, d_in)
    for made in scales:
        t.op("unpacked", "elementwise", writes=(made,))
    return ops.cast(t, "cast", t.op("unpacked", "elementwise", reads=scales, writes=(weight,)), role)


def _norms(t: Trace, weight: Tensor, product: Tensor) -> Tensor:
    """``get_weight_norm``."""
    (d_out, d_in), role = weight.shape, product.role
    made: Callable[..., Tensor] = partial(ops.made, t, "weight_norm", d_out, role=role)
    with t.frame():
        scaled = made(d_in, of=product, label="scaled product")
        return made(of=t.hold(made(d_in, of=(weight, scaled), label="W + BA")), label="norms")


def _times(t: Trace, name: str, rows: Tensor, x: Tensor) -> Tensor:
    """``rows * x`` of one number for each column: keeps both."""
    if len(x.shape) == 2 and not several(t, x.shape[0]):
        return ops.multiply(t, name, rows, x)
    out = ops.like(t, x, name, rows.made)
    return t.op(name, "product", saves=(rows, x), reads=(rows, x), writes=(out,), apart=True,
                backward=((ops.to(x),), (ops.temporary(out, passing=1),), (ops.summed(rows)._replace(first=True),)))
