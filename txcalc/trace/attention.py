"""Attention, written as its forward pass."""

from __future__ import annotations

from txcalc.spec.model import Attention, HeadNorm, Position, RelativePosition, RotaryPosition
from txcalc.trace import ops
from txcalc.trace.record import Cache, Number, Role, Tensor, Trace
from txcalc.trace.sizes import least, visible_pairs


def self_attention(t: Trace, name: str, spec: Attention, position: Position, x: Tensor, *, causal: bool) -> Tensor:
    """Queries, keys and values from the same (b, n, d) hidden states; causal ones are cached for later tokens."""
    _, n, _ = x.shape
    past = t.workload.past if causal else 0
    return _attention(t, name, spec, position, x, x, new=n, past=past, causal=causal, cached=causal)


def cross_attention(t: Trace, name: str, spec: Attention, position: Position, x: Tensor, memory: Tensor) -> Tensor:
    """Queries from the decoder, keys and values from the encoder's output, cached once for the whole generation."""
    _, n_source, _ = memory.shape
    return _attention(
        t, name, spec, position, x, memory, new=n_source, past=t.workload.source_past, causal=False, cached=True
    )


def _attention(
    t: Trace, name: str, spec: Attention, position: Position, x: Tensor, source: Tensor, *,
    new: Number, past: Number, causal: bool, cached: bool,
) -> Tensor:
    b, n, d = x.shape
    crossing = source is not x
    kept = past if spec.window is None or not causal else least(past, spec.window - 1)
    keys = kept + new
    with t.scope(name, component=True):
        q = ops.linear(t, "q", x, spec.heads * spec.head_dim, bias=spec.bias.q)
        k = ops.linear(t, "k", source, spec.kv_heads * spec.head_dim, bias=spec.bias.k)
        v = ops.linear(t, "v", source, spec.kv_heads * spec.head_dim, bias=spec.bias.v)
        if spec.qk_norm is not None:
            q = _head_norm(t, "q_norm", q, spec.qk_norm, spec.heads, spec.head_dim)
            k = _head_norm(t, "k_norm", k, spec.qk_norm, spec.kv_heads, spec.head_dim)
        if isinstance(position, RotaryPosition) and not crossing:
            q, k = (t.tensor(*y.shape, label=f"rotated {y.label}") for y in (q, k))
        if isinstance(position, RelativePosition) and position.per_layer and not crossing:
            relative_bias(t, "relative_bias", position, spec.heads, n, keys)

        if crossing:
            pairs = n * keys
        elif t.workload.masked == "skipped":
            pairs = visible_pairs(n, past, causal=causal, window=spec.window)
        else:
            pairs = n * keys
        cache = None
        if cached:
            held = past + new if spec.window is None else least(past + new, spec.window)
            cache = Cache("cross" if crossing else "self", 2 * spec.kv_heads * spec.head_dim, held, b)
        biased = isinstance(position, RelativePosition) and not crossing
        core = _eager_core if t.workload.attention == "eager" or biased else _flash_core
        with t.scope("core"):
            y = core(t, spec, q, k, v, keys, pairs, cache)
        y = ops.linear(t, "o", y, d, bias=spec.bias.o)
        return ops.dropout(t, "dropout", y)


def _eager_core(
    t: Trace, spec: Attention, q: Tensor, k: Tensor, v: Tensor, keys: Number, pairs: Number, cache: Cache | None
) -> Tensor:
    """Scores, softmax and weighted sum as three operations with an N x N tensor between them.

    Grouped queries share their keys without copying them. The mask is added, so it is not kept.
    """
    b, n, width = q.shape
    flops = 2 * b * pairs * width
    t.op("scores", "core", flops=flops, flops_backward=2 * flops, saves=(q, k), cache=cache)
    probabilities = ops.softmax(t, "softmax", t.tensor(b, spec.heads, n, keys, label="scores", scores=True))
    probabilities = ops.dropout(t, "dropout", probabilities)
    t.op("context", "core", flops=flops, flops_backward=2 * flops, saves=(probabilities, v))
    return t.tensor(b, n, width, label="context")


def _flash_core(
    t: Trace, spec: Attention, q: Tensor, k: Tensor, v: Tensor, keys: Number, pairs: Number, cache: Cache | None
) -> Tensor:
    """``F.scaled_dot_product_attention``'s flash kernel (arXiv 2205.14135): no N x N tensor.

    Keeps q, k, v, its output and one fp32 log-sum-exp per row, and recomputes the scores backward: 5 matrix
    products to the forward pass's 2. The CUDA kernel also keeps its random state; the CPU one has no dropout.
    """
    b, n, width = q.shape
    out = t.tensor(b, n, width, label="context")
    saves = [q, k, v, out, t.tensor(b, spec.heads, n, role=Role.FLOAT32, label="log-sum-exp")]
    if t.workload.device == "cuda":
        saves.append(t.tensor(2, role=Role.INDEX, label="random state"))
    flops = 4 * b * pairs * width
    t.op("flash", "core", flops=flops, flops_backward=5 * flops // 2, saves=tuple(saves), cache=cache)
    return out


def relative_bias(t: Trace, name: str, spec: RelativePosition, heads: Number, queries: Number, keys: Number) -> None:
    """T5's bias: a table looked up by the bucketed distance of every (query, key) pair."""
    buckets = t.tensor(queries, keys, role=Role.INDEX, label="distance buckets")
    ops.embedding(t, name, buckets, spec.buckets, heads)


def _head_norm(t: Trace, name: str, x: Tensor, spec: HeadNorm, heads: Number, head_dim: Number) -> Tensor:
    b, n, width = x.shape
    if spec.over == "full":
        return ops.norm(t, name, x, spec)
    shape = (heads, head_dim) if spec.over == "heads" else (head_dim,)
    return ops.norm(t, name, x.view(b, n, heads, head_dim), spec, weight_shape=shape).view(b, n, width)
