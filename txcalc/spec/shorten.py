"""The shortest way to write a model down: ``resolve`` and every default the other way round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.spec.replace import at, put

Data = dict[str, Any]
Path = tuple[str | int, ...]

_FIRST: Final = ("name", "family", "modeling", "gelu", "aliases", "summary", "architecture", "vocab", "source_vocab",
                 "d_model", "layers", "context")
_LAST: Final = ("groups", "encoder", "tower", "head", "fused", "gguf", "quantization", "unknown_quantization",
                "stored", "released", "sources", "published")


_KEPT: Final[tuple[Path, ...]] = (("tower", "position", "size"),)
"""Defaults that are filled in alike, but otherwise beside another size of image, which most towers' tables outlast."""


def shorten(model: Model) -> Data:
    """The model as plain data without what a loader fills in: ``Model.from_data(shorten(m)) == m``.

    A field goes if the rest still stands for the same model, larger parts before smaller ones.
    """
    data: Data = model.to_data()
    for path in list(_paths(data, ())):
        *above, last = path
        if path in _KEPT or last not in (holder := at(data, above, {})):
            continue
        shorter = put(data, above, {name: value for name, value in holder.items() if name != last})
        data = shorter if _same(shorter, model) else data
    for path in list(_paths(data, ())):
        short = _shorthand(path[-1], at(data, path, data))
        if short is not None and _same(shorter := put(data, path, short), model):
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


def _shorthand(name: str | int, value: Any) -> bool | str | None:
    """``true`` for a ``bias`` mapping with nothing but true in it, ``none`` for positions or a layer left out."""
    if name in ("position", "feed_forward"):
        return "none" if value in (None, {"kind": "none"}, {}) else None
    own = name == "bias" and isinstance(value, Mapping) and value and all(each is True for each in value.values())
    return True if own else None


def _ordered(data: Data) -> Data:
    middle = [name for name in data if name not in (*_FIRST, *_LAST)]
    return {name: data[name] for name in (*_FIRST, *middle, *_LAST) if name in data}
