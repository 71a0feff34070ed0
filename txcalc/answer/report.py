"""The report: every total, where it goes, and every assumption behind it. The contract with machines.

The same document is written as JSON and YAML; loading either gives an equal object. Totals are exact integers.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import txcalc
from txcalc.answer.conventions import Convention, conventions
from txcalc.answer.fit import fit
from txcalc.answer.notes import notes
from txcalc.count import activations, flops, kv_cache, params, states, weights
from txcalc.document import Part
from txcalc.spec.facts import architecture_fields
from txcalc.trace.model import trace
from txcalc.trace.record import Op, Trace
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from txcalc.spec.model import Model

SCHEMA: Final = "txcalc/report/v1"
Kind = Literal["exact", "estimate", "bound", "published"]


class ModelInfo(Part):
    """Which model was counted: the resolved spec stands on its own."""

    name: str
    source: str
    overrides: tuple[str, ...] = ()
    spec: dict[str, Any]


class Quantity(Part):
    """A total with its unit. ``exact``: equal to a count that can be checked."""

    value: int
    unit: str
    kind: Kind = "exact"


class Totals(Part):
    """Null: the model has no such quantity, or this phase has none."""

    params: Quantity
    params_active: Quantity
    params_embedding: Quantity
    params_non_embedding: Quantity
    flops_forward: Quantity
    flops_backward: Quantity | None
    flops_per_token: Quantity
    weight_bytes: Quantity
    activation_bytes: Quantity | None
    kv_cache_bytes: Quantity | None
    kv_cache_bytes_per_token: Quantity | None
    kv_cache_allocated_bytes: Quantity | None = None
    attention_score_bytes: Quantity | None
    training_state_bytes: Quantity

    def quantities(self) -> dict[str, Quantity | None]:
        """Every total by its name, in the report's order."""
        return dict(self.__dict__)


class Component(Part):
    """A line of the breakdown: ``copies`` sets of weights, ``calls`` runs in one pass, and the figures of them all.

    ``flops_core`` is the part of ``flops_forward`` that grows with queries x keys.
    """

    path: str
    copies: int
    calls: int
    params: int
    flops_forward: int
    flops_core: int
    activation_bytes: int | None
    kv_cache_bytes: int | None


class CacheLine(Part):
    """What the layers of one component cache, ``layers`` of them: ``tokens`` each, in bytes of the whole batch.

    ``kind``: full, window, chunk, latent, cross (the source's tokens) or state (one for any length).
    """

    path: str
    kind: str
    layers: int
    tokens: int
    bytes: int
    allocated_bytes: int | None


def cache_name(kinds: Collection[str]) -> str:
    """What to call caches of these kinds together."""
    found = set(kinds)
    if found == {"state"}:
        return "Recurrent state"
    return "Cached layer inputs" if found == {"inputs"} else "KV cache"


class KeptTensor(Part):
    """A tensor that autograd keeps, ``times`` over, in bytes of all of them; ``op`` is what keeps it."""

    op: str
    tensor: str
    shape: tuple[int, ...]
    times: int
    bytes: int


class Provenance(Part):
    """What made the report. No timestamp: the same command gives the same bytes."""

    txcalc: str
    command: tuple[str, ...]
    python: str


class Report(Part):
    """All that ``txcalc count`` knows about one model under one workload."""

    schema: Literal["txcalc/report/v1"] = SCHEMA
    model: ModelInfo
    workload: Workload
    conventions: tuple[Convention, ...]
    totals: Totals
    components: tuple[Component, ...]
    caches: tuple[CacheLine, ...] = ()
    kept: tuple[KeptTensor, ...]
    notes: tuple[str, ...] = ()
    sources: dict[str, str]
    provenance: Provenance


