"""The tensors that are kept for backward: shape in symbols, bytes, how often, which operation keeps them and why."""

from __future__ import annotations

from dataclasses import dataclass

from txcalc.count.entries import Entry
from txcalc.explain import why
from txcalc.explain.derive import Line, Run, one_of, tensor_name
from txcalc.explain.explanation import KeptRow
from txcalc.explain.notation import formula
from txcalc.explain.polynomial import Poly
from txcalc.explain.why import Basis
from txcalc.trace.kinds import Keeps


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
        key = (tensor_name(entry), each, rule, *(_plain(reader) for reader in readers))
        old = found.get(key)
        if old is None:
            found[key] = _Group(entry, rule, each, times, dict(readers))
        else:
            old.times += times
            old.readers |= readers
    return list(found.values())


def _plain(reader: str) -> str:
    """Norms of the attention and of the feed-forward are one kind of reader."""
    return "norm" if reader.endswith("_norm") else reader


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
        kept_by=tuple(dict.fromkeys(reader(name) for name in group.readers)),
        kept_as=group.rule.role,
        why=group.rule.why,
    )


def reader(name: str) -> str:
    """What an operation is called that keeps or makes a tensor."""
    return "norm" if name.endswith("_norm") else name.replace("_", " ")
