"""Live bytes: what is in memory after each operation of a run, forward and backward.

A storage is born at its writer and dies after its last reader, unless autograd has saved it or a frame holds it. The
backward pass is the forward one in reverse: an operation reads what it saved and the gradients of what it wrote, and
makes those of what it read, in the order of PyTorch's formulas; what it saved is released, then what it made is added
to the gradients that are there (https://pytorch.org/docs/stable/notes/autograd.html). Of the turns of a ``Repeat`` the
first, the second and the last ones are run. The second stands for all between: what is alive grows by as much in each
of them. What a turn adds to a list, or leaves as the gradient of what it read of one, is alive until the list is read,
and then freed as often as turns are alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

from txcalc.count.halves import Halves
from txcalc.count.moments import ONCE, Change, Last, Mode, Moments, Pass, accumulated, added_up, every
from txcalc.count.plans import Plan, gradient_name, through_view
from txcalc.count.plans import plan as backward
from txcalc.count.shards import Sharding, sharding
from txcalc.count.turns import Border, Edge, Memory, Reading, Return, Run, Schedule, Step, Turns, Value
from txcalc.count.unproved import check
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Gradient, Number, Tensor


class Event(NamedTuple):
    """The bytes that are live after an operation has allocated, or after others were freed (then without a path)."""

    phase: Pass
    path: str
    live: int


def live_bytes(trace: Trace, *, in_place: bool = True, unroll: bool = False) -> list[Event]:
    """Live bytes of a run, forward and, in training, backward, as PyTorch's autograd runs it.

    A cache is alive before the run; what else was there (weights, buffers, inputs) is left out, and so is what a kernel
    allocates for itself, and what a run on a card has in the CPU's memory. ``in_place``: gradients and masks are added
    in place where PyTorch does so; under a dispatch mode it never does. ``unroll``: run every turn of every repeat,
    which comes to the same. Raises ``SpecError`` for what is not proved.
    """
    found: list[Event] = []
    for moment in every(trace, moments(trace, in_place=in_place, unroll=unroll), 0):
        event = Event(moment.phase, moment.path, moment.live)
        if found and event.live == found[-1].live:
            continue
        if len(found) > 1 and not event.path and not found[-1].path:
            found.pop()
        found.append(event)
    return found[1:]


def moments(
    trace: Trace, *, in_place: bool, unroll: bool = False, mode: Mode = ONCE, none: Any = 0,
    amount: Callable[[Memory], Any] = lambda memory: memory.bytes,
    number: Reading = lambda size, of=None: size,
) -> Moments:
    """Every moment of a run on ints or symbols, that before it first.

    ``amount``: what a storage adds to ``none``, its bytes or more. ``number``: reads sizes. Raises
    ``SpecError`` for what is not proved.
    """
    run = partial(follow, trace, in_place=in_place, unroll=unroll, amount=amount, number=number)
    return added_up(again(trace, run(), run, mode), none)


def again(trace: Trace, once: Live, run: Callable[..., Live], mode: Mode) -> list[Change]:
    """Changes of a run, which is run once more where it is in halves, or on sharded weights."""
    units, uses = sharding(trace, later=mode.accumulates, whole=mode.whole), once.used if mode.accumulates else {}
    if units is not None:
        return run(units=units, uses=uses if units.adds else {}).changes
    same = None if mode.halves else accumulated(once.changes, once.last) if mode.accumulates else once.changes
    return run(uses=uses, halves=mode.halves).changes if same is None else same


def width(trace: Trace, x: Tensor) -> Number:
    """Bytes of a tensor's gradient."""
    return prod(x.shape) * trace.workload.bytes_of(x.made)


def follow(
    trace: Trace, *, in_place: bool = True, unroll: bool = False, uses: Mapping[object, int] = MappingProxyType({}),
    amount: Callable[[Memory], Any] = lambda memory: memory.bytes, number: Reading = lambda size, of=None: size,
    units: Sharding | None = None, halves: bool = False,
) -> Live:
    """A run, forward and backward, as ``moments`` asks for it."""
    check(trace)
    steps = Schedule(trace, unroll, in_place, number, None if units is None else units.unit)
    steps.add(trace.body)
    live = Live(trace, in_place=in_place, amount=amount, number=number, uses=uses, units=units)
    for memory, often in steps.cached:
        live.add(memory, often)
    live.note()
    live.forward(steps)
    if trace.workload.keeps:
        live.halves = Halves() if halves else None
        live.backward(steps)
        if units is not None and units.piped and not units.whole:  # the stage's last micro-batch has been back
            live.phase, live.turns, live.ahead = "reduction", (), True
            units.finish(live, steps.steps)
    return live


