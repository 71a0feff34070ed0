"""From sympy's expressions to polynomials, exactly, at a model's sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import sympy

from txcalc.answer.explain.formula import Atom, Floor, Poly, number, size
from txcalc.trace.record import Number


@dataclass
class Reader:
    """Turns sympy's expressions into polynomials at known sizes, and notes which side of a minimum it took."""

    values: dict[str, int]
    choices: dict[tuple[Poly, Poly], None] = field(default_factory=dict)

    def read(self, expression: Number) -> Poly:
        """The expression as a polynomial, equal to it at these sizes.

        A minimum becomes the side that is smaller here. A quotient rounded down loses its rounding where it is whole
        here, and keeps it otherwise. Raises ``TypeError`` for what else there may be.
        """
        if isinstance(expression, int):
            return number(expression)
        if expression.is_Rational:
            return number(Fraction(int(expression.p), int(expression.q)))
        if expression.is_Symbol:
            return size(expression.name)
        if expression.is_Add:
            return Poly.of(term for each in expression.args for term in self.read(each).terms)
        if expression.is_Mul:
            found = number(1)
            for each in expression.args:
                found = found * self.read(each)
            return found
        if expression.is_Pow and expression.exp.is_Integer:
            return self._power(self.read(expression.base), int(expression.exp))
        if isinstance(expression, sympy.floor):
            return self._floor(self.read(expression.args[0]))
        if isinstance(expression, sympy.Min):
            return self._least([self.read(each) for each in expression.args])
        raise TypeError(f"no rule for {expression}")

    def _power(self, base: Poly, exponent: int) -> Poly:
        found = number(1)
        for _ in range(abs(exponent)):
            found = found * base if exponent > 0 else found.over(base)
        return found

    def _floor(self, inner: Poly) -> Poly:
        if inner.value(self.values).denominator == 1:
            return inner
        atom: Atom = Floor(inner)
        return Poly.of([(((atom, 1),), Fraction(1))])

    def _least(self, sides: list[Poly]) -> Poly:
        taken = min(sides, key=lambda side: (side.value(self.values), len(side.terms)))
        for side in sides:
            if side != taken:
                self.choices[taken, side] = None
        return taken
