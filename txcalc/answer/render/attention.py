"""The O(N^2) curve for people, with bars on a log scale, as Markdown and as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from txcalc import units
from txcalc.answer.curves import AttentionCurve, Point
from txcalc.answer.limits import LONGEST
from txcalc.answer.render import data as render_data
from txcalc.answer.render import headings
from txcalc.answer.render.csv import rows as csv_rows
from txcalc.answer.render.formats import Format
from txcalc.answer.render.grid import (
    Align,
    Line,
    Screen,
    Span,
    chunks,
    grid,
    line,
    paragraph,
    text,
    total_width,
    widths,
    wrap,
)
from txcalc.answer.render.markdown import escaped, pipe_table

_BLOCK: Final = "█"
_BARS: Final = (15, 10, 5, 0)
"""Widths of the bar column, the first that fits."""

Cells = Callable[[Point], str]
Column = tuple[str, Cells]


class _Section(NamedTuple):
    """A table with a row for every length."""

    title: str
    columns: tuple[Column, ...]


def render(curve: AttentionCurve, form: Format, screen: Screen, *, verbose: bool = False, quiet: bool = False) -> str:
    """The curve in a format. Only the table looks at the screen."""
    if form == "table":
        return table(curve, screen, verbose=verbose, quiet=quiet)
    if form == "md":
        return markdown(curve)
    if form == "csv":
        return csv(curve)
    if form == "html":
        from txcalc.answer.page.attention import page

        return page(curve)
    return (render_data.json if form == "json" else render_data.yaml)(curve.to_data())


def table(curve: AttentionCurve, screen: Screen, *, verbose: bool = False, quiet: bool = False) -> str:
    """The whole answer as text. ``verbose`` adds what is kept and moved, and every rule; ``quiet``: the curve alone."""
    return text(_lines(curve, screen, verbose, quiet), color=screen.color)


def markdown(curve: AttentionCurve) -> str:
    """The whole answer as GitHub-flavoured Markdown."""
    name, *identity = headings.identity(curve.model)
    parts = [
        f"# {escaped(name)}: attention",
        " · ".join(escaped(part) for part in [*identity, *headings.origin(curve.model)] if part),
        " · ".join(escaped(part) for part in workload_line(curve) if part),
    ]
    for section in _sections(curve):
        head = ("seq", *(name for name, _ in section.columns))
        rows = [(units.exact(point.seq), *(cell(point) for _, cell in section.columns)) for point in curve.points]
        parts += [f"## {section.title}", pipe_table(head, ">" * len(head), rows)]
    if curve.device is not None:
        head = (memory_of(curve), "No longer fits from seq")
        parts.append(pipe_table(head, "<>", fits_from(curve)))
    rules = [rule.text + (f" ({rule.flag})" if rule.flag else "") for rule in curve.conventions]
    parts.append("\n".join(f"- {escaped(note)}" for note in [*curve.notes, *rules]))
    return "\n\n".join(parts) + "\n"


def csv(curve: AttentionCurve) -> str:
    """One row per length, every figure a plain integer; names as in the JSON, joined by underscores."""
    flat = [_flat(point.to_data()) for point in curve.points]
    return csv_rows(list(flat[0]), ([*row.values()] for row in flat))


def _flat(data: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in data.items():
        found |= _flat(value, f"{prefix}{key}_") if isinstance(value, dict) else {prefix + key: value}
    return found


def _lines(curve: AttentionCurve, screen: Screen, verbose: bool, quiet: bool) -> Iterator[Line]:
    first, *rest = wrap(headings.identity(curve.model), screen)
    yield tuple(Span(span.text, "bold") for span in first)
    yield from rest
    yield from wrap(headings.origin(curve.model), screen, style="dim")
    yield from wrap(workload_line(curve), screen)
    curve_itself, *others = _sections(curve)
    yield line()
    yield line(curve_itself.title, "bold")
    yield from _bars(curve, curve_itself, screen)
    if quiet:
        return
    for section in others if verbose else others[:1]:
        yield line()
        yield from _table(curve, section, screen)
    if curve.device is not None:
        yield line()
        yield from _fits(curve, screen)
    yield line()
    for note in curve.notes:
        yield from paragraph(note, screen, style="")
    yield from _rules(curve, screen) if verbose else paragraph(f"({_short(curve)})", screen)


def _rules(curve: AttentionCurve, screen: Screen) -> Iterator[Line]:
    for rule in curve.conventions:
        flag = f" ({rule.flag})" if rule.flag else ""
        yield from paragraph(f"{rule.text}{flag}", screen, first="   ", rest="     ")


def _short(curve: AttentionCurve) -> str:
    return "; ".join(rule.text for rule in curve.conventions if rule.id in ("score-matrix", "recurrence", "masked"))


def workload_line(curve: AttentionCurve) -> list[str]:
    """``batch 1 · bf16 · forward pass · one layer: layers.attention × 32``, in parts."""
    lengths = headings.lengths(curve.workload, frozenset())
    run = [part for part in headings.run(curve.workload, frozenset()) if part not in lengths]
    one = "one new token at the end of seq" if curve.workload.phase == "decode" else ""
    times = f" × {units.exact(curve.layer.times)}" if curve.layer.times > 1 else ""
    others = [f"also {layer.path}" for layer in curve.other_layers]
    return [*run, one, f"one layer: {curve.layer.path}{times}", *others]


def _sections(curve: AttentionCurve) -> list[_Section]:
    """One scope a table: the curve of one layer, the whole model, what one layer keeps and moves, what all do."""
    keeps = curve.workload.keeps
    moved: tuple[Column, ...] = (
        ("traffic eager", lambda p: units.memory(p.layer.eager.hbm_bytes)),
        ("flash", lambda p: units.memory(p.layer.flash.hbm_bytes)),
        ("ratio", lambda p: units.ratio(p.layer.eager.hbm_bytes, p.layer.flash.hbm_bytes)),
    )
    kept: tuple[Column, ...] = (
        ("kept eager", lambda p: units.memory(p.layer.eager.kept_bytes)),
        ("flash", lambda p: units.memory(p.layer.flash.kept_bytes)),
    )
    kept_all: tuple[Column, ...] = (
        ("kept eager", lambda p: units.memory(p.model.eager.kept_bytes)),
        ("flash", lambda p: units.memory(p.model.flash.kept_bytes)),
    )
    cached = any(point.model.kv_cache_bytes is not None for point in curve.points)
    cache: Column = ("KV cache", lambda p: units.memory(p.model.kv_cache_bytes))
    layer = scope(curve)
    return [
        _Section(layer, (
            ("eager N×N", lambda p: units.memory(p.layer.eager.score_matrix_bytes)),
            ("flash", lambda p: units.memory(instead(p)) + ("" if fused(p) else ", eager")),
            ("ratio", lambda p: units.ratio(p.layer.eager.score_matrix_bytes, instead(p))),
        )),
        _Section("the whole model", (
            *([cache] if cached else []),
            ("% of FLOPs", lambda p: units.percent(p.model.flops_core, p.model.flops_forward)),
        )),
        _Section(f"{layer}: memory and traffic", (
            ("scores at peak", lambda p: units.memory(p.layer.eager.peak_score_bytes)),
            ("transient", lambda p: units.memory(p.layer.eager.transient_bytes)),
            *(kept if keeps else ()), *moved,
        )),
        _Section("the whole model: memory, FLOPs and traffic", (
            *(kept_all if keeps else ()),
            ("core FLOPs", lambda p: units.flops(p.model.flops_core)),
            ("all FLOPs", lambda p: units.flops(p.model.flops_forward)),
            ("traffic eager", lambda p: units.memory(p.model.eager.hbm_bytes)),
            ("flash", lambda p: units.memory(p.model.flash.hbm_bytes)),
        )),
    ]


def scope(curve: AttentionCurve) -> str:
    """``one layer of 32, bf16, forward``: what a table of one layer is of."""
    all_of_them = sum(layer.times for layer in (curve.layer, *curve.other_layers))
    of = f"one layer of {units.exact(all_of_them)}" if all_of_them > 1 else "the one layer of attention"
    return f"{of}, {curve.workload.dtype}, {curve.workload.phase}"


def fused(point: Point) -> bool:
    """Whether there is a flash kernel for the layer: else it is eager under both."""
    return point.layer.flash.score_matrix_bytes == 0


def instead(point: Point) -> int:
    """What flash writes in place of the scores; the scores themselves, where the kernel is eager under both."""
    return point.layer.flash.statistics_bytes or point.layer.flash.score_matrix_bytes


def _bars(curve: AttentionCurve, section: _Section, screen: Screen) -> Iterator[Line]:
    """The curve in the fullest layout that fits: shorter bars, then none, then fewer columns."""
    names = [name for name, _ in section.columns]
    for bar in _BARS:
        for left_out in ((), ("ratio",), ("ratio", "flash")) if bar == 0 else ((),):
            shown = [name for name in names if name not in left_out]
            rows = _curve_rows(curve, section, shown, bar)
            if screen.fits(total_width(widths(rows))):
                break
        else:
            continue
        break
    yield from grid(rows, _aligns(rows[0]))


def _curve_rows(curve: AttentionCurve, section: _Section, shown: Sequence[str], bar: int) -> list[list[Span]]:
    sizes = [point.layer.eager.score_matrix_bytes for point in curve.points]
    columns = [(name, cell) for name, cell in section.columns if name in shown]
    (first, size), *rest = columns
    head = [Span(name, "bold") for name in ("seq", first, "log scale" if bar > 8 else "log" if bar else "",
                                            *(name for name, _ in rest))]
    return [head, *(
        [Span(units.exact(point.seq)), Span(size(point)), Span(_BLOCK * blocks),
         *(Span(cell(point)) for _, cell in rest)]
        for point, blocks in zip(curve.points, log_blocks(sizes, bar), strict=True)
    )]


def log_blocks(sizes: Sequence[int], most: int) -> list[int]:
    """Lengths of bars on a log scale: one block for the smallest, and one more for every doubling if that fits."""
    logs = [math.log2(size) if size else 0.0 for size in sizes]
    low, high = min(logs, default=0.0), max(logs, default=0.0)
    if most == 0:
        return [0] * len(logs)
    scale = min(1.0, (most - 1) / (high - low)) if high > low else 1.0
    return [1 + round((each - low) * scale) for each in logs]


def _aligns(head: Sequence[Span]) -> tuple[Align, ...]:
    return tuple("<" if span.text in ("log scale", "log") else ">" for span in head)


def _table(curve: AttentionCurve, section: _Section, screen: Screen) -> Iterator[Line]:
    yield line(section.title, "bold")
    head = [Span(name, "bold") for name in ("seq", *(name for name, _ in section.columns))]
    rows = [head, *([Span(units.exact(p.seq)), *(Span(cell(p)) for _, cell in section.columns)] for p in curve.points)]
    for part in chunks(rows, screen):
        yield from grid(part, tuple(">" for _ in part[0]))


def _fits(curve: AttentionCurve, screen: Screen) -> Iterator[Line]:
    yield from paragraph(f"{memory_of(curve)}: no longer fits from seq", screen, style="")
    found = fits_from(curve)
    rows = [[Span(f"  {name}"), Span(first, "red" if first == "never fits" else "")] for name, first in found]
    yield from grid(rows, ("<", ">"))


def memory_of(curve: AttentionCurve) -> str:
    """The device and how much it holds."""
    assert curve.device is not None
    return f"{curve.device.title} ({units.memory(curve.device.memory_bytes)})"


def fits_from(curve: AttentionCurve) -> list[tuple[str, str]]:
    """Each quantity and the length from which it no longer fits, in words."""
    return [(limit.text, _first(limit.largest_fits, limit.first_not)) for limit in curve.limits]


def _first(largest_fits: int | None, first_not: int | None) -> str:
    if first_not is None:
        return f"fits up to {units.exact(LONGEST)}"
    return "never fits" if largest_fits is None else units.exact(first_not)
