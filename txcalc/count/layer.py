"""One layer of a trace as a trace of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from txcalc.trace.record import Op, Tensor, Trace


def alone(trace: Trace, component: str) -> Trace:
    """The operations of one component, run once, its input among what it keeps.

    ``component`` is the path of a line of the breakdown, such as ``layers.attention``.
    """
    ops = [_once(op) for op in trace.ops if op.component == component]
    return Trace(trace.workload, ops)


def attention_layers(trace: Trace) -> list[tuple[str, int]]:
    """Every component that multiplies queries with keys, and how often it runs in one pass."""
    return list({op.component: (op.component, op.calls) for op in trace.ops if op.kind == "core"}.values())


def _once(op: Op) -> Op:
    return replace(
        op, copies=1, active=1, calls=1,
        saves=_tensors(op.saves), reads=_tensors(op.reads), writes=_tensors(op.writes),
    )


def _tensors(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(replace(tensor, calls=1) for tensor in tensors)
