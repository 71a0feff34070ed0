"""The calculator for Transformers: parameters, FLOPs, activation memory, KV cache and O(N^2) attention, exactly.

>>> import txcalc
>>> report = txcalc.count(txcalc.load("gpt2"), seq=1024)
>>> report.totals.params.value
124439808

Wherever a model is taken, it is a ``Model``, or what the command line takes for one: a preset's name, the path of a
YAML file, of a ``config.json`` or of a report, or ``hf:org/name``. A workload is given as keyword arguments, the
fields of ``txcalc.Workload``. Whatever cannot be found, read or counted raises ``txcalc.SpecError``, a ``ValueError``
whose message is one line. Every answer is a frozen dataclass with ``to_data()`` for JSON and YAML, and ``from_data()``
to come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Loaded first, so that importing it later does not put the folder in the place of the function of the same name.
import txcalc.count  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from txcalc.answer.compare import Comparison
    from txcalc.answer.curves import AttentionCurve
    from txcalc.answer.diff import Diff
    from txcalc.answer.explain.explanation import Explanation, QuantityName
    from txcalc.answer.library import Run
    from txcalc.answer.report import Report
    from txcalc.spec.errors import SpecError
    from txcalc.spec.model import Model
    from txcalc.trace.workload import Workload

__version__ = "0.1.0"
__all__ = ["Model", "SpecError", "Workload", "attention", "compare", "count", "diff", "explain", "load"]

_CLASSES = {"Model": "txcalc.spec.model", "SpecError": "txcalc.spec.errors", "Workload": "txcalc.trace.workload"}


def load(model: str, overrides: Sequence[str] = ()) -> Model:
    """The model that a name or a path means, with every default filled in.

    ``overrides`` are ``KEY=VALUE`` texts as after ``--set``: ``["attention.kv_heads=4"]``; those of one model may also
    stand in its name, wherever one is taken: ``gpt2@layers=24``. Nothing is downloaded,
    but for ``hf:org/name``. Raises ``SpecError`` that names the file, the line and the field.
    """
    from txcalc.spec import presets

    return presets.load(model, overrides).model


def count(model: Model | str, *, by_module: bool = False, **run: Unpack[Run]) -> Report:
    """Every total of one model under one workload, and where it goes; the same as ``txcalc count --json``.

    Parameters are counted in numbers, FLOPs with 2 to a multiply-accumulate (matrix products and convolutions, as
    PyTorch's ``FlopCounterMode`` counts them), memory in bytes: each total is an exact integer with its unit, and
    says whether it is exact or an estimate. ``report.conventions`` names every rule that was followed,
    ``report.sources`` where the model's sizes were read. ``by_module`` breaks down to single operations.
    Raises ``SpecError`` for a workload that does not fit the model.
    """
    from txcalc.answer import library, report

    found = library.find(model)
    workload = library.workload([found.spec], run)
    return report.count(found.spec, workload, source=found.source, overrides=found.overrides, by_module=by_module)


def compare(*models: Model | str, **run: Unpack[Run]) -> Comparison:
    """Several models under one workload; the first is what the others are compared with.

    Units and rules are those of ``count``. Without ``seq``, the length is the shortest of the models' contexts, or
    2,048 where that is shorter. Raises ``SpecError`` for a workload that does not fit one of them.
    """
    from txcalc.answer import compare as comparison
    from txcalc.answer import library

    found = [library.find(model) for model in models]
    return comparison.compare([comparison.Named(*each) for each in found], dict(run))


def explain(model: Model | str, quantity: QuantityName = "params", **run: Unpack[Run]) -> Explanation:
    """The derivation of one quantity: formulas, symbols and their values, in the unit of the report's total.

    The formulas come from running the model's program on symbols, and are evaluated against the count before they
    are returned. ``explanation.sources`` says where each rule was read or measured. Raises ``SpecError`` for a
    quantity that the model does not have, with the reason.
    """
    from txcalc.answer import library
    from txcalc.answer.explain import explain as derivation

    found = library.find(model)
    return derivation.explain(found.spec, library.workload([found.spec], run), quantity, source=found.source,
                              overrides=found.overrides)


def attention(
    model: Model | str, lengths: Sequence[int] | None = None, *, accelerator: str | None = "h100-80gb",
    **run: Unpack[Run],
) -> AttentionCurve:
    """What attention costs at each of ``lengths``, in positions: bytes, FLOPs and bytes of memory traffic.

    Eager attention keeps score matrices of N x N; a flash kernel (arXiv 2205.14135) does not. ``accelerator`` is what
    it has to fit into, None for no limits. Raises ``SpecError`` for a model without attention, and for an
    accelerator that there is not.
    """
    from txcalc.answer import curves, devices, library

    found = library.find(model)
    workload = library.workload([found.spec], {"seq": 1, **run})
    device = None if accelerator is None else devices.device(accelerator)
    origin = curves.Origin(found.source, found.overrides)
    return curves.attention_curve(found.spec, workload, lengths, device, origin=origin)


def diff(a: Model | str, b: Model | str, **run: Unpack[Run]) -> Diff:
    """Which field explains which change in which total, from ``a`` to ``b``, both under one workload.

    The fields that differ are changed one at a time and every step is counted, in the units of ``count``; what the
    steps add to a total sums up to its whole change. Raises ``SpecError`` for a workload that does not fit.
    """
    from txcalc.answer import diff as difference
    from txcalc.answer import library

    found = [library.find(model) for model in (a, b)]
    workload = library.workload([each.spec for each in found], run)
    first, second = (difference.Run(each.spec, workload, each.source, each.overrides) for each in found)
    return difference.diff(first, second)


def __getattr__(name: str) -> Any:
    """The classes that belong to the functions, loaded when they are asked for."""
    if name not in _CLASSES:
        raise AttributeError(f"module 'txcalc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_CLASSES[name]), name)
