"""Live bytes of a training step: the trace's, event by event, against a real step of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal

from txcalc.answer.validation import Device, Row
from txcalc.count.memory import live_bytes
from txcalc.spec.facts import located_blocks
from txcalc.spec.inputs import ClassifierHead
from txcalc.spec.model import Model, Sublayers
from txcalc.trace.model import trace
from txcalc.trace.record import Node, Op, Repeat
from txcalc.trace.workload import Workload

NAMES: Final[dict[Device, str]] = {"cpu": "CPU", "cuda": "CUDA", "fake-cuda": "CUDA's operators, no GPU"}
"""What the rows call each device."""
UNPROVED: Final[tuple[tuple[str, Callable[[Model], bool]], ...]] = (
    ("a tower", lambda spec: spec.tower is not None),
    ("a distilled head", lambda spec: isinstance(spec.head, ClassifierHead) and spec.head.copies > 1),
    ("one head of columns that CUDA's flash kernel pads", lambda spec: any(
        getattr(b.attention, "heads", 0) == 1 and getattr(b.attention, "head_dim", 0) % 8 for b in _blocks(spec))),
    ("a cell that reads both ways", lambda spec: any(
        getattr(b.recurrent, "bidirectional", False) for b in _blocks(spec))),
    ("a cell beside attention", lambda spec: any(
        getattr(b.recurrent, "kind", "") in ("rnn", "lstm", "gru") for b in _blocks(spec))
        and any(b.attention is not None for b in _blocks(spec))),
    ("keys that layers share where several layers make their own", lambda spec: any(
        getattr(b.attention, "kv_shared", False) for b in _blocks(spec)) and sum(
        b.attention is not None and not getattr(b.attention, "kv_shared", False) for b in _blocks(spec)) > 1),
    ("an inner norm", lambda spec: any(getattr(part, "inner_norm", None) is not None for b in _blocks(spec)
                                       for part in (b.feed_forward, b.attention))),
)
"""Parts of models whose records are complete, but that no test has followed yet."""
INPUTS: Final = frozenset({"token ids", "pixels", "frames", "targets"})
"""Labels of tensors that are there before a step."""


def measured(what: Literal["live_bytes", "kept"], spec: Model, w: Workload, device: Device) -> list[Any]:
    """What ``txcalc.check.measure`` finds of a workload. Raises ``NotRun`` where there is no fake CUDA."""
    from txcalc.check import fake_cuda, measure

    run: dict[str, Any] = {
        "source_seq": w.source_seq, "attention": w.attention, "absorbed": w.absorbs, "dropout": w.dropout,
        "loss": w.phase == "training", **({} if w.images is None else {"images": w.images}),
    }
    if device == "fake-cuda":
        return list(fake_cuda.ask(what, spec, w.batch, w.seq, dtype=w.dtype, **run))
    function: Callable[..., list[Any]] = getattr(measure, what)
    return function(spec, w.batch, w.seq, dtype=measure.DTYPES[w.dtype], device=device, **run)


def live(spec: Model, w: Workload, device: Device, how: str) -> Row:
    """The largest of the live bytes; equal only if all of them are, one after the other."""
    theirs = measured("live_bytes", spec, w, device)
    ours = live_bytes(trace(spec, w), in_place=False)
    counted, real = [event.live for event in ours], [live for _, live in theirs]
    differences: tuple[str, ...] = ()
    if counted != real:
        at = next((i for i, pair in enumerate(zip(counted, real, strict=False)) if pair[0] != pair[1]),
                  min(len(counted), len(real)))
        one, other = (each[at] if at < len(each) else None for each in (ours, theirs))
        differences = (f"event {at + 1} of {len(counted)}, counted: {(one and one.path) or 'freed'}, "
                       f"{one.live if one else 0:,} B; of {len(real)}, measured: {(other and other[0]) or 'freed'}, "
                       f"{other[1] if other else 0:,} B",)
    run = ", ".join([w.attention, w.dtype, f"dropout {w.dropout:g}"])
    return Row(quantity=f"live bytes of a training step, {NAMES[device]}: {run}", counted=max(counted),
               measured=max(real), verdict="DIFFERS" if differences else "equal", how=how, differences=differences)


def unproved(spec: Model, w: Workload) -> str:
    """Why the live bytes of a model are not proved, or nothing."""
    for what, has in UNPROVED:
        if has(spec):
            return f"{what} is not proved yet"
    t = trace(spec, w)
    written = {x.storage.id for op in t.ops for x in op.writes} | set(_joined(t.body))
    for op in t.ops:
        known = written | {x.storage.id for x in (*op.reads, *op.saves) if x.label in INPUTS}
        if any(x.storage.id not in known for x in (*op.reads, *op.saves)):
            return f"what {op.path} reads has no writer yet"
        if not op.writes and (op.weights or op.reads or op.saves):
            return f"what {op.path} writes is not recorded yet"
    return ""


def _joined(nodes: Iterable[Node]) -> Iterator[int]:
    """Storages that stand for others: what a repeat carries from turn to turn, and lists of what its turns make."""
    for node in nodes:
        if isinstance(node, Repeat):
            yield from (x.storage.id for loop in node.carries for x in (loop.entry, loop.after))
            yield from (x.storage.id for pair in (*node.gathers, *node.spreads) for x in pair)
            yield from _joined(node.runs)
        if not isinstance(node, Op):
            yield from _joined(node.body)


def _blocks(spec: Model) -> list[Sublayers]:
    return [block for stack in (spec, spec.encoder) if stack is not None for _, block in located_blocks(stack)]
