"""The whole reference model: stacks, heads, generation and loss, in plain PyTorch from the spec alone.

It is the other half of the proof, so it imports the spec and torch and nothing of the trace or the counters.
Its module names are the paths that the counters use: ``layers.0.attention.q`` (compared as ``layers.attention.q``),
``encoder.layers.0.feed_forward.up``, ``head``. What the spec leaves out has no module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.heads import Output, Top, build_pooler
from txcalc.check.reference.inputs import Reader
from txcalc.check.reference.layers import Options
from txcalc.check.reference.scope import refuse_unknown
from txcalc.check.reference.stack import Cache, InnerStack, StackModules
from txcalc.check.reference.tower import TowerModules
from txcalc.spec.facts import embedding_width, is_causal, unpatched
from txcalc.spec.facts import width as width_of
from txcalc.spec.inputs import PatchInput, TokenInput
from txcalc.spec.model import Encoder, Model, Stack

__all__ = ["Output", "Reference", "build"]


class Reference(Reader, Top):
    """Base class of both kinds of model: token tables, a tower, pooler and head, generation and the loss.

    Raises ValueError where a model is asked for what it does not have: a cache without a causal stack, a loss
    without a head.
    """

    token_embedding: nn.Embedding | None
    source_embedding: nn.Embedding | None
    tower: TowerModules | None

    def add_ends(self, model: Model, options: Options, width: int) -> None:
        """Build what comes before the stacks and after them; the last one hands on ``width`` columns."""
        stacks: list[Stack] = [model, *([model.encoder] if model.encoder else [])]
        own = None if model.vocab is None else model.vocab + model.extra_tokens
        tables = {"token_embedding": own, "source_embedding": model.source_vocab}
        if model.unused_table:
            self.unused_table = nn.Parameter(torch.zeros(model.vocab or 0, embedding_width(model)))
        if not any(isinstance(stack.input, TokenInput) for stack in stacks):
            tables = dict.fromkeys(tables)
        for name, rows in tables.items():
            setattr(self, name, None if rows is None else nn.Embedding(rows, embedding_width(model)))
        for stack in stacks:
            self.add_reader(stack.input, width_of(model, stack))
        self.tower = None if model.tower is None else TowerModules(model, model.tower, options)
        self.add_top(model, self.token_embedding, options, width)

    @property
    def stack(self) -> StackModules:
        """The model's own stack: the decoder of an encoder-decoder."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, source: Tensor | None = None, types: Tensor | None = None, cache: Cache | None = None,
        images: Tensor | None = None,
    ) -> Output:
        """Run on token ids (b, n), pixels or frames.

        An encoder-decoder also takes a source, or a cache that has read it; a tower takes its ``images``.
        """
        raise NotImplementedError

    def prefill(
        self, x: Tensor, source: Tensor | None = None, images: Tensor | None = None, padded: Sequence[Tensor] = (),
    ) -> tuple[Output, Cache]:
        """Run a prompt and fill a new cache with it. ``padded``: what ``Cache.pad`` is told, of unequal lengths."""
        if not is_causal(self.model):
            raise ValueError("only a causal stack generates, so only it has a key-value cache")
        cache = Cache([LayerCache() for _ in range(self.model.layers)])
        cache = cache.pad(*padded) if padded else cache
        return self(x, source, cache=cache, images=images), cache

    def embed(self, stack: Stack, x: Tensor, *, source: bool = False) -> Tensor:
        """Embed inputs as the positions of a stack: (b, n, width)."""
        if not isinstance(stack.input, TokenInput):
            return self.read(stack.input, x)
        table = self.source_embedding if source and self.source_embedding is not None else self.token_embedding
        assert table is not None
        return table(x)


class OneStack(StackModules, Reference):
    """A decoder-only or encoder-only model: its stack's modules stand at the root."""

    def __init__(self, model: Model, options: Options) -> None:
        causal = is_causal(model) or model.causal_mask
        StackModules.__init__(self, model, model, options, causal=causal, d_model=model.d_model)
        self.add_ends(model, options, self.width)

    @property
    def stack(self) -> StackModules:
        """The model itself."""
        return self

    def forward(
        self, x: Tensor, source: Tensor | None = None, types: Tensor | None = None, cache: Cache | None = None,
        images: Tensor | None = None,
    ) -> Output:
        """Run on token ids (b, n), pixels or frames."""
        if source is not None:
            raise ValueError("only an encoder-decoder reads a source")
        seen = [] if self.tower is None or images is None else self.tower(images)
        prefix = seen if self.model.tower is not None and self.model.tower.projector is not None else []
        hidden = self.run(self.embed(self.model, x), types, None, cache, prefix, ids=x)
        return self.on_top(hidden, seen[0] if seen else None)


class EncoderStack(InnerStack):
    """An encoder, which may pool what it puts out for nothing, and project it to the decoder's width."""

    projection: nn.Linear | None

    def __init__(self, model: Model, encoder: Encoder, options: Options) -> None:
        super().__init__(model, encoder, options, causal=encoder.causal_mask, d_model=width_of(model, encoder))
        extra = unpatched(encoder.input) if isinstance(encoder.input, PatchInput) else 0
        self.pooler = build_pooler(encoder.pooler, encoder.norm, self.width, extra, options)
        self.projection = nn.Linear(self.width, model.d_model) if encoder.projection else None

    def forward(self, embedded: Tensor, types: Tensor | None, memory: Tensor | None, cache: Cache | None) -> Tensor:
        """The same, projected."""
        y = super().forward(embedded, types, memory, cache)
        if self.pooler is not None:
            self.pooler(y)
        return y if self.projection is None else self.projection(y)


class EncoderDecoder(Reference):
    """Two stacks; both read token ids through one table, unless the source has its own or is no text."""

    def __init__(self, model: Model, options: Options) -> None:
        super().__init__()
        assert model.encoder is not None
        source, d = model.encoder, model.d_model
        encoder = EncoderStack(model, source, options)
        memory = d if source.projection else encoder.width
        decoder = InnerStack(model, model, options, causal=True, d_model=d, memory=memory)
        self.add_ends(model, options, decoder.width)
        self.encoder, self.decoder = encoder, decoder

    @property
    def stack(self) -> StackModules:
        """The decoder."""
        return self.decoder

    def forward(
        self, x: Tensor, source: Tensor | None = None, types: Tensor | None = None, cache: Cache | None = None,
        images: Tensor | None = None,
    ) -> Output:
        """Run the encoder on a source (b, s) unless the cache has it, then the decoder on token ids (b, n)."""
        encoder = self.model.encoder
        assert encoder is not None
        memory = None
        if source is not None:
            memory = self.encoder(self.embed(encoder, source, source=True), None, None, None)
        return self.on_top(self.decoder(self.embed(self.model, x), types, memory, cache))


def build(
    model: Model, *, length: int, eager: bool = False, dtype: torch.dtype = torch.float32, device: str = "cpu",
    **how: Any,
) -> Reference:
    """The reference for ``model`` with random weights; ``length`` bounds past plus new tokens, source included.

    ``eager`` is short for ``attention="eager"``; ``how``: the other fields of ``Options``.
    """
    refuse_unknown(model)
    options = Options(length, **(how | {"attention": "eager"} if eager else how))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return EncoderDecoder(model, options) if model.encoder is not None else OneStack(model, options)
    finally:
        torch.set_default_dtype(before)
