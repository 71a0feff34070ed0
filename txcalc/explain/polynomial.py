"""Polynomials in named sizes: what a program computes when its sizes are letters.

Sizes are whole numbers of at least 1. Coefficients are exact, ints wherever they are whole. Exponents may be negative
(``d²/h``). What no polynomial says, a quotient rounded down or the least of some, is an atom with polynomials inside.
Nothing can be compared or asked for its size: what a program does may not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import floor
from typing import Final, Literal

Exact = int | Fraction
Values = Mapping[str, int]


@dataclass(frozen=True)
class Whole:
    """A quotient rounded down (``floor``), or the least of several sizes in one order however compared (``min``)."""

    name: Literal["floor", "min"]
    of: tuple[Poly, ...]

    def value(self, parts: Sequence[Exact]) -> Exact:
        """Its number, from those of its parts."""
        return floor(parts[0]) if self.name == "floor" else min(parts)

    def again(self, parts: Sequence[Poly]) -> Poly:
        """The same of other parts."""
        return parts[0] // 1 if self.name == "floor" else reduce(Poly.least, parts)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.of))})"


Atom = str | Whole
Monomial = tuple[tuple[Atom, int], ...]
Term = tuple[Monomial, Exact]


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Poly:
    """A sum of terms, each a coefficient times a product of powers; never two of one product, none of them zero.

    Terms stay in the order in which they came, so that a formula reads like the program; equal sums are equal and
    have one hash in any order. Raises ``ValueError`` for a division by a sum, unless that sum times one term is it.
    """

    terms: tuple[Term, ...] = ()

    @staticmethod
    def of(terms: Iterable[Term]) -> Poly:
        """Like terms added up, in order of first appearance."""
        found: dict[Monomial, Exact] = {}
        for powers, factor in terms:
            found[powers] = found.get(powers, 0) + factor
        return Poly(tuple((powers, _exact(factor)) for powers, factor in found.items() if factor))

    def __add__(self, other: Poly | Exact) -> Poly:
        return Poly.of((*self.terms, *poly(other).terms))

    def __sub__(self, other: Poly | Exact) -> Poly:
        return self + -poly(other)

    def __neg__(self) -> Poly:
        return self * -1

    def __mul__(self, other: Poly | Exact) -> Poly:
        return Poly.of((times(a, b), x * y) for a, x in self.terms for b, y in poly(other).terms)

    __rmul__ = __mul__

    def __truediv__(self, other: Poly | Exact) -> Poly:
        divisor = poly(other)
        if not divisor:
            raise ZeroDivisionError(f"{self} / 0")
        powers, factor = divisor.terms[0]
        quotient = self * Poly(((tuple((atom, -n) for atom, n in powers), _exact(Fraction(1) / factor)),))
        if len(divisor.terms) == 1:
            return quotient
        for term in quotient.terms:
            if Poly((term,)) * divisor == self:
                return Poly((term,))
        raise ValueError(f"{self} is no multiple of {divisor}, and only divided by a single term")

    def __floordiv__(self, other: Poly | Exact) -> Poly:
        """Rounded down: what is whole whatever the sizes are stands before the brackets."""
        quotient = self / other
        whole = Poly(tuple(term for term in quotient.terms if _integral(term)))
        rest = quotient - whole
        if not rest.names():
            return whole + floor(rest.value({}))
        return whole + atomic(Whole("floor", (rest,)))

    def __pow__(self, exponent: int) -> Poly:
        return reduce(Poly.__mul__, [self if exponent >= 0 else ONE / self] * abs(exponent), ONE)

    def __radd__(self, other: Exact) -> Poly:
        return poly(other) + self

    def __rsub__(self, other: Exact) -> Poly:
        return poly(other) - self

    def __rtruediv__(self, other: Exact) -> Poly:
        return poly(other) / self

    def __rfloordiv__(self, other: Exact) -> Poly:
        return poly(other) // self

    def least(self, other: Poly | Exact) -> Poly:
        """The smaller of the two: one of them where that is so for all sizes."""
        a, b = self, poly(other)
        if _never_negative(b - a):
            return a
        if _never_negative(a - b):
            return b
        found = {part: None for side in (a, b) for part in side._sides()}
        return atomic(Whole("min", tuple(sorted(found, key=str))))

    def _sides(self) -> tuple[Poly, ...]:
        match self.terms:
            case ((((Whole("min", of), 1),), 1),):
                return of
        return (self,)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | Fraction):
            return self == poly(other)
        return isinstance(other, Poly) and dict(self.terms) == dict(other.terms)

    def __hash__(self) -> int:
        if not any(powers for powers, _ in self.terms):
            return hash(self.value({}))
        return hash(frozenset(self.terms))

    def __bool__(self) -> bool:
        """Tell if it is anything but zero, which no choice of sizes decides."""
        return bool(self.terms)

    def value(self, values: Values) -> Exact:
        """The sum at these sizes, exactly. Raises ``KeyError`` for a size that has no value."""
        return _exact(sum(factor * product(powers, values) for powers, factor in self.terms))

    def mapped(self, rule: Callable[[Atom], Poly]) -> Poly:
        """With something in place of every atom."""
        return Poly.of(
            term for powers, factor in self.terms
            for term in reduce(Poly.__mul__, (rule(atom) ** n for atom, n in powers), poly(factor)).terms
        )

    def substituted(self, values: Mapping[str, Poly | Exact]) -> Poly:
        """With polynomials or numbers in place of sizes."""

        def rule(atom: Atom) -> Poly:
            if isinstance(atom, str):
                return poly(values.get(atom, atomic(atom)))
            return atom.again([part.substituted(values) for part in atom.of])

        return self.mapped(rule)

    def rewritten(self, relations: Iterable[Relation]) -> Poly:
        """With every product on a relation's left replaced by its right, as often as it occurs."""
        return reduce(lambda found, relation: relation.apply(found), relations, self)

    def names(self) -> dict[str, None]:
        """Every size in it, in order of appearance."""
        return dict.fromkeys(self._names())

    def _names(self) -> Iterator[str]:
        for powers, _ in self.terms:
            for atom, _ in powers:
                if isinstance(atom, str):
                    yield atom
                else:
                    yield from (name for part in atom.of for name in part.names())

    def __repr__(self) -> str:
        """In Python's notation, equal for equal sums."""
        return " + ".join(sorted(map(_text, self.terms))) or "0"


