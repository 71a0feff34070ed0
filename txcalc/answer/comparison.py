"""Several models under one workload, side by side: data first, so that every format says the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from txcalc.answer.conventions import Convention
from txcalc.answer.fit import fill
from txcalc.answer.notes import runs_as
from txcalc.answer.report import KVCache, ModelInfo, Named, Provenance, Quantity, Report, Totals, count
from txcalc.count import kv_cache
from txcalc.document import Part
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import positions
from txcalc.spec.model import Model
from txcalc.trace.layout import Layout
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload


class Entry(Part):
    """One model's numbers. ``kv_cache_bytes_at_context``: the cache of one batch at the model's longest sequence.

    ``attention``: what it is counted as, flash, eager or both; null without any.
    """

    model: ModelInfo
    workload: Workload
    totals: Totals
    kv_cache: KVCache | None
    kv_cache_bytes_at_context: Quantity | None
    attention: str | None = None
    notes: tuple[str, ...] = ()


class Comparison(Part):
    """Models under one workload; the first is what the others are compared with. ``defaults``: sizes not given."""

    schema: Literal["txcalc/comparison/v1"] = "txcalc/comparison/v1"
    defaults: tuple[str, ...]
    entries: tuple[Entry, ...]
    conventions: tuple[Convention, ...]
    provenance: Provenance


def compare(
    models: Sequence[Named], given: dict[str, Any], *, layouts: Sequence[object] = (), command: Sequence[str] = ()
) -> Comparison:
    """Count every model under one workload of the ``given`` fields; without ``seq``, one that suits them all.

    ``layouts``: the devices that each is spread over, where those are not the same for all.

    Raises ``SpecError`` for a bad workload field, and for a workload that does not fit a model.
    """
    if not models:
        raise SpecError("nothing to compare")
    workload, defaults = fill([named.spec for named in models], given)
    runs = [workload.replaced(layout=Layout.read(each)) for each in layouts] or [workload] * len(models)
    reports = [_count(named, run, defaults, own=bool(layouts)) for named, run in zip(models, runs, strict=True)]
    return Comparison(
        defaults=tuple(sorted(defaults)),
        entries=tuple(_entry(report, _at_context(named.spec, run))
                      for named, run, report in zip(models, runs, reports, strict=True)),
        conventions=tuple({rule.text: rule for report in reports for rule in report.conventions}.values()),
        provenance=Provenance.of(command),
    )


def _count(named: Named, run: Workload, defaults: frozenset[str], *, own: bool) -> Report:
    """A model's count; what is wrong with devices of its own, or a length that was filled in, is no option's."""
    try:
        return count(named.spec, run, origin=named.origin)
    except SpecError as error:
        if own and error.field in Layout.names():
            raise SpecError(f"{named.spec.name}, {error.field}: {error.message}") from None
        if error.field in defaults and named.spec.input.kind != "tokens":
            length = positions(named.spec.input)
            raise SpecError(f"{named.spec.name} makes {length:,} positions of every input: give --seq {length} for "
                            "all") from None
        raise


def _entry(report: Report, at_context: Trace) -> Entry:
    cache = kv_cache.kv_cache_bytes(at_context)
    return Entry(
        model=report.model, workload=report.workload, totals=report.totals, kv_cache=report.kv_cache,
        kv_cache_bytes_at_context=None if cache is None else Quantity(value=int(cache), unit="B"),
        attention=runs_as(at_context), notes=report.notes,
    )


def _at_context(spec: Model, workload: Workload) -> Trace:
    sizes = {"seq": spec.context, "past": 0, "source_seq": spec.context if spec.encoder else None}
    return trace(spec, workload.replaced(phase="forward", **sizes))
