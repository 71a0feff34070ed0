"""What a run of a model leaves behind: tensors without data, operations, and how often each happens.

The programs build a ``Trace``; the counters only read it. Sizes may be ints, symbols or arrays: nothing here
looks at a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from txcalc.trace.workload import Masked, Workload

Number = Any  # int, polynomial or float64 array: whatever has + - * //
Kind = Literal["linear", "embedding", "head", "norm", "core", "recurrence", "elementwise", "shift", "router", "loss"]


class Role(Enum):
    """What a tensor holds, which decides its bytes per element (``Workload.bytes_of``)."""

    ACTIVATION = "activation"
    FLOAT32 = "float32"
    STATISTIC = "statistic"
    INDEX = "index"
    MASK = "mask"
    PARAMETER = "parameter"  # read as an input: its memory exists anyway, so keeping it costs nothing


class Storage(NamedTuple):
    """Memory that one operation allocates, or that is there before the run."""

    id: int
    shape: tuple[Number, ...]
    calls: Number  # how often the scope it was made in runs
    role: Role = Role.ACTIVATION
    label: str = ""
    scores: bool = False  # grows with queries x keys: the O(N^2) part

    @property
    def elements(self) -> Number:
        """Their number."""
        return prod(self.shape)


class Tensor(NamedTuple):
    """A value: a shape on a storage, which views share. ``value`` is what autograd has one gradient of."""

    value: int
    storage: Storage
    shape: tuple[Number, ...]
    grad: bool = True  # whether autograd wants its gradient
    viewed: bool = False  # a reshape of the value: its gradient comes back as a view

    @property
    def id(self) -> int:
        """The storage's identity."""
        return self.storage.id

    @property
    def elements(self) -> Number:
        """Elements of the storage, whatever part of it the shape shows."""
        return self.storage.elements

    @property
    def calls(self) -> Number:
        """How often the scope that it was made in runs."""
        return self.storage.calls

    @property
    def role(self) -> Role:
        """The storage's role."""
        return self.storage.role

    @property
    def label(self) -> str:
        """A word for a reader."""
        return self.storage.label

    @property
    def scores(self) -> bool:
        """Whether it grows with queries x keys."""
        return self.storage.scores

    def view(self, *shape: Number) -> Tensor:
        """The same value under another shape."""
        return Tensor(self.value, self.storage, shape, self.grad, viewed=True)


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values, or a state of constant size (one "token" of it), that one call keeps for later tokens."""

    kind: Literal["self", "cross", "state"]
    per_token: Number  # elements per sequence and token
    tokens: Number  # held per sequence after this run
    batch: Number
    role: Literal["kv", "float32"] = "kv"  # in the workload's kv_dtype, or always fp32
    # Of self-attention: which tokens, and what of them.
    layout: Literal["full", "window", "chunk", "latent", "inputs"] = "full"
    end: Number | None = None  # position after the last token held, where earlier ones have been dropped
    limit: Number | None = None  # tokens held at most
    # (how many, elements of each): the vectors of one token, each of which a format of a few bits packs by itself.
    rows: tuple[tuple[Number, Number], ...] = ()

    @property
    def name(self) -> str:
        """``full``, ``window``, ``chunk``, ``latent``, ``inputs``, ``cross`` or ``state``."""
        return self.layout if self.kind == "self" else self.kind

    def blocks(self, size: Number) -> Number:
        """Blocks of ``size`` tokens that the tokens of one sequence touch: a window may straddle one more."""
        end = self.tokens if self.end is None else self.end
        return -(-end // size) - (end - self.tokens) // size

    @property
    def elements(self) -> Number:
        """All elements of this cache after the run."""
        return self.batch * self.tokens * self.per_token


class Pairs(NamedTuple):
    """(query, key) pairs of one sequence: all whose products are computed, and those of them that the mask keeps."""

    counted: Number
    kept: Number


class Flops(NamedTuple):
    """FLOPs of one call: forward, backward, and of the forward products that the backward pass computes again."""

    flops: Number = 0
    flops_backward: Number = 0
    flops_recomputed: Number = 0

    def times(self, pairs: Number) -> Flops:
        """Those of so many pairs."""
        return Flops(*(each * pairs for each in self))


class Gradient(NamedTuple):
    """A storage that the backward pass of an operation makes, or hands on.

    ``of``: the tensor that was read, the name of a weight (or the path of one that is another operation's), or None
    for a temporary. ``how``: ``new`` in memory of its own, as it is or as a ``view`` of it, on which nothing is added
    in place; ``same``, the output's gradient itself, or a ``part`` of it. ``passing``: a temporary that the next step
    replaces; all others live until the operation's backward pass is over.
    """

    of: Tensor | str | None
    shape: tuple[Number, ...] = ()
    role: Role = Role.ACTIVATION
    how: Literal["new", "view", "same", "part"] = "new"
    passing: bool = False

    @property
    def elements(self) -> Number:
        """Elements of the new memory."""
        return prod(self.shape)


Steps = tuple[tuple[Gradient, ...], ...]


class Op(NamedTuple):
    """One operation, once; ``copies``, ``active`` and ``calls`` say how often.

    ``copies``: sets of weights. ``active``: sets that one token passes. ``calls``: runs in one pass. ``back``: those
    of them that the backward pass goes through: what comes of the others is not read.
    ``flops``, ``flops_backward`` and ``flops_recomputed`` are of one call, masked pairs among them; ``skipped`` is all
    three without, where a mask goes over its products. Operations that mix positions say more: ``reads`` and
    ``writes`` are what attention's core moves to and from memory, and ``reach`` is how many positions, the
    last one included, one call looks back over.
    """

    path: str
    component: str
    kind: Kind
    copies: Number
    active: Number
    calls: Number
    back: Number
    weights: tuple[tuple[str, tuple[Number, ...]], ...] = ()
    flops: Number = 0
    flops_backward: Number = 0
    flops_recomputed: Number = 0
    skipped: Flops | None = None
    saves: tuple[Tensor, ...] = ()
    cache: Cache | None = None
    reads: tuple[Tensor, ...] = ()
    writes: tuple[Tensor, ...] = ()
    reach: Number | None = None
    backward: Steps = ()

    def work(self, masked: Masked) -> Op | Flops:
        """The FLOPs with masked pairs or without."""
        return self if masked == "counted" or self.skipped is None else self.skipped

    @property
    def params(self) -> Number:
        """Weights of one copy, in elements."""
        return sum(prod(shape) for _, shape in self.weights)


class Loop(NamedTuple):
    """A body run ``times`` in a row: each run's output is the next one's input.

    ``entry`` is what the body read; it stands for ``before`` in the first run and for ``exit`` of the previous
    run in all others. ``after`` is the ``exit`` of the last run.
    """

    before: Tensor
    entry: Tensor
    exit: Tensor
    after: Tensor
    times: Number


class Repeat(NamedTuple):
    """A body run ``times`` in a row on as many sets of weights as there are ``copies``.

    ``carries``: what each run reads of the run before, None for what nothing hands on.
    """

    path: str
    times: Number
    copies: Number
    back: Number
    body: tuple[Node, ...]
    carries: tuple[Loop, ...] = ()


class Frame(NamedTuple):
    """A function's call: what it holds until it returns, arguments and locals, though nothing may read them again."""

    holds: tuple[Tensor, ...]
    body: tuple[Node, ...]


Node = Op | Repeat | Frame


class _Scope(NamedTuple):
    prefix: str = ""
    component: str | None = None
    copies: Number = 1
    active: Number = 1
    calls: Number = 1
    back: Number = 1


@dataclass
class Trace:
    """The record of one run. Programs add to it; everything else treats it as read-only."""

    workload: Workload
    ops: list[Op] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    model: Any = None  # the spec it was made from: which weights are stored together is no matter of the run
    sizes: Mapping[str, int] = field(default_factory=dict)
    """What symbols stand for: which kernel runs is decided on numbers."""
    kernels: list[tuple[str, str]] = field(default_factory=list)
    """Attention's kernels that ran, each with why another did not."""
    body: list[Node] = field(default_factory=list)
    results: tuple[Tensor, ...] = ()  # what outlives the run: the loss of a training step, else its outputs
    loss: Tensor | None = None  # the one result whose gradient the run makes itself
    _scope: _Scope = field(default_factory=_Scope)
    _next_id: int = 0
    _held: list[Tensor] = field(default_factory=list)

    @property
    def back(self) -> Number:
        """How often the backward pass goes through the present scope."""
        return self._scope.back

    def runs(self, kernel: str, why: str) -> None:
        """Note a kernel of attention, and why it is not the one that was asked for, once."""
        if (kernel, why) not in self.kernels:
            self.kernels.append((kernel, why))

    def size(self, of: Number) -> int | None:
        """A size as a number; none for an array of them, or a symbol that stands for nothing yet."""
        if isinstance(of, int):
            return of
        if not hasattr(of, "value"):
            return None
        try:
            return int(of.value(self.sizes))
        except KeyError:
            return None

    def tensor(
        self, *shape: Number, role: Role = Role.ACTIVATION, label: str = "", scores: bool = False, grad: bool = True
    ) -> Tensor:
        """A new tensor, made once per call of the present scope."""
        self._next_id += 1
        storage = Storage(self._next_id, shape, self._scope.calls, role, label, scores)
        return Tensor(self._next_id, storage, shape, grad)

    def alias(self, x: Tensor, *shape: Number, grad: bool | None = None) -> Tensor:
        """A new value on the storage of ``x``: a part of it, or all of it with its axes in another order."""
        self._next_id += 1
        return Tensor(self._next_id, x.storage, shape, x.grad if grad is None else grad)

    @contextmanager
    def frame(self, *holds: Tensor) -> Iterator[None]:
        """A function's call, which holds its arguments, and what ``hold`` names inside, until it returns."""
        body, held = self.body, self._held
        self.body, self._held = [], [*holds]
        try:
            yield
        finally:
            body.append(Frame(tuple(self._held), tuple(self.body)))
            self.body, self._held = body, held

    def hold(self, x: Tensor) -> Tensor:
        """A local of the innermost ``frame``: it lives until that returns."""
        self._held.append(x)
        return x

    @contextmanager
    def scope(
        self, name: str, *, copies: Number = 1, calls: Number = 1, active: Number | None = None,
        back: Number | None = None, component: bool = False, repeat: bool = False,
    ) -> Iterator[None]:
        """Operations inside get ``name.`` before their path (nothing for an empty name) and these multiplicities.

        A ``component`` is a line of the breakdown: everything inside is added up under its path. ``repeat``: a node
        of the tree, however often it runs.
        """
        outer, body = self._scope, self.body
        prefix = f"{outer.prefix}{name}." if name else outer.prefix
        back = calls if back is None else back
        repeat = repeat or not all(isinstance(each, int) and each == 1 for each in (copies, calls, back))
        self._scope = _Scope(
            prefix,
            outer.component or (prefix[:-1] if component else None),
            outer.copies * copies,
            outer.active * (copies if active is None else active),
            outer.calls * calls,
            outer.back * back,
        )
        if repeat:
            self.body = []
        try:
            yield
        finally:
            if repeat:
                body.append(Repeat(prefix[:-1], calls, copies, back, tuple(self.body)))
            self._scope, self.body = outer, body

    def path(self, name: str) -> str:
        """The path of an operation of the present scope."""
        return self._scope.prefix + name

    def op(
        self, name: str, kind: Kind, *, weights: dict[str, tuple[Number, ...]] | None = None, flops: Number = 0,
        flops_backward: Number = 0, flops_recomputed: Number = 0, pairs: Pairs | None = None,
        saves: tuple[Tensor, ...] = (), cache: Cache | None = None, reads: tuple[Tensor, ...] = (),
        writes: tuple[Tensor, ...] = (), reach: Number | None = None, backward: Steps = (),
    ) -> None:
        """Record one operation in the present scope. With ``pairs``, its FLOPs are given for one (query, key) pair."""
        s = self._scope
        each = Flops(flops, flops_backward, flops_recomputed)
        counted, skipped = (each, None) if pairs is None else (each.times(pairs.counted), each.times(pairs.kept))
        path = self.path(name)
        op = Op(path, s.component or path, kind, s.copies, s.active, s.calls, s.back, tuple((weights or {}).items()),
                *counted, skipped, saves, cache, reads, writes, reach, backward)
        self.ops.append(op)
        self.body.append(op)

    def loop(
        self, name: str, times: Number, body: Callable[[Tensor], Tensor], x: Tensor, *, copies: Number | None = None,
        unread: Number = 0,
    ) -> Tensor:
        """Run ``body`` once and let it stand for ``times`` runs in a row, with ``copies`` sets of weights.

        What comes of the last ``unread`` of them is not read.
        """
        copies = times if copies is None else copies
        with self.scope(name, copies=copies, calls=times, back=times - unread, repeat=True):
            entry = self.tensor(*x.shape, label=x.label)
            leave = body(entry)
        after = self.tensor(*leave.shape, label=leave.label)
        self.carry(Loop(x, entry, leave, after, times))
        return after

    def carry(self, *loops: Loop) -> None:
        """Say what each run of the last repeated scope reads of the one before."""
        self.loops += loops
        last = self.body[-1]
        assert isinstance(last, Repeat)
        self.body[-1] = last._replace(carries=loops)
