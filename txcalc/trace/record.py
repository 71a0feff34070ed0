"""What a run of a model leaves behind: tensors without data, operations, and how often each happens.

The programs build a ``Trace``; the counters only read it. Sizes may be ints, symbols or arrays: nothing here
looks at a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from txcalc.trace.workload import Masked, Workload

Number = Any  # int, polynomial or float64 array: whatever has + - * //
Kind = Literal["linear", "embedding", "head", "norm", "core", "recurrence", "elementwise", "router", "loss"]


class Role(Enum):
    """What a tensor holds, which decides its bytes per element (``Workload.bytes_of``)."""

    ACTIVATION = "activation"
    FLOAT32 = "float32"
    STATISTIC = "statistic"
    INDEX = "index"
    MASK = "mask"
    PARAMETER = "parameter"  # read as an input: its memory exists anyway, so keeping it costs nothing


@dataclass(frozen=True, slots=True)
class Tensor:
    """A shape with an identity. Views share the identity, because they share the memory."""

    id: int
    shape: tuple[Number, ...]
    elements: Number  # of the storage, whatever part of it the shape shows
    calls: Number  # how often the scope it was made in runs
    role: Role = Role.ACTIVATION
    label: str = ""
    scores: bool = False  # grows with queries x keys: the O(N^2) part
    grad: bool = True  # whether autograd wants its gradient

    def view(self, *shape: Number) -> Tensor:
        """The same memory under another shape."""
        return replace(self, shape=shape)


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


@dataclass(frozen=True, slots=True)
class Op:
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

    def work(self, masked: Masked) -> Op | Flops:
        """The FLOPs with masked pairs or without."""
        return self if masked == "counted" or self.skipped is None else self.skipped

    @property
    def params(self) -> Number:
        """Weights of one copy, in elements."""
        return sum(prod(shape) for _, shape in self.weights)


@dataclass(frozen=True, slots=True)
class Loop:
    """A body run ``times`` in a row: each run's output is the next one's input.

    ``entry`` is what the body read; it stands for ``before`` in the first run and for ``exit`` of the previous
    run in all others. ``after`` is the ``exit`` of the last run.
    """

    before: Tensor
    entry: Tensor
    exit: Tensor
    after: Tensor
    times: Number


@dataclass(frozen=True, slots=True)
class _Scope:
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
    _scope: _Scope = _Scope()
    _next_id: int = 0

    @property
    def back(self) -> Number:
        """How often the backward pass goes through the present scope."""
        return self._scope.back

    def runs(self, kernel: str, why: str) -> None:
        """Note a kernel of attention, and why it is not the one that was asked for, once."""
        if (kernel, why) not in self.kernels:
            self.kernels.append((kernel, why))

    def size(self, of: Number) -> int | None:
        """A size as a number; none for an array of them."""
        if isinstance(of, int):
            return of
        return int(of.value(self.sizes)) if hasattr(of, "value") else None

    def tensor(
        self, *shape: Number, role: Role = Role.ACTIVATION, label: str = "", scores: bool = False, grad: bool = True
    ) -> Tensor:
        """A new tensor, made once per call of the present scope."""
        self._next_id += 1
        return Tensor(self._next_id, shape, prod(shape), self._scope.calls, role, label, scores, grad)

    @contextmanager
    def scope(
        self, name: str, *, copies: Number = 1, calls: Number = 1, active: Number | None = None,
        back: Number | None = None, component: bool = False,
    ) -> Iterator[None]:
        """Operations inside get ``name.`` before their path (nothing for an empty name) and these multiplicities.

        A ``component`` is a line of the breakdown: everything inside is added up under its path.
        """
        outer = self._scope
        prefix = f"{outer.prefix}{name}." if name else outer.prefix
        self._scope = _Scope(
            prefix,
            outer.component or (prefix[:-1] if component else None),
            outer.copies * copies,
            outer.active * (copies if active is None else active),
            outer.calls * calls,
            outer.back * (calls if back is None else back),
        )
        try:
            yield
        finally:
            self._scope = outer

    def op(
        self, name: str, kind: Kind, *, weights: dict[str, tuple[Number, ...]] | None = None, flops: Number = 0,
        flops_backward: Number = 0, flops_recomputed: Number = 0, pairs: Pairs | None = None,
        saves: tuple[Tensor, ...] = (), cache: Cache | None = None, reads: tuple[Tensor, ...] = (),
        writes: tuple[Tensor, ...] = (), reach: Number | None = None,
    ) -> None:
        """Record one operation in the present scope. With ``pairs``, its FLOPs are given for one (query, key) pair."""
        s = self._scope
        each = Flops(flops, flops_backward, flops_recomputed)
        counted, skipped = (each, None) if pairs is None else (each.times(pairs.counted), each.times(pairs.kept))
        path = s.prefix + name
        self.ops.append(
            Op(path, s.component or path, kind, s.copies, s.active, s.calls, s.back,
               tuple((weights or {}).items()), *counted, skipped, saves, cache, reads, writes, reach)
        )

    def loop(
        self, name: str, times: Number, body: Callable[[Tensor], Tensor], x: Tensor, *, copies: Number | None = None,
        unread: Number = 0,
    ) -> Tensor:
        """Run ``body`` once and let it stand for ``times`` runs in a row, with ``copies`` sets of weights.

        What comes of the last ``unread`` of them is not read.
        """
        with self.scope(name, copies=times if copies is None else copies, calls=times, back=times - unread):
            entry = self.tensor(*x.shape, label=x.label)
            leave = body(entry)
        after = self.tensor(*leave.shape, label=leave.label)
        self.loops.append(Loop(x, entry, leave, after, times))
        return after
