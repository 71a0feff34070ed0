"""Charts for pages, in a few lines of SVG.

Every value is written beside its mark, lines differ in shape and dash as well as in colour and are named at their
ends, and a description says in words what there is to see.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from txcalc import units
from txcalc.show.blocks import Chart, Mark
from txcalc.show.markup import Html, join, tag

_WIDTH: Final = 380
_ROW: Final = 32
_MOST: Final = 14
"""Beyond so many bars, the smallest are one."""
_PLOT: Final = 492
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 300, 30, 250
"""A plot's frame; the names of its lines stand right of it."""
_CHARACTER: Final = 6.5
"""How wide a character of 12 pixels is, about."""
_LINE: Final = 14.0
"""Room that a name needs, from the one above it."""


def figure(chart: Chart) -> Html:
    """The chart; nothing at all where there is nothing to draw."""
    if not chart.drawn:
        return Html()
    return _curves(chart) if chart.kind == "curves" else _bars(chart) if chart.kind == "bars" else _dots(chart)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved apart to stand at least ``gap`` from one another, in their order, between ``low`` and ``high``."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = list(places)
    for n, i in enumerate(order):
        found[i] = max(places[i], low, found[order[n - 1]] + gap if n else low)
    edge = high
    for i in reversed(order):
        found[i] = min(found[i], edge)
        edge = found[i] - gap
    return found


def length(n: int) -> str:
    """``128K`` for 131,072."""
    for size, letter in ((2**20, "M"), (2**10, "K")):
        if n % size == 0 and n:
            return f"{n // size:,}{letter}"
    return units.exact(n)


def tick(chart: Chart, value: int) -> str:
    """A round amount without the zeros behind its point."""
    return re.sub(r"\.0+(?= |$)", "", chart.amount(value))


def gathered(marks: Sequence[Mark]) -> list[Mark]:
    """The marks that there is something of; of too many the smallest as one."""
    found = [mark for mark in marks if mark.value]
    if len(found) <= _MOST:
        return found
    ranked = sorted(found, key=lambda mark: -mark.value)
    large, small = set(ranked[: _MOST - 1]), ranked[_MOST - 1 :]
    rest = Mark(f"{len(small)} others", sum(mark.value for mark in small), sum(mark.part for mark in small))
    return [*(mark for mark in found if mark in large), rest]


# ---------------------------------------------------------------- bars and dots


def _bars(chart: Chart) -> Html:
    """Bars on a linear scale, each with its amount and share; against a level, the share of that."""
    shown, whole = gathered(chart.marks), sum(mark.value for mark in chart.marks)
    full = max(chart.level.value, *(mark.value for mark in shown)) if chart.level else whole
    name = f"hatch-{chart.title.lower().replace(' ', '-')}"
    hatched = any(mark.part for mark in shown)
    rows = [_labelled(mark.name, f"{chart.amount(mark.value)} · "
                      f"{units.percent(mark.value, chart.level.value if chart.level else whole)} %", i,
                      _bar(chart, mark, full, i, name)) for i, mark in enumerate(shown)]
    of = f"of {chart.level.name}, {chart.amount(chart.level.value)}" if chart.level else ""
    caption = "; ".join(filter(None, (of, f"hatched: {chart.part}" if hatched and chart.part else "")))
    return _figure(chart, _WIDTH, 24 + _ROW * len(shown), _hatch(name) if hatched else "", *rows,
                   caption=tag("figcaption", caption) if caption else "")


def _bar(chart: Chart, mark: Mark, whole: int, i: int, hatch: str) -> Html:
    top = 24 + _ROW * i + 17
    full = _WIDTH * (chart.level.value if chart.level else whole) / whole
    width, part = _WIDTH * mark.value / whole, _WIDTH * mark.part / whole
    over = tag("rect", x=0, y=top, width=_px(part), height=9, fill=f"url(#{hatch})") if mark.part else ""
    return join(
        tag("rect", x=0, y=top, width=_px(full), height=9, class_="track"),
        tag("rect", x=0, y=top, width=_px(max(width, 0.75)), height=9, class_="bar"), over,
    )


