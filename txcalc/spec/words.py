"""Other names of the fields of a run and of the words they take: read everywhere, written nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from txcalc import units
from txcalc.spec.errors import SpecError, is_size, shown

_DTYPES: Final = {
    "float32": "fp32", "float": "fp32", "single": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
}

WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "phase": {"train": "training", "inference": "prefill", "generate": "decode"},
    "dtype": _DTYPES,
    "kv_dtype": _DTYPES,
    "weights": {**_DTYPES, "q3-k": "q3_k_m", "q4-k": "q4_k_m", "q5-k": "q5_k_m", "gptq-int4": "gptq"},
    "attention": {"naive": "eager"},
    "masked": {"skip": "skipped"},
    "cp_comm": {"p2p": "ring", "a2a": "all-to-all", "ulysses": "all-to-all"},
    "schedule": {"zero-bubble": "zb", "zerobubble": "zb", "interleavedzerobubble": "zb", "zbvzerobubble": "zbv",
                 "dualpipev": "dualpipe", "loopedbfs": "looped", "interleaved1f1b": "interleaved"},
    "recipe": {"adam": "adam-mixed", "adamw": "adam-mixed"},
}
"""By field: a word that people use, and what it is called here."""

FIELDS: Final[Mapping[str, str]] = {
    "batch_size": "batch", "micro_batch": "batch", "seq_len": "seq", "seqlen": "seq",
}
"""Other names of fields, as keywords and keys; as options they are spelt with hyphens."""


def word(field: str, value: Any, options: Iterable[str]) -> Any:
    """The one of ``options`` that ``value`` means for this field, in any case, or else the value as it is."""
    if not isinstance(value, str):
        return value
    folded = value.casefold().replace("_", "-")
    meant = WORDS.get(field, {}).get(folded, folded).replace("_", "-")
    return next((option for option in options if option.replace("_", "-") == meant), value)


def fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by their own names. Raises ``SpecError`` for one that is given by two names."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        field = FIELDS.get(name, name)
        if field in found:
            raise SpecError(f"is another name of {field}: give one of them", field=name)
        found[field] = value
    return found


def form(word: str) -> str:
    """The word before a colon, such as ``full`` of ``full:4``, or all of it."""
    return word.partition(":")[0]


def numbered(field: str, value: Any, options: Iterable[str]) -> Any:
    """Likewise of options with a number after a colon, which is left as it is."""
    if not isinstance(value, str):
        return value
    name, colon, rest = value.partition(":")
    return word(field, name, map(form, options)) + colon + rest


def with_lengths(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with the batch, and the length, that lengths of several sequences say. Raises ``SpecError``."""
    if given.get("lengths") is None:
        return {**given}
    own = lengths(given["lengths"])
    longest = "past" if word("phase", given.get("phase"), ("decode",)) == "decode" else "seq"
    found = {"batch": len(own), longest: max(own), **given, "lengths": own}
    for name, says in (("batch", len(own)), (longest, max(own))):
        if found[name] != says and not (name == "past" and (found[name] or 0) > says):  # tokens generated since
            raise SpecError(f"the lengths say {says:,}: give one of them", field=name)
    return found


def lengths(given: object) -> tuple[int, ...]:
    """Tokens of each of several sequences. Raises ``SpecError``."""
    if isinstance(given, str):
        try:
            given = units.parse_lengths(given)
        except ValueError as error:
            raise SpecError(str(error), field="lengths") from None
    if not isinstance(given, list | tuple) or not given or not all(map(is_size, given)):
        wrong = next((each for each in given if not is_size(each)), given) if isinstance(given, list | tuple) else given
        raise SpecError(f"must be tokens of each sequence, such as 4K,1K,300, got {shown(wrong)}", field="lengths")
    return tuple(given)


def beams(given: object) -> str:
    """Beams of a search, such as 4, or with the tokens that it has and adds: 4:4096+512. Raises ``SpecError``."""
    text = str(given)
    if isinstance(given, bool) or not re.fullmatch(r"([2-9]|[1-9][0-9]+)(:[1-9][0-9]*\+[1-9][0-9]*)?", text):
        raise SpecError(f"must be a whole number of at least 2, got {shown(given)}")
    return text


READS: Final = {"lengths": lengths, "beams": beams}
"""Readers of sequences and beams of a pass."""


def searched(beams: str | None, so_far: int) -> tuple[int, int, int]:
    """Beams, tokens of a search's start, and that it adds at most: 1 after those ``so_far`` where nothing says."""
    count, start, added, *_ = (*map(int, re.findall("[0-9]+", beams or "1")), so_far, 1)
    return count, start, added


def check_beams(phase: str, logits: str | None, count: int, start: int, added: int, so_far: int) -> None:
    """Raise ``SpecError`` for a pass that is none of a search's."""
    if logits == "all":
        raise SpecError("beams are searched by the last position's alone", field="logits")
    if not (so_far == start if phase == "prefill" else start < so_far < start + added):
        raise SpecError(f"{so_far:,} tokens are no pass of a search that starts with {start:,} and adds {added:,}: "
                        "give them as 4:4096+512, or --phase inference with --new", field="beams")


def number(word: str | None) -> int | None:
    """The number after a colon, such as that of ``full:4``, if there is one."""
    found = re.search(":([0-9]+)$", word or "")
    return int(found[1]) if found else None


def statements(program: str) -> Iterator[tuple[str, str, list[list[str]], list[str]]]:
    """Statements such as ``a = b``, or ``a f R V, b i < c``: a name and what has it then, or what is made, of words
    each, and what is freed."""
    for statement in filter(str.strip, program.replace("\n", ";").split(";")):
        made, _, freed = statement.partition("<")
        name, renames, old = (part.strip() for part in made.partition("="))
        yield (name, old, [], []) if renames else ("", "", [each.split() for each in made.split(",")], freed.split())


def settings(text: str) -> dict[str, str]:
    """The names and values of a text such as ``reshard=no,reduce=bf16``."""
    parts = (part.partition("=") for part in text.split(","))
    return {name.strip(): value.strip() for name, _, value in parts}
