"""A derivation: its symbols, where the number comes from, the closed form, and what textbooks write instead."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, log10

from txcalc import units
from txcalc.explain.explanation import Explanation, KeptRow, Layer, PublishedFigure, Simplification
from txcalc.show import blocks as b
from txcalc.show import headings
from txcalc.show.figures import MARKS, label, scale_of


def blocks(e: Explanation) -> Iterator[b.Block]:
    """The blocks of an explanation."""
    scale = scale_of(e.unit)
    _, *about = headings.identity(e.model)
    run = [] if e.quantity in ("params", "active-params") else headings.run(
        e.workload, frozenset(), e.kernel, e.model)
    yield b.Title(f"{e.model.name}: {e.title}", about, ((headings.origin(e.model), "dim"), (run, "")), level=1)
    mark = MARKS[e.kind]
    yield b.Facts("Total", [b.Fact(e.title[:1].upper() + e.title[1:], b.Number(e.total, scale), mark)], level=1)
    if e.moment is not None:
        when = f"when {e.moment.path} has allocated, in the {e.moment.phase} pass"
        yield b.Notes("", [when], style="", level=1)
    yield b.Table("Symbols", (b.Column("", name="Symbol"), b.Column("", "n", name="Value"),
                            b.Column("", "words", name="Meaning", style="dim")), [
        b.Row((s.text, b.Number(s.value), s.meaning)) for s in e.symbols
    ], caption="What the letters stand for", level=1, twice=True, bare=True)
    if e.relations or e.assumptions:
        yield b.Notes("", [b.joined(("with", b.joined((*e.relations, *e.assumptions))), " ")], style="", level=1)
    yield _rows(e, scale)
    yield b.Charts(lambda: [b.Chart(e.title[:1].upper() + e.title[1:], "bars", scale, e.unit,
                        [b.Mark(row.name, row.value) for row in e.rows])])
    yield _closed(e, scale)
    if e.holds:
        ends = [(each.size, dict.fromkeys((each.least, each.most))) for each in e.holds]
        tried = ", ".join(f"{size} {' to '.join(map(units.exact, both))}" for size, both in ends)
        yield b.Notes("", [f"this formula is the peak at {tried} (one at a time, halved and doubled)"], style="",
                      level=1)
    for layer in e.layers:
        yield _layer(layer)
    yield from _kept(e)
    yield _alive(e, scale)
    yield _simplifications(e.simplifications, scale)
    yield _published(e.published)
    yield b.Notes("Rules and sources", [*e.notes, *(f"{s.rule} [{s.source}]" for s in e.sources)], level=1)
    yield b.Data(("component", "each", "count", "value"), (
        (row.name, row.each.python, row.count, row.value) for row in e.rows))


def _rows(e: Explanation, scale: b.Scale) -> b.Table:
    columns = (b.Column("component", name="Component"), b.Column("formula", order=1, fold="{}"), b.Column("count", "n"),
               b.Column("value", "n", exact=3), b.Column("%", "n"))
    foot = b.Row(("total", "", "", b.Number(e.total, scale), units.percent(1, 1)), style="bold")
    return b.Table("Where it comes from", columns, [
        b.Row((row.name, row.each, b.Number(row.count), b.Number(row.value, scale), units.percent(row.value, e.total)))
        for row in e.rows
    ], foot, caption="Each component: its formula, how often it occurs, and what it comes to", level=1, bare=True)


def _kept(e: Explanation) -> Iterator[b.Table]:
    """The tensors below the component that keeps them."""
    if not e.kept:
        return
    columns = (b.Column("kept tensor"), b.Column("shape", order=1, fold="{},", style="dim"), b.Column("B", "n"),
               b.Column("bytes"), b.Column("count", "n"), b.Column("kept by (as its)", order=1, fold="{}", style="dim"),
               b.Column("value", "n", screen=False), b.Column("why", "words", screen=False))
    rows = list[b.Row]()
    for row in e.rows:
        rows.append(b.Row((row.name, "", "", row.each, b.Number(row.count), "", "", "")))
        rows += [_tensor(kept) for kept in e.kept if kept.row == row.name]
    yield b.Table("kept tensor", columns, rows, caption="Every tensor that autograd keeps", level=1)


def _tensor(kept: KeptRow) -> b.Row:
    kept_by = f"{', '.join(kept.kept_by)} ({kept.kept_as})"
    return b.Row((kept.tensor, b.joined(kept.shape, " × ") or "1", b.Number(kept.bytes), kept.each,
                  b.Number(kept.count), kept_by, b.Number(kept.value, "memory"), kept.why), "sub")


def _alive(e: Explanation, scale: b.Scale) -> b.Table:
    """The tensors below the row that they are a part of."""
    columns = (b.Column("alive"), b.Column("bytes", order=2, fold="{}"), b.Column("count", "n"),
               b.Column("made by", order=1), b.Column("value", "n", exact=3))
    rows = list[b.Row]()
    for row in e.rows if e.alive else ():
        rows.append(b.Row((row.name, "", "", "", "")))
        rows += [b.Row((x.tensor, x.each, b.Number(x.count), x.made_by, b.Number(x.value, scale)), "sub")
                 for x in e.alive if x.row == row.name]
    return b.Table("alive", columns, rows, caption="Every tensor that is alive then", level=1)


def _layer(layer: Layer) -> b.Table:
    """One layer taken apart, so that the bracket of the closed form can be followed."""
    rows = [b.Row((part.row if part.count == "1" else f"{part.count} × {part.row}", part.formula), "sub")
            for part in layer.parts]
    foot = b.Row(((layer.symbol, f" = {units.exact(layer.count)} of them, each"), layer.formula), "sub")
    columns = (b.Column("", name="Part"), b.Column("", name="Formula", order=1, fold="{}"))
    return b.Table(_one(layer.meaning), columns, rows, foot, level=1)


def _one(meaning: str) -> str:
    """``layers of the encoder`` is one layer of the encoder, ``layers 4–61`` one of them."""
    first, _, rest = meaning.partition(" ")
    if rest[:1].isdigit():
        return f"one of the {meaning}"
    return f"one {first.removesuffix('s')} {rest}".rstrip()


def _closed(e: Explanation, scale: b.Scale) -> b.Derivation:
    steps: list[b.Cell] = [e.closed, e.substituted]
    if len(e.terms) > 1:
        steps.append(" + ".join(units.exact(term.value) for term in e.terms).replace("+ −", "− "))
    return b.Derivation("closed form", e.substitutions, steps, b.Number(e.total, scale), e.unit, e.kind == "estimate")


def signed(difference: float | None) -> str | None:
    """``−2.95 %``; ``exact`` where there is none at all."""
    if difference is None:
        return None
    if difference == 0:
        return "exact"
    digits = max(2, 1 - floor(log10(abs(difference) * 100)))
    return f"{'+' if difference > 0 else '−'}{units.percent(abs(difference), 1, digits)} %"


def _simplifications(found: tuple[Simplification, ...], scale: b.Scale) -> b.Table:
    columns = (b.Column("in textbooks", name="Instead"), b.Column("value", "n", exact=3), b.Column("off by", "n"),
               b.Column("where", "words", fold="{};", place="below"),
               b.Column("leaves out", "words", fold="leaves out: {}", place="below"),
               b.Column("source", "words", fold="[{}]", place="below"))
    return b.Table("in textbooks", columns, [
        b.Row((row.formula, b.Number(row.value, scale), signed(row.difference), _where(row), row.leaves_out,
               row.source))
        for row in found
    ], caption="What textbooks write, and how far off it is here", level=1)


def _where(row: Simplification) -> str:
    against = "" if row.of == "total" else f"against {units.exact(row.exact)} {row.of}"
    return "; ".join(filter(None, (row.where, against)))


def _published(found: tuple[PublishedFigure, ...]) -> b.Table:
    columns = (b.Column("published"), b.Column("counted", "n", exact=3), b.Column("ours", "n"),
               b.Column("quantity", fold="{};", place="below"), b.Column("source", "words", fold="{}", place="below"),
               b.Column("note", "words", fold="({})", place="below"))
    return b.Table("published", columns, [
        b.Row((row.printed, b.number(row.counted),
             f"{signed(row.difference)}, rounds to it" if row.rounds_equal else signed(row.difference),
             "" if row.quantity == "params" else label(row.quantity).lower(), row.source, row.note or ""))
        for row in found
    ], caption="Printed figures beside the count", level=1)