def _hatch(name: str) -> Html:
    line = tag("line", x1=0, y1=0, x2=0, y2=6, class_="hatch")
    return tag("defs", tag("pattern", line, id=name, width=6, height=6, patternUnits="userSpaceOnUse",
                           patternTransform="rotate(45)"))


def _dots(chart: Chart) -> Html:
    """Values far apart, each a dot on a log scale of its own; the powers at its ends stand below the last."""
    shown = gathered(chart.marks)
    logs = [math.log(mark.value, chart.base) for mark in shown]
    low, high = math.floor(min(logs) - 0.001), math.ceil(max(logs) + 0.001)

    def x(log: float) -> float:
        return 6 + (_WIDTH - 12) * (log - low) / (high - low)

    ticks = _ticks(low, high, 4)
    rows = []
    for i, (mark, log) in enumerate(zip(shown, logs, strict=True)):
        y = 24 + _ROW * i + 22
        axis = tag("line", x1=_px(x(low)), y1=y, x2=_px(x(high)), y2=y, class_="grid")
        powers = (tag("line", x1=_px(x(p)), y1=y - 3, x2=_px(x(p)), y2=y + 3, class_="grid") for p in ticks)
        dot = tag("circle", cx=_px(x(log)), cy=y, r=5, class_="s1")
        rows.append(_labelled(mark.name, chart.amount(mark.value), i, join(axis, *powers, dot)))
    bottom = 24 + _ROW * len(shown)
    labels = [tag("text", tick(chart, chart.base**p), x=_px(x(p)), y=bottom + 12,
                  class_="small end" if x(p) > _WIDTH - 40 else "small mid" if x(p) > 30 else "small") for p in ticks]
    return _figure(chart, _WIDTH, bottom + 20, *rows, *labels, suffix=", log scale")


def _labelled(name: str, value: str, i: int, mark: str) -> Html:
    """A row: its name on the left, its value on the right, its mark below both."""
    top = 24 + _ROW * i + 12
    short = _short(name, int(_WIDTH / _CHARACTER) - len(value) - 2)
    return tag("g", tag("text", short, x=0, y=top), tag("text", value, x=_WIDTH, y=top, class_="end"), mark)


def _short(name: str, room: int) -> str:
    return name if len(name) <= room else f"{name[: room - 1]}…"


# ---------------------------------------------------------------- curves


class _Frame(NamedTuple):
    """What the axes of a plot span, in powers of two and of ``base``."""

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
        return _BOTTOM - (_BOTTOM - _TOP) * (math.log(value, self.base) - self.y_low) / (self.y_high - self.y_low)


def _curves(chart: Chart) -> Html:
    """Curves on two logarithmic axes, each named at its end, as is the level that they should stay below."""
    shown = [series for series in chart.series if any(series.values)]
    level = [chart.level] if chart.level else []
    frame = _Frame.around(chart.lengths, [*chart.drawn, *(mark.value for mark in level)], chart.base)
    lines = [[(frame.x(x), frame.y(y)) for x, y in zip(chart.lengths, series.values, strict=True) if y]
             for series in shown]
    ends = [*(line[-1] for line in lines), *((_RIGHT, frame.y(mark.value)) for mark in level)]
    places = spread([y for _, y in ends], _LINE, _TOP, max(_BOTTOM, _TOP + _LINE * (len(ends) - 1)))
    parts = [*_axes(chart, frame), *(
        tag("line", x1=_LEFT, y1=_px(y), x2=_RIGHT, y2=_px(y), class_="level") for _, y in ends[len(lines):])]
    for i, (line, series, place) in enumerate(zip(lines, shown, places, strict=False)):
        parts += [_curve(line, i), _named(series.name, line[-1], place, i)]
    parts += [_named(f"{mark.name}: {chart.amount(mark.value)}", ends[-1], places[-1], None) for mark in level]
    return _figure(chart, _PLOT, _BOTTOM + 40, *parts)


