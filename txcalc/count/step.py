"""The memory of a whole training step in steady state, from the second step on, or of one pass of generation.

The step is PyTorch's usual loop: forward, loss and backward, once for each micro-batch; clipping, if any;
``optimizer.step()``; then ``zero_grad()``, which sets gradients to none, and the last loss goes. Weights and the
optimizer's states are there all the time, gradients from their first backward pass on, unless each is used up there
(``in_backward``). A peak is the highest of all moments, never a sum of parts. Buffers of modules are left out, and so
is what a kernel allocates for itself.

Where gradients are held in another width than the backward pass makes them in, they have memory of their own all the
time, to which it adds, as in Megatron-LM (``core/distributed/param_and_grad_buffer.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache, partial
from itertools import chain
from math import prod
from typing import Any, Final, Literal, NamedTuple

from txcalc.count import optimizers, params, set_aside, shards, stages, weights, zero
from txcalc.count.entries import Entry
from txcalc.count.gradients import parameters, unrolled
from txcalc.count.lifetimes import moments
from txcalc.count.moments import Middle, Mode, Moment, Moments, every
from txcalc.count.parameter import Parameter
from txcalc.count.peak import Amounts, Where, alive, found, highest
from txcalc.count.replay import on_ints
from txcalc.count.turns import Memory, Turns, count
from txcalc.count.unproved import INPUTS, unmeasured
from txcalc.spec import words
from txcalc.trace.layout import WHOLE
from txcalc.trace.rank import RECEIVED
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Role, Tensor
from txcalc.trace.workload import BYTES

CATEGORIES: Final = ("weights", "master weights", "optimizer state", "gradients", "inputs", "cache", "waiting", "saved",
                     "unsharded weights", "collectives", "transient")
"""Categories of live memory, as the ``part`` of entries and the timeline have them."""


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
    """Bytes that are resident before the step, by category (``part``)."""
    cache = alive(trace, ((0, False),)) if not trace.workload.keeps else ()
    return [*Step(trace, in_place=True).resident, *cache]


def held(trace: Trace) -> dict[str, int]:
    """Bytes of what is there before the step and of all gradients, by category."""
    step = Step(trace, in_place=True)
    return _by_part(chain(step.resident, *step.gradients))


@lru_cache(maxsize=4)
def phases(
    trace: Trace, *, in_place: bool = True, rounded: Callable[[int], int] = int, like: Trace | None = None
) -> tuple[Phase, ...]:
    """The peak of each phase: forward, loss (from its first operation on), backward, optimizer; or of a pass that
    generates. ``rounded``: bytes of a storage as an allocator counts them. ``like``: the same run on another batch or
    length. Raises ``SpecError`` for what is not proved.
    """
    peaks = Step(trace, in_place, like, rounded).peaks()
    return tuple(Phase(each.name, each.bytes, each.at, each.turns) for each in peaks)


def least(trace: Trace, like: Trace, rounded: Callable[[int], int]) -> int:
    """Bytes that no peak of a training step is below: what is resident, gradients, and what the optimizer allocates.

    ``like``: a run on the same weights, of which the same are trained. Nothing is said of several ranks.
    """
    if trace.layout != WHOLE or trace.workload.in_backward or trace.workload.phase != "training":
        return 0
    step = Step(trace, True, like, rounded)
    most = max((made.now for _, made in optimizers.moments(trace.workload, step.in_order(), rounded)), default=0)
    return _total(step.resident, rounded) + sum(_total(each, rounded) for each in step.gradients) + most


def certainty(trace: Trace) -> Literal["exact", "bound", "estimate"]:
    """Certainty of the peak: an estimate under ZeRO and where no test has followed a layout's parts together, which of
    split weights' optimizers is AdamW's step alone, where norms are split or sharded too; a bound where it is not known
    what the optimizer's step, or a compiled loss, allocates.

    Also where a later micro-batch adds a gradient that is handed on as it is: autograd then frees it at once, while
    here it lives until its weight's turn comes in the backward pass.
    """
    w = trace.workload
    adamw = w.updates == "adamw" and w.optimizer_kernel in (None, "foreach")
    followed = trace.layout.tp == 1 or w.phase != "training" or (adamw and bool(trace.layout.sp or trace.layout.shards))
    if unmeasured(trace) or not followed or zero.stage(trace):
        return "estimate"
    handed = any(g.how == "same" and isinstance(g.of, str) for op in trace.ops for step in op.backward for g in step)
    compiled = words.form(w.loss or "") == "compiled"
    known = optimizers.is_known(w) and not compiled and not (handed and (w.accumulate or 1) > 1)
    return "exact" if known or w.phase != "training" else "bound"


def at_peak(trace: Trace, *, in_place: bool = True) -> list[Entry]:
    """All that is alive at the highest moment, by category (``part``), what is resident first."""
    step = Step(trace, in_place)
    top = max(step.peaks(), key=lambda each: each.bytes)
    entries = [*step.resident, *step.around(top.made_in)]
    for run, where in top.where:
        entries += step.alive(run, where)
    for run, where, times in step.waiting(top.made_in, step.runs()):
        entries += [entry._replace(times=entry.times * times, part="waiting") for entry in step.alive(run, where)]
    return [*entries, *top.temporaries]


def events(trace: Trace, *, in_place: bool = True, turns: int | None = None) -> Iterator[Event]:
    """The timeline of the step: every moment at which what is live has changed, that before it first.

    ``turns``: of so many turns of each repeat at most, the first and the last among them.
    """
    step, workload = Step(trace, in_place), trace.workload
    base = Amounts(_by_part(step.resident))
    runs = step.runs(partial(moments, none=Amounts(), amount=partial(_category, trace)))
    for each in stages.passes(trace):
        waiting = sum(times * sum(found(runs(*of), where).live.each.values())
                      for of, where, times in step.waiting(each, runs))
        there = base + Amounts(_by_part(step.around(each))) + Amounts({"waiting": waiting})
        run = runs(*each.run)
        for part in _split(step.chunks[each.chunk], run):
            for moment in every(trace, run[part.start:part.end], there, turns) if each.kind in part.kinds else ():
                yield _event(part.name, moment.path, moment.live)
    if workload.phase == "training":
        over, ends = step.over()
        last = base + Amounts(_by_part(step.around(over)))
        last = sum((found(runs(*of), where).live for of, where in ends), last)
        for path, made in optimizers.moments(workload, step.in_order(turns)):
            yield _event("optimizer", path, last + Amounts({"transient": made.now}))
        yield _event("optimizer", "", base)


_on_ints = lru_cache(maxsize=8)(on_ints)
TURNS: Final = 2
"""Turns of a repeat that show all moments of a loop over its weights."""

_END: Final[Where] = ((-1, False),)
"""The last moment of a run."""
_Run = tuple[int, Mode]
"""A run of a micro-batch: of which of a rank's stages, and how it stands among others."""
_Runs = Callable[[int, Mode], Moments]


