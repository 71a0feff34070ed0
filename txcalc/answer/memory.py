"""The memory of a run: its peak, what is alive then, what is there all along, whether it fits, and what would help."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, takewhile
from math import prod
from typing import Any, Final, Literal, NamedTuple

from txcalc.answer.conventions import Convention, conventions
from txcalc.answer.devices import Device, device
from txcalc.answer.levers import Lever, flops_per_token, levers
from txcalc.answer.limits import Reserve, reserved
from txcalc.answer.notes import notes, runs_as, unfollowed
from txcalc.answer.passes import Passes, assumed, passes, placed
from txcalc.answer.ranks import Collective, Rank, communicated, every_rank
from txcalc.answer.report import PYTHON, Answer, Kind, ModelInfo, Origin, Provenance
from txcalc.answer.rerun import again, recorded
from txcalc.answer.serving import Served
from txcalc.count import set_aside, step, zero
from txcalc.count.entries import Entry, total
from txcalc.count.reserved import reserved as reserved_over
from txcalc.count.totals import trained
from txcalc.count.weights import is_packed
from txcalc.document import Part
from txcalc.models.store import Loaded
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.record import Trace
from txcalc.trace.workload import BYTES, Workload

SCHEMA: Final = "txcalc/memory/v1"
SAVED: Final = (SCHEMA, "txcalc/fit/v1")
"""Answers about a run on a device, with its peak."""
_SIZES: Final = ("batch", "seq", "source_seq", "images")
POINTS: Final = 160
"""A timeline has about so many points: of what lies between two, the highest."""
TURNS: Final = 24
"""Of so many turns of a repeat at most, such as a model's layers, it shows the moments."""

WHY: Final = {"saved": "saved for backward", "transient": "in use", "gradients": "gradients of weights"}
"""Categories of live memory in words; all others are called what they are."""


RESERVED: Final = (
    "reserved blocks that hold nothing, 1 to 9 % of what is allocated",
    "peak reserved beside peak allocated in 18 runs of nanotron and SimuMax; up to 49 % on ragged batches",
    "reserved blocks that hold nothing, an estimate",
    "PyTorch's allocator, replayed; in 20 runs of nanotron and SimuMax it reserved up to 6 % of all more, or 1 % less")
"""Memory that PyTorch's allocator keeps beyond tensors."""
REPLAYED: Final = 5_000
"""Operations of a step that are replayed for it at most: a quarter of a second."""

_RULES: Final = (
    Convention(id="live", text="a storage is alive from the operation that allocates it to its last reader, to the end "
                               "of a call that holds it, or until the backward pass has been there"),
    Convention(id="step", text="a training step is one in steady state, from the second on; it sets gradients to none"),
    Convention(id="allocated", flag="--device", text="with a device every storage takes whole blocks of PyTorch's "
                                                     "allocator, and there are workspaces of matrix products"),
)
_SHARED: Final = ("precision", "recurrence", "kv-cache", "inputs", "states", "latents", "attention", "dropout",
                  "distances")


class Peak(Part):
    """The most bytes that are allocated at once. ``at``: the operation that has just allocated."""

    bytes: int
    phase: str
    at: str
    kind: Kind = "exact"


class Phase(Part):
    """The most bytes that are live in a phase, what is resident among them."""

    phase: str
    peak_bytes: int
    at: str


class Held(Part):
    """Bytes that are allocated before the run and after it."""

    what: str
    bytes: int


class Alive(Part):
    """Storages that are alive at the peak, ``times`` alike, in bytes of all of them. ``why``: what they are for.

    ``path``: the operation that made them. Null: several shapes, or dtypes, together.
    """

    path: str
    what: str
    shape: tuple[int, ...] | None
    dtype: str | None
    times: int
    bytes: int
    why: str


class Point(Part):
    """A moment of the timeline: live bytes by what they are for, once ``at`` has allocated."""

    phase: str
    at: str
    bytes: dict[str, int]


class Outside(Part):
    """Memory of a device beside tensors. ``bytes``: null where nothing fixed is known."""

    what: str
    bytes: int | None
    source: str


