"""Spec files in and out: YAML 1.2 core, read strictly, with the line and column of everything that was read.

Why not ``yaml.safe_load``: PyYAML speaks YAML 1.1, where ``1e-5`` is text, ``no`` is False, ``12:30`` is 750
and ``010`` is 8; of two equal keys it keeps the last in silence, it forgets where a value stood, and it lets
an alias bomb through. Each of those could give a wrong number without a word. So PyYAML (libyaml where it is
there) only parses, and the data is built here from its events, which also bounds depth, size and aliases
before anything grows.

Left out on purpose, each refused in one line: tags (``!!int``), merge keys (``<<``: YAML 1.2 dropped them,
and where a field came from would be a riddle), keys that are not text, more than one document.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import yaml
from yaml import events

from txcalc.spec.errors import Loc, SpecError, dotted, shown
from txcalc.spec.files import BREAK, MAX_DEPTH, MAX_DIGITS, Document, Position, position

MAX_VALUES: Final = 100_000
MAX_REPEATED: Final = 10_000
"""The most values that aliases may add by repeating an anchor."""
MAX_KEY: Final = 1000
"""The longest key written: YAML readers look for the colon within 1,024 characters."""

_DEEP: Final = f"nested more than {MAX_DEPTH} levels deep"

_PARSER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# YAML 1.2.2, section 10.3.2, the core schema.
_WORDS: Final[Mapping[str, object]] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | {sign + word: math.inf for sign in ("", "+") for word in (".inf", ".Inf", ".INF")}
    | {"-" + word: -math.inf for word in (".inf", ".Inf", ".INF")}
    | dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
)
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def read_yaml(text: str, source: str) -> Document:
    """Read one YAML 1.2 mapping; ``source`` is what errors call the text.

    Raises SpecError, with line and column, for anything that is not one plain mapping (see above).
    """
    text = text.removeprefix("\ufeff")
    if bad := _UNPRINTABLE.search(text):
        what = "a NUL character" if bad[0] == "\0" else f"the unprintable character U+{ord(bad[0]):04X}"
        raise SpecError(f"{what} is not allowed in YAML", source=source, at=position(text, bad.start()))
    try:
        return _Builder(source, yaml.parse(text, Loader=_PARSER)).document()
    except yaml.YAMLError as error:
        raise _too_deep(error, text, source) or _syntax_error(error, text, source) from None


class _Builder:
    """Builds the data of one document from parser events, and notes where each key and item stood."""

    def __init__(self, source: str, stream: Iterable[events.Event]) -> None:
        self.source = source
        self.stream: Iterator[events.Event] = iter(stream)
        self.marks: dict[Loc, Position] = {}
        self.anchors: dict[str, object] = {}
        self.values = 0
        self.repeated = 0

    def document(self) -> Document:
        next(self.stream)
        if isinstance(next(self.stream), events.StreamEndEvent):
            raise SpecError("is empty", source=self.source, at=(1, 1))
        root = next(self.stream)
        self.marks[()] = _at(root)
        data = self.node(root, ())
        if not isinstance(data, dict):
            hint = ": put a space after the colon" if isinstance(data, str) and ":" in data else ""
            self.fail(root, f"the top level must be a mapping of fields, got {shown(data)}{hint}")
        next(self.stream)
        if isinstance(after := next(self.stream), events.DocumentStartEvent):
            self.fail(after, "only one document is read: remove the second '---' and what follows")
        return Document(data, types.MappingProxyType(self.marks))

    def node(self, event: events.Event, path: Loc) -> object:
        self.values += 1
        if self.values > MAX_VALUES:
            self.fail(event, f"more than {MAX_VALUES:,} values")
        if len(path) > MAX_DEPTH:
            self.fail(event, _DEEP)
        if isinstance(event, events.AliasEvent):
            if event.anchor not in self.anchors:
                name = shown(event.anchor)[1:-1]
                self.fail(event, f"unknown alias *{name}: no complete &{name} before it", path)
            return self.repeat(self.anchors[event.anchor], event, len(path))
        if getattr(event, "tag", None) is not None:
            self.fail(event, "tags ('!') are not read: write the plain value", path)
        if isinstance(event, events.MappingStartEvent):
            value: object = self.mapping(path)
        elif isinstance(event, events.SequenceStartEvent):
            value = self.sequence(path)
        else:
            value = self.scalar(event, path)
        if (anchor := getattr(event, "anchor", None)) is not None:
            self.anchors[anchor] = value
        return value

    def mapping(self, path: Loc) -> dict[str, object]:
        found: dict[str, object] = {}
        while not isinstance(event := next(self.stream), events.MappingEndEvent):
            key = self.key(event, path)
            if key in found:
                line, _ = self.marks[*path, key]
                self.fail(event, f"duplicate key, first on line {line}", (*path, key))
            self.marks[*path, key] = _at(event)
            found[key] = self.node(next(self.stream), (*path, key))
        return found

    def sequence(self, path: Loc) -> list[object]:
        found: list[object] = []
        while not isinstance(event := next(self.stream), events.SequenceEndEvent):
            self.marks[*path, len(found)] = _at(event)
            found.append(self.node(event, (*path, len(found))))
        return found

    def key(self, event: events.Event, path: Loc) -> str:
        if not isinstance(event, events.ScalarEvent):
            self.fail(event, "a key must be plain text, not an alias, a list or a mapping", path)
        if event.implicit[0] and event.value == "<<":
            self.fail(event, "merge keys ('<<') are not read: write the fields out", path)
        key = self.node(event, path)
        if not isinstance(key, str):
            self.fail(event, f"a key must be text, got {shown(key)}: put it in quotes", path)
        return key

    def scalar(self, event: events.Event, path: Loc) -> object:
        assert isinstance(event, events.ScalarEvent)
        if not event.implicit[0]:  # quoted, or a block of text
            return event.value
        try:
            return _core(event.value)
        except ValueError as error:
            self.fail(event, str(error), path)

    def repeat(self, value: object, event: events.Event, depth: int) -> object:
        """A copy of an anchored value: shared, a change in one place would show up in the other."""
        self.repeated += 1
        if self.repeated > MAX_REPEATED:
            self.fail(event, f"aliases repeat more than {MAX_REPEATED:,} values")
        if depth > MAX_DEPTH:
            self.fail(event, _DEEP)
        if isinstance(value, dict):
            return {key: self.repeat(item, event, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.repeat(item, event, depth + 1) for item in value]
        return value

    def fail(self, event: events.Event, message: str, path: Loc = ()) -> NoReturn:
        raise SpecError(message, source=self.source, at=_at(event), field=dotted(path))


def dump_yaml(data: object) -> str:
    """Write plain data (mappings, lists, text, numbers, booleans, None) as YAML that reads back identical.

    Key order is kept, short lists of scalars stand on one line, nothing is wrapped, and text is quoted where
    a YAML 1.2 or 1.1 reader would take it for something else. Raises TypeError for other types and for keys
    that are not text, ValueError for what ``read_yaml`` refuses (depth, over-long ints and keys, surrogates).
    """
    _check(data)
    text: str = yaml.dump(data, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=2**30)
    return text


# Reading, the small parts.


def _core(text: str) -> object:
    """A plain scalar's value in YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text.lstrip("+-")) > MAX_DIGITS:
            raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        if math.isinf(value := float(text)):
            raise ValueError(f"the number {shown(text)} is too large")
        return value
    return text


