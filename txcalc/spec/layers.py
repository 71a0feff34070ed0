"""The layers of a block: norms, token mixers (attention, recurrence, convolution), feed-forward.

Each class is one kind of layer with its sizes and switches; ``kind`` tells apart kinds whose fields differ.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from txcalc.spec import resolve
from txcalc.spec.base import Activation, Count, Curve, Flag, Positive, Routing, Size, Spec, Switches, Usual
from txcalc.spec.compression import BlockIndexer, Compressed, Indexer
from txcalc.spec.errors import FieldError
from txcalc.spec.projections import Ahead, AttentionGroups, Blocks, DenseGroups, UnusedProjections, check_experts
from txcalc.spec.rnn import (
    GRU,
    LSTM,
    RNN,
    ByChannel,
    Convolution1D,
    FourierMixing,
    GlobalAttention,
    LinearAttention,
    OverImages,
)

# ---------------------------------------------------------------- norms


class Norm(Spec):
    """A normalisation over the last axis: LayerNorm (arXiv 1607.06450) or RMSNorm (arXiv 1910.07467)."""

    kind: Annotated[Literal["layernorm", "rmsnorm", "affine"], "affine: only weight and bias"] = "layernorm"
    scale: Flag = True
    bias: Annotated[Flag, "default: true for layernorm, false for rmsnorm"] = True
    eps: Positive = 1e-5

    @classmethod
    def _filled(cls, data: Any) -> Any:
        return resolve.norm(data, cls.default("kind"))


class BlockNorm(Norm):
    """The norms of a block, and where they stand.

    ``pre``: x + f(norm(x)). ``post``: norm(x + f(x)). ``sandwich``: x + norm(f(norm(x))).
    ``res-post``: x + norm(f(x)), the order of OLMo 2. ``none``: x + f(x).
    """

    placement: Literal["pre", "post", "sandwich", "res-post", "none"] = "pre"
    shared: Annotated[Flag, "parallel blocks: one norm feeds attention and feed-forward"] = False
    on_attention: Annotated[Flag, "false: attention has no norm of its own"] = True
    gate_rank: Annotated[Size | None, "what is normed is gated through a bottleneck of so many columns (A.X K2)"] = None
    gate_on: Annotated[
        Literal["both", "attention", "time"],
        "attention: that of attention alone; time: that of the feed-forward, by how far a run lags (Voxtral Realtime)",
    ] = "both"

    def _check(self) -> None:
        if self.gate_rank is not None and self.placement not in ("pre", "sandwich"):
            raise FieldError(("gate_rank",), "needs a norm before what it gates: pre or sandwich")


class HeadNorm(Norm):
    """A norm on queries and keys before their product.

    ``head``: over head_dim, one weight for all heads. ``heads``: over head_dim, each head its own weight.
    ``full``: over the whole projection.
    """

    kind: Literal["layernorm", "rmsnorm", "affine"] = "rmsnorm"
    over: Literal["head", "heads", "full"] = "head"


# ---------------------------------------------------------------- attention


class AttentionBias(Switches):
    """Biases of the four projections. ``bias: true`` in a spec means all of them."""

    q: Flag = False
    k: Flag = False
    v: Flag = False
    o: Flag = False


class Attention(Spec):
    """Multi-head (kv_heads = heads), grouped-query, or multi-query (kv_heads = 1) attention.

    arXiv 1706.03762 section 3.2; GQA: arXiv 2305.13245; MQA: arXiv 1911.02150.
    """

    kind: Literal["standard"] = "standard"
    heads: Size
    kv_heads: Annotated[Size, "default: heads"] = None  # type: ignore[assignment]
    head_dim: Annotated[Size, "default: d_model / heads"] = None  # type: ignore[assignment]
    value_dim: Annotated[Size | None, "width of a head's values, if not head_dim"] = None
    bias: AttentionBias = AttentionBias()
    query_experts: Annotated[Size | None, "experts of kv_heads queries; a token has heads / kv_heads (JetMoE)"] = None
    window: Annotated[Size | None, "sliding window: keys each query sees, itself included"] = None
    cached: Annotated[Literal["window", "all"], "all: a full window drops nothing cached"] = "window"
    qk_norm: HeadNorm | None = None
    scale: Annotated[Positive | None, "softmax scale; default 1/sqrt(head_dim)"] = None
    rope: Annotated[Flag, "false: no rotary embedding in this layer (NoPE)"] = True
    chunk: Annotated[Size | None, "each query sees only keys of its own chunk of this length"] = None
    image_window: Annotated[Size | None, "patches along the side of a square window of an image"] = None
    window_border: Annotated[Flag, "zeros fill an image up to whole windows (SAM)"] = False
    image_reduction: Annotated[Size | None, "stride of a normed convolution before keys and values (PVT)"] = None
    image_convolution: Annotated[Size | None, "kernel of a convolution before each of q, k and v, normed; of k and v "
                                 "with stride image_reduction (CvT)"] = None
    softcap: Annotated[Positive | None, "scores become softcap * tanh(score / softcap)"] = None
    sinks: Annotated[Flag, "one learned logit per head that takes part in the softmax"] = False
    output_gate: Annotated[Flag, "the context is multiplied by sigmoid(gate(x))"] = False
    inner_norm: Annotated[Norm | None, "a norm on what the output projection reads"] = None
    gate_over: Annotated[Literal["channel", "head"], "head: one gate for each head"] = "channel"
    gate_activation: Literal["sigmoid", "softplus"] = "sigmoid"
    gate_bias: Annotated[Literal["q", "none", "head"], "q: as of queries; head: a number for each head (Beam)"] = "q"
    value_norm: Annotated[Norm | None, "a norm on each head's values"] = None
    value_from: Annotated[
        Literal["input", "key"], "key: values are the projected keys, before these are normed and rotated",
    ] = "input"
    joined: Annotated[
        Flag, "cross-attention: keys and values are also made of what reads them (Perceiver's latents, Flamingo's)",
    ] = False
    twice: Annotated[Flag, "cross-attention: a projection as wide before each of q, k and v (Aria)"] = False
    memory_norm: Annotated[Norm | None, "cross-attention: a norm on what is read, of each layer's own"] = None
    column_groups: Annotated[AttentionGroups, "projections in groups of columns (SqueezeBERT)"] = AttentionGroups()
    value_convolution: Annotated[
        Size | None, "positions of a convolution of each head's values that is added to its contexts (Nyströmformer)",
    ] = None
    blocks: Annotated[Blocks | None, "computed block by block, of positions near each other (Longformer)"] = None
    span_convolution: Annotated[
        Size | None, "positions under a kernel that a query makes, whose contexts stand beside the heads' (ConvBERT)",
    ] = None
    similarity: Annotated[
        Literal["softmax", "collisions"],
        "collisions: a power of the share of their angle, the chance that a key and a query are hashed alike (YOSO)",
    ] = "softmax"
    unused: Annotated[
        UnusedProjections, "projections for what is not there: queries of entities (LUKE), tokens that see everything",
    ] = UnusedProjections()
    kept_keys: Annotated[
        Size | None, "keys of the highest scores, of their values', which are added to a query's, that it sees (Doge)",
    ] = None
    indexer: Annotated[BlockIndexer | None, "chooses the blocks of keys that a query sees (MiniMax M3)"] = None
    ahead: Annotated[Ahead | None, "streams that predict tokens further ahead (ProphetNet)"] = None
    differential: Annotated[Flag, "contexts of half the heads less those of the others (arXiv 2410.05258)"] = False
    kv_shared: Annotated[
        Flag,
        "keys and values, and their cache, are those of the last layer before this one that has its own, among layers "
        "of the same reach (all keys, a window, chunks)",
    ] = False

    @classmethod
    def _filled(cls, data: Any) -> Any:
        return resolve.attention(data)

    def _check(self) -> None:
        if self.head_dim is None:
            raise FieldError(("head_dim",), "is needed where there is no d_model to take it from")
        if self.heads % self.kv_heads:
            raise FieldError(("kv_heads",), f"{self.kv_heads} does not divide heads {self.heads}; "
                             f"use one of {resolve.divisors(self.heads)}")
        if self.window is not None and self.chunk is not None:
            raise FieldError(("chunk",), "attention has a window or chunks, not both")
        if self.value_dim == self.head_dim:
            raise FieldError(("value_dim",), f"{self.value_dim} is head_dim: leave it out")
        if self.value_dim is not None and self.value_from == "key":
            raise FieldError(("value_dim",), "values that are keys are as wide: leave it out")
        if self.value_convolution is not None and (self.value_convolution % 2 == 0 or self.kv_heads != self.heads):
            raise FieldError(("value_convolution",), "needs an odd number of positions, and values of every head")
        plain = (self.kv_heads, self.value_dim, self.window, self.chunk, self.image_window, self.softcap, self.sinks)
        if (self.similarity != "softmax" or self.blocks) and plain != (self.heads, *(None,) * 5, False):
            raise FieldError(("blocks" if self.blocks else "similarity",), "needs keys of every head, as wide as their "
                             "values, and neither masks, caps nor sinks")
        if self.similarity != "softmax" and self.blocks is not None:
            raise FieldError(("similarity",), "angles are not counted block by block")
        if self.span_convolution is not None and (
                self.span_convolution % 2 == 0 or self.value_dim or self.qk_norm or self.query_experts
                or self.inner_norm or self.output_gate):
            raise FieldError(("span_convolution",), "needs an odd number of positions, values as wide as keys, plain "
                             "queries, and neither gate nor norm")
        check_experts(self)
        for name in ("gate_over", "gate_activation", "gate_bias"):
            if not self.output_gate and getattr(self, name) != self.default(name):
                raise FieldError((name,), "needs output_gate: true")


class MLA(Spec):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1): one latent is cached per token.

    Each head's query and key have a part without position (``nope_dim``) and a rotary part (``rope_dim``); the
    rotary key is shared by all heads.
    """

    kind: Literal["mla"]
    heads: Size
    q_rank: Annotated[Size | None, "width of the query latent; none: queries come from x"] = None
    kv_rank: Size
    nope_dim: Size
    rope_dim: Size
    value_dim: Size
    bias: Annotated[Flag, "on the projections down to the latents, and on the output"] = False
    interleaved: Annotated[Flag, "columns are rotated in pairs of neighbours, not of halves"] = True
    scale: Annotated[Positive | None, "softmax scale; default 1/sqrt(nope_dim + rope_dim)"] = None
    index_topk: Annotated[Size | None, "sparse: the most keys that a query attends to"] = None
    indexer: Annotated[Indexer | None, "chooses them; none: they are those of a layer before"] = None
    window: Annotated[Size | None, "sliding window: keys each query sees, itself included"] = None
    sinks: Annotated[Flag, "one learned logit per head that takes part in the softmax"] = False
    output_gate: Annotated[Flag, "the context is multiplied by sigmoid(gate(x))"] = False
    gate_over: Annotated[Literal["channel", "head"], "head: one gate for each head"] = "channel"
    rope_norm: Annotated[Flag, "an RMSNorm on the rotary key"] = False
    joint: Annotated[Flag, "queries and gate read the query latent, normed and as it is, side by side (A.X K2)"] = False

    def _check(self) -> None:
        if self.joint and (self.q_rank is None or not self.output_gate):
            raise FieldError(("joint",), "needs q_rank and output_gate")
        if self.gate_over == "head" and not self.output_gate:
            raise FieldError(("gate_over",), "needs output_gate: true")
        if self.window is not None and self.index_topk is not None:
            raise FieldError(("window",), "a layer has a window or chosen keys, not both")
        if self.indexer is None:
            return
        if self.index_topk is None:
            raise FieldError(("index_topk",), "an indexer needs to know how many keys")
        if self.q_rank is None:
            raise FieldError(("q_rank",), "an indexer reads the query latent")
        if self.indexer.head_dim < self.rope_dim:
            raise FieldError(("indexer", "head_dim"), f"{self.indexer.head_dim} is less than rope_dim {self.rope_dim}")


