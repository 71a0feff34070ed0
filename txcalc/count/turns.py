"""The operations of a run in order, turn by turn, each on the storages and values of its own turn.

Of the turns of a ``Repeat`` the first, the second and maybe last ones are run; an ``Edge`` stands on either side of the
second where that stands for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, starmap
from typing import Final, Literal, NamedTuple

from txcalc.count.alike import outside
from txcalc.spec.words import form
from txcalc.trace.layout import WHOLE
from txcalc.trace.policy import saved
from txcalc.trace.record import Again, Frame, Node, Op, Repeat, Trace, walk
from txcalc.trace.tensors import Number, Role, Tensor

Turns = tuple[tuple[str, Number], ...]
"""The repeats around an operation, outermost first, and in which turn of each, from 0, it runs."""

Group = Literal["saved", "gradients", "transient", "cache", "unsharded weights", "collectives"]
"""Categories of live bytes: saved for the backward pass, gradients, else for a moment, the cache, and of sharded
weights what is gathered, and buffers of that."""

_FEW: Final = 2
"""Turns at the end that are run at most."""

Reading = Callable[..., Number]
"""A size as it is, or as an int; of bytes it is given also what has them: a storage, a gradient or its tensor."""


def count(trace: Trace, times: Number, of: object = None) -> int:
    """Read a count or a size as an int. Raises ``TypeError`` for an array, or a symbol that stands for none."""
    size = trace.size(times)
    if not isinstance(size, int):
        raise TypeError("how often a repeat runs must be known to say what is alive")
    return size


def bytes_in(trace: Trace, x: Tensor) -> Number:
    """Bytes of the storage of a tensor."""
    return 0 if x.role is Role.HOST else x.elements * trace.workload.bytes_of(x.role)


@dataclass(eq=False, slots=True)
class Memory:
    """One storage of one turn, the operation that makes it, and how many still need it."""

    bytes: Number
    op: Op
    what: str
    group: Group = "transient"
    users: int = 0
    edge: Edge | None = None  # of turns that it outlives, in which it stands for as many
    shape: tuple[Number, ...] = ()


@dataclass(eq=False, slots=True)
class Value:
    """One value of one turn, which has one gradient, or a list of them."""

    memory: Memory | None  # none: it was there before the run
    gradient: Memory | None = None
    fresh: bool = False  # the gradient may be added to in place
    edge: Edge | None = None  # of turns whose values it stands for in a list
    grad: bool = True  # whether autograd wants its gradient
    items: list[Value] = field(default_factory=list)

    def each(self) -> list[Value]:
        """Its items, or itself."""
        return self.items or [self]


class Run(NamedTuple):
    """One operation of one turn, on its own storages."""

    op: Op
    turns: Turns
    own: tuple[int, ...]  # which of the sets of weights
    reads: tuple[Memory, ...]
    writes: tuple[Memory, ...]
    keeps: tuple[Memory, ...]  # what autograd saves, or the cache holds
    frees: tuple[Memory, ...]  # when its backward pass is over
    unpacks: tuple[Memory, ...]  # when its own formula is through, before sums over what was broadcast
    read_values: dict[int, Value]
    written: tuple[Value, ...]
    again: Rerun | None = None  # what its backward pass wants to have been run once more


class Return(NamedTuple):
    """The end of a frame, which releases what it holds."""

    holds: tuple[Memory, ...]
    saved: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Edge:
    """The first and last operation of turns that stand for ``times``."""

    times: Number
    depth: int
    each: Number = 1  # turns of a repeat whose parts they are


class Weight(NamedTuple):
    """A weight of a sharded unit: elements that one rank has of a copy, and all of them, with padding, and its copies.
    ``own``: it is a parameter without a module of its own."""

    op: Op
    path: str
    what: str
    shape: tuple[Number, ...]
    shard: Number
    whole: Number
    copies: Number
    own: bool


@dataclass(eq=False, slots=True)
class Unit:
    """Sharded weights of one turn that are gathered together (FSDP2), and what they are at present."""

    op: Op
    root: bool  # what is in no other unit
    weights: tuple[Weight, ...]
    late: bool = False  # its input has no gradient, so that its backward pass ends with the root's
    before: Unit | None = None  # the unit whose forward pass ended before
    gathered: tuple[Memory, ...] = ()  # its whole weights
    output: Memory | None = None  # of an all-gather, not copied to them yet
    # Of whole weights, with their paths and the repeats within the unit that are open where one is made.
    gradients: dict[Value, tuple[str, tuple[Edge, ...]]] = field(default_factory=dict)


class Border(NamedTuple):
    """The first or last operation of a unit of sharded weights."""

    unit: Unit
    begins: bool


Step = Run | Return | Edge | Border


@dataclass(eq=False, slots=True)
class Rerun:
    """Steps that the backward pass runs once more on storages of their own, up to the ``end``-th, if still ``due``.

    ``restores``: storages that come back from the CPU's memory for them.
    """

    steps: list[Step]
    end: int
    restores: tuple[Memory, ...] = ()
    due: bool = True


def _shared(node: Repeat) -> bool:
    """Tell whether all runs have one set of weights, and runs that are told apart as well."""
    return bool(node.copies == 0) or bool(node.copies == 1 and node.first == 0)


_Facts = tuple[tuple[Tensor, ...], tuple[tuple[Tensor, Number], ...]]
"""Weights whose gradients an operation's backward pass makes; what it writes to memory of its own, with the bytes."""


