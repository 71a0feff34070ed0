"""The judge's table: it holds every type of the installed library, nothing in it is wrong, and it does not shrink."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
from judge.page import PAGE, all_types, rows
from judge.verdict import judge, measured

from txcalc.huggingface.families import FAMILIES

EXACT = 355
"""The fewest types that are exact."""


def test_the_table_holds_every_type_and_nothing_wrong() -> None:
    text = PAGE.read_text("utf-8")
    found = rows(text)
    assert set(FAMILIES) <= set(found)
    assert all(f"`{name}`" in text for name in all_types())
    assert [name for name, word in found.items() if word == "wrong"] == []
    assert sum(word == "exact" for word in found.values()) >= EXACT


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "gemma2", "t5", "mamba", "llava"])
def test_a_verdict_is_that_of_the_table(model_type: str) -> None:
    """The whole table takes half an hour: ``python -m tests.judge``."""
    assert judge(model_type, 3).word == rows(PAGE.read_text("utf-8"))[model_type] == "exact"


def test_what_is_counted_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from judge import verdict

    monkeypatch.setattr(verdict, "measured", lambda config, spec, model: (
        (name, ours + 1 if name == "FLOPs" else ours, theirs) for name, ours, theirs in measured(config, spec, model)))
    found = judge("llama", 3)
    assert found.word == "wrong"
    assert found.detail.startswith("FLOPs: ")
    assert judge("never-heard-of").word == "unknown"
