"""The memory of a run: what its parts come to, whether it fits, and what would help."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from showing import render
from typer.testing import CliRunner, Result

import txcalc
from txcalc.answer.memory import Memory
from txcalc.cli.app import app
from txcalc.show.blocks import Charts, Spark
from txcalc.show.drawing import drawing
from txcalc.show.terminal import Screen, spark
from txcalc.show.writers import blocks
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.spec.yaml import read_yaml

GPT = {
    "name": "gpt", "vocab": 101, "d_model": 24, "layers": 7, "context": 19, "position": {"kind": "learned"},
    "attention": {"heads": 3, "head_dim": 8, "bias": True},
    "feed_forward": {"d_ff": 40, "activation": "gelu_tanh", "bias": True},
}
LLAMA = {
    "name": "llama", "vocab": 101, "d_model": 22, "layers": 7, "context": 64, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": {"heads": 6, "kv_heads": 2, "head_dim": 4},
    "feed_forward": {"d_ff": 41, "activation": "silu", "gated": True}, "head": {"tied": False},
}
WIDE = LLAMA | {"name": "wide", "vocab": 5003}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "training": (GPT, {"phase": "training", "batch": 3, "seq": 11}),
    "eager": (LLAMA, {"phase": "training", "batch": 2, "seq": 13, "attention": "eager", "dropout": 0.1}),
    "wide": (WIDE, {"phase": "training", "batch": 5, "seq": 17}),
    "inference": (LLAMA, {"seq": 23, "new": 5, "batch": 2}),
    "stored": (LLAMA | {"d_model": 24}, {"seq": 23, "batch": 3, "dtype": "fp32", "weights": "int8"}),
    "decode": (LLAMA, {"phase": "decode", "past": 29, "batch": 3}),
}
every_run = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


@cache
def found(name: str, device: str | None = None) -> Memory:
    spec, run = RUNS[name]
    return txcalc.memory(Model.from_data(spec), device=device, **run)


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["memory", *map(str, args)])


def good(*args: object, code: int = 0) -> str:
    result = run(*args)
    assert (result.exit_code, result.stderr) == (code, ""), result.output
    return result.stdout


# ---------------------------------------------------------------- what adds up


@every_run
def test_the_peak_is_the_highest_phase_and_all_that_is_alive_then(name: str) -> None:
    memory = found(name)
    highest = max(memory.phases, key=lambda phase: phase.peak_bytes)
    assert (memory.peak.bytes, memory.peak.phase, memory.peak.at) == (highest.peak_bytes, highest.phase, highest.at)
    assert sum(row.bytes for row in memory.at_peak) == memory.peak.bytes
    assert all(row.bytes > 0 and row.times > 0 for row in memory.at_peak)
    assert [row.bytes for row in memory.at_peak] == sorted((row.bytes for row in memory.at_peak), reverse=True)


@every_run
def test_a_storage_has_the_bytes_of_its_shape(name: str) -> None:
    widths = {"bool": 1, "bf16": 2, "fp32": 4, "int64": 8}
    shaped = [row for row in found(name).at_peak if row.shape is not None]
    assert {row.why for row in shaped} >= ({"in use"} if name == "stored" else {"weights", "in use"})
    for row in shaped:
        assert row.dtype is not None
        assert row.bytes == row.times * math.prod(row.shape or ()) * widths[row.dtype], row


@every_run
def test_what_is_resident_is_alive_at_the_peak_too(name: str) -> None:
    memory = found(name)
    for part in memory.resident:
        assert sum(row.bytes for row in memory.at_peak if row.why == part.what) >= part.bytes > 0
    count = txcalc.count(Model.from_data(RUNS[name][0]), **memory.workload.replaced(seq=memory.workload.seq).to_data())
    assert memory.resident[0].bytes == count.totals.weight_bytes.value  # type: ignore[union-attr]


@every_run
def test_the_timeline_has_every_peak(name: str) -> None:
    memory = found(name)
    for phase in memory.phases:
        assert max(sum(p.bytes.values()) for p in memory.timeline if p.phase == phase.phase) == phase.peak_bytes
    assert len(memory.timeline) < 400


def test_one_more_sequence_always_keeps_as_much() -> None:
    kept = [txcalc.memory(Model.from_data(GPT), phase="training", batch=b, seq=11).kept_bytes or 0 for b in (1, 2, 3)]
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0
    run: dict[str, Any] = {"phase": "training", "batch": 2, "seq": 11, "precision": "amp"}
    counted = txcalc.count(Model.from_data(GPT), **run).totals.activation_bytes
    assert counted is not None
    assert kept[1] == counted.value - 2 * 2 * 11 * 8 + 4  # ids and targets were there, the loss is new


def test_an_encoder_has_one_pass_without_gradients() -> None:
    memory = txcalc.memory("bert-base", seq=64)
    assert [phase.phase for phase in memory.phases] == ["forward"] and memory.new is None
    training = txcalc.memory("bert-base", seq=64, phase="training")
    assert memory.peak.bytes < training.peak.bytes
    assert "inference" in render(memory) and "prefill" not in render(memory)


def test_what_follows_a_prompt_is_decoded_after_all_of_it() -> None:
    spec = Model.from_data(LLAMA)
    both, last = found("inference"), txcalc.memory(spec, phase="decode", past=23 + 5 - 1, batch=2)
    assert [phase.phase for phase in both.phases] == ["prefill", "decode"]
    assert both.phases[1:] == last.phases
    assert txcalc.memory(spec, seq=64).new == 0 and txcalc.memory(spec).new == 1  # 64 positions are all there are
    assert txcalc.memory(spec).workload.seq == 63


# ---------------------------------------------------------------- documents


@pytest.mark.grid(2)
@every_run
@pytest.mark.parametrize("device", [None, "t4"])
def test_a_document_loads_back_equal(name: str, device: str | None) -> None:
    memory = found(name, device)
    assert Memory.from_data(json.loads(json.dumps(memory.to_data()))) == memory
    assert Memory.from_data(read_yaml(render(memory, "yaml"), name).data) == memory


def test_the_command_is_the_function(tmp_path: Path) -> None:
    args = ("gpt2", "--phase", "training", "--batch", "8", "--device", "t4")
    data = json.loads(good(*args, "--json"))
    direct = txcalc.memory("gpt2", phase="training", batch=8, device="t4")
    assert {**data, "provenance": None} == {**json.loads(json.dumps(direct.to_data())), "provenance": None}
    assert data["schema"] == "txcalc/memory/v1"
    keys = {"model", "workload", "peak", "phases", "kept_bytes", "resident", "at_peak", "workspace_bytes", "outside",
            "device", "fits", "free_bytes", "engine", "ranks", "collectives"}
    assert keys <= set(data) and data["peak"].keys() == {"bytes", "phase", "at", "kind"}
    assert data["at_peak"][0].keys() == {"path", "what", "shape", "dtype", "times", "bytes", "why"}


@pytest.mark.parametrize("args", [
    ("gpt2", "--phase", "training", "--seq", "64", "--device", "t4"), ("llama3-8b", "--seq", "64", "--new", "9"),
    ("llama3-8b", "--phase", "decode", "--device", "24GiB"),
])
def test_a_saved_answer_is_a_model_and_is_counted_again(args: tuple[str, ...], tmp_path: Path) -> None:
    saved = tmp_path / "memory.yaml"
    good(*args, "-o", saved)
    counted = CliRunner().invoke(app, ["count", str(saved), "--json"])
    assert json.loads(counted.stdout)["totals"]["params"]["value"] in (124439808, 8030261248)
    again = run(saved, "--json")
    assert again.stderr == f"note: unchanged since {saved} (txcalc {txcalc.__version__})\n"
    written, now = read_yaml(saved.read_text("utf-8"), "saved").data, json.loads(again.stdout)
    written["model"]["source"] = now["model"]["source"]
    assert {**now, "provenance": None} == {**written, "provenance": None}
    saved.write_text(saved.read_text("utf-8").replace(f"bytes: {now['peak']['bytes']}", "bytes: 77"))
    assert f"the peak was 77, is {now['peak']['bytes']:,}" in run(saved, "--quiet").stderr or run(saved).stderr
    assert run(saved, "--batch", 2).stderr.startswith(f"note: since {saved} ")
    assert not run(saved, "--device", "b200").stderr  # which has workspaces: nothing to compare with


def test_of_a_saved_count_a_run_reads_as_much(tmp_path: Path) -> None:
    """Its batch and its length stand where none are given; another phase's, or an engine's, are their own."""
    saved = tmp_path / "report.yaml"
    assert CliRunner().invoke(app, ["count", "gpt2", "--batch", "7", "--seq", "77", "-o", str(saved)]).exit_code == 0
    training, engine = ("--phase", "training", "--json"), ("--engine", "vllm", "--device", "t4", "--json")
    own, given, served = (json.loads(run(saved, *each).stdout)["workload"] for each in (
        training, (*training, "--seq", 7), engine))
    assert (own["batch"], own["seq"], given["batch"], given["seq"]) == (7, 77, 7, 7)
    assert served["batch"] == 1


@pytest.mark.parametrize("kernel", ["foreach", "loop"])
def test_absurdly_many_layers_are_exact(kernel: str) -> None:
    few, more, many = (txcalc.memory(f"gpt2@layers={n}", phase="training", seq=64, optimizer_kernel=kernel)
                       for n in (50, 51, 10**30))
    assert many.peak.bytes - few.peak.bytes == (10**30 - 50) * (more.peak.bytes - few.peak.bytes)
    assert len(many.timeline) < 400


# ---------------------------------------------------------------- devices


def test_what_does_not_fit_says_by_how_much_and_exits_with_1() -> None:
    data = json.loads(good("gpt2", "--phase", "training", "--batch", "64", "--device", "t4", "--json", code=1))
    assert data["fits"] is False and data["free_bytes"] < 0
    used = data["peak"]["bytes"] + data["reserve"]["bytes"]
    assert data["device"]["visible_bytes"] - used == data["free_bytes"]
    assert sum(row["bytes"] for row in data["at_peak"]) == data["peak"]["bytes"]
    live = max(phase["peak_bytes"] for phase in data["phases"])
    assert 0 <= data["peak"]["bytes"] - live - data["workspace_bytes"] < 512 * sum(
        row["times"] for row in data["at_peak"])
    assert data["workspace_bytes"] == 2 * data["device"]["workspace_bytes"] > 0
    shown = good("gpt2", "--phase", "training", "--batch", "64", "--device", "t4", code=1)
    assert "does not fit" in shown
    assert any(lever["fits"] for lever in data["levers"])


def test_a_reserve_is_set_aside() -> None:
    none, half = (json.loads(good("gpt2", "--device", "t4", "--reserve", size, "--json")) for size in ("0", "50%"))
    assert none["free_bytes"] - half["free_bytes"] == half["reserve"]["bytes"] == half["device"]["memory_bytes"] // 2


# ---------------------------------------------------------------- levers


def options(text: str) -> dict[object, object]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("args", [
    ("gpt2", "--phase", "training", "--batch", 6, "--attention", "eager"), ("llama3-8b", "--seq", 512, "--batch", 2),
    ("llama3-8b", "--phase", "decode", "--past", 512),
])
def test_every_lever_is_what_its_option_comes_to(args: tuple[object, ...]) -> None:
    now = json.loads(good(*args, "--json"))
    assert len(now["levers"]) >= 2
    for lever in now["levers"]:
        changed = {**dict(zip(args[1::2], args[2::2], strict=True)), **options(lever["option"])}
        then = json.loads(good(args[0], *(part for pair in changed.items() for part in pair), "--json"))
        assert then["peak"]["bytes"] == lever["peak_bytes"] == now["peak"]["bytes"] - lever["saved_bytes"]
        assert then["flops_per_token"] == lever["flops_per_token"]


def test_a_lever_of_other_weights_leaves_out_the_precision_that_is_asked_for() -> None:
    args = ("gpt2", "--phase", "training", "--precision", "bf16")
    *_, lever = (each for each in json.loads(good(*args, "--json"))["levers"] if "nf4" in each["option"])
    assert lever["option"].endswith("--weights nf4 --precision none")
    then = json.loads(good(*args, *lever["option"].split(), "--json"))
    assert then["peak"]["bytes"] == lever["peak_bytes"] and "precision" not in then["workload"]
    assert "--precision" not in "".join(each.option for each in txcalc.memory("gpt2", phase="training").levers
                                        if "nf4" in each.option)


def test_levers_of_a_pipeline_cost_what_they_do_in_all_of_its_stages() -> None:
    """Of gpt2 the first stage holds most, and of its adapters alone the last one, which has the head."""
    run = {"phase": "training", "seq": 64, "precision": "bf16"}
    whole, piped = (txcalc.memory("gpt2@layers=2", **run, **more) for more in ({}, {"pp": 2}))
    costs = [{each.option: each.flops_per_token for each in found.levers} for found in (whole, piped)]
    assert whole.flops_per_token == piped.flops_per_token
    assert costs[0]["--lora r=16,targets=all"] == costs[1]["--lora r=16,targets=all"] < whole.flops_per_token


@pytest.mark.grid(4)
@pytest.mark.parametrize("args", [
    ("llama3-8b", "--phase", "training", "--device", "24GB"),
    ("llama3-8b", "--phase", "training", "--seq", 4096, "--batch", 2, "--device", "rtx-4090-24gb"),
    ("gpt2", "--phase", "training", "--batch", 64, "--device", "2GB"),
    ("llama3-70b", "--seq", 20480, "--device", "48GB"),
])
def test_where_no_lever_is_enough_the_last_is_several_that_are_and_none_too_many(args: tuple[object, ...]) -> None:
    *alone, together = (json.loads(run(*args, "--json").stdout)["levers"])
    assert together["note"] == "together" and together["fits"] and not any(lever["fits"] for lever in alone)
    asked = dict(zip(args[1::2], args[2::2], strict=True))
    parts = options(together["option"])
    assert len(parts) > 1
    for left_out in (None, *parts.keys() - {"--accumulate"}):
        with_it = {left_out, "--accumulate"} if left_out == "--batch" else {left_out}
        changed = asked | {name: value for name, value in parts.items() if name not in with_it}
        then = run(args[0], *(part for pair in changed.items() for part in pair), "--json")
        assert (then.exit_code == 0) is (left_out is None), (left_out, then.stderr)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("args", "message"), [
    (("gpt2", "--phase", "forward"), "--phase: must be one of inference, training, decode, got 'forward'"),
    (("gpt2", "--phase", "trainig"), "--phase: must be one of inference, training, decode, got 'trainig'; "
     "did you mean training?"),
    (("gpt2", "--phase", "training", "--seq", "0"), "--seq: must be a whole number of at least 1, got 0"),
    (("gpt2", "--phase", "inference", "--recompute", "full"),
     "--recompute: only a training step has it; give --phase training"),
    (("gpt2", "--recompute", "ful"), None),
    (("gpt2", "--device", "rtx-4900"), "--device: no accelerator 'rtx-4900' in the table; did you mean rtx-4090?"),
    (("gpt2", "--phase", "training", "--new", "3"),
     "--new: only inference generates; give --phase inference, or --past to decode"),
    (("gpt2", "--reserve", "1GiB"), "--reserve: needs a --device that it is a part of"),
    (("gpt2", "--seq", "1024", "--new", "1"), "--seq: 1,025 tokens, but gpt2 has 1,024 learned positions"),
    (("bert-base", "--new", "2"), "--new: bert-base is an encoder and does not generate"),
    (("deepseek-v3.2", "--seq", "16"), None),
    (("bert-base", "--kv-dtype", "fp8"), "--kv-dtype: bert-base is an encoder and caches no keys"),
    (("gpt2", "--engine", "llama.cpp", "--weights", "awq"), "--weights: llama.cpp reads GGUF files, which have no awq: "
     "q8_0, q4_k_m or their like would do"),
    (("gpt2", "--kv-dtype", "fp8"), "--kv-dtype: plain PyTorch caches in what it computes in; engines "
     "have other formats: give --engine"),
    (("jamba-v0.1", "--phase", "training"), None),
])
def test_bad_calls_get_one_line(args: tuple[str, ...], message: str | None) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert re.fullmatch(r"error: .+\n", result.stderr)
    assert message is None or result.stderr == f"error: {message}\n"


def test_a_batch_of_a_whole_step_is_accumulated() -> None:
    whole, parts = (json.loads(good("gpt2", "--seq", 16, "--batch", 4, *given, "--json"))
                    for given in (("--global-batch", 12), ("--accumulate", 3)))
    assert whole["workload"]["accumulate"] == 3 and {**whole, "provenance": 0} == {**parts, "provenance": 0}
    refused = run("gpt2", "--batch", 5, "--global-batch", 12)
    assert (refused.exit_code, refused.stderr) == (
        2, "error: --global-batch: 12 sequences are no whole micro-batches of 5\n")


@pytest.mark.parametrize(("model", "given", "precision", "width"), [
    ("gpt2", {"phase": "training"}, "amp", 4), ("gpt2", {"optimizer": "lion"}, "amp", 4),
    ("gpt2", {"global_batch": 3, "implementation": "transformers"}, "amp", 4),
    ("gpt2", {"clip": True, "dtype": "fp32"}, None, 4), ("gpt2", {"phase": "training", "dtype": "fp16"}, None, 2),
    ("gpt2", {"precision": "bf16"}, "bf16", 2), ("gpt2", {"optimizer": "weights=2,states=8"}, None, 2),
    ("lstm-ptb-medium", {"phase": "training"}, "bf16", 2), ("gpt2", {}, None, 2),
])
def test_a_step_that_does_not_say_its_precision(
    model: str, given: dict[str, Any], precision: str | None, width: int
) -> None:
    memory = txcalc.memory(model, seq=16, **given)
    assert memory.workload.precision == precision
    assert ("amp: bf16 over fp32" in render(memory)) == (precision == "amp")
    assert ("where amp is usual: autocast over a cell" in " ".join(memory.notes)) == (model != "gpt2")
    weights = next(each.bytes for each in memory.resident if each.what == "weights")
    assert weights == width * txcalc.count(model).totals.params.value
    if given == {"optimizer": "lion"}:
        fit = txcalc.fit(model, "h100", seq=16, **given)
        assert (fit.workload.precision, fit.peak.bytes > memory.peak.bytes) == (precision, True)


def test_bytes_of_a_parameter_give_a_bound() -> None:
    memory = txcalc.memory("gpt2", seq=16, optimizer="weights=2,master=4,gradients=2,states=8")
    assert memory.peak.kind == "bound"


def test_what_changes_nothing_is_said() -> None:
    assert "dropout changes nothing here: gpt2 is not trained in this pass" in good("gpt2", "--dropout", 0.1)
    assert "dropout changes nothing" not in good("gpt2", "--dropout", 0.1, "--phase", "training")


def test_an_option_that_only_training_has_means_training() -> None:
    assert "training step" in good("gpt2", "--seq", 64, "--recompute", "full")
    assert txcalc.memory("gpt2", seq=64, recompute="full") == txcalc.memory(
        "gpt2", seq=64, recompute="full", phase="training")


def test_python_refuses_alike() -> None:
    with pytest.raises(SpecError, match="inference, training, decode"):
        txcalc.memory("gpt2", phase="forward")


# ---------------------------------------------------------------- what a reader sees


@every_run
@pytest.mark.parametrize("width", [60, 80])
def test_it_fits_a_terminal(name: str, width: int) -> None:
    for detail in (0, 1, 2):
        shown = render(found(name, "t4"), "table", Screen(width), detail)
        assert max(map(len, shown.splitlines())) <= width
    assert "Peak" in shown and "fits" in shown


def test_values_over_time_are_bars() -> None:
    assert spark(Spark([0, 1, 4, 8, 0, 0], 8), 6) == " ▁▄█"
    assert spark(Spark([1, 2, 3, 4], 4), 2) == "▄█"
    assert spark(Spark([5], 5), 4) == "█" and spark(Spark([5, 5], 5), 0) == ""


def test_a_timeline_is_drawn_within_its_frame() -> None:
    [charts] = [block for block in blocks(found("training", "t4")) if isinstance(block, Charts)]
    [chart] = charts.make()
    drawn = drawing(chart)
    points = [point for shape in drawn.shapes for point in getattr(shape, "points", ())]
    assert all(0 <= x <= drawn.width and 0 <= y <= drawn.height for x, y in points)
    assert f"{chart.amount(found('training').peak.bytes)} at most" in drawn.said


@pytest.mark.parametrize(("optimizer", "each"), [(None, 16), ("lion", 12), ("sgd", 8)])
def test_a_master_and_states_in_fp32_stand_beside_16_bit_weights(optimizer: str | None, each: int) -> None:
    more = {} if optimizer is None else {"optimizer": optimizer}
    run = txcalc.memory("gpt2", phase="training", precision="mixed", **more)
    there = {part.what: part.bytes for part in run.resident}
    assert sum(size for what, size in there.items() if "inputs" not in what) + 2 * 124_439_808 == each * 124_439_808
    assert run.peak.kind == "bound"
    with pytest.raises(SpecError, match="a master is known beside"):
        txcalc.memory("gpt2", phase="training", precision="mixed", optimizer="muon")


def test_alibi_in_an_encoder_and_its_decoder_is_an_estimate() -> None:
    from txcalc.count.unproved import unmeasured
    from txcalc.trace.model import trace
    from txcalc.trace.workload import Workload

    for kind, why in (("alibi", "ALiBi in an encoder and its decoder"), ("rope", "")):
        spec = Model.from_data({
            "name": "pair", "architecture": "encoder-decoder", "vocab": 101, "d_model": 24, "layers": 1, "context": 64,
            "attention": {"heads": 4, "head_dim": 6}, "feed_forward": {"d_ff": 29}, "position": {"kind": kind}})
        assert unmeasured(trace(spec, Workload(phase="training", seq=5))) == why


@pytest.mark.parametrize("device", [None, "24GB"])
def test_gradients_are_added_in_place_on_a_card_alone(device: str | None) -> None:
    """A dispatch mode, which is what counts without one, has experts' gradients written out of place."""
    from txcalc.count import step
    from txcalc.trace.model import trace
    from txcalc.trace.workload import Workload

    spec = Model.from_data(LLAMA | {"vocab": 11, "d_model": 24, "feed_forward": {
        "kind": "moe", "d_ff": 20, "experts": 5, "active_experts": 2, "activation": "silu", "gated": True}})
    run: dict[str, Any] = {"phase": "training", "implementation": "transformers", "recompute": "full", "batch": 3,
                           "seq": 37, "dtype": "fp32", "attention": "eager"}
    seen = txcalc.memory(spec, device=device, **run).phases
    t = trace(spec, Workload(**run))
    both = [[each.peak_bytes for each in step.phases(t, in_place=way)] for way in (True, False)]
    assert both[0] != both[1]
    assert [each.peak_bytes for each in seen] == both[device is None]
