"""Attention's kernels: which one runs, by PyTorch's own choice, and what each keeps, call by call and in models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.autograd.graph import saved_tensors_hooks  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from txcalc.check.validate import Case, kept  # noqa: E402
from txcalc.count.activations import kept as counted  # noqa: E402
from txcalc.spec.errors import SpecError  # noqa: E402
from txcalc.spec.model import Model  # noqa: E402
from txcalc.trace.cores import Core, Heads, Span, attend  # noqa: E402
from txcalc.trace.record import Trace  # noqa: E402
from txcalc.trace.workload import Workload  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def core(heads: Heads, batch: int, n: int, *, masked: bool = False, **run: Any) -> Trace:
    """One call of attention's core alone, on n positions."""
    t = Trace(Workload(batch=batch, seq=n, **run))
    q, k, v = (t.tensor(batch, n, width) for width in (
        heads.queries * heads.dim, heads.keys * heads.dim, heads.keys * heads.value_dim))
    attend(t, q, k, v, Core(heads, Span(n, n, n, n * n, 0, n), masked=masked))
    return t


def kept_bytes(t: Trace) -> int:
    return sum(each.value for each in counted(t))


@contextmanager
def hooks() -> Iterator[dict[int, int]]:
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        found.setdefault(storage.data_ptr(), storage.nbytes())
        alive.append(storage)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def measured(heads: Heads, batch: int, n: int, dtype: str, dropout: float, backend: Any, causal: bool) -> int:
    def states(count: int, width: int) -> Any:
        return torch.randn(batch, n, count, width, dtype=DTYPES[dtype], requires_grad=True).transpose(1, 2)

    q, k, v = states(heads.queries, heads.dim), states(heads.keys, heads.dim), states(heads.keys, heads.value_dim)
    with hooks() as found, sdpa_kernel(backend):
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal, enable_gqa=heads.grouped)
    return sum(found.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_on_the_cpu_is_the_math_fallback(dtype: Any) -> None:
    t = core(Heads(6, 6, 16, 16), 2, 64, attention="flash", kernels="cpu", dtype=dtype, dropout=0.1)
    assert t.kernels == [("math", "the CPU's flash kernel has no dropout")]
    assert kept_bytes(t) == 737_280


ALL = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [Heads(6, 6, 16, 16), Heads(6, 2, 17, 17), Heads(5, 1, 7, 7), Heads(3, 3, 13, 11),
                                   Heads(6, 3, 13, 11), Heads(1, 1, 19, 19)])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attention", ["flash", "sdpa", "math"])
def test_one_call_on_the_cpu(attention: Any, dtype: Any, dropout: float, heads: Heads, causal: bool) -> None:
    """PyTorch chooses; what it keeps says what it chose."""
    t = core(heads, 2, 23, attention=attention, kernels="cpu", dtype=dtype, dropout=dropout)
    backend = SDPBackend.MATH if attention == "math" else ALL
    assert kept_bytes(t) == measured(heads, 2, 23, dtype, dropout, backend, causal)


BASE: dict[str, Any] = {
    "name": "a model", "vocab": 101, "d_model": 30, "layers": 2, "context": 64, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": {"heads": 6, "kv_heads": 2, "head_dim": 10},
    "feed_forward": {"d_ff": 37, "activation": "silu", "gated": True},
}
MODELS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "all heads": {"attention": {"heads": 3, "head_dim": 10}},
    "window": {"attention": {"heads": 6, "kv_heads": 2, "head_dim": 10, "window": 5}},
    "slopes": {"position": {"kind": "alibi"}},
    "an encoder": {"architecture": "encoder-only", "position": {"kind": "learned", "size": 64}},
    "unequal": {"attention": {"heads": 6, "kv_heads": 2, "head_dim": 10, "value_dim": 7}},
    "sinks": {"attention": {"heads": 6, "kv_heads": 2, "head_dim": 10, "sinks": True}},
    "a learned bias": {"position": {"kind": "relative", "buckets": 7, "max_distance": 19}},
}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attention", ["flash", "sdpa", "math"])
@pytest.mark.parametrize("name", MODELS)
def test_models_on_the_cpu(name: str, attention: Any, dtype: Any, dropout: float) -> None:
    row = kept(Model.from_data({**BASE, **MODELS[name]}), Case(attention, dtype, dropout, loss=True), "cpu", "")
    assert row.verdict == "equal", row.differences


@pytest.mark.parametrize(("heads", "run", "kernel", "why"), [
    (Heads(6, 2, 64, 64), {}, "flash", ""),
    (Heads(6, 6, 64, 64), {"dtype": "fp32"}, "efficient", "CUDA's flash kernel has no fp32"),
    (Heads(6, 2, 64, 64), {"dtype": "fp32"}, "math", "CUDA's flash kernel has no fp32; CUDA's memory-efficient kernel "
                                                     "has no grouped heads"),
    (Heads(6, 6, 512, 512), {}, "efficient", "CUDA's flash kernel has no heads of more than 256"),
    (Heads(6, 6, 192, 128), {}, "efficient", "flash kernels want keys and values of one size"),
    (Heads(6, 6, 20, 20), {"dtype": "fp32"}, "efficient", "CUDA's flash kernel has no fp32"),
    (Heads(6, 6, 20, 12), {}, "math", "flash kernels want keys and values of one size; CUDA's memory-efficient kernel "
                                      "wants heads of multiples of 8"),
    (Heads(6, 6, 18, 18), {"dtype": "fp32"}, "math", "CUDA's flash kernel has no fp32; CUDA's memory-efficient kernel "
                                                     "wants heads of multiples of 4"),
    (Heads(6, 6, 64, 64), {"attention": "efficient"}, "efficient", ""),
    (Heads(6, 2, 64, 64), {"attention": "math"}, "math", ""),
    (Heads(6, 2, 64, 64), {"attention": "eager", "dtype": "fp32"}, "eager", ""),
    (Heads(6, 2, 64, 64), {"dropout": 0.1}, "flash", ""),
])
def test_cuda_s_choice(heads: Heads, run: dict[str, Any], kernel: str, why: str) -> None:
    """``cuda/sdp_utils.cpp``'s conditions, in its order."""
    assert core(heads, 1, 8, **run).kernels == [(kernel, why)]


def test_no_memory_efficient_kernel_on_the_cpu() -> None:
    with pytest.raises(SpecError, match="CUDA's"):
        Workload(seq=3, attention="efficient", kernels="cpu")
