"""Which model is meant: a preset's name, a file or stdin, with what the command line lays over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from txcalc.huggingface import is_config
from txcalc.models.basis import on_base
from txcalc.models.library import PresetInfo, names
from txcalc.models.loaded import Loaded
from txcalc.models.sources import Source, read_source
from txcalc.spec import older
from txcalc.spec.complaints import InvalidSpec
from txcalc.spec.errors import Loc, SpecError, dotted
from txcalc.spec.files import Document
from txcalc.spec.model import Model
from txcalc.spec.overrides import Override, apply_overrides, blame, parse_overrides, split_name

__all__ = ["REPORT_SCHEMA", "Loaded", "PresetInfo", "load", "names"]

REPORT_SCHEMA: Final = "txcalc/report/v2"
_OF_ONE_MODEL: Final = (REPORT_SCHEMA, older.SCHEMA, "txcalc/attention/v1", "txcalc/explain/v1")
_OF_SEVERAL: Final[Mapping[str, Callable[[Mapping[str, Any]], Sequence[tuple[Loc, object]]]]] = {
    "txcalc/comparison/v1": lambda data: _listed("entries", data.get("entries")),
    "txcalc/diff/v1": lambda data: [((side,), data.get(side)) for side in "ab"],
}
"""The parts that hold a model each in an answer about several, and where they stand."""


def load(model: str, overrides: Sequence[str] = (), *, strict: bool = False) -> Loaded:
    """Load the model that an argument names, see ``txcalc.models.sources``; a report stands for the model in it.

    A Hugging Face configuration is read as the spec of the same model; ``strict`` refuses fields that its class does
    not read. ``overrides`` are ``KEY=VALUE`` texts, see ``txcalc.spec.overrides``, which may also follow the name; with
    any, the figures published for the model no longer apply and are left out. A report's model has every default
    written out, so that there an override changes its own field and none that would otherwise follow it.
    Raises SpecError for whatever cannot be found, read or validated.
    """
    name, own = split_name(model)
    return _load(read_source(name), name, own, overrides, strict=strict)


def load_all(model: str, overrides: Sequence[str] = (), *, strict: bool = False) -> list[Loaded]:
    """Load every model of a saved comparison or difference; of anything else the one that ``load`` gives."""
    name, own = split_name(model)
    source = read_source(name)
    return [_load(each, name, own, overrides, strict=strict) for each in _parts(source)]


def _parts(source: Source) -> Iterator[Source]:
    """A source for each model of an answer about several, which says of it what a report would."""
    data = source.document.data
    schema = str(data.get("schema"))
    if schema not in _OF_SEVERAL:
        yield source
        return
    for path, part in _OF_SEVERAL[schema](data):
        if not isinstance(part, Mapping):
            raise SpecError(f"{schema} holds a model here, as a mapping", source=source.place, field=dotted(path))
        schema_of_part = older.SCHEMA if older.is_older(part) else REPORT_SCHEMA
        marks = {loc[len(path):]: at for loc, at in source.document.marks.items() if loc[:len(path)] == path}
        document = Document({"provenance": data.get("provenance"), **part, "schema": schema_of_part}, marks)
        yield replace(source, document=document, label=f"{source.label}, {dotted(path)}")


def _listed(name: str, parts: object) -> Sequence[tuple[Loc, object]]:
    if isinstance(parts, list) and parts:
        return [((name, i), part) for i, part in enumerate(parts)]
    return [((name, 0), None)]


def _load(source: Source, name: str, own: Sequence[str], given: Sequence[str], *, strict: bool) -> Loaded:
    parsed = parse_overrides(own, f"{name}@") + parse_overrides(given)
    overrides = (*own, *given)
    document = _model_document(source.document, source.place)
    if is_config(document.data):
        return _load_config(source, parsed, strict=strict)
    document = on_base(document, source.place, source.name)
    changed = apply_overrides(document, parsed)
    try:
        spec = Model.from_data(changed.data)
    except InvalidSpec as error:
        explained = error.placed(changed, source.place)
        raise _blamed(explained, parsed, document) from None
    report = source.document if is_report(source.document.data) else None
    return Loaded(spec, source.label, tuple(overrides), report=report)


def _load_config(source: Source, overrides: Sequence[Override], *, strict: bool) -> Loaded:
    from txcalc.huggingface.load import import_config, in_config_terms

    found = import_config(source.document, source.place, source.name, strict=strict)
    changed = apply_overrides(found.document, overrides)
    texts = tuple(override.text for override in overrides)
    try:
        return Loaded(Model.from_data(changed.data), source.label, texts, found.notes, found.dtype)
    except InvalidSpec as error:
        explained = error.placed(changed, source.place)
        blamed = _blamed(explained, overrides, found.document)
        raise (in_config_terms(explained, source.document) if blamed is explained else blamed) from None


def _model_document(document: Document, place: str) -> Document:
    """The document itself, or the part that describes the model where the document is an answer about one."""
    if not is_report(document.data):
        return document
    schema = document.data["schema"]
    if schema not in _OF_ONE_MODEL:
        line, column = document.where(("schema",)) or (None, None)
        message = f"this txcalc reads {REPORT_SCHEMA}, not {schema!r}"
        if not schema.startswith("txcalc/report/"):
            message = f"no one model stands in {schema!r}: a report, an attention curve or an explanation holds one"
            if schema in _OF_SEVERAL:
                message += "; the command that wrote this counts it again"
        raise SpecError(message, source=place, line=line, column=column, field="schema")
    path = ("model", "spec")
    info = document.data.get("model")
    spec = info.get("spec") if isinstance(info, dict) else None
    if not isinstance(spec, dict):
        raise SpecError("a report holds its model here, as a mapping", source=place, field=dotted(path))
    marks = {loc[2:]: position for loc, position in document.marks.items() if loc[:2] == path}
    return Document(older.spec(spec) if older.is_older(document.data) else spec, marks)


def is_report(data: Mapping[str, Any]) -> bool:
    """Whether it says that it is an answer of this program."""
    schema = data.get("schema")
    return isinstance(schema, str) and schema.startswith("txcalc/")


def _blamed(error: SpecError, overrides: Sequence[Override], document: Document) -> SpecError:
    """Put errors on the overrides that caused them: on all of them where none is near any and the rest is sound."""
    if not overrides:
        return error
    if any(blame(each, overrides) for each in error.every):
        return error.each(lambda each: blame(each, overrides) or each)
    try:
        Model.from_data(document.data)
    except InvalidSpec:
        return error
    all_of_them = " ".join(override.source for override in overrides)
    return error.each(lambda each: SpecError(each.message, source=all_of_them, field=each.field))
