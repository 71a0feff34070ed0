"""Other names that people type, and what each command's help promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import txcalc
from txcalc.cli import foreign
from txcalc.cli.app import COMMANDS, app
from txcalc.show.writers import FORMATS
from txcalc.spec import words
from txcalc.trace.workload import CHOICES, Workload

OTHERS = [(field, other, meant) for field, table in words.WORDS.items() for other, meant in table.items()
          if field in CHOICES]  # those of a layout: tests/test_layout.py
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
def test_a_command_takes_every_format_that_its_help_lists(command: str, form: str) -> None:
    text = " ".join(run(command, "--help").stdout.split())
    listed = re.search(r"--format FORMAT (.*?)\. Default", text)
    assert listed and re.split(", | or ", listed[1]) == list(FORMATS)
    assert "--markdown" in text
    found = run(command, *RUNS[command], "--format", form)
    assert found.exit_code == 0 and found.stdout


@pytest.mark.parametrize("command", RUNS)
def test_verbose_is_listed_where_it_shows_more(command: str) -> None:
    listed = "--verbose" in run(command, "--help").stdout
    plain, verbose = (run(command, *RUNS[command], *flag).stdout for flag in ((), ("-v",)))
    assert (plain != verbose) == listed or command == "validate"  # there, of many models that differ


# ---------------------------------------------------------------- what other tools call it


def refused(*args: object) -> str:
    found = run(*args)
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    return found.stderr.removeprefix("error: ").rstrip("\n")


def takes(command: str) -> set[str]:
    options = run(command, "--help").stdout.partition("\nOptions:\n")[2]
    return set(re.findall(r"^  (?:-\w+, )?(--[a-z][a-z-]+)", options, re.MULTILINE))


TAKEN = {command: takes(command) for command in COMMANDS}


def test_no_word_is_in_two_tables() -> None:
    tables = (foreign.OPTIONS, foreign.FIELDS, foreign.ABSENT)
    assert len(set().union(*tables)) == sum(map(len, tables))
    assert not {f"--{word}" for word in set().union(*tables)} & TAKEN["count"]


@pytest.mark.parametrize(("word", "options"), foreign.OPTIONS.items())
def test_an_option_of_another_tool_leads_to_ours(word: str, options: str) -> None:
    named = options.split()
    option = next((each for each in named if each in TAKEN["count"]), named[0])
    line = refused("count", "gpt2", f"--{word}", "1")
    takers = ", ".join(command for command in COMMANDS if option in TAKEN[command])
    elsewhere = f"{option} is an option of txcalc {takers}" if takers else "there is nothing like it yet"
    assert line == f"no such option --{word}; " + (
        f"did you mean {option}?" if option in TAKEN["count"] else elsewhere)


@pytest.mark.parametrize(("word", "field"), foreign.FIELDS.items())
def test_an_option_for_a_size_leads_to_the_field(word: str, field: str) -> None:
    assert refused("count", "gpt2", f"--{word}", "1") == (
        f"no such option --{word}; --set {field}=N changes that of the model")
    assert re.search(rf"--set {re.escape(field)}=0: {re.escape(field)}: (must|.*field)",
                     refused("count", "mixtral-8x7b", "--set", f"{field}=0"))


@pytest.mark.parametrize(("word", "text"), foreign.ABSENT.items())
def test_an_option_for_what_is_not_counted_says_so(word: str, text: str) -> None:
    assert refused("count", "gpt2", f"--{word}", "1") == f"no such option --{word}; {text}"
    assert set(re.findall(r"--[a-z-]+", text)) <= TAKEN["count"]


@pytest.mark.parametrize(("group", "word", "text"), [
    *(((), word, text) for word, text in foreign.COMMANDS.items()),
    *((("presets",), word, text) for word, text in foreign.LISTING.items()),
])
def test_a_command_of_another_tool_leads_to_ours(group: tuple[str, ...], word: str, text: str) -> None:
    assert refused(*group, word) == f"no such command {word!r}; see {text}"
    command = re.match(r"txcalc (\w+)", text)
    assert command and command[1] in COMMANDS and set(re.findall(r"--[a-z-]+", text)) <= TAKEN[command[1]]


@pytest.mark.parametrize(("args", "line"), [
    (("count", "gpt2", "--sram", "3"), "no such option --sram; --sram is an option of txcalc attention"),
    (("validate", "gpt2", "--sqe"), "no such option --sqe; did you mean --set?"),
    (("mixers", "--n-layers", "3"), "no such option --n-layers"),
    (("count", "gpt2", "--zzz"), "no such option --zzz"),
    (("attention", "gpt2", "--gpu", "t4"), "no such option --gpu; did you mean --device?"),
    (("count", "gpt2", "--device", "h100"), "--device: no card changes what is counted; txcalc attention MODEL "
     "--device h100-80gb shows what fits on it, --kernels cuda or cpu says whose operators run"),
])
def test_other_options(args: tuple[str, ...], line: str) -> None:
    assert refused(*args) == line


def test_a_hint_to_install_names_the_package_itself() -> None:
    """No index has ours: what it needs can be installed from anywhere, a checkout too."""
    calls = re.findall(r'MissingPackage\(f?"[^"]*", "([^"]*)"\)', "".join(
        path.read_text("utf-8") for path in Path(txcalc.__file__).parent.rglob("*.py")))
    assert {"matplotlib", "torch", "transformers", "huggingface_hub"} <= set(calls)
    extras = (Path(txcalc.__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    assert all(re.search(f'"{package}[>=]=', extras) for package in calls)
    assert "txcalc[" not in (Path(txcalc.__file__).parents[1] / "README.md").read_text("utf-8")
