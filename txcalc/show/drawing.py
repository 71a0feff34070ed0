"""Charts as shapes: bars, dots and curves laid out once, for pages and for figures alike.

Every value is written beside its mark; lines differ in shape and dash as well as in colour and are named at their
ends. Units are pixels, y grows downwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from txcalc import units
from txcalc.show.blocks import Chart, Mark

SIZES: Final = {"": 12, "small": 11, "head": 13}
"""Pixels of a text of each kind."""
DASHES: Final = (None, (7, 4), (2, 3), (9, 3, 2, 3))
COLOURS: Final = 10
"""So many lines differ in colour."""

_ROW: Final = 32
_MOST: Final = 14
"""Beyond so many bars, the smallest are one."""
_WIDTH: Final = 380
_PLOT: Final = 492
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 300, 30, 250
"""A plot's frame; the names of its lines stand right of it."""
_CHARACTER: Final = 6.5
"""Width of a character of 12 pixels, about."""
_LINE: Final = 14.0
"""Room that a name needs, from the one above it."""


class Line(NamedTuple):
    """A line through points: of the grid, of a level, to a name, the curve of a series, or around its area."""

    points: Sequence[tuple[float, float]]
    kind: Literal["grid", "level", "lead", "curve", "area"]
    series: int = 0

    @property
    def dash(self) -> tuple[int, ...] | None:
        """Strokes and gaps; neighbours in colour differ."""
        return DASHES[(self.series + self.series // 4) % 4] if self.kind == "curve" else None


class Dot(NamedTuple):
    """The mark of a series: a circle, a square, a triangle or a diamond; hollow for every second four."""

    x: float
    y: float
    series: int

    @property
    def shape(self) -> int:
        """The mark's shape, one of four."""
        return self.series % 4

    @property
    def hollow(self) -> bool:
        """Tell whether only its outline is drawn."""
        return bool(self.series // 4 % 2)


class Box(NamedTuple):
    """A bar, the track that it lies in, the hatched part of it, or the colour of a series beside its name."""

    x: float
    y: float
    width: float
    height: float
    kind: Literal["track", "bar", "hatched", "key"]
    series: int = 0


class Text(NamedTuple):
    """A text on its baseline."""

    text: str
    x: float
    y: float
    kind: Literal["", "small", "head"] = ""
    align: Literal["", "mid", "end"] = ""


Shape = Line | Dot | Box | Text
Scale = Callable[[int], float]


class Drawing(NamedTuple):
    """A chart as shapes. ``said``: what there is to see, in words; ``caption`` stands below it."""

    title: str
    said: str
    width: int
    height: float
    shapes: Sequence[Shape]
    caption: str = ""


def drawing(chart: Chart) -> Drawing:
    """The chart, which has something to draw."""
    return {"curves": _curves, "bars": _bars, "dots": _dots, "areas": _areas}[chart.kind](chart)


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


def _length(n: int) -> str:
    """``128K`` for 131,072."""
    for size, letter in ((2**20, "M"), (2**10, "K")):
        if n % size == 0 and n:
            return f"{n // size:,}{letter}"
    return units.exact(n)


def _tick(chart: Chart, value: int) -> str:
    """A round amount without the zeros behind its point."""
    return re.sub(r"\.0+(?= |$)", "", chart.amount(value))


def _gathered(marks: Sequence[Mark]) -> list[Mark]:
    """The marks that there is something of; of too many the smallest as one."""
    found = [mark for mark in marks if mark.value]
    if len(found) <= _MOST:
        return found
    ranked = sorted(found, key=lambda mark: -mark.value)
    large, small = set(ranked[: _MOST - 1]), ranked[_MOST - 1 :]
    rest = Mark(f"{len(small)} others", sum(mark.value for mark in small), sum(mark.part for mark in small))
    return [*(mark for mark in found if mark in large), rest]


def _scale(low: float, high: float, start: float, end: float, base: int) -> Scale:
    """The place of a value between those of two powers of ``base``, on a log scale."""
    return lambda value: start + (end - start) * (math.log(value, base) - low) / (high - low)


def _ticks(low: int, high: int, most: int) -> range:
    """Few powers, evenly apart, of bytes at whole prefixes where there are many."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / step <= most)
    return range(-(-low // step) * step, high + 1, step)


def _short(name: str, room: float) -> str:
    most = int(room / _CHARACTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _drawing(chart: Chart, width: int, height: float, shapes: Sequence[Shape], **more: Any) -> Drawing:
    axis = ("" if chart.axis == chart.title.lower() else chart.axis, "log scale" if chart.kind == "dots" else "")
    head = (Text(chart.title, 0, 12, "head"), Text(", ".join(filter(None, axis)), width, 12, "small", "end"))
    return Drawing(chart.title, _said(chart), width, height, (*head, *shapes), **more)


def _said(chart: Chart) -> str:
    """A description of the chart in words."""
    if chart.kind == "areas":
        whole = _stacked(chart)[-1]
        most = whole.index(max(whole))
        there = (f"{series.name} {chart.amount(value)}" for series in chart.series if (value := series.values[most]))
        return f"{chart.amount(whole[most])} at most: {', '.join(there)}"
    if chart.kind != "curves":
        return ", ".join(f"{mark.name} {chart.amount(mark.value)}" for mark in _gathered(chart.marks))
    found = []
    for series in chart.series:
        drawn = [(x, y) for x, y in zip(chart.lengths, series.values, strict=True) if y]
        ends = dict.fromkeys((drawn[0], drawn[-1])) if drawn else {}
        if ends:
            found.append(f"{series.name}: " + " to ".join(f"{chart.amount(y)} at {units.exact(x)}" for x, y in ends))
    return "; ".join(found)


# ---------------------------------------------------------------- bars and dots


def _bars(chart: Chart) -> Drawing:
    """Bars on a linear scale, each with its amount and share; against a level, the share of that."""
    shown = _gathered(chart.marks)
    whole = chart.level.value if chart.level else sum(mark.value for mark in chart.marks)
    full = max(whole, *(mark.value for mark in shown))
    shapes: list[Shape] = []
    for i, mark in enumerate(shown):
        shapes += _labelled(mark.name, f"{chart.amount(mark.value)} · {units.percent(mark.value, whole)} %", i)
        for value, kind in ((whole, "track"), (mark.value, "bar"), (mark.part, "hatched")):
            if value:
                width = max(_WIDTH * value / full, 0.75)
                shapes.append(Box(0, 24 + _ROW * i + 17, width, 9, kind))  # type: ignore[arg-type]
    of = f"of {chart.level.name}, {chart.amount(chart.level.value)}" if chart.level else ""
    hatched = f"hatched: {chart.part}" if chart.part and any(mark.part for mark in shown) else ""
    return _drawing(chart, _WIDTH, 24 + _ROW * len(shown), shapes, caption="; ".join(filter(None, (of, hatched))))


def _dots(chart: Chart) -> Drawing:
    """Values far apart, each a dot on a log scale of its own; the powers at its ends stand below the last."""
    shown = _gathered(chart.marks)
    logs = [math.log(mark.value, chart.base) for mark in shown]
    low, high = math.floor(min(logs) - 0.001), math.ceil(max(logs) + 0.001)
    at = _scale(low, high, 6, _WIDTH - 6, chart.base)
    ticks = [(value, at(value)) for value in (chart.base**power for power in _ticks(low, high, 4))]
    shapes: list[Shape] = []
    for i, mark in enumerate(shown):
        y = 24 + _ROW * i + 22
        shapes += [*_labelled(mark.name, chart.amount(mark.value), i), Line(((6, y), (_WIDTH - 6, y)), "grid"),
                   *(Line(((x, y - 3), (x, y + 3)), "grid") for _, x in ticks), Dot(at(mark.value), y, 0)]
    bottom = 24 + _ROW * len(shown)
    shapes += [Text(_tick(chart, value), x, bottom + 12, "small", "end" if x > _WIDTH - 40 else "mid" if x > 30 else "")
               for value, x in ticks]
    return _drawing(chart, _WIDTH, bottom + 20, shapes)


def _labelled(name: str, value: str, i: int) -> tuple[Text, Text]:
    """Of a row its name on the left and its value on the right; its mark comes below both."""
    top = 24 + _ROW * i + 12
    return Text(_short(name, _WIDTH - _CHARACTER * (len(value) + 2)), 0, top), Text(value, _WIDTH, top, align="end")


# ---------------------------------------------------------------- curves


def _curves(chart: Chart) -> Drawing:
    """Curves on two logarithmic axes, each named at its end, as is the level that they should stay below."""
    shown = [series for series in chart.series if any(series.values)]
    levels = [chart.level] if chart.level else []
    values = [*chart.drawn, *(mark.value for mark in levels)]
    first, last = math.log2(min(chart.lengths)), math.log2(max(chart.lengths))
    flat = first == last  # a single length stands in the middle
    low, high = math.floor(math.log(min(values), chart.base)), math.ceil(math.log(max(values), chart.base) - 1e-9)
    at_x = _scale(first - flat, last + flat, _LEFT, _RIGHT, 2)
    at_y = _scale(low, high + (high == low), _BOTTOM, _TOP, chart.base)
    lines = [[(at_x(x), at_y(y)) for x, y in zip(chart.lengths, series.values, strict=True) if y] for series in shown]
    ends = [*(line[-1] for line in lines), *((_RIGHT, at_y(mark.value)) for mark in levels)]
    names = [*(series.name for series in shown), *(f"{m.name}, {chart.amount(m.value)}" for m in levels)]
    places = spread([y for _, y in ends], _LINE, _TOP, max(_BOTTOM, _TOP + _LINE * (len(ends) - 1)))
    shapes = [*_axes(chart, at_x, at_y, _ticks(low, high + (high == low), 6)),
              *(Line(((_LEFT, y), (_RIGHT, y)), "level") for _, y in ends[len(lines):])]
    for i, line in enumerate(lines):
        shapes += [Line(line, "curve", i), *(Dot(x, y, i) for x, y in line)]
    x = _RIGHT + 22
    for i, (name, end, y) in enumerate(zip(names, ends, places, strict=True)):
        marked = i < len(lines)
        shapes.append(Line(((end[0] + 6, end[1]), (x - 7, y)), "lead" if marked else "grid", i))
        shapes += [Dot(x, y, i)] * marked
        shapes.append(Text(_short(name, (_PLOT - x - 8) * 1.05), x + (9 if marked else -4), y + 4))
    return _drawing(chart, _PLOT, _BOTTOM + 40, shapes)


def _axes(chart: Chart, at_x: Scale, at_y: Scale, powers: range) -> Iterator[Shape]:
    for value in (chart.base**power for power in powers):
        yield Line(((_LEFT, at_y(value)), (_RIGHT, at_y(value))), "grid")
        yield Text(_tick(chart, value), _LEFT - 7, at_y(value) + 4, "small", "end")
    for length in chart.lengths[:: -(-len(chart.lengths) // 7)]:
        x = at_x(length)
        yield Line(((x, _BOTTOM), (x, _BOTTOM + 4)), "grid")
        yield Text(_length(length), x, _BOTTOM + 17, "small", "mid")
    yield Text("sequence length, log scale", (_LEFT + _RIGHT) / 2, _BOTTOM + 33, "small", "mid")


# ---------------------------------------------------------------- areas


_TIMELINE: Final = 760
_LEAST: Final = 0.11
"""A span has at least this part of the whole."""
_END, _FLOOR = 520, 262


def _areas(chart: Chart) -> Drawing:
    """Series on one another over time, its spans named below, and the level they should stay below above all."""
    stacked, edges = _stacked(chart), _edges(chart)
    most = max(stacked[-1])
    level = chart.level if chart.level and chart.level.value <= 3 * most else None
    top = max(most, level.value if level else 0)
    step = _round(top)

    def at(value: int) -> float:
        return _FLOOR - (_FLOOR - _TOP) * value / top

    def outline(values: Sequence[int]) -> list[tuple[float, float]]:
        return [(x, at(value)) for value, *ends in zip(values, edges, edges[1:], strict=False) for x in ends]

    shapes = list[Shape]()
    for i, series in enumerate(stacked):
        below = stacked[i - 1] if i else [0] * len(series)
        shapes.append(Line([*outline(series), *reversed(outline(below))], "area", i))
    for value in range(0, top + 1, step):
        y = at(value)
        shapes += [Line(((_LEFT, y), (_END, y)), "grid"), Text(_tick(chart, value), _LEFT - 7, y + 4, "small", "end")]
    shapes += _spans(chart, edges)
    if level:
        y = at(level.value)
        shapes += [Line(((_LEFT, y), (_END, y)), "level"),
                   Text(f"{level.name}, {chart.amount(level.value)}", _END, y - 5, "small", "end")]
    shapes += _key(chart, stacked[-1].index(most))
    beyond = f"{chart.level.name} has {chart.amount(chart.level.value)}" if chart.level and not level else ""
    return _drawing(chart, _TIMELINE, _FLOOR + 26, shapes, caption=beyond)


def _stacked(chart: Chart) -> list[list[int]]:
    """The upper edge of every series where each lies on those before it."""
    found = list[list[int]]()
    for series in chart.series:
        below = found[-1] if found else [0] * len(series.values)
        found.append([(value or 0) + under for value, under in zip(series.values, below, strict=True)])
    return found


def _round(top: int) -> int:
    """A step of one, two or five of a prefix, so that about five of them come to ``top``."""
    unit = 1
    while unit * 1024 * 2 <= top:
        unit *= 1024
    return next(step for i in range(5) for n in (1, 2, 5) if (step := unit * n * int(10**i)) * 6 >= top)


def _edges(chart: Chart) -> list[float]:
    """The beginning of each moment, and the end of the last; a short span of time has some room all the same."""
    least = sum(mark.value for mark in chart.marks) * _LEAST
    room = [max(mark.value, least) for mark in chart.marks]
    found = [float(_LEFT)]
    for mark, size in zip(chart.marks, room, strict=True):
        start, width = found[-1], (_END - _LEFT) * size / sum(room)
        found += [start + width * (i + 1) / mark.value for i in range(mark.value)]
    return found


def _spans(chart: Chart, edges: Sequence[float]) -> Iterator[Shape]:
    """The spans of time between lines, each named where its name has room."""
    start, free = 0, 0.0
    for mark in chart.marks:
        x, end = edges[start], edges[start + mark.value]
        if start:
            yield Line(((x, _TOP), (x, _FLOOR + 8)), "grid")
        half = len(mark.name) * _CHARACTER / 2
        if 2 * half <= 1.45 * (end - x) and (x + end) / 2 - half >= free:  # it may reach into wider neighbours
            yield Text(mark.name, (x + end) / 2, _FLOOR + 17, "small", "mid")
            free = (x + end) / 2 + half
        start += mark.value


def _key(chart: Chart, most: int) -> Iterator[Shape]:
    """The series from the top down, each with its colour and what it has where all of them have most."""
    yield Text("at the peak", _TIMELINE, _TOP + 4, "small", "end")
    for row, i in enumerate(reversed(range(len(chart.series)))):
        series, y = chart.series[i], _TOP + 24 + 20 * row
        yield Box(_END + 22, y - 9, 10, 10, "key", i)
        yield Text(series.name, _END + 39, y)
        yield Text(chart.amount(series.values[most] or 0), _TIMELINE, y, align="end")
