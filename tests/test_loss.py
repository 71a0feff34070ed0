"""The copies that each way to compute the cross-entropy makes of the logits, against real steps of the reference."""

from itertools import product
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional as F

from tests.live_families import FAMILIES
from tests.test_live import GPT, LLAMA, MODELS, steps
from tests.test_step import agrees
from txcalc.answer.fit import fit
from txcalc.check import fake_cuda, measure
from txcalc.check.fake_cuda import NotRun
from txcalc.check.live import measured
from txcalc.check.measure_modes import LiveMode
from txcalc.check.reference import losses
from txcalc.count import params
from txcalc.count.activations import activation_bytes
from txcalc.count.entries import total
from txcalc.count.flops import entries, forward_flops
from txcalc.count.lifetimes import live_bytes
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import positions
from txcalc.spec.model import Model
from txcalc.trace.losses import chunk_rows
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

NAMES = ("gpt", "llama", "mixtral", "bert-pretraining", "vit")
LOSSES = ("plain", "fp32", "chunked:3", "fused")
HEADS = {
    "tied": LLAMA | {"head": {"tied": True}}, "softcap": LLAMA | {"head": {"tied": False, "softcap": 30.0}},
    "bias": GPT | {"head": {"tied": True, "bias": True}}, "own-bias": GPT | {"head": {"tied": False, "bias": True}},
}
RUNS: dict[str, dict[str, Any]] = {
    "amp": {"precision": "amp"}, "fp16": {"dtype": "fp16"}, "recomputed": {"recompute": "full"},
    "head-frozen": {"freeze": ["head"]}, "head-trained": {"freeze": ["layers", "token_embedding"]},
    "lora": {"lora": "r=3,targets=all"}, "longer": {"seq": 9, "batch": 3}, "shorter": {"seq": 2}, "alike": {"seq": 6},
}


def _device(name: str) -> str:
    if name == "fake-cuda":
        try:
            fake_cuda.start()
        except NotRun as reason:
            pytest.skip(f"not run: {reason}")
    return name


@pytest.mark.grid(15)
@pytest.mark.parametrize(("name", "loss", "device"), [
    *product(NAMES, LOSSES[:2], ("cpu", "fake-cuda")), *product((*NAMES[:4], *HEADS), LOSSES[2:], ("fake-cuda",)),
    *product((*NAMES[:2], "bias"), LOSSES[2:3], ("cpu",))])
def test_live_bytes(name: str, loss: str, device: str) -> None:
    for dtype in ("bf16", "fp32"):
        real, ours = steps({**MODELS, **FAMILIES, **HEADS}[name], 2, _device(device), seq=7, dtype=dtype, loss=loss)
        assert ours == real


@pytest.mark.grid(11)
@pytest.mark.parametrize("loss", LOSSES[2:])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_live_bytes_of_other_runs(run: dict[str, Any], loss: str) -> None:
    for batch in (1, 2):
        real, ours = steps(LLAMA, device=_device("fake-cuda"), loss=loss,
                           **{"dtype": "bf16", "seq": 8, "batch": batch} | run)
        assert ours == real


@pytest.mark.parametrize("loss", ["chunked:7", "fused"])
@pytest.mark.parametrize("more", [{"accumulate": 2, "clip": True}, {"precision": "amp"}])
def test_a_whole_step(loss: str, more: dict[str, Any]) -> None:
    agrees("gpt", "cuda", loss=loss, dtype="bf16", **more)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_kept(loss: str) -> None:
    spec, device = Model.from_data(MODELS["llama"]), "fake-cuda" if loss == "fused" else "cpu"
    kernels: Any = "cuda" if loss == "fused" else "cpu"
    w = Workload(phase="training", dtype="bf16", kernels=kernels, batch=2, seq=6, loss=loss)
    real = measured("kept", spec, w, _device(device))  # type: ignore[arg-type]
    assert activation_bytes(trace(spec, w)) == sum(measure.Kept(*each).nbytes for each in real)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_flops(loss: str) -> None:
    spec = Model.from_data(GPT | {"head": {"tied": False, "bias": True}})
    for count in (params.params, forward_flops, lambda t: total(entries(t, "backward"))):
        ours, plain = (count(trace(spec, Workload(phase="training", batch=2, seq=6, loss=how))) for how in (loss, None))
        assert ours == plain


