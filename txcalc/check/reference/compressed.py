"""Attention over a window and over sums of the positions before it in the reference (DeepSeek-V4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.attention import AdditiveMask, AttentionCore, Rotary
from txcalc.check.reference.cache import LayerCache, Sums
from txcalc.check.reference.layers import Normalization, Options, dropout_or_nothing, linear
from txcalc.spec.compression import Compressed, Compression, Indexer
from txcalc.spec.layers import Norm

NORM = Norm(kind="rmsnorm", bias=False, eps=1e-6)


class Sum(nn.Module):
    """Sums of ``rate`` positions each, column by column by a softmax of gates, with those of the sum before or not."""

    def __init__(self, plan: Compression, d_model: int, width: int, rotary: Rotary | None) -> None:
        super().__init__()
        self.rate, self.overlaps, self.width, self.rotary = plan.rate, plan.overlaps, width, rotary
        columns = width * (1 + plan.overlaps)
        self.kv, self.gate = (nn.Linear(d_model, columns, bias=False) for _ in range(2))
        self.position_bias = nn.Parameter(torch.zeros(plan.rate, columns))
        self.norm = Normalization(NORM, width)

    def all_sums(self, x: Tensor, past: int, cache: Sums | None) -> Tensor:
        """(b, n, d) to all sums so far, (b, made, width)."""
        kv, gate, first = self.kv(x), self.gate(x), past // self.rate
        if cache is not None and cache.waiting:
            kv, gate = (torch.cat(pair, dim=1) for pair in zip(cache.waiting, (kv, gate), strict=True))
        new = kv.shape[1] // self.rate
        whole = new * self.rate
        if cache is not None:
            cache.waiting = kv[:, whole:].clone(), gate[:, whole:].clone()
        kv, gate = (y[:, :whole].unflatten(1, (new, self.rate)) for y in (kv, gate))
        made = self._summed(kv, gate, first, cache) if new else x.new_zeros(len(x), 0, self.width)
        if cache is not None:
            made = cache.sums = made if cache.sums is None else torch.cat((cache.sums, made), dim=1)
        return made

    def _summed(self, kv: Tensor, gate: Tensor, first: int, cache: Sums | None) -> Tensor:
        gate = gate + self.position_bias
        if self.overlaps:
            before = cache.overlap if cache is not None and cache.overlap else (
                torch.zeros_like(kv[:, 0, :, : self.width]), torch.full_like(gate[:, 0, :, : self.width], -math.inf))
            if cache is not None:
                cache.overlap = tuple(y[:, -1, :, : self.width].clone() for y in (kv, gate))
            kv, gate = (torch.cat((torch.cat((old.unsqueeze(1), y[:, :-1, :, : self.width]), dim=1),
                                   y[..., self.width :]), dim=2) for y, old in zip((kv, gate), before, strict=True))
        y = self.norm((kv * F.softmax(gate, dim=2)).sum(2))
        if self.rotary is None:
            return y
        turned: Tensor = self.rotary(y.unsqueeze(2), first * self.rate, self.rate)
        return turned.squeeze(2)


class Compressor(Sum):
    """Sums that are keys and values."""

    def forward(self, x: Tensor, past: int, cache: Sums | None) -> Tensor:
        """(b, n, d) to (b, made, width)."""
        return self.all_sums(x, past, cache)


class SumIndexer(Sum):
    """An indexer whose heads score sums of their own; a query sees the best. Choosing has no gradient."""

    def __init__(self, plan: Compression, own: Indexer, d_model: int, rank: int, rotary: Rotary | None) -> None:
        super().__init__(plan, d_model, own.head_dim, rotary)
        self.heads, self.chosen = own.heads, plan.index_topk or 0
        self.q = nn.Linear(rank, own.heads * own.head_dim, bias=False)
        self.weights = nn.Linear(d_model, own.heads, bias=False)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor, latent: Tensor, hidden: Tensor, past: int, cache: Sums | None) -> Tensor:
        """Numbers that are added to the scores of sums, (b, n, made)."""
        sums, q = self.all_sums(x, past, cache), self.q(latent).unflatten(-1, (self.heads, -1))
        q = q if self.rotary is None else self.rotary(q, past)
        scores = torch.relu(q @ sums.transpose(1, 2).unsqueeze(1))  # (b, n, heads, made)
        mixed = (scores * self.weights(x).unsqueeze(-1)).sum(2) + hidden
        best = mixed.topk(min(self.chosen, mixed.shape[-1]), dim=-1).indices
        return torch.full_like(mixed, -math.inf).scatter(-1, best, 0.0) + hidden


class CompressedAttention(nn.Module):
    """Attention in which one vector of each position, and of each sum, is the key and the value of all heads."""

    relative_bias: None = None

    def __init__(
        self, plan: Compressed, d_model: int, options: Options, mask: AdditiveMask | None, rotary: Rotary | None,
        index_rotary: Rotary | None,
    ) -> None:
        super().__init__()
        self.heads, size, own = plan.heads, plan.head_dim, plan.compression
        self.q_down, self.q_norm = nn.Linear(d_model, plan.q_rank, bias=False), Normalization(NORM, plan.q_rank)
        self.q_up = nn.Linear(plan.q_rank, self.heads * size, bias=False)
        self.q_head_norm = Normalization(NORM.replaced(scale=False), size)
        self.kv, self.kv_norm = nn.Linear(d_model, size, bias=False), Normalization(NORM, size)
        self.rate = None if own is None else own.rate
        self.compressor = None if own is None else Compressor(own, d_model, size, rotary)
        self.indexer = None if own is None or own.indexer is None else SumIndexer(
            own, own.indexer, d_model, plan.q_rank, index_rotary)
        self.core = AttentionCore(size**-0.5, options, sinks=self.heads)
        self.o_down = linear(self.heads * size, plan.o_groups * plan.o_rank, bias=False, groups=plan.o_groups)
        self.o = nn.Linear(plan.o_groups * plan.o_rank, d_model, bias=False)
        self.mask, self.rotary, self.reach = mask, rotary, plan.window
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        n = x.shape[1]
        latent = self.q_norm(self.q_down(x))
        q = self.q_head_norm(self.q_up(latent).unflatten(-1, (self.heads, -1)))
        k = self.kv_norm(self.kv(x)).unsqueeze(2)
        if self.rotary is not None:
            q, k = self.rotary(q, past), self.rotary(k, past)
        k = k.squeeze(2)
        if cache is not None:
            (k,) = cache.latents.extend(k, reach=self.reach)
        assert self.mask is not None
        mask = self.mask(past, n, k.shape[1])
        if self.compressor is not None and self.rate is not None:
            seen = _hidden(past, n, (past + n) // self.rate, self.rate, x)
            if self.indexer is not None:
                seen = self.indexer(x, latent, seen, past, cache and cache.index_sums)
            k = torch.cat((k, self.compressor(x, past, cache and cache.sums)), dim=1)
            mask = torch.cat((mask.expand(*seen.shape[:-1], -1), seen), dim=-1)
            mask = mask if mask.dim() == 2 else mask.unsqueeze(1)
        k = k.unsqueeze(1)
        context: Tensor = self.core(q.transpose(1, 2), k, k, mask, None, False)
        context = context.transpose(1, 2)
        context = context if self.rotary is None else self.rotary(context, past, back=True)
        return self.dropout(self.o(self.o_down(context.flatten(2))))


def _hidden(past: int, n: int, made: int, rate: int, x: Tensor) -> Tensor:
    """Minus infinity at the sums (n, made) that a query cannot see yet."""
    at = torch.arange(past + 1, past + n + 1, device=x.device).unsqueeze(1) // rate
    hidden = torch.arange(made, device=x.device) >= at
    return x.new_zeros(n, made).masked_fill(hidden, -math.inf)
