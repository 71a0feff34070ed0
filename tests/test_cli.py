"""The command line as people call it: every answer, every bad input, every stream."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from txcalc.answer.report import Report
from txcalc.cli import progress
from txcalc.cli.app import COMMANDS, app
from txcalc.models import load as presets
from txcalc.spec.errors import SpecError
from txcalc.spec.yaml import read_yaml
from txcalc.trace.workload import CHOICES, Workload

ROOT = Path(__file__).parents[1]
CALL = [sys.executable, "-m", "txcalc"]
TINY = """\
name: tiny
vocab: 97
d_model: 24
layers: 5
context: 64
attention: {heads: 6, kv_heads: 2, head_dim: 7}
feed_forward: {d_ff: 41}
position: none
"""


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def run(*args: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)


def good(*args: object, stdin: str | None = None) -> str:
    result = run(*args, stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return result.stdout


def bad(*args: object, stdin: str | bytes | None = None) -> str:
    """The one line that a bad call gets."""
    result = run(*args, stdin=stdin)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("error: ").rstrip("\n")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def shell(
    *args: str, stdin: bytes | None = None, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TXCALC_PRESETS": "", **env}
    return subprocess.run(
        [*CALL, *args], input=stdin, capture_output=True, env=environment, timeout=600, cwd=cwd, check=False
    )


# ---------------------------------------------------------------- answers


def totals(*args: object) -> dict[str, int]:
    found = json.loads(good("count", *args, "--json"))["totals"]
    return {name: quantity["value"] for name, quantity in found.items() if quantity is not None}


@pytest.mark.parametrize(
    ("name", "params"),
    [("gpt2", 124439808), ("gpt2-xl", 1557611200), ("gpt3", 174604259328), ("transformer-base", 63082496)],
)
def test_the_counts_that_the_readme_promises(name: str, params: int) -> None:
    assert totals(name)["params"] == params


def test_gpt2_flops_at_its_context() -> None:
    assert totals("gpt2", "--seq", 1024)["flops_forward"] == 291648307200


def test_json_parses_from_the_first_byte_and_ends_in_a_newline() -> None:
    out = good("count", "gpt2", "--json")
    assert out[0] == "{" and out.endswith("}\n")
    assert json.loads(out)["schema"] == "txcalc/report/v2"


def test_sizes_take_suffixes_on_the_command_line() -> None:
    out = json.loads(good("count", "gpt2", "--seq", "1K", "--batch", "2k", "--json"))
    assert (out["workload"]["seq"], out["workload"]["batch"]) == (1024, 2000)


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (("--phase", "training"), "phase", "training"),
        (("--dtype", "fp32"), "dtype", "fp32"),
        (("--dtype", "fp32"), "kv_dtype", "fp32"),
        (("--dtype", "fp32", "--kv-dtype", "fp8"), "kv_dtype", "fp8"),
        (("--kv-dtype", "fp8"), "dtype", "bf16"),
        (("--attention", "eager"), "attention", "eager"),
        (("--dropout", "0.1"), "dropout", 0.1),
        (("--masked", "skipped"), "masked", "skipped"),
        (("--kernels", "cpu"), "kernels", "cpu"),
        (("--implementation", "torch"), "implementation", "torch"),
        (("--recipe", "adam-fp32"), "recipe", "adam-fp32"),
        (("--phase", "decode", "--past", "7"), "past", 7),
        (("--phase", "decode", "--past", "7"), "seq", 1),
        ((), "seq", 64),
    ],
)
def test_every_workload_option_arrives(tiny: Path, args: tuple[str, ...], field: str, value: object) -> None:
    assert json.loads(good("count", tiny, *args, "--json"))["workload"][field] == value


def test_device_is_read_as_kernels_for_one_release(tiny: Path) -> None:
    for command in ("count", "compare", "explain", "attention"):
        found, asked = (run(command, tiny, *(["activations"] if command == "explain" else []), "--seq", 16, *kernels)
                        for kernels in (("--device", "cpu"), ("--kernels", "cpu")))
        assert found.exit_code == 0 and found.stdout == asked.stdout != ""
        assert found.stderr == "note: --device cpu is now --kernels cpu; the old spelling goes in the next release\n"
    assert "--kernels cuda or cpu says whose operators run" in bad("count", tiny, "--device", "h100")
    found = run("validate", tiny, "--device", "fake-cuda", "--against", "published")
    assert found.stderr.startswith("note: --device fake-cuda is now --on fake-cuda;")


def test_help_names_every_choice_of_the_workload() -> None:
    texts = (good(command, "--help").split() for command in ("count", "memory"))
    help_text = " ".join(" ".join(words) for words in texts).replace("- ", "-")  # wrapped at a hyphen
    for name, choices in CHOICES.items():
        line = re.search(rf"--{name.replace('_', '-')} [A-Z]+ (.*?) --", help_text)
        assert line, name
        if name != "kv_dtype":
            assert all(choice in line[1] for choice in choices), name


def test_source_seq(tiny: Path) -> None:
    found = json.loads(good("count", "transformer-base", "--seq", 5, "--source-seq", 9, "--json"))
    assert found["workload"]["source_seq"] == 9
    assert "source 9" in good("count", "transformer-base", "--seq", 5, "--source-seq", 9)
    assert "--source-seq: tiny has no encoder" in bad("count", tiny, "--source-seq", 9)


def test_images(tiny: Path) -> None:
    flops = [json.loads(good("count", "llava-1.5-7b", "--images", n, "--json"))["totals"]["flops_forward"]["value"]
             for n in (0, 1, 3)]
    assert flops[2] - flops[0] == 3 * (flops[1] - flops[0]) > 0
    shown = [good("count", "llava-1.5-7b", *images) for images in ((), ("--images", 1), ("--images", 3))]
    assert all(says in text for says, text in zip(("no images", "1 image ·", "3 images"), shown, strict=True))
    assert "image tower of 24 layers" in shown[0]
    assert "--images: tiny has no second stack that reads images" in bad("count", tiny, "--images", 1)


def test_set_changes_a_field_and_the_report_says_so(tiny: Path) -> None:
    found = json.loads(good("count", tiny, "--set", "attention.kv_heads=3", "--set", "layers=7", "--json"))
    assert found["model"]["overrides"] == ["attention.kv_heads=3", "layers=7"]
    assert found["model"]["spec"]["attention"]["kv_heads"] == 3
    assert "set attention.kv_heads=3" in good("count", tiny, "--set", "attention.kv_heads=3")


def test_set_kv_heads_alone_scales_the_cache_alone(tiny: Path) -> None:
    two, six = totals(tiny), totals(tiny, "--set", "attention.kv_heads=6")
    assert six["kv_cache_bytes"] == 3 * two["kv_cache_bytes"]


def test_a_model_from_stdin(tiny: Path) -> None:
    from_stdin = json.loads(good("count", "-", "--json", stdin=TINY))
    assert from_stdin["totals"] == json.loads(good("count", tiny, "--json"))["totals"]
    assert from_stdin["model"]["source"] == "stdin"


def test_a_report_is_a_model_too(tiny: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.yaml"
    good("count", tiny, "-o", report)
    assert totals(report) == totals(tiny)


def test_the_same_command_gives_the_same_bytes_and_names_itself() -> None:
    first, second = (good("count", "gpt2", "--json") for _ in range(2))
    assert first == second
    assert json.loads(first)["provenance"]["command"] == ["txcalc", "count", "gpt2", "--json"]


def test_by_module_breaks_down_to_operations() -> None:
    out = good("count", "gpt2", "--by-module")
    assert "layers.attention.q" in out and "layers.feed_forward.down" in out
    parts = json.loads(good("count", "gpt2", "--by-module", "--json"))["components"]
    assert sum(part["params"] for part in parts) == 124439808
    assert {"layers.attention.q", "head"} <= {part["path"] for part in parts}


def test_verbose_and_quiet() -> None:
    normal, v, vv, q = (good("count", "gpt3", *flags) for flags in ((), ("-v",), ("-vv",), ("-q",)))
    assert "layers.feed_forward.up.weight" in v and "log-sum-exp" in v and "Published" in v
    assert "175.0B" in v and "174,604,259,328" in v
    assert "log-sum-exp" not in normal and "Published" not in normal
    assert "Sources" in vv and "Sources" not in v
    assert "Where it goes" in normal and "Where it goes" not in q and "Parameters" in q


@pytest.mark.parametrize("flags", [("-q", "count", "gpt2"), ("count", "gpt2", "-q"), ("count", "-q", "gpt2")])
def test_common_options_stand_anywhere(flags: tuple[str, ...]) -> None:
    assert good(*flags) == good("count", "gpt2", "--quiet")


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag: str) -> None:
    assert re.fullmatch(r"txcalc \d+\.\d+\.\d+\n", good(flag))


# ---------------------------------------------------------------- commands


def test_every_command_has_help() -> None:
    everything = good("--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", everything, re.MULTILINE), name
        for flag in ("-h", "--help"):
            out = good(name, flag)
            assert out.startswith(f"Usage: txcalc {name} ")
    assert good("-h") == everything and good().endswith(everything)


def test_help_is_not_cut_off() -> None:
    assert "..." not in good("--help").replace("[ARGS]...", "")


def test_presets_are_listed_by_family_with_their_weights() -> None:
    out = good("presets")
    assert re.search(r"^gpt\n(  .*\n)*  gpt3 +174\.6 B", out, re.MULTILINE)
    assert re.search(r"^transformer\n(  .*\n)*  transformer-base +63\.08 M", out, re.MULTILINE)


def test_presets_search_and_json() -> None:
    found = json.loads(good("presets", "--search", "GPT3-13b", "--json"))["presets"]
    assert [(preset["name"], preset["params"]) for preset in found] == [("gpt3-13b", totals("gpt3-13b")["params"])]
    assert "gpt2" not in good("presets", "--search", "transformer")
    assert bad("presets", "--search", "no such words") == "--search: no preset mentions 'no such words'"


def test_presets_with_what_it_takes_to_serve_them() -> None:
    """The files' own bytes (their index), windows of 128 in every second layer, and what a token adds to the others."""
    found = json.loads(run("presets", "--serving", "--search", "gpt-oss-20b", "--json").stdout)["presets"][0]
    assert found["released_weight_bytes"] == 13_761_264_768
    assert (found["kv_cache_fixed_bytes"], found["kv_cache_bytes_per_token"]) == (12 * 128 * 2048, 12 * 2048)
    assert run("presets", "--serving", "--search", "gpt-oss-20b").stdout.split()[-4:] == [
        "3.000", "MiB", "24.00", "KiB"]
    encoder = json.loads(run("presets", "--search", "bert-base", "--json").stdout)["presets"][0]
    assert encoder["kv_cache_fixed_bytes"] is encoder["kv_cache_bytes_per_token"] is None


