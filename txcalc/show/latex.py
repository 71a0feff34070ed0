"""Blocks as a LaTeX fragment for a document that loads amsmath: tables, formulas, and notes as comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import txcalc
from txcalc.document import Part
from txcalc.show import blocks as b
from txcalc.show.terminal import Screen

_SPECIAL: Final = str.maketrans({
    **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}", "×": r"$\times$", "·": r"$\cdot$", "−": "$-$", "–": "--", "≤": r"$\le$",
    "→": r"$\to$", "²": "$^2$", "…": r"\dots{}", "ᵀ": r"$^{\top}$", "<": "$<$", ">": "$>$", "|": "$|$",
})


def write(document: Part, blocks: Iterable[b.Block], screen: Screen, detail: int) -> str:
    """The blocks as LaTeX; the program's version stands in the first comment."""
    return "\n".join(part for block in blocks if block.level <= detail for part in _parts(block))


def _parts(block: Any) -> Iterator[str]:
    if isinstance(block, b.Title):
        lines = (f"{block.heading}; made by txcalc {txcalc.__version__}", *block.below)
        yield "".join(f"% {b.printable(line)}\n" for line in lines)
    elif isinstance(block, b.Notes):
        yield "".join(f"% {b.printable(b.plain(item))}\n" for item in block.items)
    elif isinstance(block, b.Derivation):
        given = ", ".join(_inline(formula) for formula in block.given)
        steps = [_math(step) for step in (*block.steps, block.total._replace(scale="exact"))]
        yield (f"With {given}:\n" if given else "") + "\\begin{align*}\n  & " + " \\\\\n  & = ".join(steps) + (
            "\n\\end{align*}\n")
    elif isinstance(block, b.Table | b.Facts):
        t = block.table() if isinstance(block, b.Facts) else block
        if t.rows:
            yield _table(t.filed())


def _table(t: b.Table) -> str:
    aligns = "".join({"n": "r", "words": "p{0.3\\linewidth}"}.get(column.kind, "l") for column in t.columns)
    head = " & ".join(_text(column.long) for column in t.columns)
    body = "\n".join(f"  {_row(row, t.columns)}" for row in t.rows)
    foot = f" \\hline\n  {_row(t.foot, t.columns)}" if t.foot else ""
    title = f"% {b.printable(t.title)}\n" if t.title else ""
    return f"{title}\\begin{{tabular}}{{{aligns}}}\n  {head} \\\\ \\hline\n{body}{foot}\n\\end{{tabular}}\n"


def _row(row: b.Row, columns: Sequence[b.Column]) -> str:
    if row.kind == "head":
        return f"\\multicolumn{{{len(columns)}}}{{l}}{{\\textbf{{{_text(b.plain(row.cells[0]))}}}}} \\\\"
    cells = [_inline(cell, exact=bool(column.exact)) for cell, column in zip(row.cells, columns, strict=True)]
    return ("\\quad " if row.kind == "sub" else "") + " & ".join(cells) + " \\\\"


def _inline(cell: b.Cell, *, exact: bool = False) -> str:
    """A cell in running text: formulas and whole numbers between dollar signs."""
    if isinstance(cell, b.Number):
        return f"${_math(cell)}$" if exact or cell.scale == "exact" else _text(cell.human)
    if isinstance(cell, tuple) and not isinstance(cell, b.Bar):
        return "".join(_inline(part, exact=exact) for part in cell)
    return f"${cell.latex}$" if hasattr(cell, "latex") else _text(b.plain(cell))


def _math(cell: b.Cell) -> str:
    """A cell within a formula."""
    if isinstance(cell, b.Number | str):
        return b.plain(cell, exact=True).replace(",", "{,}").replace("−", "-")
    if isinstance(cell, tuple):
        return "".join(map(_math, cell))
    return str(cell.latex)


def _text(raw: str) -> str:
    return b.printable(raw).translate(_SPECIAL)
