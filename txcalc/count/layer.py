"""One layer of a trace as a trace of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from txcalc.trace.record import Node, Op, Trace


def alone(trace: Trace, component: str) -> Trace:
    """The operations of one component, run once, its input among what it keeps.

    ``component`` is the path of a line of the breakdown, such as ``layers.attention``. What is repeated in the
    component, as the steps of a recurrent cell are, runs as often as one run of the component has it.
    """
    nodes = tuple(_only(trace.body, component))
    while len(nodes) == 1 and not isinstance(nodes[0], Op):
        nodes = nodes[0].body
    found = Trace(trace.workload, body=list(nodes))
    inside = {loop.after.id for loop, _ in found.loops}
    given = {x.id for op in trace.ops if op.component != component for x in op.writes} | {
        x.id for loop, _ in trace.loops if loop.after.id not in inside for x in (loop.entry, loop.after)}
    found.inputs = tuple(x for op in found.ops for x in (*op.reads, *op.saves) if x.id in given)
    return found


def attention_layers(trace: Trace) -> list[tuple[str, int]]:
    """Every component that multiplies queries with keys, and how often it runs in one pass."""
    paths = dict.fromkeys(op.component for op in trace.ops if op.kind.group == "core")
    return [(path, min(int(often.calls) for op, often in trace.placed if op.component == path)) for path in paths]


def _only(nodes: Iterable[Node], component: str) -> Iterator[Node]:
    for node in nodes:
        if isinstance(node, Op):
            if node.component == component:
                yield node
        elif body := tuple(_only(node.body, component)):
            yield node._replace(body=body)
