"""The report: every total, where it goes, and every assumption behind it. The contract with machines.

The same document is written as JSON and YAML; loading either gives an equal object. Totals are exact integers.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, Literal, NamedTuple, Self, TypeVar

import txcalc
from txcalc import units
from txcalc.answer.conventions import Convention, conventions
from txcalc.answer.fit import fit
from txcalc.answer.notes import notes, runs_as
from txcalc.answer.ranks import Collective, Rank, communicated, every_rank
from txcalc.count import kv_cache
from txcalc.count.entries import grouped, total, total_of_any
from txcalc.count.totals import TOTALS, Entries, counted
from txcalc.document import Part
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import architecture_fields
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Often, Op, Trace
from txcalc.trace.workload import Masked, Workload

SCHEMA: Final = "txcalc/report/v2"
D = TypeVar("D", bound=Part)
Kind = Literal["exact", "estimate", "bound", "published"]


class Origin(NamedTuple):
    """Source and overrides of a model, notes on it, and the command that asked."""

    source: str = "python"
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


PYTHON: Final = Origin()


class Named(NamedTuple):
    """A model and its origin."""

    spec: Model
    origin: Origin = PYTHON


class Answer(NamedTuple, Generic[D]):
    """A document, and the names of the workload's sizes that were filled in."""

    document: D
    defaults: frozenset[str] = frozenset()


class ModelInfo(Part):
    """The model that was counted: its resolved spec stands on its own."""

    name: str
    source: str
    overrides: tuple[str, ...] = ()
    spec: dict[str, Any]

    @classmethod
    def of(cls, spec: Model, origin: Origin) -> Self:
        """The model as it was resolved, and how it came to be."""
        return cls(name=spec.name, source=origin.source, overrides=origin.overrides, spec=architecture_fields(spec))


class Quantity(Part):
    """A total with its unit. ``exact``: equal to a count that can be checked."""

    value: int
    unit: str
    kind: Kind = "exact"

    def __int__(self) -> int:
        """The number alone."""
        return self.value

    def __repr__(self) -> str:
        """In full, with its unit: ``124,439,808 params (exact)``."""
        return f"{self.value:,} {self.unit} ({self.kind})"


SKIPPED: Final = {
    "flops_forward": "flops_skipped", "flops_backward": "flops_backward_skipped",
    "flops_recomputed": "flops_recomputed_skipped", "flops_per_token": "flops_per_token_skipped",
    "flops_model_per_token": "flops_model_per_token_skipped",
    "flops_hardware_per_token": "flops_hardware_per_token_skipped",
}
"""Every figure that masked (query, key) pairs are part of, and its name without them."""


STEP: Final = "flops_training"
"""All FLOPs of a training step, which are no total of their own."""


class Flops(Part):
    """Base of parts whose FLOPs stand there twice, as ``SKIPPED`` says."""

    def shown(self, masked: Masked) -> Self:
        """With those without masked pairs in both places, where they are asked for."""
        if masked == "counted":
            return self
        return self.replaced(**{name: getattr(self, other) for name, other in SKIPPED.items() if name in self.names()})


class Totals(Flops):
    """Null: the model has no such quantity, or this phase has none.

    ``flops_skipped`` and what ends in it: without masked (query, key) pairs. ``flops_recomputed``: forward products
    that the backward pass computes again. Per token of a training step: model FLOPs are forward and backward (MFU),
    hardware FLOPs recomputation as well (HFU). ``kv_cache_bytes_per_token``: one more token of one sequence, at this
    length. ``params_trained``: where adapters are trained alone, or parts are frozen.
    """

    params: Quantity
    params_active: Quantity
    params_embedding: Quantity
    params_trained: Quantity | None = None
    params_non_embedding: Quantity
    flops_forward: Quantity
    flops_skipped: Quantity
    flops_backward: Quantity | None
    flops_backward_skipped: Quantity | None
    flops_recomputed: Quantity | None
    flops_recomputed_skipped: Quantity | None
    flops_per_token: Quantity
    flops_per_token_skipped: Quantity
    flops_model_per_token: Quantity | None
    flops_model_per_token_skipped: Quantity | None
    flops_hardware_per_token: Quantity | None
    flops_hardware_per_token_skipped: Quantity | None
    weight_bytes: Quantity | None
    released_weight_bytes: Quantity | None = None
    activation_bytes: Quantity | None
    kv_cache_bytes: Quantity | None
    kv_cache_bytes_per_token: Quantity | None
    kv_cache_allocated_bytes: Quantity | None = None
    attention_score_bytes: Quantity | None
    training_state_bytes: Quantity | None

    def to_data(self) -> dict[str, Any]:
        """The totals as plain data: of what is trained, where that is not everything."""
        return {name: value for name, value in super().to_data().items() if name != "params_trained" or value}

    def quantities(self) -> dict[str, Quantity | None]:
        """Every total by its name, in the report's order."""
        return dict(self.__dict__)

    def named(self, name: str) -> Quantity | None:
        """The total of this name, or ``flops_training``: all FLOPs of a step, which are no total of their own."""
        if name != STEP:
            return self.quantities()[name]
        back, again = self.flops_backward, self.flops_recomputed
        if back is None or again is None:
            return None
        return Quantity(value=self.flops_forward.value + back.value + again.value, unit=back.unit, kind=back.kind)


