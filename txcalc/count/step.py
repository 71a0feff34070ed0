"""The memory of a whole training step in steady state, from the second step on, or of one pass of generation.

The step is PyTorch's usual loop: forward, loss and backward, once for each micro-batch; clipping, if any;
``optimizer.step()``; then ``zero_grad()``, which sets gradients to none, and the last loss goes. Weights and the
optimizer's states are there all the time, gradients from their first backward pass on, unless each is used up there
(``in_backward``). A peak is the highest of all
moments, never a sum of parts. Buffers of modules are left out, and so is what a kernel allocates for itself.

Where gradients are held in another width than the backward pass makes them in, they have memory of their own all the
time, to which it adds, as in Megatron-LM (``core/distributed/param_and_grad_buffer.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from math import prod
from typing import Any, Final, Literal, NamedTuple

from txcalc.count import optimizers, params, set_aside, shards, stages, weights, zero
from txcalc.count.entries import Entry
from txcalc.count.lifetimes import gradients, moments, on_ints
from txcalc.count.moments import Moment, Moments, every
from txcalc.count.parameter import Parameter
from txcalc.count.peak import Amounts, Where, alive, found, highest
from txcalc.count.turns import Memory, Turns, count
from txcalc.count.unproved import INPUTS, unmeasured
from txcalc.spec import words
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import located_blocks
from txcalc.trace.record import Node, Op, Repeat, Trace, walk
from txcalc.trace.tensors import Number, Role, Tensor
from txcalc.trace.workload import Workload

CATEGORIES: Final = ("weights", "master weights", "optimizer state", "gradients", "inputs", "cache", "waiting", "saved",
                     "unsharded weights", "collectives", "transient")
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
    return [*_Step(trace, in_place=True).resident, *cache]


def phases(
    trace: Trace, *, in_place: bool = True, rounded: Callable[[int], int] = int, like: Trace | None = None
) -> tuple[Phase, ...]:
    """The peak of each phase: forward, loss (from its first operation on), backward, optimizer; or of a pass that
    generates. ``rounded``: bytes of a storage as an allocator counts them. ``like``: the same run on another batch or
    length. Raises ``SpecError`` for what is not proved.
    """
    peaks = _Step(trace, in_place, like, rounded).peaks()
    return tuple(Phase(each.name, each.bytes, each.at, each.turns) for each in peaks)


def certainty(trace: Trace) -> Literal["exact", "bound", "estimate"]:
    """How sure the peak is: an estimate under ZeRO and where no test has followed a layout's parts together, which of
    split weights' optimizers is AdamW's step alone, where norms are split too; a bound where it is not known what the
    optimizer's step, or a compiled loss, allocates.

    Also where a later micro-batch adds a gradient that is handed on as it is: autograd then frees it at once, while
    here it lives until its weight's turn comes in the backward pass.
    """
    w = trace.workload
    adamw = w.updates == "adamw" and w.optimizer_kernel in (None, "foreach")
    followed = trace.layout.tp == 1 or w.phase != "training" or (trace.layout.sp and adamw)
    if unmeasured(trace) or not followed or zero.stage(trace):
        return "estimate"
    handed = any(g.how == "same" and isinstance(g.of, str) for op in trace.ops for step in op.backward for g in step)
    compiled = words.form(w.loss or "") == "compiled"
    known = optimizers.is_known(w) and not compiled and not (handed and (w.accumulate or 1) > 1)
    return "exact" if known or w.phase != "training" else "bound"


def at_peak(trace: Trace, *, in_place: bool = True) -> list[Entry]:
    """All that is alive at the highest moment, by category (``part``), what is resident first."""
    step = _Step(trace, in_place)
    top = max(step.peaks(), key=lambda each: each.bytes)
    entries = [*step.resident, *(step.gradients if top.made_in.later else ()),
               *stages.around(trace, top.made_in)]
    entries += alive(trace, top.where, in_place=in_place, accumulates=step.adds(top.made_in.later))
    if top.made_in.waiting:
        then = alive(trace, step.sent(step.moments(True)), in_place=in_place)
        entries += [entry._replace(times=entry.times * top.made_in.waiting, part="waiting") for entry in then]
    return [*entries, *top.temporaries]


def events(trace: Trace, *, in_place: bool = True, turns: int | None = None) -> Iterator[Event]:
    """The timeline of the step: every moment at which what is live has changed, that before it first.

    ``turns``: of so many turns of each repeat at most, the first and the last among them.
    """
    step, workload = _Step(trace, in_place), trace.workload
    base, last = Amounts(_by_part(step.resident)), Amounts()
    runs = {later: step.moments(not later, none=Amounts(), amount=partial(_category, trace))
            for later in (False, True)[:workload.accumulate or 1]}
    sent = Amounts({"waiting": sum(found(runs[False], step.sent(runs[False])).live.each.values())})
    for each in stages.passes(trace):
        resident = [*(step.gradients if each.later else ()), *stages.around(trace, each)]
        there = base + Amounts(_by_part(resident)) + sent * each.waiting
        for name, start, end in _split(trace, runs[each.later]):
            for moment in every(trace, runs[each.later][start:end], there, turns) if each.has(name) else ():
                last = moment.live
                yield _event(name, moment.path, last)
    if workload.phase == "training":
        for path, made in optimizers.moments(workload, step.in_order(turns)):
            yield _event("optimizer", path, last + Amounts({"transient": made.now}))
        yield _event("optimizer", "", base)


@lru_cache(maxsize=4)
def parameters(
    trace: Trace, like: Trace | None = None, rounded: Callable[[int], int] = int
) -> list[Parameter]:
    """The weights that the backward pass makes gradients of, in the order in which they are used.

    ``like``: the same run on another batch or length, whose backward pass says it as well if as many experts run.
    ``rounded``: bytes of a storage as what else is asked of that run has them.
    """
    made = _gradients(trace if like is None or _repeats(like) != _repeats(trace) else like, rounded)
    found: dict[str, Parameter] = {}
    for op in trace.ops:
        for name, shape in op.weights:
            path = f"{op.path}.{name}" if name else op.path
            size, often, own = made.get(path, (0, 0, shape))
            if often:  # of a table of which a rank has a part it is that of the whole
                kept = shape if op.kind.name == "embedding" else own
                found[path] = Parameter(op, path, name, kept, size // prod(own), often, _head(trace))
    return list(found.values())


def _repeats(trace: Trace) -> list[tuple[str, Number]]:
    """How often every repeat is run: of experts, those that get rows."""
    return [(node.path, sum(run.times for run in node.runs or (node,)))
            for node, _ in walk(trace.body) if isinstance(node, Repeat)]


@lru_cache(maxsize=4)
def _gradients(trace: Trace, rounded: Callable[[int], int]) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    """Bytes of a weight's gradient, of how many copies, and its shape."""
    made: dict[str, tuple[int, int, tuple[int, ...]]] = {}
    for path, memory, times in gradients(trace, rounded) if trace.workload.phase == "training" else ():
        _, often, _ = made.get(path, (0, 0, ()))
        shape = tuple(count(trace, size) for size in memory.shape)
        made[path] = count(trace, memory.bytes), often + count(trace, times), shape
    return made


