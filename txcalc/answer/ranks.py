"""Ranks of a layout: what they do together, and what each of them has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from txcalc.count import activations, flops, kv_cache, params, weights
from txcalc.count.entries import total
from txcalc.document import Part
from txcalc.spec.model import Model
from txcalc.trace.layout import shares
from txcalc.trace.model import trace
from txcalc.trace.rank import layers
from txcalc.trace.record import Trace


class Collective(Part):
    """A collective of an axis: ``times`` calls, each on a tensor of so many ``bytes`` in all.

    ``phase``: of a micro-batch, or ``step``: before or after the optimizer's. ``overlappable``: something else may run
    meanwhile.
    """

    what: str
    axis: str
    bytes: int
    times: int
    phase: str
    path: str
    overlappable: bool


class Rank(Part):
    """Ranks that have as much of everything, ``times`` of them: of a pipeline those in ``pp``, each with ``layers``, of
    tensor parallelism those in ``tp``, from 0 on; ``params``: before data-parallel ranks share any.

    ``flops``: of all passes of a micro-batch; ``kept_bytes``: what one leaves for its backward pass. ``state_bytes``:
    of the optimizer, master weights among them. Null: not in this run, or not asked for.
    """

    pp: tuple[int, ...]
    tp: tuple[int, ...]
    times: int
    layers: int
    params: int
    flops: int
    weight_bytes: int
    gradient_bytes: int | None
    state_bytes: int | None
    kept_bytes: int | None
    cache_bytes: int | None
    peak_bytes: int | None


def communicated(*traces: Trace) -> tuple[Collective, ...] | None:
    """The collectives of runs one after the other; None on a single device."""
    if traces[0].workload.layout is None:
        return None
    from txcalc.count.collectives import collectives

    return tuple(Collective(**each._asdict()) for t in traces for each in collectives(t))


Figures = dict[str, Any]


def every_rank(
    spec: Model, traces: Sequence[Trace], peak: Callable[[Sequence[Trace]], int] | None = None
) -> tuple[Rank, ...]:
    """All ranks of runs one after the other, those that are alike together. ``peak``: of such runs, in bytes.

    Ranks of dp, cp and ep have as much as the first of them has, which where ``fully_shard`` pads is the most.
    """
    layout, whole = traces[0].layout, traces[0].whole
    rows = [[*shares(size or 0, layout.tp)] for size in (whole.vocab, whole.source_vocab)]
    alike = [tuple(row[tp] for row in rows) for tp in range(layout.tp)]  # as many rows of every table
    found = list[tuple[int, list[tuple[tuple[int, ...], Figures]]]]()
    for pp in range(layout.pp):
        of = {share: _figures([trace(spec, t.workload, rank=pp, share=alike.index(share)) for t in traces], peak)
              for share in dict.fromkeys(alike)}
        same = groupby(range(layout.tp), lambda tp: of[alike[tp]])  # noqa: B023
        found.append((pp, [(tuple(each), figures) for figures, each in same]))
    return tuple(
        Rank(pp=own, tp=tp, times=len(own) * len(tp) * (layout.world // (layout.pp * layout.tp)), **figures)
        for parts, each in groupby(found, lambda rank: rank[1]) for own in [tuple(pp for pp, _ in each)]
        for tp, figures in parts)


def _figures(traces: Sequence[Trace], peak: Callable[[Sequence[Trace]], int] | None) -> Figures:
    first, last = traces[0], traces[-1]
    trains, cached = first.workload.phase == "training", kv_cache.kv_cache_bytes(last)
    held: dict[str, int] = {}
    if peak is not None:
        from txcalc.count import step  # takes a while, which a count does without

        held = step.held(first)
    states = held.get("optimizer state", 0) + held.get("master weights", 0)
    return {
        "layers": layers(first.model), "params": params.params(first),
        "flops": int(total(flops.entries(first, "forward", "backward", "recomputed") if trains
                           else flops.entries(first, "forward"))),
        "weight_bytes": int(total(weights.entries(first))) if peak is None else held["weights"],
        "gradient_bytes": held.get("gradients") if trains else None,
        "state_bytes": states if trains and held else None,
        "kept_bytes": activations.activation_bytes(first) if first.workload.keeps else None,
        "cache_bytes": None if cached is None or trains else int(cached),
        "peak_bytes": None if peak is None else peak(traces),
    }