class Component(Flops):
    """A line of the breakdown: ``copies`` sets of weights, ``calls`` runs in one pass, and the figures of them all.

    ``flops_core`` is the part of ``flops_forward`` that grows with queries x keys, masked pairs among them. Null:
    not in this phase.
    """

    path: str
    copies: int
    calls: int
    params: int
    flops_forward: int
    flops_skipped: int
    flops_core: int
    flops_backward: int | None
    flops_backward_skipped: int | None
    flops_recomputed: int | None
    flops_recomputed_skipped: int | None
    activation_bytes: int | None
    kv_cache_bytes: int | None


class CacheLine(Part):
    """The cache of one component's ``layers``: ``tokens`` each, in bytes of the whole batch.

    ``kind``: full, window, chunk, latent, cross (the source's tokens) or state (one for any length).
    ``bytes_per_token``: what one more token of one sequence adds at this length; 0 where ``bytes`` are fixed.
    """

    path: str
    kind: str
    layers: int
    tokens: int
    bytes: int
    bytes_per_token: int
    allocated_bytes: int | None


class KVCache(Part):
    """Growth of the cache from this length on: bytes = ``fixed_bytes`` + ``bytes_per_token`` x tokens of the batch."""

    fixed_bytes: int
    bytes_per_token: int


class KeptTensor(Part):
    """A tensor that autograd keeps, ``times`` over, in bytes of all of them; ``op`` is what keeps it."""

    op: str
    tensor: str
    shape: tuple[int, ...]
    times: int
    bytes: int


class Provenance(Part):
    """The program and the input behind the report. No timestamp: the same command gives the same bytes."""

    txcalc: str
    command: tuple[str, ...]
    python: str

    @classmethod
    def of(cls, command: Sequence[str]) -> Self:
        """The versions that run now, and the command that asked."""
        return cls(txcalc=txcalc.__version__, command=tuple(command), python=platform.python_version())


class Report(Part):
    """All that ``txcalc count`` knows about one model under one workload.

    ``implementation``, ``kernels``: whose code and whose operators are counted. ``attention``: the kernels that run,
    whatever was asked for. ``notes``: what a reader must know beside the numbers.
    """

    schema: Literal["txcalc/report/v2"] = SCHEMA
    model: ModelInfo
    workload: Workload
    implementation: str
    kernels: str
    attention: str | None
    conventions: tuple[Convention, ...]
    totals: Totals
    kv_cache: KVCache | None
    components: tuple[Component, ...]
    caches: tuple[CacheLine, ...] = ()
    kept: tuple[KeptTensor, ...]
    collectives: tuple[Collective, ...] | None = None
    ranks: tuple[Rank, ...] | None = None
    notes: tuple[str, ...] = ()
    sources: dict[str, str]
    provenance: Provenance

    def __repr__(self) -> str:
        """The model, its headline figures and its run in a line."""
        t, w = self.totals, self.workload
        figures = [f"{units.params(t.params.value)} params"]
        if t.flops_forward is not None:
            figures.append(f"{units.flops(t.flops_forward.value)} forward")
        if t.weight_bytes is not None:
            figures.append(f"{units.memory(t.weight_bytes.value)} of weights")
        run = f"batch {w.batch:,}, seq {w.seq:,}, {w.dtype}, {w.phase}"
        return f"Report({self.model.name}: {', '.join(figures)}; {run})"


