"""Formulas as text: in Unicode, in ASCII, in LaTeX, and as Python that evaluates."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Final, Literal

from txcalc import units
from txcalc.explain.formula import Product, Sum, collect, written
from txcalc.explain.polynomial import Atom, Poly, Values

Notation = Literal["unicode", "ascii", "latex", "python"]

_SUPERSCRIPT: Final = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_SUBSCRIPT: Final = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def write(poly: Poly | Sum, notation: Notation) -> str:
    """The collected formula: ``L(12d² + 13d) + Vd``, ``L(12d^2 + 13d) + Vd``, LaTeX, or Python that evaluates."""
    found = collect(poly) if isinstance(poly, Poly) else poly
    return _sum(found, notation, None)


def substituted(poly: Sum, values: Values, notation: Notation) -> str:
    """The collected formula with numbers in place of the sizes."""
    return _sum(poly, notation, values)


def name(atom: str, notation: Notation) -> str:
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
    if not found.parts:
        return "0"
    text = ""
    for part in found.parts:
        sign = "-" if part.factor < 0 else "+"
        shown = _part(replace(part, factor=max(part.factor, -part.factor)), notation, values)
        minus = "−" if notation == "unicode" else "-"
        shown_sign = minus if sign == "-" else "+"
        text += f" {shown_sign} {shown}" if text else (minus if sign == "-" else "") + shown
    return text


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
    if notation == "python":
        return "*".join(factors)
    text = factors[0]
    for left, right in pairwise(factors):
        text += _between(left, right, notation) + right
    return text


def _between(left: str, right: str, notation: Notation) -> str:
    """A dot only where two factors side by side would read as one."""
    dot = {"unicode": "·", "ascii": "*", "latex": r" \cdot ", "python": "*"}[notation]
    numbers = left[-1].isdigit() and right[0].isdigit()
    if notation == "latex":
        return dot if numbers else ""
    marked = ("_" in left or (notation == "ascii" and left[0].isalpha() and left[-1].isdigit() and "^" not in left))
    powered = notation == "ascii" and "^" in left
    word = len(left.rstrip("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉")) > 1 and left[0].isalpha()
    substituted_power = left[-1] in "⁰¹²³⁴⁵⁶⁷⁸⁹" and right[0].isdigit()
    apart = numbers or ((marked or powered or word) and not right.startswith("(")) or substituted_power
    call = (marked or word) and right.startswith("(")
    return dot if apart or call else ""


def _power(atom: Atom, n: int, notation: Notation, values: Values | None) -> str:
    base = _atom(atom, notation, values)
    if n == 1:
        return base
    if notation == "unicode":
        return base + str(n).translate(_SUPERSCRIPT)
    return base + {"ascii": f"^{n}", "latex": f"^{{{n}}}", "python": f"**{n}"}[notation]


def _atom(atom: Atom, notation: Notation, values: Values | None) -> str:
    if isinstance(atom, str):
        return name(atom, notation) if values is None else _integer(values[atom], notation)
    assert atom.name == "floor", "a formula has the side of a minimum that is taken"
    inner = _sum(collect(*atom.of), notation, values)
    return {
        "unicode": f"⌊{inner}⌋", "ascii": f"floor({inner})", "python": f"floor({inner})",
        "latex": rf"\lfloor {inner} \rfloor",
    }[notation]


def _integer(n: int, notation: Notation) -> str:
    if notation == "python":
        return str(n)
    return units.exact(n).replace(",", "{,}") if notation == "latex" else units.exact(n)
