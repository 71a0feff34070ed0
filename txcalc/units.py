"""Numbers as text, written and read: the only place that does either.

Arithmetic is exact (ints and fractions, never a float on the way), so a FLOP count of forty digits is rounded
as correctly as one of four. Rounding is half up, the way a reader would check it by hand.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

Number = int | float | Fraction
"""A finite quantity. Floats are taken at their exact binary value; NaN and infinity raise."""

MISSING: Final = "–"
"""Sign for a number that does not exist (``None``)."""

MAX_POINTS: Final = 64
"""The most lengths one range may name."""

MAX_DIGITS: Final = 100
"""The most digits a number on the command line may have."""

# Only K counts in 1,024s, because an 8K context is 8,192 tokens; vLLM reads k and K so, but goes on with M as
# 1,048,576. Not here: from M up the letters are the words million, billion, trillion, in either case, and G
# is the SI spelling of B, because 124M parameters and 15T tokens are never meant in binary.
_SUFFIX: Final = {"": 1, "k": 10**3, "K": 2**10} | {
    letter: size for letters, size in (("mM", 10**6), ("bBgG", 10**9), ("tT", 10**12)) for letter in letters
}
# The one exception: doubling from 1K to 1M passes 524,288 and is meant to arrive at 1,048,576.
_AFTER_K: Final = _SUFFIX | {"M": 2**20, "G": 2**30, "T": 2**40}

_WHOLE = r"0|[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9](?:_?[0-9])*"
_COUNT = re.compile(rf"(?P<whole>{_WHOLE})(?:\.(?P<part>[0-9]+))? ?(?P<suffix>[kKmMbBgGtT]?)")
_BYTES = re.compile(rf"(?P<whole>{_WHOLE})(?:\.(?P<part>[0-9]{{1,30}}))? ?(?P<unit>(?:[kmgt]i?)?b|)", re.IGNORECASE)
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+")

_PARAM_UNITS: Final = ("", "K", "M", "B", "T")
_FLOP_UNITS: Final = tuple(f"{prefix}FLOP" for prefix in ("", "k", "M", "G", "T", "P", "E", "Z", "Y"))
_MEMORY_UNITS: Final = ("B", *(f"{prefix}iB" for prefix in "KMGTPEZY"))


class SeveralError(ValueError):
    """Several sizes, or what could be several, where one is taken."""


def parse_count(text: str) -> int:
    """Read a size: ``4096``, ``1_000``, ``1,024``, ``8k`` = 8,000, ``8K`` = 8,192, ``7B``.

    ``k`` is 1,000 and ``K`` 1,024; ``m``/``M`` is 10^6, ``b``/``B`` and ``g``/``G`` 10^9, ``t``/``T`` 10^12.
    Raises ValueError, in one line, for anything else, a negative number, and a result that is not whole: SeveralError
    for what is, or could be, several sizes.
    """
    _refuse_several(text.strip())
    return _count(text, _SUFFIX)


def parse_bytes(text: str) -> int:
    """Read a size of memory: ``24GB`` = 24·10^9, ``24GiB`` = 24·2^30, ``512``; a part of a byte is left out.

    Raises ValueError, in one line, for anything else.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None or len(match["whole"]) > MAX_DIGITS:
        raise ValueError(f"{_quoted(text)} is not a size such as 24GiB, 24GB or 512MiB")
    unit = match["unit"].casefold().removesuffix("b")
    scale: int = (1024 if unit.endswith("i") else 1000) ** " kmgt".index(unit[:1] or " ")
    part = match["part"] or ""
    return int(match["whole"].replace(",", "").replace("_", "") + part) * scale // int(10 ** len(part))


