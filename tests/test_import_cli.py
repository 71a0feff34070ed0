"""A Hugging Face configuration wherever a MODEL is taken, and everything that can be wrong with one."""

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from steps import steps
from typer.testing import CliRunner, Result

from txcalc.cli.app import app
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.jsontext import read_json
from txcalc.spec.yaml import read_yaml

FACTS = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
LLAMA: dict[str, Any] = FACTS["llama-3-8b"]["config"]
PARAMS = 8_030_261_248


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


def run(*args: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)


def params(*args: object, stdin: str | None = None) -> int:
    result = run("count", *args, "--json", stdin=stdin)
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)["totals"]["params"]["value"]
    assert isinstance(value, int)
    return value


def bad(*args: object, stdin: str | bytes | None = None, code: int = 2) -> str:
    result = run(*args, stdin=stdin)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def config(folder: Path, data: Any = LLAMA, name: str = "Llama-3-8B", **more: Any) -> Path:
    """``name/config.json``, indented by two."""
    path = folder / name / "config.json"
    path.parent.mkdir(exist_ok=True)
    text = data if isinstance(data, str) else json.dumps({**data, **more}, indent=2)
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- where it comes from


def test_a_path_a_folder_and_stdin(tmp_path: Path) -> None:
    path = config(tmp_path)
    assert params(path) == params(path.parent) == params("-", stdin=path.read_text()) == PARAMS


