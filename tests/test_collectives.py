"""Collectives of a whole step: counts and bytes against PyTorch's own in its ``fake`` process group."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("torch")

import txcalc
from tests.test_implementations import CONFIGS
from tests.test_ranks import MODELS, NAMES
from txcalc.check import fake_cuda
from txcalc.count import collectives
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.model import Model
from txcalc.trace.layout import Fsdp
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

pytestmark = pytest.mark.usefixtures("fake_tensors")

THEIRS = NAMES | {"_allgather_base_": "all-gather", "_reduce_scatter_base_": "reduce-scatter",
                  "allreduce_": "all-reduce"}
BUCKET = 10_485  # bytes
WIDE = MODELS["llama"] | {"d_model": 160, "feed_forward": MODELS["llama"]["feed_forward"] | {"d_ff": 500}}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"dp": 4}) for name in ("gpt", "llama", "gemma", "parallel")),
    *((f"hf-{name}", {"dp": 4}) for name in ("llama", "qwen3", "gpt2")),
    *((f"hf-{name}", {"dp": 3, "fsdp": "yes", "clip": True}) for name in ("llama", "qwen3", "mixtral")),
    ("llama", {"dp": 4, "fsdp": "replicas=2", "clip": True}), ("gpt", {"dp": 5, "fsdp": "reshard=no,reduce=bf16"}),
    ("llama", {"tp": 4, "sp": True, "clip": True}), ("llama", {"tp": 4, "sp": True, "optimizer_kernel": "fused"}),
    ("llama", {"tp": 2, "sp": True, "optimizer": "nadam"}), ("llama", {"tp": 8, "sp": True, "optimizer": "sgd"}),
    ("llama", {"tp": 4, "sp": True, "dp": 2, "fsdp": "yes", "clip": True}),
    ("gpt", {"tp": 4, "sp": True, "optimizer_kernel": "loop"}), ("gpt", {"tp": 4, "optimizer_kernel": "loop"}),
]


@pytest.mark.grid(4)
@pytest.mark.parametrize(("name", "run"), CASES)
def test_a_step(name: str, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, run, monkeypatch, BUCKET)


@pytest.mark.slow
def test_the_first_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is smaller where no size is given."""
    assert check("wide", {"dp": 2, "dtype": "fp32"}, monkeypatch, None)["backward"].total() > 1


def check(name: str, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, bucket: int | None) -> Any:
    of_class = CONFIGS[name[3:]] if name.startswith("hf-") else None
    spec = Model.from_data(spec_from_config(of_class, "config.json", name) if of_class else (MODELS | {
        "wide": WIDE})[name])
    code = {"implementation": "transformers", "attention": "sdpa"} if of_class else {}
    w = Workload.of({"phase": "training", "dtype": "bf16", "batch": 2, "seq": 7 if of_class else 24} | code | run)
    for each in ("FIRST", "BUCKET") if bucket else ():
        monkeypatch.setattr(collectives, each, bucket)
    how: dict[str, Any] = {} if of_class else {"loss_as": "fp32", "dropout": 0.0, "recompute": "none"}
    if "fsdp" in run:
        fsdp = Fsdp.read(run["fsdp"])
        how["shards"] = {"dp": run["dp"], **vars(fsdp)}
    elif "dp" in run:
        how["ddp"] = {"dp": run["dp"], "cap": bucket and bucket / 2**20}
    real = fake_cuda.ask(
        "tests.measures.collectives.step_collectives",
        of_class or spec, w.batch, w.seq, dtype=w.dtype, attention=w.attention, tp=run.get("tp", 1),
        sp=run.get("sp", False), clip=w.clip, optimizer=w.updates, kernel=w.optimizer_kernel or "foreach", **how)
    found = {phase: Counter[tuple[str, int]]() for phase in ("forward", "backward", "step")}
    for each in collectives.collectives(trace(spec, w)):
        found[each.phase][each.what, each.bytes] += int(each.times)
    assert found == {phase: Counter((THEIRS[what], size) for what, size in each)
                     for phase, each in zip(found, real, strict=True)}
    assert any(each.total() for each in found.values())
    return found


def test_bytes_of_sharing_by_hand() -> None:
    """ZeRO as its paper has it (arXiv 1910.02054, section 7): 2 Psi for stages 1 and 2, 3 Psi for stage 3; Megatron-LM
    sums fp32 gradients."""
    spec = {"phase": "training", "seq": 64, "precision": "mixed"}
    params = txcalc.count("gpt2", seq=64).totals.params.value
    for stage, calls in ((1, ["step", "step"]), (2, ["backward", "step"]), (3, ["forward", "backward", "backward"])):
        found = txcalc.memory("gpt2", dp=4, zero=stage, **spec).collectives or ()
        assert {each.bytes for each in found} == {2 * params} and [each.phase for each in found] == calls
    layers, d = 12, 768
    run = spec | {"implementation": "megatron", "tp": 2, "sp": True, "dp": 4, "clip": True}
    for zero, expected in ((0, {("all-reduce", "dp", 4)}), (1, {("reduce-scatter", "dp", 4), ("all-gather", "dp", 2)})):
        found = [each for each in txcalc.memory("gpt2", zero=zero, **run).collectives or () if each.phase == "step"]
        own = txcalc.count("gpt2", seq=64, implementation="megatron", tp=2, sp=True).totals.params.value
        assert {(each.what, each.axis, each.bytes // own) for each in found if each.axis == "dp"} == expected
        sums = {each.path: each.bytes for each in found if each.axis != "dp"}
        assert sums == {"norms": 4 * (layers * 6 + 2) * d, "norm of gradients": 4}
    for name, rows in (("gpt2", 50304), ("llama3-8b", 0)):  # padded; the other is not tied
        found = txcalc.memory(f"{name}@layers=2", **spec, implementation="megatron", pp=2).collectives or ()
        sums = [each.bytes for each in found if (each.axis, each.phase) == ("pp", "step")]
        assert sums == [4 * rows * 768] * (rows > 0)
    copies = [each for each in txcalc.memory("llama3-8b@layers=3", tp=16, **spec).collectives or ()
              if each.phase == "step"]
    assert {(each.path, each.bytes, each.times) for each in copies} == {
        (f"layers.attention.{name}.weight", 2 * 128 * 4096, 3) for name in "kv"}
    experts = txcalc.memory("mixtral-8x7b@layers=2", dp=8, ep=4, zero=1, **spec).collectives or ()
    assert {each.axis for each in experts if each.phase == "step"} == {"dp", "expert dp"}