def count(
    spec: Model, workload: Workload, *, source: str = "python", overrides: Sequence[str] = (),
    command: Sequence[str] = (), by_module: bool = False,
) -> Report:
    """Count one model under one workload.

    ``by_module`` breaks down to single operations instead of components.
    Raises ``SpecError`` when the workload does not fit the model: more positions than a learned table holds,
    or a source length for a model without an encoder.
    """
    workload = fit(spec, workload)
    t = trace(spec, workload)
    return Report(
        model=ModelInfo(name=spec.name, source=source, overrides=tuple(overrides), spec=architecture_fields(spec)),
        workload=workload,
        conventions=conventions(spec, t),
        totals=totals(t),
        components=components(t, by_module=by_module),
        caches=caches(t),
        kept=tuple(
            KeptTensor(op=k.op.path, tensor=k.tensor.label, shape=k.tensor.shape, times=k.times, bytes=k.bytes)
            for k in activations.kept(t) if k.bytes
        ),
        notes=tuple(notes(spec, t)),
        sources=spec.sources,
        provenance=Provenance(
            txcalc=txcalc.__version__, command=tuple(command), python=platform.python_version()
        ),
    )


def totals(t: Trace) -> Totals:
    """Every total of a trace on ints."""
    w = t.workload
    all_params = params.params(t)
    embedding = params.embedding_params(t)
    forward = flops.forward_flops(t, w.masked)
    back = flops.backward_flops(t, w.masked) + flops.recomputed_flops(t, w.masked)
    tokens = w.batch * w.seq
    kept_bytes = activations.activation_bytes(t) if w.keeps else None
    kernel: Kind = "estimate" if any(op.kind == "recurrence" for op in t.ops) else "exact"
    return Totals(
        params=_quantity(all_params, "params"),
        params_active=_quantity(params.active_params(t), "params"),
        params_embedding=_quantity(embedding, "params"),
        params_non_embedding=_quantity(all_params - embedding, "params"),
        flops_forward=_quantity(forward, "FLOP", kernel),
        flops_backward=_quantity(back, "FLOP", kernel) if w.phase == "training" else None,
        flops_per_token=Quantity(
            value=forward // tokens, unit="FLOP/token", kind="estimate" if forward % tokens else kernel
        ),
        weight_bytes=_quantity(weights.weight_bytes(t), "B", weights.certainty(t)),
        activation_bytes=_optional(kept_bytes, "B", kernel),
        kv_cache_bytes=_optional(kv_cache.kv_cache_bytes(t), "B"),
        kv_cache_bytes_per_token=_optional(kv_cache.kv_cache_bytes_per_token(t), "B/token"),
        kv_cache_allocated_bytes=_optional(kv_cache.kv_cache_allocated_bytes(t), "B"),
        attention_score_bytes=_optional(activations.score_bytes(t) if w.keeps else None, "B"),
        training_state_bytes=_quantity(states.training_state_bytes(all_params, w.recipe), "B"),
    )


def components(t: Trace, *, by_module: bool = False) -> tuple[Component, ...]:
    """The breakdown in the order of the forward pass; every column adds up to its total."""
    lines: dict[str, list[Op]] = {}
    for op in t.ops:
        lines.setdefault(op.path if by_module else op.component, []).append(op)
    kept: dict[str, int] = {}
    for k in activations.kept(t):
        path = k.op.path if by_module else k.op.component
        kept[path] = kept.get(path, 0) + k.bytes
    return tuple(
        Component(
            path=path,
            copies=ops[0].copies,
            calls=ops[0].calls,
            params=sum(op.copies * op.params for op in ops),
            flops_forward=flops.flops_of(ops, "flops", t.workload.masked),
            flops_core=flops.flops_of((op for op in ops if op.kind == "core"), "flops", t.workload.masked),
            activation_bytes=kept.get(path, 0) if t.workload.keeps else None,
            kv_cache_bytes=kv_cache.cache_bytes(ops, t.workload),
        )
        for path, ops in lines.items()
    )


def caches(t: Trace) -> tuple[CacheLine, ...]:
    """Every cache in the order of the forward pass; bytes add up to the total."""
    return tuple(
        CacheLine(
            path=op.component, kind=op.cache.name, layers=op.calls, tokens=op.cache.tokens,
            bytes=kv_cache.cache_bytes([op], t.workload) or 0,
            allocated_bytes=kv_cache.allocated_bytes([op], t.workload),
        )
        for op in t.ops if op.cache is not None
    )


def _quantity(value: int, unit: str, kind: Kind = "exact") -> Quantity:
    return Quantity(value=value, unit=unit, kind=kind)


def _optional(value: int | None, unit: str, kind: Kind = "exact") -> Quantity | None:
    return None if value is None else _quantity(value, unit, kind)
