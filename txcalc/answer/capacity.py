"""The most that fits into a device: the largest batch, the longest sequence, one against the other, or any size.

Found by search over the peaks themselves: every answer was counted where it fits, and one step beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import lcm, prod
from operator import mul
from typing import Any, Final, Literal, NamedTuple

from txcalc import units
from txcalc.answer.conventions import Convention, conventions
from txcalc.answer.devices import Device, device
from txcalc.answer.fit import most_positions
from txcalc.answer.frameworks import framed
from txcalc.answer.layouts import Spread, layouts
from txcalc.answer.levers import Lever, flops_per_token, levers
from txcalc.answer.limits import LONGEST, Reserve, first_above, reserved, solved
from txcalc.answer.memory import Held, Peak, allocated, by_use, sureness, usable, workspaces
from txcalc.answer.notes import beyond, notes, runs_as, unfollowed
from txcalc.answer.passes import Passes, assumed, passes, placed
from txcalc.answer.report import PYTHON, Answer, ModelInfo, Origin, Provenance
from txcalc.answer.serving import Served
from txcalc.count import step
from txcalc.document import Part
from txcalc.spec.errors import SpecError, of_field
from txcalc.spec.model import Model
from txcalc.trace import float8
from txcalc.trace.layout import WHOLE
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload, plain

SCHEMA: Final = "txcalc/fit/v1"
ROWS: Final = 10
"""The frontier has at most so many rows."""
SHORTEST: Final = 128
"""Length in tokens below which the frontier ends."""
_CLOSE: Final = 64
"""Sizes that differ by less than this part of them tell nothing apart but how storages are rounded."""
ALIGNED: Final = 8
"""Columns of a mask that CUDA's memory-efficient kernel takes as it is are a multiple of so many."""
REACHED: Final = 65_536
"""A length that is beyond windows, at which that is tried."""
STEPS: Final = 4096
"""A field of the model is searched up to so many steps."""

COPIED: Final = "lengths are multiples of 8: of any other the kernel copies its mask, and takes more"

Make = Callable[[str], "Model"]
"""The model with a field laid over it, ``layers=7``. Raises ``SpecError`` for one that it cannot have."""


class Most(Part):
    """The most of one size that fits: ``batch``, ``seq``, ``past``, or a field of the model. ``given``: the others.

    ``largest_fits``: null if not even the least does; ``first_not``: the next one, null where something else ends the
    search, as ``ends`` says. ``phase``, ``at``: the moment that no longer fits, or else the peak. ``room_first_not``:
    of each of so many cards, where it is another than that of those asked for.
    """

    size: str
    given: dict[str, int]
    largest_fits: int | None
    bytes: int | None
    first_not: int | None
    bytes_first_not: int | None
    phase: str
    at: str
    ends: str | None
    room_first_not: int | None = None


class Corner(Part):
    """The longest sequence of a batch, and the peak there."""

    batch: int
    length: int
    bytes: int


class Capacity(Part):
    """Document of ``txcalc fit``. ``workload``: what was asked for, sizes filled in; ``peak`` and ``fits`` are its own.

    ``room_bytes``: what the ``device`` offers to programs, less the ``reserve``. ``held``: what is alive at the peak of
    the first answer's largest, by what it is for. ``layouts``: of ``gpus`` devices, the first of which all else is of.
    ``short_bytes``: where nothing fits, what the least lacks; else null.
    ``levers``: what would take less where the workload does not fit.
    """

    schema: Literal["txcalc/fit/v1"] = SCHEMA
    model: ModelInfo
    workload: Workload
    new: int | None
    attention: str | None
    device: Device
    reserve: Reserve
    room_bytes: int
    peak: Peak
    fits: bool
    short_bytes: int | None
    most: tuple[Most, ...]
    frontier: tuple[Corner, ...]
    held: tuple[Held, ...]
    layouts: tuple[Spread, ...] = ()
    flops_per_token: int
    levers: tuple[Lever, ...]
    engine: Served | None = None
    notes: tuple[str, ...]
    conventions: tuple[Convention, ...]
    provenance: Provenance


