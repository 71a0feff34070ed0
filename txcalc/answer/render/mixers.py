"""The sequence mixers for people: costs at the longest length, growth beside the theory, then every length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from txcalc import units
from txcalc.answer.mixers import QUANTITIES, Growth, MixerRow, MixerTable, Quantity
from txcalc.answer.render import data as render_data
from txcalc.answer.render import headings
from txcalc.answer.render.csv import rows as csv_rows
from txcalc.answer.render.figures import MARKS
from txcalc.answer.render.formats import Format
from txcalc.answer.render.grid import Align, Line, Screen, Span, chunks, grid, line, paragraph, text, wrap
from txcalc.answer.render.markdown import escaped, pipe_table

Cells = list[list[str]]

_NAMES: Final[dict[Quantity, tuple[str, Callable[[int | None], str]]]] = {
    "flops_forward": ("FLOPs", units.flops),
    "activation_bytes": ("kept", units.memory),
    "state_bytes": ("state", units.memory),
    "sequential_steps": ("steps", units.exact),
    "longest_path": ("path", units.exact),
}
_BY_LENGTH: Final[tuple[Quantity, ...]] = ("flops_forward", "activation_bytes", "state_bytes")
_SHORT: Final = ("masked", "kept", "path")


def render(found: MixerTable, form: Format, screen: Screen, *, verbose: bool = False, quiet: bool = False) -> str:
    """The table in a format. Only the plain table looks at the screen."""
    if form == "table":
        return table(found, screen, verbose=verbose, quiet=quiet)
    if form == "md":
        return markdown(found)
    if form == "csv":
        return csv(found)
    if form == "html":
        from txcalc.answer.page.mixers import page

        return page(found)
    return (render_data.json if form == "json" else render_data.yaml)(found.to_data())


def table(found: MixerTable, screen: Screen, *, verbose: bool = False, quiet: bool = False) -> str:
    """The whole answer as text. ``verbose`` adds every length, sources and rules; ``quiet`` is the costs alone."""
    return text(_lines(found, screen, verbose, quiet), color=screen.color)


def markdown(found: MixerTable) -> str:
    """The whole answer as GitHub-flavoured Markdown."""
    parts = ["# Sequence mixers", " · ".join(workload_line(found))]
    for title, cells in _tables(found):
        head, *rows = cells
        parts += [f"## {title}", pipe_table(head, "<" + ">" * (len(head) - 1), rows)]
    rules = [rule.text + (f" ({rule.flag})" if rule.flag else "") for rule in found.conventions]
    sources = [f"{row.title}: {row.source}" for row in found.mixers]
    parts.append("\n".join(f"- {escaped(each)}" for each in [*rules, *sources]))
    return "\n\n".join(parts) + "\n"


def csv(found: MixerTable) -> str:
    """One row per layer and length, every figure a plain integer."""
    columns = ["id", "params", "seq", *QUANTITIES]
    return csv_rows(columns, (
        [row.id, row.params, point.seq, *(getattr(point, name) for name in QUANTITIES)]
        for row in found.mixers for point in row.points
    ))


def _lines(found: MixerTable, screen: Screen, verbose: bool, quiet: bool) -> Iterator[Line]:
    first, *rest = wrap(workload_line(found), screen)
    yield tuple(Span(span.text, "bold") for span in first)
    yield from rest
    costs, growth, *by_length = _tables(found)
    for title, cells in (costs,) if quiet else (costs, growth, *by_length) if verbose else (costs, growth):
        yield line()
        yield from _grid(title, cells, screen)
    if quiet:
        return
    yield line()
    if not verbose:
        short = "; ".join(rule.text for rule in found.conventions if rule.id in _SHORT)
        yield from paragraph(f"({short})", screen)
        return
    for rule in found.conventions:
        yield from paragraph(rule.text + (f" ({rule.flag})" if rule.flag else ""), screen, first="   ", rest="     ")
    for row in found.mixers:
        yield from paragraph(f"{row.title}: {row.source}", screen, first="   ", rest="     ")


def _grid(title: str, cells: Cells, screen: Screen) -> Iterator[Line]:
    head, *body = cells
    rows = [[Span(title, "bold"), *(Span(name, "bold") for name in head[1:])],
            *([Span(cell) for cell in row] for row in body)]
    for i, part in enumerate(chunks(rows, screen)):
        if i:
            yield line()
        aligns: list[Align] = ["<" if column == 0 else ">" for column in range(len(part[0]))]
        yield from grid(part, aligns)


def workload_line(found: MixerTable) -> list[str]:
    """``d_model 512 · 8 heads · batch 1 · bf16 · one layer each, forward pass``, in parts."""
    w = found.workload
    return [
        f"d_model {units.exact(found.d_model)}", f"{units.exact(found.heads)} heads",
        f"batch {units.exact(w.batch)}", headings.dtypes(w), "one layer each, forward pass",
    ]


def _tables(found: MixerTable) -> list[tuple[str, Cells]]:
    lengths = [point.seq for point in found.mixers[0].points]
    costs = (f"At seq {units.exact(lengths[-1])}", _costs(found.mixers))
    growth = ("Exponent of N", _growth(found.mixers)) if len(lengths) > 1 else ("Order", _growth(found.mixers))
    by_length = [
        (f"{_NAMES[name][0]} by length", _at_lengths(found.mixers, name, lengths)) for name in _BY_LENGTH
    ]
    return [costs, growth, *(by_length if len(lengths) > 1 else ())]


def _costs(rows: Sequence[MixerRow]) -> Cells:
    head = ["", "params", *(name for name, _ in _NAMES.values()), ""]
    return [head, *(
        [row.title, units.params(row.params),
         *(shown(getattr(row.points[-1], name)) for name, (_, shown) in _NAMES.items()), MARKS[row.kind]]
        for row in rows
    )]


def _growth(rows: Sequence[MixerRow]) -> Cells:
    head = ["", *(name for name, _ in _NAMES.values())]
    return [head, *([row.title, *map(order, row.growth)] for row in rows)]


def order(growth: Growth) -> str:
    """``1.99 of O(N² d)``."""
    return growth.theory if growth.fitted is None else f"{growth.fitted:.2f}  {growth.theory:<9}"


def _at_lengths(rows: Sequence[MixerRow], name: Quantity, lengths: Sequence[int]) -> Cells:
    _, shown = _NAMES[name]
    head = ["", *(units.exact(length) for length in lengths)]
    return [head, *([row.title, *(shown(getattr(point, name)) for point in row.points)] for row in rows)]
