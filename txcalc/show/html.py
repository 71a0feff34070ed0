"""Blocks as one HTML file that needs nothing else: no network, no script. For reading, on paper too.

Elements are built by functions that escape whatever is not markup already, so that nothing can be left unescaped or
open; a template engine would be one more package for a page of one shape. The document stands in the element
``report`` as YAML, as text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

from txcalc import units
from txcalc.document import Part
from txcalc.show import blocks as b
from txcalc.show import svg, writers
from txcalc.show.markup import Html, html, join, tag
from txcalc.show.mathml import mathml
from txcalc.show.terminal import Screen

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_LINK: Final = re.compile(r"(?P<url>https?://[^\s,;)>\"']+[^\s,;.)>\"'])|(?<=\()(?P<flag>--[a-z-]+)(?=\)$)")
_NONE: Final = Html(f'<span class="dim">{units.MISSING}</span>')
_MOST: Final = 8
"""A table of more columns is several: a page has an end, and paper too."""
_LONG: Final = 12
"""A table behind the numbers that has more rows is folded."""


def write(document: Part, blocks: Iterable[b.Block], screen: Screen, detail: int) -> str:
    """The whole file: every block, the document, and the command that made it."""
    found = list(blocks)
    title = next(block.heading for block in found if isinstance(block, b.Title))
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Not even by a mistake of ours does the page ask for anything.
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · txcalc"),
        tag("style", Html(files("txcalc.show").joinpath("page.css").read_text("utf-8"))),
    ]
    made_by = _made_by(getattr(document, "provenance", None))
    main = tag("main", *_sections(found), made_by, _embedded(document.to_data()))
    whole = tag("html", tag("head", join(*head, by=Html("\n"))), Html("\n"), tag("body", main), lang="en")
    return f"<!doctype html>\n{whole}\n"


def fragment(blocks: Iterable[b.Block]) -> str:
    """The tables of an answer for a page of somebody else's, such as a notebook: without charts and document."""
    shown = [block for block in blocks if block.level < 2 and not isinstance(block, b.Charts | b.Data)]
    style = tag("style", Html(".txcalc .exact { display: block; opacity: .65; font-size: .85em; }"))
    return tag("div", style, *_sections(shown), class_="txcalc")


def _sections(blocks: Iterable[b.Block]) -> Iterator[Html]:
    """The title, and a section for every block that has one of its own; what has none belongs to the one before."""
    title, inside = "", list[Html]()
    for block in blocks:
        if isinstance(block, b.Title):
            yield _header(block)
            continue
        shown = [each for each in _inside(block) if each]
        own = "" if isinstance(block, b.Charts | b.Data) else block.title
        if own and shown:
            yield _section(title, inside)
            title, inside = own, []
        inside += shown
    yield _section(title, inside)


def _inside(block: Any) -> Iterator[Html]:
    if isinstance(block, b.Charts):
        drawn = [figure for figure in map(svg.figure, block.make()) if figure]
        yield tag("div", *drawn, class_="charts") if drawn else Html()
    elif isinstance(block, b.Table | b.Facts):
        yield from _tables(_facts(block) if isinstance(block, b.Facts) else block)
    elif isinstance(block, b.Derivation):
        yield _derivation(block)
    elif isinstance(block, b.Notes):
        items = ([block.lead] if block.lead else []) + [*block.items]
        yield tag("ul", *(tag("li", _inline(item)) for item in items)) if block.items else Html()


def _header(block: b.Title) -> Html:
    shown = (tag("p", line, class_="dim" if i else None) for i, line in enumerate(block.below))
    return tag("header", tag("h1", block.heading), *shown)


def _section(title: str, inside: Sequence[Html]) -> Html:
    if not inside:
        return Html()
    name = "s-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return tag("section", tag("h2", title, id=name), tag("div", *inside, class_="row"), aria_labelledby=name)


def _facts(block: b.Facts) -> b.Table:
    """Without a column of marks: an estimate has its mark before the value."""
    columns = (b.Column("Quantity"), b.Column("Value", "n"), b.Column("Note", "words"))
    rows = [b.Row((fact.label, fact.number and fact.number._replace(mark="" if fact.mark == "=" else f"{fact.mark} "),
                 fact.note), "sub" if fact.sub else "") for fact in block.facts]
    return b.Table(block.title, columns, rows)


# ---------------------------------------------------------------- tables


