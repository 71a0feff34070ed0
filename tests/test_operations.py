"""The page on adding an operation: what it says is run, and its operation is held against PyTorch's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from txcalc.check.measure_modes import LiveMode

PAGE = Path(__file__).parent.parent / "docs" / "operations.md"


def run() -> tuple[dict[str, Any], int]:
    """The names that the page defines, and how many of its values were compared."""
    scope: dict[str, Any] = {}
    compared = 0
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        exec(block, scope)
        for code, value in re.findall(r"^(\w+\(.*\)) +# (\d+)$", block, re.MULTILINE):
            assert eval(code, scope) == int(value), code
            compared += 1
    return scope, compared


def test_the_page_is_true() -> None:
    assert run()[1] == 4


def test_the_operation_is_pytorch_s() -> None:
    scope, _ = run()
    root = torch.nn.Sequential(torch.nn.Linear(22, 41), torch.nn.Mish(), torch.nn.Linear(41, 13))
    x, live = torch.randn(2, 7, 22), LiveMode("cpu")
    with live:
        y = root(x)
    given = torch.ones_like(y)
    with live:
        torch.autograd.backward(y, given)
    ours = [event.live for event in scope["live_bytes"](scope["t"], in_place=False)]
    assert ours == [now for _, now in live.events]
    assert len(ours) > 8
