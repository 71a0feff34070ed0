"""The most that fits: every answer fits and one step beyond does not, by the memory of that very run."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from random import Random
from typing import Any

import pytest
from showing import render
from typer.testing import CliRunner, Result

import txcalc
from txcalc.answer import capacity as module
from txcalc.answer.capacity import SHORTEST, Capacity, Most
from txcalc.answer.devices import device
from txcalc.answer.passes import passes
from txcalc.cli.app import app
from txcalc.count import step
from txcalc.show.terminal import Screen
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.spec.yaml import read_yaml

BASE: dict[str, Any] = {
    "name": "small", "vocab": 101, "d_model": 24, "layers": 7, "context": 4096, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": {"heads": 6, "kv_heads": 2, "head_dim": 4},
    "feed_forward": {"d_ff": 41, "activation": "silu", "gated": True}, "head": {"tied": False},
}
MODELS: dict[str, dict[str, Any]] = {
    "rope": {},
    "learned": {"position": {"kind": "learned"}, "context": 61},
    "wide": {"vocab": 5003},
    "windows": {"groups": [{"repeat": 2, "blocks": [{"repeat": 2, "attention": {"window": 37}}, {}]}], "layers": 6},
    "experts": {"feed_forward": {"kind": "moe", "experts": 7, "active_experts": 2, "d_ff": 29,
                                 "routing": "topk-softmax"}},
    "both": {"architecture": "encoder-decoder", "position": {"kind": "sinusoidal"}, "norm": {"placement": "post"},
             "attention": {"heads": 6}, "feed_forward": {"d_ff": 41}},
    "images": {"architecture": "encoder-only", "input": {"kind": "patches", "image": 28, "patch": 7}, "vocab": None,
               "position": {"kind": "learned"}, "norm": {}, "attention": {"heads": 6}, "context": 17,
               "feed_forward": {"d_ff": 41}, "head": {"kind": "classifier", "labels": 3}},
}
RUNS: dict[str, dict[str, Any]] = {
    "training": {"phase": "training"}, "eager": {"phase": "training", "attention": "eager", "batch": 3},
    "inference": {"new": 5}, "decode": {"phase": "decode", "dtype": "fp32"},
}
CARDS = ("68MB", "200MB")
CASES = [(model, run) for model in MODELS for run in RUNS
         if model == "rope" or run == "training" or (model, run) == ("learned", "inference")]
every_case = pytest.mark.parametrize(("model", "run"), CASES, ids=["-".join(case) for case in CASES])


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


@cache
def spec(model: str) -> Model:
    return Model.from_data({key: value for key, value in {**BASE, **MODELS[model]}.items() if value is not None})


@cache
def found(model: str, run: str, card: str) -> Capacity:
    return txcalc.fit(spec(model), card, reserve="0", **RUNS[run])


def peak(of: Capacity, run: str, model: Model, **sizes: int | None) -> int:
    """The peak of a run on the same device, without any search."""
    fixed = {name: size for name in ("batch", "seq", "past") if (size := getattr(of.workload, name))}
    if model.input.kind != "tokens":
        del fixed["seq"]
    precision = {} if of.workload.precision is None else {"precision": of.workload.precision}
    given = {**RUNS[run], **precision, **fixed, **sizes}
    spaces = of.device.workspaces(backward=of.workload.phase == "training")
    return spaces + max(phase.peak_bytes for t in passes(model, given).traces
                        for phase in step.phases(t, rounded=of.device.rounded))


# ---------------------------------------------------------------- each answer, and one step beyond


@pytest.mark.grid(2)
@every_case
def test_every_answer_fits_and_one_step_beyond_does_not(model: str, run: str) -> None:
    answered = 0
    for card in CARDS:
        capacity = found(model, run, card)
        assert capacity.room_bytes == capacity.device.memory_bytes == device(card).memory_bytes
        assert peak(capacity, run, spec(model)) == capacity.peak.bytes
        if card == CARDS[0]:
            of = txcalc.memory(spec(model), device=card, reserve="0", **RUNS[run])
            assert (of.peak.bytes, of.fits) == (capacity.peak.bytes, capacity.fits)
        assert capacity.fits == (capacity.peak.bytes <= capacity.room_bytes)
        for most in capacity.most:
            answered += check(capacity, run, spec(model), most)
        for corner in capacity.frontier:
            assert peak(capacity, run, spec(model), **at(capacity, corner)) == corner.bytes <= capacity.room_bytes
            if corner.length < longest(capacity, model):
                further = at(capacity, corner.replaced(length=corner.length + 1))
                assert peak(capacity, run, spec(model), **further) > capacity.room_bytes
    assert answered


def check(capacity: Capacity, run: str, model: Model, most: Most) -> int:
    """Compare an answer with the memory of the run at it, one step beyond, and at some sizes in between."""
    sizes = [1, *sorted(Random(most.largest_fits).sample(range(1, most.largest_fits + 1), min(2, most.largest_fits)))
             ] if most.largest_fits else []
    peaks = [peak(capacity, run, model, **{most.size: size}) for size in sizes]
    assert peaks == sorted(peaks) and all(size <= capacity.room_bytes for size in peaks)
    if most.largest_fits is not None:
        assert peak(capacity, run, model, **{most.size: most.largest_fits}) == most.bytes
    if most.first_not is not None:
        assert most.first_not == (most.largest_fits or 0) + 1 and most.ends is None
        assert peak(capacity, run, model, **{most.size: most.first_not}) == most.bytes_first_not
        assert most.bytes_first_not > capacity.room_bytes
    else:
        assert most.largest_fits and most.ends
    return most.first_not is not None


def at(capacity: Capacity, corner: Any) -> dict[str, int]:
    return {"batch": corner.batch, "past" if capacity.workload.phase == "decode" else "seq": corner.length}


def longest(capacity: Capacity, model: str) -> int:
    tables = model in ("learned", "both")
    if not tables:
        return 2**40
    taken = capacity.workload.seq if capacity.workload.phase == "decode" else capacity.new or 0
    return spec(model).context - taken


@every_case
def test_the_frontier_goes_down_in_powers_of_two(model: str, run: str) -> None:
    for card in CARDS:
        capacity = found(model, run, card)
        lengths = [corner.length for corner in capacity.frontier]
        assert [corner.batch for corner in capacity.frontier] == [1 << i for i in range(len(lengths))]
        assert lengths == sorted(lengths, reverse=True)
        assert all(length > SHORTEST for length in lengths[:-1])
        assert (lengths == []) == (model == "images" or capacity.short_bytes is not None)


def test_what_is_given_is_what_the_other_is_searched_at() -> None:
    one = txcalc.fit(spec("rope"), "200MB", phase="training", seq=100)
    assert [(most.size, most.given) for most in one.most] == [("batch", {"seq": 100}), ("seq", {"batch": 1})]
    other = txcalc.fit(spec("rope"), "200MB", phase="training", batch=5)
    assert [(most.size, most.given) for most in other.most] == [("seq", {"batch": 5}), ("batch", {"seq": 2048})]
    decode = txcalc.fit(spec("rope"), "200MB", phase="decode", past=100)
    assert [(most.size, most.given) for most in decode.most] == [("batch", {"past": 100}), ("past", {"batch": 1})]


def test_tables_of_positions_end_the_search() -> None:
    capacity = found("learned", "training", "200MB")
    assert [(most.size, most.largest_fits, most.first_not) for most in capacity.most][1] == ("seq", 61, None)
    inference = found("learned", "inference", "200MB")
    assert inference.most[1].largest_fits == 61 - 5
    assert "no more positions" in (inference.most[1].ends or "")


def test_where_nothing_fits_the_least_says_by_how_much() -> None:
    card = f"{(64 << 20) // 1000 + 20}kB"  # workspaces, and less than the weights
    capacity = txcalc.fit(spec("rope"), card, phase="training", reserve="0")
    assert [most.largest_fits for most in capacity.most] == [None, None] and capacity.frontier == ()
    least = min(txcalc.memory(spec("rope"), phase="training", device=card, **sizes).peak.bytes
                for sizes in ({"seq": 1}, {"seq": 2048}))
    assert capacity.short_bytes == least - capacity.room_bytes > 0
    assert not capacity.fits


def test_a_field_of_the_model_is_searched() -> None:
    capacity = txcalc.fit(spec("rope"), "75MB", phase="training", seq=64, over="layers", reserve="0")
    [most] = capacity.most
    assert most.size == "layers" and most.largest_fits is not None and most.largest_fits > 7
    for layers, bytes_there in ((most.largest_fits, most.bytes), (most.largest_fits + 1, most.bytes_first_not)):
        deeper = Model.from_data({**BASE, "layers": layers})
        assert txcalc.memory(deeper, phase="training", seq=64, device="75MB").peak.bytes == bytes_there
    assert most.bytes is not None and most.bytes_first_not is not None
    assert most.bytes <= capacity.room_bytes < most.bytes_first_not
    assert sum(each.bytes for each in capacity.held) < most.bytes  # of the model with so many layers
    assert sum(each.bytes for each in capacity.held) > most.bytes - (65 << 20)
    [wide] = txcalc.fit(spec("rope"), "75MB", phase="training", seq=64, over="feed_forward.d_ff=32", reserve="0").most
    assert wide.largest_fits is not None and wide.largest_fits % 32 == 0
    assert wide.first_not == wide.largest_fits + 32


def test_a_searched_field_follows_the_defaults_of_a_preset() -> None:
    [most] = txcalc.fit("gpt2", "t4", phase="training", over="d_model=48").most
    assert most.largest_fits is not None
    model = txcalc.load("gpt2", [f"d_model={most.largest_fits}"])
    assert txcalc.memory(model, phase="training", device="t4").peak.bytes == most.bytes


@pytest.mark.parametrize(("preset", "card", "given"), [
    ("gpt2", "t4", {"phase": "training"}), ("llama3-8b", "b200", {"phase": "training"}),
    ("llama3-8b", "24GB", {}), ("llama3-8b", "24GB", {"phase": "decode"}), ("bert", "t4", {"phase": "training"}),
    ("mixtral-8x7b", "1TB", {"phase": "training", "attention": "eager"}), ("t5-small", "a100", {"phase": "training"}),
    ("gemma3-4b", "h100", {"phase": "training"}), ("vit-b16", "l4", {"phase": "training"}),
])
def test_the_search_takes_few_peaks(
    preset: str, card: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []
    real = module._Search.peak
    monkeypatch.setattr(module._Search, "peak", lambda self, of, **more: tried.append(of) or real(self, of, **more))
    capacity = txcalc.fit(preset, card, **given)
    assert len(tried) <= 8 + 6 * (len(capacity.most) + len(capacity.frontier))
    assert capacity.short_bytes is None


# ---------------------------------------------------------------- documents, and what people see


@every_case
def test_it_loads_back_and_every_format_says_the_same(model: str, run: str) -> None:
    capacity = found(model, run, "200MB")
    assert Capacity.from_data(capacity.to_data()) == capacity
    data = json.loads(render(capacity, "json", Screen()))
    assert data["schema"] == "txcalc/fit/v1"
    assert read_yaml(render(capacity, "yaml", Screen()), "x").data == data
    rows = list(csv.DictReader(io.StringIO(render(capacity, "csv", Screen()))))
    assert [row["largest_fits"] for row in rows] == [
        str(each or "") for each in (*(most["largest_fits"] for most in data["most"]),
                               *(corner["length"] for corner in data["frontier"]))]
    fits = next(most.largest_fits for most in capacity.most if most.largest_fits)
    for form in ("md", "html", "latex"):
        assert f"{fits:,}" in render(capacity, form, Screen())


@every_case
@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit(model: str, run: str, width: int) -> None:
    for card in CARDS:
        shown = render(found(model, run, card), "table", Screen(width), 2)
        assert max(map(len, shown.splitlines())) <= width, shown


def test_the_sum_adds_up_to_what_the_device_offers() -> None:
    capacity = txcalc.fit("gpt2", "t4", phase="training")
    shown = render(capacity, "table", Screen()).splitlines()
    start = next(i for i, line in enumerate(shown) if line.startswith("What fills it"))
    assert shown[start + 9].split()[:5] == ["T4", "16GB", "14.56", "GiB"][:5]
    top = capacity.most[0]
    assert top.bytes is not None and capacity.device.visible_bytes is not None
    assert capacity.device.visible_bytes == capacity.room_bytes + capacity.reserve.bytes
    assert sum(each.bytes for each in capacity.held) <= top.bytes <= capacity.room_bytes


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["fit", *args])


@pytest.mark.grid(8)
@pytest.mark.parametrize("model", ["rope", "wide", "experts", "both"])
@pytest.mark.parametrize("run", [{}, {"precision": "bf16"}, {"optimizer": "sgd", "accumulate": 2},
                                 {"lora": "r=2,targets=all"}], ids=repr)
def test_levers_that_are_not_run_would_not_help(
    model: str, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:
    peaks, given = list[tuple[int, int]](), {"phase": "training", "seq": 61, "batch": 4} | run
    least = step.least

    def followed(of: Any, like: Any, rounded: Any) -> int:
        peaks.append((least(of, like, rounded), max(each.peak_bytes for each in step.phases(of, rounded=rounded))))
        return peaks[-1][0]

    monkeypatch.setattr(step, "least", followed)
    some = txcalc.fit(spec(model), "1MB", reserve="0", **given).levers
    assert peaks and all(0 < size <= peak for size, peak in peaks)
    monkeypatch.setattr(step, "least", lambda *_: 0)
    assert txcalc.fit(spec(model), "1MB", reserve="0", **given).levers == some


@pytest.mark.parametrize(("args", "code"), [
    (("gpt2", "--phase", "training", "--device", "t4"), 0),
    (("gpt2", "--phase", "training", "--device", "t4", "--batch", "12", "--seq", "1024"), 0),
    (("gpt2", "--phase", "training", "--device", "t4", "--batch", "13", "--seq", "1024"), 1),
    (("gpt2", "--phase", "training", "--device", "t4", "--batch", "16"), 0),
    (("llama3-8b", "--phase", "training", "--device", "24GB"), 1),
    (("llama3-8b", "--phase", "decode", "--device", "24GB", "--past", "100000", "--batch", "1"), 1),
])
def test_exit_codes(args: tuple[str, ...], code: int) -> None:
    result = run(*args)
    assert result.exit_code == code, result.output
    assert ("nothing fits" in result.stdout) == ("24GB" in args and "training" in args)


@pytest.mark.parametrize(("args", "says"), [
    ((), "--device: needs a card or a size"),
    (("--device", "t44"), "did you mean t4?"),
    (("--device", "2xt4"), "2xt4 are 2 devices, and this is an answer for one: give t4-16gb"),
    (("--device", "t4", "--reserve", "20GiB"), "--reserve: 20.00 GiB leave nothing"),
    (("--device", "t4", "--over", "layres"), "--over:"),
    (("--device", "t4", "--over", "d_model"), "d_model=2"),
    (("--device", "t4", "--over", "layers=x"), "--over: write it as layers"),
    (("--device", "t4", "--phase", "forward"), "--phase:"),
])
def test_bad_input_gets_one_line(args: tuple[str, ...], says: str) -> None:
    result = run("gpt2", *args)
    assert result.exit_code == 2 and says in result.stderr and result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_saved_answer_is_counted_again(tmp_path: Any) -> None:
    path = tmp_path / "fit.json"
    run("gpt2", "--phase", "training", "--device", "t4", "--batch", "2", "-o", str(path))
    again = run(str(path), "--json")
    assert again.exit_code == 0 and "unchanged since" in again.stderr
    was, now = json.loads(path.read_text()), json.loads(again.stdout)
    assert {**now, "most": None, "model": None, "provenance": None, "held": None} == {
        **was, "most": None, "model": None, "provenance": None, "held": None}


def test_no_device_is_an_error_in_python_too() -> None:
    with pytest.raises(SpecError, match="needs a card"):
        txcalc.fit(spec("rope"), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "engine", "unit"), [
    ("gemma3-270m", "transformers", 8), ("qwen3-0.6b", "transformers", 1), ("gemma3-270m", None, 1)])
def test_lengths_are_those_whose_masks_are_not_copied(name: str, engine: str | None, unit: int) -> None:
    """A prompt of 16,000 tokens takes less than one of 15,999, whose masks of windows are copied."""
    given = {} if engine is None else {"implementation": engine, "logits": "last"}
    search = module._Search(txcalc.load(name), given, device("h100-80gb"), 0)
    assert search.unit == unit
    assert (search.at({"seq": 16_000}).bytes < search.at({"seq": 15_999}).bytes) == (unit > 1)
