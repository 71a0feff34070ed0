"""Ends of a stack: inputs, positions, heads."""

from __future__ import annotations

from typing import Annotated, Literal

from txcalc.spec.base import Activation, Count, Flag, Positive, Size, Spec, Usual
from txcalc.spec.errors import FieldError
from txcalc.spec.layers import Attention, Dense, Norm

# ---------------------------------------------------------------- inputs


class TokenInput(Spec):
    """Token ids, looked up in the model's table."""

    kind: Literal["tokens"] = "tokens"
    mask_token: Annotated[Flag, "a learned vector for tokens to be predicted, unused otherwise (XLNet)"] = False


class PatchInput(Spec):
    """An image cut into square patches by a convolution whose stride is its width (ViT, arXiv 2010.11929)."""

    kind: Literal["patches"]
    image: Annotated[Size, "height and width in pixels"]
    patch: Annotated[Size, "height and width of a patch in pixels"]
    kernel: Annotated[Size | None, "those of what is convolved, where patches overlap (PVTv2)"] = None
    channels: Size = 3
    bias: Flag = True
    normed: Annotated[Flag, "layernorms on a patch's pixels and on what they become (Gemma 4 without towers)"] = False
    class_tokens: Annotated[Count, "learned vectors put before the patches (class, distillation)"] = 1
    registers: Annotated[Count, "learned vectors beside them without positions (arXiv 2309.16588)"] = 0
    mask_token: Annotated[Flag, "a learned vector for masked patches, unused otherwise"] = False

    def _check(self) -> None:
        if self.image < self.patch:
            raise FieldError(("patch",), f"{self.patch} is wider than the image, {self.image}")
        if self.kernel is not None and (self.kernel <= self.patch or self.kernel % 2 == 0 or self.image % self.patch):
            raise FieldError(("kernel",), "must be odd and wider than a patch, which must divide the image")
        if self.normed and (self.class_tokens or self.registers or self.mask_token or self.kernel):
            raise FieldError(("normed",), "needs patches alone")


class Grid(Spec):
    """Three convolutions over times and mel bins, each of width 3 and stride 2, and a layer (Qwen3-ASR)."""

    channels: Annotated[Size, "that each makes"]
    frames: Annotated[Size, "a sound is cut into pieces of so many"]


class FrameInput(Spec):
    """Spectrogram frames through two convolutions of width 3, the second of stride 2 (Whisper, arXiv 2212.04356)."""

    kind: Literal["frames"]
    bins: Annotated[Size, "mel bins of a frame"]
    length: Annotated[Size, "positions after the convolutions: half the frames, or an eighth of every piece's"]
    grid: Annotated[Grid | None, "in place of both convolutions"] = None

    def _check(self) -> None:
        if self.grid is not None and self.length % eighth(self.grid.frames):
            raise FieldError(("length",), f"must be positions of whole pieces, {eighth(self.grid.frames)} each")


