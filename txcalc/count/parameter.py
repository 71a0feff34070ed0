"""A weight that is trained, as optimizers see it."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from txcalc.trace.record import Op


class Parameter(NamedTuple):
    """A weight that is trained, or as many alike as there are ``copies``: an element has ``width`` bytes.
    ``head``: elements of one of attention's heads, of a square projection."""

    op: Op
    path: str
    name: str
    shape: tuple[int, ...]
    width: int
    copies: int
    head: int = 1

    @property
    def elements(self) -> int:
        """Of one copy."""
        return prod(self.shape)
