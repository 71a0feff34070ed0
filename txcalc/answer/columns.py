"""Columns: a size of many variants at once, as the program of a model computes with it.

What is done to columns is recorded once, each step but once, and done to float64 arrays in blocks. A question about a
size, such as whether it is a multiple of 8, is one about all variants: where they do not agree, ``Split`` says which of
them do, so that each part can be asked by itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy
from numpy.typing import NDArray

Array = NDArray[Any]
Operation = Callable[[Any, Any], Any]
Step = tuple[Operation | None, Any, Any]

BLOCK: Final = 1 << 14
"""Variants that are counted at once: so many that arrays stay in the processor's cache."""


def _floor_of(a: Any, b: Any) -> Any:
    """Quotients of whole numbers rounded down, exact up to 2^53 and faster than NumPy's own."""
    return numpy.floor(a / b)


class Split(Exception):
    """A question that some variants answer with yes, those in ``holds``, and others with no."""

    def __init__(self, holds: Array) -> None:
        super().__init__("variants are not alike")
        self.holds = holds


class Table:
    """Variants, and every step that was done to their columns."""

    def __init__(self, given: Sequence[Array], rows: Array) -> None:
        self.rows = rows
        self._given = given
        self._steps: list[Step] = [(None, values, None) for values in given]
        self._known: dict[object, int] = {}
        self._answers: dict[int, bool] = {}

    def columns(self) -> list[Column]:
        """One column for each of the given arrays."""
        return [Column(self, at) for at in range(len(self._given))]

    def column(self, operation: Operation, *of: Any) -> Column:
        """The column of an operation on columns and numbers."""
        places = [self._place(each) for each in of]
        if operation in (operator.add, operator.mul):
            places.sort()  # the same sums and products, whichever side is which
        return Column(self, self._step((operation, *places)))  # type: ignore[arg-type]

    def ask(self, question: Operation, *of: Any) -> bool:
        """The answer of all variants. Raises ``Split`` where they have not one."""
        asked = self.column(question, *of)
        if asked.at not in self._answers:
            holds = numpy.concatenate([found for _, (found,) in self.blocks([asked])])
            if holds.any() and not holds.all():
                raise Split(holds)
            self._answers[asked.at] = bool(holds[0])
        return self._answers[asked.at]

    def blocks(self, wanted: Sequence[Any]) -> Iterator[tuple[Array, list[Any]]]:
        """The variants of each block, and the ``wanted`` columns or numbers of them."""
        places = [self._place(each) for each in wanted]
        steps = self._needed(places)
        last = {each: at for at in steps for each in self._steps[at][1:] if self._steps[at][0] is not None}
        last.update(dict.fromkeys(places, -1))
        for start in range(0, self.rows.size, BLOCK):
            here = self.rows[start : start + BLOCK]
            found: dict[int, Any] = {}
            for at in steps:
                operation, a, b = self._steps[at]
                if operation is None:
                    found[at] = a[here] if isinstance(a, numpy.ndarray) else a
                    continue
                found[at] = operation(found[a], found[b])
                for each in {a, b}:
                    if last[each] == at:
                        del found[each]
            yield here, [found[at] for at in places]

    def _place(self, of: Any) -> int:
        return of.at if isinstance(of, Column) else self._step((None, float(of), None))

    def _step(self, step: Step) -> int:
        if step not in self._known:
            self._known[step] = len(self._steps)
            self._steps.append(step)
        return self._known[step]

    def _needed(self, wanted: Iterable[int]) -> list[int]:
        """Steps in order, without those that nothing comes of."""
        needed = set(wanted)
        for at in range(max(needed), -1, -1):
            operation, a, b = self._steps[at]
            if at in needed and operation is not None:
                needed |= {a, b}
        return sorted(needed)


class Column:
    """A size of every variant. Sums, products and their like are columns; comparisons are asked of all variants."""

    __slots__ = ("at", "table")

    def __init__(self, table: Table, at: int) -> None:
        self.table, self.at = table, at

    def value(self, sizes: object) -> Column:
        """Itself: what is decided on numbers is decided on all of them."""
        return self

    def least(self, other: Any) -> Column:
        """The smaller of two sizes."""
        return self.table.column(numpy.minimum, self, other)

    def __add__(self, other: Any) -> Column:
        return self if _is(other, 0) else self.table.column(operator.add, self, other)

    def __sub__(self, other: Any) -> Column:
        return self if _is(other, 0) else self.table.column(operator.sub, self, other)

    def __mul__(self, other: Any) -> Any:
        if _is(other, 0):
            return 0
        return self if _is(other, 1) else self.table.column(operator.mul, self, other)

    def __truediv__(self, other: Any) -> Column:
        return self.table.column(operator.truediv, self, other)

    def __floordiv__(self, other: Any) -> Column:
        return self.table.column(_floor_of, self, other)

    def __mod__(self, other: Any) -> Column:
        return self.table.column(operator.mod, self, other)

    def __pow__(self, other: Any) -> Column:
        return self.table.column(operator.pow, self, other)

    def __rsub__(self, other: Any) -> Column:
        return self.table.column(operator.sub, other, self)

    def __rfloordiv__(self, other: Any) -> Column:
        return self.table.column(_floor_of, other, self)

    def __neg__(self) -> Column:
        return self.table.column(operator.mul, self, -1)

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        return self.table.ask(operator.eq, self, other)

    def __lt__(self, other: Any) -> bool:
        return self.table.ask(operator.lt, self, other)

    def __gt__(self, other: Any) -> bool:
        return self.table.ask(operator.gt, self, other)

    def __bool__(self) -> bool:
        return self != 0

    __hash__ = object.__hash__


def _is(other: object, number: int) -> bool:
    return isinstance(other, int) and other == number
