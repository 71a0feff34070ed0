"""A difference: the fields, then each total with what every step adds to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from txcalc import units
from txcalc.answer.difference import Diff, Side, TotalChange
from txcalc.show import blocks as b
from txcalc.show import headings
from txcalc.show.figures import WITHOUT, label, marked, matters, scale_of
from txcalc.spec.errors import shown

_LONGEST: Final = 48
_ORDER: Final = "each part depends on the fields that were changed before it; together they are the whole change"


def blocks(diff: Diff) -> Iterator[b.Block]:
    """The blocks of a difference."""
    sides: list[tuple[list[str], b.Style]] = [
        ([f"{name}: {_side(side)[0]}", *_side(side)[1:]], "")
        for name, side in (("a", diff.a), ("b", diff.b))]
    yield b.Title(f"{headings.title(diff.a.model)} → {headings.title(diff.b.model)}", (), sides)
    if not diff.fields:
        yield b.Notes("Fields", ["no field of the spec or of the workload differs"], style="")
    yield b.Table("changed", (b.Column("changed"), b.Column("a", "n"), b.Column("b", "n")), [
        b.Row((change.field, *_both(change.a, change.b))) for change in diff.fields
    ], caption="Fields that differ", lines=True)
    if diff.fields and not diff.totals:
        yield b.Notes("Totals", ["every total is unchanged"], style="")
    estimate = False
    for names, total in _alike(diff):
        change = _change(diff, total)
        estimate = estimate or "~" in change
        yield _total(names, total, change)
    if diff.totals:
        yield b.Notes("Rule", [f"({'~ estimate; ' if estimate else ''}{_ORDER})"], level=1)
    yield b.Data(("total", "unit", "a", "b", "fields", "change"), (
        (total.total, total.unit, total.a, total.b, " ".join(share.fields), share.change)
        for total in diff.totals for share in total.shares
    ))


def _side(side: Side) -> list[str]:
    run = headings.run(side.workload, frozenset(), side.attention or side.workload.attention, side.model)
    return [part for part in (*headings.origin(side.model), *run) if part]


def _alike(diff: Diff) -> list[tuple[str, TotalChange]]:
    """Totals that change in the same way (all parameters are active in most models) are shown once."""
    found: dict[tuple[object, ...], tuple[str, TotalChange]] = {}
    for total in (each for each in diff.totals if _told(diff, each)):
        key = (total.unit, total.a, total.b, total.shares)
        names = f"{found[key][0]}, {label(total.total).lower()}" if key in found else label(total.total)
        found[key] = (names, total)
    return list(found.values())


def _told(diff: Diff, total: TotalChange) -> bool:
    """FLOPs without masked pairs are told where those are more than a hundredth."""
    counted = WITHOUT.get(total.total)
    if counted is None:
        return True
    pairs = [(getattr(side.totals, counted), getattr(side.totals, total.total)) for side in (diff.a, diff.b)]
    return any(a is not None and b is not None and matters(a.value, b.value) for a, b in pairs)


def _change(diff: Diff, total: TotalChange) -> str:
    """``291.6 GFLOP → ~ 5.492 TFLOP``: an estimate is marked."""
    sides = (marked(getattr(side.totals, total.total)) for side in (diff.a, diff.b))
    return " → ".join(map(b.plain, sides))


def _total(names: str, total: TotalChange, change: str) -> b.Table:
    scale = scale_of(total.unit)
    columns = (b.Column("", name="Field"), b.Column("", "n", name="Change", exact=3), b.Column("", "n", files=False),
               b.Column("", "n", name="%", style="dim"))

    def row(what: str, value: int, percent: str) -> b.Row:
        number = b.Number(value, scale, signed=True)
        return b.Row((what, number, number.human, percent), "sub")

    rows = [row(", ".join(share.fields), share.change, f"{units.percent(share.change, total.change)} %")
            for share in total.shares]
    return b.Table(f"{names}  {change}", columns, rows, row("change", total.change, ""), lines=True)


def _both(a: Any, b: Any) -> tuple[str, str]:
    """Two values; of mappings, only what is not the same in both."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return _value(_own(a, b)), _value(_own(b, a))
    return _value(a), _value(b)


def _own(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if other.get(key) != value}


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list):
        text = f"{len(value)} items" if any(isinstance(item, Mapping | list) for item in value) else str(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        text = units.exact(value)
    else:
        text = value if isinstance(value, str) else shown(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
