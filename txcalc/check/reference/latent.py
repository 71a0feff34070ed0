"""Multi-head latent attention in the reference (DeepSeek-V2, arXiv 2405.04434 section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from txcalc.check.reference.attention import AdditiveMask, AttentionCore, LayerCache, Rotary
from txcalc.check.reference.layers import Normalization, Options, dropout_or_nothing
from txcalc.spec.layers import MLA, Norm


class LatentAttention(nn.Module):
    """Keys and values come from one latent per token, which alone is cached, next to a rotary key for all heads.

    The latent is expanded for every cached token; folding ``kv_up`` into the query, as kernels for decoding do,
    computes the same and is another program.
    """

    q: nn.Linear | None
    relative_bias: None = None

    def __init__(
        self, attention: MLA, d_model: int, options: Options, *, mask: AdditiveMask | None, plain_causal: bool,
        rotary: Rotary | None,
    ) -> None:
        super().__init__()
        self.heads, nope, rope, value = attention.heads, attention.nope_dim, attention.rope_dim, attention.value_dim
        self.sizes, rank, bias = (nope, rope, value), attention.q_rank, attention.bias
        self.latent = attention.kv_rank
        norm = Norm(kind="rmsnorm", eps=1e-6)
        if rank is None:
            self.q = nn.Linear(d_model, self.heads * (nope + rope), bias=False)
        else:
            self.q = None
            self.q_down = nn.Linear(d_model, rank, bias=bias)
            self.q_norm = Normalization(norm, rank)
            self.q_up = nn.Linear(rank, self.heads * (nope + rope), bias=False)
        self.kv_down = nn.Linear(d_model, self.latent + rope, bias=bias)
        self.kv_norm = Normalization(norm, self.latent)
        self.kv_up = nn.Linear(self.latent, self.heads * (nope + value), bias=False)
        self.core = AttentionCore(attention.scale or (nope + rope) ** -0.5, options, unequal=True)
        self.o = nn.Linear(self.heads * value, d_model, bias=bias)
        self.dropout = dropout_or_nothing(options.dropout)
        self.mask, self.plain_causal, self.rotary = mask, plain_causal, rotary

    def forward(self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None) -> Tensor:
        """(b, n, d) to (b, n, d); ``bias`` is the stack's relative bias, (h, n, past + n)."""
        n, (nope, rope, value) = x.shape[1], self.sizes
        q = self.q_up(self.q_norm(self.q_down(x))) if self.q is None else self.q(x)
        q_nope, q_rope = q.unflatten(-1, (self.heads, -1)).split((nope, rope), dim=-1)
        latent, k_rope = self.kv_down(x).split((self.latent, rope), dim=-1)
        latent, k_rope = self.kv_norm(latent), k_rope.unsqueeze(2)
        if self.rotary is not None:
            q_rope, k_rope = self.rotary(q_rope, past), self.rotary(k_rope, past)
        if cache is not None:
            latent, k_rope = cache.latents.extend(latent, k_rope)
        k_nope, v = self.kv_up(latent).unflatten(-1, (self.heads, -1)).split((nope, value), dim=-1)
        q = torch.cat((q_nope, q_rope), dim=-1).transpose(1, 2)
        k = torch.cat((k_nope, k_rope.expand(-1, -1, self.heads, -1)), dim=-1).transpose(1, 2)
        mask = None if self.mask is None else self.mask(past, n, k.shape[2])
        context = self.core(q, k, v.transpose(1, 2).contiguous(), mask, bias, self.plain_causal and past == 0)
        out: Tensor = self.dropout(self.o(context.transpose(1, 2).flatten(2)))
        return out
