"""The shortest way to write a model down: ``resolve`` and every default the other way round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model

Data = dict[str, Any]
Path = tuple[str | int, ...]

_FIRST: Final = ("name", "family", "modeling", "aliases", "summary", "architecture", "vocab", "source_vocab",
                 "d_model", "layers", "context")
_LAST: Final = ("groups", "encoder", "tower", "head", "fused", "gguf", "quantization", "unknown_quantization",
                "stored", "released", "sources", "published")


_KEPT: Final[tuple[Path, ...]] = (("tower", "position", "size"),)
"""What a loader would fill in alike, but otherwise beside another size of image, which most towers' tables outlast."""


def shorten(model: Model) -> Data:
    """The model as plain data without what a loader fills in: ``Model.from_data(shorten(m)) == m``.

    A field goes if the rest still stands for the same model, larger parts before smaller ones.
    """
    data: Data = model.to_data()
    for path in list(_paths(data, ())):
        if path not in _KEPT and _has(data, path) and _same(shorter := _without(data, path), model):
            data = shorter
    for path in list(_paths(data, ())):
        if (short := _shorthand(data, path)) is not None and _same(shorter := _put(data, path, short), model):
            data = shorter
    return _ordered(data)


def _same(data: Data, model: Model) -> bool:
    try:
        return Model.from_data(data) == model
    except SpecError:
        return False


def _paths(node: Any, path: Path) -> Iterator[Path]:
    """Every field, those of a mapping after the mapping itself. Items of lists stay."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if isinstance(key, str):
            yield (*path, key)
        yield from _paths(value, (*path, key))


def _has(data: Data, path: Path) -> bool:
    node: Any = data
    for key in path:
        if not (isinstance(node, list) or (isinstance(node, Mapping) and key in node)):
            return False
        node = _item(node, key)
    return True


def _item(node: Any, key: str | int) -> Any:
    return node[key]


def _without(node: Any, path: Path) -> Any:
    key, *rest = path
    if rest:
        return _changed(node, key, _without(node[key], tuple(rest)))
    return {name: value for name, value in node.items() if name != key}


def _put(node: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    key, *rest = path
    return _changed(node, key, _put(node[key], tuple(rest), value))


def _changed(node: Any, key: str | int, value: Any) -> Any:
    if isinstance(node, list):
        return [value if i == key else item for i, item in enumerate(node)]
    return {name: value if name == key else item for name, item in node.items()}


def _shorthand(data: Data, path: Path) -> bool | str | None:
    """``true`` for a ``bias`` mapping with nothing but true in it, ``none`` for positions or a layer left out."""
    if path[-1] not in ("bias", "position", "feed_forward") or not _has(data, path):
        return None
    node: Any = data
    for key in path:
        node = node[key]
    if path[-1] != "bias":
        return "none" if node in (None, {"kind": "none"}, {}) else None
    return True if isinstance(node, Mapping) and node and all(value is True for value in node.values()) else None


def _ordered(data: Data) -> Data:
    middle = [name for name in data if name not in (*_FIRST, *_LAST)]
    return {name: data[name] for name in (*_FIRST, *middle, *_LAST) if name in data}
