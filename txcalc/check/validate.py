"""Is it true? Count a model, run it in PyTorch, and compare: quantity by quantity, with ``==``."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise, product
from math import prod
from typing import Any, Final, NamedTuple, TypeVar
from zlib import crc32

import torch

from txcalc.answer.validation import Device, Row, Validation
from txcalc.check import measure
from txcalc.check.fake_cuda import NotRun
from txcalc.check.live import adapted, live, measured, not_counted, steps, whole_step
from txcalc.check.measure_kept import Kept
from txcalc.check.sibling import sibling, structure
from txcalc.count import activations, flops, kv_cache, labels, params
from txcalc.count.entries import Entry, grouped
from txcalc.count.unproved import unproved
from txcalc.spec.facts import has_latents, is_causal, located_blocks, positions
from txcalc.spec.inputs import TokenInput
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.sizes import visible_pairs
from txcalc.trace.workload import AttentionKernel, DType, Latents, Workload

Way = TypeVar("Way")
BATCH, SEQ, SOURCE, STEPS = 2, 13, 11, 5
CURVE, LARGEST = (256, 512, 1024, 2048, 4096), 1024  # of real tensors on the CPU; longer ones have sizes alone


class Case(NamedTuple):
    """One way of running: what changes what autograd keeps."""

    attention: AttentionKernel
    dtype: DType
    dropout: float
    loss: bool
    latents: Latents = "expanded"

    def workload(self, spec: Model, device: Device) -> Workload:
        """The counter's side of this case."""
        return Workload(
            phase="training" if self.loss and has_loss(spec) else "forward", batch=BATCH, seq=length_of(spec),
            source_seq=_source(spec), dtype=self.dtype, dropout=self.dropout,
            attention="sdpa" if self.attention == "flash" and device == "cuda" else self.attention,
            latents=self.latents, kernels="cpu" if device == "cpu" else "cuda",
        )

    def __str__(self) -> str:
        """As the table names it."""
        return f"{self.attention}, {self.dtype}, dropout {self.dropout:g}, {'with' if self.loss else 'no'} loss"


_DTYPES: tuple[DType, ...] = ("fp32", "bf16")
_ATTENTION: tuple[AttentionKernel, ...] = ("eager", "flash")
CASES = tuple(Case(*case) for case in product(_ATTENTION, _DTYPES, (0.0, 0.1), (True, False)))
FULL_SIZE = tuple(case for case in CASES if case.dtype == "bf16" and case.dropout and case.loss)
SMALL_ENOUGH = 200_000_000
"""Parameters up to which a model itself is run with real tensors, not only its sibling."""


def validate(spec: Model, *, device: Device = "cpu", one_of_many: bool = False) -> Validation:
    """Compare every quantity of ``spec`` with the PyTorch reference.

    Parameters and eager FLOPs at full size on the meta device; kept activations, caches and flash FLOPs with real
    tensors on ``device``, on a small sibling of the same structure. ``one_of_many``: of whole steps only one, and half
    of the ways of running, which are others for another structure. Raises ImportError without torch.
    """
    version, small, rows = f"PyTorch {torch.__version__.partition('+')[0]}", sibling(spec), []
    if device != "fake-cuda":
        rows.append(parameters(spec))
        rows += flops_rows(spec, eager=True, how="full size, meta", device="meta")
    try:
        if keeps_exactly(spec) and params.params(_traced(spec)) <= SMALL_ENOUGH:
            rows += [kept(spec, case, device, f"full size, {device}") for case in FULL_SIZE]
        rows += _sibling_rows(small, device, one_of_many=one_of_many)
    except NotRun as reason:
        return Validation.of(spec.name, version, (), device=device, left_out=(f"not run: {reason}",))
    gc.collect()  # modules and their hooks point at each other: a long run would keep them all
    return Validation.of(spec.name, version, rows, device=device, left_out=left_out(spec))


