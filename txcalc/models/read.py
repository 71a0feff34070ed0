"""A document as a model: a spec, a report, or the configuration of a class on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from txcalc.huggingface import is_config
from txcalc.models.basis import on_base
from txcalc.models.sources import Source
from txcalc.models.store import Loaded
from txcalc.spec import older
from txcalc.spec.errors import Loc, SpecError, dotted
from txcalc.spec.files import Document
from txcalc.spec.invalid import InvalidSpec
from txcalc.spec.model import Model
from txcalc.spec.overrides import Override, apply_overrides, blame

REPORT_SCHEMA: Final = "txcalc/report/v2"
_OF_ONE_MODEL: Final = (
    REPORT_SCHEMA, older.SCHEMA, "txcalc/attention/v1", "txcalc/explain/v1", "txcalc/memory/v1", "txcalc/fit/v1")
_OF_SEVERAL: Final[Mapping[str, Callable[[Mapping[str, Any]], Sequence[tuple[Loc, object]]]]] = {
    "txcalc/comparison/v1": lambda data: _listed("entries", data.get("entries")),
    "txcalc/diff/v1": lambda data: [((side,), data.get(side)) for side in "ab"],
}
"""The parts that hold a model each in an answer about several, and where they stand."""


def parts(document: Document, place: str) -> Iterator[tuple[str | None, Document]]:
    """The documents that stand for the models of an answer about several, with where in it each stands.

    Anything else is one document. Raises ``SpecError`` for a part that holds no model.
    """
    data = document.data
    schema = str(data.get("schema"))
    if schema not in _OF_SEVERAL:
        yield None, document
        return
    for path, part in _OF_SEVERAL[schema](data):
        if not isinstance(part, Mapping):
            raise SpecError(f"{schema} holds a model here, as a mapping", source=place, field=dotted(path))
        schema_of_part = older.SCHEMA if older.is_older(part) else REPORT_SCHEMA
        marks = {loc[len(path):]: at for loc, at in document.marks.items() if loc[:len(path)] == path}
        yield dotted(path), Document({"provenance": data.get("provenance"), **part, "schema": schema_of_part}, marks)


def _listed(name: str, parts: object) -> Sequence[tuple[Loc, object]]:
    if isinstance(parts, list) and parts:
        return [((name, i), part) for i, part in enumerate(parts)]
    return [((name, 0), None)]


def read(source: Source, whole: Document, overrides: Sequence[Override], *, strict: bool) -> Loaded:
    """The model of a source whose document is ``whole``, under overrides. Raises ``SpecError``."""
    document = _model_document(whole, source.place)
    if is_config(document.data):
        return _config(source, whole, overrides, strict=strict)
    document, notes = older.renamed(document, source.place)
    document = on_base(document, source.place, source.name)
    changed = apply_overrides(document, overrides)
    try:
        spec = Model.from_data(changed.data)
    except InvalidSpec as error:
        explained = error.placed(changed, source.place)
        raise _blamed(explained, overrides, document) from None
    if is_report(whole.data):
        return Loaded(spec, source.label, _texts(overrides), report=whole)
    return Loaded(spec, source.label, _texts(overrides), tuple(notes))


def _config(source: Source, document: Document, overrides: Sequence[Override], *, strict: bool) -> Loaded:
    from txcalc.huggingface.imported import import_config, in_config_terms

    found = import_config(document, source.place, source.name, strict=strict)
    changed = found.document
    try:
        if source.header is not None:
            from txcalc.models.checkpoints import with_tensors

            found = with_tensors(found, source.header, source.notes)
        changed = apply_overrides(found.document, overrides)
        return Loaded(Model.from_data(changed.data), source.label, _texts(overrides), found.notes, found.dtype)
    except InvalidSpec as error:
        explained = error.placed(changed, source.place)
        blamed = _blamed(explained, overrides, found.document)
        raise (in_config_terms(explained, document) if blamed is explained else blamed) from None


def _texts(overrides: Sequence[Override]) -> tuple[str, ...]:
    return tuple(override.text for override in overrides)


def _model_document(document: Document, place: str) -> Document:
    """The document itself, or the part that describes the model where the document is an answer about one."""
    if not is_report(document.data):
        return document
    schema = document.data["schema"]
    if schema not in _OF_ONE_MODEL:
        message = f"this txcalc reads {REPORT_SCHEMA}, not {schema!r}"
        if not schema.startswith("txcalc/report/"):
            message = f"no one model stands in {schema!r}: a report, an attention curve or an explanation holds one"
            if schema in _OF_SEVERAL:
                message += "; the command that wrote this counts it again"
        raise SpecError(message, source=place, at=document.where(("schema",)), field="schema")
    path = ("model", "spec")
    info = document.data.get("model")
    spec = info.get("spec") if isinstance(info, dict) else None
    if not isinstance(spec, dict):
        raise SpecError("a report holds its model here, as a mapping", source=place, field=dotted(path))
    marks = {loc[2:]: position for loc, position in document.marks.items() if loc[:2] == path}
    return Document(older.spec(spec) if older.is_older(document.data) else spec, marks)


def is_report(data: Mapping[str, Any]) -> bool:
    """Tell whether the document says that it is an answer of this program."""
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
