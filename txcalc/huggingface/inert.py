"""Fields that a class cannot read, and that therefore cannot change it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any, Final

_FIELD: Final = re.compile(r"[a-z]\w*")

_OF_LOADERS: Final = ("quantize_activations",)
"""Fields that no class of transformers reads, but that mlx-lm does as it loads a file (``mlx_lm.utils``)."""


def is_inert(field: str, model_types: Iterable[str], written_by: object = None, *, unset: bool = False) -> bool:
    """Tell whether the classes of these types, one inside the other, cannot read a field of this name.

    A word that is nowhere in the source of the classes and their configurations is not read, whatever its value. The
    source is that of one version of the library: False for a file that a later one wrote, for types that the library
    does not have, and for names that are not spelt like a field. ``unset``: it is null, as what all classes share finds
    it in files that leave it out; then the words of its own classes decide.
    """
    table = _table()
    own = [table["folders"].get(table["types"].get(name, name)) for name in model_types]
    if not _FIELD.fullmatch(field) or field in _OF_LOADERS or None in own or _is_later(written_by):
        return False
    return not any(_holds(words, field) for words in (own if unset else (table["shared"], *own)))


def library_version() -> str:
    """The version of the library whose source was looked at."""
    return str(_table()["transformers"])


def _holds(words: frozenset[str], field: str) -> bool:
    return field in words or any(fnmatchcase(field, word) for word in _put_together(words))


@cache
def _put_together(words: frozenset[str]) -> tuple[str, ...]:
    return tuple(word for word in words if "*" in word)


def _is_later(version: object) -> bool:
    """Tell whether a later minor version wrote the file."""
    numbers = [re.findall(r"\d+", str(text))[:2] for text in (version, library_version())]
    return [*map(int, numbers[0])] > [*map(int, numbers[1])]


@cache
def _table() -> dict[str, Any]:
    text = resources.files("txcalc.huggingface").joinpath("words.json").read_text("utf-8")
    table = json.loads(text)
    folders = {name: frozenset(words.split()) for name, words in table["folders"].items()}
    return {**table, "shared": frozenset(table["shared"].split()), "folders": folders}
