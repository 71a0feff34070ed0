"""The memory of an engine, in the document of a run in plain PyTorch: what it holds on a card, its pool, levers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from txcalc.answer.conventions import Convention
from txcalc.answer.engine_gains import gains
from txcalc.answer.memory import Alive, Held, Memory, MemoryView, Outside, Peak, Phase
from txcalc.answer.report import Kind, ModelInfo, Provenance
from txcalc.answer.serving import Serving, served, serving
from txcalc.count.entries import total
from txcalc.count.flops import entries as flops

if TYPE_CHECKING:
    from txcalc.spec.model import Model

POOL: Final = "KV pool"
START: Final = Phase(phase="serving", peak_bytes=0, at="the start")


def engine_memory(
    spec: Model, given: Mapping[str, Any], *, card: str | None = None, reserve: str | None = None,
    source: str = "python", overrides: Sequence[str] = (), command: Sequence[str] = (), noted: Sequence[str] = (),
) -> MemoryView:
    """The memory of a model in the ``engine`` of the given fields, on each card.

    Raises ``SpecError`` for what the engine does not run, or does not admit.
    """
    made = serving(spec, given, card, reserve)
    rows = list(alive(made))
    peak = sum(row.bytes for row in rows)
    device, room = made.device, made.room
    return MemoryView(Memory(
        model=ModelInfo.of(spec, source, overrides),
        workload=made.trace.workload,
        new=None,
        attention=None,
        peak=Peak(bytes=peak, phase=START.phase, at=START.at, kind=certainty(made)),
        phases=(START.replaced(peak_bytes=peak),),
        kept_bytes=None,
        resident=tuple(Held(what=what, bytes=sum(row.bytes for row in rows if row.why == what))
                       for what in ("weights", POOL)),
        at_peak=tuple(sorted(rows, key=lambda row: -row.bytes)),
        timeline=(),
        workspace_bytes=None,
        outside=tuple(outside(made)),
        device=device,
        reserve=made.aside,
        fits=None if made.available is None else made.fits,
        free_bytes=None if room is None else room - peak,
        flops_per_token=int(total(flops(made.trace, "forward"))),
        levers=(),
        engine=served(made, tuple(gains(spec, card, made)) if made.available is not None else ()),
        notes=(*noted, *made.notes),
        conventions=tuple(Convention(id=rule.name, text=f"{made.of.title} from {rule.since} on, {rule.name}: "
                                     f"{rule.value} ({rule.source})") for rule in made.of.rules.values()),
        provenance=Provenance.of(command),
    ), made.defaults)


def certainty(made: Serving) -> Kind:
    """Certainty of the bytes."""
    return "estimate" if any(each.kind == "estimate" for each in made.held) else "exact"


def alive(made: Serving, *, whole: bool = True) -> Iterator[Alive]:
    """What is on a card: what is held, and the pool: the ``whole`` of it, or what requests take."""
    for each in made.held:
        if each.bytes:
            yield _row(each.what, each.bytes, "weights" if each.what == "weights" else _WHY[each.kind])
    whole = whole and made.of.pool != "cells" and made.available is not None and made.fits
    size = (made.available or 0) if whole else made.taken
    if size:
        kinds = ", ".join(dict.fromkeys(each.kind for each in made.found))
        yield _row(f"keys and values of {kinds} layers", size, POOL)


_WHY: Final = {"exact": "set up once", "estimate": "estimate"}


def _row(what: str, size: int, why: str) -> Alive:
    return Alive(path="", what=what, shape=None, dtype=None, times=1, bytes=size, why=why)


def outside(made: Serving) -> Iterator[Outside]:
    """What is in no figure."""
    if "bytes of a sampled logit" in made.of.rules:
        yield Outside(what="CUDA graphs", bytes=None, source="captured beside what --utilization gives up to 0.19, and "
                      "estimated within it from 0.20 on; logs of 0.7 to 0.11 have 0.1 to 1.6 GiB")
    elif made.of.splits:
        yield Outside(what="activations and CUDA graphs", bytes=None,
                      source="in the part of the card that mem_fraction_static leaves")
    for what, size in (("weights", made.host), ("keys and values", made.host_cache)):
        if size:
            yield Outside(what=f"{what} in the CPU's memory", bytes=size, source="src/llama-model.cpp: load_tensors; "
                          "the input layer stays there")
