"""What a model is: frozen, validated sizes and switches, and nothing that is computed from them.

A uniform model is flat: the fields of its one repeated block stand at the top level. A model whose layers
differ lists ``groups``; each block there gives only what differs and takes the rest from the top level.
After validation every default is filled in (``kv_heads``, ``head_dim``, the encoder, the groups), so that a
dumped spec stands on its own and the programs that read it never have to ask what a missing value means.

Sizes are ints here, and every check on a size is made here. The programs under ``txcalc.trace`` also run on
symbols and arrays, which enter a validated spec through ``model_copy(update=...)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from txcalc.spec import resolve
from txcalc.spec.errors import FieldError

Size = Annotated[int, Field(strict=True, ge=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu", "tanh", "sigmoid"]
Architecture = Literal["decoder-only", "encoder-only", "encoder-decoder"]


class Spec(BaseModel):
    """Base of every spec: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _kind(default: str) -> Discriminator:
    """A union told apart by ``kind``, which may be left out when it is the usual one."""

    def read(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, Mapping) else getattr(value, "kind", default)

    return Discriminator(read)


# ---------------------------------------------------------------- norms


class Norm(Spec):
    """A normalisation over the last axis: LayerNorm (arXiv 1607.06450) or RMSNorm (arXiv 1910.07467)."""

    kind: Literal["layernorm", "rmsnorm"] = "layernorm"
    scale: Flag = True
    bias: Flag = Field(default=True, description="default: true for layernorm, false for rmsnorm")
    eps: Positive = 1e-5

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        return resolve.norm(data)


class BlockNorm(Norm):
    """The norms of a block, and where they stand.

    ``pre``: x + f(norm(x)). ``post``: norm(x + f(x)). ``sandwich``: x + norm(f(norm(x))).
    ``res-post``: x + norm(f(x)), the order of OLMo 2.
    """

    placement: Literal["pre", "post", "sandwich", "res-post"] = "pre"
    shared: Flag = Field(default=False, description="parallel blocks: one norm feeds attention and feed-forward")


class HeadNorm(Norm):
    """A norm on queries and keys before their product.

    ``head``: over head_dim, one weight for all heads. ``heads``: over head_dim, each head its own weight.
    ``full``: over the whole projection.
    """

    kind: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    over: Literal["head", "heads", "full"] = "head"


# ---------------------------------------------------------------- attention


class AttentionBias(Spec):
    """Which of the four projections add a bias. ``bias: true`` in a spec means all of them."""

    q: Flag = False
    k: Flag = False
    v: Flag = False
    o: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return dict.fromkeys("qkvo", data) if isinstance(data, bool) else data


class Attention(Spec):
    """Multi-head (kv_heads = heads), grouped-query, or multi-query (kv_heads = 1) attention.

    arXiv 1706.03762 section 3.2; GQA: arXiv 2305.13245; MQA: arXiv 1911.02150.
    """

    kind: Literal["standard"] = "standard"
    heads: Size
    kv_heads: Size = Field(default=None, description="default: heads")  # type: ignore[assignment]
    head_dim: Size = Field(default=None, description="default: d_model / heads")  # type: ignore[assignment]
    bias: AttentionBias = AttentionBias()
    window: Size | None = Field(default=None, description="sliding window: keys each query sees, itself included")
    qk_norm: HeadNorm | None = None
    scale: Positive | None = Field(default=None, description="softmax scale; default 1/sqrt(head_dim)")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        return resolve.attention(data)

    @model_validator(mode="after")
    def _check(self) -> Attention:
        if self.head_dim is None:
            raise FieldError(("head_dim",), "is needed where there is no d_model to take it from")
        if self.heads % self.kv_heads:
            raise FieldError(("kv_heads",), f"{self.kv_heads} does not divide heads {self.heads}; "
                             f"use one of {resolve.divisors(self.heads)}")
        return self


# ---------------------------------------------------------------- feed-forward


class DenseBias(Spec):
    """Which projections add a bias. ``bias: true`` in a spec means all of them."""

    up: Flag = False
    gate: Flag = False
    down: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return dict.fromkeys(("up", "gate", "down"), data) if isinstance(data, bool) else data


class Dense(Spec):
    """Two projections around an activation, or three when gated (GLU variants, arXiv 2002.05202)."""

    kind: Literal["dense"] = "dense"
    d_ff: Size
    activation: Activation = "gelu"
    gated: Flag = Field(default=False, description="SwiGLU is gated silu, GEGLU is gated gelu")
    bias: DenseBias = DenseBias()


