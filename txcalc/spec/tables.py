"""Tables that a stack has beside that of its tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from txcalc.spec.base import Activation, Flag, Least, Size, Spec
from txcalc.spec.errors import FieldError


class PerLayerEmbedding(Spec):
    """A second table of tokens with a small vector for every layer (Gemma 3n's and Gemma 4's per-layer embeddings).

    Each is added to a projection of the token's embedding, normed. A layer multiplies it with a gate that its own
    output gives, and adds a projection of the product, normed.
    """

    rows: Annotated[Size, "rows of the table"]
    width: Annotated[Size, "columns of one layer's vector"]
    activation: Annotated[Activation, "of the gate"] = "gelu_tanh"


class TokenTable(Spec):
    """A table of something else that a token has: its place on a page, its cell in a table, how it sounds.

    Its rows are added to the embeddings, or, where they have a ``width`` of their own, put beside the token's and
    projected to d_model with them (RoCBert).
    """

    rows: Annotated[Size, "rows of the table"]
    width: Annotated[Size | None, "columns of rows that are put beside the token's"] = None
    lookups: Annotated[Size, "rows that are looked up for every token (LayoutLM's left and right edges)"] = 1

    def _check(self) -> None:
        if self.width is not None and self.lookups > 1:
            raise FieldError(("lookups",), "rows beside the token's are looked up once")


class Entities(Spec):
    """A vocabulary of entities beside that of tokens (LUKE, arXiv 2010.01057): embeddings, and a head to predict them.

    Its rows are projected to d_model where they have another ``width``, and have tables of positions and types of
    their own, and a norm. A masked language model keeps the head.
    """

    rows: Annotated[Size, "entities"]
    width: Annotated[Size, "columns of their table"]
    tied: Annotated[Flag, "the head shares the table"] = True


class IdleWeight(Spec):
    """A weight of a part that no run here has work for, such as one that speaks (Qwen2.5-Omni, arXiv 2503.20215)."""

    name: Annotated[str, Least(1), "where it stands: letters, digits and _"]
    shape: Annotated[tuple[Size, ...], Least(1)]
    times: Annotated[Size, "how many there are alike"] = 1
    kind: Annotated[Literal["linear", "other"], "linear: of a linear layer, which formats of weights pack"] = "other"

    def _check(self) -> None:
        if not self.name.isidentifier():
            raise FieldError(("name",), f"must be of letters, digits and _, got {self.name}")
