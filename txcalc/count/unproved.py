"""Runs whose live bytes no measurement has followed yet: they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from txcalc.spec.errors import SpecError
from txcalc.spec.facts import located_blocks, unpatched, unread
from txcalc.spec.inputs import ClassifierHead
from txcalc.trace.rank import RECEIVED
from txcalc.trace.record import Trace, joined
from txcalc.trace.tensors import Role

if TYPE_CHECKING:
    from txcalc.spec.model import Model

INPUTS: Final = frozenset({"token ids", "pixels", "frames", "targets", RECEIVED})
"""Labels of tensors that are there before a step."""
_UNRECORDED: Final = "txcalc count knows its weights, cache and FLOPs, but the tensors that"
_CELLS: Final = ("rnn", "lstm", "gru")
Rows = tuple[tuple[str, Callable[[Any], bool]], ...]

MODELS: Final[Rows] = (
    ("several projectors", lambda spec: spec.tower is not None and bool(spec.tower.deepstack)),
    ("a pooler whose vector nothing reads", lambda spec: spec.pooler is not None and unread(spec.head)),
    ("newlines between an image's positions", lambda spec: bool(_projector(spec, "separators"))),
    ("a norm after a projector", lambda spec: bool(_projector(spec, "final_norm"))),
    ("class tokens that a projector hands on", lambda spec: bool(_projector(spec, "unpatched"))),
    ("sounds", lambda spec: spec.tower is not None and spec.tower.input.kind == "frames"),
    ("a distilled head", lambda spec: isinstance(spec.head, ClassifierHead) and spec.head.copies > 1),
    ("keys that layers share where several layers make their own", lambda spec: _any(spec, _shares) and sum(
        b.attention is not None and not _shares(b) for b in _blocks(spec)) > 1),
)
LAYERS: Final[Rows] = (
    ("one head alone", lambda b: getattr(b.attention, "heads", 0) == 1),
    ("a gated squared ReLU",
     lambda b: getattr(b.feed_forward, "activation", "") == "relu2" and b.feed_forward.gated),
    ("a first state as all that is read of an encoder", lambda b: _is_cell(b) and b.recurrent.initial is not None
     and b.recurrent.attends is None and b.cross_attention is None),
    ("a Fourier transform", lambda b: getattr(b.recurrent, "kind", "") == "fourier"),
    ("a cell and attention of one input", lambda b: b.residual == "mixers"),
)
AUTOCAST: Final[Rows] = (
    ("a cell", lambda b: _is_cell(b)),
    ("xIELU", lambda b: getattr(b.feed_forward, "activation", "") == "xielu"),
)
GENERATION: Final[Rows] = (
    ("a cell", lambda b: _is_cell(b)),
    ("latents", lambda b: getattr(b.attention, "kind", "") == "mla"),
    ("a gate of attention's output", lambda b: getattr(b.attention, "output_gate", False)),
    ("shared keys", lambda b: _shares(b)),
    ("values narrower or wider than keys",
     lambda b: getattr(b.attention, "value_dim", None) not in (None, getattr(b.attention, "head_dim", None))),
)
"""Parts of models, of their layers, of layers under autocast, and of layers that generate, whose records are complete,
but that no test has followed yet."""


def check(trace: Trace) -> None:
    """Raise ``SpecError`` where the live bytes of a run are not proved."""
    if why := unproved(trace):
        raise SpecError(f"no peak and no live bytes: {why}")


def unproved(trace: Trace) -> str:
    """Why the live bytes of a run are not proved, or nothing; of one on symbols that on ints tells."""
    if trace.model is None or trace.sizes:
        return ""
    spec, generates = trace.model, not trace.workload.keeps
    found = ["a rank that holds a part of the model"] * any(
        getattr(trace.layout, axis) > 1 for axis in ("tp", "cp", "ep"))
    found += [what for what, has in MODELS if has(spec)] + [what for what, has in LAYERS if _any(spec, has)]
    if trace.workload.precision == "amp":
        found += ["autocast over frozen weights"] * (trace.frozen is not None)
        found += ["autocast with recomputation"] * (
            trace.workload.recompute is not None and trace.workload.implementation == "torch")
        found += [f"autocast over {what}" for what, has in AUTOCAST if _any(spec, has)]
        found += ["autocast over a bias and a fused loss"] * (
            trace.workload.loss == "fused" and getattr(spec.head, "bias", False))
        found += ["autocast over a projector of patches"] * (
            spec.tower is not None and spec.tower.projector is not None and bool(unpatched(spec.tower.input)))
        found += ["autocast over merged patches"] * (
            spec.tower is not None and spec.tower.projector is not None and spec.tower.projector.merge is not None)
        found += ["autocast over layers that share their weights"] * any(
            stack.share_layers or any(each.shared for each in stack.groups or ())
            for stack in (spec, spec.encoder, spec.tower) if stack is not None)
    if generates:
        found += [f"generation with {what}" for what, has in GENERATION if _any(spec, has)]
        found += ["generation with an encoder"] * (spec.encoder is not None)
        found += ["a prompt with images"] * bool(trace.workload.images)
        found += ["generation with cached inputs"] * (getattr(spec.position, "cached", "") == "inputs")
    if trace.workload.recompute and _any(spec, _is_cell):
        found.append("a cell that is recomputed")
    if trace.workload.recompute not in (None, "full") and trace.workload.implementation != "torch":
        found.append(f"--recompute {trace.workload.recompute} in {trace.workload.implementation}'s code")
    if trace.workload.offload and any(op.kind.name == "recomputation" and len(op.saves) > 1 for op in trace.ops):
        found.append("offloading what several layers are given")
    return f"{found[0]} is not proved yet" if found else _incomplete(trace)


def _incomplete(trace: Trace) -> str:
    written = {x.storage.id for op in trace.ops for x in op.writes} | set(joined(trace.body))
    for op in trace.ops:
        known = written | {x.storage.id for x in (*op.reads, *op.saves)
                           if x.label in INPUTS or x.role is Role.PARAMETER}
        if any(x.storage.id not in known for x in (*op.reads, *op.saves)):
            return f"{_UNRECORDED} {op.path} reads are not recorded"
        idle = op.writes or op.kind.cached or op.kind.name == "recomputation"
        if not idle and (op.reads or op.saves or (op.weights and op.products)):
            return f"{_UNRECORDED} {op.path} writes are not recorded"
    return ""


def _projector(spec: Model, name: str) -> Any:
    return getattr(spec.tower and spec.tower.projector, name, None)


def _blocks(spec: Model) -> list[Any]:
    return [block for stack in (spec, spec.encoder) if stack is not None for _, block in located_blocks(stack)]


def _any(spec: Model, has: Callable[[Any], bool]) -> bool:
    return any(map(has, _blocks(spec)))


def _is_cell(block: Any) -> bool:
    return getattr(block.recurrent, "kind", "") in _CELLS


def _shares(block: Any) -> bool:
    return bool(getattr(block.attention, "kv_shared", False))
