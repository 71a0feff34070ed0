"""A comparison: models as columns, or as rows beyond four."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal

from txcalc import units
from txcalc.answer.comparison import Comparison, Entry
from txcalc.answer.report import Quantity, Totals
from txcalc.count.labels import KV_CACHE
from txcalc.show import blocks as b
from txcalc.show import headings
from txcalc.show.figures import label, marked, matters

MOST_COLUMNS: Final = 4
"""Beyond so many models, each is a row."""


def blocks(found: Comparison) -> Iterator[b.Block]:
    """The blocks of models side by side."""
    entries = found.entries
    names = [headings.title(entry.model) for entry in entries]
    many = len(names) > MOST_COLUMNS
    origins: list[tuple[list[str], b.Style]] = [
        ([entry.model.name, headings.origin(entry.model)[0]], "dim") for entry in entries
        if headings.origin(entry.model)[0]]
    yield b.Title(f"{len(names)} models" if many else ", ".join(names), workload_line(found), origins, name="")
    yield _table("Side by side", entries, lines(entries))._replace(bare=True)
    yield b.Charts(lambda: _charts(entries, names))
    yield _table("Every total", entries, _totals(entries))._replace(level=2)
    yield b.Notes("Notes", _notes(entries, names), style="", level=1)
    estimate = "~ estimate; " if any("~" in b.plain(cell) for row in lines(entries) for cell in row.cells) else ""
    yield b.Notes("Counting rules", headings.rules(found.conventions),
                f"({estimate}{headings.short(found.conventions)})", "~  estimate" if estimate else "", level=1)
    totals = Totals.names()
    yield b.Data(("name", "source", "batch", "seq", "past", "source_seq", *totals, "kv_cache_fixed_bytes",
                "kv_cache_bytes_at_context", "layout"), (_data(entry, totals) for entry in entries))


def _notes(entries: Sequence[Entry], names: Sequence[str]) -> list[str]:
    """Each note once, behind the models it is about unless they are all."""
    about: dict[str, list[str]] = {}
    for name, entry in zip(names, entries, strict=True):
        for note in entry.notes:
            about.setdefault(note, []).append(name)
    return [note if len(who) == len(names) else f"{', '.join(who)}: {note}" for note, who in about.items()]


def _table(title: str, entries: Sequence[Entry], rows: Sequence[b.Row]) -> b.Table:
    names = [headings.title(entry.model) for entry in entries]
    caption = "One workload for all; relative to the first"
    if len(names) <= MOST_COLUMNS:
        return b.Table(title, (b.Column(""), *(b.Column(name, "n") for name in names)), rows, caption=caption)
    shown = [row.cells for row in rows if row.kind != "echo"]
    columns = (b.Column(""), *(b.Column(str(label), "n") for label, *_ in shown))
    return b.Table(title, columns, [
        b.Row((name, *(cells[i] for cells in shown))) for i, name in enumerate(names, 1)
    ], caption=caption)


def workload_line(found: Comparison) -> list[str]:
    """The workload that all share. An encoder's length is each model's own where it was not given."""
    entries = found.entries
    workload = entries[0].workload
    sources = {entry.workload.source_seq for entry in entries}
    shared = workload if len(sources) == 1 else workload.replaced(source_seq=None)
    shared = shared.replaced(layout=None) if _apart(entries) else shared
    batch, seq, *rest = headings.run(shared, frozenset(), None, *(entry.model for entry in entries))
    if found.defaults:
        shortest = "shortest default" if len(entries) > 1 else "default"
        rest = [f"{part} ({shortest})" if part.endswith(" cached") and "past" in found.defaults else part
                for part in rest]
        if "seq" in found.defaults and workload.phase != "decode":
            return [batch, f"{seq} for all ({shortest})", *rest]
    return [batch, f"{seq} for all", *rest]


def _apart(entries: Sequence[Entry]) -> bool:
    """Some are spread over other devices than the first, so that each has a rank's figures of its own."""
    return any(entry.workload.layout != entries[0].workload.layout for entry in entries)


def lines(entries: Sequence[Entry]) -> list[b.Row]:
    """Every quantity that one of the models has, behind its name."""
    return [row for row in _lines(entries) if any(cell not in (None, units.MISSING) for cell in row.cells[1:])]


def _line(label: str, cells: Iterable[b.Cell], kind: Literal["", "sub", "echo"] = "") -> b.Row:
    return b.Row((label, *cells), kind)


