"""What every spec is built from: immutable models, sizes, and unions told apart by ``kind``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

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

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields, in their order."""
        return tuple(cls.model_fields)

    @classmethod
    def default(cls, name: str) -> Any:
        """What a field is where nothing is said of it."""
        return cls.model_fields[name].get_default(call_default_factory=True)

    @classmethod
    def from_data(cls, data: object) -> Self:
        """The checked spec of plain data. Raises ``pydantic.ValidationError``."""
        return cls.model_validate(data)

    def to_data(self) -> dict[str, Any]:
        """The fields as plain data, every default filled in."""
        return self.model_dump(mode="json")

    def replaced(self, **fields: Any) -> Self:
        """A copy with other ``fields``, unchecked: a size may also be a symbol or an array."""
        return self.model_copy(update=fields)


class Switches(Spec):
    """Flags of one kind. ``true`` or ``false`` in a spec stands for all of them."""

    @model_validator(mode="before")
    @classmethod
    def _all_at_once(cls, data: Any) -> Any:
        return dict.fromkeys(cls.names(), data) if isinstance(data, bool) else data


def by_kind(default: str) -> Discriminator:
    """A union told apart by ``kind``, which may be left out when it is the usual one."""

    def read(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, Mapping) else getattr(value, "kind", default)

    return Discriminator(read)
