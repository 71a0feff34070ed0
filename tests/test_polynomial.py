"""Polynomials in sizes beside sympy's and beside Python's own whole numbers, ``==``."""

import itertools
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from txcalc.explain.polynomial import Poly, Relation, Whole, added, atomic, monomial, poly
from txcalc.trace.sizes import least, visible_pairs

NAMES = ("b", "d", "s", "w")
SYMBOLS = {name: sympy.Symbol(name, integer=True, positive=True) for name in NAMES}
b, d, s, w = map(atomic, NAMES)


class Trial(NamedTuple):
    """One expression on polynomials, in sympy, and as a function of whole numbers."""

    ours: Poly
    theirs: Any
    value: Callable[[dict[str, int]], int | Fraction]


def both(operation: Callable[[Any, Any], Any], x: Trial, y: Trial, theirs: Any = None) -> Trial:
    other = (theirs or operation)(x.theirs, y.theirs)
    return Trial(operation(x.ours, y.ours), other, lambda at: operation(x.value(at), y.value(at)))


def leaf(name: str) -> Trial:
    return Trial(atomic(name), SYMBOLS[name], lambda at: at[name])


def constant(n: int) -> Trial:
    return Trial(poly(n), sympy.Integer(n), lambda _: n)


LEAVES = st.one_of(st.sampled_from(NAMES).map(leaf), st.integers(-3, 3).map(constant))
WHOLE = st.integers(1, 5).map(constant)
POLYNOMIALS = st.recursive(LEAVES, lambda inner: st.one_of(
    st.builds(both, st.sampled_from((operator.add, operator.sub, operator.mul)), inner, inner),
    inner.map(lambda x: Trial(-x.ours, -x.theirs, lambda at: -x.value(at))),
    st.builds(lambda x, n: Trial(x.ours**n, x.theirs**n, lambda at: x.value(at)**n), inner, st.integers(0, 3)),
), max_leaves=6)


def expressions(divisors: st.SearchStrategy[Trial]) -> st.SearchStrategy[Trial]:
    return st.recursive(POLYNOMIALS, lambda inner: st.one_of(
        st.builds(both, st.sampled_from((operator.add, operator.sub, operator.mul)), inner, inner),
        st.builds(lambda x, y: both(operator.floordiv, x, y), inner, divisors),
        st.builds(lambda x, y: both(least, x, y, sympy.Min), inner, inner),
    ), max_leaves=5)


EXPRESSIONS = expressions(st.one_of(st.sampled_from(NAMES).map(leaf), WHOLE))
POINTS = st.fixed_dictionaries({name: st.one_of(st.integers(1, 9), st.integers(1, 10**40)) for name in NAMES})
tried = settings(deadline=None, max_examples=100, derandomize=True)


def in_sympy(found: Poly) -> Any:
    """What is printed, read by sympy."""
    return sympy.sympify(repr(found), locals={**SYMBOLS, "min": sympy.Min})


@tried
@given(EXPRESSIONS, POINTS)
def test_values_are_those_of_whole_numbers_and_of_sympy(x: Trial, at: dict[str, int]) -> None:
    numbers = {SYMBOLS[name]: value for name, value in at.items()}
    expected = x.value(at)
    assert x.ours.value(at) == expected
    assert x.ours.substituted(at) == expected
    assert x.theirs.subs(numbers) == expected
    assert in_sympy(x.ours).subs(numbers) == expected
    assert isinstance(x.ours.value(at), int)


@tried
@given(POLYNOMIALS, POLYNOMIALS)
def test_equal_sums_are_equal_and_no_others(x: Trial, y: Trial) -> None:
    same = sympy.expand(x.theirs - y.theirs) == 0
    assert (x.ours == y.ours) is same
    assert bool(x.ours - y.ours) is not same
    assert sympy.expand(in_sympy(x.ours) - x.theirs) == 0
    for one, other in ((x.ours + y.ours, y.ours + x.ours), (x.ours * y.ours, y.ours * x.ours),
                       (x.ours - y.ours, -(y.ours - x.ours)), (least(x.ours, y.ours), least(y.ours, x.ours))):
        assert one == other and hash(one) == hash(other) and repr(one) == repr(other)


@tried
@given(expressions(WHOLE), POLYNOMIALS, POINTS)
def test_polynomials_in_place_of_sizes(x: Trial, y: Trial, at: dict[str, int]) -> None:
    size = y.ours**2 + 1
    assert x.ours.substituted({"s": size}).value(at) == x.value({**at, "s": int(size.value(at))})


