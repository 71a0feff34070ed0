"""An answer as one HTML file that needs nothing else: no network, no script. What all such pages have in common.

It is for reading, on paper too; the same document as ``--format yaml`` stands in the element ``report``, as text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final, NamedTuple

from txcalc import units
from txcalc.answer.conventions import Convention
from txcalc.answer.page.markup import Html, html, join, tag
from txcalc.answer.render import data as render_data
from txcalc.answer.report import Provenance

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_LINK: Final = re.compile(r"https?://[^\s,;)>\"']+[^\s,;.)>\"']")
NONE: Final = Html(f'<span class="dim">{units.MISSING}</span>')

Scale = Callable[[int], str]


class Column(NamedTuple):
    """A column's heading and how its cells stand: ``n`` for numbers, ``words`` for running text, ``path``."""

    title: str
    kind: str = ""


class Row(NamedTuple):
    """A row: its heading, then its cells. ``sub``: a part of the row above it."""

    cells: Sequence[str]
    sub: bool = False


def document(title: str, body: Iterable[str], data: dict[str, Any], provenance: Provenance) -> str:
    """The whole file. ``data`` is the answer as the YAML has it; ``title`` is the page's only first heading."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Not even by a mistake of ours does the page ask for anything.
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · txcalc"),
        tag("style", Html(files("txcalc.answer.page").joinpath("page.css").read_text("utf-8"))),
    ]
    main = tag("main", *body, _origin(provenance), _embedded(data))
    whole = tag("html", tag("head", join(*head, by=Html("\n"))), Html("\n"), tag("body", main), lang="en")
    return f"<!doctype html>\n{whole}\n"


def header(title: str, *lines: Sequence[str]) -> Html:
    """The first heading, and lines of parts below it."""
    shown = [" · ".join(filter(None, line)) for line in lines]
    return tag("header", tag("h1", title), *(tag("p", line, class_="dim" if i else None)
                                             for i, line in enumerate(filter(None, shown))))


def section(title: str, *inside: str) -> Html:
    """A second heading and what belongs to it; nothing at all where nothing does."""
    if not any(inside):
        return Html()
    name = "s-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return tag("section", tag("h2", title, id=name), *inside, aria_labelledby=name)


def table(caption: str, columns: Sequence[Column], rows: Iterable[Row], foot: Row | None = None) -> Html:
    """A table that scrolls by itself where it is too wide, by keyboard too."""
    found = list(rows)
    if not found:
        return Html()
    head = tag("thead", tag("tr", *(tag("th", c.title, scope="col", class_=c.kind or None) for c in columns)))
    body = tag("tbody", *(_row(columns, row) for row in found))
    last = tag("tfoot", _row(columns, foot)) if foot is not None else Html()
    whole = tag("table", tag("caption", caption), head, body, last)
    return tag("div", whole, class_="scroll", role="region", tabindex=0, aria_label=caption)


def _row(columns: Sequence[Column], row: Row) -> Html:
    kinds = [column.kind for column in columns]
    first = "sub" if row.sub else kinds[0]
    cells = [tag("td", cell, class_=kind or None) for kind, cell in zip(kinds[1:], row.cells[1:], strict=True)]
    return tag("tr", tag("th", row.cells[0], scope="row", class_=first or None), *cells)


def amount(value: int | None, scale: Scale, unit: str = "") -> Html:
    """A number for people and, below it, to the last digit; a dash where there is none."""
    if value is None:
        return NONE
    exact, human = units.exact(value), scale(value)
    if human == exact:
        return number(value)
    return join(human, tag("data", exact + unit, value=value, class_="exact"))


def number(value: int | None) -> Html:
    """Every digit, and the plain integer for machines."""
    return NONE if value is None else tag("data", units.exact(value), value=value)


def charts(*figures: str, wide: bool = False) -> Html:
    """Figures side by side where there is room."""
    shown = [figure for figure in figures if figure]
    return tag("div", *shown, class_="charts wide" if wide else "charts") if shown else Html()


def bullets(items: Iterable[str]) -> Html:
    """A list; nothing where it is empty."""
    shown = [tag("li", item) for item in items]
    return tag("ul", *shown) if shown else Html()


def folded(title: str, *inside: str) -> Html:
    """What is opened to be read; nothing at all where there is nothing."""
    return tag("details", tag("summary", title), *inside) if any(inside) else Html()


def rules(found: Iterable[Convention]) -> Html:
    """The counting rules, each with the option that changes it."""
    return bullets(join(rule.text, " (", tag("code", rule.flag), ")") if rule.flag else rule.text for rule in found)


def linked(raw: str) -> Html:
    """Text with its addresses as links."""
    parts, end = [], 0
    for match in _LINK.finditer(raw):
        parts += [raw[end : match.start()], tag("a", match[0], href=match[0], rel="noreferrer")]
        end = match.end()
    return join(*parts, raw[end:])


def shape(sizes: Sequence[int]) -> str:
    """``2 × 3``."""
    return " × ".join(units.exact(size) for size in sizes) or "scalar"


def _origin(provenance: Provenance) -> Html:
    command = tag("code", shlex.join(provenance.command)) if provenance.command else html("Python")
    return tag("footer", tag("p", f"Made by txcalc {provenance.txcalc}: ", command))


def _embedded(data: dict[str, Any]) -> Html:
    """The YAML as text, so that neither a script is needed to read it nor anything in it can end the element."""
    text = Html(escape(render_data.yaml(data), quote=False))
    return folded("The same as YAML", tag("pre", tag("code", text, id="report"), tabindex=0, aria_label="YAML"))
