"""The operators that autocast runs in 16 bits, and those that it runs in fp32: what they are given is cast before.

The lists are those of torch 2.13: CUDA's in ``ATen/autocast_mode.h``, the CPU's in ``autocast_mode.cpp``. An operator
in no list runs on what it is given, in the widest dtype of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from txcalc.trace.tensors import Role, Tensor

if TYPE_CHECKING:
    from txcalc.trace.record import Trace
    from txcalc.trace.workload import Kernels

Operator = Literal["linear", "matmul", "convolution", "attention", "softmax", "layernorm", "rmsnorm", "softplus",
                   "sum", "cross_entropy", "nll_loss", "pow", "cat", "grouped_mm"]

Cast = Role | Literal["widest"]
_PRODUCTS: Final[tuple[Operator, ...]] = ("linear", "matmul", "convolution", "attention")
_LOWER: Final = dict.fromkeys(_PRODUCTS, Role.ACTIVATION)

_CUDA_FP32: Final[tuple[Operator, ...]] = ("softmax", "layernorm", "rmsnorm", "softplus", "sum", "nll_loss", "pow")

LISTS: Final[Mapping[Kernels, Mapping[Operator, Cast]]] = {
    "cuda": {**_LOWER, **dict.fromkeys(_CUDA_FP32, Role.FLOAT32)},
    "cpu": {**_LOWER, "cross_entropy": Role.FLOAT32, "cat": "widest"},
}
"""By whose kernels run, the operators whose tensors are cast, and to what."""


def autocast(t: Trace, operator: Operator, *given: Tensor) -> Role | None:
    """The role that what an operator is given is cast to, None where it is not."""
    found = LISTS[t.workload.kernels].get(operator) if t.workload.precision == "amp" else None
    return widest(t, *(x.made for x in given)) if found == "widest" else found


def widest(t: Trace, *roles: Role) -> Role:
    """The role of what is computed of several, in the widest dtype of theirs."""
    return max(roles, key=t.workload.bytes_of)
