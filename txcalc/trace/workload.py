"""What a model is run on: how many tokens, in which phase, in which dtypes, under which framework policy.

What autograd keeps is a choice of the framework, not a fact of the model. The choices made here are PyTorch's,
measured on torch 2.13 (``device: cpu``) or read from its CUDA kernels (``device: cuda``); every report prints them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from txcalc.spec.errors import FieldError
from txcalc.trace.record import Role

Phase = Literal["forward", "training", "prefill", "decode"]
DType = Literal["fp32", "fp16", "bf16", "fp8", "int8"]
BYTES: dict[DType, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}

Recipe = Literal["adam-mixed", "adam-mixed-fp32-grads", "adam-fp32", "sgd-momentum-fp32"]

Size = Annotated[int, Field(strict=True, ge=1)]
Count = Annotated[int, Field(strict=True, ge=0)]


class Workload(BaseModel):
    """One run of a model.

    ``seq`` tokens are new; ``past`` tokens are already in the KV cache. An encoder-decoder also reads
    ``source_seq`` tokens, which its encoder has already processed when the phase is ``decode``.
    ``kv_block`` is the page of a paged engine's cache, in tokens.
    ``images`` run through a second stack, where a model has one.
    ``forward`` is a pass over a whole sequence; ``training`` adds the loss and the backward pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase = "forward"
    batch: Size = 1
    seq: Size = Field(default=None)  # type: ignore[assignment]  # none: an image's or a sound's own length
    past: Count = 0
    source_seq: Size | None = None
    images: Count | None = None
    dtype: DType = "bf16"
    kv_dtype: DType = "bf16"
    kv_block: Size | None = None
    attention: Literal["eager", "flash"] = "flash"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    masked: Literal["counted", "skipped"] = "counted"
    device: Literal["cuda", "cpu"] = "cuda"
    recipe: Recipe = "adam-mixed"

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return {"kv_dtype": data["dtype"], **data} if isinstance(data, dict) and "dtype" in data else data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.past and self.phase in ("forward", "training"):
            raise FieldError(("past",), f"a {self.phase} pass starts with an empty cache; use phase decode or prefill")
        return self

    @classmethod
    def prefill(cls, *, seq: int, **rest: Any) -> Self:
        """Read a prompt of ``seq`` tokens into an empty cache."""
        return cls(phase="prefill", seq=seq, **rest)

    @classmethod
    def decode(cls, *, past: int, seq: int = 1, **rest: Any) -> Self:
        """Generate ``seq`` tokens, at once, after ``past`` cached ones."""
        return cls(phase="decode", seq=seq, past=past, **rest)

    @classmethod
    def training(cls, *, seq: int, **rest: Any) -> Self:
        """One training step: forward, loss, backward."""
        return cls(phase="training", seq=seq, **rest)

    @property
    def source_new(self) -> int:
        """Source tokens that the encoder processes in this run: none once decoding."""
        return 0 if self.phase == "decode" or self.source_seq is None else self.source_seq

    @property
    def source_past(self) -> int:
        """Source tokens whose cross-attention keys and values are already cached."""
        return self.source_seq if self.phase == "decode" and self.source_seq is not None else 0

    @property
    def keeps(self) -> bool:
        """Whether what autograd keeps is asked for: a run that nobody would differentiate keeps nothing."""
        return self.phase in ("forward", "training")

    @property
    def fused_norms(self) -> bool:
        """CUDA has one RMSNorm kernel; the CPU composes it from fp32 steps, and autograd keeps those."""
        return self.device == "cuda"

    def bytes_of(self, role: Role) -> int:
        """Bytes per element. LayerNorm's statistics are fp32 on CUDA and in the input's dtype on the CPU;
        a dropout mask is one byte on CUDA and as wide as its input on the CPU (measured, torch 2.13)."""
        width = BYTES[self.dtype]
        on_cuda = self.device == "cuda"
        return {
            Role.ACTIVATION: width,
            Role.FLOAT32: 4,
            Role.STATISTIC: 4 if on_cuda else width,
            Role.INDEX: 8,
            Role.MASK: 1 if on_cuda else width,
            Role.PARAMETER: 0,
        }[role]
