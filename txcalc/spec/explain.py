"""Turn Pydantic's complaints about a spec into one line that names the place, the field and what would be right."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from txcalc.spec.errors import FieldError, Loc, SpecError, dotted, joined, nearest, not_one_of, shown, unknown_field
from txcalc.spec.yaml import Document, Position

_ABSENT: Final = object()

_WANTED: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
}


_LIMITS: Final = (("ge", "of at least", 0), ("gt", "above", 1), ("le", "of at most", 0), ("lt", "below", -1))


_UNKNOWN, _WRONG, _MISSING = range(3)


@dataclass(frozen=True)
class _Complaint:
    path: Loc
    rank: int  # _UNKNOWN, _WRONG or _MISSING: the lowest is shown
    wanted: str  # completes "must be ..."; empty if ``text`` says it all
    text: str  # what follows


@dataclass(frozen=True)
class _Place:
    """A Pydantic ``loc`` followed through the model: the path in the data, and the types that led there."""

    path: Loc
    owner: type[BaseModel] | None  # the model that the last element is (or would be) a field of
    kind: object  # the annotation at the place


def explain_validation(
    error: ValidationError,
    document: Document | None,
    source: str | None,
    model_cls: type[BaseModel],
) -> SpecError:
    """Pydantic's complaints as one SpecError for each mistake, placed in the file if a document is given.

    Unknown fields come first (a misspelt field is also a missing one), missing fields last and all at once, and
    otherwise the file's order decides. What the file wrote itself comes before values that defaults copied from it. The
    field is named as the file has it, without the tags Pydantic puts in for unions.
    """
    data: object = document.data if document is not None else _ABSENT
    found: dict[Loc, list[_Complaint]] = {}
    for details in error.errors(include_url=False):
        complaint = _complaint(typing.cast("dict[str, Any]", details), data, model_cls)
        found.setdefault(complaint.path, []).append(complaint)
    marks = document.marks if document is not None else {}
    paths = _independent(found, marks)
    ordered = sorted(paths, key=lambda path: (found[path][0].rank, marks.get(path, (0, 0))))
    missing = [path for path in ordered if found[path][0].rank == _MISSING]

    def placed(path: Loc, field: str | None, message: str) -> SpecError:
        line, column = (document.where(path) if document is not None else None) or (None, None)
        return SpecError(message, source=source, line=line, column=column, field=field)

    errors = [placed(path, dotted(path), _message(found[path])) for path in ordered if path not in missing]
    if missing:
        fields = ", ".join(filter(None, map(dotted, sorted(missing, key=str))))
        errors.append(placed(missing[0], fields, _missing(missing)))
    return joined(errors)


def _independent(found: Mapping[Loc, Sequence[_Complaint]], marks: Mapping[Loc, Position]) -> list[Loc]:
    """The paths that are mistakes of their own, so that one mistake is not counted twice."""
    # A path above another's is a union's other branch ("or a whole number").
    inner = {path[:n] for path in found for n in range(len(path))}
    rank = {path: found[path][0].rank for path in found if path not in inner}
    # A field missing because its name was misspelt.
    unknown = [path for path in rank if rank[path] == _UNKNOWN]
    paths = [
        path
        for path in rank
        if rank[path] != _MISSING
        or not any(path[:-1] == typo[:-1] and nearest(str(typo[-1]), [str(path[-1])]) for typo in unknown)
    ]
    # What the file does not hold is a copy of something that it does.
    return [path for path in paths if (path[:-1] if rank[path] == _MISSING else path) in marks] or paths


def _missing(paths: Sequence[Loc]) -> str:
    """All that is missing at once, with how to say that there is none where a stack need not have it."""
    names = sorted({f"'{path[-1]}: none'" for path in paths if path[-1] in ("feed_forward", "position")})
    several = "s are" if len(paths) > 1 else " is"
    leave = f"; {' and '.join(names)} mean{'s' * (len(names) == 1)} that there is none" if names else ""
    return f"required field{several} missing{leave}"


def _message(complaints: Sequence[_Complaint]) -> str:
    if all(complaint.wanted for complaint in complaints):  # an "int or 'all'" complains once for each
        wanted = dict.fromkeys(complaint.wanted for complaint in complaints)
        return f"must be {' or '.join(wanted)}{complaints[0].text}"
    return next(complaint.text for complaint in complaints if not complaint.wanted)


def _complaint(details: Mapping[str, Any], data: object, model_cls: type[BaseModel]) -> _Complaint:
    kind, ctx, value = details["type"], details.get("ctx", {}), details["input"]
    place = _place(model_cls, details["loc"], data, missing=kind == "missing")
    if kind == "extra_forbidden":
        return _Complaint(place.path, _UNKNOWN, "", unknown_field(str(place.path[-1]), _field_names(place.owner)))
    if kind == "missing":
        return _Complaint(place.path, _MISSING, "", "required field is missing")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _untagged(place, ctx, value)
    if kind in ("literal_error", "enum"):
        return _Complaint(place.path, _WRONG, *not_one_of(_options(ctx["expected"]), value))
    if isinstance(cause := ctx.get("error"), FieldError):
        return _Complaint((*place.path, *cause.loc), _WRONG, "", cause.message)
    if wanted := _WANTED.get(kind) or _bound(ctx, whole=place.kind is int):
        return _Complaint(place.path, _WRONG, wanted, f", got {shown(value)}")
    return _Complaint(place.path, _WRONG, "", _plain_message(details))


def _untagged(place: _Place, ctx: Mapping[str, Any], value: object) -> _Complaint:
    """The field that decides between a union's members is wrong, misspelt or missing."""
    members = _members(place.kind)
    tag = _tag_name(members, str(ctx["discriminator"]).strip("'"))
    given = value if isinstance(value, Mapping) else {}
    if tag is None:
        return _Complaint(
            place.path, _WRONG, *not_one_of(_options(ctx.get("expected_tags", "")), ctx.get("tag"))
        )
    options = _options(ctx["expected_tags"]) if "expected_tags" in ctx else _tags(members, tag)
    if tag in given or "tag" in ctx:
        return _Complaint((*place.path, tag), _WRONG, *not_one_of(options, given.get(tag, ctx.get("tag"))))
    known = {name for member in members for name in _field_names(member)}
    if typo := nearest(tag, [key for key in given if key not in known]):
        return _Complaint((*place.path, typo), _UNKNOWN, "", f"unknown field; did you mean {tag}?")
    return _Complaint((*place.path, tag), _MISSING, "", "required field is missing")