def _at(event: events.Event) -> Position:
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column + 1


def _too_deep(error: yaml.YAMLError, text: str, source: str) -> SpecError | None:
    """Our refusal of the text before the place of a parser's own: libyaml, from 0.2.6 on, stops reading at
    1,000 levels, before it hands over the first event.
    """
    mark = getattr(error, "problem_mark", None)
    try:
        _Builder(source, yaml.parse(text[: mark.index if mark else 0], Loader=_PARSER)).document()
    except SpecError as ours:
        return ours if ours.message == _DEEP else None
    except yaml.YAMLError:
        pass
    return None


def _syntax_error(error: yaml.YAMLError, text: str, source: str) -> SpecError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return SpecError("not valid YAML", source=source, at=(1, 1))
    lines = BREAK.split(text)
    here = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())] or here[mark.column : mark.column + 1] == "\t":
        message = "a tab cannot indent YAML: use spaces"
    else:
        message = f"not valid YAML: {getattr(error, 'problem', None) or 'cannot be parsed'}"
    return SpecError(message, source=source, at=(mark.line + 1, mark.column + 1))


# Writing, the small parts.

_INLINE: Final = 80
_STR: Final = "tag:yaml.org,2002:str"
_SEQ: Final = "tag:yaml.org,2002:seq"
_MAP: Final = "tag:yaml.org,2002:map"


class _Writer(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Short lists on one line, no anchors, and quotes around what another reader would take for something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def text(self, text: str) -> Any:
        special = text in _WORDS or text in ("y", "Y", "n", "N") or _INT.fullmatch(text) or _FLOAT.fullmatch(text)
        return self.represent_scalar(_STR, text, style='"' if special or not text.isprintable() else None)

    def sequence(self, items: Sequence[object]) -> Any:
        node = self.represent_sequence(_SEQ, items, flow_style=not items)
        if all(isinstance(each, yaml.ScalarNode) for each in node.value):
            node.flow_style = sum(len(each.value) + 2 for each in node.value) <= _INLINE
        return node

    def mapping(self, fields: Mapping[str, object]) -> Any:
        return self.represent_mapping(_MAP, fields.items(), flow_style=not fields)


_Writer.add_representer(str, _Writer.text)
_Writer.add_representer(dict, _Writer.mapping)
_Writer.add_representer(list, _Writer.sequence)
_Writer.add_representer(tuple, _Writer.sequence)


def _check(value: object, depth: int = 0) -> None:
    """Raises for what would not read back."""
    if depth > MAX_DEPTH:
        raise ValueError(_DEEP)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a key must be text, got {key!r}")
            if len(key) > MAX_KEY:
                raise ValueError(f"a key of more than {MAX_KEY:,} characters")
            _check(key, depth)
            _check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, str):
        if re.search("[\ud800-\udfff]", value):
            raise ValueError("text with a lone surrogate has no UTF-8 form")
    elif isinstance(value, int):
        if abs(value) >= 10**MAX_DIGITS:
            raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
    elif not isinstance(value, float | None):
        raise TypeError(f"cannot write {type(value).__name__} as YAML")
