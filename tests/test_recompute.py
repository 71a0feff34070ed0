"""What the backward pass runs once more: live bytes, kept storages and FLOPs of real steps, and of the trace."""

from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.live_families import FAMILIES
from tests.test_live import MODELS, steps
from txcalc.answer.fit import fit
from txcalc.check import measure
from txcalc.check.live import measured
from txcalc.check.validate import by_module, has_loss
from txcalc.count import activations, flops
from txcalc.count.lifetimes import live_bytes
from txcalc.count.unproved import INPUTS
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import positions
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.tensors import Role
from txcalc.trace.workload import Workload

CELLS = {name for name, model in {**MODELS, **FAMILIES}.items() if "recurrent" in str(model)}
WHOLE = {name: model for name, model in {**MODELS, **FAMILIES}.items() if name not in {*CELLS, "kv-shared"}}
OFTEN = ("gpt", "llama", "parallel", "post-norm", "window", "mixtral", "shared-layers", "groups", "t5", "transformer")
REFUSED = [*(("selective", name) for name in ("transformer-xl", "transformer-xl-shared", "xlnet")),
           ("full:2", "deepseek-moe")]
FORMS = ["full", "full:2", "selective", "ops"]
CASES = [pytest.param(name, form, marks=() if name in OFTEN else pytest.mark.slow) for name in WHOLE for form in FORMS
         if (form, name) not in REFUSED]
CASES += [("llama", "ops:2"), ("gpt", "ops:2"), ("parallel", "ops:3"), ("transformer", "ops:2")]
RUNS: dict[str, dict[str, Any]] = {
    "flash": {"dtype": "bf16"}, "eager-dropout": {"dtype": "bf16", "attention": "eager", "dropout": 0.1}, "fp32": {},
    "math-dropout": {"attention": "math", "dropout": 0.1},
}


def workload(spec: Model, **run: Any) -> Workload:
    """A training step of two sequences."""
    more: dict[str, Any] = {} if spec.encoder is None else {"source_seq": positions(spec.encoder.input, 5)}
    if spec.tower is not None and spec.tower.projector is not None:
        more = {"images": 2}
    return Workload(phase="training", batch=2, seq=positions(spec.input, 7), **more | run)


@pytest.mark.grid(23)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_training_step(name: str, batch: int, run: dict[str, Any], form: str) -> None:
    real, ours = steps(WHOLE[name], batch, recompute=form, **run)
    assert ours == real


@pytest.mark.grid(35)
@pytest.mark.parametrize("run", [*RUNS.values(), {"dtype": "bf16", "dropout": 0.1}], ids=[*RUNS, "dropout"])
@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.usefixtures("fake_tensors")
def test_a_training_step_on_cuda(name: str, run: dict[str, Any], form: str) -> None:
    real, ours = steps(WHOLE[name], 2, "fake-cuda", recompute=form, **run)
    assert ours == real


@pytest.mark.grid(11)
@pytest.mark.parametrize("form", FORMS[:-1])  # what a policy saves is in no hook
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("name", OFTEN)
def test_what_is_kept(name: str, run: dict[str, Any], form: str) -> None:
    spec = Model.from_data(WHOLE[name])
    w = workload(spec, kernels="cpu", recompute=form, **{"dtype": "fp32"} | run)
    modules, real = measure.module_paths(spec), dict[str, int]()
    for path, _, _, size in measured("kept", spec, w, "cpu"):
        real[path] = real.get(path, 0) + size
    assert by_module(activations.kept(trace(spec, w)), modules) == real


@pytest.mark.grid(11)
@pytest.mark.parametrize(("name", "form"), CASES)
def test_flops(name: str, form: str) -> None:
    spec = Model.from_data(WHOLE[name])
    if not has_loss(spec):
        return
    w = workload(spec, attention="eager", recompute=form)
    real = measure.flops(spec, w.batch, w.seq, source_seq=w.source_seq, images=w.images, loss=True, backward=True,
                         recompute=form)
    for what in ("forward", "backward", "recomputed"):
        counted = by_module(flops.entries(trace(spec, w), what), measure.module_paths(spec))  # type: ignore[arg-type]
        assert counted == {path: n for path, n in getattr(real, what).items() if n}, what


