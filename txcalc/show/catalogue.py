"""The presets by family, with what each weighs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from txcalc.answer.catalogue import Listed, Listing
from txcalc.show import blocks as b


def blocks(found: Listing) -> Iterator[b.Block]:
    """What a reader sees of the library, a heading for each family."""
    yield b.Title("Presets", name="")
    active = any(preset.params_active != preset.params for preset in found.presets)
    columns = (b.Column("preset"), b.Column("params", "n", "Parameters"),
               *([b.Column("active", "n", "Active")] if active else []),
               b.Column("aliases", order=1, style="dim"), b.Column("note", "words", fold="{}", place="below"))
    rows = list[b.Row]()
    for family, members in groupby(found.presets, key=lambda preset: preset.family):
        rows += [b.Row((family or "other", *[""] * (len(columns) - 1)), "head"),
                 *(_row(preset, active=active) for preset in members)]
    yield b.Table("By family", columns, rows, bare=True)
    names = ("name", "family", "params", "params_active", "aliases", "summary", "path", "origin", "shadows", "error")
    yield b.Data(names, (
        [", ".join(value) if isinstance(value, tuple) else value for value in (getattr(preset, n) for n in names)]
        for preset in found.presets
    ))


def _row(preset: Listed, *, active: bool) -> b.Row:
    note = b.Alert(preset.error) if preset.error else f"in place of the built-in {preset.shadows}" if (
        preset.shadows) else ""
    numbers = (preset.params, preset.params_active) if active else (preset.params,)
    return b.Row((preset.name, *(b.number(n, "params") for n in numbers), ", ".join(preset.aliases), note), "sub")
