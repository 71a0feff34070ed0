"""Numbers of a run that are compared with published figures, by the word that a row has for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any, Final

from txcalc import units
from txcalc.answer import devices
from txcalc.answer.fit import fit
from txcalc.answer.memory import allocated, peak_reserved
from txcalc.answer.passes import Passes, passes
from txcalc.answer.report import Totals, totals
from txcalc.answer.serving import Serving, served, serving
from txcalc.count import step, zero
from txcalc.count.activations import kept
from txcalc.count.flops import core_flops, forward_flops
from txcalc.count.gradients import parameters
from txcalc.count.lifetimes import moments
from txcalc.count.moments import Mode
from txcalc.count.params import params
from txcalc.count.peak import highest
from txcalc.count.segments import MIB, Pool, loaded, taken
from txcalc.count.weights import packed_matrices, stored, weight_bytes
from txcalc.spec.model import Model
from txcalc.spec.quantization import StoredTensors
from txcalc.trace import ops
from txcalc.trace.losses import chunk_rows, cross_entropy
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Role
from txcalc.trace.workload import Workload

Run = Mapping[str, Any]
"""Fields of a workload, as ``txcalc memory`` takes them."""


def _trace(spec: Model, run: Run) -> Trace:
    return trace(spec, fit(spec, Workload.of(run)))


def _total(name: str) -> Callable[[Model, Run], int]:
    def found(spec: Model, run: Run) -> int:
        total: Totals = totals(_trace(spec, run))
        return int(getattr(total, name).value)

    return found


def _six_n(spec: Model, run: Run, *, tokens: str) -> Fraction:
    """6 FLOPs per parameter and token."""
    return Fraction(tokens) * int(6 * params(_trace(spec, run)))


def _over_six_nd(spec: Model, run: Run) -> Fraction:
    """FLOPs of a training step as arXiv 2203.15556, appendix F counts them, over 6ND.

    The embeddings, the logits and all that belongs to distances are left out, and 3 FLOPs for every score are in.
    """
    plain = _trace(Model.from_data({**spec.to_data(), "position": {"kind": "none"}}), run)
    logits = sum(often.calls * op.flops for op, often in plain.placed if op.kind.name == "head")
    assert spec.attention is not None
    seq, batch = plain.workload.seq, plain.workload.batch
    softmax = 3 * spec.layers * spec.attention.heads * seq**2 * batch
    return Fraction(forward_flops(plain) - logits + softmax, 2 * seq * batch * params(_trace(spec, run)))


def _utilisation(spec: Model, run: Run, *, rate: str, peak: str, attention: bool) -> Fraction:
    """Model FLOPs utilisation in per cent, of ``rate`` tokens/s and a ``peak`` in FLOP/s: 6N per token, and attention's
    own 12 L H Q T."""
    t = _trace(spec, run)
    per_token = Fraction(6 * params(t)) + (Fraction(3 * core_flops(t), t.workload.seq * t.workload.batch)
                                           if attention else 0)
    return 100 * Fraction(rate) * per_token / Fraction(peak)


def _kept_by_layers(spec: Model, run: Run, *, times: str = "1") -> Fraction:
    """Bytes that all layers keep, without the norms' statistics, ``times`` that."""
    found = kept(_trace(spec, run))
    inside = sum(each.value for each in found if each.op.within.layer and each.tensor.role is not Role.STATISTIC)
    return Fraction(inside) * Fraction(times)


def _kept_units(spec: Model, run: Run) -> Fraction:
    """Bytes that a layer keeps, over s b h, without the norms' statistics."""
    w = _trace(spec, run).workload
    return _kept_by_layers(spec, run) / (spec.layers * w.seq * w.batch * spec.d_model)


