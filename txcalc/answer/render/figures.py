"""The numbers people come for, as rows: what it is called, for people, exactly, how sure, and a note."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from txcalc import units
from txcalc.answer.report import CacheLine, Quantity, Report, cache_name
from txcalc.answer.view import Alternative, View
from txcalc.count.states import RECIPES

MARKS: Final = {"exact": "=", "estimate": "~", "bound": "<", "published": "p"}

_LABELS: Final = {
    "params": "Parameters", "params_active": "Active parameters", "params_embedding": "Embedding parameters",
    "params_non_embedding": "Non-embedding parameters", "flops_forward": "FLOPs, forward",
    "flops_backward": "FLOPs, backward", "flops_per_token": "FLOPs per token", "weight_bytes": "Weights",
    "activation_bytes": "Activations (train)", "kv_cache_bytes": "KV cache",
    "kv_cache_bytes_per_token": "KV cache per token", "kv_cache_allocated_bytes": "KV cache, allocated",
    "attention_score_bytes": "Attention scores kept", "training_state_bytes": "Training state",
}


class Figure(NamedTuple):
    """One row; ``sub`` is a part of, or an alternative to, the row above it."""

    label: str
    value: str
    exact: str
    mark: str
    note: str = ""
    sub: bool = False


def label(total: str) -> str:
    """What people call a total."""
    return _LABELS.get(total, total)


def marked(quantity: Quantity | None, scale: Callable[[int], str]) -> str:
    """``~ 23.82 GFLOP`` for an estimate; what is exact goes without a mark."""
    if quantity is None:
        return units.MISSING
    return ("" if quantity.kind == "exact" else f"{MARKS[quantity.kind]} ") + scale(quantity.value)


def figures(view: View) -> list[Figure]:
    """Every total of the report that exists, in the order of the terminal."""
    report = view.report
    return [
        *_params(report),
        *_flops(report),
        _figure("Weights", report.totals.weight_bytes, units.memory, note=_packing(report)),
        *_cache(report),
        *_activations(report, view.alternative),
        *_training_state(report),
    ]


def _figure(
    label: str, quantity: Quantity, scale: Callable[[int], str], *, note: str = "", sub: bool = False
) -> Figure:
    unit = " B" if quantity.unit == "B" else ""
    return Figure(label, scale(quantity.value), units.exact(quantity.value) + unit, MARKS[quantity.kind], note, sub)


def _params(report: Report) -> Iterator[Figure]:
    t = report.totals
    yield _figure("Parameters", t.params, units.params)
    if t.params_active != t.params:
        yield _figure("active", t.params_active, units.params, note="per token", sub=True)
    yield _figure("non-embedding", t.params_non_embedding, units.params, sub=True)


def _flops(report: Report) -> Iterator[Figure]:
    t = report.totals
    back = t.flops_backward
    if back is None:
        yield _figure("FLOPs", t.flops_forward, units.flops, note="matmuls")
    else:
        step = Quantity(value=t.flops_forward.value + back.value, unit="FLOP", kind=back.kind)
        yield _figure("FLOPs", step, units.flops, note="forward + backward")
        yield _figure("forward", t.flops_forward, units.flops, sub=True)
        yield _figure("backward", back, units.flops, sub=True)
    note = "" if back is None else "forward"
    yield _figure("per token", t.flops_per_token, units.flops, note=note, sub=True)


def _cache(report: Report) -> Iterator[Figure]:
    t = report.totals
    if t.kv_cache_bytes is None:
        return
    yield _figure(cache_label(report.caches), t.kv_cache_bytes, units.memory, note=_parts(report, t.kv_cache_bytes))
    if t.kv_cache_allocated_bytes is not None:
        note = f"blocks of {units.exact(report.workload.kv_block)}"
        yield _figure("allocated", t.kv_cache_allocated_bytes, units.memory, note=note, sub=True)


def cache_label(caches: Sequence[CacheLine]) -> str:
    """What to call all that these lines hold."""
    return cache_name({line.kind for line in caches})


def _parts(report: Report, all_of_it: Quantity) -> str:
    """``16.00 KiB/token + 15.75 MiB states``: what grows with the tokens, and what does not."""
    each = report.totals.kv_cache_bytes_per_token
    parts = [] if each is None else [f"{units.memory(each.value)}/token"]
    for kind, name in (("cross", "of the source"), ("state", "states")):
        size = sum(line.bytes for line in report.caches if line.kind == kind)
        if 0 < size < all_of_it.value:
            parts.append(f"{units.memory(size)} {name}")
    return " + ".join(parts)


def _packing(report: Report) -> str:
    quantization = report.model.spec.get("quantization")
    return f"{quantization['method']}, scales included" if quantization else ""


def _activations(report: Report, other: Alternative | None) -> Iterator[Figure]:
    t = report.totals
    if t.activation_bytes is None:
        return
    label = "Activations" if report.workload.phase == "training" else "Activations (train)"
    scores = t.attention_score_bytes.value if t.attention_score_bytes else 0
    matters = other is None or other[1:] != (t.activation_bytes.value, scores)
    kernel = f"{report.workload.attention} attention" if matters else ""
    yield _figure(label, t.activation_bytes, units.memory, note=", ".join(filter(None, (kernel, _scores(scores)))))
    if other is not None and matters:
        kept = Quantity(value=other.activation_bytes, unit="B", kind=t.activation_bytes.kind)
        note = _scores(other.attention_score_bytes)
        yield _figure(f"if {other.attention}", kept, units.memory, note=note, sub=True)


def _scores(size: int) -> str:
    return f"{units.memory(size)} S×S" if size else ""


def _training_state(report: Report) -> Iterator[Figure]:
    workload = report.workload
    if workload.keeps:
        recipe = RECIPES[workload.recipe]
        each = recipe.weights + recipe.gradients + recipe.optimizer
        note = f"{workload.recipe}, {each} B/param"
        yield _figure("Training state", report.totals.training_state_bytes, units.memory, note=note)
