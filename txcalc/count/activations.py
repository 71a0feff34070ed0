"""Activations kept for backward: the set of distinct tensors that the recorded operations keep.

A tensor read by q, k and v is kept once. Adding up per operation would be wrong by tens of per cent.
"""

from __future__ import annotations

from txcalc.count.entries import Entry, total
from txcalc.trace.record import Loop, Op, Trace
from txcalc.trace.tensors import Number, Tensor


def kept(trace: Trace) -> list[Entry]:
    """Bytes of every distinct tensor kept for backward, each with the operation that keeps it first. Empty in
    inference."""
    if not trace.workload.keeps:
        return []
    times = made(trace)
    found: dict[int, tuple[Op, Tensor, Number]] = {}
    for op in trace.ops:
        for tensor in op.kept:
            if tensor.id not in found:
                found[tensor.id] = (op, tensor, times[tensor.id])
    aliases: set[int] = set()
    for loop, entered in trace.loops:
        _join(loop, entered, found, aliases)
    width = trace.workload.bytes_of
    return [Entry(op, x.label, x.elements * width(x.role), often, x) for op, x, often in found.values()]


def made(trace: Trace) -> dict[int, Number]:
    """The number of times that each storage is made: as its writer runs, or as the first operation that names it."""
    found: dict[int, Number] = {x.id: 1 for x in trace.inputs} | {
        loop.after.id: entered for loop, entered in trace.loops}
    for op, often in trace.placed:
        for x in op.reads if op.kind.name == "recomputation" else (*op.writes, *op.reads, *op.saves):
            found.setdefault(x.id, often.calls)
    return found


def _join(loop: Loop, entered: Number, found: dict[int, tuple[Op, Tensor, Number]], aliases: set[int]) -> None:
    """Name the same memory once: what a run of the loop leaves is what the next run reads.

    ``aliases`` holds the ids that stand for memory already counted under another id.
    """
    leave = loop.exit
    counted = leave.id in found or leave.id in aliases
    if counted:
        aliases.add(loop.after.id)
        found.pop(loop.after.id, None)
    if loop.entry.id in found:
        op, _, _ = found.pop(loop.entry.id)
        if loop.before.id not in aliases:
            found.setdefault(loop.before.id, (op, loop.before, entered))
        if not counted and not (isinstance(loop.times, int) and loop.times == 1):  # one run has nothing between
            between = entered * (-1 + loop.times)
            found[leave.id] = (op, leave, between)


def kept_scores(trace: Trace) -> list[Entry]:
    """Those of them that grow with queries x keys."""
    return [entry for entry in kept(trace) if entry.tensor.scores]


def activation_bytes(trace: Trace) -> Number:
    """Bytes kept for backward."""
    return total(kept(trace))


def score_bytes(trace: Trace) -> Number:
    """The part of ``activation_bytes`` that grows with queries x keys."""
    return total(kept_scores(trace))
