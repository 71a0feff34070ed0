"""The totals of a report as facts: what each is called, how sure it is, and a note."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from txcalc import units
from txcalc.answer.report import SKIPPED, CacheLine, KVCache, Quantity, Report, Totals
from txcalc.answer.view import Alternative, View
from txcalc.count import labels
from txcalc.count.states import RECIPES
from txcalc.count.totals import TOTALS
from txcalc.show.blocks import Fact, Number, Scale
from txcalc.spec.weight_formats import PACKED, RELEASED

MARKS: Final = {"exact": "=", "estimate": "~", "bound": "<", "published": "p"}

_DERIVED: Final = {
    "params_non_embedding": "Non-embedding parameters", "flops_per_token": "FLOPs per token",
    "flops_model_per_token": "Model FLOPs per token", "flops_hardware_per_token": "Hardware FLOPs per token",
}
"""Figures that are made of totals."""

WITHOUT: Final = {other: name for name, other in SKIPPED.items()}
"""Figures without masked pairs, and the names of those with them."""


def label(total: str) -> str:
    """The label of a total."""
    name = WITHOUT.get(total, total)
    shown = TOTALS[name].label if name in TOTALS else _DERIVED.get(name, name)
    return shown if name == total else f"{shown}, without masked pairs"


def matters(one: int, other: int) -> bool:
    """Masked pairs, with and without which these are, make more than a hundredth."""
    return 100 * abs(one - other) > max(one, other)


def marked(quantity: Quantity | None) -> Number | None:
    """``~ 23.82 GFLOP`` for an estimate; what is exact goes without a mark."""
    if quantity is None:
        return None
    mark = "" if quantity.kind == "exact" else f"{MARKS[quantity.kind]} "
    return Number(quantity.value, scale_of(quantity.unit), mark)


def scale_of(unit: str) -> Scale:
    """The scale of amounts in this unit, as they are written for people."""
    return "memory" if unit.startswith("B") else "flops" if unit.startswith("FLOP") else "params"


def kind_of(total: str) -> Scale:
    """The scale of amounts of this total, as they are written for people."""
    return "memory" if "bytes" in total else "flops" if "flops" in total else "params"


def figures(view: View) -> list[Fact]:
    """Every total of the report that exists, in the order of the terminal."""
    of_report = (_params, _flops, _weights, _cache)
    found = [fact for facts in of_report for fact in facts(view.report)]
    return [*found, *_activations(view.report, view.alternative), *_training_state(view.report)]


def _figure(label: str, quantity: Quantity, note: str = "", *, sub: bool = False) -> Fact:
    return Fact(label, Number(quantity.value, scale_of(quantity.unit)), MARKS[quantity.kind], note, sub)


def _params(report: Report) -> Iterator[Fact]:
    t = report.totals
    yield _figure("Parameters", t.params)
    if t.params_active != t.params:
        yield _figure("active", t.params_active, "per token", sub=True)
    if t.params_trained is not None:
        yield _figure("trained", t.params_trained, sub=True)
    yield _figure("non-embedding", t.params_non_embedding, sub=True)


def _flops(report: Report) -> Iterator[Fact]:
    """The passes of the run, those with masked pairs and those without, and what one token costs."""
    shown, other = _both(report)
    names = [name for name in ("flops_forward", "flops_backward", "flops_recomputed") if getattr(shown, name)]
    whole, others = (_sum([getattr(t, name) for name in names]) for t in (shown, other))
    passes = " + ".join(name.removeprefix("flops_") for name in names if getattr(shown, name).value)
    counted = report.workload.masked == "counted"
    rules = ("as FlopCounterMode counts", "the pairs that the mask keeps")
    beside = f"{'without' if counted else 'with'} masked pairs"
    yield _figure("FLOPs", whole, passes if len(names) > 1 else rules[not counted])
    if matters(whole.value, others.value):
        yield _figure(beside, others, rules[counted], sub=True)
    if len(names) == 1:
        yield _figure("per token", shown.flops_per_token, sub=True)
        return
    for name in names:
        if getattr(shown, name).value:
            yield _figure(name.removeprefix("flops_"), getattr(shown, name), sub=True)
    told = None
    for name, use in (("model", "for MFU"), ("hardware", "for HFU")):
        own, others = (getattr(t, f"flops_{name}_per_token") for t in (shown, other))
        note = f", {units.flops(others.value)} {beside}" if matters(own.value, others.value) else ""
        if own != told:
            yield _figure(f"{name}, per token", own, use + note, sub=True)
        told = own


def _both(report: Report) -> tuple[Totals, Totals]:
    """The totals that are shown, and those with masked pairs where these have none, or the other way round."""
    counted, skipped = report.totals, report.totals.shown("skipped")
    return (counted, skipped) if report.workload.masked == "counted" else (skipped, counted)


def _sum(found: Sequence[Quantity]) -> Quantity:
    least = next((each for each in found if each.kind != "exact"), found[0])  # a sum is as sure as its parts
    return least.replaced(value=sum(quantity.value for quantity in found))


def _cache(report: Report) -> Iterator[Fact]:
    t = report.totals
    if t.kv_cache_bytes is None:
        return
    note = growth(report.kv_cache, report.caches)
    yield _figure(cache_label(report.caches), t.kv_cache_bytes, note=note)
    if t.kv_cache_allocated_bytes is not None:
        note = f"blocks of {units.exact(report.workload.kv_block)}"
        yield _figure("allocated", t.kv_cache_allocated_bytes, note=note, sub=True)


def cache_label(caches: Sequence[CacheLine]) -> str:
    """The label of all that these lines hold."""
    return labels.of_caches({line.kind for line in caches})


def growth(cache: KVCache | None, lines: Sequence[CacheLine]) -> str:
    """``20.00 KiB/token + 200.0 MiB of windows``: what grows with the tokens from this length on, and what does not."""
    if cache is None or (cache.fixed_bytes and not cache.bytes_per_token and {"state"} == {x.kind for x in lines}):
        return ""
    parts = [f"{units.memory(cache.bytes_per_token)}/token"] if cache.bytes_per_token else []
    for kind, name in _FIXED.items():
        size = sum(line.bytes for line in lines if line.kind == kind and not line.bytes_per_token)
        parts += [f"{units.memory(size)} {name}"] if size else []
    return " + ".join(parts) if cache.bytes_per_token or len(parts) > 1 else "full: it grows no further"


_FIXED: Final = {
    "window": "of windows", "chunk": "of chunks", "inputs": "of inputs", "cross": "of the source", "state": "states",
}


def _weights(report: Report) -> Iterator[Fact]:
    t, spec, asked = report.totals, report.model.spec, report.workload.weights
    if t.weight_bytes is None:
        return
    own = spec.get("quantization") or spec.get("released")
    method = own["method"] if own else "16 bits"
    counted = method if asked == RELEASED else asked or (spec.get("quantization") or {}).get("method", "")
    note = f"{counted}, scales included" if counted in PACKED or (spec.get("quantization") and not asked) else counted
    yield _figure("Weights", t.weight_bytes, note=note)
    if t.released_weight_bytes is not None and t.released_weight_bytes != t.weight_bytes:
        yield _figure("as released", t.released_weight_bytes, note=method, sub=True)


def _activations(report: Report, other: Alternative | None) -> Iterator[Fact]:
    t = report.totals
    if t.activation_bytes is None:
        return
    label = "Activations" if report.workload.phase == "training" else "Activations (train)"
    scores = t.attention_score_bytes.value if t.attention_score_bytes else 0
    matters = other is None or other[1:] != (t.activation_bytes.value, scores)
    kernel = f"{report.attention} attention" if matters and report.attention else ""
    yield _figure(label, t.activation_bytes, note=", ".join(filter(None, (kernel, _scores(scores)))))
    if other is not None and matters:
        kept = Quantity(value=other.activation_bytes, unit="B", kind=t.activation_bytes.kind)
        note = _scores(other.attention_score_bytes)
        yield _figure(f"if {other.attention}", kept, note=note, sub=True)


def _scores(size: int) -> str:
    return f"{units.memory(size)} S×S" if size else ""


def _training_state(report: Report) -> Iterator[Fact]:
    workload = report.workload
    state = report.totals.training_state_bytes
    recipe = RECIPES[workload.recipe]
    if workload.keeps and state is None:
        yield Fact("Training state", None, "", "nothing trains packed weights")
    elif workload.keeps and state is not None:
        yield _figure("Training state", state, f"{workload.recipe}, {recipe.together} B/param")
