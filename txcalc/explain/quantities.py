"""The quantities that can be explained: what each adds up, in which unit, and when a model has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

from txcalc.answer.conventions import recurrence
from txcalc.answer.rerun import QUANTITIES
from txcalc.count import flops, kv_cache, labels, weights
from txcalc.count.entries import Entry
from txcalc.count.kv_cache import FORMATS, grows
from txcalc.count.peak import alive, peak
from txcalc.count.states import RECIPES
from txcalc.count.totals import TOTALS
from txcalc.explain.explanation import QuantityName
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal
from txcalc.spec.model import Model
from txcalc.spec.quantization import StoredTensors
from txcalc.trace.kinds import MEASURED
from txcalc.trace.record import Op, Trace
from txcalc.trace.workload import BYTES, Workload

Often = Literal["copies", "active", "calls", "each"]


class Definition(NamedTuple):
    """A quantity as it is explained."""

    title: str
    often: Often  # how often a component counts, or ``each``: what every entry says
    units: Callable[[Workload], tuple[int, ...]] = lambda _: ()  # these may stand before the bracket
    published: tuple[str, ...] = ()
    lengths: bool = True  # see ``symbols``
    part: Callable[[Entry], str] = lambda entry: entry.part  # splits a component in lines
    # Every row uses the closed form's relations, so that 4bsf + 3bsd reads 19bsd as in the literature.
    closed: bool = False
    adds: Callable[[Op], bool] = lambda _: True  # which operations of a run on ints do
    # Alike layers add unlike amounts, which then are numbers without letters.
    by_layer: Callable[[Trace], bool] = lambda _: False
    # Entries that are not the report's, but add up to its total, or of no report's.
    own: Callable[[Trace], Iterable[Entry]] | None = None


def _core(entry: Entry) -> str:
    """Attention's products are a line of their own: they grow with queries x keys."""
    return "scores and values" if entry.op.kind.group == "core" else ""


def fit_phase(quantity: QuantityName, workload: Workload) -> Workload:
    """The workload in a phase that has the quantity: a backward pass makes a forward pass a training step.

    Raises ``SpecError`` where the phase asked for has none.
    """
    if quantity in ("flops-backward", "flops-training", "activations") and not workload.keeps:
        what = " and keeps nothing for it" if quantity == "activations" else ""
        raise SpecError(f"{workload.phase} has no backward pass{what}; use forward or training", field="phase")
    if quantity in ("flops-backward", "flops-training") or (quantity == "peak" and workload.keeps):
        return workload.replaced(phase="training")
    return workload


def missing(quantity: QuantityName, spec: Model, *, full: bool) -> SpecError:
    """The reason why the model has no such quantity, or none that can be derived."""
    if quantity == "weights":
        return SpecError(f"how {spec.name} stores its weights is not understood: {spec.unknown_quantization}; "
                         "--weights counts them in a format of its own")
    if quantity == "training-state":
        return SpecError(f"{spec.name}'s weights are packed: nothing trains codes of a few bits, so that there is no "
                         "training state; --weights bf16 shows that of the whole weights")
    if not is_causal(spec):
        return SpecError(f"{spec.name} is an encoder: it reads all positions at once and generates nothing, "
                         f"so that it has no {labels.KV_CACHE}")
    if quantity == "kv-cache-per-token" and full:
        return SpecError(f"every window of {spec.name} is full at this length, so that a token adds nothing "
                         f"(explain kv-cache shows what they hold)")
    if quantity == "kv-cache-per-token":
        return SpecError(f"{spec.name} has no attention that caches keys and values: its state has the same size "
                         f"for any length, so that a token adds nothing (explain kv-cache shows the state)")
    return SpecError(f"{spec.name} has neither attention nor a recurrence, so that it has no {labels.KV_CACHE}")


