"""The presets by family, with what each weighs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from txcalc.answer.catalogue import Listed, Listing
from txcalc.show.blocks import Alert, Block, Column, Data, Number, Row, Table, Title


def blocks(found: Listing) -> Iterator[Block]:
    """What a reader sees of the library, a heading for each family."""
    yield Title("Presets", name="")
    active = any(preset.params_active != preset.params for preset in found.presets)
    columns = (Column("preset"), Column("params", "n", "Parameters"),
               *([Column("active", "n", "Active")] if active else []),
               Column("aliases", order=1, style="dim"), Column("note", "words", fold="{}", place="below"))
    rows = list[Row]()
    for family, members in groupby(found.presets, key=lambda preset: preset.family):
        rows += [Row((family or "other", *[""] * (len(columns) - 1)), "head"),
                 *(_row(preset, active=active) for preset in members)]
    yield Table("By family", columns, rows, bare=True)
    names = ("name", "family", "params", "params_active", "aliases", "summary", "path", "origin", "shadows", "error")
    yield Data(names, (
        [", ".join(value) if isinstance(value, tuple) else value for value in (getattr(preset, n) for n in names)]
        for preset in found.presets
    ))


def _row(preset: Listed, *, active: bool) -> Row:
    note = Alert(preset.error) if preset.error else f"in place of the built-in {preset.shadows}" if (
        preset.shadows) else ""
    numbers = (preset.params, preset.params_active) if active else (preset.params,)
    shown = (None if n is None else Number(n, "params") for n in numbers)
    return Row((preset.name, *shown, ", ".join(preset.aliases), note), "sub")
