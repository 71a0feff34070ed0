"""Validations: one model in full; several as one line each, with all that differs below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from txcalc.answer.validation import Row as Compared
from txcalc.answer.validation import Validation, Validations
from txcalc.show.blocks import Alert, Block, Column, Data, Notes, Number, Row, Table, Title

_SHOWN: Final = 5


def blocks(found: Validations) -> Iterator[Block]:
    """What a reader sees of the comparisons."""
    results = found.models
    if len(results) == 1:
        yield Title(f"{results[0].model} against {results[0].against}")
        yield _rows(results[0])._replace(bare=True)
        yield _notes(results[0])
        yield _verdict(results)
    else:
        yield Title("Validation", name="")
        columns = (Column("model"), Column("compared", "n"), Column("equal", "n"), Column("verdict"))
        yield Table("Models", columns, [_line(result) for result in results], caption="Comparisons of each", bare=True)
        yield _verdict(results)
        for result in results:
            level = 0 if result.rows and not result.agrees else 2
            title = f"{result.model} against {result.against}"
            yield _rows(result)._replace(title=title, level=level)
            yield _notes(result)._replace(level=level)
    names = ("model", "against", *Compared.names())
    yield Data(names, (
        (result.model, result.against, *("; ".join(value) if isinstance(value, tuple) else value
                                         for value in (getattr(row, name) for name in Compared.names())))
        for result in results for row in result.rows
    ))


def _rows(result: Validation) -> Table:
    printed = any(row.printed for row in result.rows)
    other, where = ("printed", "where") if printed else ("measured", "measured on")
    columns = (Column("quantity"), Column("counted", "n"), Column(other, "n"), Column("verdict"),
               Column(where, order=1, style="dim"))
    return Table("Comparisons", columns, [
        Row((row.quantity, _number(row.counted), row.printed or _number(row.measured),
             Alert(row.verdict) if row.verdict == "DIFFERS" else row.verdict, row.how)) for row in result.rows
    ], caption="Every quantity that was compared", lines=True)


def _number(value: int | None) -> Number | None:
    return None if value is None else Number(value)


def _notes(result: Validation) -> Notes:
    notes = [f"{row.quantity}: {difference}" for row in result.rows for difference in row.differences[:_SHOWN]]
    notes += [f"{row.quantity}: and {len(row.differences) - _SHOWN} more" for row in result.rows
              if len(row.differences) > _SHOWN]
    return Notes("", [*notes, *(f"not compared: {what}" for what in result.left_out)])


def _line(result: Validation) -> Row:
    equal = sum(row.verdict in ("equal", "rounds to it") for row in result.rows)
    explained = sum(row.verdict == "explained" for row in result.rows)
    told = f"{equal}" + (f" + {explained} explained" if explained else "")
    verdict = "agrees" if result.agrees else Alert("DIFFERS") if result.rows else "nothing to compare"
    return Row((result.model, str(len(result.rows)), told, verdict))


def _verdict(results: Sequence[Validation]) -> Notes:
    rows = [row for result in results for row in result.rows]
    wrong = sum(row.verdict == "DIFFERS" for row in rows)
    if wrong:
        return Notes("", [f"{wrong} of {len(rows)} comparisons differ"], style="red")
    explained = sum(row.verdict == "explained" for row in rows)
    digits = "printed" if any(row.printed for row in rows) else "last"
    suffix = f", {explained} of them explained" if explained else f", to the {digits} digit"
    return Notes("", [f"all {len(rows)} comparisons agree{suffix}" if rows else "nothing to compare"], style="bold")
