"""FLOPs: what every operation costs, times how often it runs. 1 multiply-accumulate = 2 FLOPs.

``masked``: with (query, key) pairs that a mask hides, as ``FlopCounterMode`` counts, or without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from txcalc.count.entries import Entry, total
from txcalc.trace.record import Number, Trace
from txcalc.trace.workload import Masked

Pass = Literal["forward", "backward", "recomputed"]
"""The forward pass, the backward pass, and forward products that the backward pass computes once more: flash
attention's scores."""


def entries(trace: Trace, *passes: Pass, masked: Masked = "counted") -> Iterator[Entry]:
    """FLOPs over the whole workload, of all these passes."""
    for op, often in trace.placed:
        for what in passes if op.products else ():
            found = [times * product.flops(masked) for product in op.products if (times := getattr(product, what))]
            if found:
                yield Entry(op, what, sum(found), often.calls if what == "forward" else often.back)


def forward_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """FLOPs of the forward pass over the whole workload."""
    return total(entries(trace, "forward", masked=masked))


def core_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """Forward FLOPs of the products of queries with keys and of scores with values: the O(N^2) part."""
    return total(entry for entry in entries(trace, "forward", masked=masked) if entry.op.kind.group == "core")


def backward_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """FLOPs of the backward pass over the whole workload, without what it computes once more."""
    return total(entries(trace, "backward", masked=masked))
