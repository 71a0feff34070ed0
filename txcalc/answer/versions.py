"""Why a total of an older document is another today; what its fields are called now is in ``txcalc.spec.older``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from txcalc.answer.report import SKIPPED, Report
from txcalc.spec.older import STORED


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
    Meaning(("weight_bytes", "activation_bytes", "attention_score_bytes"), lambda r: r.workload.weights in STORED,
            "a dtype is what is computed in, and weights have formats of their own"),
)


def why(total: str, now: Report) -> str:
    """Why a total of an older document is another today, as far as that lies in how it is counted."""
    return "; ".join(row.why for row in MEANINGS if total in row.totals and row.holds(now))


def _has(node: Any, kind: str) -> bool:
    """A layer of this kind, anywhere in a spec."""
    if isinstance(node, Mapping):
        return node.get("kind") == kind or any(_has(each, kind) for each in node.values())
    return isinstance(node, list | tuple) and any(_has(each, kind) for each in node)
