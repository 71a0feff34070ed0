"""GGUF's tensor types and file types: ggml-org/ggml, ``ggml.h`` and ``ggml-common.h``; llama.cpp, ``llama-quant.cpp``.

Read at the commit that ``READ_AT`` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

READ_AT: Final = "ggml-org/llama.cpp@007dbbf"


class BlockType(NamedTuple):
    """A tensor type: ``bytes`` for every ``block`` elements of a row."""

    name: str
    block: int
    bytes: int


class Mix(NamedTuple):
    """A file type: the tensor type that most of its tensors have."""

    type: str
    bits: int


TYPES: Final[Mapping[int, BlockType]] = {
    number: BlockType(*row) for number, row in {
        0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
        26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
    }.items()
}
"""By their number in a file."""

NAMED: Final[Mapping[str, BlockType]] = {found.name: found for found in TYPES.values()}

MIXES: Final[Mapping[str, Mix]] = {
    "q8_0": Mix("Q8_0", 8), "q4_0": Mix("Q4_0", 4), "q4_1": Mix("Q4_1", 4), "q5_0": Mix("Q5_0", 5),
    "q5_1": Mix("Q5_1", 5), "q2_k": Mix("Q2_K", 2), "q2_k_s": Mix("Q2_K", 2), "q3_k_s": Mix("Q3_K", 3),
    "q3_k_m": Mix("Q3_K", 3), "q3_k_l": Mix("Q3_K", 3), "q4_k_s": Mix("Q4_K", 4), "q4_k_m": Mix("Q4_K", 4),
    "q5_k_s": Mix("Q5_K", 5), "q5_k_m": Mix("Q5_K", 5), "q6_k": Mix("Q6_K", 6),
    "iq1_s": Mix("IQ1_S", 1), "iq1_m": Mix("IQ1_M", 1), "iq2_xxs": Mix("IQ2_XXS", 2), "iq2_xs": Mix("IQ2_XS", 2),
    "iq2_s": Mix("IQ2_XS", 2), "iq2_m": Mix("IQ2_S", 2), "iq3_xxs": Mix("IQ3_XXS", 3), "iq3_s": Mix("IQ3_S", 3),
    "iq3_m": Mix("IQ3_S", 3), "iq4_nl": Mix("IQ4_NL", 4), "iq4_xs": Mix("IQ4_XS", 4), "tq1_0": Mix("TQ1_0", 1),
    "tq2_0": Mix("TQ2_0", 2), "mxfp4_moe": Mix("MXFP4", 4),
}
"""File types by llama.cpp's names: without an importance matrix, but for those that it makes only with one."""
