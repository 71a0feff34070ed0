"""The header of a checkpoint, whichever format it is in."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import IO, Any, Final, Literal

from txcalc.spec.errors import SpecError

# Saved beside the weights though nothing trains them: masks, positions, rotary tables, a router's correction.
_BUFFER: Final = re.compile(
    r"(?:rotary_emb\.inv_freq|attn\.(?:masked_)?bias|attention\.(?:masked_)?bias|position_ids|e_score_correction_bias|act_fn\.(?:beta|eps)"
    r"|rope_freqs\.weight|rope_factors_\w+\.weight|exp_probs_b\.bias|layer_output_scale\.weight|num_batches_tracked)$"
)
# What quantization puts beside a weight.
_SCALE: Final = re.compile(
    r"(?:\.(?:scales|biases|qzeros|g_idx|weight_scale|weight_scale_inv|weight_global_scale|weight_zero_point|weight_shape"
    r"|weight_g_idx|input_scale|input_zero_point|input_global_scale|activation_scale|SCB|weight_format)|_scales"
    r"|\.absmax|\.quant_map|\.nested_absmax|\.nested_quant_map|\.quant_state\.\w+)$"
)
_PACKED: Final = re.compile(r"(?:\.qweight|\.weight_packed|_blocks)$")


class Length(int):
    """The length of a list of the metadata, which itself is not read."""


@dataclass(frozen=True)
class Stored:
    """One tensor: its shape as PyTorch has it, the type the file names, and its bytes."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int

    @property
    def elements(self) -> int:
        """The product of the shape."""
        return prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A header."""

    kind: Literal["safetensors", "safetensors-index", "gguf"]
    source: str
    stored: Mapping[str, Stored]  # empty for an index without its files
    bytes: int  # of all tensors, headers left out
    stated: int | None = None  # what an index says they are
    metadata: Mapping[str, Any] = field(default_factory=dict)  # of a GGUF file: numbers, texts and short lists of them

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name."""
        return {name: tensor.shape for name, tensor in self.stored.items()}

    @property
    def buffers(self) -> dict[str, Stored]:
        """Tensors that are no parameters."""
        return {name: tensor for name, tensor in self.stored.items() if self._is_buffer(name, tensor)}

    @property
    def parameters(self) -> int | None:
        """Weights, without buffers and without scales. None where the header does not say: packed, or no header."""
        weights = {name: tensor for name, tensor in self.stored.items() if not _SCALE.search(name)}
        if not weights or any(_PACKED.search(name) or f"{name}.absmax" in self.stored or self._is_mlx(name)
                              for name in weights):
            return None
        return sum(t.elements for name, t in weights.items() if not self._is_buffer(name, t))

    def _is_mlx(self, name: str) -> bool:
        """Tell whether MLX packed this weight: it keeps its name, with scales beside it."""
        return name.endswith(".weight") and f"{name.removesuffix('weight')}scales" in self.stored

    def _is_buffer(self, name: str, tensor: Stored) -> bool:
        # GPT-2's mask is called attn.bias, as is the bias of a projection called attn.
        return bool(_BUFFER.search(name)) and not (name.endswith("bias") and len(tensor.shape) == 1 and "attn" in name)


class Reader:
    """A file read forwards, never past its end."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        self.file = file
        self.source = source
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes after the cursor."""
        return self.size - self.at

    def take(self, count: int) -> bytes:
        """The next bytes. Raises ``SpecError`` where there are not as many."""
        self._need(count)
        self.at += count
        return self.file.read(count)

    def skip(self, count: int) -> None:
        """Pass over bytes. Raises ``SpecError`` where there are not as many."""
        self._need(count)
        self.at += count
        self.file.seek(count, os.SEEK_CUR)

    def number(self, form: str) -> Any:
        """One little-endian number of a ``struct`` format."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def fail(self, message: str) -> SpecError:
        """The error for a malformed header."""
        return SpecError(message, source=self.source)

    def _need(self, count: int) -> None:
        if count > self.left:
            raise self.fail("the header ends too early: the file is cut off or damaged")
