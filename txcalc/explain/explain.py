"""``explain``: the derivation of a number, from the very programs that counted it.

The model's program runs on symbols; its amounts are added up per component and collected into a closed form. Rows
and closed form are evaluated at the model's sizes and must equal the count to the last digit, on every run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import floor
from typing import Final

from txcalc import units
from txcalc.answer.fit import fit
from txcalc.answer.notes import runs_as
from txcalc.answer.printed import compare_published
from txcalc.answer.report import PYTHON, ModelInfo, Origin, Provenance, Quantity, growth
from txcalc.answer.rerun import QUANTITIES
from txcalc.count import labels
from txcalc.count.entries import total as added_up
from txcalc.count.totals import trained
from txcalc.explain import explanation as e
from txcalc.explain import why
from txcalc.explain.derive import Line, Run, lines
from txcalc.explain.explanation import Explanation, QuantityName
from txcalc.explain.formula import Sum, at_most, collect, distributed, divides, equation, expanded, formula, letter
from txcalc.explain.held import RULES, alive_rows, holds, kept_rows, kept_sources, moment
from txcalc.explain.polynomial import Exact, Poly, Relation, added
from txcalc.explain.quantities import DEFINITIONS, Definition, entries, fit_phase, missing, notes
from txcalc.explain.textbook import simplifications
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

_WITH_KERNEL: Final = ("flops-backward", "flops-training", "activations", "peak")
"""Quantities that the attention kernel changes."""


class DerivationError(RuntimeError):
    """A derived total is not the counted one: a mistake in this program, never in what the user gave."""


class Explainer:
    """One model under one workload, traced once for all of its quantities.

    ``origin`` says where the model came from, as in a report.
    """

    def __init__(self, spec: Model, workload: Workload, *, origin: Origin = PYTHON) -> None:
        """Raises ``SpecError`` for a workload that does not fit the model."""
        if workload.layout is not None:
            raise SpecError("a rank's numbers are not derived yet: leave out the layout", field="layout")
        self._spec = spec
        self._workload = fit(spec, workload)
        self._info = ModelInfo.of(spec, origin)
        self._provenance = Provenance.of(origin.command)
        self._runs: dict[tuple[str, bool, bool], Run] = {}

    def explain(self, quantity: QuantityName) -> Explanation:
        """Derive one quantity, in the unit of the report's total.

        Raises ``SpecError`` for a quantity that the model has not, with the reason, and ``DerivationError`` if the
        derivation does not come to the count.
        """
        if quantity not in DEFINITIONS:
            raise SpecError(f"nothing explains {quantity!r}; one of {', '.join(DEFINITIONS)}", field="quantity")
        definition = DEFINITIONS[quantity]
        run = self._run(fit_phase(quantity, self._workload), definition)
        total = _total(run, quantity)
        if total is None or (total.value == 0 and quantity == "kv-cache-per-token"):
            raise missing(quantity, self._spec, full=total is not None)
        return _explanation(run, quantity, definition, total, self._info, self._provenance)

    def _run(self, workload: Workload, definition: Definition) -> Run:
        key = (workload.phase, definition.lengths, definition.closed)
        if key not in self._runs:
            self._runs[key] = Run(self._spec, workload, lengths=definition.lengths, closed=definition.closed)
        return self._runs[key]


def explain(spec: Model, workload: Workload, quantity: QuantityName, *, origin: Origin = PYTHON) -> Explanation:
    """Derive one quantity of a model under a workload, in the unit of the report's total.

    Raises ``SpecError`` for a quantity that the model has not, with the reason, and for a workload that does not fit;
    ``DerivationError`` if the derivation does not come to the count.
    """
    return Explainer(spec, workload, origin=origin).explain(quantity)


def _explanation(
    run: Run, quantity: QuantityName, definition: Definition, total: Quantity, info: ModelInfo, provenance: Provenance
) -> Explanation:
    found = lines(run, quantity)
    tokens = run.read(run.symbols.workload.batch * run.symbols.workload.seq) if quantity == "flops-per-token" else None
    rows = tuple(_row(run, line, tokens) for line in found)
    open_form = _over(added(line.each * line.times for line in found), tokens)
    closed = open_form.rewritten(run.symbols.closed)
    _check(quantity, closed.value(run.values), total.value)
    unit = next((unit for unit in definition.units(run.workload) if divides(unit, closed)), 1)
    collected = collect(closed, unit=unit, share=quantity != "activations")
    names = {name for line in found for name in line.each.names()}
    kept = kept_rows(run, found) if quantity == "activations" else ()
    if kept:
        _check(quantity, sum(row.value for row in kept), total.value)
    return Explanation(
        model=info,
        workload=run.workload,
        quantity=quantity,
        title=_title(run, quantity, definition),
        unit=total.unit,
        kind=total.kind,
        kernel=runs_as(run.trace) if quantity in _WITH_KERNEL else None,
        moment=moment(run) if quantity == "peak" else None,
        holds=holds(run, closed) if quantity == "peak" else (),
        total=total.value,
        symbols=_symbols(run, quantity, found, closed),
        relations=tuple(map(equation, _always(run, names))),
        substitutions=tuple(map(equation, _used(run, run.values if run.closed else open_form.names()))),
        assumptions=tuple(dict.fromkeys(at_most(*sides) for sides in run.choices)),
        rows=rows,
        kept=kept,
        alive=alive_rows(run, found) if quantity == "peak" else (),
        layers=_layers(run, found, tokens),
        closed=formula(collected),
        substituted=formula(collected, run.values),
        terms=_terms(run, collected),
        simplifications=simplifications(run, quantity, closed, total.value),
        published=_published(run, definition),
        notes=(*notes(quantity, run.spec, run.trace), *_fixed(run, quantity)),
        sources=_sources(run, quantity, found),
        provenance=provenance,
    )


def _total(run: Run, quantity: QuantityName) -> Quantity | None:
    """The count: a report's, or that of the entries on ints where no report has one."""
    if quantity in QUANTITIES:
        return run.totals.named(QUANTITIES[quantity])
    return Quantity(value=int(added_up(entries(quantity, run.counted))), unit="B", kind=trained(run.counted))


