"""A formula in all its notations at once, as an explanation holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from txcalc.explain.explanation import Formula
from txcalc.explain.formula import Sum, collect, largest_first, products
from txcalc.explain.formula_text import Notation, name, substituted, write
from txcalc.explain.polynomial import Monomial, Poly, Relation, Values

_EQUAL: Final[dict[Notation, str]] = {"unicode": "=", "ascii": "=", "latex": "=", "python": "=="}
_AT_MOST: Final[dict[Notation, str]] = {"unicode": "≤", "ascii": "<=", "latex": r"\le", "python": "<="}


def _in_each(text: Callable[[Notation], str]) -> Formula:
    return Formula(unicode=text("unicode"), ascii=text("ascii"), latex=text("latex"), python=text("python"))


def formula(poly: Poly | Sum) -> Formula:
    """A polynomial, collected."""
    found = collect(poly) if isinstance(poly, Poly) else poly
    return _in_each(lambda notation: write(found, notation))


def expanded(poly: Poly) -> Formula:
    """A polynomial without brackets, its largest terms first."""
    return formula(products(largest_first(poly)))


def as_it_comes(poly: Poly) -> Formula:
    """A polynomial without brackets, its terms in their own order."""
    return formula(products(poly.terms))


def letter(symbol: str) -> Formula:
    """One size."""
    return _in_each(lambda notation: name(symbol, notation))


def numbers(found: Sum, values: Values) -> Formula:
    """A collected formula with numbers for its sizes."""
    return _in_each(lambda notation: substituted(found, values, notation))


def equation(relation: Relation) -> Formula:
    """``hk = d``."""
    return _sides(_term(relation.left, 1), _EQUAL, _term(relation.right, relation.factor))


def at_most(small: Poly, large: Poly) -> Formula:
    """The difference of two sides as an inequality without minus signs: ``w ≤ s``."""
    gap = large - small
    above = Poly(tuple(term for term in gap.terms if term[1] > 0))
    return _sides(above - gap, _AT_MOST, above)


def _term(powers: Monomial, factor: int) -> Poly:
    return Poly(((powers, factor),))


def _sides(left: Poly, sign: dict[Notation, str], right: Poly) -> Formula:
    return _in_each(lambda notation: f"{write(left, notation)} {sign[notation]} {write(right, notation)}")
