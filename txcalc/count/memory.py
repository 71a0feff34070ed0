"""Live bytes: what is in memory after each operation of a run, forward and backward.

A storage is born at its writer and dies after its last reader, unless autograd has saved it or a frame holds it. The
backward pass is the forward one in reverse: an operation reads what it saved and the gradients of what it wrote, and
makes those of what it read, in the order of PyTorch's formulas; what it saved is released, then what it made is
added to the gradients that are there (https://pytorch.org/docs/stable/notes/autograd.html).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple

from txcalc.trace.record import Frame, Gradient, Node, Op, Repeat, Tensor, Trace
from txcalc.trace.workload import Workload

Phase = Literal["forward", "backward"]


class Event(NamedTuple):
    """The bytes that are live after an operation has allocated, or after others were freed (then without a path)."""

    phase: Phase
    path: str
    live: int


@dataclass(eq=False, slots=True)
class _Memory:
    """One storage of one turn, and how many still need it."""

    bytes: int
    users: int = 0


@dataclass(eq=False, slots=True)
class _Value:
    """One value of one turn, which has one gradient."""

    memory: _Memory | None  # none: it was there before the run
    gradient: _Memory | None = None
    fresh: bool = False  # the gradient may be added to in place


class _Run(NamedTuple):
    """One operation of one turn, on its own storages."""

    op: Op
    reads: tuple[_Memory, ...]
    writes: tuple[_Memory, ...]
    saves: tuple[_Memory, ...]
    read_values: dict[int, _Value]
    written: tuple[_Value, ...]
    turns: tuple[int, ...]


@dataclass
class _Unrolled:
    """Every operation of every turn, in order; ``None`` ends a frame and releases what stands beside it."""

    workload: Workload
    steps: list[tuple[_Run | None, tuple[_Memory, ...]]] = field(default_factory=list)
    memories: dict[int, _Memory] = field(default_factory=dict)
    values: dict[int, _Value] = field(default_factory=dict)

    def add(self, nodes: Iterable[Node], turns: tuple[int, ...] = ()) -> None:
        for node in nodes:
            if isinstance(node, Op):
                self.steps.append((self._op(node, turns), ()))
            elif isinstance(node, Frame):
                self.add(node.body, turns)
                held = tuple(m for x in node.holds if (m := self.memories.get(x.storage.id)) is not None)
                self.steps.append((None, held))
            else:
                self._repeat(node, turns)

    def _repeat(self, node: Repeat, turns: tuple[int, ...]) -> None:
        for loop in node.carries:
            self._name(loop.entry, loop.before)
        own = isinstance(node.copies, int) and node.copies > 1
        for turn in range(int(node.times)):
            if turn:
                for loop in node.carries:
                    self._name(loop.entry, loop.exit)
            self.add(node.body, (*turns, turn) if own else turns)
        for loop in node.carries:
            self._name(loop.after, loop.exit)

    def _name(self, name: Tensor, known: Tensor) -> None:
        """Let one tensor stand for what another is."""
        self.values[name.value] = self._value(known)
        if known.storage.id in self.memories:
            self.memories[name.storage.id] = self.memories[known.storage.id]
        else:
            self.memories.pop(name.storage.id, None)

    def _value(self, x: Tensor) -> _Value:
        if x.value not in self.values:
            self.values[x.value] = _Value(self.memories.get(x.storage.id))
        return self.values[x.value]

    def _op(self, op: Op, turns: tuple[int, ...]) -> _Run:
        reads = tuple(m for x in op.reads if (m := self.memories.get(x.storage.id)) is not None)
        read_values = {x.value: self._value(x) for step in op.backward for g in step if isinstance(x := g.of, Tensor)}
        old = {x.storage.id for x in op.reads}
        for x in op.writes:
            if x.storage.id not in old:
                self.memories[x.storage.id] = _Memory(x.elements * self.workload.bytes_of(x.role))
        written = []
        for x in op.writes:
            value = self.values[x.value] = _Value(self.memories.get(x.storage.id))
            written.append(value)
        writes = tuple(dict.fromkeys(self.memories[x.storage.id] for x in op.writes if x.storage.id not in old))
        saves = tuple(m for x in op.saves if (m := self.memories.get(x.storage.id)) is not None)
        return _Run(op, reads, writes, saves, read_values, tuple(written), turns)


def live_bytes(trace: Trace, *, in_place: bool = True) -> list[Event]:
    """Live bytes of a training step's forward and backward pass, as PyTorch's autograd runs it.

    What was there before (weights, buffers, inputs) is left out, and so is what a kernel allocates for itself.
    ``in_place``: gradients are added in place where PyTorch does so; under a dispatch mode it never does.
    """
    run = _Unrolled(trace.workload)
    run.add(trace.body)
    live = Live(trace.workload, in_place=in_place)
    live.forward(run, saves=True, results=trace.results)
    live.backward(run, trace.results, given=trace.loss is None)
    return live.events


class Live:
    """The bytes that are live, event by event."""

    def __init__(self, workload: Workload, *, in_place: bool) -> None:
        self.workload, self.in_place = workload, in_place
        self.now, self.events = 0, list[Event]()
        self._phase: Phase = "forward"
        self._weights: dict[object, _Value] = {}

    def forward(self, run: _Unrolled, *, saves: bool, results: Iterable[Tensor] = ()) -> None:
        """Run forward to results that the caller holds; with ``saves``, autograd keeps what operations save."""
        for x in results:
            run.memories[x.storage.id].users += 1
        last: dict[_Memory, int] = {}
        for i, (op, held) in enumerate(run.steps):
            last |= dict.fromkeys(held if op is None else (*op.reads, *op.writes), i)
        dying: dict[int, list[_Memory]] = {}
        for memory, i in last.items():
            dying.setdefault(i, []).append(memory)
        for i, (op, _) in enumerate(run.steps):
            if op is not None:
                self._allocate(op.op.path, op.writes)
                for memory in op.saves if saves else ():
                    memory.users += 1
            self._release(dying.get(i, ()))

    def backward(self, run: _Unrolled, results: Iterable[Tensor], *, given: bool) -> None:
        """Run backward from the gradients of the results, which the caller holds, and had before if ``given``."""
        self._phase = "backward"
        first = [_Memory(self._width(x), users=1) for x in results]
        for x, memory in zip(results, first, strict=True):
            run.values[x.value].gradient = memory
            memory.users += given
        if not given:
            self._allocate("", first)
        for op, _ in reversed(run.steps):
            if op is not None:
                self._back(op)
        if not given:
            self._release(first)

    def _back(self, run: _Run) -> None:
        given = [value.gradient for value in run.written if value.gradient is not None]
        made: list[tuple[Gradient, _Memory]] = []
        passing: list[_Memory] = []
        if given:
            for step in run.op.backward:
                wanted = [g for g in step if not isinstance(g.of, Tensor) or g.of.grad]
                new = [g for g in wanted if g.how in ("new", "view")]
                fresh = self._make(run.op.path, [self._size(g) for g in new])
                made += zip(new, fresh, strict=True)
                for g in wanted:
                    if g.how in ("same", "part"):
                        given[0].users += 1
                        made.append((g, given[0]))
                self._release(passing)
                passing = [memory for g, memory in zip(new, fresh, strict=True) if g.passing]
        for value in run.written:
            value.gradient = None
        temporary = [memory for g, memory in made if g.of is None and not g.passing]
        self._release([*given, *passing, *temporary, *run.saves])
        through_views = [each for each in made if _through_view(each[0])]
        self._hand_on(run, [each for each in made if not _through_view(each[0])])
        for each in reversed(through_views):  # each through an operation of its own, made before this one
            self._hand_on(run, [each])

    def _hand_on(self, run: _Run, made: list[tuple[Gradient, _Memory]]) -> None:
        """Add gradients to those that are there; what was added is released when all have been."""
        spent: list[_Memory] = []
        for g, memory in made:
            if isinstance(g.of, Tensor):
                spent += self._add(run, run.read_values[g.of.value], g, memory)
            elif g.of is not None:
                spent += self._add(run, self._weights.setdefault((g.of, run.turns), _Value(None)), g, memory)
        self._release(spent)

    def _add(self, run: _Run, value: _Value, g: Gradient, memory: _Memory) -> list[_Memory]:
        """Add a gradient to what is there, in place where that has one owner and no view of it."""
        old, fresh = value.gradient, g.how in ("new", "same") and not _through_view(g)
        if old is None:
            value.gradient, value.fresh = memory, fresh
            return []
        if not (self.in_place and value.fresh and old.users == 1):
            size = self._width(g.of) if isinstance(g.of, Tensor) else old.bytes
            value.gradient, value.fresh = self._make(run.op.path, [size])[0], True
            self._release([old])
        return [memory]

    def _size(self, g: Gradient) -> int:
        return int(g.elements * self.workload.bytes_of(g.role))

    def _width(self, x: Tensor) -> int:
        return int(prod(x.shape) * self.workload.bytes_of(x.role))

    def _make(self, path: str, sizes: list[int]) -> list[_Memory]:
        made = [_Memory(size) for size in sizes]
        self._allocate(path, made)
        return made

    def _allocate(self, path: str, memories: Iterable[_Memory]) -> None:
        new = list(memories)
        for memory in new:
            memory.users += 1
            self.now += memory.bytes
        if any(memory.bytes for memory in new):
            self.events.append(Event(self._phase, path, self.now))

    def _release(self, memories: Iterable[_Memory]) -> None:
        before = self.now
        for memory in memories:
            memory.users -= 1
            if not memory.users:
                self.now -= memory.bytes
        if self.now == before:
            return
        if self.events and not self.events[-1].path:
            self.events.pop()
        self.events.append(Event(self._phase, "", self.now))


def _through_view(g: Gradient) -> bool:
    """Whether the gradient goes on through the backward pass of a view: of the tensor, or of a transposed weight."""
    return g.of.viewed if isinstance(g.of, Tensor) else g.how == "view"
