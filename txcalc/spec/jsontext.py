"""JSON read strictly, with the line and column of everything that was read (RFC 8259).

Why not ``json.loads``: of two equal keys it keeps the last in silence, it takes ``NaN``, it reads an integer of a
million digits, it fails with a RecursionError, and it forgets where a value stood. ``Infinity`` is read, beyond the
standard, because Python writes it: configurations of Mamba-2 have a limit of it.
"""

from __future__ import annotations

import json.decoder
import math
import re
import types
from typing import Final, NoReturn, cast

from txcalc.spec.errors import Loc, SpecError, dotted, shown
from txcalc.spec.files import Document, Position
from txcalc.spec.yaml import MAX_DEPTH, MAX_DIGITS

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, object]] = {
    "true": True, "false": False, "null": None, "Infinity": math.inf, "-Infinity": -math.inf,
}
_WORD: Final = re.compile(r"-?[A-Za-z]+")


def read_json(text: str, source: str) -> Document:
    """Read one JSON object; ``source`` is what errors call the text.

    Raises SpecError, with line and column, for anything that is not one plain object.
    """
    return _Reader(text, source).document()


class _Reader:
    """A cursor that goes through the text once."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.at = 0
        self.line = 1
        self.start = 0  # of the line
        self.marks: dict[Loc, Position] = {}

    def document(self) -> Document:
        self.space()
        self.marks[()] = self.position()
        first = self.position()
        data = self.value(())
        self.space()
        if self.at < len(self.text):
            self.fail("text after the end of the object")
        if not isinstance(data, dict):
            raise SpecError(f"the top level must be a JSON object, got {shown(data)}",
                            source=self.source, line=first[0], column=first[1])
        return Document(data, types.MappingProxyType(self.marks))

    def value(self, path: Loc) -> object:
        if len(path) > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} levels deep")
        char = self.text[self.at : self.at + 1]
        if char == "{":
            return self.mapping(path)
        if char == "[":
            return self.sequence(path)
        if char == '"':
            return self.string()
        if char.isdigit() or (char == "-" and not self.text.startswith("-I", self.at)):
            return self.number()
        return self.word()

    def mapping(self, path: Loc) -> dict[str, object]:
        found: dict[str, object] = {}
        self.step()
        while self.more("}", first=not found):
            place = self.position()
            if self.text[self.at : self.at + 1] != '"':
                self.fail("a field's name in double quotes is expected")
            key = self.string()
            if key in found:
                self.fail(f"duplicate key, first on line {self.marks[*path, key][0]}", (*path, key), place)
            self.marks[*path, key] = place
            self.space()
            if self.text[self.at : self.at + 1] != ":":
                self.fail("':' is expected")
            self.step()
            found[key] = self.value((*path, key))
        return found

    def sequence(self, path: Loc) -> list[object]:
        found: list[object] = []
        self.step()
        while self.more("]", first=not found):
            self.marks[*path, len(found)] = self.position()
            found.append(self.value((*path, len(found))))
        return found

    def more(self, end: str, *, first: bool) -> bool:
        """Go to the next item, over the comma before it; False, past the bracket, when there is none."""
        self.space()
        char = self.text[self.at : self.at + 1]
        if char == end:
            self.at += 1
            return False
        if first:
            return True
        if char != ",":
            self.fail(f"',' or '{end}' is expected")
        self.step()
        if self.text[self.at : self.at + 1] == end:
            self.fail(f"a comma before '{end}' is not allowed")
        return True

    def string(self) -> str:
        try:
            text, self.at = cast("tuple[str, int]", json.decoder.scanstring(self.text, self.at + 1, True))  # type: ignore[attr-defined]
        except json.JSONDecodeError as error:
            self.at = error.pos
            self.fail(error.msg.lower().removesuffix(" starting at").removesuffix(" at"))
        return text

    def number(self) -> int | float:
        match = _NUMBER.match(self.text, self.at)
        if match is None or self.text[match.end() : match.end() + 1].isalnum():
            self.fail("not a number")
        if match[1] is None and match[2] is None:
            if match.end() - match.start() > MAX_DIGITS:
                self.fail(f"a whole number of more than {MAX_DIGITS} digits")
            number: int | float = int(match[0])
        elif (number := float(match[0])) in (float("inf"), float("-inf")):
            self.fail(f"the number {shown(match[0])} is too large")
        self.at = match.end()
        return number

    def word(self) -> object:
        match = _WORD.match(self.text, self.at)
        if match is None:
            self.fail("a value is expected")
        if match[0] not in _WORDS:
            self.fail(f"{match[0]} is not JSON" if len(match[0]) <= 20 else "a value is expected")
        self.at = match.end()
        return _WORDS[match[0]]

    def step(self) -> None:
        self.at += 1
        self.space()

    def space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        if breaks := match[0].count("\n"):
            self.line += breaks
            self.start = self.at + match[0].rindex("\n") + 1
        self.at = match.end()

    def position(self) -> Position:
        return self.line, self.at - self.start + 1

    def fail(self, message: str, path: Loc = (), place: Position | None = None) -> NoReturn:
        if self.at >= len(self.text) and place is None:
            message = f"the text ends too early: {message}"
        line, column = place or self.position()
        raise SpecError(f"not valid JSON: {message}", source=self.source, line=line, column=column, field=dotted(path))


