"""Attention, written as its forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from txcalc.spec.facts import mask_kind
from txcalc.trace import (
    ahead,
    beside,
    composed,
    composed_latents,
    compressed,
    expert_queries,
    images,
    megatron,
    nanotron,
    neighbours,
    norms,
    ops,
    parts,
    split,
    tables,
    variants,
)
from txcalc.trace.cache import Cache, extend, hides, keep, kv_cache, padded
from txcalc.trace.cores import Core, Heads, Span, attend, choose, pads
from txcalc.trace.distances import distance_scores, keeps_inputs, relative_bias
from txcalc.trace.latents import choose_blocks, chosen_pairs, gated, latent_attention
from txcalc.trace.layout import WHOLE
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, least, several, visible_pairs
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.inputs import DisentangledPosition, Position, RotaryPosition
    from txcalc.spec.layers import AnyAttention, Attention, HeadNorm, Norm


KeysValues = tuple[Tensor, Tensor]


class Around(NamedTuple):
    """Settings that all layers of a stack share."""

    position: Position | None
    causal: bool  # it masks the future
    cached: bool  # its keys are
    fixed: bool = False  # every input has the same length (an image), so that the index of its distances is a buffer
    memory: Tensor | None = None  # an encoder's output
    shared: dict[str, KeysValues] | None = None  # the last of each reach that a layer has made
    table: Tensor | None = None  # a bias by distance, or relative position embeddings, which every layer projects
    made: tables.Tables | None = None  # the tables of a code
    unread: Number | None = None  # columns that an encoder's output would have, where there is none
    embedded: Tensor | None = None  # what the first layer reads, for blocks that layers share
    blocks: str = ""  # where these stand
    out: Number | None = None  # columns that attention puts out, where not as many as it reads


def gathered(t: Trace, around: Around) -> Around:
    """The inputs of a layer beside its input, which as a unit of sharded weights gathers its gradients by itself."""
    if t.workload.layout is None or not t.workload.layout.shards:
        return around
    table, memory = (None if x is None else ops.view(t, name, x)
                     for name, x in (("table", around.table), ("memory", around.memory)))
    return around._replace(table=table, memory=memory)


def self_attention(t: Trace, spec: AnyAttention, around: Around, x: Tensor, values: Tensor | None = None) -> Tensor:
    """Queries, keys and values, if not from others, from the same (b, n, d) hidden states, cached where asked for."""
    shape = b, n, _ = x.shape
    if spec.kind == "standard" and spec.image_window is not None:  # each square is a short sequence
        x, n = images.windows(t, spec, x)
    if t.code.linear == "parallel":
        n = n * t.layout.by_position
    position, cached = around.position, around.cached
    past = t.workload.past if cached else 0
    by_distance = position is not None and position.kind == "transformer-xl"
    layer = "latent" if spec.kind == "mla" else "distances" if by_distance else "attention"
    with t.scope("attention", component=layer):
        if spec.kind == "mla":
            span = _span(t, n * t.layout.by_head, past, causal=around.causal, window=spec.window)
            fused = t.code.attention == "fused"
            if (around.made is not None and not t.workload.absorbs) or fused:
                h = spec.heads
                rows = ((1, spec.kv_rank + spec.rope_dim),)
                cache = kv_cache("self", rows, span.held, b, layout="latent") if cached else None
                core = Core(Heads(h, h, spec.nope_dim + spec.rope_dim, spec.value_dim), span, cache)
                if fused:
                    return megatron.latent_attention(t, spec, x, core)
                assert around.made is not None
                return composed_latents.latent_attention(t, spec, around.made, x, core)
            return latent_attention(t, spec, position, x, span, past, causal=around.causal, cached=cached)
        if spec.kind == "compressed":
            span = _span(t, n, past, causal=True, window=spec.window)
            return compressed.attention(t, spec, position, x, span, past, cached=cached)
        n = n if spec.ahead is None else n // (1 + spec.ahead.streams)
        span = _span(t, n * t.layout.by_head, past, causal=around.causal, window=spec.window, chunk=spec.chunk,
                     drops=spec.cached == "window")
        if spec.kept_keys is not None:
            span = span._replace(pairs=chosen_pairs(spec.kept_keys, span, past, causal=around.causal))
        if spec.indexer is not None:
            span = choose_blocks(t, spec.indexer, x, span, past)
        source, cache = x, None
        if spec.image_convolution is not None:
            x, source, values, span = images.convolved(t, spec.image_convolution, spec.image_reduction or 1, x)
        elif spec.image_reduction is not None:
            source, span = images.reduced(t, spec.image_reduction, x)
        if cached and not spec.kv_shared:
            cache = _cache(spec, position, span, past + n, x)
        if cached and keeps_inputs(position):
            source = x.view(x.shape[0], span.keys, x.shape[-1])
        if spec.ahead is not None:
            return ahead.attention(t, spec, x, past, span, cache)
        if spec.blocks is not None:
            x, source = neighbours.surrounded(t, spec.blocks, x)
        y = _heads(t, spec, around, x, source, span, cache, values)
        if spec.blocks is not None and spec.blocks.staggered:
            y = parts.positions(t, "unstaggered", y, n)
        return y if spec.image_window is None else images.inside(t, spec, y, shape)


_APART: Final = Around(None, causal=False, cached=False)
"""Of queries that meet the keys of others, and have no positions among them."""


def cross_attention(t: Trace, spec: Attention, around: Around, x: Tensor, memory: Tensor) -> Tensor:
    """Queries from the decoder, keys and values from the encoder's output, cached once for the whole generation."""
    b, n, _ = x.shape
    past = t.workload.source_past if around.cached else 0
    with t.scope("cross_attention", component="cross_attention"):
        if spec.memory_norm is not None:
            memory = norms.norm(t, "memory_norm", memory, spec.memory_norm)
        if spec.joined:
            memory = parts.join_positions(t, "joined", (memory, x), b, "what is read, and queries")
        _, source_new, _ = memory.shape
        keys = past + source_new
        span = Span(n, source_new, keys, n * keys, past, keys)
        cache = kv_cache("cross", _kv_rows(spec), keys, b) if around.cached else None
        values = None
        if spec.twice:
            with t.scope("first"), t.frame(memory):
                x = ops.linear(t, "q_first", x, x.shape[-1])
                memory, values = (ops.linear(t, name, memory, memory.shape[-1]) for name in ("k_first", "v_first"))
        return _heads(t, spec, _APART._replace(made=around.made), x, memory, span, cache, values)


