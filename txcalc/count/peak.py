"""The moment of a run at which most bytes are live, and what is alive then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from txcalc.count.entries import Entry
from txcalc.count.lifetimes import Middle, Moment, Moments, Pass, moments
from txcalc.count.turns import Memory, Turns, count
from txcalc.trace.record import Number, Op, Trace

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
    most, where = _highest(trace, run)
    moment = _found(run, where)
    turns = tuple((path, count(trace, turn)) for path, turn in moment.turns)
    return Peak(most, moment.phase, moment.path, turns, where)


def alive(trace: Trace, where: Where, *, in_place: bool = True) -> Iterator[Entry]:
    """What is alive at a moment of a run on ints or symbols, by the operation that made it."""
    made: dict[str, Op] = {}

    def amount(memory: Memory) -> _Alive:
        made[memory.op.path] = memory.op
        return _Alive({(memory.op.path, memory.what, memory.group, memory.bytes): 1})

    moment = _found(moments(trace, in_place=in_place, none=_Alive(), amount=amount), where)
    for (path, what, group, size), often in moment.live.each.items():
        if size and often:
            yield Entry(made[path], what, size, often, part=group)


@dataclass(frozen=True)
class _Alive:
    """How many there are of storages of one operation that are alike."""

    each: Mapping[tuple[str, str, str, Number], Number] = field(default_factory=dict)

    def __add__(self, other: _Alive) -> _Alive:
        return _Alive({**self.each, **{key: self.each.get(key, 0) + often for key, often in other.each.items()}})

    def __mul__(self, times: Number) -> _Alive:
        return _Alive({key: often * times for key, often in self.each.items()})

    def __sub__(self, other: _Alive) -> _Alive:
        return self + other * -1


def _highest(trace: Trace, run: Moments) -> tuple[int, Where]:
    best: tuple[int, Where] = (0, ())
    for i, m in enumerate(run):
        live, where = (m.live, ()) if isinstance(m, Moment) else _highest(trace, m.moments)
        last = isinstance(m, Middle) and m.grows > 0
        if isinstance(m, Middle) and last:
            live += m.grows * (count(trace, m.times) - 1)
        if live > best[0]:
            best = live, ((i, last), *where)
    return best


def _found(run: Moments, where: Where) -> Moment:
    (i, last), *rest = where
    found = run[i]
    if isinstance(found, Moment):
        return found
    inside = _found(found.moments, tuple(rest))
    further, turns = found.times - 1, [*inside.turns]
    if last == (inside.phase == "forward"):
        path, turn = turns[found.depth]
        turns[found.depth] = path, turn + further
    return inside._replace(live=inside.live + found.grows * further if last else inside.live, turns=tuple(turns))
