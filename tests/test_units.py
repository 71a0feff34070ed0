"""Numbers in, numbers out: exact on huge ints, and the pictures of the terminal to the digit."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txcalc.units import (
    MAX_POINTS,
    exact,
    flops,
    memory,
    params,
    parse_bytes,
    parse_count,
    parse_range,
    parse_seconds,
    percent,
    ratio,
)

NATURAL = st.integers(0, 10**45)
UNITS = {
    params: {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12},
    flops: {p + "FLOP": 10 ** (3 * i) for i, p in enumerate(["", *"kMGTPEZY"])},
    memory: {"B": 1} | {p + "iB": 2 ** (10 * i) for i, p in enumerate("KMGTPEZY", start=1)},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        (" 8k ", 8_000),
        ("8K", 8_192),
        ("1.5k", 1_500),
        ("1.5K", 1_536),
        ("124m", 124_000_000),
        ("1M", 1_000_000),
        ("7b", 7_000_000_000),
        ("7B", 7_000_000_000),
        ("1g", 10**9),
        ("1G", 10**9),
        ("15T", 15 * 10**12),
        ("0.5k", 500),
        ("1.000", 1),
        ("1_000", 1_000),
        ("1,024", 1_024),
        ("128_256", 128_256),
        ("8,030,261,248", 8_030_261_248),
        ("8.030 B", 8_030_000_000),
        ("1" + "0" * 40, 10**40),
    ],
)
def test_parse_count(text: str, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(("text", "value"), [
    ("24GB", 24 * 10**9), ("24GiB", 24 * 2**30), ("512", 512), ("512 B", 512), ("1.5 KiB", 1536), ("1.5kb", 1500),
    ("0.92GiB", 987_842_478), ("3MiB", 3 << 20), ("2tb", 2 * 10**12), ("1,024", 1024), ("80G", None), ("x", None),
    ("-1GB", None), ("5%", None), ("GiB", None), ("9" * 101, None),
])
def test_parse_bytes(text: str, value: int | None) -> None:
    if value is None:
        with pytest.raises(ValueError, match="is not a size such as"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a size"),
        ("k", "not a size"),
        ("8 kB", "not a size"),
        ("1e6", "not a size"),
        ("inf", "not a size"),
        ("0x10", "not a size"),
        ("٣", "not a size"),
        ("010", "not a size"),
        ("1,02", "not a size"),
        ("512,768", "'512,768' could be one number or a list: write 512_768 for one"),
        ("512, 768", "'512, 768' is a list, and one number is taken here"),
        ("512,1024", "is a list, and one"), ("1K,2k", "is a list, and one"), ("1K..4K", "is a list, and one"),
        ("1__0", "not a size"),
        ("8k\n9k", "not a size"),
        ("-1", "negative"),
        ("−1k", "negative"),
        ("1.5", "the nearest are 1 and 2"),
        ("1.0001K", "the nearest are 1,024 and 1,025"),
        ("9" * 101, "more than 100 digits"),
    ],
)
def test_parse_count_refuses_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_count(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("4096", (4096,)),
        ("1,024", (1024,)),
        ("1K..8K", (1024, 2048, 4096, 8192)),
        ("1K..1M", tuple(2**i for i in range(10, 21))),
        ("1k..3k", (1000, 2000, 3000)),
        ("1K .. 3000", (1024, 2048, 3000)),
        ("5..5", (5,)),
        ("1K,3K", (1024, 3072)),
        ("3K,1K,3K", (3072, 1024)),
        ("512,1024", (512, 1024)),
        ("128, 256", (128, 256)),
        ("1..4,7", (1, 2, 4, 7)),
        (f"1..{2**63}", tuple(2**i for i in range(64))),
    ],
)
def test_parse_range(text: str, values: tuple[int, ...]) -> None:
    assert parse_range(text) == values


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a range"),
        ("1K..", "not a range"),
        ("..1K", "not a range"),
        ("1K,", "not a range"),
        ("1..2..3", "not a size"),
        ("0", "at least 1"),
        ("0..8", "at least 1"),
        ("8K..1K", "write 1K..8K"),
        ("128,256", "write 128_256, or '128, 256' with spaces"),
        ("1..128,256", "'128,256' could be one number or a list"),
        ("128,256 .. 1M", "'128,256' could be one number or a list"),
        ("1..1,024", "not a size"),
        ("1,024,2,048", "not a size"),
        (f"1..{2**64}", "at most 64"),
        ("1.." + "9" * 90, "at most 64"),
        (",".join(["7"] * 65), "at most 64"),
    ],
)
def test_parse_range_refuses_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_range(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (params(124_439_808), "124.4 M"),
        (params(85_056_000), "85.06 M"),
        (params(174_604_259_328), "174.6 B"),
        (params(8_030_261_248), "8.030 B"),
        (params(950), "950"),
        (params(0), "0"),
        (params(999_949), "999.9 K"),
        (params(999_999), "1.000 M"),
        (params(10**15), "1.000e15"),
        (params(None), "–"),
        (params(-999_999), "−1.000 M"),
        (flops(291_648_307_200), "291.6 GFLOP"),
        (flops(284_812_800), "284.8 MFLOP"),
        (flops(950), "950 FLOP"),
        (flops(1_500), "1.500 kFLOP"),
        (flops(6 * 175 * 10**9 * 300 * 10**9), "315.0 ZFLOP"),
        (flops(10**40), "1.000e40 FLOP"),
        (flops(None), "–"),
        (memory(512), "512 B"),
        (memory(1023), "1,023 B"),
        (memory(36 * 1024), "36.00 KiB"),
        (memory(248_879_616), "237.4 MiB"),
        (memory(2**20 - 1), "1.000 MiB"),
        (memory(2**40), "1.000 TiB"),
        (memory(10**40), "1.000e40 B"),
        (memory(None), "–"),
        (memory(Fraction(3, 2)), "1.500 B"),
        (exact(124_439_808), "124,439,808"),
        (exact(None), "–"),
        (exact(-1_000), "−1,000"),
        (percent(38_597_376, 124_439_808), "31.0"),
        (percent(38_400, 124_439_808), "0.0"),
        (percent(63_082_496 - 65_000_000, 65_000_000, digits=2), "−2.95"),
        (percent(1, 0), "–"),
        (percent(None, 1), "–"),
        (ratio(174_604_259_328, 124_439_808), "1,403.1×"),
        (ratio(8_030_261_248, 124_439_808), "64.5×"),
        (ratio(7, 7), "1×"),
        (ratio(65_536, 1), "65,536×"),
        (ratio(51_199, 100), "512.0×"),
        (ratio(105, 100), "1.05×"),
        (ratio(712, 10_000), "0.0712×"),
        (ratio(1, 10**9), "1.00e-9×"),
        (ratio(10**40, 1), "1.00e40×"),
        (ratio(0, 3), "0×"),
        (ratio(3, 0), "–"),
        (ratio(3, None), "–"),
    ],
)
def test_shown(shown: str, expected: str) -> None:
    assert shown == expected


@given(NATURAL)
def test_exact_reads_back(n: int) -> None:
    assert parse_count(exact(n).replace(",", "_")) == n


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_range_doubles_from_start_to_end(a: int, b: int) -> None:
    start, stop = sorted((a, b))
    points = parse_range(f"{start}..{stop}")
    assert points[0] == start and points[-1] == stop and len(points) <= MAX_POINTS
    assert all(2 * x == y for x, y in pairwise(points[:-1]))
    assert len(points) == 1 or points[-2] < stop <= 2 * points[-2]


@pytest.mark.parametrize("form", UNITS)
@given(a=NATURAL, b=NATURAL)
def test_formats_are_close_and_monotone(form: object, a: int, b: int) -> None:
    assert callable(form)
    low, high = sorted((a, b))
    shown_low, shown_high = (_value(form(n), UNITS[form]) for n in (low, high))
    assert shown_low <= shown_high
    assert abs(shown_high - high) * 2000 <= high  # half a unit in the fourth digit, at worst of 1.000


@given(st.integers(1, 10**45), st.integers(1, 10**45))
def test_ratio_is_close(a: int, b: int) -> None:
    shown = Fraction(Decimal(ratio(a, b).removesuffix("×").replace(",", "")))
    assert abs(shown - Fraction(a, b)) * 200 <= Fraction(a, b)


def _value(text: str, units: dict[str, int]) -> Fraction:
    number, _, unit = text.partition(" ")
    return Fraction(Decimal(number.replace(",", ""))) * units[unit]


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1.5m", 90), ("2h", 7200), ("0.25 s", Fraction(1, 4))])
def test_times_are_read(text: str, seconds: object) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["30", "s", "-1s", "1e3s", "1d", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time such as 30s"):
        parse_seconds(text)
