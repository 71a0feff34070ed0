"""Figures for papers and slides: PNG, SVG or PDF bytes, drawn with matplotlib (extra ``plot``).

Lines differ in marker and dash and bars in hatch, so that they can be told apart without colour; the colours are
those of Okabe and Ito, which colour-blind eyes can tell apart. The same answer gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from txcalc import units
from txcalc.answer.compare import Comparison
from txcalc.answer.curves import AttentionCurve, Point
from txcalc.answer.mixers import MixerRow, MixerTable, Quantity
from txcalc.answer.render import headings
from txcalc.answer.render.where import Share, shares
from txcalc.answer.report import Report
from txcalc.spec.errors import MissingPackage
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES: Final = {".svg": "svg", ".png": "png", ".pdf": "pdf"}

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F", "#882255",
                   "#999933")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_DASHES: Final = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)))
_HATCHES: Final = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo", "|||")
_STYLE: Final[Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titleweight": "bold", "legend.frameon": False,
    "hatch.linewidth": 0.6, "svg.hashsalt": "txcalc", "svg.fonttype": "none", "pdf.fonttype": 42,
}
_UNDATED: Final = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}

Amount = Callable[[int], str]


class _Curve(NamedTuple):
    """A line of a chart; a missing value is left out."""

    name: str
    values: Sequence[int | float | None]


def attention(curve: AttentionCurve, form: str) -> bytes:
    """The O(N^2) curve: memory of one layer, traffic of its core, and its share of the model's FLOPs."""
    lengths = [point.seq for point in curve.points]

    def of(value: Callable[[Point], int | None]) -> list[int | None]:
        return [value(point) for point in curve.points]

    def draw(figure: Figure) -> None:
        memory, traffic, share = figure.subplots(1, 3)
        _lines(memory, lengths, [
            _Curve("eager: one N×N score matrix", of(lambda p: p.layer.eager.score_matrix_bytes)),
            _Curve("eager: scores at their peak", of(lambda p: p.layer.eager.peak_score_bytes)),
            _Curve("flash: log-sum-exp instead", of(lambda p: p.layer.flash.statistics_bytes)),
            _Curve("KV cache of one layer", of(lambda p: p.layer.kv_cache_bytes)),
        ], units.memory)
        _titled(memory, "Memory of one layer", "bytes")
        if curve.device is not None:
            _level(memory, curve.device.memory_bytes, curve.device.title)
        _lines(traffic, lengths, [
            _Curve("eager", of(lambda p: p.layer.eager.hbm_bytes)),
            _Curve("flash", of(lambda p: p.layer.flash.hbm_bytes)),
        ], units.memory)
        _titled(traffic, "Memory traffic of one layer", "bytes read and written, one forward pass")
        share.plot(lengths, [100 * p.model.flops_core / p.model.flops_forward for p in curve.points], "o-",
                   color=_COLOURS[0])
        share.set_ylim(0, 100)
        _lengths_axis(share, lengths)
        _titled(share, "Share of the model's FLOPs", "QKᵀ and PV of all layers, % of the forward pass")
        for axes in (memory, traffic):  # below: a legend inside would lie on a line at some length or other
            axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.13), fontsize=8)

    return _figure(draw, (12, 5.2), f"Attention of {curve.model.name}", _curve_caption(curve), form)


def mixers(found: MixerTable, form: str) -> bytes:
    """Ways of processing a sequence: FLOPs, kept activations, state and path by length."""
    panels: list[tuple[Quantity, str, str, Amount]] = [
        ("flops_forward", "FLOPs", "FLOP, one forward pass", units.flops),
        ("activation_bytes", "Kept for backward", "bytes", units.memory),
        ("state_bytes", "State while generating", "bytes", units.memory),
        ("longest_path", "Longest path", "steps or layers from first to last", units.exact),
    ]
    lengths = [point.seq for point in found.mixers[0].points]

    def values(row: MixerRow, name: Quantity) -> list[int | None]:
        return [getattr(point, name) for point in row.points]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(2, 2).flat
        for axes, (name, title, label, amount) in zip(grid, panels, strict=True):
            curves = [_Curve(row.title, values(row, name)) for row in found.mixers]
            _lines(axes, lengths, curves, amount, base=2 if amount is units.memory else 10)
            _titled(axes, title, label)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=8)

    workload = found.workload
    caption = (f"One layer each, d_model {found.d_model:,}, {found.heads} heads, batch {workload.batch:,}, "
               f"{headings.dtypes(workload)}. Of lines that lie on one another, the later ones are thinner.")
    return _figure(draw, (11, 7.5), "Ways of processing a sequence", caption, form)