def notes(quantity: QuantityName, spec: Model, t: Trace) -> Iterator[str]:
    """Notes on what a reader may wonder about."""
    workload = t.workload
    tied = spec.head.kind == "lm" and spec.head.tied
    if tied and quantity in ("params", "active-params", "weights", "training-state"):
        yield "the output head is tied to the token table: its weights are counted there, once"
    if quantity == "training-state":
        row = RECIPES[workload.recipe]
        yield f"{row.together} bytes per parameter = {row.apart} ({row.source})"
    if quantity == "peak":
        yield ("bytes of tensors, beside weights, optimizer state and inputs, which are there before; what a kernel "
               "allocates for itself, and how an allocator rounds, is left out")
    if quantity == "weights":
        how = weights.stored(t)
        if not isinstance(how.packing, StoredTensors):
            yield f"{how.width} bytes per parameter" + (" that is not packed" if how.packing else "")
        if isinstance(how.packing, StoredTensors):
            yield f"as the tensors of its {how.packing.method} file have them"
        elif how.packing is not None:
            yield f"packed as {how.packing.method}: codes of {how.packing.bits} bits, with all that belongs to them"
    if quantity in ("kv-cache", "kv-cache-per-token"):
        yield from _widths(t)
    if quantity == "flops-per-token":
        yield "the forward pass divided by its batch × seq tokens"
    if quantity.startswith("flops"):
        yield "1 multiply-accumulate = 2 FLOPs; softmax, norms, activations and additions are not counted"
    if quantity == "activations":
        yield MEASURED
        if any(op.kind.fused for op in t.ops):
            yield "flash attention keeps no s × s tensor; --attention eager shows what it saves"
        elif workload.attention != "eager" and t.kernels:
            yield "; ".join(f"attention is {kernel}: {why or 'as asked for'}" for kernel, why in t.kernels)
    recurs = any(op.kind.group == "recurrence" for op in t.ops)
    if recurs and (quantity == "activations" or quantity.startswith("flops")):
        yield recurrence(workload)


def _widths(t: Trace) -> Iterator[str]:
    roles = {op.cache.role for op in t.ops if op.cache is not None}
    form = FORMATS[t.workload.kv_dtype]
    if "kv" in roles and form.block == 1:
        yield f"{form.bytes} byte{'s' * (form.bytes > 1)} per element in {t.workload.kv_dtype}"
    elif "kv" in roles:
        yield f"{form.bytes} bytes for {form.block} elements in {t.workload.kv_dtype}"
    if "kv" in roles and form.extra:
        yield f"{form.extra} bytes of scale and zero point for a head's keys, as many for its values"
    if "float32" in roles:
        yield f"{BYTES['fp32']} bytes per element of a linear recurrence's state, in fp32"


def _flops(*passes: flops.Pass) -> Callable[[Trace], Iterator[Entry]]:
    return lambda t: flops.entries(t, *passes, masked=t.workload.masked)


DEFINITIONS: Final[dict[QuantityName, Definition]] = {
    "params": Definition(
        "parameters", "copies", published=("params", "params_non_embedding"), lengths=False,
    ),
    "active-params": Definition(
        "active parameters", "active", published=("params_active",), lengths=False,
    ),
    "flops": Definition(
        "FLOPs of the forward pass", "calls", lambda _: (2,), published=("flops_forward",),
        part=_core, own=_flops("forward"),
    ),
    "flops-backward": Definition(
        "FLOPs of the backward pass", "calls", lambda _: (4, 2), part=_core, own=_flops("backward"),
    ),
    "flops-training": Definition(
        "FLOPs of a training step: forward, backward and what is computed again", "calls", lambda _: (6, 2),
        part=_core, own=_flops("forward", "backward", "recomputed"),
    ),
    "flops-per-token": Definition(
        "FLOPs per token, forward", "calls", lambda _: (2,), part=_core, own=_flops("forward"),
    ),
    "activations": Definition("activations kept for backward", "calls", closed=True),
    "kv-cache": Definition(labels.KV_CACHE, "calls"),
    "kv-cache-per-token": Definition(
        f"{labels.KV_CACHE} per token", "calls", published=("kv_cache_bytes_per_token",),
        adds=lambda op: op.cache is not None and bool(grows(op.cache)), own=kv_cache.per_token_of_all,
    ),
    "weights": Definition(
        "bytes of the weights", "copies", lambda w: () if w.weights else (BYTES[w.dtype],),
        lengths=False, by_layer=weights.differs_by_layer,
    ),
    "training-state": Definition(
        "training state: weights, gradients, optimizer", "copies",
        lambda w: (RECIPES[w.recipe].together,), lengths=False,
    ),
    "peak": Definition(
        "peak of live bytes, beside weights", "each", closed=True, own=lambda t: alive(t, peak(t).where),
    ),
}


def entries(quantity: QuantityName, t: Trace) -> Iterable[Entry]:
    """Entries of a quantity, on ints or on symbols: those of the report's total, where it has no others."""
    return (DEFINITIONS[quantity].own or TOTALS[QUANTITIES[quantity]].entries)(t)
