"""Formulas that read as formulas: MathML, built from the notation that evaluates, whose structure is exact."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Final

from txcalc import units
from txcalc.explain.explanation import Formula
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
    """A formula in pieces that stay together: it may break before a sign."""
    if isinstance(node, ast.Compare):
        sign = "=" if isinstance(node.ops[0], ast.Eq) else "≤"
        return _after(sign, _pieces(node.left), node.comparators[0])
    (_, first), *rest = _chain(node, ast.Add | ast.Sub)
    if not rest:
        return _product([factor for _, factor in _chain(node, ast.Mult)])
    found = _pieces(first)
    for op, term in rest:
        found = _after("+" if isinstance(op, ast.Add) else "−", found, term)
    return found


def _after(sign: str, left: list[Html], right: ast.expr) -> list[Html]:
    first, *rest = _pieces(right)
    return [*left, join(tag("mo", sign, form="infix"), first), *rest]


def _product(factors: Sequence[ast.expr]) -> list[Html]:
    """Factors in a row; a sum stands in brackets and may be broken."""
    done: list[Html] = []
    current = Html()
    for i, factor in enumerate(factors):
        if i:
            current = join(current, _DOT if _is_number(factors[i - 1]) and _is_number(factor) else _TIMES)
        if len(_chain(factor, ast.Add | ast.Sub)) == 1:
            current = join(current, _single(factor))
            continue
        first, *rest = _pieces(factor)
        done = [*done, join(current, _bracket("("), first), *rest]
        current = join(done.pop(), _bracket(")"))
    return [*done, current]


def _is_number(node: ast.expr) -> bool:
    base = node.left if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) else node
    return isinstance(base, ast.Constant)


def _single(node: ast.expr) -> Html:
    """A factor that is no sum and no product."""
    if isinstance(node, ast.Constant):
        return tag("mn", units.exact(int(str(node.value))))
    if isinstance(node, ast.Name):
        letter, _, mark = node.id.partition("_")
        below = [tag("mn" if mark.isdigit() else "mi", mark)] if mark else []
        return tag("msub", tag("mi", letter), *below) if mark else tag("mi", letter)
    if isinstance(node, ast.UnaryOp):
        return join(tag("mo", "−", form="prefix"), _whole(node.operand))
    if isinstance(node, ast.Call):
        return join(_bracket("⌊"), _whole(node.args[0]), _bracket("⌋"))
    assert isinstance(node, ast.BinOp)
    return tag("msup" if isinstance(node.op, ast.Pow) else "mfrac", _whole(node.left), _whole(node.right))


def _whole(node: ast.expr) -> Html:
    pieces = _pieces(node)
    return pieces[0] if isinstance(node, ast.Constant | ast.Name) else tag("mrow", *pieces)


def _bracket(raw: str) -> Html:
    return tag("mo", raw, stretchy="false")


def _chain(node: ast.expr, kind: Any) -> list[tuple[ast.operator | None, ast.expr]]:
    """A sum's terms, or a product's factors, each behind its operator; no call for each: long sums nest as deep."""
    rest: list[tuple[ast.operator | None, ast.expr]] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, kind):
        rest.append((node.op, node.right))
        node = node.left
    return [(None, node), *reversed(rest)]
