"""Transformers whose weights several layers use (Zamba), in the reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.layers import Normalization, Options, dense
from txcalc.spec.layers import BlockNorm
from txcalc.spec.model import SharedBlock


class Extended(nn.Linear):
    """A linear layer, to whose output the layer that uses it adds what its own adapter has made."""

    extra: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) to (..., width)."""
        y = F.linear(x, self.weight, self.bias)
        return y if self.extra is None else y + self.extra


class SharedTransformer(nn.Module):
    """Attention over hidden states beside the embeddings, and a feed-forward, without residuals."""

    embedded: Tensor

    def __init__(self, plan: SharedBlock, norm: BlockNorm, d_model: int, options: Options, attention: Any) -> None:
        super().__init__()
        own = plan.attention
        self.attention_norm, self.attention = Normalization(norm, 2 * d_model), attention
        self.attention.shared = None  # no other layer reads its keys
        self.attention.o = nn.Linear(own.heads * own.head_dim, d_model, bias=own.bias.o)
        self.feed_forward_norm = Normalization(norm, d_model)
        self.feed_forward = dense(plan.feed_forward, d_model, options)
        for part, names in ((self.attention, "qkv"), (self.feed_forward, ("gate", "up"))):
            for name in names:
                old = getattr(part, name)
                if old is not None:
                    setattr(part, name, Extended(old.in_features, old.out_features, bias=old.bias is not None))

    def forward(
        self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None, adapters: nn.ModuleDict
    ) -> Tensor:
        """Hidden states (b, n, d) to (b, n, d)."""
        joined = self.attention_norm(torch.cat((x, self.embedded), dim=-1))
        for name in "qkv":
            getattr(self.attention, name).extra = adapters[name](joined) if name in adapters else None
        y = self.feed_forward_norm(self.attention(joined, bias, past, cache))
        made = adapters["gate_up"](y) if "gate_up" in adapters else None
        gated = self.feed_forward.gate is not None
        parts = (None, None) if made is None else made.chunk(2, dim=-1) if gated else (None, made)
        for name, part in zip(("gate", "up"), parts, strict=True):
            if getattr(self.feed_forward, name) is not None:
                getattr(self.feed_forward, name).extra = part
        out: Tensor = self.feed_forward(y)
        return out


class Adapter(nn.Module):
    """A low-rank product of a layer's own."""

    def __init__(self, width: int, rank: int, made: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, made, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., made)."""
        out: Tensor = self.up(self.down(x))
        return out


class SharedUse(nn.Module):
    """The parts that are a layer's own where it uses a shared transformer: adapters and a projection."""

    def __init__(self, plan: SharedBlock, d_model: int, shared: SharedTransformer) -> None:
        super().__init__()
        own, feed = plan.attention, plan.feed_forward
        widths = {"q": own.heads, "k": own.kv_heads, "v": own.kv_heads} if plan.attention_adapters else {}
        made = {name: (2 * d_model, heads * own.head_dim) for name, heads in widths.items()}
        made |= {} if plan.rank is None else {"gate_up": (d_model, (1 + feed.gated) * feed.d_ff)}
        self.adapters = nn.ModuleDict({name: Adapter(read, plan.rank or 0, out) for name, (read, out) in made.items()})
        self.projection = nn.Linear(d_model, d_model, bias=False)
        self._shared = [shared]  # registered with the stack

    def forward(self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None) -> Tensor:
        """Hidden states (b, n, d) to (b, n, d)."""
        out: Tensor = self.projection(self._shared[0](x, bias, past, cache, self.adapters))
        return out
