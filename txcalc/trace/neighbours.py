"""Attention that is computed block by block, of positions that are near each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.spec.facts import block_multiple, global_tokens
from txcalc.trace import norms, ops, parts
from txcalc.trace.cores import Core
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, several, visible_pairs
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.model import Stack
    from txcalc.spec.projections import Blocks


def padded(t: Trace, stack: Stack, x: Tensor) -> Tensor:
    """(b, n, d) with as many positions as make whole blocks, behind the stack's global tokens, if there are any."""
    (b, n, d), multiple, first = x.shape, block_multiple(stack, t.size), global_tokens(stack)
    if multiple is not None and t.size(n) != t.size(whole := -(-n // multiple) * multiple):
        x = parts.remade(t, "padding", x, b, whole, d, label=x.label)
    if not first:
        return x
    tokens = ops.learned(t, "global_tokens", (first, d), b, standing(t, n, first), d,
                         how="new" if several(t, b) else "same")
    return parts.join_positions(t, "join", (tokens, x), b, x.label)


def standing(t: Trace, n: Number, tokens: Number) -> Number:
    """Global tokens before ``n`` positions: none where an encoder has run before, and only its weights count."""
    return 0 if t.size(n) == 0 else tokens


def cut(t: Trace, stack: Stack, x: Tensor, n: Number) -> Tensor:
    """Without those again."""
    return parts.positions(t, "unpadded", x, n) if block_multiple(stack, t.size) else x


def surrounded(t: Trace, spec: Blocks, x: Tensor) -> tuple[Tensor, Tensor]:
    """The sources of queries, and of keys and values: with sums of positions, or padded by half a block."""
    b, n, d = x.shape
    if spec.summaries is not None:
        with t.scope("summaries"):
            sums = n // spec.summaries
            owners = ops.made(t, "owners", sums, n, role=Role.ACTIVATION, label="blocks, one-hot")
            made = t.op("sum", "core", products=(Product(b, sums, d, n, backward=1),), saves=(owners,),
                        reads=(owners, x), backward=((ops.to(x),),),
                        writes=(t.tensor(b, sums, d, label="sums of blocks"),))
            return x, parts.join_positions(t, "join", (x, norms.norm(t, "norm", made, norms.RMS)), b, "keys of blocks")
    if spec.staggered and t.size(n) != 0:
        x = parts.remade(t, "staggering", x, b, n + spec.length, d, label=x.label)
    return x, x


def blockwise(t: Trace, spec: Blocks, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """Contexts of blocks of queries with the keys of their own block, or of three, and with those that all see.

    Global tokens stand before the others, and meet all keys.
    """
    (b, m, _), heads, w, wide = q.shape, core.heads.queries, spec.length, core.heads.dim
    g = standing(t, m, spec.global_tokens)
    n, seen = m - g, k.shape[1] - m + g
    number, local = -(-n // w), 3 * w if spec.reach == "three" else w
    reach = {"window": 2 * w - 2} if spec.reach == "three" else {"chunk": w}
    kept, keys = wide * (visible_pairs(n, 0, causal=False, **reach) + n * seen), local + seen
    with t.scope("core"):
        q_blocks = parts.remade(t, "q_blocks", q, b * number, w, heads * wide, label="queries of blocks")
        k_blocks, v_blocks = (parts.remade(t, f"{name}_blocks", x, b * number, keys, heads * wide, label=x.label)
                              for name, x in (("k", k), ("v", v)))
        met = ops.matmul(t, "scores", q_blocks, k_blocks, Product(b * heads, number * w, keys, wide, kept),
                         t.tensor(b * number, heads, w, keys, label="scores", scores=True))
        weights = ops.dropout(t, "dropout", ops.softmax(t, "softmax", ops.shifted(t, "mask", met, buffer=True)))
        y = ops.matmul(t, "context", weights, v_blocks, Product(b * heads, number * w, wide, keys, kept),
                       t.tensor(b, n, heads * wide, label="context"))
        if not spec.global_tokens:
            return y
        total = k.shape[1]
        first = parts.remade(t, "global_q", q, b, g, heads * wide, label="queries of global tokens")
        met = ops.matmul(t, "global_scores", first, k, Product(b * heads, g, total, wide),
                         t.tensor(b, heads, g, total, label="scores of global tokens", scores=True))
        weights = ops.dropout(t, "dropout", ops.softmax(t, "softmax", met))
        first = ops.matmul(t, "global_context", weights, v, Product(b * heads, g, wide, total),
                           t.tensor(b, g, heads * wide, label="context"))
        return parts.join_positions(t, "join", (first, y), b, "contexts")


def overlapping(t: Trace, spec: Blocks, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """Longformer's sliding chunks (arXiv 2004.05150, appendix A): contexts (b, n, heads x dim) of as many positions.

    Queries and keys of two neighbouring blocks meet, chunk by chunk; of these scores a band stays, one block to either
    side. As many probabilities as three blocks have keys, most of them zeros, weigh the values of three.
    """
    (b, n, _), heads, w = q.shape, core.heads, spec.length
    rows, number, wide = b * heads.queries, n // w, core.heads.dim
    chunks, whole = (0, 0) if t.size(n) == 0 else (number - 1, n + 2 * w)
    pairs, mixed = visible_pairs(n, 0, causal=False, window=2 * w), several(t, b, heads.queries)

    def several_of(name: str, x: Tensor, count: Number, length: Number) -> Tensor:
        """Overlapping parts of positions, which a product of batches needs in memory of their own."""
        if not several(t, rows, count):
            return x
        return parts.remade(t, name, x, rows * count, length, wide, label=x.label)

    def scores(count: Number, height: Number, columns: Number, label: str) -> Tensor:
        return t.tensor(rows, count, height, columns, label=label, scores=True)

    with t.scope("core"):
        q, k, v = (ops.copy(t, f"{name}_copy", x) if mixed else x for name, x in (("q", q), ("k", k), ("v", v)))
        q = several_of("q_chunks", ops.scaled(t, "scale", q), chunks, 2 * w)
        k = several_of("k_chunks", k, chunks, 2 * w)
        met = ops.matmul(t, "scores", q, k, Product(rows, chunks * 2 * w, 2 * w, wide, wide * pairs),
                         scores(chunks, 2 * w, 2 * w, "scores of chunks"))
        band = ops.shifted(t, "mask", parts.remade(t, "band", met, rows, number, w, 2 * w + 1, label="scores"),
                           buffer=True)
        weights = ops.dropout(t, "dropout", ops.softmax(t, "softmax", band))
        weights = ops.elementwise(t, "diagonals", "elementwise", weights,
                                  scores(number, w, 3 * w + 2, "probabilities of three blocks"))
        v = parts.remade(t, "v_padding", v, rows, whole, wide, label="values")
        v = several_of("v_chunks", v, number, 3 * w)
        out = t.tensor(b, n, heads.queries * wide, label="context")
        return ops.matmul(t, "context", weights, v, Product(rows, n, wide, 3 * w, wide * pairs), out)
