"""Text in columns: lines of styled spans, laid out for a width and never cut to one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

Style = Literal["", "bold", "dim", "red"]
Align = Literal["<", ">"]

_CODES: Final[dict[Style, str]] = {"bold": "1", "dim": "2", "red": "31"}
GAP: Final = "  "


class Span(NamedTuple):
    """Text in one style."""

    text: str
    style: Style = ""


Line = tuple[Span, ...]


class Screen(NamedTuple):
    """What the text is laid out for. No width: a file or a pipe, where a line is as long as it needs to be."""

    width: int | None = None
    color: bool = False

    def fits(self, width: int) -> bool:
        """Whether a line of ``width`` characters fits."""
        return self.width is None or width <= self.width


def line(text: str = "", style: Style = "") -> Line:
    """A line in one style."""
    return (Span(text, style),)


def text(lines: Iterable[Line], *, color: bool = False) -> str:
    """The lines as text, each with its newline and without trailing blanks, in ANSI colours if asked for."""
    return "".join("".join(_spans(stripped(each), color)) + "\n" for each in lines)


def stripped(each: Line) -> Line:
    """The line without trailing blanks."""
    spans = list(each)
    while spans and not spans[-1].text.rstrip():
        spans.pop()
    if spans:
        spans[-1] = Span(spans[-1].text.rstrip(), spans[-1].style)
    return tuple(spans)


def _spans(each: Line, color: bool) -> Iterator[str]:
    for span in each:
        shown = printable(span.text)
        code = _CODES.get(span.style) if color else None
        yield f"\x1b[{code}m{shown}\x1b[0m" if code and shown.strip() else shown


def printable(raw: str) -> str:
    """A name from a file must not be able to send the terminal commands or break the layout."""
    return raw if raw.isprintable() else "".join(c if c.isprintable() else "?" for c in raw)


def wrap(parts: Sequence[str], screen: Screen, *, separator: str = " · ", style: Style = "") -> list[Line]:
    """Parts in a row, on as many lines as they need; a part is never broken."""
    rows: list[str] = []
    for part in filter(None, parts):
        joined = f"{rows[-1]}{separator}{part}" if rows else part
        if rows and not screen.fits(len(joined)):
            rows.append(f"{GAP}{part}")
        else:
            rows[-1:] = [joined]
    return [line(row, style) for row in rows]


def paragraph(raw: str, screen: Screen, *, first: str = "", rest: str = "", style: Style = "dim") -> list[Line]:
    """Running text, wrapped between words."""
    width = 100 if screen.width is None else max(screen.width, 20)
    rows = textwrap.wrap(
        raw, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return [line(row, style) for row in rows]


def widths(rows: Iterable[Sequence[Span]]) -> list[int]:
    """The width of every column."""
    found: list[int] = []
    for row in rows:
        found.extend([0] * (len(row) - len(found)))
        for i, span in enumerate(row):
            found[i] = max(found[i], len(span.text))
    return found


def total_width(columns: Sequence[int]) -> int:
    """The width of a row of these columns."""
    shown = [width for width in columns if width]
    return sum(shown) + len(GAP) * max(len(shown) - 1, 0)


def grid(rows: Sequence[Sequence[Span]], aligns: Sequence[Align]) -> list[Line]:
    """Rows as aligned columns. A column that is empty throughout takes no room."""
    columns = widths(rows)
    return [_row(row, columns, aligns) for row in rows]


def _row(row: Sequence[Span], columns: Sequence[int], aligns: Sequence[Align]) -> Line:
    spans: list[Span] = []
    for span, width, align in zip(row, columns, aligns, strict=False):
        if not width:
            continue
        pad = Span(" " * (width - len(span.text)))
        gap = [Span(GAP)] if spans else []
        spans += [*gap, pad, span] if align == ">" else [*gap, span, pad]
    return tuple(span for span in spans if span.text)


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
