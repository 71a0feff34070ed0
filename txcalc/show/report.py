"""A count: the numbers, where they go, what is kept, and every rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from txcalc import units
from txcalc.answer.published import PublishedRow
from txcalc.answer.report import Component, Report
from txcalc.answer.rerun import Since
from txcalc.answer.view import View
from txcalc.show import headings
from txcalc.show.blocks import (
    Bar,
    Block,
    Cell,
    Chart,
    Charts,
    Column,
    Data,
    Facts,
    Mark,
    Notes,
    Number,
    Row,
    Table,
    Title,
)
from txcalc.show.figures import cache_label, figures, kind_of, label
from txcalc.show.where import Share, operations, shares, whole

_PASSES = ("forward", "backward", "recomputed")


def blocks(found: View | Report) -> Iterator[Block]:
    """What a reader sees of a report."""
    view = found if isinstance(found, View) else View(found)
    report = view.report
    name, *about = headings.identity(report.model)
    run = headings.run(report.workload, view.defaults, report.attention)
    yield Title(name, about, ((headings.origin(report.model), "dim"), (run, "")))
    yield Facts("Totals", figures(view))
    yield Charts(lambda: _memory(report), level=1)
    if view.since is not None:
        yield from _since(view.since)
    parts = operations(report) if view.by_module else shares(report)
    yield _where(view, parts)
    yield Charts(lambda: _charts(parts), level=1)
    yield _published(view.published)
    yield Table("Weights", (Column("Weights", "path"), Column("shape"), Column("copies", "n")), [
        Row((row.path, _shape(row.shape), Number(row.copies))) for row in view.weights
    ], caption="Every weight", level=2, lines=True)
    yield _caches(report)
    yield _kept(report)
    yield Notes("Notes", report.notes, style="", level=1)
    legend = headings.legend(report.totals)
    yield Notes("Counting rules", headings.rules(report.conventions),
                f"{legend}   ({headings.short(report.conventions)})", legend, level=1)
    yield Notes("Sources", [f"{field}: {source}" for field, source in report.sources.items()], level=3)
    columns = Component.names()
    yield Data(columns, ([getattr(part, name) for name in columns] for part in report.components))


def _since(since: Since) -> Iterator[Block]:
    """What has changed since the report that was counted again."""
    title = f"Since {since.source} ({since.made_by})"
    if not since.changes:
        yield Notes("", [f"{title}: unchanged"], style="bold")
        return
    columns = (Column(title), Column("then", "n", exact=3), Column("now", "n", exact=3),
               Column("why", "words", fold="{}", place="below"))
    yield Table(title, columns, [
        Row((label(each.total), *(None if n is None else Number(n, kind_of(each.total)) for n in (each.then, each.now)),
             each.why))
        for each in since.changes
    ], lines=True)


# ---------------------------------------------------------------- where it goes


def _where(view: View, found: Sequence[Share]) -> Table:
    """The breakdown; the passes of a training step in columns of their own, where there is room."""
    report, total = view.report, whole(view.report)
    title = "Operation" if view.by_module else "Where it goes"
    passes = [i for i, n in enumerate(total.passes) if n] if len(total.passes) > 1 else []
    columns = (
        Column(title), Column("params", "n", "Parameters", exact=2), Column("%", "n", order=2),
        Column("", "bar", bars=(20, 10, 0)),
        *(Column(_PASSES[i], "n", exact=1, order=1) for i in passes),
        Column("FLOPs", "n", exact=1), Column("%", "n", order=2),
        *([Column("kept", "n", "Kept for backward", order=3,
                  screen=view.by_module or report.workload.phase == "training")] if total.kept is not None else []),
    )
    rows = list[Row]()
    for share in found:
        rows.append(Row(_share(share, total, passes)))
        if share.flops_core and share.flops_core != share.passes[0]:
            rows.append(_core(share, total, passes))
    last = list(_share(total, total, passes))
    last[3] = ""
    caption = "By component, in the order of the forward pass"
    return Table(title, columns, rows, Row(last), caption=caption, level=1)


def _share(share: Share, total: Share, passes: Sequence[int]) -> tuple[Cell, ...]:
    kept = [] if total.kept is None else ["" if share.kept is None else Number(share.kept, "memory")]
    return (
        share.title, Number(share.params, "params") if share.params else None, _percent(share.params, total.params),
        Bar(share.params, total.params), *(_flops(share.passes[i]) for i in passes),
        _flops(share.flops), _percent(share.flops, total.flops), *kept,
    )


def _core(share: Share, total: Share, passes: Sequence[int]) -> Row:
    """The core of the forward pass, in its own column where passes have one."""
    core, kept = Number(share.flops_core, "flops"), [""] * (total.kept is not None)
    columns = [core if i == 0 else "" for i in passes]
    own = ("", "") if passes else (core, _percent(share.flops_core, total.flops))
    return Row(("of which S×S core", "", "", "", *columns, *own, *kept), "sub", "dim")


def _flops(value: int) -> Number | None:
    return Number(value, "flops") if value else None


def _percent(part: int, whole: int) -> str:
    return units.percent(part, whole) if part else ""


def _memory(report: Report) -> Iterator[Chart]:
    """What the run holds, part by part and together, against a card."""
    from txcalc.answer.devices import DEFAULT, device

    card, t = device(DEFAULT), report.totals
    training = {"training state": t.training_state_bytes, "kept for backward": t.activation_bytes}
    parts = training if report.workload.phase == "training" else {
        "weights": t.weight_bytes, cache_label(report.caches): t.kv_cache_bytes}
    marks = [Mark(name, quantity.value) for name, quantity in parts.items() if quantity is not None]
    together = [Mark("together", sum(mark.value for mark in marks))] if len(marks) > 1 else []
    yield Chart("Memory, by part", "bars", "memory", "bytes", [*marks, *together],
                level=Mark(card.title, card.memory_bytes))


def _charts(found: Sequence[Share]) -> Iterator[Chart]:
    yield Chart("Parameters", "bars", "params", "parameters", [Mark(s.title, s.params) for s in found])
    yield Chart("FLOPs, forward", "bars", "flops", "FLOP, forward pass",
                [Mark(s.title, s.passes[0], s.flops_core if s.flops_core < s.passes[0] else 0) for s in found],
                part="the products of queries with keys and of scores with values")
    yield Chart("Kept for backward", "bars", "memory", "bytes", [Mark(s.title, s.kept or 0) for s in found])


# ---------------------------------------------------------------- what stands behind it


def _published(found: Sequence[PublishedRow]) -> Table:
    columns = (Column("Published"), Column("printed", "n"), Column("counted", "n", exact=3), Column("difference", "n"),
               Column("note", "words", fold="{}", place="beside"), Column("source", "words", screen=False))
    return Table("Published", columns, [
        Row((label(row.quantity), row.printed, _count(row), _difference(row.relative_difference), row.note or "",
             row.source))
        for row in found
    ], caption="What was printed about this model, beside the count", level=2, lines=True)


def _count(row: PublishedRow) -> Number | None:
    return None if row.counted is None else Number(row.counted, kind_of(row.quantity))


def _difference(relative: float | None) -> str | None:
    return None if relative is None else f"{'+' if relative >= 0 else '−'}{abs(relative):.2%}"


def _caches(report: Report) -> Table:
    name, allocated = cache_label(report.caches), report.workload.kv_block is not None
    columns = (Column(name, "path"), Column("kind"), Column("layers", "n"), Column("tokens", "n"),
               Column("bytes", "n", exact=3), *([Column("allocated", "n", exact=3)] if allocated else []))
    return Table(name, columns, [
        Row((cache.path, cache.kind, Number(cache.layers), Number(cache.tokens), Number(cache.bytes, "memory"),
             *([Number(cache.allocated_bytes or 0, "memory")] if allocated else [])))
        for cache in report.caches
    ], caption="What each layer caches, in bytes of the whole batch", level=2, lines=True)


def _kept(report: Report) -> Table:
    """Every tensor that autograd keeps; what one operation keeps stands together."""
    first = {kept.op: i for i, kept in reversed(list(enumerate(report.kept)))}
    columns = (Column("Kept for backward", "path"), Column("tensor"), Column("shape"), Column("times", "n"),
               Column("bytes", "n", exact=3))
    return Table("Kept for backward", columns, [
        Row((kept.op, kept.tensor, _shape(kept.shape), Number(kept.times), Number(kept.bytes, "memory")))
        for kept in sorted(report.kept, key=lambda kept: first[kept.op])
    ], caption="Every tensor that autograd keeps, in bytes of all of them", level=2, lines=True)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(units.exact(size) for size in shape) or "scalar"
