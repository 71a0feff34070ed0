"""The lists of modules in a ``quantization_config``: names, suffixes and regular expressions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from txcalc.spec.errors import shown
from txcalc.spec.huggingface.config import Config

# An expression from a file is run: only shapes that cannot take long.
_SLOW: Final = re.compile(r"[*+}?]\)*[*+{]|\)[*+{]|\\[1-9]")
_QUANTIFIERS: Final = 6


@dataclass(frozen=True)
class Matcher:
    """Which modules are left alone: those that an expression matches, or all but ``only``."""

    field: str
    patterns: tuple[tuple[str, Callable[[str], bool]], ...] = ()
    only: tuple[str, ...] = ()

    def leaves(self, module: str) -> bool:
        """Whether this module keeps its width."""
        if self.only:
            return not any(module.endswith(f".{name}") for name in self.only)
        return any(matches(module) for _, matches in self.patterns)

    def check(self, q: Config, matrices: Sequence[str], others: Sequence[str]) -> None:
        """Raise ``SpecError`` for an expression that matches no module of the model: it is not understood."""
        if self.only and all(map(self.leaves, matrices)):
            raise q.error(self.field, "names no module of this model that txcalc knows")
        known = [*matrices, *others]
        for text, matches in self.patterns:
            if not any(matches(module) for module in known):
                raise q.error(self.field, f"{shown(text)} names no module of this model that txcalc knows")


def module_patterns(q: Config, field: str, default: Sequence[str] = ()) -> Matcher:
    """As transformers reads them: from the start of a name up to a dot, as an expression or not, or its end."""
    texts = _texts(q, field)
    chosen = default if texts is None else texts
    return Matcher(field, tuple((text, _module_pattern(q, field, text)) for text in chosen))


def exact_names(q: Config, field: str) -> Matcher:
    """As compressed-tensors reads them: whole names, and expressions after ``re:``."""
    return Matcher(field, tuple((text, _name(q, field, text)) for text in _texts(q, field) or ()))


def _module_pattern(q: Config, field: str, text: str) -> Callable[[str], bool]:
    expression = _compiled(q, field, rf"(?:{text})(?:(?<=\.)|(?=\.|$))", text)
    return lambda module: module.endswith(text) or expression.match(module) is not None


def _name(q: Config, field: str, text: str) -> Callable[[str], bool]:
    if not text.startswith("re:"):
        return lambda module: module == text
    expression = _compiled(q, field, text[3:], text[3:])
    return lambda module: expression.match(module) is not None


def _compiled(q: Config, field: str, expression: str, text: str) -> re.Pattern[str]:
    if len(text) > 200 or _SLOW.search(text) or len(re.findall(r"[*+{?]", text)) > _QUANTIFIERS:
        raise q.error(field, f"the expression {shown(text)} is not read: it could take too long")
    if re.search(r"experts\.\d", text):
        raise q.error(field, f"{shown(text)}: single experts that are left alone are not understood")
    try:
        return re.compile(expression)
    except re.error as error:
        raise q.error(field, f"{shown(text)} is not a regular expression: {error.msg}") from None


def _texts(q: Config, field: str) -> list[str] | None:
    value = q.take(field, default=None)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise q.error(field, f"must be a list of module names, got {shown(value)}")
    return value
