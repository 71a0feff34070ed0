"""Accelerators: all of them a row each, or one with where each figure was read."""

from __future__ import annotations

from collections.abc import Iterator

from txcalc import units
from txcalc.answer.devices import Device, Devices
from txcalc.show import blocks as b


def blocks(found: Devices) -> Iterator[b.Block]:
    """The blocks of the table, or of one row of it."""
    if len(found.devices) == 1:
        yield from _one(found.devices[0])
    else:
        yield b.Title("Devices", name="")
        columns = (b.Column("device"), b.Column("memory", "n", "Memory"), b.Column("GB/s", "n", "Bandwidth, GB/s"),
                   b.Column("bf16 TFLOP/s", "n", "Dense bf16, TFLOP/s", order=3),
                   b.Column("links, GB/s", order=2, style="dim"), b.Column("aliases", order=1, style="dim"))
        yield b.Table("Devices", columns, [_row(each) for each in found.devices], bare=True)
    names = tuple(name for name in Device.names() if name not in ("peak_flops", "links", "sources"))
    yield b.Data((*names, "tflops", "links", "sources"), (
        [*b.fields(each, names), _rates(each.peak_flops, 10**12), _rates(each.links),
         "; ".join(f"{fact}: {source}" for fact, source in each.sources.items())] for each in found.devices))


def _row(each: Device) -> b.Row:
    rates = {kind: rate for kind, rate in each.peak_flops.items() if kind in ("bf16", "fp16")}
    rate = _scaled(rates.get("bf16"), 10**12) if "bf16" in rates or not rates else _rates(rates, 10**12)
    return b.Row((each.name, b.Number(each.memory_bytes, "memory"), _scaled(each.bandwidth), rate,
                  _rates(each.links), ", ".join(each.aliases)))


def _one(each: Device) -> Iterator[b.Block]:
    also = f"also {', '.join(each.aliases)}" if each.aliases else ""
    own = each.name if each.name != each.title else ""
    yield b.Title(each.title, [part for part in (own, each.architecture or "", also) if part], name=each.title)
    facts: dict[str, b.Cell] = {
        "memory": b.Number(each.memory_bytes, "memory"), "visible": b.number(each.visible_bytes, "memory"),
        "bandwidth": f"{_scaled(each.bandwidth)} GB/s", "tflops": _rates(each.peak_flops, 10**12),
        "links": _rates(each.links), "sram": b.number(each.sram_bytes, "memory"),
        "workspace": b.number(each.workspace_bytes, "memory"), "context": b.number(each.context_bytes, "memory")}
    columns = (b.Column("figure"), b.Column("value"), b.Column("source", "words", fold="{}", style="dim"))
    yield b.Table("Figures", columns, [
        b.Row((title, facts[fact], each.sources[fact])) for fact, title in _TITLES.items() if fact in each.sources])


_TITLES = {
    "memory": "memory", "visible": "  for programs", "bandwidth": "bandwidth", "tflops": "dense TFLOP/s",
    "links": "links, GB/s", "sram": "on-chip, one SM or CU", "workspace": "PyTorch's workspace, each thread",
    "context": "context of a process",
}


def _rates(figures: dict[str, int], unit: int = 10**9) -> str:
    return ", ".join(f"{kind} {_scaled(figure, unit)}" for kind, figure in figures.items())


def _scaled(figure: int | None, unit: int = 10**9) -> str:
    return units.MISSING if figure is None else f"{figure / unit:,.6g}"
