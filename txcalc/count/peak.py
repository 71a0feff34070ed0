"""The moment of a run at which most bytes are live, and what is alive then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from txcalc.count.memory import Middle, Moment, Moments, Phase, moments
from txcalc.count.turns import Turns, count
from txcalc.trace.record import Number, Trace

Where = tuple[tuple[int, bool], ...]
"""A moment: its number; of turns that one stands for also if it is the last of them, then the number in that."""


class Held(NamedTuple):
    """What is alive: the operation that made it, what it is, and its bytes in all turns together."""

    path: str
    what: str
    bytes: Number


class Peak(NamedTuple):
    """The moment at which most bytes are live: an operation of a pass has just allocated."""

    bytes: Number
    phase: Phase
    path: str
    turns: Turns
    alive: tuple[Held, ...]
    where: Where


def peak(trace: Trace, *, in_place: bool = True) -> Peak:
    """The first of the moments at which most bytes are live."""
    _, where = _highest(trace, moments(trace, in_place=in_place))
    return at(trace, where, in_place=in_place)


def at(trace: Trace, where: Where, *, in_place: bool = True) -> Peak:
    """A moment of a run on ints or symbols, by its place in another of the same structure."""
    found = moments(trace, in_place=in_place, none=_Alive(), amount=lambda m: _Alive({(m.path, m.what): m.bytes}))
    moment = _found(found, where)
    alive = tuple(Held(path, what, size) for (path, what), size in moment.live.each.items() if size)
    return Peak(sum(each.bytes for each in alive), moment.phase, moment.path, moment.turns, alive, where)


@dataclass(frozen=True)
class _Alive:
    """Bytes by the operation that made them and what they are."""

    each: Mapping[tuple[str, str], Number] = field(default_factory=dict)

    def __add__(self, other: _Alive) -> _Alive:
        return _Alive({**self.each, **{key: self.each.get(key, 0) + size for key, size in other.each.items()}})

    def __mul__(self, times: Number) -> _Alive:
        return _Alive({key: size * times for key, size in self.each.items()})

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