@dataclass
class Schedule:
    """The operations of every turn that is run, in order. ``number``: how sizes are read, as they are or as ints."""

    trace: Trace
    unroll: bool
    in_place: bool
    number: Reading
    unit: Callable[[Frame], Unit | None] | None = None  # of sharded weights
    steps: list[Step] = field(default_factory=list)
    memories: dict[int, Memory] = field(default_factory=dict)
    lists: dict[int, list[Memory]] = field(default_factory=dict)
    values: dict[int, Value] = field(default_factory=dict)
    cached: list[tuple[Memory, Number]] = field(default_factory=list)  # before the run, and in how many turns
    often: Number = 1
    _cast: dict[tuple[object, tuple[int, ...]], Run] = field(default_factory=dict)  # by what is cast, first
    _facts: dict[int, _Facts] = field(default_factory=dict)
    _outside: dict[int, tuple[frozenset[int], bool]] = field(default_factory=dict)

    def add(self, nodes: Iterable[Node], turns: Turns = (), own: tuple[int, ...] = ()) -> None:
        """Append what nodes come to in these ``turns``, on the sets of weights that ``own`` names."""
        for node in nodes:
            if isinstance(node, Op):
                self.steps.append(self._op(node, turns, own))
            elif isinstance(node, Frame):
                unit = self.unit(node) if self.unit is not None and node.unit else None
                self.steps += [Border(unit, begins=True)] if unit else []
                self.add(node.body, turns, own)
                self.steps.append(Return(self._known(node.holds), node.saved))
                self.steps += [Border(unit, begins=False)] if unit else []
            elif isinstance(node, Again):
                self._again(node, turns, own)
            else:
                self._repeat(node, turns, own)

    def _again(self, node: Again, turns: Turns, own: tuple[int, ...]) -> None:
        """Append a body that saves nothing: what it would save is made once more by the first step back into it."""
        keeper, start = self._op(node.op, turns, own), len(self.steps)
        if form(self.trace.workload.recompute or "") == "ops":  # what the body puts out is kept where it is made
            keeper = keeper._replace(keeps=tuple(m for m in keeper.keeps if m in keeper.reads))
        self.add(node.body, turns, own)
        body = self.steps[start:]
        saving = [i for i, step in enumerate(body) if isinstance(step, Run) and step.op.packs]
        if not saving:
            return
        anew: dict[Memory, Memory] = {}
        last = body[saving[-1]]
        assert isinstance(last, Run)
        end = saving[-1] + last.op.saves_own  # the run ends before it otherwise
        outputs = {id(op) for op in saved((step.op for step in body if isinstance(step, Run)), self.trace.workload)}
        put_out = {i: step.writes for i, step in enumerate(body) if isinstance(step, Run) and id(step.op) in outputs}
        for memory in chain.from_iterable(put_out.values()):
            memory.group = "saved"
        unused = tuple(chain.from_iterable(made for i, made in put_out.items() if i >= end))
        back = {memory: replace(memory) for memory in keeper.keeps if self.trace.workload.offload}

        def once_more(i: int, step: Step) -> Step:
            if isinstance(step, Edge | Border):
                return step
            if isinstance(step, Return):
                return Return(tuple(anew[m] for m in step.holds if m in anew))
            if i in put_out and i < end:  # what was saved is taken
                anew.update((m, m) for m in step.writes)
                return step._replace(reads=tuple(anew[m] for m in (*step.reads, *step.writes) if m in anew), writes=(),
                                     keeps=tuple(anew.get(m, back.get(m, m)) for m in step.keeps))
            cast = step.op.kind.cached == "autocast"  # also one that was there before, in a cache that is gone
            new = tuple(m for m in step.writes or (step.reads if cast else ()) if m not in anew)
            anew.update((m, replace(m, group="transient")) for m in new)
            return step._replace(reads=tuple(anew[m] for m in step.reads if m in anew),
                                 writes=tuple(anew[m] for m in new),
                                 keeps=tuple(anew.get(m, back.get(m, m)) for m in (new if cast else step.keeps)))

        rerun = Rerun(list(starmap(once_more, enumerate(body))), saving[-1], tuple(back.values()))
        if end == saving[-1]:
            for i, again in enumerate(rerun.steps[max(end - 1, 0):end + 1], max(end - 1, 0)):
                if isinstance(again, Run) and (i == end or again.op.kind.name == "bias_part"):
                    rerun.steps[i] = again._replace(writes=())
        for i, step in enumerate(rerun.steps):
            old = body[i]
            if isinstance(old, Return) and old.saved:
                self.steps[start + i] = Return(())
            if isinstance(step, Run):
                assert isinstance(old, Run)
                if old.op.kind.cached != "autocast":
                    frees = (*keeper.keeps, *unused) if i == saving[0] and not back else ()
                    self.steps[start + i] = old._replace(keeps=put_out.get(i, ()), frees=frees, unpacks=step.keeps,
                                                         again=rerun)
        self.steps.insert(start, keeper._replace(frees=(), keeps=() if back else keeper.keeps))

    def _repeat(self, node: Repeat, turns: Turns, own: tuple[int, ...]) -> None:
        first = node.first
        runs = node.runs or (node,)
        for _, items in (pair for run in runs for pair in run.gathers):
            self.values[items.value], self.lists[items.storage.id] = Value(None), []
        for run in runs:
            self._turns(run, first, turns, own if _shared(node) else (*own, count(self.trace, first)))
            first += run.times
        for loop in node.carries:
            self._name(loop.after, loop.exit)

    def _turns(self, node: Repeat, first: Number, turns: Turns, own: tuple[int, ...]) -> None:
        times = count(self.trace, node.times)
        unread = node.times - node.back
        inside = bool(turns) and turns[-1][0] == node.path  # the repeat around it, in parts
        at = turns[:-1] if inside else turns
        # Gradients of what is handed on and put into a list as well come from both: those turns are all run.
        every = self.unroll or (node.carries and node.gathers)
        alone = 0 if every else self._at_end(node)
        last = times if every else count(self.trace, unread) + alone
        middle = times - 1 - last
        for turn in (*range(min(times, 2)), *range(max(middle + 1, 2), times)):
            for loop in node.carries:
                self._name(loop.entry, loop.exit if turn else loop.before)
            which = first + (turn if turn < 2 else node.times - (times - turn))
            which += turns[-1][1] * node.times if inside and not node.first else 0
            edges = [] if turn != 1 or middle < 1 else [
                Edge(self.number(node.times - unread - 1 - alone), len(at), _in_parts(node))]
            edge = edges[0] if edges else None
            self.steps += edges
            often, self.often = self.often, self.often if edge is None else self.often * edge.times
            self._spread(node, edge)
            self.add(node.body, (*at, (node.path, which)), own if _shared(node) else (*own, node.first + turn))
            self._gather(node, edge)
            self.often = often
            self.steps += edges

    def _at_end(self, node: Repeat) -> int:
        """Turns at the end that are run by themselves.

        Two where the backward pass adds to a gradient that all turns have: in its second turn it does, maybe to a
        copy. One where each has its own, since what the last one is given comes from elsewhere, and where only the last
        one lets go of what all have read. Else none.
        """
        if count(self.trace, node.times) <= _FEW:
            return _FEW
        if id(node) not in self._outside:
            self._outside[id(node)] = outside(node)
        reads, adds = self._outside[id(node)]
        if self.trace.workload.keeps:
            return _FEW if adds or _shared(node) or self.trace.layout != WHOLE else 1
        return int(any(x in self.memories or x in self.lists for x in reads))

    def _spread(self, node: Repeat, edge: Edge | None) -> None:
        """Let what a turn reads of a list be an item of its own."""
        for items, item in node.spreads:
            self.values[item.value] = Value(self.memories.get(item.storage.id), edge=edge)
            self.values[items.value].items.append(self.values[item.value])

    def _gather(self, node: Repeat, edge: Edge | None) -> None:
        for item, items in node.gathers:
            self.values[items.value].items.append(self._value(item))
            for memory in self._known((item,)):
                memory.edge = edge
                self.lists[items.storage.id].append(memory)

    def _known(self, tensors: Iterable[Tensor]) -> tuple[Memory, ...]:
        """The storages of tensors, but those that were there before the run."""
        found, lists, memories = list[Memory](), self.lists, self.memories
        for x in tensors:
            key = x.storage.id
            if key in lists:
                found += lists[key]
            elif key in memories:
                found.append(memories[key])
        return tuple(found)

    def _name(self, name: Tensor, known: Tensor) -> None:
        """Let one tensor stand for what another is."""
        self.values[name.value] = self._value(known)
        if known.storage.id in self.memories:
            self.memories[name.storage.id] = self.memories[known.storage.id]
        else:
            self.memories.pop(name.storage.id, None)

    def _value(self, x: Tensor) -> Value:
        if x.value not in self.values:
            self.values[x.value] = Value(self.memories.get(x.storage.id), grad=x.grad)
        return self.values[x.value]

    def _op(self, op: Op, turns: Turns, own: tuple[int, ...]) -> Run:
        if id(op) not in self._facts:
            self._facts[id(op)] = self._fact(op)
        graded, made = self._facts[id(op)]
        if op.kind.cached == "autocast" and (before := self._cast.get(_cast_of(op, own))):
            return self._cast_before(op, before)
        reads = self._known(op.reads)
        read_values = {x.value: self._value(x) for x in graded}
        for x, size in made:
            over = self.memories.get(x.storage.over) if self.in_place and x.storage.over else None
            self.memories[x.storage.id] = Memory(size, op, x.label, shape=x.storage.shape) if over is None else over
        written = [Value(self.memories.get(x.storage.id), grad=x.grad) for x in op.writes]
        self.values.update(zip((x.value for x in op.writes), written, strict=True))
        now = dict.fromkeys(each.memory for each in written)  # none: a view of what was there before the run
        writes = tuple(memory for memory in now if memory is not None and memory not in reads)
        if op.kind.cached == "before":
            self.cached += ((memory, self.often) for memory in writes)
        if op.kind.cached == "autocast":
            run = Run(op, turns, own, reads, writes, writes, (), (), read_values, tuple(written))
            self._cast[_cast_of(op, own)] = run
            return run
        kept = self._known(op.saves) if self.trace.workload.keeps else (writes or reads) if op.kind.cached else ()
        for memory in kept:
            memory.group = "cache" if op.kind.cached else "saved"
        return Run(op, turns, own, reads, writes, kept, kept, (), read_values, tuple(written))

    def _cast_before(self, op: Op, before: Run) -> Run:
        """A cast of a weight that autocast has cast already: its copy is read once more."""
        for x, memory, value in zip(op.writes, before.writes, before.written, strict=True):
            self.memories[x.storage.id], self.values[x.value] = memory, value
        return before._replace(reads=before.writes, writes=(), keeps=(), written=())

    def _fact(self, op: Op) -> _Facts:
        old = {x.storage.id for x in op.reads}
        return (tuple({x.value: x for step in op.backward for g in step for x in (g.of, g.kept)
                       if isinstance(x, Tensor)}.values()),
                tuple((x, self.number(bytes_in(self.trace, x), x.storage))
                      for x in op.writes if x.storage.id not in old))


def _cast_of(op: Op, own: tuple[int, ...]) -> tuple[object, tuple[int, ...]]:
    """The weight of a set that a cast is of, or what all layers read, or itself where no gradient goes back."""
    of = op.backward[0][0].of if op.backward else id(op)
    return of, () if isinstance(of, Tensor) else own


def _in_parts(node: Repeat) -> Number:
    """Turns of a repeat in one turn of it: several where it has them in parts."""
    return next((part.times for part, _ in walk(node.body) if isinstance(part, Repeat) and part.path == node.path), 1)
