"""Published figures recomputed: the rows, their gates, and what a moved one does."""

import json
import shlex
from fractions import Fraction
from typing import Any

import pytest
from typer.testing import CliRunner

import txcalc
from txcalc.answer import reproduce
from txcalc.answer.reproduce import Reproduction
from txcalc.cli.app import app
from txcalc.count import segments


@pytest.fixture(scope="module")
def found() -> Reproduction:
    return txcalc.reproduce()


def test_every_hard_gate_holds(found: Reproduction) -> None:
    assert found.holds
    assert sum(row.gate is not None for each in found.families for row in each.rows) > 80
    assert Reproduction.from_data(found.to_data()) == found


def test_a_row_without_a_gate_says_what_is_missing(found: Reproduction) -> None:
    assert all((row.gate is None) == (row.verdict == "estimate") for each in found.families for row in each.rows)
    assert all(row.missing for each in found.families for row in each.rows if row.gate is None)


def test_all_chinchillas_round_to_the_million(found: Reproduction) -> None:
    [family] = [each for each in found.families if each.name == "chinchilla"]
    assert [f"{round(row.counted / 1e6)}M" for row in family.rows] == [row.id for row in family.rows]


def test_the_errors_of_a_family(found: Reproduction) -> None:
    for family in found.families:
        errors = [row.error for row in family.rows]
        assert family.mean == pytest.approx(sum(errors) / len(errors))
        assert family.mean_absolute >= abs(family.mean)
        assert abs(family.worst) == max(map(abs, errors))


@pytest.mark.parametrize(("gate", "off", "verdict"), [
    ("digits", 50, "rounds to it"), ("digits", 51, "MOVED"), ("1.5%", 1500, "within"), ("1.5%", 1501, "MOVED"),
    ("2KiB", -2048, "within"), ("2KiB", -2049, "MOVED"), (None, 10**9, "estimate"),
    ("25% above", 0, "within"), ("25% above", 1, "MOVED"), ("25% above", -20000, "within"),
    ("25% above", -20001, "MOVED"),
])
def test_gates(gate: str | None, off: int, verdict: str) -> None:
    value, unit = Fraction(100_000), Fraction(100)
    assert reproduce._verdict(gate, value + off, value, unit) == verdict


def test_a_moved_gate_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def grown(*given: Any, **more: Any) -> int:
        return 10**6 * 1009

    monkeypatch.setitem(reproduce.MEASURES, "params", grown)
    moved = txcalc.reproduce("megatron")
    assert not moved.holds
    done = CliRunner().invoke(app, ["reproduce", "megatron"])
    assert done.exit_code == 1
    assert "moved beyond their gates: 1.7B" in done.stdout


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(txcalc.SpecError, match="did you mean megatron"):
        txcalc.reproduce("megatrno")


@pytest.mark.parametrize("name", ["ao-vit", "ao-llama", "bert-large", "litgpt", "litgpt-generate", "torchtune"])
def test_the_command_line_gives_a_familys_first_peak(found: Reproduction, name: str) -> None:
    [family] = [each for each in found.families if each.name == name]
    done = CliRunner().invoke(app, [*shlex.split(family.command)[1:], "--json"])
    outside = 1343 * 2**20 if name == "bert-large" else 0  # a context, which is in its figures
    assert json.loads(done.stdout)["peak"]["bytes"] + outside == family.rows[0].counted


@pytest.mark.parametrize(("sizes", "ready", "more"), [
    ([3 * 2**19] * 13, 0, 2**19),  # of 20 MiB half a MiB is left, which is not cut off
    ([3 * 2**19] * 14, 0, 2**19), ([3 * 2**19] * 13, 20 * 2**20, 2**19), ([3 * 2**19] * 13, 21 * 2**20, 0),
    ([11 * 2**20], 0, 2**20), ([12 * 2**20], 0, 0), ([25 * 2**19], 0, 0),  # of 14 MiB one and a half
    ([2**20, 2**20 - 512, 512], 0, 0), ([700], 0, 324),
])
def test_what_an_allocator_does_not_cut_off_is_allocated(sizes: list[int], ready: int, more: int) -> None:
    assert segments.taken(sizes, ready) == sum(sizes) + more
