"""A weight that is trained, as optimizers see it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

from txcalc.trace.record import Op, Trace


class Parameter(NamedTuple):
    """A weight that is trained, or as many alike as there are ``copies``: an element has ``width`` bytes.
    ``head``: elements of one of attention's heads, of a square projection."""

    op: Op
    path: str
    name: str
    shape: tuple[int, ...]
    width: int
    copies: int
    head: int = 1

    @property
    def elements(self) -> int:
        """Of one copy."""
        return prod(self.shape)


def reads_rows(op: Op) -> bool:
    """Tell whether an operation reads whole rows, and not those of heads."""
    return len(op.reads[0].shape) == 3


def summed(trace: Trace, op: Op, name: str = "weight") -> bool:
    """Ranks have each a part of the positions, or of the heads, that all of a weight is used on, and so of its
    gradient: of a norm's, and of Megatron-LM's routers and biases after a sum."""
    layout, w = trace.layout, trace.workload
    if op.within.tower or not op.reads:
        return False
    shape, scales = op.reads[0].shape, op.kind.group == "norm" or op.kind.name == "scale"
    if trace.code.adds_gradients:
        scales |= op.kind.group == "router" or (name == "bias" and op.part in ("attention output", "down"))
        return scales and (layout.sp or len(shape) == 4)
    parts = layout.by_position * layout.cp
    return scales and (len(shape) == 4 or (layout.sp and reads_rows(op) and shape[1] * parts == w.seq))


Elements = Callable[[Parameter], int]


def every(p: Parameter) -> int:
    """All elements."""
    return p.elements


def one(_: Parameter) -> int:
    """A single number."""
    return 1


def rows(p: Parameter) -> int:
    """One for each row of a matrix."""
    return prod(p.shape[:-1])


def columns(p: Parameter) -> int:
    """One for each column of a matrix."""
    return prod(p.shape[:-2]) * p.shape[-1]


def matrices(p: Parameter) -> int:
    """One for each matrix."""
    return prod(p.shape[:-2])


def square(p: Parameter) -> int:
    """A square of a matrix's shorter side."""
    return min(p.shape) ** 2


def outputs(p: Parameter) -> int:
    """One for each output."""
    return p.shape[0]


def heads(p: Parameter) -> int:
    """One for each head."""
    return p.elements // p.head


def per(elements: int) -> Elements:
    """One for each block of so many, the last one maybe shorter."""
    return lambda p: -(-p.elements // elements)


def fixed(entries: int) -> Elements:
    """So many."""
    return lambda _: entries
