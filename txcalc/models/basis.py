"""A spec's ``base: llama3-8b``: the preset of that name, with the spec's own fields laid over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from txcalc.models.library import find, unknown
from txcalc.models.sources import split_name
from txcalc.spec import older
from txcalc.spec.errors import Loc, SpecError, dotted, shown
from txcalc.spec.files import Document
from txcalc.spec.overrides import apply_overrides, hidden, own_values, parse_override
from txcalc.spec.resolve import merge
from txcalc.spec.yaml import read_yaml

FIELD: Final = "base"
_ADVICE: Final = "write the groups out here, or leave it to --set {every}"
_ITS_OWN: Final = ("aliases", "published")
"""Fields of the preset alone."""


def on_base(document: Document, place: str, name: str | None, above: tuple[str, ...] = ()) -> Document:
    """The document with its base under it; itself where it names none.

    Mappings are merged field by field, lists replaced, as ``--set`` has it. Without a name of its own the model is
    called ``name``, or like the base. Only the document's own fields have places.
    Raises SpecError for a base that is no preset, and for a field that blocks of the base have their own of.
    """
    if FIELD not in document.data:
        return document
    given = document.data[FIELD]
    own = {key: value for key, value in document.data.items() if key != FIELD}
    try:
        base = _preset(given, (*above, place))
        data = merge({key: value for key, value in base.data.items() if key not in _ITS_OWN}, own)
    except SpecError as error:
        raise _placed(error, document, place, (FIELD,)) from None
    for path, value in _stack_fields(own):
        if found := [loc for loc in hidden(data, path, value) if not _written(loc, own)]:
            raise _placed(SpecError(own_values(found, path, data, _ADVICE)), document, place, path)
    return Document({**data, "name": own.get("name", name or base.data["name"])}, document.marks)


def _preset(given: object, above: tuple[str, ...]) -> Document:
    if not isinstance(given, str):
        raise SpecError(f"must be the name of a preset, got {shown(given)}")
    name, texts = split_name(given)
    file = find(name)
    if file is None:
        raise unknown(name)
    place = file.path
    if place in above:
        raise SpecError(f"{name} is what it is itself based on")
    document, _ = older.renamed(read_yaml(file.text, place), place)
    found = on_base(document, place, file.name, above)
    return apply_overrides(found, [parse_override(text, f"{name}@") for text in texts])


def _stack_fields(own: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, value in own.items():
        if key in ("encoder", "tower") and isinstance(value, Mapping):
            yield from (((key, field), each) for field, each in value.items())
        else:
            yield (key,), value


def _written(loc: Loc, own: Any) -> bool:
    """Tell whether the document itself says so, in groups of its own."""
    for key in loc:
        if isinstance(own, list):
            return True
        if not isinstance(own, Mapping) or key not in own:
            return False
        own = own[key]
    return True


def _placed(error: SpecError, document: Document, place: str, path: Loc) -> SpecError:
    return SpecError(str(error), source=place, at=document.where(path), field=dotted(path))