def _sibling_rows(small: Model, device: Device, *, one_of_many: bool) -> list[Row]:
    """Rows that compare a small model; once for all models that have the same one."""
    turn, rows = crc32(structure(small).encode()) if one_of_many else None, list[Row]()
    for name, part in PARTS.items():
        if device == "fake-cuda" and not part.on_fakes:
            continue
        key = name, device, part.of(small), one_of_many
        if key not in _SEEN:
            _SEEN[key] = tuple(part.rows(small, device, turn))
        rows += _SEEN[key]
    return rows


_SEEN: dict[tuple[str, Device, str, bool], tuple[Row, ...]] = {}


class Part(NamedTuple):
    """A comparison on a small model, and the ground truth's name. ``on_fakes``: on tensors without data as well."""

    rows: Callable[[Model, Device, int | None], Iterable[Row]]
    on_fakes: bool = False
    of: Callable[[Model], str] = structure


PARTS: Final[Mapping[str, Part]] = {
    "FLOPs": Part(lambda small, *_: flops_rows(small, eager=False, how="sibling, cpu", device="cpu")),
    "activations": Part(lambda small, device, turn: (
        kept(small, case, device, f"sibling, {device}") for case in _in_turn(CASES, turn) if keeps_exactly(small)),
        on_fakes=True),
    "live bytes": Part(lambda small, device, turn: (
        live(small, w, device, f"sibling, {device}") for w in _in_turn(_with_loss(small, device), turn)),
        on_fakes=True),
    "adapters": Part(lambda small, device, _: (
        live(small, adapted(w), device, f"sibling, {device}")
        for w in _with_loss(small, device)[-1:] if not _not_adapted(small)), on_fakes=True),
    "whole steps": Part(lambda small, device, turn: (
        whole_step(small, w, device, f"sibling, {device}")
        for w in steps(small, _with_loss(small, device), device, turn)), on_fakes=True),
    "decoding": Part(lambda small, *_: decoding(small) if generates(small) else []),
    "cache": Part(lambda small, *_: [cache(small)] if is_causal(small) else []),
    "masks": Part(lambda small, *_: masks(small)),
    "attention memory": Part(lambda small, device, _: attention_memory(small, device), of=lambda small: repr(
        (_attention(small), small.position, small.input, small.d_model, small.architecture))),
}


def keeps_exactly(spec: Model) -> bool:
    """Tell whether kept activations are exact: a recurrent kernel's own choice is marked an estimate."""
    return not any(op.kind.group == "recurrence" for op in _traced(spec).ops)


def left_out(spec: Model) -> tuple[str, ...]:
    """Comparisons that are impossible for this model."""
    if not keeps_exactly(spec):
        return ("kept activations and live bytes: estimates where a layer is recurrent",)
    if why := _not_live(spec):
        return (f"live bytes of a training step: {why}",)
    return (f"adapters: {why}",) if (why := _not_adapted(spec)) else ()


def _not_live(spec: Model) -> str:
    """The reason why live bytes are not compared, or nothing."""
    if not keeps_exactly(spec):
        return "a layer is recurrent"
    if not has_loss(spec):
        return "there is no loss"
    return unproved(trace(spec, CASES[0].workload(spec, "cpu")))


def _not_adapted(spec: Model) -> str:
    return not_counted(spec, adapted(FULL_SIZE[-1].workload(spec, "cpu")))


# ---------------------------------------------------------------- one quantity each


def parameters(spec: Model) -> Row:
    """Every weight's path and shape, and the total with tied weights once."""
    measured = measure.shapes(spec)
    t = _traced(spec)
    counted: dict[str, tuple[tuple[int, ...], int]] = {}
    for op, often in t.placed:
        for path, shape in params.weight_shapes(op).items():
            counted[path] = (shape, counted.get(path, (shape, 0))[1] + often.copies)
    return Row.of("parameters", params.params(t), sum(prod(s) * n for s, n in measured.values()), "full size, meta",
                _differences(counted, measured, lambda path, of: f"{path} {of[0]} x{of[1]}"))


