"""An autoencoder of images into codes, which a stack beside it reads and writes as tokens."""

from __future__ import annotations

from typing import Annotated

from txcalc.spec.base import Count, Flag, Least, Size, Spec
from txcalc.spec.errors import FieldError


class Generation(Spec):
    """Layers from image codes to inputs of the main stack, and from its outputs to such codes (Janus)."""

    width: Annotated[Size, "columns of their layers"]
    depth: Annotated[Size, "layers of the inputs"] = 1


class Autoencoder(Spec):
    """Convolutions from images to codes, and back where there is a decoder (VQGAN, arXiv 2012.09841, section 3).

    Its weights count; a run reads codes, and passes none of it.
    """

    levels: Annotated[tuple[Size, ...], Least(1), "channels of each resolution, the highest first"]
    channels: Annotated[Size, "that the first convolution makes"]
    depth: Annotated[Size, "residual blocks of a level"]
    attention_levels: Annotated[tuple[Count, ...], "levels whose blocks attend, counted from 0"] = ()
    mid_attention: Annotated[Flag, "attention between the last two blocks"] = True
    in_channels: Annotated[Size, "of an image"] = 3
    latent: Annotated[Size, "channels behind the levels"]
    codes: Annotated[Size, "rows of the codebook"]
    code_dim: Annotated[Size, "columns of a code"]
    out_channels: Annotated[Size | None, "of the decoder, with one block more a level; none: there is none"] = None
    generation: Generation | None = None

    def _check(self) -> None:
        if any(level >= len(self.levels) for level in self.attention_levels):
            raise FieldError(("attention_levels",), f"must be some of {len(self.levels)} levels, counted from 0")