def parse_seconds(text: str) -> Fraction:
    """Read how long something is: ``30s``, ``1.5m``, ``2h``. Raises ValueError, in one line, for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([smh])", text.strip())
    if match is None:
        raise ValueError(f"{_quoted(text)} is not a time such as 30s, 2m or 1h")
    return Fraction(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def parse_lengths(text: str) -> tuple[int, ...]:
    """Read the lengths of sequences, of which some may be alike: ``4K,1K,1K``. Raises ValueError, also for one that
    could be a single number."""
    return tuple(map(parse_count, text.split(","))) if not _is_either(text) else parse_range(text)


def parse_range(text: str) -> tuple[int, ...]:
    """Read lengths: ``1K..1M`` doubles from 1,024 to 1,048,576, ``1K,3K`` lists, ``4096`` is one.

    The end of a range is always included, hit by doubling or not. After a start in ``K``, the end's ``M``,
    ``G`` and ``T`` count in 1,024s too. Parts of a list may be ranges; order is kept, and a length named
    twice is kept once. Raises ValueError for a length of 0, an end below its start, or over 64 lengths.
    """
    text = text.strip()
    if _GROUPED.fullmatch(text) and ",0" in text:  # 1,024: no length begins with a zero
        return (parse_count(text),)
    for piece in map(str.strip, text.split("..")):
        if _is_either(piece):
            raise ValueError(
                f"{_quoted(piece)} could be one number or a list: "
                f"write {piece.replace(',', '_')}, or '{piece.replace(',', ', ')}' with spaces"
            )
    parts = text.split(",")
    if len(parts) > MAX_POINTS:
        raise ValueError(f"a range names at most {MAX_POINTS} lengths, got {len(parts):,}")
    points = tuple(dict.fromkeys(point for part in parts for point in _doubling(part)))
    if len(points) > MAX_POINTS:
        raise ValueError(f"a range names at most {MAX_POINTS} lengths, {_quoted(text)} names more")
    return points


def params(n: Number | None) -> str:
    """Parameters in K, M, B, T (powers of 1,000): ``124.4 M``; below 1,000 the number itself."""
    return _scaled(n, 1000, _PARAM_UNITS)


def flops(n: Number | None) -> str:
    """FLOPs (not FLOP/s) in SI units: ``291.6 GFLOP``; beyond YFLOP ``1.000e30 FLOP``."""
    return _scaled(n, 1000, _FLOP_UNITS)


def memory(n: Number | None) -> str:
    """Bytes in powers of 1,024: ``36.00 KiB``; below 1,024 whole, ``512 B``."""
    return _scaled(n, 1024, _MEMORY_UNITS)


def exact(n: int | None) -> str:
    """Every digit, with thousands separators: ``124,439,808``."""
    return MISSING if n is None else f"{n:,}".replace("-", "−")


def percent(part: Number | None, whole: Number | None, digits: int = 1) -> str:
    """``part`` in per cent of ``whole``, without the sign: ``31.0``. A dash where there is no whole."""
    if part is None or whole is None or whole == 0:
        return MISSING
    value = Fraction(part) / Fraction(whole)
    return _fixed(100 * value.numerator, value.denominator, digits)


def ratio(a: Number | None, b: Number | None) -> str:
    """``a`` over ``b``: ``512×`` only where it is exactly that, else ``1,403.1×``, ``1.05×``, ``0.0712×``.

    At least three significant digits and one decimal. A dash where ``b`` is 0 or either is unknown.
    """
    if a is None or b is None or b == 0:
        return MISSING
    value = Fraction(a) / Fraction(b)
    top, bottom = value.numerator, value.denominator
    if value != 0 and not Fraction(1, 10**4) <= abs(value) < 10**12:
        return _scientific(top, bottom, 3) + "×"
    return _fixed(top, bottom, 0 if bottom == 1 else max(1, _decimals(top, bottom, 3))) + "×"


def _is_either(text: str) -> bool:
    """One number or a list: 128,256 is a vocabulary to one reader and two lengths to the next; 1,024 is no list."""
    return _GROUPED.fullmatch(text) is not None and ",0" not in text


def _refuse_several(text: str) -> None:
    if _is_either(text):
        raise SeveralError(f"{_quoted(text)} could be one number or a list: write {text.replace(',', '_')} for one")
    if _GROUPED.fullmatch(text) or ("," not in text and ".." not in text):
        return
    try:
        several = len(parse_range(text)) > 1
    except ValueError:
        return
    if several:
        raise SeveralError(f"{_quoted(text)} is a list, and one number is taken here")


def _count(text: str, suffixes: dict[str, int]) -> int:
    stripped = text.strip()
    if re.match(r"[-−]\s*[0-9.]", stripped):
        raise ValueError(f"{_quoted(stripped)} is negative: a size is 0 or more")
    if sum(map(str.isdigit, stripped)) > MAX_DIGITS:
        raise ValueError(f"{_quoted(stripped)} has more than {MAX_DIGITS} digits")
    match = _COUNT.fullmatch(stripped)
    if match is None:
        raise ValueError(
            f"{_quoted(stripped)} is not a size: write a number such as 4096, 4_096, "
            "8k (8,000), 8K (8,192), 1.5M or 7B"
        )
    digits = match["whole"].replace(",", "").replace("_", "") + (match["part"] or "")
    value = Fraction(int(digits) * suffixes[match["suffix"]], 10 ** len(match["part"] or ""))
    if value.denominator != 1:
        raise ValueError(
            f"{_quoted(stripped)} is not a whole number: "
            f"the nearest are {math.floor(value):,} and {math.ceil(value):,}"
        )
    return value.numerator


def _doubling(text: str) -> tuple[int, ...]:
    first, dots, last = text.strip().partition("..")
    if not first or (dots and not last):
        raise ValueError(f"{_quoted(text.strip())} is not a range: write 1K..128K, 1K,3K or 4096")
    start = parse_count(first)
    stop = _count(last, _AFTER_K if first.rstrip().endswith("K") else _SUFFIX) if dots else start
    if start < 1:
        raise ValueError(f"{_quoted(text.strip())}: a length is at least 1")
    if stop < start:
        raise ValueError(
            f"{_quoted(text.strip())} ends below its start: write {last.strip()}..{first.strip()}"
        )
    # One point more than allowed is enough to be refused, and bounds the work for an end of 100 digits.
    doubled = [start << i for i in range(MAX_POINTS + 1) if start << i < stop]
    return (*doubled, stop)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _scaled(n: Number | None, base: int, units: tuple[str, ...]) -> str:
    """Four significant digits in the first unit whose rounded number stays below ``base``."""
    if n is None:
        return MISSING
    top, bottom = n.as_integer_ratio()
    whole, unit_size = bottom == 1, 1
    for power, unit in enumerate(units):
        size = bottom * unit_size
        if power == 0 and whole:
            decimals = 0
        elif power > 0:  # at most three, so that 0.9999 MiB, 1,023.9 KiB, reads 1.000 MiB
            decimals = min(3, max(0, _decimals(top, size, 4)))
        else:
            decimals = max(0, _decimals(top, size, 4))
        if _rounded(abs(top), size, decimals) < base * 10**decimals:
            return f"{_fixed(top, size, decimals)} {unit}".rstrip()
        unit_size *= base
    return f"{_scientific(top, bottom, 4)} {units[0]}".rstrip()


# A number below is ``top`` over ``bottom``, in integers: a page of fractions takes longer than to count it.


def _rounded(top: int, bottom: int, decimals: int) -> int:
    """A non-negative number × 10^decimals as a whole number, half up."""
    shift = int(10 ** abs(decimals))
    top, bottom = (top * shift, bottom) if decimals >= 0 else (top, bottom * shift)
    return (2 * top + bottom) // (2 * bottom)


def _decimals(top: int, bottom: int, digits: int) -> int:
    """Decimals that show a number to that many significant digits once rounded; negative above 10^digits."""
    top = abs(top)
    if top == 0:
        return 0
    exponent = len(str(top)) - len(str(bottom))
    power = int(10 ** abs(exponent))
    exponent -= top < bottom * power if exponent >= 0 else top * power < bottom
    decimals = digits - 1 - exponent
    return decimals - int(_rounded(top, bottom, decimals) == 10**digits)  # 9.9996 is 10.00, not 10.000


def _fixed(top: int, bottom: int, decimals: int) -> str:
    whole, part = divmod(_rounded(abs(top), bottom, decimals), 10**decimals)
    sign = "−" if top < 0 and (whole or part) else ""
    return f"{sign}{whole:,}" + (f".{part:0{decimals}d}" if decimals else "")


def _scientific(top: int, bottom: int, digits: int) -> str:
    exponent = digits - 1 - _decimals(top, bottom, digits)
    power = int(10 ** abs(exponent))
    up, down = (top, bottom * power) if exponent >= 0 else (top * power, bottom)
    return f"{_fixed(up, down, digits - 1)}e{exponent}"
