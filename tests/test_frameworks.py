"""Frameworks for training stand for options that are there, give way to what is given, and refuse what they lack."""

import pytest

import txcalc
from txcalc.answer.frameworks import framed, frameworks
from txcalc.spec.errors import SpecError
from txcalc.trace.layout import Layout
from txcalc.trace.workload import GIVEN, Workload

MODEL = "llama3-8b@layers=2,d_model=256,attention.heads=8,attention.kv_heads=2,attention.head_dim=32,vocab=1024"
FUSED = {"clip": True, "optimizer_kernel": "fused"}
RUNS = [
    ("megatron", {"tp": 2, "dp": 3, "zero": 1}, {"implementation": "megatron", **FUSED}),
    ("torchtitan", {"dp": 4, "tp": 2}, {"fsdp": "yes", "sp": True, "loss": "fp32", **FUSED}),
    ("torchtitan", {"dp": 2, "cp": 2}, {"fsdp": "yes", "cp_comm": "all-gather", "loss": "fp32", **FUSED}),
    ("torchtitan", {"optimizer": "sgd"}, {"clip": True, "precision": "amp", "loss": "fp32"}),
    ("torchtitan", {"tp": 2}, {"sp": True, "dtype": "fp32", "loss": "fp32", **FUSED}),
    ("deepspeed", {"dp": 4, "zero": 3}, {"precision": "mixed", **FUSED}),
    ("deepspeed", {"cp": 2}, {"precision": "mixed", "cp_comm": "all-to-all", **FUSED}),
    ("deepspeed", {"weights": "nf4", "lora": "r=4"}, FUSED),
    ("deepspeed", {"dtype": "fp32"}, FUSED),
    ("nanotron", {"pp": 2}, {"implementation": "nanotron", "schedule": "gpipe", **FUSED}),
    ("nanotron", {"implementation": "torch", "optimizer_kernel": "loop", "clip": False}, {}),
    ("fsdp2", {"dp": 4}, {"fsdp": "yes"}),
    ("fsdp2", {"fsdp": "reshard=no", "dp": 2}, {}),
    ("fsdp2", {"phase": "train"}, {}),
]


@pytest.mark.parametrize(("name", "given", "sets"), RUNS)
def test_stands_for_options(name, given, sets):
    found, notes = framed({"framework": name, **given})
    assert found == {**given, "phase": "training", **sets}
    assert len(notes) == 1
    assert all(f"--{each.replace('_', '-')}" in notes[0] for each in sets)


def test_is_counted_so():
    given = {"dp": 2, "seq": 64, "global_batch": "4"}
    found = txcalc.memory(MODEL, framework="torchtitan", **given)
    spelt = txcalc.memory(MODEL, phase="training", fsdp="yes", loss="fp32", **FUSED, **given)
    assert (found.workload, found.peak, found.phases) == (spelt.workload, spelt.peak, spelt.phases)
    assert {*found.notes} - {*spelt.notes} == {*framed({"framework": "torchtitan", **given})[1]}
    assert txcalc.memory(MODEL, framework=None, seq=64) == txcalc.memory(MODEL, seq=64)


@pytest.mark.grid(4)
@pytest.mark.parametrize(("name", "given", "sets"), RUNS)
def test_can_be_counted(name, given, sets):
    assert txcalc.memory(MODEL, seq=64, framework=name, **given).peak.bytes


def test_rows():
    fields = {*GIVEN, *Workload.names(), *Layout.names()}
    for row in frameworks().values():
        assert {each["field"] for each in row["sets"]} | row["only"].keys() <= fields
        assert all(each["source"] for each in row["sets"]) and row["read"]


@pytest.mark.parametrize(("given", "field", "message"), [
    ({"framework": "nanotorn"}, "framework", "did you mean nanotron?"),
    ({"framework": "megatron", "phase": "inference"}, "framework", "is for training"),
    ({"framework": "megatron", "engine": "vllm"}, "framework", "is for training"),
    ({"framework": "megatron", "dp": 2, "zero": 3}, "zero", "--zero 1 would do"),
    ({"framework": "nanotron", "dp": 2, "zero": 2}, "zero", "--zero 1 would do"),
    ({"framework": "torchtitan", "dp": 2, "zero": 3}, "zero", "--fsdp yes would do"),
    ({"framework": "deepspeed", "dp": 2, "pp": 2, "zero": 3}, "zero", "--zero 1 would do"),
    ({"framework": "deepspeed", "dp": 2, "fsdp": "yes"}, "fsdp", "--zero 3"),
    ({"framework": "megatron", "pp": 2, "schedule": "zbv"}, "schedule", "1f1b or interleaved"),
    ({"implementation": "megatron", "phase": "training", "dp": 2, "zero": 2}, "zero", "not counted yet"),
])
def test_refuses(given, field, message):
    with pytest.raises(SpecError, match=message) as error:
        txcalc.memory(MODEL, seq=64, **given)
    assert error.value.field == field


def test_gives_way_to_no():
    assert framed({"framework": "deepspeed", "fsdp": "no", "dp": 2, "zero": 3})[0]["zero"] == 3
    assert framed({"framework": "megatron", "schedule": "interleaved:2", "pp": 2})[0]["schedule"] == "interleaved:2"


def test_searches_layouts():
    """Each has what the framework sets of it, and none that the framework lacks."""
    stages = {"megatron": {0, 1}, "nanotron": {0, 1}, "torchtitan": {0}, "fsdp2": {0}, "deepspeed": {0, 1, 2, 3}}
    for name in frameworks():
        found = txcalc.fit(MODEL, "8GB", seq=64, framework=name, gpus="2", recompute="none").layouts
        assert {each.run.get("zero", 0) for each in found} == stages[name]
        assert len({str(each.run) for each in found}) == len(found)
        for each in found:
            alone = txcalc.memory(MODEL, device="8GB", framework=name, **{"seq": 64, "recompute": "none", **each.run})
            assert alone.peak.bytes == each.bytes
