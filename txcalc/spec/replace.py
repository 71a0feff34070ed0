"""Put symbols or arrays in place of a valid spec's sizes, unchecked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

M = TypeVar("M")


def replace(spec: M, values: Mapping[str, Any]) -> M:
    """A copy of ``spec`` with the values at dotted paths such as ``attention.heads`` or ``groups.0.repeat``.

    Nothing is validated and no default follows: a new ``d_model`` leaves ``head_dim`` as it was.
    Raises ``KeyError`` naming a path that the spec does not have.
    """
    for path, value in values.items():
        spec = _put(spec, path.split("."), value, path)
    return spec


def _put(node: Any, keys: list[str], value: Any, path: str) -> Any:
    if not keys:
        return value
    key, *rest = keys
    if isinstance(node, tuple):
        i = int(key)
        return (*node[:i], _put(node[i], rest, value, path), *node[i + 1 :])
    if not hasattr(node, "replaced") or key not in vars(node):
        raise KeyError(path)
    return node.replaced(**{key: _put(getattr(node, key), rest, value, path)})
