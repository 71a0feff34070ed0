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

from txcalc.answer.render.csv import rows
from txcalc.cli.app import app
from txcalc.spec.huggingface import is_config

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
    line = refused("count", "-", stdin=json.dumps({**LLAMA, field: value}))
    assert f"{field}: not understood for model_type llama, and it could change the architecture" in line


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
    text = rows(["name", "change"], [[formula, -5], ["plain", -0.5], [None, 7]])
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
