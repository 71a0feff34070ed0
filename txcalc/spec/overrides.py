"""What ``--set attention.kv_heads=4`` lays over a spec's raw data, before any default is derived from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from txcalc.spec.errors import FieldError, Loc, SpecError, dotted
from txcalc.spec.yaml import MAX_DEPTH, Document, Position, read_yaml
from txcalc.units import parse_count


@dataclass(frozen=True)
class Override:
    """One ``KEY=VALUE``: the path as it was written, and the value it was read as."""

    text: str
    path: tuple[str, ...]
    value: object

    @property
    def source(self) -> str:
        """What errors call it."""
        return f"--set {self.text}"


def parse_override(text: str) -> Override:
    """Read ``KEY=VALUE``.

    The key is a path such as ``attention.heads``, ``groups.0.repeat`` or ``groups[0].repeat``. The value is YAML
    (``true``, ``null``, ``{heads: 4}``), or a size as the command line writes it (``4K``). Raises SpecError.
    """
    source = f"--set {text}"
    key, equals, value = text.partition("=")
    path = _path(key.strip())
    if not equals or not all(path):
        raise SpecError("write it as KEY=VALUE, such as attention.kv_heads=4", source=source)
    if len(path) > MAX_DEPTH:
        raise SpecError(f"the key has more than {MAX_DEPTH} parts", source=source)
    try:
        return Override(text, path, _value(value.strip()))
    except (SpecError, ValueError) as error:
        message = error.message if isinstance(error, SpecError) else str(error)
        raise SpecError(message, source=source, field=dotted(path)) from None


def apply_overrides(document: Document, overrides: Sequence[Override]) -> Document:
    """The document with each override laid over it, in order. Nothing is changed in place.

    Figures published for the model no longer apply, so they are left out. Raises SpecError for a path that leads
    through something that is not a mapping, or to a list item that is not there.
    """
    data: Any = {key: value for key, value in document.data.items() if key != "published" or not overrides}
    marks: dict[Loc, Position] = dict(document.marks)
    for override in overrides:
        try:
            data, loc = _put(data, override.path, override.value, ())
        except FieldError as error:
            raise SpecError(error.message, source=override.source, field=dotted(error.loc)) from None
        marks |= {loc[:n]: document.where(loc[:n]) or (1, 1) for n in range(len(loc) + 1)}
    return Document(data, marks)


def blame(error: SpecError, overrides: Sequence[Override]) -> SpecError | None:
    """The error as the fault of the last override of the field it names, or of a field around or inside it."""
    field = _path(error.field or "")
    for override in reversed(overrides):
        if field[: len(override.path)] == override.path or override.path[: len(field)] == field:
            return SpecError(error.message, source=override.source, field=error.field)
    return None


def _path(key: str) -> tuple[str, ...]:
    return tuple(re.sub(r"\[(\d+)\]", r".\1", key).split("."))


def _value(text: str) -> object:
    data = read_yaml(f"value: {text}", "").data
    if list(data) != ["value"]:
        raise ValueError("the value must be one YAML value")
    value = data["value"]
    if value != text or not text[:1].isdigit():
        return value
    try:
        return parse_count(text)  # YAML reads 4K as text
    except ValueError:
        return value


def _put(node: object, keys: Sequence[str], value: object, done: Loc) -> tuple[object, Loc]:
    """A copy of ``node`` with ``value`` at ``keys``, and the path with its list indices as numbers."""
    if not keys:
        return value, done
    key, *rest = keys
    if isinstance(node, list):
        index = _index(node, key, done)
        item, loc = _put(node[index], rest, value, (*done, index))
        return [*node[:index], item, *node[index + 1 :]], loc
    if not isinstance(node, Mapping | None):
        raise FieldError(done, f"is a single value here, with no {key} to set")
    fields = dict(node or {})
    item, loc = _put(fields.get(key), rest, value, (*done, key))
    return {**fields, key: item}, loc


def _index(items: list[Any], key: str, done: Loc) -> int:
    if not key.isdecimal():
        raise FieldError(done, f"is a list: name an item by its number, not {key!r}")
    if int(key) >= len(items):
        raise FieldError((*done, key), f"no such item: the list has {len(items)}, counted from 0")
    return int(key)
