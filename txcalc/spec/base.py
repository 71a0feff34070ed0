"""What every spec is built from: immutable models, sizes, and unions told apart by ``kind``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, model_validator

Size = Annotated[int, Field(strict=True, ge=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu", "tanh", "sigmoid"]
Curve = Literal[Activation, "xielu"]
"""What a dense feed-forward may have besides: xIELU (arXiv 2411.13010) has two learned numbers of its own."""


class Spec(BaseModel):
    """Base of every spec: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Switches(Spec):
    """Flags of one kind. ``true`` or ``false`` in a spec stands for all of them."""

    @model_validator(mode="before")
    @classmethod
    def _all_at_once(cls, data: Any) -> Any:
        return dict.fromkeys(cls.model_fields, data) if isinstance(data, bool) else data


def by_kind(default: str) -> Discriminator:
    """A union told apart by ``kind``, which may be left out when it is the usual one."""

    def read(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, Mapping) else getattr(value, "kind", default)

    return Discriminator(read)
