"""A model that was asked for, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from txcalc.spec.model import Model
    from txcalc.spec.yaml import Document
_ASKED = ", asked for as "

OLDER_SCHEMA: Final = "txcalc/report/v1"
"""Reports that were written before today's."""


class Loaded(NamedTuple):
    """A valid model; ``source`` is what a report calls the place it was read from.

    Of a configuration, ``notes`` are what its reader should know, and ``dtype`` is what it says its weights are in.
    ``report`` is the whole document of a report, whose model this is.
    """

    model: Model
    source: str
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dtype: str | None = None
    report: Document | None = None


def as_asked(label: str, name: str, asked: str) -> str:
    """How a report calls a preset: with both names where it was asked for by another."""
    return label if asked == name else f"{label}{_ASKED}{asked}"


def is_older(data: Mapping[str, Any]) -> bool:
    """Whether it was written when reports were v1; what had no second version since names the workload's device."""
    workload = data.get("workload")
    return data.get("schema") == OLDER_SCHEMA or (isinstance(workload, Mapping) and "device" in workload)
