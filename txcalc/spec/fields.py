"""What the fields of a spec take, read off their annotations: checking a value, and its JSON Schema.

Why not Pydantic: to import it and to build its validators takes longer than all else that a count does, it says of a
wrong spec what a second program has to translate, and it is not needed for eight kinds of values.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from txcalc.document import plain
from txcalc.spec.base import REQUIRED, Least, Usual
from txcalc.spec.complaints import MISSING, UNKNOWN, WRONG, Complaint, invalid
from txcalc.spec.errors import FieldError, Loc, not_one_of, shown, unknown_field

if TYPE_CHECKING:
    from txcalc.spec.base import Spec

Schema = dict[str, Any]
S = TypeVar("S", bound="Spec")


class Kind(Protocol):
    """A kind of values."""

    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        """The value as a spec holds it; what is wrong with it is added to ``wrong``."""

    def schema(self, parts: dict[str, Schema]) -> Schema:
        """Its JSON Schema. Those of the specs in it are added to ``parts``."""


class Field(NamedTuple):
    """A field: what it takes, whether it has no default, and what to know of it."""

    kind: Kind
    required: bool
    description: str | None


_KNOWN: Final[dict[type[Spec], Mapping[str, Field]]] = {}


def fields(spec: type[Spec]) -> Mapping[str, Field]:
    """The fields of a class of specs, in their order."""
    if spec not in _KNOWN:
        hints = get_type_hints(spec, include_extras=True)
        _KNOWN[spec] = {name: Field(_kind(hints[name]), spec.default(name) is REQUIRED, _description(hints[name]))
                        for name in spec.names()}
    return _KNOWN[spec]


def read(spec: type[S], data: object) -> S:
    """The checked spec of plain data. Raises ``InvalidSpec`` of all that is wrong with it."""
    wrong: list[Complaint] = []
    found: S = _One(spec).read(data, (), wrong)
    if wrong:
        raise invalid(wrong)
    return found


def schema(spec: type[Spec]) -> tuple[Schema, dict[str, Schema]]:
    """The JSON Schema of a spec, and those of all that it holds, by name."""
    parts: dict[str, Schema] = {}
    _One(spec).schema(parts)
    return parts.pop(spec.__name__), parts


def _description(hint: Any) -> str | None:
    return next((each for each in getattr(hint, "__metadata__", ()) if type(each) is str), None)


def _kind(hint: Any, least: int | None = None) -> Kind:
    """What an annotation stands for."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner, *marks = args
        if (usual := next((str(mark) for mark in marks if isinstance(mark, Usual)), None)) is not None:
            return _Tagged(usual, tuple(get_args(inner)))
        return _kind(inner, next((int(mark) for mark in marks if isinstance(mark, Least)), least))
    if origin in (Union, types.UnionType):
        inner, none = args
        assert none is type(None), hint
        return _Maybe(_kind(inner, least))
    if origin is Literal:
        return _Word(args)
    if origin is tuple:
        return _List(_kind(args[0]), least or 0)
    if origin is dict:
        return _Table(_kind(args[1]), least or 0)
    if hint is float:
        return _Positive()
    return _Plain(hint, least) if hint in _PLAIN else _One(hint)


def _wrong(wanted: str, value: object, path: Loc, wrong: list[Complaint]) -> None:
    wrong.append(Complaint(path, WRONG, f"must be {wanted}, got {shown(value)}"))


class _Plain(NamedTuple):
    """A whole number, a flag or a text; ``least``: the smallest, or the fewest letters."""

    type: Any
    least: int | None = None

    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        wanted, _, _ = _PLAIN[self.type]
        if not isinstance(value, self.type) or (self.type is int and isinstance(value, bool)):
            return _wrong(wanted, value, path, wrong)
        size: int = len(value) if isinstance(value, str) else value
        if self.least is not None and size < self.least:
            limit = "" if isinstance(value, str) else f" of at least {self.least}"
            return _wrong(f"{wanted}{limit}", value, path, wrong)
        return value

    def schema(self, parts: dict[str, Schema]) -> Schema:
        _, name, limit = _PLAIN[self.type]
        return {"type": name} if self.least is None else {"type": name, limit: self.least}


_PLAIN: Final[Mapping[type, tuple[str, str, str]]] = {
    int: ("a whole number", "integer", "minimum"), bool: ("true or false", "boolean", ""),
    str: ("text", "string", "minLength"),
}


class _Positive(NamedTuple):
    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return _wrong("a number", value, path, wrong)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            return _wrong("a finite number", value, path, wrong)
        return number if number > 0 else _wrong("a number above 0", value, path, wrong)

    def schema(self, parts: dict[str, Schema]) -> Schema:
        return {"type": "number", "exclusiveMinimum": 0}


