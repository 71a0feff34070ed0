"""Pipelines: what a rank holds of micro-batches that wait for their backward pass, while it runs another one's.

As ``torch.distributed.pipelining`` (2.13) does it. A stage receives each micro-batch's hidden states, and their
gradient, into memory of its own, made once for all of them, and keeps what it has sent until the micro-batch's backward
pass. Two stages of a rank that follow each other hand tensors on: the one's output is the other's input. Gradients of
an input that were made without those of weights stay until the next step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import prod
from typing import Any, Literal, NamedTuple

from txcalc.count.entries import Entry
from txcalc.count.moments import Mode
from txcalc.count.schedules import Kind, order
from txcalc.trace.model import trace as run
from txcalc.trace.rank import RECEIVED
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Number, Role


class Held(NamedTuple):
    """Micro-batches of one stage: those that ``wait`` for their backward pass, those whose gradients of weights alone
    are to come (``halfway``), those whose halves have begun (``halved``), and those that are ``done``; ``reduced``:
    gradients of sharded weights are, and nothing is gathered any more."""

    wait: int = 0
    halfway: int = 0
    halved: int = 0
    done: int = 0
    reduced: bool = False

    def after(self, kind: str) -> Held:
        """Once a pass is over."""
        if kind == "F":
            return self._replace(wait=self.wait + 1)
        if kind == "I":
            return self._replace(halfway=self.halfway + 1, halved=self.halved + 1)
        return self._replace(reduced=True) if kind == "R" else self._replace(done=self.done + 1)

    def during(self, kind: str) -> Held:
        """While one is run."""
        return self._replace(wait=self.wait - (kind in "BI"), halfway=self.halfway - (kind == "W"))


class Pass(NamedTuple):
    """One pass of a micro-batch on one of a rank's stages, and what is there of all others then."""

    chunk: int
    kind: Kind | Literal["R"]  # or sharded weights' gradients are reduced
    held: tuple[Held, ...]
    sharded: bool = False

    @property
    def run(self) -> tuple[int, Mode]:
        """The stage, and how its run stands among those of other micro-batches."""
        own = self.gathers(self.chunk)
        return self.chunk, Mode(self.held[self.chunk].done > 0 and not own, self.kind in "IW", self.sharded and not own)

    def gathers(self, chunk: int) -> bool:
        """True in the first pass of a stage, which gathers sharded weights, and once its last one is over: all that it
        has gathered, and its gradients, are in its own run."""
        return self.sharded and (chunk == self.chunk or self.chunk < 0) and (
            self.kind == "R" or (self.kind == "F" and not any(self.held[chunk])))


@lru_cache(maxsize=8)
def chunks(trace: Trace) -> tuple[Trace, ...]:
    """The stages of a rank of which ``trace`` has all layers, each by itself."""
    layout = trace.layout
    if layout.per_rank == 1 or trace.workload.phase != "training":
        return (trace,)
    return tuple(run(trace.whole, trace.workload, trace.sizes, stage=stage, share=trace.share)
                 for stage in layout.stages_of(trace.stage))


def most(found: Iterable[Pass]) -> Iterable[Pass]:
    """Of passes that are alike but for how many are done, the last."""
    return {_alike(each): each for each in found}.values()


def some(trace: Trace) -> list[Pass]:
    """The passes of a step without turns that are like two before them and one after."""
    found, alike = list(passes(trace)), dict[tuple[Any, ...], list[int]]()
    for i, each in enumerate(found):
        alike.setdefault(_alike(each), []).append(i)
    start, end = max(((at[2], at[-1]) for at in alike.values() if len(at) > 3), key=lambda at: at[1] - at[0],
                     default=(0, 0))
    return found[:start] + found[end:]


def _alike(each: Pass) -> tuple[Any, ...]:
    return each.chunk, each.kind, *(held._replace(done=min(held.done, 1)) for held in each.held)


