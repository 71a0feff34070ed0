"""Progress of a long command, on a terminal's stderr only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE: Final = 0.5
"""Seconds before anything is shown: most commands are done by then."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to be told ``(done, total)``; the line is wiped at the end, and on Ctrl-C."""
    began, there = monotonic(), sys.stderr.isatty()
    bar: Progress | None = None

    def tell(done: int, total: int) -> None:
        nonlocal bar
        if bar is None and there and monotonic() - began > _PATIENCE:
            bar = _begun(what)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done, total=total)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()


def _begun(what: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (MofNCompleteColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True, no_color=True), transient=True)
    bar.add_task(what, total=None)
    bar.start()
    return bar
