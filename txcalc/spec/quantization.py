"""Storage of matrices' weights in a checkpoint, where that is not one number per weight.

One layout with a few sizes describes every method that is read: codes of a few bits, packed into words; one scale
for each block of codes; perhaps a zero point for each; perhaps scales of the scales. Which sizes each named format has
is in ``txcalc.spec.weight_formats``, how they add up in ``txcalc.count.weights``, what a ``quantization_config`` may
choose in ``txcalc.huggingface.quantized``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from txcalc.spec.base import Count, Flag, Least, Size, Spec
from txcalc.spec.weight_formats import filled


class Mixed(Spec):
    """Matrices of the same checkpoint whose sizes are others.

    Sizes left out take their defaults; all else is as in the rest.
    """

    bits: Annotated[Size, "bits of a code"]
    group: Annotated[Size | None, "inputs that share a scale; none: all"] = None
    scale_bytes: Annotated[Count | None, "bytes of a scale; default: as wide as the dtype; 0: there is none"] = None
    offsets: Annotated[Flag, "an offset beside every scale, as wide as it"] = False
    matrices: Annotated[dict[str, Size], Least(1), "which: how many, by their path without layer numbers"]


class StoredTensors(Spec):
    """The tensors of a model's own file, as its header has them: their bytes, where they are not all of one width."""

    method: Annotated[str, Least(1), "the file's format, such as gguf"]
    layers: Annotated[
        dict[str, tuple[Count, ...]],
        "bytes in each layer, or one number for all, by the path of an operation within a layer; what is of no "
        "operation under an empty path",
    ] = {}  # noqa: RUF012  copied
    outside: Annotated[dict[str, Count], "bytes outside of layers, by the path of an operation, likewise"] = {}  # noqa: RUF012
    elements: Annotated[Size | None, "weights that they hold; none: words of packed ones do not tell"] = None
    width: Annotated[
        Size | None, "bytes of most weights, which a run in another width has otherwise; none: they stay as they are",
    ] = None


class Quantization(Spec):
    """The storage of one (outputs, inputs) matrix, and which matrices are stored so.

    Codes lie row by row, each row padded to a whole word. A block of ``rows`` x ``group`` codes shares a scale;
    None means the whole column or row. ``flat`` blocks run over the matrix as one long row.
    """

    method: Annotated[str, Least(1), "a format of --weights, whose layout fills in what is left out; or custom"]
    bits: Annotated[Size, "bits of a code"]
    word_bits: Annotated[Literal[8, 32], "bits of the words that rows of codes are packed into"] = 8
    group: Annotated[Size | None, "inputs that share a scale; none: all"] = None
    rows: Annotated[Size | None, "outputs that share a scale; none: all"] = 1
    flat: Annotated[Flag, "groups run on from row to row"] = False
    scale_bytes: Annotated[Size | None, "bytes of a scale; default: as wide as the dtype"] = None
    scale_group: Annotated[Size | None, "scales that share an fp32 scale of their own"] = None
    zero_points: Annotated[Flag, "a zero point per scale, packed like the codes"] = False
    offsets: Annotated[Flag, "an offset beside every scale, as wide as it (MLX's biases)"] = False
    input_bytes: Annotated[Count, "bytes per input and matrix, such as GPTQ's group index"] = 0
    matrix_bytes: Annotated[Count, "bytes per matrix: its shape, a global scale, a code book"] = 0
    weights: Annotated[
        Literal["layers", "experts", "linear", "all"],
        "which matrices: those of the layers, of routed experts, all but the head (linear), or all: heads, routers "
        "and embeddings too, those alone whose inputs are whole groups",
    ] = "layers"
    head: Annotated[Flag, "an output head that is not tied is stored so, too"] = False
    tower: Annotated[Flag, "linear: the matrices of a tower are stored so, too"] = True
    left: Annotated[dict[str, Size], "matrices left as they are: how many, by their path without layer numbers"] = {}  # noqa: RUF012  copied
    mixed: Annotated[tuple[Mixed, ...], "matrices that are stored with other sizes than the rest"] = ()
    computes: Annotated[Literal["fp32"] | None, "dtype of products in a run in fp16; default: as the run"] = None
    exact: Annotated[Flag, "false: the layout leaves some bytes open, so bytes are an estimate"] = True

    @classmethod
    def _filled(cls, data: Any) -> Any:
        found = {"method": data} if isinstance(data, str) else data
        return filled(found) if isinstance(found, Mapping) else found
