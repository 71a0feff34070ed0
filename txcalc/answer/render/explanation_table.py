"""An explanation as text for people: on a terminal laid out for its width, elsewhere as wide as it needs to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import floor, log10
from typing import Final

from txcalc import units
from txcalc.answer.explain.explanation import Explanation, Formula, KeptRow, PublishedFigure, Simplification
from txcalc.answer.render import headings
from txcalc.answer.render.grid import (
    GAP,
    Align,
    Line,
    Screen,
    Span,
    grid,
    line,
    paragraph,
    text,
    total_width,
    widths,
    wrap,
)

_ASCII: Final = str.maketrans({
    "×": "x", "·": "|", "–": "-", "—": "-", "−": "-", "≤": "<=", "²": "^2", "…": "...", "→": "->", "₁": "1", "₂": "2",
})
Pick = Callable[[Formula], str]


def table(explained: Explanation, screen: Screen, *, ascii_only: bool = False, quiet: bool = False) -> str:
    """The derivation as text laid out for the screen, in Unicode or in plain ASCII. ``quiet``: the formula alone."""
    pick: Pick = (lambda formula: formula.ascii) if ascii_only else (lambda formula: formula.unicode)
    found = _closed(explained, screen, pick) if quiet else _lines(explained, screen, pick)
    shown = text(found, color=screen.color)
    return shown.translate(_ASCII) if ascii_only else shown


def amount(explained: Explanation, value: int) -> str:
    """A value for people, in the unit of the explanation."""
    if explained.unit.startswith("B"):
        return units.memory(value)
    return units.flops(value) if explained.unit.startswith("FLOP") else units.params(value)


def signed(difference: float | None) -> str:
    """``−2.95 %``; ``exact`` where there is none at all."""
    if difference is None:
        return units.MISSING
    if difference == 0:
        return "exact"
    digits = max(2, 1 - floor(log10(abs(difference) * 100)))
    return f"{'+' if difference > 0 else '−'}{units.percent(abs(difference), 1, digits)} %"


def heading(explained: Explanation) -> list[str]:
    """Whose number this is and which, in parts."""
    return [explained.model.name, explained.title]


def conditions(explained: Explanation) -> list[str]:
    """The workload, where the quantity depends on it."""
    if explained.quantity in ("params", "active-params"):
        return []
    w = explained.workload
    return headings.run(w, frozenset(), explained.kernel)


def _lines(e: Explanation, screen: Screen, pick: Pick) -> Iterator[Line]:
    first, *rest = wrap(heading(e), screen)
    yield tuple(Span(span.text, "bold") for span in first)
    yield from rest
    yield from wrap(headings.origin(e.model), screen, style="dim")
    yield from wrap(conditions(e), screen)
    yield line()
    yield from _symbols(e, screen, pick)
    yield line()
    yield from _rows(e, screen, pick)
    if e.kept:
        yield line()
        yield from _kept(e, screen, pick)
    yield from _layers(e, pick)
    yield line()
    yield from _closed(e, screen, pick)
    if e.simplifications:
        yield line()
        yield from _simplifications(e.simplifications, screen, pick)
    if e.published:
        yield line()
        yield from _published(e.published, screen)
    yield line()
    for note in e.notes:
        yield from paragraph(note, screen, rest=GAP)
    for source in e.sources:
        yield from paragraph(f"{source.rule} [{source.source}]", screen, rest=GAP)


def _symbols(e: Explanation, screen: Screen, pick: Pick) -> Iterator[Line]:
    cells = [[Span(pick(s.text)), Span(units.exact(s.value)), Span(s.meaning, "dim")] for s in e.symbols]
    half = -(-len(cells) // 2)
    if half > 2:
        blank = [Span("")] * 3
        pairs = [[*cells[i], *(cells[i + half] if i + half < len(cells) else blank)] for i in range(half)]
        if screen.fits(total_width(widths(pairs))):
            cells = pairs
    yield from grid(cells, ("<", ">", "<") * (len(cells[0]) // 3) if cells else ())
    if e.relations or e.assumptions:
        yield line("with " + ", ".join(pick(formula) for formula in (*e.relations, *e.assumptions)))


def _rows(e: Explanation, screen: Screen, pick: Pick) -> Iterator[Line]:
    head = [Span(cell, "bold") for cell in ("component", "formula", "count", "value", "%")]
    body = [
        [Span(row.name), Span(pick(row.each)), Span(units.exact(row.count)), Span(units.exact(row.value)),
         Span(units.percent(row.value, e.total))]
        for row in e.rows
    ]
    total = [Span("total", "bold"), Span(""), Span(""), Span(units.exact(e.total), "bold"), Span("100.0")]
    aligns: tuple[Align, ...] = ("<", "<", ">", ">", ">")
    if screen.fits(total_width(widths([head, *body, total]))):
        yield from grid([head, *body, total], aligns)
        return
    short = [[row[0], *row[2:]] for row in (head, *body, total)]
    for i, each in enumerate(grid(short, ("<", ">", ">", ">"))):
        yield each
        if 0 < i <= len(body):
            yield line(GAP + body[i - 1][1].text, "dim")


def _kept(e: Explanation, screen: Screen, pick: Pick) -> Iterator[Line]:
    """The tensors below the component that keeps them."""
    head = [Span(cell, "bold") for cell in ("kept tensor", "shape", "B", "bytes", "count", "kept by (as its)")]
    rows: list[list[Span]] = [head]
    for row in e.rows:
        mine = [kept for kept in e.kept if kept.row == row.name]
        rows.append([Span(row.name), Span(""), Span(""), Span(pick(row.each)), Span(units.exact(row.count)), Span("")])
        rows += [_tensor(kept, pick) for kept in mine]
    aligns: tuple[Align, ...] = ("<", "<", ">", "<", ">", "<")
    if screen.fits(total_width(widths(rows))):
        yield from grid(rows, aligns)
        return
    for full, short in zip(rows, grid([[row[0], *row[2:5]] for row in rows], ("<", ">", "<", ">")), strict=True):
        yield short
        if full[1].text and full is not head:
            yield from paragraph(f"{full[1].text}, {full[5].text}", screen, first=GAP * 2, rest=GAP * 2)


def _tensor(kept: KeptRow, pick: Pick) -> list[Span]:
    shape = " × ".join(pick(size) for size in kept.shape) or "1"
    return [
        Span(GAP + kept.tensor), Span(shape, "dim"), Span(units.exact(kept.bytes)), Span(pick(kept.each)),
        Span(units.exact(kept.count)), Span(f"{', '.join(kept.kept_by)} ({kept.kept_as})", "dim"),
    ]


def _layers(e: Explanation, pick: Pick) -> Iterator[Line]:
    """One layer taken apart, so that the bracket of the closed form can be followed."""
    for layer in e.layers:
        where = f"   with {', '.join(pick(formula) for formula in e.substitutions)}" if e.substitutions else ""
        one = _one(layer.meaning)
        rows = [
            [Span(GAP + (part.row if part.count == "1" else f"{part.count} × {part.row}")), Span(pick(part.formula))]
            for part in layer.parts
        ]
        all_of_them = f"{GAP}{pick(layer.symbol)} = {units.exact(layer.count)} of them, each"
        last = [Span(all_of_them), Span(pick(layer.formula))]
        yield line()
        yield (Span(one, "bold"), Span(where, "dim"))
        yield from grid([*rows, last], ("<", "<"))


def _one(meaning: str) -> str:
    """``layers of the encoder`` is one layer of the encoder, ``layers 4–61`` one of them."""
    first, _, rest = meaning.partition(" ")
    if rest[:1].isdigit():
        return f"one of the {meaning}"
    return f"one {first.removesuffix('s')} {rest}".rstrip()


def _closed(e: Explanation, screen: Screen, pick: Pick) -> Iterator[Line]:
    where = f"   with {', '.join(pick(formula) for formula in e.substitutions)}" if e.substitutions else ""
    yield (Span("closed form", "bold"), Span(where, "dim"))
    yield from _formula(pick(e.closed), screen, "  ")
    yield from _formula(pick(e.substituted), screen, "= ")
    if len(e.terms) > 1:
        yield from _formula(" + ".join(units.exact(term.value) for term in e.terms).replace("+ −", "− "), screen, "= ")
    unit = {"B": " B", "B/token": " B"}.get(e.unit, "")
    human = amount(e, e.total)
    exactly = units.exact(e.total) + unit
    sure = "   ~  estimate" if e.kind == "estimate" else ""
    yield (Span("= "), Span(exactly, "bold"), Span(("" if human == exactly else f"   {human}") + sure))


def _formula(shown: str, screen: Screen, mark: str) -> Iterator[Line]:
    """A formula, broken before a plus or minus where it must be."""
    pieces = shown.replace(" + ", "\n+ ").replace(" − ", "\n− ").replace(" - ", "\n- ").split("\n")
    rows = [mark + pieces[0]]
    for piece in pieces[1:]:
        if screen.fits(len(rows[-1]) + 1 + len(piece)):
            rows[-1] += f" {piece}"
        else:
            rows.append(GAP + GAP + piece)
    yield from (line(row) for row in rows)


def _simplifications(found: Sequence[Simplification], screen: Screen, pick: Pick) -> Iterator[Line]:
    head = [Span(cell, "bold") for cell in ("in textbooks", "value", "off by")]
    rows = [
        [Span(pick(row.formula)), Span(units.exact(row.value)), Span(signed(row.difference))]
        for row in found
    ]
    first, *rest = grid([head, *rows], ("<", ">", ">"))
    yield first
    for row, shown in zip(found, rest, strict=True):
        yield shown
        of = "" if row.of == "total" else f"against {units.exact(row.exact)} {row.of}; "
        where = f"{row.where}; " if row.where else ""
        yield from paragraph(f"{where}{of}leaves out: {row.leaves_out} [{row.source}]", screen, first=GAP, rest=GAP)


def _published(found: Sequence[PublishedFigure], screen: Screen) -> Iterator[Line]:
    head = [Span(cell, "bold") for cell in ("published", "counted", "ours")]
    rows = [
        [Span(row.printed), Span(units.exact(row.counted)), Span(_ours(row))]
        for row in found
    ]
    first, *rest = grid([head, *rows], ("<", ">", ">"))
    yield first
    for row, shown in zip(found, rest, strict=True):
        yield shown
        what = {"params_active": "active; ", "params_non_embedding": "non-embedding; "}.get(row.quantity, "")
        note = f": {row.note}" if row.note else ""
        yield from paragraph(f"{what}{row.source}{note}", screen, first=GAP, rest=GAP)


def _ours(row: PublishedFigure) -> str:
    return f"{signed(row.difference)}{', rounds to it' if row.rounds_equal else ''}"
