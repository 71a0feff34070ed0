"""``--plot FILE``: the answer as a figure, beside what is printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from txcalc.cli.options import CommonOptions, OutputOptions
    from txcalc.show.blocks import Block

PlotOption = Annotated[
    str | None, typer.Option("--plot", metavar="FILE", show_default=False,
                             help="Draw a figure as well: .svg, .png or .pdf. Needs matplotlib.")
]
_FORMS: Final = ("svg", "png", "pdf")


def check(path: str | None, output: OutputOptions) -> None:
    """Refuse what could not be drawn in the end, before anything is counted.

    Raises ``SpecError`` for a file of another kind, ``MissingPackage`` without matplotlib.
    """
    if path is None:
        return
    from importlib.util import find_spec

    from txcalc.cli import write
    from txcalc.spec.errors import MissingPackage, SpecError

    if _form(path) not in _FORMS:
        raise SpecError(f"a figure is one of {', '.join(f'.{form}' for form in _FORMS)}, got {path!r}", field="plot")
    if find_spec("matplotlib") is None:
        raise MissingPackage("a figure needs matplotlib", "matplotlib")
    write.check_target(output._replace(output=path))


def save(blocks: Iterable[Block], path: str | None, output: OutputOptions, common: CommonOptions) -> None:
    """Draw the answer's charts in the format of the file's suffix, and write them whole or not at all."""
    if path is None:
        return
    from txcalc.cli import write
    from txcalc.show import plot

    write.write(plot.write(blocks, _form(path)), output._replace(output=path), common)


def _form(path: str) -> str:
    return path.rpartition(".")[2].lower()