def _lines(entries: Sequence[Entry]) -> Iterator[b.Row]:
    totals = [entry.totals for entry in entries]
    specs = [entry.model.spec for entry in entries]
    params = [t.params.value for t in totals]
    if _apart(entries):
        yield _line("Of ranks", [str(entry.workload.layout or "all on one") for entry in entries])
    yield _line("Parameters", [b.Number(n, "params") for n in params])
    yield _line("exactly", [b.Number(n) for n in params], "echo")
    yield _line("relative", [units.ratio(n, params[0]) for n in params], "sub")
    if any(t.params_active != t.params for t in totals):
        yield _line("active", [b.Number(t.params_active.value, "params") for t in totals], "sub")
    yield _line("Layers × width", [_architecture(entry) for entry in entries])
    yield _line("Heads / KV heads", [_heads(entry) for entry in entries])
    yield _line("Context", [b.Number(spec["context"]) for spec in specs])
    yield from _flops(entries)
    yield _line("Weights", [marked(t.weight_bytes) for t in totals])
    yield _line("as released", [marked(t.released_weight_bytes) for t in totals], "sub")
    cache = KV_CACHE if all(t.kv_cache_bytes_per_token or not t.kv_cache_bytes for t in totals) else "Cache or state"
    length = "past + seq" if entries[0].workload.past else "seq"
    yield _line(f"{cache} at {length}", [marked(t.kv_cache_bytes) for t in totals])
    growth = [entry.kv_cache for entry in entries]
    yield _line("grows by", [(b.Number(g.bytes_per_token, "memory"), "/token") if g and g.bytes_per_token else None
                            for g in growth], "sub")
    yield _line("fixed", [b.Number(g.fixed_bytes, "memory") if g and g.fixed_bytes else None for g in growth], "sub")
    yield _line(f"{cache} at max context", [marked(entry.kv_cache_bytes_at_context) for entry in entries])
    yield _line("Activations (train)", [_kept(entry) for entry in entries])


def _kept(entry: Entry) -> b.Cell:
    """Kept activations, and as which attention where it is not the one that was asked for."""
    kept, ran = marked(entry.totals.activation_bytes), entry.attention
    return kept if kept is None or ran in (None, entry.workload.attention) else (kept, f", {ran}")


def _flops(entries: Sequence[Entry]) -> Iterator[b.Row]:
    """FLOPs of one token, in training all that runs for it, and the same without or with masked pairs."""
    masked = entries[0].workload.masked
    names = {"FLOPs per token": "flops_per_token"}
    if entries[0].workload.phase == "training":
        names = {"Model FLOPs/token": "flops_model_per_token", "Hardware FLOPs/token": "flops_hardware_per_token"}
    counted, skipped = [e.totals.shown("counted") for e in entries], [e.totals.shown("skipped") for e in entries]
    shown, other = (counted, skipped) if masked == "counted" else (skipped, counted)
    differ = any(matters(a.flops_per_token.value, b.flops_per_token.value)
                 for a, b in zip(counted, skipped, strict=True))
    for name, total in names.items():
        yield _line(name, [marked(getattr(t, total)) for t in shown])
        if differ:
            beside = f"{'without' if masked == 'counted' else 'with'} masked pairs"
            yield _line(beside, [marked(getattr(t, total)) for t in other], "sub")


def _totals(entries: Sequence[Entry]) -> list[b.Row]:
    found = (_line(label(name), [marked(getattr(e.totals, name)) for e in entries])
             for name in Totals.names())
    return [row for row in found if any(cell is not None for cell in row.cells[1:])]


def _architecture(entry: Entry) -> str:
    """``12 × 768``: layers and width."""
    layers = headings.layers(entry.model.spec)
    return f"{f'({layers})' if ' ' in layers else layers} × {units.exact(entry.model.spec['d_model'])}"


def _heads(entry: Entry) -> str | None:
    """``32 / 8``: query heads, and heads of keys and values."""
    found = headings.heads(entry.model.spec)
    return None if found is None else " / ".join(units.exact(number) for number in found)


def _charts(entries: Sequence[Entry], names: Sequence[str]) -> Iterator[b.Chart]:
    def of(title: str, scale: b.Scale, axis: str, get: Callable[[Totals], Quantity | None]) -> b.Chart:
        found = [get(entry.totals) for entry in entries]
        marks = [b.Mark(name, 0 if q is None else q.value) for name, q in zip(names, found, strict=True)]
        return b.Chart(title, "dots", scale, axis, marks)

    yield of("Parameters", "params", "parameters", lambda t: t.params)
    yield of("FLOPs per token", "flops", "FLOP, forward pass", lambda t: t.flops_per_token)
    yield of(KV_CACHE, "memory", "bytes", lambda t: t.kv_cache_bytes)
    yield of("Kept for backward", "memory", "bytes", lambda t: t.activation_bytes)


def _data(entry: Entry, totals: Sequence[str]) -> list[object]:
    workload = entry.workload
    found: list[Quantity | None] = [getattr(entry.totals, name) for name in totals]
    numbers = [None if q is None else q.value for q in found]
    fixed = None if entry.kv_cache is None else entry.kv_cache.fixed_bytes
    at_most = None if entry.kv_cache_bytes_at_context is None else entry.kv_cache_bytes_at_context.value
    return [headings.title(entry.model), entry.model.source, workload.batch, workload.seq, workload.past,
            workload.source_seq, *numbers, fixed, at_most, str(workload.layout or "")]
