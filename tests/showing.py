"""Any answer in any format, as the command line writes it."""

from __future__ import annotations

from typing import Any

from txcalc.answer.view import View
from txcalc.show import writers
from txcalc.show.terminal import Screen
from txcalc.show.writers import blocks

__all__ = ["WIDE", "blocks", "render"]

WIDE = Screen()


def render(answer: Any, form: Any = "table", screen: Screen = WIDE, detail: int = 1) -> str:
    document = answer.report if isinstance(answer, View) else answer
    return writers.write(document, blocks(answer), form, screen, detail)
