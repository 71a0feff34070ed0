"""Charts for pages, in a few lines of SVG: bars, dots and curves.

Every value is written beside its mark, series differ in shape and dash as well as in colour, and a description says
in words what there is to see.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from txcalc import units
from txcalc.answer.page.markup import Html, join, tag

_WIDTH: Final = 380
_ROW: Final = 32
_MOST: Final = 14
"""Beyond so many bars, the smallest are one."""
_PLOT: Final = 460
"""A plot's width; its axes stand in a frame."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 448, 30, 250
_CHARACTER: Final = 6.5
"""How wide a character of 12 pixels is, about."""

Amount = Callable[[int], str]


class Bar(NamedTuple):
    """A bar; ``part`` of its ``value`` is hatched."""

    name: str
    value: int
    part: int = 0


class Series(NamedTuple):
    """A curve; missing and zero values are left out."""

    name: str
    values: Sequence[int | None]


class Level(NamedTuple):
    """A horizontal line."""

    name: str
    value: int


def bars(title: str, found: Sequence[Bar], amount: Amount, *, part: str = "") -> Html:
    """Bars on a linear scale, each with its amount and share; ``part`` says what is hatched."""
    total, shown = sum(bar.value for bar in found), _gathered([bar for bar in found if bar.value])
    if not shown:
        return Html()
    name = f"hatch-{title.lower().replace(' ', '-')}"
    hatched = any(bar.part for bar in shown)
    rows = [
        _labelled(bar.name, f"{amount(bar.value)} · {units.percent(bar.value, total)} %", i, _bar(bar, total, i, name))
        for i, bar in enumerate(shown)
    ]
    said = ", ".join(f"{bar.name} {amount(bar.value)}" for bar in shown)
    caption = tag("figcaption", f"Hatched: {part}") if hatched and part else Html()
    return _figure(title, said, _WIDTH, 24 + _ROW * len(shown), _hatch(name) if hatched else "", *rows, caption=caption)


def dots(title: str, found: Sequence[Bar], amount: Amount, *, base: int) -> Html:
    """Values far apart, as dots on a log scale from a power of ``base``."""
    shown = [bar for bar in found if bar.value]
    if not shown:
        return Html()
    logs = [math.log(bar.value, base) for bar in shown]
    low, high = math.floor(min(logs) - 0.001), math.ceil(max(logs) + 0.001)

    def x(log: float) -> float:
        return 6 + (_WIDTH - 12) * (log - low) / (high - low)

    rows = [
        _labelled(bar.name, amount(bar.value), i, _dot(x(low), x(log), 24 + _ROW * i + 22))
        for i, (bar, log) in enumerate(zip(shown, logs, strict=True))
    ]
    bottom = 24 + _ROW * len(shown)
    grid = [_vertical(x(tick), 24, bottom, _tick(amount, base**tick)) for tick in _ticks(low, high, 4)]
    said = ", ".join(f"{bar.name} {amount(bar.value)}" for bar in shown)
    return _figure(f"{title}, log scale", said, _WIDTH, bottom + 20, *grid, *rows)


def curves(
    title: str, xs: Sequence[int], found: Sequence[Series], amount: Amount, *, level: Level | None = None,
    base: int = 2,
) -> Html:
    """Curves on two logarithmic axes, the values' with powers of ``base``, and a legend below."""
    shown = [series for series in found if any(series.values)]
    if not shown:
        return Html()
    values = [value for series in shown for value in series.values if value]
    frame = _Frame.around(xs, [*values, *([level.value] if level else [])], base)
    parts = [*_axes(frame, xs, amount)]
    if level is not None:
        parts += _level(level, frame, amount)
    for i, series in enumerate(shown):
        points = [(frame.x(x), frame.y(y)) for x, y in zip(xs, series.values, strict=True) if y]
        parts += [_curve(points, i), _legend(series.name, i)]
    said = "; ".join(f"{series.name}: {_said(xs, series, amount)}" for series in shown)
    return _figure(title, said, _PLOT, _BOTTOM + 44 + 20 * len(shown), *parts)


