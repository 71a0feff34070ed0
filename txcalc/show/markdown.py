"""Blocks as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
            yield _table(t.filed(), notation)


def _table(t: Table, notation: str) -> str:
    marks = ["---:" if column.kind == "n" else ":---" for column in t.columns]
    rows = [_row(row, t.columns, notation) for row in (*t.rows, *([t.foot] if t.foot else []))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([escaped(c.long) for c in t.columns], marks, *rows))


def _row(row: Row, columns: Sequence[Column], notation: str) -> list[str]:
    if row.kind == "head":
        return [f"**{escaped(plain(row.cells[0]))}**", *[""] * (len(columns) - 1)]
    first, *rest = [_inline(cell, notation, exact=bool(column.exact))
                    for cell, column in zip(row.cells, columns, strict=True)]
    if row.style == "bold":
        return [shown and f"**{shown}**" for shown in (first, *rest)]
    return [f"– {first}" if row.kind == "sub" else first, *rest]


def _inline(cell: Cell, notation: str, *, exact: bool = False) -> str:
    if isinstance(cell, tuple) and not isinstance(cell, Number) and not hasattr(cell, "least"):
        return "".join(_inline(part, notation, exact=exact) for part in cell)
    if notation == "latex" and hasattr(cell, "latex"):
        return f"${cell.latex}$"
    return escaped(plain(cell, exact=exact))


def escaped(raw: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\|*_`<>[]#~" else c for c in printable(raw))
