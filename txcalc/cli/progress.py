"""How far a long command has come, on a terminal's stderr only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

_PATIENCE: Final = 0.5
"""Seconds before anything is shown: most commands are done by then."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to be told ``(done, total)``; the line is wiped at the end, and on Ctrl-C."""
    began, shown = monotonic(), False
    terminal = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        nonlocal shown
        if terminal and monotonic() - began > _PATIENCE:
            shown = True
            sys.stderr.write(f"\r{done} of {total} {what}")
            sys.stderr.flush()

    try:
        yield tell
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
