"""A difference for people and as Markdown: the fields, then each total with what every step adds to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from txcalc import units
from txcalc.answer.diff import Diff, Share, Side, TotalChange
from txcalc.answer.render import data as render_data
from txcalc.answer.render import headings
from txcalc.answer.render.figures import WITHOUT, label, marked, matters
from txcalc.answer.render.grid import GAP, Line, Screen, Span, grid, line, paragraph, text, total_width, widths, wrap
from txcalc.answer.render.markdown import escaped, pipe_table
from txcalc.spec.errors import shown

_LONGEST: Final = 48
_ORDER: Final = "each part depends on the fields that were changed before it; together they are the whole change"
_ESTIMATE: Final = "~ estimate; "


def render(diff: Diff, form: str, screen: Screen) -> str:
    """The difference as table, md, json or yaml."""
    if form == "table":
        return table(diff, screen)
    if form == "md":
        return markdown(diff)
    return (render_data.json if form == "json" else render_data.yaml)(diff.to_data())


def scale(unit: str) -> Callable[[int | None], str]:
    """How amounts in this unit are written for people."""
    return units.memory if unit.startswith("B") else units.flops if unit.startswith("FLOP") else units.params


def signed(value: int, write: Callable[[int], str] = units.exact) -> str:
    """``+1,024``; ``−1,024``."""
    return f"{'+' if value > 0 else ''}{write(value)}"


def table(diff: Diff, screen: Screen) -> str:
    """The whole answer as text."""
    return text(_lines(diff, screen), color=screen.color)


def markdown(diff: Diff) -> str:
    """The whole answer as GitHub-flavoured Markdown."""
    parts = [
        f"# {escaped(headings.title(diff.a.model))} → {escaped(headings.title(diff.b.model))}",
        "\n".join(f"- {name}: {escaped(' · '.join(_side(side)))}" for name, side in (("a", diff.a), ("b", diff.b))),
    ]
    if diff.fields:
        parts.append(pipe_table(("Field", "a", "b"), "<>>", [[c.field, *_both(c.a, c.b)] for c in diff.fields]))
    if not diff.totals:
        parts.append("Every total is unchanged.")
    for names, total in _alike(diff):
        rows = [(", ".join(share.fields), signed(share.change), _of(share, total)) for share in total.shares]
        head = (names, _change(diff, total, units.exact), "%")
        parts.append(pipe_table(head, "<>>", [*rows, ("change", signed(total.change), "")]))
    return "\n\n".join([*parts, _rule(diff)]) + "\n"


def _lines(diff: Diff, screen: Screen) -> Iterator[Line]:
    yield from wrap([f"{headings.title(diff.a.model)} → {headings.title(diff.b.model)}"], screen, style="bold")
    for name, side in (("a", diff.a), ("b", diff.b)):
        yield from wrap([f"{name}: {_side(side)[0]}", *_side(side)[1:]], screen)
    yield line()
    if not diff.fields:
        yield line("no field of the spec or of the workload differs")
        return
    yield from _fields(diff, screen)
    if not diff.totals:
        yield line()
        yield line("every total is unchanged")
        return
    for names, total in _alike(diff):
        yield line()
        yield from _total(names, total, _change(diff, total, scale(total.unit)), screen)
    yield line()
    yield from paragraph(_rule(diff), screen)


def _side(side: Side) -> list[str]:
    run = headings.run(side.workload, frozenset(), side.attention or side.workload.attention)
    return [part for part in (*headings.origin(side.model), *run) if part]


def _fields(diff: Diff, screen: Screen) -> Iterator[Line]:
    head = [Span("changed", "bold"), Span("a", "bold"), Span("b", "bold")]
    rows = [head, *([Span(c.field), *(Span(value) for value in _both(c.a, c.b))] for c in diff.fields)]
    if screen.fits(total_width(widths(rows))):
        yield from grid(rows, ("<", ">", ">"))
        return
    yield line("changed", "bold")
    for change in diff.fields:
        old, new = _both(change.a, change.b)
        yield from paragraph(f"{change.field}: {old} → {new}", screen, rest=GAP, style="")


def _alike(diff: Diff) -> list[tuple[str, TotalChange]]:
    """Totals that change in the same way (all parameters are active in most models) are shown once."""
    found: dict[tuple[object, ...], tuple[str, TotalChange]] = {}
    for total in filter(partial(_told, diff), diff.totals):
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


def _total(names: str, total: TotalChange, change: str, screen: Screen) -> Iterator[Line]:
    write = scale(total.unit)
    yield (Span(names, "bold"), Span(f"  {change}"))
    rows = [
        [Span(GAP + ", ".join(share.fields)), Span(signed(share.change)), Span(signed(share.change, write)),
         Span(_of(share, total) + " %", "dim")]
        for share in total.shares
    ]
    rows.append([Span(GAP + "change"), Span(signed(total.change), "bold"), Span(signed(total.change, write)), Span("")])
    if screen.fits(total_width(widths(rows))):
        yield from grid(rows, ("<", ">", ">", ">"))
        return
    for name, exact, human, part in rows:
        yield from paragraph(name.text.strip(), screen, first=GAP, rest=GAP * 2, style="")
        yield line(f"{GAP * 2}{exact.text}  {human.text}  {part.text}".rstrip())


def _change(diff: Diff, total: TotalChange, write: Callable[[int | None], str]) -> str:
    """``291.6 GFLOP → ~ 5.492 TFLOP``: an estimate is marked."""
    return " → ".join(marked(getattr(side.totals, total.total), write) for side in (diff.a, diff.b))


def _rule(diff: Diff) -> str:
    changes = (_change(diff, total, units.exact) for total in diff.totals)
    return f"({_ESTIMATE if any('~' in change for change in changes) else ''}{_ORDER})"


def _of(share: Share, total: TotalChange) -> str:
    return units.percent(share.change, total.change)


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
