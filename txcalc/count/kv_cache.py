"""KV cache: what attention and recurrence keep for the tokens to come."""

from __future__ import annotations

from collections.abc import Iterable

from txcalc.trace.record import Number, Op, Trace
from txcalc.trace.workload import BYTES, Workload


def kv_cache_bytes(trace: Trace) -> Number | None:
    """Bytes held after the run, for the whole batch, self- and cross-attention. None without any cache."""
    return cache_bytes(trace.ops, trace.workload)


def cache_bytes(ops: Iterable[Op], workload: Workload) -> Number | None:
    """Bytes that these operations hold after the run. None if none of them caches anything."""
    caches = [(op.calls, op.cache) for op in ops if op.cache is not None]
    if not caches:
        return None
    width = {"kv": BYTES[workload.kv_dtype], "float32": 4}
    return sum(calls * cache.elements * width[cache.role] for calls, cache in caches)


def kv_cache_bytes_per_token(trace: Trace) -> Number | None:
    """Bytes that one more token of one sequence adds while no sliding window is full. None without any cache."""
    own = [(op.calls, op.cache) for op in trace.ops if op.cache is not None and op.cache.kind == "self"]
    if not own:
        return None
    return BYTES[trace.workload.kv_dtype] * sum(calls * cache.per_token for calls, cache in own)
