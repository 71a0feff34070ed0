"""Live bytes after every operation of a real training step of the reference, on the CPU, and of the trace."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.live_families import FAMILIES
from tests.test_record import operations
from txcalc.check.live import measured
from txcalc.count import lifetimes
from txcalc.count.lifetimes import live_bytes
from txcalc.spec.facts import positions
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Node, Op, Repeat, Trace
from txcalc.trace.workload import Workload

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
MLA = {"kind": "mla", "heads": 3, "kv_rank": 10, "nope_dim": 5, "rope_dim": 4, "value_dim": 9}
MOE = {"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 13}
SHARED = MOE | {"shared_experts": 3, "shared_d_ff": 7}
LSTM = {
    "name": "lstm", "vocab": 101, "d_model": 22, "layers": 2, "context": 19, "norm": {"placement": "none"},
    "final_norm": False, "residual": "none", "position": {"kind": "none"}, "recurrent": {"kind": "lstm", "hidden": 22},
    "feed_forward": None, "attention": None, "head": {"tied": False},
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
    "latents": LLAMA | {"attention": MLA},
    "latents-unequal": LLAMA | {"attention": MLA | {"value_dim": 6, "q_rank": 14}},
    "latents-of-queries": LLAMA | {"attention": MLA | {"q_rank": 14}},
    "latents-of-a-window": LLAMA | {"attention": MLA | {"window": 3, "rope_norm": True, "output_gate": True}},
    "latents-with-sinks": LLAMA | {"attention": MLA | {"sinks": True, "output_gate": True, "gate_over": "head"}},
    "lstm": LSTM,
    "gru": LSTM | {"recurrent": {"kind": "gru", "hidden": 22}},
    "gru-reset-before": LSTM | {"recurrent": {"kind": "gru", "hidden": 22, "reset": "before"}},
    "rnn": LSTM | {"recurrent": {"kind": "rnn", "hidden": 22}, "layers": 3},
    "mixtral": LLAMA | {"feed_forward": MOE | {"routing": "topk-softmax"}},
    "more-experts-than-rows": LLAMA | {"feed_forward": MOE | {"experts": 37, "active_experts": 2}},
    "equal-shares": LLAMA | {"feed_forward": MOE | {"experts": 7, "active_experts": 3, "normalize": False}},
    "all-experts": GPT | {"feed_forward": MOE | {"active_experts": 5, "gated": False, "activation": "gelu",
                                                 "bias": True, "router_bias": True}},
    "qwen-moe": LLAMA | {"feed_forward": SHARED | {"shared_gate": True, "normalize": False}},
    "deepseek-moe": LLAMA | {"layers": 3, "groups": [
        {"repeat": 1, "blocks": [{"feed_forward": {"d_ff": 41, "activation": "silu", "gated": True}}]},
        {"repeat": 2, "blocks": [{"feed_forward": SHARED | {"routing": "sigmoid-topk"}}]},
    ]},
    "deepseek-v2": LLAMA | {"attention": MLA, "feed_forward": SHARED | {"normalize": False}},
    "experts-apart": LLAMA | {"feed_forward": SHARED | {"separate_norms": True}},
    "experts-of-a-latent": LLAMA | {"feed_forward": SHARED | {"latent": 9, "output_norm": {"kind": "rmsnorm"}}},
    "experts-with-a-bias": LLAMA | {"feed_forward": SHARED | {"output_bias": True}},
    "tokens-without-logits": LLAMA | {"extra_tokens": 3},
    "shared-layers": GPT | {"share_layers": True},
}


def steps(given: dict[str, Any], batch: int, device: Any = "cpu", seq: int = 7, **run: Any) -> tuple[Any, Any]:
    """What PyTorch has alive, and what the trace has, event by event."""
    spec = Model.from_data(given)
    sources = {} if spec.encoder is None else {"source_seq": positions(spec.encoder.input, 5)}
    if spec.tower is not None and spec.tower.projector is not None:
        sources = {"images": batch}
    w = Workload(**{"phase": "training", "dtype": "fp32", "kernels": "cpu" if device == "cpu" else "cuda",
                    "batch": batch, "seq": positions(spec.input, seq)} | sources | run)
    real = measured("live_bytes", spec, w, device)
    return [live for _, live in real], [event.live for event in live_bytes(trace(spec, w), in_place=False)]


@pytest.mark.grid(15)
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


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["gpt", "multi-query", "qk-norm-full", "window", "latents-unequal", "deepseek-v2"])
def test_the_math_kernel_which_dropout_asks_for(name: str, batch: int, dtype: str) -> None:
    real, ours = steps(MODELS[name], batch, dtype=dtype, dropout=0.1)
    assert ours == real


@pytest.mark.parametrize("name", list(MODELS))
def test_every_tensor_that_is_read_has_a_writer_or_was_there_before(name: str) -> None:
    run = trace(Model.from_data(MODELS[name]), Workload(phase="training", seq=7, attention="eager", dropout=0.1))
    joined: set[int] = set()
    ops = list(operations(run.body, joined))
    written = Counter(x.storage.id for op in ops for x in {x.storage.id: x for x in op.writes}.values()
                      if x.storage.id not in {read.storage.id for read in op.reads})
    inputs = {x.label for op in ops for x in (*op.reads, *op.saves) if x.storage.id not in {*written, *joined}}
    assert inputs == {"token ids", "targets"}
    assert len(written) > 15
    assert set(written.values()) == {1}


@pytest.mark.parametrize(("tokens", "shares"), [
    (1, [(2, 1)]), (2, [(4, 1)]), (5, [(5, 2)]), (7, [(4, 3), (1, 2)]), (13, [(1, 6), (4, 5)]),
])
def test_experts_run_as_often_as_they_have_rows(tokens: int, shares: list[tuple[int, int]]) -> None:
    run = trace(Model.from_data(MODELS["mixtral"] | {"layers": 1}), Workload(seq=tokens))
    experts = next(node for node in _nodes(run.body) if isinstance(node, Repeat) and node.runs)
    assert experts.copies == 5
    found = [(each.times, item.shape[0]) for each in experts.runs for _, item in each.spreads if each.times]
    assert found == shares


def _nodes(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if not isinstance(node, Op):
            yield from _nodes(node.body)


def _without_a_save(details: dict[str, Any]) -> dict[str, Any]:
    return details | {"saves": details.get("saves", ())[1:]}


def _without_a_reader(details: dict[str, Any]) -> dict[str, Any]:
    return details | {"reads": ()}


def _without_a_writer(details: dict[str, Any]) -> dict[str, Any]:
    return details | {"writes": details.get("writes", ())[:1]}


def _without_a_gradient(details: dict[str, Any]) -> dict[str, Any]:
    return details | {"backward": details.get("backward", ())[1:]}


@pytest.mark.parametrize(("model", "op", "change"), [
    ("gpt", "attention_norm", _without_a_save), ("gpt", "down", _without_a_save), ("gpt", "down", _without_a_gradient),
    ("gpt", "attention_norm", _without_a_writer), ("gpt", "flash", _without_a_gradient),
    ("gpt", "residual", _without_a_reader), ("gpt", "residual", _without_a_gradient),
    ("mixtral", "permute", _without_a_gradient), ("mixtral", "split", _without_a_gradient),
    ("mixtral", "outputs", _without_a_gradient), ("mixtral", "outputs", _without_a_reader),
    ("mixtral", "topk", _without_a_writer), ("mixtral", "unpermute", _without_a_save),
    ("qwen-moe", "shared_product", _without_a_gradient), ("deepseek-moe", "normalize", _without_a_gradient),
])
def test_a_broken_record_is_caught(monkeypatch: pytest.MonkeyPatch, model: str, op: str, change: Any) -> None:
    real = Trace.op

    def record(self: Trace, name: str, kind: Any, **details: Any) -> Any:
        return real(self, name, kind, **(change(details) if name == op else details))

    measured, _ = steps(MODELS[model], 2)
    monkeypatch.setattr(Trace, "op", record)
    monkeypatch.setattr(lifetimes, "check", lambda _: None)
    _, ours = steps(MODELS[model], 2)
    assert ours != measured
