"""The memory of a run: the peak, whether it fits, when it is and what is alive then, and what would help."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Final

from txcalc import units
from txcalc.answer.capacity import Capacity
from txcalc.answer.engines import engine
from txcalc.answer.levers import TOGETHER, Lever
from txcalc.answer.limits import DEFAULT_RESERVE
from txcalc.answer.memory import WHY, Alive, Memory, usable
from txcalc.answer.serving import Served
from txcalc.show import blocks as b
from txcalc.show import headings
from txcalc.show.communication import communication, ranks
from txcalc.show.figures import MARKS
from txcalc.trace.workload import Workload

_MOST: Final = 10
"""Rows of what is alive; the rest is one."""


def blocks(memory: Memory, defaults: Collection[str] = ()) -> Iterator[b.Block]:
    """The blocks of a run's memory."""
    yield title(memory, "memory", defaults)
    served, on_card = memory.engine, memory.device is not None
    yield b.Facts("Peak", [*_facts(memory), *(_pool(served, on_card) if served else ())])
    if memory.timeline:
        yield _phases(memory)
        yield b.Charts(lambda: [_timeline(memory)])
    yield _at_peak(memory)
    yield _every(memory)
    yield from communication(memory.collectives)
    yield ranks(memory.ranks, memory.workload)
    yield _outside(memory)
    yield from behind(memory)
    bound = f"{MARKS['bound']}  at least: what some part of it allocates for a moment is not known"
    yield b.Notes("Marks", [bound] if memory.peak.kind == "bound" else [])
    columns = Alive.names()
    yield b.Data(columns, (b.fields(row, columns, " ") for row in memory.at_peak))


def title(of: Memory | Capacity, what: str, defaults: Collection[str]) -> b.Title:
    """The model and its run, in plain PyTorch or in an engine; of inference with what follows the prompt."""
    name, *about = headings.identity(of.model)
    after = "" if of.new is None else f": prefill, {units.exact(of.new)} new token{'s' * (of.new != 1)}"
    run = [f"inference{after}" if part == "prefill" else part
           for part in headings.run(of.workload, frozenset(defaults), of.attention, of.model)]
    if of.engine is not None:
        run = _started(of.engine, of.workload, defaults)
    return b.Title(f"{name}: {what}", about, ((headings.origin(of.model), "dim"), (run, "")), name=name)


def behind(of: Memory | Capacity) -> Iterator[b.Block]:
    """Advice, notes, and every rule."""
    if of.engine is not None:
        yield _room(of.engine)
    else:
        yield _levers([each for each in of.levers if each.note != TOGETHER], of.flops_per_token)
        yield b.Notes("What would fit", [
            f"together they fit, in {units.memory(each.peak_bytes)}, FLOPs/token {_cost(each, of.flops_per_token)}: "
            f"{each.option}" for each in of.levers if each.note == TOGETHER], style="", level=1)
    yield b.Notes("Notes", of.notes, style="", level=1)
    yield b.Notes("Counting rules", headings.rules(of.conventions), "", level=2)


def _facts(memory: Memory) -> Iterator[b.Fact]:
    peak, mark = memory.peak, MARKS[memory.peak.kind]
    yield b.Fact("Peak", b.Number(peak.bytes, "memory"), mark, f"{peak.phase}, at {peak.at}")
    if memory.workspace_bytes:
        yield b.Fact("workspaces", b.Number(memory.workspace_bytes, "memory"), mark, "of cuBLAS", sub=True)
    if memory.kept_bytes is not None:
        yield b.Fact("kept", b.Number(memory.kept_bytes, "memory"), mark, "for the backward pass", sub=True)
    if memory.device is not None and memory.free_bytes is not None and memory.reserve is not None:
        of = f"{memory.device.title}, {units.memory(usable(memory.device))}"
        yield b.Fact("fits" if memory.fits else b.Alert("does not fit"), b.Number(abs(memory.free_bytes), "memory"), "",
                     f"left of {of}" if memory.fits else f"too much for {of}")
        source = "" if memory.reserve == DEFAULT_RESERVE else memory.reserve.source
        if memory.reserve.bytes:
            aside = b.Number(memory.reserve.bytes, "memory")
            yield b.Fact("set aside", aside, "", source or "a CUDA context", sub=True)


