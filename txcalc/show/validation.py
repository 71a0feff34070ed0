"""Validations: one model in full; several as one line each, with all that differs below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from txcalc.answer.validation import Row as Compared
from txcalc.answer.validation import Validation, Validations
from txcalc.show import blocks as b

_SHOWN: Final = 5


def blocks(found: Validations) -> Iterator[b.Block]:
    """The blocks of the comparisons."""
    results = found.models
    if len(results) == 1:
        yield b.Title(f"{results[0].model} against {results[0].against}")
        yield _rows(results[0])._replace(bare=True)
        yield _notes(results[0])
        yield _verdict(results)
    else:
        yield b.Title("Validation", name="")
        columns = (b.Column("model"), b.Column("compared", "n"), b.Column("equal", "n"), b.Column("verdict"))
        yield b.Table("Models", columns, list(map(_line, results)), caption="Comparisons of each", bare=True)
        yield _verdict(results)
        for result in results:
            level = 0 if result.rows and not result.agrees else 2
            title = f"{result.model} against {result.against}"
            yield _rows(result)._replace(title=title, level=level)
            yield _notes(result)._replace(level=level)
    names = ("model", "against", *Compared.names())
    yield b.Data(names, (
        (result.model, result.against, *b.fields(row, Compared.names(), "; "))
        for result in results for row in result.rows
    ))


def _rows(result: Validation) -> b.Table:
    printed = any(row.printed for row in result.rows)
    other, where = ("printed", "where") if printed else ("measured", "measured on")
    columns = (b.Column("quantity"), b.Column("counted", "n"), b.Column(other, "n"), b.Column("verdict"),
               b.Column(where, order=1, style="dim"))
    return b.Table("Comparisons", columns, [
        b.Row((row.quantity, b.number(row.counted), row.printed or b.number(row.measured),
             b.Alert(row.verdict) if row.verdict == "DIFFERS" else row.verdict, row.how)) for row in result.rows
    ], caption="Every quantity that was compared", lines=True)


def _notes(result: Validation) -> b.Notes:
    notes = [f"{row.quantity}: {difference}" for row in result.rows for difference in row.differences[:_SHOWN]]
    notes += [f"{row.quantity}: and {len(row.differences) - _SHOWN} more" for row in result.rows
              if len(row.differences) > _SHOWN]
    return b.Notes("", [*notes, *(f"not compared: {what}" for what in result.left_out)])


def _line(result: Validation) -> b.Row:
    equal = sum(row.verdict in ("equal", "rounds to it") for row in result.rows)
    explained = sum(row.verdict == "explained" for row in result.rows)
    told = f"{equal}" + (f" + {explained} explained" if explained else "")
    verdict = "agrees" if result.agrees else b.Alert("DIFFERS") if result.rows else "nothing to compare"
    return b.Row((result.model, str(len(result.rows)), told, verdict))


def _verdict(results: Sequence[Validation]) -> b.Notes:
    rows = [row for result in results for row in result.rows]
    wrong = sum(row.verdict == "DIFFERS" for row in rows)
    if wrong:
        return b.Notes("", [f"{wrong} of {len(rows)} comparisons differ"], style="red")
    explained = sum(row.verdict == "explained" for row in rows)
    digits = "printed" if any(row.printed for row in rows) else "last"
    suffix = f", {explained} of them explained" if explained else f", to the {digits} digit"
    return b.Notes("", [f"all {len(rows)} comparisons agree{suffix}" if rows else "nothing to compare"], style="bold")
