"""Modules of grouped projections, adapters of languages and unused weights."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.layers import Normalization, Options, Repeated, activate, dropout_or_nothing
from txcalc.spec.layers import Norm

if TYPE_CHECKING:
    from txcalc.check.reference.cache import LayerCache
    from txcalc.spec.autoencoder import Autoencoder
    from txcalc.spec.compression import BlockIndexer
    from txcalc.spec.inputs import Instruction
    from txcalc.spec.layers import Attention, BlockNorm
    from txcalc.spec.layers import Dense as DensePlan
    from txcalc.spec.model import Model, Resampler
    from txcalc.spec.projections import LanguageAdapter
    from txcalc.spec.tables import IdleWeight


class Adapters(nn.Module):
    """A bottleneck for every language, of which the first one is run."""

    def __init__(self, plan: LanguageAdapter, norm: BlockNorm, d_model: int, options: Options) -> None:
        super().__init__()
        self.languages = Repeated(lambda: Bottleneck(plan, d_model, options), plan.languages)
        self.norm = Normalization(norm, d_model) if plan.norm == "own" else None
        self.plan = plan

    def forward(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """(b, n, d) to the same shape; ``norm``: the feed-forward's."""
        normed = self.norm if self.plan.norm == "own" else norm if self.plan.norm == "again" else None
        y = x if normed is None else normed(x)
        return self.languages[0](y) + (y if self.plan.normed_residual else x)