AnyAttention = Annotated[Attention | MLA | Compressed, Usual("standard")]


# ---------------------------------------------------------------- recurrence


class Mamba2(Spec):
    """A state-space layer with one scalar decay per head (Mamba-2, arXiv 2405.21060)."""

    kind: Literal["mamba2"]
    heads: Size
    head_dim: Size
    state: Annotated[Size, "state dimension N of each channel"]
    groups: Size = 1
    conv: Annotated[Size, "length of the short causal convolution"] = 4
    conv_bias: Flag = True
    bias: Flag = False
    norm: Annotated[Flag, "false: what is gated has no norm (Falcon-H1)"] = True


class GatedDelta(Spec):
    """A gated delta-rule layer (Gated DeltaNet, arXiv 2412.06464)."""

    kind: Literal["gated-delta"]
    key_heads: Size
    value_heads: Size
    key_dim: Size
    value_dim: Size
    conv: Annotated[Size, "length of the short causal convolution"] = 4

    def _check(self) -> None:
        if self.value_heads % self.key_heads:
            raise FieldError(("key_heads",), f"{self.key_heads} does not divide value_heads {self.value_heads}")


class LightningAttention(Spec):
    """Linear attention with a fixed decay per head, normed and gated (MiniMax-01, arXiv 2501.08313)."""

    kind: Literal["lightning"]
    heads: Size
    head_dim: Size


