"""Matrices stored in codes of a few bits, made whole for a product of many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.spec.weight_formats import FORMATS, PACKED
from txcalc.trace.kinds import Name
from txcalc.trace.tensors import Gradient, Number, Role, Steps, Tensor

if TYPE_CHECKING:
    from txcalc.spec.quantization import Quantization
    from txcalc.spec.weight_formats import Layout
    from txcalc.trace.record import Trace

    Packing = Quantization | Layout


def packing(t: Trace) -> Packing | None:
    """The format of the run's packed matrices: the one that is asked for, else that of the model's checkpoint."""
    name = t.workload.weights
    if name in PACKED:
        return FORMATS[name].layout
    own: Quantization | None = None if t.model is None or name not in (None, "released") else t.model.quantization
    return own


def layout(t: Trace, kind: Name, rows: Number) -> Packing | None:
    """The format of a matrix of this kind that is made whole for a product of so many rows; None if it is not.

    Beside adapters it always is, for autograd runs through ``MatMul4Bit``.
    """
    own = packing(t) if t.frozen is None else t.frozen.packing
    trains = t.frozen is None and t.workload.keeps
    if own is None or trains or not (kind == "linear" or (kind == "head" and own.head)):
        return None
    known, count = FORMATS.get(own.method), t.size(rows)
    least = None if known is None else known.unpacks
    return own if t.frozen or (least is not None and count is not None and count >= least) else None


def computed(t: Trace, own: Packing) -> Role:
    """The dtype of a product on such a matrix: ``bnb_4bit_compute_dtype``, which bitsandbytes minds in fp16 alone."""
    return Role.FLOAT32 if own.computes is not None and t.workload.dtype == "fp16" else Role.ACTIVATION


def scales(t: Trace, own: Packing, d_out: Number, d_in: Number) -> tuple[Tensor, ...]:
    """Storages that packed scales of a packed matrix are unpacked to."""
    again = own.scale_group is not None
    return (t.tensor(-(-d_out * d_in // 64), role=Role.FLOAT32, label="scales", grad=False),) if again else ()


def unpacked(t: Trace, name: str, own: Packing, d_out: Number, d_in: Number) -> tuple[tuple[Tensor, ...], Steps]:
    """A packed matrix in the dtype for one product, and its scales; what the backward pass makes of it once more.

    As bitsandbytes' ``MatMul4Bit`` does, and AutoAWQ's ``WQLinearMMFunction``.
    """
    role, known, temporaries = computed(t, own), FORMATS.get(own.method), list[Gradient]()
    halves = known is not None and known.halves and (role is Role.FLOAT32 or t.workload.dtype != "fp16")
    wide = t.workload.bytes_of(Role.ACTIVATION) > 2  # an fp16 matrix is half of what is there
    shape: tuple[Number, ...] = (d_out * d_in // 2,) if halves and wide else (d_out, d_in)
    weight = t.tensor(*shape, role=Role.ACTIVATION if halves else role, label="unpacked weight", grad=False)
    temporaries.append(Gradient(None, shape, weight.role, passing=1))
    scaled, moved = scales(t, own, d_out, d_in), scales(t, own, d_out, d_in)
    if scaled:
        t.op(name, "elementwise", writes=scaled)
        t.op(name, "elementwise", reads=scaled, writes=moved)
        temporaries.insert(0, Gradient(None, scaled[0].shape, Role.FLOAT32, passing=1))
    t.op(name, "elementwise", reads=moved, writes=(weight,))
    if halves:
        half, weight = weight, t.tensor(d_out, d_in, role=role, label="weight in the dtype", grad=False)
        t.op(name, "elementwise", reads=(half,), writes=(weight,))
        temporaries.append(Gradient(None, (d_out, d_in), role, passing=1))
        return (weight,), tuple((each,) for each in temporaries)
    held = scaled if t.workload.kernels == "cuda" else ()
    return (weight, *moved, *held), tuple((each,) for each in temporaries)
