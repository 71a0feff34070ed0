"""Immutable data that is written as documents and read back: what every part of an answer is.

Plain dataclasses, because each is made by our own code from numbers that need no checking; Pydantic checks a document
where it comes back from outside, and is loaded only then.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Part:
    """Base of every part of a document: a subclass is a frozen dataclass of its annotated fields."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The keys of its document, in their order."""
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    @classmethod
    def from_data(cls, data: object) -> Self:
        """What ``to_data`` wrote. Raises ``pydantic.ValidationError``, also for an unknown key."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(data)

    def to_data(self) -> dict[str, Any]:
        """The part as plain data in its own key order, for JSON and YAML."""
        return {name: _plain(value) for name, value in self.__dict__.items()}

    def _repr_html_(self) -> str | None:
        """What a notebook shows of an answer; None for a part of one."""
        writers = import_module("txcalc.show.writers")
        if type(self).__name__ not in writers.ANSWERS:
            return None
        shown: str = import_module("txcalc.show.html").fragment(writers.blocks(self))
        return shown

    def replaced(self, **fields: Any) -> Self:
        """A copy with other ``fields``, unchecked: a size may also be a symbol or an array. Raises ``KeyError``."""
        for name in fields.keys() - self.__dict__.keys():
            raise KeyError(name)
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **fields)
        return copy


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.to_data()
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