def poly(number: Poly | Exact) -> Poly:
    """A number as a polynomial; a polynomial as it is."""
    return number if isinstance(number, Poly) else Poly.of([((), number)])


def added(found: Iterable[Poly]) -> Poly:
    """The sum of many, added up once."""
    return Poly.of(term for each in found for term in each.terms)


def atomic(atom: Atom) -> Poly:
    """An atom by itself."""
    return Poly(((((atom, 1),), 1),))


def monomial(powers: Mapping[Atom, int]) -> Monomial:
    """A product of powers, in one order whichever way it was multiplied."""
    return tuple(sorted(((atom, n) for atom, n in powers.items() if n), key=lambda pair: str(pair[0])))


def product(powers: Monomial, values: Values) -> Exact:
    """A product of powers at these sizes."""
    found: Exact = 1
    for atom, n in powers:
        base = values[atom] if isinstance(atom, str) else atom.value([part.value(values) for part in atom.of])
        found *= base**n if n > 0 else Fraction(base) ** n
    return found


@dataclass(frozen=True)
class Relation:
    """An equation between sizes that holds for the model: ``h k = d``, ``f = 4 d``."""

    left: Monomial
    factor: int
    right: Monomial

    def apply(self, found: Poly) -> Poly:
        """The polynomial with the left side replaced."""
        return Poly.of(self._term(powers, factor) for powers, factor in found.terms)

    def _term(self, powers: Monomial, factor: Exact) -> Term:
        have = dict(powers)
        often = min(have.get(atom, 0) // n for atom, n in self.left)
        if often <= 0:
            return powers, factor
        without = times(powers, tuple((atom, -n * often) for atom, n in self.left))
        return times(without, tuple((atom, n * often) for atom, n in self.right)), factor * self.factor**often


def times(a: Monomial, b: Monomial) -> Monomial:
    """One product of two."""
    if not a or not b:
        return a or b
    powers = dict(a)
    for atom, n in b:
        powers[atom] = powers.get(atom, 0) + n
    return monomial(powers)


def _exact(number: Exact) -> Exact:
    return number.numerator if number.denominator == 1 else number


def _integral(term: Term) -> bool:
    """Tell if a term is a whole number at all sizes."""
    powers, factor = term
    return factor.denominator == 1 and all(n > 0 for _, n in powers)


def _never_negative(found: Poly) -> bool:
    """Tell if a sum is seen to be at least 0: every product of sizes, which are at least 1, is at least 1."""
    least = sum(factor for powers, factor in found.terms if factor < 0 and not powers) + sum(
        factor for powers, factor in found.terms if factor > 0 and all(n > 0 for _, n in powers)
    )
    return least >= 0 and all(
        isinstance(atom, str) and factor > 0 for powers, factor in found.terms for atom, _ in powers
    )


def _text(term: Term) -> str:
    powers, factor = term
    shown = [str(atom) if n == 1 else f"{atom}**{n}" for atom, n in powers]
    return "*".join([*([str(factor)] if factor != 1 or not shown else []), *shown])


ONE: Final = poly(1)