def capacity(
    spec: Model, given: Mapping[str, Any], card: str, *, reserve: str | None = None, over: str | None = None,
    make: Make | None = None, origin: Origin = PYTHON,
) -> Answer[Capacity]:
    """The most that fits into ``card``, a device's name or bytes, of a run with the ``given`` fields of a workload.

    The largest batch at the length, the longest length at the batch, and one against the other; or of ``over``, a
    field of the model that ``make`` changes: ``layers``, or ``d_model=64`` in steps of 64. Raises ``SpecError`` for a
    run that does not fit the model, or whose live bytes are not proved.
    """
    if given.get("lengths") is not None:
        raise SpecError("say a batch, which is what is searched: give --batch and --seq", field="lengths")
    on = device(card)
    aside = reserved(reserve, on)
    given, gpus = {**given}, given.get("gpus")
    given.pop("gpus", None)
    spread: tuple[Spread, ...] = ()
    if gpus is not None:
        spread = layouts(spec, plain(given), gpus, usable(on) - aside.bytes, partial(allocated, device=on), on.rounded)
        given = {**framed({**given, **spread[0].run})[0]}
    asked, (given, noted) = given, (given, ()) if spread else assumed(spec, given)
    search = _Search(spec, given, on, usable(on) - aside.bytes)
    now, peak = search.now, search.at({})
    most = search.most(given) if over is None or make is None else (search.over(over, make),)
    top = next((each for each in most if each.largest_fits is not None), None)
    fullest = now
    if top is not None and top.size in search.sizes:
        fullest = search.passes({top.size: top.largest_fits})
    elif top is not None and make is not None:
        fullest = passes(make(f"{top.size}={top.largest_fits}"), search.given, on.rounded)
    longest = max((each.largest_fits or 0 for each in most if each.size == search.length), default=0)
    return Answer(Capacity(
        model=ModelInfo.of(spec, origin),
        workload=now.workload,
        new=now.new,
        attention=runs_as(now.traces[0]),
        device=on,
        reserve=aside,
        room_bytes=search.room,
        peak=Peak(bytes=peak.bytes, phase=peak.phase, at=peak.at, kind=sureness(now.traces[0])),
        fits=peak.bytes <= search.room,
        short_bytes=None if top else min(each.bytes_first_not or 0 for each in most) - search.room,
        most=most,
        frontier=tuple(search.frontier()) if over is None and search.stretches else (),
        held=tuple(_held(fullest)),
        layouts=spread,
        flops_per_token=flops_per_token(now),
        levers=() if peak.bytes <= search.room else levers(
            spec, search.given, now, lambda of: search.peak(of).bytes, peak.bytes, search.room, on.rounded,
            asked),
        notes=(*origin.notes, *noted, *beyond(spec, longest), *notes(spec, now.traces[0], now.asked),
               *unfollowed(now.traces[0]), *([COPIED] if search.aligned else [])),
        conventions=conventions(spec, now.traces[0]),
        provenance=Provenance.of(origin.command),
    ), now.defaults)


class At(NamedTuple):
    """A run of some sizes: the peak of every phase, and the highest of them."""

    parts: tuple[int, ...]
    phase: str
    at: str

    @property
    def bytes(self) -> int:
        """Those of the highest."""
        return max(self.parts)


