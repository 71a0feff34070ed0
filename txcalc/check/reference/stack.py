"""Stacks of the reference: which blocks follow each other, on which positions, with which cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from txcalc.check.reference.ahead import Streams as AheadStreams
from txcalc.check.reference.altup import End
from txcalc.check.reference.attention import PatchBias, RelativeBias
from txcalc.check.reference.block import Block, PositionTables, sinusoids
from txcalc.check.reference.bottleneck import Bottlenecked
from txcalc.check.reference.cache import LayerCache, Remembered
from txcalc.check.reference.distances import query_bias
from txcalc.check.reference.layers import (
    Normalization,
    Options,
    Repeated,
    dropout_or_nothing,
)
from txcalc.check.reference.mixes import streams
from txcalc.check.reference.per_layer import PerLayerInputs
from txcalc.check.reference.shared_blocks import SharedTransformer
from txcalc.spec.facts import (
    ahead,
    block_multiple,
    embedding_width,
    first_attention,
    global_tokens,
    located_blocks,
)
from txcalc.spec.inputs import (
    ContinuousPosition,
    DecomposedPosition,
    DisentangledPosition,
    LearnedPosition,
    PatchInput,
    RelativePosition,
    RotaryPosition,
    SinusoidalPosition,
    TokenInput,
    TransformerXLPosition,
)
from txcalc.spec.layers import MLA, Attention
from txcalc.spec.model import Model, Stack, Sublayers


@dataclass
class Cache(Remembered):
    """The cache of generation between steps: one entry per run of a block, in order."""

    layers: list[LayerCache]
    length: int = 0
    places: Tensor | None = None  # positions (b, n) of the next tokens, of sequences that begin with padding

    def pad(self, padding: Tensor, places: Tensor) -> Cache:
        """Say what is padding (b, t) among all keys, the next ones too, and where those stand."""
        self.places = places
        for layer in self.layers:
            layer.padding = padding
        return self


class StackModules(nn.Module):
    """The embeddings' positions, the blocks and the norms of one stack; not yet a ``forward``."""

    position_embedding: nn.Embedding | nn.Parameter | None
    relative_embedding: nn.Parameter | None
    type_embedding: nn.Embedding | None
    task_embedding: nn.Embedding | None
    embedding_projection: nn.Linear | None
    relative_bias: RelativeBias | PatchBias | None
    query_bias: nn.Parameter | None
    position_table: Tensor | None
    patch_grid: Tensor | None
    registers: nn.Parameter | None
    per_layer_embedding: PerLayerInputs | None

    def __init__(
        self, model: Model, stack: Stack, options: Options, *, causal: bool, d_model: int, memory: int | None = None
    ) -> None:
        super().__init__()
        self.plan, self.causal, self.multiple = stack, causal, block_multiple(stack)
        together = options.recompute.startswith("full:") and options.recompute[5:]
        self.together = int(together) if together else None
        self.reads_tokens = isinstance(stack.input, TokenInput)
        tables = model.token_tables if self.reads_tokens else ()
        self.span = model.embedding_span if self.reads_tokens else 1
        factorised = self.reads_tokens and model.embedding_dim is not None
        self.projects_first = model.embedding_projection != "sum" or any(table.width for table in tables)
        width = embedding_width(model) if factorised and not self.projects_first else d_model
        self.scale = math.sqrt(d_model) if model.embedding_scale and self.reads_tokens else None
        self._add_positions(stack, width, options)
        image = stack.input if isinstance(stack.input, PatchInput) and stack.input.registers else None
        self.registers = None if image is None else nn.Parameter(torch.randn(image.registers, width) * 0.02)
        self.before_registers = 0 if image is None else image.class_tokens
        types = model.token_types if self.reads_tokens else 0
        self.type_embedding = nn.Embedding(types, width) if types else None
        tasks = model.task_types if self.reads_tokens else 0
        self.task_embedding = nn.Embedding(tasks, width) if tasks else None
        own = stack.norm if stack.embedding_norm_scale else stack.norm.replaced(scale=False, bias=False)
        self.embedding_norm = Normalization(own, width) if stack.embedding_norm else nn.Identity()
        self.embedding_dropout = dropout_or_nothing(options.dropout)
        self.token_tables = nn.ModuleList(nn.Embedding(table.rows, table.width or width) for table in tables)
        self.lookups = [0 if table.width is not None else table.lookups for table in tables]
        self.embedding_projection = None
        if beside := sum(table.width or 0 for table in tables):
            self.embedding_projection = nn.Linear(d_model + beside, d_model)
        if factorised:
            self.embedding_projection = nn.Linear(
                model.embedding_span * embedding_width(model), d_model, bias=model.embedding_projection_bias
            )
        positions = PositionTables(stack, options, causal=causal, context=model.context)
        self.shared_keys = positions.shared
        one_bias = isinstance(stack.position, RelativePosition) and not stack.position.per_layer
        first = first_attention(stack) if one_bias else None
        self.relative_bias = None if first is None else positions.relative_bias(
            first.heads, blocks=getattr(first, "blocks", None))
        self.ahead = AheadStreams(ahead(stack), width) if ahead(stack) else None
        tokens = global_tokens(stack)
        self.global_tokens = nn.Parameter(torch.randn(tokens, d_model) * 0.02) if tokens else None
        one_pair = isinstance(stack.position, TransformerXLPosition) and not stack.position.per_layer
        self.register_parameter("query_bias", _shared_query_bias(stack) if one_pair else None)

        self.width = d_model
        per_layer = model.per_layer_embedding if stack is model else None
        self.per_layer_embedding = None if per_layer is None else PerLayerInputs(
            per_layer, stack.norm, stack.layers, d_model)

        altup = model.altup if stack is model else None
        self.altup_in, self.altup_out = (None if altup is None else End(altup, d_model) for _ in range(2))
        using = {block.shared_block.index: block for _, block in located_blocks(stack) if block.shared_block}
        self.shared_blocks = nn.ModuleDict({str(index): SharedTransformer(
            block.shared_block, block.norm, d_model, options,
            positions.attention(block.shared_block.attention, 2 * d_model))
            for index, block in sorted(using.items()) if block.shared_block is not None})

        def blocks(block: Sublayers, count: int) -> Repeated:
            made = Repeated(
                lambda: Bottlenecked(block, self.width, options, positions) if block.bottleneck else Block(
                    block, self.width, options, positions, scaled=stack.layer_scale,
                              alone=model.unread_memory is not None, memory=memory or model.unread_memory,
                              per_layer=per_layer, stack=stack,
                              kept=stack.residual_scale,
                              altup=altup, shared=cast(dict[str, SharedTransformer], self.shared_blocks)), count
            )
            self.width = cast(Block, made[-1]).width if count else self.width
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
        self.final_streams = streams(stack, self.width, adds=False)
        self.final_norm = Normalization(stack.norm, self.width) if stack.final_norm else nn.Identity()

    def _add_positions(self, stack: Stack, width: int, options: Options) -> None:
        """Tables that are added to the embeddings, and the one that disentangled attention reads."""
        self.position_embedding = self.relative_embedding = table = grid = None
        match stack.position:
            case LearnedPosition(size=size, both_ways=True):
                assert isinstance(stack.input, PatchInput)
                side = stack.input.image // stack.input.patch
                self.position_embedding = nn.Parameter(torch.randn(2, size, width) * 0.02)
                along = torch.arange(side)
                grid = torch.stack(torch.meshgrid(along, along, indexing="xy")).flatten(1)
            case LearnedPosition(size=size) | RelativePosition(absolute=int(size)) | DecomposedPosition(
                    absolute=int(size)) | ContinuousPosition(absolute=int(size)) if not self.reads_tokens:
                # An image or a sound has as many positions as the table, or fewer where its border is left out.
                self.position_embedding = nn.Parameter(torch.randn(size, width) * 0.02)
            case (LearnedPosition(size=size) | DisentangledPosition(absolute=int(size))
                  | RelativePosition(absolute=int(size))):
                self.position_embedding = nn.Embedding(size, width)
            case SinusoidalPosition(stored=True, size=size):
                self.position_embedding = nn.Embedding(size, width, _weight=sinusoids(size, width), _freeze=True)
            case RotaryPosition(size=int(size), dim=part):
                first = first_attention(stack)
                rotated = part or (first.rope_dim if isinstance(first, MLA) else first.head_dim)
                self.position_embedding = nn.Embedding(size, rotated, _freeze=True)
            case SinusoidalPosition():
                table = sinusoids(options.length, width)
        self.register_buffer("position_table", table, persistent=False)
        self.register_buffer("patch_grid", grid, persistent=False)
        if isinstance(stack.position, DisentangledPosition):
            self.relative_embedding = nn.Parameter(torch.randn(2 * stack.position.buckets, width) * 0.02)
            self.relative_norm = Normalization(stack.norm, width) if stack.position.norm else nn.Identity()

    def relative(self, past: int, n: int) -> Tensor | None:
        """Relative positions for every layer's attention: the bias (h, n, past + n), DeBERTa's table, or u and v."""
        if self.relative_embedding is not None:
            return self.relative_norm(self.relative_embedding)
        if self.query_bias is not None:
            return self.query_bias
        return None if self.relative_bias is None else self.relative_bias.look_up(past, n)

    def run(
        self, embedded: Tensor, types: Tensor | None, memory: Tensor | None, cache: Cache | None,
        prefix: Sequence[Tensor] = (), layers: list[Tensor] | None = None, ids: Tensor | None = None,
    ) -> Tensor:
        """Embeddings (b, n, width) to hidden states (b, n, d).

        A prefix (images, tokens, d) replaces the first ones, and further ones are added after each of the first
        blocks. ``layers`` is given what every run of a block puts out. ``ids`` (b, n) are the tokens of a second table.
        """
        past, n = 0 if cache is None else cache.length, embedded.shape[1]
        x = self._embed(embedded, types, past, prefix[0] if prefix else None, None if cache is None else cache.places)
        if self.multiple is not None:
            x = F.pad(x, (0, 0, 0, -n % self.multiple))
        if self.global_tokens is not None:
            x = torch.cat((self.global_tokens.expand(len(x), -1, -1), x), 1)
        bias = self.relative(past, n)
        for shared in self.shared_blocks.values():
            shared.embedded = x
        inputs = None if self.per_layer_embedding is None else self.per_layer_embedding(ids, x)
        if self.plan.streams is not None:
            x = x.unsqueeze(2).expand(-1, -1, self.plan.streams, -1).contiguous()
        x = x if self.altup_in is None else self.altup_in(x)
        if self.together is not None:
            x = self._in_segments(self.together, x, memory, bias, past, inputs)
        for i, block in enumerate(self.blocks_in_order() if self.together is None else ()):
            own = None if inputs is None else inputs[:, :, i]
            x = block(x, memory, bias, past, None if cache is None else cache.layers[i], own)
            if layers is not None:
                layers.append(x)
            if i + 1 < len(prefix):
                seen = prefix[i + 1].flatten(0, 1)
                rows = x.flatten(0, 1)
                x = torch.cat((rows[: len(seen)] + seen, rows[len(seen) :])).view(x.shape)
        if self.shared_keys is not None:
            self.shared_keys.clear()
        if cache is not None:
            cache.length = past + n
        x = x if self.final_streams is None else self.final_streams(x)[0]
        x = x if self.altup_out is None else self.altup_out(x)
        first = 0 if self.global_tokens is None else len(self.global_tokens)
        return self.final_norm(x if self.multiple is None else x[:, first : first + n])

    def _in_segments(
        self, length: int, x: Tensor, memory: Tensor | None, bias: Tensor | None, past: int, inputs: Tensor | None
    ) -> Tensor:
        """So many layers at a time under ``torch.utils.checkpoint``."""
        blocks = list(enumerate(self.blocks_in_order()))

        def segment(
            first: int, x: Tensor, memory: Tensor | None, bias: Tensor | None, inputs: Tensor | None
        ) -> Tensor:
            for i, block in blocks[first : first + length]:
                x = block(x, memory, bias, past, None, None if inputs is None else inputs[:, :, i])
            return x

        for first in range(0, len(blocks), length):
            x = checkpoint(segment, first, x, memory, bias, inputs, use_reentrant=False)
        return x

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

    def _embed(
        self, x: Tensor, types: Tensor | None, past: int, prefix: Tensor | None, places: Tensor | None
    ) -> Tensor:
        b, n, _ = x.shape
        if self.scale is not None:
            x = x * self.scale
        if not all(self.lookups):
            beside = (table(_first_rows(x)) for table, times in zip(self.token_tables, self.lookups, strict=True)
                      if not times)
            x = torch.cat((x, *beside), dim=-1)
        if reach := self.span // 2:
            x = F.pad(x, (0, 0, reach, reach)).unfold(1, self.span, 1).flatten(2)
        if self.embedding_projection is not None and self.projects_first:
            x = self.embedding_projection(x)
        if prefix is not None:
            seen = prefix.flatten(0, 1)
            x = torch.cat((seen, x.flatten(0, 1)[len(seen) :])).view(x.shape)
        position = self.position_embedding
        if isinstance(position, nn.Parameter) and self.patch_grid is not None:
            (column, row), (columns, rows) = self.patch_grid, position
            x = x + F.embedding(column, columns) + F.embedding(row, rows)
        elif isinstance(position, nn.Parameter):
            x = x + position[:n]
        elif isinstance(position, nn.Embedding) and not isinstance(self.plan.position, RotaryPosition):
            x = x + (position.weight if not self.reads_tokens else position(
                torch.arange(past, past + n, device=x.device) if places is None else places))
        elif self.position_table is not None:
            x = x + self.position_table[slice(past, past + n) if places is None else places]
        if self.registers is not None:
            first, registers = self.before_registers, self.registers.expand(b, -1, -1)
            x = torch.cat((x[:, :first], registers, x[:, first:]), dim=1)
        if self.type_embedding is not None:
            types = torch.zeros(b, n, dtype=torch.long, device=x.device) if types is None else types
            x = x + self.type_embedding(types)
        if self.task_embedding is not None:
            x = x + self.task_embedding(_first_rows(x))
        for table, times in zip(self.token_tables, self.lookups, strict=True):
            for _ in range(times):
                x = x + table(_first_rows(x))
        if self.ahead is not None:
            x = self.ahead(x, past, position)
        x = self.embedding_dropout(self.embedding_norm(x))
        return x if self.embedding_projection is None or self.projects_first else self.embedding_projection(x)


def _first_rows(x: Tensor) -> Tensor:
    """The first row of a table for every token, where no others are given."""
    return torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)


def _shared_query_bias(stack: Stack) -> nn.Parameter:
    first = first_attention(stack)
    assert isinstance(first, Attention)
    return query_bias(first.heads, first.head_dim)


class InnerStack(StackModules):
    """The encoder or the decoder of an encoder-decoder."""

    def forward(self, embedded: Tensor, types: Tensor | None, memory: Tensor | None, cache: Cache | None) -> Tensor:
        """Token embeddings (b, n, width) to hidden states (b, n, d)."""
        return self.run(embedded, types, memory, cache)