def breakdown(report: Report, form: str) -> bytes:
    """Where a model's parameters, FLOPs and kept activations go, by component."""
    found = shares(report)
    panels: list[tuple[str, str, Callable[[Share], int], Amount]] = [
        ("Parameters", "parameters", lambda share: share.params, units.params),
        ("FLOPs", "FLOP, forward pass", lambda share: share.flops, units.flops),
    ]
    if report.totals.activation_bytes is not None:
        panels.append(("Kept for backward", "bytes", lambda share: share.kept or 0, units.memory))

    def draw(figure: Figure) -> None:
        columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, label, value, amount) in zip(columns, panels, strict=True):
            _bars(axes, [share.title for share in found], [value(share) for share in found], amount, whole=True)
            axes.set_title(title)
            axes.set_xlabel(label)

    caption = _run(report.workload)
    height = 1.6 + 0.34 * len(found)
    return _figure(draw, (4 * len(panels) + 1, height), report.model.name, caption, form)


def comparison(found: Comparison, form: str) -> bytes:
    """Models side by side, on log scales."""
    totals = [entry.totals for entry in found.entries]
    names = [headings.title(entry.model) for entry in found.entries]
    panels: list[tuple[str, str, list[int], Amount]] = [
        ("Parameters", "parameters", [t.params.value for t in totals], units.params),
        ("FLOPs per token", "FLOP, forward pass", [t.flops_per_token.value for t in totals], units.flops),
        ("KV cache", "bytes", [t.kv_cache_bytes.value if t.kv_cache_bytes else 0 for t in totals], units.memory),
        ("Kept for backward", "bytes", [t.activation_bytes.value if t.activation_bytes else 0 for t in totals],
         units.memory),
    ]

    def draw(figure: Figure) -> None:
        columns = figure.subplots(2, 2, sharey=True).flat
        for axes, (title, label, values, amount) in zip(columns, panels, strict=True):
            _bars(axes, names, values, amount, whole=False)
            axes.set_title(title)
            axes.set_xlabel(f"{label}, log scale")

    caption = _run(found.entries[0].workload)
    return _figure(draw, (10, 2.4 + 0.6 * len(names)), "Models side by side", caption, form)


def _run(workload: Workload) -> str:
    return " · ".join(filter(None, headings.run(workload, frozenset(), workload.attention if workload.keeps else None)))


