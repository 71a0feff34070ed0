"""Weights sharded over data-parallel ranks, gathered unit by unit: PyTorch's FSDP2 (``fully_shard``), the first rank's.

Read in torch 2.13 (``torch/distributed/fsdp/_fully_shard``), and measured event by event under its ``fake`` process
group. Every weight is split along its first axis into as many parts as there are ranks, the last ones padded, so that
the first rank has most. Before a unit runs, its shards are cast to one buffer, gathered into another, and copied to the
whole weights; that buffer goes when the next unit has its own. In the backward pass the unit before is gathered ahead.
Shards in the CPU's memory are first copied, one by one, which is never the most that is alive.
Once a unit is through, its gradients are copied to one buffer, which is reduced and scattered, and lives until the next
unit's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, Final

from txcalc.count.entries import Entry
from txcalc.count.parameter import reads_rows, summed
from txcalc.count.turns import Border, Edge, Memory, Step, Unit, Value, Weight
from txcalc.spec import words
from txcalc.spec.errors import SpecError
from txcalc.trace.layout import Fsdp, Layout
from txcalc.trace.record import Frame, Often, Op, Trace, operations
from txcalc.trace.tensors import Number
from txcalc.trace.workload import BYTES

if TYPE_CHECKING:
    from txcalc.count.lifetimes import Live

STORED: Final = 4
"""Bytes of an element of what is sharded: weights and gradients are in fp32."""


Shapes = Mapping[str, Sequence[Number]]


def shapes(trace: Trace) -> Shapes:
    """Shapes of gradients, by path: of projections that are stored as one, of all of them at the first one's."""
    found = ((g, g.of, op) for op in trace.ops for step in op.backward for g in step)
    return {of: g.shape or (g.kept.storage if g.kept else op.writes[0]).shape for g, of, op in found
            if isinstance(of, str)}


def resident(trace: Trace) -> Iterator[Entry]:
    """The first rank's part of every weight."""
    for weight in weights(trace.placed, shapes(trace), trace.layout, batch_axis=trace.code.batch_axis):
        own = shard(weight.shape, ranks(trace.layout, weight.op))
        yield Entry(weight.op, weight.what, prod(own) * STORED, weight.copies, part="weights", shape=own)


def ranks(layout: Layout, op: Op) -> int:
    """Ranks that an operation's weights are spread over: of experts those that have the same ones."""
    return layout.shards // (layout.ep if op.within.experts else 1)


def weights(ops: Iterable[tuple[Op, Often]], shapes: Shapes, layout: Layout, *, batch_axis: bool) -> list[Weight]:
    """Weights as modules have them. ``batch_axis``: those without a module of their own have one before theirs."""
    found, whole = list[Weight](), 0
    for op, often in ops:
        for name, shape in op.weights if often.copies else ():
            path = f"{op.path}.{name}" if name else op.path
            whole += prod(shape) * often.copies
            own, copies = tuple(shapes.get(path, shape)), often.copies
            own = shape if op.kind.name == "embedding" else own  # of a split table it is that of the whole
            if op.within.experts and len(own) > len(shape):  # that are stored as one
                copies = copies // own[0]
            own = (1, *own) if batch_axis and not name else own
            part = prod(shard(own, ranks(layout, op)))
            found.append(Weight(op, path, name or op.part, own, part, part * ranks(layout, op), copies, not name))
    together = [weight for weight in found if weight.path in shapes]
    return together if sum(prod(weight.shape) * weight.copies for weight in together) == whole else found


