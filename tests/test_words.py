"""Other names that people type, and what each command's help promises."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import txcalc
from txcalc.answer.render.formats import FORMATS
from txcalc.cli.app import COMMANDS, app
from txcalc.spec import words
from txcalc.trace.workload import CHOICES, Workload

OTHERS = [(field, other, meant) for field, table in words.WORDS.items() for other, meant in table.items()]
RUNS = {
    "count": ("gpt2",), "compare": ("gpt2", "gpt3"), "diff": ("gpt2", "gpt2-medium"), "explain": ("gpt2", "weights"),
    "attention": ("gpt2", "--seq", "64"), "mixers": ("--seq", "64"), "validate": ("gpt2", "--against", "published"),
}


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def workload(*args: object) -> dict[str, object]:
    found = run("count", "gpt2", *args, "--json")
    assert (found.exit_code, found.stderr) == (0, "")
    data: dict[str, object] = json.loads(found.stdout)["workload"]
    return data


# ---------------------------------------------------------------- words


def test_the_words_that_the_interface_promises() -> None:
    assert {(field, other) for field, other, _ in OTHERS} >= {
        ("phase", "train"), ("phase", "inference"), ("phase", "generate"), ("dtype", "float32"), ("dtype", "float16"),
        ("dtype", "bfloat16"), ("dtype", "half"), ("kv_dtype", "bfloat16"), ("attention", "naive"), ("masked", "skip"),
        ("recipe", "adam"), ("recipe", "adamw"),
    }
    assert set(words.FIELDS.items()) >= {
        ("batch_size", "batch"), ("micro_batch", "batch"), ("seq_len", "seq"), ("seqlen", "seq"),
    }


@pytest.mark.parametrize(("field", "other", "meant"), OTHERS)
def test_another_word_is_read_everywhere_and_written_nowhere(field: str, other: str, meant: str) -> None:
    assert meant in CHOICES[field] and other not in CHOICES[field]
    option = f"--{field.replace('_', '-')}"
    report = workload(option, other)
    assert report == workload(option, meant) == workload(option, meant.upper())
    assert report[field] == meant
    assert txcalc.count("gpt2", **{field: other}).workload.to_data() == report  # type: ignore[arg-type]
    assert Workload(seq=3, **{field: other}).to_data() == Workload.of({"seq": 3, field: meant}).to_data()  # type: ignore[arg-type]


@pytest.mark.parametrize(("other", "field"), words.FIELDS.items())
def test_another_name_of_a_field_is_read_everywhere(other: str, field: str) -> None:
    option = f"--{other.replace('_', '-')}"
    assert workload(option, "7") == workload(f"--{field}", "7")
    assert txcalc.count("gpt2", **{other: 7}).workload == txcalc.count("gpt2", **{field: 7}).workload  # type: ignore[arg-type]
    assert Workload.of({"seq": 3, **{other: 7}} if field != "seq" else {other: 7}) == Workload.of({"seq": 3, field: 7})
    for command in ("compare", "diff", "explain", "attention", "mixers"):
        args = [arg for arg in RUNS[command] if arg not in ("--seq", "64")]
        assert run(command, *args, option, "32", "-q").exit_code == 0, command
    assert option not in run("count", "--help").stdout


def test_b_is_the_batch() -> None:
    assert workload("-b", "3")["batch"] == 3
    assert run("mixers", "-b", "3", "--json").stdout == run("mixers", "--batch", "3", "--json").stdout.replace(
        '"--batch"', '"-b"')


def test_one_field_by_two_names_is_refused() -> None:
    found = run("count", "gpt2", "--batch", "2", "--batch-size", "3")
    assert (found.exit_code, found.stderr) == (2, "error: --batch-size: is another name of batch: give one of them\n")
    with pytest.raises(txcalc.SpecError, match=r"seq_len: is another name of seq"):
        txcalc.count("gpt2", seq=3, seq_len=3)  # type: ignore[call-arg]


def test_a_report_with_another_word_is_read(tmp_path: Path) -> None:
    data = json.loads(run("count", "gpt2", "--phase", "training", "--json").stdout)
    data["workload"]["phase"] = "train"
    path = tmp_path / "report.json"
    path.write_text(json.dumps(data))
    assert json.loads(run("count", path, "--json").stdout)["workload"]["phase"] == "training"


# ---------------------------------------------------------------- what help promises


@pytest.mark.parametrize("command", RUNS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_command_takes_the_formats_that_its_help_lists_and_no_others(command: str, form: str) -> None:
    offered = import_module(COMMANDS[command]).OFFER.formats
    text = " ".join(run(command, "--help").stdout.split())
    listed = re.search(r"--format FORMAT (.*?)\. Default", text)
    assert listed and re.split(", | or ", listed[1]) == list(offered)
    assert ("--markdown" in text) == ("md" in offered)
    found = run(command, *RUNS[command], "--format", form)
    if form in offered:
        assert found.exit_code == 0 and found.stdout
    else:
        assert found.exit_code == 2 and found.stderr == (
            f"error: --format: must be one of {', '.join(offered)} here, got {form}\n")


@pytest.mark.parametrize("command", RUNS)
def test_verbose_is_listed_where_it_shows_more(command: str) -> None:
    listed = "--verbose" in run(command, "--help").stdout
    plain, verbose = (run(command, *RUNS[command], *flag).stdout for flag in ((), ("-v",)))
    assert (plain != verbose) == listed or command == "validate"  # there, of many models that differ
