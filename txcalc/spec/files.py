"""Reading a file that a user named: its text, and what it says with the places of all that it says.

A pipe without a writer, a device or a socket ends at once, with a line.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, NamedTuple

from txcalc.spec.errors import Loc, SpecError

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 32
MAX_DIGITS: Final = 100
BREAK: Final = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")

Position = tuple[int, int]

_KINDS: Final = (
    (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)


class Document(NamedTuple):
    """The contents of a file (``data``) and the place of each value (``marks``, empty for data from no file)."""

    data: dict[str, Any]
    marks: Mapping[Loc, Position] = {}

    def where(self, loc: Sequence[str | int]) -> Position | None:
        """Line and column, from 1, of the key or list item at ``loc``, or of its nearest ancestor."""
        path = tuple(loc)
        return next((self.marks[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.marks), None)


@contextmanager
def explained(source: str, what: str) -> Iterator[None]:
    """Say in one line why the system refused; ``what`` is what could not be done."""
    try:
        yield
    except SpecError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or text without a UTF-8 form
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SpecError(f"{what}: {reason}", source=source) from None


def read_text(path: str | os.PathLike[str], limit: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file of at most ``limit`` bytes, without a byte order mark.

    Raises SpecError for a file that is missing, unreadable, a directory, too large, empty or not UTF-8 text.
    """
    source = os.fspath(path)
    with explained(source, "cannot be read"):
        try:
            with open_file(path) as file:
                raw = file.read(limit + 1)
        except FileNotFoundError:
            raise SpecError("no such file", source=source) from None
    if len(raw) > limit:
        raise SpecError(f"is larger than {limit:,} bytes", source=source)
    if not raw.strip():
        raise SpecError("is empty", source=source)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SpecError("is UTF-16: save it as UTF-8", source=source, at=(1, 1))
    text = raw.decode("utf-8", errors="replace")
    good = text if "\ufffd" not in text else _valid_prefix(raw)
    at = position(good, good.find("\0") if "\0" in good else len(good))
    if "\0" in good:
        raise SpecError("is a binary file, not text", source=source, at=at)
    if len(good) < len(text):
        raise SpecError("is not UTF-8 text", source=source, at=at)
    return text.removeprefix("\ufeff")


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
    """A name for what is not read."""
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


def position(text: str, index: int) -> Position:
    """Line and column, from 1, of a place in a text."""
    start, line = 0, 1
    for match in BREAK.finditer(text, 0, index):
        start, line = match.end(), line + 1
    return line, index - start + 1


def _valid_prefix(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return raw[: error.start].decode("utf-8")
