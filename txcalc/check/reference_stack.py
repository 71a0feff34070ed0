"""Blocks and stacks of the reference: which layers follow each other, with which residuals, masks and caches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from txcalc.check.reference_attention import (
    AdditiveMask,
    CrossAttention,
    LayerCache,
    PatchBias,
    RelativeBias,
    Rotary,
    SelfAttention,
)
from txcalc.check.reference_cells import Recurrence
from txcalc.check.reference_disentangled import DisentangledAttention
from txcalc.check.reference_distances import DistanceAttention, Distances, query_bias
from txcalc.check.reference_latent import LatentAttention
from txcalc.check.reference_layers import (
    Convolution,
    Dense,
    MixtureOfExperts,
    Normalization,
    Options,
    Repeated,
    dropout_or_nothing,
)
from txcalc.check.reference_recurrent import AnyRecurrence, build_recurrence
from txcalc.spec.facts import embedding_width, first_attention
from txcalc.spec.inputs import (
    AlibiPosition,
    DisentangledPosition,
    LearnedPosition,
    PatchInput,
    RelativePosition,
    RotaryPosition,
    SinusoidalPosition,
    TokenInput,
    TransformerXLPosition,
)
from txcalc.spec.layers import MLA, Attention, BlockNorm, MoE
from txcalc.spec.layers import Dense as DenseSpec
from txcalc.spec.model import Model, Stack, Sublayers

AnySelfAttention = SelfAttention | LatentAttention | DisentangledAttention | DistanceAttention


@dataclass
class Cache:
    """What generation keeps between steps: one entry per run of a block, in order."""

    layers: list[LayerCache]
    length: int = 0

    def bytes(self) -> int:
        """Bytes of everything cached."""
        return sum(layer.bytes() for layer in self.layers)


# ---------------------------------------------------------------- block


class PositionTables:
    """The masks and rotations of one stack, each built once and shared by the layers that need it."""

    def __init__(self, stack: Stack, options: Options, *, causal: bool, context: int) -> None:
        self.position, self.options, self.causal, self.context = stack.position, options, causal, context
        self.image = stack.input if isinstance(stack.input, PatchInput) else None
        self._masks: dict[tuple[int | None, int | None, int | None], AdditiveMask] = {}
        self._rotations: dict[int, Rotary] = {}
        self._distances: Distances | None = None

    def attention(self, attention: Attention | MLA, d_model: int) -> AnySelfAttention:
        """A self-attention with this stack's positions."""
        position, heads = self.position, attention.heads
        alibi = heads if isinstance(position, AlibiPosition) else None
        if isinstance(attention, MLA):
            return LatentAttention(
                attention, d_model, self.options, mask=self._mask(None, None, alibi),
                plain_causal=self.causal and alibi is None, rotary=self._rotary(attention.rope_dim),
            )
        if isinstance(position, DisentangledPosition):
            if self.causal or attention.kv_heads != heads:
                raise ValueError("disentangled attention has no causal mask and no grouped heads")
            mask = self._mask(attention.window, attention.chunk, None)
            return DisentangledAttention(attention, position, d_model, self.options, mask, self.context)
        if isinstance(position, TransformerXLPosition):
            mask = self._mask(attention.window, attention.chunk, None)
            distances = self._all_distances(d_model)
            return DistanceAttention(attention, position, d_model, self.options, mask=mask, distances=distances)
        own_bias = isinstance(position, RelativePosition) and position.per_layer
        return SelfAttention(
            attention, d_model, self.options,
            mask=self._mask(attention.window, attention.chunk, alibi),
            plain_causal=self.causal and attention.window is None and attention.chunk is None and alibi is None,
            rotary=self._rotary(attention.head_dim) if attention.rope else None,
            relative_bias=self.relative_bias(heads) if own_bias else None,
        )

    def relative_bias(self, heads: int) -> RelativeBias | PatchBias | None:
        """A table of biases by distance, if that is this stack's position."""
        if not isinstance(self.position, RelativePosition):
            return None
        if self.image is not None:
            return PatchBias(self.position, heads, self.image)
        return RelativeBias(self.position, heads, causal=self.causal)

    def _mask(self, window: int | None, chunk: int | None, alibi: int | None) -> AdditiveMask | None:
        if not self.causal and window is None and chunk is None and alibi is None:
            return None
        key = (window, chunk, alibi)
        if key not in self._masks:
            self._masks[key] = AdditiveMask(
                self.options.length, causal=self.causal, window=window, chunk=chunk, alibi_heads=alibi
            )
        return self._masks[key]

    def _rotary(self, head_dim: int) -> Rotary | None:
        if not isinstance(self.position, RotaryPosition):
            return None
        if head_dim not in self._rotations:
            self._rotations[head_dim] = Rotary(self.position, head_dim, self.options.length)
        return self._rotations[head_dim]

    def _all_distances(self, d_model: int) -> Distances:
        if self._distances is None:
            n = self.options.length
            rows = n if self.causal else 2 * n - 1
            table = sinusoids(rows, d_model, first=n - rows).flip(0)
            self._distances = Distances(table, n, causal=self.causal)
        return self._distances