class KimiDelta(Spec):
    """A gated delta rule whose decay differs from channel to channel (Kimi Linear, arXiv 2510.26692).

    Decay and output gate come from the input through a bottleneck that is as wide as a head, or without one.
    """

    kind: Literal["kimi-delta"]
    heads: Size
    head_dim: Size
    conv: Annotated[Size, "length of the short causal convolution"] = 4
    bottleneck: Annotated[Flag, "false: decay and gate are one projection each (Ling 3)"] = True


class ShortConvolution(Spec):
    """A short causal convolution of every channel, gated before and after (LFM2).

    Projections b, c and x of the input; b * x is convolved, and c times that is projected: no recurrence, all is exact.
    """

    kind: Literal["short-convolution"]
    conv: Annotated[Size, "length of the convolution, this position included"] = 3
    image: Annotated[Flag, "along both sides of an image, around each patch (LFM3-VL)"] = False
    bias: Annotated[Flag, "on the projections and on the convolution"] = False


Mixer = RNN | LSTM | GRU | Convolution1D | LinearAttention | Attention | Mamba2
"""Ways of mixing the positions of a sequence, each of (b, n, d) to (b, n, d), causally."""

Recurrent = Annotated[
    Mamba2 | GatedDelta | LightningAttention | KimiDelta | ShortConvolution | RNN | LSTM | GRU | Convolution1D
    | FourierMixing | GlobalAttention | ByChannel | OverImages,
    Usual("mamba2"),
]


