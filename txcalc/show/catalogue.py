"""The presets by family, with what each weighs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from txcalc.answer.catalogue import Listed, Listing
from txcalc.show import blocks as b


def blocks(found: Listing) -> Iterator[b.Block]:
    """The blocks of the library, with a heading for each family."""
    yield b.Title("Presets", name="")
    active = any(preset.params_active != preset.params for preset in found.presets)
    columns = (b.Column("preset"), b.Column("params", "n", "Parameters"),
               *([b.Column("active", "n", "Active")] if active else []),
               *([b.Column(name, "n") for name in _SERVING] if found.serving else [
                   b.Column("aliases", order=1, style="dim")]),
               b.Column("note", "words", fold="{}", place="below"))
    rows = list[b.Row]()
    for family, members in groupby(found.presets, key=lambda preset: preset.family):
        rows += [b.Row((family or "other", *[""] * (len(columns) - 1)), "head"),
                 *(_row(preset, active=active, serving=found.serving) for preset in members)]
    yield b.Table("By family", columns, rows, bare=True)
    names = ("name", "family", "params", "params_active", *_SERVING.values(), "aliases", "summary", "path", "origin",
             "shadows", "error")
    yield b.Data(names, (b.fields(preset, names) for preset in found.presets))


_SERVING: Final = {"as released": "released_weight_bytes", "KV fixed": "kv_cache_fixed_bytes",
                   "KV a token": "kv_cache_bytes_per_token"}


def _row(preset: Listed, *, active: bool, serving: bool) -> b.Row:
    note = b.Alert(preset.error) if preset.error else f"in place of the built-in {preset.shadows}" if (
        preset.shadows) else ""
    numbers = (preset.params, preset.params_active) if active else (preset.params,)
    more = [b.number(getattr(preset, name), "memory") for name in _SERVING.values()] if serving else [
        ", ".join(preset.aliases)]
    return b.Row((preset.name, *(b.number(n, "params") for n in numbers), *more, note), "sub")