class MoE(Spec):
    """Token-choice mixture of experts: each token is sent to its top ``active_experts`` of ``experts``.

    arXiv 1701.06538; the forms of Mixtral (arXiv 2401.04088) and DeepSeekMoE (arXiv 2401.06066).
    """

    kind: Literal["moe"] = "moe"
    experts: Size
    active_experts: Size
    d_ff: Size = Field(description="width of one routed expert")
    activation: Activation = "silu"
    gated: Flag = True
    bias: DenseBias = DenseBias()
    router_bias: Flag = False
    routing: Literal["softmax-topk", "topk-softmax", "sigmoid-topk"] = "softmax-topk"
    normalize: Flag = Field(default=True, description="the chosen experts' weights are made to sum to 1")
    shared_experts: Count = Field(default=0, description="experts every token passes, in one fused feed-forward")
    shared_d_ff: Size | None = Field(default=None, description="width of one shared expert; default d_ff")
    shared_gate: Flag = Field(default=False, description="a sigmoid gate on the shared experts' output")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        return resolve.moe(data)

    @model_validator(mode="after")
    def _check(self) -> MoE:
        if self.active_experts > self.experts:
            raise FieldError(("active_experts",), f"{self.active_experts} is more than experts {self.experts}")
        if not self.shared_experts and (self.shared_gate or self.shared_d_ff is not None):
            name = "shared_gate" if self.shared_gate else "shared_d_ff"
            raise FieldError((name,), "needs shared_experts of at least 1")
        return self


FeedForward = Annotated[
    Annotated[Dense, Tag("dense")] | Annotated[MoE, Tag("moe")], _kind("dense")
]


# ---------------------------------------------------------------- positions


class NoPosition(Spec):
    """No position information of its own."""

    kind: Literal["none"] = "none"


class LearnedPosition(Spec):
    """A trained table with one row per position."""

    kind: Literal["learned"] = "learned"
    size: Size = Field(description="rows of the table; default: context")


class SinusoidalPosition(Spec):
    """Fixed sines and cosines (arXiv 1706.03762 section 3.5); ``stored`` when kept as a frozen parameter."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    stored: Flag = False
    size: Size = Field(description="rows when stored; default: context")


class RotaryPosition(Spec):
    """RoPE (arXiv 2104.09864): queries and keys are rotated; no weights, nothing kept for backward."""

    kind: Literal["rope"] = "rope"
    theta: Positive = 10000.0
    dim: Size | None = Field(default=None, description="rotated part of head_dim; default: all of it")


class AlibiPosition(Spec):
    """ALiBi (arXiv 2108.12409): a fixed linear bias on the scores."""

    kind: Literal["alibi"] = "alibi"


class RelativePosition(Spec):
    """T5's bucketed relative bias (arXiv 1910.10683 section 2.1), one table of (buckets, heads)."""

    kind: Literal["relative"] = "relative"
    buckets: Size = 32
    max_distance: Size = 128
    per_layer: Flag = Field(default=False, description="one table per layer instead of one per stack")


Position = Annotated[
    Annotated[NoPosition, Tag("none")]
    | Annotated[LearnedPosition, Tag("learned")]
    | Annotated[SinusoidalPosition, Tag("sinusoidal")]
    | Annotated[RotaryPosition, Tag("rope")]
    | Annotated[AlibiPosition, Tag("alibi")]
    | Annotated[RelativePosition, Tag("relative")],
    _kind("none"),
]


# ---------------------------------------------------------------- heads on top


class HeadTransform(Spec):
    """The dense layer, activation and norm before a masked-LM output (BERT, arXiv 1810.04805)."""

    activation: Activation = "gelu"
    bias: Flag = True
    norm: Norm = Norm()


class LMHead(Spec):
    """A projection to the vocabulary at every position."""

    kind: Literal["lm"] = "lm"
    tied: Flag = Field(default=True, description="reuses the token embedding's weight")
    bias: Flag = False
    transform: HeadTransform | None = None


class ClassifierHead(Spec):
    """A projection of the first position to ``labels`` classes."""

    kind: Literal["classifier"] = "classifier"
    labels: Size
    bias: Flag = True


class NoHead(Spec):
    """The hidden states are the output."""

    kind: Literal["none"] = "none"


Head = Annotated[
    Annotated[LMHead, Tag("lm")] | Annotated[ClassifierHead, Tag("classifier")] | Annotated[NoHead, Tag("none")],
    _kind("lm"),
]


# ---------------------------------------------------------------- blocks, stacks, models


class Sublayers(Spec):
    """What one block contains, in the order of the forward pass."""

    attention: Attention | None = None
    cross_attention: Attention | None = None
    feed_forward: FeedForward | None = None
    norm: BlockNorm = BlockNorm()
    residual: Literal["sequential", "parallel"] = Field(
        default="sequential", description="parallel: x + attention(norm(x)) + feed_forward(norm(x))"
    )

    @model_validator(mode="after")
    def _check_block(self) -> Sublayers:
        if self.residual == "parallel":
            if self.attention is None or self.feed_forward is None or self.cross_attention is not None:
                raise FieldError(("residual",), "parallel needs attention and feed_forward, and no cross_attention")
            if self.norm.placement != "pre":
                raise FieldError(("norm", "placement"), "a parallel block takes pre")
        elif self.norm.shared:
            raise FieldError(("norm", "shared"), "only a parallel block can share its norm")
        return self


