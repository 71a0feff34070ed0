"""Every answer's blocks and every format's writer: JSON and YAML from the document itself, all others from blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from txcalc.document import Part
    from txcalc.show.blocks import Block
    from txcalc.show.terminal import Screen

ANSWERS: Final = {
    "Report": "report", "View": "report", "Comparison": "comparison", "Diff": "difference", "AttentionCurve": "curve",
    "MixerTable": "mixer_table", "Explanation": "explanation", "Validations": "validation", "Listing": "catalogue",
    "Memory": "memory", "Devices": "devices", "Capacity": "capacity", "Reproduction": "reproduction",
}
"""Of every answer's class, the module here that says how it looks."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def blocks(answer: Any) -> Iterator[Block]:
    """The blocks of an answer: a document, a view of one, or one with what was filled in."""
    parts = answer if type(answer).__name__ == "Answer" else (answer,)
    found: Iterator[Block] = import_module(f"txcalc.show.{ANSWERS[type(parts[0]).__name__]}").blocks(*parts)
    return found


def write(document: Part, blocks: Iterable[Block], form: str, screen: Screen, detail: int = 1) -> str:
    """An answer in a format. ``detail``: 0 the numbers alone, 1 as usual, 2 and 3 all behind them.

    Only the table looks at the width of the screen. Raises ``SpecError`` for what cannot be written as YAML.
    """
    how = FORMATS[form].write
    writer: Writer = import_module(f"txcalc.show.{how}").write if isinstance(how, str) else how
    return writer(document, blocks, screen, detail)


def json(data: dict[str, Any]) -> str:
    """The document as JSON, keys in the document's order."""
    from json import dumps

    return dumps(data, indent=2, ensure_ascii=False) + "\n"


def yaml(data: dict[str, Any]) -> str:
    """The document as YAML that reads back equal. Raises ``SpecError`` for a number of more digits than YAML takes."""
    from txcalc.spec.errors import SpecError
    from txcalc.spec.yaml import dump_yaml

    try:
        return dump_yaml(data)
    except ValueError as error:
        raise SpecError(f"cannot be written as YAML: {error}; use JSON") from None


def _csv(document: Part, blocks: Iterable[Block], *_: Any) -> str:
    """The rows of the answer's data under its columns; None is an empty cell.

    Text that a spreadsheet would run as a formula, such as a model called ``=cmd()``, has an apostrophe before it.
    """
    import csv
    import io

    from txcalc.show.blocks import Data

    [data] = [block for block in blocks if isinstance(block, Data)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(data.columns)
    writer.writerows([_harmless(value) for value in row] for row in data.rows)
    return out.getvalue()


def _harmless(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # which the writer would not put in quotes
    return f"'{text}" if value.startswith(_FORMULA) else text


Writer = Callable[["Part", "Iterable[Block]", "Screen", int], str]


class Format(NamedTuple):
    """A format: its writer, or the module here whose ``write`` it is, and the suffixes of its files.

    ``machine``: the document alone is written, without blocks. ``whole``: all that is behind the numbers is in it.
    """

    write: Writer | str
    suffixes: tuple[str, ...]
    machine: bool = False
    whole: bool = False


FORMATS: Final[Mapping[str, Format]] = {
    "table": Format("terminal", (".txt",)),
    "json": Format(lambda document, *_: json(document.to_data()), (".json",), machine=True),
    "yaml": Format(lambda document, *_: yaml(document.to_data()), (".yaml", ".yml"), machine=True),
    "csv": Format(_csv, (".csv",)),
    "md": Format("markdown", (".md",)),
    "html": Format("html", (".html", ".htm"), whole=True),
    "latex": Format("latex", (".tex",)),
}
SUFFIXES: Final = {suffix: name for name, each in FORMATS.items() for suffix in each.suffixes}
