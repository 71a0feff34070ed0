"""Attention in the reference that is computed block by block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.beside import Collisions
from txcalc.spec.layers import Attention


def core_of(attention: Attention, scale: float, dropout: float) -> nn.Module | None:
    """The core that computes an attention's contexts in place of a softmax over all keys, or None."""
    if attention.similarity == "collisions":
        return Collisions()
    blocks = attention.blocks
    return OverlappingBlocks(blocks.length, scale, dropout) if blocks and blocks.reach == "chunks" else None


class OverlappingBlocks(nn.Module):
    """Longformer's sliding chunks (arXiv 2004.05150, appendix A): each position sees ``length`` others to either side.

    Scores are those of chunks of two blocks, which overlap in one; a band of their diagonals goes into the softmax, and
    its probabilities are spread over the keys of three blocks.
    """

    def __init__(self, length: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.length, self.scale, self.dropout = length, scale, dropout

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, is_causal: bool
    ) -> Tensor:
        """Q, K and V (b, h, n, hd) to (b, h, n, hd), of a multiple of two blocks."""
        (b, h, n, hd), w = q.shape, self.length
        q, k, v = (x.reshape(b * h, n, -1) for x in (q, k, v))
        q = q * self.scale
        scores = q.unfold(1, 2 * w, w).transpose(2, 3) @ k.unfold(1, 2 * w, w)
        weights = F.softmax(self._band(scores) + self._hidden(n, q), dim=-1)
        weights = F.dropout(weights, self.dropout if self.training else 0.0)
        spread = F.pad(weights, (0, w + 1)).flatten(2)[..., :-w].unflatten(2, (w, 3 * w + 1))[..., :-1]
        values = F.pad(v, (0, 0, w, w)).unfold(1, 3 * w, w).transpose(2, 3)
        return (spread @ values).view(b, h, n, hd)

    def _band(self, scores: Tensor) -> Tensor:
        """(bh, chunks, 2w, 2w) to (bh, chunks + 1, w, 2w + 1): by block, position and distance from -w to w."""
        w = self.length
        rows = F.pad(scores, (0, 0, 0, 1)).flatten(2).unflatten(2, (2 * w, 2 * w + 1))  # diagonals are columns
        behind = torch.cat((F.pad(rows[:, :1, : w - 1, w + 1 :], (0, 0, 1, 0)), rows[:, :, w - 1 : -1, w + 1 :]), 1)
        ahead = torch.cat((rows[:, :, :w, : w + 1], rows[:, -1:, w:, : w + 1]), 1)
        return torch.cat((behind, ahead), -1)

    def _hidden(self, n: int, like: Tensor) -> Tensor:
        """Minus infinity where a distance leads out of the sequence."""
        w = self.length
        key = torch.arange(n, device=like.device)[:, None] + torch.arange(-w, w + 1, device=like.device)
        hidden = (key < 0) | (key >= n)
        return torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, -math.inf).unflatten(0, (-1, w))
