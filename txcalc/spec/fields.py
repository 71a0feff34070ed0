"""Types of a spec's fields, read off their annotations: Pydantic's validator for them, and its JSON Schema.

Specs are plain classes, so that one which was checked before needs no Pydantic. Each is validated as a mapping, under
the tag of its class, which errors carry: a tag tells whose field it is that is wrong.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic_core import SchemaValidator, ValidationError
from pydantic_core import core_schema as core

from txcalc.document import plain
from txcalc.spec.base import REQUIRED, Least, Usual
from txcalc.spec.errors import FieldError, Loc, not_one_of, shown, unknown_field
from txcalc.spec.invalid import MISSING, UNKNOWN, WRONG, Complaint, invalid

if TYPE_CHECKING:
    from pydantic.json_schema import GenerateJsonSchema
    from pydantic_core import ErrorDetails

    from txcalc.spec.base import Spec

S = TypeVar("S", bound="Spec")

_VALIDATORS: Final[dict[type[Spec], tuple[SchemaValidator, Mapping[str, type[Spec]]]]] = {}

_TAG: Final = "\0"
"""First character of a tag: nothing that is read from a file holds it."""

_ONE_OF: Final = "one_of"
"""Our own error for a word that is none of some; ``words`` are those, separated by spaces."""


def read(spec: type[S], data: object) -> S:
    """The checked spec of plain data. Raises ``InvalidSpec`` of all that is wrong with it."""
    if spec not in _VALIDATORS:
        _VALIDATORS[spec] = _validator(spec)
    validator, classes = _VALIDATORS[spec]
    try:
        found: S = validator.validate_python(data)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        within = {each["loc"][:n] for each in wrong for n in range(len(each["loc"]))}
        # A list whose items are wrong is also said to be short of them.
        raise invalid([_complaint(each, classes) for each in wrong
                       if each["type"] != "too_short" or each["loc"] not in within]) from None
    return found


def schema(spec: type[Spec]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The JSON Schema of a spec, and those of all that it holds, by name."""
    classes: dict[str, type[Spec]] = {}
    _reference(spec, classes)
    found = _generator()().generate(_definitions(spec, classes))
    return found, found.pop("$defs")


def hints(spec: type[Spec]) -> Mapping[str, Any]:
    """The annotations of a class of specs, in the order of its fields."""
    known = get_type_hints(spec, include_extras=True)
    return {name: known[name] for name in spec.names()}


def _validator(spec: type[Spec]) -> tuple[SchemaValidator, Mapping[str, type[Spec]]]:
    classes: dict[str, type[Spec]] = {}
    _reference(spec, classes)
    return SchemaValidator(_definitions(spec, classes)), classes


def _definitions(spec: type[Spec], classes: dict[str, type[Spec]]) -> core.CoreSchema:
    """The schema of a spec, with those of all classes that it holds, which are added to ``classes`` by their tags."""
    made: list[core.CoreSchema] = []
    done = 0
    while done < len(classes):  # a class brings those of its fields with it
        made.append(_mapping([*classes.values()][done], classes))
        done += 1
    return core.definitions_schema(_reference(spec, classes), made)


def _reference(spec: type[Spec], classes: dict[str, type[Spec]]) -> core.CoreSchema:
    """A spec of one class, under its tag."""
    tag = _TAG + spec.__name__
    classes[tag] = spec
    return core.tagged_union_schema({tag: core.definition_reference_schema(spec.__name__)}, lambda _: tag)


def _mapping(spec: type[Spec], classes: dict[str, type[Spec]]) -> core.CoreSchema:
    def checked(value: Any, handler: core.ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, spec):
            return value
        given = handler(spec._filled(value))
        return spec.checked({name: given[name] if name in given else spec.default(name) for name in spec.names()})

    fields = {name: core.typed_dict_field(_field(hint, classes), required=spec.default(name) is REQUIRED,
                                          metadata={"pydantic_js_updates": _about(spec, name, hint)})
              for name, hint in hints(spec).items()}
    known = core.typed_dict_schema(fields, extra_behavior="forbid", cls=spec)
    return core.no_info_wrap_validator_function(checked, known, ref=spec.__name__)