# ---------------------------------------------------------------- feed-forward


class DenseBias(Switches):
    """Biases of the projections. ``bias: true`` in a spec means all of them."""

    up: Flag = False
    gate: Flag = False
    down: Flag = False


class Dense(Spec):
    """Two projections around an activation, or three when gated (GLU variants, arXiv 2002.05202)."""

    kind: Literal["dense"] = "dense"
    d_ff: Size
    activation: Curve = "gelu"
    gated: Annotated[Flag, "SwiGLU is gated silu, GEGLU is gated gelu"] = False
    bias: DenseBias = DenseBias()
    inner_norm: Annotated[Norm | None, "a norm on what the last projection reads"] = None
    column_groups: Annotated[DenseGroups, "projections in groups of columns (SqueezeBERT)"] = DenseGroups()
    channel_mix: Annotated[Flag, "inputs mixed with the token before's, a gate of as many columns (RWKV)"] = False

    def _check(self) -> None:
        if (self.gated or self.channel_mix) and self.column_groups != DenseGroups():
            raise FieldError(("column_groups",), "a gated feed-forward has none")


class MoE(Spec):
    """Token-choice mixture of experts: each token is sent to its top ``active_experts`` of ``experts``.

    arXiv 1701.06538; the forms of Mixtral (arXiv 2401.04088) and DeepSeekMoE (arXiv 2401.06066).
    """

    kind: Literal["moe"] = "moe"
    experts: Size
    active_experts: Size
    d_ff: Annotated[Size, "width of one routed expert"]
    activation: Activation = "silu"
    gated: Flag = True
    bias: DenseBias = DenseBias()
    router_bias: Flag = False
    routing: Routing = "softmax-topk"
    expert_groups: Annotated[Size, "experts stand in so many groups: arXiv 2412.19437, section 2.1.2"] = 1
    active_groups: Annotated[Size, "groups that a token's experts are chosen from"] = 1
    normalize: Annotated[Flag, "the chosen experts' weights are made to sum to 1"] = True
    shared_experts: Annotated[Count, "experts every token passes, in one fused feed-forward"] = 0
    shared_d_ff: Annotated[Size | None, "width of one shared expert; default d_ff"] = None
    shared_gate: Annotated[Flag, "a sigmoid gate on the shared experts' output"] = False
    latent: Annotated[
        Size | None, "columns that routed experts read and put out, projected from and to d_model (Nemotron 3)",
    ] = None
    output_bias: Annotated[Flag, "a bias on what routed and shared experts put out together"] = False
    output_norm: Annotated[Norm | None, "a norm on what routed and shared experts put out together"] = None
    separate_norms: Annotated[
        Flag,
        "the routed experts and their router read the block's input, each through a norm of its own, and what routed "
        "and shared experts put out is normed; learned scales on the router's input and on the experts' weights "
        "(Gemma 4)",
    ] = False

    @classmethod
    def _filled(cls, data: Any) -> Any:
        return resolve.moe(data)

    def _check(self) -> None:
        if self.active_experts > self.experts:
            raise FieldError(("active_experts",), f"{self.active_experts} is more than experts {self.experts}")
        if self.active_groups > self.expert_groups:
            raise FieldError(("active_groups",), f"more than expert_groups {self.expert_groups}")
        if self.experts % self.expert_groups:
            raise FieldError(("expert_groups",), f"{self.expert_groups} does not divide experts {self.experts}")
        if not self.shared_experts and (self.shared_gate or self.shared_d_ff is not None):
            name = "shared_gate" if self.shared_gate else "shared_d_ff"
            raise FieldError((name,), "needs shared_experts of at least 1")
        if self.separate_norms and (not self.shared_experts or self.shared_gate):
            raise FieldError(("separate_norms",), "needs shared_experts, without a gate")
        for name in ("latent", "output_bias", "output_norm") if self.separate_norms else ():
            if getattr(self, name):
                raise FieldError((name,), "experts with norms of their own have none")


FeedForward = Annotated[Dense | MoE, Usual("dense")]
