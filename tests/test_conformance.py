"""55 real configurations: what transformers 5.23.0's own classes gave on the meta device with torch 2.13.0.

``tests/data/conformance.json`` holds facts: the configuration, unique parameters, parameters of one token's path,
``FlopCounterMode``'s FLOPs (eager, batch 2, all logits) for the stated inputs, and the cache that one prefill of
batch 2 needs in bf16. Every model agrees exactly; of two, ``params_alt`` is what was released, with a head of its own
that the class ties by force.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from txcalc.answer.report import Totals, count
from txcalc.check.third_party import compared
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.facts import positions
from txcalc.spec.inputs import PatchInput
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
HELD = {"params": 55, "params_alt": 2, "params_active": 11, "flops_eager": 44, "flops_backward": 44, "kv": 46}
"""How many of them hold each fact."""


def read(name: str) -> Model:
    return Model.from_data(spec_from_config(FACTS[name]["config"], f"{name}/config.json", name))


def totals(spec: Model, phase: str, lengths: dict[str, int]) -> Totals:
    return count(spec, Workload(batch=2, phase=phase, attention="eager", **lengths)).totals  # type: ignore[arg-type]


def lengths(inputs: dict[str, list[int]]) -> dict[str, int]:
    """A workload's lengths for what the class was fed; an image has its own."""
    if "decoder_input_ids" in inputs:
        source = inputs["input_ids"][1] if "input_ids" in inputs else inputs["input_features"][2] // 2
        return {"seq": inputs["decoder_input_ids"][1], "source_seq": source}
    return {"seq": inputs["input_ids"][1]} if "input_ids" in inputs else {}


def test_nothing_is_left_out() -> None:
    assert len(FACTS) == 55
    held = [sum(key in facts for facts in FACTS.values()) for key in HELD]
    assert dict(zip(HELD, held, strict=True)) == HELD


@pytest.mark.parametrize("name", FACTS)
def test_parameters(name: str) -> None:
    facts, spec = FACTS[name], read(name)
    found = totals(spec, "training", {} if isinstance(spec.input, PatchInput) else {"seq": 32})
    row = compared(spec, facts["config"]["model_type"], "parameters", found.params.value, facts["params"])
    assert row.verdict == ("explained" if "params_alt" in facts else "equal"), row
    assert found.params.kind == "exact"
    if "params_active" in facts:
        assert found.params_active.value == facts["params_active"]


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if "params_alt" in facts])
def test_parameters_as_released(name: str) -> None:
    assert totals(read(name), "training", {"seq": 32}).params.value == FACTS[name]["params_alt"]


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if "flops_backward" in facts])
def test_flops(name: str) -> None:
    facts = FACTS[name]
    found = totals(read(name), "training", lengths(facts["flops_inputs"]))
    assert found.flops_forward.value == facts["flops_eager"]
    assert found.flops_backward is not None and found.flops_recomputed is not None
    assert found.flops_backward.value + found.flops_recomputed.value == facts["flops_backward"]


@pytest.mark.parametrize(("name", "length"), [
    (name, length) for name, facts in FACTS.items() for length in facts.get("kv", {})
])
def test_kv_cache(name: str, length: str) -> None:
    spec, n = read(name), int(length.removeprefix("s"))
    lengths = {"seq": n} if spec.encoder is None else {"seq": 128, "source_seq": positions(spec.encoder.input, n)}
    found = totals(spec, "prefill", lengths)
    assert found.kv_cache_bytes is not None
    assert found.kv_cache_bytes.value == FACTS[name]["kv"][length]
