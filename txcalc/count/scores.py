"""The score matrix of attention while it exists: how large it is, and how many of it there are at once."""

from __future__ import annotations

from collections.abc import Iterable

from txcalc.count.activations import made
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Role, Storage, Tensor


def score_matrix_bytes(trace: Trace) -> int:
    """Bytes of the largest score matrix that one operation writes to memory, in all steps of its layer's loop if it
    stands in one; 0 under a fused kernel."""
    return max((often.calls * size(trace, [tensor]) for op, often in trace.placed if op.kind.group == "core"
                for tensor in op.writes if tensor.scores), default=0)


def peak_score_bytes(trace: Trace) -> int:
    """Bytes of all (query, key) tensors that are in memory at once, at worst, in the forward pass of one layer.

    While one operation runs, these are what it reads and writes, and what autograd already keeps. A tensor is
    freed after its last reader, as PyTorch frees it where no variable still names it; scale and mask are taken
    to be in the product, or to replace their input.
    """
    most, kept, times = 0, set[Storage](), made(trace)
    for op in trace.ops:
        if op.kind.group == "shift":
            continue
        if trace.workload.keeps:
            kept |= {x.storage for x in op.kept if x.scores}
        live = {x.storage for x in (*op.saves, *op.reads, *op.writes) if x.scores}
        most = max(most, sum(times[x.id] * size(trace, [x]) for x in kept) + size(trace, live - kept))
    return most


def statistics_bytes(trace: Trace) -> int:
    """Bytes that fused kernels write in place of the score matrices: one log-sum-exp a row, in fp32."""
    return sum(often.calls * size(trace, [tensor for tensor in op.writes if tensor.role is Role.FLOAT32])
               for op, often in trace.placed if op.kind.fused)


def size(trace: Trace, tensors: Iterable[Tensor | Storage]) -> int:
    """Bytes of these tensors together."""
    return sum(tensor.elements * trace.workload.bytes_of(tensor.role) for tensor in tensors)
