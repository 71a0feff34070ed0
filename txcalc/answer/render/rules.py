"""The counting rules in words, under the numbers they made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from txcalc.answer.conventions import Convention
from txcalc.answer.report import Report

_SHORT: Final = ("flops", "recurrence", "masked", "latents", "distances", "images")


def short(found: Sequence[Convention]) -> str:
    """The rules that change the numbers most, in one sentence."""
    return "; ".join(rule.text for rule in found if rule.id in _SHORT)


def full(found: Sequence[Convention]) -> list[str]:
    """Every rule, with the option that changes it."""
    return [f"{rule.text} ({rule.flag})" if rule.flag else rule.text for rule in found]


def legend(report: Report) -> str:
    """What the marks mean."""
    found = report.totals.quantities().values()
    estimate = any(quantity.kind == "estimate" for quantity in found if quantity is not None)
    return "=  exact for these assumptions" + ("   ~  estimate" if estimate else "")
