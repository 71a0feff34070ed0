"""``import txcalc``: light, typed, and the same numbers as the command."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import txcalc
from txcalc.answer.keywords import Run, Together
from txcalc.cli.app import app
from txcalc.trace.layout import Layout
from txcalc.trace.workload import Workload

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "sympy", "matplotlib", "transformers", "rich")


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


def python(script: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TXCALC_PRESETS": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(*args: str) -> Any:
    return json.loads(CliRunner().invoke(app, [*args, "--json"]).stdout)


@pytest.mark.parametrize("script", [
    "import txcalc",
    "import txcalc; txcalc.count(txcalc.load('gpt2'), seq=8)",
    "import sys; sys.argv = ['txcalc', 'count', 'gpt2']\nfrom txcalc.cli.app import main\ntry: main()\n"
    "except SystemExit: pass",
    "import sys; sys.argv = ['txcalc', 'count', 'gpt2', '-f', 'html']\nfrom txcalc.cli.app import main\ntry: main()\n"
    "except SystemExit: pass",
    "import sys; sys.argv = ['txcalc', 'diff', 'gpt2', 'gpt3']\nfrom txcalc.cli.app import main\ntry: main()\n"
    "except SystemExit: pass",
])
def test_nothing_heavy_is_loaded(script: str) -> None:
    last = python(f"{script}\nimport sys; print('loaded', *sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert last.splitlines()[-1] == "loaded"


def test_the_import_alone_loads_next_to_nothing() -> None:
    found = python("import sys, txcalc; print(*sorted(m for m in sys.modules if m.startswith(('txcalc', 'pydantic'))))")
    assert found.split() == ["txcalc", "txcalc.count", "txcalc.explain"]


def test_the_readmes_example_runs() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        scope: dict[str, Any] = {}
        for line in example.splitlines():
            code, _, expected = line.partition("  # ")
            if expected.strip().isdigit():
                assert eval(code, scope) == int(expected)
            else:
                exec(line, scope)


def test_the_docstrings_example_runs() -> None:
    import doctest

    assert doctest.testmod(txcalc).failed == 0 and doctest.testmod(txcalc).attempted == 3


def test_the_same_as_the_commands() -> None:
    assert txcalc.count("gpt2", seq=64).totals.to_data() == command("count", "gpt2", "--seq", "64")["totals"]
    found = command("compare", "gpt2", "gpt3", "--batch", "2")
    assert txcalc.compare("gpt2", txcalc.load("gpt3"), batch=2).to_data()["entries"][0] == found["entries"][0]
    assert txcalc.compare("gpt2", "gpt3").defaults == ("seq",)
    assert txcalc.attention("gpt2", [64, 128]).to_data()["points"] == command(
        "attention", "gpt2", "--seq", "64..128")["points"]
    assert txcalc.diff("gpt2", "gpt3").to_data()["totals"] == command("diff", "gpt2", "gpt3")["totals"]
    explained = txcalc.explain("gpt2", "flops", seq=64)
    assert explained.total == txcalc.count("gpt2", seq=64).totals.flops_forward.value


def test_a_model_may_be_changed_and_written_by_hand() -> None:
    assert txcalc.load("gpt2", ["layers=1"]).layers == 1
    tiny = txcalc.Model.from_data({
        "name": "tiny", "vocab": 5, "d_model": 4, "layers": 1, "context": 8, "attention": {"heads": 2},
        "feed_forward": {"d_ff": 3}, "position": "none",
    })
    assert txcalc.count(tiny).model.source == "python"
    assert txcalc.count("vit-b-16").workload.seq == 197


@pytest.mark.parametrize(("call", "message"), [
    (lambda: txcalc.load("gpt4"), "unknown preset"),
    (lambda: txcalc.count("gpt2", seq=0), "seq: must be a whole number"),
    (lambda: txcalc.count("gpt2", sek=3), "sek: unknown field; did you mean seq?"),
    (lambda: txcalc.count("gpt2", seq=10**6), "1,000,000 tokens, but gpt2"),
    (lambda: txcalc.compare("gpt2", dtype="bf17"), "did you mean bf16?"),
    (lambda: txcalc.compare(), "nothing to compare"),
    (lambda: txcalc.explain("bert-base", "kv-cache"), ""),
    (lambda: txcalc.attention("gpt2", device="h1000"), ""),
    (lambda: txcalc.attention("gpt2", "4..2"), "seq: "), (lambda: txcalc.count("gpt2", seq="4Q"), "seq: "),
    (lambda: txcalc.sweep("gpt2", {"layer": [1]}), "layer: no size of this model"),
    (lambda: txcalc.sweep("gpt2", {"attention.kind": [1]}), "attention.kind: is no size"),
    (lambda: txcalc.sweep("gemma3-1b", {"attention.heads": [1]}), "attention.heads: blocks of this model have"),
    (lambda: txcalc.sweep("gpt2", {"layers": [1, 2], "d_model": [1, 2, 3]}), "arrays of one length"),
    (lambda: txcalc.sweep("gpt2", {}, {"past": [1, 2]}), "past: a forward pass starts"),
    (lambda: txcalc.sweep("gpt2", {}, {"sek": [1]}), "sek: unknown field; did you mean seq?"),
    *[(lambda given=given: txcalc.sweep("gpt2", {"layers": given}), "layers: must be whole numbers of at least 0")
      for given in ([-2], [1.5], [None], ["a"], [[1, 2]], [], "1K..4K")],
    (lambda: txcalc.mixers(with_=3), "with_: unknown field"), (lambda: txcalc.mixers(d=0), "d: must be"),
    (lambda: txcalc.explain("gpt2", "x"), "quantity: nothing explains 'x'"),
    (lambda: txcalc.count(None), "a model is a Model, a name or a path, not NoneType"),
    *[(lambda given=given: txcalc.mixers(given), "seq: lengths are whole numbers of at least 1")
      for given in ([0], [-1], [1.5], [True], [])],
    (lambda: txcalc.validate("gpt2", on="tpu"), "on: must be one of cpu, cuda, fake-cuda"),
    (lambda: txcalc.presets("nothing like it"), "search: no preset"),
])
def test_errors_are_one_line(call: Any, message: str) -> None:
    with pytest.raises(txcalc.SpecError) as found:
        call()
    assert message in str(found.value) and "\n" not in str(found.value)
    assert isinstance(found.value, ValueError)


def test_functions_are_not_lost_to_the_folders_of_their_names() -> None:
    folders = {path.parent.name for path in Path(txcalc.__file__).parent.glob("*/__init__.py")} & set(txcalc.__all__)
    assert folders
    for name in folders:
        inside = next((Path(txcalc.__file__).parent / name).glob("[a-z]*.py")).stem
        python(f"import txcalc\nimport txcalc.{name}.{inside}\nassert callable(txcalc.{name})")


def test_everything_public_is_there_and_documented() -> None:
    for name in txcalc.__all__:
        found = getattr(txcalc, name)
        assert inspect.getdoc(found)
        if inspect.isfunction(found):
            assert "Raises ``SpecError``" in str(found.__doc__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = txcalc.nothing  # type: ignore[attr-defined]


def test_every_field_of_a_workload_can_be_given() -> None:
    given = [name for name in Run.__annotations__ if name != "audio"]  # which says how many images
    assert given == [name for name in Workload.names() if name in Run.__annotations__]
    shown = {"batch", "seq", "phase"}
    assert set(given) | shown | {"layout", "lengths"} == set(Workload.names())
    more = {*Layout.names(), "lengths"}  # in place of a layout; lengths are also what curves and sweeps go over
    assert Together.__annotations__.keys() - Run.__annotations__.keys() == more
    for name in ("count", "compare", "explain", "diff"):
        assert shown <= set(inspect.signature(getattr(txcalc, name)).parameters)


def test_words_and_forms_of_the_command_line() -> None:
    run = txcalc.count("llama3-8b", seq="4K", batch="1,024", phase="train", kv_block="16").workload
    assert (run.seq, run.batch, run.phase, run.kv_block) == (4096, 1024, "training", 16)
    assert [point.seq for point in txcalc.attention("gpt2", "64..256", device=None).points] == [64, 128, 256]
    assert [point.seq for point in txcalc.mixers("16..64", d=32).mixers[0].points] == [16, 32, 64]
    assert [each.name for each in txcalc.presets("2302.13971").presets][:1] == ["llama-7b"]
    assert txcalc.validate("opt-125m").agrees
    numpy = pytest.importorskip("numpy")
    assert txcalc.count("gpt2", batch=numpy.int64(3), seq=numpy.int32(5)).workload.batch == 3


def test_a_notebook_shows_the_tables_of_an_answer() -> None:
    answers = (txcalc.count("gpt2"), txcalc.compare("gpt2", "gpt3"), txcalc.explain("gpt2"), txcalc.presets("gpt2"))
    for answer in answers:
        shown = str(answer._repr_html_())
        assert shown.startswith('<div class="txcalc">') and "124,439,808" in shown and "<svg" not in shown
    assert answers[0].totals._repr_html_() is None


def test_a_short_repr() -> None:
    report = txcalc.count("gpt2", seq=64)
    assert repr(report) == (
        "Report(gpt2: 124.4 M params, 15.96 GFLOP forward, 237.4 MiB of weights; batch 1, seq 64, bf16, forward)")
    assert repr(report.totals.params) == "124,439,808 params (exact)" and int(report.totals.params) == 124439808


@pytest.mark.parametrize(("model", "sizes", "lengths", "run"), [
    ("gpt2", {"layers": [1, 2, 12]}, {"seq": [64, 64, 1]}, {}),
    ("t5-base", {}, {}, {}), ("whisper-tiny", {}, {"seq": [1, 7]}, {}),
    ("bart-base", {}, {"seq": [3, 64]}, {"phase": "training"}),
    ("gpt2", {"attention.head_dim": [300, 64, 60, 10, 256]}, {"seq": [64] * 5}, {"phase": "training"}),
    ("llama3.1-8b", {"attention.kv_heads": [32, 8, 4]}, {}, {"phase": "training", "seq": 64, "attention": "efficient"}),
    ("llama3.1-8b", {"attention.kv_heads": [32, 8, 4]}, {}, {"phase": "training", "seq": 64, "dtype": "fp32"}),
    ("lfm2-1.2b", {}, {"past": [0, 1, 2]}, {"phase": "decode", "seq": 1}),
    ("qwen3-next-80b-a3b", {}, {"past": [0, 1, 100]}, {"phase": "prefill", "seq": 1}),
    ("mixtral-8x7b", {}, {"seq": [1, 2, 64], "batch": [1, 2, 1]}, {"phase": "training"}),
])
def test_a_sweep_is_the_counts_of_its_variants(model: str, sizes: Any, lengths: Any, run: Any) -> None:
    """Also where one variant runs another kernel than the next."""
    found = txcalc.sweep(model, sizes, lengths, **run)
    compared = 0
    for i in range(len(next(iter({**sizes, **lengths}.values()), [0]))):
        changes = ",".join(f"{path}={values[i]}" for path, values in sizes.items())
        of_lengths = {name: values[i] for name, values in lengths.items()}
        totals = txcalc.count(f"{model}@{changes}" if changes else model, **{**run, **of_lengths}).totals
        for name, values in found.items():
            quantity = getattr(totals, name)
            if quantity is not None:
                assert int(values[i]) == quantity.value, (name, i)
                compared += 1
    assert compared >= 4



def test_it_is_typed(tmp_path: Path) -> None:
    assert files("txcalc").joinpath("py.typed").is_file() and files("txcalc.show").joinpath("page.css").is_file()
