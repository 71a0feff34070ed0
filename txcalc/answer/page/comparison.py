"""A comparison as a page: models as columns, or as rows where there are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from txcalc import units
from txcalc.answer.compare import Comparison, Entry
from txcalc.answer.page.chart import Bar, dots
from txcalc.answer.page.markup import Html, html, join
from txcalc.answer.page.page import (
    NONE,
    Column,
    Row,
    Scale,
    amount,
    bullets,
    charts,
    document,
    header,
    rules,
    section,
    table,
)
from txcalc.answer.render import headings
from txcalc.answer.render.comparison import MOST_COLUMNS, architecture, heads, notes, workload_line
from txcalc.answer.render.figures import MARKS
from txcalc.answer.report import Quantity


class _Line(NamedTuple):
    """One quantity of every model."""

    label: str
    cells: list[Html]
    sub: bool = False


Get = Callable[[Entry], Quantity | None]
_TOTALS: tuple[tuple[str, Get, Scale, str], ...] = (
    ("FLOPs", lambda e: e.totals.flops_forward, units.flops, ""),
    ("FLOPs without masked pairs", lambda e: e.totals.flops_skipped, units.flops, ""),
    ("FLOPs per token", lambda e: e.totals.flops_per_token, units.flops, ""),
    ("Weights", lambda e: e.totals.weight_bytes, units.memory, " B"),
    ("KV cache", lambda e: e.totals.kv_cache_bytes, units.memory, " B"),
    ("grows per token by", lambda e: e.totals.kv_cache_bytes_per_token, units.memory, " B"),
    ("fixed", lambda e: Quantity(value=e.kv_cache.fixed_bytes, unit="B") if e.kv_cache else None, units.memory, " B"),
    ("KV cache at max context", lambda e: e.kv_cache_bytes_at_context, units.memory, " B"),
    ("Activations (train)", lambda e: e.totals.activation_bytes, units.memory, " B"),
    ("Training state", lambda e: e.totals.training_state_bytes, units.memory, " B"),
)


def page(comparison: Comparison) -> str:
    """The whole page."""
    names = [headings.title(entry.model) for entry in comparison.entries]
    title = ", ".join(names) if len(names) <= MOST_COLUMNS else f"{len(names)} models"
    return document(title, _body(comparison, title), comparison.to_data(), comparison.provenance)


def _body(comparison: Comparison, title: str) -> Iterator[Html]:
    origins = [[entry.model.name, *origin] for entry in comparison.entries
               if (origin := [part for part in headings.origin(entry.model) if part])]
    yield header(title, workload_line(comparison), *origins)
    yield section("Side by side", _charts(comparison.entries), _table(comparison.entries))
    yield section("Notes", bullets(notes(comparison)))
    yield section("Counting rules", rules(comparison.conventions))


def _charts(entries: Sequence[Entry]) -> Html:
    def of(get: Get) -> list[Bar]:
        return [Bar(headings.title(e.model), 0 if (found := get(e)) is None else found.value) for e in entries]

    return charts(
        dots("Parameters", of(lambda e: e.totals.params), units.params, base=10),
        dots("FLOPs per token", of(lambda e: e.totals.flops_per_token), units.flops, base=10),
        dots("KV cache", of(lambda e: e.totals.kv_cache_bytes), units.memory, base=2),
        dots("Kept for backward", of(lambda e: e.totals.activation_bytes), units.memory, base=2),
        wide=True,
    )


def _table(entries: Sequence[Entry]) -> Html:
    lines = [line for line in _lines(entries) if any(cell != NONE for cell in line.cells)]
    names = [headings.title(entry.model) for entry in entries]
    caption = "One workload for all; relative to the first"
    if len(names) <= MOST_COLUMNS:
        columns = [Column("Quantity"), *(Column(name, "n") for name in names)]
        return table(caption, columns, (Row((line.label, *line.cells), sub=line.sub) for line in lines))
    columns = [Column("Model"), *(Column(line.label, "n") for line in lines)]
    return table(caption, columns, (Row((name, *(line.cells[i] for line in lines))) for i, name in enumerate(names)))


def _lines(entries: Sequence[Entry]) -> Iterator[_Line]:
    params = [entry.totals.params.value for entry in entries]
    yield _Line("Parameters", [amount(n, units.params) for n in params])
    yield _Line("relative", [html(units.ratio(n, params[0])) for n in params], sub=True)
    active = [entry.totals.params_active.value for entry in entries]
    if active != params:
        yield _Line("active", [amount(n, units.params) for n in active], sub=True)
    yield _Line("non-embedding", [amount(e.totals.params_non_embedding.value, units.params) for e in entries], sub=True)
    yield _Line("Layers × width", [html(architecture(entry)) for entry in entries])
    yield _Line("Heads / KV heads", [html(heads(entry)) for entry in entries])
    yield _Line("Context", [html(units.exact(entry.model.spec["context"])) for entry in entries])
    for label, get, scale, unit in _TOTALS:
        found = [get(entry) for entry in entries]
        yield _Line(label, [_amount(q, scale, unit) for q in found])


def _amount(quantity: Quantity | None, scale: Scale, unit: str) -> Html:
    if quantity is None:
        return NONE
    cell = amount(quantity.value, scale, unit)
    return cell if quantity.kind == "exact" else join(f"{MARKS[quantity.kind]} ", cell)
