"""A model that was asked for, and where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from txcalc.spec.files import Document
    from txcalc.spec.model import Model


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
