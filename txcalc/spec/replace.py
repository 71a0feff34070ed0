"""Values in nested data by their paths: in plain mappings and lists, and in specs, whose sizes may become symbols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

M = TypeVar("M")
Path = Sequence[str | int]


def replace(spec: M, values: Mapping[str, Any]) -> M:
    """A copy of ``spec`` with the values at dotted paths such as ``attention.heads`` or ``groups.0.repeat``.

    Nothing is validated and no default follows: a new ``d_model`` leaves ``head_dim`` as it was.
    Raises ``KeyError`` naming a path that the spec does not have.
    """
    for path, value in values.items():
        if at(spec, path.split("."), replace) is replace:
            raise KeyError(path)
        spec = put(spec, path.split("."), value)
    return spec


def at(node: Any, path: Path, default: Any = None) -> Any:
    """The value at a path, ``default`` where there is none."""
    for key in path:
        found = _inside(node)
        key = int(key) if isinstance(node, list | tuple) and str(key).isdecimal() else key
        if key not in found:
            return default
        node = found[key]
    return node


def put(node: Any, path: Path, value: Any) -> Any:
    """A copy with another value at a path, where something stands."""
    if not path:
        return value
    key, *rest = path
    if isinstance(node, list | tuple):
        return type(node)(put(each, rest, value) if i == int(key) else each for i, each in enumerate(node))
    found: dict[Any, Any] = {key: put(_inside(node)[key], rest, value)}
    return {**node, **found} if isinstance(node, Mapping) else node.replaced(**found)


def _inside(node: Any) -> Mapping[Any, Any]:
    """Mappings, lists and specs as one kind of thing."""
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    return node if isinstance(node, Mapping) else getattr(node, "__dict__", {})
