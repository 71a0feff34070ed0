"""Charts as figures for papers and slides: PNG, SVG or PDF bytes, drawn with matplotlib (extra ``plot``).

Lines differ in marker and dash and bars in hatch, so that they can be told apart without colour; the colours are
those of Okabe and Ito, which colour-blind eyes can tell apart. The same answer gives the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from txcalc import units
from txcalc.show.blocks import Block, Chart, Charts, Title
from txcalc.show.svg import gathered, length, spread, tick
from txcalc.spec.errors import MissingPackage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F", "#882255",
                   "#999933")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_DASHES: Final = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)))
_HATCHES: Final = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo", "|||")
_STYLE: Final[Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "axes.axisbelow": True, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "hatch.linewidth": 0.6, "svg.hashsalt": "txcalc", "svg.fonttype": "none", "pdf.fonttype": 42,
}
_UNDATED: Final = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}


def write(blocks: Iterable[Block], form: str) -> bytes:
    """Every chart of the answer in one figure. Raises ``MissingPackage`` without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackage("a figure needs matplotlib", "matplotlib") from None
    found = list(blocks)
    [title] = [block for block in found if isinstance(block, Title)]
    charts = [chart for block in found if isinstance(block, Charts) for chart in block.make() if chart.drawn]
    rows = max([2 * len(chart.marks) for chart in charts if chart.kind != "curves"], default=0)
    with matplotlib.rc_context(_STYLE):
        wide = min(len(charts), 2)
        high = -(-len(charts) // wide)
        figure = Figure(figsize=(6.5 * wide, 1.2 + high * max(3.4 if not rows else 0, 1.2 + 0.17 * rows)),
                        layout="constrained")
        figure.suptitle(_plain(title.heading), x=0.01, ha="left", fontsize=12, fontweight="bold")
        for i, chart in enumerate(charts):
            axes = figure.add_subplot(high, wide, i + 1)
            axes.set_title(chart.title)
            _curves(axes, chart) if chart.kind == "curves" else _marks(axes, chart)
        lines = (" · ".join(filter(None, parts)) for parts in (title.about, *(parts for parts, _ in title.lines)))
        caption = "\n".join(_plain(line) for line in lines if line)
        figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color="#444444")
        out = io.BytesIO()
        figure.savefig(out, format=form, dpi=150, metadata=_UNDATED[form])
    return out.getvalue()


def _plain(text: str) -> str:
    """A name is no mathematics: a dollar sign is one."""
    return text.replace("$", r"\$")


def _curves(axes: Axes, chart: Chart) -> None:
    """Curves on two logarithmic axes, each thinner than the last, and named at its end."""
    ends = []
    for i, series in enumerate(chart.series):
        points = [(x, y) for x, y in zip(chart.lengths, series.values, strict=True) if y]
        if points:
            axes.plot(*zip(*points, strict=True), color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)],
                      linestyle=_DASHES[i % len(_DASHES)], linewidth=max(2.6 - 0.2 * i, 0.8),
                      markersize=max(7.5 - 0.4 * i, 3.5), markerfacecolor="white" if i % 2 else None)
            ends.append((series.name, points[-1], _COLOURS[i % len(_COLOURS)]))
    axes.set_yscale("log", base=chart.base)
    if chart.level is not None:
        axes.axhline(chart.level.value, color="#444444", linewidth=1, linestyle=(0, (1, 1)))
        axes.annotate(f"{chart.level.name}, {chart.amount(chart.level.value)}", (0.02, chart.level.value),
                      xycoords=("axes fraction", "data"), ha="left", va="bottom", fontsize=8, color="#444444")
    _ends(axes, ends)
    axes.yaxis.set_major_formatter(_formatter(chart))
    axes.set_ylabel(chart.axis)
    axes.set_xscale("log", base=2)
    axes.set_xticks(chart.lengths[:: -(-len(chart.lengths) // 7)], minor=False)
    axes.xaxis.set_major_formatter(lambda value, _: length(round(value)))
    axes.set_xlabel("sequence length N, tokens")
    axes.minorticks_off()


def _ends(axes: Axes, ends: Sequence[tuple[str, tuple[int, int], str]]) -> None:
    """The names right of the frame, apart from one another."""
    low, high = (math.log(y) for y in axes.get_ylim())
    places = spread([(math.log(y) - low) / (high - low) for _, (_, y), _ in ends], 0.065, 0.0, 1.0)
    for (name, end, colour), place in zip(ends, places, strict=True):
        axes.annotate(_plain(name), end, (1.05, place), xycoords="data", textcoords="axes fraction", fontsize=8,
                      va="center", color=colour, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5),
                                  "shrinkA": 1, "shrinkB": 4})


def _marks(axes: Axes, chart: Chart) -> None:
    """A bar or a dot a name, the first on top, its amount beside it."""
    shown = gathered(chart.marks)
    values = [mark.value for mark in shown]
    places = range(len(shown))
    whole = chart.level.value if chart.level else sum(mark.value for mark in chart.marks)
    if chart.kind == "bars":
        bars = axes.barh(places, list(map(float, values)), color=[_COLOURS[i % len(_COLOURS)] for i in places],
                         edgecolor="black", linewidth=0.6, height=0.7)
        for i, bar in enumerate(bars):
            bar.set_hatch(_HATCHES[i % len(_HATCHES)])
        notes = [f"{chart.amount(value)} ({units.percent(value, whole)} %)" for value in values]
        axes.bar_label(bars, notes, padding=3, fontsize=8)
    else:
        axes.plot(list(map(float, values)), list(places), "o", color=_COLOURS[0], markersize=7)
        for place, value in zip(places, values, strict=True):
            axes.annotate(chart.amount(value), (float(value), place), (7, 0), textcoords="offset points", va="center",
                          fontsize=8)
    axes.set_yticks(places, [_plain(mark.name) for mark in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x" if chart.kind == "dots" else "y", visible=chart.kind == "dots")
    if chart.level is not None:
        axes.axvline(chart.level.value, color="#444444", linewidth=1, linestyle=(0, (1, 1)))
    of = f", % of {chart.level.name}, {chart.amount(chart.level.value)}" if chart.level else ""
    axes.set_xlabel(chart.axis + (", log scale" if chart.kind == "dots" else of))
    _amounts(axes, chart, values)


def _amounts(axes: Axes, chart: Chart, values: Sequence[int]) -> None:
    """Room for the amounts beside the marks, and few ticks, of bytes at powers of two."""
    from matplotlib.ticker import LogLocator, MultipleLocator

    low, high = min(values), max([*values, *([chart.level.value] if chart.level else [])])
    if chart.kind == "bars":
        axes.set_xlim(0, 1.55 * high)
        axes.locator_params(axis="x", nbins=4)
        if chart.base == 2:
            axes.xaxis.set_major_locator(MultipleLocator(2 ** max(high.bit_length() - 2, 0)))
    else:
        axes.set_xscale("log", base=chart.base)
        axes.set_xlim(low / 2, 3 * high * (high / low) ** 0.3)
        axes.xaxis.set_major_locator(LogLocator(base=32 if chart.base == 2 else 10, numticks=6))
    axes.xaxis.set_major_formatter(_formatter(chart))
    axes.minorticks_off()


def _formatter(chart: Chart) -> Any:
    return lambda value, _: tick(chart, round(value)) if value else "0"
