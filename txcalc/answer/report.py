"""The report: every total, where it goes, and every assumption behind it. The contract with machines.

The same document is written as JSON and YAML; loading either gives an equal object. Totals are exact integers.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import txcalc
from txcalc.answer.conventions import Convention, conventions
from txcalc.answer.fit import fit
from txcalc.answer.notes import notes, runs_as
from txcalc.count import activations, flops, kv_cache, params, states, weights
from txcalc.document import Part
from txcalc.spec.facts import architecture_fields
from txcalc.spec.formats import RELEASED
from txcalc.trace.model import trace
from txcalc.trace.record import Often, Op, Trace
from txcalc.trace.workload import Masked, Workload

if TYPE_CHECKING:
    from txcalc.spec.model import Model

SCHEMA: Final = "txcalc/report/v2"
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


SKIPPED: Final = {
    "flops_forward": "flops_skipped", "flops_backward": "flops_backward_skipped",
    "flops_recomputed": "flops_recomputed_skipped", "flops_per_token": "flops_per_token_skipped",
    "flops_model_per_token": "flops_model_per_token_skipped",
    "flops_hardware_per_token": "flops_hardware_per_token_skipped",
}
"""Every figure that masked (query, key) pairs are part of, and its name without them."""


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
    length.
    """

    params: Quantity
    params_active: Quantity
    params_embedding: Quantity
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
    weight_bytes: Quantity
    released_weight_bytes: Quantity | None = None
    activation_bytes: Quantity | None
    kv_cache_bytes: Quantity | None
    kv_cache_bytes_per_token: Quantity | None
    kv_cache_allocated_bytes: Quantity | None = None
    attention_score_bytes: Quantity | None
    training_state_bytes: Quantity | None

    def quantities(self) -> dict[str, Quantity | None]:
        """Every total by its name, in the report's order."""
        return dict(self.__dict__)


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
    """What the layers of one component cache, ``layers`` of them: ``tokens`` each, in bytes of the whole batch.

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
    """How the cache grows from this length on: bytes = ``fixed_bytes`` + ``bytes_per_token`` x tokens of the batch."""

    fixed_bytes: int
    bytes_per_token: int


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
    """All that ``txcalc count`` knows about one model under one workload.

    ``implementation``, ``kernels``: whose code and whose operators are counted. ``attention``: the kernels that run,
    whatever was asked for. ``notes``: what a reader must know
    beside the numbers.
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
    asked, workload = workload, fit(spec, workload)
    t = trace(spec, workload)
    return Report(
        model=ModelInfo(name=spec.name, source=source, overrides=tuple(overrides), spec=architecture_fields(spec)),
        workload=workload,
        implementation=workload.implementation,
        kernels=workload.kernels,
        attention=runs_as(t),
        conventions=conventions(spec, t),
        totals=totals(t),
        kv_cache=growth(t),
        components=components(t, by_module=by_module),
        caches=caches(t),
        kept=tuple(
            KeptTensor(op=k.op.path, tensor=k.tensor.label, shape=k.tensor.shape, times=k.times, bytes=k.bytes)
            for k in activations.kept(t) if k.bytes
        ),
        notes=tuple(notes(spec, t, asked)),
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
    kept_bytes = activations.activation_bytes(t) if w.keeps else None
    return Totals(
        params=_quantity(all_params, "params"),
        params_active=_quantity(params.active_params(t), "params"),
        params_embedding=_quantity(embedding, "params"),
        params_non_embedding=_quantity(all_params - embedding, "params"),
        **_flops(t),
        weight_bytes=_quantity(weights.weight_bytes(t), "B", weights.certainty(t)),
        activation_bytes=_optional(kept_bytes, "B", _trained(t)),
        kv_cache_bytes=_optional(kv_cache.kv_cache_bytes(t), "B"),
        kv_cache_bytes_per_token=_optional(kv_cache.kv_cache_bytes_per_token(t), "B/token"),
        kv_cache_allocated_bytes=_optional(kv_cache.kv_cache_allocated_bytes(t), "B"),
        attention_score_bytes=_optional(activations.score_bytes(t) if w.keeps else None, "B"),
        training_state_bytes=_optional(
            None if weights.is_packed(t) else states.training_state_bytes(all_params, w.recipe), "B"
        ),
        released_weight_bytes=_optional(weights.released_bytes(t), "B", weights.certainty(t, RELEASED)),
    )


def _flops(t: Trace) -> dict[str, Any]:
    """All totals in FLOPs, with masked pairs and without."""
    found: dict[str, Quantity | None] = {}
    tokens, certainty = t.workload.batch * t.workload.seq, _certainty(t)
    options: tuple[Masked, ...] = ("counted", "skipped")
    for masked in options:
        forward = flops.forward_flops(t, masked)
        back, again = flops.backward_flops(t, masked), flops.recomputed_flops(t, masked)
        whole = {"flops_forward": forward}
        each = {"flops_per_token": forward}
        if t.workload.phase == "training":
            whole |= {"flops_backward": back, "flops_recomputed": again}
            each |= {"flops_model_per_token": forward + back, "flops_hardware_per_token": forward + back + again}
        sure = {name: certainty if name in ("flops_forward", "flops_per_token") else _trained(t)
                for name in (*whole, *each)}
        values = {name: _quantity(value, "FLOP", sure[name]) for name, value in whole.items()} | {
            name: _quantity(value // tokens, "FLOP/token", "estimate" if value % tokens else sure[name])
            for name, value in each.items()
        }
        found |= {SKIPPED[name] if masked == "skipped" else name: values.get(name) for name in SKIPPED}
    return found


def _certainty(t: Trace) -> Kind:
    """How sure FLOPs and kept bytes are: a recurrence's kernel has choices of its own."""
    return "estimate" if any(op.kind == "recurrence" for op in t.ops) else "exact"


def _trained(t: Trace) -> Kind:
    """How sure the backward pass is, and what it keeps: packed weights are frozen, and what is trained is not known."""
    packed = t.workload.phase == "training" and weights.is_packed(t)
    return "estimate" if packed else _certainty(t)


def growth(t: Trace) -> KVCache | None:
    """Fixed bytes of the whole batch, and what one more token of one sequence adds. None without any cache."""
    fixed = kv_cache.fixed_bytes(t)
    if fixed is None:
        return None
    return KVCache(fixed_bytes=fixed, bytes_per_token=kv_cache.kv_cache_bytes_per_token(t) or 0)


def components(t: Trace, *, by_module: bool = False) -> tuple[Component, ...]:
    """The breakdown in the order of the forward pass; every column adds up to its total."""
    kept: dict[str, int] = {}
    for k in activations.kept(t):
        path = k.op.path if by_module else k.op.component
        kept[path] = kept.get(path, 0) + k.bytes
    lines: dict[str, list[tuple[Op, Often]]] = {}
    for op, often in t.placed:
        path = op.path if by_module else op.component
        if op.weights or op.flops or op.saves or op.cache is not None or path in lines:
            lines.setdefault(path, []).append((op, often))
    return tuple(
        Component(
            path=path,
            copies=ops[0][1].copies,
            calls=ops[0][1].calls,
            params=sum(often.copies * op.params for op, often in ops),
            **_parts(t, ops),
            flops_core=flops.flops_of((each for each in ops if each[0].kind == "core"), "flops"),
            activation_bytes=kept.get(path, 0) if t.workload.keeps else None,
            kv_cache_bytes=kv_cache.cache_bytes(ops, t.workload),
        )
        for path, ops in lines.items()
    )


def _parts(t: Trace, ops: Sequence[tuple[Op, Often]]) -> dict[str, Any]:
    parts: dict[str, flops.Part] = {"flops_forward": "flops"}
    if t.workload.phase == "training":
        parts |= {"flops_backward": "flops_backward", "flops_recomputed": "flops_recomputed"}
    of = {name: parts.get(name) for name in SKIPPED if name in Component.names()}
    return {name: part and flops.flops_of(ops, part) for name, part in of.items()} | {
        SKIPPED[name]: part and flops.flops_of(ops, part, "skipped") for name, part in of.items()}


def caches(t: Trace) -> tuple[CacheLine, ...]:
    """Every cache in the order of the forward pass; bytes add up to the total."""
    return tuple(
        CacheLine(
            path=op.component, kind=op.cache.name, layers=often.calls, tokens=op.cache.tokens,
            bytes=kv_cache.cache_bytes([(op, often)], t.workload) or 0,
            bytes_per_token=kv_cache.bytes_per_token([(op, often)], t.workload) or 0,
            allocated_bytes=kv_cache.allocated_bytes([(op, often)], t.workload),
        )
        for op, often in t.placed if op.cache is not None
    )


def _quantity(value: int, unit: str, kind: Kind = "exact") -> Quantity:
    return Quantity(value=value, unit=unit, kind=kind)


def _optional(value: int | None, unit: str, kind: Kind = "exact") -> Quantity | None:
    return None if value is None else _quantity(value, unit, kind)