class Block(Sublayers):
    """One block of a group, ``repeat`` times in a row."""

    repeat: Size = 1


class Group(Spec):
    """A sequence of blocks, the whole sequence ``repeat`` times."""

    repeat: Size = 1
    blocks: tuple[Block, ...] = Field(min_length=1)


class Stack(Sublayers):
    """A tower of blocks over one sequence of hidden states."""

    layers: Size
    position: Position = NoPosition()
    embedding_norm: Flag = Field(default=False, description="a norm on the summed embeddings")
    final_norm: Flag = Field(default=True, description="a norm after the last block")
    share_layers: Flag = Field(default=False, description="every layer uses one set of weights")
    groups: tuple[Group, ...] | None = Field(default=None, description="only for layers that differ")

    @model_validator(mode="after")
    def _check_stack(self) -> Stack:
        groups = self.groups
        if groups is not None:
            total = sum(g.repeat * sum(b.repeat for b in g.blocks) for g in groups)
            if total != self.layers:
                raise FieldError(("layers",), f"the groups hold {total} layers, not {self.layers}")
            if self.share_layers:
                raise FieldError(("share_layers",), "layers that differ cannot share one set of weights")
        for path, block in self.located_blocks():
            if block.attention is None and block.feed_forward is None:
                raise FieldError((*path, "attention"), "a block needs attention or feed_forward, or both")
            if (isinstance(self.position, RotaryPosition) and self.position.dim is not None
                    and block.attention is not None and self.position.dim > block.attention.head_dim):
                raise FieldError(("position", "dim"), f"{self.position.dim} is more than head_dim "
                                 f"{block.attention.head_dim}")
        return self

    @property
    def attention_heads(self) -> int:
        """Heads of the first attention in the stack: what a bias shared by all its layers has one column for."""
        return next(block.attention.heads for _, block in self.located_blocks() if block.attention is not None)

    def located_blocks(self) -> list[tuple[tuple[str | int, ...], Sublayers]]:
        """Every distinct block with its place in the spec; the stack itself when its layers are all alike."""
        if self.groups is None:
            return [((), self)]
        return [
            (("groups", g, "blocks", b), block)
            for g, group in enumerate(self.groups)
            for b, block in enumerate(group.blocks)
        ]


class Published(Spec):
    """A figure that a paper or model card printed, kept to be compared with the count."""

    quantity: Literal["params", "params_active", "params_non_embedding", "flops_forward", "kv_cache_bytes_per_token"]
    printed: str = Field(description="the figure as printed, such as 124 M or 1.5 B")
    source: str
    difference: str | None = Field(default=None, description="why the count rounds to something else, in one line")


class Model(Stack):
    """A whole model. The stack fields describe its only stack, or the decoder of an encoder-decoder."""

    name: str = Field(min_length=1)
    family: str | None = None
    aliases: tuple[str, ...] = ()
    summary: str | None = None
    sources: dict[str, str] = Field(default_factory=dict, description="where each group of fields was read")
    published: tuple[Published, ...] = ()

    architecture: Architecture = "decoder-only"
    vocab: Size
    d_model: Size
    context: Size = Field(description="the longest sequence the model was made for, in tokens")
    token_types: Count = Field(default=0, description="rows of the token type (segment) table; 0 for none")
    embedding_dim: Size | None = Field(default=None, description="factorised embeddings: width before projection")
    embedding_scale: Flag = Field(default=False, description="token embeddings times sqrt(d_model)")
    encoder: Stack | None = Field(default=None, description="fields left out are taken from the decoder")
    pooler: Flag = Field(default=False, description="dense and tanh on the first position (BERT)")
    head: Head = LMHead()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return resolve.model(data)

    @model_validator(mode="after")
    def _check_model(self) -> Model:
        if (self.architecture == "encoder-decoder") != (self.encoder is not None):
            raise FieldError(("encoder",), "an encoder-decoder needs one, and only it can have one")
        for path, block in self.located_blocks():
            if block.cross_attention is not None and self.encoder is None:
                raise FieldError((*path, "cross_attention"), "needs architecture: encoder-decoder")
        for path, block in self.encoder.located_blocks() if self.encoder else []:
            if block.cross_attention is not None:
                raise FieldError(("encoder", *path, "cross_attention"), "an encoder has nothing to attend to")
        if isinstance(self.head, LMHead) and self.head.tied and self.embedding_dim and not self.head.transform:
            raise FieldError(("head", "tied"), "with embedding_dim a tied head needs head.transform to come back to it")
        return self

    @property
    def embedding_width(self) -> int:
        """Columns of the token table."""
        return self.d_model if self.embedding_dim is None else self.embedding_dim

    @property
    def causal(self) -> bool:
        """Whether the model's own stack masks the future (its encoder, if any, never does)."""
        return self.architecture != "encoder-only"

    def architecture_fields(self) -> dict[str, Any]:
        """The resolved spec without its bibliography, as plain data."""
        return self.model_dump(mode="json", exclude={"aliases", "summary", "sources", "published"})