def pooling_attention(t: Trace, spec: Attention, query: Tensor, x: Tensor) -> Tensor:
    """A few (b, m, d) queries over all (b, n, d) positions, uncached."""
    _, m, _ = query.shape
    _, n, _ = x.shape
    layout, t.layout = t.layout, WHOLE  # every rank has all of it
    with t.scope("attention"):
        y = _heads(t, spec, _APART, query, x, Span(m, n, n, m * n, 0, n), None)
    t.layout = layout
    return y


def _cache(spec: Attention, position: Position | None, span: Span, tokens: Number, x: Tensor) -> Cache:
    """The cached positions of ``tokens`` seen so far: all of them, or those that the next query may still see."""
    batch, _, d = x.shape
    bounded = spec.cached != "all" and (spec.window is not None or spec.chunk is not None)
    held, limit = (span.held, span.bound) if bounded else (tokens, None)
    if keeps_inputs(position):
        return Cache("self", d, held, batch, layout="inputs", end=tokens, limit=limit)
    layout = "full" if not bounded else "window" if spec.chunk is None else "chunk"
    return kv_cache("self", _kv_rows(spec), held, batch, layout=layout, limit=limit,
                    end=tokens if layout == "window" else None)


def _value_dim(spec: Attention) -> Number:
    return spec.head_dim if spec.value_dim is None else spec.value_dim


def _kv_rows(spec: Attention) -> tuple[tuple[Number, Number], ...]:
    own = () if spec.indexer is None else ((1, spec.indexer.head_dim),)
    return (spec.kv_heads, spec.head_dim), (spec.kv_heads, _value_dim(spec)), *own


