"""Norms: what each keeps, whether it is one kernel or composed, and what its backward pass makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from txcalc.trace import curves, ops, parts
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import HeadNorm, Norm
    from txcalc.spec.model import Sublayers


class _NormKind(NamedTuple):
    """A norm that belongs to a layer and is no choice of the spec."""

    kind: Literal["layernorm", "rmsnorm", "affine"]
    scale: bool = True
    bias: bool = False


RMS: Final = _NormKind("rmsnorm")
"""RMSNorm with a scale."""
LAYER: Final = _NormKind("layernorm", bias=True)
"""LayerNorm with both."""


def norm(
    t: Trace, name: str, x: Tensor, spec: Norm | _NormKind, *, weight_shape: tuple[Number, ...] | None = None,
    again: bool = False,
) -> Tensor:
    """``F.layer_norm`` or ``F.rms_norm`` over the last axis. ``again``: with weights that are another op's.

    LayerNorm keeps its input, the mean and the reciprocal deviation of each row. RMSNorm keeps its input and one
    statistic where it is fused (CUDA); on the CPU it is composed in fp32, and keeps the fp32 input, the
    reciprocal root mean square and, when scaled by a weight, the normalised rows. A weight of more than one axis
    (each head its own) is beyond these kernels: it multiplies the normalised rows, which are kept for it.
    """
    shape = weight_shape or (x.shape[-1],)
    beyond = len(shape) > 1 or spec.kind == "affine"
    scaled_inside, biased_inside = spec.scale and not beyond, spec.bias and not beyond and spec.kind == "layernorm"
    weights = ({"weight": shape} if scaled_inside else {}) | ({"bias": shape} if biased_inside else {})
    with t.frame(x):
        if spec.kind == "rmsnorm" and t.code.rms_norm != "kernel":
            return _library_rms_norm(t, name, x, weights)
        if spec.kind != "affine":
            (x,) = ops.casts(t, name, spec.kind, x)
        if spec.kind == "affine":
            y = x
        elif spec.kind == "layernorm" or t.workload.fused_norms:
            statistics = ("mean", "rstd") if spec.kind == "layernorm" else ("rstd",)
            y = _fused_norm(t, name, x, statistics, weights, again=again)
        else:
            y = _composed_rms_norm(t, name, x, weights)
        if spec.scale and beyond:
            y = ops.scale(t, name, y, weight="weight", shape=shape, kind="norm")
        if spec.bias and not biased_inside:
            gradient = ops.of_weight(f"{t.path(name)}.bias", *shape, viewed=True)
            y = t.op(name, "norm", weights={"bias": shape}, reads=(y,), writes=(ops.like(t, y, name),),
                     backward=((ops.through(y),), (gradient,)))
    return y


def of_heads(t: Trace, name: str, x: Tensor, spec: HeadNorm | None, dim: Number) -> Tensor:
    """Queries or keys (b, n, width), as they are, normed, or each head of so many columns normed."""
    if spec is None or spec.over == "full":
        return x if spec is None else norm(t, f"{name}_norm", x, spec)
    b, n, width = x.shape
    return norm(t, f"{name}_norm", x.view(b, n, width // dim, dim), spec).view(b, n, width)


def before(t: Trace, name: str, x: Tensor, block: Sublayers) -> Tensor:
    """The norm of what the sublayer of this name reads, or two where it has global tokens, and its gate, if any."""
    spec, blocks = block.norm, getattr(block.attention, "blocks", None) if name == "attention" else None
    if blocks is not None and blocks.global_tokens:
        b, m, _ = x.shape
        first = 0 if t.size(m) == 0 else blocks.global_tokens
        both = (norm(t, f"{label}_norm", parts.positions(t, f"{label}_split", x, count), spec)
                for label, count in (("global_attention", first), (name, m - first)))
        return parts.join_positions(t, "attention_join", tuple(both), b, "normed")
    y = norm(t, f"{name}_norm", x, spec)
    timed, feeds = spec.gate_on == "time", name == "feed_forward"
    if spec.gate_rank is None or (feeds and spec.gate_on == "attention") or (timed and not feeds):
        return y
    with t.frame(y), t.scope(f"{name}_norm_gate", component="norm gate"):
        read = y
        if timed:  # one vector for all, if there are any
            rows = int(all(t.size(axis) != 0 for axis in x.shape[:2]))
            read = t.tensor(rows, x.shape[-1], role=Role.PARAMETER, label="time", grad=False)
            t.op("time", "elementwise", writes=(read,))
        h = curves.activation(t, "activation", ops.linear(t, "down", read, spec.gate_rank), "gelu" if timed else "silu")
        gate = ops.linear(t, "up", h, x.shape[-1])
        gate = ops.shifted(t, "gate", gate) if timed else curves.activation(t, "gate", gate, "sigmoid")
        return ops.multiply(t, "gated", y, gate, broadcast=timed)


def _fused_norm(
    t: Trace, name: str, x: Tensor, statistics: tuple[str, ...], weights: dict[str, tuple[Number, ...]], *, again: bool
) -> Tensor:
    *rows, _ = x.shape
    bare = t.workload.precision == "amp" and t.workload.kernels == "cpu" and not weights
    role = x.made if bare else Role.STATISTIC  # the CPU's are in the widest dtype of what it is given
    found = tuple(t.tensor(*rows, 1, role=role, label=label) for label in statistics)
    made = (ops.to(x), *(ops.of_weight(f"{t.path(name)}.{key}", *shape) for key, shape in weights.items()))
    return t.op(name, "norm", weights={} if again else weights, saves=(x, *found), reads=(x,),
                writes=(ops.like(t, x, name), *found), backward=(made,))


def _composed_rms_norm(t: Trace, name: str, x: Tensor, weights: dict[str, tuple[Number, ...]]) -> Tensor:
    """``x * rsqrt(mean(x ** 2) + eps)``, then times the weight, in fp32."""
    *rows, _ = x.shape
    with t.frame():
        with t.frame():
            wide = t.hold(ops.cast(t, name, x, Role.FLOAT32, kind="norm"))
            with t.frame():
                squares = t.tensor(*x.shape, role=Role.FLOAT32, label="squares")
                ops.elementwise(t, name, "norm", wide, t.hold(squares), keeps=(wide,), temporaries=2)
                mean = t.tensor(*rows, 1, role=Role.FLOAT32, label="mean of squares")
                ops.elementwise(t, name, "norm", squares, mean)
                rstd = t.tensor(*rows, 1, role=Role.FLOAT32, label="rstd")
                ops.elementwise(t, name, "norm", mean, rstd, keeps=(rstd,), temporaries=2)
            y = t.op(name, "norm", saves=(wide, rstd), reads=(wide, rstd),
                     writes=(t.tensor(*x.shape, role=Role.FLOAT32, label="normalised"),),
                     backward=((ops.to(wide),), (ops.temporary(wide, passing=1),), (ops.summed(rstd),)),
                     apart=True)
            if weights:
                y = ops.scale(t, name, y, weight="weight", shape=weights["weight"], kind="norm")
        t.hold(rstd)
        return ops.cast(t, name, y, x.made, kind="norm", label=name)


def _library_rms_norm(t: Trace, name: str, x: Tensor, weights: dict[str, tuple[Number, ...]]) -> Tensor:
    """The RMSNorm of transformers: in fp32 up to the weight, which multiplies a copy in the dtype of ``x``, or is one
    less than what multiplies it in fp32."""
    with t.frame():
        wide = ops.cast(t, name, x, Role.FLOAT32, kind="norm")
        squares = ops.like(t, x, "squares", Role.FLOAT32)
        ops.elementwise(t, name, "norm", wide, squares, keeps=(wide,), temporaries=2)
        mean, moved, rstd = (t.tensor(*x.shape[:-1], 1, role=Role.FLOAT32, label=label)
                             for label in ("mean of squares", "mean of squares", "rstd"))
        ops.elementwise(t, name, "norm", squares, mean if t.code.rms_norm == "offset" else t.hold(mean))
        t.op(name, "norm", reads=(mean,), writes=(moved,), backward=((ops.through(mean),),))
        ops.elementwise(t, name, "norm", moved, rstd, keeps=(rstd,), temporaries=2)
        normalised = ops.like(t, x, "normalised", Role.FLOAT32)
        if t.code.rms_norm not in ("offset", "narrow"):
            t.hold(normalised)
        factor, of_rstd = (x, ops.summed(rstd)) if t.code.rms_norm == "narrow" else (wide, ops.to(rstd))
        t.op(name, "norm", saves=(factor, rstd), reads=(factor, rstd), writes=(normalised,),
             backward=((ops.to(factor),), (ops.temporary(wide, passing=1),), (of_rstd,)), apart=True)
        if t.code.rms_norm == "offset":
            y = t.hold(_offset_scale(t, name, normalised, weights["weight"]))
            return ops.cast(t, name, y, x.made, kind="norm", label=name)
        if t.code.rms_norm == "wide":
            y = t.hold(ops.scale(t, name, normalised, weight="weight", shape=weights["weight"], kind="norm"))
            return ops.cast(t, name, y, x.made, kind="norm", label=name)
        y = ops.cast(t, name, normalised, x.made, kind="norm", label=name)
        return ops.scale(t, name, y, weight="weight", shape=weights["weight"], kind="norm", first=True)


def _offset_scale(t: Trace, name: str, x: Tensor, shape: tuple[Number, ...]) -> Tensor:
    """``x * (1.0 + weight.float())`` in fp32: keeps ``x`` and what multiplies it."""
    narrow = t.workload.bytes_of(Role.WEIGHT) < t.workload.bytes_of(Role.FLOAT32)
    weights, path = {"weight": shape}, f"{t.path(name)}.weight"
    wide, factor = (t.tensor(*shape, role=Role.FLOAT32, label=label, grad=narrow)
                    for label in ("weight in fp32", "weight and one"))
    if narrow:
        t.op(name, "norm", weights=weights, writes=(wide,), backward=((ops.of_weight(path, *shape),),))
    t.op(name, "norm", reads=(wide,) if narrow else (), writes=(factor,), backward=((ops.through(wide),),))
    of_factor = (ops.to(factor) if narrow else ops.of_weight(path, *shape, viewed=True))._replace(summed=True)
    saves = (x, factor) if t.needs(x) else (x,)
    return t.op(name, "norm", weights={} if narrow else weights, saves=saves, reads=(x, factor),
                writes=(ops.like(t, x, name),), backward=((ops.to(x),), (ops.temporary(x, passing=1),), (of_factor,)),
                apart=True)
