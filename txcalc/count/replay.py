"""Live bytes on ints: traces that differ in nothing but sizes are followed once, and added up for each of them.

What is born and freed when is a matter of which operations read what, not of how large it is. So a run is noted as
changes of storages, each by its place among all sizes that a trace has; for another trace with the same operations
those are read anew and added up in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from operator import itemgetter
from typing import Any, Final, NamedTuple

from txcalc.count.lifetimes import again, follow, width
from txcalc.count.moments import ONCE, Change, Mode, Moments, accumulated, added_up
from txcalc.count.plans import plan
from txcalc.count.shards import sharding
from txcalc.count.turns import Memory, bytes_in, count
from txcalc.count.unproved import check
from txcalc.trace.layout import WHOLE
from txcalc.trace.record import Frame, Node, Op, Repeat, Trace
from txcalc.trace.tensors import Gradient, Number, Role, Storage, Tensor


class Left(NamedTuple):
    """A gradient that a run leaves: its weight's path, its bytes and shape, and how many are alike."""

    path: str
    bytes: int
    shape: tuple[int, ...]
    often: int


class Ran(NamedTuple):
    """A run of one trace, whose moments are added up when they are asked for."""

    moments: Callable[[], Moments]
    left: tuple[Left, ...]


def on_ints(trace: Trace, *, in_place: bool, mode: Mode, rounded: Callable[[int], int]) -> Moments:
    """The moments of a run on ints, of storages as an allocator rounds them up."""
    return _ran(trace, in_place, rounded, mode).moments()


def gradients(trace: Trace, rounded: Callable[[int], int] = int) -> tuple[Left, ...]:
    """The gradients that a run leaves. ``rounded``: as what else is asked of the run has it. Raises ``SpecError`` as
    ``moments`` does."""
    return _ran(trace, True, rounded, ONCE, sharded=False).left


def gathered(trace: Trace) -> Mapping[tuple[str, Number, str, str], int]:
    """The collectives of sharded weights in a step: what, bytes of the full tensor, pass and unit, and how often."""
    if not trace.layout.shards or trace.workload.phase != "training":
        return {}
    units = sharding(trace)
    assert units is not None
    follow(trace, number=partial(count, trace), units=units)
    return units.calls


def _ran(trace: Trace, in_place: bool, rounded: Callable[[int], int], mode: Mode, *, sharded: bool = True) -> Ran:
    """A run on ints, added up once. ``sharded``: what becomes of sharded weights is a part of it."""
    key = in_place, rounded, mode, sharded and bool(trace.layout.shards)
    if key not in trace.counted:
        trace.counted[key] = _played(trace, *key) or _followed(trace, in_place, rounded, mode)
    found: Ran = trace.counted[key]
    return found


def _followed(trace: Trace, in_place: bool, rounded: Callable[[int], int], mode: Mode) -> Ran:
    """A run of this trace alone."""
    run = partial(follow, trace, in_place=in_place, number=partial(count, trace),
                  amount=lambda memory: rounded(memory.bytes))
    once = run()
    left = (Left(path, int(memory.bytes), memory.shape, often) for path, memory, often in once.gradients())
    return Ran(cache(lambda: added_up(again(trace, once, run, mode))), tuple(left))


def _played(trace: Trace, in_place: bool, rounded: Callable[[int], int], mode: Mode, sharded: bool) -> Ran | None:
    """The run of all traces alike, added up for this one; none where they are not alike in all that it needs."""
    if trace.sizes:
        return None
    check(trace)
    shards = _shards(trace)
    form = trace.counted.get(in_place) or trace.counted.setdefault(in_place, _Form(trace, in_place))
    notes = _noted(form, mode, shards if sharded else ())
    if notes is None or any((form.sizes[a] != form.sizes[b]) != differ for a, b, differ in notes.differing):
        return None
    sizes = *form.sizes, *notes.fixed[::-1]
    return Ran(cache(lambda: added_up(notes.changes, sizes=[*map(rounded, sizes)])), tuple(
        Left(path, form.sizes[at], form.shapes[at], often) for path, at, often in notes.left))


class _Size(int):
    """A size in bytes that knows its place among those of its trace."""

    at: int


def _but(of: type[Any], *fields: str) -> Callable[[Any], tuple[Any, ...]]:
    """All that a record says but for these ``fields``."""
    return itemgetter(*(i for i, name in enumerate(of._fields) if name not in fields))


_OF_TENSOR: Final = _but(Tensor, "storage", "shape")
_OF_STORAGE: Final = _but(Storage, "shape", "role")
_OF_GRADIENT: Final = _but(Gradient, "of", "shape", "role", "kept")
_OF_REPEAT: Final = _but(Repeat, "body", "carries", "spreads", "gathers", "runs")
_OF_FRAME: Final = _but(Frame, "holds", "body")
_OF_OP: Final = _but(Op, "kind", "weights", "products", "saves", "cache", "reads", "writes", "reach", "backward")


