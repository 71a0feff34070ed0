"""Megatron-LM on TransformerEngine: what a rank keeps, holds and does together, by hand from its sources."""

import math
from collections import Counter
from typing import Any

import pytest

import txcalc
from txcalc.answer.fit import fit
from txcalc.count import step
from txcalc.count.activations import kept
from txcalc.count.collectives import collectives
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.implementations import TRAINERS
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

H, Q, KV, F, V, LAYERS, SEQ = 104, 8 * 16, 4 * 16, 184, 1000, 3, 56


def llama(**more: Any) -> Model:
    return Model.from_data({
        "name": "tiny", "vocab": V, "d_model": H, "layers": LAYERS, "context": 64, "position": {"kind": "rope"},
        "norm": {"kind": "rmsnorm"}, "attention": {"heads": 8, "kv_heads": 4, "head_dim": 16}, "head": {"tied": False},
        "feed_forward": {"d_ff": F, "activation": "silu", "gated": True}, **more})


def run(spec: Model, **given: Any) -> Trace:
    return trace(spec, fit(spec, Workload.of({"phase": "training", "implementation": "megatron", "seq": SEQ, **given})))


def held(t: Trace) -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in step.resident(t):
        found[entry.what if entry.part == "collectives" else entry.part] += entry.value
    return found


