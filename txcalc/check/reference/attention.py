"""Attention in the reference: positions that act inside it, the core on its two paths, and its projections.

The policy: masks and ALiBi slopes are buffers added to the scores; grouped queries share keys without copying
them; the softmax runs in its input's dtype; the flash path is ``F.scaled_dot_product_attention``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from txcalc.check.reference.beside import (
    ChosenBlocks,
    Differences,
    SpanConvolution,
    ValueConvolution,
    ValueScores,
    add_unused,
)
from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.expert_queries import expert_projections
from txcalc.check.reference.images import (
    ContinuousBias,
    ConvolvedSource,
    Reduction,
    SideDistances,
    inside,
    windows,
)
from txcalc.check.reference.layers import GroupedLinear, Normalization, Options, dropout_or_nothing, head_norm, linear
from txcalc.check.reference.neighbours import core_of
from txcalc.spec.facts import mask_kind
from txcalc.spec.inputs import RelativePosition, RotaryPosition
from txcalc.spec.layers import Attention

COUNTED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""The kernels that are counted: not cuDNN's, which CUDA's builds try first on Hopper and Blackwell."""

# ---------------------------------------------------------------- positions


class AdditiveMask(nn.Module):
    """The mask that is added to the scores: minus infinity where a key is hidden, and ALiBi's slope. No weights.

    A buffer of (length, length), or (heads, length, length) with ALiBi. Causal: query i sees keys i-window+1..i;
    otherwise it sees |i-j| <= window // 2. With chunks it sees only its own chunk.
    """

    table: Tensor

    def __init__(
        self, length: int, *, causal: bool, window: int | None, chunk: int | None, alibi_heads: int | None
    ) -> None:
        super().__init__()
        position = torch.arange(length)
        distance = position[:, None] - position[None, :]
        hidden = distance < 0 if causal else torch.zeros_like(distance, dtype=torch.bool)
        if window is not None:
            hidden = hidden | (distance >= window if causal else distance.abs() > window // 2)
        if chunk is not None:
            hidden = hidden | (position[:, None] // chunk != position[None, :] // chunk)
        table = torch.zeros(length, length)
        if alibi_heads is not None:
            table = -torch.tensor(alibi_slopes(alibi_heads))[:, None, None] * distance.abs()
        self.register_buffer("table", table.masked_fill(hidden, -math.inf), persistent=False)

    def forward(self, past: int, n: int, t: int) -> Tensor:
        """A view of the rows of ``n`` new tokens and the columns of the last ``t`` keys up to them."""
        return self.table[..., past : past + n, past + n - t : past + n]


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head (arXiv 2108.12409 section 3), with the authors' rule for other than a power of 2."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return slopes + between


class Rotary(nn.Module):
    """RoPE (arXiv 2104.09864), the two halves of the rotated part paired; an odd feature left over is not rotated."""

    cos: Tensor
    sin: Tensor

    def __init__(self, position: RotaryPosition, head_dim: int, length: int, *, windowed: bool = False) -> None:
        """Take the paper's base of 10,000 where none is known."""
        super().__init__()
        self.pairs = (position.dim or head_dim) // 2
        base = (windowed and position.window_theta) or position.theta or 10_000.0
        frequency = base ** (-torch.arange(self.pairs, dtype=torch.float64) / max(self.pairs, 1))
        angle = torch.arange(length, dtype=torch.float64)[:, None, None] * frequency.repeat(2)
        dtype = torch.get_default_dtype()
        self.register_buffer("cos", angle.cos().to(dtype), persistent=False)
        self.register_buffer("sin", angle.sin().to(dtype), persistent=False)

    def forward(self, x: Tensor, past: int, step: int = 1, *, back: bool = False) -> Tensor:
        """(b, n, heads, hd) to the same shape; the first token stands at position ``past``, others ``step`` apart.

        ``back``: as far the other way.
        """
        at = slice(past, past + x.shape[1] * step, step)
        cos, sin = self.cos[at], self.sin[at]
        turned, rest = x[..., : 2 * self.pairs], x[..., 2 * self.pairs :]
        if back:  # halves have no names, which would hold what is rotated
            crossed = torch.cat((turned[..., self.pairs :], -turned[..., : self.pairs]), dim=-1)
        else:
            crossed = torch.cat((-turned[..., self.pairs :], turned[..., : self.pairs]), dim=-1)
        turned = turned * cos + crossed * sin
        return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


class RelativeBias(nn.Embedding):
    """T5's bucketed bias: a table of (buckets, heads), looked up for every (query, key) pair."""

    def __init__(self, position: RelativePosition, heads: int, *, causal: bool) -> None:
        super().__init__(position.buckets, heads)
        self.buckets, self.max_distance, self.causal = position.buckets, position.max_distance, causal

    def look_up(self, past: int, n: int) -> Tensor:
        """(heads, n, past + n)."""
        device = self.weight.device
        key = torch.arange(past + n, device=device)
        query = torch.arange(past, past + n, device=device)
        bias: Tensor = self(self._bucket(key[None, :] - query[:, None]))
        return bias.permute(2, 0, 1)

    def _bucket(self, relative: Tensor) -> Tensor:
        """Half of the buckets are exact, the rest logarithmic; both directions share them unless causal."""
        buckets = self.buckets if self.causal else max(self.buckets // 2, 1)
        distance = (-relative).clamp(min=0) if self.causal else relative.abs()
        exact = max(buckets // 2, 1)
        scale = (buckets - exact) / math.log(max(self.max_distance, exact + 1) / exact)
        far = exact + (torch.log(distance.clamp(min=1) / exact) * scale).long()
        bucket = torch.where(distance < exact, distance, far.clamp(max=buckets - 1))
        return bucket if self.causal or self.buckets == 1 else bucket + (relative > 0) * buckets


class PatchBias(nn.Embedding):
    """BEiT's bias: a row for every distance of two patches, and three for pairs with a class token.

    A table with fewer rows shares its last one among the distances beyond it.
    """

    index: Tensor

    def __init__(self, position: RelativePosition, heads: int, side: int, extra: int) -> None:
        super().__init__(position.buckets, heads)
        at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + side - 1
        rows = (2 * side - 1) ** 2
        index = torch.full((side**2 + extra,) * 2, rows)  # class to patch; patch to class and class to class follow
        index[:, :extra] = rows + 1
        index[:extra, :extra] = rows + 2
        index[extra:, extra:] = apart[0] * (2 * side - 1) + apart[1]
        self.register_buffer("index", index.clamp(max=position.buckets - 1), persistent=False)

    def look_up(self, past: int, n: int) -> Tensor:
        """(heads, n, n); an image has no past."""
        bias: Tensor = self(self.index)
        return bias.permute(2, 0, 1)


# ---------------------------------------------------------------- attention


class AttentionCore(nn.Module):
    """Scores, softmax and context; ``sinks`` are one learned logit per head that takes part in the softmax."""

    def __init__(
        self, scale: float, options: Options, softcap: float | None = None, sinks: int | None = None
    ) -> None:
        super().__init__()
        self.scale, self.softcap, self.kernel, self.dropout = scale, softcap, options.attention, options.dropout
        self.recomputes = options.recompute == "selective"
        self.sinks = None if sinks is None else nn.Parameter(torch.zeros(sinks))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, is_causal: bool
    ) -> Tensor:
        """Q (b, h, n, hd), K (b, kv, t, hd) and V (b, kv, t, vd) to (b, h, n, vd).

        ``mask`` is a fixed buffer and ``bias`` a learned one, (n, t) or (h, n, t), both added to the scores.
        ``is_causal`` says that ``mask`` is the plain causal one, which the flash kernel has built in.
        """
        if not self.recomputes:
            return self._attend(q, k, v, mask, bias, is_causal)
        return checkpoint(self._attend, q, k, v, mask, bias, is_causal, use_reentrant=False)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, is_causal: bool
    ) -> Tensor:
        p = self.dropout if self.training else 0.0
        # The flash kernels give a learned bias no gradient; PyTorch's have no cap and no sinks.
        if self.kernel == "eager" or bias is not None or self.softcap is not None or self.sinks is not None:
            return self.eager_scores(q, k, v, mask, bias, p)
        if mask is not None:
            mask = None if is_causal else mask[None] if mask.dim() == 3 else mask
        with sdpa_kernel([SDPBackend.MATH] if self.kernel == "math" else COUNTED):
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=is_causal, scale=self.scale, enable_gqa=k.shape[1] < q.shape[1],
                dropout_p=p,
            )

    def eager_scores(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, p: float
    ) -> Tensor:
        """The same, with every (query, key) pair's score in memory."""
        (b, h, n, hd), (kv, t) = q.shape, k.shape[1:3]
        # The queries that share a key are folded into rows, so that keys and values are not copied h / kv times.
        folded = (b, kv, h // kv * n)
        scores = (q.reshape(*folded, hd) @ k.transpose(-1, -2)).view(b, h, n, t) * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores + mask
        if self.sinks is not None:
            scores = torch.cat((scores, self.sinks.view(-1, 1, 1).expand(b, h, n, 1)), dim=-1)
        weights = F.dropout(F.softmax(scores, dim=-1)[..., :t], p)
        return (weights.view(*folded, t) @ v).view(b, h, n, -1)


class SharedKeys(dict[str, tuple[Tensor, Tensor]]):
    """The last keys and values (b, kv, t, hd) that some layer of a stack has made, by their reach: others read them."""


class Projections(nn.Module):
    """The base of self- and cross-attention: the projections, the norms on q and k, the core."""

    q: nn.Linear | GroupedLinear | None

    def __init__(self, attention: Attention, d_model: int, options: Options, source: int | None = None) -> None:
        super().__init__()
        heads, kv_heads, head_dim, bias = attention.heads, attention.kv_heads, attention.head_dim, attention.bias
        read = d_model if source is None else source  # columns of what keys and values are made of
        self.heads, self.kv_heads = heads, kv_heads
        groups, count = attention.column_groups, attention.query_experts
        self.q = linear(d_model, heads * head_dim, bias=bias.q, groups=groups.q) if count is None else None
        value_dim, own = attention.value_dim or head_dim, not attention.kv_shared
        self.k = linear(read, kv_heads * head_dim, bias=bias.k, groups=groups.k) if own else None
        apart = own and attention.value_from == "input"
        self.v = linear(read, kv_heads * value_dim, bias=bias.v, groups=groups.v) if apart else None
        taps, spans = attention.value_convolution, attention.span_convolution
        self.span = None if spans is None else SpanConvolution(attention, d_model, spans)
        mixed = heads * value_dim * (1 if spans is None else 2)
        self.o = linear(mixed, d_model, bias=bias.o, groups=groups.o) if count is None else None
        self.query_experts, self.output_experts = expert_projections(attention, d_model)
        add_unused(self, attention, d_model)
        self.value_convolution = None if taps is None else ValueConvolution(heads, taps)
        self.gates = heads if attention.gate_over == "head" else heads * value_dim
        gate_bias = bias.q and attention.gate_bias == "q"
        self.gate = nn.Linear(d_model, self.gates, bias=gate_bias) if attention.output_gate else None
        self.gate_bias = nn.Parameter(torch.zeros(heads)) if attention.gate_bias == "head" else None
        self.open = torch.sigmoid if attention.gate_activation == "sigmoid" else F.softplus
        inner = attention.inner_norm
        self.inner_norm = None if inner is None else Normalization(inner, heads * value_dim)
        self.norm_before_split = attention.qk_norm is not None and attention.qk_norm.over == "full"
        self.q_norm = head_norm(attention.qk_norm, heads, head_dim)
        self.k_norm = head_norm(attention.qk_norm, kv_heads, head_dim) if own else None
        normed = attention.value_norm if own else None
        self.v_norm = None if normed is None else Normalization(normed, value_dim)
        scale = attention.scale or head_dim**-0.5
        self.core = core_of(attention, scale, options.dropout) or AttentionCore(
            scale, options, attention.softcap, heads if attention.sinks else None)
        self.differences = Differences(head_dim) if attention.differential else None
        self.value_scores = ValueScores(attention) if attention.kept_keys else None
        self.dropout = dropout_or_nothing(options.dropout)

    def queries(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, n, h, hd)."""
        project = self.query_experts or self.q
        assert project is not None
        return self._split(project(x), self.heads, self.q_norm)

    def keys_and_values(self, x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, d), and what ``values`` are made of if that is another, to (b, n, kv, hd) and (b, n, kv, vd)."""
        projected = self.k(x)  # type: ignore[misc]
        k = self._split(projected, self.kv_heads, self.k_norm)
        v = self._split(projected if self.v is None else self.v(*values or (x,)), self.kv_heads, None)
        if self.v_norm is None:
            return k, v.clone() if self.v is None else v
        return k.clone() if self.v is None and self.k_norm is None else k, self.v_norm(v)

    def output(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The core on tensors with heads in front, then the gate that ``x`` gives, then the output projection."""
        if self.differences is None and self.value_convolution is None:  # what the core makes is nobody's local
            return self.finish(x, self.core(q, k, v, mask, bias, is_causal), q)
        each = (v,) if self.differences is None else (half.repeat(1, 2, 1, 1) for half in v.chunk(2, dim=1))
        found = [self.core(q, k, values, mask, bias, is_causal) for values in each]
        context = found[0] if self.differences is None else self.differences(*found)
        return self.finish(x, context if self.value_convolution is None else context + self.value_convolution(v), q)

    def finish(self, x: Tensor, context: Tensor, q: Tensor) -> Tensor:
        """Contexts (b, h, n, hd), side by side, gated and normed, to (b, n, d)."""
        context = context.transpose(1, 2).flatten(2).reshape(*x.shape[:2], -1)
        if self.span is not None:
            context = torch.cat((context, self.span(x, q.transpose(1, 2).flatten(2))), -1)
        if self.gate is not None:
            gate = self.gate(x)
            if self.gate_bias is not None:
                gate = (gate.unflatten(-1, (self.heads, -1)) + self.gate_bias[:, None]).flatten(2)
            gate = self.open(gate).unsqueeze(-1)
            context = (context.unflatten(-1, (self.gates, -1)) * gate).flatten(2)
        if self.inner_norm is not None:
            context = self.inner_norm(context)
        project = self.output_experts or self.o
        assert project is not None
        return self.dropout(project(context))

    def _split(self, x: Tensor, heads: int, norm: Normalization | None) -> Tensor:
        if norm is not None and self.norm_before_split:
            x = norm(x)
        x = x.view(*x.shape[:-1], heads, -1)
        return x if norm is None or self.norm_before_split else norm(x)


class SelfAttention(Projections):
    """Attention of a sequence to itself, with its stack's positions."""

    relative_bias: RelativeBias | PatchBias | SideDistances | ContinuousBias | None

    def __init__(
        self, attention: Attention, d_model: int, options: Options, *,
        mask: AdditiveMask | None, plain_causal: bool, rotary: Rotary | None,
        relative_bias: RelativeBias | PatchBias | SideDistances | ContinuousBias | None, shared: SharedKeys | None,
    ) -> None:
        super().__init__(attention, d_model, options)
        self.shared, self.kind = shared, mask_kind(attention)
        self.reach = None if attention.cached == "all" else attention.window or attention.chunk
        self.mask, self.plain_causal = mask, plain_causal
        self.together = None if attention.image_window is None else attention.image_window**2
        self.border = attention.image_window if attention.window_border else None
        width, reduction, kernel = attention.heads * attention.head_dim, attention.image_reduction, (
            attention.image_convolution)
        self.reduction = None if reduction is None or kernel is not None else Reduction(reduction, width)
        self.q_convolution, self.k_convolution, self.v_convolution = (
            None if kernel is None else ConvolvedSource(kernel, stride, width)
            for stride in (1, reduction or 1, reduction or 1))
        self.rotary, self.relative_bias = rotary, relative_bias
        self.indexer = None if attention.indexer is None else ChosenBlocks(
            attention.indexer, d_model, attention.heads, rotary)

    def forward(self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None, *values: Tensor) -> Tensor:
        """(b, n, d) to (b, n, d); ``bias`` is the stack's relative bias, (h, n, past + n)."""
        n = x.shape[1]
        if self.border is None or math.isqrt(n) % self.border == 0:
            return self._attend(x, bias, past, cache, *values)
        return inside(self._attend(windows(x, self.border), bias, past, cache, *values), n, self.border)

    def _attend(self, x: Tensor, bias: Tensor | None, past: int, cache: LayerCache | None, *values: Tensor) -> Tensor:
        n = x.shape[1]
        read = x if self.reduction is None else self.reduction(x)
        if self.q_convolution is not None and self.k_convolution is not None and self.v_convolution is not None:
            x, read, values = self.q_convolution(x), self.k_convolution(x), (self.v_convolution(x),)
        q = self._placed(self.queries(x), past, rotated=True)
        own, shared = self._own_keys, self.shared
        k, v = own(read, past, cache, *values) if shared is None else self._shared_keys(shared, x, past, cache)
        t, plain = k.shape[2], cache is None or cache.padding is None
        if isinstance(self.relative_bias, SideDistances):
            bias = self.relative_bias(q)
        elif isinstance(self.relative_bias, ContinuousBias):
            q, k, bias = self.relative_bias(q, k)
        elif self.relative_bias is not None:
            bias = self.relative_bias.look_up(past, n)
        if self.indexer is not None:
            bias = self.indexer(x, past, cache)
        mask = None if self.mask is None else self.mask(past, n, t)
        mask = mask if mask is None or cache is None else cache.hides(mask)
        bias = self.value_scores(v, mask, n) if self.value_scores else None if bias is None else bias[..., -t:]
        return self.output(x, q, k, v, mask, bias, self.plain_causal and past == 0 and plain)

    def _own_keys(self, x: Tensor, past: int, cache: LayerCache | None, *values: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.keys_and_values(x, *values)
        k, v = self._placed(k, past, rotated=True), self._placed(v, past, rotated=False)
        return (k, v) if cache is None else cache.attention.extend(k, v, self.reach)

    def _shared_keys(self, shared: SharedKeys, x: Tensor, past: int, cache: LayerCache | None) -> tuple[Tensor, Tensor]:
        """Keys and values of a stack in which some layers have none; laid out once, lest every product do it again."""
        if self.k is not None:
            k, v = self._own_keys(x, past, cache)
            shared[self.kind] = k.contiguous(), v.contiguous()
        return shared[self.kind]

    def _placed(self, x: Tensor, past: int, *, rotated: bool) -> Tensor:
        """(b, n, heads, hd) to (b, heads, n, hd), with its positions."""
        if rotated and self.rotary is not None:
            x = self.rotary(x, past)
        if self.together is not None:  # patches come square by square
            x = x.unflatten(1, (-1, self.together)).flatten(0, 1)
        return x.transpose(1, 2)
