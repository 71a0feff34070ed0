"""What the functions of ``import txcalc`` share: models by name, and workloads from keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from txcalc.answer.defaults import workload as fill
from txcalc.spec import presets
from txcalc.spec.model import Model
from txcalc.trace.workload import (
    AttentionKernel,
    DType,
    Implementation,
    Kernels,
    KvDType,
    Latents,
    Masked,
    Phase,
    Recipe,
    Workload,
)


class Run(TypedDict, total=False):
    """The fields of a ``Workload``, each of which may be left out: see there, and ``txcalc count --help``.

    ``batch``, ``images``: how many; ``seq``, ``past``, ``source_seq``, ``kv_block``: tokens.
    """

    phase: Phase
    batch: int
    seq: int
    past: int
    source_seq: int
    images: int
    dtype: DType
    weights: str
    kv_dtype: KvDType
    kv_block: int
    attention: AttentionKernel
    dropout: float
    masked: Masked
    kernels: Kernels
    implementation: Implementation
    latents: Latents
    recipe: Recipe


class Found(NamedTuple):
    """A model and what a report says of where it came from."""

    spec: Model
    source: str
    overrides: tuple[str, ...] = ()


def find(model: Model | str) -> Found:
    """The model itself, or the one that a name or a path means. Raises ``SpecError``."""
    if isinstance(model, Model):
        return Found(model, "python")
    loaded = presets.load(model)
    return Found(loaded.model, loaded.source, loaded.overrides)


def workload(models: Sequence[Model], run: Mapping[str, Any]) -> Workload:
    """The workload of these fields, lengths filled in as on the command line. Raises ``SpecError`` for a bad field."""
    return fill(models, dict(run))[0]
