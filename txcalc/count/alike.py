"""Turns of a repeat that are alike: what one of them has to do with what is around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from txcalc.trace.record import Again, Frame, Node, Op, Repeat, joined
from txcalc.trace.tensors import Tensor


def outside(node: Repeat) -> tuple[frozenset[int], bool]:
    """Storages that a turn uses but neither makes nor is handed, and whether it adds to gradients of others."""
    given = [loop.entry for loop in node.carries]
    storages, read = {*joined(node.body), *(x.id for x in given)}, set[int]()
    values, graded = {x.value for x in (*given, *(item for _, item in node.spreads))}, set[int]()
    weights, wanted = set[str](), set[str]()
    for each in _inside(node.body):
        if isinstance(each, Op):
            weights |= {f"{each.path}.{name}" if name else each.path for name, _ in each.weights}
            made = [g for step in each.backward for g in step]
            wanted |= {g.of for g in made if isinstance(g.of, str)}
            graded |= {x.value for g in made for x in (g.of, g.kept) if isinstance(x, Tensor) and x.grad}
            storages |= {x.id for x in each.writes}
            values |= {x.value for x in each.writes}
            read |= {x.id for x in (*each.reads, *each.saves)}
            read |= {x.storage.over for x in each.writes if x.storage.over}
        elif isinstance(each, Frame):
            read |= {x.id for x in each.holds}
        elif isinstance(each, Repeat):
            values |= {x.value for loop in each.carries for x in (loop.entry, loop.after)}
            values |= {x.value for pair in (*each.gathers, *each.spreads) for x in pair}
            graded |= {loop.before.value for loop in each.carries}
            read |= {loop.before.id for loop in each.carries}
    return frozenset(read - storages), not (graded <= values and wanted <= weights)


def _inside(nodes: Iterable[Node]) -> Iterator[Node]:
    """All nodes of a body, at whatever depth."""
    for node in nodes:
        yield node
        if not isinstance(node, Op):
            yield from _inside((*node.runs, *node.body) if isinstance(node, Repeat) else node.body)
        if isinstance(node, Again):
            yield node.op
