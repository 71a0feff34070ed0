"""Many configurations in one call: the same programs run on columns of sizes.

What is done to columns is recorded once, each step but once, and done to float64 arrays in blocks. A question about a
size, such as whether it is a multiple of 8, is one about all variants: where they do not agree, ``Split`` says which of
them do, so that each part can be asked by itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from txcalc.answer.fit import fit
from txcalc.count.entries import total
from txcalc.count.totals import TOTALS
from txcalc.spec.errors import SpecError, unknown_field
from txcalc.spec.model import Model
from txcalc.spec.replace import at as standing
from txcalc.spec.replace import replace
from txcalc.spec.resolve import BLOCK_FIELDS
from txcalc.trace.model import trace
from txcalc.trace.workload import LEAST, Workload

Array = NDArray[Any]
Operation = Callable[[Any, Any], Any]
Step = tuple[Operation | None, Any, Any]

BLOCK: Final = 1 << 14
"""Variants that are counted at once: so many that arrays stay in the processor's cache."""


def _floor_of(a: Any, b: Any) -> Any:
    """Quotients of whole numbers rounded down, exact up to 2^53 and faster than NumPy's own."""
    return numpy.floor(a / b)


class Split(Exception):
    """A question that some variants answer with yes, those in ``holds``, and others with no."""

    def __init__(self, holds: Array) -> None:
        super().__init__("variants are not alike")
        self.holds = holds


class Table:
    """Variants, and every step that was done to their columns."""

    def __init__(self, given: Sequence[Array], rows: Array) -> None:
        self.rows = rows
        self._given = given
        self._steps: list[Step] = [(None, values, None) for values in given]
        self._known: dict[object, int] = {}
        self._answers: dict[int, bool] = {}

    def columns(self) -> list[Column]:
        """One column for each of the given arrays."""
        return [Column(self, at) for at in range(len(self._given))]

    def column(self, operation: Operation, *of: Any) -> Column:
        """The column of an operation on columns and numbers."""
        places = [self._place(each) for each in of]
        if operation in (operator.add, operator.mul):
            places.sort()  # the same sums and products, whichever side is which
        return Column(self, self._step((operation, *places)))  # type: ignore[arg-type]

    def ask(self, question: Operation, *of: Any) -> bool:
        """The answer of all variants. Raises ``Split`` where they have not one."""
        asked = self.column(question, *of)
        if asked.at not in self._answers:
            holds = numpy.concatenate([found for _, (found,) in self.blocks([asked])])
            if holds.any() and not holds.all():
                raise Split(holds)
            self._answers[asked.at] = bool(holds[0])
        return self._answers[asked.at]

    def blocks(self, wanted: Sequence[Any]) -> Iterator[tuple[Array, list[Any]]]:
        """The variants of each block, and the ``wanted`` columns or numbers of them."""
        places = [self._place(each) for each in wanted]
        steps = self._needed(places)
        last = {each: at for at in steps for each in self._steps[at][1:] if self._steps[at][0] is not None}
        last.update(dict.fromkeys(places, -1))
        for start in range(0, self.rows.size, BLOCK):
            here = self.rows[start : start + BLOCK]
            found: dict[int, Any] = {}
            for at in steps:
                operation, a, b = self._steps[at]
                if operation is None:
                    found[at] = a[here] if isinstance(a, numpy.ndarray) else a
                    continue
                found[at] = operation(found[a], found[b])
                for each in {a, b}:
                    if last[each] == at:
                        del found[each]
            yield here, [found[at] for at in places]

    def _place(self, of: Any) -> int:
        return of.at if isinstance(of, Column) else self._step((None, float(of), None))

    def _step(self, step: Step) -> int:
        if step not in self._known:
            self._known[step] = len(self._steps)
            self._steps.append(step)
        return self._known[step]

    def _needed(self, wanted: Iterable[int]) -> list[int]:
        """Steps in order, without those that nothing comes of."""
        needed = set(wanted)
        for at in range(max(needed), -1, -1):
            operation, a, b = self._steps[at]
            if at in needed and operation is not None:
                needed |= {a, b}
        return sorted(needed)


class Column:
    """A size of every variant. Sums, products and their like are columns; comparisons are asked of all variants."""

    __slots__ = ("at", "table")

    def __init__(self, table: Table, at: int) -> None:
        self.table, self.at = table, at

    def value(self, sizes: object) -> Column:
        """Itself: what is decided on numbers is decided on all of them."""
        return self

    def least(self, other: Any) -> Column:
        """The smaller of two sizes."""
        return self.table.column(numpy.minimum, self, other)

    def __add__(self, other: Any) -> Column:
        return self if _is(other, 0) else self.table.column(operator.add, self, other)

    def __sub__(self, other: Any) -> Column:
        return self if _is(other, 0) else self.table.column(operator.sub, self, other)

    def __mul__(self, other: Any) -> Any:
        if _is(other, 0):
            return 0
        return self if _is(other, 1) else self.table.column(operator.mul, self, other)

    def __truediv__(self, other: Any) -> Column:
        return self.table.column(operator.truediv, self, other)

    def __floordiv__(self, other: Any) -> Column:
        return self.table.column(_floor_of, self, other)

    def __mod__(self, other: Any) -> Column:
        return self.table.column(operator.mod, self, other)

    def __pow__(self, other: Any) -> Column:
        return self.table.column(operator.pow, self, other)

    def __rsub__(self, other: Any) -> Column:
        return self.table.column(operator.sub, other, self)

    def __rfloordiv__(self, other: Any) -> Column:
        return self.table.column(_floor_of, other, self)

    def __neg__(self) -> Column:
        return self.table.column(operator.mul, self, -1)

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        return self.table.ask(operator.eq, self, other)

    def __lt__(self, other: Any) -> bool:
        return self.table.ask(operator.lt, self, other)

    def __gt__(self, other: Any) -> bool:
        return self.table.ask(operator.gt, self, other)

    def __bool__(self) -> bool:
        return self != 0

    __hash__ = object.__hash__