def eighth(size: int) -> int:
    """The rest of ``size`` after three convolutions of stride 2."""
    return -(-size // 8)


class Instruction(Spec):
    """Weights kept for a text beside learned queries (InstructBLIP, arXiv 2305.06500), of which there is none here.

    Tables of its tokens and positions, and in every layer a feed-forward with a norm for them.
    """

    rows: Annotated[Size, "tokens"]
    positions: Size


class QueryInput(Spec):
    """Learned vectors, which read something else by cross-attention (Perceiver, arXiv 2103.03206)."""

    kind: Literal["queries"]
    length: Annotated[Size, "how many"]
    instruction: Instruction | None = None


Input = Annotated[TokenInput | PatchInput | FrameInput | QueryInput, Usual("tokens")]


# ---------------------------------------------------------------- positions


class NoPosition(Spec):
    """No position information of its own."""

    kind: Literal["none"] = "none"


class LearnedPosition(Spec):
    """A trained table with one row per position, interpolated for images of other sizes (arXiv 2010.11929, 3.2)."""

    kind: Literal["learned"] = "learned"
    size: Annotated[Size, "rows of a table; default: context, the positions of an image or sound, or its side"]
    both_ways: Annotated[
        Flag, "two tables of that size: one for a patch's column in its image, one for its row",
    ] = False


class SinusoidalPosition(Spec):
    """Fixed sines and cosines (arXiv 1706.03762 section 3.5); ``stored`` when kept as a frozen parameter."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    stored: Flag = False
    size: Annotated[Size, "rows when stored; default: context"]


class RotaryPosition(Spec):
    """RoPE (arXiv 2104.09864): queries and keys are rotated; no weights, nothing kept for backward."""

    kind: Literal["rope"] = "rope"
    theta: Annotated[Positive | None, "base of the frequencies, which changes no count; none: not known"] = None
    window_theta: Annotated[Positive | None, "that of layers with a window, if it is another"] = None
    dim: Annotated[Size | None, "rotated part of head_dim; default: all of it"] = None
    size: Annotated[Size | None, "rows of a table of sines, where that is a frozen parameter (RoFormer)"] = None


class AlibiPosition(Spec):
    """ALiBi (arXiv 2108.12409): a fixed linear bias on the scores."""

    kind: Literal["alibi"] = "alibi"


class RelativePosition(Spec):
    """A bias on the scores by distance, from a table of (buckets, heads).

    T5's distances are put in buckets (arXiv 1910.10683 section 2.1); BEiT has a row for every distance of two patches.
    """

    kind: Literal["relative"] = "relative"
    buckets: Size = 32
    max_distance: Size = 128
    per_layer: Annotated[Flag, "one table per layer instead of one per stack"] = False
    absolute: Annotated[Size | None, "rows of a learned absolute table that is added as well"] = None


class DecomposedPosition(Spec):
    """Vectors of the distances along either side of an image or a window, each layer's own, that every query meets.

    Their two products are added to the scores (MViTv2, arXiv 2112.01526, equation 4).
    """

    kind: Literal["decomposed"]
    absolute: Annotated[Size | None, "rows of a learned absolute table that is added as well"] = None


class ContinuousPosition(Spec):
    """Swin v2's scores (arXiv 2111.09883, 3.2 and 3.3): cosines, times a number of each head, and a bias.

    Two layers make the biases of every distance of two patches in a window of the distances themselves.
    """

    kind: Literal["continuous"]
    hidden: Annotated[Size, "columns between both layers"] = 512
    absolute: Annotated[Size | None, "rows of a learned absolute table that is added as well"] = None


class DisentangledPosition(Spec):
    """DeBERTa's relative positions (arXiv 2006.03654 section 3.1): content-to-position and position-to-content scores.

    One table of (2 * buckets, d_model) serves every layer, which projects it with its own q and k.
    """

    kind: Literal["disentangled"]
    buckets: Size
    scores: tuple[Literal["c2p", "p2c"], ...] = ("c2p", "p2c")
    shared_projections: Annotated[Flag, "positions use q and k; else projections of their own"] = True
    key_bias: Annotated[Flag, "a bias on the own projection of positions to keys"] = True
    clipped: Annotated[Flag, "rows for distances that cannot occur take part in no product"] = False
    norm: Annotated[Flag, "a norm on the table"] = True
    absolute: Annotated[Size | None, "rows of a learned absolute table that is added as well"] = None


class TransformerXLPosition(Spec):
    """Transformer-XL's relative positions (arXiv 1901.02860 section 3.3): scores (q + u) k + (q + v) (W R).

    R has one sinusoidal row of d_model for every distance of two positions of the run. Each layer projects it with a
    W of (heads * head_dim, d_model) without bias, in every run. u and v are learned, (heads, head_dim) each.
    """

    kind: Literal["transformer-xl"]
    per_layer: Annotated[Flag, "u and v of every layer's own, else one pair per stack"] = True
    cached: Annotated[
        Literal["keys", "inputs"],
        "what a layer keeps of earlier positions: keys and values, or its inputs, projected again in every run (the "
        "paper's memory, section 3.2)",
    ] = "keys"
    of_sequences: Annotated[Flag, "W R is made anew for every sequence, of one distance more (XLNet)"] = False
    segments: Annotated[Flag, "each layer keeps a query bias and two vectors for segments, which are not given"] = False


Position = Annotated[
    NoPosition | LearnedPosition | SinusoidalPosition | RotaryPosition | AlibiPosition | RelativePosition
    | DecomposedPosition | ContinuousPosition | DisentangledPosition | TransformerXLPosition,
    Usual("none"),
]


class HeadTransform(Spec):
    """A dense layer as wide as its output's input, an activation and a norm before an output (arXiv 1810.04805)."""

    activation: Activation = "gelu"
    bias: Flag = True
    norm: Norm | None = Norm()
    width: Annotated[Size | None, "default: as wide as the token table, or as its input"] = None
    hidden: Annotated[Size | None, "width of another dense layer and activation before it"] = None


class Maxout(Spec):
    """A dense layer to ``width`` groups of ``pieces`` columns, of which the largest goes on (arXiv 1302.4389)."""

    width: Size
    pieces: Size = 2
    bias: Flag = False


class LMHead(Spec):
    """A projection to the vocabulary at every position."""

    kind: Literal["lm"] = "lm"
    tied: Annotated[Flag, "reuses the token embedding's weight"] = True
    bias: Flag = False
    unused_bias: Annotated[Flag, "a second bias, which nothing reads (BERT's, when untied)"] = False
    softcap: Annotated[Positive | None, "logits become softcap * tanh(logit / softcap)"] = None
    transform: HeadTransform | None = None
    widened: Annotated[Flag, "columns beside those of the token table, up to d_model (MobileBERT)"] = False
    maxout: Annotated[Maxout | None, "a maxout layer before the logits (arXiv 1409.0473, A.2.2)"] = None
    pair_labels: Annotated[Count, "classes of a second head, on the pooled vector (next sentence)"] = 0
    copies: Annotated[Size, "heads side by side, each of a codebook of its own (MusicGen)"] = 1

    def _check(self) -> None:
        if self.copies > 1 and (self.tied or self.unused_bias or self.pair_labels):
            raise FieldError(("copies",), "several heads have weights of their own, and nothing beside them")
        if self.transform is not None and self.maxout is not None:
            raise FieldError(("maxout",), "a head has a transform or a maxout layer before it, not both")
        if self.tied and self.transform is not None and self.transform.width is not None:
            raise FieldError(("transform", "width"), "a tied head is as wide as the token table: leave it out")


class ClassifierHead(Spec):
    """A projection to ``labels`` classes: of one vector per sequence, or of every position.

    ``first``: the pooled vector where there is a pooler, else the first position. ``first+mean``: both side by side.
    ``votes``, ``last``: every position, and then the mean (EuroBERT, arXiv 2503.05500) or last of their logits.
    ``span``: every position's two columns, for a start and an end.
    """

    kind: Literal["classifier"]
    labels: Size
    bias: Flag = True
    of: Literal["first", "all", "mean", "first+mean", "votes", "last", "span"] = "first"
    transform: HeadTransform | None = None
    copies: Annotated[Size, "heads side by side, each on its own class token (DeiT), or on the mean"] = 1
    padded: Annotated[Flag, "the last position is sought, of one sequence, too: there may be padding"] = False
    undropped: Annotated[Flag, "no dropout before it, as before other heads (BERT's of next sentences)"] = False

    def _check(self) -> None:
        if self.of == "span" and self.labels != 2:
            raise FieldError(("labels",), f"must be 2, a start and an end of a span, got {self.labels}")


class ContrastiveHead(Spec):
    """One vector per text and one per image, both projected to ``width``, and the products of all pairs (CLIP).

    arXiv 2103.00020, figure 3. The temperature is one learned number. SigLIP (arXiv 2303.15343, section 3.2) compares
    the vectors as they are, and each pair on its own: a learned bias is added to the products.
    """

    kind: Literal["contrastive"]
    width: Annotated[Size | None, "none: no projections, both vectors are of one width already"] = None
    loss: Annotated[
        Literal["softmax", "sigmoid"], "softmax: over all texts and all images; sigmoid: of each pair, with a bias",
    ] = "softmax"


class ProjectionHead(Spec):
    """One vector per sequence, projected to ``width`` without a bias: half of a contrastive model."""

    kind: Literal["projection"]
    width: Size
    of: Annotated[Literal["pooled", "mean"], "mean: of all positions (EmbeddingGemma)"] = "pooled"
    hidden: Annotated[Size | None, "width of a projection before it, without an activation"] = None


class NoHead(Spec):
    """The hidden states are the output."""

    kind: Literal["none"]


Head = Annotated[LMHead | ClassifierHead | ContrastiveHead | ProjectionHead | NoHead, Usual("lm")]


class DensePooler(Spec):
    """A dense layer and an activation, if any, on the first position (BERT, arXiv 1810.04805) or the last (SigLIP)."""

    kind: Literal["dense"] = "dense"
    of: Literal["first", "last"] = "first"
    activation: Activation | None = "tanh"
    width: Annotated[Size | None, "default: d_model"] = None


class NormPooler(Spec):
    """A norm on the first position (CLIP) or on the mean of all (BEiT)."""

    kind: Literal["norm"]
    of: Literal["first", "mean"] = "first"


class AttentionPooler(Spec):
    """A learned query attends to all positions, then a feed-forward in its residual (SigLIP, arXiv 2303.15343)."""

    kind: Literal["attention"]
    attention: Attention
    feed_forward: Dense

    def _check(self) -> None:
        if self.attention.kv_shared:
            raise FieldError(("attention", "kv_shared"), "a pooler's keys and values are its own")


Pooler = Annotated[DensePooler | NormPooler | AttentionPooler, Usual("dense")]


class ProjectorLayer(Spec):
    """One projection before a projector's last, and its activation; gated: a second one beside it multiplies it."""

    width: Size
    norm: Annotated[Norm | None, "on what is projected, before the activation"] = None
    activation: Activation | None = None
    gated: Flag = False
    softmax: Annotated[Flag, "a softmax over the columns in place of an activation (Ovis)"] = False
    padding: Annotated[Count, "columns of zeros behind them"] = 0
    bias: Flag = False

    def _check(self) -> None:
        if self.gated and self.activation is None:
            raise FieldError(("activation",), "needed by a gate")
        if self.gated and self.norm is not None:
            raise FieldError(("norm",), "a gated layer has none")
        if self.softmax and self.activation is not None:
            raise FieldError(("softmax",), "stands in place of an activation")


class Projector(Spec):
    """The map from a tower's positions to positions of the main stack.

    It reads one layer's output, or several side by side. Squares of neighbouring patches, or neighbouring positions of
    a sound, may become one: ``merge`` puts the columns of so many by so many side by side, ``average`` leaves
    ``tokens`` means. Then a norm, the ``hidden`` layers, the tower's ``resampler``, if it has one, and a projection to
    the main stack's width.
    """

    merge: Annotated[Size | None, "patches along a square, or of a sound, whose columns come side by side"] = None
    average: Flag = False
    tokens: Annotated[
        Size, "positions of one input; default: all patches, or squares of them where they are merged",
    ] = None  # type: ignore[assignment]
    patchwise: Annotated[tuple[ProjectorLayer, ...], "layers of each patch, before they are merged"] = ()
    norm: Norm | None = None
    norm_first: Annotated[Flag, "the norm is on the patches, before they are merged"] = False
    hidden: tuple[ProjectorLayer, ...] = ()
    dense: Annotated[Flag, "false: no last projection, what comes before it is as wide as the main stack"] = True
    bias: Flag = False
    final_norm: Annotated[Norm | None, "on what is handed on"] = None
    unpatched: Annotated[Flag, "class tokens and registers are handed on as well, in place of left out"] = False
    separators: Annotated[
        Count, "learned vectors of the main stack's width between its positions (newlines), for which no room is made",
    ] = 0
    newlines: Annotated[
        Flag, "a learned vector behind every row of squares, projected with them, and one at either end (HunyuanOCR)",
    ] = False
    behind: Annotated[tuple[ProjectorLayer, ...], "layers behind the resampler (Aria)"] = ()
    unused_layers: Annotated[Count, "the tower's last layers, which run and which nothing reads"] = 0
    feature_layers: Annotated[
        tuple[Count, ...], "earlier layers whose features are concatenated, each by how many layers follow it",
    ] = ()

    def _check(self) -> None:
        if any(earlier < self.unused_layers for earlier in self.feature_layers):
            raise FieldError(("feature_layers",), f"must not be less than unused_layers, {self.unused_layers}, got "
                             f"{list(self.feature_layers)}")
        if self.average and self.merge is not None:
            raise FieldError(("average",), "patches are merged or averaged, not both")
        if self.tokens is None:
            raise FieldError(("tokens",), "is needed where positions are averaged, or there are no patches")
        if self.newlines and (self.merge is None or not self.dense):
            raise FieldError(("newlines",), "needs patches that are merged, and a last projection")
        if self.norm_first and (self.norm is None or self.merge is None):
            raise FieldError(("norm_first",), "needs a norm, and patches that are merged")
