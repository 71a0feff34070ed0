"""Figures: every kind in every format, with its axes and its workload named; and what happens without matplotlib."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from showing import blocks
from typer.testing import CliRunner

from txcalc.answer.comparison import compare
from txcalc.answer.curve import attention_curve
from txcalc.answer.devices import device
from txcalc.answer.mixer_table import mixers
from txcalc.answer.report import Named, count
from txcalc.answer.view import view
from txcalc.cli.app import app
from txcalc.show import plot
from txcalc.show.drawing import COLOURS, Dot, Line
from txcalc.spec.errors import MissingPackage
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

pytest.importorskip("matplotlib")

TINY = Model.from_data({
    "name": "tiny$", "vocab": 31, "d_model": 24, "layers": 5, "context": 64, "attention": {"heads": 6},
    "feed_forward": {"d_ff": 41}, "position": "none",
})
ENCODER = TINY.replaced(name="encoder", architecture="encoder-only")

ANSWERS: dict[str, Callable[[], Any]] = {
    "attention": lambda: attention_curve(TINY, Workload(seq=1, batch=3), (1024, 4096), device("h100")),
    "decoding": lambda: attention_curve(
        TINY, Workload(seq=1, phase="decode", batch=3), (1024,), device("tpu-v5e")),
    "encoder": lambda: attention_curve(ENCODER, Workload(seq=1, batch=3), (7, 9)),
    "mixers": lambda: mixers(workload=Workload(seq=1, batch=3), lengths=(1024, 2048)),
    "breakdown": lambda: view(TINY, {"seq": 32, "batch": 3}),
    "prefill": lambda: view(TINY, {"seq": 32, "batch": 3, "phase": "prefill"}),
    "comparison": lambda: compare([Named(TINY), Named(ENCODER)], {"seq": 32, "batch": 3}),
}
every_figure = pytest.mark.parametrize("name", ANSWERS)


def drawn(name: str, form: str = "svg") -> bytes:
    return plot.write(blocks(ANSWERS[name]()), form)


def words(svg: bytes) -> str:
    return " ".join(re.findall(r"<text[^>]*>([^<]*)", svg.decode()))


@every_figure
def test_every_format(name: str) -> None:
    assert drawn(name, "png").startswith(b"\x89PNG")
    assert drawn(name, "pdf").startswith(b"%PDF")
    assert b"<svg" in drawn(name, "svg")


@every_figure
def test_the_same_answer_gives_the_same_bytes(name: str) -> None:
    assert drawn(name, "svg") == drawn(name, "svg")


@every_figure
def test_axes_and_workload_are_named(name: str) -> None:
    shown = words(drawn(name, "svg"))
    assert "batch 3" in shown and "bf16" in shown
    units = {"mixers": "FLOP, one forward pass", "breakdown": "FLOP, forward pass", "prefill": "FLOP, forward pass",
             "comparison": "bytes, log scale"}
    assert units.get(name, "sequence length, log scale") in shown
    if name not in ("comparison", "mixers", "encoder"):
        assert "tiny$" in shown


def test_what_is_drawn_is_what_was_counted() -> None:
    assert "H100 80GB, 79.65 GiB" in words(drawn("attention"))
    report = count(TINY, Workload(seq=32, batch=3))
    attention = next(part for part in report.components if part.path.endswith("attention"))
    share = 100 * attention.params / report.totals.params.value
    assert f" · {share:.1f} %" in words(drawn("breakdown"))


def test_lines_differ_without_colour() -> None:
    """Every line has a mark, or the dash of its curve, of its own."""
    looks = {(Dot(0, 0, i).shape, Dot(0, 0, i).hollow, Line((), "curve", i).dash) for i in range(COLOURS)}
    assert len(looks) == COLOURS <= len(plot._COLOURS)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackage, match=re.escape("a figure needs matplotlib: pip install matplotlib")):
        drawn("mixers")


# ---------------------------------------------------------------- --plot


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize("command", [
    ("count", "gpt2"), ("compare", "gpt2", "gpt1"), ("attention", "gpt2", "--seq", "1K,2K"),
    ("mixers", "--seq", "1K,2K"),
])
def test_the_figure_comes_beside_the_answer(command: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "figure.SVG"
    result = run(*command, "--plot", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == run(*command).stdout
    assert path.read_bytes().startswith(b"<?xml")
    again = run(*command, "--plot", path)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "--force" in again.stderr
    assert run(*command, "--plot", path, "--force").exit_code == 0


def test_a_figure_of_another_kind(tmp_path: Path) -> None:
    result = run("count", "gpt2", "--plot", tmp_path / "x.gif")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--plot: a figure is one of .svg, .png, .pdf" in result.stderr


def test_the_exit_code_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("mixers", "--plot", tmp_path / "x.svg")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "error: a figure needs matplotlib: pip install matplotlib\n"
    assert list(tmp_path.iterdir()) == []