def _axes(chart: Chart, frame: _Frame) -> Iterator[Html]:
    for power in _ticks(int(frame.y_low), int(frame.y_high), 6):
        y = frame.y(frame.base**power)
        yield tag("line", x1=_LEFT, y1=_px(y), x2=_RIGHT, y2=_px(y), class_="grid")
        yield tag("text", tick(chart, frame.base**power), x=_LEFT - 7, y=_px(y + 4), class_="small end")
    for x in chart.lengths[:: -(-len(chart.lengths) // 7)]:
        at = frame.x(x)
        yield tag("line", x1=_px(at), y1=_BOTTOM, x2=_px(at), y2=_BOTTOM + 4, class_="grid")
        yield tag("text", length(x), x=_px(at), y=_BOTTOM + 17, class_="small mid")
    middle = (_LEFT + _RIGHT) / 2
    yield tag("text", "sequence length, log scale", x=middle, y=_BOTTOM + 33, class_="small mid")


_DASHES: Final = (None, "7 4", "2 3", "9 3 2 3")


def _curve(points: Sequence[tuple[float, float]], i: int) -> Html:
    path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
    return join(tag("polyline", points=path, class_=f"s{i % 10 + 1}", stroke_dasharray=_DASHES[(i + i // 4) % 4]),
                *(_mark(x, y, i) for x, y in points))


def _mark(x: float, y: float, i: int) -> Html:
    """A circle, a square, a triangle or a diamond; hollow for every second four."""
    shapes = ("", "M-4-4H4V4H-4Z", "M0-5L5 4H-5Z", "M0-5L5 0L0 5L-5 0Z")
    place, kind = f"translate({_px(x)} {_px(y)})", f"s{i % 10 + 1}{' hollow' * (i // 4 % 2)}"
    if not shapes[i % 4]:
        return tag("circle", r=4, transform=place, class_=kind)
    return tag("path", d=shapes[i % 4], transform=place, class_=kind)


def _named(name: str, end: tuple[float, float], y: float, i: int | None) -> Html:
    """The name of a line right of its end, a thin line leading there, and its mark, if it has any, once more."""
    x = _RIGHT + 22
    lead = tag("line", x1=_px(end[0] + 6), y1=_px(end[1]), x2=x - 7, y2=_px(y),
               class_="grid" if i is None else f"lead s{i % 10 + 1}")
    room = int((_PLOT - x - 8) / _CHARACTER * 1.05)
    said = tag("text", _short(name, room), x=x + (9 if i is not None else -4), y=_px(y + 4))
    return join(lead, said if i is None else join(_mark(x, y, i), said))


def _ticks(low: int, high: int, most: int) -> range:
    """Few powers, evenly apart, of bytes at whole prefixes where there are many."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / step <= most)
    return range(-(-low // step) * step, high + 1, step)


def _said(chart: Chart) -> str:
    """What there is to see, in words."""
    if chart.kind != "curves":
        return ", ".join(f"{mark.name} {chart.amount(mark.value)}" for mark in gathered(chart.marks))
    found = []
    for series in chart.series:
        there = [(x, y) for x, y in zip(chart.lengths, series.values, strict=True) if y]
        ends = dict.fromkeys((there[0], there[-1])) if there else {}
        if ends:
            found.append(f"{series.name}: " + " to ".join(f"{chart.amount(y)} at {units.exact(x)}" for x, y in ends))
    return "; ".join(found)


def _figure(chart: Chart, width: int, height: float, *inside: str, suffix: str = "", caption: str = "") -> Html:
    title = chart.title + suffix
    drawn = tag("svg", tag("title", title), tag("desc", _said(chart)), tag("text", title, x=0, y=12, class_="head"),
                *inside, viewBox=f"0 0 {width} {height:g}", role="img")
    return tag("figure", drawn, caption)


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
