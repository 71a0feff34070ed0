"""KV cache: what attention and recurrence keep for the tokens to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, get_args

from txcalc.count.entries import Entry, total_of_any
from txcalc.spec.errors import SpecError
from txcalc.spec.ggml import NAMED
from txcalc.trace.cache import Cache
from txcalc.trace.record import Trace
from txcalc.trace.sizes import least
from txcalc.trace.tensors import Number
from txcalc.trace.workload import BYTES, KvDType, Workload


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


def entries(trace: Trace) -> Iterator[Entry]:
    """Bytes held after the run, for the whole batch, self- and cross-attention."""
    return _held(trace, lambda cache: cache.tokens)


def allocated(trace: Trace) -> Iterator[Entry]:
    """Bytes that a paged engine (arXiv 2309.06180) has allocated after the run, in blocks of ``kv_block`` tokens.

    Of every sequence and layer, the blocks that hold a token still needed, each counted whole: with blocks of b
    tokens, ceil(T / b) for T tokens, and for a window of W, whose older blocks are freed, those from token T - W on:
    at most ceil(W / b) + 1. Chunks begin with a block. A recurrent state is not paged. What an engine sets aside
    for tokens that have not come yet is not counted. Nothing without ``kv_block``.
    """
    size = trace.workload.kv_block
    if size is None:
        return iter(())
    return _held(trace, lambda cache: cache.tokens if cache.kind == "state" else cache.blocks(size) * size)


def per_token(trace: Trace) -> Iterator[Entry]:
    """Bytes that one more token of one sequence adds where its tokens are cached: full windows and chunks, states and
    what cross-attention holds do not grow. Of a token that is on one of cp ranks, a rank's share."""
    cp = trace.layout.cp
    return (entry._replace(each=entry.each if cp == 1 else -(-entry.each // cp), times=entry.times * grows(cache))
            for entry in per_token_of_all(trace) if (cache := entry.op.cache) is not None)


def per_token_of_all(trace: Trace) -> Iterator[Entry]:
    """Bytes of one token of one sequence wherever its tokens are cached, in full windows too."""
    return (Entry(op, op.cache.name, token_bytes(op.cache, trace.workload), often.calls)
            for op, often in trace.placed if op.cache is not None and op.cache.kind == "self")


def fixed(trace: Trace) -> Iterator[Entry]:
    """Bytes of the whole batch that the next token does not add to."""
    return _held(trace, lambda cache: 0 if cache.kind == "self" and grows(cache) else cache.tokens)


def kv_cache_bytes(trace: Trace) -> Number | None:
    """Bytes held after the run. None without any cache."""
    return total_of_any(entries(trace))


def grows(cache: Cache) -> Number:
    """1 where the next token makes a cache of self-attention longer, 0 where it is as long as it may be."""
    if cache.layout == "compressed" and cache.end is not None:
        return (cache.end + 1) // cache.every - cache.tokens
    return 1 if cache.limit is None else least(cache.tokens + 1, cache.limit) - cache.tokens


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


def _held(trace: Trace, tokens: Callable[[Cache], Number]) -> Iterator[Entry]:
    return (Entry(op, op.cache.name, op.cache.batch * tokens(op.cache) * token_bytes(op.cache, trace.workload),
                  often.calls) for op, often in trace.placed if op.cache is not None)
