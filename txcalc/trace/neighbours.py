"""Attention that is computed block by block, of positions that are near each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops, parts
from txcalc.trace.cores import Core
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, several, visible_pairs
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from txcalc.spec.projections import Blocks


def padded(t: Trace, x: Tensor, multiple: Number | None) -> Tensor:
    """(b, n, d) with as many positions as make whole blocks."""
    b, n, d = x.shape
    if multiple is None or t.size(n) == t.size(whole := -(-n // multiple) * multiple):
        return x
    return parts.remade(t, "padding", x, b, whole, d, label=x.label)


def cut(t: Trace, x: Tensor, n: Number) -> Tensor:
    """Without those again."""
    return parts.positions(t, "unpadded", x, n)


def overlapping(t: Trace, spec: Blocks, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """Longformer's sliding chunks (arXiv 2004.05150, appendix A): contexts (b, n, heads x dim) of as many positions.

    Queries and keys of two neighbouring blocks meet, chunk by chunk; of these scores a band stays, one block to either
    side. As many probabilities as three blocks have keys, most of them zeros, weigh the values of three.
    """
    (b, n, _), heads, w = q.shape, core.heads, spec.length
    rows, chunks, number, wide = b * heads.queries, n // w - 1, n // w, core.heads.dim
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
        v = parts.remade(t, "v_padding", v, rows, n + 2 * w, wide, label="values")
        v = several_of("v_chunks", v, number, 3 * w)
        out = t.tensor(b, n, heads.queries * wide, label="context")
        return ops.matmul(t, "context", weights, v, Product(rows, n, wide, 3 * w, wide * pairs), out)
