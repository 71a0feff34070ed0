"""Traffic of attention's core between the accelerator's memory and its chip (FlashAttention, arXiv 2205.14135).

Standard attention (Algorithm 0) reads and writes whole tensors, so its traffic is what the recorded operations
read and write: Q, K -> S; S -> P; P, V -> O; 4Nd + 4N^2 elements of one head, Theta(Nd + N^2).

FlashAttention (Algorithm 1) keeps blocks of B_c = ceil(M / 4d) keys and values on the chip, M being its size in
elements. K and V are read once; O, l and m are written once to begin with; and each of the T_c = ceil(N / B_c)
blocks reads Q, O, l and m, and writes O, l and m. Of one head: 3Nd + 2N + T_c (3Nd + 4N) elements,
Theta(N^2 d^2 / M). Neither skips masked pairs. Query heads that share their keys are rows of one head with N
times as many queries, in both, so that grouped keys are read once. Where values are narrower than keys, d of B_c is the
keys'.
"""

from __future__ import annotations

from math import prod

from txcalc.count.scores import size
from txcalc.trace.record import Op, Trace


def hbm_bytes(trace: Trace, sram_bytes: int | None) -> int | None:
    """Bytes moved by the cores of all attention layers in one forward pass.

    ``sram_bytes``: on-chip memory for one block; None makes the figure of a fused kernel None.
    """
    moved = 0
    for op, often in trace.placed:
        if op.kind.fused:
            if sram_bytes is None:
                return None
            moved += often.calls * _blocked(trace, op, sram_bytes)
        elif op.reads and op.kind.group != "shift" and any(tensor.scores for tensor in (*op.reads, *op.writes)):
            moved += often.calls * size(trace, (*op.reads, *op.writes))
    return moved


def _blocked(trace: Trace, op: Op, sram_bytes: int) -> int:
    """Algorithm 1; its l and m are fp32, all else has the width of the activations."""
    q, keys, values, *_ = op.reads  # a mask may come after them
    out, statistics, *_ = op.writes
    (batch, heads, _), queries = statistics.shape, q.shape[1]
    d = q.shape[-1] // heads
    width, wide = trace.workload.bytes_of(out.role), trace.workload.bytes_of(statistics.role)
    block = -(-(sram_bytes // width) // (4 * d))
    passes = -(-keys.shape[1] // max(block, 1))
    queries_in, rows_out = (queries * tensor.shape[-1] * width for tensor in (q, out))
    l_and_m = 2 * heads * queries * wide
    once = (prod(keys.shape[1:]) + prod(values.shape[1:])) * width + rows_out + l_and_m
    return int(batch * (once + passes * (queries_in + 2 * rows_out + 2 * l_and_m)))
