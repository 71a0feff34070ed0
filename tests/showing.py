"""Any answer in any format, as the command line writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from txcalc.answer.catalogue import Listing
from txcalc.answer.compare import Comparison
from txcalc.answer.curves import AttentionCurve
from txcalc.answer.diff import Diff
from txcalc.answer.mixers import MixerTable
from txcalc.answer.validation import Validations
from txcalc.answer.view import View
from txcalc.derivation.explanation import Explanation
from txcalc.show import attention, compare, count, diff, explain, formats, mixers, presets, validate
from txcalc.show.blocks import Block
from txcalc.show.terminal import Screen

BLOCKS: dict[type, Any] = {
    View: count.blocks, Comparison: compare.blocks, Diff: diff.blocks, AttentionCurve: attention.blocks,
    Explanation: explain.blocks, MixerTable: mixers.blocks, Validations: validate.blocks, Listing: presets.blocks,
}


WIDE = Screen()


def blocks(answer: Any) -> Iterator[Block]:
    found: Iterator[Block] = BLOCKS[type(answer)](answer)
    return found


def render(answer: Any, form: Any = "table", screen: Screen = WIDE, detail: int = 1) -> str:
    document = answer.report if isinstance(answer, View) else answer
    return formats.write(document, blocks(answer), form, screen, detail)
