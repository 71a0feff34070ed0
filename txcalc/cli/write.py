"""Destinations of an answer: a stream that may not know every character, or a file, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import Final, TextIO

import typer

from txcalc.show.terminal import Screen
from txcalc.spec.errors import SpecError
from txcalc.spec.files import explained

STDOUT: Final = "-"
_ASCII: Final = str.maketrans({"×": "x", "·": "|", "–": "-", "—": "-", "−": "-", "█": "#", "…": ".", "²": "2",
                               **dict(zip("▁▂▃▄▅▆▇", "._-=+*%", strict=True))})


def screen(*, to_file: bool, color: bool) -> Screen:
    """The screen that the answer is laid out for: the terminal if it goes to one, else as wide as it needs to be.

    A pipe has no width, whatever COLUMNS says: the same command gives the same bytes, one line to a row.
    """
    if to_file or not sys.stdout.isatty():
        return Screen()
    plain = not color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")
    return Screen(shutil.get_terminal_size().columns, color=not plain)


def is_terminal_with(characters: str) -> bool:
    """Tell whether stdout is a terminal that can show these characters."""
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return sys.stdout.isatty()


def write(content: str | bytes, path: str | None, *, force: bool, quiet: bool) -> None:
    """To the file, or to stdout, which takes text alone."""
    if isinstance(content, str) and path in (None, STDOUT):
        to_stream(content, sys.stdout)
        return
    assert path is not None
    _to_file(content, path, force=force)
    if not quiet:
        note(f"wrote {path}")


def to_stream(text: str, stream: TextIO) -> None:
    """Write to a stream: characters that its encoding lacks become plain ASCII of the same width.

    Whoever read our output and closed it has read enough: that is no error. Raises ``SpecError`` for a full disk.
    """
    try:
        _to_stream(text, stream)
    except OSError as error:
        # What is still in the buffer would be written, and fail, once more at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(0) from None
        raise SpecError(f"cannot be written: {(error.strerror or str(error)).lower()}", source="stdout") from None


def _to_stream(text: str, stream: TextIO) -> None:
    encoding = stream.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, errors="replace").decode(encoding)
    stream.write(text)
    stream.flush()


def note(text: str) -> None:
    """A line beside the answer, for a person at a terminal only."""
    if sys.stderr.isatty():
        to_stream(f"{text}\n", sys.stderr)


def notice(text: str) -> None:
    """A line on stderr about how the request was read, wherever that goes."""
    to_stream(f"note: {text}\n", sys.stderr)


def check(path: str | None, *, force: bool) -> None:
    """Refuse a file that could not be written in the end, before anything is counted. Raises ``SpecError``."""
    if path in (None, STDOUT):
        return
    folder = os.path.dirname(path) or "."  # noqa: PTH120
    with _explained(path):
        if os.path.isdir(path):  # noqa: PTH112  as the user wrote it, also with a slash at the end
            raise SpecError("is a directory, not a file", source=path)
        if not os.path.isdir(folder):  # noqa: PTH112
            raise SpecError(f"there is no directory {folder}", source=path)
        if not os.path.lexists(path):
            return
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise SpecError("is not a regular file", source=path)
        if not force:
            raise SpecError("exists; --force replaces it", source=path)


def _to_file(content: str | bytes, path: str, *, force: bool) -> None:
    """Through a new file beside it, so that a reader sees the old or the new, never a part.

    Without ``force`` the new file is linked into place, which fails where another has appeared meanwhile.
    """
    check(path, force=force)
    with _explained(path):
        target = os.path.realpath(path)
        part = f"{target}.{os.urandom(4).hex()}.part"
        try:
            with open(part, "xb") as file:  # noqa: PTH123
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            _place(part, target, force=force)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)  # noqa: PTH108


def _place(part: str, target: str, *, force: bool) -> None:
    if force:
        if os.path.exists(target):  # noqa: PTH110
            shutil.copymode(target, part)
        os.replace(part, target)  # noqa: PTH105
        return
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError from None
        os.replace(part, target)  # noqa: PTH105


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    with explained(path, "cannot be written"):
        try:
            yield
        except FileExistsError:
            raise SpecError("exists; --force replaces it", source=path) from None
