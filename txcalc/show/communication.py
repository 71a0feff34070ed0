"""Tables of collectives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from txcalc.answer.ranks import Collective, Rank
from txcalc.show import blocks as b
from txcalc.trace.layout import WHOLE, Layout
from txcalc.trace.workload import Workload


def communication(found: Sequence[Collective] | None) -> Iterator[b.Table]:
    """Like calls in a line; each with its operation where details are asked for."""
    alike: dict[tuple[str, str, str, str, int], int] = {}
    for each in found or ():
        key = each.what, each.axis, each.phase, "yes" if each.overlappable else "", each.bytes
        alike[key] = alike.get(key, 0) + each.times
    columns = (b.Column("Collectives"), b.Column("over"), b.Column("pass"), b.Column("times", "n"),
               b.Column("each", "n"), b.Column("together", "n", exact=1), b.Column("overlaps"))
    yield b.Table("Collectives", columns, [
        b.Row((what, axis, phase, b.Number(times), b.Number(size, "memory"), b.Number(times * size, "memory"),
               overlaps)) for (what, axis, phase, overlaps, size), times in alike.items()
    ], caption="What ranks do together, in bytes of the tensor that they have together, in the passes of a "
        "micro-batch and in the optimizer's step", level=1)
    every = (b.Column("Collective of", "path"), b.Column("what"), b.Column("pass"), b.Column("times", "n"),
               b.Column("each", "n"))
    yield b.Table("Every collective", every, [
        b.Row((each.path, f"{each.what} over {each.axis}", each.phase, b.Number(each.times),
               b.Number(each.bytes, "memory"))) for each in found or ()
    ], level=2, lines=True)


_FIGURES: Final[dict[str, tuple[str, b.Scale]]] = {
    "params": ("params", "params"), "flops": ("FLOPs", "flops"), "weight_bytes": ("weights", "memory"),
    "gradient_bytes": ("gradients", "memory"), "state_bytes": ("states", "memory"), "cache_bytes": ("cache", "memory"),
    "kept_bytes": ("kept", "memory"), "peak_bytes": ("peak", "memory")}


def ranks(found: Sequence[Rank] | None, workload: Workload) -> b.Table:
    """The same figures of every rank, alike ones in a line: ``stage 2–7, tp 1–8``."""
    layout = workload.layout or WHOLE
    shown = [name for name in _FIGURES if any(getattr(each, name) is not None for each in found or ())]
    several = len({each.tp for each in found or ()}) > 1
    columns = (b.Column("Ranks"), b.Column("ranks", "n"), b.Column("layers", "n"), *(
        b.Column(_FIGURES[name][0], "n", exact=1) for name in shown))
    return b.Table("Ranks", columns, [
        b.Row((_named(each, layout, several), b.Number(each.times), b.Number(each.layers), *(
            b.number(getattr(each, name), _FIGURES[name][1]) for name in shown))) for each in found or ()
    ], caption="What every rank has; FLOPs and what is kept are of one micro-batch", level=1, lines=True)


def _named(each: Rank, layout: Layout, several: bool) -> str:
    """Stages that ranks of a pipeline have, and which of tensor parallelism they are where these differ."""
    stages = [_span([layout.stages_of(pp)[i] for pp in each.pp]) for i in range(layout.per_rank)]
    parts = [f"stage {' and '.join(stages)}"] * (layout.pp > 1) + [f"tp {_span(each.tp)}"] * several
    return ", ".join(parts) or "all"


def _span(of: Sequence[int]) -> str:
    """``2–7``, counted from 1."""
    ends = sorted({min(of) + 1, max(of) + 1})
    return "–".join(map(str, ends))
