"""Live bytes of a training step: the trace's, event by event, against a real step of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from txcalc.answer.fit import fit
from txcalc.answer.validation import Device, Row
from txcalc.check import fake_cuda, measure
from txcalc.check.whole_step import runs_on, step_live_bytes
from txcalc.count import step
from txcalc.count.gradients import parameters, unrolled
from txcalc.count.lifetimes import Event, live_bytes
from txcalc.count.optimizers import OPTIMIZERS, kernel_of
from txcalc.count.unproved import unproved
from txcalc.spec.adapters import Adapter
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import frozen_parts
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import DType, Workload

NAMES: Final[dict[Device, str]] = {"cpu": "CPU", "cuda": "CUDA", "fake-cuda": "CUDA's operators, no GPU"}
"""Names of devices in rows."""


def measured(
    what: str, spec: Model, w: Workload, device: Device, own: Mapping[str, Any] = MappingProxyType({}), **more: Any
) -> list[Any]:
    """The figures that ``txcalc.check.measure`` finds of a workload: live_bytes, kept, step_live_bytes, or what
    ``fake_cuda.ask`` takes, with arguments of its ``own``. Raises ``NotRun`` where there is no fake CUDA."""
    run: dict[str, Any] = {
        "source_seq": w.source_seq, "attention": w.attention, "absorbed": w.absorbs, "dropout": w.dropout,
        "loss_as": w.loss or "fp32", "recompute": w.recompute or "none",
        **({} if w.images is None else {"images": w.images}),
        **({"trained": trained(w) | ({"freeze": frozen_parts(spec, w.freeze)} if w.freeze else {}) | more}
           if w.freezes else {}), **own,
    }
    if not what.endswith("step_live_bytes"):
        run["loss"] = w.phase == "training"
    else:
        t = trace(spec, w)
        run |= {"order": [p.path for p in unrolled(t, parameters(t))], "optimizer": w.updates,
                "kernel": kernel_of(w.updates, w.optimizer_kernel), "clip": bool(w.clip),
                "accumulate": w.accumulate or 1, "in_backward": bool(w.in_backward)}
    if device == "fake-cuda":
        return list(fake_cuda.ask(what, spec, w.batch, w.seq, **dtypes(w), **run))
    function: Callable[..., list[Any]] = getattr(measure, what, step_live_bytes)
    read = {name: measure.DTYPES[dtype] for name, dtype in dtypes(w).items()}
    return function(spec, w.batch, w.seq, device=device, **read, **run)


def dtypes(w: Workload) -> dict[str, DType]:
    """The dtype of weights, and what autocast computes in, if it does."""
    return {"dtype": w.weight_dtype, **({"autocast": w.dtype} if w.precision == "amp" else {})}


def trained(w: Workload) -> dict[str, Any]:
    """Fields of a workload that say which weights are trained."""
    data = w.to_data()
    return {name: data[name] for name in ("lora", "dora", "freeze") if name in data}


def live(spec: Model, w: Workload, device: Device, how: str) -> Row:
    """The largest of the live bytes; equal only if all of them are, one after the other."""
    return compared_events(live_bytes(trace(spec, w), in_place=False), measured("live_bytes", spec, w, device),
                           f"live bytes of a training step, {NAMES[device]}: {_said(w)}", how)


def whole_step(
    spec: Model, w: Workload, device: Device, how: str, what: str = "step_live_bytes", **own: Any
) -> Row:
    """Likewise those of a step in steady state, with weights, states and what the optimizer makes among them.

    ``what``: measures them, with arguments of its ``own``.
    """
    t, real = trace(spec, w), changes(measured(what, spec, w, device, own))
    ours = changes((each.path, sum(each.live.values())) for each in step.events(t, in_place=False))
    quantity = f"a whole step, {NAMES[device]}: {_said(w)}, {w.updates} {kernel_of(w.updates, w.optimizer_kernel)}"
    row = compared_events([Event("forward", *each) for each in ours], real, quantity, how)
    peak = max(each.peak_bytes for each in step.phases(t, in_place=False))
    if peak == row.counted:
        return row
    return row.replaced(verdict="DIFFERS", differences=(*row.differences, f"the highest phase has {peak:,} B"))


def changes(events: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The events at which the live bytes change, those between two operations once."""
    found: list[tuple[str, int]] = []
    for path, live in events:
        if found and live == found[-1][1]:
            continue
        if len(found) > 1 and not path and not found[-1][0]:
            found.pop()
        found.append((path, live))
    return found


OPTIONS: Final[tuple[dict[str, Any], ...]] = (
    {}, {"loss": "plain"}, {"recompute": "full"}, {"loss": "chunked:3"}, {"precision": "amp", "dtype": "bf16"},
    {"recompute": "selective"}, {"accumulate": 2, "clip": True}, {"recompute": "full:2"}, {"loss": "fused"},
    {"recompute": "ops"},
)
"""Settings of steps, one after the other."""


def steps(spec: Model, runs: Sequence[Workload], device: Device, turn: int | None = None) -> Iterator[Workload]:
    """Training steps of each optimizer with each of its kernels: ``runs`` in turn, and with the options in turn where
    those are counted exactly for this model. ``turn``: only the one whose turn it is."""
    every = [(name, kernel) for name, each in OPTIMIZERS.items() if not each.unmeasured and runs_on(name, device)
             for kernel in each.kernels]
    for i, (name, kernel) in enumerate(every if runs else ()):
        if turn is not None and i != turn % len(every):
            continue
        w = runs[i % len(runs)].replaced(optimizer=name, optimizer_kernel=kernel)
        more = w.replaced(**OPTIONS[i % len(OPTIONS)])
        yield w if not_counted(spec, more) or step.certainty(trace(spec, more)) != "exact" else more


def compared_events(ours: Sequence[Event], theirs: Sequence[Any], quantity: str, how: str) -> Row:
    """The largest of two lists of live bytes, and where they differ first. ``theirs``: operations and bytes."""
    counted, real = [event.live for event in ours], [live for _, live in theirs]
    differences: tuple[str, ...] = ()
    if counted != real:
        at = next((i for i, pair in enumerate(zip(counted, real, strict=False)) if pair[0] != pair[1]),
                  min(len(counted), len(real)))
        one, other = (each[at] if at < len(each) else None for each in (ours, theirs))
        differences = (f"event {at + 1} of {len(counted)}, counted: {(one and one.path) or 'freed'}, "
                       f"{one.live if one else 0:,} B; of {len(real)}, measured: {(other and other[0]) or 'freed'}, "
                       f"{other[1] if other else 0:,} B",)
    return Row.of(quantity, max(counted), max(real), how, differences)


def adapted(w: Workload) -> Workload:
    """The run with an adapter on every linear layer."""
    return w.replaced(lora=Adapter(r=3, targets=("all",), dropout=0.1))


def not_counted(spec: Model, w: Workload) -> str:
    """Reason why live bytes of a run are not counted, or nothing."""
    try:
        return unproved(trace(spec, fit(spec, w)))
    except SpecError as error:
        return error.message


def _said(w: Workload) -> str:
    """A run as the rows call it."""
    more = {"adapters of {}": w.adapter, "loss {}": w.loss, "recompute {}": w.recompute,
            "{} micro-batches": w.accumulate, "clipped": w.clip}
    return ", ".join([w.attention, w.precision or w.dtype, f"dropout {w.dropout:g}",
                      *(said.format(value) for said, value in more.items() if value)])