def test_presets_show_prints_the_file_with_its_path() -> None:
    out = good("presets", "show", "gpt3-175b")
    first, *_ = out.splitlines()
    assert first.startswith("# ") and first.endswith("gpt3.yaml")
    assert read_yaml(out, "shown").data["name"] == "gpt3"
    assert json.loads(good("count", "-", "--json", stdin=out))["totals"]["params"]["value"] == 174604259328


def test_a_broken_preset_of_the_users_own_is_listed_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nlayres: 3\n")
    monkeypatch.setenv("TXCALC_PRESETS", str(tmp_path))
    assert "unknown field" in " ".join(good("presets").split())  # whose lines break where the path lets them


@pytest.mark.parametrize("document", [
    "preset", "report", "comparison", "attention", "mixers", "explanation", "diff", "validation", "presets",
    "devices", "fit", "memory",
])
def test_schemas_are_valid(document: str) -> None:
    import jsonschema

    schema = json.loads(good("schema", document))
    jsonschema.Draft202012Validator.check_schema(schema)
    args = {
        "report": ("count", "gpt2"), "comparison": ("compare", "gpt2", "gpt3"), "attention": ("attention", "gpt2"),
        "mixers": ("mixers",), "explanation": ("explain", "gpt2", "params"), "diff": ("diff", "gpt2", "gpt2-medium"),
        "validation": ("validate", "gpt2", "--against", "published"),
        "presets": ("presets", "--search", "gpt"), "devices": ("devices",),
        "memory": ("memory", "gpt2", "--device", "t4"), "fit": ("fit", "gpt2", "--device", "t4"),
    }.get(document)
    data = json.loads(good(*args, "--json")) if args else read_yaml(TINY, "tiny").data
    jsonschema.validate(data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "surprise": 1}, schema)


