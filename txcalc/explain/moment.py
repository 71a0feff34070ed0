"""When most bytes are live, and at which other sizes the formula of that moment still is the peak."""

from __future__ import annotations

from operator import lshift, rshift
from typing import Final, Literal

from txcalc.answer.fit import fit
from txcalc.answer.places import placed
from txcalc.count.peak import peak
from txcalc.explain.derive import Line, Run, one_of, tensor_name
from txcalc.explain.explanation import AliveRow, Moment, Range
from txcalc.explain.kept import reader
from txcalc.explain.notation import formula
from txcalc.explain.polynomial import Poly, poly
from txcalc.explain.why import Basis
from txcalc.spec.errors import SpecError
from txcalc.trace.model import trace

RULES: Final = (
    Basis("a tensor is alive from the operation that allocates it to its last reader, or to the end of a call that "
          "holds it", "torch, after every operation of a real step under a dispatch mode"),
    Basis("what the backward pass needs is alive until it has been there; gradients of weights stay, all others go "
          "when they are used up", "torch.autograd"),
    Basis("on a card, the most that a step asks for is this", "torch.cuda.memory_stats, requested_bytes, on an H200"),
)

DOUBLINGS = 4
"""How often a size is doubled, and halved, to try a formula."""


def moment(run: Run) -> Moment:
    """The operation that has just allocated."""
    found = peak(run.counted)
    return Moment(phase=found.phase, path=placed(found.path, found.turns))


def alive_rows(run: Run, found: list[Line]) -> tuple[AliveRow, ...]:
    """What is alive under the line that it is a part of; alike tensors together."""
    rows: dict[tuple[str, str, str, Poly], Poly] = {}
    for line in found:
        for entry in line.entries:
            maker = entry.op.path.rsplit(".", 1)[-1]
            key = (line.title, tensor_name(entry), reader(maker), one_of(run, entry, run.read(entry.times)))
            rows[key] = rows.get(key, poly(0)) + run.read(entry.times)
    return tuple(
        AliveRow(row=row, tensor=tensor, each=formula(each), count=int(times.value(run.values)), times=formula(times),
                 value=int((each * times).value(run.values)), made_by=maker)
        for (row, tensor, maker, each), times in rows.items()
    )


def holds(run: Run, closed: Poly) -> tuple[Range, ...]:
    """How far a formula is the peak when one size of the workload is doubled or halved, again and again."""
    found = list[Range]()
    sizes: tuple[Literal["batch", "seq", "past"], ...] = ("batch", "seq", "past")
    for name in sizes:
        symbol, size = str(getattr(run.symbols.workload, name)), getattr(run.workload, name)
        if symbol in run.values:
            halves, doubles = ([step(size, i) for i in range(1, DOUBLINGS + 1)] for step in (rshift, lshift))
            least, most = (_last(run, closed, name, symbol, tried) for tried in (halves, doubles))
            found.append(Range(size=name, least=least or size, most=most or size))
    return tuple(found)


def _last(run: Run, closed: Poly, name: str, symbol: str, sizes: list[int]) -> int:
    """The last of these sizes up to which the formula is the peak, or 0."""
    last = 0
    for size in filter(None, sizes):
        try:
            there = peak(trace(run.spec, fit(run.spec, run.workload.replaced(**{name: size}))))
        except SpecError:  # no such size, or longer than the model reads
            break
        if closed.value(run.values | {symbol: size}) != there.bytes:
            break
        last = size
    return last
