"""Poolers and heads on top of a stack in the reference: one vector for a sequence, outputs, and the loss."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from txcalc.check.reference.beside import AutoencoderWeights, EntityWeights, IdleWeights
from txcalc.check.reference.crossing import CrossAttention
from txcalc.check.reference.layers import Normalization, Options, Repeated, activate, dense
from txcalc.check.reference.losses import (
    ChunkedCrossEntropy,
    ContrastiveLoss,
    CrossEntropy,
    FusedLinearCrossEntropy,
    PairsLoss,
)
from txcalc.spec import inputs
from txcalc.spec.facts import ahead, embedding_width, first_attention, is_causal, unpatched
from txcalc.spec.inputs import (
    AttentionPooler,
    ClassifierHead,
    ContrastiveHead,
    LMHead,
    NoHead,
    PatchInput,
    ProjectionHead,
)
from txcalc.spec.layers import Norm
from txcalc.spec.model import Model


class Output(NamedTuple):
    """Hidden states (b, n, d) and what is made of them, as far as the model has it.

    ``pooled`` is (b, d). ``logits`` are (b, n, vocab), (b, n, labels), (b, labels), a projected vector (b, width), or
    the products of all texts with all images; ``extra`` are those of further heads. A chunked loss has logits in
    chunks of positions; a fused one makes them itself of what the head reads, which stands in their place.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    logits: Any = None
    extra: tuple[Tensor, ...] = ()


# ---------------------------------------------------------------- one vector for a sequence


