"""Many configurations in one call: the same programs run on float64 arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from txcalc.count import activations, flops, kv_cache, params
from txcalc.spec.model import Model
from txcalc.spec.replace import replace
from txcalc.trace.model import trace
from txcalc.trace.record import Number, Trace
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FOLDS: Final[dict[str, Callable[[Trace], Number | None]]] = {
    "params": params.params,
    "params_active": params.active_params,
    "flops_forward": flops.forward_flops,
    "flops_skipped": lambda t: flops.forward_flops(t, "skipped"),
    "flops_backward": flops.backward_flops,
    "flops_recomputed": flops.recomputed_flops,
    "activation_bytes": activations.activation_bytes,
    "kv_cache_bytes": kv_cache.kv_cache_bytes,
}


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

    as_float = {path: numpy.asarray(values, dtype=numpy.float64) for path, values in sizes.items()}
    as_length = {name: numpy.asarray(values, dtype=numpy.float64) for name, values in (lengths or {}).items()}
    t = trace(replace(spec, as_float), workload.replaced(**as_length))
    count = max((a.size for a in (*as_float.values(), *as_length.values())), default=1)
    found = {name: fold(t) for name, fold in FOLDS.items()}
    return {name: numpy.broadcast_to(total, (count,)) for name, total in found.items() if total is not None}
