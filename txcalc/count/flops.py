"""FLOPs: what every operation costs, times how often it runs. 1 multiply-accumulate = 2 FLOPs."""

from __future__ import annotations

from txcalc.trace.record import Number, Trace


def forward_flops(trace: Trace) -> Number:
    """FLOPs of the forward pass over the whole workload."""
    return sum(op.calls * op.flops for op in trace.ops)


def backward_flops(trace: Trace) -> Number:
    """FLOPs of the backward pass over the whole workload."""
    return sum(op.back * op.flops_backward for op in trace.ops)


def core_flops(trace: Trace) -> Number:
    """Forward FLOPs of the products of queries with keys and of scores with values: the O(N^2) part."""
    return sum(op.calls * op.flops for op in trace.ops if op.kind == "core")
