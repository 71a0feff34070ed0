"""Moments of a run: what is alive after each operation, the turns of a repeat that are alike once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Literal, NamedTuple

from txcalc.count.turns import Edge, Turns, count
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Number

Pass = Literal["forward", "backward", "weights", "reduction"]


class Mode(NamedTuple):
    """The place of a run among others of its step.

    ``accumulates``: gradients of weights are there before it (and left out), and those that it makes are added to them,
    in place. ``halves``: gradients of the run's input come first, weights' later. ``whole``: of a pipeline's stage
    sharded weights are gathered already, and left out.
    """

    accumulates: bool = False
    halves: bool = False
    whole: bool = False


ONCE: Final = Mode()


class Moment(NamedTuple):
    """Live bytes after an operation has allocated, or after others were freed; its amounts add up."""

    phase: Pass
    path: str
    live: Any
    turns: Turns


class Middle(NamedTuple):
    """Turns of a repeat that one stands for: each but the first adds ``grows`` to its moments."""

    edge: Edge
    grows: Any
    moments: Moments
    ahead: bool  # in the order of the forward pass

    @property
    def times(self) -> Number:
        """Their number."""
        return self.edge.times


Moments = Sequence[Moment | Middle]
Change = tuple[Any, Any]
"""An amount and how often it is added; an ``Edge``, which begins turns or ends them, and whether in the order of the
forward pass; or None with the phase, the path and the turns of a moment."""


def added_up(changes: Iterable[Change], none: Any = 0, sizes: Sequence[int] | None = None) -> Moments:
    """The moments that changes come to, from ``none`` on. ``sizes``: amounts are places among these."""
    now, moments, opened = none, list[Moment | Middle](), list[tuple[Edge, int, Any]]()
    for what, more in changes:
        if what is None:
            phase, path, turns = more
            moments.append(Moment(phase, path, now, turns))
        elif not isinstance(what, Edge):
            now += (what if sizes is None else sizes[what]) * more
        elif opened and opened[-1][0] is what:
            _, start, before = opened.pop()
            grows = now - before
            if inside := tuple(moments[start:]):
                moments[start:] = [Middle(what, grows, inside, more)]
            now += grows * (what.times - 1)
        else:
            opened.append((what, len(moments), now))
    return moments


Last = tuple[int, list[Change], Change | None]
"""The place of the last use of a weight's gradient among changes, the note to add there if nothing else goes, and what
the gradient's going changes: none where something else has it, too."""


def accumulated(changes: list[Change], last: Mapping[object, Last]) -> list[Change] | None:
    """The changes of a run where gradients of weights are added to those that were there, and gone after their ``last``
    uses, which are in order; none where something else has one of them then."""
    found, start = list[Change](), 0
    for _, of in groupby(last.values(), key=lambda each: id(each[1])):
        each = [*of]
        for at, _, gone in each:
            if gone is None:
                return None
            found += (*changes[start:at], gone)
            start = at
        found += each[0][1]
    return found + changes[start:]


def every(trace: Trace, moments: Moments, more: Any, turns: int | None = None) -> Iterator[Moment]:
    """The moments of every turn, with ``more`` alive; ``turns``: of so many of each repeat at most."""
    for m in moments:
        if isinstance(m, Moment):
            yield m._replace(live=m.live + more)
        else:
            times = count(trace, m.times)
            shown = times if turns is None else min(times, max(turns, 2))
            for turn in (i * (times - 1) // max(shown - 1, 1) for i in range(shown)):
                yield from every(trace, m.moments, more + m.grows * turn, turns)
