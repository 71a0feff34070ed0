"""A saved answer of ``txcalc mixers``: what it was run on, and what is counted otherwise since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from txcalc.answer import versions
from txcalc.answer.mixer_table import QUANTITIES, SCHEMA, MixerTable, Sizes
from txcalc.answer.rerun import exact
from txcalc.models.sources import read_source
from txcalc.spec import older
from txcalc.spec.errors import SpecError

_WHY: Final = {"attention-flash": versions.EMPTY_STATE, "window": versions.EMPTY_STATE, "mamba2": versions.CONVOLVES}
"""Why a layer costs something else than version 1 said."""

Costs = dict[tuple[str, int, str], int | None]
"""By layer, length and quantity."""


class Saved(NamedTuple):
    """Sizes and workload of the layers, by today's names, and what each cost at each length."""

    source: str
    older: bool
    workload: dict[str, Any]
    sizes: dict[str, int]
    lengths: tuple[int, ...]
    costs: Costs


def read(path: str) -> Saved:
    """Read a file of ``txcalc mixers --json`` or ``--format yaml``. Raises ``SpecError`` for any other."""
    source = read_source(path)
    data = source.document().data
    if data.get("schema") != SCHEMA:
        raise SpecError(f"a saved answer of txcalc mixers has the schema {SCHEMA}", source=source.place, field="schema")
    try:
        names = {"d": "d_model"}
        sizes = {name: _whole(data[names.get(name, name)]) for name in Sizes._fields}
        costs = dict(_costs((row["id"], row["points"]) for row in data["mixers"]))
        workload = older.workload(data, data["workload"])
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"is not whole: {error}", source=source.place) from None
    lengths = tuple(sorted({length for _, length, _ in costs}))
    if not lengths:
        raise SpecError("holds no layer at any length", source=source.place, field="mixers")
    return Saved(source.label, older.is_older(data), workload, sizes, lengths, costs)


def changes(saved: Saved, now: MixerTable) -> list[str]:
    """A line for each cost that was another."""
    found = dict(_costs((row.id, [point.to_data() for point in row.points]) for row in now.mixers))
    lines = [
        f"since {saved.source}: {quantity} of {layer} at {length:,} was {exact(then)}, is {exact(found[at])}"
        + (f": {_WHY[layer]}" if saved.older and layer in _WHY else "")
        for at, then in saved.costs.items()
        for layer, length, quantity in [at] if at in found and found[at] != then
    ]
    return lines or [f"unchanged since {saved.source}"]


def _whole(value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} is no whole number of at least {least}")
    return value


def _costs(rows: Any) -> Iterator[tuple[tuple[str, int, str], int | None]]:
    for layer, points in rows:
        for point in points:
            if not isinstance(point, Mapping):
                raise TypeError("a point of a layer is a mapping")
            for quantity in QUANTITIES:
                value = point[quantity]
                yield (str(layer), _whole(point["seq"]), quantity), None if value is None else _whole(value, least=0)

