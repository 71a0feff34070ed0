"""FLOPs: what every operation costs, times how often it runs. 1 multiply-accumulate = 2 FLOPs.

``masked``: with (query, key) pairs that a mask hides, as ``FlopCounterMode`` counts, or without.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from txcalc.trace.record import Number, Often, Op, Trace
from txcalc.trace.workload import Masked

Part = Literal["flops", "flops_backward", "flops_recomputed"]


def forward_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """FLOPs of the forward pass over the whole workload."""
    return flops_of(trace.placed, "flops", masked)


def backward_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """FLOPs of the backward pass over the whole workload, without what it computes once more."""
    return flops_of(trace.placed, "flops_backward", masked)


def recomputed_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """FLOPs of forward products that the backward pass computes once more: flash attention's scores."""
    return flops_of(trace.placed, "flops_recomputed", masked)


def core_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """Forward FLOPs of the products of queries with keys and of scores with values: the O(N^2) part."""
    return flops_of((each for each in trace.placed if each[0].kind == "core"), "flops", masked)


def flops_of(placed: Iterable[tuple[Op, Often]], part: Part, masked: Masked = "counted") -> Number:
    """One part of the FLOPs of these operations, in all their runs."""
    return sum((often.calls if part == "flops" else often.back) * getattr(
        op if masked == "counted" or op.skipped is None else op.skipped, part) for op, often in placed)
