"""The most that fits: yes or no with the largest sizes, what then fills the device, and batch against length."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from txcalc import units
from txcalc.answer.capacity import Capacity, Most
from txcalc.answer.limits import DEFAULT_RESERVE
from txcalc.answer.memory import WHY, usable
from txcalc.answer.passes import options
from txcalc.show import blocks as b
from txcalc.show.figures import MARKS
from txcalc.show.memory import behind, host, title

_NAMES: Final = {"batch": "Largest batch", "seq": "Longest sequence", "past": "Longest cache", "users": "Most users",
                 "context": "Longest context", "cards": "Fewest cards"}

_ROWS: Final = 12
"""Layouts that a terminal has, unless all are asked for."""
_LEGEND: Final = {"=": "exact", "~": "estimate", "<": "at least, such as weights and states alone"}


def blocks(capacity: Capacity, defaults: Collection[str] = ()) -> Iterator[b.Block]:
    """The blocks of a device's capacity."""
    yield title(capacity, "what fits", defaults)
    yield _most(capacity)
    if capacity.layouts:
        yield _layouts(capacity)
        marks = {MARKS[each.kind] for each in capacity.layouts}
        yield b.Notes("Marks", ["   ".join(f"{mark}  {text}" for mark, text in _LEGEND.items() if mark in marks)])
    yield _sum(capacity)
    yield _frontier(capacity)
    yield from behind(capacity)
    names = ("size", "given", "largest_fits", "bytes", "first_not", "bytes_first_not", "phase", "at")
    length = "past" if capacity.workload.phase == "decode" else "seq"
    yield b.Data(names, (
        *(b.fields(each, names, " ") for each in capacity.most),
        *([length, f"batch={each.batch}", each.length, each.bytes, *[None] * 4] for each in capacity.frontier)))


def _most(capacity: Capacity) -> b.Table:
    """The answers, and what there is room for."""
    mark, offered = MARKS[capacity.peak.kind], units.memory(usable(capacity.device))
    rows = [_asked(capacity)]
    rows += [b.Row((_NAMES.get(each.size, f"Most {each.size}"), _largest(each), mark, _why(each, capacity.room_bytes)))
             for each in capacity.most]
    if capacity.short_bytes is not None:
        short = b.Number(capacity.short_bytes, "memory")
        rows.append(b.Row((b.Alert("nothing fits"), short, "", "too much at the least")))
    if capacity.engine is not None and capacity.engine.host_bytes:
        size = b.Number(capacity.engine.host_bytes + capacity.engine.host_cache_bytes, "memory")
        rows.append(b.Row(("CPU's memory", size, "", host(capacity.engine))))
    aside = "a CUDA context" if capacity.reserve == DEFAULT_RESERVE else capacity.reserve.source
    rows += [b.Row(("Room", b.Number(capacity.room_bytes, "memory"), "", f"of {capacity.device.title}, {offered}")),
             b.Row(("set aside", b.Number(capacity.reserve.bytes, "memory"), "", aside), "sub")]
    columns = (b.Column("", name="Size"), b.Column("", "n", name="Most"), b.Column("", "mark", style="dim"),
               b.Column("", "words", name="Where, and what binds", fold="{}", place="beside", style="dim"))
    return b.Table("What fits", columns, rows, bare=True)


def _layouts(capacity: Capacity) -> b.Table:
    """Layouts of so many devices, and how far each fits."""
    columns = (b.Column("Layout", "path"), b.Column("peak", "n", exact=1), b.Column("", "mark", style="dim"),
               b.Column("left", "n"), b.Column("", "words", style="dim"))
    rows = [b.Row((options(each.run) or "one device", b.Number(each.bytes, "memory"), MARKS[each.kind],
                   b.Number(abs(each.free_bytes), "memory"), "" if each.fits else b.Alert("too much")))
            for each in capacity.layouts]
    fit = sum(each.fits for each in capacity.layouts)
    shown = min(fit, _ROWS) or min(len(rows), 3)  # of what is too much, what is least so
    others = [f"{number} {what}" for number, what in (
        (fit - min(fit, shown), "others fit"), (len(rows) - max(fit, shown), "are too much")) if number]
    return b.Table("Layouts", columns, rows, short=shown, rest=f"{', '.join(others)}: -v" if others else "")


def _asked(capacity: Capacity) -> b.Row:
    """Yes or no to the run as it stands."""
    peak, free = capacity.peak, capacity.room_bytes - capacity.peak.bytes
    return b.Row(("Fits" if capacity.fits else b.Alert("Does not fit"), b.Number(abs(free), "memory"), "",
                  f"{'left' if capacity.fits else 'too much'} as it stands: {peak.phase}, at {peak.at}"))


def _largest(most: Most) -> b.Cell:
    return b.Alert("none") if most.largest_fits is None else b.Number(most.largest_fits)


def _why(most: Most, room: int) -> str:
    """``at seq 2,048; 10 would take 177.2 GiB, which is 0.4 GiB too much: backward, at loss``."""
    at = ", ".join(f"{size} {units.exact(value)}" for size, value in most.given.items())
    if most.bytes_first_not is None or most.first_not is None:
        return f"at {at}; {most.ends}" if at else str(most.ends)
    more = units.memory(most.bytes_first_not - (most.room_first_not or room))
    return (f"{f'at {at}; ' if at else ''}{units.exact(most.first_not)} would be {more} too much: {most.phase}, "
            f"at {most.at}")


def _sum(capacity: Capacity) -> b.Table:
    """The memory of the device where the first answer is at its largest: it adds up to what programs are offered."""
    top = next((each for each in capacity.most if each.bytes is not None and each.size != "cards"), None)
    peak = capacity.peak.bytes if top is None or top.bytes is None else top.bytes
    whole = max(usable(capacity.device), peak + capacity.reserve.bytes)
    held = sum(each.bytes for each in capacity.held)
    free = usable(capacity.device) - capacity.reserve.bytes - peak
    parts = [(WHY.get(each.what, each.what), each.bytes) for each in capacity.held]
    if peak != held:
        parts.append(("workspaces, and storages in whole blocks", peak - held))
    parts += [("set aside", capacity.reserve.bytes),
              ("free" if free >= 0 else "too much", free)]
    at = "What it takes" if top is None else f"What fills it at {top.size} {units.exact(top.largest_fits or 0)}"
    columns = (b.Column(at, "path"), b.Column("bytes", "n", exact=1), b.Column("%", "n"),
               b.Column("", "bar", bars=(20, 10, 0)))
    rows = [b.Row((what, b.Number(size, "memory"), units.percent(size, whole), b.Bar(max(size, 0), whole)))
            for what, size in parts]
    total = b.Row((capacity.device.title, b.Number(usable(capacity.device), "memory"), "", b.Bar(0, whole)))
    return b.Table("What fills it", columns, rows, total, bare=True, level=1)


def _frontier(capacity: Capacity) -> b.Table:
    decoding = capacity.workload.phase == "decode"
    row, length = ("users", "longest context") if capacity.engine else (
        "batch", "longest cache" if decoding else "longest seq")
    columns = (b.Column(row, "n", row.capitalize()), b.Column(length, "n"),
               b.Column("tokens", "n", order=1), b.Column("peak", "n", "Peak", exact=1))
    return b.Table(f"{row.capitalize()} against length", columns, bare=True, level=1, rows=[
        b.Row((b.Number(each.batch), b.Number(each.length), b.Number(each.batch * each.length),
               b.Number(each.bytes, "memory"))) for each in capacity.frontier])