def _is(other: object, number: int) -> bool:
    return isinstance(other, int) and other == number


SWEPT: Final = (
    "params", "params_active", "flops_forward", "flops_skipped", "flops_backward", "flops_recomputed",
    "activation_bytes", "kv_cache_bytes",
)

_VARIED: Final = ("batch", "seq", "past", "source_seq", "images")


def sweep(
    spec: Model, workload: Workload, sizes: Mapping[str, Array], lengths: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Totals of many variants of one model at once.

    ``sizes`` maps dotted spec paths to equally long arrays, ``lengths`` maps workload fields (``batch``, ``seq``,
    ``past``, ``source_seq``) likewise. No default follows but a source as long as the text: vary
    ``attention.head_dim`` together with ``d_model``. Arrays are turned into float64, which is exact up to 2^53; int64
    would overflow silently. Returns ``{total: array}``, in the units of the report. Raises ``SpecError`` for what is no
    size, for arrays of unlike lengths, and for a path that the model has not.
    """
    inputs = {(where, name): _numbers(spec, where, name, values)
              for where, given in enumerate((sizes, lengths or {})) for name, values in given.items()}
    counts = {values.size for values in inputs.values()} - {1}
    if len(counts) > 1:
        raise SpecError(f"arrays of one length are wanted, got {' and '.join(map(str, sorted(counts)))}", field="sizes")
    _check_lengths(workload, {name: values for (where, name), values in inputs.items() if where})
    many = max(counts, default=1)
    arrays = [values for values in inputs.values() if values.size > 1]
    found: dict[str, Array] = {}
    waiting = [numpy.arange(many)]
    while waiting:
        table = Table(arrays, waiting.pop())
        columns = iter(table.columns())
        varied: tuple[dict[str, Any], ...] = ({}, {})
        for (where, name), values in inputs.items():
            varied[where][name] = next(columns) if values.size > 1 else int(values[0])
        try:
            totals = _totals(spec, workload, *varied)
        except Split as split:
            waiting += [table.rows[split.holds], table.rows[~split.holds]]
            continue
        for here, block in table.blocks(list(totals.values())):
            for name, values in zip(totals, block, strict=True):
                found.setdefault(name, numpy.empty(many))[here] = values
    return found


def _totals(spec: Model, workload: Workload, sizes: Mapping[str, Any], lengths: Mapping[str, Any]) -> dict[str, Any]:
    run = fit(spec, workload).replaced(**lengths)
    if spec.encoder is not None and spec.encoder.input.kind == "tokens" and workload.source_seq is None \
            and "source_seq" not in lengths:
        run = run.replaced(source_seq=run.past + run.seq)
    t = trace(replace(spec, sizes), run)
    found = {name: list(TOTALS[name].entries(t)) for name in SWEPT}
    return {name: total(entries) for name, entries in found.items() if entries or name != "kv_cache_bytes"}


def _numbers(spec: Model, where: int, name: str, values: Any) -> Array:
    """An array of whole numbers for a field that is one. Raises ``SpecError`` for any other."""
    name = str(name)
    known = _VARIED if where else None
    field = None if where else standing(spec, name.split("."))
    if known is not None and name not in known:
        raise SpecError(unknown_field(name, known), field=name)
    if not where and spec.groups is not None and name.partition(".")[0] in (*BLOCK_FIELDS, "layers"):
        raise SpecError("blocks of this model have their own: vary groups.0.blocks.0 and so on", field=name)
    if not where and (isinstance(field, bool) or not isinstance(field, int)):
        raise SpecError("no size of this model" if field is None else "is no size, and does not vary", field=name)
    try:
        found = numpy.asarray(values, dtype=numpy.float64)
    except (TypeError, ValueError):
        found = numpy.full(1, numpy.nan)
    least = LEAST.get(name, 0) if where else 0
    if found.ndim > 1 or found.size == 0 or not bool(((found >= least) & (found == numpy.floor(found))).all()):
        raise SpecError(f"must be whole numbers of at least {least}, in one row", field=name)
    return found.reshape(-1)


def _check_lengths(workload: Workload, lengths: Mapping[str, Array]) -> None:
    """Raise ``SpecError`` for lengths that a run of this phase has not."""
    Workload.of({name: value for name, value in workload.to_data().items() if value is not None}
                | {name: int(values.max()) for name, values in lengths.items()})
