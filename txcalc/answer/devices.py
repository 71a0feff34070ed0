"""Accelerators: memory, bandwidth, peak rates and on-chip memory, each with its source (``devices.yaml``)."""

from __future__ import annotations

import dataclasses
import importlib.resources
from typing import Any, Final

from txcalc.document import Part
from txcalc.spec.errors import SpecError, nearest
from txcalc.spec.yaml import read_yaml

DEFAULT: Final = "h100-80gb"
KIB: Final = 1024
MIB: Final = 1024**2
_GIGA: Final = 10**9
_TERA: Final = 10**12


class Device(Part):
    """One accelerator.

    ``memory_bytes``: what its driver calls total. ``bandwidth``: bytes/s to that memory. ``peak_flops``: FLOP/s by
    dtype, dense. ``sram_bytes``: on-chip memory that one thread block can have, the M of FlashAttention; None
    where the figure has no source. ``sources``: where each was read.
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    memory_bytes: int
    bandwidth: int
    peak_flops: dict[str, int] = dataclasses.field(default_factory=dict)
    sram_bytes: int | None = None
    sources: dict[str, str]


def devices() -> tuple[Device, ...]:
    """Every accelerator in the table, in its order."""
    text = importlib.resources.files("txcalc.answer").joinpath("devices.yaml").read_text(encoding="utf-8")
    return tuple(_device(name, row) for name, row in read_yaml(text, "devices.yaml").data.items())


def device(name: str) -> Device:
    """The accelerator of this name or alias, in any case. Raises ``SpecError`` that names the nearest."""
    known = devices()
    folded = name.casefold().replace("_", "-")
    found = next((each for each in known if folded in (each.name, *each.aliases)), None)
    if found is not None:
        return found
    close = nearest(name, [spelt for each in known for spelt in (each.name, *each.aliases)])
    hint = f"did you mean {close}?" if close else f"one of {', '.join(each.name for each in known)}"
    raise SpecError(f"no accelerator {name!r} in the table; {hint}", field="device")


def _device(name: str, row: dict[str, Any]) -> Device:
    sram = row.get("sram_kib")
    return Device(
        name=name,
        title=row["title"],
        aliases=tuple(map(str, row.get("aliases", ()))),
        memory_bytes=row["memory_mib"] * MIB,
        bandwidth=row["bandwidth_gbps"] * _GIGA,
        peak_flops={dtype: round(rate * _TERA) for dtype, rate in row.get("tflops", {}).items()},
        sram_bytes=None if sram is None else sram * KIB,
        sources=row["sources"],
    )
