"""Counts beside what a card measured: the files of ``tests/gpu.py`` in tests/data/gpu are the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from gpu import STEPS

from txcalc.answer.devices import device
from txcalc.answer.fit import fit
from txcalc.check.validate import CASES, Case
from txcalc.count import activations
from txcalc.count.lifetimes import moments
from txcalc.count.moments import Moment
from txcalc.explain.explain import explain
from txcalc.spec import older
from txcalc.spec.files import Document
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

CARDS = sorted((Path(__file__).parent / "data" / "gpu").glob("*-reference.json"))
MIB = 2**20


def facts(card: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(card.read_text("utf-8"))
    return found


@pytest.mark.grid(5)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_what_autograd_keeps_on_a_card(card: Path) -> None:
    cases: dict[str, Case] = {str(case): case for case in CASES}
    differ, compared = [], 0
    for row in facts(card)["kept"]:
        document, _ = older.renamed(Document(row["spec"]), card.name)
        spec = Model.from_data(document.data)
        for name, measured in row["kept"].items():
            t = trace(spec, cases[name].workload(spec, "cuda"))
            counted = sum(entry.value for entry in activations.kept(t))
            compared += 1
            if counted != measured:
                differ.append((spec.name, name, counted, measured))
    assert compared > 2000
    assert differ == []


@pytest.mark.grid(7)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
@pytest.mark.parametrize("name", list(STEPS))
def test_the_peaks_of_a_training_step_on_a_card(card: Path, name: str) -> None:
    """Bytes that were asked for: equal. In blocks of the allocator: of 512 B, and the large ones up to 1 MiB larger."""
    found, compared = facts(card), 0
    for row in found["steps"]:
        if row["model"] != name:
            continue
        t = trace_of(found["info"], row)
        for phase in ("forward", "backward"):
            assert peak(t, phase, lambda memory: memory.bytes) == row[f"requested_peak_{phase}"], (row["run"], phase)
            assert peak(t, phase, rounded) <= row[f"peak_{phase}"] <= peak(t, phase, unsplit), (row["run"], phase)
        highest = max(row["requested_peak_forward"], row["requested_peak_backward"])
        assert explain(t.model, t.workload, "peak").total == highest, row["run"]
        compared += 1
    assert compared == 5


def trace_of(info: dict[str, Any], row: dict[str, Any]) -> Trace:
    spec = Model.from_data({"name": row["model"], **STEPS[row["model"]]})
    return trace(spec, fit(spec, Workload(
        phase="training", batch=info["batch"], seq=info["seq"] if spec.input.kind == "tokens" else None, kernels="cuda",
        source_seq=info["source_seq"] if spec.encoder else None, **row["run"])))


def peak(t: Trace, phase: str, amount: Callable[[Any], int]) -> int:
    """The most that is alive in a phase, each storage counted as ``amount`` says."""
    found = moments(t, in_place=True, unroll=True, amount=amount)
    return max(m.live for m in found if isinstance(m, Moment) and m.phase == phase)


def rounded(memory: Any) -> int:
    """Bytes of a storage as PyTorch's allocator for CUDA counts them, at least."""
    return device("h200").rounded(memory.bytes)


def unsplit(memory: Any) -> int:
    """Bytes of a storage at most: a block of more than 1 MiB is only split where more than that would be left."""
    return rounded(memory) + (MIB if memory.bytes > MIB else 0)
