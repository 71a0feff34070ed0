"""A report counted again: its own model under its own workload, what has changed since, and why.

What the fields of older documents are called now is in ``txcalc.spec.older``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from txcalc.answer.report import SKIPPED, STEP, Report, count
from txcalc.models.store import Loaded
from txcalc.spec import older
from txcalc.spec.errors import SpecError
from txcalc.spec.files import Document
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

_LENGTHS: Final = ("seq", "past")
QUANTITIES: Final[Mapping[object, str]] = {
    "params": "params", "active-params": "params_active", "flops": "flops_forward", "flops-backward": "flops_backward",
    "flops-per-token": "flops_per_token", "activations": "activation_bytes", "kv-cache": "kv_cache_bytes",
    "kv-cache-per-token": "kv_cache_bytes_per_token", "weights": "weight_bytes",
    "training-state": "training_state_bytes", "flops-training": STEP,
}
"""The totals that explanations are about."""


class Recorded(NamedTuple):
    """The contents of a report: who made it, the fields of its workload, and its totals, by today's names."""

    source: str
    older: bool
    made_by: str
    workload: dict[str, Any]
    totals: dict[str, int | None]


class Change(NamedTuple):
    """A total that is not what it was. None: there was none, or there is none. ``why``: what is counted otherwise."""

    total: str
    unit: str
    then: int | None
    now: int | None
    why: str = ""


class Since(NamedTuple):
    """Changes since the report ``source``; nothing where ``changes`` is empty."""

    source: str
    made_by: str
    changes: tuple[Change, ...]


def recorded(loaded: Loaded) -> Recorded | None:
    """The source that the report gives for its model; None where it was no report.

    Raises ``SpecError`` for a report whose workload or totals cannot be read.
    """
    if loaded.report is None:
        return None
    data = loaded.report.data
    workload, provenance = _workload(loaded.report, loaded.source), data.get("provenance")
    version = provenance.get("txcalc") if isinstance(provenance, Mapping) else None
    return Recorded(
        loaded.source, older.is_older(data), f"txcalc {version}" if isinstance(version, str) else "an unknown txcalc",
        workload, older.totals(data, workload["masked"], _totals(loaded.report, loaded.source), SKIPPED),
    )


def again(spec: Model, found: Recorded | None, given: dict[str, Any]) -> dict[str, Any]:
    """The workload's fields: those of the report, with the ``given`` ones in their places.

    What followed from a field that is given now does not stay: the lengths of another phase, the cache's dtype
    where it was that of the weights. Lengths that follow from the model itself are left out.
    """
    if found is None:
        return given
    old = dict(found.workload)
    if given.get("phase", old["phase"]) != old["phase"]:
        old = {name: value for name, value in old.items() if name not in _LENGTHS}
    if "dtype" in given and old["kv_dtype"] == old["dtype"]:
        del old["kv_dtype"]
    if spec.input.kind != "tokens":
        old.pop("seq", None)
    if spec.encoder is not None and spec.encoder.input.kind != "tokens":
        old.pop("source_seq", None)
    return {**old, **given}


def since(found: Recorded, report: Report) -> Since:
    """Every total that the report has and that is another now."""
    changes = []
    for name, quantity in report.totals.quantities().items():
        now = None if quantity is None else quantity.value
        if name in found.totals and found.totals[name] != now:
            changes.append(Change(name, "" if quantity is None else quantity.unit, found.totals[name], now,
                                  _why(name, report) if found.older else ""))
    if STEP in found.totals:
        step = report.totals.named(STEP)
        now = None if step is None else step.value
        if now != found.totals[STEP]:
            changes.append(Change(STEP, "FLOP", found.totals[STEP], now))
    return Since(found.source, found.made_by, tuple(changes))


def changes(found: Recorded, spec: Model, workload: Workload) -> list[str]:
    """A line for each total that was another in a saved answer, under the ``workload`` of today's."""
    then = since(found, count(spec, workload))
    of = f"since {then.source} ({then.made_by})"
    return [f"{of}: {each.total} was {exact(each.then)}, is {exact(each.now)}{each.why and f': {each.why}'}"
            for each in then.changes] or [f"unchanged {of}"]


def exact(value: int | None) -> str:
    """A total of a saved answer in full."""
    return "none" if value is None else f"{value:,}"


def _workload(report: Document, source: str) -> dict[str, Any]:
    data = report.data.get("workload")
    if not isinstance(data, Mapping):
        raise SpecError("a report holds what was run here, as a mapping", source=source, field="workload")
    try:
        workload = Workload.of(older.workload(report.data, data))
    except SpecError as error:
        raise error.each(lambda each: _placed(each, report, source)) from None
    return {name: value for name, value in workload.to_data().items() if value is not None}


