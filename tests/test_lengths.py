"""Lengths that contradict a phase or what stands in the text: refused with the least that would do, or made to fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

import txcalc
from txcalc.cli.app import app
from txcalc.models import load as presets
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model


def call(*args: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, [str(arg) for arg in args])
    return found.exit_code, found.stdout, found.stderr


@pytest.mark.parametrize("command", ["count gpt2", "compare gpt2", "explain gpt2 flops", "diff gpt2 gpt2-medium"])
def test_a_prompt_is_not_decoded_at_once(command: str) -> None:
    code, out, err = call(*command.split(), "--phase", "decode", "--seq", "1K")
    assert (code, out) == (2, "") and err.startswith("error: --seq: ") and "--past 1023" in err
    assert call(*command.split(), "--phase", "decode", "--seq", "3", "--past", "7")[0] == 0


def test_nor_from_python() -> None:
    with pytest.raises(SpecError, match="--past 32767") as raised:
        txcalc.count("mistral-7b", phase="decode", seq=32768)
    assert raised.value.field == "seq"
    with pytest.raises(SpecError, match="--past 32767"):
        txcalc.diff("mistral-7b", "llama3-8b", phase="decode", seq=32768)
    assert txcalc.count("mistral-7b", phase="decode", seq=1).workload.past == 2047


def test_curves_of_decoding_take_the_length_of_the_cache() -> None:
    """The word for it is the same as elsewhere; a point is the cache and the new token."""
    code, out, _ = call("attention", "gpt2", "--phase", "decode", "--past", "12,40", "--json")
    points = json.loads(out)["points"]
    assert code == 0 and [(p["seq"], p["past"], p["new"]) for p in points] == [(13, 12, 1), (41, 40, 1)]
    assert call("attention", "gpt2", "--phase", "decode", "--seq", "1K")[2].startswith("error: --seq: ")
    assert call("attention", "gpt2", "--past", "1K")[2].startswith("error: --past: needs --phase decode")


LLAVA = presets.load("llava-1.5-7b").model
EACH = 576
"""Positions of one of its images."""


def run(**fields: Any) -> Any:
    return txcalc.count(LLAVA, **fields)


@pytest.mark.parametrize(("images", "batch", "needed"), [(1, 1, 1), (3, 1, 3), (3, 2, 2), (7, 3, 3)])
def test_a_text_too_short_for_its_images_is_refused(images: int, batch: int, needed: int) -> None:
    needed *= EACH
    for fields in ({"seq": 5}, {"seq": needed - 1}):
        with pytest.raises(SpecError, match=f"--seq {needed} or more") as raised:
            run(images=images, batch=batch, **fields)
        assert raised.value.field == "seq"
    assert run(images=images, batch=batch, seq=needed).workload.seq == needed
    with pytest.raises(SpecError, match=f"--past {needed} or more"):
        run(images=images, batch=batch, phase="decode", past=needed - 1)
    assert run(images=images, batch=batch, phase="decode", past=needed).workload.past == needed
    with pytest.raises(SpecError, match=f"--seq {needed - 11} or more"):
        run(images=images, batch=batch, phase="prefill", past=11, seq=needed - 12)


def test_a_length_left_out_makes_room_for_images() -> None:
    assert run(images=3).workload.seq == 2048
    assert run(images=4).workload.seq == 4 * EACH
    assert run(images=4, batch=2).workload.seq == 2048
    assert run(images=4, phase="decode").workload.past == 4 * EACH
    both = txcalc.compare("llava-1.5-7b", "llama2-7b", images=None, seq=9)
    assert {entry.workload.seq for entry in both.entries} == {9}


def test_images_in_the_cache_are_not_read_again() -> None:
    """While decoding they are cached positions like all others."""
    with_images, without = (run(images=n, phase="decode", past=2304).totals.flops_forward.value for n in (4, 0))
    assert with_images == without < run(images=4).totals.flops_forward.value


def test_the_least_run_of_ten_images() -> None:
    tower = run(images=10, seq=5760).totals.flops_forward.value - run(images=0, seq=5760).totals.flops_forward.value
    assert tower == 10 * (run(images=1, seq=576).totals.flops_forward.value
                          - run(images=0, seq=576).totals.flops_forward.value)
    assert run(images=10, seq=5760).totals.flops_forward.value == 97_571_942_891_520


SOUND: dict[str, Any] = {"kind": "frames", "bins": 5, "length": 50}  # 100 frames: a second
HEARS: dict[str, Any] = {
    "name": "hears", "vocab": 53, "d_model": 22, "layers": 1, "context": 499, "attention": {"heads": 2}, "position": {
        "kind": "rope"}, "feed_forward": {"d_ff": 37}, "tower": {
        "d_model": 15, "layers": 1, "input": SOUND, "position": "none", "attention": {"heads": 3},
        "feed_forward": {"d_ff": 17}, "projector": {"merge": 2}}}
ENCODES = {name: value for name, value in HEARS.items() if name != "tower"} | {
    "architecture": "encoder-decoder", "encoder": {"input": SOUND, "position": "none"}}


def test_time_is_so_many_sounds() -> None:
    model = Model.from_data(HEARS)
    assert txcalc.count(model, audio="3s").to_data() == txcalc.count(model, images=3).to_data()
    pieces = {**SOUND, "length": 6, "grid": {"channels": 4, "frames": 20}}  # two pieces, 0.4 seconds
    cut = Model.from_data({**HEARS, "tower": {**HEARS["tower"], "input": pieces}})
    assert txcalc.count(cut, audio="1.2s").to_data() == txcalc.count(cut, images=3).to_data()
    whisper = Model.from_data(ENCODES)
    assert txcalc.count(whisper, seq=7, audio="1s").to_data() == txcalc.count(whisper, seq=7).to_data()


@pytest.mark.parametrize(("spec", "fields", "message"), [
    (HEARS, {"audio": "1.5s"}, "hears sounds of 1 s: must be so many whole ones"),
    (HEARS, {"audio": "0s"}, "so many whole ones"), (ENCODES, {"audio": "2s", "seq": 7}, "must be one"),
    (HEARS, {"audio": "1s", "images": 1}, "give --audio or --images"), (HEARS, {"audio": "1"}, "is not a time"),
    ("gpt2", {"audio": "1s"}, "gpt2 has neither tower nor encoder that hears"),
])
def test_a_time_that_is_not_whole_sounds_is_refused(spec: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        txcalc.count(spec if isinstance(spec, str) else Model.from_data(spec), **fields)
    assert raised.value.field == "audio"
