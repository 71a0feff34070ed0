"""One block of the reference: its layers in order, with their residuals and norms, and the masks that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from txcalc.check.reference.ahead import AheadAttention
from txcalc.check.reference.altup import Alternating
from txcalc.check.reference.attention import (
    AdditiveMask,
    PatchBias,
    RelativeBias,
    Rotary,
    SelfAttention,
    SharedKeys,
)
from txcalc.check.reference.beside import Adapters
from txcalc.check.reference.blockwise import BlockAttention, BlockBias
from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.cells import Recurrence
from txcalc.check.reference.compressed import CompressedAttention
from txcalc.check.reference.crossing import CrossAttention
from txcalc.check.reference.disentangled import DisentangledAttention
from txcalc.check.reference.distances import DistanceAttention, Distances
from txcalc.check.reference.images import ContinuousBias, SideDistances
from txcalc.check.reference.latent import Chosen, LatentAttention
from txcalc.check.reference.layers import (
    Convolution,
    Dense,
    ExpertsApart,
    MixtureOfExperts,
    Normalization,
    Options,
    contexts,
    dense,
)
from txcalc.check.reference.mixes import ChannelMix, NormGate, streams
from txcalc.check.reference.per_layer import LayerInput
from txcalc.check.reference.recurrent import AnyRecurrence, build_recurrence
from txcalc.check.reference.shared_blocks import SharedTransformer, SharedUse
from txcalc.spec.compression import Compressed
from txcalc.spec.facts import located_blocks, shares_keys, side, skipped
from txcalc.spec.inputs import (
    AlibiPosition,
    ContinuousPosition,
    DecomposedPosition,
    DisentangledPosition,
    PatchInput,
    RelativePosition,
    RotaryPosition,
    TransformerXLPosition,
)
from txcalc.spec.layers import MLA, AnyAttention, Attention, BlockNorm, MoE
from txcalc.spec.layers import Dense as DenseSpec
from txcalc.spec.model import Stack, Sublayers
from txcalc.spec.projections import AltUp, Blocks
from txcalc.spec.rnn import OverImages
from txcalc.spec.tables import PerLayerEmbedding

AnySelfAttention = (SelfAttention | LatentAttention | CompressedAttention | DisentangledAttention | DistanceAttention
                    | AheadAttention)


def sinusoids(length: int, width: int, first: int = 0) -> Tensor:
    """(length, width): sine in the even columns, cosine in the odd ones (arXiv 1706.03762 section 3.5)."""
    column = torch.arange(width)
    frequency = 10000.0 ** (-(column // 2 * 2).double() / width)
    angle = torch.arange(first, first + length).double()[:, None] * frequency
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).to(torch.get_default_dtype())


class PositionTables:
    """The masks and rotations of one stack, each built once and shared by the layers that need it."""

    def __init__(self, stack: Stack, options: Options, *, causal: bool, context: int) -> None:
        self.position, self.options, self.causal, self.context = stack.position, options, causal, context
        self.image = stack.input if isinstance(stack.input, PatchInput) else None
        self.side = side(stack, next(block for _, block in located_blocks(stack)))  # of what the next block reads
        self._masks: dict[tuple[int | None, int | None, int | None], AdditiveMask] = {}
        self._rotations: dict[tuple[int, bool], Rotary] = {}
        self._distances: Distances | None = None
        self._chosen = Chosen()
        self.shared = SharedKeys() if shares_keys(stack) else None

    def attention(self, attention: AnyAttention, d_model: int) -> AnySelfAttention:
        """A self-attention with this stack's positions."""
        position, heads = self.position, attention.heads
        alibi = heads if isinstance(position, AlibiPosition) else None
        if isinstance(attention, Compressed):
            mask = self._mask(attention.window, None, None)
            scored = attention.compression and attention.compression.indexer
            return CompressedAttention(attention, d_model, self.options, mask, self._rotary(attention.head_dim),
                                       self._rotary(scored.head_dim) if scored else None)
        if isinstance(attention, MLA):
            return LatentAttention(
                attention, d_model, self.options, mask=self._mask(attention.window, None, alibi),
                plain_causal=self.causal and alibi is None and attention.window is None,
                rotary=self._rotary(attention.rope_dim), chosen=self._chosen,
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
        if attention.ahead is not None:
            return AheadAttention(attention, d_model, self.options)
        own_bias = isinstance(position, RelativePosition) and position.per_layer
        blocks = attention.blocks is not None and attention.blocks.reach != "chunks"
        return (BlockAttention if blocks else SelfAttention)(
            attention, d_model, self.options,
            mask=self._mask(attention.window, attention.chunk, alibi),
            plain_causal=self.causal and attention.window is None and attention.chunk is None and alibi is None,
            rotary=self._rotary(attention.head_dim, windowed=attention.window is not None) if attention.rope else None,
            relative_bias=(SideDistances(attention.image_window or self.side, attention.head_dim)
                           if isinstance(position, DecomposedPosition)
                           else ContinuousBias(position.hidden, attention.image_window or self.side, heads)
                           if isinstance(position, ContinuousPosition)
                           else self.relative_bias(heads, attention.image_window) if own_bias else None),
            shared=self.shared,
        )

    def relative_bias(
        self, heads: int, window: int | None = None, blocks: Blocks | None = None
    ) -> RelativeBias | PatchBias | None:
        """A table of biases by distance, if that is this stack's position; within a square ``window``, if any."""
        if not isinstance(self.position, RelativePosition):
            return None
        if self.image is not None:
            return PatchBias(self.position, heads, window or self.side, self.image.class_tokens)
        return (RelativeBias(self.position, heads, causal=self.causal) if blocks is None
                else BlockBias(self.position, heads, blocks))

    def _mask(self, window: int | None, chunk: int | None, alibi: int | None) -> AdditiveMask | None:
        if not self.causal and window is None and chunk is None and alibi is None:
            return None
        key = (window, chunk, alibi)
        if key not in self._masks:
            self._masks[key] = AdditiveMask(
                self.options.length, causal=self.causal, window=window, chunk=chunk, alibi_heads=alibi
            )
        return self._masks[key]

    def _rotary(self, head_dim: int, *, windowed: bool = False) -> Rotary | None:
        if not isinstance(self.position, RotaryPosition):
            return None
        key = (head_dim, windowed)
        if key not in self._rotations:
            self._rotations[key] = Rotary(self.position, head_dim, self.options.length, windowed=windowed)
        return self._rotations[key]

    def _all_distances(self, d_model: int) -> Distances:
        if self._distances is None:
            n, more = self.options.length, getattr(self.position, "of_sequences", False)
            rows = n if self.causal else 2 * n - 1
            table = sinusoids(rows + more, d_model, first=n - rows).flip(0)
            self._distances = Distances(table, n, causal=self.causal, more=more)
        return self._distances


class Block(nn.Module):
    """One layer: attention, recurrence, cross-attention and feed-forward, each in its residual, as far as there."""

    attention: AnySelfAttention | None
    recurrent: AnyRecurrence | None
    cross_attention: CrossAttention | None
    feed_forward: Dense | MixtureOfExperts | None
    convolution: Convolution | None
    per_layer_input: LayerInput | None

    def __init__(
        self, block: Sublayers, d_model: int, options: Options, tables: PositionTables, *, scaled: bool,
        memory: int | None, per_layer: PerLayerEmbedding | None = None, alone: bool = False,
        stack: Stack | None = None, kept: bool = False, altup: AltUp | None = None,
        shared: Mapping[str, SharedTransformer] | None = None,
    ) -> None:
        super().__init__()
        norm = block.norm
        self.gated = block.tanh_gates
        self.placement, self.shared_norm, self.parallel = norm.placement, norm.shared, block.residual == "parallel"
        self.mixed, self.alone, self.skipped = block.residual == "mixers", alone, alone and skipped(block)
        self.scaled, self.bare = scaled and block.residual != "none", not norm.on_attention
        self.replaces = block.residual == "none"
        self.altup = None if altup is None else Alternating(altup, norm, d_model)
        use = block.shared_block
        self.shared = None if use is None or shared is None else SharedUse(use, d_model, shared[str(use.index)])
        own, recurrent, cross = block.attention, block.recurrent, block.cross_attention
        feed_forward = block.feed_forward
        if cross is not None and (cross.window or cross.chunk):
            raise ValueError("a window or chunks mean nothing in cross_attention")
        self.attention = None if own is None else tables.attention(own, d_model)
        width = d_model
        self.recurrent = None
        if recurrent is not None:
            self.recurrent = build_recurrence(
                recurrent, d_model, options, causal=tables.causal, memory=memory, side=tables.side)
            tables.side = recurrent.side(tables.side) if isinstance(recurrent, OverImages) else tables.side
            width = getattr(self.recurrent, "width", d_model)
        self.cross_attention = None if cross is None else CrossAttention(cross, width, options, source=memory)
        plan = block.convolution
        self.convolution = None if plan is None else Convolution(plan, d_model, options.dropout)
        self.convolution_norm = nn.Identity() if plan is None else Normalization(norm, d_model)
        match feed_forward:
            case None:
                self.feed_forward = None
            case MoE(separate_norms=True):
                self.feed_forward = ExpertsApart(feed_forward, width, options, norm)
            case MoE():
                self.feed_forward = MixtureOfExperts(feed_forward, width, options)
            case DenseSpec(channel_mix=True):
                self.feed_forward = ChannelMix(feed_forward, width, options)
            case DenseSpec():
                self.feed_forward = dense(feed_forward, width, options)
        adapter = block.adapter
        self.adapter = None if adapter is None else Adapters(adapter, norm, width, options)
        self.per_layer_input = None if per_layer is None else LayerInput(per_layer, norm, width)
        self.width, self.recomputes = width, options.checkpoints
        self.contexts = contexts(options.recompute)
        widths = {"attention": (d_model, d_model), "recurrent": (d_model, width), "cross_attention": (width, width),
                  "feed_forward": (width, width)}
        self.global_tokens = own.blocks.global_tokens if isinstance(own, Attention) and own.blocks else 0
        if self.global_tokens:
            self.global_attention_norm = Normalization(norm, d_model)
        for name, (before, after) in widths.items():
            if getattr(block, name) is not None and kept:
                self.register_parameter(f"{name}_residual", nn.Parameter(torch.ones(before)))
            if getattr(block, name) is not None and stack is not None and stack.streams is not None:
                self.add_module(f"{name}_streams", streams(stack, before, adds=True))
            if getattr(block, name) is not None:
                self._add_norms(name, norm, before, after)

    def _add_norms(self, name: str, norm: BlockNorm, before: int, after: int) -> None:
        """The norms and the scale of one sublayer, which reads ``before`` columns and gives ``after``."""
        if self.scaled:
            self.register_parameter(f"{name}_scale", nn.Parameter(torch.full((after,), 1e-4)))
        if self.gated:
            self.register_parameter(f"{name}_gate", nn.Parameter(torch.full((1,), 0.3)))
        if norm.placement == "none" or (name == "feed_forward" and norm.shared) or (name == "recurrent" and self.mixed):
            return
        bare = name == "attention" and self.bare
        if norm.gate_rank is not None and norm.gate_on != ("attention" if name == "feed_forward" else "time"):
            self.add_module(f"{name}_norm_gate", NormGate(before, norm.gate_rank, timed=norm.gate_on == "time"))
        width = before if norm.placement in ("pre", "sandwich") else after
        self.add_module(f"{name}_norm", nn.Identity() if bare else Normalization(norm, width))
        if norm.placement == "sandwich":
            self.add_module(f"{name}_post_norm", nn.Identity() if bare else Normalization(norm, after))

    def forward(
        self, x: Tensor, memory: Tensor | None, bias: Tensor | None, past: int, cache: LayerCache | None,
        own: Tensor | None = None,
    ) -> Tensor:
        """(b, n, d) to (b, n, d); ``memory`` (b, s, d) is the encoder's output, ``bias`` the stack's relative one.

        With disentangled positions ``bias`` is their table, (2 * buckets, d); with Transformer-XL's, u and v. ``own``
        (b, n, width) is what the layer is given beside ``x``.
        """
        if not self.recomputes:
            return self._run(x, memory, bias, past, cache, own)
        return checkpoint(
            self._run, x, memory, bias, past, cache, own, use_reentrant=False, context_fn=self.contexts)

    def _run(
        self, x: Tensor, memory: Tensor | None, bias: Tensor | None, past: int, cache: LayerCache | None,
        own: Tensor | None,
    ) -> Tensor:
        if self.altup is not None and self.per_layer_input is not None and own is not None:
            predicted, active = self.altup(x)
            streams, first = self.altup(predicted, self._sublayers(active, memory, bias, past, cache))
            added = self.per_layer_input(first, own).unsqueeze(2)
            return torch.cat((streams[:, :, :1], streams[:, :, 1:] + added), dim=2)
        y = self._sublayers(x, memory, bias, past, cache)
        if self.convolution is not None:
            y = self.convolution_norm(y + self.convolution(x))
        return y if self.per_layer_input is None or own is None else y + self.per_layer_input(y, own)

    def _sublayers(
        self, x: Tensor, memory: Tensor | None, bias: Tensor | None, past: int, cache: LayerCache | None
    ) -> Tensor:
        attention, recurrent, cross = self.attention, self.recurrent, self.cross_attention
        feed_forward = self.feed_forward
        if self.skipped:
            return x
        more: tuple[Any, ...] = (cache and cache.feed_forward,) if isinstance(feed_forward, ChannelMix) else ()
        if self.parallel:
            assert attention is not None and feed_forward is not None
            normed = self._norm("attention_norm", x)
            normed_2 = normed if self.shared_norm else self._norm("feed_forward_norm", x)
            attended = self._scale("attention", attention(normed, bias, past, cache))
            return x + attended + self._scale("feed_forward", feed_forward(normed_2, *more))
        if self.mixed:
            assert attention is not None and recurrent is not None
            normed = self._norm("attention_norm", x)
            attended = self._scale("attention", attention(normed, bias, past, cache))
            x = x + attended + self._scale("recurrent", self._recur(normed, cache, memory))
            attention = recurrent = None
        if attention is not None:
            x = self._residual("attention", x, lambda y: attention(y, bias, past, cache))
        if recurrent is not None and self.shared is not None:
            read = self._norm("recurrent_norm", x + self.shared(x, bias, past, cache))
            x = self._add(x, self._scale("recurrent", self._recur(read, cache, memory)), "recurrent")
        elif recurrent is not None:
            x = self._residual("recurrent", x, lambda y: self._recur(y, cache, memory))
        if cross is not None and not self.alone:
            x = self._residual("cross_attention", x, lambda y: cross(y, memory, cache and cache.cross_attention))
        if feed_forward is not None:
            more = (x,) if isinstance(feed_forward, ExpertsApart) else more
            x = self._residual("feed_forward", x, lambda y: feed_forward(y, *more))
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
        mix = self._modules.get(f"{name}_streams")
        if mix is not None:
            read, weights, *mixed = mix(x)
            y = run(read if self.placement == "none" else self._norm(f"{name}_norm", read))
            y = self._norm(f"{name}_post_norm", y) if self.placement == "sandwich" else y
            return (mixed[0] if mixed else x) + weights * y.unsqueeze(2)
        match self.placement:
            case "none":
                return self._add(x, self._scale(name, run(x)), name)
            case "pre":
                return self._add(x, self._scale(name, run(self._norm(f"{name}_norm", x))), name)
            case "post":
                return self._norm(f"{name}_norm", self._add(x, self._scale(name, run(x)), name))
            case "sandwich":
                if self.altup is not None and name == "attention":
                    h = self._norm(f"{name}_norm", x)
                    return self.altup.laurel(h, x + self._norm(f"{name}_post_norm", run(h)))
                y = self._scale(name, run(self._norm(f"{name}_norm", x)))
                return self._add(x, self._norm(f"{name}_post_norm", y), name)
            case "res-post":
                return self._add(x, self._norm(f"{name}_norm", self._scale(name, run(x))), name)

    def _add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        residual = self._parameters.get(f"{name}_residual")
        y = y if self.replaces else (x if residual is None else x * residual) + y
        if name != "feed_forward" or self.adapter is None:
            return y
        return self.adapter(y, getattr(self, "feed_forward_norm", None))

    def _scale(self, name: str, x: Tensor) -> Tensor:
        x = x * self.get_parameter(f"{name}_scale") if self.scaled else x
        return x * self.get_parameter(f"{name}_gate").tanh() if self.gated else x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        own, first = self._modules.get(f"global_{name}"), self.global_tokens
        if own is not None:
            return torch.cat((own(x[:, :first]), self.get_submodule(name)(x[:, first:])), 1)
        y: Tensor = self.get_submodule(name)(x)
        gate = self._modules.get(f"{name}_gate")
        return y if gate is None else gate(y)