def count(
    spec: Model, workload: Workload, *, origin: Origin = PYTHON, by_module: bool = False, ranks: bool = False
) -> Report:
    """Count one model under one workload.

    ``by_module`` breaks down to single operations instead of components; ``ranks``: every rank's part is told.
    Raises ``SpecError`` when the workload does not fit the model, such as more positions than a learned table holds,
    and for weights that ranks share.
    """
    asked, workload = workload, fit(spec, workload)
    if (each := workload.layout) is not None and each.dp > 1 and (each.zero or each.fsdp):
        raise SpecError("ranks share weights and states, of which count shows all; txcalc memory shows a rank's part",
                        field="zero" if each.zero else "fsdp")
    t = trace(spec, workload)
    found = counted(t)
    return Report(
        model=ModelInfo.of(spec, origin),
        workload=workload,
        implementation=workload.implementation,
        kernels=workload.kernels,
        attention=runs_as(t),
        conventions=conventions(spec, t),
        totals=_totals(t, found),
        kv_cache=growth(t),
        components=_components(t, found, by_module=by_module),
        caches=_caches(t, found),
        kept=tuple(
            KeptTensor(op=each.op.path, tensor=each.what, shape=each.tensor.shape, times=each.times, bytes=each.value)
            for each in found["activation_bytes"] or () if each.value
        ),
        collectives=communicated(t),
        ranks=every_rank(spec, [t]) if ranks else None,
        notes=(*origin.notes, *notes(spec, t, asked)),
        sources=spec.sources,
        provenance=Provenance.of(origin.command),
    )


def totals(t: Trace) -> Totals:
    """Every total of a trace on ints."""
    return _totals(t, counted(t))


def _totals(t: Trace, found: Entries) -> Totals:
    values = {name: None if entries is None else total(entries) for name, entries in found.items()}
    shown: dict[str, Any] = {
        name: None if value is None else Quantity(value=value, unit=TOTALS[name].unit, kind=TOTALS[name].sure(t))
        for name, value in values.items()}
    rest = total(found["params"] or ()) - total(found["params_embedding"] or ())
    shown |= {"params_non_embedding": Quantity(value=rest, unit="params")} | _per_token(t, shown)
    return Totals(**shown)


def _per_token(t: Trace, shown: Mapping[str, Quantity | None]) -> dict[str, Quantity | None]:
    """FLOPs of all passes, of the forward one and of model and hardware, for a token, with masked pairs and without."""
    tokens, found = t.workload.batch * t.workload.seq, dict[str, Quantity | None]()
    passes = {"flops_per_token": 1, "flops_model_per_token": 2, "flops_hardware_per_token": 3}
    for names in (tuple(SKIPPED), tuple(SKIPPED.values())):
        parts = [shown[name] for name in names[:3]]
        for name, many in zip(names[3:], passes.values(), strict=True):
            used = [part for part in parts[:many] if part is not None]
            value = sum(part.value for part in used)
            kind = "estimate" if value % tokens else used[-1].kind
            found[name] = Quantity(value=value // tokens, unit="FLOP/token", kind=kind) if len(used) == many else None
    return found


def growth(t: Trace) -> KVCache | None:
    """Fixed bytes of the whole batch, and what one more token of one sequence adds. None without any cache."""
    fixed = total_of_any(kv_cache.fixed(t))
    return None if fixed is None else KVCache(fixed_bytes=fixed, bytes_per_token=total(kv_cache.per_token(t)))


def _components(t: Trace, found: Entries, *, by_module: bool) -> tuple[Component, ...]:
    """The breakdown in the order of the forward pass; every column adds up to its total."""
    def path(op: Op) -> str:
        return op.path if by_module else op.component

    lines: dict[str, Often] = {}
    for at, often in dict.fromkeys((path(op), often) for op, often in t.placed
                                   if op.weights or op.products or op.saves or op.cache is not None):
        before = lines.setdefault(at, often)
        if often.continued and before is not often:
            lines[at] = before._replace(copies=before.copies + often.copies, calls=before.calls + often.calls)
    columns: dict[str, dict[str, Any] | None] = {
        name: None if (entries := found[name]) is None else grouped(entries, path)
        for name in Component.names() if name in found}
    caches, forward = columns.pop("kv_cache_bytes"), found["flops_forward"] or ()
    columns["flops_core"] = grouped((entry for entry in forward if entry.op.kind.group == "core"), path)
    def figures(at: str) -> dict[str, Any]:
        return {name: None if column is None else column.get(at, 0) for name, column in columns.items()}

    return tuple(Component(path=at, copies=often.copies, calls=often.calls, kv_cache_bytes=(caches or {}).get(at),
                           **figures(at)) for at, often in lines.items())


def _caches(t: Trace, found: Entries) -> tuple[CacheLine, ...]:
    """Every cache in the order of the forward pass; bytes add up to the total."""
    held, grows, pages = (grouped(found[name] or (), id) for name in (
        "kv_cache_bytes", "kv_cache_bytes_per_token", "kv_cache_allocated_bytes"))
    return tuple(
        CacheLine(path=op.component, kind=op.cache.name, layers=often.calls, tokens=op.cache.tokens, bytes=held[id(op)],
                  bytes_per_token=grows.get(id(op), 0), allocated_bytes=pages.get(id(op)))
        for op, often in t.placed if op.cache is not None
    )
