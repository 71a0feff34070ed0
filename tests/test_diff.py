"""Reports compared: counted again, and field by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from txcalc.answer.difference import Diff, Run, diff
from txcalc.answer.report import Totals, count
from txcalc.cli.app import app
from txcalc.models.load import load
from txcalc.spec.model import Model
from txcalc.spec.yaml import read_yaml
from txcalc.trace.workload import Workload

SEQ = Workload(seq=16)


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def good(*args: object) -> str:
    result = run(*args)
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return result.stdout


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.yaml"
    good("count", "gpt2", "--batch", 3, "--seq", 100, "--phase", "training", "--dropout", "0.1", "-o", path)
    return path


# ---------------------------------------------------------------- counted again


def test_a_report_is_counted_again_under_its_own_workload(report: Path) -> None:
    again = json.loads(good("count", report, "--json"))
    data = read_yaml(report.read_text("utf-8"), "report").data
    for part in ("workload", "totals", "components", "conventions"):
        assert again[part] == data[part], part
    for form in ("table", "md", "html", "latex"):
        assert "(txcalc 0.1.0): unchanged" in " ".join(good("count", report, "-f", form).split()), form


def test_what_has_changed_is_shown(report: Path) -> None:
    text = report.read_text("utf-8")
    params = read_yaml(text, "report").data["totals"]["params"]["value"]
    report.write_text(text.replace(f"value: {params}\n", "value: 7\n"))
    for form in ("table", "md", "html"):
        shown = good("count", report, "-f", form)
        assert "Parameters" in shown and "124,439,808" in shown and "unchanged" not in shown.lower()
    rows = [line.split() for line in good("count", report).splitlines() if line.startswith("Parameters")]
    assert rows[-1] == ["Parameters", "7", "124,439,808"]


def test_a_total_that_the_report_lacks_or_has_as_null(report: Path) -> None:
    data = json.loads(good("count", "gpt2", "--json"))
    data["totals"].pop("params")
    data["totals"]["kv_cache_bytes"] = None
    data.pop("provenance")
    path = report.with_suffix(".json")
    path.write_text(json.dumps(data))
    shown = good("count", path)
    section = shown[shown.index("Since"):shown.index("Where it goes")]
    assert "an unknown txcalc" in section and "KV cache" in section and "–" in section and "Parameters" not in section


@pytest.mark.parametrize(("args", "expected"), [
    (("--seq", "50"), {"phase": "training", "batch": 3, "seq": 50}),
    (("--dtype", "fp32"), {"dtype": "fp32", "kv_dtype": "fp32", "seq": 100}),
    (("--phase", "decode"), {"phase": "decode", "batch": 3, "seq": 1, "past": 1023}),
    (("--phase", "training"), {"seq": 100}),
])
def test_an_option_replaces_the_reports_own(report: Path, args: tuple[str, ...], expected: dict[str, Any]) -> None:
    workload = json.loads(good("count", report, *args, "--json"))["workload"]
    assert {name: workload[name] for name in expected} == expected


def test_lengths_that_follow_from_the_model_still_do(tmp_path: Path) -> None:
    path = tmp_path / "vit.yaml"
    good("count", "vit-b-16", "-o", path)
    assert ": unchanged" in " ".join(good("count", path).split())
    larger = json.loads(good("count", path, "--set", "input.image=384", "--set", "position.size=577", "--json"))
    assert larger["workload"]["seq"] == 577


@pytest.mark.parametrize(("old", "new", "message"), [
    ("  batch: 3", "  batch: x", "workload.batch: must be"),
    ("  kv_dtype: bf16", "  kv_dtype: null", "workload.kv_dtype: must be given or left out, got null"),
    ("  batch: 3", "  batsh: 3", "workload.batsh: unknown field; did you mean batch?"),
    ("totals:", "tottals:", "totals: a report holds"),
])
def test_a_broken_report_gets_one_line(report: Path, old: str, new: str, message: str) -> None:
    report.write_text(report.read_text("utf-8").replace(old, new, 1))
    result = run("count", report)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert message in result.stderr and "report.yaml" in result.stderr


# ---------------------------------------------------------------- field by field


def between(a: str | Model, b: str | Model, first: Workload = SEQ, second: Workload = SEQ) -> Diff:
    models = [load(each).model if isinstance(each, str) else each for each in (a, b)]
    return diff(Run(models[0], first), Run(models[1], second))


def check(found: Diff) -> None:
    """The shares of every total are its whole change, and every field has its step."""
    totals = {total.total: total for total in found.totals}
    for name in Totals.names():
        old, new = (getattr(side.totals, name) for side in (found.a, found.b))
        if old != new and (old is None or new is None or old.value != new.value):
            total = totals.pop(name)
            whole = (0 if new is None else new.value) - (0 if old is None else old.value)
            assert sum(share.change for share in total.shares) == total.change == whole
            assert (total.a, total.b) == (None if old is None else old.value, None if new is None else new.value)
    assert not totals
    fields = [field.field for field in found.fields]
    assert sorted(field for step in found.steps for field in step) == sorted(fields)
    assert len(set(fields)) == len(fields)


def test_one_field_explains_everything() -> None:
    spec = load("gpt2").model
    found = between(spec, load("gpt2", ["layers=13"]).model)
    assert [field.field for field in found.fields] == ["spec.layers"]
    assert {total.total: total.change for total in found.totals}["params"] == 7087872
    check(found)
    assert between(spec, spec).fields == () and between(spec, spec).totals == ()


def test_the_workload_counts_too() -> None:
    found = between("gpt2", "gpt2", SEQ, Workload(phase="training", seq=32, dtype="fp32"))
    check(found)
    assert [field.field for field in found.fields] == [
        "workload.phase", "workload.seq", "workload.dtype", "workload.kv_dtype"
    ]
    backward = next(total for total in found.totals if total.total == "flops_backward")
    assert backward.a is None
    assert [share.fields for share in backward.shares] == [("workload.phase",), ("workload.seq",)]


def test_fields_that_make_sense_together_only_change_together() -> None:
    found = between("gpt2", "gpt2-medium")
    check(found)
    assert ("spec.attention.heads", "spec.attention.kv_heads") in found.steps
    assert all(len(step) == 1 for step in found.steps[:-1])


def test_a_field_waits_for_the_one_that_it_needs() -> None:
    """A table of 8 positions cannot be read at 16, so the length goes first, whatever the order of the fields."""
    found = between("gpt2", load("gpt2", ["context=8", "position.size=8"]).model, SEQ, Workload(seq=8))
    check(found)
    assert found.steps == (("workload.seq",), ("spec.position.size",), ("spec.context",))


@pytest.mark.parametrize(("a", "b"), [
    ("gpt2", "llama3-8b"), ("llama3-8b", "mixtral-8x7b"), ("mixtral-8x7b", "deepseek-v3"), ("gpt2", "bert-base"),
    ("transformer-base", "transformer-big"), ("transformer-base", "gpt2"), ("vit-b-16", "vit-l-16"),
    ("gemma2-9b", "llama3-8b"), ("bert-base", "vit-b-16"),
])
def test_any_two_models(a: str, b: str) -> None:
    for first, second in ((a, b), (b, a)):
        models = [load(first).model, load(second).model]
        runs = [Run(model, Workload.of({} if model.input.kind != "tokens" else {"seq": 16}))
                for model in models]
        check(diff(*runs))


def test_the_totals_are_those_of_count() -> None:
    found = between("gpt2", "gpt3")
    assert found.b.totals == count(load("gpt3").model, SEQ).totals


# ---------------------------------------------------------------- the command


def test_reports_and_models(report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    good("count", "gpt2-medium", "-o", other)
    data = json.loads(good("diff", report, other, "--json"))
    assert data["schema"] == "txcalc/diff/v1" and Diff.from_data(data).to_data() == data
    assert {field["field"] for field in data["fields"]} >= {"spec.d_model", "workload.batch", "workload.dropout"}
    check(Diff.from_data(data))
    beside = json.loads(good("diff", report, "gpt2-medium", "--json"))
    assert beside["b"]["workload"] == beside["a"]["workload"]
    same = json.loads(good("diff", report, other, "--json", "--batch", 2, "--seq", 64, "--phase", "training",
                           "--dropout", "0"))
    assert not [field for field in same["fields"] if field["field"].startswith("workload.")]


def test_what_if(tmp_path: Path) -> None:
    data = json.loads(good("diff", "gpt2", "gpt2", "--set", "attention.kv_heads=4", "--json"))
    assert [field["field"] for field in data["fields"]] == ["spec.attention.kv_heads"]
    assert data["b"]["model"]["overrides"] == ["attention.kv_heads=4"]


@pytest.mark.parametrize("form", ["table", "md", "yaml", "json"])
def test_every_format(form: str) -> None:
    shown = good("diff", "gpt2", "gpt2-medium", "-f", form)
    assert "spec.d_model" in shown.replace("\\", "") and ("+82,371,328" in shown or "82371328" in shown)
    if form == "yaml":
        check(Diff.from_data(read_yaml(shown, "diff").data))


def test_nothing_differs() -> None:
    assert "no field" in good("diff", "gpt2", "gpt2")
    shown = good("diff", "gpt2", "gpt2", "--set", "feed_forward.activation=silu")
    assert "gelu_tanh" in shown and "silu" in shown


@pytest.mark.parametrize(("args", "message"), [
    (("gpt2", "gpt2-medium", "-f", "xml"), "must be"),
    (("gpt2", "gpt4"), "unknown preset"),
    (("gpt2",), "give two models, A and B"),
    (("gpt2", "gpt3", "--seq", "2K"), "2,048 tokens, but gpt2 has 1,024"),
    (("gpt2", "gpt3", "--seq", "0"), "--seq: must be"),
])
def test_bad_calls(args: tuple[str, ...], message: str) -> None:
    result = run("diff", *args)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("form", ["table", "md"])
def test_an_estimate_is_marked(form: str) -> None:
    shown = good("diff", "gpt2", "mamba2-2.7b", "-f", form).replace("\\~", "~")
    assert "→ ~ 5" in shown and "~ estimate; " in shown
    assert "~" not in good("diff", "gpt2", "gpt2-medium", "-f", form)