@tried
@given(POLYNOMIALS, st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3)), st.integers(1, 9))
def test_division_by_a_term_is_undone_by_it(x: Trial, powers: dict[str, int], factor: int) -> None:
    divisor = Poly(((monomial(dict(powers)), factor),))
    assert x.ours * divisor / divisor == x.ours == x.ours / divisor * divisor
    assert sympy.expand(in_sympy(x.ours / divisor) - x.theirs / in_sympy(divisor)) == 0


def test_a_sum_divides_its_multiples_alone() -> None:
    assert (b * s + b * w) / (s + w) == b and (2 * s + 2 * w) // (w + s) == 2
    for bad in (s * s + w, s):
        with pytest.raises(ValueError, match="no multiple of s \\+ w"):
            bad / (s + w)
    with pytest.raises(ZeroDivisionError):
        s / (w - w)


def test_what_is_whole_leaves_the_floor() -> None:
    assert (2 * s + 4) // 2 == s + 2
    assert (2 * s + 3) // 2 == s + 1
    assert (s + w // 2 * 2) // 2 == w // 2 + s // 2
    assert repr((3 * s + 2 * b) // 2) == "b + floor(3/2*s)"
    assert 7 // poly(2) == 3 and -7 // poly(2) == -4 and 7 / poly(2) == Fraction(7, 2)
    assert repr(-(-s // 16)) == "-1*floor(-1/16*s)"


def test_the_least_is_seen_where_all_sizes_agree() -> None:
    assert least(s, s + w) == s == least(s + w, s)
    assert least(1, w) == 1 and least(w, poly(1)) == 1
    assert least(2, s + w) == 2
    for undecided in (least(2, s), least(s, w), least(s, 2 * w), least(3, s + w), least(1, s / w)):
        assert isinstance(undecided.terms[0][0][0][0], Whole)
    for sides in itertools.permutations((s, w, 2 * b)):
        assert least(least(sides[0], sides[1]), sides[2]) == least(s, least(2 * b, w))
    assert repr(least(least(w, s), 2 * b)) == "min(2*b, s, w)"


def test_terms_stay_in_the_order_in_which_they_came() -> None:
    assert [powers for powers, _ in (w + s - w + b + s).terms] == [(("s", 1),), (("b", 1),)]
    assert (w + s).terms != (s + w).terms and w + s == s + w
    assert list((w * s + b).names()) == ["s", "w", "b"] and list((w // (2 * s)).names()) == ["s", "w"]
    assert added([s, w, s]).terms == (((("s", 1),), 2), ((("w", 1),), 1))


def test_numbers_among_polynomials() -> None:
    assert poly(3) == 3 == s - s + 3 and hash(poly(3)) == hash(3) and poly(0) == 0 and not poly(0) and poly(1)
    assert 3 - s == -(s - 3) and Fraction(1, 2) - s == -(s - Fraction(1, 2))
    assert sum([s, s]) == 2 * s and s**0 == 1 and s**-1 * s == 1 and s != "s"
    assert isinstance((s / 2).value({"s": 4}), int) and (s / 2).value({"s": 3}) == Fraction(3, 2)
    assert (s / w).value({"s": 3 * 10**30, "w": 3}) == 10**30
    with pytest.raises(KeyError):
        (s + w).value({"s": 1})
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(TypeError):
            compare(s, w)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        s.terms = ()  # type: ignore[misc]


def test_relations_apply_as_often_as_they_occur() -> None:
    heads = Relation(monomial({"s": 1, "w": 1}), 1, (("d", 1),))
    wide = Relation((("b", 1),), 4, (("d", 1),))
    assert (2 * s * w + s * s * w + s**2 * w**2 + s).rewritten([heads]) == 2 * d + d * s + d**2 + s
    squares = Relation((("s", 2),), 3, (("d", 1),))
    assert (s**5 + s).rewritten([squares]) == 9 * s * d**2 + s
    assert (b**2 + b * s + 1).rewritten([wide]) == 16 * d**2 + 4 * d * s + 1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("limit", [{}, {"window": w}, {"chunk": w}], ids=str)
def test_the_programs_sizes(causal: bool, limit: dict[str, Poly]) -> None:
    found = visible_pairs(s, b, causal=causal, **limit)
    for new, past, bound in itertools.product((1, 2, 5, 7), (1, 3, 8), (1, 2, 3, 11)):
        at = {"s": new, "b": past, "w": bound}
        assert found.value(at) == visible_pairs(new, past, causal=causal, **dict.fromkeys(limit, bound))