def _about(spec: type[Spec], name: str, hint: Any) -> dict[str, Any]:
    """Annotations of a field's JSON Schema beside its type."""
    text = next((mark for mark in getattr(hint, "__metadata__", ()) if type(mark) is str), None)
    default = spec.default(name)
    return ({} if text is None else {"description": text}) | (
        {} if default is REQUIRED else {"default": plain(default)})


def _field(hint: Any, classes: dict[str, type[Spec]], least: int | None = None) -> core.CoreSchema:
    """Resolve an annotation to a field."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner, *marks = args
        if (usual := next((str(mark) for mark in marks if isinstance(mark, Usual)), None)) is not None:
            return _by_kind(get_args(inner), usual, classes)
        return _field(inner, classes, next((int(mark) for mark in marks if isinstance(mark, Least)), least))
    if origin in (Union, types.UnionType):
        inner, none = args
        assert none is type(None), hint
        return core.nullable_schema(_field(inner, classes, least))
    if origin is Literal:
        words = " ".join(map(str, args))
        return core.custom_error_schema(core.literal_schema([*args]), _ONE_OF, custom_error_message=_ONE_OF,
                                        custom_error_context={"words": words})
    if origin is tuple:
        return core.tuple_schema([_field(args[0], classes)], variadic_item_index=0, min_length=least)
    if origin is dict:
        return core.dict_schema(core.any_schema(), _field(args[1], classes), min_length=least)
    match hint.__name__:
        case "int":
            return core.int_schema(strict=True, ge=least)
        case "bool":
            return core.bool_schema(strict=True)
        case "str":
            return core.str_schema(strict=True, min_length=least)
        case "float":
            return core.float_schema(strict=True, gt=0, allow_inf_nan=False)
    return _reference(hint, classes)


def _by_kind(specs: Sequence[type[Spec]], usual: str, classes: dict[str, type[Spec]]) -> core.CoreSchema:
    """A spec of one of several classes, by its ``kind``, under the tag of its class."""
    tags = {word: _TAG + spec.__name__ for spec in specs for word in get_args(hints(spec)["kind"])}
    classes |= {_TAG + spec.__name__: spec for spec in specs}

    def tag(value: Any) -> str | None:
        if isinstance(value, Mapping):
            kind = value.get("kind", usual)
            return tags.get(kind) if isinstance(kind, str) else None
        return _TAG + type(value).__name__

    return core.tagged_union_schema(
        {_TAG + spec.__name__: core.definition_reference_schema(spec.__name__) for spec in specs}, tag,
        custom_error_type="kind", custom_error_message="kind", custom_error_context={"words": " ".join(tags)})


def _complaint(error: ErrorDetails, classes: Mapping[str, type[Spec]]) -> Complaint:
    """One of Pydantic's errors, in this program's words."""
    path: Loc = tuple(part for part in error["loc"] if part not in classes)
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return Complaint(path, MISSING, "")
    if kind == "extra_forbidden":
        owner = classes[[str(part) for part in error["loc"] if part in classes][-1]]
        return Complaint(path, UNKNOWN, unknown_field(str(path[-1]), owner.names()))
    cause = context.get("error")
    if isinstance(cause, FieldError):
        return Complaint((*path, *cause.loc), WRONG, cause.message)
    if kind == "kind" and isinstance(value, Mapping):
        path, kind, value = (*path, "kind"), _ONE_OF, value["kind"]
    if kind == _ONE_OF:
        return Complaint(path, WRONG, not_one_of(context["words"].split(" "), value))
    return Complaint(path, WRONG, f"must be {_WANTED[kind].format(**context)}, got {shown(value)}")


_WANTED: Final[Mapping[str, str]] = {
    "int_type": "a whole number", "greater_than_equal": "a whole number of at least {ge}", "bool_type": "true or false",
    "string_type": "text", "string_too_short": "text", "float_type": "a number", "finite_number": "a finite number",
    "greater_than": "a number above 0", "tuple_type": "a list", "dict_type": "a mapping", "kind": "a mapping",
    "too_short": "a list of at least {min_length}",
}


def _generator() -> type[GenerateJsonSchema]:
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

    class Generator(GenerateJsonSchema):
        """Unions as ``anyOf``, and what a class says of itself."""

        def tagged_union_schema(self, schema: core.TaggedUnionSchema) -> JsonSchemaValue:
            found = [self.generate_inner(each) for each in schema["choices"].values()]
            return {"anyOf": found} if len(found) > 1 else found[0]

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    return Generator