def flops_rows(spec: Model, *, eager: bool, how: str, device: str) -> Iterator[Row]:
    """Forward and backward FLOPs of every module; the flash kernel's backward is 2.5 times its forward."""
    w = Case("eager" if eager else "flash", dtype="bf16", dropout=0.0, loss=True).workload(spec, "cpu")
    t = trace(spec, w)
    measured = measure.flops(spec, w.batch, w.seq, source_seq=w.source_seq, eager=eager, loss=has_loss(spec),
                             backward=True, device=device)
    name = "eager" if eager else "flash"
    passes: tuple[tuple[str, dict[str, int], tuple[flops.Pass, ...]], ...] = (
        ("forward", measured.forward, ("forward",)), ("backward", measured.backward, ("backward", "recomputed")))
    for which, got, of in passes:
        counted = by_module(flops.entries(t, *of), measure.module_paths(spec))
        yield Row.of(f"FLOPs {which}, {name}", sum(counted.values()), sum(got.values()), how,
                   _differences(counted, {k: v for k, v in got.items() if v}, lambda path, n: f"{path} {n:,}"))


def kept(spec: Model, case: Case, device: Device, how: str) -> Row:
    """Every storage that autograd keeps, module by module and tensor by tensor."""
    w = case.workload(spec, device)
    t = trace(spec, w)
    modules, found = measure.module_paths(spec), [Kept(*each) for each in measured("kept", spec, w, device)]
    ours, theirs = Counter(by_module(activations.kept(t), modules)), Counter[str]()
    for storage in found:
        theirs[storage.path] += storage.nbytes
    return Row.of(f"kept activations: {case}", sum(ours.values()), sum(theirs.values()), how,
                _tensor_differences(t, found, ours, theirs, modules))


def decoding(spec: Model) -> Iterator[Row]:
    """FLOPs of new tokens after cached ones, by module; where latents are cached, read both ways."""
    ways: tuple[Latents | None, ...] = ("absorbed", "expanded") if has_latents(spec) else (None,)
    for latents in ways:
        w = Workload.decode(past=SEQ, seq=2, batch=BATCH, source_seq=_source(spec), attention="eager", latents=latents)
        got = measure.flops(spec, w.batch, w.seq, source_seq=w.source_seq, past=w.past, absorbed=w.absorbs).forward
        counted = by_module(flops.entries(trace(spec, w), "forward"), measure.module_paths(spec))
        yield Row.of(f"FLOPs decoding{f', latents {latents}' if latents else ''}", sum(counted.values()),
                   sum(got.values()), "sibling, meta",
                   _differences(counted, {k: v for k, v in got.items() if v}, lambda path, n: f"{path} {n:,}"))


def cache(spec: Model) -> Row:
    """Bytes of the real cache after a prompt and after each of some decoding steps, added up."""
    n, source = length_of(spec), _source(spec)
    common: dict[str, Any] = {"batch": BATCH, "dtype": "fp32", "source_seq": source}
    runs = [Workload.prefill(seq=n, **common)]
    runs += [Workload.decode(past=n + i, **common) for i in range(STEPS)]
    counted = [kv_cache.kv_cache_bytes(trace(spec, run)) or 0 for run in runs]
    measured = measure.cache_bytes(spec, BATCH, n, steps=STEPS, source_seq=source)
    differences = [f"after {n + i} tokens: counted {c:,}, measured {m:,}"
                   for i, (c, m) in enumerate(zip(counted, measured, strict=True)) if c != m]
    said = f"{labels.KV_CACHE}, prompt and {STEPS} steps"
    return Row.of(said, sum(counted), sum(measured), "sibling, cpu", differences)


