"""The indexer of sparse attention, written as its forward pass (DeepSeek-V3.2, arXiv 2512.02556 section 2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace.products import Product
from txcalc.trace.record import Number, Tensor, Trace

if TYPE_CHECKING:
    from txcalc.spec.layers import Indexer


def choose_keys(
    t: Trace, spec: Indexer, x: Tensor, latent: Tensor, keys: Number, pairs: Number, reach: Number
) -> None:
    """Scores of every (query, key) pair, in which the best keys are found; nothing here has a gradient.

    Small heads of queries come from the query latent, one key for all of them from (b, n, d) hidden states; what the
    heads say is weighed by the query's token.
    """
    (b, n, d), (_, _, rank) = x.shape, latent.shape
    heads, width = spec.heads, spec.heads * spec.head_dim
    with t.scope("indexer"):
        for name, columns, out in (("q", rank, width), ("k", d, spec.head_dim), ("weights", d, heads)):
            t.op(name, "linear", weights={"weight": (out, columns)},
                 products=(Product(1, b * n, out, columns, backward=0),))
        t.op("k_norm", "norm", weights={"weight": (spec.head_dim,), "bias": (spec.head_dim,)})
        queries, weights = t.tensor(b, n, width, label="index queries"), t.tensor(b, n, heads, label="index weights")
        index_keys = t.tensor(b, keys, spec.head_dim, label="index keys")
        scores, above = (t.tensor(b, heads, n, keys, label=label, scores=True) for label in ("index scores", "relu"))
        scored = Product(b * heads, n, keys, spec.head_dim, spec.head_dim * pairs, backward=0)
        mixed = Product(b, n, keys, heads, heads * pairs, backward=0)
        t.op("scores", "core", products=(scored,), reads=(queries, index_keys), writes=(scores,),
             reach=reach)
        t.op("relu", "elementwise", reads=(scores,), writes=(above,))
        t.op("mix", "mix", products=(mixed,), reads=(above, weights),
             writes=(t.tensor(b, n, keys, label="mixed index scores", scores=True),), reach=reach)
