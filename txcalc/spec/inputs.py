"""What goes into a stack and what comes out: inputs, positions, heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from txcalc.spec.base import Activation, Count, Flag, Positive, Size, Spec, by_kind
from txcalc.spec.errors import FieldError
from txcalc.spec.layers import Norm

# ---------------------------------------------------------------- inputs


class TokenInput(Spec):
    """Token ids, looked up in the model's table."""

    kind: Literal["tokens"] = "tokens"


class PatchInput(Spec):
    """An image cut into square patches by a convolution whose stride is its width (ViT, arXiv 2010.11929)."""

    kind: Literal["patches"]
    image: Size = Field(description="height and width in pixels")
    patch: Size = Field(description="height and width of a patch in pixels")
    channels: Size = 3
    bias: Flag = True
    class_tokens: Count = Field(default=1, description="learned vectors put before the patches (class, distillation)")
    mask_token: Flag = Field(default=False, description="a learned vector for masked patches, unused otherwise")

    @model_validator(mode="after")
    def _check(self) -> PatchInput:
        if self.image < self.patch:
            raise FieldError(("patch",), f"{self.patch} is wider than the image, {self.image}")
        return self

    @property
    def patches(self) -> int:
        """Patches of one image; a border too narrow for a whole patch is left out, as a convolution does."""
        return (self.image // self.patch) ** 2

    @property
    def length(self) -> int:
        """Positions of one image."""
        return self.patches + self.class_tokens


class FrameInput(Spec):
    """Spectrogram frames through two convolutions of width 3, the second of stride 2 (Whisper, arXiv 2212.04356)."""

    kind: Literal["frames"]
    bins: Size = Field(description="mel bins of a frame")
    length: Size = Field(description="positions after the convolutions: half the frames")


Input = Annotated[
    Annotated[TokenInput, Tag("tokens")] | Annotated[PatchInput, Tag("patches")] | Annotated[FrameInput, Tag("frames")],
    by_kind("tokens"),
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


class DisentangledPosition(Spec):
    """DeBERTa's relative positions (arXiv 2006.03654 section 3.1): content-to-position and position-to-content scores.

    One table of (2 * buckets, d_model) serves every layer, which projects it with its own q and k.
    """

    kind: Literal["disentangled"]
    buckets: Size
    to_content: tuple[Literal["c2p", "p2c"], ...] = ("c2p", "p2c")
    shared_projections: Flag = Field(default=True, description="positions use q and k; else projections of their own")
    norm: Flag = Field(default=True, description="a norm on the table")
    absolute: Flag = Field(default=False, description="learned absolute positions are added to the embeddings as well")


Position = Annotated[
    Annotated[NoPosition, Tag("none")]
    | Annotated[LearnedPosition, Tag("learned")]
    | Annotated[SinusoidalPosition, Tag("sinusoidal")]
    | Annotated[RotaryPosition, Tag("rope")]
    | Annotated[AlibiPosition, Tag("alibi")]
    | Annotated[RelativePosition, Tag("relative")]
    | Annotated[DisentangledPosition, Tag("disentangled")],
    by_kind("none"),
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
    softcap: Positive | None = Field(default=None, description="logits become softcap * tanh(logit / softcap)")
    transform: HeadTransform | None = None


class ClassifierHead(Spec):
    """A projection to ``labels`` classes, of the first position (or its pooled form) or of every position."""

    kind: Literal["classifier"]
    labels: Size
    bias: Flag = True
    of: Literal["first", "all", "mean"] = "first"
    dense: Activation | None = Field(default=None, description="a dense layer with this activation before it")
    copies: Size = Field(default=1, description="heads side by side, each on its own class token (DeiT)")


class NoHead(Spec):
    """The hidden states are the output."""

    kind: Literal["none"]


Head = Annotated[
    Annotated[LMHead, Tag("lm")] | Annotated[ClassifierHead, Tag("classifier")] | Annotated[NoHead, Tag("none")],
    by_kind("lm"),
]
