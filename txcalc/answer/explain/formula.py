"""Closed forms: polynomials in named sizes, collected the way a textbook writes it.

A ``Poly`` keeps its terms in the order in which the forward pass produced them, so that a formula reads like the
model. Sizes are positive integers, coefficients are exact fractions; exponents may be negative (``d²/h``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import floor
from typing import Final

Values = Mapping[str, int]


@dataclass(frozen=True)
class Floor:
    """A quotient rounded down: the one part of a count that is no polynomial."""

    of: Poly


Atom = str | Floor
Monomial = tuple[tuple[Atom, int], ...]

_ORDER: Final = ("b", "L", "E", "A", "S", "H", "h", "s", "m", "p", "w", "c", "V", "n", "d", "g", "k", "N", "D")
_HALF: Final = frozenset("hgkHPsmpwc")  # two of them make one width, as heads x head_dim do
_COUNTS: Final = ("L", "E", "A", "S", "b", "s", "m", "p")
"""Sizes that say how often something happens: these stand before a bracket, widths inside it."""


def _base(atom: Atom) -> str:
    return atom[0] if isinstance(atom, str) else "~"


def _rank(atom: Atom) -> tuple[int, str]:
    base = _base(atom)
    place = _ORDER.index(base) if base in _ORDER else len(_ORDER)
    return place, atom if isinstance(atom, str) else "~"


def monomial(powers: Mapping[Atom, int]) -> Monomial:
    """A product of powers in the order in which formulas name them."""
    return tuple(sorted(((a, n) for a, n in powers.items() if n), key=lambda pair: _rank(pair[0])))


@dataclass(frozen=True)
class Poly:
    """A sum of terms, each a fraction times a product of powers; never two of one product, none of them zero."""

    terms: tuple[tuple[Monomial, Fraction], ...] = ()

    @staticmethod
    def of(terms: Iterable[tuple[Monomial, Fraction]]) -> Poly:
        """Like terms added up, in order of first appearance."""
        found: dict[Monomial, Fraction] = {}
        for powers, factor in terms:
            found[powers] = found.get(powers, Fraction(0)) + factor
        return Poly(tuple((powers, factor) for powers, factor in found.items() if factor))

    @property
    def key(self) -> frozenset[tuple[Monomial, Fraction]]:
        """Equal for equal sums, in whatever order their terms came."""
        return frozenset(self.terms)

    def __add__(self, other: Poly) -> Poly:
        return Poly.of((*self.terms, *other.terms))

    def __mul__(self, other: Poly) -> Poly:
        return Poly.of((_product(a, b), x * y) for a, x in self.terms for b, y in other.terms)

    def times(self, factor: Fraction | int, powers: Monomial = ()) -> Poly:
        """Every term times one."""
        return Poly.of((_product(own, powers), have * factor) for own, have in self.terms)

    def over(self, other: Poly) -> Poly:
        """Divided by a single term. Raises ``ValueError`` for a sum or zero."""
        if len(other.terms) != 1:
            raise ValueError("can only divide by a single term")
        [(powers, factor)] = other.terms
        return self.times(1 / factor, tuple((a, -n) for a, n in powers))

    def value(self, values: Values) -> Fraction:
        """The sum at these sizes, exactly. Raises ``KeyError`` for a size that has no value."""
        return sum((factor * _value(powers, values) for powers, factor in self.terms), Fraction(0))

    def names(self) -> dict[str, None]:
        """Every size in it, in order of appearance."""
        found: dict[str, None] = {}
        for powers, _ in self.terms:
            for atom, _ in powers:
                found |= {atom: None} if isinstance(atom, str) else atom.of.names()
        return found

    def rewritten(self, relations: Iterable[Relation]) -> Poly:
        """With every product on a relation's left replaced by its right, as often as it occurs."""
        return reduce(lambda poly, relation: relation.apply(poly), relations, self)

    def __bool__(self) -> bool:
        return bool(self.terms)


def number(n: int | Fraction) -> Poly:
    """A constant."""
    return Poly.of([((), Fraction(n))])


def size(name: str) -> Poly:
    """A size by itself."""
    return Poly.of([(((name, 1),), Fraction(1))])