def _tag_name(members: Sequence[object], named: str) -> str | None:
    """The deciding field: the one Pydantic names, or, where a function decides, the literal they share."""
    names = [name for name in _field_names(members[0]) if _tags(members[:1], name)] if members else []
    shared = [name for name in names if all(_tags([member], name) for member in members)]
    return named if named in shared else next(iter(shared), None)


def _tags(members: Sequence[object], name: str) -> list[str]:
    """The values that the literal field ``name`` of these models allows."""
    return [str(value) for member in members for value in _literals(member).get(name, ())]


def _literals(member: object) -> dict[str, tuple[object, ...]]:
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return {}
    return {
        info.alias or name: typing.get_args(info.annotation)
        for name, info in member.model_fields.items()
        if typing.get_origin(info.annotation) is typing.Literal
    }


def _options(expected: str) -> list[str]:
    """Pydantic's ``'a', 'b' or 'c'`` taken apart."""
    return [option.strip("'") for option in re.split(r", | or ", expected)]


def _bound(ctx: Mapping[str, Any], *, whole: bool) -> str | None:
    """``{"ge": 1}`` as ``a whole number of at least 1``."""
    noun = "a whole number" if whole else "a number"
    for name, phrase, step in _LIMITS:
        if isinstance(limit := ctx.get(name), (int, float)):
            if whole and step and limit == int(limit):  # above 0 is at least 1
                return f"{noun} of at {'least' if step > 0 else 'most'} {int(limit) + step}"
            return f"{noun} {phrase} {int(limit) if limit == int(limit) else limit}"
    return f"a multiple of {ctx['multiple_of']}" if "multiple_of" in ctx else None


def _plain_message(details: Mapping[str, Any]) -> str:
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, SpecError):
        return cause.message
    message = str(details["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if message.startswith("Input should "):
        return f"{message.replace('Input should', 'must', 1)}, got {shown(details['input'])}"
    return message


def _place(model_cls: type[BaseModel], loc: Loc, data: object, *, missing: bool) -> _Place:
    """Follow ``loc`` through the annotations, dropping union labels, which name no key of the data."""
    path: Loc = ()
    owner: type[BaseModel] | None = None
    kind: object = model_cls
    value = data
    for number, part in enumerate(loc):
        members = _members(kind)
        last = number == len(loc) - 1
        if len(members) > 1:
            kind = _labelled(members, str(part))
            continue
        inside = members[0] if members else None
        there = isinstance(value, (Mapping, list, tuple)) and _has(value, part)
        kept = there or inside is not None or value is _ABSENT or (last and missing)
        if part == "[key]" or not kept:
            continue
        owner = inside if isinstance(inside, type) and issubclass(inside, BaseModel) else None
        path, kind = (*path, part), _child(inside, part)
        value = typing.cast("Any", value)[part] if there else (value if value is _ABSENT else None)
    members = _members(kind)
    return _Place(path, owner, members[0] if len(members) == 1 else kind)


def _has(value: Mapping[Any, Any] | Sequence[Any], part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(part, int) and part < len(value)


def _members(kind: object) -> tuple[object, ...]:
    """The types a value of this annotation may have, None left out: one for everything but a union."""
    while hasattr(kind, "__value__") or typing.get_origin(kind) is typing.Annotated:
        kind = kind.__value__ if hasattr(kind, "__value__") else typing.get_args(kind)[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(kind) for member in _members(part))
    return () if kind is None or kind is type(None) else (kind,)


def _labelled(members: Sequence[object], label: str) -> object:
    """The member that Pydantic's label for a union's branch means: by class, ``constrained-int``, or tag."""
    for member in members:
        if getattr(member, "__name__", None) == label.removeprefix("constrained-"):
            return member
    # The tag field has the fewest choices, mostly one: another field may allow the same word.
    tagged = [
        (len(values), number)
        for number, member in enumerate(members)
        for values in _literals(member).values()
        if label in map(str, values)
    ]
    return members[min(tagged)[1]] if tagged else None


def _child(kind: object, part: str | int) -> object:
    """The annotation one step below ``kind``, or None if it is not known."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        names = {info.alias or name: info for name, info in kind.model_fields.items()}
        info = names.get(str(part)) or kind.model_fields.get(str(part))
        return info.annotation if info is not None else None
    args = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and isinstance(part, int) and Ellipsis not in args:
        return args[part] if part < len(args) else None
    if not args or typing.get_origin(kind) is typing.Literal:
        return None
    return args[1] if isinstance(part, str) and len(args) > 1 else args[0]


def _field_names(kind: object) -> tuple[str, ...]:
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return ()
    return tuple(info.alias or name for name, info in kind.model_fields.items())