def unrolled(trace: Trace, parameters: Iterable[Parameter], turns: int | None = None) -> list[Parameter]:
    """Every copy of parameters by itself, one set of weights after another, in so many ``turns`` of a repeat."""
    own: dict[str, list[Parameter]] = {}
    for p in parameters:
        own.setdefault(p.op.path, []).append(p)
    left = Counter({p.path: p.copies for each in own.values() for p in each})

    def each_of(nodes: Iterable[Node]) -> Iterator[Parameter]:
        for node in nodes:
            if isinstance(node, Op):
                for p in own.get(node.path, ()) if node.weights else ():
                    if left[p.path]:
                        left[p.path] -= 1
                        yield p._replace(copies=1)
            else:
                copies = count(trace, node.copies) if isinstance(node, Repeat) else 1
                for _ in range(copies if turns is None else min(copies, turns)):
                    yield from each_of(node.body)

    return list(each_of(trace.body))


TURNS: Final = 2
"""Turns of a repeat that show all moments of a loop over its weights."""

_END: Final[Where] = ((-1, False),)
"""The last moment of a run."""


class _Peak(NamedTuple):
    """A phase's highest moment, and the pass of a micro-batch that it is in: in the optimizer, of the last one."""

    name: str
    bytes: int
    at: str
    where: Where
    made_in: stages.Pass
    temporaries: tuple[Entry, ...] = ()
    turns: Turns = ()