def _tables(t: b.Table) -> Iterator[Html]:
    """A table in parts of so many columns that each fits, the first column in every part."""
    t = t.filed()
    if t.short is not None and len(t.rows) > t.short:
        all_rows = t._replace(short=None)
        yield from _tables(all_rows._replace(rows=t.rows[: t.short]))
        more = _tables(all_rows._replace(rows=t.rows[t.short :]))
        yield tag("details", tag("summary", f"{len(t.rows) - t.short} more"), *more)
        return
    first, *rest = [i for i in range(len(t.columns)) if any(row.cells[i] not in ("", "=") for row in t.rows)] or [0]
    if not t.rows:
        return
    most = -(-len(rest) // -(-len(rest) // (_MOST - 1))) if len(rest) >= _MOST else max(len(rest), 1)
    shown = [_table(t.part((first, *rest[i : i + most]))) for i in range(0, max(len(rest), 1), most)]
    if t.level > 1 and len(t.rows) > _LONG:
        yield tag("details", tag("summary", f"{len(t.rows)} rows"), *shown)
    else:
        yield tag("div", *shown, class_="parts") if len(shown) > 1 else shown[0]


def _table(t: b.Table) -> Html:
    caption = t.caption or t.title
    head = tag("thead", tag("tr", *(tag("th", c.long, scope="col", class_=c.kind or None) for c in t.columns)))
    body = tag("tbody", *(_row(row, t.columns) for row in t.rows))
    foot = tag("tfoot", _row(t.foot, t.columns)) if t.foot is not None else Html()
    same = "same" if caption == t.title else None  # the heading says it
    size = "many" if len(t.columns) > 5 else "some" if len(t.columns) > 3 else "few"
    whole = tag("table", tag("caption", caption, class_=same), head, body, foot, class_=size)
    return tag("div", whole, class_="scroll", role="region", tabindex=0, aria_label=caption)


def _row(row: b.Row, columns: Sequence[b.Column]) -> Html:
    kind = "group" if row.kind == "head" else "sub" if row.kind == "sub" else columns[0].kind
    cells = [tag("td") if row.kind == "head" else
             tag("td", _cell(cell), class_=column.kind or None, data_label=column.long or None)
             for cell, column in zip(row.cells[1:], columns[1:], strict=True)]
    return tag("tr", tag("th", _cell(row.cells[0]), scope="row", class_=kind or None), *cells)


def _cell(cell: b.Cell) -> Html:
    """A number is there for people and, below that, to the last digit."""
    if cell is None or cell == units.MISSING:
        return _NONE
    if cell == "=":  # exact, as all is that has no mark
        return Html()
    if isinstance(cell, Html):
        return cell
    if isinstance(cell, b.Number):
        if cell.human == cell.digits:
            return _number(cell)
        return join(cell.human, _number(cell._replace(mark=""), " B" if cell.scale == "memory" else "", "exact"))
    if isinstance(cell, tuple):
        return join(*map(_inline, cell))
    return _inline(cell)


def _number(number: b.Number, unit: str = "", kind: str | None = None) -> Html:
    """Every digit, and the plain integer for machines."""
    return tag("data", number.digits + unit, value=number.value, class_=kind)


def _inline(cell: b.Cell) -> Html:
    if isinstance(cell, str):
        return _text(cell)
    if isinstance(cell, b.Number):
        return _number(cell) if cell.scale == "exact" else html(cell.human)
    return join(*map(_inline, cell)) if isinstance(cell, tuple) else mathml(cell)


def _text(raw: str) -> Html:
    """Text with its addresses as links, and the option at its end as code."""
    parts, end = list[str](), 0
    for match in _LINK.finditer(raw):
        url = match["url"]
        parts += [raw[end : match.start()],
                  tag("a", url, href=url, rel="noreferrer") if url else tag("code", match["flag"])]
        end = match.end()
    return join(*parts, raw[end:])


def _derivation(block: b.Derivation) -> Html:
    given = [mathml(formula) for formula in block.given]
    exact, human = block.total.digits, block.total.human
    steps = [*map(_inline, block.steps),
             join(_number(block.total), f" {block.unit}", f" ({human})" if human != exact else "")]
    shown = (tag("li", tag("span", "=" if i else "", class_="sign"), step) for i, step in enumerate(steps))
    return tag("div", tag("p", "With ", join(*given, by=", ")) if given else Html(), tag("ol", *shown, class_="steps"),
               class_="derivation")


# ---------------------------------------------------------------- the end


def _made_by(provenance: Any) -> Html:
    if provenance is None:
        return Html()
    command = tag("code", shlex.join(provenance.command)) if provenance.command else html("Python")
    return tag("footer", tag("p", f"Made by txcalc {provenance.txcalc}: ", command))


def _embedded(document: dict[str, Any]) -> Html:
    """The YAML as text, so that neither a script is needed to read it nor anything in it can end the element."""
    text = Html(escape(writers.yaml(document), quote=False))
    code = tag("pre", tag("code", text, id="report"), tabindex=0, aria_label="YAML")
    return tag("details", tag("summary", "The same as YAML"), code)
