"""Which model is meant: a preset's name, a file or stdin, with what the command line lays over it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from txcalc.spec.errors import SpecError, dotted
from txcalc.spec.explain import explain_validation
from txcalc.spec.library import PresetInfo, find, names, unknown
from txcalc.spec.model import Model
from txcalc.spec.overrides import Override, apply_overrides, blame, parse_override
from txcalc.spec.yaml import MAX_BYTES, Document, read_text, read_yaml

__all__ = ["REPORT_SCHEMA", "Loaded", "PresetInfo", "load", "names"]

REPORT_SCHEMA: Final = "txcalc/report/v1"
_SUFFIXES: Final = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Loaded:
    """A validated model and where it came from; ``document`` is its data as given, overrides included."""

    model: Model
    source: str
    overrides: tuple[str, ...]
    document: Document


def load(model: str, overrides: Sequence[str] = ()) -> Loaded:
    """Load a model by preset name or alias, by path, or from stdin for ``-``; a report stands for the model in it.

    What has a separator in it or ends in .yaml, .yml or .json is a path; so is any other existing file that is not
    called like a preset. ``overrides`` are ``KEY=VALUE`` texts, see ``txcalc.spec.overrides``; with any, the figures
    published for the model no longer apply and are left out. A report's model has every default written out, so that
    there an override changes its own field and none that would otherwise follow it.
    Raises SpecError for whatever cannot be found, read or validated.
    """
    parsed = [parse_override(text) for text in overrides]
    document, source, place = _read(model)
    document = _model_document(document, place)
    changed = apply_overrides(document, parsed)
    try:
        return Loaded(Model.model_validate(changed.data), source, tuple(overrides), changed)
    except ValidationError as error:
        explained = explain_validation(error, changed, place, Model)
        raise _blamed(explained, parsed, document) from None


def _read(model: str) -> tuple[Document, str, str]:
    """The document, where it came from, and what errors call it."""
    if model == "-":
        return read_yaml(_stdin(), "stdin"), "stdin", "stdin"
    if not _is_path(model):
        if file := find(model):
            place = str(file.entry)
            return read_yaml(file.text, place), file.label, place
        if not os.path.isfile(model):  # noqa: PTH113  Path.is_file raises for a NUL
            raise unknown(model)
    return read_yaml(read_text(model), model), model, model


def _is_path(model: str) -> bool:
    return any(sep in model for sep in ("/", os.sep, os.altsep) if sep) or model.casefold().endswith(_SUFFIXES)


def _stdin() -> str:
    raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise SpecError(f"is larger than {MAX_BYTES:,} bytes", source="stdin")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError("is not UTF-8 text", source="stdin") from None


def _model_document(document: Document, place: str) -> Document:
    """The document itself, or the part that describes the model where the document is a report."""
    schema = document.data.get("schema")
    if not isinstance(schema, str) or not schema.startswith("txcalc/report/"):
        return document
    if schema != REPORT_SCHEMA:
        line, column = document.where(("schema",)) or (None, None)
        message = f"this txcalc reads {REPORT_SCHEMA}, not {schema!r}"
        raise SpecError(message, source=place, line=line, column=column, field="schema")
    path = ("model", "spec")
    info = document.data.get("model")
    spec = info.get("spec") if isinstance(info, dict) else None
    if not isinstance(spec, dict):
        raise SpecError("a report holds its model here, as a mapping", source=place, field=dotted(path))
    marks = {loc[2:]: position for loc, position in document.marks.items() if loc[:2] == path}
    return Document(spec, marks)


def _blamed(error: SpecError, overrides: Sequence[Override], document: Document) -> SpecError:
    """Put the error on the override that caused it: on all of them where none is near it and the rest is sound."""
    if not overrides:
        return error
    if culprit := blame(error, overrides):
        return culprit
    try:
        Model.model_validate(document.data)
    except ValidationError:
        return error
    return SpecError(error.message, source=" ".join(override.source for override in overrides), field=error.field)
