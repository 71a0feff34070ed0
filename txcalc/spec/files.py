"""Opening a file that a user named: a pipe without a writer, a device or a socket ends at once, with a line."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO, Final

from txcalc.spec.errors import SpecError

_KINDS: Final = (
    (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """The file, open for reading; also the pipe that a shell made of ``<(command)``, which has a writer.

    Raises ``SpecError`` for what is no file, ``OSError`` for one that cannot be opened, ``ValueError`` for a NUL.
    """
    source = os.fspath(path)
    kind = _kind(os.stat(path))  # noqa: PTH116  a socket cannot be opened
    if kind is not None:
        raise SpecError(f"is {kind}, not a file", source=source)
    return open(path, "rb")  # noqa: PTH123


def _kind(found: os.stat_result) -> str | None:
    """What is not read, in words."""
    if stat.S_ISFIFO(found.st_mode) and found.st_dev == _pipes():
        return None
    return next((name for is_one, name in _KINDS if is_one(found.st_mode)), None)


def _pipes() -> int:
    """The device of all pipes that have no name in a folder."""
    ends = os.pipe()
    try:
        return os.fstat(ends[0]).st_dev
    finally:
        for end in ends:
            os.close(end)