def _held(spec: Model, run: Run, *, device: str, ready: str = "") -> int:
    """Weights, the cache and one workspace of matrix products: what is held once the last token is there.

    ``ready``: the part of the weights that a loader had made room for in one segment; without, all of them.
    """
    t = _trace(spec, run)
    found = totals(t)
    assert found.weight_bytes is not None
    assert found.kv_cache_bytes is not None
    size = found.weight_bytes.value
    weights = taken(loaded(t), int(size * Fraction(ready))) if ready else size
    return weights + found.kv_cache_bytes.value + devices.device(device).workspaces(backward=False)


def _loading(spec: Model, run: Run, *, beside: str) -> int:
    """Weights, and ``beside`` the codes of the largest matrix what packs it, in bytes of a weight."""
    t = _trace(spec, run)
    packing = stored(t).packing
    assert packing is not None
    assert not isinstance(packing, StoredTensors)
    largest = max(prod(op.matrix) for op, _, _ in packed_matrices(t, packing))
    return int(weight_bytes(t) + int(beside) * largest)


def _after_step(spec: Model, run: Run) -> int:
    """Bytes allocated after a step, before gradients are set to none, while the last batch's logits are alive."""
    t = _trace(spec, run)
    logits = t.workload.batch * t.workload.seq * (spec.vocab or 0) * t.workload.bytes_of(Role.ACTIVATION)
    return int(sum(entry.value for entry in step.resident(t)) + _gradients(t) + logits)


def _gradients(t: Trace) -> int:
    """Bytes of the gradients that a step makes, in the weights' dtype."""
    return int(sum(each.elements * each.width * each.copies for each in parameters(t)))


def _states(spec: Model, run: Run, *, parameters: str) -> Fraction:
    """Bytes of weights, gradients and the optimizer's states, of as many parameters."""
    t = _trace(spec, run)
    held = sum(entry.value for entry in step.resident(t) if entry.part != "inputs")
    return Fraction(parameters) * Fraction(held + (0 if zero.stage(t) > 1 else _gradients(t)), params(t))


def _peak(spec: Model, run: Run, *, device: str, outside: str = "0B", stage: int | None = None) -> int:
    """The peak of ``txcalc memory --device``, and what else the figure has in it; or that of a pipeline's ``stage``."""
    return allocated(_staged(spec, run, stage), devices.device(device)) + units.parse_bytes(outside)


def _staged(spec: Model, run: Run, stage: int | None) -> Passes:
    found = passes(spec, run)
    return found if stage is None else found._replace(traces=(trace(spec, found.workload, stage=stage),))


def _reserved(spec: Model, run: Run, *, device: str, outside: str = "0B", stage: int | None = None,
              segments: str | None = None) -> int:
    """The most that the allocator reserves, of ``segments`` that expand or not, with what else the figure has in it."""
    found = peak_reserved(_staged(spec, run, stage), devices.device(device), expands=segments == "expandable")
    assert found is not None
    return found + units.parse_bytes(outside)


def _less_reserved(spec: Model, run: Run, *, less: Run, **given: Any) -> int:
    """The most that the allocator reserves, ``less`` that of the same run with these fields."""
    return _reserved(spec, run, **given) - _reserved(spec, {**run, **less}, **given)


def _above_start(spec: Model, run: Run, *, device: str, stage: int | None = None) -> int:
    """The peak less what is there before the step, both in blocks of the device's allocator."""
    return _peak(spec, run, device=device, stage=stage) - _start(spec, run, device=device, stage=stage)


def _start(spec: Model, run: Run, *, device: str, stage: int | None = None) -> int:
    """Bytes allocated before a step, with workspaces, in blocks of the device's allocator."""
    found, card = _staged(spec, run, stage), devices.device(device)
    return card.workspaces(backward=True) + int(sum(
        card.rounded(size) * entry.times for entry in step.resident(found.traces[0]) for size in step.storages(entry)))


