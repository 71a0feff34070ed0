"""Turns of like layers, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from txcalc.trace.record import Trace
from txcalc.trace.sizes import same
from txcalc.trace.tensors import Number, Tensor


def turns(
    t: Trace, name: str, times: Number, body: Callable[[Tensor], Tensor], x: Tensor, *, shared: bool, each: int = 1,
    unused: Number = 0, within: Literal["layer", ""] = "", apart: bool = False,
) -> Tensor:
    """Turns of ``each`` as many layers, on one set of weights if ``shared``; several turns together where those are
    what is recomputed, and fewer in the end."""
    copies = 1 if shared else times
    if t.workload.together is None:
        return t.loop(name, times, body, x, copies=copies, unused=unused, within=within, apart=apart)
    together = t.workload.together // each
    whole = times // together

    def own(runs: Number, first: Number) -> Number:
        return runs if not shared else 1 if same(first, 0) or t.size(whole) == 0 else 0

    def part(length: Number, first: Number, x: Tensor) -> Tensor:
        with t.frame(x), t.again():
            return t.loop(name, length, body, x, copies=own(length, first), within=within, first=first)

    for count, length, first in ((whole, together, 0), (1, times - whole * together, whole * together)):
        if t.size(count * length) != 0:
            x = t.loop("", count, partial(part, length, first), x, copies=own(count, first), path=t.path(name),
                       first=0 if same(first, 0) else whole)
    return x