class _Word(NamedTuple):
    options: tuple[Any, ...]

    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        if any(type(value) is type(option) and value == option for option in self.options):
            return value
        wrong.append(Complaint(path, WRONG, "must be {}{}".format(*not_one_of([*map(str, self.options)], value))))
        return None

    def schema(self, parts: dict[str, Schema]) -> Schema:
        return {"const": self.options[0]} if len(self.options) == 1 else {"enum": list(self.options)}


class _Maybe(NamedTuple):
    inner: Kind

    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        return None if value is None else self.inner.read(value, path, wrong)

    def schema(self, parts: dict[str, Schema]) -> Schema:
        found = self.inner.schema(parts)
        return {"anyOf": [*found.get("anyOf", [found]), {"type": "null"}]}


class _List(NamedTuple):
    items: Kind
    least: int

    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        if not isinstance(value, list | tuple):
            return _wrong("a list", value, path, wrong)
        if len(value) < self.least:
            return _wrong(f"a list of at least {self.least}", value, path, wrong)
        return tuple(self.items.read(each, (*path, i), wrong) for i, each in enumerate(value))

    def schema(self, parts: dict[str, Schema]) -> Schema:
        fewest = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.items.schema(parts), **fewest}


class _Table(NamedTuple):
    values: Kind
    least: int

    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        if not isinstance(value, Mapping):
            return _wrong("a mapping", value, path, wrong)
        if len(value) < self.least:
            return _wrong(f"a mapping of at least {self.least}", value, path, wrong)
        return {key: self.values.read(each, (*path, key), wrong) for key, each in value.items()}

    def schema(self, parts: dict[str, Schema]) -> Schema:
        fewest = {"minProperties": self.least} if self.least else {}
        return {"type": "object", "additionalProperties": self.values.schema(parts), **fewest}


class _One(NamedTuple):
    """A spec of one class."""

    spec: type[Spec]

    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        if isinstance(value, self.spec):
            return value
        before = len(wrong)
        try:
            found = self.read_fields(self.spec._filled(value), path, wrong)
            return None if len(wrong) > before else self.spec.checked(found)
        except FieldError as error:
            wrong.append(Complaint((*path, *error.loc), WRONG, error.message))
            return None

    def read_fields(self, data: Any, path: Loc, wrong: list[Complaint]) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            _wrong("a mapping", data, path, wrong)
            return {}
        known, found = fields(self.spec), dict[str, Any]()
        for name, field in known.items():
            if name in data:
                found[name] = field.kind.read(data[name], (*path, name), wrong)
            elif field.required:
                wrong.append(Complaint((*path, name), MISSING, ""))
            else:
                found[name] = self.spec.default(name)
        for name in data:
            if name not in known:
                wrong.append(Complaint((*path, name), UNKNOWN, unknown_field(str(name), [*known])))
        return found

    def schema(self, parts: dict[str, Schema]) -> Schema:
        from inspect import cleandoc

        name = self.spec.__name__
        if name not in parts:
            parts[name] = {}  # its place, before those of what it holds
            known = fields(self.spec)
            parts[name] |= {
                "type": "object", "title": name, "description": cleandoc(self.spec.__doc__ or ""),
                "additionalProperties": False,
                "properties": {each: _field_schema(self.spec, each, field, parts) for each, field in known.items()},
                "required": [each for each, field in known.items() if field.required],
            }
        return {"$ref": f"#/$defs/{name}"}


class _Tagged(NamedTuple):
    """A spec of one of several classes, by its ``kind``."""

    usual: str
    specs: tuple[type[Spec], ...]

    def read(self, value: Any, path: Loc, wrong: list[Complaint]) -> Any:
        if isinstance(value, self.specs):
            return value
        if not isinstance(value, Mapping):
            return _wrong("a mapping", value, path, wrong)
        named = {word: spec for spec in self.specs for word in _words(spec)}
        word = _Word(tuple(named)).read(value.get("kind", self.usual), (*path, "kind"), wrong)
        return None if word is None else _One(named[word]).read(value, path, wrong)

    def schema(self, parts: dict[str, Schema]) -> Schema:
        return {"anyOf": [_One(spec).schema(parts) for spec in self.specs]}


def _words(spec: type[Spec]) -> Sequence[Any]:
    """The values of ``kind`` that mean this class."""
    kind = fields(spec)["kind"].kind
    assert isinstance(kind, _Word)
    return kind.options


def _field_schema(spec: type[Spec], name: str, field: Field, parts: dict[str, Schema]) -> Schema:
    found = field.kind.schema(parts)
    if field.description is not None:
        found["description"] = field.description
    if not field.required:
        found["default"] = plain(spec.default(name))
    return found
