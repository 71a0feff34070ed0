"""Live bytes of a whole training step in steady state, weights and states among them: the reference's, and ours."""

from math import prod
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from tests.live_families import FAMILIES
from tests.test_live import GPT, LLAMA
from tests.test_live import MODELS as ALL
from txcalc.answer.fit import fit
from txcalc.answer.validation import Row
from txcalc.check.fake_cuda import NotRun
from txcalc.check.live import whole_step
from txcalc.check.sibling import sibling
from txcalc.check.whole_step import MADE, runs_on
from txcalc.count import step
from txcalc.count.entries import total
from txcalc.count.optimizers import OPTIMIZERS, states
from txcalc.count.parameter import Parameter
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Role
from txcalc.trace.workload import Workload

MODELS = {"gpt": GPT, "llama": LLAMA}
OTHERS = {name: ALL[name] for name in ("mixtral", "shared-layers")} | {
    "biases-of-each-layer": LLAMA | {"position": {"kind": "transformer-xl"}},
    "biases-of-all-layers": LLAMA | {"position": {"kind": "transformer-xl", "per_layer": False}},
}


def run(name: str, **more: Any) -> tuple[Model, Workload, Trace]:
    spec = Model.from_data((MODELS | OTHERS)[name])
    workload = Workload(**{"phase": "training", "kernels": "cpu", "batch": 2, "seq": 7} | more)
    return spec, workload, trace(spec, workload)


def compared(spec: Model, w: Workload, **more: Any) -> Row:
    """A step as it is counted, and as PyTorch has it."""
    try:
        return whole_step(spec, w, "cpu" if w.kernels == "cpu" else "fake-cuda", "", **more)
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")


def agrees(name: str, kernels: str, **more: Any) -> None:
    row = compared(*run(name, kernels=kernels, **more)[:2])
    assert row.verdict == "equal", row.differences


