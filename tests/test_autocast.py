"""Autocast over fp32 weights: casts, cached casts and gradients, against real steps of the reference under it."""

from typing import Any

import pytest

pytest.importorskip("torch")

from tests.live_families import FAMILIES
from tests.test_adapters import run_of
from tests.test_live import MODELS, steps
from tests.totals import backward_flops
from txcalc.answer.fit import fit
from txcalc.check.live import measured
from txcalc.count import activations, flops, params, weights
from txcalc.count.unproved import unproved
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import positions
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.tensors import Role
from txcalc.trace.workload import Workload

ALL = {**MODELS, **FAMILIES}
RUNS: dict[str, dict[str, Any]] = {
    "flash": {}, "eager": {"attention": "eager"}, "eager-dropout": {"attention": "eager", "dropout": 0.1},
    "sdpa-dropout": {"attention": "sdpa", "dropout": 0.1}, "math": {"attention": "math"}, "plain": {"loss": "plain"},
    "no-loss": {"phase": "forward"}, "recomputed": {"recompute": "full"},
    "recomputed-dropout": {"recompute": "full", "attention": "eager", "dropout": 0.1},
    "two-recomputed": {"recompute": "full:2"}, "selective": {"recompute": "selective"},
    "adapters": {"lora": {"r": 3, "targets": ["all"], "dropout": 0.1}},
    "adapters-recomputed": {"lora": {"r": 3, "targets": ["attention"]}, "recompute": "full"},
    "tables-frozen": {"freeze": ["token_embedding"]}, "layers-frozen": {"freeze": ["layers", "encoder.layers"]},
}
OFTEN = ("flash", "eager-dropout", "recomputed-dropout", "adapters")


def amp(**run: Any) -> Workload:
    return Workload(**{"phase": "training", "seq": 7, "dtype": "bf16", "precision": "amp", **run})


def refused(name: str, run: str = "flash") -> str:
    """Why a run is refused, not for its autocast alone among them."""
    spec = Model.from_data(ALL[name])
    more: dict[str, Any] = {} if spec.encoder is None else {"source_seq": positions(spec.encoder.input, 5)}
    try:
        w = amp(**{"seq": positions(spec.input, 7)} | more | run_of(name, RUNS[run]))
        return unproved(trace(spec, fit(spec, w)))
    except SpecError as error:
        return error.message


@pytest.fixture(params=["cpu", "fake-cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "fake-cuda":
        request.getfixturevalue("fake_tensors")
    return str(request.param)


PROVED = [name for name in ALL if not refused(name)]


@pytest.mark.grid(75)
@pytest.mark.parametrize("run", [
    pytest.param(run, marks=() if run in OFTEN else pytest.mark.slow) for run in RUNS
])
@pytest.mark.parametrize("name", PROVED)
def test_a_training_step(name: str, run: str, device: str) -> None:
    if why := refused(name, run):
        assert "autocast" not in why
        return
    for batch in (1, 2):
        real, ours = steps(ALL[name], batch, device, **{"dtype": "bf16", "precision": "amp"} | run_of(name, RUNS[run]))
        assert ours == real


def test_what_is_not_proved_is_refused_by_name() -> None:
    found = {name: refused(name) for name in ALL if refused(name)}
    assert set(found) == {
        "lstm", "gru", "gru-reset-before", "rnn", "cell-beside-attention", "cell-and-attention", "cells-both-ways",
    }
    assert found["lstm"] == "autocast over a cell is not proved yet"


def test_what_is_kept(device: str) -> None:
    """The cast of a weight is kept for the gradient of what it multiplies; nothing is where that has none."""
    for name in ("gpt", "llama", "vit"):
        spec = Model.from_data(ALL[name])
        w = amp(batch=2, kernels="cpu" if device == "cpu" else "cuda",
                **({"seq": 10} if name == "vit" else {}))
        real = measured("kept", spec, w, device)  # type: ignore[arg-type]
        assert activations.activation_bytes(trace(spec, w)) == sum(
            each[-1] if isinstance(each, list) else each.nbytes for each in real)


@pytest.mark.parametrize(("precision", "dtype", "width"), [
    ("amp", "bf16", 4), ("fp32", "fp32", 4), ("bf16", "bf16", 2), ("mixed", "bf16", 2), ("mixed", "fp16", 2),
])
def test_weights_and_gradients_follow_it(precision: Any, dtype: Any, width: int) -> None:
    spec = Model.from_data(ALL["llama"])
    plain, run = (trace(spec, Workload(phase="training", seq=7, dtype=dtype, **more))
                  for more in ({}, {"precision": precision}))
    assert weights.weight_bytes(run) == width * params.params(run)
    assert run.workload.bytes_of(Role.WEIGHT) == width
    assert (flops.forward_flops(run), backward_flops(run)) == (
        flops.forward_flops(plain), backward_flops(plain))


@pytest.mark.parametrize(("run", "says"), [
    ({"precision": "amp", "dtype": "fp32"}, "amp computes in bf16, and --dtype is fp32"),
    ({"precision": "amp", "dtype": "fp16"}, "amp computes in bf16, and --dtype is fp16"),
    ({"precision": "bf16", "dtype": "fp16"}, "bf16 computes in bf16"),
    ({"precision": "fp32", "dtype": "bf16"}, "fp32 computes in fp32"),
    ({"precision": "amp", "weights": "int8"}, "give one of --precision and --weights"),
    ({"precision": "amp", "phase": "prefill"}, "a prefill pass trains nothing"),
    ({"precision": "apm"}, "did you mean amp"),
])
def test_what_contradicts_it_is_refused(run: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Workload.of({"phase": "training", "seq": 7, **run})


def test_fp32_is_computed_in_fp32() -> None:
    assert Workload.of({"phase": "training", "seq": 7, "precision": "fp32"}).dtype == "fp32"
