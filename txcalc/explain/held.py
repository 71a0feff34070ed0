"""Tensors that are held: those kept for backward, and why; those alive at the peak, and when that is."""

from __future__ import annotations

from dataclasses import dataclass
from operator import lshift, rshift
from typing import Final, Literal

from txcalc.answer.fit import fit
from txcalc.answer.passes import placed
from txcalc.count.entries import Entry
from txcalc.count.peak import peak
from txcalc.explain import why
from txcalc.explain.derive import Line, Run, one_of, tensor_name
from txcalc.explain.explanation import AliveRow, KeptRow, Moment, Range
from txcalc.explain.formula import formula
from txcalc.explain.polynomial import Poly, poly
from txcalc.explain.why import Basis
from txcalc.spec.errors import SpecError
from txcalc.trace.kinds import Keeps
from txcalc.trace.model import trace

RULES: Final = (
    Basis("a tensor is alive from the operation that allocates it to its last reader, or to the end of a call that "
          "holds it", "torch, after every operation of a real step under a dispatch mode"),
    Basis("what the backward pass needs is alive until it has been there; gradients of weights stay, all others go "
          "when they are used up", "torch.autograd"),
    Basis("on a card, the most that a step asks for is this", "torch.cuda.memory_stats, requested_bytes, on an H200"),
)

DOUBLINGS = 4
"""Number of times a size is doubled, and halved, to try a formula."""


@dataclass
class _Group:
    entry: Entry
    rule: Keeps
    each: Poly
    times: Poly
    readers: dict[str, None]


def kept_rows(run: Run, found: list[Line]) -> tuple[KeptRow, ...]:
    """Every kept tensor under the line that it is a part of; alike ones together."""
    return tuple(_row(run, line, group) for line in found for group in _groups(run, line))


def kept_sources(run: Run, found: list[Line]) -> list[Basis]:
    """Each rule by which a tensor is kept, once."""
    rules = {group.rule: None for line in found for group in _groups(run, line)}
    return [Basis(rule.why, rule.source) for rule in rules]


def _groups(run: Run, line: Line) -> list[_Group]:
    found: dict[tuple[object, ...], _Group] = {}
    for entry in line.entries:
        times, readers = run.read(entry.times), run.kept_by(entry.tensor)
        each = one_of(run, entry, times)
        rule = why.why_kept(entry.op, entry.tensor)
        # Norms of the attention and of the feed-forward are one kind of reader.
        kinds = ("norm" if reader.endswith("_norm") else reader for reader in readers)
        key = (tensor_name(entry), each, rule, *kinds)
        old = found.get(key)
        if old is None:
            found[key] = _Group(entry, rule, each, times, dict(readers))
        else:
            old.times += times
            old.readers |= readers
    return list(found.values())


def _row(run: Run, line: Line, group: _Group) -> KeptRow:
    tensor = group.entry.tensor
    return KeptRow(
        row=line.title,
        tensor=tensor_name(group.entry),
        shape=tuple(formula(run.read(size)) for size in tensor.shape),
        bytes=run.workload.bytes_of(tensor.role),
        each=formula(group.each),
        count=int(group.times.value(run.values)),
        times=formula(group.times),
        value=int((group.each * group.times).value(run.values)),
        kept_by=tuple(dict.fromkeys(_reader(name) for name in group.readers)),
        kept_as=group.rule.role,
        why=group.rule.why,
    )


def _reader(name: str) -> str:
    """The name of an operation that keeps or makes a tensor."""
    return "norm" if name.endswith("_norm") else name.replace("_", " ")


# ---------------------------------------------------------------- the peak


def moment(run: Run) -> Moment:
    """The operation that has just allocated."""
    found = peak(run.counted)
    return Moment(phase="forward" if found.phase == "forward" else "backward", path=placed(found.path, found.turns))


def alive_rows(run: Run, found: list[Line]) -> tuple[AliveRow, ...]:
    """Live tensors under the line that each is a part of; alike ones together."""
    rows: dict[tuple[str, str, str, Poly], Poly] = {}
    for line in found:
        for entry in line.entries:
            maker = entry.op.path.rsplit(".", 1)[-1]
            key = (line.title, tensor_name(entry), _reader(maker), one_of(run, entry, run.read(entry.times)))
            rows[key] = rows.get(key, poly(0)) + run.read(entry.times)
    return tuple(
        AliveRow(row=row, tensor=tensor, each=formula(each), count=int(times.value(run.values)), times=formula(times),
                 value=int((each * times).value(run.values)), made_by=maker)
        for (row, tensor, maker, each), times in rows.items()
    )


def holds(run: Run, closed: Poly) -> tuple[Range, ...]:
    """The range in which a formula is the peak when one size of the workload is doubled or halved, again and again."""
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
