"""The changed fields behind each changed total: two runs, and the steps from one to the other.

The fields that differ are changed one at a time, and every step is counted. A field that makes no sense on its own
(``heads`` where ``kv_heads`` would no longer divide it) waits for others, and changes together with as few of them
as it needs. What each step adds sums up to the whole difference, exactly; it depends on the steps before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Final, Literal, NamedTuple

from txcalc.answer.fit import fit
from txcalc.answer.notes import runs_as
from txcalc.answer.report import PYTHON, ModelInfo, Origin, Provenance, Totals, totals
from txcalc.document import Part
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.spec.replace import put
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

_NAMES: Final = ("name", "family")
"""Fields that name a model, and change nothing."""

Path = tuple[str | int, ...]
Data = dict[str, Any]
Values = dict[str, int | None]


class Run(NamedTuple):
    """A model and what it is run on."""

    spec: Model
    workload: Workload
    origin: Origin = PYTHON


class Side(Part):
    """One of the two runs."""

    model: ModelInfo
    workload: Workload
    totals: Totals
    attention: str | None = None


class FieldChange(Part):
    """A field of the spec (``spec.d_model``) or of the workload (``workload.seq``) that differs."""

    field: str
    a: Any
    b: Any


class Share(Part):
    """The change of a total by these fields together."""

    fields: tuple[str, ...]
    change: int


class TotalChange(Part):
    """A total that differs. ``change`` is the sum of ``shares``; where a side has none (null), it counts as 0."""

    total: str
    unit: str
    a: int | None
    b: int | None
    change: int
    shares: tuple[Share, ...]


class Diff(Part):
    """From ``a`` to ``b``. ``fields`` in the order of the spec; ``steps`` in the order in which they were changed."""

    schema: Literal["txcalc/diff/v1"] = "txcalc/diff/v1"
    a: Side
    b: Side
    fields: tuple[FieldChange, ...]
    steps: tuple[tuple[str, ...], ...]
    totals: tuple[TotalChange, ...]
    provenance: Provenance


class _Unit(NamedTuple):
    """The smallest unit of change: the value at a path."""

    path: Path
    a: Any
    b: Any

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))


class _Step(NamedTuple):
    """Units that were changed together, and the totals after that."""

    units: tuple[_Unit, ...]
    values: Values


def diff(a: Run, b: Run, *, command: Sequence[str] = ()) -> Diff:
    """The fields that differ, and the part that each has in the change of every total, in the totals' own units.

    Raises ``SpecError`` for a workload that does not fit its model.
    """
    sides = [_side(run) for run in (a, b)]
    first, last = (_state(side) for side in sides)
    units = list(_units(first, last, ()))
    before, after = (_values(side.totals) for side in sides)
    steps = list(_steps(first, units))
    if steps and steps[-1].values != after:
        raise RuntimeError("the steps of a difference do not lead to its end")
    return Diff(
        a=sides[0],
        b=sides[1],
        fields=tuple(FieldChange(field=unit.name, a=unit.a, b=unit.b) for unit in units),
        steps=tuple(_fields(step) for step in steps),
        totals=tuple(_total(name, sides, before, steps) for name in before if before[name] != after[name]),
        provenance=Provenance.of(command),
    )


def _side(run: Run) -> Side:
    workload = fit(run.spec, run.workload)
    ran = trace(run.spec, workload)
    return Side(model=ModelInfo.of(run.spec, run.origin), workload=workload, totals=totals(ran),
                attention=runs_as(ran))


def _state(side: Side) -> Data:
    spec = {name: value for name, value in side.model.spec.items() if name not in _NAMES}
    return {"spec": spec, "workload": side.workload.to_data()}


def _values(found: Totals) -> Values:
    return {name: None if quantity is None else quantity.value for name, quantity in found.quantities().items()}


def _units(a: Any, b: Any, path: Path) -> Iterator[_Unit]:
    """The smallest parts that differ. What is of another kind, or of another length, differs as a whole."""
    if a == b:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping) and list(a) == list(b) and a.get("kind") == b.get("kind"):
        for key in a:
            yield from _units(a[key], b[key], (*path, key))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (old, new) in enumerate(zip(a, b, strict=True)):
            yield from _units(old, new, (*path, i))
    else:
        yield _Unit(path, a, b)


def _steps(state: Data, units: list[_Unit]) -> Iterator[_Step]:
    """As many steps as there can be: always the first unit that can change alone, else a group."""
    rest = list(units)
    while rest:
        step = next((step for unit in rest if (step := _step(state, [unit]))), None) or _group(state, rest)
        yield step
        state = _changed(state, step.units)
        rest = [unit for unit in rest if unit not in step.units]


def _group(state: Data, rest: Sequence[_Unit]) -> _Step:
    """The first unit with as few others as it needs: grown until it can be counted, then thinned out."""
    found = next(step for n in range(2, len(rest) + 1) if (step := _step(state, rest[:n])))
    for unit in found.units[1:]:
        fewer = [each for each in found.units if each != unit]
        found = _step(state, fewer) or found
    return found


def _step(state: Data, units: Sequence[_Unit]) -> _Step | None:
    """The totals with these units changed; None where that is no model, or one that cannot be run so."""
    data = _changed(state, units)
    try:
        spec = Model.from_data({"name": "between", **data["spec"]})
        workload = fit(spec, Workload.of(data["workload"]))
        return _Step(tuple(units), _values(totals(trace(spec, workload))))
    except SpecError:
        return None


def _changed(state: Data, units: Sequence[_Unit]) -> Data:
    return reduce(lambda found, unit: put(found, unit.path, unit.b), units, state)


def _total(name: str, sides: Sequence[Side], before: Values, steps: Sequence[_Step]) -> TotalChange:
    shares, last = [], before[name] or 0
    for step in steps:
        now = step.values[name] or 0
        if now != last:
            shares.append(Share(fields=_fields(step), change=now - last))
        last = now
    a, b = (getattr(side.totals, name) for side in sides)
    return TotalChange(
        total=name, unit=(b or a).unit, a=None if a is None else a.value, b=None if b is None else b.value,
        change=sum(share.change for share in shares), shares=tuple(shares),
    )


def _fields(step: _Step) -> tuple[str, ...]:
    return tuple(unit.name for unit in step.units)