class Block(nn.Module):
    """One layer: attention, recurrence, cross-attention and feed-forward, each in its residual, as far as there."""

    attention: AnySelfAttention | None
    recurrent: AnyRecurrence | None
    cross_attention: CrossAttention | None
    feed_forward: Dense | MixtureOfExperts | None
    convolution: Convolution | None

    def __init__(
        self, block: Sublayers, d_model: int, options: Options, tables: PositionTables, *, scaled: bool,
        memory: int | None,
    ) -> None:
        super().__init__()
        norm = block.norm
        self.placement, self.shared_norm, self.parallel = norm.placement, norm.shared, block.residual == "parallel"
        self.scaled, self.bare, self.replaces = scaled, not norm.on_attention, block.residual == "none"
        own, recurrent, cross = block.attention, block.recurrent, block.cross_attention
        feed_forward = block.feed_forward
        if cross is not None and (cross.window or cross.chunk):
            raise ValueError("a window or chunks mean nothing in cross_attention")
        self.attention = None if own is None else tables.attention(own, d_model)
        width = d_model
        self.recurrent = None
        if recurrent is not None:
            self.recurrent = build_recurrence(recurrent, d_model, options, causal=tables.causal, memory=memory)
            width = getattr(self.recurrent, "width", d_model)
        self.cross_attention = None if cross is None else CrossAttention(cross, width, options, source=memory)
        plan = block.convolution
        self.convolution = None if plan is None else Convolution(plan, d_model, options.dropout)
        self.convolution_norm = nn.Identity() if plan is None else Normalization(norm, d_model)
        match feed_forward:
            case None:
                self.feed_forward = None
            case MoE():
                self.feed_forward = MixtureOfExperts(feed_forward, width, options)
            case DenseSpec(d_ff=d_ff, activation=activation, gated=gated, bias=bias):
                self.feed_forward = Dense(width, d_ff, activation, gated, bias, options.dropout)
        self.width = width
        widths = {"attention": (d_model, d_model), "recurrent": (d_model, width), "cross_attention": (width, width),
                  "feed_forward": (width, width)}
        for name, (before, after) in widths.items():
            if getattr(block, name) is not None:
                self._add_norms(name, norm, before, after)

    def _add_norms(self, name: str, norm: BlockNorm, before: int, after: int) -> None:
        """The norms and the scale of one sublayer, which reads ``before`` columns and gives ``after``."""
        if self.scaled:
            self.register_parameter(f"{name}_scale", nn.Parameter(torch.full((after,), 1e-4)))
        if norm.placement == "none" or (name == "feed_forward" and norm.shared):
            return
        bare = name == "attention" and self.bare
        width = before if norm.placement in ("pre", "sandwich") else after
        self.add_module(f"{name}_norm", nn.Identity() if bare else Normalization(norm, width))
        if norm.placement == "sandwich":
            self.add_module(f"{name}_post_norm", nn.Identity() if bare else Normalization(norm, after))

    def forward(
        self, x: Tensor, memory: Tensor | None, bias: Tensor | None, past: int, cache: LayerCache | None
    ) -> Tensor:
        """(b, n, d) to (b, n, d); ``memory`` (b, s, d) is the encoder's output, ``bias`` the stack's relative one.

        With disentangled positions ``bias`` is their table, (2 * buckets, d); with Transformer-XL's, u and v.
        """
        y = self._sublayers(x, memory, bias, past, cache)
        if self.convolution is not None:
            y = self.convolution_norm(y + self.convolution(x))
        return y

    def _sublayers(
        self, x: Tensor, memory: Tensor | None, bias: Tensor | None, past: int, cache: LayerCache | None
    ) -> Tensor:
        attention, recurrent, cross = self.attention, self.recurrent, self.cross_attention
        feed_forward = self.feed_forward
        if self.parallel:
            assert attention is not None and feed_forward is not None
            normed = self._norm("attention_norm", x)
            normed_2 = normed if self.shared_norm else self._norm("feed_forward_norm", x)
            attended = self._scale("attention", attention(normed, bias, past, cache))
            return x + attended + self._scale("feed_forward", feed_forward(normed_2))
        if attention is not None:
            x = self._residual("attention", x, lambda y: attention(y, bias, past, cache))
        if recurrent is not None:
            x = self._residual("recurrent", x, lambda y: self._recur(y, cache, memory))
        if cross is not None:
            x = self._residual("cross_attention", x, lambda y: cross(y, memory, cache and cache.cross_attention))
        if feed_forward is not None:
            x = self._residual("feed_forward", x, feed_forward)
        return x

    def _recur(self, x: Tensor, cache: LayerCache | None, memory: Tensor | None) -> Tensor:
        y: Tensor
        if isinstance(self.recurrent, Recurrence):
            y = self.recurrent(x, cache and cache.recurrent, memory)
        else:
            assert self.recurrent is not None
            y = self.recurrent(x, cache and cache.recurrent)
        return y

    def _residual(self, name: str, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        match self.placement:
            case "none":
                return self._add(x, self._scale(name, run(x)))
            case "pre":
                return self._add(x, self._scale(name, run(self._norm(f"{name}_norm", x))))
            case "post":
                return self._norm(f"{name}_norm", self._add(x, self._scale(name, run(x))))
            case "sandwich":
                y = self._scale(name, run(self._norm(f"{name}_norm", x)))
                return self._add(x, self._norm(f"{name}_post_norm", y))
            case "res-post":
                return self._add(x, self._norm(f"{name}_norm", self._scale(name, run(x))))

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        return y if self.replaces else x + y

    def _scale(self, name: str, x: Tensor) -> Tensor:
        return x * self.get_parameter(f"{name}_scale") if self.scaled else x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(name)(x)
        return y


# ---------------------------------------------------------------- stack


def sinusoids(length: int, width: int, first: int = 0) -> Tensor:
    """(length, width): sine in the even columns, cosine in the odd ones (arXiv 1706.03762 section 3.5)."""
    column = torch.arange(width)
    frequency = 10000.0 ** (-(column // 2 * 2).double() / width)
    angle = torch.arange(first, first + length).double()[:, None] * frequency
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).to(torch.get_default_dtype())


class StackModules(nn.Module):
    """The embeddings' positions, the blocks and the norms of one stack; not yet a ``forward``."""

    position_embedding: nn.Embedding | nn.Parameter | None
    relative_embedding: nn.Parameter | None
    type_embedding: nn.Embedding | None
    embedding_projection: nn.Linear | None
    relative_bias: RelativeBias | PatchBias | None
    query_bias: nn.Parameter | None
    position_table: Tensor | None

    def __init__(
        self, model: Model, stack: Stack, options: Options, *, causal: bool, d_model: int, memory: int | None = None
    ) -> None:
        super().__init__()
        self.plan, self.causal = stack, causal
        self.reads_tokens = isinstance(stack.input, TokenInput)
        factorised = self.reads_tokens and model.embedding_dim is not None
        self.project_tokens = model.embedding_projection == "tokens"
        width = embedding_width(model) if factorised and not self.project_tokens else d_model
        self.scale = math.sqrt(d_model) if model.embedding_scale and self.reads_tokens else None
        self._add_positions(stack, width, options)
        types = model.token_types if self.reads_tokens else 0
        self.type_embedding = nn.Embedding(types, width) if types else None
        self.embedding_norm = Normalization(stack.norm, width) if stack.embedding_norm else nn.Identity()
        self.embedding_dropout = dropout_or_nothing(options.dropout)
        self.embedding_projection = None
        if factorised:
            self.embedding_projection = nn.Linear(
                embedding_width(model), d_model, bias=model.embedding_projection_bias
            )
        tables = PositionTables(stack, options, causal=causal, context=model.context)
        one_bias = isinstance(stack.position, RelativePosition) and not stack.position.per_layer
        self.relative_bias = tables.relative_bias(first_attention(stack).heads) if one_bias else None
        one_pair = isinstance(stack.position, TransformerXLPosition) and not stack.position.per_layer
        self.register_parameter("query_bias", _shared_query_bias(stack) if one_pair else None)

        self.width = d_model

        def blocks(block: Sublayers, count: int) -> Repeated:
            made = Repeated(
                lambda: Block(block, self.width, options, tables, scaled=stack.layer_scale, memory=memory), count
            )
            self.width = cast(Block, made[-1]).width
            return made

        self.layers: nn.ModuleList
        if stack.groups is None:
            self.layers = blocks(stack, 1 if stack.share_layers else stack.layers)
        else:
            self.layers = nn.ModuleList(
                nn.ModuleList(
                    blocks(block, (1 if group.shared else group.repeat) * block.repeat) for block in group.blocks
                )
                for group in stack.groups
            )
        self.final_norm = Normalization(stack.norm, self.width) if stack.final_norm else nn.Identity()

    def _add_positions(self, stack: Stack, width: int, options: Options) -> None:
        """Tables that are added to the embeddings, and the one that disentangled attention reads."""
        self.position_embedding = self.relative_embedding = table = None
        match stack.position:
            case LearnedPosition(size=size) if not self.reads_tokens:
                # An image or a sound has as many positions as the table, which is added whole.
                self.position_embedding = nn.Parameter(torch.randn(size, width) * 0.02)
            case LearnedPosition(size=size) | DisentangledPosition(absolute=int(size)):
                self.position_embedding = nn.Embedding(size, width)
            case SinusoidalPosition(stored=True, size=size):
                self.position_embedding = nn.Embedding(size, width, _weight=sinusoids(size, width), _freeze=True)
            case SinusoidalPosition():
                table = sinusoids(options.length, width)
        self.register_buffer("position_table", table, persistent=False)
        if isinstance(stack.position, DisentangledPosition):
            self.relative_embedding = nn.Parameter(torch.randn(2 * stack.position.buckets, width) * 0.02)
            self.relative_norm = Normalization(stack.norm, width) if stack.position.norm else nn.Identity()

    def relative(self, past: int, n: int) -> Tensor | None:
        """What every layer's attention is given: the relative bias (h, n, past + n), DeBERTa's table, or u and v."""
        if self.relative_embedding is not None:
            table: Tensor = self.relative_norm(self.relative_embedding)
            return table
        if self.query_bias is not None:
            return self.query_bias
        return None if self.relative_bias is None else self.relative_bias.look_up(past, n)

    def run(
        self, embedded: Tensor, types: Tensor | None, memory: Tensor | None, cache: Cache | None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Embeddings (b, n, width) to hidden states (b, n, d); a prefix (images, tokens, d) replaces the first ones."""
        past, n = 0 if cache is None else cache.length, embedded.shape[1]
        x = self._embed(embedded, types, past, prefix)
        bias = self.relative(past, n)
        for i, block in enumerate(self.blocks_in_order()):
            x = block(x, memory, bias, past, None if cache is None else cache.layers[i])
        if cache is not None:
            cache.length = past + n
        out: Tensor = self.final_norm(x)
        return out

    def blocks_in_order(self) -> Iterator[Block]:
        """Every run of a block: one that is shared comes as often as it is run."""
        stack = self.plan
        if stack.groups is None:
            for i in range(stack.layers):
                yield cast(Block, self.layers[0 if stack.share_layers else i])
            return
        for group, modules in zip(stack.groups, self.layers, strict=True):
            for turn in range(group.repeat):
                for block, repeated in zip(group.blocks, cast(nn.ModuleList, modules), strict=True):
                    for i in range(block.repeat):
                        before = 0 if group.shared else turn * block.repeat
                        yield cast(Block, cast(Repeated, repeated)[before + i])

    def _embed(self, x: Tensor, types: Tensor | None, past: int, prefix: Tensor | None) -> Tensor:
        b, n, _ = x.shape
        if self.scale is not None:
            x = x * self.scale
        if self.embedding_projection is not None and self.project_tokens:
            x = self.embedding_projection(x)
        if prefix is not None:
            seen = prefix.flatten(0, 1)
            x = torch.cat((seen, x.flatten(0, 1)[len(seen) :])).view(x.shape)
        position = self.position_embedding
        if isinstance(position, nn.Parameter):
            x = x + position
        elif isinstance(position, nn.Embedding):
            x = x + (position(torch.arange(past, past + n, device=x.device)) if self.reads_tokens else position.weight)
        elif self.position_table is not None:
            x = x + self.position_table[past : past + n]
        if self.type_embedding is not None:
            types = torch.zeros(b, n, dtype=torch.long, device=x.device) if types is None else types
            x = x + self.type_embedding(types)
        x = self.embedding_dropout(self.embedding_norm(x))
        return x if self.embedding_projection is None or self.project_tokens else self.embedding_projection(x)


def _shared_query_bias(stack: Stack) -> nn.Parameter:
    first = first_attention(stack)
    assert isinstance(first, Attention)
    return query_bias(first.heads, first.head_dim)


class InnerStack(StackModules):
    """The encoder or the decoder of an encoder-decoder."""

    def forward(self, embedded: Tensor, types: Tensor | None, memory: Tensor | None, cache: Cache | None) -> Tensor:
        """Token embeddings (b, n, width) to hidden states (b, n, d)."""
        return self.run(embedded, types, memory, cache)
