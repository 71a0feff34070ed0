"""From a trace on symbols to lines: what each component adds to a quantity, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from txcalc.answer.report import Totals, totals
from txcalc.count.entries import Entry
from txcalc.explain.explanation import QuantityName
from txcalc.explain.naming import Fields, Name, name
from txcalc.explain.polynomial import ONE, Atom, Poly, Whole, added, atomic, poly
from txcalc.explain.quantities import DEFINITIONS, entries
from txcalc.explain.symbols import Symbols, symbols
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Number, Tensor
from txcalc.trace.workload import Workload

_TENSORS: Final = {
    "residual": "residual stream", "residual after dropout": "residual stream", "rstd": "1 / deviation",
    "up": "up projection", "gate": "gate projection", "context": "weighted values", "gelu_tanh": "gelu",
    "softmax": "softmax output", "softmax after dropout": "softmax after dropout", "activation": "activation output",
}

_GRADIENT: Final = "gradient of "


@dataclass
class Run:
    """One model run on ints and on symbols, each when it is first needed. ``lengths``: see ``symbols``.

    ``closed``: every formula uses the closed form's relations as well.
    """

    spec: Model
    workload: Workload
    lengths: bool = True
    closed: bool = False
    choices: dict[tuple[Poly, Poly], None] = field(default_factory=dict)
    _read: dict[Number, Poly] = field(default_factory=dict)

    @cached_property
    def totals(self) -> Totals:
        """The count."""
        return totals(self.counted).shown(self.workload.masked)

    @cached_property
    def fields(self) -> Fields:
        """The model as plain data."""
        return self.spec.to_data()

    @cached_property
    def counted(self) -> Trace:
        """The program on ints."""
        return trace(self.spec, self.workload)

    @cached_property
    def symbols(self) -> Symbols:
        """The symbol of every size."""
        return symbols(self.spec, self.workload, lengths=self.lengths)

    @cached_property
    def trace(self) -> Trace:
        """The program on symbols."""
        return trace(self.symbols.spec, self.symbols.workload, self.symbols.values, row=self.counted.code)

    @cached_property
    def first(self) -> dict[int, int]:
        """The tensor at the start of a loop's body for each that stands there: the one before, and a run's last."""
        found: dict[int, int] = {}
        for loop, _ in self.trace.loops:  # inner ones first
            found[loop.before.id] = found[loop.exit.id] = found.get(loop.entry.id, loop.entry.id)
        return found

    @cached_property
    def readers(self) -> dict[int, dict[str, None]]:
        """The operations that keep each tensor, by their own names."""
        found: dict[int, dict[str, None]] = {}
        for op in self.trace.ops:
            for tensor in op.kept:
                names = found.setdefault(self.first.get(tensor.id, tensor.id), {})
                names[op.path.rsplit(".", 1)[-1]] = None
        return found

    def kept_by(self, tensor: Tensor) -> dict[str, None]:
        """The operations that keep this tensor, whichever run of a loop it comes from."""
        return self.readers[self.first.get(tensor.id, tensor.id)]

    @property
    def values(self) -> dict[str, int]:
        """The size of every symbol."""
        return self.symbols.values

    def read(self, number: Number) -> Poly:
        """A number of the symbolic trace, equal to it at these sizes, with the relations that always hold.

        A minimum becomes the side that is smaller here, which ``choices`` keeps. A quotient rounded down loses its
        rounding where it is whole here.
        """
        if number not in self._read:
            relations = (*self.symbols.always, *(self.symbols.closed if self.closed else ()))
            self._read[number] = poly(number).mapped(self._settled).rewritten(relations)
        return self._read[number]

    def _settled(self, atom: Atom) -> Poly:
        if isinstance(atom, str):
            return atomic(atom)
        sides = [side.mapped(self._settled) for side in atom.of]
        if atom.name == "floor":
            [inner] = sides
            return inner if isinstance(inner.value(self.values), int) else atomic(Whole("floor", (inner,)))
        taken = min(sides, key=lambda side: (side.value(self.values), len(side.terms)))
        self.choices |= {(taken, side): None for side in sides if side != taken}
        return taken


@dataclass
class Line:
    """Entries of alike components: ``each`` in one of them, ``times`` as many. ``title``: unlike all others."""

    name: Name
    paths: dict[str, None]
    each: Poly
    times: Poly
    entries: list[Entry]
    title: str = ""


def lines(run: Run, quantity: QuantityName) -> list[Line]:
    """The entries of a quantity per component, like ones together, in the order of the forward pass."""
    found: dict[tuple[str, object], Line] = {}
    for line in _components(run, quantity):
        old = found.setdefault((line.name.plain, line.each), line)
        if old is not line:
            old.times += line.times
            old.paths |= line.paths
            old.entries += line.entries
    merged = sorted(found.values(), key=lambda line: _rank(line, run.trace))
    for line in merged:
        alone = sum(other.name.plain == line.name.plain for other in merged) == 1
        line.title = line.name.plain if alone else line.name.full
    return _together(merged) if DEFINITIONS[quantity].often == "each" else merged


def _together(found: list[Line]) -> list[Line]:
    """Lines of one title as one, which then occurs once."""
    merged: dict[str, Line] = {}
    for line in found:
        old = merged.setdefault(line.title, line)
        if old is not line:
            old.each, old.times = old.each * old.times + line.each * line.times, ONE
            old.paths |= line.paths
            old.entries += line.entries
    return list(merged.values())


def _components(run: Run, quantity: QuantityName) -> Iterator[Line]:
    definition = DEFINITIONS[quantity]
    source = run.counted if definition.by_layer(run.counted) else run.trace
    often: dict[str, Poly] = {}
    for later in (False, True):  # runs of a repeat that are told apart are runs of it
        first = {op.component: counted for op, counted in reversed(source.placed) if counted.continued is later}
        for path, counted in first.items() if definition.often != "each" else ():
            if runs := run.read(getattr(counted, definition.often)):  # a shared block is declared, and runs elsewhere
                often[path] = often.get(path, poly(0)) + runs
    groups: dict[tuple[str, str, object], tuple[Poly | None, list[Entry]]] = {}
    idle = {op.path for op in run.counted.ops} - {op.path for op in run.counted.ops if definition.adds(op)}
    for entry in _once(run, entries(quantity, source)):
        if entry.op.path in idle or not run.read(entry.value):
            continue
        times, part = often.get(entry.op.component), definition.part(entry)
        if entry.tensor is not None and times is not None and not _whole(run.read(entry.times) / times):
            times, part = run.read(entry.times), tensor_name(entry)
        groups.setdefault((entry.op.component, part, times), (times, []))[1].append(entry)
    for (path, part, _), (often_each, mine) in groups.items():
        times = _common(run, mine) if often_each is None else often_each
        each = added(one_of(run, entry, times) for entry in mine)
        called = name(run.fields, path)
        if part:
            called = called._replace(plain=f"{called.plain}, {part}")
        yield Line(called, {path: None}, each, times, mine)


def _once(run: Run, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Merge the entries of a tensor that the runs of a loop hand on to each other, whichever run it comes from."""
    found: dict[object, Entry] = {}
    for entry in entries:
        if entry.tensor is None:
            yield entry
            continue
        key = (run.first.get(entry.tensor.id, entry.tensor.id), entry.op.path)
        old = found.get(key)
        if old is not None:
            times, value = old.times + entry.times, old.value + entry.value
            entry = entry._replace(times=times, each=old.each if old.each == entry.each else value / times)
        found[key] = entry
    place = {id(op): i for i, op in enumerate(run.trace.ops)}
    yield from sorted(found.values(), key=lambda entry: place[id(entry.op)])


