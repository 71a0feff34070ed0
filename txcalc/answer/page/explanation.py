"""A derivation as a page, with its formulas as mathematics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from txcalc import units
from txcalc.answer.explain.explanation import Explanation, Formula, KeptRow, Simplification
from txcalc.answer.page.chart import Bar, bars
from txcalc.answer.page.formula import mathml
from txcalc.answer.page.markup import Html, html, join, tag
from txcalc.answer.page.page import (
    Column,
    Row,
    amount,
    bullets,
    charts,
    document,
    header,
    linked,
    number,
    section,
    table,
)
from txcalc.answer.render import headings
from txcalc.answer.render.explanation_table import amount as human
from txcalc.answer.render.explanation_table import conditions, signed

_VALUE = (Column("Component"), Column("Formula"), Column("Count", "n"), Column("Value", "n"), Column("%", "n"))


def page(explained: Explanation) -> str:
    """The whole page."""
    title = f"{explained.model.name}: {explained.title}"
    return document(title, _body(explained, title), explained.to_data(), explained.provenance)


def _body(e: Explanation, title: str) -> Iterator[Html]:
    yield header(title, headings.identity(e.model)[1:], headings.origin(e.model), conditions(e))
    yield section("Symbols", _symbols(e))
    yield section("Where it comes from", _chart(e), _rows(e))
    yield section("Kept tensors", _kept(e.kept))
    yield section("One layer", *_layers(e))
    yield section("Closed form", *_closed(e))
    yield section("In textbooks", _simplifications(e.simplifications))
    yield section("Published figures", _published(e))
    notes = [html(note) for note in e.notes]
    yield section("Rules and sources", bullets([*notes, *(linked(f"{s.rule} [{s.source}]") for s in e.sources)]))


def _symbols(e: Explanation) -> Html:
    columns = (Column("Symbol"), Column("Value", "n"), Column("Meaning", "words"))
    rows = (Row((mathml(s.text), number(s.value), s.meaning)) for s in e.symbols)
    return join(table("What the letters stand for", columns, rows), _with("With ", (*e.relations, *e.assumptions)))


def _with(before: str, found: Iterable[Formula]) -> Html:
    shown = [mathml(formula) for formula in found]
    return tag("p", before, join(*shown, by=", ")) if shown else Html()


def _chart(e: Explanation) -> Html:
    drawn = [Bar(row.name, row.value) for row in e.rows]
    return charts(bars(e.title[:1].upper() + e.title[1:], drawn, lambda value: human(e, value)))


def _rows(e: Explanation) -> Html:
    rows = (
        Row((row.name, mathml(row.each), number(row.count), _value(e, row.value), units.percent(row.value, e.total)))
        for row in e.rows
    )
    total = Row(("total", "", "", _value(e, e.total), units.percent(1, 1)))
    return table("Each component: its formula, how often it occurs, and what it comes to", _VALUE, rows, total)


def _value(e: Explanation, value: int) -> Html:
    return amount(value, lambda value: human(e, value), " B" if e.unit.startswith("B") else "")


def _kept(found: Iterable[KeptRow]) -> Html:
    columns = (Column("Kept tensor"), Column("Component"), Column("Shape", "s"), Column("Bytes each", "n"),
               Column("Bytes"), Column("Count", "n"), Column("Value", "n"), Column("Kept by", "path"),
               Column("Why", "words"))
    return table("Every tensor that autograd keeps", columns, map(_tensor, found))


def _tensor(row: KeptRow) -> Row:
    sizes = join(*map(mathml, row.shape), by=" × ") or html("1")
    return Row((
        row.tensor, row.row, sizes, number(row.bytes), mathml(row.each), number(row.count),
        amount(row.value, units.memory, " B"), ", ".join(row.kept_by), row.why,
    ))


def _layers(e: Explanation) -> Iterator[Html]:
    """One layer taken apart, so that the bracket of the closed form can be followed."""
    for layer in e.layers:
        columns = (Column("Part"), Column("Formula"))
        rows = [
            Row((part.row if part.count == "1" else f"{part.count} × {part.row}", mathml(part.formula)))
            for part in layer.parts
        ]
        caption = f"One of the {units.exact(layer.count)} {layer.meaning}"
        yield table(caption, columns, rows, Row(("sum", mathml(layer.formula))))


def _closed(e: Explanation) -> Iterator[Html]:
    yield _with("With ", e.substitutions)
    steps = [mathml(e.closed), mathml(e.substituted)]
    if len(e.terms) > 1:
        steps.append(html(" + ".join(units.exact(term.value) for term in e.terms).replace("+ −", "− ")))
    exact, shown = units.exact(e.total), human(e, e.total)
    steps.append(join(tag("data", exact, value=e.total), f" {e.unit}", f" ({shown})" if shown != exact else ""))
    yield tag("ol", *(tag("li", tag("span", "=" if i else "", class_="sign"), step) for i, step in enumerate(steps)),
              class_="steps")


def _simplifications(found: Iterable[Simplification]) -> Html:
    columns = (Column("Instead"), Column("Value", "n"), Column("Off by", "n"), Column("Where", "words"),
               Column("Leaves out", "words"), Column("Source", "words"))
    return table("What textbooks write, and how far off it is here", columns, (
        Row((mathml(row.formula), number(row.value), signed(row.difference), _where(row), row.leaves_out,
             linked(row.source)))
        for row in found
    ))


def _where(row: Simplification) -> str:
    against = "" if row.of == "total" else f"against {units.exact(row.exact)} {row.of}"
    return "; ".join(filter(None, (row.where, against)))


def _published(e: Explanation) -> Html:
    columns = (Column("Published"), Column("Counted", "n"), Column("Ours", "n"), Column("Source", "words"),
               Column("Note", "words"))
    return table("Printed figures beside the count", columns, (
        Row((row.printed, number(row.counted), signed(row.difference), linked(row.source), row.note or ""))
        for row in e.published
    ))
