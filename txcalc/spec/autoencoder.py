"""An autoencoder of images into words, which stands beside a stack that reads and writes words."""

from __future__ import annotations

from typing import Annotated

from txcalc.spec.base import Count, Flag, Least, Size, Spec
from txcalc.spec.errors import FieldError


class Drawing(Spec):
    """What turns words of images into inputs of the main stack, and its outputs into such words (Janus)."""

    width: Annotated[Size, "columns of their layers"]
    depth: Annotated[Size, "layers of the inputs"] = 1


class Autoencoder(Spec):
    """Convolutions that turn images into words, and back where they draw (VQGAN, arXiv 2012.09841, section 3).

    Its weights count; a run reads words, and passes none of it.
    """

    levels: Annotated[tuple[Size, ...], Least(1), "channels of each resolution, the highest first"]
    channels: Annotated[Size, "that the first convolution makes"]
    depth: Annotated[Size, "residual blocks of a level"]
    attended: Annotated[tuple[Count, ...], "levels whose blocks attend, counted from 0"] = ()
    middle: Annotated[Flag, "attention between the last two blocks"] = True
    colours: Size = 3
    latent: Annotated[Size, "channels behind the levels"]
    words: Size
    width: Annotated[Size, "columns of a word"]
    decodes: Annotated[Size | None, "colours that a decoder makes, one block more a level; none: there is none"] = None
    drawing: Drawing | None = None

    def _check(self) -> None:
        if any(level >= len(self.levels) for level in self.attended):
            raise FieldError(("attended",), f"must be some of {len(self.levels)} levels, counted from 0")
