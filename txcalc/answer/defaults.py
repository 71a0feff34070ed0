"""The workload that is meant when the command line leaves sizes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from txcalc.trace.workload import Workload, plain

if TYPE_CHECKING:
    from txcalc.spec.model import Model

LONGEST: Final = 2048
"""The longest sequence that is assumed without being asked for."""


def workload(models: Sequence[Model], given: dict[str, Any]) -> tuple[Workload, frozenset[str]]:
    """The workload of the ``given`` fields, and the names of those that were filled in.

    Without ``seq`` it is the shortest of the models' contexts, or 2,048 where that is shorter; in decoding it is
    one new token, after as many cached ones as leave room for it. Where all models read images, there is nothing to
    fill in: their positions follow from the model. Raises ``SpecError`` for a bad field.
    """
    given = plain(given)
    contexts = [model.context for model in models if model.input.kind == "tokens"]
    if not contexts:
        return Workload.of(given), frozenset()
    length = min(LONGEST, *contexts)
    filled = _decoding(given, length) if given.get("phase") == "decode" else _reading(given, length)
    return Workload.of({**filled, **given}), frozenset(filled)


def _reading(given: dict[str, Any], length: int) -> dict[str, int]:
    return {} if "seq" in given else {"seq": max(1, length - _size(given, "past"))}


def _decoding(given: dict[str, Any], length: int) -> dict[str, int]:
    filled = {} if "seq" in given else {"seq": 1}
    if "past" not in given:
        filled["past"] = max(0, length - _size({**filled, **given}, "seq"))
    return filled


def _size(given: dict[str, Any], name: str) -> int:
    """A field that has not been validated yet."""
    value = given.get(name)
    return value if isinstance(value, int) else 0