@pytest.mark.parametrize("name", OFTEN)
def test_what_a_policy_saves_is_kept(name: str) -> None:
    """Of what is alive when the forward pass is over, all but the loss; ids and targets were there before."""
    spec = Model.from_data(WHOLE[name])
    t = trace(spec, workload(spec, attention="eager", recompute="ops"))
    kept = activations.kept(t)
    there = sum(each.value for each in kept if each.tensor is not None and each.tensor.label in INPUTS)
    live = next(event.live for event, after in pairwise(live_bytes(t)) if after.phase == "backward")
    assert live == sum(each.value for each in kept) - there + t.workload.bytes_of(Role.FLOAT32)


def test_flash_attention_is_recomputed_twice() -> None:
    """By the layer, and by its own backward pass, which computes its scores again."""
    spec = Model.from_data(MODELS["gpt"])
    w = workload(spec, recompute="full")
    real = measure.flops(spec, w.batch, w.seq, eager=False, loss=True, backward=True, recompute="full")
    counted = sum(each.value for each in flops.entries(trace(spec, w), "backward", "recomputed"))
    assert counted == sum(real.backward.values()) + sum(real.recomputed.values())


@pytest.mark.parametrize("name", sorted(CELLS))
def test_cells_are_not_proved(name: str) -> None:
    spec = Model.from_data({**MODELS, **FAMILIES}[name])
    with pytest.raises(SpecError, match="is not proved yet"):
        live_bytes(trace(spec, workload(spec, recompute="full")))


def test_what_cannot_be_recomputed_is_refused() -> None:
    for phase in ("forward", "prefill", "decode"):
        with pytest.raises(SpecError, match="recomputes nothing; use phase training"):
            Workload(phase=phase, seq=1, recompute="full")
        assert Workload(phase=phase, seq=1, recompute="none") == Workload(phase=phase, seq=1)
    for form, name in REFUSED:
        spec = Model.from_data(WHOLE[name])
        with pytest.raises(SpecError, match=r"which is not proved to be run once more|no whole number of turns"):
            fit(spec, workload(spec, recompute=form))
    with pytest.raises(SpecError, match="must be one of none, full, full:K, selective, ops, ops:K"):
        Workload(phase="training", seq=1, recompute="full:0")
    with pytest.raises(SpecError, match="does not count products of experts that get rows: ops would do"):
        trace(Model.from_data(WHOLE["mixtral"]), workload(Model.from_data(WHOLE["mixtral"]), recompute="ops:2"))
    spec = Model.from_data(FAMILIES["kv-shared"])
    with pytest.raises(SpecError, match="read keys that others make"):
        fit(spec, workload(spec, recompute="full"))


@pytest.mark.parametrize("run", [{}, {"attention": "eager", "dropout": 0.1}], ids=["flash", "dropout"])
@pytest.mark.parametrize("name", ["gpt", "llama", "parallel", "mixtral", "post-norm", "shared-layers"])
def test_what_layers_start_from_in_the_cpus_memory(
    monkeypatch: pytest.MonkeyPatch, name: str, run: dict[str, Any]
) -> None:
    """Hooks around ``checkpoint`` take the tensors that it is given away, and bring copies back."""
    import torch

    from txcalc.check.reference import block

    def away(function: Any, *args: Any, **more: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(
                lambda x: x.detach().numpy().copy(), lambda x: torch.from_numpy(x).clone()):
            return torch.utils.checkpoint.checkpoint(function, *args, **more)

    monkeypatch.setattr(block, "checkpoint", away)
    spec = Model.from_data(WHOLE[name])
    w = workload(spec, kernels="cpu", dtype="fp32", recompute="full", offload=True, **run)
    real = [live for _, live in measured("live_bytes", spec, w, "cpu")]
    assert [event.live for event in live_bytes(trace(spec, w), in_place=False)] == real
    assert [event.live for event in live_bytes(trace(spec, w.replaced(offload=None)), in_place=False)] != real


def test_what_several_layers_are_given_is_not_offloaded() -> None:
    w = workload(Model.from_data(WHOLE["t5"]), recompute="full", offload=True)
    with pytest.raises(SpecError, match="offloading what several layers are given is not proved yet"):
        live_bytes(trace(Model.from_data(WHOLE["t5"]), w))


@pytest.mark.parametrize("form", [None, "selective", "full:2"])
def test_nothing_else_is_in_the_cpus_memory(form: str | None) -> None:
    with pytest.raises(SpecError, match="offload: is of what layers that run once more start from"):
        workload(Model.from_data(WHOLE["gpt"]), recompute=form, offload=True)