class _Step:
    """One step of a run: what is resident, and its moments."""

    def __init__(
        self, trace: Trace, in_place: bool, like: Trace | None = None, rounded: Callable[[int], int] = int
    ) -> None:
        self.trace, self.in_place, held, self.rounded = trace, in_place, trace.workload.held, rounded
        made = parameters(trace, like, rounded)
        self.sharded = trace.layout.shards
        self.held = held is not None and any(p.width != held.gradients for p in made)
        if trace.workload.in_backward:
            _check_in_backward(trace.workload)
        width = None if held is None else held.master or None
        if self.sharded:
            made, width = [p._replace(shape=shards.shard(p.shape, self.sharded)) for p in made], shards.STORED
        self.parameters = [p if width is None else p._replace(width=width) for p in made]
        if stage := zero.stage(trace):
            self.parameters = [zero.part(trace, p) for p in self.parameters]
        buffers = [Entry(p.op, "gradients", p.elements * (held.gradients if held else p.width), p.copies,
                         part="gradients") for p in (self.parameters if self.sharded else made)]
        self.held |= stage > 1
        buffers = [zero.shared(trace, each) for each in buffers]
        self.gradients = [] if self.held else buffers
        self.resident = [*self._resident(), *stages.received(trace),
                         *(each for each in buffers if self.held and each.each), *_buckets(trace, buffers)]

    def in_order(self, turns: int | None = TURNS) -> list[Parameter]:
        """What the optimizer's step goes over, copies one by one if it does.

        A loop lets go of what it has made for a copy before it comes to the one after the next.
        """
        order = optimizers.order(self.trace.workload)
        if order == "any":
            return self.parameters
        bounded = order == "turns" and turns is not None
        return unrolled(self.trace, self.parameters, max(turns or 0, TURNS) if bounded else None)

    def moments(self, first: bool, **more: Any) -> Moments:
        """Those of the first micro-batch, or of a later one."""
        return moments(self.trace, in_place=self.in_place, accumulates=self.adds(not first), **more)

    def adds(self, later: bool) -> bool:
        """Whether gradients are added elsewhere, or used up, as soon as they are there."""
        return self.held or later or bool(self.trace.workload.in_backward)

    def sent(self, run: Moments) -> Where:
        """The moment at which a micro-batch's forward pass, and its loss, are over."""
        back = next((i for i, each in enumerate(run) if _first(each).phase == "backward"), len(run))
        return ((back - 1, False),)

    def peaks(self) -> list[_Peak]:
        """The highest moment of each phase."""
        trace, workload, rounded = self.trace, self.trace.workload, self.rounded
        best: dict[str, _Peak] = {}
        runs = {later: on_ints(trace, in_place=self.in_place, accumulates=self.adds(later), rounded=rounded)
                for later in (False, True)[:workload.accumulate or 1]}
        for each in stages.most(stages.passes(trace)):
            run = runs[each.later]
            there = [*self.resident, *(self.gradients if each.later else ()), *stages.around(trace, each)]
            base = _total(there, rounded)
            base += each.waiting * found(run, self.sent(run)).live if each.waiting else 0
            for name, start, end in _split(trace, run):
                if not each.has(name):
                    continue
                live, where = highest(trace, run, start, end)
                moment = found(run, where)
                turns = tuple((path, count(trace, turn)) for path, turn in moment.turns)
                peak = _Peak(name, base + live, moment.path, where, each, turns=turns)
                best[name] = max(best.get(name, peak), peak, key=lambda each: each.bytes)
        if workload.phase == "training":
            last = stages.Pass(False, 0, (workload.accumulate or 1) - 1)
            base = _total([*self.resident, *(self.gradients if last.later else ())], rounded)
            best["optimizer"] = self._update(base + found(runs[last.later], _END).live, last, rounded)
        return list(best.values())

    def _update(self, base: int, last: stages.Pass, rounded: Callable[[int], int]) -> _Peak:
        """The highest moment of clipping and of the optimizer's step."""
        each = self.in_order()
        most, at = 0, ""
        for path, made in optimizers.moments(self.trace.workload, each, rounded):
            if made.now > most:
                most, at = made.now, path
        then = (made.entries() for _, made in optimizers.moments(self.trace.workload, each, rounded)
                if made.now == most)
        return _Peak("optimizer", base + most, at, _END, last, tuple(next(then, ())))

    def _resident(self) -> Iterator[Entry]:
        """What no moment of the run has: weights, the optimizer's states and inputs."""
        trace, held = self.trace, self.trace.workload.held
        if self.sharded:
            yield from shards.resident(trace, {p.path: p.shape for p in parameters(trace)})
        for entry in () if self.sharded else params.entries(trace) if held else weights.entries(trace):
            whole = entry._replace(each=entry.each * (held.weights if held else 1), part="weights")
            yield zero.shared(trace, whole)
        for p in self.parameters if held and held.master else ():
            yield Entry(p.op, "master weights", p.elements * p.width, p.copies, part="master weights")
        yield from optimizers.states(trace.workload, self._with_states())
        yield from set_aside.resident(trace)
        there: set[int] = set()
        for op in trace.ops:
            for x in (*op.reads, *op.saves):
                if x.label in INPUTS and x.id not in there:
                    there.add(x.id)
                    yield Entry(op, x.label, _size(trace, x), stages.batches(trace), part="inputs",
                                shape=x.storage.shape)

    def _with_states(self) -> list[Parameter]:
        """The weights that have states: those with gradients, or all that are trained."""
        trace, width = self.trace, {p.path: p.width for p in self.parameters}
        if trace.workload.held is not None or not optimizers.OPTIMIZERS[trace.workload.updates].at_once:
            return self.parameters
        trained = {g.of for op in trace.ops for each in op.backward for g in each if isinstance(g.of, str)}
        return [Parameter(op, path, "", shards.shard(shape, self.sharded) if self.sharded else shape,
                          width.get(path, trace.workload.bytes_of(Role.WEIGHT)), count(trace, often.copies))
                for op, often in trace.placed for path, shape in params.weight_shapes(op).items() if path in trained]


