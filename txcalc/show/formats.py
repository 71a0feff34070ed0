"""Every format and its writer: JSON and YAML from the document itself, all others from the blocks of its answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from txcalc.document import Part
    from txcalc.show.blocks import Block
    from txcalc.show.terminal import Screen

Format = Literal["table", "json", "yaml", "csv", "md", "html", "latex"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SUFFIXES: Final[dict[str, Format]] = {
    ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".csv": "csv", ".md": "md", ".html": "html",
    ".htm": "html", ".tex": "latex", ".txt": "table",
}


def write(document: Part, blocks: Iterable[Block], form: Format, screen: Screen, detail: int = 1) -> str:
    """An answer in a format. ``detail``: 0 the numbers alone, 1 as usual, 2 and 3 all behind them.

    Only the table looks at the width of the screen. Raises ``SpecError`` for what cannot be written as YAML.
    """
    if form == "table":
        from txcalc.show import terminal

        return terminal.write(blocks, screen, detail)
    if form in ("json", "yaml"):
        from txcalc.show import data

        return (data.json if form == "json" else data.yaml)(document.to_data())
    if form == "csv":
        from txcalc.show import csv

        return csv.write(blocks)
    if form == "md":
        from txcalc.show import markdown

        return markdown.write(blocks, screen.notation, detail)
    if form == "latex":
        import txcalc
        from txcalc.show import latex

        return latex.write(blocks, f"txcalc {txcalc.__version__}", detail)
    from txcalc.show import html

    return html.write(blocks, document)
