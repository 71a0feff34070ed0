"""Order along a layer's sequence: steps that must wait for each other, and the distance of two positions."""

from __future__ import annotations

from txcalc.trace.record import Trace


def sequential_steps(trace: Trace) -> int:
    """Operations that must run one after the other because each position needs the one before.

    Loops over positions, and recurrences as they are written: a linear one can also run as a scan of log2(N) steps.
    """
    recurrent = any(op.kind.group == "recurrence" for op in trace.ops)
    return max((loop.times for loop, _ in trace.loops), default=int(trace.workload.seq) if recurrent else 1)


def longest_path(trace: Trace) -> int | None:
    """Steps from the first position to the last: through the state, or through as many layers as it takes.

    The maximum path length of arXiv 1706.03762, Table 1, counted: N - 1 updates of a state, or
    ceil((N - 1) / (r - 1)) layers that each look back over r positions. None where no layer looks back at all.
    """
    apart = int(trace.workload.seq) - 1
    if trace.loops or any(op.kind.group == "recurrence" for op in trace.ops):
        return apart
    reach = max((int(op.reach) for op in trace.ops if op.reach is not None), default=1)
    if apart and reach < 2:
        return None
    return -(-apart // max(reach - 1, 1))