def padded(tp: int) -> int:
    return -(-V // (128 * tp)) * 128


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_what_a_layer_keeps(tp: int) -> None:
    """Both norms' inputs and outputs, of this rank's positions; queries, keys, values, contexts and a log-sum-exp of
    every row, of its heads; the input of the gated activation and its output."""
    t = run(llama(), tp=tp, sp=tp > 1)
    own = sum(entry.value for entry in kept(t) if entry.op.within.layer)
    states = 2 * 4 + 8 * 4  # reciprocals of two norms, log-sum-exp
    random = 3 * 8  # as PyTorch's kernel has it
    assert own == LAYERS * (SEQ // tp * (8 * H + 4 * Q + 4 * KV + 6 * F + states) + random)


LATENT = {"kind": "mla", "heads": 8, "q_rank": 40, "kv_rank": 24, "nope_dim": 16, "rope_dim": 8, "value_dim": 32}
EXPERTS, ACTIVE, WIDTH = 12, 3, 56
MIXTURE = {"kind": "moe", "experts": EXPERTS, "active_experts": ACTIVE, "d_ff": WIDTH, "shared_experts": 1,
           "activation": "silu", "gated": True}


@pytest.mark.parametrize(("tp", "ep", "etp"), [
    (1, 1, None), (1, 4, None), (2, 1, None), (2, 2, 2), (2, 2, 1), (4, 1, 1)])
def test_what_a_layer_of_experts_on_latents_keeps(tp: int, ep: int, etp: int | None) -> None:
    """Latents, normed or not, of this rank's positions; the rows of experts, gathered over its ranks, before and after
    the activation; and of every expert for every token fp32 scores, twice, a flag, and a map of rows, for the way there
    and back."""
    t = run(llama(attention=LATENT, feed_forward=MIXTURE), tp=tp, sp=tp > 1, dp=1 if etp == 1 else ep, ep=ep, etp=etp)
    own = sum(entry.value for entry in kept(t) if entry.op.within.layer)
    n, heads = SEQ // tp, 8
    norms = 8 * H + 2 * 40 * 2 + 2 * (24 + 8) + 2 * 24 + 4 * 4
    core = heads * (2 * (24 + 24 + 32 + 32) + 4)
    shared = 6 * WIDTH
    router = EXPERTS * (4 + 4 + 1) + 8 * ACTIVE + 4 * (2 * EXPERTS + 1)
    etp = etp or tp
    rows = n * etp * ACTIVE * (2 * H + 6 * WIDTH // etp + 2)
    assert own == LAYERS * (n * (norms + core + shared + router) + rows + 24)
    assert (etp < tp) == all(each.axis != "tp" for each in collectives(t) if "dispatch" in each.path) or tp == 1


def test_ranks_of_tp_share_experts_that_are_not_split() -> None:
    """On 4 ranks of tp and 2 of dp there are 8 that have experts; 2 have the same, and share their states."""
    spec, layout = llama(feed_forward=MIXTURE), {"tp": 4, "sp": True, "dp": 2, "etp": 1}
    one, split = (held(run(spec, **layout, ep=ep, zero=1)) for ep in (1, 4))
    experts = LAYERS * EXPERTS * 3 * WIDTH * H
    assert one["weights"] - split["weights"] == 2 * (experts - experts // 4)
    assert one["master weights"] == split["master weights"]
    with pytest.raises(SpecError, match="ep: 16 ranks do not divide tp · dp · cp, 8; 8 would do"):
        run(spec, **layout, ep=16)
    with pytest.raises(SpecError, match="etp: experts that tensor parallelism does not split"):
        trace(spec, Workload.of({"phase": "training", "seq": 8, "tp": 4, "etp": 1}))


@pytest.mark.parametrize(("tp", "dp", "zero"), [(1, 1, 0), (2, 1, 1), (2, 3, 1), (4, 2, 0)])
def test_what_a_rank_holds(tp: int, dp: int, zero: int) -> None:
    """Of a parameter 6 bytes, and 12 that data-parallel ranks share; and a stand-in for every shape of a matrix."""
    found = held(run(llama(), tp=tp, sp=tp > 1, dp=dp, zero=zero))
    matrices = {(Q + 2 * KV, H), (H, Q), (2 * F, H), (H, F)}
    sizes = [rows * columns // tp for rows, columns in matrices] + [padded(tp) * H]
    p = (padded(tp) * 2 * H + LAYERS * sum(sizes[:4])) + (2 * LAYERS + 1) * H
    shared = dp if zero else 1
    assert found["weights"] == 2 * p and found["gradients"] == 4 * p + 2 * sum(sizes)
    assert 4 * p <= found["master weights"] * shared < 4 * p + 64 * shared
    assert 8 * p <= found["optimizer state"] * shared < 8 * p + 128 * shared
    assert found["gathered input of the head"] == (SEQ * H * 2 if tp > 1 else 0)


def test_logits_are_overwritten_by_their_gradient() -> None:
    """In the head's backward pass there are beside what is kept only the gradient of its input, whole and scattered."""
    t = run(llama(vocab=2000), tp=2, sp=True)
    top = max(step.phases(t), key=lambda phase: phase.peak_bytes)
    assert (top.name, top.at) == ("backward", "head")
    there = [entry for entry in step.at_peak(t) if entry.part in ("saved", "transient")]
    logits = SEQ * 1024 * 2
    layers = sum(entry.value for entry in kept(t) if entry.op.within.layer)
    top_layer = 2 * SEQ // 2 * H * 2 + SEQ // 2 * 4  # the last norm's input and output, and its reciprocals
    losses = 4 + 4  # the loss and its gradient
    assert sum(entry.value for entry in there) == (
        layers + logits + top_layer + SEQ * H * 2 + SEQ // 2 * H * 2 + losses)


def test_inputs_are_gathered_again() -> None:
    t = run(llama(), tp=2, sp=True)
    found = Counter[tuple[str, str]]()
    for each in collectives(t):
        found[each.what, each.phase] += each.times
    assert found.pop(("all-reduce", "step")) == 1  # of gradients of norms
    columns, rows = 2 * LAYERS + 1, 2 * LAYERS + 1  # of the head, and of the table
    assert found == {("all-gather", "forward"): columns + 1, ("reduce-scatter", "forward"): rows,  # one of statistics
                     ("all-gather", "backward"): columns + rows, ("reduce-scatter", "backward"): columns}


@pytest.mark.parametrize(("given", "why"), [
    ({"precision": "bf16"}, "fp32 master beside 16-bit weights"), ({"loss": "fp32"}, "another loss"),
    ({"attention": "math"}, "math attention in"),
    ({"recompute": "ops"}, "policy of operations"),
    ({"kernels": "cpu"}, "Megatron-LM on the CPU"), ({"lora": "r=2"}, "a part of the weights"),
    ({"phase": "prefill"}, "a prefill pass"),
])
def test_what_is_not_counted_yet(given: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        run(llama(), **given)
    with pytest.raises(SpecError, match=r"attention.softcap in Megatron-LM is not counted yet"):
        run(load("gemma2-2b").model)


@pytest.mark.parametrize("name", ["gpt2", "phi3-mini"])
def test_projections_that_are_stored_as_one_are_all_trained(name: str) -> None:
    spec = load(name).model
    found = [held(trace(spec, fit(spec, Workload.of({
        "phase": "training", "seq": 8, "precision": "mixed", "implementation": each}))))
        for each in ("torch", "transformers")]
    for part in ("weights", "master weights", "optimizer state"):
        assert found[0][part] == found[1][part] > 0


@pytest.mark.parametrize("tp", [1, 2])
def test_what_a_layer_of_nanotron_keeps(tp: int) -> None:
    """The projection's copy, of which queries are a part, keys and values joined, the kernel's output and its copy;
    norms' inputs of this rank's positions, and their outputs gathered."""
    spec = llama(attention={"heads": 8, "kv_heads": 8, "head_dim": 16}, feed_forward={
        "d_ff": F, "activation": "silu", "gated": True})
    t = run(spec, tp=tp, sp=tp > 1, implementation="nanotron", batch=3)
    own = sum(entry.value for entry in kept(t) if entry.op.within.layer)
    rows = 3 * SEQ
    assert own == LAYERS * (rows // tp * (4 * H + 14 * Q + 8 * F + 2 * 4 + 8 * 4) + rows * 4 * H + 24)
    assert held(t)["gradients"] == 4 * sum(math.prod(shape) * often.copies for op, often in t.placed
                                           for _, shape in op.weights)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_report_says_whose_code_it_is(name: str) -> None:
    found = txcalc.memory(llama(attention={"heads": 8, "kv_heads": 8, "head_dim": 16}), phase="training", seq=SEQ,
                          implementation=name)
    counted = txcalc.count(llama(), phase="training", seq=SEQ, implementation=name)
    assert found.workload.implementation == counted.workload.implementation == name
    assert found.peak.kind == "estimate"
    assert any("but for its totals" in note for note in found.notes)


def test_fit_takes_what_memory_does_and_searches_no_stage_of_zero_above_1() -> None:
    """What the framework sets aside among it."""
    run: dict[str, Any] = {"phase": "training", "implementation": "megatron", "seq": 512}
    peak = txcalc.memory("gpt2", device="h100-80gb", batch=3, **run).peak.bytes
    found = txcalc.fit("gpt2", "h100-80gb", batch=3, **run)
    assert found.peak.bytes == peak
    spread = txcalc.fit("gpt2", "h100-80gb", gpus=2, **run).layouts
    assert spread and all(each.run.get("zero", 0) <= 1 for each in spread)