def _phases(memory: Memory) -> b.Table:
    """Every phase with its peak, and its part of the timeline."""
    over = [(point.phase, sum(point.bytes.values())) for point in memory.timeline]
    whole = max(size for _, size in over)
    columns = (b.Column("Phase"), b.Column("peak", "n", exact=1), b.Column("over time", "bar", bars=(32, 16, 0)),
               b.Column("at", "path", fold="{}"))
    rows = [b.Row((phase.phase, b.Number(phase.peak_bytes, "memory"),
                   b.Spark([size * (of == phase.phase) for of, size in over], whole), phase.at))
            for phase in memory.phases]
    return b.Table("Phases", columns, rows, bare=True, level=1)


def _timeline(memory: Memory) -> b.Chart:
    kinds = dict.fromkeys(kind for point in memory.timeline for kind in point.bytes)
    spans = [b.Mark(phase, len(list(points))) for phase, points in groupby(memory.timeline, lambda point: point.phase)]
    device = memory.device
    return b.Chart("Live bytes over the run", "areas", "memory", "bytes", spans, series=[
        b.Series(kind, [point.bytes.get(kind, 0) for point in memory.timeline]) for kind in kinds
    ], level=None if device is None else b.Mark(device.title, usable(device)))


def _at_peak(memory: Memory) -> b.Table:
    """Bytes at the peak: resident ones and those of all weights by purpose, others by operation, the largest first."""
    held = {row.what: row.what for row in memory.resident} | {WHY["gradients"]: WHY["gradients"]}
    if memory.peak.phase == "optimizer":
        held[WHY["transient"]] = "temporaries of the optimizer"
    whole = sum(row.bytes for row in memory.at_peak)
    found: dict[tuple[str, str], int] = {}
    for row in memory.at_peak:
        key = (held[row.why], "") if row.why in held else (row.path or row.what, row.why)
        found[key] = found.get(key, 0) + row.bytes
    ranked = sorted(found.items(), key=lambda each: -each[1])
    rest = ranked[_MOST:] if len(ranked) > _MOST + 1 else []
    columns = (b.Column("At the peak", "path"), b.Column("why"), b.Column("bytes", "n", exact=1), b.Column("%", "n"),
               b.Column("", "bar", bars=(20, 10, 0)))
    rows = [_part(*key, size, whole) for key, size in ranked[: len(ranked) - len(rest)]]
    if rest:
        rows.append(_part(f"{len(rest)} others", "", sum(size for _, size in rest), whole))
    return b.Table("At the peak", columns, rows, _part("all", "", whole, whole), level=1)


def _part(what: str, why: str, size: int, whole: int) -> b.Row:
    return b.Row((what, why, b.Number(size, "memory"), units.percent(size, whole), b.Bar(size, whole)))


def _every(memory: Memory) -> b.Table:
    columns = (b.Column("Alive at the peak", "path"), b.Column("what"), b.Column("why"), b.Column("shape"),
               b.Column("dtype"), b.Column("times", "n"), b.Column("bytes", "n", exact=3))
    return b.Table("Alive at the peak", columns, [
        b.Row((row.path, row.what, row.why, "" if row.shape is None else b.shape(row.shape), row.dtype or "",
               b.Number(row.times), b.Number(row.bytes, "memory"))) for row in memory.at_peak
    ], caption="Every storage that is alive at the peak", level=2, lines=True)


def _outside(memory: Memory) -> b.Notes:
    """Memory of a device beside tensors; a terminal that is not asked for all has no sources."""
    known = [f"{row.what}{'' if row.bytes is None else f', {units.memory(row.bytes)}'}" for row in memory.outside]
    items = [f"{what}: {row.source}" for what, row in zip(known, memory.outside, strict=True)]
    where = "outside PyTorch, and in no figure above:" if memory.engine is None else "in no figure above:"
    short = f"{where} {'; '.join(known)}" if known else ""
    return b.Notes("Outside PyTorch", items, short, where,
                   level=1 if memory.device is not None else 2)