def _logits_held(spec: Model, run: Run, *, device: str) -> int:
    """The peak of a script that holds logits until the next ones, beside its loss: whole on every rank, as the table of
    tokens is, where layers and head are split (KempnerForge)."""
    alone = {name: value for name, value in run.items() if name not in ("tp", "sp")}
    own, whole = (passes(spec, each).traces[0] for each in (run, alone))
    there = step.at_peak(own)
    made = [each for each in there if each.op.path in ("head", "loss") and each.part in ("saved", "transient")]
    loss = sum(each.value for each in step.at_peak(whole) if each.op.path == "loss" and each.part != "inputs")
    table = sum(each.value for each in there if each.op.path == "token_embedding" and each.op.params
                and each.part not in ("saved", "transient", "inputs"))
    w = own.workload
    logits = w.batch * w.seq * (spec.vocab or 0) * w.bytes_of(Role.ACTIVATION)
    split = sum(each.value for each in there) - sum(each.value for each in made) + table * (own.layout.tp - 1)
    return int(split + loss + logits) + devices.device(device).workspaces(backward=True)


def _served(spec: Model, run: Run) -> Serving:
    given = {name: units.parse_bytes(value) if name == "pool" and isinstance(value, str) else value
             for name, value in run.items() if name != "device"}
    return serving(spec, given, run.get("device"))


def _pool(name: str) -> Callable[[Model, Run], int]:
    return lambda spec, run: int(getattr(served(_served(spec, run)), name))


def _held_by(*names: str) -> Callable[[Model, Run], int]:
    return lambda spec, run: sum(each.bytes for each in _served(spec, run).held if each.what in names)


def _slots(spec: Model, run: Run, *, tokens: int, halves: int = 1) -> Fraction:
    """Bytes of so many tokens' slots and one that pads them; or of their keys alone, half of them."""
    return Fraction(_served(spec, run).at(1, tokens + 1).taken, halves)


def _loss_step(spec: Model, run: Run, *, device: str, head: bool) -> int:
    """Peak bytes of cross-entropy on rows that are trained as well, from the second step on, gradients never cleared.

    With a ``head`` before it, and another of its size that does not run, as in Liger-Kernel's benchmark of 0.4.2.
    """
    workload = Workload.of(run)
    t, width = Trace(workload), spec.d_model if head else spec.vocab or 0
    x = t.tensor(workload.batch * workload.seq, width, label="rows")
    y = ops.linear(t, "head", x, spec.vocab, kind="head") if head else x
    loss = cross_entropy(t, "loss", y)
    t.results, t.loss = (loss,), loss
    rows, wide = workload.batch * workload.seq, workload.bytes_of(Role.ACTIVATION)
    there = rows * (2 * width * wide + 8) + (3 * width * (spec.vocab or 0) * wide if head else 0)
    then = moments(t, in_place=True, mode=Mode(accumulates=True))
    spaces = devices.device(device).workspaces(backward=True) if head else 0
    return highest(t, then)[0] + there + spaces


