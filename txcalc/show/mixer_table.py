"""The sequence mixers: costs at the longest length, growth beside the theory, then every length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from txcalc import units
from txcalc.answer.mixer_table import QUANTITIES, MixerTable, Quantity
from txcalc.show import blocks as b
from txcalc.show import headings
from txcalc.show.figures import MARKS


class _Cost(NamedTuple):
    """A quantity of every layer, and how it is written."""

    id: Quantity
    title: str
    name: str
    scale: b.Scale
    axis: str


_COSTS: Final = (
    _Cost("flops_forward", "FLOPs", "FLOPs", "flops", "FLOP, one forward pass"),
    _Cost("activation_bytes", "kept", "Kept for backward", "memory", "bytes"),
    _Cost("state_bytes", "state", "State while generating", "memory", "bytes"),
    _Cost("sequential_steps", "steps", "Sequential steps", "exact", "steps that wait for one another"),
    _Cost("longest_path", "path", "Longest path", "exact", "steps or layers from first to last"),
)
_SHORT: Final = ("masked", "kept", "path")


def blocks(found: MixerTable) -> Iterator[b.Block]:
    """The blocks of the layers."""
    w, lengths = found.workload, [point.seq for point in found.mixers[0].points]
    run = (f"d_model {units.exact(found.d_model)}", f"{units.exact(found.heads)} heads",
           f"batch {units.exact(w.batch)}", headings.dtypes(w), "one layer each, forward pass")
    yield b.Title("Sequence mixers", run, name="")
    last = f"At seq {units.exact(lengths[-1])}"
    yield b.Table(last, (
        b.Column(last), b.Column("params", "n", "Parameters"), *(b.Column(c.title, "n", c.name) for c in _COSTS),
        b.Column("", "mark"),
    ), [
        b.Row((row.title, b.Number(row.params, "params"),
             *(b.number(getattr(row.points[-1], c.id), c.scale) for c in _COSTS), MARKS[row.kind]))
        for row in found.mixers
    ])
    yield b.Charts(lambda: _charts(found, lengths))
    fitted = "Exponent of N" if len(lengths) > 1 else "Order"
    yield b.Table(fitted, (b.Column(fitted), *(b.Column(c.title, "n", c.name) for c in _COSTS)), [
        b.Row((row.title, *(growth.theory if growth.fitted is None else f"{growth.fitted:.2f}  {growth.theory:<9}"
                            for growth in row.growth))) for row in found.mixers
    ], caption="The exponent of the length, fitted to the counts, and the theory", level=1)
    for cost in _COSTS if len(lengths) > 1 else ():
        yield _by_length(found, cost, lengths)
    short = "; ".join(rule.text for rule in found.conventions if rule.id in _SHORT)
    yield b.Notes("Counting rules", headings.rules(found.conventions), f"({short})", level=1)
    yield b.Notes("Sources", [f"{row.title}: {row.source}" for row in found.mixers], level=2)
    yield b.Data(("id", "params", "seq", *QUANTITIES), (
        (row.id, row.params, point.seq, *b.fields(point, QUANTITIES))
        for row in found.mixers for point in row.points
    ))


def _by_length(found: MixerTable, cost: _Cost, lengths: list[int]) -> b.Table:
    title = f"{cost.title} by length"
    columns = (b.Column(title), *(b.Column(units.exact(length), "n") for length in lengths))
    return b.Table(title, columns, [
        b.Row((row.title, *(b.number(getattr(point, cost.id), cost.scale) for point in row.points)))
        for row in found.mixers
    ], caption=cost.name, level=2)


def _charts(found: MixerTable, lengths: list[int]) -> Iterator[b.Chart]:
    for c in _COSTS:
        series = [b.Series(row.title, [getattr(point, c.id) for point in row.points]) for row in found.mixers]
        yield b.Chart(c.name, "curves", c.scale, c.axis, lengths=lengths, series=series)
