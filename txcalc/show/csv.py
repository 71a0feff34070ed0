"""Rows for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Final

from txcalc.show.blocks import Block, Data

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def write(blocks: Iterable[Block]) -> str:
    """The rows of the answer's data under its columns; None is an empty cell.

    Text that a spreadsheet would run as a formula, such as a model called ``=cmd()``, has an apostrophe before it.
    """
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
