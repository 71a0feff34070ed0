"""Drawings as SVG for pages; a description says in words what there is to see."""

from __future__ import annotations

from typing import Final

from txcalc.show.blocks import Chart
from txcalc.show.drawing import COLOURS, Box, Dot, Line, Shape, drawing
from txcalc.show.markup import Html, tag

_PATHS: Final = ("", "M-4-4H4V4H-4Z", "M0-5L5 4H-5Z", "M0-5L5 0L0 5L-5 0Z")


def figure(chart: Chart) -> Html:
    """The chart; nothing at all where there is nothing to draw."""
    if not chart.drawn:
        return Html()
    found = drawing(chart)
    hatch = f"hatch-{found.title.lower().replace(' ', '-')}"
    shapes = (_shape(shape, hatch) for shape in found.shapes)
    hatched = any(isinstance(shape, Box) and shape.kind == "hatched" for shape in found.shapes)
    drawn = tag("svg", tag("title", found.title), tag("desc", found.said), _pattern(hatch) if hatched else "", *shapes,
                viewBox=f"0 0 {found.width} {found.height:g}", role="img")
    return tag("figure", drawn, tag("figcaption", found.caption) if found.caption else "")


def _shape(shape: Shape, hatch: str) -> Html:
    if isinstance(shape, Line):
        points = " ".join(f"{_px(x)},{_px(y)}" for x, y in shape.points)
        kind = f"{shape.kind} s{shape.series % COLOURS + 1}" if shape.kind in ("lead", "curve", "area") else shape.kind
        dash = " ".join(map(str, shape.dash)) if shape.dash else None
        return tag("polygon" if shape.kind == "area" else "polyline", points=points, class_=kind, stroke_dasharray=dash)
    if isinstance(shape, Dot):
        place = f"translate({_px(shape.x)} {_px(shape.y)})"
        kind = f"s{shape.series % COLOURS + 1}{' hollow' * shape.hollow}"
        if not shape.shape:
            return tag("circle", r=4, transform=place, class_=kind)
        return tag("path", d=_PATHS[shape.shape], transform=place, class_=kind)
    if isinstance(shape, Box):
        hatched = f"url(#{hatch})" if shape.kind == "hatched" else None
        kind = f"s{shape.series % COLOURS + 1}" if shape.kind == "key" else shape.kind
        return tag("rect", x=shape.x, y=_px(shape.y), width=_px(shape.width), height=shape.height, class_=kind,
                   fill=hatched)
    kind = " ".join(filter(None, (shape.kind, shape.align)))
    return tag("text", shape.text, x=_px(shape.x), y=_px(shape.y), class_=kind or None)


def _pattern(name: str) -> Html:
    line = tag("line", x1=0, y1=0, x2=0, y2=6, class_="hatch")
    return tag("defs", tag("pattern", line, id=name, width=6, height=6, patternUnits="userSpaceOnUse",
                           patternTransform="rotate(45)"))


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
