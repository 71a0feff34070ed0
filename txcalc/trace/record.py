"""The record of a model's run: tensors without data, operations, and how often each happens.

Programs build a ``Trace``, counters only read it. Sizes may be ints, symbols or arrays: nothing looks at a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from operator import mul
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from txcalc.spec.words import form
from txcalc.trace.implementations import TORCH, Code
from txcalc.trace.kinds import KINDS, Call, Kind, Name, Scopes
from txcalc.trace.layout import WHOLE, Layout
from txcalc.trace.policy import saved
from txcalc.trace.tensors import Number, Role, Steps, Storage, Tensor

if TYPE_CHECKING:
    from txcalc.trace.cache import Cache
    from txcalc.trace.frozen import Frozen
    from txcalc.trace.sizes import Product
    from txcalc.trace.workload import Workload

Part = Literal["tokens", "q", "k", "v", "latents", "attention output", "down", "output", ""]
"""Role of a weight matrix: token embedding, output head, query projection, ..."""
NONE: Final[Mapping[str, tuple[Number, ...]]] = {}
NOTHING: Final = Tensor(0, Storage(0, ()), ())  # what an operation makes that writes nothing


class Op(NamedTuple):
    """One operation, once: the ``Repeat``s around it say how often."""

    path: str
    component: str
    layer: str  # kind of the component
    kind: Kind
    weights: tuple[tuple[str, tuple[Number, ...]], ...] = ()
    products: tuple[Product, ...] = ()  # its FLOPs
    saves: tuple[Tensor, ...] = ()  # what autograd keeps
    cache: Cache | None = None
    reads: tuple[Tensor, ...] = ()  # from which live bytes follow, and from what it ``writes``
    writes: tuple[Tensor, ...] = ()
    # How many positions, the last one included, one call of what mixes them looks back over.
    reach: Number | None = None
    backward: Steps = ()  # of its backward pass, in their order
    part: Part = ""
    within: Scopes = Scopes()
    frozen: bool = False  # its weights are not trained

    @property
    def matrix(self) -> tuple[Number, ...]:
        """(outputs, inputs) of its own weight where that is a matrix with a module of its own, else empty."""
        own, shape = self.weights[0] if self.weights else ("", ())
        return shape if own == "weight" and len(shape) == 2 else ()

    @property
    def flops(self) -> Number:
        """FLOPs of one forward call, masked pairs among them."""
        return sum(product.forward * product.flops() for product in self.products)

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """The tensors kept for it until the backward pass: none where that makes what it needs again."""
        return () if self.within.again else self.saves

    @property
    def packs(self) -> bool:
        """Tell whether autograd saves anything for it, if only a weight."""
        return bool(self.saves or (self.weights and self.kind.keeps and any(x.grad for x in self.writes)))

    @property
    def saves_own(self) -> bool:
        """Tell whether autograd saves what it makes, or a function of Python does, so that it must have run."""
        return not {x.id for x in self.saves}.isdisjoint(x.id for x in self.writes) or any(
            x.role is Role.FLOAT8 for x in self.reads)

    @property
    def params(self) -> Number:
        """Weights of one copy, in elements."""
        return sum(prod(shape) for _, shape in self.weights)


class Loop(NamedTuple):
    """A body run ``times`` in a row: each run's output is the next one's input."""

    before: Tensor  # what ``entry`` stands for in the first run
    entry: Tensor  # what the body read, in all others the ``exit`` of the previous run
    exit: Tensor
    after: Tensor  # the ``exit`` of the last run
    times: Number


class Repeat(NamedTuple):
    """A body run ``times`` in a row on as many sets of weights as there are ``copies``."""

    path: str
    times: Number
    copies: Number
    active: Number  # the sets that one token passes
    back: Number  # the runs that the backward pass goes through: what comes of the others is not read
    body: tuple[Node, ...]  # with the sizes that all ``runs`` come to
    carries: tuple[Loop, ...] = ()  # what each run reads of the run before
    spreads: tuple[tuple[Tensor, Tensor], ...] = ()  # a list, and what each run reads as its own item of it
    gathers: tuple[tuple[Tensor, Tensor], ...] = ()  # what each run leaves, and the list it is added to
    runs: tuple[Repeat, ...] = ()  # where they are not alike, one after the other; within its like, parts of its runs
    first: Number = 0  # runs of the same that are told apart, and come before these


class Frame(NamedTuple):
    """A function's call: what it holds until it returns, arguments and locals, though nothing may read them again.

    ``saved``: autograd holds it, for results that nothing depends on, unless it is recomputed.
    """

    holds: tuple[Tensor, ...]
    body: tuple[Node, ...]
    saved: bool = False
    unit: bool = False  # where weights are sharded, its own are gathered together, but those of units inside


class Again(NamedTuple):
    """A body that keeps what it reads, by ``op``, and runs once more, to its last saved tensor, before it goes back."""

    op: Op
    body: tuple[Node, ...]


Node = Op | Repeat | Frame | Again


class Often(NamedTuple):
    """Multiplicities of a node, by the ``Repeat``s around it. ``continued``: after ``first`` runs, told apart."""

    copies: Number = 1
    active: Number = 1
    calls: Number = 1
    back: Number = 1
    continued: bool = False

    def inside(self, node: Repeat) -> Often:
        """The number of times that its contents happen."""
        copies, active, times, back = map(mul, self[:4], (node.copies, node.active, node.times, node.back))
        return Often(copies, active, times, back, self.continued or bool(node.first))


def walk(nodes: Iterable[Node], often: Often = Often()) -> Iterator[tuple[Op | Repeat, Often]]:  # noqa: B008
    """Every operation and every repetition in order, what is repeated before its repetition, and how often."""
    for node in nodes:
        if isinstance(node, Op):
            yield node, often
        elif isinstance(node, Repeat):
            yield from walk(node.body, often.inside(node))
            yield node, often
        else:
            if isinstance(node, Again):
                yield node.op, often
            yield from walk(node.body, often)


def operations(nodes: Iterable[Node], often: Often = Often()) -> Iterator[tuple[Op, Often]]:  # noqa: B008
    """Every operation in order, and how often."""
    return ((node, each) for node, each in walk(nodes, often) if isinstance(node, Op))


def joined(nodes: Iterable[Node]) -> Iterator[int]:
    """Storages that stand for others: what a repeat carries from turn to turn, and lists of what its turns make."""
    for node in nodes:
        if isinstance(node, Repeat):
            yield from (x.id for loop in node.carries for x in (loop.entry, loop.after))
            yield from (x.id for pair in (*node.gathers, *node.spreads) for x in pair)
            yield from joined(node.runs)
        if not isinstance(node, Op):
            yield from joined(node.body)


@dataclass(eq=False)
class Trace:
    """The record of one run. Programs add to it; everything else treats it as read-only."""

    workload: Workload
    model: Any = None  # the spec it was made from: which weights are stored together is no matter of the run
    code: Code = TORCH
    sizes: Mapping[str, int] = field(default_factory=dict)  # what symbols stand for: kernels are chosen on numbers
    kernels: list[tuple[str, str]] = field(default_factory=list)
    """Attention's kernels that ran, each with why another did not."""
    body: list[Node] = field(default_factory=list)
    embedded: tuple[Tensor, ...] = ()  # what the first layer reads, where the caller of the stack holds it, not it
    inputs: tuple[Tensor, ...] = ()  # of a part of a run: what is made before it
    results: tuple[Tensor, ...] = ()  # what outlives the run: the loss of a training step, else its outputs
    leaves: tuple[Tensor, ...] = ()  # made to be given a gradient, and so held by autograd
    loss: Tensor | None = None  # the one result whose gradient the run makes itself
    frozen: Frozen | None = None  # none: all weights are trained, but for
    fixed: set[str] = field(default_factory=set)  # paths of those that no class trains: tables of sinusoids
    layout: Layout = WHOLE
    whole: Any = None  # the spec of what all ranks have together
    alike: Trace | None = None  # the same run, but for what data-parallel ranks share
    stage: int = 0  # of a pipeline: the first reads inputs, all others receive hidden states
    share: int = 0  # of rows that do not divide: the first rank of tensor parallelism has most
    _prefix: str = ""
    _component: tuple[str, str] | None = None  # its path, and its kind
    _within: Scopes = field(default_factory=Scopes)
    _arrived: Tensor | None = None  # what a first run reads in its place
    _next_id: int = 0
    _held: list[Tensor] = field(default_factory=list)
    calls: Mapping[str, list[Tensor]] = field(default_factory=dict)
    counted: dict[Any, Any] = field(default_factory=dict)  # of the finished run, whatever updates its weights

    @cached_property
    def placed(self) -> tuple[tuple[Op, Often], ...]:
        """Every operation of the finished run in order, and how often it happens."""
        return tuple(operations(self.body))

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """Every operation of the finished run, in order."""
        return tuple(op for op, _ in self.placed)

    @cached_property
    def loops(self) -> tuple[tuple[Loop, Number], ...]:
        """Values that runs hand on to the next in the finished run, inner first, and how often each loop is entered."""
        return tuple((loop, often.calls) for node, often in walk(self.body) if isinstance(node, Repeat)
                     for loop in node.carries)

    def received(self, x: Tensor) -> bool:
        """True for what the stage before of a pipeline has sent."""
        return any(x is each for each in (*self.inputs, self._arrived))

    def note_kernel(self, kernel: str, why: str) -> None:
        """Note a kernel of attention, and why it is not the one that was asked for, once."""
        if (kernel, why) not in self.kernels:
            self.kernels.append((kernel, why))

    def size(self, of: Number) -> Number | None:
        """A size as an int where a program decides by it, for a symbol the one that it stands for; None for a symbol
        that stands for nothing yet.
        """
        if isinstance(of, int) or not hasattr(of, "value"):
            return of if isinstance(of, int) else None
        with suppress(KeyError):
            return of.value(self.sizes)
        return None

    def tensor(self, *shape: Number, role: Role = Role.ACTIVATION, grad: bool = True, **of: Any) -> Tensor:
        """A new tensor. ``of``: what else its ``Storage`` says."""
        self._next_id += 1
        return Tensor(self._next_id, Storage(self._next_id, shape, role, **of), shape, grad)

    def alias(self, x: Tensor, *shape: Number, grad: bool | None = None) -> Tensor:
        """A new value on the storage of ``x``: a part of it, or all of it with its axes in another order."""
        self._next_id += 1
        return Tensor(self._next_id, x.storage, shape, self.needs(x) if grad is None else grad)

    @contextmanager
    def frame(self, *holds: Tensor, name: Call = "", saved: bool = False, unit: bool = False) -> Iterator[None]:
        """A function's call, which holds its arguments, and what ``hold`` names inside, until it returns."""
        body, held, calls = self.body, self._held, self.calls
        self.body, self._held = [], [*holds]
        if name:
            self.calls = {**calls, name: self._held}
        try:
            yield
        finally:
            body.append(Frame(tuple(self._held), tuple(self.body), saved, unit))
            self.body, self._held, self.calls = body, held, calls

    def hold(self, x: Tensor, call: Call = "") -> Tensor:
        """A local of the innermost ``frame``, or of that of a ``call``: it lives until that returns."""
        self.calls.get(call, self._held).append(x)
        return x

    @contextmanager
    def again(self, what: str | None = None, *given: Tensor) -> Iterator[None]:
        """Record what is recomputed in the backward pass, if ``what`` is: what it reads and is ``given`` is kept."""
        if what not in (None, "full" if form(self.workload.recompute or "") == "ops" else self.workload.recompute):
            yield
            return
        body, outside = self.body, self._within
        self.body, self._within = [], self._within._replace(again=self.path("recomputation"))
        try:
            yield
        finally:
            inside, self.body, self._within = tuple(self.body), body, outside
            made, read = set(joined(inside)), {x.id: x for x in given}
            for node, _ in walk(inside):
                reads = node.reads if isinstance(node, Op) else [loop.before for loop in node.carries]
                read |= {x.id: x for x in reads if x.id not in {*made, *read}}
                made |= {x.id for x in node.writes if x.id not in read} if isinstance(node, Op) else set()
            inputs, packs = tuple(read.values()), any(op.packs for op, _ in operations(inside))
            put_out = (x for op in saved((op for op, _ in operations(inside)), self.workload) for x in op.writes)
            saves = (*inputs, *put_out) if packs else ()
            self.op("recomputation", "recomputation", saves=saves, reads=inputs)
            keeper = self.body.pop()
            assert isinstance(keeper, Op)
            self.body.append(Again(keeper, inside))

    @contextmanager
    def scope(
        self, name: str, *, copies: Number = 1, calls: Number = 1, active: Number | None = None,
        back: Number | None = None, component: str = "", repeat: bool = False,
        within: Literal["tower", "layer", "experts", ""] = "", absolute: bool = False,
    ) -> Iterator[None]:
        """Operations inside get ``name.`` before their path (nothing for an empty name) and these multiplicities.

        A ``component`` of this kind is a line of the breakdown: everything inside is added up under its path.
        ``repeat``: a node of the tree, however often it runs. ``within``: what it is, if it is one of ``Scopes``.
        ``absolute``: the name is a path of its own, of no component that is around it.
        """
        prefix, body, outside = self._prefix, self.body, (self._prefix, self._component, self._within)
        often = Often(copies, copies if active is None else active, calls, calls if back is None else back)
        repeat = repeat or not all(isinstance(each, int) and each == 1 for each in often[:4])
        path = name if absolute else f"{prefix}{name}" if name else prefix[:-1]
        self._prefix = path and f"{path}."
        self._component = None if absolute else self._component or ((path, component) if component else None)
        if within:
            self._within = self._within._replace(**{within: path})
        if repeat:
            self.body = []
        try:
            yield
        finally:
            if repeat:
                body.append(Repeat(path, calls, copies, often.active, often.back, tuple(self.body)))
            self._prefix, self._component, self._within = outside
            self.body = body

    def path(self, name: str) -> str:
        """The path of an operation of the present scope."""
        return self._prefix + name

    def op(
        self, name: str, kind: Name, *, weights: Mapping[str, tuple[Number, ...]] = NONE,
        products: tuple[Product, ...] = (), saves: tuple[Tensor, ...] = (), cache: Cache | None = None,
        reads: tuple[Tensor, ...] = (), writes: tuple[Tensor, ...] = (), reach: Number | None = None,
        backward: Steps = (), part: Part = "", apart: bool = False,
    ) -> Tensor:
        """Record one operation in the present scope, and return the first tensor that it writes.

        ``apart``: each gradient has a formula of its own, for which all is kept that is saved but what it is of.
        """
        assert not saves or KINDS[kind].keeps is not None, f"{self.path(name)}: its kind keeps nothing"
        path = self._prefix + name
        component, layer = self._component or (path, "")
        op = Op(path, component, layer, KINDS[kind], tuple(weights.items()), products, saves, cache, reads,
                writes, reach, backward, part, self._within)
        if self.frozen is not None:
            op = self.frozen.wanted(op, apart=apart)
        self.body.append(op)
        return op.writes[0] if op.writes else NOTHING

    def needs(self, x: Tensor) -> bool:
        """Tell whether autograd wants the gradient of ``x``: something that it was made of is trained."""
        return x.grad if self.frozen is None else self.frozen.needs(x)

    def trains(self, weight: str, kind: Name) -> bool:
        """Tell whether the weight at this path is trained, of an operation of this kind."""
        return self.frozen is None or self.frozen.trains(weight, kind)

    def loop(
        self, name: str, times: Number, body: Callable[[Tensor], Tensor], x: Tensor, *, copies: Number | None = None,
        unused: Number = 0, within: Literal["layer", ""] = "", apart: bool = False, first: Number = 0, **more: Any,
    ) -> Tensor:
        """Run ``body`` once for ``times`` runs in a row, after ``first`` others, with ``copies`` sets of weights.

        What comes of the last ``unused`` of them is not read. A first run is told ``apart`` if it makes what the others
        read, or if its output has another dtype than its input, or a gradient where that has none. ``more``: fields.
        """
        def run(often: Often, x: Tensor, before: int) -> Tensor:
            with self.scope(name, copies=often.copies, calls=often.calls, back=often.back, repeat=True, within=within):
                entry = self.tensor(*x.shape, role=x.role, label=x.label, grad=self.frozen is None or self.needs(x))
                entry = entry._replace(strided=x.strided)
                around, self._arrived = self._arrived, entry if received and not before else None
                leave = body(entry)
                self._arrived = around
            after = self.tensor(*leave.shape, role=leave.role, label=leave.label,
                                grad=self.frozen is None or self.needs(leave))
            self.extend(carries=(Loop(x, entry, leave, after, often.calls),), first=first + before, **more)
            return after

        own, received = times if copies is None else copies, self.received(x)
        y = run(Often(own, own, times, times - unused), x, 0)
        before, after = ((self.workload.bytes_of(z.role), self.frozen and self.needs(z)) for z in (x, y))
        (alone,) = (node for node in self.body[-1:] if isinstance(node, Repeat))
        casts = received and any(op.kind.cached == "autocast" and alone.carries[0].entry in op.reads
                                 for op, _ in operations(alone.body))
        if not (apart or before != after or x.strided or casts) or self.size(times) == 1:
            return y
        self.extend(times=1, copies=1, active=1, back=1, carries=(alone.carries[0]._replace(times=1),))
        return run(Often(own - 1, own - 1, times - 1, times - unused - 1), y, 1)

    def extend(self, **more: Any) -> None:
        """Say more fields of the last repeated scope: what its runs carry, spread and gather, or what they are."""
        last = self.body.pop()
        assert isinstance(last, Repeat)
        self.body.append(last._replace(**more))
