"""Models that were read before, so that one is read again without YAML and without checking it anew.

An entry holds all that its model was made from, to be compared: the text, the overrides, and the state of the code
that read them. There are so many places and no more, in each the last model whose key falls there. A file is
written beside its place and moved there whole; one that is cut, changed or not ours is as if there were none, and so
is a folder that cannot be written.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from txcalc.models.library import cache_folder
from txcalc.spec.base import Spec
from txcalc.spec.files import Document
from txcalc.spec.model import Model


class Loaded(NamedTuple):
    """A valid model."""

    model: Model
    source: str  # what a report calls the place it was read from
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # of a configuration, what its reader should know
    dtype: str | None = None  # what a configuration says its weights are in
    report: Document | None = None  # the whole document of a report, whose model this is


_PLACES: Final = 2**12
_LONGEST: Final = 2**18
"""The longest text of a model that is kept: what is longer is a list of labels, mostly."""

_ROOMS: Final = ("", "spec", "huggingface", "models")
"""The folders of the package whose code and tables decide what is read."""


def get(key: Sequence[object]) -> Loaded | None:
    """The model that was kept under this key; None where none was, or not by this very code."""
    kept = recall(key)
    if kept is None:
        return None
    loaded = Loaded(*_unpacked(kept))
    assert isinstance(loaded.model, Model)
    return loaded


def put(key: Sequence[object], loaded: Loaded) -> None:
    """Keep a model that was read, if its text is not long and the folder can be written."""
    if loaded.report is None and sum(len(str(part)) for part in key) <= _LONGEST:
        keep(key, [*map(_packed, loaded[:-1])])


def recall(key: Sequence[object]) -> list[Any] | None:
    """The value kept under this key; None where nothing was, or not by this very code."""
    path = _place(key)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            checksum, _, text = file.read().partition(b"\n")
        if int(checksum, 16) != zlib.crc32(text):
            return None
        found, *kept = json.loads(text)
    except (OSError, ValueError):
        return None
    return kept if found == [code(), *key] else None


def keep(key: Sequence[object], value: Sequence[object]) -> None:
    """Keep a list of plain data under this key, if the folder can be written."""
    path = _place(key)
    if path is None:
        return
    text = json.dumps([[code(), *key], *value], separators=(",", ":")).encode()
    own = f"{path}.{os.getpid()}.{id(text)}"
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(own, "wb") as file:  # noqa: PTH123
            file.write(b"%x\n" % zlib.crc32(text) + text)
        os.replace(own, path)  # noqa: PTH105


def _place(key: Sequence[object]) -> str | None:
    folder = cache_folder()
    number = zlib.crc32(json.dumps(key).encode()) % _PLACES
    return os.path.join(folder, f"{number:03x}") if folder else None  # noqa: PTH118


@cache
def code(rooms: Sequence[str] = _ROOMS) -> str:
    """The sizes and times of all files in these folders of the package: by default those that decide what is read."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    files = (entry for room in rooms for entry in os.scandir(os.path.join(package, room)) if entry.is_file())  # noqa: PTH118
    return " ".join(sorted(f"{file.path}:{(found := file.stat()).st_size}:{found.st_mtime_ns}" for file in files))


def _packed(value: Any) -> Any:
    """A spec as its class's name and its fields, a mapping as a list of pairs under no name."""
    if isinstance(value, Spec):
        return {type(value).__name__: [*map(_packed, vars(value).values())]}
    if isinstance(value, dict):
        return {"": [[key, each] for key, each in value.items()]}
    return [*map(_packed, value)] if isinstance(value, tuple) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        ((name, values),) = value.items()
        if not name:
            return dict(values)
        spec = _classes()[name]
        return spec.made(dict(zip(spec.names(), map(_unpacked, values), strict=True)))
    return tuple(map(_unpacked, value)) if isinstance(value, list) else value


@cache
def _classes() -> dict[str, type[Spec]]:
    def below(spec: type[Spec]) -> Iterator[type[Spec]]:
        yield spec
        for each in spec.__subclasses__():
            yield from below(each)

    return {spec.__name__: spec for spec in below(Spec) if spec.__module__.startswith("txcalc.")}