def _title(run: Run, quantity: QuantityName, definition: Definition) -> str:
    if quantity != "kv-cache":
        return definition.title
    return labels.of_caches({op.cache.name for op in run.trace.ops if op.cache is not None})


def _fixed(run: Run, quantity: QuantityName) -> Iterator[str]:
    """The part of a cache that the next token does not add to, where that is not all of it."""
    found = growth(run.counted)
    if found is not None and quantity.startswith("kv-cache") and found.fixed_bytes and found.bytes_per_token:
        yield (f"at this length {units.memory(found.fixed_bytes)} are fixed, and every token adds "
               f"{units.memory(found.bytes_per_token)}")


def _check(quantity: QuantityName, derived: Exact, counted: int) -> None:
    whole = floor(derived) if quantity == "flops-per-token" else derived
    if whole != counted:
        raise DerivationError(f"{quantity}: the derivation comes to {derived}, the count to {counted}")


def _row(run: Run, line: Line, tokens: Poly | None) -> e.Row:
    each = _over(line.each, tokens)
    return e.Row(
        name=line.title, paths=tuple(line.paths), each=formula(each), count=int(line.times.value(run.values)),
        times=formula(line.times), value=round((each * line.times).value(run.values)),
    )


def _over(poly: Poly, tokens: Poly | None) -> Poly:
    return poly if tokens is None else poly / tokens


def _terms(run: Run, collected: Sum) -> tuple[e.Term, ...]:
    parts = distributed(collected)
    return tuple(e.Term(formula=formula(Sum((part,))), value=round(part.value(run.values))) for part in parts)


def _layers(run: Run, found: list[Line], tokens: Poly | None) -> tuple[e.Layer, ...]:
    """One layer of every kind: what each line adds to the bracket behind its ``L``."""
    names = dict.fromkeys(name for line in found for name in line.times.names() if name[0] == "L")
    return tuple(layer for name in names if (layer := _layer(run, name, found, tokens)) is not None)


def _layer(run: Run, name: str, found: list[Line], tokens: Poly | None) -> e.Layer | None:
    shares: list[tuple[Line, Exact]] = [(line, dict(line.times.terms).get(((name, 1),), 0)) for line in found]
    parts = [
        (line, share, _over(line.each, tokens).rewritten(run.symbols.closed) * share) for line, share in shares
    ]
    whole = added(poly for _, _, poly in parts)
    if sum(bool(poly) for _, _, poly in parts) < 2:
        return None
    return e.Layer(
        symbol=letter(name), meaning=run.symbols.meanings[name], count=run.values[name],
        parts=tuple(e.LayerPart(row=line.title, count=str(share), formula=expanded(poly))
                    for line, share, poly in parts if poly),
        formula=formula(whole),
    )


def _symbols(run: Run, quantity: QuantityName, found: list[Line], closed: Poly) -> tuple[e.Symbol, ...]:
    """Every size that a formula or a relation names: of the model as it is usually read, then of the workload."""
    used = set(closed.names())
    for line in found:
        shown_apart = line.entries if quantity in ("activations", "peak") else []
        for each in (line.each, line.times, *(run.read(n) for x in shown_apart for n in (x.each, x.times))):
            used |= {*each.names()}
    shown = [*_always(run, used), *(run.symbols.closed if run.closed else _used(run, used))]
    used |= {str(atom) for relation in shown for side in (relation.left, relation.right) for atom, _ in side}
    names = sorted((name for name in run.symbols.meanings if name in used), key=_reading)
    return tuple(
        e.Symbol(name=name, text=letter(name), meaning=run.symbols.meanings[name], value=run.values[name])
        for name in names
    )


def _reading(name: str) -> int:
    order = "VLdhgkfEASnbxsmp"
    return order.index(name[0]) if name[0] in order else order.index("n")


def _always(run: Run, used: Collection[str]) -> list[Relation]:
    """Those that formulas use: ``h k = d`` where one of them names ``d``."""
    return [relation for relation in run.symbols.always if any(atom in used for atom, _ in relation.right)]


def _used(run: Run, names: Collection[str]) -> list[Relation]:
    """The relations that made the closed form from the rows."""
    return [relation for relation in run.symbols.closed if any(atom in names for atom, _ in relation.left)]


def _published(run: Run, definition: Definition) -> tuple[e.PublishedFigure, ...]:
    return tuple(
        e.PublishedFigure(
            quantity=row.quantity, printed=row.printed, counted=row.counted, difference=row.relative_difference,
            rounds_equal=row.rounds_equal, note=row.note, source=row.source,
        )
        for row in compare_published(run.spec, run.totals) if row.quantity in definition.published
    )


def _sources(run: Run, quantity: QuantityName, found: list[Line]) -> tuple[e.Source, ...]:
    ops = run.trace.ops
    if quantity == "peak":
        rules = list(RULES[:None if run.workload.keeps else 1])
    elif quantity == "activations":
        rules = kept_sources(run, found)
    elif quantity.startswith("flops"):
        rules = why.costs(ops, backward=quantity in ("flops-backward", "flops-training"))
    elif quantity.startswith("kv-cache"):
        rules = why.caches(ops)
    else:
        rules = why.weights(ops)
    return tuple(e.Source(rule=rule.text, source=rule.source) for rule in rules)
