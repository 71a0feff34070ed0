"""KV cache: what attention keeps for the tokens to come, in bytes of the workload's ``kv_dtype``."""

from __future__ import annotations

from txcalc.trace.record import Number, Trace
from txcalc.trace.workload import BYTES


def kv_cache_bytes(trace: Trace) -> Number | None:
    """Bytes held after the run, for the whole batch, self- and cross-attention. None without any cache."""
    caches = [(op.calls, op.cache) for op in trace.ops if op.cache is not None]
    if not caches:
        return None
    return BYTES[trace.workload.kv_dtype] * sum(calls * cache.elements for calls, cache in caches)


def kv_cache_bytes_per_token(trace: Trace) -> Number | None:
    """Bytes that one more token of one sequence adds while no sliding window is full. None without any cache."""
    own = [(op.calls, op.cache) for op in trace.ops if op.cache is not None and op.cache.kind == "self"]
    if not own:
        return None
    return BYTES[trace.workload.kv_dtype] * sum(calls * cache.per_token for calls, cache in own)