class _Frame(NamedTuple):
    """Where a plot stands, and what its axes span, in powers of two and of ``base``."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    base: int

    @classmethod
    def around(cls, xs: Sequence[int], ys: Sequence[int], base: int) -> _Frame:
        """The frame of these values. A single value stands in the middle."""
        x_low, x_high = math.log2(min(xs)), math.log2(max(xs))
        y_low, y_high = math.floor(math.log(min(ys), base)), math.ceil(math.log(max(ys), base) - 1e-9)
        flat = x_high == x_low
        return cls(x_low - flat, x_high + flat, y_low, y_high + (y_high == y_low), base)

    def x(self, value: int) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (math.log2(value) - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: int) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (math.log(value, self.base) - self.y_low) / (
            self.y_high - self.y_low)


def _gathered(found: list[Bar]) -> list[Bar]:
    if len(found) <= _MOST:
        return found
    ranked = sorted(found, key=lambda bar: -bar.value)
    large, small = set(ranked[: _MOST - 1]), ranked[_MOST - 1 :]
    rest = Bar(f"{len(small)} others", sum(bar.value for bar in small), sum(bar.part for bar in small))
    return [*(bar for bar in found if bar in large), rest]


def _labelled(name: str, value: str, i: int, mark: str) -> Html:
    """A row: its name on the left, its value on the right, its mark below both."""
    top = 24 + _ROW * i + 12
    room = int(_WIDTH / _CHARACTER) - len(value) - 2
    short = name if len(name) <= room else f"{name[: room - 1]}…"
    return tag("g", tag("text", short, x=0, y=top), tag("text", value, x=_WIDTH, y=top, class_="end"), mark)


def _bar(bar: Bar, total: int, i: int, hatch: str) -> Html:
    top, full = 24 + _ROW * i + 17, _WIDTH
    width, part = full * bar.value / total, full * bar.part / total
    over = tag("rect", x=0, y=top, width=_px(part), height=9, fill=f"url(#{hatch})") if bar.part else ""
    return join(
        tag("rect", x=0, y=top, width=full, height=9, class_="track"),
        tag("rect", x=0, y=top, width=_px(max(width, 0.75)), height=9, class_="bar"), over,
    )


def _hatch(name: str) -> Html:
    line = tag("line", x1=0, y1=0, x2=0, y2=6, class_="hatch")
    return tag("defs", tag("pattern", line, id=name, width=6, height=6, patternUnits="userSpaceOnUse",
                           patternTransform="rotate(45)"))


def _dot(start: float, x: float, y: float) -> Html:
    return join(tag("line", x1=_px(start), y1=_px(y), x2=_px(x), y2=_px(y), class_="stem s1"),
                tag("circle", cx=_px(x), cy=_px(y), r=5, class_="s1"))


def _vertical(x: float, top: float, bottom: float, label: str) -> Html:
    place = "end" if x > _WIDTH - 30 else "mid" if x > 30 else None
    return join(tag("line", x1=_px(x), y1=_px(top), x2=_px(x), y2=_px(bottom), class_="grid"),
                tag("text", label, x=_px(x), y=_px(bottom + 14), class_=f"small {place or ''}".strip()))


def _ticks(low: int, high: int, most: int) -> range:
    """Few powers, evenly apart, of bytes at whole prefixes where there are many."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / step <= most)
    return range(-(-low // step) * step, high + 1, step)


def _tick(amount: Amount, value: int) -> str:
    return re.sub(r"\.0+(?= |$)", "", amount(value))


def _axes(frame: _Frame, xs: Sequence[int], amount: Amount) -> Iterator[Html]:
    for power in _ticks(int(frame.y_low), int(frame.y_high), 6):
        y = frame.y(frame.base**power)
        yield tag("line", x1=_LEFT, y1=_px(y), x2=_RIGHT, y2=_px(y), class_="grid")
        yield tag("text", _tick(amount, frame.base**power), x=_LEFT - 7, y=_px(y + 4), class_="small end")
    for x in xs[:: -(-len(xs) // 8)]:
        at = frame.x(x)
        yield tag("line", x1=_px(at), y1=_BOTTOM, x2=_px(at), y2=_BOTTOM + 4, class_="grid")
        yield tag("text", length(x), x=_px(at), y=_BOTTOM + 17, class_="small mid")
    middle = (_LEFT + _RIGHT) / 2
    yield tag("text", "sequence length, log scale", x=middle, y=_BOTTOM + 33, class_="small mid")


def length(n: int) -> str:
    """``128K`` for 131,072."""
    for size, letter in ((2**20, "M"), (2**10, "K")):
        if n % size == 0 and n:
            return f"{n // size:,}{letter}"
    return units.exact(n)


def _level(level: Level, frame: _Frame, amount: Amount) -> list[Html]:
    y = frame.y(level.value)
    said = f"{level.name}: {amount(level.value)}"
    return [tag("line", x1=_LEFT, y1=_px(y), x2=_RIGHT, y2=_px(y), class_="level"),
            tag("text", said, x=_LEFT + 4, y=_px(y - 5), class_="small")]


_DASHES: Final = (None, "7 4", "2 3", "9 3 2 3")


def _curve(points: Sequence[tuple[float, float]], i: int) -> Html:
    path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
    return join(tag("polyline", points=path, class_=f"s{i % 4 + 1}", stroke_dasharray=_DASHES[(i + i // 4) % 4]),
                *(_mark(x, y, i) for x, y in points))


def _mark(x: float, y: float, i: int) -> Html:
    """A circle, a square, a triangle or a diamond; hollow beyond the first four."""
    shapes = ("", "M-4-4H4V4H-4Z", "M0-5L5 4H-5Z", "M0-5L5 0L0 5L-5 0Z")
    place, kind = f"translate({_px(x)} {_px(y)})", f"s{i % 4 + 1}{' hollow' * (i // 4 % 2)}"
    if not shapes[i % 4]:
        return tag("circle", r=4, transform=place, class_=kind)
    return tag("path", d=shapes[i % 4], transform=place, class_=kind)


def _legend(name: str, i: int) -> Html:
    y, left = _BOTTOM + 54 + 20 * i, _LEFT
    return join(_curve([(left, y - 4), (left + 36, y - 4)], i), tag("text", name, x=left + 48, y=y))


def _said(xs: Sequence[int], series: Series, amount: Amount) -> str:
    there = [(x, y) for x, y in zip(xs, series.values, strict=True) if y]
    ends = dict.fromkeys((there[0], there[-1]))
    return " to ".join(f"{amount(y)} at {units.exact(x)}" for x, y in ends)


def _figure(title: str, said: str, width: int, height: int, *inside: str, caption: str = "") -> Html:
    drawn = tag("svg", tag("title", title), tag("desc", said), tag("text", title, x=0, y=12, class_="head"), *inside,
                viewBox=f"0 0 {width} {height}", role="img")
    return tag("figure", drawn, caption)


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
