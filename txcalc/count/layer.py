"""One layer of a trace as a trace of its own."""

from __future__ import annotations

from collections.abc import Iterable

from txcalc.trace.record import Loop, Op, Tensor, Trace


def alone(trace: Trace, component: str) -> Trace:
    """The operations of one component, run once, its input among what it keeps.

    ``component`` is the path of a line of the breakdown, such as ``layers.attention``. What stands in a loop of the
    component, as the steps of a recurrent cell do, runs as often as one run of the component has it.
    """
    found = [op for op in trace.ops if op.component == component]
    runs = _runs(found)
    # A loop around the component would leave less often than the component runs, unless its body runs once.
    inside = [_loop(loop, runs) for loop in trace.loops if loop.after.calls == runs]
    return Trace(trace.workload, [_once(op, runs) for op in found], inside)


def attention_layers(trace: Trace) -> list[tuple[str, int]]:
    """Every component that multiplies queries with keys, and how often it runs in one pass."""
    paths = dict.fromkeys(op.component for op in trace.ops if op.kind == "core")
    return [(path, _runs([op for op in trace.ops if op.component == path])) for path in paths]


def _runs(ops: list[Op]) -> int:
    return min(int(op.calls) for op in ops)


def _once(op: Op, runs: int) -> Op:
    return op._replace(
        copies=1, active=1, calls=op.calls // runs, back=op.back // runs,
        saves=_tensors(op.saves, runs), reads=_tensors(op.reads, runs), writes=_tensors(op.writes, runs),
    )


def _loop(loop: Loop, runs: int) -> Loop:
    before, entry, leave, after = _tensors((loop.before, loop.entry, loop.exit, loop.after), runs)
    return Loop(before, entry, leave, after, loop.times)


def _tensors(tensors: Iterable[Tensor], runs: int) -> tuple[Tensor, ...]:
    return tuple(
        x._replace(storage=x.storage._replace(calls=max(x.storage.calls // runs, 1))) for x in tensors
    )