def shard(shape: Sequence[Number], ranks: int) -> tuple[Number, ...]:
    """The shape of the first rank's part of a weight."""
    return (-(-shape[0] // ranks), *shape[1:]) if shape else (1,)


def sharding(trace: Trace, *, later: bool = False, whole: bool = False) -> Sharding | None:
    """The handling of sharded weights in a run, if there are any; ``later``: there are gradients to add to; ``whole``:
    the weights are gathered already.
    """
    wanted = trace.layout.shards and trace.workload.phase == "training"
    return Sharding(trace, later, whole) if wanted else None


def unsharded(trace: Trace) -> Iterator[Entry]:
    """A stage's weights as they are gathered, which a pipeline keeps until its last micro-batch has been back."""
    layout = trace.workload.layout
    assert layout is not None and layout.fsdp is not None
    for weight in weights(trace.placed, shapes(trace), layout, batch_axis=trace.code.batch_axis):
        yield Entry(weight.op, weight.what, weight.whole * BYTES[layout.fsdp.params], weight.copies,
                    part="unsharded weights", shape=weight.shape)


class Sharding:
    """The units of a run, and what happens at their borders."""

    def __init__(self, trace: Trace, later: bool, whole: bool) -> None:
        layout = trace.workload.layout
        assert layout is not None and layout.fsdp is not None
        _check(trace, layout.fsdp)
        self._later, self._trace, self._shapes = later, trace, shapes(trace)
        self._casts, self._sends = layout.fsdp.offload or layout.fsdp.params != "fp32", later or layout.fsdp.offload
        self._replicated, self._one = layout.fsdp.replicas > 1, layout.fsdp.unit == "model"
        self._reshards = layout.fsdp.reshard or (layout.fsdp.reshard is None and not self._one)
        self._width, self._reduced = BYTES[layout.fsdp.params], BYTES[layout.fsdp.reduce]
        self._d, self.piped, self.whole = trace.model.d_model, layout.pp > 1, whole
        self._last: Unit | None = None
        self._output: Memory | None = None  # of the last all-gather of the forward pass
        self._scattered: list[Memory] = []  # what the last reduce-scatter has read
        self._reducing: list[Memory] = []  # what all-reduces work on
        self._open: list[tuple[Unit, int]] = []
        self._late: list[Unit] = []
        self._ended = False  # the forward pass
        self.calls = Counter[tuple[str, Number, str, str]]()  # what, bytes of the full tensor, pass and unit
        self._known: dict[int, tuple[Op, tuple[Weight, ...], bool]] = {}

    def unit(self, frame: Frame) -> Unit | None:
        """A unit of one turn, or none where the model is one and the frame a layer."""
        if id(frame) not in self._known:
            inside = list(operations(frame.body if self._one else _outside(frame.body)))
            found = weights(inside, self._shapes, self._trace.layout, batch_axis=self._trace.code.batch_axis)
            op = next(iter(inside or operations(frame.body)))[0]
            root = not inside or not op.within.layer
            path = "root" if root else op.within.layer
            self._known[id(frame)] = op._replace(path=path, weights=()), tuple(found), root
        op, own, root = self._known[id(frame)]
        return Unit(op, root, own, late=not root and not frame.holds[0].grad) if root or not self._one else None

    # ------------------------------------------------------------ forward

    def forward(self, live: Live, border: Border) -> None:
        """Begin or end a unit's forward pass."""
        unit = border.unit
        if self.whole:
            return
        if border.begins:
            self._gather(live, unit)
            self._unshard(live, unit, self._output)
            self._output, unit.output = unit.output, None
            return
        unit.before, self._last = self._last, unit
        if unit.root:
            self._free(live, [self._output])
        if self._reshards and unit.root == self._one:
            self._reshard(live, unit)

    def _gather(self, live: Live, unit: Unit) -> None:
        if not unit.weights:  # of a stage between others
            return
        own = sum(weight.shard * weight.copies for weight in unit.weights)
        cast = self._made(unit, "shards", own * self._width)
        if self._casts:
            live.allocate(unit.op.path, [cast])
        whole = sum(weight.whole * weight.copies for weight in unit.weights)
        unit.output = self._made(unit, "all-gather output", whole * self._width)
        live.allocate(unit.op.path, [unit.output])
        self._call(live, unit, "all-gather", unit.output.bytes)
        if self._casts:
            live.release([cast])

    def _unshard(self, live: Live, unit: Unit, done: Memory | None) -> None:
        """Copy what was gathered to the unit's whole weights, and let go of a buffer."""
        unit.gathered = tuple(
            Memory(weight.whole * weight.copies * self._width, weight.op, weight.what, "unsharded weights",
                   shape=weight.shape) for weight in unit.weights)
        live.allocate(unit.op.path, unit.gathered)
        self._free(live, [done])

    def _reshard(self, live: Live, unit: Unit) -> None:
        live.release(unit.gathered)
        unit.gathered = ()

    # ------------------------------------------------------------ backward

    def backward(self, live: Live, border: Border) -> None:
        """Begin or end a unit's backward pass."""
        unit, self._ended = border.unit, True
        if border.begins:
            self._open.pop()
            late = [unit, *self._late] if unit.root else [] if unit.late else [unit]
            self._late += [unit] if unit.late else []
            for each in late:
                (self._widen if self.piped else self._reduce)(live, each)
            if unit.root:
                self._free(live, [*self._scattered, *self._reducing])
            return
        self._open.append((unit, len(live.open)))
        if self.piped:
            return
        if not unit.gathered:
            if unit.output is None:
                self._gather(live, unit)
            self._unshard(live, unit, unit.output)
            unit.output = None
        before = unit.before
        if before is not None and not before.gathered and before.output is None:
            self._gather(live, before)

    def own(self, live: Live, path: str, value: Value) -> None:
        """Let the gradient of a weight be reduced with those of the unit that is running."""
        unit, depth = self._open[-1]
        unit.gradients[value] = path, tuple(live.open[depth:])

    @property
    def adds(self) -> bool:
        """True where gradients are added up as the backward pass makes them: in a pipeline, in the same width."""
        return self.piped and self._reduced == self._width

    def _widen(self, live: Live, unit: Unit) -> None:
        """Keep a unit's whole gradients, or add them to those that are there, in the dtype that is reduced."""
        if self.adds:
            return
        ordered = sorted(unit.weights, key=lambda weight: not (unit.root and weight.own))  # a module's own come first
        places = {weight.path: i for i, weight in enumerate(ordered)}
        for value, (_, edges) in sorted(unit.gradients.items(), key=lambda each: places[each[1][0]]):
            if (old := value.gradient) is None:
                continue
            value.gradient, often = None, prod(edge.times for edge in edges)
            if not self._later:
                value.gradient = replace(old, bytes=old.bytes * often * self._reduced // self._width, users=0)
                live.allocate(unit.op.path, [value.gradient])
            live.release([_often(old, edges)])

    def finish(self, live: Live, steps: Iterable[Step]) -> None:
        """Reduce the gradients of a stage once all micro-batches have been back, those of the root first."""
        borders = [step for step in steps if isinstance(step, Edge) or (isinstance(step, Border) and step.begins)]
        for step in sorted(borders, key=lambda each: not (isinstance(each, Border) and each.unit.root)):
            if isinstance(step, Edge):
                live.cross(step)
            else:
                self._reduce(live, step.unit)
        self._free(live, [*self._scattered, *self._reducing])

    def _reduce(self, live: Live, unit: Unit) -> None:
        """Reduce a unit's gradients, and keep the rank's own part of them."""
        self._redistribute(live, unit)
        self._reshard(live, unit)
        self._free(live, self._scattered)
        self._scattered = []
        if unit.gradients:
            sizes = {weight.path: (weight.shard, weight.whole) for weight in unit.weights}
            own, whole = (sum(sizes[path][i] * prod(edge.times for edge in edges)
                              for path, edges in unit.gradients.values()) for i in (0, 1))
            self._scattered = [self._made(unit, "reduce-scatter input", whole * self._reduced)]
            live.allocate(unit.op.path, self._scattered)
            self._call(live, unit, "reduce-scatter", self._scattered[0].bytes)
            if self._replicated:
                self._call(live, unit, "all-reduce", own * self._reduced)
            last, held, gone = self._named_last(unit), list[Memory](), list[Memory]()
            for value, (path, edges) in unit.gradients.items():
                if value.gradient is not None:
                    (held if path == last and not held else gone).append(_often(value.gradient, edges))
                    value.gradient = None
            live.release(gone)
            made = self._made(unit, "reduce-scatter output", own * self._reduced)
            live.allocate(unit.op.path, [made])
            if self._reduced != STORED:
                reduced, made = made, self._made(unit, "sharded gradients", own * STORED)
                live.allocate(unit.op.path, [made])
                if self._replicated:
                    self._reducing.append(_often(reduced, live.open))
                else:
                    live.release([reduced])
            made.what, made.group = "sharded gradients", "gradients"
            kept = self._sends and self._replicated and self._reduced == STORED  # what an all-reduce works on
            self._reducing += [_often(made, live.open)] if kept else []
            live.release([*held, *([made] if self._sends and not kept else [])])

    def _redistribute(self, live: Live, unit: Unit) -> None:
        """Sum gradients over ranks of tensor parallelism, or take a rank's part of a table's, where DTensor has not yet
        (``_get_grad_inner_tensor``)."""
        sizes = {weight.path: prod(weight.shape) * self._width for weight in unit.weights}
        for value, (path, edges) in unit.gradients.items() if self._trace.layout.tp > 1 else ():
            if (old := value.gradient) is not None and (old.bytes > sizes[path] or (
                    summed(self._trace, old.op) and reads_rows(old.op))):
                value.gradient = replace(old, bytes=min(old.bytes, sizes[path]), users=1)
                for _ in range(int(prod(edge.times for edge in edges))):  # one after the other
                    live.add(value.gradient, 1)
                    live.note(unit.op.path)
                    live.add(old, -1)
                    live.note()

    def _named_last(self, unit: Unit) -> str:
        """The last of the unit's weights as modules have them, whose gradient a local of the reduction holds on to."""
        made = {path for path, _ in unit.gradients.values()}
        trained = [weight for weight in unit.weights if weight.path in made]
        norms = [weight for weight in trained if weight.op.kind.group == "norm" and weight.shape == (self._d,)]
        if not unit.root or self._trace.model.encoder is not None:
            return (norms or trained)[-1].path
        ours = [weight for weight in trained if self._trace.workload.implementation == "torch"]
        own = sorted((weight for weight in ours if weight.own and weight.op.within[:2] == ("", "")),
                     key=lambda weight: -prod(weight.shape))
        head = any(weight.op.kind.group == "head" or weight.op.layer in ("pooler", "transform") for weight in trained)
        tables = [weight for weight in ours if weight.op.part == "tokens" and not head]
        layer = trained[-1].op.within.layer  # of a unit that is the model
        ends = [weight for weight in norms if layer and weight.op.within.layer == layer]
        return (own or tables or ends or trained)[-1].path

    def _call(self, live: Live, unit: Unit, what: str, size: Number) -> None:
        when = "backward" if self._ended else "forward"
        self.calls[what, size, when, unit.op.path] += int(prod(edge.times for edge in live.open))

    def _made(self, unit: Unit, what: str, size: Number) -> Memory:
        return Memory(size, unit.op, what, "collectives")

    def _free(self, live: Live, memories: Iterable[Memory | None]) -> None:
        live.release([memory for memory in memories if memory is not None])


def _outside(body: Iterable[Any]) -> list[Any]:
    """Nodes without those of units inside."""
    found: list[Any] = []
    for node in body:
        if isinstance(node, Op):
            found.append(node)
        elif not (isinstance(node, Frame) and node.unit):
            found.append(node._replace(body=tuple(_outside(node.body))))
    return found


def _often(memory: Memory, edges: Sequence[Edge]) -> Memory:
    """A gradient that stands for those of several turns that are over."""
    if edges:
        memory.edge = replace(edges[-1], times=prod(edge.times for edge in edges))
    return memory


def _check(trace: Trace, fsdp: Fsdp) -> None:
    """Raise ``SpecError`` for what is not counted."""
    w, spec, why = trace.workload, trace.model, ""
    stacks = [each for each in (spec, spec.encoder, spec.tower) if each is not None]
    if fsdp.offload and trace.layout.pp > 1:
        why = "in the CPU's memory, of stages,"
    elif fsdp.unit != "layer" and trace.layout.pp > 1:
        why = "of a stage in one unit"
    elif fsdp.unit != "layer" and spec.position.kind == "transformer-xl" and not spec.position.per_layer:
        why = "with biases of queries that layers share, in one unit,"
    elif trace.layout.shards == 1:
        why = "of groups of one rank each, which share nothing,"
    elif any(stack.share_layers or any(each.shared for each in stack.groups or ()) for stack in stacks):
        why = "that several layers share"
    elif w.together is not None and fsdp.unit == "layer":
        why = "of several layers that are recomputed together"
    elif words.form(w.loss or "") in ("chunked", "fused", "compiled"):
        why = "read by a loss that makes logits by itself"
    elif w.in_backward:
        why = "updated in the backward pass"
    elif w.implementation == "transformers" and spec.encoder is not None:
        why = "of an encoder-decoder in transformers' code"
    elif trace.code.rotary == "fp32":
        why = "of layers whose rotary tables are cast for each"
    if trace.code.totals_only:
        raise SpecError(f"fully_shard is not followed under --implementation {w.implementation}, whose own way is "
                        "--zero 1", field="fsdp")
    if why:
        raise SpecError(f"weights {why} are not counted in units yet", field="fsdp")
    if w.held is not None or w.precision not in (None, "bf16", "fp32"):
        raise SpecError("has fp32 weights and states by itself: leave --precision and bytes of --optimizer out",
                        field="fsdp")
    if w.dtype != fsdp.params:
        raise SpecError(f"gathers weights in {fsdp.params}, and --dtype is {w.dtype}: give the same in both",
                        field="fsdp")
