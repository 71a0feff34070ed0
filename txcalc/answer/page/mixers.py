"""The sequence mixers as a page: how their costs grow, drawn, and every length to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from txcalc import units
from txcalc.answer.mixers import MixerTable, Quantity
from txcalc.answer.page.chart import Series, curves
from txcalc.answer.page.markup import Html, join
from txcalc.answer.page.page import (
    Column,
    Row,
    Scale,
    amount,
    bullets,
    charts,
    document,
    header,
    linked,
    number,
    rules,
    section,
    table,
)
from txcalc.answer.render.mixers import order, workload_line


class _Cost(NamedTuple):
    """A quantity of every layer, and how it is written."""

    name: Quantity
    title: str
    scale: Scale
    base: int


_COSTS: Final = (
    _Cost("flops_forward", "FLOPs", units.flops, 10),
    _Cost("activation_bytes", "Kept for backward", units.memory, 2),
    _Cost("state_bytes", "State while generating", units.memory, 2),
    _Cost("sequential_steps", "Sequential steps", units.exact, 10),
    _Cost("longest_path", "Longest path", units.exact, 10),
)


def page(found: MixerTable) -> str:
    """The whole page."""
    return document("Sequence mixers", _body(found), found.to_data(), found.provenance)


def _body(found: MixerTable) -> Iterator[Html]:
    lengths = [point.seq for point in found.mixers[0].points]
    yield header("Sequence mixers", workload_line(found))
    yield section("The curves", charts(*(_chart(found, cost, lengths) for cost in _COSTS[:3]), wide=True))
    yield section("How they grow", _growth(found))
    yield section("Parameters", table("One layer of each", (Column("Layer"), Column("Parameters", "n")), (
        Row((row.title, amount(row.params, units.params))) for row in found.mixers
    )))
    yield section("By length", *(_by_length(found, cost, lengths) for cost in _COSTS))
    yield section("Counting rules", rules(found.conventions))
    yield section("Sources", bullets(join(f"{row.title}: ", linked(row.source)) for row in found.mixers))


def _chart(found: MixerTable, cost: _Cost, lengths: list[int]) -> Html:
    series = [Series(row.title, [getattr(point, cost.name) for point in row.points]) for row in found.mixers]
    return curves(cost.title, lengths, series, cost.scale, base=cost.base)


def _growth(found: MixerTable) -> Html:
    columns = (Column("Layer"), *(Column(cost.title, "n") for cost in _COSTS))
    return table("Exponent of the length, fitted to the counts, and the theory", columns, (
        Row((row.title, *(order(growth) for growth in row.growth))) for row in found.mixers
    ))


def _by_length(found: MixerTable, cost: _Cost, lengths: list[int]) -> Html:
    columns = (Column("Layer"), *(Column(units.exact(length), "n") for length in lengths))
    return table(cost.title, columns, (
        Row((row.title, *(_cell(getattr(point, cost.name), cost.scale) for point in row.points)))
        for row in found.mixers
    ))


def _cell(value: int | None, scale: Scale) -> Html:
    return number(value) if scale is units.exact else amount(value, scale)