def _span(
    t: Trace, n: Number, past: Number, *, causal: bool, window: Number | None = None, chunk: Number | None = None,
    drops: bool = True,
) -> Span:
    """``drops``: keys that no later query can see are not held, and take part in no product."""
    bound = window if window is not None else chunk
    if not causal or bound is None or not drops:
        before, keys = past, past + n
        held = keys
    else:
        before, keys, held = least(past, bound), n + least(past, bound - 1), least(past + n, bound)
    pairs = visible_pairs(n, past, causal=causal, window=window, chunk=chunk)
    masks = causal or bound is not None
    distances = keys if causal else 0 if t.size(n) == 0 else 2 * n - 1
    return Span(n, n, keys, pairs, before, -(-held // t.layout.by_head), bound, masks, distances)


def _heads(
    t: Trace, spec: Attention, around: Around, x: Tensor, source: Tensor, span: Span, cache: Cache | None,
    values: Tensor | None = None,
) -> Tensor:
    """Multi-head, grouped-query or multi-query attention, with keys and values of ``source``."""
    (*_, d), position, shared = x.shape, around.position, around.shared
    rotary = position if position is not None and position.kind == "rope" and spec.rope else None
    value_dim = _value_dim(spec)
    heads = Heads(spec.heads, spec.kv_heads, spec.head_dim, value_dim)
    alibi = position is not None and position.kind == "alibi"
    masked = heads.queries if alibi else int(spec.window is not None or spec.chunk is not None or hides(t, cache))
    beyond = variants.beyond_kernels(spec, position)
    core = Core(heads, span, cache, beyond, masked, spec.softcap is not None, spec.sinks)
    if around.made is not None:
        return composed.attention(t, spec, around.made, x, source, core)
    if t.code.attention == "fused":
        return megatron.attention(t, spec, x, core, rotates=rotary is not None)
    if t.code.attention == "copied":
        return nanotron.attention(t, spec, x, core)
    kernel = choose(t, core)
    in_front = pads(t, kernel, heads) or (kernel == "math" and heads.grouped)
    scored, k_scored = 2 * (kernel in ("eager", "math") or in_front,)
    if t.layout.cp > t.layout.by_head:
        in_front = scored = k_scored = True
    elif (ranks := t.layout.by_head) > 1:  # of one head the gradient comes back with positions of every rank in front
        in_front, scored, k_scored = True, *(not several(t, count // ranks) for count in (spec.heads, spec.kv_heads))
    with t.frame(x):
        beside.unused_projections(t, spec, d, value_dim)
        route = None if spec.query_experts is None else expert_queries.route(t, spec, x)
        if route is None:
            q = beside.project(t, "q", x, spec.heads * spec.head_dim, bias=spec.bias.q, part="q",
                               groups=spec.column_groups.q)
        else:
            q = expert_queries.queries(t, spec, x, route)
        q = _normed(t, "q", q, spec.heads, spec.qk_norm, copied=scored and several(t, q.shape[1])
                    and not _partly_rotated(spec, rotary))
        q = t.hold(_rotated(t, "q", q, spec, spec.heads, rotary))
        if shared is not None and spec.kv_shared:
            k, v = shared[mask_kind(spec)]
        else:
            with t.frame():
                k, v = _keys_and_values(t, spec, source, rotary, copied=k_scored, in_front=in_front,
                                        values=values)
                if cache is not None and not t.workload.keeps and not keeps_inputs(position):
                    join = extend if cache.kind == "self" else keep
                    k, v = (t.alias(x, x.shape[0], span.keys, x.shape[-1]) for x in join(
                        t, t.hold(k), t.hold(v), span.before, span.held))
                    core = core._replace(laid="kv" if cache.kind == "self" and t.size(span.before) != 0 else "")
            if shared is not None and several(t, k.shape[1], spec.kv_heads):
                with t.frame(k, v):
                    k, v = ops.copy(t, "k_copy", k), ops.copy(t, "v_copy", v)
        if shared is not None:
            shared[mask_kind(spec)] = k, v
        t.hold(k)
        t.hold(v)
        if shared is not None:
            core = core._replace(laid="kv")
        given = around.table
        if position is not None and position.kind == "relative" and position.per_layer:
            given = relative_bias(t, position, spec.heads, span.queries, span.keys, causal=around.causal,
                                  fixed=around.fixed)
        if position is not None and position.kind == "relative" and given is not None and spec.blocks is None:
            core = core._replace(bias=t.hold(parts.narrow(t, "bias", given, span.keys)))
        core = padded(t, core, x.shape[0])
        if position is not None and position.kind == "decomposed":
            core = core._replace(bias=images.side_scores(t, spec, q, span))
        if position is not None and position.kind == "continuous":
            q, k, found = images.cosines(t, spec, position.hidden, q, k)
            core = core._replace(bias=found)
        if position is not None and position.kind == "disentangled" and given is not None:
            q, k = t.hold(ops.copy(t, "q_copy", q)), t.hold(ops.copy(t, "k_copy", k))
            core = core._replace(laid="qk")
            _position_scores(t, spec, position, given, q, k, span)
        if position is not None and position.kind == "transformer-xl":
            q, *made = distance_scores(t, spec, position, q, given, d, span)
            core = core._replace(bias=made[-1], holds=tuple(made))
        if spec.kept_keys is not None:
            laid = shared is not None and several(t, v.shape[1], spec.kv_heads)  # heads first
            core = core._replace(bias=t.hold(variants.value_scores(t, spec, ops.copy(t, "v_rows", v) if laid else v)))
        if spec.blocks is not None:
            way = neighbours.overlapping if spec.blocks.reach == "chunks" else neighbours.blockwise
            y = way(t, spec.blocks, q, k, v, core)
        elif spec.similarity == "collisions":
            y = variants.collisions(t, q, k, v, core)
        elif spec.differential:
            y = variants.differential(t, spec, v, lambda half, kept: attend(
                t, q, k, half, core._replace(cache=kept), kernel), core.cache)
        else:
            y = attend(t, q, k, v, core, kernel)
        if spec.span_convolution is not None:
            y = variants.span_convolution(t, spec, x, q, y, spec.span_convolution)
        if spec.value_convolution is not None:
            y = ops.add(t, y, variants.convolved_values(t, spec, v, spec.value_convolution), "value_convolution")
        if spec.output_gate:
            bias = "none" if spec.gate_bias == "q" and not spec.bias.q else spec.gate_bias
            y = gated(t, spec, x, y, value_dim, spec.gate_activation, bias)
        if spec.inner_norm is not None:
            y = norms.norm(t, "inner_norm", y, spec.inner_norm)
        y = t.hold(y)
        d = d if around.out is None else around.out
        o = (beside.project(t, "o", y, d, bias=spec.bias.o, part="attention output", groups=spec.column_groups.o)
             if route is None else expert_queries.outputs(t, spec, y, d, route))
        return ops.dropout(t, "dropout", split.leave(t, "o", o))


def _partly_rotated(spec: Attention, position: RotaryPosition | None) -> bool:
    """Tell whether the parts of a head are joined again, which lays the gradient out as the head was."""
    return position is not None and parts.rotated_columns(position, spec.head_dim) is not None


def _normed(t: Trace, name: str, x: Tensor, heads: Number, norm: HeadNorm | None, *, copied: bool) -> Tensor:
    """(b, n, width), normed as it is or in heads. ``copied``: its gradient comes back with heads before positions."""
    by_head = norm is not None and norm.over != "full"
    if norm is not None and not by_head:
        x = norms.norm(t, f"{name}_norm", x, norm)
    if copied and not (by_head and _lays_out(t, norm)):
        x = ops.view(t, name, x, copied=True)
    if norm is None or not by_head:
        return x
    b, n, width = x.shape
    shape = (heads, width // heads) if norm.over == "heads" else (width // heads,)
    return norms.norm(t, f"{name}_norm", x.view(b, n, heads, shape[-1]), norm, weight_shape=shape).view(b, n, width)


def _lays_out(t: Trace, norm: Norm | None) -> bool:
    """Tell whether a norm's gradient lies in memory as its input does: that of one kernel."""
    return norm is not None and (norm.kind == "layernorm" or t.workload.fused_norms)


def _rotated(
    t: Trace, name: str, x: Tensor, spec: Attention, heads: Number, position: RotaryPosition | None
) -> Tensor:
    if position is None:
        return x
    b, n, width = x.shape
    return parts.rotate(t, f"{name}_rotary", x.view(b, n, heads, spec.head_dim), position).view(b, n, width)


def _keys_and_values(
    t: Trace, spec: Attention, source: Tensor, rotary: RotaryPosition | None, *, copied: bool, in_front: bool,
    values: Tensor | None = None,
) -> KeysValues:
    """Keys and values: projected, or values that are keys, normed, and keys rotated.

    ``copied``: gradients come back with their axes in another order; ``in_front``: those of keys with heads first.
    """
    b, n, _ = source.shape
    with t.frame():
        with t.frame():
            copied_key = copied and not _partly_rotated(spec, rotary)
            by_column = copied_key and not in_front and several(t, b, n) and not _lays_out(t, spec.qk_norm)
            k = v = t.hold(beside.project(
                t, "k", source, spec.kv_heads * spec.head_dim, bias=spec.bias.k, part="k", groups=spec.column_groups.k,
                copied=by_column and spec.value_from != "key"))
            if spec.value_from == "key":  # both gradients are added to each other, in the order of the values'
                k, v = ops.view(t, "k", k), ops.view(t, "v", v)
            k = _normed(t, "k", k, spec.kv_heads, spec.qk_norm,
                        copied=copied_key and in_front and several(t, n, spec.kv_heads))
            if spec.value_from == "input":
                v = beside.project(t, "v", source if values is None else values, spec.kv_heads * _value_dim(spec),
                                   bias=spec.bias.v, part="v", groups=spec.column_groups.v)
            if copied and several(t, n, spec.kv_heads) and not _lays_out(t, spec.value_norm):
                v = ops.view(t, "v", v, copied=True)
            if spec.value_norm is not None:
                heads = v.view(b, n, spec.kv_heads, _value_dim(spec))
                v = norms.norm(t, "v_norm", heads, spec.value_norm).view(*v.shape)
            if spec.value_from == "key" and spec.value_norm is None:
                v = ops.copy(t, "v_copy", v, label="values")
            elif spec.value_from == "key" and spec.qk_norm is None:
                k = ops.copy(t, "k_copy", k, label="keys")
        return _rotated(t, "k", t.hold(k), spec, spec.kv_heads, rotary), v


def _position_scores(
    t: Trace, spec: Attention, position: DisentangledPosition, table: Tensor, q: Tensor, k: Tensor, span: Span
) -> None:
    """DeBERTa's content-to-position and position-to-content scores, gathered by distance into the score matrix.

    Every sequence gets a copy of the projected positions, as the products of PyTorch's batches need one.
    """
    b, n, width = q.shape
    _, d = table.shape
    rows = 2 * (least(span.keys, position.buckets) if position.clipped else position.buckets)
    for name, content, projection in (("c2p", q, "k"), ("p2c", k, "q")):
        if name not in position.scores:
            continue
        bias = not position.shared_projections and (projection == "q" or position.key_bias)
        ops.linear(t, f"position_{projection}", table.view(rows, d), width, bias=bias,
                   tied=f"{t.path(projection)}.weight" if position.shared_projections else None)
        positions = t.tensor(b, rows, width, label=f"position_{projection}")
        t.op(f"core.{name}", "core", products=(Product(b * spec.heads, n, rows, width // spec.heads),),
             saves=(content, positions))
        by_distance = t.tensor(b, spec.heads, n, rows, label=f"{name} by distance")
        distances = t.tensor(n, span.keys, role=Role.INDEX, label="distances", scores=True)  # broadcast over the rest
        t.op(f"core.{name}_gather", "index", saves=(by_distance, distances))
