"""Single operations on a card, tests/data/gpu/h200.json: what autograd keeps of each, and which kernels there are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from txcalc.count.activations import kept
from txcalc.spec.layers import Norm
from txcalc.trace import curves, norms, ops
from txcalc.trace.cores import Core, Heads, Span, attend, choose
from txcalc.trace.losses import cross_entropy
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Tensor
from txcalc.trace.workload import Workload

FACTS = json.loads((Path(__file__).parent / "data" / "gpu" / "h200.json").read_text("utf-8"))
ROWS = [row for row in FACTS["rows"] if row["kind"] == "kept"]
B, N, H, DIM = 2, 320, 6, 64
DTYPES = {"bfloat16": "bf16", "float32": "fp32"}
WEIGHTS = {(H * DIM, H * DIM), (H * DIM,)}
CURVES = {"gelu": "gelu", "gelu tanh": "gelu_tanh", "silu": "silu", "relu": "relu", "sigmoid": "sigmoid",
          "softplus": "softplus"}


def saved(row: dict[str, Any], *, mask: bool = False) -> Counter[int]:
    """The bytes of each storage that was kept, but of weights and, where a ``mask`` was given and kept, of that."""
    given = (B, H, N, N) if mask else None
    return Counter(nbytes for shape, _, nbytes in row["measured"]["saved"] if tuple(shape) not in WEIGHTS | {given})


def counted(t: Trace) -> Counter[int]:
    return Counter(entry.value for entry in kept(t) if entry.value)


def operation(t: Trace, name: str, x: Tensor) -> None:
    match name:
        case "linear":
            ops.linear(t, "linear", x, H * DIM, bias=True)
        case "layer_norm":
            norms.norm(t, "norm", x, Norm(kind="layernorm", bias=True))
        case "rms_norm":
            norms.norm(t, "norm", x, Norm(kind="rmsnorm"))
        case "dropout":
            ops.dropout(t, "dropout", x)
        case "softmax":
            ops.softmax(t, "softmax", x)
        case "cross_entropy fp32":
            cross_entropy(t, "loss", x.view(B * N, H * DIM))
        case _:
            curves.activation(t, "activation", x, CURVES[name])  # type: ignore[arg-type]


NAMES = ["linear", "layer_norm", "rms_norm", "dropout", "softmax", "cross_entropy fp32", *CURVES]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_what_an_operation_keeps(name: str, dtype: str) -> None:
    row = next(row for row in ROWS if row["name"] == name and row["config"] == {"dtype": dtype})
    t = Trace(Workload(batch=B, seq=N, dtype=DTYPES[dtype], dropout=0.1))  # type: ignore[arg-type]
    operation(t, name, t.tensor(B, N, H * DIM))
    assert counted(t) == saved(row)


ATTENTION = [row for row in ROWS if row["name"].startswith("sdpa ")]
ASKED = {"sdpa FLASH_ATTENTION": "sdpa", "sdpa EFFICIENT_ATTENTION": "efficient", "sdpa MATH": "math",
         "sdpa default": "sdpa"}
KERNELS = {"sdpa FLASH_ATTENTION": "flash", "sdpa EFFICIENT_ATTENTION": "efficient", "sdpa MATH": "math"}
FLASH_STATE, CUDNN_STATE = Counter([16, 8]), Counter([8, 8])
"""Random state that each of the two kernels keeps, in bytes; all else is the same."""


def named(row: dict[str, Any]) -> str:
    return "-".join(map(str, (row["name"].removeprefix("sdpa "), *row["config"].values())))


@pytest.mark.parametrize("row", ATTENTION, ids=named)
def test_attention(row: dict[str, Any]) -> None:
    """What each kernel keeps, and where there is none: then ours is another."""
    config, name = row["config"], row["name"]
    cudnn = "CUDNN" in name or (name == "sdpa default" and config["dtype"] == "bfloat16")
    heads = Heads(H, config["kv_heads"], DIM, DIM)
    t = Trace(Workload(batch=B, seq=N, dtype=DTYPES[config["dtype"]], dropout=config["dropout"],  # type: ignore[arg-type]
                       attention="flash" if cudnn else ASKED[name]))  # type: ignore[arg-type]
    masked = H if config["mask"] and not cudnn else 0
    span = Span(N, N, N, N * N, 0, N, masks=config["causal"] or config["mask"])
    core = Core(heads, span, masked=masked, laid="qkv")
    kernel = choose(t, core)
    if "error" in row:
        assert kernel != ("flash" if cudnn else KERNELS[name])
        return
    q, k, v = (t.tensor(B, N, count * DIM) for count in (H, heads.keys, heads.keys))
    attend(t, q, k, v, core, kernel)
    ours = counted(t)
    if cudnn:
        assert kernel == "flash"
        ours = ours - FLASH_STATE + CUDNN_STATE
    else:
        assert kernel == KERNELS.get(name, kernel)
    assert ours == saved(row, mask=config["mask"] and kernel != "math")


def splits(blocks: int, slots: int, keys: int) -> int:
    """Parts that flash splits its keys into: the fewest that fill 85 % of the best share of a card's slots.

    ``num_splits_heuristic`` of flash_api.cpp, where each of ``keys`` blocks can be a part of its own.
    """
    if blocks >= 0.8 * slots:
        return 1
    share = {n: blocks * n / slots / -(-blocks * n // slots) for n in range(1, min(128, slots, keys) + 1)
             if n == 1 or -(-keys // n) != -(-keys // (n - 1))}
    return next(n for n, each in share.items() if each >= 0.85 * max(share.values()))


@pytest.mark.parametrize("row", [row for row in ATTENTION if "FLASH" in row["name"] and "error" not in row], ids=named)
def test_what_flash_allocates_inside(row: dict[str, Any]) -> None:
    """Without dropout the output and statistics of every part in fp32; with it, random state is made once more."""
    parts = splits(B * H * -(-N // 64), 2 * FACTS["info"]["multiprocessors"], -(-N // 256))
    inside = row["measured"]["peak"] - row["measured"]["after"]
    assert parts == 2
    assert inside == (512 if row["config"]["dropout"] else parts * B * H * N * (DIM + 1) * 4)
