"""A derivation: its symbols, where the number comes from, the closed form, and what textbooks write instead."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, log10

from txcalc import units
from txcalc.derivation.explanation import Explanation, KeptRow, Layer, PublishedFigure, Simplification
from txcalc.derivation.explanation import Row as Part
from txcalc.show import headings
from txcalc.show.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Column,
    Data,
    Derivation,
    Fact,
    Facts,
    Mark,
    Notes,
    Number,
    Row,
    Scale,
    Table,
    Title,
    joined,
)
from txcalc.show.figures import MARKS, label, scale_of


def blocks(e: Explanation) -> Iterator[Block]:
    """What a reader sees of an explanation."""
    scale = scale_of(e.unit)
    _, *about = headings.identity(e.model)
    run = [] if e.quantity in ("params", "active-params") else headings.run(e.workload, frozenset(), e.kernel)
    yield Title(f"{e.model.name}: {e.title}", about, ((headings.origin(e.model), "dim"), (run, "")), level=1)
    mark = MARKS[e.kind]
    yield Facts("Total", [Fact(e.title[:1].upper() + e.title[1:], Number(e.total, scale), mark)], level=1)
    yield Table("Symbols", (Column("", name="Symbol"), Column("", "n", name="Value"),
                            Column("", "words", name="Meaning", style="dim")), [
        Row((s.text, Number(s.value), s.meaning)) for s in e.symbols
    ], caption="What the letters stand for", level=1, twice=True, bare=True)
    if e.relations or e.assumptions:
        yield Notes("", [joined(("with", joined((*e.relations, *e.assumptions))), " ")], style="", level=1)
    yield _rows(e, scale)
    yield Charts(lambda: [Chart(e.title[:1].upper() + e.title[1:], "bars", scale, e.unit,
                        [Mark(row.name, row.value) for row in e.rows])])
    yield _closed(e, scale)
    for layer in e.layers:
        yield _layer(layer)
    yield from _kept(e)
    yield _simplifications(e.simplifications, scale)
    yield _published(e.published)
    yield Notes("Rules and sources", [*e.notes, *(f"{s.rule} [{s.source}]" for s in e.sources)], level=1)
    yield Data(("component", "each", "count", "value"), (
        (row.name, row.each.python, row.count, row.value) for row in e.rows))


def _rows(e: Explanation, scale: Scale) -> Table:
    columns = (Column("component", name="Component"), Column("formula", order=1, fold="{}"), Column("count", "n"),
               Column("value", "n", exact=3), Column("%", "n"))
    foot = Row(("total", "", "", Number(e.total, scale), units.percent(1, 1)), style="bold")
    return Table("Where it comes from", columns, [_row(e, row, scale) for row in e.rows], foot, caption=(
        "Each component: its formula, how often it occurs, and what it comes to"), level=1, bare=True)


def _row(e: Explanation, row: Part, scale: Scale) -> Row:
    return Row((row.name, row.each, Number(row.count), Number(row.value, scale), units.percent(row.value, e.total)))


def _kept(e: Explanation) -> Iterator[Table]:
    """The tensors below the component that keeps them."""
    if not e.kept:
        return
    columns = (Column("kept tensor"), Column("shape", order=1, fold="{},", style="dim"), Column("B", "n"),
               Column("bytes"), Column("count", "n"), Column("kept by (as its)", order=1, fold="{}", style="dim"),
               Column("value", "n", screen=False), Column("why", "words", screen=False))
    rows = list[Row]()
    for row in e.rows:
        rows.append(Row((row.name, "", "", row.each, Number(row.count), "", "", "")))
        rows += [_tensor(kept) for kept in e.kept if kept.row == row.name]
    yield Table("kept tensor", columns, rows, caption="Every tensor that autograd keeps", level=1)


def _tensor(kept: KeptRow) -> Row:
    return Row((kept.tensor, joined(kept.shape, " × ") or "1", Number(kept.bytes), kept.each, Number(kept.count),
                f"{', '.join(kept.kept_by)} ({kept.kept_as})", Number(kept.value, "memory"), kept.why), "sub")


def _layer(layer: Layer) -> Table:
    """One layer taken apart, so that the bracket of the closed form can be followed."""
    rows = [Row((part.row if part.count == "1" else f"{part.count} × {part.row}", part.formula), "sub")
            for part in layer.parts]
    foot = Row(((layer.symbol, f" = {units.exact(layer.count)} of them, each"), layer.formula), "sub")
    columns = (Column("", name="Part"), Column("", name="Formula", order=1, fold="{}"))
    return Table(_one(layer.meaning), columns, rows, foot, level=1)


def _one(meaning: str) -> str:
    """``layers of the encoder`` is one layer of the encoder, ``layers 4–61`` one of them."""
    first, _, rest = meaning.partition(" ")
    if rest[:1].isdigit():
        return f"one of the {meaning}"
    return f"one {first.removesuffix('s')} {rest}".rstrip()


def _closed(e: Explanation, scale: Scale) -> Derivation:
    steps: list[Cell] = [e.closed, e.substituted]
    if len(e.terms) > 1:
        steps.append(" + ".join(units.exact(term.value) for term in e.terms).replace("+ −", "− "))
    return Derivation("closed form", e.substitutions, steps, Number(e.total, scale), e.unit, e.kind == "estimate")


def signed(difference: float | None) -> str | None:
    """``−2.95 %``; ``exact`` where there is none at all."""
    if difference is None:
        return None
    if difference == 0:
        return "exact"
    digits = max(2, 1 - floor(log10(abs(difference) * 100)))
    return f"{'+' if difference > 0 else '−'}{units.percent(abs(difference), 1, digits)} %"


def _simplifications(found: tuple[Simplification, ...], scale: Scale) -> Table:
    columns = (Column("in textbooks", name="Instead"), Column("value", "n", exact=3), Column("off by", "n"),
               Column("where", "words", fold="{};", place="below"),
               Column("leaves out", "words", fold="leaves out: {}", place="below"),
               Column("source", "words", fold="[{}]", place="below"))
    return Table("in textbooks", columns, [
        Row((row.formula, Number(row.value, scale), signed(row.difference), _where(row), row.leaves_out, row.source))
        for row in found
    ], caption="What textbooks write, and how far off it is here", level=1)


def _where(row: Simplification) -> str:
    against = "" if row.of == "total" else f"against {units.exact(row.exact)} {row.of}"
    return "; ".join(filter(None, (row.where, against)))


def _published(found: tuple[PublishedFigure, ...]) -> Table:
    columns = (Column("published"), Column("counted", "n", exact=3), Column("ours", "n"),
               Column("quantity", fold="{};", place="below"), Column("source", "words", fold="{}", place="below"),
               Column("note", "words", fold="({})", place="below"))
    return Table("published", columns, [
        Row((row.printed, None if row.counted is None else Number(row.counted), _ours(row),
             "" if row.quantity == "params" else label(row.quantity).lower(), row.source, row.note or ""))
        for row in found
    ], caption="Printed figures beside the count", level=1)


def _ours(row: PublishedFigure) -> str | None:
    return f"{signed(row.difference)}, rounds to it" if row.rounds_equal else signed(row.difference)