class _Peak(NamedTuple):
    """A phase's highest moment, and the pass of a micro-batch that it is in: in the optimizer, none any more."""

    name: str
    bytes: int
    at: str
    where: tuple[tuple[_Run, Where], ...]
    made_in: stages.Pass
    temporaries: tuple[Entry, ...] = ()
    turns: Turns = ()


class _Part(NamedTuple):
    """Moments of a run that are of one phase, and in which kinds of passes."""

    name: str
    start: int
    end: int
    kinds: str


class Step:
    """One step of a run: what is resident, and its moments."""

    def __init__(
        self, trace: Trace, in_place: bool, like: Trace | None = None, rounded: Callable[[int], int] = int
    ) -> None:
        self.trace, self.in_place, held, self.rounded = trace, in_place, trace.workload.held, rounded
        self.chunks, made = stages.chunks(trace), parameters(trace, like, rounded)
        self._ends: dict[_Run, int] = {}  # moments at which micro-batches wait
        self.sharded, shares = trace.layout.shards, self._shards if trace.layout.shards else list
        self.held = held is not None and any(p.width != held.gradients for p in made)
        if trace.workload.in_backward:
            optimizers.check_in_backward(trace.workload)
        width = None if held is None else held.master or None
        made, width = [] if trace.layout.offloads else shares(made), shards.STORED if self.sharded else width
        self.parameters = [p if width is None else p._replace(width=width) for p in made]
        if stage := zero.stage(trace):
            self.parameters = [zero.part(trace, p) for p in self.parameters]
        self.held |= stage > 1
        buffers = self._buffers(made)
        own = [buffers] if len(self.chunks) == 1 else [self._buffers(shares(parameters(t))) for t in self.chunks]
        self.gradients = [() if self.held else each for each in own]
        self.resident = [*self._resident(), *(each for t in self.chunks for each in stages.received(t)),
                         *(each for each in buffers if self.held and each.each), *zero.buckets(trace, buffers)]

    def _shards(self, of: Iterable[Parameter]) -> list[Parameter]:
        """The first rank's part of sharded weights."""
        return [p._replace(shape=shards.shard(p.shape, shards.ranks(self.trace.layout, p.op)), width=shards.STORED)
                for p in of]

    def _whole(self, chunk: int, *, gradients: bool) -> Iterator[Entry]:
        """Weights of a pipeline's stage as they are gathered, and their gradients before they are reduced."""
        t, fsdp = self.chunks[chunk], self.trace.layout.fsdp
        assert fsdp is not None
        made = parameters(t)
        yield from shards.unsharded(t)
        yield from self._buffers([p._replace(width=BYTES[fsdp.reduce]) for p in made]) if gradients else ()

    def _buffers(self, of: Iterable[Parameter]) -> list[Entry]:
        """Gradients of weights."""
        held = self.trace.workload.held
        sizes = ((p, p.elements * (held.gradients if held else p.width)) for p in of)
        return [zero.shared(self.trace, Entry(p.op, "gradients", n, p.copies, part="gradients")) for p, n in sizes]

    def in_order(self, turns: int | None = TURNS) -> list[Parameter]:
        """Storages in the order of the optimizer's step, copies one by one if it goes over them so.

        A loop lets go of what it has made for a copy before it comes to the one after the next.
        """
        order = optimizers.order(self.trace.workload)
        if order == "any":
            return self.parameters
        bounded = order == "turns" and turns is not None
        return unrolled(self.trace, self.parameters, max(turns or 0, TURNS) if bounded else None)

    def runs(self, made: Callable[..., Moments] | None = None) -> _Runs:
        """The runs of micro-batches, each made once: on ints, unless said otherwise."""
        made = made or partial(_on_ints, rounded=self.rounded)

        @cache
        def run(chunk: int, mode: Mode) -> Moments:
            t = self.chunks[chunk]
            return made(t.alike or t, in_place=self.in_place, mode=self.adds(mode))

        return run

    def alive(self, run: _Run, where: Where) -> Iterator[Entry]:
        """Entries alive at a moment of a run."""
        return alive(self.chunks[run[0]], where, in_place=self.in_place, mode=self.adds(run[1]))

    def adds(self, mode: Mode) -> Mode:
        """With gradients that are added elsewhere, or used up, as soon as they are there."""
        return mode._replace(accumulates=self.held or mode.accumulates or bool(self.trace.workload.in_backward))

    def around(self, each: stages.Pass) -> Iterator[Entry]:
        """Bytes there in a pass of others that are done, and of what is handed on."""
        for chunk, held in enumerate(each.held):
            if each.sharded and not held.reduced:
                there = not each.gathers(chunk) and (any(held) or chunk == each.chunk)
                yield from self._whole(chunk, gradients=held.done > 0) if there else ()
            elif held.done:
                yield from self.gradients[chunk]
        yield from stages.around(self.trace, each)

    def waiting(self, each: stages.Pass, runs: _Runs) -> Iterator[tuple[_Run, Where, int]]:
        """The runs of micro-batches that wait for a pass back, the moment at which they do, and how many are alike."""
        for chunk, held in enumerate(each.held):
            for times, halves, kind in ((held.wait, False, "F"), (held.halfway, True, "I")):
                if times:
                    of = chunk, Mode(False, halves, each.sharded)
                    if of not in self._ends:
                        parts = _split(self.chunks[chunk], runs(*of))
                        self._ends[of] = max(part.end for part in parts if kind in part.kinds)
                    yield of, ((self._ends[of] - 1, False),), times

    def peaks(self) -> list[_Peak]:
        """The highest moment of each phase."""
        trace, best, rounded = self.trace, dict[str, _Peak](), self.rounded
        fixed = _total(self.resident, rounded)
        runs = self.runs()
        tops = cache(partial(self._tops, runs))
        for each in stages.most(stages.passes(trace)):
            base = fixed + _total(self.around(each), rounded)
            base += sum(times * found(runs(*of), where).live for of, where, times in self.waiting(each, runs))
            for part, live, where in tops(*each.run):
                if each.kind in part.kinds:
                    moment = found(runs(*each.run), where)
                    turns = tuple((path, count(trace, turn)) for path, turn in moment.turns)
                    peak = _Peak(part.name, base + live, moment.path, ((each.run, where),), each, turns=turns)
                    best[part.name] = max(best.get(part.name, peak), peak, key=lambda each: each.bytes)
        if trace.workload.phase == "training":
            last, ends = self.over()
            base = fixed + _total(self.around(last), rounded) + sum(found(runs(*of), where).live for of, where in ends)
            best["optimizer"] = self._update(base, last, ends, rounded)
        return list(best.values())

    def over(self) -> tuple[stages.Pass, tuple[tuple[_Run, Where], ...]]:
        """The end of the last pass, and that of every stage's runs."""
        last = stages.over(self.trace)
        return last, tuple(((chunk, Mode(held.done > 0 and not last.sharded, held.halved > 0)), _END)
                           for chunk, held in enumerate(last.held))

    def _tops(self, runs: _Runs, *run: Any) -> list[tuple[_Part, int, Where]]:
        """The highest moment of every part of a run."""
        trace = self.chunks[run[0]]
        return [(part, *highest(trace, runs(*run), part.start, part.end)) for part in _split(trace, runs(*run))]

    def _update(self, base: int, last: stages.Pass, ends: Any, rounded: Callable[[int], int]) -> _Peak:
        """The highest moment of clipping and of the optimizer's step."""
        each = self.in_order()
        most, at = 0, ""
        for path, made in optimizers.moments(self.trace.workload, each, rounded):
            if made.now > most:
                most, at = made.now, path
        then = (made.entries() for _, made in optimizers.moments(self.trace.workload, each, rounded)
                if made.now == most)
        return _Peak("optimizer", base + most, at, ends, last, tuple(next(then, ())))

    def _resident(self) -> Iterator[Entry]:
        """Bytes that no moment of the run has: weights, the optimizer's states and inputs."""
        trace, held = self.trace, self.trace.workload.held
        if self.sharded and not trace.layout.offloads:
            yield from shards.resident(trace)
        for entry in () if self.sharded else params.entries(trace) if held else weights.entries(trace):
            whole = entry._replace(each=entry.each * (held.weights if held else 1), part="weights")
            yield zero.shared(trace, whole)
        for p in self.parameters if held and held.master else ():
            yield Entry(p.op, "master weights", p.elements * p.width, p.copies, part="master weights")
        yield from optimizers.states(trace.workload, [] if trace.layout.offloads else self._with_states())
        yield from set_aside.resident(trace)
        for chunk, t in enumerate(self.chunks):
            given = {x.id: (op, x) for op in t.ops[::-1] for x in (*op.reads, *op.saves)[::-1] if x.label in INPUTS}
            for op, x in list(given.values())[::-1]:
                if x.label != RECEIVED or not stages.follows(t):
                    yield Entry(op, x.label, _size(trace, x), stages.batches(trace, chunk), part="inputs",
                                shape=x.storage.shape)

    def _with_states(self) -> list[Parameter]:
        """The weights that have states: those with gradients, or all that are trained, also those no run reads."""
        trace, width = self.trace, {p.path: p.width for p in self.parameters}
        if trace.workload.held is not None or not optimizers.OPTIMIZERS[trace.workload.updates].at_once:
            return self.parameters
        trained = {g.of for op in trace.ops for each in op.backward for g in each if isinstance(g.of, str)}
        ranks = partial(shards.ranks, trace.layout)
        return [Parameter(op, path, "", shards.shard(shape, ranks(op)) if self.sharded else shape,
                          width.get(path, trace.workload.bytes_of(Role.WEIGHT)), count(trace, often.copies))
                for op, often in trace.placed for path, shape in params.weight_shapes(op).items()
                if path in trained or not (op.frozen or op.reads or op.writes or path in trace.fixed)]


