"""Accelerators: memory, bandwidth, rates, links and what PyTorch allocates on them, each with its source."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from txcalc import units
from txcalc.document import Part
from txcalc.spec.errors import SpecError, meant, of_field
from txcalc.spec.yaml import read_yaml

DEFAULT: Final = "h100-80gb"
BLOCK: Final = 512
"""Bytes that PyTorch's CUDACachingAllocator, on CUDA and ROCm, rounds every storage up to: its kMinBlockSize."""
MIB: Final = 1024**2
_OF_BYTES: Final = re.compile(r"\d[\d.,_]* ?[kmgt]i?b", re.IGNORECASE)
_SEVERAL: Final = re.compile(r"(\d{1,6})x(.+)", re.IGNORECASE)


class Device(Part):
    """One accelerator.

    ``memory_bytes``: what its driver calls total; ``visible_bytes``: what of it a program is offered. ``bandwidth``:
    bytes/s to that memory. ``peak_flops``: FLOP/s by dtype, dense. ``links``: bytes/s of all links of a kind, both
    directions together. ``architecture``: compute capability or LLVM target. ``sram_bytes``: on-chip memory that one
    thread block can have, the M of FlashAttention. ``workspace_bytes``: what PyTorch allocates for a thread's handle of
    cuBLAS or hipBLAS. ``context_bytes``: what a process has on the card beside its tensors. ``sources``: where each was
    read. None where a figure has no source.
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    architecture: str | None = None
    memory_bytes: int
    visible_bytes: int | None = None
    bandwidth: int | None = None
    peak_flops: dict[str, int] = dataclasses.field(default_factory=dict)
    links: dict[str, int] = dataclasses.field(default_factory=dict)
    sram_bytes: int | None = None
    workspace_bytes: int | None = None
    context_bytes: int | None = None
    sources: dict[str, str]

    @property
    def is_nvidia(self) -> bool:
        """Support of CUDA, which a device of which only the memory is known is taken to have."""
        return self.workspace_bytes is not None and (self.architecture or "sm_").startswith("sm_")

    @property
    def is_hopper_or_later(self) -> bool:
        """Compute capability 9.0 or more, which a device of which only the memory is known is taken to have."""
        kind, _, number = (self.architecture or "sm_90").partition("_")
        return kind == "sm" and int(number) >= 90

    def workspaces(self, *, backward: bool) -> int:
        """Bytes of all workspaces once a pass has run: the backward pass has a thread, and so a handle, of its own."""
        return (self.workspace_bytes or 0) * (2 if backward else 1)

    def rounded(self, size: int) -> int:
        """Bytes of a storage as the allocator counts them; as they are where its allocator is not PyTorch's."""
        return size if self.workspace_bytes is None else -(-size // BLOCK) * BLOCK


class Devices(Part):
    """Accelerators in the order of the table."""

    schema: Literal["txcalc/devices/v1"] = "txcalc/devices/v1"
    devices: tuple[Device, ...]


def read_table(name: str) -> dict[str, Any]:
    """A table of the package: what is known, with its sources."""
    text = importlib.resources.files("txcalc.answer").joinpath(name).read_text(encoding="utf-8")
    return read_yaml(text, name).data


@functools.cache
def devices() -> tuple[Device, ...]:
    """Every accelerator in the table, in its order."""
    table = read_table("devices.yaml")
    return tuple(_device(name, row, table["architectures"]) for name, row in table["devices"].items())


def listed(name: str | None = None) -> Devices:
    """All accelerators, or the one of this name. Raises ``SpecError`` where there is none."""
    return Devices(devices=devices() if name is None else (device(name),))


def device(name: str) -> Device:
    """The accelerator of a name or alias, in any case, or one of so many bytes, such as ``24GB``.

    Raises ``SpecError`` that names the nearest, and for several.
    """
    count, found = several(name)
    if count > 1:
        raise SpecError(f"{name} are {count:,} devices, and this is an answer for one: give {found.name}",
                        field="device")
    return found


def several(name: str) -> tuple[int, Device]:
    """Read a count and an accelerator: ``2xh100-80gb``, or one alone. Raises ``SpecError`` that names the nearest."""
    match = _SEVERAL.fullmatch(name.strip())
    if match is None:
        return 1, _found(name.strip())
    if not int(match[1]):
        raise SpecError(f"{name} are no devices", field="device")
    return int(match[1]), _found(match[2])


def _found(name: str) -> Device:
    if _OF_BYTES.fullmatch(name):
        return _of_bytes(name)
    known = devices()
    folded = name.casefold().replace("_", "-").replace(" ", "-")
    found = next((each for each in known if folded in (each.name, *each.aliases)), None)
    if found is not None:
        return found
    hint = meant(name, [spelt for each in known for spelt in (each.name, *each.aliases)],
                 "txcalc devices lists them; 24GB is one of so many bytes")
    raise SpecError(f"no accelerator {name!r} in the table; {hint}", field="device")


def _of_bytes(size: str) -> Device:
    """A card of which only the memory is known: one of CUDA's, with the larger of PyTorch's workspaces."""
    with of_field("device"):
        memory = units.parse_bytes(size)
    if not memory:
        raise SpecError(f"a device of {size} has no memory", field="device")
    return Device(name=size, title=size, memory_bytes=memory, workspace_bytes=32 * MIB, sources={
        "memory": f"--device {size}", "workspace": "the larger of the two that PyTorch allocates on NVIDIA's cards"})


def _device(name: str, row: Mapping[str, Any], architectures: Mapping[str, Any]) -> Device:
    common = architectures[row["architecture"]] if "architecture" in row else {"sources": {}}
    whole = {**common, **row}
    figures = {field: _scaled(whole[key], unit) for field, (key, unit) in _FIGURES.items() if key in whole}
    own = {fact: row["source"] for fact, key in _FACTS.items() if key in row}
    return Device(
        name=name, title=row["title"], aliases=tuple(map(str, row.get("aliases", ()))),
        architecture=row.get("architecture"), sources={**own, **row["sources"], **common["sources"]}, **figures)


def _scaled(figure: Any, unit: int) -> Any:
    if isinstance(figure, Mapping):
        return {kind: _scaled(each, unit) for kind, each in figure.items()}
    return round(figure * unit)


_FIGURES: Final = {
    "memory_bytes": ("memory_mib", MIB), "visible_bytes": ("visible_mib", MIB), "bandwidth": ("bandwidth_gbps", 10**9),
    "peak_flops": ("tflops", 10**12), "links": ("links_gbps", 10**9), "sram_bytes": ("sram_kib", 1024),
    "workspace_bytes": ("workspace_kib", 1024), "context_bytes": ("context_mib", MIB),
}
"""Figures of a device: their keys in the table, and their units."""
_FACTS: Final = {"memory": "memory_mib", "bandwidth": "bandwidth_gbps", "tflops": "tflops", "links": "links_gbps"}
"""Facts of the table that have the row's source where they have none of their own."""
