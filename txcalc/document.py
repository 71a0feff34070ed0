"""Immutable data that is written as documents and read back: what specs and all parts of an answer are.

Parts are plain dataclasses, because each is made by our own code from numbers that need no checking; Pydantic checks a
document where it comes back from outside, and is loaded only then.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any, ClassVar, Self, dataclass_transform


class Frozen:
    """Data that is not changed once it is made: equal to what has the same fields, and copied with others."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    @classmethod
    def made(cls, fields: dict[str, Any]) -> Self:
        """One of these ``fields``, all of them, unchecked."""
        found = object.__new__(cls)
        vars(found).update(fields)
        return found

    def to_data(self) -> dict[str, Any]:
        """The fields as plain data in their own order, for JSON and YAML."""
        return {name: plain(value) for name, value in vars(self).items()}

    def replaced(self, **fields: Any) -> Self:
        """A copy with other ``fields``, unchecked: a size may also be a symbol or an array. Raises ``KeyError``."""
        for name in fields.keys() - vars(self).keys():
            raise KeyError(name)
        return self.made({**vars(self), **fields})


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Part(Frozen):
    """Base of every part of a document: a subclass is a frozen dataclass of its annotated fields."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)(cls)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The keys of its document, in their order."""
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Read what ``to_data`` wrote. Raises ``pydantic.ValidationError``, also for an unknown key."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(data)

    def _repr_html_(self) -> str | None:
        """The answer as a notebook shows it; None for a part of one."""
        writers = import_module("txcalc.show.writers")
        if type(self).__name__ not in writers.ANSWERS:
            return None
        shown: str = import_module("txcalc.show.html").fragment(writers.blocks(self))
        return shown


def plain(value: Any) -> Any:
    """A value of a field as plain data."""
    if isinstance(value, Frozen):
        return value.to_data()
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value