class _Form:
    """A trace by all that its run depends on but ``sizes``, which storages, gradients and results have in this order.
    Those with equal forms are alike."""

    def __init__(self, trace: Trace, in_place: bool) -> None:
        self.trace, self.in_place = trace, in_place
        self.sizes, self.shapes, self._places = list[int](), list[tuple[int, ...]](), dict[int, int]()
        of, layout = trace.workload, trace.layout
        self._width, self._keeps = of.bytes_of, of.keeps
        self._key = (
            in_place, of.keeps, of.recompute, of.offload, layout == WHOLE, layout.pp > 1, trace.stage < layout.pp - 1,
            trace.code.holds_sent, trace.loss is None, tuple(self._width(role) for role in Role),
            *(tuple(map(self._tensor, each)) for each in (trace.results, trace.leaves, trace.inputs)),
            *self._nodes(trace.body, []))
        for x in (*trace.results, *trace.leaves):
            self._put(width(trace, x), x)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Form) and self._hash == other._hash and self._key == other._key

    def read(self, size: int, of: Any = None) -> int:
        """A size that knows its place, if it is one of bytes. Raises ``LookupError`` where another is there."""
        if of is None:
            return size
        found = _Size(size)
        found.at = self._places[id(of)]
        if self.sizes[found.at] != size:
            raise LookupError
        return found

    def _put(self, size: int, of: Any) -> int:
        self._places[id(of)] = len(self.sizes)
        self.sizes.append(size)
        self.shapes.append(of.shape or getattr(getattr(of, "of", None), "shape", ()))
        return size

    def _tensor(self, x: Tensor) -> tuple[Any, ...]:
        return *_OF_TENSOR(x), *_OF_STORAGE(x.storage), id(x.storage.role)

    def _nodes(self, nodes: Iterable[Node], found: list[Any]) -> list[Any]:
        ids = self._tensor
        for node in nodes:
            if isinstance(node, Op):
                found.append(self._op(node))
                continue
            if isinstance(node, Repeat):
                found += (_OF_REPEAT(node), tuple(tuple(map(ids, loop[:4])) for loop in node.carries), *(
                    tuple(tuple(map(ids, pair)) for pair in pairs) for pairs in (node.spreads, node.gathers)))
                self._nodes(node.runs, found)
            elif isinstance(node, Frame):
                found += (_OF_FRAME(node), tuple(map(ids, node.holds)))
            else:
                found.append(self._op(node.op))
            self._nodes(node.body, found)
            found.append(None)
        return found

    def _op(self, op: Op) -> tuple[Any, ...]:
        ids = self._tensor
        for x in op.writes:
            if id(x.storage) not in self._places:
                self._put(bytes_in(self.trace, x), x.storage)
        if self._keeps:
            plan(op, self._width, self._put, in_place=self.in_place)
        backward = op.backward if self._keeps else ()
        for step in backward:
            for g in step:
                if isinstance(g.of, Tensor) and id(g.of) not in self._places:
                    self._put(width(self.trace, g.of), g.of)
        return (*_OF_OP(op), op.kind.name, tuple((name, len(shape)) for name, shape in op.weights),
                *(tuple(map(ids, each)) for each in (op.reads, op.saves, op.writes)), tuple(tuple(
                    (ids(g.of) if isinstance(g.of, Tensor) else g.of, id(g.role), g.kept and ids(g.kept),
                     *_OF_GRADIENT(g)) for g in step) for step in backward))


def _shards(trace: Trace) -> tuple[Any, ...]:
    """Facts that units of sharded weights follow from; empty if none. Raises ``SpecError`` for what is not known."""
    return () if sharding(trace) is None else (
        trace.layout, trace.workload.implementation, trace.model.encoder is None, *(op.weights for op in trace.ops))


class _Notes(NamedTuple):
    """Changes of what is alive, storages by place; the places of gradients that are left, and of sizes that differ.

    ``fixed``: sizes of sharded weights and of their buffers, the same in all runs, with places from the end on.
    """

    changes: Sequence[Change]
    left: tuple[tuple[str, int, int], ...]
    differing: tuple[tuple[int, int, bool], ...]
    used: Mapping[object, int]
    later: Sequence[Change] | None  # of a micro-batch that is not the first
    fixed: tuple[int, ...] = ()


@lru_cache(maxsize=64)
def _noted(form: _Form, mode: Mode, shards: tuple[Any, ...]) -> _Notes | None:
    """The run of all traces of a form and of equal ``shards``; none if some size is not one that they all have."""
    units = sharding(form.trace, later=mode.accumulates, whole=mode.whole) if shards else None
    uses: Mapping[object, int] = {}
    if mode.accumulates and (units is None or units.adds):
        if (once := _noted(form, ONCE, ())) is None:
            return None
        if units is None and not mode.halves and once.later is not None:
            return once._replace(changes=once.later)
        uses = once.used
    fixed = dict[int, int]()

    def place(memory: Memory) -> int:
        if isinstance(memory.bytes, _Size):
            return memory.bytes.at
        if units is None:
            raise LookupError
        return ~fixed.setdefault(memory.bytes, len(fixed))

    try:
        run = follow(form.trace, in_place=form.in_place, amount=place, number=form.read, uses=uses, units=units,
                     halves=mode.halves and units is None)
        differing = tuple((a.at, b.at, differ) for a, b, differ in run.differing)
        if units is not None:
            return _Notes(run.changes, (), differing, run.used, None, (*fixed,))
        left = tuple((path, memory.bytes.at, often) for path, memory, often in run.gradients())
        if any(form.shapes[memory.bytes.at] != memory.shape for _, memory, _ in run.gradients()):
            return None
    except LookupError:
        return None
    return _Notes(run.changes, left, differing, run.used, accumulated(run.changes, run.last))