def _split(trace: Trace, run: Moments) -> list[_Part]:
    """The phases of a run."""
    if not trace.workload.keeps:
        return [_Part(trace.workload.phase, 0, len(run), "F")]
    losses = {op.path for op in trace.ops if op.kind.group == "loss"}
    of = [_first(each).phase for each in run]
    back, halfway, reduced = (next((i for i, phase in enumerate(of) if phase in later), len(run)) for later in (
        ("backward", "weights"), ("weights", "reduction"), ("reduction",)))
    loss = next((i for i, each in enumerate(run[:back]) if _first(each).path in losses), back)
    parts = [_Part("forward", 0, loss, "F"), _Part("loss", loss, back, "F"),
             _Part("backward", back, halfway, "BI"), _Part("backward", halfway, reduced, "W"),
             _Part("backward", reduced, len(run), "R")]
    return [part for part in parts if part.start < part.end]


def _first(moment: Moment | Middle) -> Moment:
    return moment if isinstance(moment, Moment) else _first(moment.moments[0])


def _total(entries: Iterable[Entry], rounded: Callable[[int], int]) -> int:
    return sum(rounded(size) * entry.times for entry in entries for size in storages(entry))


def storages(entry: Entry) -> list[int]:
    """Bytes of every storage of an entry, which of weights is an operation's."""
    width, rest = divmod(entry.each, entry.op.params or 1)
    whole = entry.part == "weights" and entry.shape is None and not rest
    return [prod(shape) * width for _, shape in entry.op.weights] if whole else [entry.each]


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
