"""Comparisons in several processes at a time: one model's rows need nothing of another's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")


def cores() -> int:
    """The CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    run: Callable[[Given], Found], groups: Sequence[Mapping[int, Given]], jobs: int
) -> Iterator[tuple[int, Found]]:
    """Yield ``(number, result)`` of every numbered item, as its group is done.

    A group runs in one process, so that its items share what ``run`` remembers. ``run``, items and results must
    pickle, but for one job, which runs here. Raises what ``run`` raises.
    """
    if jobs == 1:
        for group in groups:
            yield from ((number, run(item)) for number, item in group.items())
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _prepare, (max(1, cores() // jobs),)) as pool:
        try:
            for done in as_completed([pool.submit(_each, run, group) for group in groups]):
                yield from done.result().items()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(threads: int) -> None:
    """Share the cores out, and end at once on Ctrl-C, of which the first process tells."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)


def _each(run: Callable[[Given], Found], group: Mapping[int, Given]) -> dict[int, Found]:
    return {number: run(item) for number, item in group.items()}
