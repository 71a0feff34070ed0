"""Entries: what each operation adds to a quantity. A total is their sum, a breakdown groups them.

``txcalc explain`` reads the same entries of a run on symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from txcalc.trace.record import Op
from txcalc.trace.tensors import Number, Tensor

K = TypeVar("K")


class Entry(NamedTuple):
    """The contribution of an operation: ``times`` as much as ``each``, in the quantity's unit. ``tensor``: one that is
    kept. ``part``: what is told apart within a component. ``shape``: of what is alive.
    """

    op: Op
    what: str
    each: Number
    times: Number
    tensor: Tensor = None  # type: ignore[assignment]  # of what is kept alone
    part: str = ""
    shape: tuple[Number, ...] | None = None

    @property
    def value(self) -> Number:
        """All of it."""
        return self.times * self.each


def total(entries: Iterable[Entry]) -> Number:
    """The sum of the entries."""
    return sum(entry.value for entry in entries)


def total_of_any(entries: Iterable[Entry]) -> Number | None:
    """The sum of the entries; None if there are none."""
    found = list(entries)
    return total(found) if found else None


def grouped(entries: Iterable[Entry], key: Callable[[Op], K]) -> dict[K, Number]:
    """The sums of the entries whose operations have the same key."""
    found: dict[K, Number] = {}
    for entry in entries:
        at = key(entry.op)
        found[at] = found.get(at, 0) + entry.value
    return found
