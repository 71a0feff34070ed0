"""Live bytes of a prompt, of a chunk and of steps after it in transformers' own classes, without gradients."""

from typing import Any

import pytest

pytest.importorskip("transformers")

from tests.measures.generation import beam_search, class_generation
from tests.test_implementations import CONFIGS, OFTEN, SOURCE, model
from txcalc.answer.engine import memory as needed
from txcalc.check import fake_cuda, measure
from txcalc.check.fake_cuda import NotRun
from txcalc.count.lifetimes import live_bytes
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal, located_blocks, positions
from txcalc.trace.implementations import features
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

STEPS = (7, 7, 1, 1)
"""Tokens of a prompt, of a chunk that follows it, and of two steps."""
RUNS = [{"attention": attention, "dtype": dtype, "cache": cache, "logits": logits, "batch": batch}
        for attention in ("eager", "sdpa") for dtype in ("fp32", "bf16") for cache in ("dynamic", "static:17")
        for logits in ("last", "all") for batch in (1, 2)]
GENERATES = [name for name in CONFIGS if model(name).head.kind != "classifier" or model(name).input.kind != "tokens"]
PADDED = [run | {"lengths": (7, 6)} for run in RUNS if run["batch"] == 2]


def quick(name: str, run: dict[str, Any], device: str) -> bool:
    """Whether a run is among the quick tests: two of each model and device, of sequences of unequal lengths of few."""
    sdpa, dynamic = run["attention"] == "sdpa", run["cache"] == "dynamic"
    if "lengths" in run and name not in OFTEN:
        return False
    return sdpa == (run["dtype"] == "bf16") == (run["batch"] == 2) and (
        run["logits"] == "all") == dynamic == (sdpa == (device == "fake-cuda"))


def generation(name: str, device: str, run: dict[str, Any]) -> tuple[list[list[int]], list[list[int]]]:
    """What PyTorch has alive in each pass, and what the trace has, event by event."""
    spec, how = model(name), run
    source = spec.encoder and positions(spec.encoder.input, SOURCE)
    steps = STEPS[1:] if is_causal(spec) else ()
    if not steps:
        how = {key: value for key, value in run.items() if key not in ("cache", "logits")}
    given = {key: value for key, value in how.items() if key not in ("batch", "lengths")}
    given |= {"padded": "lengths" in how, "source_seq": SOURCE if source == SOURCE else None}
    if device == "fake-cuda":
        real = fake_cuda.ask("tests.measures.generation.class_generation", CONFIGS[name], run["batch"], 7, steps=steps,
                             **given)
    else:
        real = class_generation(CONFIGS[name], run["batch"], 7, steps=steps, **given | {
            "dtype": measure.DTYPES[run["dtype"]]})
    ours = []
    for i, new in enumerate(STEPS[:len(real)]):
        w = Workload(phase="decode" if i else "prefill", seq=positions(spec.input, new), past=sum(STEPS[:i]),
                     implementation="transformers", kernels="cpu" if device == "cpu" else "cuda", source_seq=source,
                     **how)
        ours.append([event.live for event in live_bytes(trace(spec, w), in_place=False)])
    found = [[live for _, live in events] for events in real]
    if run["cache"] == "dynamic" and any("window" in each for each in features(spec)):
        # A window holds all that the pass before it has made, which is taken to have been as long.
        del found[2:3], ours[2:3]
    return found, ours


@pytest.mark.grid(3)
@pytest.mark.parametrize(("name", "run", "device"), [
    pytest.param(name, run, device, id=f"{name}-{device}-" + "-".join(map(str, run.values())),
                 marks=() if quick(name, run, device) else pytest.mark.slow)
    for name in GENERATES for run in (*RUNS, *PADDED) for device in ("cpu", "fake-cuda")
    if (model(name).encoder is None or ("lengths" not in run and run["logits"] == "all"))
    and (name != "t5-gated" or run["cache"] == "dynamic")  # ``StaticCache`` has as many layers as its encoder
    and (name != "gemma2" or run["attention"] == "eager") and (is_causal(model(name)) or (
        run["cache"] == "dynamic" and "lengths" not in run))
])
def test_a_prompt_and_steps_after_it(name: str, run: dict[str, Any], device: str) -> None:
    try:
        real, ours = generation(name, device, run)
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    assert all(len(events) > 25 for events in real)
    assert ours == real


def is_searched(name: str) -> bool:
    """Whether beams are searched in this model by code that is followed."""
    spec = model(name)
    windows = {getattr(block.attention, "window", None) for _, block in located_blocks(spec)}
    return is_causal(spec) and windows == {None}


@pytest.mark.grid(11)
@pytest.mark.parametrize(("name", "attention", "dtype", "device", "padded"), [
    pytest.param(name, attention, dtype, device, padded, id=f"{name}-{attention}-{dtype}-{device}-{padded}",
                 marks=() if name in (*OFTEN, "t5") else pytest.mark.slow)
    for name in filter(is_searched, GENERATES) for attention in ("eager", "sdpa") for dtype in ("fp32", "bf16")
    for device in ("cpu", "fake-cuda") for padded in (False, True) if not (padded and model(name).encoder)])
