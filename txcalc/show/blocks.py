"""Blocks, the data of what a reader sees: an answer is a list of them, and each format has one writer for all.

Plain named tuples, because a short command builds them on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from txcalc import units

if TYPE_CHECKING:
    from txcalc.explain.explanation import Formula

Scale = Literal["exact", "params", "flops", "memory"]
Style = Literal["", "bold", "dim", "red"]

SCALES: Final[dict[str, Any]] = {
    "exact": units.exact, "params": units.params, "flops": units.flops, "memory": units.memory,
}
"""Format of integers for people."""


class Number(NamedTuple):
    """An integer of the document. ``mark`` stands before an estimate; ``signed``: an increase has its plus."""

    value: int
    scale: Scale = "exact"
    mark: str = ""
    signed: bool = False

    @property
    def human(self) -> str:
        """``36.00 MiB``."""
        return self._written(SCALES[self.scale](self.value))

    @property
    def digits(self) -> str:
        """``37,748,736``, whatever it is of."""
        return self._written(units.exact(self.value))

    @property
    def exact(self) -> str:
        """``37,748,736 B``."""
        return self.digits + (" B" if self.scale == "memory" else "")

    def _written(self, raw: str) -> str:
        return f"{self.mark}{'+' if self.signed and self.value > 0 else ''}{raw}"


def number(value: int | None, scale: Scale = "exact") -> Number | None:
    """A number where there is one."""
    return None if value is None else Number(value, scale)


class Bar(NamedTuple):
    """A bar on a terminal: ``part`` of ``whole``, or on a log scale where ``least`` is one block."""

    part: int
    whole: int
    least: int = 0


class Spark(NamedTuple):
    """Values over time as small bars on a terminal, ``whole`` the highest there may be; zeros leave room."""

    values: Sequence[int]
    whole: int


class Alert(str):
    """Text that says no."""

    __slots__ = ()


Cell = Any
"""A text, a ``Number``, a ``Bar``, a ``Spark``, a formula, a tuple of such in a row, or None for what is not there."""


class Column(NamedTuple):
    """A column's heading and how its cells stand."""

    title: str
    kind: Literal["", "n", "words", "path", "mark", "bar"] = ""  # n: numbers; words: running text
    name: str = ""  # the heading where there is room
    exact: int = 0  # numbers to the last digit: in files (1), on terminals with room for them (2), always (3)
    order: int = 0  # in which columns give way on a terminal where there is no room; 0: never
    fold: str = ""  # then, or in its ``place``, it is a line below that says this
    place: Literal["", "below", "beside"] = ""  # always, or beside the row where there is room
    bars: tuple[int, ...] = (0,)
    style: Style = ""
    files: bool = True  # it is in files
    screen: bool = True  # it is on terminals

    @property
    def long(self) -> str:
        """The heading where there is room."""
        return self.name or self.title


class Row(NamedTuple):
    """A row. ``sub``: a part of the row above; ``head``: a heading of those below; ``echo``: the row above in full."""

    cells: Sequence[Cell]
    kind: Literal["", "sub", "head", "echo"] = ""
    style: Style = ""


class Title(NamedTuple):
    """The heading of an answer: its model and its run. ``name``: what a terminal shows in place of ``heading``."""

    heading: str
    about: Sequence[str] = ()
    lines: Sequence[tuple[Sequence[str], Style]] = ()
    name: str | None = None
    level: int = 0

    @property
    def below(self) -> list[str]:
        """The lines below the heading, as text."""
        lines = (" · ".join(filter(None, parts)) for parts in (self.about, *(parts for parts, _ in self.lines)))
        return [line for line in lines if line]


class Table(NamedTuple):
    """A table."""

    title: str  # begins a section
    columns: Sequence[Column]
    rows: Sequence[Row]
    foot: Row | None = None
    caption: str = ""  # says what the rows are
    level: int = 0
    lines: bool = False  # on a terminal, a row that is too wide is written as words, not in parts
    twice: bool = False  # there, halves stand side by side
    bare: bool = False  # there, the title is left out
    short: int | None = None  # rows there, where not all are asked for
    rest: str = ""  # and what those leave out

    def part(self, kept: Iterable[int], *, files: bool = True) -> Table:
        """With these columns alone; in files without rows that say the row above in full."""
        kept = list(kept)
        rows = [row._replace(cells=[row.cells[i] for i in kept]) for row in self.rows
                if not (files and row.kind == "echo")]
        foot = self.foot and self.foot._replace(cells=[self.foot.cells[i] for i in kept])
        return self._replace(columns=[self.columns[i] for i in kept], rows=rows, foot=foot)

    def filed(self) -> Table:
        """As it stands in files: without bars, and without what is for terminals alone."""
        return self.part(i for i, column in enumerate(self.columns) if column.files and column.kind != "bar")


