"""Blocks as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from txcalc.show.blocks import (
    Block,
    Cell,
    Column,
    Derivation,
    Facts,
    Notes,
    Number,
    Row,
    Table,
    Title,
    plain,
    printable,
)


def write(blocks: Iterable[Block], notation: str = "unicode", detail: int = 1) -> str:
    """The blocks as Markdown; formulas in ``notation``, LaTeX between dollar signs."""
    parts = (part for block in blocks if block.level <= detail for part in _parts(block, notation))
    return "\n\n".join(filter(None, parts)) + "\n"


def _parts(block: Any, notation: str) -> Iterator[str]:
    if isinstance(block, Title):
        yield f"# {escaped(block.heading)}"
        for parts in (block.about, *(parts for parts, _ in block.lines)):
            yield " · ".join(escaped(part) for part in parts if part)
    elif isinstance(block, Notes):
        yield "\n".join(f"- {_inline(item, notation)}" for item in block.items)
    elif isinstance(block, Derivation):
        given = ", ".join(_inline(formula, notation) for formula in block.given)
        steps = [_inline(step, notation) for step in block.steps]
        human = f" ({escaped(block.total.human)})"
        yield f"{block.title.capitalize()}{f' with {given}' if given else ''}:"
        yield " \\\n= ".join([*steps, f"**{block.total.digits}** {block.unit}{human}"])
    elif isinstance(block, Table | Facts):
        t = block.table() if isinstance(block, Facts) else block
        if t.rows:
            yield f"## {escaped(t.title)}" if t.title and t.title != t.columns[0].title and t is block else ""
            yield _table(t, notation)


def _table(t: Table, notation: str) -> str:
    columns = [column for column in t.columns if column.files and column.kind != "bar"]
    marks = ["---:" if column.kind == "n" else ":---" for column in columns]
    rows = [[_cell(row, i, column, notation) for i, column in enumerate(t.columns) if column in columns]
            for row in (*t.rows, *([t.foot] if t.foot else [])) if row.kind != "echo"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([escaped(c.long) for c in columns], marks, *rows))


def _cell(row: Row, i: int, column: Column, notation: str) -> str:
    if row.kind == "head":
        return f"**{escaped(plain(row.cells[0]))}**" if i == 0 else ""
    shown = _inline(row.cells[i], notation, exact=bool(column.exact))
    return f"**{shown}**" if row.style == "bold" and shown else f"– {shown}" if i == 0 and row.kind == "sub" else shown


def _inline(cell: Cell, notation: str, *, exact: bool = False) -> str:
    if isinstance(cell, tuple) and not isinstance(cell, Number) and not hasattr(cell, "least"):
        return "".join(_inline(part, notation, exact=exact) for part in cell)
    if notation == "latex" and hasattr(cell, "latex"):
        return f"${cell.latex}$"
    return escaped(plain(cell, exact=exact))


def escaped(raw: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\|*_`<>[]#~" else c for c in printable(raw))