@dataclass(frozen=True)
class Relation:
    """An equation between sizes that holds for the model: ``h k = d``, ``f = 4 d``."""

    left: Monomial
    factor: int
    right: Monomial

    def apply(self, poly: Poly) -> Poly:
        """The polynomial with the left side replaced."""
        return Poly.of(self._term(powers, factor) for powers, factor in poly.terms)

    def _term(self, powers: Monomial, factor: Fraction) -> tuple[Monomial, Fraction]:
        have = dict(powers)
        times = min(have.get(atom, 0) // n for atom, n in self.left)
        if times <= 0:
            return powers, factor
        for atom, n in self.left:
            have[atom] = have.get(atom, 0) - n * times
        for atom, n in self.right:
            have[atom] = have.get(atom, 0) + n * times
        return monomial(have), factor * self.factor**times


def _product(a: Monomial, b: Monomial) -> Monomial:
    if not b:
        return a
    powers = dict(a)
    for atom, n in b:
        powers[atom] = powers.get(atom, 0) + n
    return monomial(powers)


def _value(powers: Monomial, values: Values) -> Fraction:
    found = Fraction(1)
    for atom, n in powers:
        base = Fraction(values[atom]) if isinstance(atom, str) else Fraction(floor(atom.of.value(values)))
        found *= base**n
    return found


# ---------------------------------------------------------------- collecting


@dataclass(frozen=True)
class Product:
    """``factor`` times powers times, where there is one, a sum in brackets."""

    factor: Fraction
    powers: Monomial
    inner: Sum | None = None

    def value(self, values: Values) -> Fraction:
        """The product at these sizes."""
        inside = Fraction(1) if self.inner is None else sum(
            (part.value(values) for part in self.inner.parts), Fraction(0)
        )
        return self.factor * _value(self.powers, values) * inside


@dataclass(frozen=True)
class Sum:
    """Products in the order in which they are written."""

    parts: tuple[Product, ...]


def collect(poly: Poly, *, unit: int = 1, share: bool = True) -> Sum:
    """Brackets as a textbook sets them: what all terms share, then one bracket per stack of layers, then by powers.

    ``unit`` is taken out in front if every coefficient is a multiple of it: 2 for FLOPs, bytes per element for memory.
    Without ``share`` nothing stands before all brackets together.
    """
    if not share:
        return _grouped(poly)
    shared = _shared(poly)
    factor = Fraction(unit) if _divides(unit, poly) else _equal_factor(poly)
    inner = poly.times(1 / factor, tuple((atom, -n) for atom, n in shared)) if poly else poly
    if len(inner.terms) < 2:
        return Sum(tuple(Product(c * factor, _product(powers, shared)) for powers, c in inner.terms))
    body = _grouped(inner)
    if factor == 1 and not shared:
        return body
    if len(body.parts) == 1:
        [only] = body.parts
        return Sum((Product(only.factor * factor, _product(only.powers, shared), only.inner),))
    return Sum((Product(factor, shared, body),))


def _divides(unit: int, poly: Poly) -> bool:
    return unit > 1 and all((factor / unit).denominator == 1 for _, factor in poly.terms)


def _equal_factor(poly: Poly) -> Fraction:
    """The coefficient that all terms have: 4d² + 4d is 4(d² + d), but 12d² + 2d stays."""
    factors = {factor for _, factor in poly.terms}
    return factors.pop() if len(factors) == 1 and len(poly.terms) > 1 and min(factors) > 0 else Fraction(1)


def _shared(poly: Poly) -> Monomial:
    """The counting sizes that every term has, in the lowest power of any, and the widths where all have the same."""
    if len(poly.terms) < 2:
        return ()
    first, *rest = (dict(powers) for powers, _ in poly.terms)
    low = {a: min([n, *(other.get(a, 0) for other in rest)]) for a, n in first.items() if _base(a) in _COUNTS}
    widths = {monomial({a: n for a, n in powers if not _counting(a)}) for powers, _ in poly.terms}
    same = dict(widths.pop()) if len(widths) == 1 else {}
    return monomial({**{a: n for a, n in low.items() if n > 0}, **same})


def _counting(atom: Atom) -> bool:
    return _base(atom) in (*_COUNTS, "w", "c")


def _grouped(poly: Poly) -> Sum:
    """One bracket for each size that multiplies several terms, then the terms that stand alone."""
    rest, parts = poly, []
    for atom in _groups(poly):
        mine = Poly(tuple(term for term in rest.terms if dict(term[0]).get(atom, 0) > 0))
        if len(mine.terms) < 2 and _base(atom) not in "L":
            continue
        rest = Poly(tuple(term for term in rest.terms if term not in mine.terms))
        parts.append((atom, mine))
    brackets = [product for atom, mine in parts for product in collect(mine).parts]
    single = sorted(rest.terms, key=lambda term: -degree(term[0]))
    return Sum((*brackets, *(Product(factor, powers) for powers, factor in single)))


def _groups(poly: Poly) -> list[Atom]:
    """Counting sizes that some, not all, terms have: layers first, then experts, then lengths."""
    atoms = {atom: None for powers, _ in poly.terms for atom, n in powers if n > 0}
    found = [atom for atom in atoms if isinstance(atom, str) and _base(atom) in _COUNTS]
    return sorted(found, key=lambda atom: _COUNTS.index(_base(atom)))


def degree(powers: Monomial) -> int:
    """Twice the widths that are multiplied: how large a term is beside the others of its bracket."""
    return sum(n * (0 if _base(atom) in "LEASb" else 1 if _base(atom) in _HALF else 2) for atom, n in powers)


def distributed(found: Sum) -> tuple[Product, ...]:
    """The outermost terms; of a single bracket those in it, each with what stands before the bracket."""
    if len(found.parts) != 1 or found.parts[0].inner is None:
        return found.parts
    [whole] = found.parts
    assert whole.inner is not None
    return tuple(
        Product(part.factor * whole.factor, _product(part.powers, whole.powers), part.inner)
        for part in whole.inner.parts
    )


def is_layers(powers: Monomial) -> bool:
    """Whether the term is one of every layer."""
    return any(_base(atom) == "L" for atom, _ in powers)
