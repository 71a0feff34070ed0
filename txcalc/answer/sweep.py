"""Many configurations in one call: the same programs run on float64 arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from txcalc.count.entries import total
from txcalc.count.totals import TOTALS
from txcalc.spec.model import Model
from txcalc.spec.replace import replace
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SWEPT: Final = (
    "params", "params_active", "flops_forward", "flops_skipped", "flops_backward", "flops_recomputed",
    "activation_bytes", "kv_cache_bytes",
)

BLOCK: Final = 1 << 13
"""Variants that are traced at once: so many that arrays stay in the processor's cache."""


def sweep(
    spec: Model, workload: Workload, sizes: Mapping[str, Array], lengths: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Totals of many variants of one model at once.

    ``sizes`` maps dotted spec paths to equally long arrays, ``lengths`` maps workload fields (``batch``, ``seq``,
    ``past``) likewise. Sizes are not validated and no default follows: vary ``attention.head_dim`` together with
    ``d_model``. Arrays are turned into float64, which is exact up to 2^53; int64 would overflow silently.
    Returns ``{total: array}``, in the units of the report. Raises ``KeyError`` for an unknown path.
    """
    import numpy

    inputs = {(where, name): numpy.asarray(values, dtype=numpy.float64)
              for where, given in enumerate((sizes, lengths or {})) for name, values in given.items()}
    many = max((values.size for values in inputs.values()), default=1)
    found: dict[str, Array] = {}
    for start in range(0, many, BLOCK):
        here = slice(start, min(start + BLOCK, many))
        part: tuple[dict[str, Any], ...] = ({}, {})
        for (where, name), values in inputs.items():
            part[where][name] = values if values.size == 1 else values[here]
        for name, values in _totals(spec, workload, *part).items():
            found.setdefault(name, numpy.empty(many))[here] = values
    return found


def _totals(spec: Model, workload: Workload, sizes: Mapping[str, Any], lengths: Mapping[str, Any]) -> dict[str, Any]:
    t = trace(replace(spec, sizes), workload.replaced(**lengths))
    found = {name: list(TOTALS[name].entries(t)) for name in SWEPT}
    return {name: total(entries) for name, entries in found.items() if entries or name != "kv_cache_bytes"}
