"""Transformer-XL's attention in the reference (arXiv 1901.02860 section 3.3): scores by content and by distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.attention import AdditiveMask, AttentionCore, Projections
from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.layers import Options
from txcalc.spec.inputs import TransformerXLPosition
from txcalc.spec.layers import Attention


class Distances(nn.Module):
    """R: a row of sinusoids for every distance of a key behind a query, the farthest first; then those before it."""

    table: Tensor

    def __init__(self, table: Tensor, length: int, *, causal: bool, more: bool) -> None:
        super().__init__()
        self.length, self.causal, self.more = length, causal, more
        self.register_buffer("table", table, persistent=False)

    def forward(self, keys: int) -> Tensor:
        """A view of the rows that a run with this many keys needs."""
        before = 0 if self.causal else keys - 1
        return self.table[self.length - keys : self.length + before + self.more]


class DistanceCore(AttentionCore):
    """Scores (q + u) k and (q + v) r, the second ones shifted from distances to keys."""

    def forward(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows: Tensor, biases: Tensor
    ) -> Tensor:
        """Q (b, n, h, hd), K and V (b, kv, t, hd), projected distances (r, h, hd), u and v (2, h, hd)."""
        to_keys, to_distances = q + biases[0], q + biases[1]
        each = rows.dim() == 4  # for every sequence, and the first of them is farther than any key
        by_distance = torch.einsum("bnhd,brhd->bhnr" if each else "bnhd,rhd->bhnr", to_distances, rows)[..., each:]
        bias = shifted(by_distance, k.shape[2]) * self.scale
        p = self.dropout if self.training else 0.0
        return self.eager_scores(to_keys.transpose(1, 2), k, v, mask, bias, p)


def shifted(by_distance: Tensor, keys: int) -> Tensor:
    """Scores (b, h, n, r), the farthest distance first, to (b, h, n, t): row i moves n - 1 - i columns to the left.

    A column of zeros before it makes every row one longer, so that reading it in rows of r + 1 x n moves each by one
    more than the row below (appendix B of the paper).
    """
    b, h, n, r = by_distance.shape
    moved = F.pad(by_distance, (1, 0)).view(b, h, r + 1, n)[:, :, 1:]
    return moved.reshape(b, h, n, r)[..., :keys]


class DistanceAttention(Projections):
    """Self-attention that adds scores by distance, and keeps keys and values or its own inputs."""

    relative_bias: None = None
    query_bias: nn.Parameter | None

    def __init__(
        self, attention: Attention, position: TransformerXLPosition, d_model: int, options: Options, *,
        mask: AdditiveMask | None, distances: Distances,
    ) -> None:
        super().__init__(attention, d_model, options)
        self.reach = None if attention.cached == "all" else attention.window or attention.chunk
        self.mask, self.distances, self.keeps_inputs = mask, distances, position.cached == "inputs"
        sinks = attention.heads if attention.sinks else None
        self.core = DistanceCore(attention.scale or attention.head_dim**-0.5, options, None, sinks)
        self.position = nn.Linear(d_model, attention.heads * attention.head_dim, bias=False)
        own = query_bias(attention.heads, attention.head_dim) if position.per_layer else None
        self.register_parameter("query_bias", own)
        self.segments = nn.Parameter(torch.zeros(3, attention.heads, attention.head_dim)) if position.segments else None

    def forward(self, x: Tensor, biases: Tensor | None, past: int, cache: LayerCache | None) -> Tensor:
        """(b, n, d) to (b, n, d); ``biases`` are u and v where they are the stack's, (2, h, hd)."""
        biases = biases if self.query_bias is None else self.query_bias
        assert biases is not None
        n, source = x.shape[1], x
        if cache is not None and self.keeps_inputs:
            (source,) = cache.latents.extend(x, reach=self.reach)
        q = self.queries(x)
        k, v = (y.transpose(1, 2) for y in self.keys_and_values(source))
        if cache is not None and not self.keeps_inputs:
            k, v = cache.attention.extend(k, v, self.reach)
        t = k.shape[2]
        found = self.distances(t)
        found = self.position(found.expand(len(x), -1, -1) if self.distances.more else found)
        rows = found.unflatten(-1, (self.heads, -1))
        mask = None if self.mask is None else self.mask(past, n, t)
        return self.finish(x, self.core(q, k, v, mask, rows, biases), q)


def query_bias(heads: int, head_dim: int) -> nn.Parameter:
    """u and v, (2, heads, head_dim)."""
    return nn.Parameter(torch.randn(2, heads, head_dim) * 0.02)
