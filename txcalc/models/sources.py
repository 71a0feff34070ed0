"""Where the text of a model comes from: a preset, a file, a folder, stdin, or the Hugging Face hub."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from txcalc.models.library import find, unknown
from txcalc.spec.errors import SpecError
from txcalc.spec.files import MAX_BYTES, Document, read_text

MAX_JSON: Final = 2**23
"""The most bytes of a JSON file: a classifier's labels can be tens of thousands of lines."""

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_HUB: Final = "hf:"
_CONFIG: Final = "config.json"
_REPOSITORY: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_OF_ONE: Final = re.compile(r"@(?=[A-Za-z_][\w.\[\]*]* *=)")
_JSON: Final = re.compile(r'\s*\{\s*(?:"|\})')
"""A YAML mapping in braces rarely has its first key in quotes."""


class Source(NamedTuple):
    """A text. ``label`` is what a report calls it, ``place`` what errors do, ``name`` what its folder does."""

    text: str
    label: str
    place: str
    name: str | None = None

    def document(self) -> Document:
        """What it says, read as JSON if it begins so, else as YAML. Raises ``SpecError``."""
        named = self.place.casefold().endswith(".json") and self.text.lstrip()[:1] in ("{", "[", '"')
        if named or _JSON.match(self.text):
            from txcalc.spec.jsontext import read_json

            return read_json(self.text, self.place)
        from txcalc.spec.yaml import read_yaml

        return read_yaml(self.text, self.place)


def split_name(model: str) -> tuple[str, tuple[str, ...]]:
    """A model's name, and the overrides of this one model after it: ``gpt2@layers=24,attention.kv_heads=4``.

    They begin at the first ``@`` that a field and ``=`` follow, so that ``hf:org/name@revision`` has none, and are
    separated by commas outside of brackets and quotes. The name of a file that there is may have both in it.
    """
    places = [(found.start(), found.end()) for found in _OF_ONE.finditer(model)]
    if not places or os.path.lexists(model):
        return model, ()
    start, end = next((place for place in reversed(places) if os.path.lexists(model[: place[0]])), places[0])
    return model[:start], tuple(_listed(model[end:]))


def _listed(text: str) -> Iterator[str]:
    depth, quote, start = 0, "", 0
    for i, char in enumerate(text):
        if quote or char in "\"'":
            quote = "" if char == quote else quote or char
        elif char == "," and not depth:
            yield text[start:i]
            start = i + 1
        else:
            depth += (char in "[{") - (char in "]}")
    yield text[start:]


def read_source(model: str) -> Source:
    """The text that a MODEL argument means: a preset's name or alias, a path, ``-``, or ``hf:org/name``.

    What has a separator in it or ends in .yaml, .yml or .json is a path, but for ``org/name`` where no file is called
    so; so is any other existing file that is not called like a preset. A folder stands for the ``config.json`` in it.
    Nothing is downloaded but for ``hf:``.
    Raises SpecError for whatever cannot be found or read.
    """
    if model == "-":
        return Source(_stdin(), "stdin", "stdin")
    if model.startswith(_HUB):
        from txcalc.models.hub import config_path

        name = model.removeprefix(_HUB)
        return Source(_read(config_path(name)), model, model, name.partition("@")[0])
    if not _is_path(model):
        if file := find(model):
            return Source(file.text, file.label_for(model), file.path, file.name)
        if (os.path.isdir(model) and not _is_model_folder(model)) or not os.path.exists(model):  # noqa: PTH110, PTH112
            raise unknown(model)  # Path.is_dir raises for a NUL
    path = os.path.join(model, _CONFIG) if _is_model_folder(model) else model  # noqa: PTH118
    return Source(_read(path), path, path, _name(path))


def _read(path: str) -> str:
    return read_text(path, MAX_JSON if path.endswith(".json") else MAX_BYTES)


def _is_path(model: str) -> bool:
    if _REPOSITORY.fullmatch(model) and not model.casefold().endswith(_SUFFIXES) and not os.path.lexists(model):
        return False
    return any(sep in model for sep in ("/", os.sep, os.altsep) if sep) or model.casefold().endswith(_SUFFIXES)


def _is_model_folder(path: str) -> bool:
    return os.path.isfile(os.path.join(path, _CONFIG))  # noqa: PTH113, PTH118


def _name(path: str) -> str:
    """What a file is called: by its folder for ``config.json``, by the repository in the hub's own cache."""
    *folders, file = os.path.abspath(path).split(os.sep)  # noqa: PTH100, PTH206  as written, links kept
    stem = file.rpartition(".")[0] or file
    if stem != "config" or not folders or not folders[-1]:
        return stem
    if folders[-2:-1] == ["snapshots"] and folders[-3].startswith("models--"):
        return folders[-3].removeprefix("models--").replace("--", "/")
    return folders[-1]


def _stdin() -> str:
    if sys.stdin is None:
        raise SpecError("is closed", source="stdin")
    raw = sys.stdin.buffer.read(MAX_JSON + 1)
    limit = MAX_JSON if raw.lstrip()[:1] == b"{" else MAX_BYTES
    if len(raw) > limit:
        raise SpecError(f"is larger than {limit:,} bytes", source="stdin")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError("is not UTF-8 text", source="stdin") from None