@pytest.mark.grid(11)
@pytest.mark.parametrize("kernel", ["foreach", "fused", "loop"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "sgd-momentum"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("kernels", ["cpu", "cuda"])
def test_a_whole_step(name: str, dtype: str, kernels: str, optimizer: str, kernel: str) -> None:
    agrees(name, kernels, dtype=dtype, optimizer=optimizer, optimizer_kernel=kernel)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize(("kernels", "recompute"), [("cpu", None), ("cuda", None), ("cpu", "full")])
def test_a_whole_step_under_autocast(name: str, kernels: str, recompute: str | None) -> None:
    agrees(name, kernels, dtype="bf16", precision="amp", recompute=recompute)


@pytest.mark.grid(7)
@pytest.mark.parametrize(("optimizer", "kernel"), [
    (name, kernel) for name, each in OPTIMIZERS.items() if not each.unmeasured and runs_on(name, "fake-cuda")
    for kernel in each.kernels])
def test_optimizers_on_cuda(optimizer: str, kernel: str) -> None:
    """Those on the CPU are rows of ``txcalc validate``, as in tests/test_mutations.py."""
    agrees("gpt", "cuda", optimizer=optimizer, optimizer_kernel=kernel)


@pytest.mark.parametrize("kernels", ["cpu", "cuda"])
@pytest.mark.parametrize("kernel", ["foreach", "loop"])
def test_states_of_weights_that_get_no_gradient(kernels: str, kernel: str) -> None:
    """``Adagrad`` makes its states when it is made; the layers of a tower that nothing reads have them as well."""
    spec = Model.from_data(FAMILIES["vlm-class"])
    w = Workload(phase="training", kernels=kernels, batch=2, seq=11, images=2,  # type: ignore[arg-type]
                 optimizer="adagrad", optimizer_kernel=kernel)  # type: ignore[arg-type]
    row = compared(spec, w)
    assert row.verdict == "equal", row.differences


@pytest.mark.parametrize("name", ["esm2-650m", "opus-mt-en-de", "qwen2.5-vl-7b"])
def test_states_of_weights_that_no_run_reads(name: str) -> None:
    """A head for contacts has ``Adagrad``'s states; tables of sinusoids, which nothing trains, have not."""
    spec = sibling(load(name).model)
    w = Workload(phase="training", kernels="cpu", batch=2, seq=7, dtype="fp32", optimizer="adagrad")
    row = compared(spec, fit(spec, w))
    assert row.verdict == "equal", row.differences



@pytest.mark.grid(7)
@pytest.mark.parametrize("more", [
    {"clip": True}, {"accumulate": 3}, {"accumulate": 2, "clip": True, "optimizer_kernel": "loop"},
    {"accumulate": 3, "clip": True, "optimizer": "sgd"},
], ids=["clip", "accumulate", "both", "sgd"])
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("kernels", ["cpu", "cuda"])
def test_clipping_and_accumulation(name: str, kernels: str, more: dict[str, Any]) -> None:
    agrees(name, kernels, dtype="bf16" if name == "gpt" else "fp32", **more)


@pytest.mark.parametrize("name", [*MODELS, "shared-layers"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd-momentum"])
@pytest.mark.parametrize("kernels", ["cpu", "cuda"])
def test_updates_in_the_backward_pass(name: str, kernels: str, optimizer: str) -> None:
    """Each weight has an optimizer of its own, which a hook runs once the gradient is there."""
    agrees(name, kernels, optimizer=optimizer, optimizer_kernel="fused", in_backward=True)


@pytest.mark.parametrize(("more", "words"), [
    ({}, "in_backward: is counted where a step allocates nothing"),
    ({"optimizer": "weights=2,states=8"}, "in_backward: is counted"),
    ({"optimizer_kernel": "fused", "clip": True}, "clip: there is no clip where weights are updated in the backward"),
    ({"optimizer_kernel": "fused", "accumulate": 2}, "accumulate: there is no accumulate"),
])
def test_what_is_not_updated_in_the_backward_pass(more: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        step.phases(run("gpt", in_backward=True, **more)[2])


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "torchao-adamw-8bit", "torchao-adamw-4bit", "torchao-adamw-fp8"])
def test_states_in_few_bits(optimizer: str) -> None:
    """Those of parameters above and below 4,096 elements, in whole blocks and not."""
    if not runs_on(optimizer, "cpu"):
        pytest.skip("its package is not installed")
    shapes = [(101, 96), (512, 96), (512,), (40, 24), (128, 512), (7, 3, 256)]
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    real = MADE[optimizer](weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    real.step()
    seen = set[int]()
    measured = sum(storages(each, seen) for weight in weights for each in real.state[weight].values())
    _, w, t = run("gpt", optimizer=optimizer)
    made = [Parameter(t.ops[0], "", "weight", shape, 4, 1) for shape in shapes]
    assert sum(each.value for each in states(w.replaced(kernels="cuda"), made)) == measured - 4 * len(shapes) * (
        optimizer.startswith("torchao"))  # a step's number is in the CPU's memory


def storages(x: Any, seen: set[int]) -> int:
    """Bytes of all storages of a tensor that may be made of others, each once."""
    if hasattr(x, "__tensor_flatten__"):
        return sum(storages(getattr(x, part), seen) for part in x.__tensor_flatten__()[0])
    if not isinstance(x, torch.Tensor) or x.untyped_storage()._cdata in seen:
        return 0
    seen.add(x.untyped_storage()._cdata)
    return x.untyped_storage().nbytes()


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "muon", "radam", "adamw-amsgrad"])
def test_two_turns_show_the_peak_of_a_loop_over_many_layers(optimizer: str) -> None:
    for name in ("gpt", "mixtral", "qwen-moe", "rnn"):
        w = Workload.of({"phase": "training", "kernels": "cpu", "seq": 7, "optimizer": optimizer})
        t = trace(Model.from_data(ALL[name] | {"layers": 7}), w.replaced(optimizer_kernel="loop"))
        every = [sum(event.live.values()) for event in step.events(t) if event.phase == "optimizer"]
        assert step.phases(t)[-1].peak_bytes == max(every)


def test_experts_and_weights_that_are_shared_or_handed_on() -> None:
    for name in OTHERS:
        for more in ({}, {"accumulate": 2}):
            spec, w, t = run(name, optimizer_kernel="loop", **more)
            row, exact = compared(spec, w), step.certainty(t) == "exact"
            assert row.verdict == "equal" if exact else (row.counted or 0) >= (row.measured or 0)
            assert exact or (name.startswith("biases") and more)


@pytest.mark.parametrize("run_of", [{}, {"phase": "forward"}, {"phase": "prefill"}, {"phase": "decode", "past": 5}],
                         ids=["training", "forward", "prefill", "decode"])
@pytest.mark.parametrize("name", list(MODELS))
def test_the_peaks_of_the_phases_are_the_highest_events(name: str, run_of: dict[str, Any]) -> None:
    _, _, t = run(name, **run_of)
    peaks: dict[str, int] = {}
    for event in step.events(t):
        peaks[event.phase] = max(peaks.get(event.phase, 0), sum(event.live.values()))
    assert {each.name: each.peak_bytes for each in step.phases(t)} == peaks
    assert total(step.at_peak(t)) == max(peaks.values())
    first = next(step.events(t)).live
    there = step.resident(t)
    assert {part: total(each for each in there if each.part == part) for part in first} == first


@pytest.mark.parametrize("run_of", [{}, {"phase": "decode", "past": 5}], ids=["training", "decode"])
@pytest.mark.parametrize("name", list(MODELS))
def test_every_storage_is_rounded_as_asked(name: str, run_of: dict[str, Any]) -> None:
    """Three times the bytes of each are three times the peak; of weights, each tensor is a storage."""
    _, _, t = run(name, **run_of)
    plain = [each.peak_bytes for each in step.phases(t)]
    assert [each.peak_bytes for each in step.phases(t, rounded=lambda size: 3 * size)] == [3 * each for each in plain]
    sizes: list[int] = []
    step.phases(t, rounded=lambda size: sizes.append(size) or size)  # type: ignore[func-returns-value]
    width = t.workload.bytes_of(Role.ACTIVATION)
    for op in t.ops:
        assert all(prod(shape) * width in sizes for _, shape in op.weights), op.path


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_what_is_trained_is_the_same_at_any_size(name: str) -> None:
    _, _, like = run(name)
    for sizes in ({"batch": 1, "seq": 1}, {"batch": 5, "seq": 31}):
        _, _, t = run(name, **sizes)
        assert step.phases(t, like=like) == step.phases(t)
