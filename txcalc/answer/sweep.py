"""Many configurations in one call: the same programs run on columns of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy

from txcalc.answer.columns import Array, Split, Table
from txcalc.answer.fit import fit
from txcalc.count.entries import total
from txcalc.count.totals import TOTALS
from txcalc.spec.errors import SpecError, unknown_field
from txcalc.spec.model import Model
from txcalc.spec.replace import at, replace
from txcalc.spec.resolve import BLOCK_FIELDS
from txcalc.trace.model import trace
from txcalc.trace.workload import LEAST, Workload

SWEPT: Final = (
    "params", "params_active", "flops_forward", "flops_skipped", "flops_backward", "flops_recomputed",
    "activation_bytes", "kv_cache_bytes",
)

_VARIED: Final = ("batch", "seq", "past", "source_seq", "images")


def sweep(
    spec: Model, workload: Workload, sizes: Mapping[str, Array], lengths: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Totals of many variants of one model at once.

    ``sizes`` maps dotted spec paths to equally long arrays, ``lengths`` maps workload fields (``batch``, ``seq``,
    ``past``, ``source_seq``) likewise. No default follows but a source as long as the text: vary
    ``attention.head_dim`` together with ``d_model``. Arrays are turned into float64, which is exact up to 2^53; int64
    would overflow silently. Returns ``{total: array}``, in the units of the report. Raises ``SpecError`` for what is no
    size, for arrays of unlike lengths, and for a path that the model has not.
    """
    inputs = {(where, name): _numbers(spec, where, name, values)
              for where, given in enumerate((sizes, lengths or {})) for name, values in given.items()}
    counts = {values.size for values in inputs.values()} - {1}
    if len(counts) > 1:
        raise SpecError(f"arrays of one length are wanted, got {' and '.join(map(str, sorted(counts)))}", field="sizes")
    _check_lengths(workload, {name: values for (where, name), values in inputs.items() if where})
    many = max(counts, default=1)
    arrays = [values for values in inputs.values() if values.size > 1]
    found: dict[str, Array] = {}
    waiting = [numpy.arange(many)]
    while waiting:
        table = Table(arrays, waiting.pop())
        columns = iter(table.columns())
        varied: tuple[dict[str, Any], ...] = ({}, {})
        for (where, name), values in inputs.items():
            varied[where][name] = next(columns) if values.size > 1 else int(values[0])
        try:
            totals = _totals(spec, workload, *varied)
        except Split as split:
            waiting += [table.rows[split.holds], table.rows[~split.holds]]
            continue
        for here, block in table.blocks(list(totals.values())):
            for name, values in zip(totals, block, strict=True):
                found.setdefault(name, numpy.empty(many))[here] = values
    return found


def _totals(spec: Model, workload: Workload, sizes: Mapping[str, Any], lengths: Mapping[str, Any]) -> dict[str, Any]:
    run = fit(spec, workload).replaced(**lengths)
    if spec.encoder is not None and spec.encoder.input.kind == "tokens" and workload.source_seq is None \
            and "source_seq" not in lengths:
        run = run.replaced(source_seq=run.past + run.seq)
    t = trace(replace(spec, sizes), run)
    found = {name: list(TOTALS[name].entries(t)) for name in SWEPT}
    return {name: total(entries) for name, entries in found.items() if entries or name != "kv_cache_bytes"}


def _numbers(spec: Model, where: int, name: str, values: Any) -> Array:
    """An array of whole numbers for a field that is one. Raises ``SpecError`` for any other."""
    name = str(name)
    known = _VARIED if where else None
    field = None if where else at(spec, name.split("."))
    if known is not None and name not in known:
        raise SpecError(unknown_field(name, known), field=name)
    if not where and spec.groups is not None and name.partition(".")[0] in (*BLOCK_FIELDS, "layers"):
        raise SpecError("blocks of this model have their own: vary groups.0.blocks.0 and so on", field=name)
    if not where and (isinstance(field, bool) or not isinstance(field, int)):
        raise SpecError("no size of this model" if field is None else "is no size, and does not vary", field=name)
    try:
        found = numpy.asarray(values, dtype=numpy.float64)
    except (TypeError, ValueError):
        found = numpy.full(1, numpy.nan)
    least = LEAST.get(name, 0) if where else 0
    if found.ndim > 1 or found.size == 0 or not bool(((found >= least) & (found == numpy.floor(found))).all()):
        raise SpecError(f"must be whole numbers of at least {least}, in one row", field=name)
    return found.reshape(-1)


def _check_lengths(workload: Workload, lengths: Mapping[str, Array]) -> None:
    """Raise ``SpecError`` for lengths that a run of this phase has not."""
    Workload.of({name: value for name, value in workload.to_data().items() if value is not None}
                | {name: int(values.max()) for name, values in lengths.items()})
