"""Models side by side: the same numbers as one by one, in every format and shape."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from showing import render
from typer.testing import CliRunner

import txcalc
from txcalc import units
from txcalc.answer.comparison import Comparison, compare
from txcalc.answer.report import Named, Origin, count
from txcalc.cli.app import app
from txcalc.models.load import load
from txcalc.show.terminal import Screen
from txcalc.show.writers import FORMATS
from txcalc.spec.errors import SpecError
from txcalc.spec.yaml import read_yaml
from txcalc.trace.workload import Workload

PIPE = Screen()
THREE = ("gpt2", "gpt3", "transformer-big")
SIX = (*THREE, "gpt1", "gpt2-xl", "gpt3-13b")


@pytest.fixture(autouse=True)
def no_user_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCALC_PRESETS", "")


def compared(*names: str, **given: object) -> Comparison:
    return compare([Named(loaded.model, Origin(loaded.source)) for loaded in map(load, names)], given)


def table(*names: str, width: int | None = None, **given: object) -> str:
    return render(compared(*names, **given), "table", Screen(width))


def row(out: str, label: str) -> list[str]:
    line = next(line for line in out.splitlines() if line.startswith(label))
    return re.split(r" {2,}", line.removeprefix(label).strip())


def test_every_entry_is_that_models_own_report() -> None:
    found = compared(*THREE, seq=512)
    for name, entry in zip(THREE, found.entries, strict=True):
        report = count(load(name).model, Workload(seq=512))
        assert (entry.model.name, entry.totals, entry.workload) == (name, report.totals, report.workload)


def test_without_seq_the_shortest_default_serves_all_and_is_named() -> None:
    found = compared(*THREE)
    assert {entry.workload.seq for entry in found.entries} == {512}
    assert "seq 512 for all (shortest default)" in table(*THREE).splitlines()[0]
    assert "seq 512 for all ·" in table(*THREE, seq=512).splitlines()[0]
    decode = table(*THREE, phase="decode").splitlines()[0]
    assert "seq 1 for all · 511 cached (shortest default)" in decode


def test_the_picture_of_the_terminal() -> None:
    out = table("gpt2", "gpt3", seq=1024)
    assert row(out, "Parameters") == ["124.4 M", "174.6 B"]
    assert "124,439,808  174,604,259,328" in out
    assert row(out, "  relative") == ["1×", "1,403.1×"]
    assert row(out, "Layers × width") == ["12 × 768", "96 × 12,288"]
    assert row(out, "Heads / KV heads") == ["12 / 12", "96 / 96"]
    assert row(out, "FLOPs per token") == ["284.8 MFLOP", "354.0 GFLOP"]
    assert row(out, "Weights") == ["237.4 MiB", "325.2 GiB"]
    assert row(out, "KV cache at seq") == ["36.00 MiB", "4.500 GiB"]
    assert row(out, "  grows by") == ["36.00 KiB/token", "4.500 MiB/token"]
    assert "  fixed" not in out
    assert row(out, "  without masked pairs") == ["266.0 MFLOP", "351.5 GFLOP"]
    assert row(out, "KV cache at max context") == ["36.00 MiB", "9.000 GiB"]


@pytest.mark.parametrize("given", [{"seq": 3}, {"phase": "decode", "past": 7}])
def test_the_cache_at_max_context_is_that_of_a_prefill_of_it(given: dict[str, object]) -> None:
    found = compared("gpt2", "gpt3-xl", "transformer-base", batch=2, kv_dtype="fp8", **given)
    for entry in found.entries:
        model = load(entry.model.name).model
        alone = count(model, Workload.prefill(seq=model.context, batch=2, kv_dtype="fp8"))
        assert entry.kv_cache_bytes_at_context == alone.totals.kv_cache_bytes is not None


def test_beyond_four_models_each_is_a_row() -> None:
    out = table(*SIX)
    head = next(line for line in out.splitlines() if "Parameters" in line)
    assert "Weights" in head and "gpt2" not in head
    for name in SIX:
        counted = count(load(name).model, Workload(seq=1)).totals.params.value
        assert row(out, f"{name} ")[0] == units.params(counted)
    four = table(*SIX[:4])
    assert all(name in next(line for line in four.splitlines() if "gpt2" in line) for name in SIX[:4])


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("names", [THREE, SIX])
def test_what_does_not_fit_goes_below_and_nothing_is_lost(width: int, names: tuple[str, ...]) -> None:
    out, whole = table(*names, width=width), table(*names)
    assert max(map(len, out.splitlines())) <= width
    numbers = re.findall(r"[\d.,]+ [A-Za-z]+|[\d,.]+×", whole.split("\n\n")[1])
    assert numbers and all(number in out for number in numbers)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("names", [("gpt2",), THREE, SIX])
def test_every_format(form: str, names: tuple[str, ...]) -> None:
    found = compared(*names)
    out = render(found, form, PIPE)  # type: ignore[arg-type]
    if form in ("json", "yaml"):
        data = json.loads(out) if form == "json" else read_yaml(out, "out").data
        assert data["schema"] == "txcalc/comparison/v1"
        assert Comparison.from_data(data) == found
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["name"] for row in rows] == list(names)
        assert [int(row["params"]) for row in rows] == [entry.totals.params.value for entry in found.entries]
        assert {row["flops_backward"] for row in rows} == {""}
    else:
        assert all(name in out for name in names)


def test_markdown_puts_many_models_in_rows() -> None:
    lines = render(compared(*SIX), "md", PIPE).splitlines()
    assert len([line for line in lines if line.startswith("| gpt")]) == 5
    bars = {line.count("|") for line in lines if line.startswith("|")}
    assert len(bars) == 1


def test_the_same_model_twice_and_overrides_for_all() -> None:
    result = CliRunner().invoke(app, ["compare", "gpt2", "gpt3", "--set", "layers=1", "--json"])
    data = json.loads(result.stdout)
    assert [entry["model"]["spec"]["layers"] for entry in data["entries"]] == [1, 1]
    assert data["provenance"]["command"] == ["txcalc", "compare", "gpt2", "gpt3", "--set", "layers=1", "--json"]
    assert row(table("gpt2", "gpt2"), "  relative") == ["1×", "1×"]


def test_a_model_that_does_not_fit_is_named() -> None:
    with pytest.raises(SpecError, match=r"2,048 tokens, but gpt2 has 1,024"):
        compared("gpt3", "gpt2", seq=2048)
    with pytest.raises(SpecError, match="at least 1"):
        compared("gpt3", seq=0)
    with pytest.raises(SpecError):
        compared()
    result = CliRunner().invoke(app, ["compare", "gpt3", "gpt2", "--seq", "2K"])
    assert result.exit_code == 2
    assert result.stderr == "error: --seq: 2,048 tokens, but gpt2 has 1,024 learned positions\n"
    result = CliRunner().invoke(app, ["compare", "gpt2", "vit-b16"])
    assert result.stderr == "error: vit-b16 makes 197 positions of every input: give --seq 197 for all\n"


def test_saved_answers_keep_their_ranks(tmp_path: Path) -> None:
    """Where they are not of one workload, each column is of a rank in its own layout, and says which."""
    run = CliRunner().invoke
    for name, model, tp in (("a", "gpt2", "4"), ("b", "llama3-8b", "8")):
        args = ["count", model, "--tp", tp, "--seq", "64", "-o", str(tmp_path / f"{name}.json")]
        assert run(app, args).exit_code == 0
    found = run(app, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "gpt2", "--seq", "64"])
    rows = {line.split("  ")[0] or line.split()[0]: line.split() for line in found.stdout.splitlines() if line}
    assert rows["Of ranks"][2:] == ["tp", "4", "tp", "8", "all", "on", "one"] and "tp" not in found.stdout[:80]
    assert rows["exactly"][1:] == [
        f"{txcalc.count(name, seq=64, tp=tp).totals.params.value:,}"
        for name, tp in (("gpt2", 4), ("llama3-8b", 8), ("gpt2", 1))]
    same = run(app, ["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]).stdout
    assert " · tp 4 · " in same.splitlines()[0] and "Of ranks" not in same
