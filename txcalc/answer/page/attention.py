"""The O(N^2) curve as a page: on log-log axes, and as tables to the last byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from txcalc import units
from txcalc.answer.curves import AttentionCurve, Point
from txcalc.answer.page.chart import Level, Series, curves
from txcalc.answer.page.markup import Html, html
from txcalc.answer.page.page import Column, Row, Scale, amount, bullets, charts, document, header, rules, section, table
from txcalc.answer.render import headings
from txcalc.answer.render.attention import fits_from, fused, instead, memory_of, scope, workload_line

Get = Callable[[Point], int | None]


class _Cost(NamedTuple):
    """A column: one figure of every length."""

    name: str
    get: Get
    scale: Scale = units.memory


_SCORES = (
    _Cost("Eager, one N×N matrix", lambda p: p.layer.eager.score_matrix_bytes),
    _Cost("Eager, scores at their peak", lambda p: p.layer.eager.peak_score_bytes),
    _Cost("Flash, in its place", lambda p: instead(p)),
    _Cost("KV cache of the layer", lambda p: p.layer.kv_cache_bytes),
)
_TRAFFIC = (
    _Cost("Traffic, eager", lambda p: p.layer.eager.hbm_bytes),
    _Cost("Traffic, flash", lambda p: p.layer.flash.hbm_bytes),
)
_KEPT = (
    _Cost("Kept, eager", lambda p: p.layer.eager.kept_bytes),
    _Cost("Kept, flash", lambda p: p.layer.flash.kept_bytes),
    _Cost("Transient, eager", lambda p: p.layer.eager.transient_bytes),
)
_MODEL = (
    _Cost("Kept, eager", lambda p: p.model.eager.kept_bytes),
    _Cost("Kept, flash", lambda p: p.model.flash.kept_bytes),
    _Cost("KV cache", lambda p: p.model.kv_cache_bytes),
    _Cost("Core FLOPs", lambda p: p.model.flops_core, units.flops),
    _Cost("All FLOPs", lambda p: p.model.flops_forward, units.flops),
    _Cost("Traffic, eager", lambda p: p.model.eager.hbm_bytes),
    _Cost("Traffic, flash", lambda p: p.model.flash.hbm_bytes),
)


def page(curve: AttentionCurve) -> str:
    """The whole page."""
    title = f"{curve.model.name}: attention"
    return document(title, _body(curve, title), curve.to_data(), curve.provenance)


def _body(curve: AttentionCurve, title: str) -> Iterator[Html]:
    yield header(title, headings.identity(curve.model)[1:], headings.origin(curve.model), workload_line(curve))
    yield section("The curve", _charts(curve))
    one, (eager, peak, flash, *rest) = scope(curve), _SCORES
    own = flash if all(map(fused, curve.points)) else flash._replace(name="Flash: no such kernel, so eager")
    yield section("One layer", _table(curve, f"Scores of {one}, in bytes", (eager, peak, own, *rest), ratio=True),
                  _table(curve, f"Kept and moved by {one}, in bytes", (*_KEPT, *_TRAFFIC)))
    yield section("The whole model", _table(curve, "All layers", _MODEL, share=True))
    yield section("Where it stops fitting", _limits(curve))
    yield section("Notes", bullets(curve.notes))
    yield section("Counting rules", rules(curve.conventions))


def _charts(curve: AttentionCurve) -> Html:
    lengths = [point.seq for point in curve.points]
    device = curve.device

    def of(costs: tuple[_Cost, ...]) -> list[Series]:
        return [Series(cost.name, [cost.get(point) for point in curve.points]) for cost in costs]

    level = None if device is None else Level(device.title, device.memory_bytes)
    return charts(
        curves("Memory of one layer", lengths, of(_SCORES), units.memory, level=level),
        curves("Memory traffic of one layer", lengths, of(_TRAFFIC), units.memory),
        curves("FLOPs of the model", lengths, [
            Series("attention cores: QKᵀ and PV", [point.model.flops_core for point in curve.points]),
            Series("everything", [point.model.flops_forward for point in curve.points]),
        ], units.flops, base=10),
        curves("Kept for backward, whole model", lengths, of(_MODEL[:2]), units.memory, level=level),
        wide=True,
    )


def _table(
    curve: AttentionCurve, caption: str, costs: tuple[_Cost, ...], *, ratio: bool = False, share: bool = False
) -> Html:
    there = [cost for cost in costs if any(cost.get(point) is not None for point in curve.points)]
    extra = {"Eager / flash": _ratio} if ratio else {"% FLOPs": _share} if share else {}
    columns = [Column(name, "n") for name in ("Length", *(cost.name for cost in there), *extra)]
    return table(caption, columns, (
        Row((html(units.exact(point.seq)), *(amount(cost.get(point), cost.scale) for cost in there),
             *(cell(point) for cell in extra.values())))
        for point in curve.points
    ))


def _ratio(point: Point) -> str:
    return units.ratio(point.layer.eager.score_matrix_bytes, instead(point))


def _share(point: Point) -> str:
    return units.percent(point.model.flops_core, point.model.flops_forward)


def _limits(curve: AttentionCurve) -> Html:
    if curve.device is None:
        return Html()
    columns = (Column(memory_of(curve)), Column("No longer fits from", "n"))
    rows = (Row((name, first)) for name, first in fits_from(curve))
    return table("Each alone against the device's memory, weights and KV cache beside the reserve", columns, rows)
