"""Steps of transformers' own classes on a card, and of the trace: the files of tests/data/gpu are the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_gpu import peak, rounded, unsplit

from txcalc.answer.fit import fit
from txcalc.count.lifetimes import moments
from txcalc.count.moments import Moment
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

CARD = Path(__file__).parent / "data" / "gpu" / "h200.json"
COUNTED = ("llama", "gpt2", "qwen3", "bert", "vit")
"""The classes whose code is counted, by ``model_type``."""
STEPS = [row for row in json.loads(CARD.read_text("utf-8"))["rows"] if row["kind"] == "step"
         and row["config"]["model"]["model_type"] in COUNTED
         and row["config"]["precision"] == "bf16" and "lora" not in row["config"]]
BEYOND = {"bert-sdpa-full-adamw foreach": 1_189_888, "bert-eager-full-adamw foreach": 1_255_424}
"""Bytes of a backward pass beyond what is known: what a kernel allocates inside, and no dispatch mode sees."""


def named(row: dict[str, Any]) -> str:
    return "-".join([row["name"], *(row["config"][key] for key in ("attention", "recompute", "optimizer"))])


def run(config: dict[str, Any], name: str) -> Trace:
    spec = Model.from_data(spec_from_config(config["model"], CARD.name, name))
    dropout = 0.1 if "dropout" in name else 0.0  # the classes' default, which the facts of the others switch off
    return trace(spec, fit(spec, Workload(
        phase="training", batch=config["batch"], implementation="transformers",
        **({} if config["seq"] is None else {"seq": config["seq"]}),
        attention=config["attention"], dropout=dropout, recompute=config["recompute"],
        source_seq=config["seq"] if spec.encoder is not None else None)))


@pytest.mark.parametrize("row", STEPS, ids=named)
def test_a_step_of_a_class(row: dict[str, Any]) -> None:
    """What is kept, and the peaks: in the allocator's blocks at least and at most; equal where those are large."""
    t, measured = run(row["config"], row["name"]), row["measured"]
    start = measured["step_start"]
    for phase in ("forward", "backward"):
        least, most = (peak(t, phase, amount) for amount in (rounded, unsplit))
        beyond = BEYOND.get(named(row), 0) if phase == "backward" else 0
        assert least <= measured[f"peak_{phase}"] - start - beyond <= most, phase
        assert not beyond or measured[f"peak_{phase}"] - start == most + beyond
    kept = [after(t, amount) for amount in (rounded, unsplit)]
    assert kept[0] <= measured["after_forward"] - start <= kept[1]
    if "ms" in measured:  # full size
        assert measured["after_forward"] - start == kept[0]
    if "ms" in measured and t.model.vocab:  # its peak is the loss, where nothing small is alive
        assert measured["peak_backward"] - start == peak(t, "backward", rounded)


def after(t: Trace, amount: Any) -> int:
    """What is alive after the forward pass and the loss."""
    found = moments(t, in_place=True, unroll=True, amount=amount)
    return [m.live for m in found if isinstance(m, Moment) and m.phase == "forward"][-1]
