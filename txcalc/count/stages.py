"""Pipelines: in which order a stage runs micro-batches, and what it holds of those that wait for their backward pass.

Schedules are those of ``torch.distributed.pipelining`` (2.13): GPipe (arXiv 1811.06965) and 1F1B (arXiv 1806.03377).
A stage receives each micro-batch's hidden states, and their gradient, into memory of its own, made once for all of
them, and keeps what it has sent until the micro-batch's backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from math import prod
from typing import NamedTuple

from txcalc.count.entries import Entry
from txcalc.spec import words
from txcalc.spec.errors import SpecError
from txcalc.trace.layout import Layout
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Role
from txcalc.trace.workload import WIDE


class Pass(NamedTuple):
    """One pass of a micro-batch on a stage, forward or back, while so many others are ``waiting`` for theirs back, and
    others are ``done``, whose gradients are there."""

    forward: bool
    waiting: int
    done: int

    @property
    def later(self) -> bool:
        """Whether there are gradients of an earlier one."""
        return self.done > 0

    def has(self, phase: str) -> bool:
        """Whether a phase of a micro-batch is in it."""
        return self.forward != (phase == "backward")


def most(passes: Iterable[Pass]) -> Iterable[Pass]:
    """Of passes that are alike but for how many wait, and are done, those with the most."""
    found: dict[tuple[bool, bool], Pass] = {}
    for each in passes:
        alike = each.forward, each.later
        found[alike] = max(found.get(alike, each), each)
    return found.values()


def passes(trace: Trace) -> Iterator[Pass]:
    """The passes of a training step on the trace's stage, in order. Raises ``SpecError`` for an unknown schedule."""
    micro_batches = trace.workload.accumulate or 1
    there = done = 0
    for forward in order(trace.layout, trace.stage, micro_batches):
        yield Pass(forward, there - (not forward), done)
        there, done = there + (1 if forward else -1), done + (not forward)


def order(layout: Layout, stage: int, micro_batches: int) -> Iterator[bool]:
    """Whether each pass of a stage goes forward."""
    schedule = layout.schedule or "1f1b"
    ahead = {"gpipe": micro_batches, "1f1b": min(micro_batches, layout.pp - stage)}.get(words.form(schedule))
    if ahead is None:
        raise SpecError(f"{schedule} is not built yet: 1f1b and gpipe are", field="schedule")
    yield from [True] * ahead
    for _ in range(micro_batches - ahead):
        yield from (False, True)
    yield from [False] * ahead


def received(trace: Trace) -> Iterator[Entry]:
    """Memory for the gradients that come from the stage after."""
    if _as_they_come(trace):
        return
    if trace.workload.phase == "training" and trace.stage < trace.layout.pp - 1:
        yield _between(trace, "gradients of the stage after")._replace(times=trace.workload.accumulate or 1)


def batches(trace: Trace) -> int:
    """Micro-batches of which a stage has inputs at once."""
    count: int = trace.workload.accumulate or 1
    if trace.layout.pp == 1:
        return 1
    return sum(takewhile(bool, order(trace.layout, trace.stage, count))) if _as_they_come(trace) else count


def _as_they_come(trace: Trace) -> bool:
    """Whether memory is made for what is received when it comes, as in Megatron-LM's ``core/pipeline_parallel``."""
    return trace.workload.implementation in WIDE


def around(trace: Trace, each: Pass) -> Iterator[Entry]:
    """What is there of other micro-batches in a pass beside what waits: the gradient that the last one has handed to
    the stage before, which 1F1B still holds, and the losses of those that are done."""
    if _as_they_come(trace) and not each.forward and trace.stage < trace.layout.pp - 1:
        yield _between(trace, "gradient of the stage after")
    if trace.stage and each.later and (trace.layout.schedule or "1f1b") == "1f1b":
        yield _between(trace, "gradient for the stage before")._replace(part="waiting")
    if trace.layout.pp > 1 and trace.loss is not None and each.later:
        size = trace.loss.elements * trace.workload.bytes_of(trace.loss.made)
        yield Entry(trace.ops[-1], "losses", size, each.done, part="waiting", shape=())


def _between(trace: Trace, what: str) -> Entry:
    """What two stages send to each other of one micro-batch."""
    layout, w = trace.layout, trace.workload
    shape = (w.batch, w.seq // layout.cp // layout.by_position, trace.model.d_model)
    return Entry(trace.ops[0], what, prod(shape) * w.bytes_of(Role.ACTIVATION), 1, part="inputs", shape=shape)