def _buckets(trace: Trace, gradients: Iterable[Entry]) -> Iterator[Entry]:
    """What data-parallel ranks reduce: ``DistributedDataParallel`` copies gradients to buckets of its own, made once,
    unless ``gradient_as_bucket_view`` is given (its documentation, and measured on torch 2.13)."""
    layout, w = trace.layout, trace.workload
    if layout.alike == 1 or layout.fsdp is not None or layout.zero or w.held is not None:
        return
    for each in gradients:
        if zero.ranks(trace, each.op) == 1:  # of an expert that no other rank has
            continue
        yield each._replace(what="bucket of DistributedDataParallel", part="collectives")


def _check_in_backward(w: Workload) -> None:
    """Raise ``SpecError`` where a step that takes one weight at a time allocates what has not been followed."""
    kernel = None if w.held is not None else optimizers.kernel_of(w.updates, w.optimizer_kernel)
    rules = () if kernel is None else optimizers.OPTIMIZERS[w.updates].rules
    if kernel is None or any(rule.steps and rule.steps.get(kernel) for rule in rules):
        raise SpecError("is counted where a step allocates nothing, such as with --optimizer-kernel fused",
                        field="in_backward")


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
    return sum(rounded(size) * entry.times for entry in entries for size in storages(entry))


def storages(entry: Entry) -> list[int]:
    """Bytes of every storage of an entry, which of weights is an operation's."""
    width, rest = divmod(entry.each, entry.op.params or 1)
    whole = entry.part == "weights" and entry.shape is None and not rest
    return [prod(shape) * width for _, shape in entry.op.weights] if whole else [entry.each]


def _head(trace: Trace) -> int:
    """Elements of one of attention's heads, of a square projection of the model's width."""
    heads = next((getattr(block.attention, "heads", 1) for _, block in located_blocks(trace.model)), 1)
    return count(trace, trace.model.d_model**2) // heads


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
