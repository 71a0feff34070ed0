"""Blocks as text: on a terminal laid out for its width, anywhere else as wide as it needs to be, and never cut.

Not through rich: to import its tables takes a quarter of the time of a whole count, and they crop what is too wide.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from txcalc.document import Part
from txcalc.show import blocks as b

_CODES: Final[dict[b.Style, str]] = {"bold": "1", "dim": "2", "red": "31"}
_ASCII: Final = str.maketrans({
    "×": "x", "·": "|", "–": "-", "—": "-", "−": "-", "≤": "<=", "²": "^2", "…": "...", "→": "->", "₁": "1", "₂": "2",
})
GAP: Final = "  "


class Span(NamedTuple):
    """Text in one style."""

    text: str
    style: b.Style = ""


class Screen(NamedTuple):
    """The screen that text is laid out for. No width: a file or a pipe, where a line is as long as it needs to be.

    ``notation`` of formulas: unicode, ascii or latex.
    """

    width: int | None = None
    color: bool = False
    notation: str = "unicode"

    def fits(self, width: int) -> bool:
        """Tell whether a line of ``width`` characters fits."""
        return self.width is None or width <= self.width

    def paint(self, text: str, style: b.Style = "") -> str:
        """The text in a style, in ANSI colours if it is shown in colour."""
        shown = b.printable(text)
        return f"\x1b[{_CODES[style]}m{shown}\x1b[0m" if self.color and style and shown.strip() else shown


def write(document: Part | None, blocks: Iterable[b.Block], screen: Screen, detail: int = 1) -> str:
    """The blocks as text. ``detail``: 0 the numbers alone, 1 as usual, 2 and 3 all behind them."""
    found: list[str] = []
    last: Any = None
    for block in blocks:
        if block.level > detail or isinstance(block, b.Charts | b.Data):
            continue
        lines = list(_lines(block, screen, detail))
        if lines and found and not _follows(block, last):
            found.append("")
        found += lines
        last = block if lines else last
    shown = "".join(f"{line.rstrip()}\n" for line in found)
    return shown.translate(_ASCII) if screen.notation == "ascii" else shown


def _follows(block: b.Block, last: Any) -> bool:
    """Tell whether sentences stand right below what is above them."""
    if not isinstance(block, b.Notes) or block.level > 1 or block.style not in ("", "dim"):
        return False
    return isinstance(last, b.Notes) or not block.title


def _lines(block: Any, screen: Screen, detail: int) -> Iterator[str]:
    if isinstance(block, b.Title):
        return _title(block, screen)
    if isinstance(block, b.Notes):
        return _notes(block, screen, detail)
    if isinstance(block, b.Derivation):
        return _derivation(block, screen)
    return _table(block, screen, detail) if isinstance(block, b.Table) else _rows(
        _cut(block.table()), screen, head=False)


# ---------------------------------------------------------------- lines


def wrap(parts: Iterable[str], screen: Screen) -> list[str]:
    """Parts in a row, on as many lines as they need; a part is never broken."""
    rows: list[str] = []
    for part in filter(None, parts):
        joined = f"{rows[-1]} · {part}" if rows else part
        if rows and not screen.fits(len(joined)):
            rows.append(f"{GAP}{part}")
        else:
            rows[-1:] = [joined]
    return rows


def paragraph(raw: str, screen: Screen, *, first: str = "", rest: str = "", style: b.Style = "dim") -> list[str]:
    """Running text, wrapped between words."""
    width = 100 if screen.width is None else max(screen.width, 20)
    rows = textwrap.wrap(
        raw, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return [screen.paint(row.replace("\u00a0", " "), style) for row in rows]


def _title(block: b.Title, screen: Screen) -> Iterator[str]:
    name = block.heading if block.name is None else block.name
    for i, line in enumerate(wrap((name, *block.about), screen)):
        yield screen.paint(line, "" if i else "bold")
    for parts, style in block.lines:
        yield from (screen.paint(line, style) for line in wrap(parts, screen))


def _notes(block: b.Notes, screen: Screen, detail: int) -> Iterator[str]:
    if block.short is not None and detail < 2:
        yield from paragraph(block.short, screen, rest="   " if block.lead else "")
        return
    if block.lead and block.items:
        yield screen.paint(block.lead, "dim")
    if block.level > 1 and block.title and block.items:
        yield screen.paint(block.title, "bold")
    first, rest = ("   ", "     ") if block.lead else ("", GAP if block.style else "")
    for item in block.items:
        yield from paragraph(b.plain(item, screen.notation), screen, first=first, rest=rest, style=block.style)


def _derivation(block: b.Derivation, screen: Screen) -> Iterator[str]:
    given = ", ".join(b.plain(formula, screen.notation) for formula in block.given)
    yield screen.paint(block.title, "bold") + screen.paint(f"   with {given}" if given else "", "dim")
    for i, step in enumerate(block.steps):
        yield from _formula(b.plain(step, screen.notation), screen, "= " if i else GAP)
    exactly = block.total.digits + (" B" if block.unit == "B" else "")
    human = "" if block.total.human == exactly else f"   {block.total.human}"
    yield f"= {screen.paint(exactly, 'bold')}{human}{'   ~  estimate' if block.estimate else ''}"


def _formula(shown: str, screen: Screen, mark: str) -> list[str]:
    """A formula, broken before a plus or minus where it must be."""
    first, *pieces = re.split(r" (?=[+−-] )", shown)
    rows = [mark + first]
    for piece in pieces:
        if screen.fits(len(rows[-1]) + 1 + len(piece)):
            rows[-1] += f" {piece}"
        else:
            rows.append(GAP + GAP + piece)
    return rows


# ---------------------------------------------------------------- tables


class _Layout(NamedTuple):
    """The layout in a width: columns, the number of blocks of a bar, and whether every digit is shown."""

    shown: tuple[int, ...]
    bar: int
    exact: bool
    notation: str


def _table(block: b.Table, screen: Screen, detail: int) -> Iterator[str]:
    if not block.rows:
        return
    if block.title not in ("", block.columns[0].title) and not block.bare:
        yield from paragraph(block.title, screen, rest=GAP, style="bold")
    t = _cut(block if detail > 1 else block._replace(rows=block.rows[:block.short]))
    if block.twice and len(t.rows) > 4:
        wide = _twice(t)
        if _fitting(wide, screen) is not None:
            t = wide
    yield from _rows(t, screen, head=any(column.title for column in t.columns))
    yield from paragraph(block.rest, screen) if block.rest and detail < 2 else ()


def _cut(t: b.Table) -> b.Table:
    """With the columns that are for terminals."""
    found = t.part((i for i, column in enumerate(t.columns) if column.screen), files=False)
    return found._replace(rows=[*found.rows, *([found.foot] if found.foot else [])])


def _twice(t: b.Table) -> b.Table:
    half = -(-len(t.rows) // 2)
    blank = b.Row([""] * len(t.columns))
    rows = [b.Row([*left.cells, *right.cells]) for left, right in
            zip(t.rows[:half], [*t.rows[half:], blank], strict=False)]
    return t._replace(columns=[*t.columns, *t.columns], rows=rows)


def _layouts(columns: Sequence[b.Column], notation: str) -> Iterator[_Layout]:
    """From the fullest to the one of the columns that never give way."""
    bars = max((column.bars for column in columns), key=len)
    digits = (True, False) if any(column.exact == 2 for column in columns) else (False,)
    for given in sorted({0, *(column.order for column in columns)}):
        shown = tuple(i for i, column in enumerate(columns) if not column.place and not 0 < column.order <= given)
        yield from (_Layout(shown, bar, exact, notation) for exact in digits for bar in bars)


def _fitting(t: b.Table, screen: Screen) -> _Layout | None:
    found = _layouts(t.columns, screen.notation)
    return next((layout for layout in found if screen.fits(total_width(widths(_grid(t, layout))))), None)


def _rows(t: b.Table, screen: Screen, *, head: bool) -> Iterator[str]:
    layout = _fitting(t, screen)
    if layout is None and (t.lines or any(column.fold for column in t.columns)):
        yield from _words(t, screen)
        return
    found = layout or list(_layouts(t.columns, screen.notation))[-1]
    spans = _grid(t, found)
    if layout is None:
        for i, part in enumerate(chunks(spans, screen)):
            yield from [""] * bool(i)
            yield from grid(part, [">" if column else "<" for column in range(len(part[0]))], screen)
        return
    lines = grid(spans, [">" if t.columns[i].kind == "n" else "<" for i in found.shown], screen)
    if head:
        yield lines[0]
    width = total_width(widths(spans))
    for row, line, cells in zip(t.rows, lines[1:], spans[1:], strict=True):
        if row.kind == "head":
            yield from ("", screen.paint(b.plain(row.cells[0]), "bold"))
        elif row.kind != "sub" or len(cells) == 1 or any(span.text for span in cells[1:]):
            yield from _below(t, row, found, line, width, screen)


def _below(t: b.Table, row: b.Row, layout: _Layout, line: str, width: int, screen: Screen) -> Iterator[str]:
    """The row, and below it what has no column in this layout."""
    beside, below = "", []
    for i, column in enumerate(t.columns):
        raw = b.plain(row.cells[i], screen.notation)
        shown = column.fold.format(raw) if i not in layout.shown and raw else ""
        if column.place == "beside" and screen.fits(width + len(GAP) + len(shown)):
            beside = shown
        elif shown and not (isinstance(row.cells[i], str) and row.cells[i] in [row.cells[j] for j in layout.shown]):
            below.append(shown)
    yield line + screen.paint(GAP + beside if beside else "", "dim")
    facts = t.columns[-1].place == "beside"
    indent = GAP * 2 if facts or row.kind == "sub" else GAP
    for part in below if facts else [" ".join(below)]:
        yield from paragraph(part, screen, first=indent, rest=indent)


def _words(t: b.Table, screen: Screen) -> Iterator[str]:
    """Rows that are too wide for columns, as lines of words; a number stays in one piece."""
    if t.columns[0].title:
        yield screen.paint(t.columns[0].title, "bold")
    for row in t.rows:
        words = [_word(cell, column, screen) for cell, column in zip(row.cells, t.columns, strict=True)]
        yield from paragraph("  ".join(filter(None, words)), screen, first=GAP, rest=GAP * 2, style="")


def _word(cell: b.Cell, column: b.Column, screen: Screen) -> str:
    shown = b.plain(cell, screen.notation, exact=column.exact > 1)
    if isinstance(cell, b.Number) or column.kind == "n":
        shown = shown.replace(" ", "\u00a0")
    return column.fold.format(shown) if column.fold and shown else shown


def _grid(t: b.Table, layout: _Layout) -> list[list[Span]]:
    columns = [t.columns[i] for i in layout.shown]
    head = [Span(_heading(column, layout.bar), "bold") for column in columns]
    return [head, *([_span(row, row.cells[i], t.columns[i], layout) for i in layout.shown] for row in t.rows)]


def _heading(column: b.Column, bar: int) -> str:
    if column.kind != "bar":
        return column.title
    return column.title if len(column.title) <= bar else column.title.split()[0] if bar else ""


def _span(row: b.Row, cell: b.Cell, column: b.Column, layout: _Layout) -> Span:
    if row.kind == "head":
        return Span("")
    if isinstance(cell, b.Bar):
        return Span("█" * blocks(cell, layout.bar))
    if isinstance(cell, b.Spark):
        return Span(spark(cell, layout.bar))
    shown = b.plain(cell, layout.notation, exact=column.exact > 1 + (not layout.exact))
    first = cell is row.cells[0]
    indent = GAP if first and row.kind in ("sub", "echo") else ""
    style: b.Style = "red" if isinstance(cell, b.Alert) else row.style or ("dim" if cell is None else column.style)
    return Span(indent + shown, style)


def blocks(bar: b.Bar, full: int) -> int:
    """Whole blocks of ``full``, rounded half up; on a log scale at most one more for every doubling."""
    if not bar.least or not full:
        return (2 * full * bar.part + bar.whole) // (2 * bar.whole) if bar.whole else 0
    low, high, at = (math.log2(max(n, 1)) for n in (bar.least, bar.whole, bar.part))
    return 1 + round((at - low) * min(1.0, (full - 1) / (high - low) if high > low else 1.0))


_HEIGHTS: Final = " ▁▂▃▄▅▆▇█"


def spark(cell: b.Spark, width: int) -> str:
    """Values as bars of eight heights, the highest of those that share a place."""
    length, highest = len(cell.values), [0] * width
    for i, value in enumerate(cell.values if width else ()):
        at = i * width // length
        highest[at] = max(highest[at], value)
    return "".join(_HEIGHTS[-(-8 * value // cell.whole)] for value in highest).rstrip()


def widths(rows: Iterable[Sequence[Span]]) -> list[int]:
    """The width of every column."""
    return [max(len(span.text) for span in column) for column in zip(*rows, strict=True)]


def total_width(columns: Sequence[int]) -> int:
    """The width of a row of these columns."""
    shown = [width for width in columns if width]
    return sum(shown) + len(GAP) * max(len(shown) - 1, 0)


def grid(rows: Sequence[Sequence[Span]], aligns: Sequence[str], screen: Screen) -> list[str]:
    """Rows as aligned columns. A column that is empty throughout takes no room."""
    columns = [(i, width) for i, width in enumerate(widths(rows)) if width]
    return [GAP.join(_padded(row[i], width, aligns[i], screen) for i, width in columns) for row in rows]


def _padded(span: Span, width: int, align: str, screen: Screen) -> str:
    pad, shown = " " * (width - len(span.text)), screen.paint(*span)
    return pad + shown if align == ">" else shown + pad


def chunks(rows: Sequence[Sequence[Span]], screen: Screen) -> list[list[Sequence[Span]]]:
    """The rows with as many columns at a time as fit, the first column in every part.

    A column that does not even fit alone beside the first stands alone all the same.
    """
    columns = widths(rows)
    parts: list[list[int]] = []
    for i in (i for i in range(1, len(columns)) if columns[i]):
        if parts and screen.fits(total_width([columns[0], *(columns[j] for j in [*parts[-1], i])])):
            parts[-1].append(i)
        else:
            parts.append([i])
    return [[[row[0], *(row[i] for i in part)] for row in rows] for part in parts]