class Live:
    """Changes of what is alive, with its moments between.

    ``differing``: sizes of which it matters whether they are one, and if they are not.
    """

    def __init__(
        self, trace: Trace, *, in_place: bool, amount: Callable[[Memory], Any], number: Reading,
        uses: Mapping[object, int], units: Sharding | None,
    ) -> None:
        """``uses``: after how many uses the gradient of a weight is added to one that was there before the run."""
        self.trace, self.in_place, self.amount, self.number = trace, in_place, amount, number
        self.changes, self.differing = list[Change](), list[tuple[Any, Any, bool]]()
        self._bytes, self.ahead = trace.workload.bytes_of, True
        self.phase: Pass = "forward"
        self.turns: Turns = ()
        self.weights: dict[tuple[str, object], tuple[Value, Number]] = {}  # their gradients, and how many are alike
        self._uses, self.used, self._units = uses, Counter[object](), units
        self._plans, self._widths, self._leaves = dict[int, Plan](), dict[int, Number](), dict[Value, int]()
        self.last, self.open = dict[object, Last](), list[Edge]()
        self.halves: Halves | None = None  # of the backward pass

    def forward(self, steps: Schedule) -> None:
        """Run forward to results that the caller holds."""
        for x in self._outputs:
            steps.memories[x.storage.id].users += 1
        self._forth(steps.steps, len(steps.steps) - 1)
        self.note()

    def _forth(self, steps: list[Step], end: int) -> None:
        """Run steps up to the ``end``-th, after which only what is saved, or read by others, is alive."""
        casts, around = list[tuple[Memory, Number]](), len(self.open)
        last: dict[Memory, int] = {}
        for i, step in enumerate(steps):
            if isinstance(step, Return | Run):
                last |= dict.fromkeys(step.holds if isinstance(step, Return) else (*step.reads, *step.writes), i)
        dying: dict[int, list[Memory]] = {}
        for memory, i in last.items():
            dying.setdefault(min(i, end), []).append(memory)
        for i, step in enumerate(steps[:end + 1]):
            if isinstance(step, Edge):
                self.cross(step)
                continue
            if isinstance(step, Border) and self._units is not None and self.phase == "forward":
                self._units.forward(self, step)
            if isinstance(step, Run):
                self.turns = step.turns
                if step.op.kind.cached != "before":
                    self.allocate(step.op.path, step.writes)
                if step.op.kind.cached == "autocast":
                    casts += ((m, prod(edge.times for edge in self.open[around:])) for m in step.keeps)
                for memory in step.keeps:
                    memory.users += 1
            if i in dying:
                self.release(dying[i])
        for memory, often in casts:  # where autocast ends, its cache does
            memory.users -= 1
            if not memory.users:
                self.add(memory, -often)
        if casts:
            self.note()

    def backward(self, steps: Schedule) -> None:
        """Run backward from the gradients of the results, which the caller holds, and had before if it has no loss."""
        self.ahead, self.phase, given, results = False, "backward", self.trace.loss is None, self.trace.results
        readers = Counter(x.value for op in self.trace.ops for x in op.reads)
        self._leaves = {steps.values[x.value]: readers[x.value] for x in self.trace.leaves}
        last = next(step.op for step in reversed(steps.steps) if isinstance(step, Run))
        first = [Memory(self._width(x), last, f"gradient of {x.label}", users=1, shape=x.shape) for x in results]
        for x, memory in zip(results, first, strict=True):
            steps.values[x.value].gradient = memory
            memory.users += given
        if not given:
            self.allocate(results[0].label, first)
        for step in reversed(steps.steps):
            if isinstance(step, Edge):
                self.cross(step)
            elif isinstance(step, Border) and self._units is not None:
                self._units.backward(self, step)
            elif isinstance(step, Run):
                self.turns = step.turns
                self._back(step)
        lets = self.trace.layout.pp > 1 and self._outputs  # which a schedule then lets go of
        outputs, leaves = ([steps.memories[x.storage.id] for x in found] if lets else []
                           for found in (results, self.trace.leaves))
        handed = [value.gradient for x in self.trace.inputs if (value := steps.values[x.value]).gradient is not None]
        above = () if self.halves is None else self.halves.above(steps)
        self.release([*(() if given else first), *above, *leaves, *(() if self.halves else outputs)])
        self.release(handed)
        if self.halves is not None:
            self.phase, self.ahead = "weights", True
            self.halves.weights(self, steps, outputs, later=bool(self._uses))

    @property
    def _outputs(self) -> tuple[Tensor, ...]:
        """Results that the caller holds, unless they are sent to the next stage of a pipeline and let go of."""
        sent = not self.trace.code.holds_sent and self.trace.stage < self.trace.layout.pp - 1
        return () if sent else (*self.trace.results, *self.trace.leaves)

    def cross(self, edge: Edge) -> None:
        """Begin turns that stand for others, or end them: then all that those would have added is alive."""
        if self.open and self.open[-1] is edge:
            self.open.pop()
        else:
            self.open.append(edge)
        self.changes.append((edge, self.ahead))

    def _back(self, run: Run) -> None:
        given: list[Memory] = []
        for value in (each for many in run.written for each in many.items or (many,)):
            if value.gradient is not None:
                value.gradient.edge = value.edge
                given.append(value.gradient)
                value.gradient = None
        if not given:
            self.release(run.unpacks)
            self.release(() if self.halves else run.frees)
            return
        made: list[tuple[Gradient, Memory]] = []
        passing: list[tuple[int, Memory]] = []
        unpacked, planned, checked = run.unpacks, self.plan(run.op), 0
        if run.again is not None and run.again.due and run.op.packs:
            run.again.due, self.ahead = False, True
            if run.again.restores:
                self.allocate(run.op.path, run.again.restores)
            self._forth(run.again.steps, run.again.end)
            self.release(run.again.restores)
            self.turns, self.ahead = run.turns, False
        for i, step in enumerate(planned.steps):
            if step.summed:
                self.release(unpacked)
                unpacked = ()
                if not step.first:
                    made[checked:] = self._checked(run, planned, made[checked:])
                    checked = len(made)
            new = [each for each in step.new if self._wants(run, each[0])]
            fresh = list(zip((g for g, _ in new), self.make(run.op, new), strict=True))
            made += [*self._kept(run, step.kept), *fresh]
            for g in step.same:
                if self._wants(run, g):
                    given[0].users += len(run.read_values[g.of.value].each()) if isinstance(g.of, Tensor) else 1
                    made.append((g, given[0]))
            self.release(memory for last, memory in passing if last == i)
            passing += [(i + g.passing, memory) for g, memory in fresh if g.passing]
        self.release(unpacked)
        made[checked:] = self._checked(run, planned, made[checked:])
        temporary = [memory for g, memory in made if g.of is None and not g.passing]
        passed = [memory for last, memory in passing if last >= len(run.op.backward)]
        held = self.halves is not None and self.halves.hold(run, given)
        self.release([*(() if held else given), *passed, *temporary, *(() if self.halves else run.frees)])
        through = [x for x in made if through_view(x[0])]  # operations made before this one
        own = [x for x in made if not through_view(x[0])] if through else made
        self.hand_on(run, sorted(own, key=lambda x: not x[0].first) if len(own) > 1 else own)
        for each in reversed(through):
            self.hand_on(run, [each])

    def _wants(self, run: Run, g: Gradient) -> bool:
        """True for a gradient that is made, in this half of the backward pass if it has two."""
        if isinstance(g.of, Tensor):
            return run.read_values[g.of.value].grad
        return self.halves is None or g.of is None

    def plan(self, op: Op) -> Plan:
        """An operation's backward pass, the same in every turn."""
        if id(op) not in self._plans:
            self._plans[id(op)] = backward(op, self._bytes, self.number, in_place=self.in_place)
        return self._plans[id(op)]

    def _kept(self, run: Run, wanted: Iterable[Gradient]) -> Iterator[tuple[Gradient, Memory]]:
        """Gradients that the forward pass has made already, and saved."""
        for g in wanted:
            assert g.kept is not None
            memory = run.read_values[g.kept.value].memory
            if memory is not None and self._wants(run, g):
                memory.users += 1
                self.add(memory, -1)
                memory.what = gradient_name(g)
                memory.group = "gradients" if isinstance(g.of, str) else "transient"
                self.add(memory, 1)
                yield g, memory

    def _checked(self, run: Run, planned: Plan, made: list[tuple[Gradient, Memory]]) -> list[tuple[Gradient, Memory]]:
        """Gradients in the dtype of what was read, cast where they are not (``validate_outputs`` in ``engine.cpp``)."""
        if not any(id(g) in planned.casts for g, _ in made):
            return made
        found = list[tuple[Gradient, Memory]]()
        for g, memory in made:
            if id(g) in planned.casts and isinstance(g.of, Tensor):
                (cast,) = self.make(run.op, [(g, self._width(g.of))])
                self.release([memory])
                g, memory = g._replace(how="new"), cast
            found.append((g, memory))
        return found

    def hand_on(self, run: Run, made: list[tuple[Gradient, Memory]]) -> None:
        """Add gradients to those that are there; what was added is released when all have been."""
        spent, added = list[Memory](), list[tuple[Any, Value]]()
        for g, memory in made:
            if isinstance(g.of, Tensor):
                for value in run.read_values[g.of.value].each():
                    spent += self._add(run, value, g, memory)
            elif g.of is not None:
                key = g.of, run.own
                value, _ = self.weights.setdefault(key, (Value(None), prod(edge.times for edge in self.open)))
                spent += self._add(run, value, g, memory)
                self.used[key] += 1
                added.append((key, value))
                if self.used[key] == self._uses.get(key) and value.gradient is not None:
                    spent.append(value.gradient)
                if self._units is not None:
                    self._units.own(self, g.of, value)
        before, note = len(self.changes), (None, (self.phase, "", self.turns))
        self.release(spent)
        at, notes = (len(self.changes) - 1, []) if len(self.changes) > before else (before, [note])
        for key, value in added:
            if (own := value.gradient) is not None:
                self.last.pop(key, None)
                self.last[key] = at, notes, (self.amount(own), self._gone(own)) if own.users == 1 else None

    def _add(self, run: Run, value: Value, g: Gradient, memory: Memory) -> list[Memory]:
        """Add a gradient to what is there, in place where that has one owner and no view of it."""
        old, fresh = value.gradient, g.how in ("new", "same") and not through_view(g)
        size = self._width(g.of) if isinstance(g.of, Tensor) else (old or memory).bytes
        if old is None:  # a leaf's is no part of another's
            whole = g.how == "same" and memory.users > 1 == self._leaves.get(value)  # another has it, too
            own = self.make(run.op, [(g, size)]) if whole or (g.how == "part" and value in self._leaves) else []
            value.gradient, value.fresh = (own or [memory])[0], fresh or bool(own)
            return [memory] if own else []
        if not old.users:  # it was added elsewhere
            return [memory]
        part = isinstance(g.of, str) and self.differ(memory.bytes, size)  # of a table of which this rank has a part
        spent = [memory, *(self.make(run.op, [(g, size)]) if part else ())]
        if not (self.in_place and value.fresh and old.users == 1):
            sized = g if isinstance(g.of, Tensor) else g._replace(shape=old.shape)
            value.gradient, value.fresh = self.make(run.op, [(sized, size)])[0], True
            self.release([old])
        return spent

    def _width(self, x: Tensor) -> Number:
        if id(x) not in self._widths:
            self._widths[id(x)] = self.number(width(self.trace, x), x)
        return self._widths[id(x)]

    def make(self, op: Op, sizes: list[tuple[Gradient, Number]]) -> list[Memory]:
        """Let gradients of so many bytes live."""
        made = [Memory(size, op, gradient_name(g), "gradients" if isinstance(g.of, str) else "transient",
                       shape=g.shape or (g.of.shape if isinstance(g.of, Tensor) else ())) for g, size in sizes]
        self.allocate(op.path, (memory for (g, _), memory in zip(sizes, made, strict=True) if g.how != "added"))
        return made

    def allocate(self, path: str, memories: Iterable[Memory]) -> None:
        """Let storages live, and note the moment."""
        for memory in memories:
            memory.users += 1
            self.add(memory, 1)
        self.note(path)

    def release(self, memories: Iterable[Memory]) -> None:
        """Let go of storages once, and note the moment if that frees any."""
        freed = False
        for memory in memories:
            memory.users -= 1
            if not memory.users:
                freed = True
                self.add(memory, self._gone(memory))
        if freed:
            self.note()

    def _gone(self, memory: Memory) -> Number:
        """The number of storages that go where one does, which stands for those of turns that are over, below 0."""
        edge = memory.edge
        alone = edge is None or any(edge is other for other in self.open)
        return -1 if edge is None or alone else -edge.times

    def add(self, memory: Memory, times: Number) -> None:
        """Let a storage be there so many times more."""
        self.changes.append((self.amount(memory), times))

    def differ(self, a: Number, b: Number) -> bool:
        """Tell whether two sizes differ."""
        self.differing.append((a, b, bool(a != b)))
        return self.differing[-1][-1]

    def gradients(self) -> Iterator[tuple[str, Memory, Number]]:
        """The gradients that are left, each with its weight's path and how many are alike."""
        return ((path, value.gradient, often) for (path, _), (value, often) in self.weights.items()
                if value.gradient is not None)

    def note(self, path: str = "") -> None:
        """Note the moment."""
        self.changes.append((None, (self.phase, path, self.turns)))
