"""A report as CSV for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from txcalc.answer.report import Component, Report


def components(report: Report) -> str:
    """One row per component, numbers as plain integers, empty where there is none.

    There is no row of totals: every column adds up to its total, and a sum over the file stays right.
    """
    columns = Component.names()
    return rows(columns, ([getattr(part, name) for name in columns] for part in report.components))


def rows(columns: Sequence[str], values: Iterable[Sequence[object]]) -> str:
    """A header and its rows; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(values)
    return out.getvalue()
