"""The lists of modules in a ``quantization_config``: names, suffixes and regular expressions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
    """Which modules are left alone: those that an expression matches, or all but ``only``.

    A module may have several names, any of which counts.
    """

    field: str
    patterns: tuple[tuple[str, Callable[[str], bool]], ...] = ()
    only: tuple[str, ...] = ()

    def leaves(self, *names: str) -> bool:
        """Whether the module of these names keeps its width."""
        if self.only:
            return not any(module.endswith(f".{name}") for name in self.only for module in names)
        return any(matches(module) for _, matches in self.patterns for module in names)

    def strange(self, q: Config, known: Sequence[str]) -> bool:
        """True where an expression matches no ``known`` module, and may be another tool's name for one: this is noted.

        What names no matrix, such as a norm or a bias, leaves nothing alone, and neither does what is not built.
        Raises ``SpecError`` for one where the file is read strictly, and where nothing would be packed.
        """
        if self.only and all(map(self.leaves, known)):
            raise q.error(self.field, "names no module of this model that txcalc knows")
        strange = [text for text, matches in self.patterns
                   if not any(map(matches, known)) and not _NO_MATRIX.search(text)]
        if strange:
            unknown = f"{shown(strange[0])} names no module of this model that txcalc knows"
            if q.remarks.strict:
                raise q.error(self.field, unknown)
            q.remarks.choices.append(f"{q.path}{self.field}: {unknown}: nothing was left alone for it")
        return bool(strange)


def module_patterns(q: Config, field: str, default: Sequence[str] = ()) -> Matcher:
    """As transformers reads them: from the start of a name up to a dot, as an expression or not, or its end."""
    return _listed(q, field, default, _module_pattern)


def exact_names(q: Config, field: str, default: Sequence[str] = ()) -> Matcher:
    """As compressed-tensors reads them: whole names, and expressions after ``re:``."""
    return _listed(q, field, default, _name)


def globs(q: Config, field: str, default: Sequence[str] = ()) -> Matcher:
    """As ModelOpt reads them: whole names with ``*`` for anything, and all that lies below a module."""
    return _listed(q, field, default, lambda _, __, text: (
        lambda module: fnmatchcase(module, text) or module.startswith(f"{text}.")))


def _listed(
    q: Config, field: str, default: Sequence[str], each: Callable[[Config, str, str], Callable[[str], bool]],
) -> Matcher:
    texts = q.take(field, default=None)
    if texts is not None and not (isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)):
        raise q.error(field, f"must be a list of module names, got {shown(texts)}")
    return Matcher(field, tuple((text, each(q, field, text)) for text in (default if texts is None else texts)))


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