class Bottleneck(nn.Module):
    """``down(act(up(x)))``, with biases."""

    def __init__(self, plan: LanguageAdapter, d_model: int, options: Options) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d_model, plan.width), nn.Linear(plan.width, d_model)
        self.activation, self.dropout = plan.activation, dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) to (..., d)."""
        return self.dropout(self.down(activate(self.activation, self.up(x))))


class ValueConvolution(nn.Conv2d):
    """A convolution of each head's values over positions."""

    def __init__(self, heads: int, positions: int) -> None:
        super().__init__(heads, heads, (positions, 1), padding=(positions // 2, 0), bias=False, groups=heads)


class SpanConvolution(nn.Module):
    """ConvBERT's span-based dynamic convolution (arXiv 2008.02496, section 3.2)."""

    def __init__(self, attention: Attention, d_model: int, positions: int) -> None:
        super().__init__()
        width, self.heads, self.positions = attention.heads * attention.head_dim, attention.heads, positions
        self.depthwise = nn.Conv1d(d_model, d_model, positions, padding=positions // 2, groups=d_model, bias=False)
        self.pointwise = nn.Conv1d(d_model, width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width, 1))
        self.kernel, self.v = nn.Linear(width, attention.heads * positions), nn.Linear(d_model, width)

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        """X (b, n, d) and its queries (b, n, width) to contexts (b, n, width)."""
        (b, n, width), reach = q.shape, self.positions // 2
        span = self.pointwise(self.depthwise(x.transpose(1, 2))) + self.bias
        kernel = F.softmax(self.kernel(span.transpose(1, 2) * q).view(b * n * self.heads, -1, 1), dim=1)
        v = F.pad(self.v(x), (0, 0, reach, reach)).unfold(1, self.positions, 1)
        return (v.reshape(b * n * self.heads, -1, self.positions) @ kernel).view(b, n, width)


class Collisions(nn.Module):
    """YOSO's attention (arXiv 2111.09714, section 3): how likely 9 hashes of a key and a query agree weighs values.

    There is no softmax; contexts are made unit vectors instead.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, is_causal: bool
    ) -> Tensor:
        """Q, K and V (b, h, n, hd) to (b, h, n, hd); nothing is masked and nothing added."""
        shape = q.shape
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        angle = torch.acos(F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(1, 2))
        return F.normalize((1 - angle / math.pi) ** 9 @ v, dim=-1).view(*shape[:-1], -1)


class ValueScores(nn.Module):
    """A bias of every key that its values give; of those that a query sees, as many are kept as have the highest."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        width = attention.value_dim or attention.head_dim
        self.step = nn.Linear(attention.kv_heads * width, attention.kv_heads, bias=attention.bias.v)
        self.rates, self.kept = nn.Parameter(torch.zeros(attention.kv_heads)), attention.kept_keys or 0
        self.times = attention.heads // attention.kv_heads

    def forward(self, v: Tensor, mask: Tensor | None, n: int) -> Tensor:
        """(b, kv, t, vd) to (b, h, n or 1, t)."""
        step: Tensor = self.step(v.transpose(1, 2).flatten(2))
        y = (self.rates * F.softplus(step)).exp().transpose(1, 2).repeat_interleave(self.times, 1).unsqueeze(2)
        if y.shape[-1] <= self.kept:
            return y
        with torch.no_grad():
            seen = y.expand(-1, -1, n, -1) + (0 if mask is None else mask)
            hidden = torch.full_like(seen, -math.inf).scatter_(-1, seen.topk(self.kept, -1).indices, 0.0)
        return y + hidden


class ChosenBlocks(nn.Module):
    """Small heads score all keys; a query sees its own block and those of the best scores (MiniMax M3's indexer).

    Choosing has no gradient.
    """

    def __init__(self, plan: BlockIndexer, d_model: int, heads: int, rotary: nn.Module | None) -> None:
        super().__init__()
        self.heads, self.block, self.blocks, self.rotary = plan.heads, plan.block, plan.blocks, rotary
        self.times, self.averaged = heads // plan.heads, plan.averaged
        self.q = nn.Linear(d_model, plan.heads * plan.head_dim, bias=False)
        self.k = nn.Linear(d_model, plan.head_dim, bias=False)
        self.q_norm, self.k_norm = (Normalization(Norm(kind="rmsnorm", eps=1e-6), plan.head_dim) for _ in range(2))
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor, past: int, cache: LayerCache | None) -> Tensor:
        """(b, n, d) to what is added to the scores, (b, h, n, t)."""
        q, k = self.q_norm(self.q(x).unflatten(-1, (self.heads, -1))), self.k(x).unsqueeze(2)
        if self.averaged:
            return self._of_means(q if self.rotary is None else self.rotary(q, past), k, past, cache)
        k = self.k_norm(k)
        if self.rotary is not None:
            q, k = self.rotary(q, past), self.rotary(k, past)
        if cache is not None:
            (k,) = cache.index.extend(k)
        at, t = torch.arange(past, past + x.shape[1], device=x.device)[:, None], k.shape[1]
        scores = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).masked_fill(
            torch.arange(t, device=x.device) > at, -math.inf)
        best = F.pad(scores, (0, -t % self.block), value=-math.inf).unflatten(-1, (-1, self.block)).amax(-1)
        best = best.scatter(-1, (at // self.block).expand(*best.shape[:2], -1, 1), math.inf)
        chosen = best.topk(min(self.blocks, best.shape[-1]), dim=-1).indices
        hidden = torch.full_like(best, -math.inf).scatter(-1, chosen, 0.0)
        return hidden.repeat_interleave(self.block, -1)[..., :t].repeat_interleave(self.times, 1)

    def _of_means(self, q: Tensor, k: Tensor, past: int, cache: LayerCache | None) -> Tensor:
        """The same for (b, 1, n, t), of blocks that end with a query or before, and of what comes after these."""
        if cache is not None:
            (k,) = cache.index.extend(k)
            k = k.transpose(1, 2) if k.shape[2] != 1 else k
        (b, n, *_), t = q.shape, k.shape[1]
        means = self.k_norm(k[:, : t - t % self.block].unflatten(1, (-1, self.block)).mean(2))
        if self.rotary is not None and t >= self.block:  # where a block begins
            means = self.rotary(means.repeat_interleave(self.block, 1), 0)[:, :: self.block]
        at, keys = torch.arange(past + 1, past + n + 1, device=q.device)[:, None], torch.arange(t, device=q.device)
        hidden = torch.zeros(n, t, device=q.device).masked_fill(
            (keys < at // self.block * self.block) | (keys >= at), -math.inf).to(q.dtype)
        best = q.new_full((b, n, t // self.block), -math.inf)
        for whole in range(max((past + 1) // self.block, 1), (past + n) // self.block + 1):  # queries of as many
            some = slice(max(whole * self.block - past - 1, 0), (whole + 1) * self.block - past - 1)
            scores = torch.matmul(q[:, some], means[:, None, :whole, 0].mT).relu().sum(2)
            chosen = scores.topk(min(self.blocks, whole)).indices
            best[:, some, :whole] = torch.full_like(scores, -math.inf).scatter(-1, chosen, 0.0)
        seen = best.repeat_interleave(self.block, -1)
        return torch.maximum(F.pad(seen, (0, t - seen.shape[-1]), value=-math.inf), hidden).unsqueeze(1)


class Differences(nn.Module):
    """Half of the heads less the others, in pairs that are normed (arXiv 2410.05258), as a first layer weighs them."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.q1, self.k1, self.q2, self.k2 = (nn.Parameter(torch.randn(head_dim) * 0.1) for _ in range(4))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Contexts (b, h, n, hd) of either half of the values to (b, h / 2, n, 2 * hd)."""
        more, less = torch.cat((first, second), dim=-1).chunk(2, dim=1)
        weight = (self.q1 * self.k1).sum().exp() - (self.q2 * self.k2).sum().exp() + 0.2
        pairs = more - weight * less
        return 0.8 * F.rms_norm(pairs, pairs.shape[-1:], eps=1e-5)


def add_unused(module: nn.Module, attention: Attention, d_model: int) -> None:
    """Give an attention its projections for what is not there."""
    value_dim = attention.value_dim or attention.head_dim
    widths = {"q": attention.heads * attention.head_dim, "k": attention.kv_heads * attention.head_dim,
              "v": attention.kv_heads * value_dim}
    for name, width in widths.items():
        if number := getattr(attention.unused, name):
            make = _linear(d_model, width, bias=getattr(attention.bias, name))
            module.add_module(f"unused_{name}", Repeated(make, number))


def _linear(d_in: int, d_out: int, *, bias: bool):  # type: ignore[no-untyped-def]
    return lambda: nn.Linear(d_in, d_out, bias=bias)


class EntityWeights(nn.Module):
    """The tables of entities, and of a language model their head."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        own, d = model.entities, model.d_model
        assert own is not None
        self.table = nn.Parameter(torch.zeros(own.rows, own.width))
        self.projection = nn.Linear(own.width, d, bias=False) if own.width != d else None
        size = getattr(model.position, "size", None)
        self.positions = nn.Parameter(torch.zeros(model.context if size is None else size, d))
        self.types = nn.Parameter(torch.zeros(model.token_types, d))
        self.norm = nn.LayerNorm(d)
        if model.head.kind == "lm":
            self.dense, self.head_norm = nn.Linear(d, own.width), nn.LayerNorm(own.width)
            self.head = None if own.tied else nn.Linear(own.width, own.rows, bias=False)
            self.head_bias = nn.Parameter(torch.zeros(own.rows))


class IdleWeights(nn.Module):
    """Weights that nothing reads, each under its name."""

    def __init__(self, plan: tuple[IdleWeight, ...]) -> None:
        super().__init__()
        for each in plan:
            self.add_module(each.name, Repeated(partial(_Weight, each.shape), each.times))


class _Weight(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


class InstructionWeights(nn.Module):
    """Weights that learned queries keep for a text beside them."""

    def __init__(self, plan: Instruction, stack: Resampler, feed: DensePlan) -> None:
        super().__init__()
        d = stack.d_model
        self.table = nn.Parameter(torch.zeros(plan.rows, d))
        self.positions = nn.Parameter(torch.zeros(plan.positions, d))

        def layer() -> nn.Module:
            made = nn.Module()
            made.up = nn.Linear(d, feed.d_ff, bias=feed.bias.up)
            if feed.gated:
                made.gate = nn.Linear(d, feed.d_ff, bias=feed.bias.gate)
            made.down = nn.Linear(feed.d_ff, d, bias=feed.bias.down)
            made.norm = Normalization(stack.norm, d)
            return made

        self.layers = Repeated(layer, stack.layers)


class AutoencoderWeights(nn.Module):
    """Weights of an image autoencoder (VQGAN), which no run passes."""

    def __init__(self, plan: Autoencoder, d_model: int) -> None:
        super().__init__()
        levels, latent, width = plan.levels, plan.latent, plan.code_dim

        def residual(out: int, into: int) -> nn.Module:
            made = {"norm0": nn.GroupNorm(1, into), "conv0": nn.Conv2d(into, out, 3), "norm1": nn.GroupNorm(1, out),
                    "conv1": nn.Conv2d(out, out, 3)}
            return nn.ModuleDict(made | ({} if into == out else {"shortcut": nn.Conv2d(into, out, 1)}))

        def attention(size: int) -> nn.Module:
            return nn.ModuleDict({"norm": nn.GroupNorm(1, size), **{name: nn.Conv2d(size, size, 1) for name in "qkvo"}})

        def half(into: int, first: int, order: list[int], blocks: int, out: int, name: str) -> nn.Module:
            at, stages = first, dict[str, nn.Module]()
            for i in order:
                sizes = [at, *[levels[i]] * blocks]
                stage: dict[str, nn.Module] = {
                    "blocks": nn.ModuleList(residual(b, a) for a, b in itertools.pairwise(sizes))}
                at = levels[i]
                if i in plan.attention_levels:
                    stage["attention"] = nn.ModuleList(attention(at) for _ in range(blocks))
                if i != order[-1]:
                    stage[name] = nn.Conv2d(at, at, 3)
                stages[str(i)] = nn.ModuleDict(stage)
            narrow = levels[-1]
            made = {"conv_in": nn.Conv2d(into, first, 3), "levels": nn.ModuleDict(stages), "middle": nn.ModuleList(
                residual(narrow, narrow) for _ in range(2)), "norm_out": nn.GroupNorm(1, at),
                "conv_out": nn.Conv2d(at, out, 3)}
            return nn.ModuleDict(made | ({"middle_attention": attention(narrow)} if plan.mid_attention else {}))

        places = list(range(len(levels)))
        self.encoder = half(plan.in_channels, plan.channels, places, plan.depth, latent, "down")
        self.codebook = nn.Parameter(torch.zeros(plan.codes, width))
        self.quantized, self.restored = nn.Conv2d(latent, width, 1), nn.Conv2d(width, latent, 1)
        self.decoder = None if plan.out_channels is None else half(
            latent, levels[-1], places[::-1], plan.depth + 1, plan.out_channels, "up")
        if (generation := plan.generation) is not None:
            self.generation_codebook, own = nn.Parameter(torch.zeros(plan.codes, width)), generation.width
            self.inputs = nn.ModuleList(nn.Linear(own if i else width, own) for i in range(generation.depth))
            self.outputs = nn.ModuleList((nn.Linear(d_model, own), nn.Linear(own, plan.codes)))
