"""Arguments that the functions of ``import txcalc`` share: models by name, and workloads from keyword arguments."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, SupportsIndex, TypedDict

from txcalc import units
from txcalc.answer.fit import fill
from txcalc.answer.mixer_table import Sizes
from txcalc.answer.report import Named, Origin
from txcalc.answer.validation import DEVICES, Device
from txcalc.models import load as presets
from txcalc.spec.errors import SpecError, is_size, of_field, unknown_field
from txcalc.spec.files import Document
from txcalc.spec.model import Model
from txcalc.spec.overrides import apply_overrides, parse_overrides
from txcalc.trace import workload as w
from txcalc.trace.layout import AXES

Size = int | str
"""A whole number, or as the command line writes it: ``"4K"``."""


class Run(TypedDict, total=False):
    """The fields of a ``Workload`` beside batch, seq and phase: see there, and ``txcalc count --help``.

    ``images``: how many; ``audio``: a text such as ``"30s"``; ``past``, ``source_seq``, ``kv_block``: tokens.
    """

    past: Size
    source_seq: Size
    images: Size
    audio: str
    dtype: w.DType
    weights: str
    kv_dtype: w.KvDType
    kv_block: Size
    attention: w.AttentionKernel
    dropout: float
    masked: w.Masked
    kernels: w.Kernels
    implementation: w.Implementation
    latents: w.Latents
    recipe: w.Recipe
    loss: str
    recompute: str
    offload: bool | str
    lora: str | Mapping[str, Any]
    dora: str | Mapping[str, Any]
    freeze: str | Sequence[str]
    optimizer: str
    optimizer_kernel: w.OptimizerKernel
    accumulate: Size
    clip: bool
    in_backward: bool
    precision: w.Precision
    cache: str
    logits: str
    beams: Size


class Together(Run, total=False):
    """The sequences of a run and the devices that it is spread over, beside it: see ``txcalc.trace.layout.Layout``."""

    lengths: str | Sequence[int]
    tp: Size
    pp: Size
    cp: Size
    dp: Size
    ep: Size
    etp: Size
    sp: bool
    zero: Size
    fsdp: bool | str | Mapping[str, Any]
    schedule: str
    cp_comm: str


class Served(Together, total=False):
    """A framework for training, or an inference engine and how it is started, beside a run: see ``txcalc memory``."""

    framework: str
    engine: str
    utilization: float
    context: Size
    pool: Size
    chunk: Size
    swa_full: bool
    v_dtype: w.KvDType
    gpu_layers: Size
    drafter: Size
    max_loras: Size
    max_lora_rank: Size


def find(model: Model | str) -> Named:
    """The model itself, or the one that a name or a path means. Raises ``SpecError``."""
    if isinstance(model, Model):
        return Named(model)
    if not isinstance(model, str | os.PathLike):
        raise SpecError(f"a model is a Model, a name or a path, not {type(model).__name__}")
    loaded = presets.load(os.fspath(model))
    return Named(loaded.model, Origin(loaded.source, loaded.overrides))


def changed(model: Model | str) -> Callable[[str], Model]:
    """The model with a field laid over it, such as ``layers=7``. Raises ``SpecError`` for what it cannot have."""
    if isinstance(model, Model):
        document = Document(model.to_data())
        return lambda field: Model.from_data(apply_overrides(document, parse_overrides([field])).data)
    return lambda field: presets.load(os.fspath(model), [field]).model


def fields(batch: Size, seq: Size | None, phase: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a workload that were given. Raises ``SpecError`` for a text that is no number."""
    shown = {"batch": (batch, 1), "seq": (seq, None), "phase": (phase, "forward")}
    given = {**{name: value for name, (value, default) in shown.items() if value != default}, **run}
    return {name: _read(name, value) for name, value in given.items()}


_NUMBERS: Final = (*w.LEAST, *AXES, "zero", "gpus", "global_batch", "new", "context", "chunk", "drafter", "gpu_layers",
                   "max_loras", "max_lora_rank")


def _read(name: str, value: object) -> object:
    special: dict[str, Callable[[str], object]] = {"pool": units.parse_bytes, "audio": units.parse_seconds}
    reads = special.get(name, units.parse_count if name in _NUMBERS else None)
    if reads is None:
        return value
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return operator.index(value)  # NumPy's integers too
    with of_field(name):
        return reads(value) if isinstance(value, str) else value


def workload(models: Sequence[Model], batch: Size, seq: Size | None, phase: str, run: Mapping[str, Any]) -> w.Workload:
    """The workload of these fields, lengths filled in as on the command line. Raises ``SpecError`` for a bad field."""
    return fill(models, fields(batch, seq, phase, run))[0]


def lengths(given: Sequence[int] | str | None) -> Sequence[int] | None:
    """Lengths, or a range of them as on the command line. Raises ``SpecError`` for a text that is neither."""
    if given is None:
        return None
    with of_field("seq"):
        found = units.parse_range(given) if isinstance(given, str) else tuple(given)
    if not found or not all(map(is_size, found)):
        raise SpecError("lengths are whole numbers of at least 1", field="seq")
    return found


def sizes(given: Mapping[str, int]) -> Sizes:
    """The sizes of layers side by side. Raises ``SpecError`` for one that there is not, or that is no size."""
    for name, value in given.items():
        if name not in Sizes._fields:
            raise SpecError(unknown_field(name, Sizes._fields), field=name)
        if not is_size(value):
            raise SpecError("must be a whole number from 1 on", field=name)
    return Sizes(**given)


def device(name: str) -> Device:
    """Check the device that PyTorch runs on. Raises ``SpecError`` for any other."""
    for known in DEVICES:
        if known == name:
            return known
    raise SpecError(f"must be one of {', '.join(DEVICES)}, got {name!r}", field="on")
