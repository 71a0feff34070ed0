"""Live bytes after every operation of a real training step of the reference, on the CPU, and of the trace."""

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from tests.live_families import FAMILIES
from txcalc.check import measure
from txcalc.count.memory import live_bytes
from txcalc.spec.facts import positions
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GPT = {
    "name": "gpt", "vocab": 101, "d_model": 24, "layers": 3, "context": 19, "position": {"kind": "learned"},
    "attention": {"heads": 3, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 40, "activation": "gelu_tanh", "bias": True},
}
LLAMA = {
    "name": "llama", "vocab": 101, "d_model": 22, "layers": 2, "context": 19, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": {"heads": 6, "kv_heads": 2, "head_dim": 4},
    "feed_forward": {"d_ff": 41, "activation": "silu", "gated": True}, "head": {"tied": False},
}
MODELS = {
    "gpt": GPT,
    "llama": LLAMA,
    "partly-rotated": LLAMA | {"position": {"kind": "rope", "dim": 2}},
    "multi-query": LLAMA | {"attention": {"heads": 5, "kv_heads": 1, "head_dim": 4}},
    "qk-norm": LLAMA | {"attention": {"heads": 6, "kv_heads": 2, "head_dim": 4, "qk_norm": {}}},
    "qk-norm-full": LLAMA | {"attention": {"heads": 6, "kv_heads": 2, "head_dim": 4, "qk_norm": {"over": "full"}}},
    "sandwich": LLAMA | {"norm": {"kind": "rmsnorm", "placement": "sandwich"}},
    "post-norm": GPT | {"norm": {"placement": "post"}},
    "parallel": GPT | {"residual": "parallel"},
    "relu": GPT | {"feed_forward": {"d_ff": 40, "activation": "relu", "bias": False}},
    "squared-relu": GPT | {"feed_forward": {"d_ff": 40, "activation": "relu2", "bias": False}},
    "quick-gelu": GPT | {"feed_forward": {"d_ff": 40, "activation": "quick_gelu", "bias": False}},
    "capped": LLAMA | {"attention": {"heads": 6, "kv_heads": 2, "head_dim": 4, "softcap": 30.0}},
    "window": LLAMA | {"attention": {"heads": 6, "kv_heads": 2, "head_dim": 4, "window": 3}},
    "shared-layers": GPT | {"share_layers": True},
}


def steps(given: dict[str, Any], batch: int, **run: Any) -> tuple[list[int], list[int]]:
    """What PyTorch has alive, and what the trace has, event by event."""
    spec = Model.model_validate(given)
    dtype, attention, dropout = run.get("dtype", "fp32"), run.get("attention", "flash"), run.get("dropout", 0.0)
    sources = {} if spec.encoder is None else {"source_seq": positions(spec.encoder.input, 5)}
    real = measure.live_bytes(spec, batch, 7, dtype=DTYPES[dtype], eager=attention == "eager", dropout=dropout,
                              loss=run.get("phase") != "forward", **sources)
    workload = Workload(**{"phase": "training", "dtype": "fp32", "kernels": "cpu", "batch": batch,
                           "seq": positions(spec.input, 7)} | sources | run)
    return [live for _, live in real], [event.live for event in live_bytes(trace(spec, workload), in_place=False)]


@pytest.mark.parametrize("run", [
    {}, {"attention": "eager"}, {"dtype": "bf16"}, {"dtype": "bf16", "attention": "eager", "dropout": 0.1},
    {"phase": "forward"},
], ids=["flash", "eager", "flash-bf16", "eager-bf16-dropout", "no-loss"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", [*MODELS, *FAMILIES])
def test_a_training_step(name: str, batch: int, run: dict[str, Any]) -> None:
    real, ours = steps({**MODELS, **FAMILIES}[name], batch, **run)
    assert len(real) > 60
    assert ours == real


@pytest.mark.parametrize("name", list(MODELS))
def test_every_tensor_that_is_read_has_a_writer_or_was_there_before(name: str) -> None:
    run = trace(Model.model_validate(MODELS[name]), Workload(phase="training", seq=7, attention="eager", dropout=0.1))
    written = {x.storage.id for op in run.ops for x in op.writes}
    joined = {x.storage.id for loop, _ in run.loops for x in (loop.entry, loop.after)}
    inputs = {x.label for op in run.ops for x in op.reads if x.storage.id not in written | joined}
    assert inputs == {"token ids", "targets"}
    assert len(written) > 20


def _without_a_save(details: dict[str, Any]) -> dict[str, Any]:
    return details | {"saves": details.get("saves", ())[1:]}


def _without_a_reader(details: dict[str, Any]) -> dict[str, Any]:
    return details | {"reads": ()}


def _without_a_writer(details: dict[str, Any]) -> dict[str, Any]:
    return details | {"writes": details.get("writes", ())[:1]}


def _without_a_gradient(details: dict[str, Any]) -> dict[str, Any]:
    return details | {"backward": details.get("backward", ())[1:]}


@pytest.mark.parametrize(("op", "change"), [
    ("attention_norm", _without_a_save), ("down", _without_a_save), ("down", _without_a_gradient),
    ("attention_norm", _without_a_writer), ("flash", _without_a_gradient), ("residual", _without_a_reader),
    ("residual", _without_a_gradient),
])
def test_a_broken_record_is_caught(monkeypatch: pytest.MonkeyPatch, op: str, change: Any) -> None:
    real = Trace.op

    def record(self: Trace, name: str, kind: Any, **details: Any) -> None:
        real(self, name, kind, **(change(details) if name == op else details))

    measured, _ = steps(MODELS["gpt"], 2)
    monkeypatch.setattr(Trace, "op", record)
    _, ours = steps(MODELS["gpt"], 2)
    assert ours != measured
