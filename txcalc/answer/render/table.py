"""A view as text for people: on a terminal laid out for its width, anywhere else as wide as it needs to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from txcalc import units
from txcalc.answer.render import headings, rules
from txcalc.answer.render.figures import Figure, cache_label, figures, label
from txcalc.answer.render.grid import (
    GAP,
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
from txcalc.answer.render.where import Share, operations, shares, whole
from txcalc.answer.report import Report
from txcalc.answer.rerun import Since
from txcalc.answer.view import View

_BLOCK: Final = "█"
_NUMBERS: Final = frozenset((
    "copies", "times", "bytes", "allocated", "layers", "tokens", "printed", "counted", "then", "now",
))
_RIGHT: Final[tuple[Align, ...]] = (">",) * 9


def table(view: View, screen: Screen) -> str:
    """The whole answer."""
    return text(_lines(view, screen), color=screen.color)


def _lines(view: View, screen: Screen) -> Iterator[Line]:
    report = view.report
    yield from _heading(view, screen)
    yield line()
    yield from _figures(figures(view), screen)
    yield from _since(view.since, screen)
    if view.quiet:
        return
    yield line()
    yield from _where(view, screen)
    if view.verbose:
        yield from _details(view, screen)
    yield line()
    yield from _footer(report, screen, verbose=bool(view.verbose))


def _heading(view: View, screen: Screen) -> Iterator[Line]:
    report = view.report
    first, *rest = wrap(headings.identity(report.model), screen)
    yield tuple(Span(span.text, "bold") for span in first)
    yield from rest
    yield from wrap(headings.origin(report.model), screen, style="dim")
    yield from wrap(headings.run(report.workload, view.defaults, report.attention), screen)


def _figures(found: Sequence[Figure], screen: Screen) -> Iterator[Line]:
    """One line each, or two where the exact number does not fit beside the other; a long note goes below."""
    rows = [_figure(figure) for figure in found]
    narrow = not screen.fits(total_width(widths(rows)))
    if narrow:
        rows = [[label, value, mark] for label, value, _, mark in rows]
    aligns: tuple[Align, ...] = ("<", ">", "<") if narrow else ("<", ">", ">", "<")
    width = total_width(widths(rows))
    for figure, row in zip(found, grid(rows, aligns), strict=True):
        fits = screen.fits(width + len(GAP) + len(figure.note))
        yield (*row, Span(GAP + figure.note if figure.note and fits else "", "dim"))
        if narrow and figure.exact != figure.value:
            yield line(f"    {figure.exact}", "dim")
        if not fits and figure.note:
            yield line(f"    {figure.note}", "dim")


def _figure(figure: Figure) -> list[Span]:
    return [
        Span(GAP + figure.label) if figure.sub else Span(figure.label, "bold"),
        Span(figure.value),
        Span(figure.exact),
        Span(figure.mark, "dim"),
    ]


def _since(since: Since | None, screen: Screen) -> Iterator[Line]:
    """What has changed since the report that was counted again."""
    if since is None:
        return
    yield line()
    head = f"Since {since.source} ({since.made_by})"
    if not since.changes:
        yield from wrap([f"{head}: unchanged"], screen)
        return
    rows = [[label(each.total), units.exact(each.then), units.exact(each.now)] for each in since.changes]
    yield from _section(head, ("then", "now"), rows, screen)
    for each in since.changes:
        if each.why:
            yield from paragraph(f"{label(each.total)}: {each.why}", screen, rest=GAP)


class _Layout(NamedTuple):
    """How much of the breakdown a width holds: blocks for 100 % (0: no bars), every digit of the parameters, ...

    ``passes``: forward, backward and recomputed FLOPs in columns of their own.
    """

    bar: int
    exact: bool
    percent: bool = True
    kept: bool = True
    passes: bool = False


_LAYOUTS: Final = (
    _Layout(20, exact=True), _Layout(10, exact=True), _Layout(0, exact=True), _Layout(10, exact=False),
    _Layout(0, exact=False), _Layout(0, exact=False, percent=False),
    _Layout(0, exact=False, percent=False, kept=False),
)


def _where(view: View, screen: Screen) -> Iterator[Line]:
    """The breakdown in the fullest layout that fits; where none does, some columns below the others."""
    report = view.report
    found = operations(report) if view.by_module else shares(report)
    head = "Operation" if view.by_module else "Where it goes"
    kept = view.by_module or report.workload.phase == "training"
    split = [layout._replace(passes=True) for layout in _LAYOUTS if layout.kept and len(whole(report).passes) > 1]
    tables = [_shares(found, whole(report), head, layout._replace(kept=kept and layout.kept))
              for layout in (*split, *_LAYOUTS)]
    fitting = (rows for rows in tables if screen.fits(total_width(widths(rows))))
    if rows := next(fitting, None):
        yield from grid(rows, ("<", ">", ">", "<", *_RIGHT[: len(rows[0]) - 4]))
        return
    for part in chunks(tables[-1], screen):
        yield from grid(part, ["<", *_RIGHT[: len(part[0]) - 1]])


def _shares(found: Sequence[Share], total: Share, head: str, layout: _Layout) -> list[list[Span]]:
    percent = "%" if layout.percent else ""
    passes = ("forward", "backward", "recomputed")[: sum(map(bool, total.passes))] if layout.passes else ()
    names = [head, "params", percent, "", *passes, "FLOPs", percent,
             "kept" if layout.kept and total.kept is not None else ""]
    rows = [[Span(name, "bold") for name in names]]
    for share in found:
        rows.append(_share(share, total, layout))
        if share.flops_core and share.flops_core != share.passes[0] and (layout.passes or len(share.passes) == 1):
            rows.append(_core(share, total, layout))
    return [*rows, _share(total, total, layout._replace(bar=0))]


def _share(share: Share, total: Share, layout: _Layout) -> list[Span]:
    amount: Callable[[int], str] = units.exact if layout.exact else units.params
    return [
        Span(share.title),
        _number(share.params, amount),
        _percent(share.params, total.params, layout),
        Span(_BLOCK * _blocks(share.params, total.params, layout.bar)),
        *(_number(each, units.flops) for each in _passes(share, total, layout)),
        _number(share.flops, units.flops),
        _percent(share.flops, total.flops, layout),
        Span(units.memory(share.kept) if layout.kept and share.kept is not None else ""),
    ]


def _core(share: Share, total: Share, layout: _Layout) -> list[Span]:
    """The core of the forward pass, in its own column where passes have one."""
    none, passes = Span(""), _passes(share, total, layout)
    name, flops = Span(f"{GAP}of which S×S core", "dim"), Span(units.flops(share.flops_core), "dim")
    percent = _percent(share.flops_core, total.flops, layout)._replace(style="dim")
    return [name, none, none, none, flops, *(none for _ in passes), none if passes else percent, none]


def _passes(share: Share, total: Share, layout: _Layout) -> tuple[int, ...]:
    return share.passes[: sum(map(bool, total.passes))] if layout.passes else ()


def _percent(part: int, total: int, layout: _Layout) -> Span:
    return Span(units.percent(part, total) if part and layout.percent else "")


def _number(value: int, scale: Callable[[int], str]) -> Span:
    return Span(scale(value)) if value else Span(units.MISSING, "dim")


def _blocks(part: int, total: int, full: int) -> int:
    """Whole blocks of ``full``, rounded half up."""
    return (2 * full * part + total) // (2 * total) if total else 0


def _details(view: View, screen: Screen) -> Iterator[Line]:
    report = view.report
    sections = [
        ("Published", ("printed", "counted", "difference"), _published(view)),
        ("Weights", ("shape", "copies"), _weights(view)),
        (cache_label(report.caches), ("kind", "layers", "tokens", "bytes", *_allocated(report)), _caches(report)),
        ("Kept for backward", ("tensor", "shape", "times", "bytes"), _kept(report)),
        ("Sources", ("",), _sources(report) if view.verbose > 1 else []),
    ]
    for head, columns, rows in sections:
        if rows:
            yield line()
            yield from _section(head, columns, rows, screen)


def _section(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]], screen: Screen) -> Iterator[Line]:
    """A small table; where it is too wide, its rows become lines of words."""
    heads = [Span(cell, "bold") for cell in (head, *columns)]
    body = [[Span(cell) for cell in row] for row in rows]
    if screen.fits(total_width(widths([heads, *body]))):
        aligns: tuple[Align, ...] = ("<", *(_align(name) for name in columns))
        yield from grid([heads, *body], aligns)
        return
    yield line(head, "bold")
    for row in rows:
        yield from paragraph("  ".join(filter(None, row)), screen, first=GAP, rest=GAP * 2, style="")


def _align(column: str) -> Align:
    return ">" if column in _NUMBERS else "<"


def _published(view: View) -> list[list[str]]:
    return [
        [row.quantity, row.printed, units.exact(row.counted), _difference(row.relative_difference, row.note)]
        for row in view.published
    ]


def _difference(relative: float | None, note: str | None) -> str:
    if relative is None:
        return units.MISSING
    sign = "+" if relative >= 0 else "−"
    return f"{sign}{abs(relative):.2%}" + (f"  {note}" if note else "")


def _weights(view: View) -> list[list[str]]:
    return [[row.path, _shape(row.shape), units.exact(row.copies)] for row in view.weights]


def _caches(report: Report) -> list[list[str]]:
    return [
        [cache.path, cache.kind, units.exact(cache.layers), units.exact(cache.tokens), units.exact(cache.bytes),
         *(units.exact(cache.allocated_bytes) for _ in _allocated(report))]
        for cache in report.caches
    ]


def _allocated(report: Report) -> tuple[str, ...]:
    return () if report.workload.kv_block is None else ("allocated",)


def _kept(report: Report) -> list[list[str]]:
    """What one operation keeps stands together."""
    first = {kept.op: i for i, kept in reversed(list(enumerate(report.kept)))}
    return [
        [kept.op, kept.tensor, _shape(kept.shape), units.exact(kept.times), units.exact(kept.bytes)]
        for kept in sorted(report.kept, key=lambda kept: first[kept.op])
    ]


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(units.exact(size) for size in shape) or "scalar"


def _sources(report: Report) -> list[list[str]]:
    return [[fields, source] for fields, source in report.sources.items()]


def _footer(report: Report, screen: Screen, *, verbose: bool) -> Iterator[Line]:
    for note in report.notes:
        yield from paragraph(note, screen, style="")
    if verbose:
        yield line(rules.legend(report), "dim")
        for rule in rules.full(report.conventions):
            yield from paragraph(rule, screen, first="   ", rest="     ")
    else:
        yield from paragraph(f"{rules.legend(report)}   ({rules.short(report.conventions)})", screen, rest="   ")
