"""Drawings as a figure for papers and slides: PNG, SVG or PDF bytes, by matplotlib (extra ``plot``).

The colours are those of Okabe and Ito, which colour-blind eyes can tell apart. The same answer gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from txcalc.show.blocks import Block, Charts, Title
from txcalc.show.drawing import SIZES, Box, Dot, Drawing, Line, Shape, drawing
from txcalc.spec.errors import MissingPackage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F", "#E69F00", "#000000", "#56B4E9", "#882255",
                   "#999933")
_GREY: Final = "#444444"
_STYLE: Final[Any] = {"svg.hashsalt": "txcalc", "svg.fonttype": "none", "pdf.fonttype": 42, "hatch.linewidth": 1}
_UNDATED: Final = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
_INCH: Final = 80.0
"""Pixels of a drawing to an inch of the figure."""
_GAP: Final = 30.0
_ALIGNED: Final = {"": "left", "mid": "center", "end": "right"}


def write(blocks: Iterable[Block], form: str) -> bytes:
    """Every chart of the answer in one figure. Raises ``MissingPackage`` without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackage("a figure needs matplotlib", "matplotlib") from None
    found = list(blocks)
    [title] = [block for block in found if isinstance(block, Title)]
    drawn = [drawing(chart) for block in found if isinstance(block, Charts) for chart in block.make() if chart.drawn]
    rows = [drawn[i : i + 2] for i in range(0, len(drawn), 2)]
    wide = max(sum(each.width + _GAP for each in row) for row in rows) + _GAP
    high = sum(max(map(_height, row)) for row in rows) + 2 * _GAP + 16 * len(title.below)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(wide / _INCH, high / _INCH))
        whole = figure.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(high, 0))
        whole.axis("off")
        _text(whole, title.heading, _GAP, _GAP, 16, weight="bold")
        top = 2 * _GAP
        for row in rows:
            for i, each in enumerate(row):
                left = _GAP + i * (row[0].width + _GAP)
                for shape in each.shapes:
                    _draw(whole, shape, left, top)
                _text(whole, each.caption, left, top + each.height + 12, SIZES["small"], color=_GREY)
            top += max(map(_height, row))
        for i, line in enumerate(title.below):
            _text(whole, line, _GAP, top + 16 * i, SIZES["small"], color=_GREY)
        out = io.BytesIO()
        figure.savefig(out, format=form, dpi=150, metadata=_UNDATED[form])
    return out.getvalue()


def _height(each: Drawing) -> float:
    return each.height + _GAP


def _text(axes: Axes, text: str, x: float, y: float, size: float, **more: Any) -> None:
    # A name is no mathematics: a dollar sign is one.
    axes.text(x, y, text, fontsize=72 * size / _INCH, parse_math=False, **more)


def _draw(axes: Axes, shape: Shape, left: float, top: float) -> None:
    if isinstance(shape, Line):
        xs, ys = ([left + x for x, _ in shape.points], [top + y for _, y in shape.points])
        if shape.kind == "area":
            axes.fill(xs, ys, color=_COLOURS[shape.series % len(_COLOURS)], linewidth=0)
            return
        series = shape.kind in ("lead", "curve")
        colour = _COLOURS[shape.series % len(_COLOURS)] if series else _GREY if shape.kind == "level" else "#d0d7de"
        dash: Any = (0, (1, 2)) if shape.kind == "level" else (0, shape.dash) if shape.dash else "-"
        axes.plot(xs, ys, color=colour, linewidth=1.6 if shape.kind == "curve" else 0.7, linestyle=dash)
    elif isinstance(shape, Dot):
        colour = _COLOURS[shape.series % len(_COLOURS)]
        axes.plot([left + shape.x], [top + shape.y], color=colour, marker="os^D"[shape.shape], markersize=6,
                  markerfacecolor="white" if shape.hollow else colour)
    elif isinstance(shape, Box):
        from matplotlib.patches import Rectangle

        look: dict[str, Any] = {"track": {"facecolor": "#f6f8fa", "edgecolor": "#d0d7de"}, "bar": {
            "facecolor": _COLOURS[0]}, "hatched": {"facecolor": "none", "edgecolor": "white", "hatch": "////"},
            "key": {"facecolor": _COLOURS[shape.series % len(_COLOURS)]}}
        axes.add_patch(Rectangle((left + shape.x, top + shape.y), shape.width, shape.height, linewidth=0.5,
                                 **look[shape.kind]))
    else:
        _text(axes, shape.text, left + shape.x, top + shape.y, SIZES[shape.kind], ha=_ALIGNED[shape.align],
              weight="bold" if shape.kind == "head" else "normal", color=_GREY if shape.kind == "small" else "black")