def _figure(draw: Callable[[Figure], None], size: tuple[float, float], title: str, caption: str, form: str) -> bytes:
    """Draw under our style, with what was counted above and below. Raises ``MissingPackage`` without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackage("a figure needs matplotlib", "matplotlib") from None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(_plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold")
        draw(figure)
        figure.supxlabel(_plain(caption), x=0.01, ha="left", fontsize=8, color="#444444")
        out = io.BytesIO()
        figure.savefig(out, format=form, dpi=150, metadata=_UNDATED[form])
    return out.getvalue()


def _plain(text: str) -> str:
    """A name is no mathematics: a dollar sign is one."""
    return text.replace("$", r"\$")


def _lines(
    axes: Axes, lengths: Sequence[int], curves: Sequence[_Curve], amount: Amount, *, base: int = 2
) -> None:
    """Curves on two logarithmic axes, each thinner than the last; one without any positive value is left out."""
    for i, curve in enumerate(curves):
        points = [(x, y) for x, y in zip(lengths, curve.values, strict=True) if y]
        if points:
            axes.plot(*zip(*points, strict=True), label=curve.name, color=_COLOURS[i % len(_COLOURS)],
                      marker=_MARKERS[i % len(_MARKERS)], linestyle=_DASHES[i % len(_DASHES)],
                      linewidth=max(2.6 - 0.2 * i, 0.8), markersize=max(7.5 - 0.4 * i, 3.5),
                      markerfacecolor="white" if i % 2 else None)
    axes.set_yscale("log", base=base)
    axes.yaxis.set_major_formatter(_formatter(amount))
    _lengths_axis(axes, lengths)


def _lengths_axis(axes: Axes, lengths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths[:: -(-len(lengths) // 8)], minor=False)
    axes.xaxis.set_major_formatter(_formatter(_short_length))
    axes.set_xlabel("sequence length N, tokens")
    axes.minorticks_off()


def _short_length(length: int) -> str:
    if length % 1024 or not length:
        return units.exact(length)
    return f"{length // 1024:,}K" if length % 1024**2 else f"{length // 1024**2:,}M"


def _formatter(amount: Amount) -> Any:
    from matplotlib.ticker import FuncFormatter

    def written(value: float, _: object) -> str:
        return re.sub(r"\.0+(?= |$)", "", amount(round(value))) if value else "0"

    return FuncFormatter(written)


def _titled(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(label)


def _level(axes: Axes, value: int, name: str) -> None:
    axes.axhline(value, color="#444444", linewidth=1, linestyle=(0, (1, 1)))
    axes.annotate(f"{name}, {units.memory(value)}", (0.02, value), xycoords=("axes fraction", "data"), ha="left",
                  va="bottom", fontsize=8, color="#444444")


def _bars(axes: Axes, names: Sequence[str], values: Sequence[int], amount: Amount, *, whole: bool) -> None:
    """One bar a name, the first on top, its amount beside it; ``whole``: linear, with shares, else on a log scale."""
    places = range(len(names))
    bars = axes.barh(places, [float(value) for value in values], color=[_COLOURS[i % len(_COLOURS)] for i in places],
                     edgecolor="black", linewidth=0.6, height=0.7)
    for i, bar in enumerate(bars):
        bar.set_hatch(_HATCHES[i % len(_HATCHES)])
    total = sum(values)
    notes = [f"{amount(value)} ({units.percent(value, total)} %)" if whole else amount(value) for value in values]
    axes.bar_label(bars, [note if value else "–" for note, value in zip(notes, values, strict=True)], padding=3,
                   fontsize=8)
    axes.set_yticks(places, [_plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    _amounts_axis(axes, [value for value in values if value], amount, whole=whole)


def _amounts_axis(axes: Axes, values: Sequence[int], amount: Amount, *, whole: bool) -> None:
    """Room for the amounts beside the bars, and few ticks, of bytes at powers of two."""
    from matplotlib.ticker import LogLocator, MultipleLocator

    low, high = min(values, default=1), max(values, default=1)
    if whole:
        axes.set_xlim(0, 1.55 * high)
        axes.locator_params(axis="x", nbins=4)
        if amount is units.memory:
            axes.xaxis.set_major_locator(MultipleLocator(2 ** max(high.bit_length() - 2, 0)))
    else:
        axes.set_xscale("log", base=2 if amount is units.memory else 10)
        axes.set_xlim(low / 4, 4 * high * (high / low) ** 0.25)
        axes.xaxis.set_major_locator(LogLocator(base=32 if amount is units.memory else 10, numticks=6))
    axes.xaxis.set_major_formatter(_formatter(amount))
    axes.minorticks_off()


def _curve_caption(curve: AttentionCurve) -> str:
    lengths = headings.lengths(curve.workload, frozenset())
    run = [part for part in headings.run(curve.workload, frozenset()) if part and part not in lengths]
    sram = f"M = {units.memory(curve.sram_bytes)} on chip" if curve.sram_bytes is not None else ""
    return " · ".join(filter(None, [*run, f"layer {curve.layer.path}", sram]))
