"""The backward pass in two halves (arXiv 2401.10241): gradients of the run's input, and later those of its weights.

As ``torch.distributed.pipelining`` (2.13, ``_backward.py``) does it: between the halves all that autograd has saved
stays, but for what nothing with weights follows, and the gradient of what every operation with weights has made. The
second half goes over weights in the order of modules; where it adds gradients to earlier ones, those of one operation
go when the next one has made its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from txcalc.count.turns import Edge, Memory, Run, Schedule

if TYPE_CHECKING:
    from txcalc.count.lifetimes import Live


class Halves:
    """Gradients that the first half leaves to the second: of outputs of operations with weights."""

    def __init__(self) -> None:
        self._left: dict[int, list[Memory]] = {}
        self._gone = set[int]()

    def hold(self, run: Run, given: list[Memory]) -> bool:
        """Hold on to the gradients that an operation was given, if it has weights."""
        if any(isinstance(g.of, str) for step in run.op.backward for g in step):
            self._left[id(run)] = given
        return id(run) in self._left

    def above(self, steps: Schedule) -> Iterator[Memory]:
        """Saved tensors of operations after the last one with weights."""
        for step in reversed(steps.steps):
            if isinstance(step, Run):
                if id(step) in self._left:
                    return
                self._gone.add(id(step))
                yield from step.frees

    def weights(self, live: Live, steps: Schedule, outputs: list[Memory], *, later: bool) -> None:
        """Make the gradients of weights, to keep them or, ``later``, to add them to those that are there."""
        given, spent, rest = list[Memory](), list[Memory](), list[tuple[Memory, list[Edge]]]()
        for step in steps.steps:
            if isinstance(step, Edge):
                live.cross(step)
            if not isinstance(step, Run) or id(step) in self._gone:
                continue
            if id(step) not in self._left:
                rest += ((memory, [*live.open]) for memory in step.frees)
                continue
            live.release(given)
            wanted = [each for back in live.plan(step.op).steps for each in back.new if isinstance(each[0].of, str)]
            made = live.make(step.op, wanted)
            live.release([*step.frees, *spent])
            spent = made if later else []
            if not later:
                live.hand_on(step, list(zip((g for g, _ in wanted), made, strict=True)))
            given = self._left[id(step)]
        for memory, edges in rest:
            if edges:
                memory.edge = replace(edges[-1], times=prod(edge.times for edge in edges))
        live.release([*given, *spent, *(memory for memory, _ in rest), *outputs])
