"""The O(N²) curve: what one layer costs at every length, what the model does, and where each stops fitting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from txcalc import units
from txcalc.answer.curve import AttentionCurve, Point
from txcalc.answer.limits import LONGEST, Limit
from txcalc.count.labels import KV_CACHE
from txcalc.show import blocks as b
from txcalc.show import headings

Get = Callable[[Point], int | None]


class _Cost(NamedTuple):
    """A column: one figure of every length, an integer or a text."""

    title: str
    name: str
    get: Callable[[Point], b.Cell]
    scale: b.Scale = "memory"
    order: int = 0


def blocks(curve: AttentionCurve) -> Iterator[b.Block]:
    """The blocks of the curve."""
    name, *about = headings.identity(curve.model)
    yield b.Title(f"{name}: attention", about, ((headings.origin(curve.model), "dim"), (_run(curve), "")), name=name)
    layer, whole = scope(curve), "the whole model"
    yield _scores(curve, layer)
    yield b.Charts(lambda: _charts(curve))
    yield _table(curve, whole, _MODEL)._replace(level=1)
    yield _table(curve, f"{layer}: memory and traffic", _LAYER)._replace(level=2)
    yield _table(curve, f"{whole}: memory, FLOPs and traffic", _MODEL_TOO)._replace(level=2)
    if curve.device is not None:
        device = f"{curve.device.title} ({units.memory(curve.device.memory_bytes)})"
        yield b.Table(f"{device}: no longer fits from seq", (
            b.Column("", name="Quantity"), b.Column("", "n", name="No longer fits from")
        ), [b.Row((limit.text, _first(limit)), "sub") for limit in curve.limits], caption=(
            f"Each alone against the device's memory, weights and {KV_CACHE} beside the reserve"), level=1)
    yield b.Notes("Notes", curve.notes, style="", level=1)
    short = [rule.text for rule in curve.conventions if rule.id in ("score-matrix", "recurrence", "masked")]
    yield b.Notes("Counting rules", headings.rules(curve.conventions), f"({'; '.join(short)})", level=1)
    flat = [_flat(point.to_data()) for point in curve.points]
    yield b.Data(list(flat[0]), ([*row.values()] for row in flat))


def _run(curve: AttentionCurve) -> list[str]:
    """``batch 1 · bf16 · forward pass · one layer: layers.attention × 32``, in parts."""
    lengths = headings.lengths(curve.workload, frozenset(), curve.model)
    run = [part for part in headings.run(curve.workload, frozenset(), None, curve.model) if part not in lengths]
    one = "one new token at the end of seq" if curve.workload.phase == "decode" else ""
    times = f" × {units.exact(curve.layer.times)}" if curve.layer.times > 1 else ""
    others = [f"also {layer.path}" for layer in curve.other_layers]
    return [*run, one, f"one layer: {curve.layer.path}{times}", *others]


def scope(curve: AttentionCurve) -> str:
    """``one layer of 32, bf16, forward``: what a table of one layer is of."""
    all_of_them = sum(layer.times for layer in (curve.layer, *curve.other_layers))
    of = f"one layer of {units.exact(all_of_them)}" if all_of_them > 1 else "the one layer of attention"
    return f"{of}, {curve.workload.dtype}, {curve.workload.phase}"


def _is_fused(point: Point) -> bool:
    """Tell whether a fused kernel runs the layer: else there are scores under both."""
    return point.layer.flash.score_matrix_bytes == 0


def _instead(point: Point) -> int:
    """Writes of flash in place of the scores; the scores themselves, where no fused kernel runs."""
    return point.layer.flash.statistics_bytes or point.layer.flash.score_matrix_bytes


def _flash(point: Point) -> b.Cell:
    found = b.Number(_instead(point), "memory")
    return found if _is_fused(point) else (found, ", not fused")


_SCORES = (
    _Cost("eager N×N", "Eager, one N×N matrix", lambda p: p.layer.eager.score_matrix_bytes),
    _Cost("flash", "Flash, in its place", _flash, order=2),
    _Cost("ratio", "Eager / flash",
          lambda p: units.ratio(p.layer.eager.score_matrix_bytes, _instead(p)), order=1),
)
_MODEL = (
    _Cost(KV_CACHE, KV_CACHE, lambda p: p.model.kv_cache_bytes),
    _Cost("% of FLOPs", "% of FLOPs", lambda p: units.percent(p.model.flops_core, p.model.flops_forward)),
)
_LAYER = (
    _Cost("scores at peak", "Eager, scores at their peak", lambda p: p.layer.eager.peak_score_bytes),
    _Cost("transient", "Transient, eager", lambda p: p.layer.eager.transient_bytes),
    _Cost("kept eager", "Kept, eager", lambda p: p.layer.eager.kept_bytes),
    _Cost("flash", "Kept, flash", lambda p: p.layer.flash.kept_bytes),
    _Cost(KV_CACHE, f"{KV_CACHE} of the layer", lambda p: p.layer.kv_cache_bytes),
    _Cost("traffic eager", "Traffic, eager", lambda p: p.layer.eager.hbm_bytes),
    _Cost("flash", "Traffic, flash", lambda p: p.layer.flash.hbm_bytes),
    _Cost("ratio", "Eager / flash", lambda p: units.ratio(p.layer.eager.hbm_bytes, p.layer.flash.hbm_bytes)),
)
_MODEL_TOO = (
    _Cost("kept eager", "Kept, eager", lambda p: p.model.eager.kept_bytes),
    _Cost("flash", "Kept, flash", lambda p: p.model.flash.kept_bytes),
    _Cost("core FLOPs", "Core FLOPs", lambda p: p.model.flops_core, "flops"),
    _Cost("all FLOPs", "All FLOPs", lambda p: p.model.flops_forward, "flops"),
    _Cost("traffic eager", "Traffic, eager", lambda p: p.model.eager.hbm_bytes),
    _Cost("flash", "Traffic, flash", lambda p: p.model.flash.hbm_bytes),
)


def _scores(curve: AttentionCurve, layer: str) -> b.Table:
    """The curve itself, with bars on a log scale on a terminal."""
    t = _table(curve, layer, _SCORES)
    sizes = [point.layer.eager.score_matrix_bytes for point in curve.points]
    bar = b.Column("log scale", "bar", bars=(15, 10, 5, 0))
    bars = [b.Bar(size, max(sizes), max(min(sizes), 1)) for size in sizes]
    return t._replace(columns=[*t.columns[:2], bar, *t.columns[2:]], rows=[
        b.Row((*row.cells[:2], each, *row.cells[2:])) for row, each in zip(t.rows, bars, strict=True)])


def _table(curve: AttentionCurve, title: str, costs: Sequence[_Cost]) -> b.Table:
    there = [cost for cost in costs if any(cost.get(point) is not None for point in curve.points)]
    columns = (b.Column("seq", "n", "Length"), *(b.Column(c.title, "n", c.name, order=c.order) for c in there))
    return b.Table(title, columns, [
        b.Row((b.Number(point.seq), *(_cell(cost, point) for cost in there))) for point in curve.points
    ])


def _cell(cost: _Cost, point: Point) -> b.Cell:
    found = cost.get(point)
    return b.Number(found, cost.scale) if isinstance(found, int) else found


def _charts(curve: AttentionCurve) -> Iterator[b.Chart]:
    lengths = [point.seq for point in curve.points]
    level = None if curve.device is None else b.Mark(curve.device.title, curve.device.memory_bytes)

    def series(name: str, get: Get) -> b.Series:
        return b.Series(name, [get(point) for point in curve.points])

    flash = "flash, in its place" if all(map(_is_fused, curve.points)) else "flash: no such kernel, so not fused"
    yield b.Chart("Memory of one layer", "curves", "memory", "bytes", lengths=lengths, level=level, series=(
        series("eager, one N×N", lambda p: p.layer.eager.score_matrix_bytes),
        series("eager, at its peak", lambda p: p.layer.eager.peak_score_bytes),
        series(flash, _instead),
        series(KV_CACHE, lambda p: p.layer.kv_cache_bytes),
    ))
    yield b.Chart("Memory traffic of one layer", "curves", "memory", "bytes read and written, one forward pass",
                lengths=lengths, series=(
                    series("eager", lambda p: p.layer.eager.hbm_bytes),
                    series("flash", lambda p: p.layer.flash.hbm_bytes),
                ))
    yield b.Chart("FLOPs of the model", "curves", "flops", "FLOP, forward pass", lengths=lengths, series=(
        series("QKᵀ and PV", lambda p: p.model.flops_core),
        series("everything", lambda p: p.model.flops_forward),
    ))
    yield b.Chart("Kept for backward, whole model", "curves", "memory", "bytes", lengths=lengths, level=level, series=(
        series("eager", lambda p: p.model.eager.kept_bytes),
        series("flash", lambda p: p.model.flash.kept_bytes),
    ))


def _first(limit: Limit) -> b.Cell:
    if limit.first_not is None:
        return f"fits up to {units.exact(LONGEST)}"
    return b.Alert("never fits") if limit.largest_fits is None else b.Number(limit.first_not)


def _flat(data: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Names as in the JSON, joined by underscores."""
    found: dict[str, object] = {}
    for key, value in data.items():
        found |= _flat(value, f"{prefix}{key}_") if isinstance(value, dict) else {prefix + key: value}
    return found
