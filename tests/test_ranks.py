"""One rank of a training step that PyTorch's DTensor splits, on CUDA's operators without data: live bytes and
collectives, and those of the trace."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("torch")

from txcalc.check import fake_cuda
from txcalc.check.live import changes
from txcalc.count import step
from txcalc.count.collectives import collectives
from txcalc.count.lifetimes import live_bytes
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.layout import Fsdp
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

pytestmark = pytest.mark.usefixtures("fake_tensors")

GPT: dict[str, Any] = {
    "name": "gpt", "vocab": 101, "d_model": 23, "layers": 2, "context": 24, "position": {"kind": "learned"},
    "attention": {"heads": 16, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 40, "activation": "gelu_tanh", "bias": True},
}
LLAMA: dict[str, Any] = {
    "name": "llama", "vocab": 103, "d_model": 22, "layers": 3, "context": 24, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": {"heads": 16, "kv_heads": 8, "head_dim": 8},
    "feed_forward": {"d_ff": 56, "activation": "silu", "gated": True}, "head": {"tied": False},
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt": GPT, "llama": LLAMA,
    "gemma": LLAMA | {"norm": {"kind": "rmsnorm", "placement": "sandwich"}, "head": {"tied": True, "softcap": 30.0},
                      "attention": LLAMA["attention"] | {"qk_norm": {"over": "head"}, "window": 7}},
    "olmo": LLAMA | {"norm": {"kind": "rmsnorm", "placement": "res-post"}},
    "parallel": GPT | {"residual": "parallel", "head": {"tied": False, "bias": True}},
}
RUNS: dict[str, dict[str, Any]] = {
    "flash": {}, "one": {"batch": 1}, "fp32": {"dtype": "fp32"}, "plain": {"loss": "plain"}, "eager": {
        "attention": "eager"}, "dropout": {"dropout": 0.1}, "selective": {"recompute": "selective"},
    "full": {"recompute": "full"}, "several": {"recompute": "full:2", "batch": 3},
}
NAMES = {"all_reduce": "all-reduce", "all_gather_into_tensor": "all-gather", "reduce_scatter_tensor": "reduce-scatter",
         "all_to_all_single": "all-to-all"}


LAYOUTS: dict[str, dict[str, Any]] = {
    f"{name}{tp}": {"tp": tp, "sp": name == "sp"} for name in ("tp", "sp") for tp in (2, 4, 8)
} | {
    f"{comm}-{i}": layout | {"cp_comm": comm} for comm in ("all-to-all", "ring", "all-gather")
    for i, layout in enumerate([{"cp": 2}, {"cp": 4}, {"cp": 2, "tp": 2, "sp": True}, {"cp": 4, "tp": 2}])
}
LAYOUTS |= {f"shards-{name}": layout for name, layout in {
    "sp": {"tp": 2, "sp": True, "dp": 1024, "fsdp": {"reshard": False}}, "tp": {"tp": 4, "dp": 3, "fsdp": {}},
    "groups": {"tp": 8, "sp": True, "dp": 6, "fsdp": {"replicas": 2, "reduce": "bf16"}},
    "all-to-all": {"cp": 2, "cp_comm": "all-to-all", "dp": 2, "fsdp": {}},
    "all": {"cp": 4, "tp": 2, "sp": True, "cp_comm": "all-to-all", "dp": 3, "fsdp": {}},
    "ring": {"cp": 2, "tp": 2, "cp_comm": "ring", "fsdp": {}},
    "all-gather": {"cp": 2, "dp": 5, "cp_comm": "all-gather", "fsdp": {"reshard": False, "reduce": "bf16"}},
}.items()}
UNITS = ("_allgather_base_", "_reduce_scatter_base_", "allreduce_")
"""Collectives of sharded weights."""
ROTATES = {"ring": "alltoall", "all-gather": "allgather"}


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_the_rank_with_the_fewest_rows(name: str) -> None:
    """Of 107 rows of the vocabulary, the last of four ranks has one fewer than all others. DTensor remembers sizes of a
    rank, so that no other test has these."""
    spec = Model.from_data(MODELS[name] | {"vocab": 107})
    w = Workload.of({"phase": "training", "dtype": "bf16", "batch": 2, "seq": 20, "tp": 4})
    real, *_ = fake_cuda.ask("tests.measures.ranks.rank_live_bytes", spec, 2, 20, tp=4, rank=3, dtype="bf16",
                             attention="flash", loss_as="fp32", dropout=0.0, recompute="none")
    first, last = ([event.live for event in live_bytes(trace(spec, w, share=share), in_place=False)]
                   for share in (0, 3))
    assert last[:-1] == [live for _, live in real][:len(last) - 1] and first != last


@pytest.mark.grid(127)
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step(name: str, layout: str, run: str) -> None:
    own = {"tp": 1, "cp": 1, "sp": False} | LAYOUTS[layout]
    shards = "fsdp" in own
    spec = Model.from_data(MODELS[name] | ({"layers": 5} if shards and run == "one" else {}))
    if shards:  # layers that are recomputed together are in one unit
        own["fsdp"] = {"params": RUNS[run].get("dtype", "bf16"),
                       "unit": "model" if run in ("several", "one") else "layer", **own["fsdp"]}
    w = Workload.of({"phase": "training", "dtype": "bf16", "batch": 2, "seq": 24} | own | RUNS[run])
    if shards:
        own["shards"] = {"dp": own.pop("dp", 1), **vars(Fsdp.read(own.pop("fsdp")))}
    rotates = ROTATES.get(own.pop("cp_comm", ""), "")
    if rotates and (name == "gemma" or run in ("eager", "fp32")):  # PyTorch fails as well
        with pytest.raises(SpecError, match=r"flash|without a window"):
            trace(spec, w)
        return
    real, forward, backward = fake_cuda.ask(
        "tests.measures.ranks.rank_live_bytes", spec, w.batch, w.seq, **own, rotates=rotates, dtype=w.dtype,
        attention=w.attention, dropout=w.dropout, recompute=w.recompute or "none", loss_as=w.loss or "fp32")
    t = trace(spec, w)
    if shards:
        before, (_, top) = sum(entry.value for entry in step.resident(t)), real.pop()
        assert before + top == next(each.peak_bytes for each in step.phases(t) if each.name == "optimizer")
        assert step.certainty(t) == ("estimate" if rotates and spec.position.kind == "learned" else "exact")
    ours, theirs = ([live for _, live in changes([("", 0), *events])] if shards else [live for _, live in events]
                    for events in ([(each.path, each.live) for each in live_bytes(t, in_place=False)], real))
    if not shards:  # what comes last differs: the gradients of weights are released with the model
        ours[-1:], theirs = [], theirs[:len(ours) - 1]
    assert ours == theirs and len(ours) > 149
    for passes, measured in ((("forward",), forward), (("recomputation", "backward"), backward)):
        counted = Counter[tuple[str, int]]()
        for each in collectives(t):
            counted[each.what, each.bytes] += each.times * (each.phase in passes and each.axis in ("tp", "cp"))
        measured = [each for each in measured if each[0] not in UNITS]
        sent = NAMES | ({"all_to_all_single": "send/receive"} if rotates else {})
        assert +counted == Counter((sent[what], size) for what, size in measured)


def test_turns_of_a_unit_that_is_the_model() -> None:
    """Gradients of norms of layers that stand for others are summed one after the other."""
    test_a_training_step("olmo", "shards-sp", "one")
