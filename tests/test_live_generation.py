"""Live bytes after every operation of a prompt and of steps after it, without gradients, and of the trace."""

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

import txcalc
from tests.live_families import FAMILIES
from tests.measures.generation import generation_live_bytes
from tests.test_live import GPT, LLAMA, MODELS, steps
from txcalc.answer.passes import passes
from txcalc.check import measure
from txcalc.check.measure_modes import LiveMode
from txcalc.check.sibling import sibling
from txcalc.count import lifetimes
from txcalc.count.lifetimes import live_bytes
from txcalc.explain.explain import explain
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Frame, Trace
from txcalc.trace.workload import Workload

ATTENTION = LLAMA["attention"]
GROUPS = {key: value for key, value in LLAMA.items() if key not in ("attention", "feed_forward")} | {
    "layers": 9,
    "groups": [
        {"repeat": 4, "blocks": [
            {"attention": ATTENTION | {"window": 3}, "feed_forward": LLAMA["feed_forward"]},
            {"attention": ATTENTION, "feed_forward": LLAMA["feed_forward"]},
        ]},
        {"blocks": [{"attention": ATTENTION, "feed_forward": LLAMA["feed_forward"]}]},
    ],
}
FURTHER: dict[str, dict[str, Any]] = {
    "seven-layers": GPT | {"layers": 7},
    "windows-and-all": GROUPS,
    "chunks": LLAMA | {"attention": ATTENTION | {"chunk": 4}},
    "window-that-drops-nothing": LLAMA | {"attention": ATTENTION | {"window": 3, "cached": "all"}},
    "alibi": LLAMA | {"position": {"kind": "alibi"}},
    "no-position": LLAMA | {"position": {"kind": "none"}},
    "sinusoidal": GPT | {"position": {"kind": "sinusoidal"}},
    "narrow-values": LLAMA | {"attention": ATTENTION | {"value_dim": 3}},
    "gate": LLAMA | {"attention": ATTENTION | {"output_gate": True}},
    **{name: FAMILIES[name] for name in ("t5", "t5-gated", "bart", "whisper")},
    **{name: given for name, given in FAMILIES.items() if name.startswith("vlm")},
    "vlm-class-one-product": FAMILIES["vlm-class"] | {"tower": FAMILIES["vlm-class"]["tower"] | {"projector": {}}},
    "norm-without-weight": LLAMA | {"norm": {"kind": "rmsnorm", "scale": False}},
}
KEYS_AS_VALUES = LLAMA | {"attention": ATTENTION | {"value_from": "key"}}
DECODERS = {name: given for name, given in {**MODELS, **FURTHER, "keys-as-values": KEYS_AS_VALUES}.items()
            if "recurrent" not in given and name != "latents-of-a-window"}
"""The states of cells, and latents of a window, are cached by code that the record does not have yet."""
STEPS = (7, 1, 3)
"""Tokens of the prompt, of one step and of another, which windows of 3 and chunks of 4 do not hold all."""


def generation(
    given: dict[str, Any], batch: int, tokens: tuple[int, ...] = STEPS, **run: Any
) -> tuple[list[list[int]], list[list[int]]]:
    """What PyTorch has alive in the prompt and in each step, and what the trace has, event by event."""
    spec = Model.from_data(given)
    packed = run["weights"].partition("@")[0] if "weights" in run else None
    source = None if spec.encoder is None else getattr(spec.encoder.input, "length", 11)
    images = None if spec.tower is None else batch
    tokens = tokens if images is None else (17, *tokens[1:])
    run |= {"lengths": (tokens[0] - 1, tokens[0])} if "lengths" in run else {}
    real = generation_live_bytes(
        spec, batch, *tokens, source_seq=source, dtype=measure.DTYPES[run.get("dtype", "fp32")],
        eager=run.get("attention") == "eager", packed=packed, absorbed=run.get("latents") == "absorbed", images=images,
        padded="lengths" in run)
    ours = []
    for i, new in enumerate(tokens):
        workload = Workload(phase="decode" if i else "prefill", batch=batch, seq=new, past=sum(tokens[:i]),
                            source_seq=source, images=images, **{"dtype": "fp32", "kernels": "cpu"} | run)
        ours.append([event.live for event in live_bytes(trace(spec, workload), in_place=False)])
    return [[live for _, live in events] for events in real], ours


