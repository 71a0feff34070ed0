"""Published figures recomputed: the errors of every family, then its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from txcalc import units
from txcalc.answer.reproduce import Family, Reproduced, Reproduction
from txcalc.show import blocks as b


def blocks(found: Reproduction) -> Iterator[b.Block]:
    """The blocks of the comparison."""
    yield b.Title("Published and measured figures, recomputed", name="")
    columns = (b.Column("family"), b.Column("rows", "n"), b.Column("mean", "n", "Mean error"),
               b.Column("absolute", "n", "Mean absolute"), b.Column("worst", "n", "Worst"),
               b.Column("hard gates", "", "Hard gates"),
               b.Column("what", "words", fold="{}", place="below", style="dim"))
    yield b.Table("Families", columns, list(map(_line, found.families)), caption="Errors: ours over theirs, less 1",
                  bare=True)
    moved = [row.id for each in found.families for row in each.rows if row.verdict == "MOVED"]
    if moved:
        yield b.Notes("", [f"moved beyond their gates: {', '.join(moved)}"], style="red")
    for family in found.families:
        yield _rows(family)
        yield b.Notes("", [f"source: {family.source}", f"first row: {family.command}", *_missing(family)], level=2)
    names = ("family", *(name for name in Reproduced.names() if name != "run"))
    yield b.Data(names, ((each.name, *b.fields(row, names[1:]))
                         for each in found.families for row in each.rows))


def _missing(family: Family) -> Iterator[str]:
    """Fields that rows leave open, each said once of all that do."""
    found = Counter(row.missing for row in family.rows if row.missing)
    for missing, often in reversed(found.most_common()):
        rows = ", ".join(row.id for row in family.rows if row.missing == missing)
        left = often > len(family.rows) / 2
        yield f"{rows if not left else 'all others' if len(found) > 1 else 'all'}: {missing}"


def _line(family: Family) -> b.Row:
    hard = [row for row in family.rows if row.gate is not None]
    moved = sum(row.verdict == "MOVED" for row in hard)
    gates = b.Alert(f"{moved} of {len(hard)} moved") if moved else f"{len(hard)} hold" if hard else "none"
    return b.Row((family.name, str(len(family.rows)), _signed(family.mean), f"{family.mean_absolute:.2%}",
                  _signed(family.worst), gates, family.title))


def _rows(family: Family) -> b.Table:
    columns = (b.Column("row"), b.Column("ours", "n"), b.Column("theirs", "n"), b.Column("error", "n"),
               b.Column("verdict", order=1))
    return b.Table(family.title, columns, [
        b.Row((row.id, units.exact(row.counted) if isinstance(row.counted, int) and row.counted < 10**15
               else f"{row.counted:.4g}", row.printed, _signed(row.error),
               b.Alert(row.verdict) if row.verdict == "MOVED" else row.verdict)) for row in family.rows
    ], caption=family.rows[0].what, level=2)


def _signed(part: float) -> str:
    return f"{part:+.2%}"
