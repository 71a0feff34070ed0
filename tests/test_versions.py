"""Reports that version 1 wrote, in every phase, are read, counted again, and say what changed and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from showing import render
from typer.testing import CliRunner

from txcalc.answer.report import Origin
from txcalc.answer.rerun import CONVOLVES, EMPTY_STATE, MEANINGS, recorded
from txcalc.answer.view import View, view
from txcalc.cli.app import app
from txcalc.models.library import find
from txcalc.models.load import load
from txcalc.show.schema import json_schema
from txcalc.spec import older
from txcalc.spec.errors import SpecError
from txcalc.spec.yaml import read_yaml

POINT = {"seq": 16, "flops_forward": 1, "activation_bytes": 1, "state_bytes": 1, "sequential_steps": 1,
         "longest_path": None}
DATA = Path(__file__).parent / "data" / "v1"
REPORTS = sorted(path.name for path in DATA.glob("count-*"))
OTHERS = {"compare", "diff", "mixers", "presets", "validate"}
CHANGED = {  # of a report's totals, the ones that are counted otherwise today
    "count-convolutions.json": {"flops_forward", "flops_per_token"},
    "count-dropout.json": {"flops_backward", "activation_bytes", "attention_score_bytes", "kv_cache_bytes_per_token"},
    "count-int8-cache.json": {"kv_cache_bytes", "kv_cache_bytes_per_token"},
    "count-decode.json": {"kv_cache_bytes_per_token"},
    "count-forward.json": {"kv_cache_bytes_per_token", "activation_bytes"},
    "count-prefill.json": {"kv_cache_bytes_per_token"},
    "count-training.json": {"flops_backward", "kv_cache_bytes_per_token", "activation_bytes"},
    "count-skipped.yaml": {"flops_backward_skipped", "kv_cache_bytes_per_token", "activation_bytes"},
    "count-lightning.json": {"kv_cache_bytes"},
    "count-latents.json": {"flops_forward", "flops_per_token"},
    "count-fp8.json": {"weight_bytes", "activation_bytes", "training_state_bytes"},
}


def again(name: str) -> View:
    loaded = load(str(DATA / name))
    return view(loaded.model, {}, origin=Origin(loaded.source), recorded=recorded(loaded))


def written(name: str) -> dict[str, Any]:
    text = (DATA / name).read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text) if name.endswith("json") else read_yaml(text, name).data
    return data


def test_every_phase_is_among_them() -> None:
    assert {written(name)["schema"] for name in REPORTS} == {"txcalc/report/v1"}
    assert {written(name)["workload"]["phase"] for name in REPORTS} == {"forward", "training", "prefill", "decode"}
    assert CHANGED.keys() == set(REPORTS)


@pytest.mark.parametrize("name", REPORTS)
def test_what_changed_is_said_with_its_reason(name: str) -> None:
    old, found = written(name), again(name)
    assert found.since is not None
    assert {change.total for change in found.since.changes} == CHANGED[name]
    out = " ".join(render(found).split())
    for change in found.since.changes:
        assert change.why and change.why in out, change
    workload = old["workload"]
    kept = {"phase", "batch", "seq", "past", "kv_dtype", "attention", "masked", "recipe"}
    stored = found.report.workload.weights
    assert (stored or found.report.workload.dtype) == workload["dtype"]
    assert {key: getattr(found.report.workload, key) for key in kept} == {key: workload[key] for key in kept}
    assert found.report.kernels == workload["device"]
    same = {"params", "params_active", "weight_bytes", "activation_bytes", "training_state_bytes"}
    for total in same - CHANGED[name]:
        quantity = getattr(found.report.totals, total)
        assert (quantity and quantity.to_data()) == old["totals"][total], total


@pytest.mark.parametrize(("name", "totals"), [
    ("attention", {"weight_bytes", "flops_forward", "kv_cache_bytes"}), ("explain", {"flops_forward"}),
])
def test_an_attention_curve_and_an_explanation_stand_for_their_model(name: str, totals: set[str]) -> None:
    found = recorded(load(str(DATA / f"{name}.json")))
    assert found is not None and set(found.totals) == totals
    since = again(f"{name}.json").since
    assert since is not None and since.changes == ()


def said(*args: str) -> tuple[dict[str, Any], list[str]]:
    """A command's document, and the notes on stderr."""
    found = CliRunner().invoke(app, [*args, "--json"])
    assert found.exit_code == 0, found.stderr
    return json.loads(found.stdout), [line.removeprefix("note: ") for line in found.stderr.splitlines()]


