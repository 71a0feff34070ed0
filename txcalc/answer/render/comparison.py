"""A comparison for people (models as columns, or as rows beyond four), as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from txcalc import units
from txcalc.answer.compare import Comparison, Entry
from txcalc.answer.render import headings, rules
from txcalc.answer.render.csv import rows as csv_rows
from txcalc.answer.render.figures import marked, matters
from txcalc.answer.render.grid import Align, Line, Screen, Span, chunks, grid, line, paragraph, text, wrap
from txcalc.answer.render.markdown import escaped, pipe_table
from txcalc.answer.report import ModelInfo, Quantity, Totals
from txcalc.trace.workload import Masked

MOST_COLUMNS: Final = 4
"""Beyond so many models, each is a row."""


class Row(NamedTuple):
    """One quantity of every model. What stands ``below`` another row is left out where models are rows."""

    label: str
    cells: tuple[str, ...]
    below: bool = False


def table(comparison: Comparison, screen: Screen) -> str:
    """The whole answer as text."""
    return text(_lines(comparison, screen), color=screen.color)


def markdown(comparison: Comparison) -> str:
    """The whole answer as GitHub-flavoured Markdown."""
    names = [headings.title(entry.model) for entry in comparison.entries]
    found = [(row.label.replace("  ", "– ") or "– exactly", *row.cells) for row in rows(comparison)]
    wide = len(names) > MOST_COLUMNS
    cells = list(zip(("", *names), *found, strict=True)) if wide else [("", *names), *found]
    head, *body = cells
    parts = [
        " · ".join(escaped(part) for part in workload_line(comparison) if part),
        pipe_table(head, "<" + ">" * (len(head) - 1), body),
        "\n".join(f"- {escaped(rule)}" for rule in [*notes(comparison), *rules.full(comparison.conventions)]),
    ]
    return "\n\n".join(parts) + "\n"


def csv(comparison: Comparison) -> str:
    """One row per model: its name, its source, the sizes of its run, every total as a plain integer."""
    totals = Totals.names()
    columns = ["name", "source", "batch", "seq", "past", "source_seq", *totals, "kv_cache_fixed_bytes",
               "kv_cache_bytes_at_context"]
    return csv_rows(columns, (_csv_row(entry, totals) for entry in comparison.entries))


def notes(comparison: Comparison) -> list[str]:
    """The notes on all models, each once."""
    return list(dict.fromkeys(note for entry in comparison.entries for note in entry.notes))


def rows(comparison: Comparison) -> list[Row]:
    """Every quantity that one of the models has."""
    found = [Row(label, tuple(cells), below) for label, cells, below in _rows(comparison.entries)]
    return [row for row in found if any(cell != units.MISSING for cell in row.cells)]


def _rows(entries: Sequence[Entry]) -> Iterator[tuple[str, list[str], bool]]:
    totals = [entry.totals for entry in entries]
    specs = [entry.model.spec for entry in entries]
    base = totals[0].params.value
    yield "Parameters", [units.params(t.params.value) for t in totals], False
    yield "", [units.exact(t.params.value) for t in totals], True
    yield "  relative", [units.ratio(t.params.value, base) for t in totals], False
    if any(t.params_active != t.params for t in totals):
        yield "  active", [units.params(t.params_active.value) for t in totals], False
    yield "Layers × width", [architecture(entry) for entry in entries], False
    yield "Heads / KV heads", [heads(entry) for entry in entries], False
    yield "Context", [units.exact(spec["context"]) for spec in specs], False
    yield from _flops(entries)
    yield "Weights", [marked(t.weight_bytes, units.memory) for t in totals], False
    cache = "KV cache" if all(t.kv_cache_bytes_per_token or not t.kv_cache_bytes for t in totals) else "Cache or state"
    length = "past + seq" if entries[0].workload.past else "seq"
    yield f"{cache} at {length}", [marked(t.kv_cache_bytes, units.memory) for t in totals], False
    growth = [entry.kv_cache for entry in entries]
    yield "  grows by", [f"{units.memory(g.bytes_per_token)}/token" if g and g.bytes_per_token else units.MISSING
                         for g in growth], False
    yield "  fixed", [units.memory(g.fixed_bytes) if g and g.fixed_bytes else units.MISSING for g in growth], False
    at_most = [marked(entry.kv_cache_bytes_at_context, units.memory) for entry in entries]
    yield f"{cache} at max context", at_most, False
    yield "Activations (train)", [_kept(entry) for entry in entries], False


def _kept(entry: Entry) -> str:
    """What is kept, and as which attention where it is not the one that was asked for."""
    kept, ran = entry.totals.activation_bytes, entry.attention
    other = "" if kept is None or ran in (None, entry.workload.attention) else f", {ran}"
    return marked(kept, units.memory) + other


def _flops(entries: Sequence[Entry]) -> Iterator[tuple[str, list[str], bool]]:
    """What one token costs, in training all that runs for it, and the same without or with masked pairs."""
    masked: Masked = entries[0].workload.masked
    training = entries[0].workload.phase == "training"
    names = {"FLOPs per token": "flops_per_token"}
    if training:
        names = {"Model FLOPs/token": "flops_model_per_token", "Hardware FLOPs/token": "flops_hardware_per_token"}
    counted, skipped = ([entry.totals.shown(which) for entry in entries] for which in _OPTIONS)
    shown, other = (counted, skipped) if masked == "counted" else (skipped, counted)
    differ = any(matters(a.flops_per_token.value, b.flops_per_token.value)
                 for a, b in zip(counted, skipped, strict=True))
    beside = f"  {'without' if masked == 'counted' else 'with'} masked pairs"
    for name, total in names.items():
        yield name, [marked(getattr(t, total), units.flops) for t in shown], False
        if differ:
            yield beside, [marked(getattr(t, total), units.flops) for t in other], False


_OPTIONS: Final[tuple[Masked, ...]] = ("counted", "skipped")


def _lines(comparison: Comparison, screen: Screen) -> Iterator[Line]:
    first, *rest = wrap(workload_line(comparison), screen)
    yield from (first, *rest)
    for entry in comparison.entries:
        if origin := headings.origin(entry.model)[0]:
            yield from wrap([entry.model.name, origin], screen, style="dim")
    cells = _transposed(comparison) if len(comparison.entries) > MOST_COLUMNS else _upright(comparison)
    for part in chunks(cells, screen):
        aligns: list[Align] = [">"] * len(part[0])
        yield line()
        yield from grid(part, ["<", *aligns[1:]])
    yield line()
    for note in notes(comparison):
        yield from paragraph(note, screen, style="")
    estimate = "~ estimate; " if any(cell.startswith("~") for row in rows(comparison) for cell in row.cells) else ""
    yield from paragraph(f"({estimate}{rules.short(comparison.conventions)})", screen)


def _upright(comparison: Comparison) -> list[list[Span]]:
    models = [entry.model for entry in comparison.entries]
    body = [[Span(row.label), *_cells(row)] for row in rows(comparison)]
    return [[Span(""), *(Span(model.name, "bold") for model in models)], *_set(models), *body]


def _set(models: Sequence[ModelInfo]) -> Iterator[list[Span]]:
    """What was set of each model, below its name."""
    for i in range(max(len(model.overrides) for model in models)):
        yield [Span(""), *(Span("".join(f"@{text}" for text in model.overrides[i : i + 1]), "dim") for model in models)]


def _cells(row: Row) -> list[Span]:
    return [Span(cell, "dim" if row.below else "") for cell in row.cells]


def _transposed(comparison: Comparison) -> list[list[Span]]:
    shown = [row for row in rows(comparison) if not row.below]
    head = [Span("", "bold"), *(Span(row.label.strip(), "bold") for row in shown)]
    names = [headings.title(entry.model) for entry in comparison.entries]
    return [head, *([Span(name), *(Span(row.cells[i]) for row in shown)] for i, name in enumerate(names))]


def workload_line(comparison: Comparison) -> list[str]:
    """The workload that all share. An encoder's length is each model's own where it was not given."""
    entries = comparison.entries
    workload = entries[0].workload
    sources = {entry.workload.source_seq for entry in entries}
    shared = workload if len(sources) == 1 else workload.replaced(source_seq=None)
    batch, seq, *rest = headings.run(shared, frozenset())
    if comparison.defaults:
        shortest = "shortest default" if len(entries) > 1 else "default"
        rest = [f"{part} ({shortest})" if part.endswith(" cached") and "past" in comparison.defaults else part
                for part in rest]
        if "seq" in comparison.defaults and workload.phase != "decode":
            return [batch, f"{seq} for all ({shortest})", *rest]
    return [batch, f"{seq} for all", *rest]


def architecture(entry: Entry) -> str:
    """``12 × 768``: layers and width."""
    layers = headings.layers(entry.model.spec)
    return f"{f'({layers})' if ' ' in layers else layers} × {units.exact(entry.model.spec['d_model'])}"


def heads(entry: Entry) -> str:
    """``32 / 8``: query heads, and heads of keys and values."""
    found = headings.heads(entry.model.spec)
    return units.MISSING if found is None else " / ".join(units.exact(number) for number in found)


def _csv_row(entry: Entry, totals: Sequence[str]) -> list[object]:
    workload = entry.workload
    found: list[Quantity | None] = [getattr(entry.totals, name) for name in totals]
    fixed = None if entry.kv_cache is None else Quantity(value=entry.kv_cache.fixed_bytes, unit="B")
    numbers = [None if q is None else q.value for q in (*found, fixed, entry.kv_cache_bytes_at_context)]
    return [
        headings.title(entry.model), entry.model.source, workload.batch, workload.seq, workload.past,
        workload.source_seq, *numbers,
    ]
