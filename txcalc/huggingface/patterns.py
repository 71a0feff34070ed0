"""The lists of modules in a ``quantization_config``: names, suffixes and regular expressions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Final

from txcalc.huggingface.config import Config
from txcalc.spec.errors import shown

# An expression from a file is run: only shapes that cannot take long.
_SLOW: Final = re.compile(r"[*+}?]\)*[*+{]|\)[*+{]|\\[1-9]")
_QUANTIFIERS: Final = 6
# No matrix that anything packs; and a layer that predicts a token more, towers and adapters, where none is built.
_NO_MATRIX: Final = re.compile(
    r"(norm|embed\w*|embeddings|conv1d|rotary\w*|gate|router|wg|bias|scale|A_log|dt_bias|score|head|wte|wpe|ln_\w|act_fn)"
    r"(\.weight)?\W*$"
    r"|\b(mtp|eh_proj|nextn|visual|vision\w*|audio\w*|speech\w*|image\w*|mm_\w+|modality\w*|\w*projector|merger)\b"
    r"|\b(draft\w*|shared_experts?)\b"
    r"|\.(bias|A_log|dt_bias)$")


@dataclass(frozen=True)
class Matcher:
    """The modules that are left alone: those that an expression matches, or all but ``only``.

    A module may have several names, any of which counts.
    """

    field: str
    patterns: tuple[tuple[str, Callable[[str], bool]], ...] = ()
    only: tuple[str, ...] = ()
    at_once: tuple[Callable[[str], object], ...] = ()  # all patterns together, where a list is long

    def leaves(self, *names: str) -> bool:
        """Tell whether the module of these names keeps its width."""
        if self.only:
            return not any(module.endswith(f".{name}") for name in self.only for module in names)
        checks = self.at_once or [matches for _, matches in self.patterns]
        return any(check(module) for check in checks for module in names)

    def strange(self, q: Config, known: Sequence[str]) -> bool:
        """True where an expression matches no ``known`` module, and may be another tool's name for one: this is noted.

        What names no matrix, such as a norm or a bias, leaves nothing alone, and neither does what is not built.
        Raises ``SpecError`` for one where the file is read strictly, and where nothing would be packed.
        """
        if self.only and all(map(self.leaves, known)):
            raise q.error(self.field, "names no module of this model that txcalc knows")
        names = frozenset(known)
        strange = [text for text, matches in self.patterns
                   if text not in names and not _NO_MATRIX.search(text) and not any(map(matches, known))]
        if strange:
            unknown = f"{shown(strange[0])} names no module of this model that txcalc knows"
            if q.remarks.strict:
                raise q.error(self.field, unknown)
            q.remarks.choices.append(f"{q.path}{self.field}: {unknown}: nothing was left alone for it")
        return bool(strange)


def module_patterns(q: Config, field: str, default: Sequence[str] = ()) -> Matcher:
    """As transformers reads them: from the start of a name up to a dot, as an expression or not, or its end."""
    found = _listed(q, field, default, _module_pattern)
    ends = tuple(text for text, _ in found.patterns)
    try:
        starts = re.compile("|".join(map(_at_a_dot, ends)))
    except re.error:  # of names or flags that only one expression may have
        return found
    return replace(found, at_once=(lambda module: module.endswith(ends), starts.match)) if ends else found


def exact_names(q: Config, field: str, default: Sequence[str] = ()) -> Matcher:
    """As compressed-tensors reads them: whole names, and expressions after ``re:``."""
    return _listed(q, field, default, _name)


def globs(q: Config, field: str, default: Sequence[str] = ()) -> Matcher:
    """As ModelOpt reads them: whole names with ``*`` for anything, and all that lies below a module."""
    return _listed(q, field, default, lambda _, __, text: (
        lambda module: fnmatchcase(module, text) or module.startswith(f"{text}.")))


def below_layers(name: str) -> str:
    """The name of a module without what its layers stand in, which libraries differ in; of experts the first's."""
    return re.sub(r"(\.experts)\.\d+\b", r"\1.0", name[max(name.find("layers."), 0):])


def only_named(q: Config, field: str) -> Matcher | None:
    """Those that are named one by one, and no other, where any are. Raises ``SpecError`` for some experts."""
    named, often = {}, Counter[str]()
    for name in q.data.get(field) or ():
        named[below_layers(name)] = name
        often[below_layers(name)] += 1
    if len({number for name, number in often.items() if ".experts." in name}) > 1:
        raise q.error(field, "single experts in a format of their own are not understood")
    each = ((name, lambda module, own=own: below_layers(module) == own) for own, name in named.items())
    return Matcher(field, tuple(each), (), (lambda module: below_layers(module) not in named,)) if named else None


def _listed(
    q: Config, field: str, default: Sequence[str], each: Callable[[Config, str, str], Callable[[str], bool]],
) -> Matcher:
    texts = q.take(field, default=None)
    if texts is not None and not (isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)):
        raise q.error(field, f"must be a list of module names, got {shown(texts)}")
    return Matcher(field, tuple((text, each(q, field, text)) for text in (default if texts is None else texts)))


def _module_pattern(q: Config, field: str, text: str) -> Callable[[str], bool]:
    expression = _compiled(q, field, _at_a_dot(text), text)
    return lambda module: module.endswith(text) or expression().match(module) is not None


def _at_a_dot(text: str) -> str:
    return rf"(?:{text})(?:(?<=\.)|(?=\.|$))"


def _name(q: Config, field: str, text: str) -> Callable[[str], bool]:
    if not text.startswith("re:"):
        return lambda module: module == text
    expression = _compiled(q, field, text[3:], text[3:])
    return lambda module: expression().match(module) is not None


def _compiled(q: Config, field: str, expression: str, text: str) -> Callable[[], re.Pattern[str]]:
    """The expression, which is only made once it is asked for where nothing can be wrong with it: lists are long."""
    if len(text) > 200 or _SLOW.search(text) or len(re.findall(r"[*+{?]", text)) > _QUANTIFIERS:
        raise q.error(field, f"the expression {shown(text)} is not read: it could take too long")
    if re.search(r"experts\.\d", text):
        raise q.error(field, f"{shown(text)}: single experts that are left alone are not understood")
    made = cache(lambda: re.compile(expression))
    try:
        if not re.fullmatch(r"[\w.]+", text):
            made()
    except re.error as error:
        raise q.error(field, f"{shown(text)} is not a regular expression: {error.msg}") from None
    return made
