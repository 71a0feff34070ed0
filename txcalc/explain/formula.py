"""Closed forms: polynomials collected the way a textbook writes them, in Unicode, ASCII, LaTeX and Python.

Terms keep the order in which the forward pass produced them, so that a formula reads like the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from txcalc import units
from txcalc.explain.explanation import Formula
from txcalc.explain.polynomial import Atom, Exact, Monomial, Poly, Relation, Term, Values, monomial, product, times

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
    widths = {monomial({a: n for a, n in powers if _base(a) not in (*_COUNTS, "w", "c")}) for powers, _ in poly.terms}
    same = dict(widths.pop()) if len(widths) == 1 else {}
    return monomial({**{a: n for a, n in low.items() if n > 0}, **same})


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
    """Tell whether the term is one of every layer."""
    return any(_base(atom) == "L" for atom, _ in powers)


# ---------------------------------------------------------------- as text


class Style(NamedTuple):
    """Signs of a notation: minus, a dot between factors, a power, rounding down, and relations."""

    minus: str
    dot: str
    power: str
    floor: str
    equal: str
    at_most: str


Notation = Literal["unicode", "ascii", "latex", "python"]
_STYLES: Final[Mapping[Notation, Style]] = {
    "unicode": Style("−", "·", "{}", "⌊{}⌋", "=", "≤"),
    "ascii": Style("-", "*", "^{}", "floor({})", "=", "<="),
    "latex": Style("-", r" \cdot ", "^{{{}}}", r"\lfloor {} \rfloor", "=", r"\le"),
    "python": Style("-", "*", "**{}", "floor({})", "==", "<="),
}
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"
_SUPERSCRIPT: Final = str.maketrans("0123456789", _RAISED)
_SUBSCRIPT: Final = str.maketrans("0123456789", _LOWERED)


def formula(found: Poly | Sum, values: Values | None = None) -> Formula:
    """A polynomial, collected: ``L(12d² + 13d) + Vd``; with ``values``, numbers in place of the sizes."""
    collected = collect(found) if isinstance(found, Poly) else found
    return _in_each(lambda notation: _sum(collected, notation, values))


def expanded(poly: Poly) -> Formula:
    """A polynomial without brackets, its largest terms first."""
    return formula(products(largest_first(poly)))


def letter(symbol: str) -> Formula:
    """One size."""
    return _in_each(lambda notation: _name(symbol, notation))


def equation(relation: Relation) -> Formula:
    """``hk = d``."""
    sides = (Poly(((relation.left, 1),)), Poly(((relation.right, relation.factor),)))
    return _related(*sides, lambda style: style.equal)


def at_most(small: Poly, large: Poly) -> Formula:
    """The difference of two sides as an inequality without minus signs: ``w ≤ s``."""
    gap = large - small
    above = Poly(tuple(term for term in gap.terms if term[1] > 0))
    return _related(above - gap, above, lambda style: style.at_most)


def _related(left: Poly, right: Poly, sign: Callable[[Style], str]) -> Formula:
    sides = collect(left), collect(right)
    return _in_each(lambda notation: f" {sign(_STYLES[notation])} ".join(_sum(each, notation, None) for each in sides))


def _in_each(text: Callable[[Notation], str]) -> Formula:
    return Formula(**{notation: text(notation) for notation in _STYLES})


def _name(atom: str, notation: Notation) -> str:
    """A size's name: ``f₁``, ``f1``, ``f_{1}``; ``L_e`` in plain text, ``L_{e}`` in LaTeX."""
    letter, _, mark = atom.partition("_")
    if not mark or notation == "python":
        return atom
    if notation == "latex":
        return f"{letter}_{{{mark}}}"
    if mark.isdigit():
        return letter + (mark.translate(_SUBSCRIPT) if notation == "unicode" else mark)
    return atom


def _sum(found: Sum, notation: Notation, values: Values | None) -> str:
    text, minus = "", _STYLES[notation].minus
    for part in found.parts:
        shown = _part(replace(part, factor=max(part.factor, -part.factor)), notation, values)
        sign = minus if part.factor < 0 else "+"
        text += f" {sign} {shown}" if text else sign.replace("+", "") + shown
    return text or "0"


def _part(part: Product, notation: Notation, values: Values | None) -> str:
    powers = written(part.powers)
    above = [_power(atom, n, notation, values) for atom, n in powers if n > 0]
    below = [_power(atom, -n, notation, values) for atom, n in powers if n < 0]
    if part.inner is not None:
        above.append(f"({_sum(part.inner, notation, values)})")
    if part.factor.numerator != 1 or not above:
        above.insert(0, _integer(part.factor.numerator, notation))
    if part.factor.denominator != 1:
        below.insert(0, _integer(part.factor.denominator, notation))
    top = _joined(above, notation)
    if not below:
        return top
    bottom = _joined(below, notation)
    if notation == "latex":
        return rf"\frac{{{top}}}{{{bottom}}}"
    slash = " / " if notation == "python" else "/"
    return f"{top}{slash}{f'({bottom})' if len(below) > 1 else bottom}"


def _joined(factors: list[str], notation: Notation) -> str:
    """Factors in a row, with a dot only where two of them would read as one."""
    text, dot = factors[0], _STYLES[notation].dot
    for left, right in pairwise(factors):
        text += (dot if notation == "python" or _apart(left, right, notation) else "") + right
    return text


def _apart(left: str, right: str, notation: Notation) -> bool:
    if notation == "latex" or (left[-1].isdigit() and right[0].isdigit()):
        return left[-1].isdigit() and right[0].isdigit()
    index = notation == "ascii" and left[0].isalpha() and left[-1].isdigit() and "^" not in left
    word = len(left.rstrip(_RAISED + _LOWERED)) > 1 and left[0].isalpha()
    powered = notation == "ascii" and "^" in left and not right.startswith("(")
    return "_" in left or index or word or powered or (left[-1] in _RAISED and right[0].isdigit())


def _power(atom: Atom, n: int, notation: Notation, values: Values | None) -> str:
    raised = str(n).translate(_SUPERSCRIPT) if notation == "unicode" else str(n)
    return _atom(atom, notation, values) + (_STYLES[notation].power.format(raised) if n != 1 else "")


def _atom(atom: Atom, notation: Notation, values: Values | None) -> str:
    if isinstance(atom, str):
        return _name(atom, notation) if values is None else _integer(values[atom], notation)
    assert atom.name == "floor", "a formula has the side of a minimum that is taken"
    return _STYLES[notation].floor.format(_sum(collect(*atom.of), notation, values))


def _integer(n: int, notation: Notation) -> str:
    if notation == "python":
        return str(n)
    return units.exact(n).replace(",", "{,}") if notation == "latex" else units.exact(n)