def passes(trace: Trace) -> Iterator[Pass]:
    """The passes of a training step on a rank, in order; else one forward. Raises ``SpecError`` for a number of
    micro-batches that a schedule does not take."""
    layout = trace.layout
    held, sharded = [Held()] * len(chunks(trace)), bool(layout.shards and layout.pp > 1)
    if trace.workload.phase != "training":
        yield Pass(0, "F", tuple(held))
        return
    for chunk, kind in order(layout, trace.stage, trace.workload.accumulate or 1):
        if trace.stage == chunk == 0 and kind in "IW":  # the first stage's input has no gradient: all at once
            if kind == "I":
                continue
            kind = "B"
        held[chunk] = held[chunk].during(kind)
        yield Pass(chunk, kind, tuple(held), sharded)
        held[chunk] = held[chunk].after(kind)
        if sharded and held[chunk].done == (trace.workload.accumulate or 1):
            yield Pass(chunk, "R", tuple(held), sharded)
            held[chunk] = held[chunk].after("R")


def over(trace: Trace) -> Pass:
    """Bytes left once the last of a step's passes is over, of each stage by itself."""
    *_, last = passes(trace)
    held = [each.after(last.kind) if chunk == last.chunk else each for chunk, each in enumerate(last.held)]
    kind: Kind | Literal["R"] = "R" if last.sharded else "B"
    return Pass(-1, kind, tuple(each._replace(done=each.done - 1) for each in held), last.sharded)


def received(trace: Trace) -> Iterator[Entry]:
    """Buffers of a stage for the gradients that come from the one after."""
    if trace.workload.phase == "training" and trace.stage < trace.layout.stages - 1 and trace.code.receives_at_once:
        yield from _between(trace, "gradients of the stage after", trace.stage, times=trace.workload.accumulate or 1)


def batches(trace: Trace, chunk: int) -> int:
    """Micro-batches of which one of a rank's stages has inputs at once."""
    if trace.layout.pp == 1:
        return 1
    count: int = trace.workload.accumulate or 1
    return count if trace.code.receives_at_once else max(each.held[chunk].wait + 1 for each in passes(trace))


def follows(trace: Trace) -> bool:
    """True where a stage's input is the output of another stage of its rank."""
    return trace.stage > 0 and trace.layout.rank_of(trace.stage - 1) == trace.layout.rank_of(trace.stage)


def around(trace: Trace, each: Pass) -> Iterator[Entry]:
    """Bytes of other micro-batches in a pass beside what waits: gradients that were handed to the stage before,
    inputs that another stage has not made, and the losses of those that are done."""
    for chunk, (stage, held) in enumerate(zip(chunks(trace), each.held, strict=True)):
        waits = each.chunk == chunk and each.kind in "BI" and stage.stage < stage.layout.stages - 1
        if waits and not stage.code.receives_at_once:
            yield from _between(stage, "gradient of the stage after", stage.stage)
        handed = 0 if follows(stage) else held.halved  # else they are its gradients, in that one's memory
        if stage.stage and held.done and each.chunk >= 0 and trace.layout.order == "1f1b":
            handed += 1
        if handed:
            yield from _between(stage, "gradients for the stage before", stage.stage - 1, part="waiting", times=handed)
        if follows(stage):
            before, running = each.held[chunk - 1], each.chunk == chunk - 1 and each.kind != "F"
            own = (trace.workload.accumulate or 1) - before.wait - before.halfway - running
            yield from _between(stage, RECEIVED, stage.stage - 1, times=own)
        if stage.layout.pp > 1 and stage.loss is not None and held.done and each.chunk >= 0:
            size = stage.loss.elements * stage.workload.bytes_of(stage.loss.made)
            yield Entry(stage.ops[-1], "losses", size, held.done, part="waiting", shape=())


def _between(trace: Trace, what: str, stage: int, part: str = "inputs", times: int = 1) -> Iterator[Entry]:
    for shape, width in sent(trace, stage):
        yield Entry(trace.ops[0], what, prod(shape) * width, times, part=part, shape=shape)


@lru_cache(maxsize=32)
def sent(trace: Trace, stage: int) -> tuple[tuple[tuple[Number, ...], int], ...]:
    """The (batch, positions, width) of all that a micro-batch sends from one stage to the next, and an element's bytes:
    hidden states, which under autocast are as wide as weights, and for those of a decoder what its encoder has made."""
    layout, w = trace.layout, trace.workload
    if w.precision != "amp" and trace.whole.encoder is None:
        shape = w.batch, w.seq // layout.cp // layout.by_position, trace.model.d_model
        return ((shape, w.bytes_of(Role.ACTIVATION)),)
    after = stage + 1 if trace.whole.encoder else 1
    found = run(trace.whole, w, trace.sizes, stage=after).inputs
    return tuple((x.shape, w.bytes_of(x.made)) for x in found if x.elements)
