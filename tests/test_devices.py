"""The table of accelerators: every figure with its source, found by any name, and what PyTorch allocates on a card."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from showing import render
from typer.testing import CliRunner

from txcalc.answer.devices import Devices, device, devices, listed, several
from txcalc.cli.app import app
from txcalc.show.terminal import Screen
from txcalc.spec.errors import SpecError
from txcalc.spec.yaml import read_yaml

GPU = Path(__file__).parent / "data" / "gpu"


def test_every_number_of_a_device_has_a_source() -> None:
    names: list[str] = []
    for each in devices():
        facts = {"visible": each.visible_bytes, "tflops": each.peak_flops, "links": each.links, "sram": each.sram_bytes,
                 "workspace": each.workspace_bytes, "context": each.context_bytes}
        known = {"memory", "bandwidth"} | {fact for fact, found in facts.items() if found}
        assert set(each.sources) == known, each.name
        assert all(each.sources.values())
        assert each.memory_bytes > 10**10 and each.bandwidth is not None and each.bandwidth > 10**11
        assert each.visible_bytes is None or 0 < each.memory_bytes - each.visible_bytes < 2**30
        names += [each.name, *each.aliases]
    assert len(names) == len(set(names)) and len(devices()) >= 40


def test_a_name_says_about_how_much_memory_there_is() -> None:
    for each in devices():
        printed = re.fullmatch(r".+-(\d+)gb", each.name)
        assert printed is not None, each.name
        gib = each.memory_bytes / 2**30
        # Apple's are named by all of the memory, of which a GPU should have two thirds or more.
        assert (2 / 3 if each.architecture is None else 0.93) * int(printed[1]) < gib <= int(printed[1]) + 2, each.name


def test_a_device_is_found_by_any_of_its_names() -> None:
    assert device("H100").name == device("h100_80gb").name == device(" H100 80GB ").name == "h100-80gb"
    for each in devices():
        for name in (each.name, *each.aliases):
            assert device(name) == device(name.upper()) == each
    with pytest.raises(SpecError, match="did you mean a100"):
        device("a1000")
    with pytest.raises(SpecError, match="txcalc devices lists them"):
        device("abacus")


@pytest.mark.parametrize(("size", "memory"), [
    ("24GB", 24 * 10**9), ("24GiB", 24 * 2**30), ("24 gib", 24 * 2**30), ("1.5TB", 1_500_000_000_000),
    ("512MiB", 2**29)])
def test_a_size_of_memory_is_a_device(size: str, memory: int) -> None:
    found = device(size)
    assert (found.memory_bytes, found.name) == (memory, size)
    assert found.workspaces(backward=False) == max(each.workspaces(backward=False) for each in devices() if (
        each.architecture or "").startswith("sm_"))
    assert found.bandwidth is found.visible_bytes is found.sram_bytes is None


@pytest.mark.parametrize(("name", "says"), [
    ("0GB", "has no memory"), ("24", "no accelerator '24'"), ("2xh100-80gb", "2 devices.*give h100-80gb"),
    ("0xh100", "no devices"), ("2x", "no accelerator"), ("3x24GB", "3 devices.*give 24GB"), ("1.2.3GB", "not a size"),
])
def test_what_is_no_device_is_refused_in_a_line(name: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        device(name)
    assert str(caught.value).startswith("device: ") and "\n" not in str(caught.value)


def test_several_are_counted() -> None:
    assert several("2xH100") == (2, device("h100-80gb"))
    assert several("8x24GiB") == (8, device("24GiB"))
    assert several("t4") == several("1xt4") == (1, device("t4-16gb"))


# ---------------------------------------------------------------- what PyTorch allocates


def test_workspaces_are_those_measured_on_a_card() -> None:
    facts = json.loads((GPU / "h200.json").read_text("utf-8"))
    [measured] = [row["measured"] for row in facts["rows"] if row["name"] == "context and workspaces"]
    h200 = device("h200")
    assert h200.workspaces(backward=False) == measured["cublas_workspace_forward"]
    assert h200.workspaces(backward=True) == measured["cublas_workspaces_after_backward"]
    assert h200.visible_bytes == measured["driver_total"]
    assert h200.context_bytes == measured["used_by_context"]
    assert f"{h200.memory_bytes // 2**20} MiB" in facts["info"]["nvidia_smi"]


def test_workspaces_follow_the_architecture() -> None:
    """32 MiB on Hopper and after, 8 MiB and 128 KiB before; those of Ampere are in Liger's measured loss."""
    mib = {each.architecture: each.workspaces(backward=False) / 2**20 for each in devices()}
    assert mib == {
        "sm_70": 8.125, "sm_75": 8.125, "sm_80": 8.125, "sm_86": 8.125, "sm_89": 8.125, "sm_90": 32, "sm_100": 32,
        "sm_103": 32, "sm_120": 32, "gfx90a": 32, "gfx942": 128, "gfx950": 128, None: 0}


def test_storages_are_rounded_to_blocks_where_the_allocator_is_pytorchs() -> None:
    assert [device("t4").rounded(size) for size in (0, 1, 511, 512, 513)] == [0, 512, 512, 512, 1024]
    assert device("tpu-v5e").rounded(513) == 513


# ---------------------------------------------------------------- as people see it


def run(*args: str) -> str:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_lists_all_of_them_in_every_format() -> None:
    found = listed()
    data = json.loads(run("devices", "--json"))
    assert data == json.loads(json.dumps(found.to_data())) and Devices.from_data(data) == found
    assert read_yaml(run("devices", "--format", "yaml"), "x").data == data
    rows = list(csv.DictReader(io.StringIO(run("devices", "--format", "csv"))))
    assert [int(row["memory_bytes"]) for row in rows] == [each.memory_bytes for each in found.devices]
    for form in ("table", "md", "html", "latex"):
        shown = run("devices", "--format", form)
        assert all(each.name in shown for each in found.devices), form


def test_no_rate_stands_under_another_dtype() -> None:
    shown = {line.split()[0]: line for line in run("devices").splitlines() if line.strip()}
    assert "fp16 65" in shown["t4-16gb"] and "fp16 125" in shown["v100-32gb"]
    assert " 312 " in shown["a100-80gb"] and "fp16" not in shown["a100-80gb"] and "fp16" not in shown["m4-32gb"]


def test_one_is_shown_with_its_sources() -> None:
    shown = run("devices", "4090")
    for source in device("rtx-4090").sources.values():
        assert source in shown
    assert CliRunner().invoke(app, ["devices", "rtx-4900"]).exit_code == 2


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", [None, "h200", "24GB"])
def test_lines_fit(name: str | None, width: int) -> None:
    shown = render(listed(name), "table", Screen(width))
    assert max(map(len, shown.splitlines())) <= width, shown
