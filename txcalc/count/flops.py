"""FLOPs: what every operation costs, times how often it runs. 1 multiply-accumulate = 2 FLOPs.

``masked``: with (query, key) pairs that a mask hides, as ``FlopCounterMode`` counts, or without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from txcalc.count.entries import Entry, total
from txcalc.trace.policy import saved
from txcalc.trace.record import Again, Node, Often, Op, Repeat, Trace, operations
from txcalc.trace.sizes import same
from txcalc.trace.tensors import Number
from txcalc.trace.workload import Masked, Workload

Pass = Literal["forward", "backward", "recomputed"]
"""The forward pass, the backward pass, and forward products that the backward pass computes once more: flash
attention's scores, and what is recomputed so that it need not be kept."""


def entries(trace: Trace, *passes: Pass, masked: Masked = "counted") -> Iterator[Entry]:
    """FLOPs over the whole workload, of all these passes."""
    if "recomputed" in passes:
        for op, times in again(trace.body, trace.workload):
            if op.products and not same(times, 0):
                yield Entry(op, "recomputed", sum(p.forward * p.flops(masked) for p in op.products), times)
    for op, often in trace.placed:
        for what in passes if op.products else ():
            found = [times * product.flops(masked) for product in op.products if (times := getattr(product, what))]
            if found:
                yield Entry(op, what, sum(found), often.calls if what == "forward" else often.back)


def again(
    nodes: Iterable[Node], workload: Workload, often: Often = Often(),  # noqa: B008
) -> Iterator[tuple[Op, Number]]:
    """Operations that the backward pass runs once more, and how often: up to where the last tensor is saved, but for
    those whose output a policy has saved."""
    for node in nodes:
        if isinstance(node, Again):
            if not any(op.packs for op, _ in operations(node.body)):
                continue  # no gradient passes through it
            left = {id(op): times for op, times in _left_out(node.body, often)}
            kept = {id(op) for op in saved((op for op, _ in operations(node.body)), workload)}
            yield from ((op, each.back - left.get(id(op), 0)) for op, each in operations(node.body, often)
                        if id(op) not in kept)
        elif not isinstance(node, Op):
            yield from again(node.body, workload, often.inside(node) if isinstance(node, Repeat) else often)


def _left_out(nodes: Sequence[Node], often: Often) -> Iterator[tuple[Op, Number]]:
    """Operations of a body after the last tensor that it saves, and how often: in the last turn of a repeat alone."""
    at = max(i for i, node in enumerate(nodes) if any(op.packs for op, _ in operations([node])))
    yield from ((op, each.back) for op, each in operations(nodes[at + 1:], often))
    last = nodes[at]
    if not isinstance(last, Op):
        yield from _left_out(last.body, often)
    elif not last.saves_own:
        yield last, often.back


def forward_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """FLOPs of the forward pass over the whole workload."""
    return total(entries(trace, "forward", masked=masked))


def core_flops(trace: Trace, masked: Masked = "counted") -> Number:
    """Forward FLOPs of the products of queries with keys and of scores with values: the O(N^2) part."""
    return total(entry for entry in entries(trace, "forward", masked=masked) if entry.op.kind.group == "core")
