"""A configuration that notices which of its fields were understood.

An importer takes the fields it knows. Whatever is left over, and is neither known not to matter nor equal to the
class's own default, could change the architecture, and is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any, Final

from txcalc.spec.errors import SpecError, joined, shown


def _table(name: str) -> dict[str, Any]:
    text = resources.files("txcalc.huggingface").joinpath(name).read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


_FIELDS: Final = _table("fields.json")
IRRELEVANT: Final = frozenset(" ".join(_FIELDS["irrelevant"]).split())
"""Fields that change neither a weight's shape, nor which products are computed, nor what is cached."""
USUAL: Final[Mapping[str, Sequence[Any]]] = _FIELDS["usual"]
"""Fields that mean nothing new where a family does not know them, as long as they have one of these values."""
FORMER_CLASSES: Final[Mapping[str, str]] = _FIELDS["former_classes"]
"""Former names of classes, in small letters."""
_NO_SIZE: Final = re.compile(r"_|\w+_token(_id|_ids|_index)$")
"""Fields of no class's own, and ids of tokens."""
SIZES: Final = tuple(frozenset(names.split()) for names in _FIELDS["sizes"])
"""Names of one size in families: a file with the name that its own class does not read may mean it all the same."""
REQUIRED: Final = object()
UNKNOWN: Final = "not understood"
"""Complaint of a field that may be read, and of which nothing is known."""
UNREAD: Final = "which alone is read"
"""Complaint of the field that another name contradicts, which no class reads."""
TIES: Final = frozenset({"tie_word_embeddings", "tie_embedding"})


@dataclasses.dataclass(frozen=True)
class Remarks:
    """Notes on a whole file for its reader."""

    strict: bool = False  # fields that no class reads are refused
    passed: list[str] = dataclasses.field(default_factory=list)  # fields that no class reads
    # What is wrong with single fields; each stands for a value that is right, so that the others are looked at too.
    problems: list[SpecError] = dataclasses.field(default_factory=list)
    # For each question whether a head is tied, whether its object says so.
    ties: list[bool] = dataclasses.field(default_factory=list)
    # Those that are the class's own since the file leaves them out.
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    # What was chosen otherwise where the file leaves it open.
    choices: list[str] = dataclasses.field(default_factory=list)
    asked: list[str] = dataclasses.field(default_factory=list)  # the field that was read last