class Memory(Part):
    """Document of ``txcalc memory``. ``workload``: of inference that of the prompt, of which ``new`` tokens follow.

    ``kept_bytes``: alive after forward pass and loss, less what was alive before; null in inference. With a device,
    ``peak`` has its workspaces and the rounding of every storage; ``free_bytes`` are below zero where it does not fit.
    """

    schema: Literal["txcalc/memory/v1"] = SCHEMA
    model: ModelInfo
    workload: Workload
    new: int | None
    attention: str | None
    peak: Peak
    phases: tuple[Phase, ...]
    kept_bytes: int | None
    resident: tuple[Held, ...]
    at_peak: tuple[Alive, ...]
    timeline: tuple[Point, ...]
    workspace_bytes: int | None
    outside: tuple[Outside, ...]
    device: Device | None
    reserve: Reserve | None
    fits: bool | None
    free_bytes: int | None
    flops_per_token: int
    levers: tuple[Lever, ...]
    engine: Served | None = None
    ranks: tuple[Rank, ...] | None = None
    collectives: tuple[Collective, ...] | None = None
    notes: tuple[str, ...]
    conventions: tuple[Convention, ...]
    provenance: Provenance


def memory(
    spec: Model, given: Mapping[str, Any], card: str | None = None, *, reserve: str | None = None,
    origin: Origin = PYTHON, ranks: bool = False,
) -> Answer[Memory]:
    """The memory of a model's run with the ``given`` fields of a workload, and ``new`` tokens after a prompt.

    ``card``: a device's name, or bytes such as 24GB; ``reserve``: what of it no tensor can have; ``ranks``: every
    rank's memory is told. Raises ``SpecError``
    for a run that does not fit the model, or whose live bytes are not proved.
    """
    asked, (given, noted) = given, assumed(spec, given)
    accelerator = None if card is None else device(card)
    found = passes(spec, given, int if accelerator is None else accelerator.rounded)
    aside = None if reserve is None and accelerator is None else reserved(reserve, accelerator)
    room = None if accelerator is None or aside is None else usable(accelerator) - aside.bytes
    in_place = accelerator is not None
    name = {"prefill": "forward"} if found.new is None else {}  # of an encoder
    phases = [
        (t, Phase(phase=name.get(of.name, of.name), peak_bytes=of.peak_bytes, at=placed(of.at, of.turns)))
        for t in found.traces for of in step.phases(t, in_place=in_place)]
    top, highest = max(phases, key=lambda each: each[1].peak_bytes)
    peak, spaces = allocated(found, accelerator), workspaces(found, accelerator)
    entries, events = step.at_peak(top, in_place=in_place), [
        list(step.events(t, in_place=in_place, turns=TURNS)) for t in found.traces]
    return Answer(Memory(
        model=ModelInfo.of(spec, origin),
        workload=found.workload.replaced(latents=found.asked.latents),
        new=found.new,
        attention=runs_as(found.traces[0]),
        peak=Peak(bytes=peak, phase=highest.phase, at=highest.at, kind=sureness(top)),
        phases=tuple(phase for _, phase in phases),
        kept_bytes=_kept(events[0]) if found.workload.keeps else None,
        resident=tuple(by_use(step.resident(top))),
        at_peak=(*_alive(entries, found.workload), *_beside(spaces, peak - spaces - total(entries))),
        timeline=tuple(point.replaced(phase=name.get(point.phase, point.phase))
                       for each in events for point in _timeline(each, len(events))),
        workspace_bytes=None if accelerator is None else spaces,
        outside=(*(_outside(found, accelerator, peak) if found.workload.kernels == "cuda" else ()),
                 *(Outside(what=what, bytes=size, source=zero.SOURCE) for what, size in zero.buffers(top))),
        device=accelerator,
        reserve=aside,
        fits=None if room is None else peak <= room,
        free_bytes=None if room is None else room - peak,
        flops_per_token=flops_per_token(found),
        levers=levers(spec, given, found, partial(allocated, device=accelerator), peak, room,
                      int if accelerator is None else accelerator.rounded, asked),
        collectives=communicated(*found.traces),
        ranks=every_rank(spec, found.traces, lambda runs: allocated(found._replace(traces=tuple(runs)), accelerator))
        if ranks else None,
        notes=(*origin.notes, *noted, *notes(spec, found.traces[0], found.asked), *unfollowed(found.traces[0])),
        conventions=tuple(_rules(spec, found.traces[0])),
        provenance=Provenance.of(origin.command),
    ), found.defaults)


