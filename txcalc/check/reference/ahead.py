"""Streams beside the positions in the reference, each of which predicts one token further ahead (ProphetNet)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.attention import Projections
from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.layers import Options
from txcalc.spec.layers import Attention


class Streams(nn.Module):
    """Initial hidden states of the streams: a learned vector each, and the position that is predicted."""

    def __init__(self, streams: int, d_model: int) -> None:
        super().__init__()
        self.streams = nn.Parameter(torch.randn(streams, d_model) * 0.02)

    def forward(self, x: Tensor, past: int, places: nn.Embedding | None) -> Tensor:
        """Positions (b, n, d) to (b, (1 + streams) * n, d)."""
        n, first = x.shape[1], self.streams.unsqueeze(1)
        if places is not None:
            at = torch.arange(past + 1, past + n + 1, device=x.device)
            first = first + places(at.clamp(max=places.num_embeddings - 1))
        made = first.expand(-1, n, -1) if places is None else first
        return torch.cat((x, made.flatten(0, 1).expand(len(x), -1, -1)), 1)


class AheadCore(nn.Module):
    """Scores with biases by distance, softmax and contexts; ``ahead`` does the same for the streams."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        """Q (b, h, n, hd), K and V (b, h, t, hd), what is added to scores (b, h, n, t)."""
        weights = F.softmax(q @ k.transpose(-1, -2) + bias + mask, dim=-1)
        return torch.einsum("bhqk,bhkd->bhqd", self.dropout(weights), v)


class AheadAttention(Projections):
    """Positions attend to those before them, streams to those before them and to themselves."""

    relative_bias: None = None
    bucket: Tensor

    def __init__(self, attention: Attention, d_model: int, options: Options) -> None:
        super().__init__(attention, d_model, options)
        assert attention.ahead is not None
        self.plan, self.scale = attention.ahead, attention.scale or attention.head_dim**-0.5
        self.distances = nn.Linear(d_model, self.plan.buckets * self.heads)
        self.core = AheadCore(options.dropout)
        self.core.ahead = AheadCore(options.dropout)
        at = torch.arange(options.length)
        self.register_buffer("bucket", (at[:, None] - at).clamp(0, self.plan.buckets - 1), persistent=False)

    def forward(self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None) -> Tensor:
        """(b, (1 + streams) * n, d) to the same."""
        g = self.plan.streams
        n = x.shape[1] // (1 + g)
        q, (k, v) = self.queries(x) * self.scale, self.keys_and_values(x)
        biases = self.distances(x).unflatten(-1, (self.plan.buckets, self.heads)).permute(0, 3, 1, 2)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        seen = k[:, :, :n].contiguous(), v[:, :, :n].contiguous()
        if cache is not None:
            seen = cache.attention.extend(*seen, None)
        keys = seen[0].shape[2]
        bucket = self.bucket[past : past + n, :keys]
        hidden = torch.full((n, keys), -math.inf, dtype=x.dtype, device=x.device).triu(past + 1)
        y = self.core(q[:, :, :n].contiguous(), *seen, self._by_distance(biases[:, :, :n], bucket), hidden)
        rows = [z[:, :, n:].unflatten(2, (g, n)).transpose(1, 2).flatten(0, 1) for z in (q, k, v, biases)]
        k, v = (torch.cat((old.unsqueeze(1).expand(-1, g, -1, -1, -1).flatten(0, 1), new), 2)
                for old, new in zip(seen, rows[1:3], strict=True))
        itself = torch.full((n, n), -math.inf, dtype=x.dtype, device=x.device).fill_diagonal_(0.0)
        bucket = torch.cat((bucket, torch.zeros_like(bucket[:, :1]).expand(-1, n)), 1)
        ahead: Tensor = self.core.get_submodule("ahead")(rows[0].contiguous(), k, v, self._by_distance(rows[3], bucket),
                                torch.cat((hidden, itself), 1))
        ahead = ahead.unflatten(0, (-1, g)).transpose(1, 2).flatten(2, 3)
        return self.finish(x, torch.cat((y, ahead), 2), q)

    def _by_distance(self, biases: Tensor, bucket: Tensor) -> Tensor:
        return biases.gather(-1, bucket.expand(*biases.shape[:2], -1, -1))
