"""The memory of a whole training step in steady state, from the second step on, or of one pass of generation.

The step is PyTorch's usual loop: forward, loss, backward, ``optimizer.step()``, then ``zero_grad()``, which sets
gradients to none, and the loss goes. Weights and the optimizer's states are there all the time. A peak is the highest
of all moments, never a sum of parts. Buffers of modules are left out, and so is what a kernel allocates for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any, Final, NamedTuple

from txcalc.count import optimizers, weights
from txcalc.count.entries import Entry
from txcalc.count.lifetimes import Moment, Moments, every, moments
from txcalc.count.optimizers import Parameter
from txcalc.count.params import weight_shapes
from txcalc.count.peak import Amounts, Where, alive, found, highest
from txcalc.count.turns import Memory, Turns, count
from txcalc.count.unproved import INPUTS
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Tensor

CATEGORIES: Final = ("weights", "optimizer state", "gradients", "inputs", "cache", "saved", "transient")
"""What is alive, as the ``part`` of entries and the timeline have it."""


class Phase(NamedTuple):
    """A part of a step, the bytes of its highest moment with all that is resident, and what allocates then."""

    name: str
    peak_bytes: int
    at: str
    turns: Turns = ()


class Event(NamedTuple):
    """The bytes that are live, by category, after an operation has allocated, or others were freed (then no path)."""

    phase: str
    path: str
    live: dict[str, int]


def resident(trace: Trace) -> list[Entry]:
    """What is there before the step, by category (``part``)."""
    cache = alive(trace, ((0, False),)) if not trace.workload.keeps else ()
    return [*_resident(trace, parameters(trace)), *cache]


def phases(
    trace: Trace, *, in_place: bool = True, rounded: Callable[[int], int] = int
) -> tuple[Phase, ...]:
    """The peak of each phase: forward, loss (from its first operation on), backward, optimizer; or of a pass that
    generates. ``rounded``: bytes of a storage as an allocator counts them. Raises ``SpecError`` for what is not proved.
    """
    return tuple(Phase(each.name, each.bytes, each.at, each.turns) for each in _peaks(trace, in_place, rounded))


def at_peak(trace: Trace, *, in_place: bool = True) -> list[Entry]:
    """All that is alive at the highest moment, by category (``part``), what is resident first."""
    top = max(_peaks(trace, in_place), key=lambda each: each.bytes)
    entries = [*_resident(trace, parameters(trace)), *alive(trace, top.where, in_place=in_place)]
    return [*entries, *top.temporaries]


def events(trace: Trace, *, in_place: bool = True, turns: int | None = None) -> Iterator[Event]:
    """The timeline of the step: every moment at which what is live has changed, that before it first.

    ``turns``: of so many turns of each repeat at most, the first and the last among them.
    """
    base = Amounts(_by_part(_resident(trace, parameters(trace))))
    run = moments(trace, in_place=in_place, none=Amounts(), amount=partial(_category, trace))
    last = Amounts()
    for name, first, end in _split(trace, run):
        for moment in every(trace, run[first:end], base, turns):
            last = moment.live
            yield _event(name, moment.path, last)
    if trace.workload.phase == "training":
        for path, entries in optimizers.moments(parameters(trace)):
            yield _event("optimizer", path, last + Amounts(_by_part(entries)))
        yield _event("optimizer", "", base)


@lru_cache(maxsize=4)
def parameters(trace: Trace) -> list[Parameter]:
    """The weights that the backward pass makes gradients of."""
    made: dict[str, tuple[int, int]] = {}
    for entry in alive(trace, _END, groups=("gradients",)) if trace.workload.phase == "training" else ():
        _, often = made.get(entry.what, (0, 0))
        made[entry.what] = count(trace, entry.each), often + count(trace, entry.times)
    weighed = {path: (op, shape) for op in trace.ops for path, shape in weight_shapes(op).items()}
    return [Parameter(op, path, shape, size // prod(shape), often) for path, (op, shape) in weighed.items()
            for size, often in [made.get(f"gradient of {path}", (0, 0))] if often]


_END: Final[Where] = ((-1, False),)
"""The last moment of a run."""


class _Peak(NamedTuple):
    name: str
    bytes: int
    at: str
    where: Where
    temporaries: tuple[Entry, ...] = ()
    turns: Turns = ()


def _peaks(trace: Trace, in_place: bool, rounded: Callable[[int], int] = int) -> list[_Peak]:
    """The highest moment of each phase."""
    trained = parameters(trace)
    base = _total(_resident(trace, trained), rounded)
    run = moments(trace, in_place=in_place, number=partial(count, trace), amount=lambda memory: rounded(memory.bytes))
    peaks = []
    for name, first, end in _split(trace, run):
        live, where = highest(trace, run, first, end)
        moment = found(run, where)
        turns = tuple((path, count(trace, turn)) for path, turn in moment.turns)
        peaks.append(_Peak(name, base + live, moment.path, where, turns=turns))
    if trace.workload.phase == "training":
        at, entries = optimizers.highest(trained)
        live = base + found(run, _END).live + _total(entries, rounded)
        peaks.append(_Peak("optimizer", live, at, _END, tuple(entries)))
    return peaks


def _split(trace: Trace, run: Moments) -> list[tuple[str, int, int]]:
    """The phases of a run, each with its first moment and the one after its last."""
    if not trace.workload.keeps:
        return [(trace.workload.phase, 0, len(run))]
    losses = {op.path for op in trace.ops if op.kind.group == "loss"}
    back = next((i for i, each in enumerate(run) if _first(each).phase == "backward"), len(run))
    loss = next((i for i, each in enumerate(run[:back]) if _first(each).path in losses), back)
    parts = [("forward", 0, loss), ("loss", loss, back), ("backward", back, len(run))]
    return [part for part in parts if part[1] < part[2]]


def _first(moment: Any) -> Moment:
    return moment if isinstance(moment, Moment) else _first(moment.moments[0])


def _total(entries: Iterable[Entry], rounded: Callable[[int], int]) -> int:
    return sum(rounded(size) * entry.times for entry in entries for size in _storages(entry))


def _storages(entry: Entry) -> list[int]:
    """Bytes of every storage of an entry, which of weights is an operation's."""
    width, rest = divmod(entry.each, entry.op.params or 1)
    whole = entry.part == "weights" and not rest
    return [prod(shape) * width for _, shape in entry.op.weights] if whole else [entry.each]


def _resident(trace: Trace, trained: Sequence[Parameter]) -> Iterator[Entry]:
    """What no moment of the run has: weights, the optimizer's states and inputs."""
    for entry in weights.entries(trace):
        yield entry._replace(part="weights")
    yield from optimizers.states(trace, trained)
    there: set[int] = set()
    for op in trace.ops:
        for x in (*op.reads, *op.saves):
            if x.label in INPUTS and x.id not in there:
                there.add(x.id)
                yield Entry(op, x.label, _size(trace, x), 1, part="inputs", shape=x.storage.shape)


def _size(trace: Trace, x: Tensor) -> int:
    return count(trace, x.elements * trace.workload.bytes_of(x.role))


def _category(trace: Trace, memory: Memory) -> Amounts:
    return Amounts({memory.group: count(trace, memory.bytes)})


def _by_part(entries: Iterable[Entry]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for entry in entries:
        sums[entry.part] = sums.get(entry.part, 0) + entry.value
    return sums


def _event(phase: str, path: str, live: Amounts) -> Event:
    return Event(phase, path, {part: live.each[part] for part in CATEGORIES if live.each.get(part)})
