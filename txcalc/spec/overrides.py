"""Overrides such as ``--set attention.kv_heads=4`` or ``gpt2@layers=24``, laid over a spec's raw data before defaults.

A stack's field holds for all of its blocks but those that have their own. One that would leave some of the layers as
they were is refused; ``groups.*.attention.window=512`` sets it in every block that has attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from txcalc.spec import older
from txcalc.spec.errors import FieldError, Loc, SpecError, all_of, dotted, joined, shown
from txcalc.spec.files import MAX_DEPTH, Document, Position
from txcalc.spec.replace import at as standing
from txcalc.spec.resolve import BLOCK_FIELDS, NONE, SUBLAYERS, merge
from txcalc.spec.yaml import read_yaml
from txcalc.units import SeveralError, parse_count

ADVICE: Final = "set {every} for every block, or {one} for one"


@dataclass(frozen=True)
class Override:
    """One ``KEY=VALUE``: the path as it was written, the value it was read as, and what errors call it."""

    text: str
    path: tuple[str, ...]
    value: object
    source: str


def parse_override(text: str, of: str = "--set ") -> Override:
    """Read ``KEY=VALUE``; ``of`` is what errors put before it.

    The key is a path such as ``attention.heads``, ``groups.0.repeat``, ``groups[0].repeat`` or, for every block that
    has it, ``groups.*.attention.window``. The value is YAML (``true``, ``null``, ``{heads: 4}``), or a size as the
    command line writes it (``4K``). Raises SpecError.
    """
    source = f"{of}{text}"
    key, equals, value = text.partition("=")
    path = _path(key.strip())
    if not equals or not all(path):
        more = "" if of.startswith("--") else "; a comma begins the next one, and several values take several models"
        raise SpecError(f"write it as KEY=VALUE, such as attention.kv_heads=4{more}", source=source)
    if len(path) > MAX_DEPTH:
        raise SpecError(f"the key has more than {MAX_DEPTH} parts", source=source)
    try:
        return Override(text, path, _value(value.strip()), source)
    except SeveralError as error:
        message = f"{error}; txcalc compare takes a model for each, MODEL@{dotted(path)}=..."
        raise SpecError(message, source=source, field=dotted(path)) from None
    except (SpecError, ValueError) as error:
        message = error.message if isinstance(error, SpecError) else str(error)
        raise SpecError(message, source=source, field=dotted(path)) from None


def parse_overrides(texts: Iterable[str], of: str = "--set ") -> list[Override]:
    """Read each. Raises SpecError of all that cannot be read."""
    return all_of(partial(parse_override, text, of) for text in texts)


def apply_overrides(document: Document, overrides: Sequence[Override]) -> Document:
    """The document with each override laid over it, in order. Nothing is changed in place.

    Figures published for the model no longer apply, so they are left out. Raises SpecError for a path that leads
    through something that is not a mapping, or to a list item that is not there, and for a field of a stack of which
    some blocks have their own.
    """
    if not overrides:
        return document
    data: Any = {key: value for key, value in document.data.items() if key != "published"}
    marks: dict[Loc, Position] = dict(document.marks)
    written: set[Loc] = set()
    wrong: list[SpecError] = []
    for override in overrides:
        try:
            for path in _expanded(override.path, data):
                data, loc = _put(data, path, override.value, ())
                written.add(loc)
                marks |= {loc[:n]: document.where(loc[:n]) or (1, 1) for n in range(len(loc) + 1)}
        except FieldError as error:
            wrong.append(SpecError(error.message, source=override.source, field=dotted(error.loc)))
    for override in overrides:
        if own := [loc for loc in hidden(data, override.path, override.value) if not any(
                loc[: len(each)] == each or each[: len(loc)] == loc for each in written)]:
            field = dotted(override.path)
            wrong.append(SpecError(own_values(own, override.path, data), source=override.source, field=field))
    if wrong:
        raise joined(wrong)
    return Document(data, marks)


def hidden(data: Mapping[str, Any], path: Sequence[str], value: object) -> list[Loc]:
    """Paths where blocks of a stack have their own value, other than the ``value`` that ``path`` sets in the stack."""
    at, rest = _stack(path)
    if rest[0] not in BLOCK_FIELDS:
        return []
    found = (
        [(*loc, *own) for own in _differing(block, rest, value)] for loc, block in _blocks(standing(data, at), at)
    )
    return [loc for each in found for loc in each]


def _differing(node: object, path: Sequence[str], value: object, done: Loc = ()) -> Iterator[Loc]:
    """The fields of a block at or around ``path`` with another value. A block without the layer has none of its."""
    if path and isinstance(node, Mapping):
        if path[0] in node:
            yield from _differing(node[path[0]], path[1:], value, (*done, path[0]))
    elif isinstance(node, Mapping) and isinstance(value, Mapping):
        for key in node.keys() & value.keys():
            yield from _differing(node[key], (), value[key], (*done, key))
    elif not (len(done) == 1 and node in NONE and (path or isinstance(value, Mapping))) and (path or node != value):
        yield done


def own_values(found: Sequence[Loc], path: Sequence[str], data: Mapping[str, Any], advice: str = ADVICE) -> str:
    """The message on a field that would leave the blocks' own at ``found``."""
    at, rest = _stack(path)
    shown_ = ", ".join(f"{dotted(loc)} ({shown(standing(data, loc))})" for loc in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    every = ".".join((*at, "groups", "*", *rest))
    return f"blocks have their own: {shown_}{more}; {advice.format(every=every, one='.'.join(map(str, found[0])))}"


def _stack(path: Sequence[str]) -> tuple[tuple[str, ...], Sequence[str]]:
    """The path of the stack that a field is in, and the rest of the field's path."""
    return ((path[0],), path[1:]) if path[0] in ("encoder", "tower") and len(path) > 1 else ((), path)


def _blocks(stack: object, at: Loc) -> Iterator[tuple[Loc, Mapping[str, Any]]]:
    """Every block of a stack's groups with its place, as far as they are what they should be."""
    groups = stack.get("groups") if isinstance(stack, Mapping) else None
    for g, group in enumerate(groups if isinstance(groups, list) else ()):
        blocks = group.get("blocks") if isinstance(group, Mapping) else None
        for b, block in enumerate(blocks if isinstance(blocks, list) else ()):
            if isinstance(block, Mapping):
                yield (*at, "groups", g, "blocks", b), block


def _expanded(path: Sequence[str], data: Mapping[str, Any]) -> list[Sequence[str]]:
    """The path itself, or with ``groups.*`` those in every block that has the layer; in a stack without groups, its."""
    at, rest = _stack(path)
    if "*" not in path:
        return [path]
    if rest[:2] != ("groups", "*"):
        raise FieldError(tuple(path), "a * stands for every block, as in groups.*.attention.window")
    rest = rest[4:] if rest[2:4] == ("blocks", "*") else rest[2:]
    if not rest or "*" in rest:
        raise FieldError(tuple(path), "name a field of a block, as in groups.*.attention.window")
    stack = dict(standing(data, at) or {})
    if not isinstance(stack.get("groups"), list):
        return [(*at, *rest)]
    base = {key: value for fields in (data, stack) for key, value in fields.items() if key in BLOCK_FIELDS}
    found: list[Sequence[str]] = [
        tuple(map(str, (*loc, *rest))) for loc, block in _blocks(stack, at)
        if rest[0] not in SUBLAYERS or len(rest) == 1 or merge(base, dict(block)).get(rest[0]) not in NONE
    ]
    if not found:
        raise FieldError((*at, "groups"), f"no block has {rest[0]}")
    return found


def blame(error: SpecError, overrides: Sequence[Override]) -> SpecError | None:
    """The error as the fault of the last override of the field it names, or of a field around or inside it."""
    field = _path(error.field or "")
    for override in reversed(overrides):
        path = _anywhere(override.path) if "*" in override.path else override.path
        if all(own in ("*", each) for own, each in zip(path, field, strict=False)):
            return SpecError(error.message, source=override.source, field=error.field)
    return None


def _anywhere(path: tuple[str, ...]) -> tuple[str, ...]:
    """``groups.*.norm`` as every block's path is like: ``groups.*.blocks.*.norm``."""
    at = path.index("*") + 1
    return (*path[:at], *(() if path[at : at + 2] == ("blocks", "*") else ("blocks", "*")), *path[at:])


def _path(key: str) -> tuple[str, ...]:
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    return tuple(older.RENAMED.get(part, part) for part in parts)


def _value(text: str) -> object:
    data = read_yaml(f"value: {text}", "").data
    if list(data) != ["value"]:
        raise ValueError("the value must be one YAML value")
    value = data["value"]
    if value != text or not text[:1].isdigit():
        return value
    try:
        return parse_count(text)  # YAML reads 4K as text
    except SeveralError:
        raise
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