def masks(spec: Model) -> Iterator[Row]:
    """(query, key) pairs that each kind of mask keeps, counted one by one."""
    stacks = [(spec, is_causal(spec)), *([(spec.encoder, False)] if spec.encoder else [])]
    kinds = {
        (causal, getattr(block.attention, "window", None), getattr(block.attention, "chunk", None))
        for stack, causal in stacks for _, block in located_blocks(stack) if block.attention is not None
    }
    for causal, window, chunk in sorted(kinds, key=str):
        lengths = [(n, past) for n in (1, 3, 7, 12) for past in ((0, 1, 4, 9) if causal else (0,))]
        counted = [visible_pairs(n, past, causal=causal, window=window, chunk=chunk) for n, past in lengths]
        measured = [measure.visible(n, past, causal=causal, window=window, chunk=chunk) for n, past in lengths]
        name = "causal" if causal else "full"
        name += f", window {window}" if window else f", chunk {chunk}" if chunk else ""
        yield Row.of(f"masked pairs: {name}", sum(counted), sum(measured), "brute force",
                   [f"{at}: counted {c}, measured {m}" for at, c, m in zip(lengths, counted, measured, strict=True)
                    if c != m])


def attention_memory(spec: Model, device: Device) -> Iterator[Row]:
    """One attention layer at growing lengths: eager must lie on a quadratic exactly, flash on a line."""
    if getattr(_attention(spec), "kind", "") != "standard":
        return
    if not isinstance(spec.input, TokenInput) or spec.position.kind == "disentangled":
        return  # an image has one length; disentangled layers share a table, so none stands alone
    if getattr(getattr(_attention(spec), "indexer", None), "averaged", False):
        return  # the reference chooses means for some queries at a time, as the class does one by one
    spec = spec.replaced(context=max(CURVE))
    name: DType = "bf16" if device == "cuda" else "fp32"  # CUDA's flash kernel has no fp32
    dtype, on = measure.DTYPES[name], (device, "fake" if device == "cpu" else device)
    for eager in (True, False):
        case = Case("eager" if eager else "flash", dtype=name, dropout=0.0, loss=False)
        found = [measure.attention_memory(spec, 1, n, eager=eager, dtype=dtype, device=on[n > LARGEST]) for n in CURVE]
        counted = []
        for n in CURVE:
            t = trace(spec, case.workload(spec, device).replaced(batch=1, seq=n))
            own = "layers" if spec.encoder is None else "decoder.layers"
            first = next(op.component for op in t.ops if op.path.startswith(own) and op.path.endswith(".attention.q"))
            calls = next(often.calls for op, often in t.placed if op.component == first)
            counted.append(sum(k.value for k in activations.kept(t) if k.op.component == first) // calls)
        fused = any(op.path.startswith(own) and op.path.endswith(_FUSED) for op in t.ops)
        degree = 1 if fused else 2
        peaks = [m.peak for m in found]
        differences = [f"N = {n:,}: counted {c:,}, measured {m.kept:,}"
                       for n, c, m in zip(CURVE, counted, found, strict=True) if c != m.kept]
        if not _on_polynomial([m.kept for m in found], degree):
            differences.append(f"kept bytes are no polynomial of degree {degree} in N")
        if device == "cpu" and not _on_polynomial(peaks, degree):  # CUDA's allocator rounds each tensor up
            differences.append(f"peak bytes {peaks} are no polynomial of degree {degree} in N")
        yield Row.of(f"one attention layer, {'eager' if eager else 'flash'}, N = {CURVE[0]:,} to {CURVE[-1]:,}: kept",
                   sum(counted), sum(m.kept for m in found), f"sibling, {device}", differences)


_FUSED = (".attention.core.flash", ".attention.core.efficient")
"""Kernels without an N x N tensor."""


# ---------------------------------------------------------------- small parts


def _in_turn(every: Sequence[Way], turn: int | None) -> list[Way]:
    """Ways of running, all of them or, in turn, one half or the other: any two of their options stand together in
    each, as ``CASES`` are in the order of a product."""
    return [way for i, way in enumerate(every) if turn is None or (i.bit_count() + turn) % 2 == 0]


def _with_loss(spec: Model, device: Device) -> list[Workload]:
    return [] if _not_live(spec) else [case.workload(spec, device) for case in CASES if case.loss]


def _attention(spec: Model) -> Any:
    """That of the first layer that has any."""
    return next((block.attention for _, block in located_blocks(spec) if block.attention is not None), None)


def length_of(spec: Model) -> int:
    """Positions of the own stack in these comparisons: an image or a sound has its own."""
    return positions(spec.input, SEQ)


def generates(spec: Model) -> bool:
    """Tell whether it decodes tokens, and its decoding is counted as it runs."""
    return is_causal(spec) and isinstance(spec.input, TokenInput)


def has_loss(spec: Model) -> bool:
    """Tell whether there is anything to train on."""
    return spec.head.kind not in ("none", "projection")


def _source(spec: Model) -> int | None:
    return None if spec.encoder is None else positions(spec.encoder.input, SOURCE)


def _traced(spec: Model) -> Trace:
    return trace(spec, Workload(seq=length_of(spec), source_seq=_source(spec)))


def _module(path: str, modules: frozenset[str]) -> str:
    """The innermost PyTorch module that holds an operation: an operation need not be a module of its own."""
    while path not in modules:
        path = path.rpartition(".")[0]
    return path


def by_module(entries: Iterable[Entry], modules: frozenset[str]) -> dict[str, int]:
    """The sums of each module of PyTorch that has any."""
    return {path: n for path, n in grouped(entries, lambda op: _module(op.path, modules)).items() if n}


def _differences(counted: dict[str, Any], measured: dict[str, Any], say: Callable[[str, Any], str]) -> list[str]:
    found = []
    for path in sorted(counted.keys() | measured.keys()):
        ours, theirs = counted.get(path), measured.get(path)
        if ours != theirs:
            found.append(" and ".join([
                f"counted {say(path, ours)}" if ours is not None else f"not counted: {path}",
                f"measured {say(path, theirs)}" if theirs is not None else f"not in PyTorch: {path}",
            ]))
    return found


def _tensor_differences(
    t: Trace, measured: list[Any], ours: Counter[str], theirs: Counter[str], modules: frozenset[str]
) -> list[str]:
    """Tensors that only one side has, where a module's bytes disagree."""
    found = []
    for path in sorted(ours.keys() | theirs.keys()):
        if ours[path] == theirs[path]:
            continue
        mine: Counter[int] = Counter()
        labels = {}
        for k in activations.kept(t):
            if _module(k.op.path, modules) == path and k.times:
                mine[k.value // k.times] += k.times
                labels[k.value // k.times] = f"{k.tensor.label} {k.tensor.shape}"
        live: Counter[int] = Counter()
        for storage in measured:
            if storage.path == path:
                live[storage.nbytes] += 1
                labels[storage.nbytes] = f"{storage.dtype} {storage.shape}"
        only = [f"only counted: {n} x {labels[size]}, {size:,} B" for size, n in (mine - live).items()]
        only += [f"only in PyTorch: {n} x {labels[size]}, {size:,} B" for size, n in (live - mine).items()]
        found.append(f"{path}: counted {ours[path]:,} B, measured {theirs[path]:,} B; " + "; ".join(only))
    return found


def _on_polynomial(values: list[int], degree: int) -> bool:
    """Tell whether values at lengths N, 2N, 4N, ... lie on one polynomial in N of this degree, exactly."""
    found = list(map(Fraction, values))
    for order in range(1, degree + 2):  # divided differences
        found = [(b - a) / (CURVE[i + order] - CURVE[i]) for i, (a, b) in enumerate(pairwise(found))]
    return not any(found)
