"""Input that is no model, or looks like something else, ends at once with a line."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from txcalc.cli.app import app
from txcalc.huggingface import is_config
from txcalc.show.blocks import Data
from txcalc.show.writers import _csv

ROOT = Path(__file__).parents[1]
FACTS = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
LLAMA: dict[str, Any] = FACTS["llama-3-8b"]["config"]
TINY: dict[str, Any] = {
    "name": "tiny", "vocab": 97, "d_model": 24, "layers": 5, "context": 64, "attention": {"heads": 6},
    "feed_forward": {"d_ff": 41}, "position": {"kind": "learned"},
}


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


def run(*args: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)


def refused(*args: object, stdin: str | None = None) -> str:
    found = run(*args, stdin=stdin)
    assert (found.exit_code, found.stdout) == (2, ""), found.output
    return found.stderr.removeprefix("error: ").rstrip("\n")


# ---------------------------------------------------------------- what is no file


def no_files(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.yaml")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(folder / "socket"))
    (folder / "empty").mkdir()
    return {str(folder / "pipe"): "a named pipe", str(folder / "pipe.yaml"): "a named pipe",
            str(folder / "socket"): "a socket", str(folder / "empty"): "a directory", "/dev/zero": "a device",
            "/dev/null": "a device"}


def test_what_is_no_file_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, kind in no_files(tmp_path).items():
        line = f"{path}: is {kind}, not a file"
        assert refused("count", path) == refused("diff", "gpt2", path) == refused("import", path) == line
        assert refused("compare", "gpt2", path) == line
        if kind != "a directory":
            assert refused("validate", "gpt2", "--against", path) == line
    assert refused("count", "pipe") == "pipe: is a named pipe, not a file"
    monkeypatch.setenv("TXCALC_PRESETS", str(tmp_path))
    assert "pipe" in run("presets").stdout
    assert refused("count", "no-such-model").startswith("unknown preset")


@pytest.mark.parametrize("option", [("-o",), ("--plot",)])
def test_what_is_no_file_is_not_written_to(tmp_path: Path, option: tuple[str, ...]) -> None:
    path = tmp_path / "out.svg"
    os.mkfifo(path)
    form = ("--format", "json") if option == ("-o",) else ()
    assert refused("count", "gpt2", *option, path, "--force", *form) == f"{path}: is not a regular file"


def test_the_pipe_of_a_command_is_read() -> None:
    """``txcalc count <(command)``: a pipe with a writer and without a name."""
    ends = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(ends[1], json.dumps(TINY).encode()), os.close(ends[1])))
    writer.start()
    found = subprocess.run(
        [sys.executable, "-m", "txcalc", "count", f"/dev/fd/{ends[0]}", "--json"], capture_output=True, timeout=60,
        check=False, pass_fds=(ends[0],), env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    writer.join()
    os.close(ends[0])
    assert json.loads(found.stdout)["model"]["name"] == "tiny"


# ---------------------------------------------------------------- what looks like something else


@pytest.mark.parametrize("field", ["architecture", "attention", "feed_forward", "groups", "head"])
@pytest.mark.parametrize("value", [None, 1, "x", {}, []])
def test_a_configuration_with_a_field_of_ours_stays_one(field: str, value: object) -> None:
    """It is read as one: a field that no class has is passed over, and one that some class has is refused."""
    found = run("count", "-", "--json", stdin=json.dumps({**LLAMA, field: value}))
    if found.exit_code:
        assert f"{field}: not understood for model_type llama, and it could change the architecture" in found.stderr
    else:
        assert f"passed over 1 field that LlamaForCausalLM does not read: {field}" in found.stderr
        assert json.loads(found.stdout)["totals"]["params"]["value"] == 8_030_261_248
    strict = refused("count", "-", "--strict", stdin=json.dumps({**LLAMA, field: value}))
    assert f"{field}: not understood for model_type llama" in strict


def test_a_spec_with_a_field_of_theirs_stays_one() -> None:
    for name in ("model_type", "architectures", "transformers_version", "hidden_size"):
        assert not is_config({**TINY, name: "x"})
        assert f"{name}: unknown field" in refused("count", "-", stdin=json.dumps({**TINY, name: "x"}))
    assert is_config({"model_type": "t5", "d_model": 512, "head": 3}) and is_config({"hidden_size": 5})
    assert not is_config({"hidden_size": 5, "attention": {"heads": 4}})


@pytest.mark.parametrize(("table", "got"), [({}, "an empty mapping"), ([], "an empty list"), ([1], "a list"),
                                            ("x", "'x'")])
def test_labels_without_names_say_what_is_wanted(table: object, got: str) -> None:
    data = {**LLAMA, "architectures": ["LlamaForSequenceClassification"], "id2label": table}
    assert f"id2label: must be a mapping with a name for every class, got {got}" in refused(
        "count", "-", stdin=json.dumps(data))


# ---------------------------------------------------------------- what a spreadsheet would run


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(start: str) -> None:
    formula = f"{start}cmd|' /C calc'!A0"
    text = _csv(None, [Data(["name", "change"], [[formula, -5], ["plain", -0.5], [None, 7]])])
    read = list(csv.reader(io.StringIO(text, newline="")))
    harmless = "'" + formula.replace("\r", " ")
    assert read == [["name", "change"], [harmless, "-5"], ["plain", "-0.5"], ["", "7"]]


@pytest.mark.parametrize("command", ["count", "compare", "attention"])
def test_a_model_called_like_a_formula(tmp_path: Path, command: str) -> None:
    path = tmp_path / "evil.json"
    path.write_text(json.dumps({**TINY, "name": "=1+1"}))
    text = run(command, path, "-f", "csv").stdout
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert cells and not any(cell.startswith(("=", "+", "@", "-")) for cell in cells)


# ---------------------------------------------------------------- everything that is wrong, at once


def lines(*args: object, stdin: str | None = None) -> list[str]:
    found = run(*args, stdin=stdin)
    assert (found.exit_code, found.stdout) == (2, ""), found.output
    assert all(line.startswith("error: ") for line in found.stderr.splitlines())
    return [line.removeprefix("error: ") for line in found.stderr.splitlines()]


def test_all_that_is_wrong_with_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nd_model: 0\nlayres: 5\ncontext: many\nattention: {haeds: 6}\n"
                    "feed_forward: {d_ff: 41, activaton: silu}\nposition: none\n")
    assert lines("count", path) == [
        f"{path}:3:1: layres: unknown field; did you mean layers?",
        f"{path}:5:13: attention.haeds: unknown field; did you mean heads?",
        f"{path}:6:26: feed_forward.activaton: unknown field; did you mean activation?",
        f"{path}:2:1: d_model: must be a whole number of at least 1, got 0",
        f"{path}:4:1: context: must be a whole number, got 'many'",
    ]
    path.write_text("name: x\nd_model: 0\nattention: {heads: 6}\n")
    wrong, missing = lines("count", path)
    assert wrong == f"{path}:2:1: d_model: must be a whole number of at least 1, got 0"
    assert missing.startswith(f"{path}:1:1: context, feed_forward, layers, position: required fields are missing")


def test_all_that_is_wrong_with_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    data = {**LLAMA, "hidden_size": "x", "vocab_size": -1, "hidden_act": "sine", "attention_bias": 3, "head": 4,
            "groups": []}
    path.write_text(json.dumps(data, indent=1))
    where = {line.split('"')[1]: number for number, line in enumerate(path.read_text().splitlines(), 1) if '":' in line}
    found = lines("count", path, "--strict")
    assert {line.split(": ")[1] for line in found} == {
        "hidden_size", "vocab_size", "hidden_act", "attention_bias", "head", "groups"}
    assert all(line.startswith(f"{path}:{where[line.split(': ')[1]]}:2: ") for line in found)


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                                  "intermediate_size", "rms_norm_eps", "tie_word_embeddings"])
def test_what_follows_from_a_wrong_field_is_not_said(name: str) -> None:
    """Only what the file says itself is wrong, not what a stand-in for it would lead to."""
    for value in ("x", [], {"a": 1}):
        found = run("count", "-", stdin=json.dumps({**LLAMA, name: value}))
        assert found.exit_code == 0 or [line.split(": ")[2] for line in found.stderr.splitlines()] == [name]


def test_all_that_is_wrong_with_overrides_and_options() -> None:
    assert [line.partition(": ")[0] for line in lines(
        "count", "gpt2", "--set", "layers=0", "--set", "layres=3", "--set", "d_model=24")] == [
            "--set layres=3", "--set layers=0"]
    assert len(lines("count", "gpt2", "--set", "layers", "--set", "=3", "--set", "vocab=5")) == 2
    assert [line.partition(": ")[0] for line in lines(
        "count", "gpt2", "--seq", "0", "--batch", "0", "--dtype", "bf17", "--dropout", "2")] == [
            "--batch", "--seq", "--dtype", "--dropout"]
    assert [line.partition(": ")[0] for line in lines("compare", "gpt2", "gpt3", "--seq", "x", "--batch", "y")] == [
        "--batch", "--seq"]


def test_all_that_is_wrong_with_the_workload_of_a_report(tmp_path: Path) -> None:
    data = json.loads(run("count", "gpt2", "--json").stdout)
    path = tmp_path / "report.json"
    path.write_text(json.dumps({**data, "workload": {**data["workload"], "seq": 0, "phase": "x", "sek": 1}}, indent=1))
    assert [line.split(": ")[1] for line in lines("count", path)] == [
        "workload.sek", "workload.phase", "workload.seq"]


def test_no_more_than_a_reader_goes_through() -> None:
    spec = {**TINY, **{f"field{i}": i for i in range(30)}}
    found = lines("count", "-", stdin=json.dumps(spec))
    assert len(found) == 20 and found[-1] == "stdin: and 11 more"


def test_python_gets_a_line_for_each() -> None:
    import txcalc

    with pytest.raises(txcalc.SpecError) as caught:
        txcalc.count("gpt2", seq=0, batch=0)
    assert str(caught.value) == ("batch: must be a whole number of at least 1, got 0\n"
                                 "seq: must be a whole number of at least 1, got 0")
    assert [each.field for each in caught.value.every] == ["batch", "seq"] and caught.value.field == "batch"
