"""Multi-head latent attention in the reference (DeepSeek-V2, arXiv 2405.04434 section 2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from txcalc.check.reference.attention import AdditiveMask, AttentionCore, Rotary
from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.layers import Normalization, Options, dropout_or_nothing
from txcalc.spec.compression import Indexer
from txcalc.spec.layers import MLA, Norm


@dataclass
class Chosen:
    """Minus infinity at the keys that the last indexer of a stack passed over, (b, 1, n, t); later layers share it."""

    mask: Tensor | None = None


Masks = tuple[Tensor | None, Tensor | None, bool]
"""A fixed mask, a computed one, and whether the fixed one is the plain causal one."""


class KeyIndexer(nn.Module):
    """Heads of their own score every key; a query attends to the best (DeepSeek-V3.2, arXiv 2512.02556 section 2.1).

    Choosing has no gradient: what trains an indexer is no part of the model's loss.
    """

    def __init__(self, plan: Indexer, d_model: int, q_rank: int, chosen: int, rotary: Rotary | None) -> None:
        super().__init__()
        self.heads, self.head_dim, self.chosen, self.rotary = plan.heads, plan.head_dim, chosen, rotary
        self.q = nn.Linear(q_rank, plan.heads * plan.head_dim, bias=False)
        self.k = nn.Linear(d_model, plan.head_dim, bias=False)
        self.k_norm = Normalization(Norm(kind="layernorm", eps=1e-6), plan.head_dim)
        self.weights = nn.Linear(d_model, plan.heads, bias=False)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(
        self, x: Tensor, latent: Tensor, mask: AdditiveMask | None, past: int, cache: LayerCache | None
    ) -> Tensor:
        """(b, n, d) and the query latent (b, n, r) to what is added to the scores, (b, 1, n, t)."""
        q, k = self.q(latent).unflatten(-1, (self.heads, -1)), self.k_norm(self.k(x)).unsqueeze(2)
        if self.rotary is not None:
            q, k = self.rotary(q, past), self.rotary(k, past)
        if cache is not None:
            (k,) = cache.index.extend(k)
        scores = torch.relu(q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * self.head_dim**-0.5)  # (b, heads, n, t)
        weights = self.weights(x) * self.heads**-0.5
        mixed = (weights.unsqueeze(2) @ scores.transpose(1, 2)).squeeze(2)
        t = mixed.shape[-1]
        if mask is not None:
            hidden = mask(past, x.shape[1], t).isneginf()
            mixed = mixed.masked_fill(hidden[0] if hidden.dim() > 2 else hidden, -math.inf)
        best = mixed.topk(min(self.chosen, t), dim=-1).indices
        return torch.full_like(mixed, -math.inf).scatter(-1, best, 0.0).unsqueeze(1)


class LatentAttention(nn.Module):
    """Keys and values come from one latent per token, which alone is cached, next to a rotary key for all heads.

    The latent is expanded for every cached token, or where ``absorbed`` each head's part of ``kv_up`` is applied to its
    query and to its context, which computes the same (section 2.1.2).
    """

    q: nn.Linear | None
    relative_bias: None = None

    def __init__(
        self, attention: MLA, d_model: int, options: Options, *, mask: AdditiveMask | None, plain_causal: bool,
        rotary: Rotary | None, chosen: Chosen,
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
            self.q_up = nn.Linear(rank * (1 + attention.joint), self.heads * (nope + rope), bias=False)
        self.chosen = None if attention.index_topk is None else chosen
        self.indexer = None
        if attention.indexer is not None and attention.index_topk is not None and rank is not None:
            self.indexer = KeyIndexer(attention.indexer, d_model, rank, attention.index_topk, rotary)
        self.kv_down = nn.Linear(d_model, self.latent + rope, bias=bias)
        self.kv_norm = Normalization(norm, self.latent)
        self.kv_up = nn.Linear(self.latent, self.heads * (nope + value), bias=False)
        self.rope_norm = Normalization(norm, rope) if attention.rope_norm else None
        sinks = self.heads if attention.sinks else None
        self.core = AttentionCore(attention.scale or (nope + rope) ** -0.5, options, sinks=sinks)
        self.gates = self.heads if attention.gate_over == "head" else self.heads * value
        self.joint, read = attention.joint, 2 * (rank or 0) if attention.joint else d_model
        self.gate = nn.Linear(read, self.gates, bias=False) if attention.output_gate else None
        self.reach = attention.window
        self.o = nn.Linear(self.heads * value, d_model, bias=bias)
        self.dropout = dropout_or_nothing(options.dropout)
        self.mask, self.plain_causal, self.rotary = mask, plain_causal, rotary
        self.attend = self.absorbed if options.absorbed else self.expanded

    def forward(self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None) -> Tensor:
        """(b, n, d) to (b, n, d); ``bias`` is the stack's relative bias, (h, n, past + n)."""
        n, (nope, rope, _) = x.shape[1], self.sizes
        if self.q is None:
            if self.joint:
                down = self.q_down(x)
                q_latent = self.q_norm(down)
                read = torch.cat((q_latent, down), dim=-1)
            else:  # what is not normed yet is nobody's local
                q_latent = read = self.q_norm(self.q_down(x))
            q = self.q_up(read)
            if self.indexer is not None and self.chosen is not None:
                self.chosen.mask = self.indexer(x, q_latent, self.mask, past, cache)
        else:
            q, read = self.q(x), x
        q_nope, q_rope = q.unflatten(-1, (self.heads, -1)).split((nope, rope), dim=-1)
        latent, k_rope = self.kv_down(x).split((self.latent, rope), dim=-1)
        latent, k_rope = self.kv_norm(latent), k_rope if self.rope_norm is None else self.rope_norm(k_rope)
        k_rope = k_rope.unsqueeze(2)
        if self.rotary is not None:
            q_rope, k_rope = self.rotary(q_rope, past), self.rotary(k_rope, past)
        if cache is not None:
            latent, k_rope = cache.latents.extend(latent, k_rope, reach=self.reach)
        mask = None if self.mask is None else self.mask(past, n, latent.shape[1])
        mask = mask if mask is None or cache is None else cache.hides(mask)
        if self.chosen is not None:
            assert self.chosen.mask is not None
            bias = self.chosen.mask if bias is None else bias + self.chosen.mask
        masks = mask, bias, self.plain_causal and past == 0 and (cache is None or cache.padding is None)
        context = self.attend(q_nope, q_rope, latent, k_rope, masks)
        if self.gate is not None:
            gate = torch.sigmoid(self.gate(read if self.joint else x)).unsqueeze(-1)
            context = (context.unflatten(-1, (self.gates, -1)) * gate).flatten(2)
        return self.dropout(self.o(context))

    def expanded(self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, masks: Masks) -> Tensor:
        """Contexts (b, n, h * value) of queries (b, n, h, nope) and (b, n, h, rope)."""
        nope, _, value = self.sizes
        k_nope, v = self.kv_up(latent).unflatten(-1, (self.heads, -1)).split((nope, value), dim=-1)
        q = torch.cat((q_nope, q_rope), dim=-1).transpose(1, 2)
        k = torch.cat((k_nope, k_rope.expand(-1, -1, self.heads, -1)), dim=-1).transpose(1, 2)
        context: Tensor = self.core(q, k, v.transpose(1, 2).contiguous(), *masks)
        return context.transpose(1, 2).flatten(2)

    def absorbed(self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, masks: Masks) -> Tensor:
        """The same, with one key for all heads, whose first columns are the values, too."""
        (b, n), (nope, _, value) = q_nope.shape[:2], self.sizes
        up = self.kv_up.weight.unflatten(0, (self.heads, -1))  # (h, nope + value, r)
        to_keys, to_values = up.split((nope, value), dim=1)
        q = (q_nope.flatten(0, 1).transpose(0, 1) @ to_keys).unflatten(1, (b, n)).transpose(0, 1)  # (b, h, n, r)
        q = torch.cat((q, q_rope.transpose(1, 2)), dim=-1)
        k = torch.cat((latent, k_rope.squeeze(2)), dim=-1).unsqueeze(1)
        context: Tensor = self.core(q, k, k[..., : self.latent], *masks).transpose(0, 1).flatten(1, 2)  # (h, bn, r)
        return (context @ to_values.transpose(1, 2)).unflatten(1, (b, n)).permute(1, 2, 0, 3).flatten(2)
