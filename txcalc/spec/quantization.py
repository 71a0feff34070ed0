"""How a checkpoint stores the weights of its matrices, where that is not one number per weight.

One layout with a few sizes describes every method that is read: codes of a few bits, packed into words; one scale
for each block of codes; perhaps a zero point for each; perhaps scales of the scales. The methods themselves, with
their sources, are in ``txcalc.huggingface.quantized``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from txcalc.spec.base import Count, Flag, Size, Spec
from txcalc.spec.formats import filled


class Mixed(Spec):
    """Matrices of the same checkpoint whose sizes are others.

    Sizes left out take their defaults; all else is as in the rest.
    """

    bits: Size = Field(description="bits of a code")
    group: Size | None = Field(default=None, description="inputs that share a scale; none: all")
    scale_bytes: Size | None = Field(default=None, description="bytes of a scale; default: as wide as the dtype")
    offsets: Flag = Field(default=False, description="an offset beside every scale, as wide as it")
    matrices: dict[str, Size] = Field(
        min_length=1, description="which: how many, by their path without layer numbers"
    )


class Quantization(Spec):
    """The storage of one (outputs, inputs) matrix, and which matrices are stored so.

    Codes lie row by row, each row padded to a whole word. A block of ``rows`` x ``group`` codes shares a scale;
    None means the whole column or row. ``flat`` blocks run over the matrix as one long row.
    """

    method: str = Field(
        min_length=1, description="a format of --weights, whose layout fills in what is left out; or custom"
    )
    bits: Size = Field(description="bits of a code")
    word_bits: Literal[8, 32] = Field(default=8, description="bits of the words that rows of codes are packed into")
    group: Size | None = Field(default=None, description="inputs that share a scale; none: all")
    rows: Size | None = Field(default=1, description="outputs that share a scale; none: all")
    flat: Flag = Field(default=False, description="groups run on from row to row")
    scale_bytes: Size | None = Field(default=None, description="bytes of a scale; default: as wide as the dtype")
    scale_group: Size | None = Field(default=None, description="scales that share an fp32 scale of their own")
    zero_points: Flag = Field(default=False, description="a zero point per scale, packed like the codes")
    offsets: Flag = Field(default=False, description="an offset beside every scale, as wide as it (MLX's biases)")
    input_bytes: Count = Field(default=0, description="bytes per input and matrix, such as GPTQ's group index")
    matrix_bytes: Count = Field(default=0, description="bytes per matrix: its shape, a global scale, a code book")
    weights: Literal["layers", "experts", "linear", "all"] = Field(
        default="layers",
        description="which matrices: those of the layers, of routed experts, all but the head (linear), or all: heads, "
                    "routers and embeddings too, those alone whose inputs are whole groups",
    )
    head: Flag = Field(default=False, description="an output head that is not tied is stored so, too")
    tower: Flag = Field(default=True, description="linear: the matrices of a tower are stored so, too")
    left: dict[str, Size] = Field(
        default_factory=dict, description="matrices left as they are: how many, by their path without layer numbers"
    )
    mixed: tuple[Mixed, ...] = Field(default=(), description="matrices that are stored with other sizes than the rest")
    exact: Flag = Field(default=True, description="false: the layout leaves some bytes open, so bytes are an estimate")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        found = {"method": data} if isinstance(data, str) else data
        return filled(found) if isinstance(found, Mapping) else found
