"""From which length a quantity no longer fits into a device: found by search over the counts, exact to one position."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from txcalc import units
from txcalc.answer.devices import Device
from txcalc.answer.stretch import POLICIES, Policy, Stretched
from txcalc.count import activations, kv_cache, labels, layer, scores
from txcalc.count.weights import is_known, weight_bytes
from txcalc.document import Part
from txcalc.spec.errors import SpecError, of_field
from txcalc.trace.record import Trace

LONGEST: Final = 2**40
"""Lengths beyond this are not searched."""
_TRIES: Final = 4
"""Sizes that are counted before a search believes them alone."""


class Limit(Part):
    """The length or batch at which one quantity alone fills the device's memory.

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
    digits = part[2] or "" if part else ""
    with of_field("reserve", "{}, or 5%"):
        found = units.parse_bytes(size) if part is None else (
            int(part[1] + digits) * device.memory_bytes // 10 ** (2 + len(digits)))
    if found >= device.memory_bytes:
        raise SpecError(f"{units.memory(found)} leave nothing of {device.title}", field="reserve")
    return Reserve(bytes=found, source=f"--reserve {size.strip()}")


class _Quantity(NamedTuple):
    id: str
    text: str
    policy: Policy | None
    size: Callable[[Trace], int]


def limits(model: Stretched, path: str, memory: int, reserve: int = 0) -> tuple[Limit, ...]:
    """Every quantity that grows with the length, alone against ``memory`` bytes; ``path``: the layer that is shown.

    Weights and cache are a whole run, so ``reserve`` bytes are set aside beside them.
    """
    return tuple(_limit(quantity, model, memory) for quantity in _quantities(model, path, reserve))


def _quantities(model: Stretched, path: str, reserve: int) -> Iterator[_Quantity]:
    def alone(size: Callable[[Trace], int]) -> Callable[[Trace], int]:
        return lambda t: size(layer.alone(t, path))

    t = model.at(model.length(1)).trace()
    yield _Quantity("score-matrix", "one eager score matrix", "eager", alone(scores.score_matrix_bytes))
    yield _Quantity("peak-scores", "one layer's eager attention at its peak", "eager", alone(scores.peak_score_bytes))
    if t.workload.keeps:
        yield _Quantity("kept-scores", "all score matrices kept for backward, eager", "eager", activations.score_bytes)
        for policy in POLICIES:
            yield _Quantity(f"activations-{policy}", f"all activations kept for backward, {policy}", policy,
                            activations.activation_bytes)
    if kv_cache.kv_cache_bytes(t) is None:
        return
    yield _Quantity("kv-cache", f"the {labels.KV_CACHE}", None, _cache)
    if is_known(t):
        fixed = weight_bytes(t) + reserve
        own, aside = labels.KV_CACHE, units.memory(reserve)
        text = f"weights, {own} and {aside} reserve" if reserve else f"weights and {own}"
        yield _Quantity("weights-kv-cache", text, None, lambda t: fixed + _cache(t))


def _cache(t: Trace) -> int:
    return int(kv_cache.kv_cache_bytes(t) or 0)


def _limit(quantity: _Quantity, model: Stretched, memory: int) -> Limit:
    def size(step: int) -> int:
        return quantity.size(model.at(model.length(step)).trace(quantity.policy or "flash"))

    step = first_above(size, memory, LONGEST)
    return Limit(
        id=quantity.id,
        text=quantity.text,
        policy=quantity.policy,
        largest_fits=model.length(LONGEST if step is None else step - 1) if step != 1 else None,
        first_not=None if step is None else model.length(step),
        bytes_first_not=None if step is None else size(step),
    )


def first_above(
    size: Callable[[int], int | Sequence[int]], bound: int, last: int, near: int = 1,
    about: Callable[[], Callable[[int], float] | None] | None = None,
) -> int | None:
    """The least step from 1 to ``last`` whose size exceeds ``bound``; sizes never shrink. None if there is none.

    Sizes, or each of several of which the largest counts, are nearly parabolas, so that the next step is tried where
    one through the nearest known sizes meets the bound; where that gets no further, beyond it. ``near``: a step to
    begin with. ``about``: what sizes are nearly by what is known now, in place of parabolas.
    """
    known: dict[int, Sequence[int]] = {}
    low, high, stuck = 0, last + 1, 0

    def take(step: int) -> None:
        nonlocal low, high
        found = size(step)
        known[step] = (found,) if isinstance(found, int) else found
        low, high = (step, high) if max(known[step]) <= bound else (low, step)

    nearly = None if about is None else about()
    if nearly is not None:
        near = _meets(nearly, bound, low, high)
    if low < near < high:
        take(near)
    if nearly is None:
        take(last if low or not known else 1)
    while high - low > 1:
        nearly = about() if about is not None and len(known) < _TRIES else None
        step = _meets(nearly or _parabolas(known, low, high), bound, low, high)
        further = min(2**stuck, (high - low) // 2)
        stuck = stuck + 1 if step in (low + 1, high - 1) else 0
        take(low + further if step == low + 1 else high - further if step == high - 1 else step)
    return high if high <= last else None


def _meets(size: Callable[[int], float | Fraction], bound: int, low: int, high: int) -> int:
    """The last step between at which the size is in bounds."""
    step = bisect_left(range(low, high), True, key=lambda step: size(step) > bound) + low - 1
    return min(max(step, low + 1), high - 1)


def _parabolas(known: Mapping[int, Sequence[int]], low: int, high: int) -> Callable[[int], float | Fraction]:
    """The largest of the parabolas through the three known sizes nearest to where the bound is met."""
    a, *others = sorted(known, key=lambda step: (step not in (low, high), abs(step - low)))
    parts = [_parabola([(step, known[step][i]) for step in (a, *others[:2])]) for i in range(len(known[a]))]
    return lambda step: max(size(step) for size in parts)


def _parabola(points: Sequence[tuple[int, int]]) -> Callable[[int], Fraction]:
    """A parabola, in Newton's form; a line where it would bend down, for no size shrinks in the end."""
    (a, size), *others = points
    slope = bend = Fraction(0)
    b = others[0][0] if others else a
    if others:
        slope = Fraction(others[0][1] - size, b - a)
    for c, other in others[1:]:
        bend = max(bend, (Fraction(other - size, c - a) - slope) / (c - b))
    return lambda step: size + (step - a) * (slope + bend * (step - b))


def solved(points: Sequence[Sequence[int]]) -> list[float]:
    """Factors of terms: rows of as many terms as there are rows, and their sum. Empty if rows depend on each other."""
    rows = [[*map(Fraction, row)] for row in points]
    for i in range(len(rows)):
        pivot = next((row for row in rows[i:] if row[i]), None)
        if pivot is None:
            return []
        rows.remove(pivot)
        rows.insert(i, [each / pivot[i] for each in pivot])
        rows = [row if k == i else [a - row[i] * b for a, b in zip(row, rows[i], strict=True)]
                for k, row in enumerate(rows)]
    return [float(row[-1]) for row in rows]
