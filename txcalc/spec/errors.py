"""The one error a user of a spec file sees: a place, a field, and what would be right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Final, TypeGuard, TypeVar

Loc = tuple[str | int, ...]

T = TypeVar("T")

_MOST: Final = 20
"""The most errors that are said at once."""


class SpecError(ValueError):
    """Something in a spec is wrong, in one line: ``tiny.yaml:7:3: attention.kv_head: unknown field``.

    ``at``: line and column, which count from 1. Parts that are None are left out of the line. ``also``: what else is
    wrong there, each in a line of its own. ``single``: it is known to be of its field alone.
    """

    def __init__(
        self, message: str, *, source: str | None = None, at: tuple[int, int] | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.source = source
        self.at = at
        self.field = field
        self.also: tuple[SpecError, ...] = ()
        self.single = False

    @property
    def every(self) -> tuple[SpecError, ...]:
        """The errors one by one."""
        alone = copy(self)
        alone.also = ()
        return (alone, *self.also)

    def each(self, change: Callable[[SpecError], SpecError]) -> SpecError:
        """All the errors, each of them changed."""
        return joined([change(error) for error in self.every])

    def __str__(self) -> str:
        return "\n".join([self._line(), *map(str, self.also)])

    def _line(self) -> str:
        place = ":".join(str(part) for part in (self.source, *(self.at or ())) if part is not None)
        text = ": ".join(part for part in (place, self.field, self.message) if part)
        return " ".join(text.splitlines())


def joined(errors: Sequence[SpecError]) -> SpecError:
    """Several errors as one, each line once, and no more than a reader would go through."""
    alone = {str(error): error for several in errors for error in several.every}
    first, *rest = alone.values()
    if len(rest) >= _MOST:
        rest = [*rest[: _MOST - 2], SpecError(f"and {len(rest) - _MOST + 2} more", source=first.source)]
    found = copy(first)
    found.also = tuple(rest)
    return found


def all_of(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Results of all calls. Raises ``SpecError`` of all that they raise."""
    results: list[T] = []
    errors: list[SpecError] = []
    for call in calls:
        try:
            results.append(call())
        except SpecError as error:
            errors.append(error)
    if errors:
        raise joined(errors)
    return results


@contextmanager
def of_field(field: str, message: str = "{}") -> Iterator[None]:
    """Say of which field it is what is raised within as a ``ValueError``."""
    try:
        yield
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(message.format(error), field=field) from None


def is_size(value: object) -> TypeGuard[int]:
    """Tell whether it is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class MissingPackage(RuntimeError):
    """An optional package is not installed: ``a figure needs matplotlib: pip install matplotlib``."""

    def __init__(self, need: str, package: str) -> None:
        super().__init__(f"{need}: pip install {package}")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that ``name`` was probably meant to be, or None if nothing is close.

    Case and the choice between ``-`` and ``_`` do not count as differences.
    """
    if len(name) > 100:  # difflib's time grows with the square of the length
        return None
    import difflib

    folded = {_folded(candidate): candidate for candidate in names}
    close = difflib.get_close_matches(_folded(name), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")


class FieldError(ValueError):
    """Raised inside validation when the field at fault is known: ``loc`` is its path below the validated object."""

    def __init__(self, loc: Loc, message: str) -> None:
        super().__init__(message)
        self.loc = loc
        self.message = message


def unknown_field(name: str, names: Sequence[str]) -> str:
    """The message on a field that there is not."""
    if close := nearest(name, names):
        return f"unknown field; did you mean {close}?"
    return f"unknown field; the fields here are {', '.join(names)}" if names else "unknown field"


def not_one_of(options: Sequence[str], value: object) -> str:
    """The message on a field that takes one of a few words: those, and what it got."""
    close = nearest(value, options) if isinstance(value, str) else None
    wanted = options[0] if len(options) == 1 else f"one of {', '.join(options)}"
    return f"must be {wanted}, got {shown(value)}" + (f"; did you mean {close}?" if close else "")


def meant(name: str, names: Iterable[str], otherwise: str | None = None) -> str:
    """The nearest of ``names``, as a question; where none is near, all of them, or what is said ``otherwise``."""
    close = nearest(name, names := list(names))
    return f"did you mean {close}?" if close else otherwise or f"one of {', '.join(names)}"


def dotted(path: Loc) -> str | None:
    """A path in the data as an error names it: ``groups[0].blocks[1].attention``; None at the top."""
    joined = "".join(f"[{part}]" if isinstance(part, int) else f".{_short(part, 80)}" for part in path)
    return joined.removeprefix(".") or None


def shown(value: object) -> str:
    """A value as an error names it: as the file would write it, and short."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return repr(_short(value, 40))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return str(value)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