class _Search:
    """Peaks of a run on a device at any sizes, each counted once."""

    def __init__(self, spec: Model, given: Mapping[str, Any], on: Device, room: int) -> None:
        self.spec, self.on, self.room = spec, on, room
        self.now = passes(spec, given, on.rounded)
        workload = self.now.workload
        self.length = "past" if workload.phase == "decode" else "seq"
        self.stretches, layout = spec.input.kind == "tokens", workload.layout or WHOLE
        whole = float8.MULTIPLE if workload.precision == "float8" else 1
        self.unit = lcm(layout.by_position * layout.chunks, whole) if self.length == "seq" else 1  # of what ranks share
        sizes = {"batch": workload.batch, self.length: getattr(workload, self.length)} if self.stretches else {
            "batch": workload.batch}
        self.sizes: dict[str, int] = sizes
        new = {} if self.now.new is None else {"new": self.now.new}
        self.given = {**given, "phase": workload.phase, **new, **sizes}
        self._known, self._first = dict[tuple[int, ...], At](), dict[int, int]()  # first lengths that do not fit
        self.aligned = self._aligned()
        self.unit *= ALIGNED if self.aligned else 1

    def _aligned(self) -> bool:
        """True where a longer sequence may take less: a kernel copies a mask whose columns are no multiple of 8."""
        if self.length != "seq" or self.now.workload.attention not in ("sdpa", "efficient") or not self.stretches:
            return False
        long = min(self._longest() // self.unit, REACHED) // ALIGNED * ALIGNED
        return long > ALIGNED and self.at({"seq": long * self.unit}).bytes < self.at(
            {"seq": (long - 1) * self.unit}).bytes

    def passes(self, sizes: Mapping[str, int | None]) -> Passes:
        """The passes of a run with other sizes."""
        return passes(self.spec, {**self.given, **sizes}, self.on.rounded)

    def at(self, sizes: Mapping[str, int]) -> At:
        """The peak with other sizes."""
        key = tuple({**self.sizes, **sizes}.values())
        if key not in self._known:
            of, first = self.passes(sizes), self.now.traces[0]
            self._known[key] = self.peak(of, like=first if of.traces[0].stage == first.stage else None)
        return self._known[key]

    def peak(self, of: Passes, like: Trace | None = None) -> At:
        """The peak of passes as the device's allocator has it: in whole blocks, its workspaces among it.

        ``like``: the same run at another size.
        """
        phases = [phase for t in of.traces for phase in step.phases(t, rounded=self.on.rounded, like=like)]
        highest = max(phases, key=lambda phase: phase.peak_bytes)
        name = "forward" if highest.name == "prefill" and of.new is None else highest.name  # of an encoder
        spaces = workspaces(of, self.on)
        sizes = tuple(phase.peak_bytes + spaces for phase in phases)
        together = of.traces[0].layout.pp > 1  # another stage, with other phases, may be the heaviest at another size
        return At((max(sizes),) if together else sizes, name, placed(highest.at, highest.turns))

    def most(self, given: Mapping[str, Any]) -> tuple[Most, ...]:
        """The largest batch and, of what reads tokens, the longest sequence, that first which was not given."""
        names = [name for name in self.sizes if name not in given] + [name for name in self.sizes if name in given]
        return tuple(self._most(name) for name in names)

    def _most(self, name: str) -> Most:
        last, unit = (LONGEST, 1) if name == "batch" else (self._longest(), self.unit)
        first_not = first_above(lambda step: self.at({name: step * unit}).parts, self.room, last // unit,
                                max(1, self.sizes[name] // unit))
        if name == self.length and first_not:
            self._first[self.sizes["batch"]] = first_not
        ends = None
        if first_not is None:
            ends = f"{self.spec.name} has no more positions" if last < LONGEST else f"not searched beyond {last:,}"
        return answer(name, {**self.sizes}, lambda size: self.at({name: size}), first_not, last // unit, ends, unit)

    def _longest(self) -> int:
        """The longest length that the tables of positions have."""
        last, workload = most_positions(self.spec), self.now.workload
        if last is None:
            return LONGEST
        taken = workload.seq if self.length == "past" else workload.past + (self.now.new or 0)
        return max(1, last - taken)

    def frontier(self) -> Iterator[Corner]:
        """The longest sequence of every batch that is a power of two, down to short ones."""
        last, found = self._longest() // self.unit, list[Corner]()
        while len(found) < ROWS and (not found or found[-1].length > SHORTEST):
            batch = 1 << len(found)
            row = self._row(batch)
            first_not = self._first.get(batch) or first_above(
                row, self.room, last, max(1, last // 2), partial(self._about, batch))
            last = last if first_not is None else first_not - 1  # also of what more sequences can have
            if not last:
                return
            found.append(Corner(batch=batch, length=last * self.unit, bytes=row(last)))
            yield found[-1]

    def _row(self, batch: int) -> Callable[[int], int]:
        return lambda step: self.at({"batch": batch, self.length: step * self.unit}).bytes

    def _about(self, batch: int) -> Callable[[int], float] | None:
        """Peaks of a batch by length: the highest of all moments, as tokens, pairs and lengths added to each."""
        moments, counted = dict[tuple[str, str], list[tuple[int, ...]]](), dict[tuple[int, ...], int]()
        for key, at in reversed(self._known.items()):
            if at.bytes < 4 * self.room:
                moments.setdefault((at.phase, at.at), []).append(key)
                counted[key] = at.bytes
        most = max(map(prod, counted), default=0)
        found = [factors for keys in moments.values() if len(factors := self._surface(keys)) > 1 and all(
            sum(map(mul, factors, _terms(key))) < size + size // _CLOSE
            for key, size in counted.items() if 4 * prod(key) > most)]
        return (lambda step: max(sum(map(mul, each, _terms((batch, step * self.unit)))) for each in found)
                ) if found else None

    def _surface(self, keys: Sequence[tuple[int, ...]]) -> list[float]:
        """Coefficients of one moment's bytes in ``_terms`` of its sizes, solved from those that were counted."""
        through, seen, found = list[tuple[int, ...]](), list[tuple[int, ...]](), list[float]()
        for key in (keys[0], min(keys, key=prod), *keys):  # what differs most comes first
            near = any(all(_CLOSE * abs(a - b) < b for a, b in zip(key, each, strict=True)) for each in seen)
            if not near and len(through) < len(_terms(key)):
                points = [(*_terms(each)[:len(through) + 1], self._known[each].bytes) for each in (*through, key)]
                if more := solved(points):
                    through, found = [*through, key], more
                seen.append(key)
        return found

    def over(self, over: str, make: Make) -> Most:
        """The most of a field of the model, in steps of one or as ``FIELD=STEP`` says."""
        name, _, text = over.partition("=")
        with of_field("over", "write it as layers, or as d_model=64 for steps of 64: {}"):
            unit = units.parse_count(text or "1")
        known: dict[int, At] = {}

        def at(size: int) -> At:
            if size not in known:
                try:
                    known[size] = self.peak(passes(make(f"{name}={size}"), self.given, self.on.rounded))
                except SpecError as error:
                    raise SpecError(f"{error}; other steps than {unit:,} are asked for as {name}={2 * unit}",
                                    field="over") from None
            return known[size]

        first_not = first_above(lambda step: at(step * unit).parts, self.room, STEPS)
        ends = f"not searched beyond {STEPS * unit:,}" if first_not is None else None
        return answer(name, self.sizes, at, first_not, STEPS, ends, unit)


def answer(
    name: str, sizes: Mapping[str, int], at: Callable[[int], At], first_not: int | None, last: int, ends: str | None,
    unit: int = 1,
) -> Most:
    """The most of a size up to ``last`` of which, or of ``first_not``, less one fits, in steps of ``unit``."""
    largest = (last if first_not is None else first_not - 1) * unit
    beyond = None if first_not is None else at(first_not * unit)
    here = at(largest) if largest else None
    moment = beyond or here
    assert moment is not None
    return Most(
        size=name,
        given={size: value for size, value in sizes.items() if size != name},
        largest_fits=largest or None,
        bytes=None if here is None else here.bytes,
        first_not=None if first_not is None else first_not * unit,
        bytes_first_not=None if beyond is None else beyond.bytes,
        phase=moment.phase,
        at=moment.at,
        ends=ends,
    )


def _terms(size: Sequence[int]) -> tuple[int, ...]:
    """Terms of a peak in (batch, length): a constant, tokens, pairs of them, and what all sequences share."""
    batch, length = size
    return 1, batch * length, batch * length**2, length**2, length


def _held(of: Passes) -> Iterator[Held]:
    """Bytes alive at the highest peak of passes, by category."""
    top = max(of.traces, key=lambda t: max(phase.peak_bytes for phase in step.phases(t)))
    return by_use(step.at_peak(top))
