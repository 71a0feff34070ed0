"""The calculator for Transformers: parameters, FLOPs, activation memory, KV cache and O(N^2) attention, exactly.

>>> import txcalc
>>> report = txcalc.count(txcalc.load("gpt2"), seq=1024)
>>> int(report.totals.params)
124439808

Wherever a model is taken, it is a ``Model``, or what the command line takes for one: a preset's name, the path of a
YAML file, of a ``config.json`` or of a report, or ``hf:org/name``. A workload is given as keyword arguments, the
fields of ``txcalc.Workload``, in the command line's words and forms: ``seq="4K"``, ``phase="train"``. Whatever cannot
be found, read or counted raises ``txcalc.SpecError``, a ``ValueError`` whose message is one line. Every answer is a
frozen dataclass with ``to_data()`` for JSON and YAML, and ``from_data()`` to come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Loaded first, so that importing them later does not put folders in the place of the functions of the same names.
import txcalc.count
import txcalc.explain  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from txcalc.answer.capacity import Capacity
    from txcalc.answer.catalogue import Listing
    from txcalc.answer.comparison import Comparison
    from txcalc.answer.curve import AttentionCurve
    from txcalc.answer.difference import Diff
    from txcalc.answer.keywords import Run, Served, Size, Together
    from txcalc.answer.memory import Memory
    from txcalc.answer.mixer_table import MixerTable
    from txcalc.answer.report import Report
    from txcalc.answer.reproduce import Reproduction
    from txcalc.answer.sweep import Array
    from txcalc.answer.validation import Validation
    from txcalc.explain.explanation import Explanation, QuantityName
    from txcalc.spec.errors import SpecError
    from txcalc.spec.model import Model
    from txcalc.trace.workload import Phase, Workload

__version__ = "0.1.0"
__all__ = [
    "Model", "SpecError", "Workload", "attention", "compare", "count", "diff", "explain", "fit", "load", "memory",
    "mixers", "presets", "reproduce", "sweep", "validate",
]

_CLASSES = {"Model": "txcalc.spec.model", "SpecError": "txcalc.spec.errors", "Workload": "txcalc.trace.workload"}


def load(model: str, overrides: Sequence[str] = ()) -> Model:
    """The model that a name or a path means, with every default filled in.

    ``overrides`` are ``KEY=VALUE`` texts as after ``--set``: ``["attention.kv_heads=4"]``; those of one model may also
    stand in its name, wherever one is taken: ``gpt2@layers=24``. Nothing is downloaded,
    but for ``hf:org/name``. Raises ``SpecError`` that names the file, the line and the field.
    """
    from txcalc.models import load as presets

    return presets.load(model, overrides).model


def count(
    model: Model | str, *, batch: Size = 1, seq: Size | None = None, phase: Phase = "forward", by_module: bool = False,
    ranks: bool = False, **run: Unpack[Together],
) -> Report:
    """Every total of one model under one workload, and where it goes; the same as ``txcalc count --json``.

    Parameters are counted in numbers, FLOPs with 2 to a multiply-accumulate (matrix products and convolutions, as
    PyTorch's ``FlopCounterMode`` counts them), memory in bytes: each total is an exact integer with its unit, and
    says whether it is exact or an estimate. ``report.conventions`` names every rule that was followed,
    ``report.sources`` where the model's sizes were read. ``by_module`` breaks down to single operations,
    ``ranks`` tells what every rank has.
    Raises ``SpecError`` for a workload that does not fit the model.
    """
    from txcalc.answer import keywords, report

    found = keywords.find(model)
    workload = keywords.workload([found.spec], batch, seq, phase, run)
    return report.count(found.spec, workload, origin=found.origin, by_module=by_module, ranks=ranks)


def compare(
    *models: Model | str, batch: Size = 1, seq: Size | None = None, phase: Phase = "forward", **run: Unpack[Run],
) -> Comparison:
    """Several models under one workload; the first is what the others are compared with.

    Units and rules are those of ``count``. Without ``seq``, the length is the shortest of the models' contexts, or
    2,048 where that is shorter. Raises ``SpecError`` for a workload that does not fit one of them.
    """
    from txcalc.answer import comparison, keywords

    return comparison.compare([*map(keywords.find, models)], keywords.fields(batch, seq, phase, run))


def explain(
    model: Model | str, quantity: QuantityName = "params", *, batch: Size = 1, seq: Size | None = None,
    phase: Phase = "forward", **run: Unpack[Run],
) -> Explanation:
    """The derivation of one quantity: formulas, symbols and their values, in the unit of the report's total.

    The formulas come from running the model's program on symbols, and are evaluated against the count before they
    are returned. ``explanation.sources`` says where each rule was read or measured. Raises ``SpecError`` for a
    quantity that the model does not have, with the reason.
    """
    from txcalc.answer import keywords
    from txcalc.explain import explain as derivation

    found = keywords.find(model)
    workload = keywords.workload([found.spec], batch, seq, phase, run)
    return derivation.explain(found.spec, workload, quantity, origin=found.origin)


def attention(
    model: Model | str, lengths: Sequence[int] | str | None = None, *, batch: Size = 1, phase: Phase = "forward",
    device: str | None = "h100-80gb", **run: Unpack[Run],
) -> AttentionCurve:
    """Costs of attention at each of ``lengths``, in positions: bytes, FLOPs and bytes of memory traffic.

    Eager attention keeps score matrices of N x N; a flash kernel (arXiv 2205.14135) does not. ``lengths`` may be a
    range, ``"1K..128K"``. ``device`` is what it has to fit into, None for no limits. Raises ``SpecError`` for a model
    without attention, and for a device that there is not.
    """
    from txcalc.answer import curve, devices, keywords

    found = keywords.find(model)
    workload = keywords.workload([found.spec], batch, 1, phase, run)
    card = None if device is None else devices.device(device)
    return curve.attention_curve(found.spec, workload, keywords.lengths(lengths), card, origin=found.origin)


def diff(
    a: Model | str, b: Model | str, *, batch: Size = 1, seq: Size | None = None, phase: Phase = "forward",
    **run: Unpack[Run],
) -> Diff:
    """The changed fields behind each changed total, from ``a`` to ``b``, both under one workload.

    The fields that differ are changed one at a time and every step is counted, in the units of ``count``; what the
    steps add to a total sums up to its whole change. Raises ``SpecError`` for a workload that does not fit.
    """
    from txcalc.answer import difference, keywords

    found = [keywords.find(model) for model in (a, b)]
    workload = keywords.workload([each.spec for each in found], batch, seq, phase, run)
    first, second = (difference.Run(each.spec, workload, each.origin) for each in found)
    return difference.diff(first, second)


def memory(
    model: Model | str, *, batch: Size = 1, seq: Size | None = None, new: Size | None = None,
    phase: str | None = None, device: str | None = None, reserve: str | None = None, ranks: bool = False,
    **run: Unpack[Served],
) -> Memory:
    """The memory of a run, in bytes: its peak and all that is alive then, phase by phase, and what would take less.

    ``phase``: inference (a prompt of ``seq`` tokens and ``new`` more), training, or a step of decoding; left out,
    inference, or training where a field is given that only training has. ``device``: what it has to fit into, a card's
    name or a size such as ``"24GB"``; ``reserve``: what of it no tensor can have, such as ``"1GiB"`` or ``"5%"``.
    ``engine``: in place of a run in plain PyTorch, what an inference engine holds on a card, and its KV pool.
    ``ranks``: every rank's memory is told.
    Raises ``SpecError`` for a workload that does not fit the model, and for a run whose live bytes are not proved.
    """
    from txcalc.answer import engine, keywords

    found = keywords.find(model)
    own = {name: value for name, value in (("phase", phase), ("new", new)) if value is not None}
    given = keywords.fields(batch, seq, "forward", {**run, **own})
    return engine.memory(
        found.spec, given, device, reserve=reserve, origin=found.origin, ranks=ranks).document


def fit(
    model: Model | str, device: str, *, batch: Size = 1, seq: Size | None = None, new: Size | None = None,
    phase: str | None = None, over: str | None = None, reserve: str | None = None, gpus: Size | None = None,
    **run: Unpack[Served],
) -> Capacity:
    """The most that fits into ``device``: the largest batch at the length, the longest sequence at the batch.

    ``phase``, ``device`` and ``reserve`` are those of ``memory``, and so are the peaks, in bytes. ``over``: a field of
    the model to search in place of both, ``"layers"``, or ``"d_model=64"`` in steps of 64. Every answer was counted
    where it fits and one step beyond. ``gpus``: devices, whose layouts are listed, the first of which all else is of.
    Raises ``SpecError`` as ``memory`` does, and for a device that there is not.
    """
    from txcalc.answer import engine, keywords

    found = keywords.find(model)
    own = {name: value for name, value in (("phase", phase), ("new", new), ("gpus", gpus)) if value is not None}
    given = keywords.fields(batch, seq, "forward", {**run, **own})
    return engine.capacity(found.spec, given, device, reserve=reserve, over=over, make=keywords.changed(model),
                           origin=found.origin).document


def mixers(lengths: Sequence[int] | str | None = None, *, batch: Size = 1, **sizes: int) -> MixerTable:
    """Recurrence, convolution and attention side by side: what one layer of each costs, and how that grows.

    ``sizes``: ``d``, ``heads``, ``kernel``, ``window``, ``state``. Raises ``SpecError`` for sizes that do not fit.
    """
    from txcalc.answer import keywords
    from txcalc.answer import mixer_table as layers

    workload = keywords.workload([], batch, 1, "forward", {})
    return layers.mixers(keywords.sizes(sizes), workload, keywords.lengths(lengths) or layers.LENGTHS)


def presets(search: str | None = None) -> Listing:
    """The presets by family, with what each weighs: all, or those that mention the words of ``search``.

    Raises ``SpecError`` where none does.
    """
    from txcalc.answer import catalogue

    return catalogue.listing(search)


def sweep(
    model: Model | str, sizes: Mapping[str, Array], lengths: Mapping[str, Array] | None = None, *,
    phase: Phase = "forward", **run: Unpack[Run],
) -> dict[str, Array]:
    """Totals of many variants of one model at once, as arrays of float64, which is exact up to 2^53.

    ``sizes`` maps dotted spec paths to equally long arrays, ``lengths`` the workload's ``batch``, ``seq``, ``past`` and
    ``source_seq``. No default follows: vary ``attention.head_dim`` together with ``d_model``. Raises ``SpecError`` for
    what is no size, and for a path that the model has not.
    """
    from txcalc.answer import keywords
    from txcalc.answer import sweep as many

    found = keywords.find(model)
    workload = keywords.workload([found.spec], 1, None, phase, run)
    return many.sweep(found.spec, workload, sizes, lengths)


def validate(model: Model | str, *, on: str = "cpu") -> Validation:
    """Every count of a model beside PyTorch's, ``on`` cpu, cuda or fake-cuda; the same as ``txcalc validate``.

    Raises ``SpecError`` for a model that cannot be found, and ``ImportError`` without PyTorch.
    """
    from txcalc.answer import keywords
    from txcalc.check import validate as check

    return check.validate(keywords.find(model).spec, device=keywords.device(on))


def reproduce(*families: str) -> Reproduction:
    """Published tables and measured figures, recomputed: ours beside theirs, with the errors of every family.

    Raises ``SpecError`` for a family that there is not.
    """
    from txcalc.answer import reproduce as published

    return published.reproduce(families)


def __getattr__(name: str) -> Any:
    """The classes that belong to the functions, loaded when they are asked for."""
    if name not in _CLASSES:
        raise AttributeError(f"module 'txcalc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_CLASSES[name]), name)
