"""KV cache: what attention and recurrence keep for the tokens to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, get_args

from txcalc.spec.errors import SpecError
from txcalc.spec.ggml import NAMED
from txcalc.trace.cache import Cache
from txcalc.trace.record import Number, Often, Op, Trace
from txcalc.trace.sizes import least
from txcalc.trace.workload import BYTES, KvDType, Workload

Placed = Iterable[tuple[Op, Often]]


class RowFormat(NamedTuple):
    """A format of keys and values: ``bytes`` for every ``block`` elements of a vector, and ``extra`` for the vector."""

    block: int
    bytes: int
    extra: int = 0


FORMATS: Final[Mapping[KvDType, RowFormat]] = {
    **{name: RowFormat(1, width) for name, width in BYTES.items()},
    "fp8": RowFormat(1, 1),
    **{name: RowFormat(*NAMED[name.upper()][1:]) for name in get_args(KvDType) if name.upper() in NAMED},
    "int8": RowFormat(1, 1, 4), "int4": RowFormat(2, 1, 4),
}
"""fp8: vLLM's, SGLang's, whose scales are a few numbers a layer. q8_0 and its like: llama.cpp's ``--cache-type-k``.
int8, int4: LMDeploy's ``quant_policy`` 8 and 4, a 16-bit scale and zero point for each head's vector."""


def kv_cache_bytes(trace: Trace) -> Number | None:
    """Bytes held after the run, for the whole batch, self- and cross-attention. None without any cache."""
    return cache_bytes(trace.placed, trace.workload)


def kv_cache_allocated_bytes(trace: Trace) -> Number | None:
    """Bytes that a paged engine (arXiv 2309.06180) has allocated after the run, in blocks of ``kv_block`` tokens.

    Of every sequence and layer, the blocks that hold a token still needed, each counted whole: with blocks of b
    tokens, ceil(T / b) for T tokens, and for a window of W, whose older blocks are freed, those from token T - W on:
    at most ceil(W / b) + 1. Chunks begin with a block. A recurrent state is not paged. What an engine sets aside
    for tokens that have not come yet is not counted. None without ``kv_block`` or without any cache.
    """
    return allocated_bytes(trace.placed, trace.workload)


def cache_bytes(placed: Placed, workload: Workload) -> Number | None:
    """Bytes that these operations hold after the run. None if none of them caches anything."""
    return _total(placed, workload, lambda cache: cache.tokens)


def allocated_bytes(placed: Placed, workload: Workload) -> Number | None:
    """Bytes of the blocks that these operations' caches touch. None without ``kv_block`` or without any cache."""
    size = workload.kv_block
    if size is None:
        return None
    return _total(placed, workload, lambda cache: cache.tokens if cache.kind == "state" else cache.blocks(size) * size)


def kv_cache_bytes_per_token(trace: Trace) -> Number | None:
    """Bytes that one more token of one sequence adds at this length. None without a cache of self-attention."""
    return bytes_per_token(trace.placed, trace.workload)


def bytes_per_token(placed: Placed, workload: Workload) -> Number | None:
    """Bytes that one more token of one sequence adds to what these operations hold: full windows and chunks, states
    and what cross-attention holds do not grow. None where none of them caches the tokens of its own sequence."""
    own = [(often.calls, op.cache) for op, often in placed if op.cache is not None and op.cache.kind == "self"]
    if not own:
        return None
    return sum(calls * grows(cache) * token_bytes(cache, workload) for calls, cache in own)


def grows(cache: Cache) -> Number:
    """1 where the next token makes a cache of self-attention longer, 0 where it is as long as it may be."""
    return 1 if cache.limit is None else least(cache.tokens + 1, cache.limit) - cache.tokens


def fixed_bytes(trace: Trace) -> Number | None:
    """Bytes of the whole batch that the next token does not add to. None without any cache."""
    return _total(trace.placed, trace.workload,
                  lambda cache: 0 if cache.kind == "self" and grows(cache) else cache.tokens)


def token_bytes(cache: Cache, workload: Workload) -> Number:
    """Bytes of one token of one sequence: keys and values in their own format, all else in a whole dtype.

    Raises ``SpecError`` where a format's blocks do not fill a head's vector.
    """
    if cache.role == "float32":
        return BYTES["fp32"] * cache.per_token
    form = FORMATS[workload.kv_dtype]
    if workload.kv_dtype in BYTES:
        return form.bytes * cache.per_token
    if not cache.rows:
        return BYTES[workload.dtype] * cache.per_token
    for _, elements in cache.rows:
        if isinstance(elements, int) and elements % form.block:
            raise SpecError(f"{workload.kv_dtype} packs blocks of {form.block}, and a vector of this model's cache has "
                            f"{elements:,} elements", field="kv_dtype")
    return sum(count * (elements * form.bytes // form.block + form.extra) for count, elements in cache.rows)


def _total(placed: Placed, workload: Workload, tokens: Callable[[Cache], Number]) -> Number | None:
    caches = [(often.calls, op.cache) for op, often in placed if op.cache is not None]
    if not caches:
        return None
    return sum(calls * c.batch * tokens(c) * token_bytes(c, workload) for calls, c in caches)
