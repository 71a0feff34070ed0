"""Collectives: what ranks do together in a run, how often, and how many bytes the full tensor of each has."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Literal, NamedTuple

from txcalc.count.flops import again
from txcalc.count.lifetimes import gathered
from txcalc.count.stages import sent
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Number, Role


class Collective(NamedTuple):
    """A collective of an operation, in one pass: ``times`` calls of so many bytes each."""

    what: str
    axis: str
    bytes: Number
    times: Number
    phase: Literal["forward", "backward", "recomputation"]
    path: str


def collectives(trace: Trace) -> Iterator[Collective]:
    """Every collective of a run, forward, run once more and backward, in the order of the forward pass.

    Bytes are those of the tensor that all ranks have together, as it is before a reduction or after a gathering.
    """
    for op, often in trace.placed:
        if (kind := op.kind.collective) is not None and kind.forward:
            yield Collective(kind.forward, kind.axis, _bytes(trace, op), often.calls, "forward", op.path)
    for op, times in again(trace.body) if trace.workload.phase == "training" else ():
        if (kind := op.kind.collective) is not None and kind.forward and times:
            yield Collective(kind.forward, kind.axis, _bytes(trace, op), times, "recomputation", op.path)
    for op, often in trace.placed if trace.workload.phase == "training" else ():
        if (kind := op.kind.collective) is not None and kind.backward and often.back and trace.needs(op.reads[0]):
            yield Collective(kind.backward, kind.axis, _bytes(trace, op), often.back, "backward", op.path)
        for g in (g for step in op.backward for g in step if g.collective and often.back):
            size = g.elements * trace.workload.bytes_of(g.role)
            yield Collective(g.collective, "cp", size, often.back, "backward", op.path)
    for (what, size, phase, path), times in gathered(trace).items():
        yield Collective(what, "dp", size, times, phase, path)  # type: ignore[arg-type]
    yield from _between_stages(trace)


def _between_stages(trace: Trace) -> Iterator[Collective]:
    """Hidden states of a micro-batch, and their gradient, that stages on other ranks send to a rank's, or get."""
    layout, w = trace.layout, trace.workload
    for stage in layout.stages_of(trace.stage) if layout.pp > 1 else ():
        for other, there, back in ((stage - 1, "receive", "send"), (stage + 1, "send", "receive")):
            if 0 <= other < layout.stages and layout.rank_of(other) != layout.rank_of(stage):
                size = prod(sent(trace)) * w.bytes_of(Role.ACTIVATION)
                yield Collective(there, "pp", size, 1, "forward", f"stage {stage + 1}")
                if w.phase == "training":
                    yield Collective(back, "pp", size, 1, "backward", f"stage {stage + 1}")


def _bytes(trace: Trace, op: Op) -> Number:
    return max(prod(x.shape) * trace.workload.bytes_of(x.made) for x in (*op.reads, *op.writes))
