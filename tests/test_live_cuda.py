"""Live bytes of a training step under CUDA's operators, on tensors without data, and of the trace; what is kept."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.live_families import FAMILIES
from tests.test_kernels import BASE
from tests.test_kernels import MODELS as KERNELS
from tests.test_live import GPT, LLAMA, MODELS, steps
from txcalc.check import fake_cuda
from txcalc.check.validate import Case, kept, validate
from txcalc.spec.model import Model

pytestmark = pytest.mark.usefixtures("fake_tensors")

RUNS: dict[str, dict[str, Any]] = {
    "flash": {}, "flash-dropout": {"dropout": 0.1}, "fp32": {"dtype": "fp32"},
    "eager-dropout": {"attention": "eager", "dropout": 0.1}, "sdpa": {"attention": "sdpa"},
    "math-fp32-dropout": {"attention": "math", "dtype": "fp32", "dropout": 0.1},
}
"""In bf16 unless they say otherwise."""


CASES = [(name, run) for name in (*MODELS, *FAMILIES) for run in RUNS]
OFTEN = ("flash", "eager-dropout")


@pytest.mark.grid(47)
@pytest.mark.parametrize(("name", "run"), [
    pytest.param(name, run, marks=() if name in MODELS or run in OFTEN else pytest.mark.slow) for name, run in CASES
])
def test_a_training_step(name: str, run: str) -> None:
    real, ours = steps({**MODELS, **FAMILIES}[name], 2, "fake-cuda", **{"dtype": "bf16"} | RUNS[run])
    assert len(real) > 60
    assert ours == real


@pytest.mark.grid(15)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "flash", "efficient", "math"])
@pytest.mark.parametrize("name", ["gpt", "llama", "mixtral"])
def test_a_batch_of_one(name: str, attention: str, dtype: str) -> None:
    real, ours = steps(MODELS[name], 1, "fake-cuda", dtype=dtype, attention=attention)
    assert ours == real


@pytest.mark.parametrize("kv_heads", [1, 3])
def test_heads_whose_columns_are_padded(kv_heads: int) -> None:
    """To a multiple of 8: also where there is one for all queries, and nothing is rotated."""
    model = GPT | {"attention": {"heads": 3, "kv_heads": kv_heads, "head_dim": 13, "bias": True}}
    real, ours = steps(model, 2, "fake-cuda", dtype="bf16")
    assert ours == real


@pytest.mark.parametrize("n", [8, 16, 24, 33])
def test_masks_of_any_width(n: int) -> None:
    """One of a multiple of 8 columns is no copy, and the statistics have rows of a multiple of 32."""
    for change in ({"position": {"kind": "alibi"}}, {"attention": {"heads": 3, "head_dim": 8, "window": 5}}):
        real, ours = steps(GPT | {"context": 64} | change, 2, "fake-cuda", n, dtype="bf16", attention="sdpa")
        assert ours == real


def test_a_stack_as_wide_as_llama_3_8b() -> None:
    """At full size: 4 layers, 8,192 tokens, in bf16."""
    model = LLAMA | {"vocab": 128_256, "d_model": 4096, "layers": 4, "context": 8192,
                     "attention": {"heads": 32, "kv_heads": 8, "head_dim": 128},
                     "feed_forward": {"d_ff": 14_336, "activation": "silu", "gated": True}}
    real, ours = steps(model, 1, "fake-cuda", 8192, dtype="bf16")
    assert ours == real
    assert max(ours) == 18_249_711_720


@pytest.mark.grid(11)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("attention", ["eager", "flash", "efficient", "math", "sdpa"])
@pytest.mark.parametrize("name", KERNELS)
def test_what_is_kept(name: str, attention: Any, dropout: float) -> None:
    for dtype in ("fp32", "bf16"):
        case = Case(attention, dtype, dropout, loss=True)  # type: ignore[arg-type]
        row = kept(Model.from_data({**BASE, **KERNELS[name]}), case, "fake-cuda", "")
        assert row.verdict == "equal", row.differences


def test_where_it_cannot_be_built_nothing_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a success nor a failure: why is said."""
    for name, value in (("XDG_CACHE_HOME", str(tmp_path)), ("CXX", "/no/such/compiler")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fake_cuda, "start", lambda: fake_cuda._built.__wrapped__())
    found = validate(Model.from_data(GPT | {"name": "never measured"}), device="fake-cuda")
    assert found.agrees is None
    assert found.left_out[0].startswith("not run: the extension cannot be built")
