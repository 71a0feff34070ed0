"""Attention in the reference of blocks with the keys of one or three, and with those that all see."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.attention import RelativeBias, SelfAttention
from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.layers import Normalization, Options
from txcalc.spec.inputs import RelativePosition
from txcalc.spec.layers import Attention, Norm
from txcalc.spec.projections import Blocks


def by_block(x: Tensor, length: int, sides: int) -> Tensor:
    """(..., n, d) to (..., blocks, length * (1 + 2 * sides), d): each block with those on either side, or zeros."""
    n = x.shape[-2]
    x = F.pad(x, (0, 0, sides * length, -n % length + sides * length))
    return x.unfold(-2, length * (1 + 2 * sides), length).transpose(-1, -2)


class BlockBias(RelativeBias):
    """T5's bias of a block's queries and the keys of three, and from a second table of blocks' sums."""

    def __init__(self, position: RelativePosition, heads: int, blocks: Blocks) -> None:
        super().__init__(position, heads, causal=False)
        self.blocks = blocks
        self.sums = None if blocks.summaries is None else RelativeBias(position, heads, causal=False)

    def look_up(self, past: int, n: int) -> Tensor:
        """(heads, blocks, length, 3 * length + sums); hidden are keys that are too far, or none."""
        w, size = self.blocks.length, self.blocks.summaries
        whole = -(-n // w) * w
        at = torch.arange(w, 2 * w, device=self.weight.device)
        relative = torch.arange(3 * w, device=at.device) - at[:, None]
        place = torch.arange(0, whole, w, device=at.device)[:, None, None] + relative + at[:, None] - w
        hidden = (relative.abs() >= w) | (place < 0) | (place >= n)
        mask = torch.zeros_like(hidden, dtype=self.weight.dtype).masked_fill(hidden, -math.inf)
        bias = self(self._bucket(relative)).permute(2, 0, 1).unsqueeze(1) + mask
        if self.sums is None or size is None:
            return bias
        own = (torch.arange(n, device=at.device) // size).clamp(max=n // size - 1)
        sums = self.sums(self.sums._bucket(torch.arange(n // size, device=at.device) - own[:, None])).permute(2, 0, 1)
        return torch.cat((bias, F.pad(sums, (0, 0, 0, whole - n)).unflatten(1, (-1, w))), -1)


class BlockCore(nn.Module):
    """Softmax over the keys of one or three blocks and those that all see; global tokens meet all."""

    def __init__(self, blocks: Blocks, scale: float, dropout: float) -> None:
        super().__init__()
        self.blocks, self.scale, self.dropout = blocks, scale, nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Q (b, h, g + n, hd), K and V of as many positions, and sums behind them, to contexts of queries."""
        plan, g, n = self.blocks, self.blocks.global_tokens, q.shape[2] - self.blocks.global_tokens
        q = q * self.scale
        blocks = by_block(q[:, :, g:], plan.length, 0)
        shared = (torch.cat((x[:, :, :g], x[:, :, g + n :]), 2).unsqueeze(2).expand(-1, -1, blocks.shape[2], -1, -1)
                  for x in (k, v))
        keys, values = (torch.cat((by_block(x[:, :, g : g + n], plan.length, int(plan.reach == "three")), all_see), 3)
                        for x, all_see in zip((k, v), shared, strict=True))
        scores = blocks @ keys.transpose(-1, -2)
        weights = self.dropout(F.softmax(scores if bias is None else scores + bias, dim=-1))
        y = (weights @ values).flatten(2, 3)[:, :, :n]
        return y if not g else torch.cat((
            self.dropout(F.softmax(q[:, :, :g] @ k.transpose(-1, -2), dim=-1)) @ v, y), 2)


class Sums(nn.Module):
    """Sums of so many positions each, the last with the rest, normed."""

    def __init__(self, length: int, d_model: int) -> None:
        super().__init__()
        self.length, self.norm = length, Normalization(Norm(kind="rmsnorm"), d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, n // length, d)."""
        n = x.shape[1]
        owner = (torch.arange(n, device=x.device) // self.length).clamp(max=max(n // self.length - 1, 0))
        owners = (owner == torch.arange(n // self.length, device=x.device)[:, None]).to(x).expand(len(x), -1, -1)
        return self.norm(owners @ x)


class BlockAttention(SelfAttention):
    """Blocks of queries meet the keys of their own block or of three, sums of positions, and global tokens."""

    def __init__(self, attention: Attention, d_model: int, options: Options, **how: Any) -> None:
        super().__init__(attention, d_model, options, **how)
        assert attention.blocks is not None
        self.blocks, size = attention.blocks, attention.blocks.summaries
        self.core = BlockCore(self.blocks, attention.scale or attention.head_dim**-0.5, options.dropout)
        self.summaries = None if size is None else Sums(size, d_model)

    def forward(self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None, *values: Tensor) -> Tensor:
        """(b, n, d) to (b, n, d), global tokens first; ``bias``: (h, blocks, length, keys)."""
        g, n, shift = self.blocks.global_tokens, x.shape[1], self.blocks.length // 2 if self.blocks.staggered else 0
        if shift:
            x = torch.cat((x[:, :g], F.pad(x[:, g:], (0, 0, shift, shift))), 1)
        source = x if self.summaries is None else torch.cat((x, self.summaries(x)), 1)
        q = self._placed(self.queries(x), past, rotated=True)
        k, v = (self._placed(y, past, rotated=not i) for i, y in enumerate(self.keys_and_values(source)))
        y = self.finish(x, self.core(q, k, v, bias), q)
        return torch.cat((y[:, :g], y[:, g + shift : n + shift]), 1) if shift else y
