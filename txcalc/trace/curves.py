"""Elementwise nonlinearities and quotients, each PyTorch's own or composed of its operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from txcalc.trace import ops
from txcalc.trace.autocast import widest
from txcalc.trace.record import Trace
from txcalc.trace.sizes import several
from txcalc.trace.tensors import Gradient, Role, Steps, Tensor

if TYPE_CHECKING:
    from txcalc.spec.base import Curve


def activation(t: Trace, name: str, x: Tensor, kind: Curve | Literal["softplus"]) -> Tensor:
    """An elementwise nonlinearity. gelu, silu and softplus keep their input, relu, tanh and sigmoid their output."""
    if kind == "xielu":
        return _xielu(t, name, x)
    if t.workload.implementation == "transformers" and kind in ("gelu", "gelu_tanh"):
        compose = {"gelu_tanh composed": _gelu_new, "gelu_tanh fast": _gelu_fast, "gelu erf": _gelu_erf}.get(
            f"{kind} {t.model.gelu or t.code.gelu_tanh}")
        if compose is not None:
            with t.frame(x):
                return compose(t, name, x)
    if kind == "relu2":
        with t.frame(x), t.frame(relu := activation(t, name, x, "relu")):
            (base,) = ops.casts(t, name, "pow", relu)
            return ops.elementwise(t, name, "slope_out", base, ops.like(t, base, kind), keeps=(base,), temporaries=2)
    if kind == "quick_gelu":
        gate = activation(t, name, ops.scaled(t, name, x), "sigmoid")
        return ops.multiply(t, name, x, gate)
    if kind == "softplus":
        with t.frame(x):
            (x,) = ops.casts(t, name, "softplus", x)
            return ops.elementwise(t, name, "slope_in", x, ops.like(t, x, kind), keeps=(x,))
    out = ops.like(t, x, kind)
    if kind in ("relu", "tanh", "sigmoid"):
        return ops.elementwise(t, name, "slope_out", x, out, keeps=(out,))
    return ops.elementwise(t, name, "slope_in", x, out, keeps=(x,))


def _gelu_new(t: Trace, name: str, x: Tensor) -> Tensor:
    """``0.5 x (1 + tanh(c (x + 0.044715 x^3)))`` in single steps: keeps x, the tanh, and both factors."""
    half = t.hold(ops.scaled(t, name, x))
    (base,) = ops.casts(t, name, "pow", x)
    cubes = ops.elementwise(t, name, "slope_in", base, ops.like(t, base, "cubes"), keeps=(base,), temporaries=2)
    inner = ops.scaled(t, name, ops.add(t, x, ops.scaled(t, name, cubes), name, label="argument of the tanh"))
    return ops.multiply(t, name, half, ops.shifted(t, name, activation(t, name, inner, "tanh")))


def _gelu_fast(t: Trace, name: str, x: Tensor) -> Tensor:
    """``0.5 x (1 + tanh(c x (1 + 0.044715 x x)))``: keeps x, the tanh, and the factors of all three products."""
    half, inner = t.hold(ops.scaled(t, name, x)), ops.scaled(t, name, x)
    more = ops.shifted(t, name, ops.multiply(t, name, ops.scaled(t, name, x), x))
    tanh = activation(t, name, ops.multiply(t, name, inner, more), "tanh")
    return ops.multiply(t, name, half, ops.shifted(t, name, tanh))


def _gelu_erf(t: Trace, name: str, x: Tensor) -> Tensor:
    """``0.5 x (1 + erf(x / sqrt(2)))``: keeps the argument of erf, and both factors."""
    half, inner = t.hold(ops.scaled(t, name, x)), ops.scaled(t, name, x)
    erf = ops.elementwise(t, name, "slope_in", inner, ops.like(t, inner, "erf"), keeps=(inner,), temporaries=4)
    return ops.multiply(t, name, half, ops.shifted(t, name, erf))


def _xielu(t: Trace, name: str, x: Tensor) -> Tensor:
    """``b x + p relu(x)^2 + n (exp(m) - 1 - m)`` with m = min(x, 0) and learned p and n (arXiv 2411.13010, section 4).

    Composed of PyTorch's functions: keeps x, what p and n multiply, what these are made of, and p and n themselves.
    """
    with t.frame(x):
        above = t.hold(activation(t, name, x, "relu"))
        zero, smaller = Gradient(None), Gradient(None, x.shape, Role.BOOL)
        below = t.hold(t.op(name, "xielu", saves=(x,), reads=(x,), writes=(ops.like(t, x, "minimum"),),
                            backward=((zero,), (smaller,), (ops.to(x),))))
        slope = _slope(t, name, "alpha_p", "slope above")
        (base,) = ops.casts(t, name, "pow", above)
        squares = ops.like(t, base, "relu squared")
        ops.elementwise(t, name, "xielu", base, squares, keeps=(base,), temporaries=2)
        curve = t.hold(_sloped(t, name, slope, squares))
        line = ops.add(t, ops.scaled(t, name, x), curve, name)
        slope = ops.shifted(t, name, _slope(t, name, "alpha_n", "slope below"))
        (base,) = ops.casts(t, name, "pow", below)
        power = ops.like(t, base, "exponential")
        ops.elementwise(t, name, "xielu", base, power, keeps=(power,), temporaries=1)
        beyond = ops.like(t, power, "exponential beyond its tangent")
        rest = t.op(name, "elementwise", reads=(power, below), writes=(beyond,),
                    backward=((ops.through(power), ops.to(below)),))
        return ops.add(t, line, _sloped(t, name, slope, rest), name, label="xielu")


def _slope(t: Trace, name: str, weight: str, label: str) -> Tensor:
    """``F.softplus`` of a weight, one number: keeps only that."""
    return t.op(name, "elementwise", weights={weight: (1,)}, writes=(t.tensor(1, role=Role.WEIGHT, label=label),),
                backward=((ops.of_weight(f"{t.path(name)}.{weight}", 1),),))


def _sloped(t: Trace, name: str, slope: Tensor, x: Tensor) -> Tensor:
    """``slope * x``: keeps both."""
    y = ops.like(t, x, name, widest(t, slope.made, x.made))
    of_slope = ops.summed(slope)._replace(first=True)
    steps: Steps = ((ops.temporary(y, passing=2),), (ops.to(x),), (of_slope,)) if t.needs(slope) else ((ops.to(x),),)
    return t.op(name, "xielu", saves=(slope, x), reads=(slope, x), writes=(y,), backward=steps, apart=True)


def cap(t: Trace, name: str, x: Tensor) -> Tensor:
    """``c tanh(x / c)``: keeps the tanh."""
    with t.frame(*(() if t.code.rebinds else (x,))):
        tanh = ops.like(t, x, f"tanh of {x.label}")
        ops.elementwise(t, name, "slope_out", ops.scaled(t, name, x, kind="shift"), tanh, keeps=(tanh,))
        return ops.scaled(t, name, tanh, kind="shift")


def normalize(t: Trace, a: Tensor, b: Tensor, *, in_place: bool = False) -> Tensor:
    """``a / b`` with one column in ``b``: keeps both. The gradient of ``b`` is ``-grad * (a / b / b)``, made first.

    ``in_place``: ``a`` becomes the result, and what is kept is a copy of it.
    """
    name = "normalize"
    last: Steps = ((ops.to(b),), (ops.to(a),))
    if several(t, a.shape[-1]):
        last = ((ops.temporary(a),), (ops.to(a),), (ops.summed(b),))
    out = t.alias(a, *a.shape) if in_place else ops.like(t, a, name, widest(t, a.role, b.role))
    steps = (*((ops.temporary(x, passing=n)._replace(own=n == 1),) for n, x in ((3, a), (2, a), (1, out))), *last)
    kept = a
    if in_place and t.workload.keeps and t.needs(a):
        kept = t.op(name, "elementwise", reads=(a,), writes=(ops.like(t, a, f"{a.label}, before", a.role),))
    return t.op(name, "weighing", saves=(kept, b), reads=(a, kept, b), writes=(out,), backward=steps, apart=True)


def tanh_gated(t: Trace, name: str, x: Tensor) -> Tensor:
    """``x`` times the tanh of one learned number, which is kept beside it where there are rows."""
    if t.size(x.shape[0]) == 0:
        ops.parameter(t, name, 1)
        return x
    gate = activation(t, f"{name}.tanh", ops.learned(t, name, (1,), how="same"), "tanh")
    return ops.multiply(t, f"{name}.product", x, gate)
