"""JSON read strictly (RFC 8259): no key twice, no NaN, no number without end; with the places of what is wrong.

``Infinity`` is read, beyond the standard, because Python writes it: configurations of Mamba-2 have a limit of it.
"""

from __future__ import annotations

import json
import math
import re
from collections import UserDict
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

from txcalc.spec.errors import Loc, SpecError, shown
from txcalc.spec.files import MAX_DEPTH, MAX_DIGITS, Document, Position, position

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)
_WORD: Final = re.compile(r"-?[A-Za-z]{1,20}(?![A-Za-z])")
_MEANT: Final[Mapping[str, str]] = {
    "Expecting ':' delimiter": "':' is expected", "Extra data": "text after the end of the object",
    "Expecting property name enclosed in double quotes": "a field's name in double quotes is expected",
}
"""Messages of the standard library, in plain words."""


class _Places(UserDict[Loc, Position]):
    """Places in a text, looked for when something is wrong there: JSON is YAML, as good as always."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def data(self) -> dict[Loc, Position]:  # type: ignore[override]
        from txcalc.spec.yaml import read_yaml

        try:
            return dict(read_yaml(self.text, "").marks)
        except SpecError:
            return {}


class _Refused(Exception):
    """A token that is JSON to the standard library, and what to say of it."""


def read_json(text: str, source: str) -> Document:
    """Read one JSON object; ``source`` is what errors call the text.

    Raises SpecError, with line and column, for anything that is not one plain object.
    """
    try:
        data = json.loads(text, object_pairs_hook=_mapping, parse_int=_whole, parse_float=_number,
                          parse_constant=_constant)
    except RecursionError:
        raise _deep(source) from None
    except json.JSONDecodeError as error:
        raise _syntax(text, error, source) from None
    except _Refused as error:
        token, message = error.args
        tokens = (each for each in _TOKEN.finditer(text) if each[0][0] != '"' and token in each[0])
        raise _invalid(text, next((each.start() for each in tokens), 0), message, source) from None
    except KeyError as error:
        raise _duplicate(text, error.args[0], source) from None
    if not isinstance(data, dict):
        raise SpecError(f"the top level must be a JSON object, got {shown(data)}", source=source,
                        at=position(text, len(text) - len(text.lstrip())))
    if _is_deep(data):
        raise _deep(source)
    return Document(data, _Places(text))


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return found


def _whole(token: str) -> int:
    if len(token) > MAX_DIGITS:
        raise _Refused(token, f"a whole number of more than {MAX_DIGITS} digits")
    return int(token)


def _number(token: str) -> float:
    if math.isinf(number := float(token)):
        raise _Refused(token, f"the number {shown(token)} is too large")
    return number


def _constant(token: str) -> float:
    if token == "NaN":
        raise _Refused(token, "NaN is not JSON")
    return float(token)


def _is_deep(value: Any, left: int = MAX_DEPTH) -> bool:
    """Tell whether mappings and lists lie in each other more than ``left`` levels deep; no further is looked."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inside is not None and (left == 0 or any(_is_deep(each, left - 1) for each in inside))


def _deep(source: str) -> SpecError:
    return SpecError(f"not valid JSON: nested more than {MAX_DEPTH} levels deep", source=source)


def _invalid(text: str, at: int, message: str, source: str) -> SpecError:
    return SpecError(f"not valid JSON: {message}", source=source, at=position(text, at))


def _duplicate(text: str, key: str, source: str) -> SpecError:
    from txcalc.spec.yaml import read_yaml

    try:
        read_yaml(text, source)
    except SpecError as error:
        if "duplicate key" in error.message:
            error.message = f"not valid JSON: {error.message}"
            return error
    return SpecError(f"not valid JSON: duplicate key {shown(key)}", source=source)


def _syntax(text: str, error: json.JSONDecodeError, source: str) -> SpecError:
    """The standard library's syntax error in plain words."""
    at, message = error.pos, error.msg
    if message.startswith("Illegal trailing comma"):  # at the comma, from Python 3.13 on
        at = len(text) - len(text[at + 1 :].lstrip())
    before, here = text[:at].rstrip(), text[at : at + 1]
    if before.endswith(",") and here and here in "}]":
        meant = f"a comma before '{here}' is not allowed"
    elif message == "Expecting value":
        word = _WORD.match(text, at)
        meant = f"{word[0]} is not JSON" if word else "a value is expected"
    elif message == "Expecting ',' delimiter":
        is_number = before[-1:].isdigit() and len(before) == at and (here.isalnum() or here == ".")
        meant = "not a number" if is_number else f"',' or '{_end(text[:at])}' is expected"
    else:
        meant = _MEANT.get(message, message.lower().removesuffix(" starting at").removesuffix(" at"))
    return _invalid(text, at, meant if here else f"the text ends too early: {meant}", source)


def _end(text: str) -> str:
    """The bracket that closes what is open at the end of a text."""
    opened: list[str] = []
    for token in _TOKEN.finditer(text):
        if token[0] in "{[":
            opened.append("}" if token[0] == "{" else "]")
        elif token[0] in "}]":
            opened.pop()
    return opened[-1]
