"""Where the text of a model comes from: a preset, a file, a folder, stdin, or the Hugging Face hub."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Final

from txcalc.models.library import find, unknown
from txcalc.spec import jsontext
from txcalc.spec.errors import SpecError
from txcalc.spec.files import MAX_BYTES, Document, read_text
from txcalc.spec.yaml import read_yaml

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_HUB: Final = "hf:"
_CONFIG: Final = "config.json"
_REPOSITORY: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Source:
    """A document. ``label`` is what a report calls it, ``place`` what errors do, ``name`` what its folder does."""

    document: Document
    label: str
    place: str
    name: str | None = None


def read_source(model: str) -> Source:
    """The document that a MODEL argument means: a preset's name or alias, a path, ``-``, or ``hf:org/name``.

    What has a separator in it or ends in .yaml, .yml or .json is a path, but for ``org/name`` where no file is called
    so; so is any other existing file that is not called like a preset. A folder stands for the ``config.json`` in it.
    Nothing is downloaded but for ``hf:``.
    Raises SpecError for whatever cannot be found or read.
    """
    if model == "-":
        return Source(_parsed(_stdin(), "stdin"), "stdin", "stdin")
    if model.startswith(_HUB):
        from txcalc.models.hub import config_path

        name = model.removeprefix(_HUB)
        return Source(_read(config_path(name), model), model, model, name.partition("@")[0])
    if not _is_path(model):
        if file := find(model):
            place = str(file.entry)
            return Source(read_yaml(file.text, place), file.label_for(model), place, file.name)
        if (os.path.isdir(model) and not _is_model_folder(model)) or not os.path.exists(model):  # noqa: PTH110, PTH112
            raise unknown(model)  # Path.is_dir raises for a NUL
    path = os.path.join(model, _CONFIG) if _is_model_folder(model) else model  # noqa: PTH118
    return Source(_read(path, path), path, path, _name(path))


def _read(path: str, place: str) -> Document:
    limit = jsontext.MAX_BYTES if path.endswith(".json") else MAX_BYTES
    return _parsed(read_text(path, limit), place, is_json=path.casefold().endswith(".json"))


def _parsed(text: str, place: str, *, is_json: bool = False) -> Document:
    if jsontext.looks_like_json(text) or (is_json and text.lstrip()[:1] in ("{", "[", '"')):
        return jsontext.read_json(text, place)
    return read_yaml(text, place)


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
    raw = sys.stdin.buffer.read(jsontext.MAX_BYTES + 1)
    limit = jsontext.MAX_BYTES if raw.lstrip()[:1] == b"{" else MAX_BYTES
    if len(raw) > limit:
        raise SpecError(f"is larger than {limit:,} bytes", source="stdin")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError("is not UTF-8 text", source="stdin") from None
