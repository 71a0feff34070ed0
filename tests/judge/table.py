"""The words of every family that is read, as one committed table: what is in none of them is inert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_defaults import NAMED_OTHERWISE, read_types

from judge.words import own_words, shared_words

WORDS = Path(__file__).parent.parent.parent / "txcalc" / "huggingface" / "words.json"


def folder_of(model_type: str) -> str:
    """Where the library keeps the classes of a type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    module = CONFIG_MAPPING[NAMED_OTHERWISE.get(model_type, model_type)].__module__
    return module.split(".")[2]


def words_table() -> dict[str, Any]:
    """``version``, the words that all classes share, those of each folder, and the folders of types named otherwise."""
    import transformers

    folders = {name: folder_of(name) for name in read_types()}
    return {
        "transformers": transformers.__version__,
        "shared": " ".join(sorted(shared_words())),
        "folders": {folder: " ".join(sorted(own_words(folder))) for folder in sorted(set(folders.values()))},
        "types": {name: folder for name, folder in sorted(folders.items()) if name != folder},
    }


def as_text(table: dict[str, Any]) -> str:
    return json.dumps(table, indent=1) + "\n"


def write() -> None:
    WORDS.write_text(as_text(words_table()))