def test_beam_search(name: str, attention: str, dtype: str, device: str, padded: bool) -> None:
    """The prompt and all steps of ``generate``, whose last token no pass reads."""
    spec, batch, beams, seq, new = model(name), 2, 3, 5, 4
    source = spec.encoder and positions(spec.encoder.input, SOURCE)
    how: dict[str, Any] = {"attention": attention, "beams": beams, "new": new, "padded": padded,
                           "source_seq": SOURCE if source == SOURCE else None}
    if device == "cpu":
        real = beam_search(CONFIGS[name], batch, seq, dtype=measure.DTYPES[dtype], **how)
    else:
        try:
            real = fake_cuda.ask("tests.measures.generation.beam_search", CONFIGS[name], batch, seq, dtype=dtype, **how)
        except NotRun as reason:
            pytest.skip(f"not run: {reason}")
    own = {"source_seq": source} | ({"lengths": (4, 5)} if padded else {})
    w = Workload(phase="prefill", batch=batch, seq=seq, beams=f"{beams}:{seq}+{new}", implementation="transformers",
                 **own, attention=attention, dtype=dtype, kernels="cpu" if device == "cpu" else "cuda")
    passes = [w, *(w.replaced(phase="decode", seq=1, past=seq + i) for i in range(new - 1))]
    ours = [[event.live for event in live_bytes(trace(spec, each), in_place=False)] for each in passes]
    assert ours == [[live for _, live in events] for events in real]
    run = {"batch": batch, "beams": beams, "seq": seq, "new": new, "implementation": "transformers",
           "attention": attention, "dtype": dtype, "kernels": w.kernels, **own}
    asked = needed(spec, run | {"beams": f"{beams}:9+9"}).document  # of a saved answer
    read = 8 * batch * SOURCE if source == SOURCE else 0  # tokens of a source, which the prompt's pass alone reads
    there = sum(each.bytes for each in asked.resident if each.what != "cache")
    assert [each.peak_bytes - there for each in asked.phases] == [max(ours[0]) + read, max(ours[-1])]


@pytest.mark.parametrize(("run", "why"), [
    ({"beams": 3, "implementation": "torch"}, "beams: is of transformers' classes"),
    ({"beams": 1}, "beams: must be a whole number of at least 2"), ({"beams": "3:0+1"}, "beams: must be"),
    ({"beams": 3, "logits": "all"}, "logits: beams are searched by the last"),
    ({"beams": "3:6+2"}, "beams: 7 tokens are no pass of a search that starts with 6 and adds 2"),
    ({"beams": 3, "phase": "decode", "past": 7, "seq": 1}, "beams: 8 tokens are no pass of a search"),
    ({"cache": "static", "implementation": "torch"}, "cache: is of transformers' classes"),
    ({"lengths": (7, 6), "batch": 2, "implementation": "megatron"}, "lengths: is of transformers' classes"),
    ({"lengths": (7, 6)}, "batch: the lengths say 2"),
    ({"lengths": (7, 6), "phase": "decode", "past": 7}, "batch: the lengths say 2"),
    ({"lengths": (7, 6), "phase": "decode", "past": 5, "batch": 2}, "past: the lengths say 7"),
    ({"lengths": "128,256"}, "one number or a list"),
    ({"lengths": (7, 0)}, "must be tokens of each"), ({"cache": "paged"}, "cache: must be"),
    ({"logits": "last", "phase": "training"}, "a training pass generates"),
])
def test_what_a_pass_does_not_have_is_refused(run: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        Workload(**{"phase": "prefill", "seq": 7, "implementation": "transformers"} | run)


def test_as_an_engine() -> None:
    """A prompt of 6,144 tokens in bf16, as fake tensors of the class have it, and steps that hold less."""
    spec, run = load("qwen3-8b").model, {"engine": "transformers@5.23", "seq": 6144, "new": 2048}
    grows, stays = (needed(spec, run | more).document for more in ({}, {"cache": "static"}))
    assert (grows.workload.cache, stays.workload.cache) == (None, "static:8192")
    assert grows.workload == Workload.prefill(seq=6144, implementation="transformers", logits="last")
    assert round(grows.peak.bytes / 2**20) == 17114
    room = 2 * 36 * 8 * 128 * 2 * 2048
    assert stays.phases[0].peak_bytes - grows.phases[0].peak_bytes == room + 36 * 8  # and how much each layer holds


@pytest.mark.parametrize(("run", "why"), [
    ({"engine": "transformers@4.51"}, "followed in version 5.23, not in 4.51"),
    ({"engine": "transformers", "phase": "training"}, "give --implementation transformers"),
    ({"engine": "hf"}, "must be one of transformers, vllm"),
])
def test_an_engine_that_there_is_not(run: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        needed(load("qwen3-8b").model, run)


def test_a_class_with_one_head_is_followed_with_its_loss_alone() -> None:
    with pytest.raises(SpecError, match="classes with one head, without a loss"):
        generation("gpt2-SequenceClassification", "cpu", RUNS[0])
