"""Where an answer goes: a stream that may not know every character, or a file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TextIO

import typer

from txcalc.show.formats import FORMATS, SUFFIXES, Format
from txcalc.show.terminal import Screen
from txcalc.spec.errors import SpecError, not_one_of

if TYPE_CHECKING:
    from txcalc.cli.options import CommonOptions, OutputOptions
    from txcalc.document import Part
    from txcalc.show.blocks import Block

STDOUT: Final = "-"
_ASCII: Final = str.maketrans({"×": "x", "·": "|", "–": "-", "—": "-", "−": "-", "█": "#", "…": ".", "²": "2"})


def chosen_format(output: OutputOptions, offered: Sequence[str]) -> Format:
    """The one format that --format, --json, --markdown and the suffix of --output agree on.

    Raises ``SpecError`` for none of those that the command offers.
    """
    asked = {"--json": "json"} if output.json else {}
    asked |= {"--markdown": "md"} if output.markdown else {}
    asked |= {f"--format {output.format}": _known(output.format)} if output.format is not None else {}
    suffix = _suffix(output.output)
    if suffix in SUFFIXES:
        asked[f"--output {output.output}"] = SUFFIXES[suffix]
    if len(set(asked.values())) > 1:
        raise SpecError(f"{' and '.join(asked)} ask for different formats")
    if output.output not in (None, STDOUT) and not asked:
        raise SpecError(f"no format follows from its suffix: use {', '.join(SUFFIXES)}, or --format", field="output")
    form: Format = next((form for form in FORMATS if form in asked.values()), "table")
    if form not in offered:
        raise SpecError(f"must be one of {', '.join(offered)} here, got {form}", field="format")
    return form


def screen(output: OutputOptions, common: CommonOptions) -> Screen:
    """What the answer is laid out for: the terminal if it goes to one, else as wide as it needs to be."""
    if output.output not in (None, STDOUT) or not sys.stdout.isatty():
        return Screen()
    dumb = os.environ.get("TERM") in ("dumb", "unknown")
    plain = common.no_color or bool(os.environ.get("NO_COLOR")) or dumb
    return Screen(shutil.get_terminal_size().columns, color=not plain)


def answer(
    kind: str, found: Any, form: Format, output: OutputOptions, common: CommonOptions, *,
    document: Part | None = None, figure: str | None = None, notation: str = "unicode",
) -> None:
    """Write an answer in its format, and its charts to ``figure``, if that is a file.

    ``kind``: its module in ``txcalc.show``, which is loaded where something is to be seen. ``document``: what machines
    read, where that is not all of the answer.
    """
    from txcalc.cli import plot
    from txcalc.show import formats

    blocks: Iterable[Block] = ()
    if figure is not None or form not in ("json", "yaml"):
        blocks = tuple(import_module(f"txcalc.show.{kind}").blocks(found))
    detail = 0 if common.quiet else 1 + common.verbose
    laid_out = screen(output, common)._replace(notation=notation)
    shown = formats.write(document or found, blocks, form, laid_out, detail)
    plot.save(blocks, figure, output, common)
    write(shown, output, common)


def check_target(output: OutputOptions) -> None:
    """Refuse a file that could not be written in the end, before anything is counted. Raises ``SpecError``."""
    if output.output not in (None, STDOUT):
        _check(output.output, force=output.force)


def write(content: str | bytes, output: OutputOptions, common: CommonOptions) -> None:
    """To the file, or to stdout, which takes text alone."""
    if isinstance(content, str) and output.output in (None, STDOUT):
        to_stream(content, sys.stdout)
        return
    assert output.output is not None
    _to_file(content, output.output, force=output.force)
    if not common.quiet:
        note(f"wrote {output.output}")


def to_stream(text: str, stream: TextIO) -> None:
    """What the stream's encoding lacks becomes plain ASCII of the same width.

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


def _known(form: str) -> str:
    if form in FORMATS:
        return form
    wanted, got = not_one_of(FORMATS, form)
    raise SpecError(f"must be {wanted}{got}", field="format")


def _suffix(path: str | None) -> str:
    return os.path.splitext(path)[1].lower() if path not in (None, STDOUT) else ""  # noqa: PTH122  a text, not a file


def _check(path: str, *, force: bool) -> None:
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
    _check(path, force=force)
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
    try:
        yield
    except FileExistsError:
        raise SpecError("exists; --force replaces it", source=path) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or text without a UTF-8 form
        if isinstance(error, SpecError):
            raise
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SpecError(f"cannot be written: {reason}", source=path) from None
