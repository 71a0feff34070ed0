"""A report as CSV for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from txcalc.answer.report import Component, Report

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def components(report: Report) -> str:
    """One row per component, numbers as plain integers, empty where there is none.

    There is no row of totals: every column adds up to its total, and a sum over the file stays right.
    """
    columns = Component.names()
    return rows(columns, ([getattr(part, name) for name in columns] for part in report.components))


def rows(columns: Sequence[str], values: Iterable[Sequence[object]]) -> str:
    """A header and its rows; None is an empty cell.

    Text that a spreadsheet would run as a formula, such as a model called ``=cmd()``, has an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_harmless(value) for value in row] for row in values)
    return out.getvalue()


def _harmless(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # which the writer would not put in quotes
    return f"'{text}" if value.startswith(_FORMULA) else text
