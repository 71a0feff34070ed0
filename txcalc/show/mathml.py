"""Formulas that read as formulas: MathML, built from the notation that evaluates, whose structure is exact."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Final

from txcalc import units
from txcalc.derivation.explanation import Formula
from txcalc.show.markup import Html, join, tag

_TIMES = tag("mo", Html("&#x2062;"))  # seen by nobody, spoken by screen readers
_DOT = tag("mo", "·")
_SHORT: Final = 28
"""Formulas of so many characters may be broken."""


def mathml(formula: Formula) -> Html:
    """The formula as one or more ``math`` elements: a line may break before every plus and minus."""
    pieces = _pieces(ast.parse(formula.python, mode="eval").body)
    kind = "formula short" if len(formula.unicode) < _SHORT else "formula"
    return tag("span", join(*(tag("math", piece) for piece in pieces), by=tag("wbr")), class_=kind)


def _pieces(node: ast.expr) -> list[Html]:
    """A formula in pieces that stay together."""
    if isinstance(node, ast.Compare):
        sign = "=" if isinstance(node.ops[0], ast.Eq) else "≤"
        return _after(sign, _pieces(node.left), _pieces(node.comparators[0]))
    terms = _terms(node)
    if len(terms) > 1:
        (_, first), *rest = terms
        found = _pieces(first)
        for sign, term in rest:
            found = _after(sign, found, _pieces(term))
        return found
    return _product(_factors(node))


def _after(sign: str, left: list[Html], right: list[Html]) -> list[Html]:
    first, *rest = right
    return [*left, join(tag("mo", sign, form="infix"), first), *rest]


def _product(factors: Sequence[ast.expr]) -> list[Html]:
    """Factors in a row; a sum stands in brackets and may be broken."""
    done: list[Html] = []
    current = Html()
    for i, factor in enumerate(factors):
        current = join(current, _between(factors[i - 1], factor) if i else "")
        if len(_terms(factor)) == 1:
            current = join(current, _single(factor))
            continue
        first, *rest = _pieces(factor)
        done, current = [*done, join(current, _bracket("("), first), *rest], Html()
        current = join(done.pop(), _bracket(")"))
    return [*done, current]


def _between(left: ast.expr, right: ast.expr) -> Html:
    return _DOT if _is_number(left) and _is_number(right) else _TIMES


def _is_number(node: ast.expr) -> bool:
    base = node.left if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) else node
    return isinstance(base, ast.Constant)


def _single(node: ast.expr) -> Html:
    """What is no sum and no product."""
    if isinstance(node, ast.Constant):
        return tag("mn", units.exact(int(str(node.value))))
    if isinstance(node, ast.Name):
        return _name(node.id)
    if isinstance(node, ast.UnaryOp):
        return join(tag("mo", "−", form="prefix"), _whole(node.operand))
    if isinstance(node, ast.Call):
        return join(_bracket("⌊"), _whole(node.args[0]), _bracket("⌋"))
    assert isinstance(node, ast.BinOp)
    if isinstance(node.op, ast.Pow):
        return tag("msup", _whole(node.left), _whole(node.right))
    return tag("mfrac", _whole(node.left), _whole(node.right))


def _whole(node: ast.expr) -> Html:
    pieces = _pieces(node)
    return pieces[0] if isinstance(node, ast.Constant | ast.Name) else tag("mrow", *pieces)


def _name(raw: str) -> Html:
    letter, _, mark = raw.partition("_")
    if not mark:
        return tag("mi", letter)
    return tag("msub", tag("mi", letter), tag("mn" if mark.isdigit() else "mi", mark))


def _bracket(raw: str) -> Html:
    return tag("mo", raw, stretchy="false")


def _terms(node: ast.expr) -> list[tuple[str, ast.expr]]:
    """A sum's terms with their signs, without a call for each: a sum of many terms nests as deep."""
    rest: list[tuple[str, ast.expr]] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        rest.append(("+" if isinstance(node.op, ast.Add) else "−", node.right))
        node = node.left
    return [("", node), *reversed(rest)]


def _factors(node: ast.expr) -> list[ast.expr]:
    rest: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        rest.append(node.right)
        node = node.left
    return [node, *reversed(rest)]