def test_every_preset_is_what_the_schema_in_its_first_line_says() -> None:
    import jsonschema

    schema = jsonschema.Draft202012Validator(json.loads(good("schema", "preset")))
    for info in presets.names():
        data = read_yaml(Path(info.path).read_text(), info.name).data
        assert not [(info.name, error.message) for error in schema.iter_errors(data)]
        assert not schema.is_valid({**data, "attention": {"haeds": 3}})
        assert not schema.is_valid({name: value for name, value in data.items() if name != "d_model"})


@pytest.mark.parametrize(("field", "value"), [
    ("batch", 0), ("seq", 0), ("past", -1), ("source_seq", 0), ("images", -1), ("kv_block", 0), ("dropout", 1),
    ("dropout", -0.5), ("phase", "walking"), ("kv_dtype", None),
])
def test_the_schema_of_a_report_refuses_what_a_workload_does(field: str, value: object) -> None:
    import jsonschema

    schema, data = (json.loads(good(*args)) for args in (("schema", "report"), ("count", "gpt2", "--json")))
    jsonschema.validate(data, schema)
    data["workload"][field] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)
    with pytest.raises(SpecError):
        Workload.of(data["workload"])


def test_completion_knows_presets_and_commands() -> None:
    def complete(line: str) -> list[str]:
        words = str(len(line.split(" ")) - 1)
        found = shell(_TXCALC_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=words)
        return found.stdout.decode().split()

    assert {"gpt3", "gpt3-xl", "gpt3-175b"} <= set(complete("txcalc count gpt3"))
    assert "gpt2" not in complete("txcalc count gpt3")
    assert complete("txcalc co") == ["count", "compare"]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("count", "gpt4"), "unknown preset 'gpt4'; did you mean gpt1, gpt2 or gpt3?"),
        (("count", "zzzzzz"), "unknown preset 'zzzzzz'; 'txcalc presets' lists them; a file needs its path"),
        (("count", "no/such.yaml"), "no/such.yaml: no such file"),
        (("count", "."), None),
        (("count", "./"), "./: is a directory, not a file"),
        (("count", ""), None),
        (("count", "a\0b.yaml"), None),
        (("count",), "missing argument 'MODEL'"),
        (("compare",), None),
        (("count", "gpt2", "gpt3"), None),
        (("compare", "gpt2", "gpt5"), "unknown preset 'gpt5'; did you mean gpt1, gpt2 or gpt3?"),
        (("cuont", "gpt2"), "no such command 'cuont'; did you mean count?"),
        (("gpt2",), "no such command 'gpt2'; did you mean txcalc count gpt2?"),
        (("presets", "gpt2"), "no such command 'gpt2'; did you mean txcalc presets show gpt2?"),
        (("presets", "show", "gpt33"), None),
        (("schema", "reprot"), "no such document 'reprot'; did you mean report?"),
        (("count", "gpt2", "--sqe", "4"), "no such option --sqe; did you mean --seq?"),
        (("count", "gpt2", "--seq"), None),
        (("count", "gpt2", "--seq", "0"), "--seq: must be a whole number of at least 1, got 0"),
        (("count", "gpt2", "--seq", "-1"), "--seq: '-1' is negative: a size is 0 or more"),
        (("count", "gpt2", "--seq", "1.5"), "--seq: '1.5' is not a whole number: the nearest are 1 and 2"),
        (("count", "gpt2", "--seq", "true"), None),
        (("count", "gpt2", "--seq", "9" * 200), None),
        (("count", "gpt2", "--seq", "2K"), "--seq: 2,048 tokens, but gpt2 has 1,024 learned positions"),
        (("count", "gpt2", "--seq", "512,768"), "--seq: '512,768' could be one number or a list: write 512_768 for one"
         "; txcalc attention MODEL --seq takes a list"),
        (("count", "gpt2", "--batch", "1, 2"), "--batch: '1, 2' is a list, and one number is taken here"),
        (("mixers", "--d", "512,768"), "--d: '512,768' could be one number or a list: write 512_768 for one"),
        (("count", "gpt2", "--set", "d_model=512,768"), "--set d_model=512,768: d_model: '512,768' could be one number "
         "or a list: write 512_768 for one; txcalc compare takes a model for each, MODEL@d_model=..."),
        (("count", "gpt2", "--set", "layers=1,2"), "--set layers=1,2: layers: '1,2' is a list, and one number is taken "
         "here; txcalc compare takes a model for each, MODEL@layers=..."),
        (("count", "gpt2", "--batch", "0"), "--batch: must be a whole number of at least 1, got 0"),
        (("count", "gpt2", "--past", "3"), None),
        (("count", "gpt2", "--dropout", "1"), "--dropout: must be a number below 1, got 1.0"),
        (("count", "gpt2", "--dropout", "nan"), None),
        (("count", "gpt2", "--dropout", "half"), "--dropout: must be a number, got 'half'"),
        (("count", "gpt2", "--phase", "trainig"), None),
        (("count", "gpt2", "--kv-dtype", "fp64"), None),
        (("count", "gpt2", "--set", "layers"), None),
        (("count", "gpt2", "--set", "layres=3"), "--set layres=3: layres: unknown field; did you mean layers?"),
        (("count", "gpt2", "--set", "layers=0"), None),
        (("count", "gpt2", "--set", "layers=2.5"), None),
        (("count", "gpt2", "--set", "layers=true"), None),
        (("count", "gpt2", "--set", "attention.kv_heads=5"), None),
        (("count", "gpt2", "--format", "yml"), None),
        (("count", "gpt2", "--json", "--markdown"), "--json and --markdown ask for different formats"),
    ],
)
def test_bad_calls_get_one_line(args: tuple[str, ...], message: str | None) -> None:
    line = bad(*args)
    assert message is None or line == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("layers: -5", "layers: must be a whole number of at least 1, got -5"),
        ("layers: 0", "layers: must be a whole number of at least 1, got 0"),
        ("layers: 1.5", "layers: must be a whole number, got 1.5"),
        ("layers: true", "layers: must be a whole number, got true"),
        ("layers: many", "layers: must be a whole number, got 'many'"),
        ("layres: 5", "layres: unknown field; did you mean layers?"),
        ("layers: 5\nlayers: 6", "layers: duplicate key, first on line 8"),
        ("attention: {heads: 6, kv_heads: 4, head_dim: 4}", None),
        ("feed_forward: {kind: moe, experts: 4, active_experts: 5, d_ff: 8}", None),
    ],
)
def test_bad_specs_get_one_placed_line(tmp_path: Path, change: str, message: str | None) -> None:
    path = tmp_path / "bad.yaml"
    field = change.partition(":")[0]
    path.write_text("".join(f"{line}\n" for line in TINY.splitlines() if not line.startswith(field)) + change + "\n")
    line = bad("count", path)
    assert re.match(rf"{re.escape(str(path))}:\d+:\d+: ", line), line
    assert message is None or line.endswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"   \n\n", "is empty"),
        (bytes(range(256)), None),
        (b"\x7fELF\x00\x00\x01", "is a binary file, not text"),
        (b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
         + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(9)),
         "aliases repeat more than 10,000 values"),
        (b"- 1\n- 2\n", None),
        (b"name: [\n", None),
        (b"name: x\n", "required fields are missing"),
    ],
)
def test_bad_files_get_one_line(tmp_path: Path, content: bytes, message: str | None) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert message is None or message in bad("count", path)
    bad("count", "-", stdin=content)


