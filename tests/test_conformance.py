"""55 real configurations: what transformers 5.23.0's own classes gave on the meta device with torch 2.13.0.

``tests/data/conformance.json`` holds facts: the configuration, unique parameters, parameters of one token's path,
``FlopCounterMode``'s FLOPs (eager, batch 2, all logits) for the stated inputs, and the cache that one prefill of
batch 2 needs in bf16. Every model agrees exactly, or is refused with the text in ``REFUSED``.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from txcalc.answer.report import Totals, count
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import positions
from txcalc.spec.huggingface.importer import spec_from_config
from txcalc.spec.inputs import PatchInput
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
REFUSED: dict[str, str] = {}


def read(name: str) -> Model:
    return Model.model_validate(spec_from_config(FACTS[name]["config"], f"{name}/config.json", name))


def totals(spec: Model, phase: str, lengths: dict[str, int]) -> Totals:
    return count(spec, Workload(batch=2, phase=phase, attention="eager", **lengths)).totals  # type: ignore[arg-type]


def lengths(inputs: dict[str, list[int]]) -> dict[str, int]:
    """A workload's lengths for what the class was fed; an image has its own."""
    if "decoder_input_ids" in inputs:
        source = inputs["input_ids"][1] if "input_ids" in inputs else inputs["input_features"][2] // 2
        return {"seq": inputs["decoder_input_ids"][1], "source_seq": source}
    return {"seq": inputs["input_ids"][1]} if "input_ids" in inputs else {}


def test_all_55_are_there() -> None:
    assert len(FACTS) == 55
    assert FACTS.keys() >= REFUSED.keys()


@pytest.mark.parametrize("name", [name for name in FACTS if name not in REFUSED])
def test_parameters(name: str) -> None:
    facts, spec = FACTS[name], read(name)
    found = totals(spec, "training", {} if isinstance(spec.input, PatchInput) else {"seq": 32})
    assert found.params.value == facts.get("params_alt", facts["params"])
    assert found.params.kind == "exact"
    if "params_active" in facts:
        assert found.params_active.value == facts["params_active"]


@pytest.mark.parametrize("name", [n for n, facts in FACTS.items() if n not in REFUSED and "flops_backward" in facts])
def test_flops(name: str) -> None:
    facts = FACTS[name]
    found = totals(read(name), "training", lengths(facts["flops_inputs"]))
    assert found.flops_forward.value == facts["flops_eager"]
    assert found.flops_backward is not None and found.flops_recomputed is not None
    assert found.flops_backward.value + found.flops_recomputed.value == facts["flops_backward"]


@pytest.mark.parametrize(("name", "length"), [
    (name, length) for name, facts in FACTS.items() if name not in REFUSED for length in facts.get("kv", {})
])
def test_kv_cache(name: str, length: str) -> None:
    spec, n = read(name), int(length.removeprefix("s"))
    lengths = {"seq": n} if spec.encoder is None else {"seq": 128, "source_seq": positions(spec.encoder.input, n)}
    found = totals(spec, "prefill", lengths)
    assert found.kv_cache_bytes is not None
    assert found.kv_cache_bytes.value == FACTS[name]["kv"][length]


def test_the_others_are_refused_by_name() -> None:
    for name, text in REFUSED.items():
        with pytest.raises(SpecError) as caught:
            read(name)
        assert text in str(caught.value)
