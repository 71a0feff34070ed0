"""Built-in presets with every default filled in, kept from when txcalc was installed, so that counting one is quick.

Loading Pydantic and validating a preset takes longer than counting it, and a built-in preset is known to be valid.
What is kept counts only as long as the preset's file and the code that read it are the same as then; everything
else, a user's own preset or a changed one, is read and validated by ``txcalc.models.load``.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from txcalc.models.folders import built_in_folder, user_folder
from txcalc.models.loaded import Loaded, as_asked
from txcalc.spec import errors

if TYPE_CHECKING:
    from txcalc.spec.model import Model

FILE: Final = "resolved.tsv"
"""A line for each preset: names, path, checksum of what it was made from, what reports call it, fields as JSON."""

MAPPINGS: Final = ("sources", "left", "matrices")
"""The fields of a spec that are mappings, not specs."""


class Fields:
    """A resolved spec: the fields of the validated model, immutable, and nothing else."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.__dict__.update({name: value if name in MAPPINGS else _fields(value) for name, value in data.items()})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be changed")

    def replaced(self, **update: Any) -> Fields:
        """The same fields with other values for some."""
        copy = Fields({})
        copy.__dict__.update(self.__dict__ | update)
        return copy

    def to_data(self) -> dict[str, Any]:
        """The fields as plain data, as the validated model gives them."""
        return {name: _plain(value) for name, value in vars(self).items()}


def load(name: str) -> Loaded | None:
    """The built-in preset of this very name or alias; None where that needs a closer look."""
    if user_folder() is not None or ("/" in name and os.path.lexists(name)):
        return None
    folder = built_in_folder()
    try:
        for line in Path(folder, FILE).read_text(encoding="utf-8").splitlines():
            names, path, checksum, label, fields = line.split("\t")
            if name in names.split(" "):
                fresh = checksum == _checksum(Path(folder, path))
                label = as_asked(label, names.partition(" ")[0], name)
                return Loaded(cast("Model", Fields(json.loads(fields))), label) if fresh else None
    except (OSError, ValueError):  # never written, or by another version
        pass
    return None


def write() -> Path:
    """Resolve every built-in preset and keep it beside the presets."""
    folder = Path(built_in_folder())
    path = folder / FILE
    path.write_text("".join(f"{line}\n" for line in _lines(folder)), encoding="utf-8")
    return path


def _lines(folder: Path) -> Iterator[str]:
    from txcalc.models import library
    from txcalc.models import load as presets

    files = library.built_in()
    for file in files:
        path = Path(str(file.entry))
        model = presets.load(str(path)).model
        # A name that is nearly another preset's own is not settled by looking at one line.
        names = [name for name in (file.name, *file.aliases, *file.repositories)
                 if library.find_in(name, [files]) == file]
        data = json.dumps(model.to_data(), separators=(",", ":"))
        yield "\t".join((" ".join(names), path.relative_to(folder).as_posix(), _checksum(path), file.label, data))


def _fields(value: Any) -> Any:
    if isinstance(value, dict):
        return Fields(value)
    return tuple(_fields(each) for each in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Fields):
        return value.to_data()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _checksum(preset: Path) -> str:
    """Of a preset's file and of the code that reads it."""
    found = zlib.crc32(preset.read_bytes())
    for room in (__file__, errors.__file__):
        code = os.path.dirname(room)  # noqa: PTH120
        for name in sorted(os.listdir(code)):  # noqa: PTH208
            if name.endswith(".py"):
                found = zlib.crc32(Path(code, name).read_bytes(), found)
    return f"{found:08x}"