def test_ignored_positions_change_nothing() -> None:
    """Their targets are numbers like all others."""
    loss = losses.ChunkedCrossEntropy(3)
    found = []
    for ignored in (0, 4):
        logits = [torch.randn(2, 2, 11, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        targets = torch.randint(0, 11, (2, 6))
        targets[:, :ignored] = losses.IGNORED
        with LiveMode("cpu") as live:
            loss(logits, targets).backward()
        found.append([each for _, each in live.events])
        whole = F.cross_entropy(torch.cat(logits, dim=1).float().flatten(0, 1), targets.flatten())
        torch.testing.assert_close(loss(logits, targets), whole)
    assert found[0] == found[1]


def test_a_chunk_of_logits_is_as_large_as_what_the_head_reads() -> None:
    """The rule of Liger-Kernel, with its own example (0.8.5, ``fused_linear_cross_entropy_forward``)."""
    assert chunk_rows(Trace(Workload(seq=1)), 4096 * 4, 4096, 32000) == losses.chunk_rows(4096 * 4, 4096, 32000) == 2048
    for rows, width, classes in ((1, 1, 1), (14, 22, 101), (8192, 4096, 128256), (7, 64, 32), (1000, 64, 1001)):
        step = losses.chunk_rows(rows, width, classes)
        assert chunk_rows(Trace(Workload(seq=1)), rows, width, classes) == step <= rows


def test_without_a_word_it_is_the_references() -> None:
    for loss, same in (("fp32", True), ("plain", False)):
        found = [activation_bytes(trace(Model.from_data(MODELS["gpt"]), Workload(
            phase="training", seq=7, **given))) for given in ({}, {"loss": loss})]  # type: ignore[arg-type]
        assert (found[0] == found[1]) == same


def test_only_a_training_step_has_one() -> None:
    with pytest.raises(SpecError, match="a forward pass has no loss"):
        Workload(phase="forward", seq=7, loss="plain")


def test_what_has_no_such_loss_is_refused() -> None:
    llama, vit = Model.from_data(LLAMA), Model.from_data(FAMILIES["vit"])
    run = {"phase": "training", "seq": 7}
    with pytest.raises(SpecError, match="none for the CPU"):
        trace(llama, Workload.of(run | {"loss": "fused", "kernels": "cpu"}))
    with pytest.raises(SpecError, match="must be one of plain, fp32, chunked:N, compiled:N, fused"):
        Workload.of(run | {"loss": "chunked"})
    with pytest.raises(SpecError, match="predicts no tokens"):
        fit(vit, Workload(phase="training", seq=positions(vit.input), loss="fused"))
    with pytest.raises(SpecError, match="train what is below it"):
        trace(llama, Workload.of(run | {"loss": "fused", "freeze": ["layers", "token_embedding", "final_norm"]}))
    with pytest.raises(SpecError, match="a bias and a fused loss is not proved"):
        live_bytes(trace(Model.from_data(HEADS["bias"]), Workload.of(run | {"loss": "fused", "precision": "amp"})))
    with pytest.raises(SpecError, match="own loss casts logits"):
        trace(llama, Workload.of(run | {"loss": "fused", "implementation": "transformers"}))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_what_a_compiled_loss_keeps(dtype: str) -> None:
    """As autograd saves it for the kernels that torch.compile makes of torchtune's ``compute_cross_entropy``."""
    import torch

    from txcalc.check.measure import DTYPES

    def entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")

    spec = Model.from_data(MODELS["gpt"])
    t = trace(spec, Workload(phase="training", kernels="cpu", dtype=dtype, batch=2, seq=21,  # type: ignore[arg-type]
                             loss="compiled:3"))
    saved: list[int] = []
    logits = torch.zeros(2 * 7, spec.vocab or 0, dtype=DTYPES[dtype], requires_grad=True)  # type: ignore[index]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.append(x.nbytes), x)[1], lambda x: x):
        torch.compile(entropy)(logits * 1, torch.zeros(2 * 7, dtype=torch.int64))
    ours = [t.workload.bytes_of(x.role) * x.elements for op in t.ops
            if op.kind.name == "loss" and len(op.saves) == len(saved) for x in op.saves]
    assert sorted(ours) == sorted(3 * saved)
