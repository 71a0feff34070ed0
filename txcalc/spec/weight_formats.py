"""Named formats of stored weights: the layout of a packed matrix, which matrices are packed, and who writes it so.

Layouts, as written by the methods' own tools:
fp8: DeepSeek-V3's README_WEIGHTS, transformers' ``FP8Linear``: an fp32 scale per 128 x 128 block.
int8, nf4, fp4: bitsandbytes. ``Linear8bitLt`` has an fp32 scale per output and a format byte; ``Linear4bit`` flat
blocks of 64, fp32 scales and a code book; with double quantization (``-dq``; arXiv 2305.14314, section 3) 1-byte
scales in blocks of 256. How long its description of a matrix is, some 170 bytes of JSON, is not known beforehand.
Before version 0.43.2 (``@0.43``) a layer of 4 bits held its input for the backward pass (bitsandbytes pull 1270), and
made its matrix whole for every product of several rows; up to 0.41 (``@0.41``) in fp16 first, for that is what
``Params4bit.cuda`` had packed. Of 0.50, products of up to 1,536 rows read codes (``gemm_4bit``).
int4: compressed-tensors' W4A16: int32 words, a scale in the dtype per 128 inputs, the shape as two int64.
awq: AutoAWQ's ``WQLinear_GEMM``: int32 words of codes and of zero points, fp16 scales; its matrix is made whole for
products of 1,024 rows and more.
gptq, gptq-int8: AutoGPTQ's ``qlinear_cuda``: the same, and an int32 group index per input.
mxfp4: OCP Microscaling Formats 1.0, section 5: 32 codes of 4 bits share a 1-byte scale; routed experts alone.
nvfp4: compressed-tensors' NVFP4, as ModelOpt's: 16 codes share an fp8 scale; fp32 scales of matrix and inputs.
bitnet: transformers' ``BitLinear``: four outputs in a byte, and one scale for a matrix.
q4_0 to mxfp4_moe: GGUF, tensor by tensor: ``txcalc.count.gguf``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from txcalc.spec.errors import FieldError, shown
from txcalc.spec.ggml import MIXES

WHOLE: Final[Mapping[str, int]] = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes of a weight that is not packed."""

RELEASED: Final = "released"
"""The word for a model's own format."""


class Layout(NamedTuple):
    """The fields of ``txcalc.spec.quantization.Quantization``, with the same defaults."""

    method: str
    bits: int
    word_bits: int = 8
    group: int | None = None
    rows: int | None = 1
    flat: bool = False
    scale_bytes: int | None = None
    scale_group: int | None = None
    zero_points: bool = False
    offsets: bool = False
    input_bytes: int = 0
    matrix_bytes: int = 0
    weights: str = "layers"
    head: bool = False
    tower: bool = True
    left: Mapping[str, int] = {}
    mixed: tuple[Any, ...] = ()
    exact: bool = True
    computes: str | None = None


class Format(NamedTuple):
    """A layout, and what of it a checkpoint may choose."""

    layout: Layout
    free: frozenset[str] = frozenset()
    whole: tuple[int, int | None] = (1, 1)  # outputs and inputs are multiples of these; inputs: None is the group
    loose: bool = False  # libraries differ in whether they pack routed experts
    unpacks: int | None = None  # from how many rows of a product on its matrix is made whole
    halves: bool = False  # in fp16, and then in the dtype


_NF4: Final = Layout("nf4", 4, group=64, flat=True, scale_bytes=4, matrix_bytes=4 * 16, weights="linear", exact=False)
_DOUBLE: Final = _NF4._replace(method="nf4-dq", scale_bytes=1, scale_group=256, matrix_bytes=4 * 16 + 4 * 256)
_GPTQ: Final = Layout("gptq", 4, 32, 128, scale_bytes=2, zero_points=True, input_bytes=4)
_CHOICES: Final = frozenset({"weights", "head", "tower", "left", "mixed", "exact", "computes"})
"""Formats that say no layout of a matrix: which matrices are packed is the checkpoint's own choice in every format."""

FORMATS: Final[Mapping[str, Format]] = {found.layout.method: found for found in (
    *(Format(Layout(name, 8 * width)) for name, width in WHOLE.items()),
    Format(Layout("fp8", 8, rows=128, group=128, scale_bytes=4, weights="linear"),
           frozenset({"rows", "group", "matrix_bytes"})),
    Format(Layout("int8", 8, scale_bytes=4, matrix_bytes=1, weights="linear"), loose=True),
    Format(Layout("int4", 4, 32, 128, matrix_bytes=16, weights="linear"), frozenset({"group"}), (1, None)),
    *(Format(layout._replace(method=layout.method.replace("nf4", name) + version), loose=True, unpacks=rows,
             halves=version == "@0.41")
      for version, rows in (("", 1537), ("@0.43", 2), ("@0.41", 2)) for name in ("nf4", "fp4")
      for layout in (_NF4, _DOUBLE)),
    Format(Layout("awq", 4, 32, 128, scale_bytes=2, zero_points=True), frozenset({"group", "zero_points"}), (8, None),
           unpacks=1024),
    Format(_GPTQ, frozenset({"group", "bits", "input_bytes"}), (32, 32)),
    Format(_GPTQ._replace(method="gptq-int8", bits=8), frozenset({"group"}), (32, 32)),
    Format(Layout("mxfp4", 4, group=32, scale_bytes=1, weights="experts"), whole=(1, None)),
    Format(Layout("nvfp4", 4, group=16, scale_bytes=1, matrix_bytes=8, weights="linear"), whole=(1, None)),
    Format(Layout("bitnet", 2, flat=True, weights="linear")),
    *(Format(Layout(name, mix.bits, weights="all")) for name, mix in MIXES.items()),
)}

PACKED: Final = frozenset(FORMATS.keys() - WHOLE.keys())
"""Those that store codes of a few bits."""

HELD: Final = frozenset(name for name in FORMATS if "@" in name)
"""Those whose layers hold their inputs although nothing of the backward pass reads them."""

NAMES: Final = (*FORMATS, RELEASED)
"""Values of ``--weights``."""

_OPEN: Final = ("custom", "compressed-tensors", "mlx")
"""Methods whose sizes are given field by field: a layout of one's own, and those that only configurations name."""


def filled(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a quantization with what its method says of those left out.

    Raises ``FieldError`` for a method that is not known, and for a field that is never so in the method.
    """
    method = data.get("method")
    if not isinstance(method, str) or method.split(" ")[0] in _OPEN:
        return dict(data)
    found = FORMATS.get(method)
    if found is None:
        known = ", ".join((*FORMATS, _OPEN[0]))
        raise FieldError(("method",), f"{shown(method)} is no known format of weights; one of {known}")
    own = found.layout._asdict()
    for name in own.keys() & data.keys() - found.free - _CHOICES - {"method"}:
        if data[name] != own[name]:
            raise FieldError((name,), f"{method} has {shown(own[name])} here, got {shown(data[name])}; a layout of "
                             f"your own is method: {_OPEN[0]}")
    return {**own, **data}