def _levers(found: Sequence[Lever], flops_per_token: int) -> b.Table:
    """Each lever with its peak, what it saves, what it costs, and whether it then fits."""
    folded = {"peak": "peak {}", "saves": "saves {}", "FLOPs/token": "FLOPs/token\u00a0{}"}
    columns = (b.Column("What would help"), *(b.Column(name, "n", fold=fold) for name, fold in folded.items()),
               b.Column(""), b.Column("how", "words", fold="{}", place="beside", order=1))
    return b.Table("What would help", columns, [
        b.Row((lever.option, b.Number(lever.peak_bytes, "memory"), b.Number(lever.saved_bytes, "memory"),
               _cost(lever, flops_per_token), "fits" if lever.fits else "", lever.note))
        for lever in found], level=1)


def _cost(lever: Lever, now: int) -> str:
    """``+33.3 %``; nothing where it costs nothing."""
    more = lever.flops_per_token - now
    if not more:
        return "the same"
    return f"{'+' if more > 0 else '−'}{units.percent(abs(more), now)} %"


# ---------------------------------------------------------------- in an engine


def _started(served: Served, workload: Workload, defaults: Collection[str]) -> list[str]:
    """``vLLM 0.11 · context 32,768 · bf16 · 2 cards, tensor-parallel``, in parts."""
    parallel = ", tensor-parallel" if served.tp > 1 else ""
    return [
        engine(f"{served.name}@{served.version}").called,
        f"context {units.exact(served.context)}{' (default)' * ('context' in defaults)}",
        headings.dtypes(workload),
        f"{served.cards} cards{parallel}, figures of the fullest" if served.cards > 1 else "",
    ]


def _pool(served: Served, on_card: bool) -> Iterator[b.Fact]:
    """The pool, where a card or its size is given, and what it holds."""
    if on_card or served.pool_bytes:
        blocks = f"{units.exact(served.blocks)} blocks of {units.exact(served.block)} token{'s' * (served.block > 1)}"
        yield b.Fact("Pool", b.Number(served.pool_bytes, "memory"), "", blocks)
        yield b.Fact("tokens", b.Number(served.tokens), "", "as the engine counts them", sub=True)
        length = f"of {units.exact(served.context)} tokens"
        yield b.Fact("requests at once", b.Number(served.requests), "", length, sub=True)
    if served.card_bytes:
        yield b.Fact("on each card", b.Number(served.card_bytes[0], "memory"), "", "then " + ", ".join(
            map(units.memory, served.card_bytes[1:])))
    if served.options.get("lengths"):
        yield b.Fact("these sequences", b.Number(served.taken_bytes, "memory"), "", "of " + ", ".join(map(
            units.exact, served.options["lengths"])) + " tokens", sub=True)
    if served.host_bytes:
        yield b.Fact("CPU's memory", b.Number(served.host_bytes + served.host_cache_bytes, "memory"), "", host(served))


def host(served: Served) -> str:
    """``25.1 GiB of weights, 1 GiB of keys and values``: what is in the CPU's memory."""
    parts = [f"{units.memory(size)} of {what}" for what, size in (
        ("weights", served.host_bytes), ("keys and values", served.host_cache_bytes)) if size]
    return ", ".join(parts)


def _room(served: Served) -> b.Table:
    """Each lever with the requests and tokens that there is room for then."""
    columns = (b.Column("What would help"), b.Column("room for requests", "n"), b.Column("tokens", "n"),
               b.Column("how", "words", fold="{}", place="beside", order=1))
    return b.Table("What would help", columns, [
        b.Row((each.option, b.Number(each.requests), b.Number(each.tokens), each.note)) for each in served.levers
    ], level=1)