def test_an_unreadable_file(tiny: Path) -> None:
    tiny.chmod(0)
    if os.access(tiny, os.R_OK):
        pytest.skip("this user may read everything")
    assert bad("count", tiny) == f"{tiny}: cannot be read: permission denied"


def test_a_name_cannot_send_the_terminal_commands(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(TINY.replace("name: tiny", r'name: "a\e[31mb\nc"'))
    for args in ((), ("--markdown",), ("-v",)):
        out = good("count", path, *args)
        assert "\x1b" not in out and "a?\\[31mb?c" in out.replace("?[", "?\\[")


def test_absurdly_many_layers_are_exact(tiny: Path) -> None:
    layers = 10**30
    one, two, many = (totals(tiny, "--set", f"layers={n}") for n in (1, 2, layers))
    for name, value in many.items():
        assert value == one[name] + (layers - 1) * (two[name] - one[name]), name


def test_absurd_numbers_fit_every_format(tiny: Path) -> None:
    setting = ("--set", f"layers={10**30}")
    for form in ("table", "json", "yaml", "csv", "md", "html"):
        assert good("count", tiny, *setting, "--format", form)
    assert "use JSON" in bad("count", tiny, "--set", f"layers={10**99}", "--seq", "1T", "--format", "yaml")


def test_debug_shows_the_traceback() -> None:
    for args in (("--debug", "count", "gpt4"), ("count", "gpt4", "--debug")):
        found = shell(*args)
        assert found.returncode != 0 and b"Traceback" in found.stderr and b"unknown preset" in found.stderr


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_a_written_report_loads_back_equal(tiny: Path, tmp_path: Path, suffix: str) -> None:
    for i, args in enumerate(((), ("--phase", "training", "--dropout", "0.1"), ("--set", f"layers={10**30}"))):
        path = tmp_path / f"report{i}{suffix}"
        assert good("count", tiny, *args, "-o", path) == ""
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if suffix == ".json" else read_yaml(text, str(path)).data
        report = Report.from_data(data)
        assert report.model.name == "tiny"
        again = Report.from_data(json.loads(json.dumps(report.to_data())))
        assert again == report
        direct = json.loads(good("count", tiny, *args, "--json"))
        written = report.to_data()
        assert {**written, "provenance": None} == {**direct, "provenance": None}


@pytest.mark.parametrize(("suffix", "start"), [(".json", "{"), (".yaml", "schema:"), (".csv", "path,"), (".md", "# "),
                                               (".txt", "gpt2 · "), (".JSON", "{"), (".html", "<!doctype html>"),
                                               (".htm", "<!doctype html>")])
def test_the_suffix_chooses_the_format(tmp_path: Path, suffix: str, start: str) -> None:
    path = tmp_path / f"out{suffix}"
    good("count", "gpt2", "-o", path)
    assert path.read_text(encoding="utf-8").startswith(start)


def test_format_without_a_suffix_and_stdout(tmp_path: Path) -> None:
    path = tmp_path / "out"
    good("count", "gpt2", "-o", path, "--format", "csv")
    assert path.read_text() == good("count", "gpt2", "--format", "csv") == good(
        "count", "gpt2", "--format", "csv", "-o", "-")
    assert "no format follows" in bad("count", "gpt2", "-o", tmp_path / "other")
    assert "different formats" in bad("count", "gpt2", "-o", tmp_path / "x.yaml", "--json")


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "report.yaml"
    path.write_text("precious")
    assert bad("count", "gpt2", "-o", path) == f"{path}: exists; --force replaces it"
    assert path.read_text() == "precious"
    path.chmod(0o640)
    good("count", "gpt2", "-o", path, "--force")
    assert path.read_text().startswith("schema:")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["report.yaml"]


def test_force_writes_through_a_link_and_not_over_it(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    good("count", "gpt2", "-o", link, "--force")
    assert link.is_symlink() and json.loads(target.read_text())["schema"] == "txcalc/report/v2"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from txcalc.cli import write

    path = tmp_path / "report.json"
    link = os.link

    def late(source: str, target: str) -> None:
        path.write_text("precious")
        link(source, target)

    monkeypatch.setattr(write.os, "link", late)
    assert bad("count", "gpt2", "-o", path).endswith("exists; --force replaces it")
    assert path.read_text() == "precious" and names(tmp_path) == ["report.json"]


@pytest.mark.parametrize("step", ["fsync", "link", "replace"])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    from txcalc.cli import write

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, step, fail)
    if step == "link":  # a file system without links is no failure until replacing fails too
        monkeypatch.setattr(write.os, "replace", fail)
    force = ["--force"] if step == "replace" else []
    assert bad("count", "gpt2", "-o", tmp_path / "out.json", *force).endswith("no space left on device")
    assert names(tmp_path) == []


def test_bad_targets(tmp_path: Path) -> None:
    assert bad("count", "gpt2", "-o", tmp_path) == f"{tmp_path}: is a directory, not a file"
    missing = tmp_path / "no" / "x.json"
    assert bad("count", "gpt2", "-o", missing) == f"{missing}: there is no directory {missing.parent}"
    assert bad("count", "gpt2", "-o", "/dev/null", "--format", "json", "--force") == "/dev/null: is not a regular file"
    assert bad("count", "gpt2", "-o", "a\0b.json")
    tmp_path.chmod(0o500)
    try:
        if not os.access(tmp_path, os.W_OK):
            assert bad("count", "gpt2", "-o", tmp_path / "x.json").endswith("cannot be written: permission denied")
    finally:
        tmp_path.chmod(0o700)


def test_a_bad_model_writes_no_file(tmp_path: Path) -> None:
    bad("count", "gpt4", "-o", tmp_path / "x.json")
    assert names(tmp_path) == []


# ---------------------------------------------------------------- streams


def terminal(*args: str, columns: int = 80, **env: str) -> str:
    """What a terminal of that width is sent."""
    import fcntl
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment |= {"PYTHONPATH": str(ROOT), "TXCALC_PRESETS": "", "TERM": "xterm-256color", **env}
    process = subprocess.Popen([*CALL, *args], stdout=child, stderr=child, stdin=subprocess.DEVNULL, env=environment)
    os.close(child)
    out = b"".join(_reads(parent))
    assert process.wait(60) == 0
    os.close(parent)
    return out.decode().replace("\r\n", "\n")


def _reads(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # Linux says so when the other end is closed
            return
        if not data:
            return
        yield data


def unstyled(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("args", [("count", "gpt3"), ("count", "gpt3", "--phase", "training", "-v"),
                                  ("count", "transformer-base", "--by-module", "--phase", "training"),
                                  ("compare", "gpt2", "gpt3", "transformer-big"), ("presets",)])
def test_a_terminal_gets_colour_and_lines_that_fit(columns: int, args: tuple[str, ...]) -> None:
    out = terminal(*args, columns=columns)
    assert "\x1b[1m" in out
    assert max(map(len, unstyled(out).splitlines())) <= columns
    assert "…" not in out


def test_hints_only_on_a_terminal() -> None:
    assert "more: " in terminal("count", "gpt2")
    assert "more: " not in terminal("count", "gpt2", "-q")
    assert shell("count", "gpt2").stderr == b""


@pytest.mark.parametrize(("args", "env"), [(("--no-color",), {}), ((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"})])
def test_colour_can_be_switched_off(args: tuple[str, ...], env: dict[str, str]) -> None:
    out = terminal("count", "gpt2", *args, **env)
    assert "\x1b" not in out and "Parameters" in out


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
def test_a_command_that_is_soon_done_shows_no_progress(term: str) -> None:
    out = terminal("attention", "gpt2", "--seq", "64, 128", "-q", TERM=term)
    piped = shell("attention", "gpt2", "--seq", "64, 128", "-q").stdout.decode()
    plain, wide = (text.replace("·", " ").split() for text in (unstyled(out), piped))  # a long line is wrapped at a dot
    assert plain == wide


def test_a_long_command_shows_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", -1)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.progress("lengths") as tell:
        tell(2, 5)
    assert "2/5 lengths" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with progress.progress("lengths") as tell:
        tell(2, 5)
    assert capsys.readouterr().err == ""


def test_columns_overrides_the_terminal() -> None:
    assert max(map(len, unstyled(terminal("count", "gpt3", columns=200, COLUMNS="60")).splitlines())) <= 60


def test_a_pipe_gets_plain_text_and_every_digit() -> None:
    found = shell("count", "gpt3", COLUMNS="20")
    assert b"\x1b" not in found.stdout and "734,804,261,732,352" in found.stdout.decode()


def test_an_ascii_stream_gets_ascii_of_the_same_layout() -> None:
    plain = shell("count", "gpt2", "-v", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")
    rich = shell("count", "gpt2", "-v", PYTHONIOENCODING="utf-8")
    assert (plain.returncode, plain.stderr) == (0, b"")
    text = plain.stdout.decode("ascii")
    assert "attention x 12" in text and "####" in text and "?" not in text
    assert list(map(len, text.splitlines())) == list(map(len, rich.stdout.decode().splitlines()))


def test_a_reader_that_stops_early_is_no_error() -> None:
    for command in ("count gpt2 --json", "count gpt2", "presets"):
        script = f'{" ".join(CALL)} {command} | true; echo "${{PIPESTATUS[0]}}"'
        found = subprocess.run(
            ["bash", "-c", script], capture_output=True, timeout=600, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TXCALC_PRESETS": ""},
        )
        assert (found.stdout, found.stderr) == (b"0\n", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        found = subprocess.run(
            [*CALL, "count", "gpt2"], stdout=full, stderr=subprocess.PIPE, timeout=600, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TXCALC_PRESETS": ""},
        )
    assert (found.returncode, found.stderr) == (2, b"error: stdout: cannot be written: no space left on device\n")


def test_a_closed_stdin_is_one_line() -> None:
    found = subprocess.run(
        ["bash", "-c", f'{" ".join(CALL)} count - <&-'], capture_output=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TXCALC_PRESETS": ""},
    )
    assert (found.returncode, found.stdout, found.stderr) == (2, b"", b"error: stdin: is closed\n")


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    import txcalc.answer.view

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(txcalc.answer.view, "view", interrupted)
    result = run("count", "gpt2")
    assert result.exit_code == 130 and "Traceback" not in result.output


def test_python_dash_m(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "txcalc", "-V"], capture_output=True, timeout=600, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
    )
    assert found.stdout.startswith(b"txcalc ")


# ---------------------------------------------------------------- imports


@pytest.mark.parametrize("args", [("count", "gpt3"), ("compare", "gpt2", "gpt3"), ("presets",), ("--help",)])
def test_what_is_not_needed_is_not_loaded(args: tuple[str, ...]) -> None:
    script = (
        "import sys; from txcalc.cli.app import main\n"
        f"sys.argv = ['txcalc', *{list(args)!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'sympy', 'matplotlib', 'transformers', 'jsonschema', 'rich'} & set(sys.modules)\n"
        "print(*sorted(heavy), file=sys.stderr)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=600, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TXCALC_PRESETS": ""},
    )
    assert found.stderr == b"\n"


def test_the_bare_command_begins_with_examples_that_run(tmp_path: Path) -> None:
    lines = run().stdout.splitlines()
    examples = [line.split("  ")[1] for line in lines[:3]]
    assert lines[3] == "" and lines[4].startswith("Usage: ")
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "gpt2"}', encoding="utf-8")
    for example in examples:
        name, *args = example.replace("path/to/config.json", str(config)).split()
        assert name == "txcalc" and run(*args).exit_code == 0, example
