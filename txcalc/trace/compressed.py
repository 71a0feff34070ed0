"""Attention over a window and over sums of the positions before it, written as its forward pass (DeepSeek-V4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import beside, norms, ops, parts, split
from txcalc.trace.cache import Cache, kv_cache
from txcalc.trace.cores import Core, Heads, Span, attend
from txcalc.trace.latents import choose_keys
from txcalc.trace.record import Trace
from txcalc.trace.sizes import least
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from txcalc.spec.compression import Compressed, Compression
    from txcalc.spec.inputs import Position, RotaryPosition


def visible_sums(n: Number, past: Number, rate: Number, most: Number | None = None) -> Number:
    """(query, sum) pairs: query t sees the sums of whole ``rate`` positions up to it, of which ``most`` are chosen."""
    def until(tokens: Number) -> Number:
        full = tokens // rate if most is None else least(tokens // rate, most)
        return rate * (full * (full - 1) // 2) + full * (tokens - full * rate + 1)
    return until(past + n) - until(past)


def attention(
    t: Trace, spec: Compressed, position: Position | None, x: Tensor, span: Span, past: Number, *, cached: bool
) -> Tensor:
    """Contexts of vectors, of positions and of sums, that are key and value of all heads, rotated back and projected.

    ``span``: what a window's queries meet.
    """
    (b, n, d), h, size = x.shape, spec.heads, spec.head_dim
    rotary = position if position is not None and position.kind == "rope" else None
    with t.frame(x):
        latent = t.hold(norms.norm(t, "q_norm", ops.linear(t, "q_down", x, spec.q_rank), norms.RMS))
        q = ops.linear(t, "q_up", latent, h * size).view(b, n, h, size)
        q = norms.norm(t, "q_head_norm", q, norms.RMS._replace(scale=False))
        q = t.hold(_rotated(t, "q_rotary", q, rotary).view(b, n, h * size))
        k = norms.norm(t, "kv_norm", ops.linear(t, "kv", x, size), norms.RMS).view(b, n, 1, size)
        k = _rotated(t, "kv_rotary", k, rotary).view(b, n, size)
        cache = None
        if cached:
            cache = kv_cache("self", ((1, size),), span.held, b, layout="window", limit=span.bound, end=past + n)
            k = _after_cached(t, k, span) if not t.workload.keeps else k
        if (own := spec.compression) is not None:
            if own.indexer is not None:
                made = (past + n) // own.rate
                with t.scope("indexer"):
                    _held(t, own, own.indexer.head_dim, b, n, past, cached=cached)
                choose_keys(t, own.indexer, x, latent, made, visible_sums(n, past, own.rate), made, sums=own.rate)
            with t.scope("compressor"):
                sums = _compressed(t, own, size, rotary, x, past, cached=cached)
            k = parts.join_positions(t, "keys", (k, sums), b, "keys")
            span = span._replace(keys=k.shape[1], pairs=span.pairs + visible_sums(n, past, own.rate, own.index_topk),
                                 bound=None)
        core = Core(Heads(h, 1, size, size), span, cache, "no kernel of PyTorch has sinks", 1, sinks=True)
        y = attend(t, q, k, k, core).view(b, n, h, size)
        y = t.hold(_rotated(t, "o_rotary", y, rotary).view(b, n, h * size))
        y = beside.project(t, "o_down", y, spec.o_groups * spec.o_rank, bias=False, groups=spec.o_groups)
        y = ops.linear(t, "o", y, d, part="attention output")
        return ops.dropout(t, "dropout", split.leave(t, "o", y))


def _rotated(t: Trace, name: str, x: Tensor, position: RotaryPosition | None) -> Tensor:
    return x if position is None else parts.rotate(t, name, x, position)


def _after_cached(t: Trace, k: Tensor, span: Span) -> Tensor:
    """Vectors (b, n, size) after those of a window that are cached, of which copies of the last ones are cached."""
    b, _, size = k.shape
    if t.size(span.before) != 0:
        old = t.op("cache", "past", writes=(t.tensor(b, span.before, size, label="cached keys"),))
        k = t.op("cache", "elementwise", reads=(old, k), writes=(t.tensor(b, span.keys, size, label="keys"),))
    t.op("cache", "cache", reads=(k,), writes=(t.tensor(b, span.held, size, label="cached keys"),))
    return k


def _held(
    t: Trace, spec: Compression, width: Number, b: Number, n: Number, past: Number, *, cached: bool
) -> None:
    """The cache of a compressor: its sums, what is no whole sum yet, and columns that the next sum takes again."""
    seen, columns = past + n, width * (1 + spec.overlaps)
    made = seen // spec.rate
    if cached:
        t.op("sums", "cache", cache=Cache("self", width, made, b, layout="compressed", end=seen, every=spec.rate,
                                          rows=((1, width),)))
        t.op("waiting", "cache", cache=Cache("state", 2 * columns, seen - made * spec.rate, b))
    if cached and spec.overlaps:
        t.op("overlap", "cache", cache=Cache("state", 2 * width, spec.rate * least(made, 1), b))


def _compressed(
    t: Trace, spec: Compression, width: Number, position: RotaryPosition | None, x: Tensor, past: Number, *,
    cached: bool,
) -> Tensor:
    """The sums (b, made, width) of all positions up to these (b, n, d), column by column by a softmax of gates."""
    (b, n, _), r, columns = x.shape, spec.rate, width * (1 + spec.overlaps)
    before, made = past // r, (past + n) // r
    new = made - before
    with t.frame(x):
        kv, gate = (t.hold(ops.linear(t, name, x, columns)) for name in ("kv", "gate"))
        _held(t, spec, width, b, n, past, cached=cached)
        offset = ops.learned(t, "position_bias", (r, columns), how="same")
        if t.size(new) == 0:
            t.op("norm", "norm", weights={"weight": (width,)})
            y = t.op("none", "elementwise", reads=(kv, gate), writes=(t.tensor(b, new, width, label="sums"),))
        else:
            kv, gate = (ops.view(t, f"{name}_rows", each, b, new, r, columns, copied=True)
                        for name, each in (("kv", kv), ("gate", gate)))
            gate = ops.add(t, gate, offset, "position_bias")
            if spec.overlaps:
                kv, gate = (ops.gathered(t, f"{name}_join", (each,), b, new, 2 * r, width, label=each.label)
                            for name, each in (("kv", kv), ("gate", gate)))
            weights = ops.softmax(t, "softmax", gate)
            y = parts.sum_of(t, "sum", ops.multiply(t, "product", kv, weights), b, new, width, label="sums")
            y = norms.norm(t, "norm", y, norms.RMS).view(b, new, 1, width)
            y = _rotated(t, "rotary", y, position).view(b, new, width)
        if t.size(before) == 0:
            return y
        old = t.op("cache", "past", writes=(t.tensor(b, before, width, label="cached sums"),))
        return t.op("cache", "elementwise", reads=(old, y), writes=(t.tensor(b, made, width, label="sums"),))
