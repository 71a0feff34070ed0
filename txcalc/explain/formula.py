"""Closed forms: polynomials collected the way a textbook writes them.

Terms keep the order in which the forward pass produced them, so that a formula reads like the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from txcalc.explain.polynomial import Atom, Exact, Monomial, Poly, Term, Values, monomial, product, times

_ORDER: Final = ("b", "L", "E", "A", "S", "H", "h", "s", "m", "p", "w", "c", "V", "n", "d", "g", "k", "N", "D")
_HALF: Final = frozenset("hgkHPsmpwc")  # two of them make one width, as heads x head_dim do
_COUNTS: Final = ("L", "E", "A", "S", "b", "s", "m", "p")
"""Sizes that say how often something happens: these stand before a bracket, widths inside it."""


def _base(atom: Atom) -> str:
    return atom[0] if isinstance(atom, str) else "~"


def written(powers: Monomial) -> Monomial:
    """A product in the order in which formulas name its sizes."""

    def place(power: tuple[Atom, int]) -> tuple[int, str]:
        base = _base(power[0])
        return _ORDER.index(base) if base in _ORDER else len(_ORDER), str(power[0]) if base != "~" else base

    return tuple(sorted(powers, key=place))


@dataclass(frozen=True)
class Product:
    """``factor`` times powers times, where there is one, a sum in brackets."""

    factor: Exact
    powers: Monomial
    inner: Sum | None = None

    def value(self, values: Values) -> Exact:
        """The product at these sizes."""
        inside = 1 if self.inner is None else sum(part.value(values) for part in self.inner.parts)
        return self.factor * product(self.powers, values) * inside


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
    if len(poly.terms) < 2:
        return products(poly.terms)
    shared = _shared(poly)
    factor = unit if unit > 1 and divides(unit, poly) else _equal_factor(poly)
    body = _grouped(poly / Poly(((shared, factor),)))
    if factor == 1 and not shared:
        return body
    if len(body.parts) == 1:
        [only] = body.parts
        return Sum((Product(only.factor * factor, times(only.powers, shared), only.inner),))
    return Sum((Product(factor, shared, body),))


def divides(unit: int, poly: Poly) -> bool:
    """Tell if every coefficient is a multiple of the unit."""
    return all(factor % unit == 0 for _, factor in poly.terms)


def products(terms: Iterable[Term]) -> Sum:
    """Terms as they come, without brackets."""
    return Sum(tuple(Product(factor, powers) for powers, factor in terms))


def _equal_factor(poly: Poly) -> Exact:
    """The coefficient that all terms have: 4d² + 4d is 4(d² + d), but 12d² + 2d stays."""
    factors = {factor for _, factor in poly.terms}
    return factors.pop() if len(factors) == 1 and min(factors) > 0 else 1


def _shared(poly: Poly) -> Monomial:
    """The counting sizes that every term has, in the lowest power of any, and the widths where all have the same."""
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
    return Sum((*brackets, *products(largest_first(rest)).parts))


def _groups(poly: Poly) -> list[Atom]:
    """Counting sizes that some, not all, terms have: layers first, then experts, then lengths."""
    atoms = {atom: None for powers, _ in poly.terms for atom, n in powers if n > 0}
    found = [atom for atom in atoms if isinstance(atom, str) and _base(atom) in _COUNTS]
    return sorted(found, key=lambda atom: _COUNTS.index(_base(atom)))


def largest_first(poly: Poly) -> list[Term]:
    """Its terms by how many widths each multiplies, then as they come."""
    return sorted(poly.terms, key=lambda term: -degree(term[0]))


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
        Product(part.factor * whole.factor, times(part.powers, whole.powers), part.inner)
        for part in whole.inner.parts
    )


def is_layers(powers: Monomial) -> bool:
    """Whether the term is one of every layer."""
    return any(_base(atom) == "L" for atom, _ in powers)
