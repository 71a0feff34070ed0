"""Linear layers in float8, as torchao 0.18 makes them (``convert_to_float8_training``), with one scale of each tensor.

Its eager code: what a layer is given and its weight are cast in the forward pass, and both and the output's gradient,
twice, in the backward pass, which keeps the input as it was. Its functions are named in quotes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Final, NamedTuple

from txcalc.spec.errors import SpecError
from txcalc.trace.sizes import Product
from txcalc.trace.tensors import Gradient, Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.trace.kinds import Name
    from txcalc.trace.record import Part, Trace


MULTIPLE: Final = 16
"""Sizes of its products are multiples of so many."""


class _Made(NamedTuple):
    """A storage that a step makes, and how many steps more it outlives; 0: to the end."""

    shape: tuple[Number, ...]
    role: Role
    outlives: int
    of: Gradient | None = None


_CAST: Final = (  # as large as what is cast, or one number
    (True, Role.ACTIVATION, 1), (False, Role.ACTIVATION, 5),  # ``tensor_to_amax``
    (False, Role.FLOAT64, 4), (False, Role.FLOAT64, 2), (False, Role.FLOAT64, 1), (False, Role.FLOAT64, 1),
    (False, Role.FLOAT32, 0),  # ``amax_to_scale``
    (True, Role.FLOAT32, 1), (True, Role.FLOAT32, 2), (True, Role.FLOAT32, 1), (True, Role.FLOAT8, 0),
)
"""``hp_tensor_to_float8_dynamic`` of 16 bits: its scale and its codes stay."""
_READ: Final = (0, 7)
"""Steps that read what is cast itself: its magnitudes, and its copy in fp32."""


def _cast(*shape: Number) -> Iterator[_Made]:
    return (_Made(shape if whole else (), role, outlives) for whole, role, outlives in _CAST)


def _product(copied: Sequence[tuple[Number, ...]], of: Gradient | None, last: int) -> Iterator[_Made]:
    """``addmm_float8_unwrapped``, of columns and rows ``copied`` to lie as its kernel wants them, and their scales."""
    steps = (*((shape, Role.FLOAT8) for shape in copied), ((), Role.FLOAT32), ((), Role.FLOAT32))
    for i, (shape, role) in enumerate(steps):
        yield _Made(shape, role, (len(steps) - i) * last)
    if of is not None:
        yield _Made(of.shape, of.role, 0, of)


def converts(t: Trace, kind: Name) -> bool:
    """Tell whether a product of this kind is one of those that the run has in float8: of an ``nn.Linear``."""
    own = kind == "head" or (t.code.linear == "rows" and (kind == "linear" or (kind == "router" and not t.code.router)))
    return own and t.workload.precision == "float8"


def linear(
    t: Trace, name: str, x: Tensor, d_out: Number, *, tied: str | None, kind: Name, part: Part, copied: bool
) -> Tensor:
    """``matmul_with_hp_or_float8_args`` of (..., d_in), without a bias. ``copied``: its gradient comes in another
    order. Raises ``SpecError`` where a card has no kernel for these sizes."""
    *lead, d_in = x.shape
    rows, own = prod(lead), tied or f"{t.path(name)}.weight"
    for size in (d_in, d_out, rows):
        if (n := t.size(size)) is not None and n % MULTIPLE:
            raise SpecError(f"float8 products want sizes in multiples of {MULTIPLE}; {t.path(name)} has {n}",
                            field="precision")
    weight = Gradient(own, (d_out, d_in), Role.WEIGHT, how="view")
    back = [
        *([_Made((rows, d_out), Role.ACTIVATION, 0)] * copied),
        *_cast(rows, d_out), *_cast(d_out, d_in), *_product([(d_out, d_in)], Gradient(x, x.shape, x.made), 1),
        *_cast(rows, d_out), *_cast(rows, d_in), *_product([(rows, d_out), (rows, d_in)], weight, 0),
    ]
    steps = tuple((each.of or Gradient(None, each.shape, each.role, passing=each.outlives, own=True),) for each in back)
    ahead = [*_cast(rows, d_in), *_cast(d_out, d_in), *_product([], None, 0)]
    made = [t.tensor(*each.shape, role=each.role, label=f"{name}, cast", grad=False) for each in ahead]
    for i, each in enumerate(made):
        reads = [made[j] for j in range(i) if j + ahead[j].outlives == i]
        t.op(name, "elementwise", reads=(*([x] if i in _READ else []), *reads), writes=(each,))
    held = [each for each, step in zip(made, ahead, strict=True) if not step.outlives]
    weights = {} if tied else {"weight": (d_out, d_in)}
    return t.op(name, kind, weights=weights, products=(Product(1, rows, d_out, d_in),), saves=(x,), part=part,
                reads=(*held, x), writes=(t.tensor(*lead, d_out, label=name),), backward=steps)
