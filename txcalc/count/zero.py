"""ZeRO (arXiv 1910.02054): optimizer states, gradients and weights that data-parallel ranks share, by stage.

Every rank has an equal part of a flat buffer. Megatron-LM's distributed optimizer is its first stage, over dp and cp.
What a framework sets aside for its collectives is known by name alone (``BUFFERS``), so that a peak is a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from txcalc.count.entries import Entry
from txcalc.count.parameter import Parameter
from txcalc.trace.record import Op, Trace

STAGES: Final = {"optimizer state": 1, "master weights": 1, "gradients": 2, "weights": 3}
"""From which stage on a category is shared."""

SOURCE: Final = "DeepSpeed's defaults, deepspeed/runtime/zero/config.py"
BUFFERS: Final[tuple[tuple[tuple[int, ...], str, int], ...]] = (
    ((1, 2, 3), "a bucket of gradients that are reduced (reduce_bucket_size)", 500_000_000),
    ((1, 2), "a bucket of weights that are gathered (allgather_bucket_size)", 500_000_000),
    ((3,), "whole weights that are live at most (stage3_max_live_parameters)", 1_000_000_000),
)
"""Elements that DeepSpeed sets aside in some stages, of all weights at most."""


def stage(trace: Trace) -> int:
    """The stage, or 0 where a run has one data-parallel rank."""
    return trace.layout.zero if trace.layout.alike > 1 else 0


def ranks(trace: Trace, op: Op) -> int:
    """Ranks that share what belongs to an operation: experts are on fewer."""
    layout = trace.layout
    return layout.with_experts // layout.ep if op.within.experts else layout.alike


def part(trace: Trace, p: Parameter) -> Parameter:
    """A rank's part of a parameter, of all its copies, as its optimizer sees it."""
    return p._replace(shape=(-(-p.elements * p.copies // ranks(trace, p.op)),), copies=1)


def shared(trace: Trace, entry: Entry) -> Entry:
    """A rank's part of weights or gradients, from the stage on that shares them."""
    if stage(trace) < STAGES.get(entry.part, 4):
        return entry
    width = entry.each * entry.times
    return entry._replace(each=-(-width // ranks(trace, entry.op)), times=1, shape=())


def buffers(trace: Trace) -> list[tuple[str, int]]:
    """Buffers that DeepSpeed sets aside, by name, in bytes, if it is that; others reduce and gather in place."""
    if not trace.code.zero_buffers:
        return []
    elements, width = sum(op.params * often.copies for op, often in trace.placed), 2
    return [(what, int(min(most, elements)) * width) for stages, what, most in BUFFERS if stage(trace) in stages]


def buckets(trace: Trace, gradients: Iterable[Entry]) -> Iterator[Entry]:
    """Buckets that data-parallel ranks reduce: ``DistributedDataParallel`` copies gradients to its own, made once,
    unless ``gradient_as_bucket_view`` is given (its documentation, and measured on torch 2.13).
    """
    layout, w = trace.layout, trace.workload
    if layout.alike == 1 or layout.fsdp is not None or layout.zero or w.held is not None:
        return
    for each in gradients:
        if ranks(trace, each.op) == 1:  # of an expert that no other rank has
            continue
        yield each._replace(what="bucket of DistributedDataParallel", part="collectives")
