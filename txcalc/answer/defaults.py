"""The workload that is meant when the command line leaves sizes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from txcalc.spec.errors import SpecError
from txcalc.spec.facts import image_positions
from txcalc.trace.workload import Workload, plain

if TYPE_CHECKING:
    from txcalc.spec.model import Model

LONGEST: Final = 2048
"""The longest sequence that is assumed without being asked for."""


def workload(models: Sequence[Model], given: dict[str, Any]) -> tuple[Workload, frozenset[str]]:
    """The workload of the ``given`` fields, and the names of those that were filled in.

    Without ``seq`` it is the shortest of the models' contexts, or 2,048 where that is shorter; in decoding it is
    one new token, after as many cached ones as leave room for it. Images that become positions of the text make room
    for themselves. Where all models read images alone, there is nothing to fill in: their positions follow from the
    model. Raises ``SpecError`` for a bad field, and for a prompt's length in decoding without that of its cache.
    """
    given = plain(given)
    contexts = [model.context for model in models if model.input.kind == "tokens"]
    if not contexts:
        return Workload.of(given), frozenset()
    length = min(LONGEST, *contexts)
    taken = max(image_positions(model, _size(given, "images"), _size(given, "batch") or 1) for model in models)
    fill = _decoding if given.get("phase") == "decode" else _reading
    filled = fill(given, length, taken)
    return Workload.of({**filled, **given}), frozenset(filled)


def _reading(given: dict[str, Any], length: int, taken: int) -> dict[str, int]:
    return {} if "seq" in given else {"seq": max(1, length - _size(given, "past"), taken)}


def _decoding(given: dict[str, Any], length: int, taken: int) -> dict[str, int]:
    """``seq`` tokens at once is what speculative decoding checks; as the length of a prompt it would be a mistake."""
    filled = {} if "seq" in given else {"seq": 1}
    if "past" not in given:
        new = _size({**filled, **given}, "seq")
        if new > 1:
            message = (f"decodes {new:,} tokens at once; for one token that ends a sequence of {new:,} give "
                       f"--past {new - 1} in its place, or --past beside it")
            raise SpecError(message, field="seq")
        filled["past"] = max(0, length - new, taken)
    return filled


def _size(given: dict[str, Any], name: str) -> int:
    """A field that has not been validated yet."""
    value = given.get(name)
    return value if isinstance(value, int) else 0
