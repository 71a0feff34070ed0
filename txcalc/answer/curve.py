"""The O(N^2) curve: what attention costs at every length, with and without a score matrix.

Every figure is a fold over the trace of the model at that length, under both policies: ``eager``, which writes the
N x N scores to memory, and ``flash``, which does not (arXiv 2205.14135).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from txcalc import units
from txcalc.answer.conventions import Convention, conventions
from txcalc.answer.devices import Device
from txcalc.answer.limits import DEFAULT_RESERVE, Limit, Reserve, limits
from txcalc.answer.notes import beyond, instead
from txcalc.answer.report import PYTHON, ModelInfo, Origin, Provenance
from txcalc.answer.stretch import POLICIES, Run, Stretched
from txcalc.count import activations, flops, kv_cache, scores, traffic
from txcalc.count.labels import KV_CACHE
from txcalc.count.weights import is_known, weight_bytes
from txcalc.document import Part
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.record import Trace
from txcalc.trace.workload import BYTES, Workload

LENGTHS: Final = tuple(1024 << i for i in range(8))
"""1,024 to 131,072, where no lengths are asked for."""

_SHARED_RULES: Final = ("flops", "recurrence", "masked", "kv-cache", "states", "kept", "dropout")


class LayerCost(Part):
    """One attention layer under one policy, in bytes.

    ``score_matrix_bytes``: one N x N matrix (0: none is written). ``statistics_bytes``: the fp32 log-sum-exp of
    each row, which flash writes in its place. ``peak_score_bytes``: all (query, key) tensors in memory at once, at
    worst, in the forward pass; ``kept_score_bytes``: those kept for backward, so that the difference is transient.
    ``kept_bytes``: everything the layer keeps, from its input to the output projection's. ``hbm_bytes``: traffic
    of its core to and from memory. Null: nothing is kept in this phase, or the on-chip memory is not known.
    """

    score_matrix_bytes: int
    statistics_bytes: int
    peak_score_bytes: int
    kept_score_bytes: int | None
    kept_bytes: int | None
    transient_bytes: int
    hbm_bytes: int | None


class ModelCost(Part):
    """All attention layers, and for ``kept_bytes`` the whole model, under one policy, in bytes."""

    statistics_bytes: int
    kept_score_bytes: int | None
    kept_bytes: int | None
    hbm_bytes: int | None


class LayerPoint(Part):
    """One attention layer at one length. ``flops_core``: the products of queries with keys and scores with values."""

    eager: LayerCost
    flash: LayerCost
    flops_core: int
    kv_cache_bytes: int | None


class ModelPoint(Part):
    """The model at one length. FLOPs are of the forward pass, the same under both policies."""

    eager: ModelCost
    flash: ModelCost
    flops_core: int
    flops_forward: int
    kv_cache_bytes: int | None


class Point(Part):
    """One length: ``seq`` positions that the last query looks back over, ``new`` of them computed in this run."""

    seq: int
    new: int
    past: int
    source_seq: int | None
    layer: LayerPoint
    model: ModelPoint


class Layer(Part):
    """The attention layer that is shown: the one with the largest score matrix. ``times``: how often it runs."""

    path: str
    times: int


class AttentionCurve(Part):
    """The answer of ``txcalc attention``. ``workload``: of the last length. ``sram_bytes``: M, in bytes."""

    schema: Literal["txcalc/attention/v1"] = "txcalc/attention/v1"
    model: ModelInfo
    workload: Workload
    layer: Layer
    other_layers: tuple[Layer, ...]
    weight_bytes: int | None
    sram_bytes: int | None
    device: Device | None
    reserve: Reserve | None = None
    points: tuple[Point, ...]
    limits: tuple[Limit, ...]
    notes: tuple[str, ...]
    conventions: tuple[Convention, ...]
    provenance: Provenance


def attention_curve(
    spec: Model, workload: Workload, lengths: Sequence[int] | None = None, device: Device | None = None,
    sram_bytes: int | None = None, *, reserve: Reserve = DEFAULT_RESERVE, origin: Origin = PYTHON,
    progress: Callable[[int, int], None] | None = None,
) -> AttentionCurve:
    """Costs of attention at each of ``lengths``, in positions; ``seq`` and ``past`` of ``workload`` are not used.

    In decoding, one new token looks back over that many positions, itself included. A length beyond the model's
    context is a hypothetical one, and a note says so. ``sram_bytes``: on-chip memory for FlashAttention's blocks;
    default: the device's. With a ``device``, ``limits`` says from which length each quantity no longer fits, weights
    and cache beside a ``reserve``.
    ``progress`` is told how many of how many lengths are done.

    Raises ``SpecError`` for a model without attention, and for a length that its images cannot have.
    """
    model = Stretched(spec, workload)
    points, run = [], None
    lengths = tuple(sorted(set(lengths or model.default_lengths(LENGTHS))))
    sram = sram_bytes if sram_bytes is not None else device.sram_bytes if device is not None else None
    layer, *others = _layers(model, lengths[-1])
    for done, length in enumerate(lengths):
        if progress is not None:
            progress(done, len(lengths))
        run = model.at(length)
        points.append(_point(run, length, layer.path, sram))
    assert run is not None
    return AttentionCurve(
        model=ModelInfo.of(spec, origin),
        workload=run.workload,
        layer=layer,
        other_layers=tuple(others),
        weight_bytes=weight_bytes(run.trace()) if is_known(run.trace()) else None,
        sram_bytes=sram,
        device=device,
        points=tuple(points),
        reserve=None if device is None else reserve,
        limits=() if device is None else limits(model, layer.path, device.memory_bytes, reserve.bytes),
        notes=(*beyond(spec, lengths[-1]), *instead(spec, run.trace())),
        conventions=tuple(_conventions(spec, run, layer.path, sram, reserve if device else None)),
        provenance=Provenance.of(origin.command),
    )


def _layers(model: Stretched, length: int) -> list[Layer]:
    """Every kind of attention layer, the one with the largest score matrix first."""
    run = model.at(length)
    sizes = {path: scores.score_matrix_bytes(run.layer("eager", path)) for path, _ in run.attention_layers()}
    found = [Layer(path=path, times=times) for path, times in run.attention_layers()]
    if not found:
        raise SpecError(f"{model.spec.name} has no attention, so nothing in it grows with the square of the length")
    return sorted(found, key=lambda layer: -sizes[layer.path])


def _point(run: Run, length: int, path: str, sram: int | None) -> Point:
    flash = run.layer("flash", path)
    return Point(
        seq=length,
        new=run.workload.seq,
        past=run.workload.past,
        source_seq=run.workload.source_seq,
        layer=LayerPoint(
            **{policy: _layer_cost(run.layer(policy, path), sram) for policy in POLICIES},
            flops_core=flops.core_flops(flash, flash.workload.masked),
            kv_cache_bytes=kv_cache.kv_cache_bytes(flash),
        ),
        model=ModelPoint(
            **{policy: _model_cost(run.trace(policy), sram) for policy in POLICIES},
            flops_core=flops.core_flops(run.trace(), run.workload.masked),
            flops_forward=flops.forward_flops(run.trace(), run.workload.masked),
            kv_cache_bytes=kv_cache.kv_cache_bytes(run.trace()),
        ),
    )


def _layer_cost(t: Trace, sram: int | None) -> LayerCost:
    kept = activations.score_bytes(t)
    peak = scores.peak_score_bytes(t)
    return LayerCost(
        score_matrix_bytes=scores.score_matrix_bytes(t),
        statistics_bytes=scores.statistics_bytes(t),
        peak_score_bytes=peak,
        kept_score_bytes=kept if t.workload.keeps else None,
        kept_bytes=activations.activation_bytes(t) if t.workload.keeps else None,
        transient_bytes=peak - kept,
        hbm_bytes=traffic.hbm_bytes(t, sram),
    )


def _model_cost(t: Trace, sram: int | None) -> ModelCost:
    keeps = t.workload.keeps
    return ModelCost(
        statistics_bytes=scores.statistics_bytes(t),
        kept_score_bytes=activations.score_bytes(t) if keeps else None,
        kept_bytes=activations.activation_bytes(t) if keeps else None,
        hbm_bytes=traffic.hbm_bytes(t, sram),
    )


def _conventions(
    spec: Model, run: Run, path: str, sram: int | None, reserve: Reserve | None
) -> list[Convention]:
    workload = run.workload
    shared = [rule for rule in conventions(spec, run.trace()) if rule.id in _SHARED_RULES]
    fused = scores.statistics_bytes(run.layer("flash", path))
    instead = "; flash is the fp32 log-sum-exp of each row that it writes instead" if fused else ""
    own = [
        *([] if reserve is None else [Convention(id="reserve", flag="--reserve", text=(
            f"reserve: {units.memory(reserve.bytes)} beside weights and {KV_CACHE}, {reserve.source}"))]),
        Convention(id="layer", text="one layer is the attention layer with the largest score matrix"),
        Convention(id="score-matrix", text=f"eager N×N is one score matrix of all heads in {workload.dtype}{instead}"),
        Convention(id="peak", text="peak counts the (query, key) tensors alive at once in the forward pass: scores and "
                                   "probabilities; scale and mask take no copy of their own"),
        Convention(id="hbm-eager", text="memory traffic, eager: arXiv 2205.14135, Algorithm 0, "
                                        "4Nd + 4N² elements of one head"),
        Convention(id="hbm-flash", flag="--sram", text=(
            "memory traffic, flash: Algorithm 1, 3Nd + 2N + ceil(N/B)(3Nd + 4N) elements of one head, B = ceil(M/4d), "
            + ("M unknown for this device" if sram is None else f"M = {sram // BYTES[workload.dtype]:,} elements")
        )),
    ]
    return shared + own
