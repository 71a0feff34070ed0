"""Validations as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from txcalc import units
from txcalc.answer.render.grid import Align, Line, Screen, Span, grid, line, paragraph, text, total_width, widths
from txcalc.answer.validation import Row, Validation

_SHOWN: Final = 5


def table(results: Sequence[Validation], screen: Screen, *, verbose: bool = False) -> str:
    """One model in full; several as one line each, with all that differs below."""
    if len(results) == 1:
        return text(_one(results[0], screen), color=screen.color)
    return text([*_several(results, screen), *_differing(results, screen, verbose)], color=screen.color)


def _one(result: Validation, screen: Screen) -> list[Line]:
    head = line(f"{result.model} against {result.against}", "bold")
    printed = any(row.printed for row in result.rows)
    names = ("printed", "verdict", "where") if printed else ("measured", "verdict", "measured on")
    rows = [[Span(name, "dim") for name in ("quantity", "counted", *names)]]
    rows += [_cells(row) for row in result.rows]
    aligns: list[Align] = ["<", ">", ">", "<", "<"]
    if not screen.fits(total_width(widths(rows))):
        rows = [row[:4] for row in rows]
    if not screen.fits(total_width(widths(rows))):
        lines = [piece for row in result.rows for piece in _stacked(row)]
    else:
        lines = grid(rows, aligns)
    return [head, line(), *lines, *_notes(result, screen), line(), _verdict([result])]


def _cells(row: Row) -> list[Span]:
    return [
        Span(row.quantity), Span(units.exact(row.counted)), Span(row.printed or units.exact(row.measured)),
        Span(row.verdict, "red" if row.verdict == "DIFFERS" else ""), Span(row.how, "dim"),
    ]


def _stacked(row: Row) -> list[Line]:
    other = row.printed or units.exact(row.measured)
    return [line(row.quantity), (Span(f"  {units.exact(row.counted)}, {other}  {row.verdict}"),)]


def _notes(result: Validation, screen: Screen) -> list[Line]:
    notes = [f"{row.quantity}: {difference}" for row in result.rows for difference in row.differences[:_SHOWN]]
    notes += [f"{row.quantity}: and {len(row.differences) - _SHOWN} more" for row in result.rows
              if len(row.differences) > _SHOWN]
    notes += [f"not compared: {what}" for what in result.left_out]
    return [piece for note in notes for piece in paragraph(note, screen, rest="  ")]


def _several(results: Sequence[Validation], screen: Screen) -> list[Line]:
    rows = [[Span(name, "dim") for name in ("model", "compared", "equal", "verdict")]]
    for result in results:
        equal = sum(row.verdict in ("equal", "rounds to it") for row in result.rows)
        explained = sum(row.verdict == "explained" for row in result.rows)
        told = f"{equal}" + (f" + {explained} explained" if explained else "")
        verdict = "agrees" if result.agrees else "DIFFERS" if result.rows else "nothing to compare"
        rows.append([Span(result.model), Span(str(len(result.rows))), Span(told),
                     Span(verdict, "red" if verdict == "DIFFERS" else "")])
    return [*grid(rows, ["<", ">", ">", "<"]), line(), _verdict(results)]


def _differing(results: Sequence[Validation], screen: Screen, verbose: bool) -> list[Line]:
    shown = [result for result in results if verbose or (result.rows and not result.agrees)]
    return [piece for result in shown for piece in [line(), *_one(result, screen)]]


def _verdict(results: Sequence[Validation]) -> Line:
    rows = [row for result in results for row in result.rows]
    wrong = sum(row.verdict == "DIFFERS" for row in rows)
    if wrong:
        return line(f"{wrong} of {len(rows)} comparisons differ", "red")
    explained = sum(row.verdict == "explained" for row in rows)
    digits = "printed" if any(row.printed for row in rows) else "last"
    suffix = f", {explained} of them explained" if explained else f", to the {digits} digit"
    return line(f"all {len(rows)} comparisons agree{suffix}" if rows else "nothing to compare", "bold")