def _liger(spec: Model, run: Run, *, device: str, head: bool) -> int:
    """Peak bytes of Liger-Kernel's cross-entropy of 0.2.1, in place, or with a ``head`` of 0.4.2, as ``_loss_step``.

    There are labels and losses, and while labels are counted their mask and its copy as integers. With a head, a
    chunk's logits, their copy in fp32 and the chunk before's gradient are alive at once; then two modules' weights, and
    of one the gradient and its sum, and the input's two, and in the end the number of labels and a factor.
    """
    w = Workload.of(run)
    rows, classes, wide = w.batch * w.seq, spec.vocab or 0, w.bytes_of(Role.ACTIVATION)
    if not head:
        return rows * (classes * wide + 8 + 4 + 1 + 8)
    spaces = devices.device(device).workspaces(backward=True)
    kept = 4 * classes * spec.d_model * wide + rows * (3 * spec.d_model * wide + 8 + 4) + 2 * 512
    return int(kept + _chunk(rows, spec) * classes * (2 * wide + 4)) + spaces + _uncut(spec, wide, spaces // 2)[rows]


def _chunk(rows: int, spec: Model) -> int:
    return int(chunk_rows(Trace(Workload()), rows, spec.d_model, spec.vocab or 0))


def _uncut(spec: Model, wide: int, space: int) -> dict[int, int]:
    """Bytes that blocks have beyond what was asked for, by rows, at the peak of Liger-Kernel's loss in its benchmark.

    ``benchmark_fused_linear_cross_entropy.py`` of 0.4.2 in one process, every tensor over 1 MiB: forward passes and
    whole steps of both modules are timed, beside Triton's 256 MiB that empty the cache, before memory is measured.
    Names are set as in Python: what is there anew comes before what was there goes.
    """
    pool, held, found = Pool(MIB), dict[str, tuple[tuple[int, int], int]](), dict[int, int]()
    table, row = (spec.vocab or 0) * spec.d_model * wide, spec.d_model * wide

    def put(name: str, size: int = 0) -> int:
        there = held.copy()
        held.pop(name, None)
        if size > MIB:
            held[name] = (pool.take(size), size)
        if name in there:
            pool.give(there[name][0])
        return sum(block[0] - asked for block, asked in {*there.values(), *held.values()})

    def step(rows: int, *, fused: bool, whole: bool) -> int:
        logits, most = (_chunk(rows, spec) if fused else rows) * (spec.vocab or 0) * wide, 0
        if "forward" not in held:
            put("forward", space)
        if fused:
            put("dw", table)
            put("dx", rows * row)
            for _ in range(rows // _chunk(rows, spec)):
                put("logits", logits)
                most = max(most, put("logits", logits // wide * 4) * ("gradient" in held))
                put("logits", logits)
                put("gradient", logits)
                put("product", _chunk(rows, spec) * row)
                put("product")
        else:
            for name, size in (("logits", logits), ("kept", logits), ("logits", 0)):
                put(name, size)
            if whole:
                for name, size in (("gradient", logits), ("logits", logits), ("kept", 0), ("gradient", 0)):
                    put(name, size)
                if "backward" not in held:
                    put("backward", space)
                put("dx", rows * row)
                put("dw", table)
        if whole and "sum of dw" not in held:
            held.update({f"sum of {name}": held.pop(name) for name in ("dx", "dw") if name in held})
        for name in ("logits", "gradient", "kept", "dx", "dw"):
            put(name)
        return most

    for cache, whole, fused, rows in product((256 * MIB, 0), (False, True), (True, False), (4096, 8192, 16384, 32768)):
        if not (cache or whole):
            continue
        for name, size in (("own", table), ("other", table), ("x", rows * row)):
            put(name, size)
        step(rows, fused=fused, whole=whole)
        put("cache", cache)
        most = [step(rows, fused=fused, whole=whole) for _ in range(3)]
        if fused:
            found[rows] = most[-1]
        for name in ("cache", "own", "other", "x", "sum of dx", "sum of dw"):
            put(name)
    return found


MEASURES: Final[Mapping[str, Callable[..., Any]]] = {
    "params": _total("params"), "params_active": _total("params_active"),
    "kv_cache_bytes_per_token": _total("kv_cache_bytes_per_token"), "flops_forward": _total("flops_forward"),
    "6 N D": _six_n, "FLOPs / 6 N D": _over_six_nd, "MFU": _utilisation, "kept bytes / s b h, a layer": _kept_units,
    "kept bytes of layers": _kept_by_layers,
    "held after generation": _held, "peak of loading": _loading, "allocated after a step": _after_step,
    "peak of a loss": _loss_step, "peak of Liger's loss": _liger, "model states": _states,
    "peak": _peak, "peak reserved": _reserved, "difference of peaks reserved": _less_reserved,
    "peak, logits held": _logits_held, "peak above its start": _above_start, "there before a step": _start,
    "tokens of the pool": _pool("tokens"), "blocks of the pool": _pool("blocks"),
    "bytes of the pool": _pool("pool_bytes"), "bytes of slots": _slots,
    "weights as loaded": _held_by("weights", "rotary tables"), "activation peak": _held_by("activation peak"),
    "compute buffer": _held_by("compute buffer"),
}
"""By the name of what is compared: a function of a model, a run and what else a row gives."""
