"""Sources of a model's text: a preset, a file, a folder, stdin, or the Hugging Face hub."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from txcalc.models.library import find, unknown
from txcalc.spec.errors import SpecError
from txcalc.spec.files import MAX_BYTES, Document, open_file, read_text

if TYPE_CHECKING:
    from txcalc.models.header import Checkpoint

MAX_JSON: Final = 2**23
"""The most bytes of a JSON file: a classifier's labels can be tens of thousands of lines."""

_SUFFIXES: Final = (".yaml", ".yml", ".json", ".gguf", ".safetensors")
_HUB: Final = "hf:"
_CONFIG: Final = "config.json"
_PACKING: Final = "hf_quant_config.json"
"""File in which ModelOpt says how weights are packed, if not in the configuration."""
_REPOSITORY: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_OF_ONE: Final = re.compile(r"@(?=[A-Za-z_][\w.\[\]*]* *=)")
_JSON: Final = re.compile(r'\s*\{\s*(?:"|\})')
"""A YAML mapping in braces rarely has its first key in quotes."""


class Source(NamedTuple):
    """A text."""

    text: str
    label: str  # what a report calls it
    place: str  # what errors do
    name: str | None = None  # what its folder does
    header: Checkpoint | None = None  # of a checkpoint, what its tensors are; the text is then its configuration
    made: bool = False  # one made of its own metadata
    notes: tuple[str, ...] = ()
    packing: str = ""  # what a file beside a configuration says of how its weights are packed

    def document(self) -> Document:
        """The document, read as JSON if it begins so, else as YAML. Raises ``SpecError``."""
        if self.made:
            return Document(json.loads(self.text))
        named = self.place.casefold().endswith(".json") and self.text.lstrip()[:1] in ("{", "[", '"')
        if named or _JSON.match(self.text):
            from txcalc.spec.jsontext import read_json

            document = read_json(self.text, self.place)
            return _packed(document, read_json(self.packing, self.place)) if self.packing else document
        from txcalc.spec.yaml import read_yaml

        return read_yaml(self.text, self.place)


def _packed(document: Document, beside: Document) -> Document:
    """A configuration that does not say itself how its weights are packed, with what the file beside it does."""
    said = beside.data.get("quantization")
    if not isinstance(said, dict) or document.data.get("quantization_config"):
        return document
    return document._replace(data={**document.data, "quantization_config": {**said, "quant_method": "modelopt"}})


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
        from txcalc.models.download import config_path

        name = model.removeprefix(_HUB)
        return Source(_read(config_path(name)), model, model, name.partition("@")[0])
    if not _is_path(model):
        if file := find(model):
            return Source(file.text, file.label_for(model), file.path, file.name)
        if (os.path.isdir(model) and not _is_model_folder(model)) or not os.path.exists(model):  # noqa: PTH110, PTH112
            raise unknown(model)  # Path.is_dir raises for a NUL
    path = os.path.join(model, _CONFIG) if _is_model_folder(model) else model  # noqa: PTH118
    if is_checkpoint(path):
        return _checkpoint(path)
    return Source(_read(path), path, path, _name(path), packing=_beside(path))


def _checkpoint(path: str) -> Source:
    """A checkpoint's header, with the configuration that it says itself, or that stands beside it."""
    from txcalc.huggingface.llama_cpp import configuration
    from txcalc.models.checkpoints import read_checkpoint

    header = read_checkpoint(path)
    if header.kind == "gguf":
        config, notes = configuration(header.metadata, header.tensors, path)
        return Source(json.dumps(config), path, path, _name(path), header, made=True, notes=tuple(notes))
    beside = os.path.join(os.path.dirname(path), _CONFIG)  # noqa: PTH118, PTH120
    if not os.path.isfile(beside):  # noqa: PTH113
        raise SpecError(f"has no {_CONFIG} beside it, which would say what model its tensors are of", source=path)
    return Source(_read(beside), path, beside, _name(beside), header, packing=_beside(beside))


def _beside(path: str) -> str:
    folder, name = os.path.split(path)
    other = os.path.join(folder, _PACKING)  # noqa: PTH118
    return _read(other) if name == _CONFIG and os.path.isfile(other) else ""  # noqa: PTH113


def is_checkpoint(path: str) -> bool:
    """Tell whether a file is called like a checkpoint, or begins as GGUF does."""
    if path.casefold().endswith((".gguf", ".safetensors", ".safetensors.index.json")):
        return True
    try:
        with open_file(path) as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(4) == b"GGUF"
    except (OSError, ValueError):
        return False


def _read(path: str) -> str:
    return read_text(path, MAX_JSON if path.endswith(".json") else MAX_BYTES)


def _is_path(model: str) -> bool:
    if _REPOSITORY.fullmatch(model) and not model.casefold().endswith(_SUFFIXES) and not os.path.lexists(model):
        return False
    return any(sep in model for sep in ("/", os.sep, os.altsep) if sep) or model.casefold().endswith(_SUFFIXES)


def _is_model_folder(path: str) -> bool:
    return os.path.isfile(os.path.join(path, _CONFIG))  # noqa: PTH113, PTH118


def _name(path: str) -> str:
    """The name of a file: its folder for ``config.json``, the repository in the hub's own cache."""
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
