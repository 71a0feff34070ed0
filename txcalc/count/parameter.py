"""A weight that is trained, as optimizers see it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

from txcalc.trace.record import Op


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