@pytest.mark.grid(11)
@pytest.mark.parametrize("run", [
    {}, {"attention": "eager"}, {"dtype": "bf16"}, {"dtype": "bf16", "attention": "eager"},
], ids=["flash", "eager", "flash-bf16", "eager-bf16"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", list(DECODERS))
def test_a_prompt_and_steps_after_it(name: str, batch: int, run: dict[str, Any]) -> None:
    latents = getattr(Model.from_data(DECODERS[name]).attention, "kind", "") == "mla"
    for how in ({"latents": "expanded"}, {"latents": "absorbed"}) if latents else ({},):
        real, ours = generation(DECODERS[name], batch, **run, **how)
        assert ours == real
    assert all(len(events) > 40 for events in real)


@pytest.mark.grid(11)
@pytest.mark.parametrize("run", [{}, {"attention": "eager"}, {"dtype": "bf16"}], ids=["flash", "eager", "flash-bf16"])
@pytest.mark.parametrize("name", list(DECODERS))
def test_sequences_of_unequal_lengths(name: str, run: dict[str, Any]) -> None:
    latents = getattr(Model.from_data(DECODERS[name]).attention, "kind", "") == "mla"
    for how in ({"latents": "expanded"}, {"latents": "absorbed"}) if latents else ({},):
        real, ours = generation(DECODERS[name], 2, **run, **how, lengths=True)
        assert ours == real


def test_matrices_of_4_bits_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bitsandbytes on several rows, as they are where a card has no better kernel."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

    monkeypatch.setattr(torch.ops.bitsandbytes.gemm_4bit, "default", _gemm_4bit_default_impl)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)  # which codes are laid out for
    real, ours = generation(LLAMA, 2, (7, 2, 3), dtype="bf16", weights="nf4-dq@0.43")
    assert ours == real
    assert ours != generation(LLAMA, 2, (7, 2, 3), dtype="bf16")[1]


@pytest.mark.parametrize(("weights", "rows", "copies"), [
    ("nf4", 1536, 0), ("nf4", 1537, 1), ("nf4@0.43", 1, 0), ("nf4@0.43", 2, 1), ("nf4@0.41", 2, 2), ("awq", 1023, 0),
    ("awq", 1024, 1), ("gptq", 4096, 0)])
def test_from_how_many_rows_on_a_matrix_is_made_whole(weights: str, rows: int, copies: int) -> None:
    spec = txcalc.load("llama2-7b")
    run = trace(spec, Workload(phase="prefill", seq=rows, dtype="bf16", weights=weights))
    made = [x.label for op in run.ops if op.part == "down" or op.path.endswith("feed_forward.down") for x in op.writes]
    assert made == [*["unpacked weight", "weight in the dtype"][:copies], "down"]


ENCODERS = ("bert-base", "albert-base", "modernbert-base", "distilbert-base", "esm2-650m", "mpnet-base",
            "nomic-embed-text-v1.5", "vit-b16", "dinov2-base", "beit-base")


@pytest.mark.parametrize("run", [{}, {"attention": "eager"}, {"dtype": "bf16"}], ids=["flash", "eager", "flash-bf16"])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_pass_of_an_encoder_without_gradients(name: str, run: dict[str, Any]) -> None:
    spec = sibling(txcalc.load(name))
    [t] = passes(spec, {"batch": 2, "dtype": "fp32", "kernels": "cpu", "phase": "inference",
                        **({"seq": 9} if spec.input.kind == "tokens" else {}), **run}).traces
    dtype = measure.DTYPES[t.workload.dtype]
    with measure.maker("cpu") as at, torch.no_grad():
        inputs = measure.Inputs(spec, 2, t.workload.seq, None, at, dtype=dtype)
        root = measure.build(spec, length=inputs.length, eager="attention" in run, dtype=dtype, device=at).eval()
        with LiveMode(at) as live:
            out = root(inputs.tokens, inputs.source, images=inputs.images)
        assert [event.live for event in live_bytes(t)] == [bytes_then for _, bytes_then in live.events]
        del out


def test_an_explained_peak_is_the_most_that_is_alive() -> None:
    spec = Model.from_data(LLAMA)
    real = generation_live_bytes(spec, 2, *STEPS)
    for i, (new, events) in enumerate(zip(STEPS, real, strict=True)):
        run = Workload(phase="decode" if i else "prefill", batch=2, seq=new, past=sum(STEPS[:i]), dtype="fp32",
                       kernels="cpu")
        assert explain(spec, run, "peak").total == max(live for _, live in events)


@pytest.mark.parametrize("attention", ["flash", "eager"])
@pytest.mark.parametrize("name", list(FURTHER))
def test_a_training_step(name: str, attention: str) -> None:
    real, ours = steps(FURTHER[name], 2, attention=attention)
    assert ours == real


def _drop(name: str, part: str) -> Any:
    """A record that leaves out what operations of this name read or write."""
    real = Trace.op

    def record(self: Trace, op: str, kind: Any, **details: Any) -> Any:
        made = real(self, op, kind, **(details | {part: ()} if op == name else details))
        return (details.get("writes") or (made,))[0]

    return "op", record


def _kind(of: str) -> Any:
    """A record in which the cache is no more than any tensor."""
    real = Trace.op

    def record(self: Trace, op: str, kind: Any, **details: Any) -> Any:
        return real(self, op, "elementwise" if kind == of else kind, **details)

    return "op", record


@pytest.mark.parametrize("change", [
    _drop("q_rotary", "writes"), _drop("residual", "writes"), _drop("product", "reads"), _drop("residual", "reads"),
    _kind("cache"), _kind("past"), ("hold", lambda self, x, call="": x),
], ids=["writer", "writer-of-residual", "reader", "reader-of-residual", "cache", "past", "locals"])
def test_a_broken_record_is_caught(monkeypatch: pytest.MonkeyPatch, change: tuple[str, Any]) -> None:
    monkeypatch.setattr(Trace, *change)
    monkeypatch.setattr(lifetimes, "check", lambda _: None)
    real, ours = generation(LLAMA, 2)
    assert ours != real


def test_a_call_that_holds_no_argument_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real, ours = generation(LLAMA, 2)
    assert ours == real
    monkeypatch.setattr(Frame, "__new__", lambda cls, holds, *more: tuple.__new__(cls, ((), *more)))
    assert generation(LLAMA, 2)[1] != real