@pytest.mark.parametrize(("name", "old"), [
    ("compare", lambda data: {f"entries[{i}]": each for i, each in enumerate(data["entries"])}),
    ("diff", lambda data: {side: data[side] for side in "ab"}),
])
def test_a_comparison_and_a_difference_are_counted_again(name: str, old: Any) -> None:
    now, notes = said(name, str(DATA / f"{name}.json"))
    expected = set()
    for place, then in old(written(f"{name}.json")).items():
        today = old(now)[place]
        assert today["model"]["name"] == then["model"]["name"]
        for total, quantity in then["totals"].items():
            values = [each and each["value"] for each in (quantity, today["totals"][total])]
            if values[0] != values[1]:
                expected.add((place, total, f"was {values[0]:,}, is {values[1]:,}"))
    assert len(expected) == 3
    for place, total, change in expected:
        assert [f"{place} (txcalc 0.1.0): {total} {change}: " in note for note in notes].count(True) == 1
    assert len(notes) == 3


def test_a_comparison_is_counted_under_its_own_workload_but_for_what_is_given() -> None:
    now, _ = said("compare", str(DATA / "compare.json"))
    assert {each["workload"]["seq"] for each in now["entries"]} == {33}
    now, _ = said("compare", str(DATA / "compare.json"), "--seq", "7")
    assert {each["workload"]["seq"] for each in now["entries"]} == {7}


def test_layers_side_by_side_are_counted_again() -> None:
    old = written("mixers.json")
    now, notes = said("mixers", str(DATA / "mixers.json"))
    changed = {
        f"{quantity} of {then['id']} at {point['seq']:,} was {point[quantity]:,}, is {new[quantity]:,}"
        for then, row in zip(old["mixers"], now["mixers"], strict=True)
        for point, new in zip(then["points"], row["points"], strict=True) for quantity in point
        if point[quantity] != new[quantity]
    }
    assert {note.split(": ")[1] for note in notes} == changed
    assert len(changed) == 16
    assert {note.split(": ", 2)[2] for note in notes} == {CONVOLVES, EMPTY_STATE}


@pytest.mark.parametrize(("args", "message"), [
    (["mixers", "diff.json"], "schema: a saved answer of txcalc mixers has the schema txcalc/mixers/v1"),
    (["diff", "compare.json", "--set", "layers=2"], "give two models, A and B"),
    (["diff", "count-training.json"], "give two models, A and B"),
    (["count", "compare.json"], "the command that wrote this counts it again"),
])
def test_another_answer_is_refused(args: list[str], message: str) -> None:
    found = CliRunner().invoke(app, [args[0], str(DATA / args[1]), *args[2:]])
    assert found.exit_code == 2 and message in found.stderr


@pytest.mark.parametrize("entries", [None, 7, "abc", [], {}, {"a": 1}, [7], [None], [[]]])
def test_a_broken_comparison_is_refused(tmp_path: Path, entries: object) -> None:
    (tmp_path / "broken.json").write_text(json.dumps(written("compare.json") | {"entries": entries}), encoding="utf-8")
    found = CliRunner().invoke(app, ["compare", str(tmp_path / "broken.json")])
    assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
    assert "entries[0]: txcalc/comparison/v1 holds a model here, as a mapping" in found.stderr


@pytest.mark.parametrize("rows", [None, 7, [7], [{}], [{"id": "rnn"}], [{"id": "rnn", "points": 7}],
                                  [{"id": "rnn", "points": [{}]}], [{"id": "rnn", "points": [7]}], [],
                                  *[[{"id": "rnn", "points": [POINT | {name: bad}]}] for name, bad in (
                                      ("seq", -5), ("seq", "a"), ("seq", True), ("flops_forward", "abc"),
                                      ("flops_forward", [1]), ("longest_path", -1))]])
