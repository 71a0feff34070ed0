"""The weights that a training step makes gradients of, as its optimizer sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import prod

from txcalc.count.parameter import Parameter
from txcalc.count.replay import gradients
from txcalc.count.turns import count
from txcalc.spec.facts import located_blocks
from txcalc.trace.record import Node, Op, Repeat, Trace, walk
from txcalc.trace.tensors import Number


@lru_cache(maxsize=4)
def parameters(
    trace: Trace, like: Trace | None = None, rounded: Callable[[int], int] = int
) -> list[Parameter]:
    """The weights that the backward pass makes gradients of, in the order in which they are used.

    ``like``: the same run on another batch or length, whose backward pass says it as well if as many experts run.
    ``rounded``: bytes of a storage as what else is asked of that run has them.
    """
    run = trace if like is None or _repeats(like) != _repeats(trace) else like
    made = _gradients(run.alike or run, rounded)
    found: dict[str, Parameter] = {}
    for op in trace.ops:
        for name, shape in op.weights:
            path = f"{op.path}.{name}" if name else op.path
            size, often, own = made.get(path, (0, 0, shape))
            if often:  # of a table of which a rank has a part it is that of the whole
                kept = shape if op.kind.name == "embedding" else own
                found[path] = Parameter(op, path, name, kept, size // prod(own), often, _head(trace))
    return list(found.values())


def _repeats(trace: Trace) -> list[tuple[str, Number]]:
    """Numbers of turns of every repeat: of experts, those that get rows."""
    return [(node.path, sum(run.times for run in node.runs or (node,)))
            for node, _ in walk(trace.body) if isinstance(node, Repeat)]


@lru_cache(maxsize=4)
def _gradients(trace: Trace, rounded: Callable[[int], int]) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    """Bytes of a weight's gradient, of how many copies, and its shape."""
    made: dict[str, tuple[int, int, tuple[int, ...]]] = {}
    for each in gradients(trace, rounded) if trace.workload.phase == "training" else ():
        _, often, _ = made.get(each.path, (0, 0, ()))
        shape = tuple(count(trace, size) for size in each.shape)
        made[each.path] = each.bytes, often + count(trace, each.often), shape
    return made


def unrolled(trace: Trace, parameters: Iterable[Parameter], turns: int | None = None) -> list[Parameter]:
    """Every copy of parameters by itself, one set of weights after another, in so many ``turns`` of a repeat."""
    own: dict[str, list[Parameter]] = {}
    for p in parameters:
        own.setdefault(p.op.path, []).append(p)
    left = Counter({p.path: p.copies for each in own.values() for p in each})

    def each_of(nodes: Iterable[Node]) -> Iterator[Parameter]:
        for node in nodes:
            if isinstance(node, Op):
                for p in own.get(node.path, ()) if node.weights else ():
                    if left[p.path]:
                        left[p.path] -= 1
                        yield p._replace(copies=1)
            else:
                copies = count(trace, node.copies) if isinstance(node, Repeat) else 1
                for _ in range(copies if turns is None else min(copies, turns)):
                    yield from each_of(node.body)

    return list(each_of(trace.body))


def _head(trace: Trace) -> int:
    """Elements of one of attention's heads, of a square projection of the model's width."""
    heads = next((getattr(block.attention, "heads", 1) for _, block in located_blocks(trace.model)), 1)
    return count(trace, trace.model.d_model**2) // heads
