"""A count next to the figure that a paper printed: does it round to the same digits?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from txcalc.answer.report import Totals
from txcalc.spec.model import Model, Published

_UNITS: Final = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)
}
_PRINTED: Final = re.compile(
    r"~?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<part>\d+))?(?:[eE]\+?(?P<power>\d{1,3}))?"
    rf" ?(?P<unit>{'|'.join(sorted(_UNITS, key=len, reverse=True))})(?: ?(?:FLOPs?|bytes|parameters|params))?"
)


@dataclass(frozen=True)
class PublishedRow:
    """One published figure and the count beside it."""

    quantity: str
    printed: str
    source: str
    counted: int | None  # None where the report has no such quantity
    relative_difference: float | None  # counted over printed, less 1
    rounds_equal: bool  # the count rounds to the printed digits
    note: str | None  # why it does not
    expected: int | None  # and what is counted then

    @property
    def as_noted(self) -> bool:
        """Tell whether the count is the one that ``note`` explains."""
        return self.note is not None and self.counted == self.expected


def published_value(printed: str) -> tuple[Fraction, Fraction]:
    """The value of a figure as printed, and the unit of its last digit: ``1.5 B`` is 1.5e9 to the nearest 0.1e9.

    A zero behind the decimal point is a digit (``175.0B``). One at the end of a whole number may be rounding and is
    taken for that, as long as two digits stay: ``350M`` is to the nearest 10 M, ``1,320 M`` too, ``10 B`` to 1 B.
    K and k are 1,000; KiB, MiB, GiB and TiB count in 1,024s. Raises ValueError for what is not such a figure.
    """
    match = _PRINTED.fullmatch(printed.strip())
    if match is None:
        raise ValueError(f"{printed!r} is not a figure such as 124 M, 1.5B, 2.38e21 or 36 KiB")
    digits = match["whole"].replace(",", "")
    part = match["part"] or ""
    scale = Fraction(_UNITS[match["unit"]] * 10 ** int(match["power"] or 0), 10 ** len(part))
    zeros = 0 if part else min(len(digits) - len(digits.rstrip("0")), max(len(digits) - 2, 0))
    return int(digits + part) * scale, 10**zeros * scale


def compare_published(model: Model, totals: Totals) -> tuple[PublishedRow, ...]:
    """Every figure published for the model beside the count of it, in the preset's order.

    Raises ValueError for a printed figure that cannot be read.
    """
    return tuple(_row(figure, totals) for figure in model.published)


def _row(figure: Published, totals: Totals) -> PublishedRow:
    total = getattr(totals, figure.quantity)
    counted = None if total is None else total.value
    value, unit = published_value(figure.printed)
    return PublishedRow(
        quantity=figure.quantity,
        printed=figure.printed,
        source=figure.source,
        counted=counted,
        relative_difference=float(counted / value - 1) if counted is not None and value else None,
        rounds_equal=counted is not None and 2 * abs(counted - value) <= unit,
        note=figure.difference,
        expected=figure.counted,
    )
