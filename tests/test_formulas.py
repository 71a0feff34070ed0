"""The formulas of some models, one of each kind, as they were when last looked at.

What changes one on purpose writes them anew: python tests/test_formulas.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from txcalc.answer.fit import fill as workload
from txcalc.explain.explain import Explainer
from txcalc.explain.explanation import QUANTITIES, Explanation
from txcalc.models import load as presets
from txcalc.spec.errors import SpecError

FILE = Path(__file__).parent / "data" / "formulas.txt"
MODELS: Final = (
    "gpt2", "llama3-8b", "mixtral-8x7b", "deepseek-v3.2", "gemma3-27b", "gemma4-e2b", "gpt-neo-1.3b", "llama4-scout",
    "qwen3-next-80b-a3b", "nemotron-h-8b", "lfm2-8b-a1b", "transformer-base", "t5-small", "whisper-tiny", "rnnsearch",
    "lstm-ptb-large", "transformer-xl-enwik8-12l", "deberta-v3-base", "modernbert-base", "vit-b16", "clip-vit-b32",
    "llava-1.5-7b",
)
RUNS: Final[dict[str, dict[str, Any]]] = {
    "training": {"phase": "training", "attention": "eager", "dropout": 0.1},
    "skipped": {"masked": "skipped", "kernels": "cpu"}, "decode": {"phase": "decode", "past": 1021},
}


def shown(name: str) -> str:
    """Every formula of a model: rows and closed forms once, and under what they hold."""
    model = presets.load(name).model
    lines = [f"# {name}"]
    for label, given in RUNS.items():
        try:
            explainer = Explainer(model, workload([model], given)[0])
        except SpecError:
            continue
        for quantity in QUANTITIES:
            try:
                found = explainer.explain(quantity)
            except SpecError:
                continue
            if label == "training" or found.quantity.startswith(("flops", "kv")):
                lines += [f"## {label}, {quantity}", *formulas(found)]
    return "\n".join(lines)


def formulas(found: Explanation) -> Iterator[str]:
    where = ", ".join(each.unicode for each in (*found.relations, *found.substitutions, *found.assumptions))
    yield f"{found.closed.unicode}   {where}".rstrip()
    for row in found.rows:
        yield f"- {row.name}: {row.each.unicode} · {row.times.unicode}"


@pytest.mark.grid(7)
@pytest.mark.parametrize("name", MODELS)
def test_no_formula_changes_unseen(name: str) -> None:
    kept = {part.split("\n")[0]: part for part in FILE.read_text("utf-8").rstrip("\n").split("\n\n")}
    assert list(kept) == [f"# {each}" for each in MODELS]
    assert shown(name) == kept[f"# {name}"]


if __name__ == "__main__":
    FILE.write_text("\n\n".join(map(shown, MODELS)) + "\n", "utf-8")