def one_of(run: Run, entry: Entry, times: Poly) -> Poly:
    """Divide an entry by ``times``; where that is a sum, which divides nothing, take what the entry says of one."""
    return run.read(entry.value) / times if len(times.terms) == 1 else run.read(entry.each)


def _common(run: Run, entries: list[Entry]) -> Poly:
    """The number of times that entries occur together: as one of them that goes into all others, else once."""
    often = [run.read(entry.times) for entry in entries]
    first = often[0] if len(set(often)) == 1 else ONE
    single = (each for each in often if len(each.terms) == 1)
    return next((each for each in single if all(_whole(other / each) for other in often)), first)


def tensor_name(entry: Entry) -> str:
    """The name of a kept or live tensor for a reader."""
    if entry.op.layer == "cross_attention" and entry.op.part == "k" and entry.tensor is not None:
        return "encoder output"
    label = entry.what
    if label.startswith(_GRADIENT):
        of = ".".join(label.removeprefix(_GRADIENT).split(".")[-2:])
        return _GRADIENT + (of if "." in of else _called(of))
    return _called(label)


def _called(label: str) -> str:
    return "norm output" if label.endswith("_norm") else _TENSORS.get(label, label.replace("_", " "))


def _rank(line: Line, t: Trace) -> int:
    """Inputs, attention, cross-attention, feed-forward, norms, what stands on top."""
    path = next(iter(line.paths))
    last = path.rsplit(".", 1)[-1]
    if last.endswith("_norm") and not path.startswith("relative"):
        return 4
    if ".layers." in f".{path}":
        return {"cross_attention": 2, "feed_forward": 3}.get(last, 1)
    order = [op.component for op in t.ops]
    if path not in order:
        return 5
    first = next((i for i, each in enumerate(order) if ".layers." in f".{each}"), 0)
    return 0 if order.index(path) < first or last.endswith("embedding") or last.endswith("embedding_dropout") else 5


def _whole(poly: Poly) -> bool:
    return all(n > 0 for powers, _ in poly.terms for _, n in powers)