def test_other_names_and_tabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("llama.json", "LLAMA.JSON", "llama"):
        Path(name).write_text(json.dumps(LLAMA, indent="\t"))
        assert params(name) == PARAMS
    Path("bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode())
    assert params("bom.json") == PARAMS


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(path: Path) -> str:
        return load(str(path)).model.name

    path = config(tmp_path)
    assert named(path) == named(path.parent) == "Llama-3-8B"
    monkeypatch.chdir(path.parent)
    assert named(Path("config.json")) == "Llama-3-8B"
    other = tmp_path / "mine.json"
    other.write_text(path.read_text())
    assert named(other) == "mine"
    assert named(config(tmp_path, _name_or_path="meta-llama/Meta-Llama-3-8B")) == "meta-llama/Meta-Llama-3-8B"
    assert named(config(tmp_path, _name_or_path="/home/me/run/3")) == "Llama-3-8B"
    cache = tmp_path / "models--org--name" / "snapshots"
    cache.mkdir(parents=True)
    assert named(config(cache, name="0123abc")) == "org/name"


def test_everywhere(tmp_path: Path) -> None:
    path = config(tmp_path)
    table = run("compare", "gpt2", path)
    assert table.exit_code == 0
    assert "8,030,261,248" in table.stdout
    assert run("explain", path, "params").exit_code == 0


def test_overrides_change_the_spec(tmp_path: Path) -> None:
    path = config(tmp_path)
    assert params(path, "--set", "layers=16") < PARAMS
    assert params(path, "--set", "head.tied=true") == PARAMS - 128_256 * 4_096
    line = bad("count", path, "--set", "attention.kv_heads=5")
    assert line.startswith("error: --set attention.kv_heads=5: attention.kv_heads: 5 does not divide heads 32")


def test_a_report_and_a_spec_in_json_are_no_configurations(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(run("count", "gpt2", "--json").stdout)
    assert params(path) == 124_439_808
    short = json.dumps({"name": "x", "vocab": 97, "d_model": 24, "layers": 2, "context": 9, "attention": {"heads": 4},
                        "feed_forward": {"d_ff": 41}, "position": "none"})
    assert params("-", stdin=short) > 0
    assert params("-", stdin="{name: x, vocab: 97, d_model: 24, layers: 2, context: 9, attention: {heads: 4}, "
                             "feed_forward: none, position: none}") > 0


def test_infinity_as_python_writes_it() -> None:
    """Mamba-2's configurations hold one; it is a number like any other, so that a size cannot be one."""
    text = '{"model_type": "mamba2", "num_hidden_layers": 2, "vocab_size": 100, "time_step_limit": [0.0, %s]}'
    assert params("-", stdin=text % "Infinity") == params("-", stdin=text % "0.1") > 0


# ---------------------------------------------------------------- what is wrong with it


@pytest.mark.parametrize(("text", "words"), [
    ("", "is empty"),
    ('{"model_type": "llama"', ":1:23: not valid JSON: the text ends too early: ',' or '}' is expected"),
    ('{"model_type": "lla', ":1:16: not valid JSON: unterminated string"),
    ('{\n  "a": 1,\n  "b" 2}', ":3:7: not valid JSON: ':' is expected"),
    ('{"a": 1,}', ":1:9: not valid JSON: a comma before '}' is not allowed"),
    ("{'a': 1}", ":1:2: not valid JSON: a field's name in double quotes is expected"),
    ('{"a": NaN}', ":1:7: not valid JSON: NaN is not JSON"),
    ('{"a": -Infinit}', ":1:7: not valid JSON: -Infinit is not JSON"),
    ('{"model_type": "llama", "hidden_size": Infinity}', "hidden_size: must be a whole number of at least 1, got inf"),
    ('{"a": 1e999}', "is too large"), ('{"a": 01}', "not a number"), ('{"a": 1.}', "not valid JSON"),
    ('{"a": ' + "9" * 5000 + "}", "a whole number of more than 100 digits"),
    ('{"a": 1, "a": 2}', ":1:10: a: not valid JSON: duplicate key, first on line 1"),
    ("[1, 2]", ":1:1: the top level must be a JSON object, got a list"),
    ('"text"', "the top level must be a JSON object"), ("null", "the top level must be a mapping of fields, got null"),
    ('{"a": ' * 100_000, "nested more than 32 levels deep"), ('{"a": ' + "[" * 100_000, "nested more than 32 levels"),
    ('{"a": ' + "[" * 900 + "]" * 900 + "}", "nested more than 32 levels"),
    ('{"a": 1} {"b": 2}', ":1:10: not valid JSON: text after the end of the object"),
    ('{"a": "\t"}', "not valid JSON: invalid control character"),
    ('{"model_type": 3}', ":1:2: model_type: required field is missing"),
    ('{"architectures": ["GPT2LMHeadModel"]}', "is missing; its class is that of gpt2 and gpt-sw3"),
    ('{"hidden_size": 5}', "model_type: required field is missing"),
])
def test_bad_text(tmp_path: Path, text: str, words: str) -> None:
    path = config(tmp_path, text)
    with steps() as taken:
        line = bad("count", path)
    assert line.startswith(f"error: {path}:")
    assert words in line
    assert len(line) < 1000
    assert taken() < 200_000


def test_a_hundred_megabytes_are_refused_at_once(tmp_path: Path) -> None:
    path = config(tmp_path, '{"a": "')
    with path.open("ab") as file:
        file.truncate(100 * 2**20)
    tracemalloc.start()
    try:
        assert "is larger than 8,388,608 bytes" in bad("count", path)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert "is larger than 8,388,608 bytes" in bad("count", "-", stdin=b'{"a": "' + bytes(10 * 2**20))


@pytest.mark.parametrize(("more", "words"), [
    ({"num_key_value_heads": 7}, ": num_key_value_heads: 7 does not divide heads 32; use one of 1, 2, 4, 8, 16, 32"),
    ({"num_attention_heads": 30}, ": num_attention_heads: 30 does not divide d_model 4096"),
    ({"hidden_size": 0}, ": hidden_size: must be a whole number of at least 1, got 0"),
    ({"hidden_size": "4096"}, ": hidden_size: must be a whole number"),
    ({"hidden_size": 4096.0}, ": hidden_size: must be a whole number"),
    ({"vocab_size": True}, ": vocab_size: must be a whole number"),
    ({"num_hidden_layers": 10**9}, ": num_hidden_layers: must be a whole number of at most 10,000"),
    ({"attention_bias": "yes"}, ": attention_bias: must be true or false"),
    ({"mtp_layer_types": 3},
     ": mtp_layer_types: not understood for model_type llama, and it could change the architecture (value 3)"),
    ({"model_type": "llamo"}, ": model_type: 'llamo' is not known; did you mean llama?"),
    ({"model_type": "mimo", "architectures": ["MiMoForCausalLM"]},
     ": model_type: 'mimo' is not known, nor is its class 'MiMoForCausalLM'"),
    ({"peft_type": "LORA", "base_model_name_or_path": "a/b"}, ": peft_type: an adapter, no model: count 'a/b' with"),
    ({"model_type": "new", "auto_map": {"AutoModel": "x.Y"}}, "its auto_map is code from the hub, which is never run"),
    ({"architectures": ["LlamaForJokes"]}, ": architectures: class 'LlamaForJokes' is not known for model_type llama"),
    ({"architectures": "LlamaForCausalLM"}, ": architectures: must be a list of classes"),
    ({"hidden_act": "sine"}, ": hidden_act: 'sine' is not known"),
])
def test_bad_fields(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    path = config(tmp_path, **more)
    line = bad("count", path)
    assert words in line
    place, _, _ = line.removeprefix(f"error: {path}:").partition(": ")
    row, column = map(int, place.split(":"))
    assert 1 <= row <= path.read_text().count("\n") + 1
    assert column >= 1


@pytest.mark.parametrize("packing", [{"quant_method": "new"}, {"quant_method": "awq", "bits": [4]}, [4]])
def test_how_weights_are_packed_stops_no_other_count(tmp_path: Path, packing: object) -> None:
    path = config(tmp_path, quantization_config=packing)
    found, strictly = json.loads(run("count", path, "--json").stdout), bad("count", path, "--strict")
    assert found["totals"]["weight_bytes"] is None and "quantization_config" in strictly
    assert any("bytes of the weights are left out" in note for note in found["notes"])
    assert json.loads(run("count", path, "--json", "--weights", "bf16").stdout)["totals"]["weight_bytes"]
    assert "–" in run("compare", path, "gpt2").stdout
    assert run("attention", path).stdout and run("explain", path, "params").stdout
    assert "is not understood" in bad("explain", path, "weights")
    plain = json.loads(run("count", config(tmp_path), "--json").stdout)["totals"]
    assert {**plain, "weight_bytes": None, "training_state_bytes": None} == {
        **found["totals"], "training_state_bytes": None}


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Unknown options, a name that contradicts, a wrong value, and sizes that do not go together."""
    fields = ("v_head_dim", "n_embd", "num_key_value_heads")
    lines = run("count", config(tmp_path, v_head_dim=7, n_embd=7, num_key_value_heads=3)).stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == list(fields)
    lines = run("count", config(tmp_path, v_head_dim=7, hidden_act="sine", num_key_value_heads=3)).stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == ["hidden_act", "v_head_dim"]  # the third may come of the first


def test_a_value_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    path = config(tmp_path, FACTS["pythia-160m"]["config"], rotary_pct=[1])
    assert re.fullmatch(f"error: {path}:\\d+:3: rotary_pct: a gpt_neox model cannot have a list\n",
                        bad("count", path))


@pytest.mark.parametrize("more", [
    {"sliding_window": "x", "model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "first_k_dense_replace": "x"},
    {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "attention_types": [[["global"], 10**9]]},
    {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "attention_types": 3},
    {"model_type": "dbrx", "architectures": ["DbrxForCausalLM"], "attn_config": [1]},
    {"model_type": "albert", "architectures": ["AlbertModel"], "num_hidden_groups": 10**9},
    {"rope_parameters": "x"}, {"partial_rotary_factor": "x"}, {"rope_parameters": [1]}, {"head_dim": -1},
    {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 0},
])
def test_values_of_a_wrong_type_never_end_in_a_traceback(tmp_path: Path, more: dict[str, Any]) -> None:
    with steps() as taken:
        result = run("count", config(tmp_path, **more))
    assert taken() < 200_000
    assert result.exit_code in (0, 2)
    assert result.exit_code == 0 or all(line.startswith("error: ") for line in result.stderr.splitlines())


# ---------------------------------------------------------------- notes


def test_auto_map_is_passed_over_where_the_type_is_known(tmp_path: Path) -> None:
    path = config(tmp_path, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    result = run("count", path, "--json")
    assert json.loads(result.stdout)["totals"]["params"]["value"] == PARAMS
    assert result.stderr == f"note: {path}: auto_map names code, which is never run; read as model_type llama\n"
    assert run("count", path, "--json", "--quiet").stderr == ""


def test_a_dtype_of_another_width_is_noted(tmp_path: Path) -> None:
    path = config(tmp_path, torch_dtype="float32")
    assert run("count", path, "--json").stderr == f"note: {path}: its weights are fp32; counted in bf16, see --dtype\n"
    for args in (["--dtype", "fp32"], ["--dtype", "bf16"], ["-q"]):
        assert run("count", path, "--json", *args).stderr == ""
    for known in ("bfloat16", "float16"):
        assert run("count", config(tmp_path, dtype=known), "--json").stderr == ""


# ---------------------------------------------------------------- the hub


def test_without_the_package_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = bad("count", "hf:org/name", code=3)
    assert line == "error: hf:org/name needs huggingface_hub: pip install huggingface_hub\n"


@pytest.mark.parametrize("name", ["hf:", "hf:a b", "hf:/etc/passwd", "hf:a/b/c", "hf:../..", "hf:org/name@"])
def test_what_is_no_name(name: str) -> None:
    assert bad("count", name) == f"error: {name}: write it as hf:org/name or hf:org/name@revision\n"


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    import socket

    def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror("no name service")

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    line = bad("count", "hf:org/name-that-is-not-in-any-cache")
    assert line == ("error: hf:org/name-that-is-not-in-any-cache: the hub cannot be reached, "
                    "and it is not in the cache\n")


def test_only_the_configuration_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(*args: object, **more: object) -> str:
        asked.append((args, more["revision"]))
        return str(config(tmp_path))

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert params("hf:org/name@v1.0") == PARAMS
    assert asked == [(("org/name", "config.json"), "v1.0")]
    assert load("hf:org/name").model.name == "org/name"
    assert load("hf:org/name").source == "hf:org/name"


def test_a_bare_name_is_never_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    code = ("import sys, socket\n"
            "def no(*a, **k): raise AssertionError('network')\n"
            "socket.getaddrinfo = socket.create_connection = no\n"
            "from txcalc.models.load import load\n"
            "for name in ('org/name', 'llama-99b'):\n"
            "    try: load(name)\n"
            "    except ValueError as error: print(error)\n"
            "assert 'huggingface_hub' not in sys.modules\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("org/name: no such file and no such preset; hf:org/name")
    assert done.stdout.splitlines()[1].startswith("unknown preset 'llama-99b'")


# ---------------------------------------------------------------- txcalc import


@pytest.mark.parametrize("name", FACTS)
def test_import_writes_a_spec_of_the_same_model(tmp_path: Path, name: str) -> None:
    path = config(tmp_path, FACTS[name]["config"], name)
    target = tmp_path / "spec.yaml"
    result = run("import", path, "-o", target)
    assert (result.exit_code, result.stdout) == (0, "")
    assert load(str(target)).model == load(str(path)).model


def test_import_prints(tmp_path: Path) -> None:
    result = run("import", config(tmp_path))
    data = read_yaml(result.stdout, "out.yaml").data
    assert data["attention"] == {"heads": 32, "kv_heads": 8}
    assert result.stdout.count("\n") < 25
    assert read_yaml(run("import", config(tmp_path), "--set", "layers=7").stdout, "").data["layers"] == 7


def test_import_check_writes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "spec.yaml"
    result = run("import", config(tmp_path), "--check", "-o", target)
    assert (result.exit_code, result.output, target.exists()) == (0, "", False)
    assert "mtp_layer_types: not understood" in bad("import", config(tmp_path, mtp_layer_types=3), "--check")


def test_what_no_class_reads_is_passed_over_and_said_or_refused(tmp_path: Path) -> None:
    path = config(tmp_path, mystery=3, puzzle=None)
    result = run("import", path)
    note = f"note: {path}: passed over 2 fields that LlamaForCausalLM does not read: mystery, puzzle"
    assert (result.exit_code, result.stderr) == (0, f"{note}\n")
    assert result.stdout == run("import", config(tmp_path)).stdout
    for command in ("count", "import"):
        assert "mystery: not understood for model_type llama" in bad(command, config(tmp_path, mystery=3), "--strict")
    path = config(tmp_path, mystery=3, puzzle=None)
    counted = run("count", path)
    assert counted.stderr.count(note) == 0 and "passed over 2 fields" in " ".join(counted.stdout.split())
    counted = run("count", path, "--json")
    assert counted.stderr == f"{note}\n" and f"note: {json.loads(counted.stdout)['notes'][0]}" == note
    coded = run("import", config(tmp_path, mystery=3, auto_map={"AutoModel": "m.M"}))
    assert "does not read: mystery; the repository's own code, which auto_map names, may differ\n" in coded.stderr


def test_import_replaces_a_file_only_when_told(tmp_path: Path) -> None:
    target = tmp_path / "spec.yaml"
    target.write_text("mine")
    assert bad("import", config(tmp_path), "-o", target) == f"error: {target}: exists; --force replaces it\n"
    assert run("import", config(tmp_path), "-o", target, "--force").exit_code == 0
    assert params(target) == PARAMS


# ---------------------------------------------------------------- JSON itself


def test_json_agrees_with_the_standard_library() -> None:
    for name, facts in FACTS.items():
        for indent in (None, 1, "\t"):
            text = json.dumps(facts, indent=indent)
            assert read_json(text, name).data == facts
    odd = '{ "a\\"b\\u00e9\\ud83d\\ude00\\/": [ -0.5e-3, 0, -7, 1E+2 ], "":{}, "c":[] , "d": [null,true,false]}\r\n'
    assert read_json(odd, "odd").data == json.loads(odd)


def test_json_places() -> None:
    document = read_json('{\n  "a": {"b": [1,\n    22]}\n}', "x")
    assert document.where(("a",)) == (2, 3)
    assert document.where(("a", "b")) == (2, 9)
    assert document.where(("a", "b", 1)) == (3, 5)
    with pytest.raises(SpecError):
        read_json('{"a": 1} x', "x")


# ---------------------------------------------------------------- fields that files in use have


def test_gemma_2_may_give_its_window_twice(tmp_path: Path) -> None:
    gemma = {**FACTS["gemma-2-2b"]["config"], "sliding_window": 4096}
    once = params(config(tmp_path, gemma))
    assert params(config(tmp_path, gemma, sliding_window_size=4096)) == once
    assert "only 4096 is understood, got 512" in bad("count", config(tmp_path, gemma, sliding_window_size=512))
