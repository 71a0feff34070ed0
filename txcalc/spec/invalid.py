"""Problems of a spec, in the order in which a reader mends them, placed in the file that it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from txcalc.spec.errors import Loc, SpecError, dotted, joined, nearest
from txcalc.spec.files import Document, Position

UNKNOWN, WRONG, MISSING = range(3)
"""Ranks of mistakes in a field: the lowest comes first."""


_NO_FILE: Final = Document({})


class Complaint(NamedTuple):
    """A mistake: the path in the data, one of the ranks above, and what to say."""

    path: Loc
    rank: int
    message: str


class InvalidSpec(SpecError):
    """The fields of a spec do not fit it, or one another."""

    complaints: tuple[Complaint, ...] = ()

    def placed(self, document: Document, source: str | None) -> InvalidSpec:
        """The same with the places of a document's fields."""
        return invalid(self.complaints, document, source)


def invalid(complaints: Sequence[Complaint], document: Document = _NO_FILE, source: str | None = None) -> InvalidSpec:
    """A line for each mistake.

    Unknown fields come first (a misspelt field is also a missing one), missing fields last and all at once, and
    otherwise the file's order decides. What the file wrote itself comes before values that defaults copied from it.
    """
    marks = document.marks
    ordered = sorted(_independent(complaints, marks), key=lambda each: (each.rank, marks.get(each.path, (0, 0))))

    def error(path: Loc, field: str | None, message: str) -> InvalidSpec:
        return InvalidSpec(message, source=source, at=document.where(path), field=field)

    errors = [error(each.path, dotted(each.path), each.message) for each in ordered if each.rank != MISSING]
    if missing := [each.path for each in ordered if each.rank == MISSING]:
        fields = ", ".join(filter(None, map(dotted, sorted(missing, key=str))))
        errors.append(error(missing[0], fields, _missing(missing)))
    found = joined(errors)
    assert isinstance(found, InvalidSpec)
    found.complaints = tuple(complaints)
    return found


def _independent(complaints: Sequence[Complaint], marks: Mapping[Loc, Position]) -> Sequence[Complaint]:
    """Those that are mistakes of their own, so that one mistake is not counted twice."""
    misspelt = [each.path for each in complaints if each.rank == UNKNOWN]
    found = [
        each for each in complaints if each.rank != MISSING or not any(
            each.path[:-1] == typo[:-1] and nearest(str(typo[-1]), [str(each.path[-1])]) for typo in misspelt)
    ]
    # What the file does not hold is a copy of something that it does.
    return [each for each in found if (each.path[:-1] if each.rank == MISSING else each.path) in marks] or found


_NONE: Final = ("feed_forward", "position")


def _missing(paths: Sequence[Loc]) -> str:
    """All that is missing at once, with how to say that there is none where a stack need not have it."""
    names = sorted({f"'{path[-1]}: none'" for path in paths if path[-1] in _NONE})
    several = "s are" if len(paths) > 1 else " is"
    leave = f"; {' and '.join(names)} mean{'s' * (len(names) == 1)} that there is none" if names else ""
    return f"required field{several} missing{leave}"
