"""Disentangled attention in the reference (DeBERTa, arXiv 2006.03654 section 3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.attention import AdditiveMask, AttentionCore, Projections
from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.layers import Options
from txcalc.spec.inputs import DisentangledPosition
from txcalc.spec.layers import Attention


class DisentangledCore(AttentionCore):
    """Scores of content with content, of queries with positions, and of positions with keys."""

    def forward(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, positions: tuple[Tensor | None, Tensor | None],
        distance: Tensor,
    ) -> Tensor:
        """Q, K, V (b, h, n, hd) and projected positions (h, rows, hd) to (b, h, n, hd).

        ``distance`` (n, n) says how far a query stands behind a key, in rows; positions are keys, then queries.
        """
        bias, (b, h, n, _) = None, q.shape
        for side, content, rows in zip((1, -1), (q, k), positions, strict=True):
            if rows is not None:
                found = content @ rows.transpose(-1, -2)
                half = rows.shape[-2] // 2
                index = (side * distance + half).clamp(0, 2 * half - 1)
                found = torch.gather(found, -1, index.expand(b, h, n, n)) * self.scale
                found = found if side == 1 else found.transpose(-1, -2)
                bias = found if bias is None else bias + found
        return self.eager_scores(q, k, v, mask, bias, self.dropout if self.training else 0.0)


class DisentangledAttention(Projections):
    """Self-attention that reads a table of relative positions, projected by its own q and k or by layers of theirs."""

    relative_bias: None = None

    def __init__(
        self, attention: Attention, position: DisentangledPosition, d_model: int, options: Options,
        mask: AdditiveMask | None, context: int,
    ) -> None:
        super().__init__(attention, d_model, options)
        self.position, self.mask, self.context = position, mask, context
        scale = 1 / math.sqrt(attention.head_dim * (1 + len(position.scores)))
        sinks = attention.heads if attention.sinks else None
        self.core = DisentangledCore(attention.scale or scale, options, attention.softcap, sinks)
        self.position_k = self.position_q = None
        if not position.shared_projections:
            width = attention.heads * attention.head_dim
            if "c2p" in position.scores:
                self.position_k = nn.Linear(d_model, width, bias=position.key_bias)
            if "p2c" in position.scores:
                self.position_q = nn.Linear(d_model, width)

    def forward(self, x: Tensor, table: Tensor | None, past: int, cache: LayerCache | None) -> Tensor:
        """(b, n, d) and the table (2 * buckets, d) to (b, n, d)."""
        assert table is not None
        n, position = x.shape[1], self.position
        q, (k, v) = self.queries(x), self.keys_and_values(x)
        q, k, v = q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous(), v.transpose(1, 2)
        if position.clipped and n < position.buckets:
            table = table[position.buckets - n : position.buckets + n]
        keys = self._rows(table, self.position_k or self.k, "c2p")
        queries = self._rows(table, self.position_q or self.q, "p2c")
        mask = None if self.mask is None else self.mask(0, n, n)
        context = self.core(q, k, v, mask, (keys, queries), self._distance(n, x.device))
        return self.finish(x, context, q)

    def _rows(self, table: Tensor, projection: nn.Module | None, score: str) -> Tensor | None:
        if score not in self.position.scores or projection is None:
            return None
        shared = self.position.shared_projections
        assert isinstance(projection, nn.Linear), "disentangled attention has no groups of columns"
        rows = F.linear(table, projection.weight, projection.bias) if shared else projection(table)
        return rows.unflatten(-1, (self.heads, -1)).transpose(0, 1)

    def _distance(self, n: int, device: torch.device) -> Tensor:
        """Query position less key position; far ones share buckets, logarithmically, unless all have a row."""
        at = torch.arange(n, device=device)
        distance = at[:, None] - at[None, :]
        if self.position.clipped:
            return distance
        middle = max(self.position.buckets // 2, 1)
        reach = max(self.context, middle + 2)
        far = torch.where(distance.abs() < middle, max(middle - 1, 1), distance.abs()) / middle
        log = torch.ceil(torch.log(far) / math.log((reach - 1) / middle) * (middle - 1)) + middle
        return torch.where(distance.abs() <= middle, distance, (log * distance.sign()).long())
