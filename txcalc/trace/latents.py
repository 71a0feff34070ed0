"""Multi-head latent attention and its indexer, written as their forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from txcalc.trace import curves, norms, ops, parts, split
from txcalc.trace.cache import extend, grow, hides, kv_cache, padded
from txcalc.trace.cores import Core, Heads, Span, attend
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, block_pairs, least, several, visible_pairs, whole_blocks
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from txcalc.spec.compression import BlockIndexer, Indexer
    from txcalc.spec.inputs import Position
    from txcalc.spec.layers import MLA, Attention


def chosen_pairs(chosen: Number | None, span: Span, past: Number, *, causal: bool) -> Number:
    """As many kept as in a window of the chosen keys, wherever those stand."""
    if chosen is None:
        return span.pairs
    if not causal:
        return span.queries * least(span.keys, chosen)
    return visible_pairs(span.queries, past, causal=True, window=chosen)


def gated(
    t: Trace, spec: Attention | MLA, x: Tensor, y: Tensor, value_dim: Number,
    curve: Literal["sigmoid", "softplus"] = "sigmoid", bias: Literal["q", "none", "head"] = "none",
) -> Tensor:
    """The context of all heads times the gate that the block's input gives, for each head or each column of one."""
    gates = spec.heads * (value_dim if spec.gate_over == "channel" else 1)
    gate = ops.linear(t, "gate", x, gates, bias=bias == "q")
    if bias == "head":
        shape = (*gate.shape[:-1], spec.heads, gates // spec.heads)
        own = ops.learned(t, "gate_bias", (spec.heads,), spec.heads, 1, how="same")
        gate = ops.add(t, gate.view(*shape), own, "gate_bias").view(*gate.shape)
    opened = t.hold(curves.activation(t, "gate_activation", gate, curve))
    return ops.multiply(t, "gated", y, opened, broadcast=spec.gate_over == "head")


def latent_attention(
    t: Trace, spec: MLA, position: Position | None, x: Tensor, span: Span, past: Number, *, causal: bool, cached: bool
) -> Tensor:
    """Queries, keys and values through latents; the key-value latent and the rotary key are what is cached.

    Expanded, latents become keys and values of all heads in every run. Absorbed, each head's half of ``kv_up`` for keys
    is applied to its queries, and that for values to its context: all heads share the latents as their only key, and
    their values are its columns (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
    """
    b, n, d = x.shape
    rows = [(1, spec.kv_rank + spec.rope_dim)]
    rotary = position if position is not None and position.kind == "rope" else None
    with t.frame(x):
        read = x
        if spec.q_rank is None:
            q = ops.linear(t, "q", x, spec.heads * (spec.nope_dim + spec.rope_dim), part="q")
        else:
            down = ops.linear(t, "q_down", x, spec.q_rank, bias=spec.bias)
            q_latent = t.hold(norms.norm(t, "q_norm", down, norms.RMS))
            read = q_latent if not spec.joint else t.hold(
                ops.gathered(t, "q_joint", (q_latent, down), b, n, 2 * spec.q_rank, label="latents and their norms"))
            q = ops.linear(t, "q_up", read, spec.heads * (spec.nope_dim + spec.rope_dim))
            if spec.indexer is not None:
                choose_keys(t, spec.indexer, x, q_latent, span.keys, span.pairs, span.reach)
                rows.append((1, spec.indexer.head_dim))
        by_head = t.hold(q).view(b, n, spec.heads, spec.nope_dim + spec.rope_dim)
        q_nope, q_rope = parts.columns(t, "q_split", by_head, spec.nope_dim, spec.rope_dim)
        down = ops.linear(t, "kv_down", x, spec.kv_rank + spec.rope_dim, bias=spec.bias)
        latent, k_rope = parts.columns(t, "kv_split", down, spec.kv_rank, spec.rope_dim)
        latent = norms.norm(t, "kv_norm", latent, norms.RMS)
        k_rope = norms.norm(t, "rope_norm", k_rope, norms.RMS) if spec.rope_norm else k_rope
        k_rope = k_rope.view(b, n, 1, spec.rope_dim)
        if rotary is not None:
            q_rope, k_rope = parts.rotate(t, "q_rotary", q_rope, rotary), parts.rotate(t, "k_rotary", k_rope, rotary)
        if cached and not t.workload.keeps and spec.window is None:
            latent, k_rope = grow(t, (latent, k_rope), past)
        elif cached and not t.workload.keeps:
            latent, k_rope = extend(t, t.hold(latent), t.hold(k_rope).view(b, n, spec.rope_dim), span.before, span.held)
            latent = t.alias(latent, b, span.keys, spec.kv_rank)
            k_rope = t.alias(k_rope, b, span.keys, 1, spec.rope_dim)
        for each in (latent, q_rope, k_rope):
            t.hold(each)
        cache = kv_cache("self", tuple(rows), span.held, b, layout="latent", limit=span.bound) if cached else None
        span = span._replace(pairs=chosen_pairs(spec.index_topk, span, past, causal=causal))
        # A mask of its own for every sequence: a flash kernel of PyTorch takes none, and the others would copy it.
        why = "" if spec.index_topk is None else "an indexer's choice is a mask of every sequence"
        why = why or ("no kernel of PyTorch has sinks" if spec.sinks else "")
        h, size = spec.heads, spec.nope_dim + spec.rope_dim
        core = padded(t, Core(Heads(h, h, size, spec.value_dim), span, cache, why,
                              int(spec.window is not None or hides(t, cache)), sinks=spec.sinks), b)
        context = (_absorbed if t.workload.absorbs else _expanded)(t, spec, (q_nope, q_rope), (latent, k_rope), core)
        if spec.output_gate:
            context = gated(t, spec, read if spec.joint else x, context, spec.value_dim)
        y = ops.linear(t, "o", t.hold(context), d, bias=spec.bias, part="attention output")
        return ops.dropout(t, "dropout", split.leave(t, "o", y))


def _expanded(
    t: Trace, spec: MLA, queries: tuple[Tensor, Tensor], latents: tuple[Tensor, Tensor], core: Core
) -> Tensor:
    (latent, k_rope), (b, n, h, _) = latents, queries[0].shape
    size, keys = spec.nope_dim + spec.rope_dim, core.span.keys
    with t.frame(*queries, *latents):
        up = ops.linear(t, "kv_up", latent, h * (spec.nope_dim + spec.value_dim), part="latents")
        up = up.view(b, keys, h, spec.nope_dim + spec.value_dim)
        k_nope, v = parts.columns(t, "kv_up_split", t.hold(up), spec.nope_dim, spec.value_dim)
        q = t.hold(parts.join(t, "q_join", queries, "rotated q"))
        k_rope = ops.view(t, "k_rope", k_rope, b, keys, h, spec.rope_dim, copied=several(t, h))
        k = t.hold(parts.join(t, "k_join", (k_nope, k_rope), "keys with rotary part"))
        v = ops.copy(t, "v_copy", v, label="values")
        return attend(t, q.view(b, n, h * size), k.view(b, keys, h * size), v.view(b, keys, h * spec.value_dim),
                      core._replace(laid="v"))


def _absorbed(
    t: Trace, spec: MLA, queries: tuple[Tensor, Tensor], latents: tuple[Tensor, Tensor], core: Core
) -> Tensor:
    ((b, n, h, _), r, keys), (latent, k_rope) = (queries[0].shape, spec.kv_rank, core.span.keys), latents
    with t.frame(*queries, *latents):
        t.op("kv_up", "linear", weights={"weight": (h * (spec.nope_dim + spec.value_dim), r)}, part="latents")
        made = _by_head(t, "absorb_q", queries[0], spec.nope_dim, r)
        q = t.hold(parts.join(t, "q_join", (made, queries[1]), "queries of latents"))
        k = t.hold(parts.join(t, "k_join", (latent, k_rope.view(b, keys, spec.rope_dim)), "latents with rotary part"))
        context = attend(t, q.view(b, n, h * (r + spec.rope_dim)), k, t.alias(k, b, keys, r),
                         core._replace(heads=Heads(h, 1, r + spec.rope_dim, r), laid="qo"))
        if several(t, b, n, h):  # heads go before sequences
            context = ops.copy(t, "context_copy", context)
        y = _by_head(t, "absorb_v", t.hold(context.view(b, n, h, r)), r, spec.value_dim)
        y = y.view(b, n, h * spec.value_dim)
        return ops.copy(t, "context_of_values", y) if several(t, b * n, h) else y


def _by_head(t: Trace, name: str, x: Tensor, d_in: Number, d_out: Number) -> Tensor:
    """A product of each head's columns of (b, n, h, d_in) with its part of a weight that another op has: keeps its
    input."""
    b, n, heads, _ = x.shape
    return t.op(name, "linear", products=(Product(heads, b * n, d_out, d_in),), saves=(x,), reads=(x,),
                writes=(t.tensor(b, n, heads, d_out, label=name),))


def choose_keys(
    t: Trace, spec: Indexer, x: Tensor, latent: Tensor, keys: Number, pairs: Number, reach: Number, *,
    sums: Number | None = None,
) -> None:
    """Scores of every (query, key) pair, in which the best keys are found; nothing here has a gradient
    (DeepSeek-V3.2, arXiv 2512.02556, section 2.1).

    Small heads of queries come from the query latent, one key for all of them from (b, n, d) hidden states; what the
    heads say is weighed by the query's token. Keys may be ``sums`` of so many positions, that overlap: then no product
    weighs (DeepSeek-V4).
    """
    (b, n, d), (_, _, rank) = x.shape, latent.shape
    heads, width = spec.heads, spec.heads * spec.head_dim
    with t.scope("indexer"):
        made = ("k",) if sums is None else ("kv", "gate")
        keys_of = [(name, d, len(made) * spec.head_dim) for name in made]  # overlapping sums have twice as many columns
        for name, columns, out in (("q", rank, width), *keys_of, ("weights", d, heads)):
            t.op(name, "linear", weights={"weight": (out, columns)},
                 products=(Product(1, b * n, out, columns, backward=0),))
        if sums is None:
            t.op("k_norm", "norm", weights=dict.fromkeys(("weight", "bias"), (spec.head_dim,)))
        else:
            ops.parameter(t, "position_bias", sums, 2 * spec.head_dim)
            t.op("norm", "norm", weights={"weight": (spec.head_dim,)})
        queries, weights = t.tensor(b, n, width, label="index queries"), t.tensor(b, n, heads, label="index weights")
        index_keys = t.tensor(b, keys, spec.head_dim, label="index keys")
        scores, above = (t.tensor(b, heads, n, keys, label=label, scores=True) for label in ("index scores", "relu"))
        scored = Product(b * heads, n, keys, spec.head_dim, spec.head_dim * pairs, backward=0)
        mixed = Product(b, n, keys, heads, heads * pairs, backward=0)
        t.op("scores", "core", products=(scored,), reads=(queries, index_keys), writes=(scores,),
             reach=reach)
        t.op("relu", "elementwise", reads=(scores,), writes=(above,))
        t.op("mix", "mix", products=(mixed,) if sums is None else (), reads=(above, weights),
             writes=(t.tensor(b, n, keys, label="mixed index scores", scores=True),), reach=reach)


def choose_blocks(t: Trace, spec: BlockIndexer, x: Tensor, span: Span, past: Number) -> Span:
    """Scores of every (query, key) pair, in which the best blocks of keys are found, without a gradient (MiniMax M3),
    or of pairs with means of whole blocks (Qwen4-Exp); the span of what a query then sees."""
    b, n, d = x.shape
    heads, size, keys = spec.heads, spec.head_dim, span.keys
    with t.scope("indexer"):
        for name, out in (("q", heads * size), ("k", size)):
            t.op(name, "linear", weights={"weight": (out, d)}, products=(Product(1, b * n, out, d, backward=0),))
            t.op(f"{name}_norm", "norm", weights={"weight": (size,)})
        queries = t.tensor(b, n, heads * size, label="index queries")
        index_keys = t.tensor(b, keys, size, label="index keys")
        met = keys // spec.block if spec.averaged else keys
        scores = t.tensor(b, heads, n, met, label="index scores", scores=True)
        product = Product(b * heads, n, keys, size, size * span.pairs, backward=0)
        if spec.averaged:  # as many as are whole, query by query
            product = Product(b * heads, 1, whole_blocks(n, past, spec.block), size, backward=0)
        t.op("scores", "core", products=(product,), reads=(queries, index_keys), writes=(scores,), reach=span.reach)
        t.op("best", "elementwise", reads=(scores,), writes=(
            t.tensor(b, heads, n, -(-keys // spec.block), label="best of blocks", scores=True),))
    return span._replace(pairs=block_pairs(n, past, spec.block, spec.blocks, whole_ones=spec.averaged))