def sureness(t: Trace) -> Kind:
    """Kind of a run's peak: exact, a bound or an estimate."""
    sure = step.certainty(t)
    return sure if sure != "exact" else "estimate" if is_packed(t) else trained(t)


class Saved(NamedTuple):
    """A saved answer: the run that it is of, and its peak."""

    source: str
    made_by: str
    run: dict[str, Any]
    card: str | None
    peak: int | None  # none: it is another command's

    def since(self, now: Peak, card: str | None = None) -> Iterator[str]:
        """Change of the peak since then; nothing on another ``card``."""
        if self.peak is None or card not in (None, self.card):
            return
        of = f"since {self.source} ({self.made_by})"
        same = self.peak == now.bytes
        yield f"unchanged {of}" if same else f"{of}: the peak was {self.peak:,}, is {now.bytes:,}"


def saved(loaded: Loaded, given: Mapping[str, Any]) -> Saved | None:
    """The saved answer that a model was loaded from, its run with the ``given`` fields in place of its own.

    Of another command's answer, how much is read: how it runs is asked anew. None where it was loaded from anything
    else, or where ``given`` fields say how much. Raises ``SpecError`` for one that cannot be read.
    """
    found = recorded(loaded)
    if found is None or loaded.report is None:
        return None
    if loaded.report.data["schema"] not in SAVED:
        if {"engine", "lengths"} & given.keys() or "decode" in (given.get("phase"), found.workload["phase"]):
            return None
        sizes = {name: value for name, value in again(loaded.model, found, {}).items() if name in _SIZES}
        return Saved(found.source, found.made_by, {**sizes, **given}, None, None)
    data, run = loaded.report.data, again(loaded.model, found, dict(given))
    left = {name: value for name, value in run.items() if name != "precision" or name in given}
    if assumed(loaded.model, left)[0].get("precision") == run.get("precision"):  # it was not asked for
        run = left
    try:
        if run["phase"] == found.workload["phase"] and data["new"] is not None:
            run.setdefault("new", data["new"])
        card, engine = data["device"] and data["device"]["name"], data.get("engine")
        if engine is not None:
            run = {**engine["options"], "engine": f"{engine['name']}@{engine['version']}", **given}
            card = card and f"{engine['cards']}x{card}"
        return Saved(found.source, found.made_by, run, card, int(data["peak"]["bytes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"is not whole: {error}", source=loaded.source) from None


def _outside(found: Passes, card: Device | None, peak: int) -> tuple[Outside, ...]:
    """Memory of a card beside tensors: the context of its architecture, or of one that was measured, and what PyTorch's
    allocator keeps."""
    kept = None if card is None else peak_reserved(found, card, most=REPLAYED)
    of = card if card is not None and card.context_bytes is not None else device("h200")
    source = f"{of.sources['context']}; up to 0.92 GiB once all kernels are loaded"
    context = Outside(what="CUDA context", bytes=of.context_bytes, source=source)
    if kept is not None and card is not None and peak <= usable(card):  # it lets go of blocks where it must
        kept = min(kept, usable(card))
    reserved = Outside(what=RESERVED[0], bytes=None, source=RESERVED[1]) if kept is None else Outside(
        what=RESERVED[2], bytes=max(kept - peak, 0), source=RESERVED[3])
    return (context, reserved) if card is None or card.is_nvidia else (reserved,)


def usable(of: Device) -> int:
    """Bytes of a device that a program is offered."""
    return of.visible_bytes or of.memory_bytes


def _rules(spec: Model, t: Trace) -> Iterator[Convention]:
    yield from (rule for rule in _RULES if t.workload.phase == "training" or rule.id != "step")
    yield from (rule for rule in conventions(spec, t) if rule.id in _SHARED)


def allocated(of: Passes, device: Device | None) -> int:
    """The most bytes that are allocated at once: on a device in its blocks, with its workspaces, and without one as a
    dispatch mode sees them, under which PyTorch adds no gradient in place."""
    rounded = int if device is None else device.rounded
    return workspaces(of, device) + max(phase.peak_bytes for t in of.traces for phase in step.phases(
        t, in_place=device is not None, rounded=rounded))


def peak_reserved(of: Passes, device: Device, *, expands: bool = False, most: int | None = None) -> int | None:
    """Bytes that PyTorch's allocator reserves, replayed over some steps; None where that is not followed.

    ``expands``: with ``expandable_segments``. ``most``: of so many operations.
    """
    if device.workspace_bytes is None:
        return None
    spaces = workspaces(of, device)
    first = device.workspaces(backward=False)
    found = [reserved_over(t, (first, spaces - first), expands=expands, most=most) for t in of.traces]
    return None if None in found else max(each for each in found if each is not None)


def workspaces(of: Passes, device: Device | None) -> int:
    """Bytes that matrix products set aside on a device, and what the implementation does."""
    if device is None:
        return 0
    own = set_aside.workspaces(of.traces[0], large=device.is_hopper_or_later)
    return device.workspaces(backward=of.workload.phase == "training") + own


def _kept(events: Sequence[step.Event]) -> int:
    """Bytes that are alive once the loss is there, less those before the run."""
    forward = [event.live for event in takewhile(lambda event: event.phase in ("forward", "loss"), events)]
    return sum(forward[-1].values()) - sum(forward[0].values())


def by_use(entries: Sequence[Entry]) -> Iterator[Held]:
    """Bytes by what they are for, in the entries' order."""
    for what in dict.fromkeys(entry.part for entry in entries):
        yield Held(what=what, bytes=sum(entry.value for entry in entries if entry.part == what))


def _beside(workspaces: int, rounding: int) -> Iterator[Alive]:
    """Memory that a device's allocator has beside the storages of tensors."""
    for what, size in (("workspaces of matrix products", workspaces), ("storages in whole blocks", rounding)):
        if size:
            yield Alive(path="", what=what, shape=None, dtype=None, times=1, bytes=size, why="device")


def _alive(entries: Sequence[Entry], workload: Workload) -> Iterator[Alive]:
    """Alike storages together, the largest first."""
    there = (entry for entry in chain.from_iterable(map(_storages, entries)) if entry.value)
    for entry in sorted(there, key=lambda entry: -entry.value):
        yield Alive(path=entry.op.path, what=entry.what, shape=entry.shape or None, dtype=_dtype(entry, workload),
                    times=entry.times, bytes=entry.value, why=WHY.get(entry.part, entry.part))


def _storages(entry: Entry) -> Iterable[Entry]:
    """Every storage of an entry by itself, which of weights is an operation's; packed ones together."""
    op = entry.op
    width, rest = divmod(entry.each, op.params or 1)
    if entry.part != "weights" or rest or entry.shape is not None:
        return [entry]
    return [entry._replace(what=name or op.part, each=width * prod(shape), shape=shape) for name, shape in op.weights]


def _dtype(entry: Entry, workload: Workload) -> str | None:
    """The dtype of a storage's elements, by how many bytes they take."""
    width, rest = divmod(entry.each, prod(entry.shape or ()) or 1)
    if not entry.shape or rest:
        return None
    return workload.dtype if width == BYTES[workload.dtype] else _DTYPES.get(width)


_DTYPES: Final = {1: "bool", 2: "bf16", 4: "fp32", 8: "int64"}


def _timeline(events: Sequence[step.Event], share: int) -> Iterator[Point]:
    """The moments of a run, of neighbours in a phase the highest."""
    size = -(-len(events) * share // POINTS)
    bucket = list[step.Event]()
    for event in events:
        if bucket and (len(bucket) == size or bucket[0].phase != event.phase):
            yield _highest(bucket)
            bucket = []
        bucket.append(event)
    if bucket:
        yield _highest(bucket)


def _highest(bucket: Sequence[step.Event]) -> Point:
    highest = max(bucket, key=lambda event: sum(event.live.values()))
    return Point(phase=highest.phase, at=highest.path, bytes=highest.live)
