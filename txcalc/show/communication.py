"""What ranks do together, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from txcalc.answer.report import Collective
from txcalc.show import blocks as b


def communication(found: Sequence[Collective] | None) -> Iterator[b.Table]:
    """Like calls in a line; each with its operation where details are asked for."""
    alike: dict[tuple[str, str, str, int], int] = {}
    for each in found or ():
        key = each.what, each.axis, each.phase, each.bytes
        alike[key] = alike.get(key, 0) + each.times
    columns = (b.Column("Collectives"), b.Column("over"), b.Column("pass"), b.Column("times", "n"),
               b.Column("each", "n"), b.Column("together", "n", exact=1))
    yield b.Table("Collectives", columns, [
        b.Row((what, axis, phase, b.Number(times), b.Number(size, "memory"), b.Number(times * size, "memory")))
        for (what, axis, phase, size), times in alike.items()
    ], caption="What ranks do together, in bytes of the tensor that they have together", level=1)
    every = (b.Column("Collective of", "path"), b.Column("what"), b.Column("pass"), b.Column("times", "n"),
               b.Column("each", "n"))
    yield b.Table("Every collective", every, [
        b.Row((each.path, f"{each.what} over {each.axis}", each.phase, b.Number(each.times),
               b.Number(each.bytes, "memory"))) for each in found or ()
    ], level=2, lines=True)