class DensePooler(nn.Module):
    """Dense and an activation on one position: (b, n, d) to (b, width)."""

    def __init__(self, pooler: inputs.DensePooler, d_model: int) -> None:
        super().__init__()
        self.width = pooler.width or d_model
        self.activation, self.at = pooler.activation, 0 if pooler.of == "first" else -1
        self.dense = nn.Linear(d_model, self.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(b, n, d) to (b, width)."""
        y: Tensor = self.dense(hidden[:, self.at])
        return y if self.activation is None else activate(self.activation, y)


class NormPooler(nn.Module):
    """A norm on the first position, or on the mean of those after the class tokens."""

    def __init__(self, pooler: inputs.NormPooler, norm: Norm, width: int, class_tokens: int) -> None:
        super().__init__()
        self.mean, self.width, self.class_tokens = pooler.of == "mean", width, class_tokens
        self.norm = Normalization(norm, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(b, n, d) to (b, d)."""
        return self.norm(hidden[:, self.class_tokens :].mean(dim=1) if self.mean else hidden[:, 0])


class ReadingPooler(nn.Module):
    """A learned query attends to all positions, then a feed-forward in its residual."""

    def __init__(self, pooler: AttentionPooler, norm: Norm, width: int, options: Options) -> None:
        super().__init__()
        self.width = width
        self.query = nn.Parameter(torch.randn(1, 1, width))
        self.attention = CrossAttention(pooler.attention, width, options)
        self.norm = Normalization(norm, width)
        self.feed_forward = dense(pooler.feed_forward, width, options)

    def forward(self, hidden: Tensor) -> Tensor:
        """(b, n, d) to (b, d)."""
        x = self.attention(self.query.expand(hidden.shape[0], -1, -1), hidden, None)
        y: Tensor = x + self.feed_forward(self.norm(x))
        return y[:, 0]


Pooler = DensePooler | NormPooler | ReadingPooler


def build_pooler(
    pooler: inputs.Pooler | None, norm: Norm, width: int, class_tokens: int, options: Options
) -> Pooler | None:
    """The pooler of a stack whose hidden states have ``width`` features."""
    match pooler:
        case None:
            return None
        case inputs.DensePooler():
            return DensePooler(pooler, width)
        case inputs.NormPooler():
            return NormPooler(pooler, norm, width, class_tokens)
        case AttentionPooler():
            return ReadingPooler(pooler, norm, width, options)


# ---------------------------------------------------------------- outputs


class HeadTransform(nn.Module):
    """Dense, activation and norm before the output, down to the width of the embeddings it may be tied to."""

    def __init__(self, transform: inputs.HeadTransform, d_model: int, width: int) -> None:
        super().__init__()
        self.activation = transform.activation
        self.hidden, read = None, transform.hidden or d_model
        if transform.hidden is not None:
            self.hidden = nn.Linear(d_model, transform.hidden, bias=transform.bias)
        self.dense = nn.Linear(read, width, bias=transform.bias)
        self.norm = nn.Identity() if transform.norm is None else Normalization(transform.norm, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., d) to (..., width)."""
        return self.norm(activate(self.activation, self.dense(
            hidden if self.hidden is None else activate(self.activation, self.hidden(hidden)))))


def projection(width: int, to: int | None) -> nn.Module:
    """Of a vector to another width, or to none: the vector as it is."""
    return nn.Identity() if to is None else nn.Linear(width, to, bias=False)


class WidenedHead(nn.Module):
    """A product with the token table and further rows, one below the other."""

    bias: nn.Parameter | None

    def __init__(self, head: LMHead, d_model: int, width: int, vocab: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab, width) * 0.02)
        self.rows = nn.Parameter(torch.randn(d_model - width, vocab) * 0.02)
        self.bias = nn.Parameter(torch.zeros(vocab)) if head.bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """(b, n, d) to (b, n, vocab)."""
        y = hidden @ torch.cat((self.weight.T, self.rows))
        return y if self.bias is None else y + self.bias


class Maxout(nn.Module):
    """The largest of every ``pieces`` columns of a dense layer (arXiv 1302.4389)."""

    def __init__(self, maxout: inputs.Maxout, d: int) -> None:
        super().__init__()
        self.pieces = maxout.pieces
        self.dense = nn.Linear(d, maxout.width * maxout.pieces, bias=maxout.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., d) to (..., width)."""
        return self.dense(hidden).unflatten(-1, (-1, self.pieces)).max(dim=-1).values


class Softcap(nn.Module):
    """``cap * tanh(logits / cap)``."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, logits: Tensor) -> Tensor:
        """(b, n, vocab) to the same shape."""
        return self.cap * torch.tanh(logits / self.cap)


class Similarity(nn.Module):
    """Products of all texts with all images, each made a unit vector (CLIP, arXiv 2103.00020, figure 3)."""

    def forward(self, text: Tensor, image: Tensor, temperature: Tensor) -> Tensor:
        """(texts, width) and (images, width) to (texts, images)."""
        text, image = (x / x.norm(dim=-1, keepdim=True) for x in (text, image))
        return text @ image.T * temperature.exp()


class Top(nn.Module):
    """The pooler and the heads, standing in the module that inherits this."""

    pooler: Pooler | None
    output_projection: nn.Linear | None
    head_transform: HeadTransform | None
    maxout: Maxout | None
    head: nn.Module | None
    head_softcap: Softcap | None
    pair_head: nn.Linear | None
    similarity_bias: nn.Parameter | None

    def add_top(self, model: Model, table: nn.Embedding | None, options: Options, width: int) -> None:
        """Build what stands on the hidden states (b, n, width); a tied head shares the weight of ``table``."""
        self.model, head = model, model.head
        self.output_projection = self.head_transform = self.maxout = None
        self.head = self.head_softcap = self.pair_head = None
        if model.embedding_projection == "tokens" and model.embedding_dim is not None:
            hidden, width = width, model.embedding_dim
            self.output_projection = nn.Linear(hidden, width, bias=False)
        self.unpatched = unpatched(model.input) if isinstance(model.input, PatchInput) else 0
        self.pooler = build_pooler(model.pooler, model.norm, width, self.unpatched, options)
        vector = width if self.pooler is None else self.pooler.width
        self.entities = None if model.entities is None else EntityWeights(model)
        self.idle = IdleWeights(model.idle) if model.idle else None
        plan = model.autoencoder
        self.autoencoder = None if plan is None else AutoencoderWeights(plan, model.d_model)
        if model.contact_head:
            self.contact_head = nn.Linear(model.layers * first_attention(model).heads, 1)
        match head:
            case LMHead():
                self._add_lm(head, width, vector, table)
            case ClassifierHead():
                vector = {"first": vector, "first+mean": 2 * width}.get(head.of, width)
                if head.transform is not None:
                    self.head_transform = HeadTransform(head.transform, vector, head.transform.width or vector)
                    vector = head.transform.width or vector
                make = partial(nn.Linear, vector, head.labels, bias=head.bias)
                self.head = make() if head.copies == 1 else Repeated(make, head.copies)
            case ProjectionHead():
                read = width if head.of == "mean" else vector
                self.hidden = None if head.hidden is None else nn.Linear(read, head.hidden, bias=False)
                self.projection = nn.Linear(head.hidden or read, head.width, bias=False)
            case ContrastiveHead():
                assert model.tower is not None
                tower = model.tower
                image = getattr(tower.pooler, "width", None) or tower.d_model
                self.text_projection = projection(vector, head.width)
                self.image_projection = projection(image, head.width)
                self.temperature = nn.Parameter(torch.tensor(1.0))
                bias = nn.Parameter(torch.tensor(0.0)) if head.loss == "sigmoid" else None
                self.register_parameter("similarity_bias", bias)
                self.similarity = Similarity()
        self.loss: nn.Module = CrossEntropy(options.loss_as)
        if isinstance(head, ContrastiveHead):
            self.loss = PairsLoss() if head.loss == "sigmoid" else ContrastiveLoss()
        elif isinstance(self.head, nn.Linear) and options.loss_as == "fused":
            self.loss = FusedLinearCrossEntropy(self.head)
        elif chunks := options.loss_as.partition(":")[2]:
            self.loss = ChunkedCrossEntropy(int(chunks))
        self.pair_loss = CrossEntropy(options.loss_as)

    def _add_lm(self, head: LMHead, width: int, vector: int, table: nn.Embedding | None) -> None:
        model = self.model
        assert model.vocab is not None
        if head.transform is not None:
            own = head.transform.width or (model.d_model if head.widened else embedding_width(model))
            self.head_transform, width = HeadTransform(head.transform, width, own), own
        if head.maxout is not None:
            self.maxout, width = Maxout(head.maxout, width), head.maxout.width
        if head.copies > 1:
            self.head = Repeated(partial(nn.Linear, width, model.vocab, bias=head.bias), head.copies)
            self.head_softcap = None if head.softcap is None else Softcap(head.softcap)
            return
        linear: nn.Module = nn.Linear(width, model.vocab, bias=head.bias)
        if head.widened:
            linear = WidenedHead(head, width, embedding_width(model), model.vocab)
        if head.tied and table is not None:
            linear.weight = table.weight
        if head.unused_bias:
            linear.register_parameter("unused_bias", nn.Parameter(torch.zeros(model.vocab)))
        self.head = linear
        self.head_softcap = None if head.softcap is None else Softcap(head.softcap)
        self.pair_head = nn.Linear(vector, head.pair_labels) if head.pair_labels else None

    @property
    def has_loss(self) -> bool:
        """Tell whether the outputs alone can be trained on: a projection is half of a model."""
        return not isinstance(self.model.head, NoHead | ProjectionHead)

    def on_top(self, hidden: Tensor, image: Tensor | None = None) -> Output:
        """The model's outputs, from its last hidden states (b, n, d) and the vectors of a tower's images."""
        if self.output_projection is not None:
            hidden = self.output_projection(hidden)
        if (streams := ahead(self.model)) and self.model.head.kind == "lm":
            hidden = hidden[:, hidden.shape[1] // (1 + streams) :]
        pooled = None if self.pooler is None else self.pooler(hidden)
        vector = hidden[:, -1 if is_causal(self.model) or self.model.causal_mask else 0] if pooled is None else pooled
        match self.model.head:
            case ProjectionHead(of=of):
                vector, pooled = (hidden.mean(dim=1), None) if of == "mean" else (vector, pooled)
                vector = vector if self.hidden is None else self.hidden(vector)
                return Output(hidden, pooled, self.projection(vector))
            case ContrastiveHead():
                text, seen = self.text_projection(vector), self.image_projection(image)
                logits = self.similarity(text, seen, self.temperature)
                return Output(hidden, pooled, logits if self.similarity_bias is None else logits + self.similarity_bias)
            case ClassifierHead() as head:
                read = pooled if head.of == "first" else None
                return Output(hidden, read, *self._classes(head, hidden, pooled))
            case LMHead() if isinstance(self.head, Repeated):
                x, cap = self._read(hidden), self.head_softcap or nn.Identity()
                first, *rest = (cap(one(x)) for one in self.head)
                return Output(hidden, None, first, tuple(rest))
            case LMHead():
                logits = self._predicted(self._read(hidden))
                if self.pair_head is None:
                    return Output(hidden, None, logits)
                return Output(hidden, pooled, logits, (self.pair_head(pooled),))
        return Output(hidden, pooled)

    def loss_of(self, out: Output, targets: tuple[Tensor, ...]) -> Tensor:
        """The sum of every output's loss against its own targets."""
        if out.logits is None or not self.has_loss:
            raise ValueError("a model without a head, or with half of one, has no loss")
        streams = ahead(self.model)
        if getattr(self.model.head, "of", "") == "span":
            columns = [each.squeeze(-1).contiguous() for each in out.logits.split(1, dim=-1)]
            sought = [each.clamp(0, out.logits.shape[1]) for each in targets]
            start, end = (self.loss(*pair) for pair in zip(columns, sought, strict=True))
            return (start + end) / 2
        total: Tensor = self.loss(out.logits, targets[0].repeat(1, streams) if streams else targets[0])
        further = self.loss if self.pair_head is None else self.pair_loss
        for logits, wanted in zip(out.extra, targets[1:], strict=True):
            total = total + further(logits, wanted)
        return total

    def _classes(
        self, head: ClassifierHead, hidden: Tensor, pooled: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The logits of the head, or of several that stand on a class token each."""
        if isinstance(self.head, Repeated):
            mean = hidden.mean(dim=1) if head.of == "mean" else None
            first, *rest = (one(hidden[:, i] if mean is None else mean) for i, one in enumerate(self.head))
            return first, tuple(rest)
        match head.of:
            case "first":
                x = hidden[:, 0] if pooled is None else pooled
            case "mean":
                x = hidden.mean(dim=1)
            case "first+mean":
                x = torch.cat((hidden[:, 0], hidden[:, self.unpatched :].mean(dim=1)), dim=-1)
            case "all" | "votes" | "last" | "span":
                x = hidden
        logits = self._output(x)
        logits = logits[:, -1] if head.of == "last" else logits
        return logits.mean(dim=1) if head.of == "votes" else logits, ()

    def _predicted(self, x: Tensor) -> Any:
        """Logits of the vocabulary, in the form that the loss takes."""
        match self.loss:
            case FusedLinearCrossEntropy():
                return x
            case ChunkedCrossEntropy(chunks=chunks):
                return tuple(self._capped(each) for each in x.chunk(chunks, dim=1))
        return self._capped(x)

    def _capped(self, x: Tensor) -> Tensor:
        assert self.head is not None
        logits: Tensor = self.head(x)
        return logits if self.head_softcap is None else self.head_softcap(logits)

    def _read(self, x: Tensor) -> Tensor:
        """The input of the head."""
        x = x if self.head_transform is None else self.head_transform(x)
        return x if self.maxout is None else self.maxout(x)

    def _output(self, x: Tensor) -> Tensor:
        assert self.head is not None
        return self.head(self._read(x))
