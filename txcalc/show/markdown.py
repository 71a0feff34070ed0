"""Blocks as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from txcalc.document import Part
from txcalc.show import blocks as b
from txcalc.show.terminal import Screen


def write(document: Part, blocks: Iterable[b.Block], screen: Screen, detail: int) -> str:
    """The blocks as Markdown; formulas in the screen's notation, LaTeX between dollar signs."""
    parts = (part for block in blocks if block.level <= detail for part in _parts(block, screen.notation))
    return "\n\n".join(filter(None, parts)) + "\n"


def _parts(block: Any, notation: str) -> Iterator[str]:
    if isinstance(block, b.Title):
        yield from (f"# {escaped(block.heading)}", *map(escaped, block.below))
    elif isinstance(block, b.Notes):
        yield "\n".join(f"- {_inline(item, notation)}" for item in block.items)
    elif isinstance(block, b.Derivation):
        given = ", ".join(_inline(formula, notation) for formula in block.given)
        steps = [_inline(step, notation) for step in block.steps]
        human = f" ({escaped(block.total.human)})"
        yield f"{block.title.capitalize()}{f' with {given}' if given else ''}:"
        yield " \\\n= ".join([*steps, f"**{block.total.digits}** {block.unit}{human}"])
    elif isinstance(block, b.Table | b.Facts):
        t = block.table() if isinstance(block, b.Facts) else block
        if t.rows:
            yield f"## {escaped(t.title)}" if t.title and t.title != t.columns[0].title and t is block else ""
            yield _table(t.filed(), notation)


def _table(t: b.Table, notation: str) -> str:
    marks = ["---:" if column.kind == "n" else ":---" for column in t.columns]
    rows = [_row(row, t.columns, notation) for row in (*t.rows, *([t.foot] if t.foot else []))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([escaped(c.long) for c in t.columns], marks, *rows))


def _row(row: b.Row, columns: Sequence[b.Column], notation: str) -> list[str]:
    if row.kind == "head":
        return [f"**{escaped(b.plain(row.cells[0]))}**", *[""] * (len(columns) - 1)]
    first, *rest = [_inline(cell, notation, exact=bool(column.exact))
                    for cell, column in zip(row.cells, columns, strict=True)]
    if row.style == "bold":
        return [shown and f"**{shown}**" for shown in (first, *rest)]
    return [f"– {first}" if row.kind == "sub" else first, *rest]


def _inline(cell: b.Cell, notation: str, *, exact: bool = False) -> str:
    if isinstance(cell, tuple) and not isinstance(cell, b.Number) and not hasattr(cell, "least"):
        return "".join(_inline(part, notation, exact=exact) for part in cell)
    if notation == "latex" and hasattr(cell, "latex"):
        return f"${cell.latex}$"
    return escaped(b.plain(cell, exact=exact))


def escaped(raw: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\|*_`<>[]#~" else c for c in b.printable(raw))