class Fact(NamedTuple):
    """A number people come for. ``sub``: a part of, or an alternative to, the one above. No number: there is none."""

    label: str
    number: Number | None
    mark: str = ""
    note: str = ""
    sub: bool = False

    @property
    def value(self) -> str:
        """For people."""
        return units.MISSING if self.number is None else self.number.human

    @property
    def exact(self) -> str:
        """To the last digit."""
        return "" if self.number is None else self.number.exact


class Facts(NamedTuple):
    """The numbers people come for, one a line."""

    title: str
    facts: Sequence[Fact]
    level: int = 0

    def table(self) -> Table:
        """The same as a table: label, value, all digits, mark and note."""
        columns = (Column("Quantity"), Column("Value", "n"), Column("Exactly", "n", order=1, fold="{}"),
                   Column("", "mark", style="dim"), Column("Note", "words", fold="{}", place="beside", style="dim"))
        rows = [Row((f.label, f.value, f.exact, f.mark, f.note), "sub" if f.sub else "") for f in self.facts]
        return Table(self.title, columns, rows)


class Mark(NamedTuple):
    """A bar or a dot; ``part`` of its ``value`` is hatched."""

    name: str
    value: int
    part: int = 0


class Series(NamedTuple):
    """A curve; missing and zero values are left out."""

    name: str
    values: Sequence[int | None]


class Chart(NamedTuple):
    """Bars on a linear scale, dots on a log scale, curves over lengths on two, or areas on one another over time."""

    title: str
    kind: Literal["bars", "dots", "curves", "areas"]
    scale: Scale
    axis: str  # what the values are
    marks: Sequence[Mark] = ()  # of areas, each is a span of time, so many moments long
    lengths: Sequence[int] = ()
    series: Sequence[Series] = ()
    level: Mark | None = None  # a line to stay below
    part: str = ""  # what is hatched

    @property
    def base(self) -> int:
        """Ticks of a log scale stand at powers of this."""
        return 2 if self.scale == "memory" else 10

    @property
    def drawn(self) -> list[int]:
        """Every value that there is something to draw for."""
        return [value for each in self.series for value in each.values if value] or [
            mark.value for mark in self.marks if mark.value]

    def amount(self, value: int) -> str:
        """A value for people."""
        return str(SCALES[self.scale](value))


class Charts(NamedTuple):
    """Charts of the block above them, for pages and figures, made where they are drawn."""

    make: Callable[[], Iterable[Chart]]
    level: int = 0


class Derivation(NamedTuple):
    """A formula, step by step, and what it comes to. ``given``: what holds in it. ``unit``: of the total."""

    title: str
    given: Sequence[Formula]
    steps: Sequence[Cell]
    total: Number
    unit: str
    estimate: bool = False
    level: int = 0


class Notes(NamedTuple):
    """Sentences. ``short``: in one, for a terminal that is not asked for all; ``lead`` stands above all of them."""

    title: str
    items: Sequence[Cell]
    short: str | None = None
    lead: str = ""
    style: Style = "dim"
    level: int = 0


class Data(NamedTuple):
    """The rows of a spreadsheet: numbers as plain integers, None for what does not exist."""

    columns: Sequence[str]
    rows: Iterable[Sequence[object]]
    level: int = 0


Block = Title | Facts | Table | Charts | Derivation | Notes | Data


def fields(part: Any, names: Iterable[str], by: str = ", ") -> list[object]:
    """Fields of a part for a spreadsheet; several values are one text."""
    def cell(value: Any) -> object:
        if isinstance(value, dict):
            value = tuple(f"{name}={each}" for name, each in value.items())
        return by.join(map(str, value)) if isinstance(value, tuple) else value

    return [cell(getattr(part, name)) for name in names]


def shape(sizes: Iterable[int]) -> str:
    """``4 × 128``, or that it has no dimension."""
    return " × ".join(map(units.exact, sizes)) or "scalar"


def joined(cells: Iterable[Cell], by: str = ", ") -> tuple[Cell, ...]:
    """Cells in a row, with ``by`` between them."""
    return tuple(part for i, cell in enumerate(cells) for part in ((by, cell) if i else (cell,)))


def plain(cell: Cell, notation: str = "unicode", *, exact: bool = False) -> str:
    """A cell as text, its numbers for people or to the last digit."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Number):
        return cell.digits if exact else cell.human
    if cell is None:
        return units.MISSING
    if isinstance(cell, Bar | Spark):
        return ""
    if isinstance(cell, tuple):
        return "".join(plain(part, notation, exact=exact) for part in cell)
    return str(getattr(cell, notation))


def printable(raw: str) -> str:
    """A name from a file must not be able to send the terminal commands or break the layout."""
    return raw if raw.isprintable() else "".join(c if c.isprintable() else "?" for c in raw)
