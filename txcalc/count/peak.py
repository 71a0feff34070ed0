"""The moment of a run at which most bytes are live, and what is alive then.

These are bytes beside weights, optimizer states and inputs; ``txcalc.count.step`` has those of a whole step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from txcalc.count.entries import Entry
from txcalc.count.lifetimes import moments
from txcalc.count.moments import ONCE, Middle, Mode, Moment, Moments, Pass
from txcalc.count.turns import Memory, Turns, count
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Number

Where = tuple[tuple[int, bool], ...]
"""A moment: its number; of turns that one stands for also if it is the last of them, then the number in that."""


class Peak(NamedTuple):
    """The moment at which most bytes are live: an operation of a pass has just allocated."""

    bytes: int
    phase: Pass
    path: str
    turns: Turns
    where: Where


def peak(trace: Trace, *, in_place: bool = True) -> Peak:
    """The first of the moments at which most bytes are live, on ints. Raises ``SpecError`` for what is not proved."""
    run = moments(trace, in_place=in_place, number=partial(count, trace))
    most, where = highest(trace, run)
    moment = found(run, where)
    turns = tuple((path, count(trace, turn)) for path, turn in moment.turns)
    return Peak(most, moment.phase, moment.path, turns, where)


def alive(trace: Trace, where: Where, *, in_place: bool = True, mode: Mode = ONCE) -> Iterator[Entry]:
    """Live bytes at a moment of a run on ints or symbols, by the operation that made it."""
    made: dict[str, Op] = {}

    def amount(memory: Memory) -> Amounts:
        made[memory.op.path] = memory.op
        return Amounts({(memory.op.path, memory.what, memory.group, memory.bytes, memory.shape): 1})

    run = moments(trace, in_place=in_place, mode=mode, none=Amounts(), amount=amount)
    for (path, what, group, size, shape), often in found(run, where).live.each.items():
        if size and often:
            yield Entry(made[path], what, size, often, part=group, shape=shape)


@dataclass(frozen=True)
class Amounts:
    """Several amounts that are added up each by itself: storages that are alike, bytes of a category."""

    each: Mapping[Any, Number] = field(default_factory=dict)

    def __add__(self, other: Amounts) -> Amounts:
        if not other.each:
            return self
        return Amounts({**self.each, **{key: self.each.get(key, 0) + often for key, often in other.each.items()}})

    def __mul__(self, times: Number) -> Amounts:
        return Amounts({key: often * times for key, often in self.each.items()})

    def __sub__(self, other: Amounts) -> Amounts:
        return self + other * -1


def highest(trace: Trace, run: Moments, first: int = 0, end: int | None = None) -> tuple[int, Where]:
    """The bytes and the place of the highest moment of a run on ints, the first of several, or of a part of it."""
    best: tuple[int, Where] = (-1, ())
    for i, m in enumerate(run[first:end], first):
        live, where = (m.live, ()) if isinstance(m, Moment) else highest(trace, m.moments)
        last = isinstance(m, Middle) and m.grows > 0
        if isinstance(m, Middle) and last:
            live += m.grows * (count(trace, m.times) - 1)
        if live > best[0]:
            best = live, ((i, last), *where)
    return best


def found(run: Moments, where: Where) -> Moment:
    """The moment at a place of a run."""
    (i, last), *rest = where
    middle = run[i]
    if isinstance(middle, Moment):
        return middle
    inside = found(middle.moments, tuple(rest))
    further, turns = middle.times - 1, [*inside.turns]
    if last == middle.ahead:
        path, turn = turns[middle.edge.depth]
        turns[middle.edge.depth] = path, turn + further * middle.edge.each
    return inside._replace(live=inside.live + middle.grows * further if last else inside.live, turns=tuple(turns))
