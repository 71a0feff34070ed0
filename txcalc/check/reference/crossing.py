"""Attention to what another stack puts out, in the reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from txcalc.check.reference.attention import Projections
from txcalc.check.reference.cache import KeyValues
from txcalc.check.reference.layers import Normalization, Options
from txcalc.spec.layers import Attention


class CrossAttention(Projections):
    """Attention of a sequence to an encoder's output; no position and no mask applies."""

    def __init__(self, attention: Attention, d_model: int, options: Options, source: int | None = None) -> None:
        super().__init__(attention, d_model, options, source)
        normed, self.joined = attention.memory_norm, attention.joined
        wide = d_model if source is None else source
        self.memory_norm = None if normed is None else Normalization(normed, wide)
        own = {"q_first": d_model, "k_first": wide, "v_first": wide} if attention.twice else {}
        self.first = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name, width in own.items()})

    def forward(self, x: Tensor, memory: Tensor | None, cache: KeyValues | None) -> Tensor:
        """X (b, n, d) to (b, n, d), reading a memory (b, s, d), or the keys cached when it was first read."""
        read = self.first["q_first"](x) if self.first else x
        q = self.queries(read).transpose(1, 2)
        if memory is None:
            if cache is None or cache.key is None or cache.value is None:
                raise ValueError("cross-attention needs a source, or a cache that was filled from one")
            return self.output(x, q, cache.key, cache.value)
        if self.memory_norm is not None:
            memory = self.memory_norm(memory)
        if self.joined:
            memory = torch.cat((memory, x), dim=1)
        of = [self.first[name](memory) for name in ("k_first", "v_first")] if self.first else [memory]
        k, v = (y.transpose(1, 2) for y in self.keys_and_values(*of))
        if cache is not None:
            cache.key, cache.value = k, v
        return self.output(x, q, k, v)
