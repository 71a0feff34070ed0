"""Every quantity: its entries, their unit, and which runs have it, by the names that reports have for their totals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, NamedTuple

from txcalc.count import activations, flops, kv_cache, labels, params, states, weights
from txcalc.count.entries import Entry
from txcalc.spec.facts import global_tokens
from txcalc.spec.weight_formats import RELEASED
from txcalc.trace.record import Trace
from txcalc.trace.workload import Masked

Sure = Literal["exact", "estimate"]
Entries = Mapping[str, list[Entry] | None]


def _sure(t: Trace) -> Sure:
    """FLOPs and kept bytes: a recurrence's kernel has choices of its own."""
    return "estimate" if any(op.kind.group == "recurrence" for op in t.ops) else "exact"


def trained(t: Trace) -> Sure:
    """The backward pass, and what it keeps: with packed weights alone, what is trained is not known.

    Nor is whether a class goes back through the last layer's global tokens, which nothing reads: PEGASUS-X's does not.
    """
    unknown = t.workload.phase == "training" and not t.workload.freezes and weights.is_packed(t)
    unread = any(stack is not None and global_tokens(stack) for stack in (t.model, t.model.encoder))
    return "estimate" if unknown or unread else _sure(t)


class Total(NamedTuple):
    """A quantity, as people call it. ``there``: says whether a run has it. ``sure``: how certain it is."""

    label: str
    entries: Callable[[Trace], Iterable[Entry]]
    unit: str
    there: Callable[[Trace], bool] = lambda t: True
    sure: Callable[[Trace], Sure] = lambda t: "exact"


def _flops(what: flops.Pass, masked: Masked = "counted") -> Total:
    found = Total(f"FLOPs, {what}", lambda t: flops.entries(t, what, masked=masked), "FLOP", sure=_sure)
    return found if what == "forward" else found._replace(there=lambda t: t.workload.phase == "training", sure=trained)


def _caches(*kinds: str) -> Callable[[Trace], bool]:
    return lambda t: any(op.cache is not None and op.cache.kind in kinds for op in t.ops)


_ANY: Final = _caches("self", "cross", "state")
TOTALS: Final[Mapping[str, Total]] = {
    "params": Total("Parameters", params.entries, "params"),
    "params_active": Total("Active parameters", params.active, "params"),
    "params_embedding": Total("Embedding parameters", params.tables, "params"),
    "params_trained": Total("Trained parameters", params.trained, "params", lambda t: t.workload.freezes),
    "flops_forward": _flops("forward"),
    "flops_skipped": _flops("forward", "skipped"),
    "flops_backward": _flops("backward"),
    "flops_backward_skipped": _flops("backward", "skipped"),
    "flops_recomputed": _flops("recomputed"),
    "flops_recomputed_skipped": _flops("recomputed", "skipped"),
    "weight_bytes": Total("Weights", weights.entries, "B", weights.is_known, weights.certainty),
    "released_weight_bytes": Total(
        "Weights as released", lambda t: weights.entries(t, RELEASED), "B",
        lambda t: weights.own_format(t.model) is not None, lambda t: weights.certainty(t, RELEASED)),
    "activation_bytes": Total("Activations (train)", activations.kept, "B", lambda t: t.workload.keeps, trained),
    "kv_cache_bytes": Total(labels.KV_CACHE, kv_cache.entries, "B", _ANY),
    "kv_cache_bytes_per_token": Total(f"{labels.KV_CACHE} per token", kv_cache.per_token, "B/token", _caches("self")),
    "kv_cache_allocated_bytes": Total(f"{labels.KV_CACHE}, allocated", kv_cache.allocated, "B",
                                      lambda t: t.workload.kv_block is not None and _ANY(t)),
    "attention_score_bytes": Total("Attention scores kept", activations.kept_scores, "B", lambda t: t.workload.keeps),
    "training_state_bytes": Total("Training state", states.entries, "B", lambda t: not weights.is_packed(t)),
}


def counted(t: Trace) -> Entries:
    """The entries of every quantity; None where the run has no such quantity."""
    return {name: list(each.entries(t)) if each.there(t) else None for name, each in TOTALS.items()}
