"""Additions to a report for its reader: the same run under the other attention, published figures, shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from txcalc.answer.fit import fill
from txcalc.answer.report import PYTHON, Origin, Report, count
from txcalc.answer.rerun import Recorded, Since, again, since
from txcalc.count import activations, params
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from txcalc.answer.printed import PublishedRow
    from txcalc.spec.model import Model


class Alternative(NamedTuple):
    """Kept activations of the same run under the other attention policy."""

    attention: str
    activation_bytes: int
    attention_score_bytes: int


class WeightRow(NamedTuple):
    """A weight, ``copies`` times over."""

    path: str
    shape: tuple[int, ...]
    copies: int


class View(NamedTuple):
    """A report and what is shown with it."""

    report: Report
    defaults: frozenset[str] = frozenset()  # the workload's sizes that were filled in
    alternative: Alternative | None = None
    weights: tuple[WeightRow, ...] = ()  # where details were asked for
    published: tuple[PublishedRow, ...] = ()  # likewise
    by_module: bool = False
    since: Since | None = None  # what has changed since the report that the model was loaded from


def view(
    spec: Model, given: dict[str, Any], *, origin: Origin = PYTHON, by_module: bool = False, details: bool = False,
    ranks: bool = False, recorded: Recorded | None = None,
) -> View:
    """Count a model under a workload of the ``given`` fields, and gather what a reader wants beside the count.

    With what a report has ``recorded``, its workload's fields stand where none is given.

    Raises ``SpecError`` for a bad workload field, and for a workload that does not fit the model.
    """
    workload, defaults = fill([spec], again(spec, recorded, given))
    report = count(spec, workload, origin=origin, by_module=by_module, ranks=ranks)
    return View(
        report=report,
        defaults=defaults,
        alternative=_alternative(spec, report.workload),
        weights=_weights(spec, report.workload) if details else (),
        published=_published(spec, report) if details and report.workload.layout is None else (),
        by_module=by_module,
        since=None if recorded is None else since(recorded, report),
    )


def _alternative(spec: Model, workload: Workload) -> Alternative | None:
    ring = workload.layout is not None and workload.layout.cp > workload.layout.by_head  # of flash kernels alone
    if not workload.keeps or ring:
        return None
    other = "flash" if workload.attention == "eager" else "eager"
    t = trace(spec, workload.replaced(attention=other))
    return Alternative(other, activations.activation_bytes(t), activations.score_bytes(t))


def _weights(spec: Model, workload: Workload) -> tuple[WeightRow, ...]:
    found: dict[str, WeightRow] = {}
    for op, often in trace(spec, workload).placed:
        for path, shape in params.weight_shapes(op).items():
            before = found[path].copies if path in found else 0
            found[path] = WeightRow(path, shape, before + often.copies)
    return tuple(found.values())


def _published(spec: Model, report: Report) -> tuple[PublishedRow, ...]:
    from txcalc.answer.printed import compare_published

    return compare_published(spec, report.totals)
