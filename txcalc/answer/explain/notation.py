"""A formula in all its notations at once, as an explanation holds it."""

from __future__ import annotations

from fractions import Fraction

from txcalc.answer.explain.explanation import Formula
from txcalc.answer.explain.formula import Monomial, Poly, Product, Relation, Sum, Values, collect, degree
from txcalc.answer.explain.formula_text import Notation, name, substituted, write


def formula(poly: Poly | Sum, *, unit: int = 1) -> Formula:
    """A polynomial, collected."""
    found = collect(poly, unit=unit) if isinstance(poly, Poly) else poly
    return Formula(
        unicode=write(found, "unicode"), ascii=write(found, "ascii"), latex=write(found, "latex"),
        python=write(found, "python"),
    )


def expanded(poly: Poly) -> Formula:
    """A polynomial without brackets, its largest terms first."""
    return as_it_comes(Poly(tuple(sorted(poly.terms, key=lambda term: -degree(term[0])))))


def as_it_comes(poly: Poly) -> Formula:
    """A polynomial without brackets, its terms in their own order."""
    return formula(Sum(tuple(Product(factor, powers) for powers, factor in poly.terms)))


def letter(symbol: str) -> Formula:
    """One size."""
    return Formula(
        unicode=name(symbol, "unicode"), ascii=name(symbol, "ascii"), latex=name(symbol, "latex"), python=symbol
    )


def numbers(found: Sum, values: Values) -> Formula:
    """A collected formula with numbers for its sizes."""
    return Formula(
        unicode=substituted(found, values, "unicode"), ascii=substituted(found, values, "ascii"),
        latex=substituted(found, values, "latex"), python=substituted(found, values, "python"),
    )


def equation(relation: Relation) -> Formula:
    """``hk = d``."""

    def sides(notation: Notation, sign: str) -> str:
        return sign.join((_side(relation.left, 1, notation), _side(relation.right, relation.factor, notation)))

    return Formula(
        unicode=sides("unicode", " = "), ascii=sides("ascii", " = "), latex=sides("latex", " = "),
        python=sides("python", " == "),
    )


def _side(powers: Monomial, factor: int, notation: Notation) -> str:
    return write(Poly.of([(powers, Fraction(factor))]), notation)


def at_most(small: Poly, large: Poly) -> Formula:
    """The difference of two sides as an inequality without minus signs: ``w ≤ s``."""
    gap = Poly.of((*large.terms, *((powers, -factor) for powers, factor in small.terms)))
    above = Poly.of(term for term in gap.terms if term[1] > 0)
    below = Poly.of((powers, -factor) for powers, factor in gap.terms if factor < 0)
    return Formula(
        unicode=f"{write(below, 'unicode')} ≤ {write(above, 'unicode')}",
        ascii=f"{write(below, 'ascii')} <= {write(above, 'ascii')}",
        latex=rf"{write(below, 'latex')} \le {write(above, 'latex')}",
        python=f"{write(below, 'python')} <= {write(above, 'python')}",
    )
