"""Layouts of so many devices that a run fits into, and how far: every one of a small family, counted on one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any, Final

from txcalc.answer.frameworks import framed
from txcalc.answer.passes import Passes, of_rank, passes, says_precision
from txcalc.answer.report import Kind
from txcalc.count import step
from txcalc.count.entries import total
from txcalc.document import Part
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.implementations import code
from txcalc.trace.layout import WHOLE
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

NODE: Final = 8
"""Ranks of tensor parallelism at most, which wants the links of one machine."""
STATES: Final[tuple[dict[str, Any], ...]] = (
    {"precision": "mixed"}, *({"precision": "mixed", "zero": stage} for stage in (1, 2, 3)),
    {"fsdp": "reshard=no"}, {"fsdp": "yes"})
"""Ways in which data-parallel ranks share weights, gradients and optimizer states."""
SURE: Final = ("exact", "bound", "estimate")
"""Kinds of a peak, the surest first."""


class _TooMuch(Exception):
    """Weights and states of a rank that are more than there is room for: no peak is looked for."""

    def __init__(self, workload: Workload, held: int) -> None:
        super().__init__(held)
        self.workload, self.held = workload, held


class Spread(Part):
    """A layout, and one rank's peak in it; ``bytes``: where weights and states alone are too much, those (a bound).

    ``run``: the fields that say it, on the command line.
    """

    run: dict[str, Any]
    bytes: int
    kind: Kind
    fits: bool
    free_bytes: int


def layouts(
    spec: Model, given: Mapping[str, Any], gpus: int, room: int, peak: Callable[[Passes], int],
    rounded: Callable[[int], int] = int,
) -> tuple[Spread, ...]:
    """Those of ``gpus`` devices that can be counted: what fits first, of it what is exact, and then what leaves most.

    Axes, ``zero``, ``fsdp``, ``precision`` and ``recompute`` that are ``given`` stay. Raises ``SpecError`` where no
    layout has so many ranks, or none can be counted.
    """
    found, why, seen = list[Spread](), list[SpecError](), list[Workload]()
    run_once = lru_cache(maxsize=8)(lambda workload, rank: of_rank(spec, workload, rank))

    def made(spec: Model, workload: Workload, rank: int) -> Trace:
        layout = workload.layout or WHOLE
        code(spec, workload)
        run = run_once(workload.replaced(layout=layout.replaced(zero=0)), rank)
        return fits(replace(run, workload=workload, layout=layout, alike=run))

    def fits(t: Trace) -> Trace:
        if (held := int(total(step.resident(t)))) > room:
            raise _TooMuch(t.workload, held)
        return t

    for run in _runs(given, gpus, spec.layers):
        try:
            try:
                of = passes(spec, framed({**given, **run})[0], rounded, made)
                kind: Kind = max(map(step.certainty, map(fits, of.traces)), key=SURE.index)
                size, workload = peak(of), of.workload
            except _TooMuch as error:
                size, kind, workload = error.held, "bound", error.workload
        except SpecError as error:
            why.append(error)
            continue
        if workload not in seen:  # else what a framework sets of itself
            seen.append(workload)
            found.append(Spread(run=run, bytes=size, kind=kind, fits=size <= room, free_bytes=room - size))
    if not found:
        raise why[0]
    return tuple(sorted(found, key=lambda each: (not each.fits, each.kind != "exact", -each.free_bytes)))


def _given(given: Mapping[str, Any], **ranks: int) -> dict[str, Any]:
    """Options given beside the axes of a layout, of those that it splits."""
    of = {"cp_comm": "cp", "schedule": "pp", "sp": "tp", "etp": "tp"}
    return {name: given[name] for name in (*of, "ep", "zero", "fsdp")
            if given.get(name) and ranks.get(of.get(name, ""), 2) > 1}


def _runs(given: Mapping[str, Any], gpus: int, layers: int) -> Iterator[dict[str, Any]]:
    cp, training = int(given.get("cp", 1)), given.get("phase") == "training"
    splits = [given["tp"]] if "tp" in given else [1, 2, 4, NODE]
    stages = [given["pp"]] if "pp" in given or not training else [1 << i for i in range(layers.bit_length())]
    axes = [(tp, pp, gpus // (tp * pp * cp)) for pp, tp in product(stages, splits) if gpus % (tp * pp * cp) == 0]
    axes = [each for each in axes if each[2] == given.get("dp", each[2])]
    if not axes:
        raise SpecError(f"{gpus:,} are not as many as tp, pp, cp and dp make", field="gpus")
    own = {"precision": given["precision"]} if "precision" in given else {}
    shared = {name for name in ("zero", "fsdp") if given.get(name)}
    if shared and all(dp * cp == 1 for *_, dp in axes):
        raise SpecError(f"none of {gpus:,} devices are left for dp, which shares weights", field=min(shared))
    shares = [each for each in STATES if {**each, **own} == each or not own]
    if not training or not shares or given.keys() & {"zero", "fsdp"}:
        says = "fsdp" in shared or "framework" in given or says_precision(given)
        shares = [{"precision": "bf16"} if training and not says else {}]  # as it is without a precision here
    again = ("none", "full") if training and "recompute" not in given else (None,)
    for (tp, pp, dp), recompute, share in product(axes, again, shares):
        piped = pp > 1 and len(shares) > 1 and (share.get("zero", 0) > 1 or "fsdp" in share)  # see --framework
        if not piped and (dp * cp > 1 or not {*share, *shared} & {"zero", "fsdp"}):
            ranks = {"tp": tp, "pp": pp, "cp": cp, "dp": dp}
            yield {**{name: each for name, each in ranks.items() if each > 1},
                   **_given(given, tp=tp, pp=pp, cp=cp), **share,
                   **({} if recompute in (None, "none") else {"recompute": recompute})}