def _placed(error: SpecError, report: Document, source: str) -> SpecError:
    at = report.where(("workload", error.field or ""))
    return SpecError(error.message, source=source, at=at, field=f"workload.{error.field}")


def _totals(report: Document, source: str) -> dict[str, int | None]:
    if report.data["schema"] in _SOME:
        return {name: value for name, value in _SOME[report.data["schema"]](report.data).items()
                if isinstance(value, int)}
    data = report.data.get("totals")
    if not isinstance(data, Mapping):
        raise SpecError("a report holds its totals here, as a mapping", source=source, field="totals")
    return {name: _value(name, quantity, source) for name, quantity in data.items()}


def _of_curve(data: Mapping[str, Any]) -> dict[str, object]:
    """An attention curve's workload is that of its last length."""
    *_, last = data.get("points") or [{}]
    whole = last.get("model", {})
    return {"weight_bytes": data.get("weight_bytes")} | {
        name: whole.get(name) for name in ("flops_forward", "kv_cache_bytes")}


_SOME: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, object]]]] = {
    "txcalc/attention/v1": _of_curve,
    "txcalc/memory/v1": lambda data: {},
    "txcalc/fit/v1": lambda data: {},
    "txcalc/explain/v1": lambda data: {QUANTITIES.get(data.get("quantity"), ""): data.get("total")},
}
"""The totals that stand in answers other than reports."""


def _value(name: str, quantity: object, source: str) -> int | None:
    value = quantity.get("value") if isinstance(quantity, Mapping) else None
    if quantity is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise SpecError("must be null, or a mapping with a whole number as its value", source=source,
                    field=f"totals.{name}")


# ---------------------------------------------------------------- what is counted otherwise


class Meaning(NamedTuple):
    """Totals that are counted otherwise today, the reports in which they are, and why."""

    totals: tuple[str, ...]
    holds: Callable[[Report], bool]
    why: str


_FLOPS: Final = (*SKIPPED, *SKIPPED.values())
_CONVOLVE: Final = ("mamba", "mamba2", "gated-delta", "kimi-delta", "short-convolution")

CONVOLVES: Final = "short convolutions also run over the positions behind the last, as the models' classes do"
EMPTY_STATE: Final = "CUDA's flash kernel hands back an empty state beside its random one, which is kept too"

MEANINGS: Final = (
    Meaning(("flops_backward", SKIPPED["flops_backward"]),
            lambda r: r.totals.flops_recomputed is not None and r.totals.flops_recomputed.value > 0,
            "what the backward pass computes again is a total of its own now, flops_recomputed"),
    Meaning(("kv_cache_bytes_per_token",), lambda r: any(not line.bytes_per_token for line in r.caches),
            "it is what the next token adds at this length, where full windows grow no further"),
    Meaning(_FLOPS, lambda r: any(_has(r.model.spec, kind) for kind in _CONVOLVE),
            CONVOLVES),
    Meaning(_FLOPS, lambda r: r.workload.absorbs and _has(r.model.spec, "mla"),
            "cached latents are absorbed into queries and outputs; --latents expanded counts as before"),
    Meaning(("activation_bytes",), lambda r: r.kernels == "cuda" and "flash" in (r.attention or "").split() and bool(
        r.kept), EMPTY_STATE),
    Meaning(("flops_backward", SKIPPED["flops_backward"], "activation_bytes", "attention_score_bytes"),
            lambda r: r.attention is not None and r.attention != r.workload.attention,
            "the kernel that runs is counted, where the one that was asked for cannot run"),
    Meaning(("kv_cache_bytes", "kv_cache_bytes_per_token"), lambda r: r.workload.kv_dtype == "int8",
            "keys and values in int8 have scales"),
    Meaning(("kv_cache_bytes",), lambda r: _has(r.model.spec, "lightning"),
            "the states of lightning attention are in the cache's dtype, as the model's class holds them"),
    Meaning(("training_state_bytes",), lambda r: r.totals.training_state_bytes is None,
            "packed weights are not trained, so that they have no training state"),
    Meaning(("weight_bytes", "activation_bytes", "attention_score_bytes"), lambda r: r.workload.weights in older.STORED,
            "a dtype is what is computed in, and weights have formats of their own"),
)


def _why(total: str, now: Report) -> str:
    """Note on a total that an older version counted otherwise; none if nothing has changed."""
    return "; ".join(row.why for row in MEANINGS if total in row.totals and row.holds(now))


def _has(node: Any, kind: str) -> bool:
    """A layer of this kind, anywhere in a spec."""
    if isinstance(node, Mapping):
        return node.get("kind") == kind or any(_has(each, kind) for each in node.values())
    return isinstance(node, list | tuple) and any(_has(each, kind) for each in node)
