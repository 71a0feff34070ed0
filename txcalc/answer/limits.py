"""From which length a quantity no longer fits into a device: found by search over the counts, exact to one position."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from txcalc import units
from txcalc.answer.devices import Device
from txcalc.answer.stretch import Policy, Run, Stretched
from txcalc.count import activations, kv_cache, scores
from txcalc.count.weights import is_known, weight_bytes
from txcalc.document import Part
from txcalc.spec.errors import SpecError

LONGEST: Final = 2**40
"""Lengths beyond this are not searched."""


class Limit(Part):
    """Where one quantity alone fills the device's memory.

    ``largest_fits``: the longest length that fits, null if not even the shortest does. ``first_not``: the next
    one, null if every length up to 2^40 fits; ``bytes_first_not``: what it would take there.
    """

    id: str
    text: str
    policy: Literal["eager", "flash"] | None
    largest_fits: int | None
    first_not: int | None
    bytes_first_not: int | None


class Reserve(Part):
    """Memory of a device that no tensor can have. ``source``: where the figure was read, or the option that gave it."""

    bytes: int
    source: str


DEFAULT_RESERVE: Final = Reserve(bytes=92 * 2**30 // 100, source=(
    "a CUDA context with all kernels loaded, PyTorch 2.1 on an A100: github.com/stas00/ml-engineering, "
    "training/performance"))


def reserved(size: str | None, device: Device | None) -> Reserve:
    """Bytes set aside of a device: a ``size`` such as ``1GiB`` or ``5%``, or the default. Raises ``SpecError``."""
    if size is None:
        return DEFAULT_RESERVE
    if device is None:
        raise SpecError("needs a --device that it is a part of", field="reserve")
    part = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,9}))?%", size.strip())
    try:
        digits = part[2] or "" if part else ""
        found = units.parse_bytes(size) if part is None else (
            int(part[1] + digits) * device.memory_bytes // 10 ** (2 + len(digits)))
    except ValueError as error:
        raise SpecError(f"{error}, or 5%", field="reserve") from None
    if found >= device.memory_bytes:
        raise SpecError(f"{units.memory(found)} leave nothing of {device.title}", field="reserve")
    return Reserve(bytes=found, source=f"--reserve {size.strip()}")


class _Quantity(NamedTuple):
    id: str
    text: str
    policy: Policy | None
    size: Callable[[Run], int]


def limits(model: Stretched, path: str, memory: int, reserve: int = 0) -> tuple[Limit, ...]:
    """Every quantity that grows with the length, alone against ``memory`` bytes; ``path``: the layer that is shown.

    Weights and cache are a whole run, so ``reserve`` bytes are set aside beside them.
    """
    return tuple(_limit(quantity, model, memory) for quantity in _quantities(model, path, reserve))


def _quantities(model: Stretched, path: str, reserve: int) -> Iterator[_Quantity]:
    run = model.at(model.length(1))
    yield _Quantity("score-matrix", "one eager score matrix", "eager",
                    lambda run: scores.score_matrix_bytes(run.layer("eager", path)))
    yield _Quantity("peak-scores", "one layer's eager attention at its peak", "eager",
                    lambda run: scores.peak_score_bytes(run.layer("eager", path)))
    if run.workload.keeps:
        yield _Quantity("kept-scores", "all score matrices kept for backward, eager", "eager",
                        lambda run: activations.score_bytes(run.eager))
        yield _Quantity("activations-eager", "all activations kept for backward, eager", "eager",
                        lambda run: activations.activation_bytes(run.eager))
        yield _Quantity("activations-flash", "all activations kept for backward, flash", "flash",
                        lambda run: activations.activation_bytes(run.flash))
    if kv_cache.kv_cache_bytes(run.flash) is not None:
        yield _Quantity("kv-cache", "the KV cache", None, _cache)
    if kv_cache.kv_cache_bytes(run.flash) is not None and is_known(run.flash):
        fixed = weight_bytes(run.flash) + reserve
        text = f"weights, KV cache and {units.memory(reserve)} reserve" if reserve else "weights and KV cache"
        yield _Quantity("weights-kv-cache", text, None, lambda run: fixed + _cache(run))


def _cache(run: Run) -> int:
    return int(kv_cache.kv_cache_bytes(run.flash) or 0)


def _limit(quantity: _Quantity, model: Stretched, memory: int) -> Limit:
    def size(step: int) -> int:
        return quantity.size(model.at(model.length(step)))

    step = first_above(size, memory, LONGEST)
    return Limit(
        id=quantity.id,
        text=quantity.text,
        policy=quantity.policy,
        largest_fits=model.length(LONGEST if step is None else step - 1) if step != 1 else None,
        first_not=None if step is None else model.length(step),
        bytes_first_not=None if step is None else size(step),
    )


def first_above(size: Callable[[int], int], bound: int, last: int) -> int | None:
    """The least step from 1 to ``last`` whose size exceeds ``bound``; sizes never shrink. None if there is none.

    Sizes are nearly parabolas, so that the next step is tried where one through the nearest known sizes meets the
    bound, and every third time somewhat further than that.
    """
    known = {last: size(last), 1: size(1)}
    if known[last] <= bound:
        return None
    if known[1] > bound:
        return 1
    low, high, tried = 1, last, 0
    while high - low > 1:
        beyond = min(2**tried, (high - low) // 2)
        if tried % 3 < 2:
            step = min(max(_meets(known, low, high, bound), low + 1), high - 1)
        else:
            step = low + beyond if step == low else high - beyond
        known[step] = size(step)
        low, high = (step, high) if known[step] <= bound else (low, step)
        tried += 1
    return high


def _meets(known: dict[int, int], low: int, high: int, bound: int) -> int:
    """The last step up to ``high`` where the parabola through the three known sizes nearest to it is in bounds."""
    a, b, *others = sorted(known, key=lambda step: (step not in (low, high), abs(step - low)))
    slope = Fraction(known[b] - known[a], b - a)
    bend = Fraction(0)
    if others:
        c = others[0]
        bend = (Fraction(known[c] - known[a], c - a) - slope) / (c - b)

    def above(step: int) -> bool:
        return known[a] + (step - a) * (slope + bend * (step - b)) > bound

    return bisect_left(range(low, high), True, key=above) + low - 1
