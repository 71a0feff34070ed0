"""The whole reference model: stacks, heads, generation and loss, in plain PyTorch from the spec alone.

It is the other half of the proof, so it imports the spec and torch and nothing of the trace or the counters.
Its module names are the paths that the counters use: ``layers.0.attention.q`` (compared as ``layers.attention.q``),
``encoder.layers.0.feed_forward.up``, ``head``. What the spec leaves out has no module.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference_attention import LayerCache
from txcalc.check.reference_layers import Normalization, Options, activate
from txcalc.check.reference_scope import refuse_unknown
from txcalc.check.reference_stack import Cache, InnerStack, StackModules
from txcalc.spec.inputs import ClassifierHead, LMHead
from txcalc.spec.inputs import HeadTransform as HeadTransformSpec
from txcalc.spec.model import Model


class Output(NamedTuple):
    """Hidden states (b, n, d); the pooled first position (b, d); logits (b, n, vocab), or (b, labels)."""

    hidden: Tensor
    pooled: Tensor | None
    logits: Tensor | None


# ---------------------------------------------------------------- the model


class Pooler(nn.Module):
    """Dense and tanh on the first position: (b, n, d) to (b, d)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.dense = nn.Linear(d_model, d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        """(b, n, d) to (b, d)."""
        return torch.tanh(self.dense(hidden[:, 0]))


class HeadTransform(nn.Module):
    """Dense, activation and norm before the output, down to the width of the embeddings it may be tied to."""

    def __init__(self, transform: HeadTransformSpec, d_model: int, width: int) -> None:
        super().__init__()
        self.activation = transform.activation
        self.dense = nn.Linear(d_model, width, bias=transform.bias)
        self.norm = nn.Identity() if transform.norm is None else Normalization(transform.norm, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(b, n, d) to (b, n, width)."""
        y: Tensor = self.norm(activate(self.activation, self.dense(hidden)))
        return y


class CrossEntropy(nn.Module):
    """The mean loss over all positions, computed in at least float32."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (..., classes) and targets (...) to a scalar."""
        return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())


class Reference(nn.Module):
    """What both kinds of model share: the token table, what stands on top, generation and the loss.

    Raises ValueError where a model is asked for what it does not have: a cache without a causal stack, a loss
    without a head.
    """

    token_embedding: nn.Embedding
    pooler: Pooler | None
    head_transform: HeadTransform | None
    head: nn.Linear | None

    def add_ends(self, model: Model) -> None:
        """Build the token table and the heads."""
        self.model, head = model, model.head
        d_model, width = model.d_model, model.embedding_width
        assert model.vocab is not None
        self.token_embedding = nn.Embedding(model.vocab, width)
        self.pooler = Pooler(d_model) if model.pooler else None
        self.head_transform = self.head = None
        match head:
            case LMHead(transform=transform):
                if transform is not None:
                    self.head_transform = HeadTransform(transform, d_model, width)
                self.head = nn.Linear(d_model if transform is None else width, model.vocab, bias=head.bias)
                if head.tied:
                    self.head.weight = self.token_embedding.weight
            case ClassifierHead():
                self.head = nn.Linear(d_model, head.labels, bias=head.bias)
        self.loss = CrossEntropy()

    @property
    def stack(self) -> StackModules:
        """The model's own stack: the decoder of an encoder-decoder."""
        raise NotImplementedError

    def forward(
        self, tokens: Tensor, source: Tensor | None = None, types: Tensor | None = None, cache: Cache | None = None
    ) -> Output:
        """Run on token ids (b, n); an encoder-decoder also takes a source (b, s), or a cache that has read it."""
        raise NotImplementedError

    def prefill(self, tokens: Tensor, source: Tensor | None = None) -> tuple[Output, Cache]:
        """Run a prompt and fill a new cache with it."""
        if not self.model.causal:
            raise ValueError("only a causal stack generates, so only it has a key-value cache")
        cache = Cache([LayerCache() for _ in range(self.model.layers)])
        return self(tokens, source, cache=cache), cache

    def training_loss(self, tokens: Tensor, targets: Tensor, source: Tensor | None = None) -> Tensor:
        """Cross-entropy against targets of (b, n), or (b,) for a classifier."""
        logits = self(tokens, source).logits
        if logits is None:
            raise ValueError("a model without a head has no loss")
        loss: Tensor = self.loss(logits, targets)
        return loss

    def on_top(self, hidden: Tensor) -> Output:
        """What the model makes of its last hidden states (b, n, d)."""
        pooled = None if self.pooler is None else self.pooler(hidden)
        logits: Tensor | None = None
        if self.head is not None:
            if isinstance(self.model.head, ClassifierHead):
                match self.model.head.of:
                    case "first":
                        logits = self.head(hidden[:, 0] if pooled is None else pooled)
                    case "mean":
                        logits = self.head(hidden.mean(dim=1))
                    case "all":
                        logits = self.head(hidden)
            else:
                logits = self.head(hidden if self.head_transform is None else self.head_transform(hidden))
        return Output(hidden, pooled, logits)


class OneStack(StackModules, Reference):
    """A decoder-only or encoder-only model: its stack's modules stand at the root."""

    def __init__(self, model: Model, options: Options) -> None:
        StackModules.__init__(self, model, model, options, causal=model.causal)
        self.add_ends(model)

    @property
    def stack(self) -> StackModules:
        """The model itself."""
        return self

    def forward(
        self, tokens: Tensor, source: Tensor | None = None, types: Tensor | None = None, cache: Cache | None = None
    ) -> Output:
        """Run on token ids (b, n)."""
        if source is not None:
            raise ValueError("only an encoder-decoder reads a source")
        return self.on_top(self.run(self.token_embedding(tokens), types, None, cache))


class EncoderDecoder(Reference):
    """Two stacks over one token table."""

    def __init__(self, model: Model, options: Options) -> None:
        super().__init__()
        assert model.encoder is not None
        self.add_ends(model)
        self.encoder = InnerStack(model, model.encoder, options, causal=False)
        self.decoder = InnerStack(model, model, options, causal=True)

    @property
    def stack(self) -> StackModules:
        """The decoder."""
        return self.decoder

    def forward(
        self, tokens: Tensor, source: Tensor | None = None, types: Tensor | None = None, cache: Cache | None = None
    ) -> Output:
        """Run the encoder on a source (b, s) unless the cache has it, then the decoder on token ids (b, n)."""
        memory = None if source is None else self.encoder(self.token_embedding(source), None, None, None)
        return self.on_top(self.decoder(self.token_embedding(tokens), types, memory, cache))


def build(
    model: Model, *, length: int, eager: bool = False, dropout: float = 0.0,
    dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> Reference:
    """The reference for ``model`` with random weights; ``length`` bounds past plus new tokens, source included."""
    refuse_unknown(model)
    options = Options(length=length, eager=eager, dropout=dropout)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return EncoderDecoder(model, options) if model.encoder is not None else OneStack(model, options)
    finally:
        torch.set_default_dtype(before)