def test_a_broken_table_of_layers_is_refused(tmp_path: Path, rows: object) -> None:
    (tmp_path / "broken.json").write_text(json.dumps(written("mixers.json") | {"mixers": rows}), encoding="utf-8")
    found = CliRunner().invoke(app, ["mixers", str(tmp_path / "broken.json")])
    assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
    assert "is not whole" in found.stderr or "holds no layer" in found.stderr


def test_a_saved_derivation_of_a_training_step_is_compared() -> None:
    loaded = load(str(DATA / "explain.json"))
    assert loaded.report is not None
    data = {**loaded.report.data, "quantity": "flops-training", "total": 5}
    data["workload"] = {**data["workload"], "phase": "training"}
    found = recorded(loaded._replace(report=type(loaded.report)(data)))
    since = view(loaded.model, {}, recorded=found).since
    assert since is not None and [(each.total, each.then) for each in since.changes] == [("flops_training", 5)]


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_what_holds_no_one_model_says_so(name: str) -> None:
    assert {path.stem for path in DATA.iterdir()} == OTHERS | {"attention", "explain"} | {
        name.split(".")[0] for name in REPORTS}
    with pytest.raises(SpecError, match=f"no one model stands in '{written(f'{name}.json')['schema']}'"):
        load(str(DATA / f"{name}.json"))


def test_what_was_recomputed_was_part_of_the_backward_pass() -> None:
    for name, end in (("count-training.json", ""), ("count-skipped.yaml", "_skipped")):
        totals = again(name).report.totals
        parts = [getattr(totals, f"flops_{part}{end}").value for part in ("backward", "recomputed")]
        assert sum(parts) == written(name)["totals"]["flops_backward"]["value"]


def test_every_reason_is_the_reason_of_a_report() -> None:
    said = {change.why for name in REPORTS for change in getattr(again(name).since, "changes", ())}
    assert all(any(row.why in each for each in said) for row in MEANINGS)


def test_a_prompt_decoded_at_once_is_refused(tmp_path: Path) -> None:
    """What v1 took for a decoding step without a cache."""
    old = written("count-decode.json")
    old["workload"] |= {"past": 0, "seq": 33}
    (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
    loaded = load(str(tmp_path / "old.json"))
    with pytest.raises(SpecError, match="--phase decode --past 32"):
        recorded(loaded)


@pytest.mark.parametrize(("preset", "renames"), [
    ("deepseek-v3.2", ["chosen is now index_topk"]),
    ("gemma4-26b-a4b", ["apart is now separate_norms"]),
    ("llava-1.5-7b", ["skips is now unused_layers"]),
    ("qwen2.5-vl-7b", ["squares is now image_window"]),
])
def test_older_names_of_fields_are_read(tmp_path: Path, preset: str, renames: list[str]) -> None:
    text = find(preset).text  # type: ignore[union-attr]
    for each in renames:
        old, new = each.split(" is now ")
        assert f"{new}:" in text
        text = text.replace(f"{new}:", f"{old}:")
    path = tmp_path / f"{preset}.yaml"
    path.write_text(text)
    found = load(str(path))
    assert found.model == load(preset).model
    assert found.notes == (f"older names of fields, readable for one release: {', '.join(renames)}",)


def test_every_older_name_stands_for_a_field_and_is_none_itself() -> None:
    schema = json.dumps(json_schema("preset"))
    for old, new in older.RENAMED.items():
        assert f'"{new}": {{' in schema
        assert f'"{old}": {{' not in schema


def test_an_older_name_beside_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("base: deepseek-v3.2\nattention: {chosen: 5, index_topk: 7}\n")
    with pytest.raises(SpecError, match=r"both.yaml: chosen: is an older name of index_topk: give one of them"):
        load(str(path))


def test_an_older_name_in_an_override() -> None:
    assert load("deepseek-v3.2", ["attention.chosen=5"]).model.attention.index_topk == 5  # type: ignore[union-attr]
