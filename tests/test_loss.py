"""The copies that each way to compute the cross-entropy makes of the logits, against real steps of the reference."""

from typing import Any

import pytest

pytest.importorskip("torch")

from tests.live_families import FAMILIES
from tests.test_live import MODELS, steps
from txcalc.check import fake_cuda
from txcalc.check.fake_cuda import NotRun
from txcalc.check.live import measured
from txcalc.count.activations import activation_bytes
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

NAMES = ("gpt", "llama", "mixtral", "bert-pretraining", "vit")
LOSSES = ("plain", "fp32")


def _device(name: str) -> str:
    if name == "fake-cuda":
        try:
            fake_cuda.start()
        except NotRun as reason:
            pytest.skip(f"not run: {reason}")
    return name


@pytest.mark.parametrize("device", ["cpu", "fake-cuda"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_live_bytes(name: str, loss: str, device: str) -> None:
    for dtype in ("bf16", "fp32"):
        real, ours = steps({**MODELS, **FAMILIES}[name], 2, _device(device), dtype=dtype, loss=loss)
        assert ours == real


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_kept(loss: Any) -> None:
    spec = Model.from_data(MODELS["llama"])
    w = Workload(phase="training", dtype="bf16", kernels="cpu", batch=2, seq=7, loss=loss)
    assert activation_bytes(trace(spec, w)) == sum(each.nbytes for each in measured("kept", spec, w, "cpu"))


def test_without_a_word_it_is_the_references() -> None:
    for loss, same in (("fp32", True), ("plain", False)):
        found = [activation_bytes(trace(Model.from_data(MODELS["gpt"]), Workload(
            phase="training", seq=7, **given))) for given in ({}, {"loss": loss})]  # type: ignore[arg-type]
        assert (found[0] == found[1]) == same


def test_only_a_training_step_has_one() -> None:
    with pytest.raises(SpecError, match="a forward pass has no loss"):
        Workload(phase="forward", seq=7, loss="plain")