class Config:
    """One JSON object of a configuration, with the class's defaults behind it."""

    def __init__(
        self, data: Mapping[str, Any], model_type: str, *, source: str, path: str = "", within: Config | None = None,
        remarks: Remarks | None = None,
    ) -> None:
        self.model_type = model_type
        self.source = source
        self.path = path
        self.remarks: Remarks = within.remarks if within else remarks or Remarks()
        self._types: tuple[str, ...] = (model_type, *(within._types if within else ()))
        self._version: object = within._version if within else data.get("transformers_version")
        self.defaults = class_defaults().get(model_type, {})
        aliases = class_aliases().get(model_type, {})
        self.own = {*self.defaults, *aliases, *aliases.values()}
        self._aliases = {name: field for name, field in aliases.items() if name in data and field not in IRRELEVANT}
        self._given = data.keys()
        self.data = {**{field: data[name] for name, field in self._aliases.items()}, **data}
        self._taken: set[str] = set()
        for name, field in self._aliases.items():
            self._agree(field, name)

    def take(self, *names: str, default: Any = REQUIRED) -> Any:
        """The value of the first of these names in the file, else the class's default, else ``default``.

        Of several names for one thing, those that this family's class knows count, where it knows any: the class
        would pass over the others. Raises ``SpecError`` when there is none, and when two names contradict each other.
        """
        names = self._known(names)
        self._taken.update(names)
        given = [name for name in names if name in self.data]
        self.remarks.asked[:] = [f"{self.path}{[*given, *names][0]}"]
        if TIES & {*names}:
            self.remarks.ties.append(bool(given))
        for name in given[1:]:
            self._agree(given[0], name)
        if given:
            return self.data[given[0]]
        for name in names:
            if name in self.defaults:
                return self.defaults[name]
        if default is REQUIRED:
            raise self.error(names[0], "required field is missing")
        return default

    def _known(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.own) or names

    def _agree(self, name: str, other: str) -> None:
        """Refuse two names of one thing with different values: libraries differ in which of them wins."""
        if self.data[name] != self.data[other]:
            raise self.error(other, f"{shown(self.data[other])} contradicts {name} {shown(self.data[name])}")

    def size(self, *names: str, default: Any = REQUIRED, least: int = 1) -> int:
        """A whole number of at least 1, or of at least ``least``."""
        value, known = self.take(*names, default=default), self._known(names)
        name = next((name for name in known if name in self._given),
                    next((name for name in known if name in self.defaults), known[0]))
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self._note(name, f"must be a whole number of at least {least}, got {shown(value)}")
            usual = self.defaults.get(name)
            return usual if isinstance(usual, int) and usual >= least else least
        if not self.data.keys() & {*known} and class_defaults().get(self.model_type, {}).get(name) == value:
            self.remarks.sizes[f"{self.path}{name}"] = value
        return value

    def size_or(self, fallback: int, *names: str) -> int:
        """A size, or ``fallback`` where the field is null or missing."""
        return fallback if self.take(*names, default=None) is None else self.size(*names)

    def flag(self, *names: str, default: Any = REQUIRED) -> bool:
        """True or false."""
        value = self.take(*names, default=default)
        if not isinstance(value, bool):
            self._note(names[0], f"must be true or false, got {shown(value)}")
            return False
        return value

    def number(self, *names: str, default: Any = REQUIRED) -> float | None:
        """A number, or None where the field is null."""
        value = self.take(*names, default=default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            self._note(names[0], f"must be a number, got {shown(value)}")
            return None
        return value

    def factor(self, name: str) -> float:
        """A number above 0."""
        value = self.number(name)
        if value is None or value <= 0:
            self._note(name, f"must be a number above 0, got {shown(value)}")
            return 1.0
        return value

    def choice(self, name: str, known: Mapping[Any, Any], default: Any = REQUIRED) -> Any:
        """The entry of ``known`` for the field's value; a value that it does not know is a problem."""
        value = self.take(name, default=default)
        if isinstance(value, list | dict) or value not in known:
            self._note(name, f"{shown(value)} is not known; txcalc knows {', '.join(map(str, known))}")
            return next(iter(known.values()))
        return known[value]

    def only(self, name: str, *understood: Any) -> None:
        """Refuse the field unless it has one of the understood values (or is left out with such a default)."""
        value = self.take(name, default=understood[0])
        if value not in understood:
            expected = " or ".join(shown(v) for v in understood)
            self._note(name, f"only {expected} is understood, got {shown(value)}")

    def by_its_name(self, field: str) -> None:
        """Refuse a field given by another name alone: its class derives sizes before it looks at other names."""
        for other, name in self._aliases.items():
            if name == field and field not in self._given:
                raise self.error(other, f"is not understood without {field}")

    def rename(self, **names: str) -> None:
        """Take these fields under other names as well, which are a file's and not the class's."""
        for other, name in names.items():
            if other in self._given:
                self._aliases[other] = name
                self.data.setdefault(name, self.data[other])
                self._agree(name, other)

    def ignore(self, *names: str) -> None:
        """Fields known not to matter for this family."""
        self._taken.update(names)

    def section(self, name: str, model_type: str) -> Config:
        """A nested configuration."""
        data = self.take(name, default=None) or {}
        if not isinstance(data, Mapping):
            raise self.error(name, f"must be a mapping, got {shown(data)}")
        return self.part(name, data, model_type)

    def part(self, name: str, data: Mapping[str, Any], model_type: str) -> Config:
        """``data`` as the nested configuration of this name."""
        return Config(data, model_type, source=self.source, path=f"{self.path}{name}.", within=self)

    def finish(self) -> None:
        """Refuse any field that was neither taken nor known not to matter, unless no class can read it."""
        for name, value in self.data.items():
            if self._aliases.get(name, name) in self._taken or name in IRRELEVANT or _NO_SIZE.match(name):
                continue
            if name in self.defaults and self.defaults[name] == value:
                continue
            if (name in USUAL and value in USUAL[name]) or self._restates(name, value):
                continue
            if not self.remarks.strict and self._is_inert(name, value):
                self.remarks.passed.append(f"{self.path}{name}")
                continue
            if type(value) is int and any(name in names and self._size(names) == value for names in SIZES):
                continue
            self._note(name, f"{UNKNOWN} for model_type {self.model_type}, and it could change the "
                       f"architecture (value {shown(value)})")

    def _restates(self, name: str, value: Any) -> bool:
        """Tell whether a field says once more what is said by others: of the text below, or of a head's width."""
        below = self.data.get("text_config")
        if isinstance(below, Mapping):
            usual = class_defaults().get(str(below.get("model_type")), {})
            if below.get(name, usual.get(name, REQUIRED)) == value:
                return True
        if name == "bias":  # of all layers
            return [value] * 2 == [self.data.get(own, self.defaults.get(own)) for own in ("attention_bias", "mlp_bias")]
        width, heads = (self._size(names) for names in (SIZES[0], SIZES[2]))
        if name == "head_dim":
            return type(value) is int and 0 < value * heads == width
        return name == "num_key_value_heads" and 0 != heads == value

    def _size(self, names: Iterable[str]) -> int:
        """The one that is read of several names of a size, or 0."""
        read = (self.data.get(name, self.defaults.get(name)) for name in names if name in self._taken)
        return next((value for value in read if type(value) is int), 0)

    def _is_inert(self, name: str, value: Any) -> bool:
        """Tell whether no class reads this field. Refuse a size that contradicts the one that is read."""
        from txcalc.huggingface.inert import is_inert

        if not is_inert(name, self._types, self._version, unset=value is None and name not in self.own):
            return False
        for names in SIZES:
            for own in (names & self._taken & {*self.data, *self.defaults}) if name in names else ():
                if None not in (value, read := self.data.get(own, self.defaults.get(own))) and value != read:
                    raise self.error(name, f"{shown(value)} contradicts {own} {shown(read)}, {UNREAD} for "
                                     f"model_type {self.model_type}")
        return True

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Raise ``SpecError`` of all problems at the end, or in place of what a stand-in led to."""
        try:
            yield
        except Exception:
            if not self.remarks.problems:
                raise
        if self.remarks.problems:
            raise joined(self.remarks.problems)

    def _note(self, field: str, message: str) -> None:
        error = self.error(field, message)
        error.single = True
        self.remarks.problems.append(error)

    def error(self, field: str, message: str) -> SpecError:
        """A one-line error on a field of this file."""
        return SpecError(message, source=self.source, field=f"{self.path}{field}")


@cache
def class_defaults() -> dict[str, dict[str, Any]]:
    """``{model_type: {field: default}}`` of the configuration classes, for files that leave defaults out."""
    return _table("defaults.json")


@cache
def class_aliases() -> dict[str, dict[str, Any]]:
    """``{model_type: {other name: field}}`` of the configuration classes."""
    return _table("aliases.json")


@cache
def class_thetas() -> dict[str, dict[str, Any]]:
    """``{model_type: {full or window: {default, names}}}``: a rotary base, and the fields it is read from."""
    return _table("thetas.json")
