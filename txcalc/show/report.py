"""A count: the numbers, where they go, what is kept, and every rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from txcalc import units
from txcalc.answer.printed import PublishedRow
from txcalc.answer.report import Component, Report
from txcalc.answer.rerun import Since
from txcalc.answer.view import View
from txcalc.show import blocks as b
from txcalc.show import headings
from txcalc.show.communication import communication, ranks
from txcalc.show.figures import cache_label, figures, kind_of, label
from txcalc.show.where import Share, operations, shares, whole

_PASSES = ("forward", "backward", "recomputed")


def blocks(found: View | Report) -> Iterator[b.Block]:
    """The blocks of a report."""
    view = found if isinstance(found, View) else View(found)
    report = view.report
    name, *about = headings.identity(report.model)
    run = headings.run(report.workload, view.defaults, report.attention, report.model)
    yield b.Title(name, about, ((headings.origin(report.model), "dim"), (run, "")))
    yield b.Facts("Totals", figures(view))
    yield b.Charts(lambda: _memory(report), level=1)
    if view.since is not None:
        yield from _since(view.since)
    parts = operations(report) if view.by_module else shares(report)
    yield _where(view, parts)
    yield b.Charts(lambda: _charts(parts), level=1)
    yield _published(view.published)
    yield b.Table("Weights", (b.Column("Weights", "path"), b.Column("shape"), b.Column("copies", "n")), [
        b.Row((row.path, b.shape(row.shape), b.Number(row.copies))) for row in view.weights
    ], caption="Every weight", level=2, lines=True)
    yield from communication(report.collectives)
    yield ranks(report.ranks, report.workload)
    yield _caches(report)
    yield _kept(report)
    yield b.Notes("Notes", report.notes, style="", level=1)
    legend = headings.legend(report.totals)
    yield b.Notes("Counting rules", headings.rules(report.conventions),
                f"{legend}   ({headings.short(report.conventions)})", legend, level=1)
    yield b.Notes("Sources", [f"{field}: {source}" for field, source in report.sources.items()], level=3)
    columns = Component.names()
    yield b.Data(columns, (b.fields(part, columns) for part in report.components))


def _since(since: Since) -> Iterator[b.Block]:
    """Changes since the report that was counted again."""
    title = f"Since {since.source} ({since.made_by})"
    if not since.changes:
        yield b.Notes("", [f"{title}: unchanged"], style="bold")
        return
    columns = (b.Column(title), b.Column("then", "n", exact=3), b.Column("now", "n", exact=3),
               b.Column("why", "words", fold="{}", place="below"))
    yield b.Table(title, columns, [
        b.Row((label(each.total), *(b.number(n, kind_of(each.total)) for n in (each.then, each.now)), each.why))
        for each in since.changes
    ], lines=True)


# ---------------------------------------------------------------- where it goes


def _where(view: View, found: Sequence[Share]) -> b.Table:
    """The breakdown; the passes of a training step in columns of their own, where there is room."""
    report, total = view.report, whole(view.report)
    title = "Operation" if view.by_module else "Where it goes"
    passes = [i for i, n in enumerate(total.passes) if n] if len(total.passes) > 1 else []
    columns = (
        b.Column(title), b.Column("params", "n", "Parameters", exact=2), b.Column("%", "n", order=2),
        b.Column("", "bar", bars=(20, 10, 0)),
        *(b.Column(_PASSES[i], "n", exact=1, order=1) for i in passes),
        b.Column("FLOPs", "n", exact=1), b.Column("%", "n", order=2),
        *([b.Column("kept", "n", "Kept for backward", order=3,
                  screen=view.by_module or report.workload.phase == "training")] if total.kept is not None else []),
    )
    rows = list[b.Row]()
    for share in found:
        rows.append(b.Row(_share(share, total, passes)))
        if share.flops_core and share.flops_core != share.passes[0]:
            rows.append(_core(share, total, passes))
    last = list(_share(total, total, passes))
    last[3] = ""
    caption = "By component, in the order of the forward pass"
    return b.Table(title, columns, rows, b.Row(last), caption=caption, level=1)


def _share(share: Share, total: Share, passes: Sequence[int]) -> tuple[b.Cell, ...]:
    kept = [] if total.kept is None else ["" if share.kept is None else b.Number(share.kept, "memory")]
    return (
        share.title, b.Number(share.params, "params") if share.params else None, _percent(share.params, total.params),
        b.Bar(share.params, total.params), *(_flops(share.passes[i]) for i in passes),
        _flops(share.flops), _percent(share.flops, total.flops), *kept,
    )


def _core(share: Share, total: Share, passes: Sequence[int]) -> b.Row:
    """The core of the forward pass, in its own column where passes have one."""
    core, kept = b.Number(share.flops_core, "flops"), [""] * (total.kept is not None)
    columns = [core if i == 0 else "" for i in passes]
    own = ("", "") if passes else (core, _percent(share.flops_core, total.flops))
    return b.Row(("of which S×S core", "", "", "", *columns, *own, *kept), "sub", "dim")


def _flops(value: int) -> b.Number | None:
    return b.Number(value, "flops") if value else None


def _percent(part: int, whole: int) -> str:
    return units.percent(part, whole) if part else ""


def _memory(report: Report) -> Iterator[b.Chart]:
    """Bytes of the run, part by part and together, against a card."""
    from txcalc.answer.devices import DEFAULT, device

    card, t = device(DEFAULT), report.totals
    training = {"training state": t.training_state_bytes, "kept for backward": t.activation_bytes}
    parts = training if report.workload.phase == "training" else {
        "weights": t.weight_bytes, cache_label(report.caches): t.kv_cache_bytes}
    marks = [b.Mark(name, quantity.value) for name, quantity in parts.items() if quantity is not None]
    together = [b.Mark("together", sum(mark.value for mark in marks))] if len(marks) > 1 else []
    yield b.Chart("Memory, by part", "bars", "memory", "bytes", [*marks, *together],
                level=b.Mark(card.title, card.memory_bytes))


def _charts(found: Sequence[Share]) -> Iterator[b.Chart]:
    yield b.Chart("Parameters", "bars", "params", "parameters", [b.Mark(s.title, s.params) for s in found])
    yield b.Chart("FLOPs, forward", "bars", "flops", "FLOP, forward pass",
                [b.Mark(s.title, s.passes[0], s.flops_core if s.flops_core < s.passes[0] else 0) for s in found],
                part="the products of queries with keys and of scores with values")
    yield b.Chart("Kept for backward", "bars", "memory", "bytes", [b.Mark(s.title, s.kept or 0) for s in found])


# ---------------------------------------------------------------- what stands behind it


def _published(found: Sequence[PublishedRow]) -> b.Table:
    columns = (b.Column("Published"), b.Column("printed", "n"), b.Column("counted", "n", exact=3),
               b.Column("difference", "n"), b.Column("note", "words", fold="{}", place="beside"),
               b.Column("source", "words", screen=False))
    return b.Table("Published", columns, [
        b.Row((label(row.quantity), row.printed, b.number(row.counted, kind_of(row.quantity)),
               None if (off := row.relative_difference) is None else f"{'+' if off >= 0 else '−'}{abs(off):.2%}",
               row.note or "", row.source)) for row in found
    ], caption="What was printed about this model, beside the count", level=2, lines=True)


def _caches(report: Report) -> b.Table:
    name, allocated = cache_label(report.caches), report.workload.kv_block is not None
    columns = (b.Column(name, "path"), b.Column("kind"), b.Column("layers", "n"), b.Column("tokens", "n"),
               b.Column("bytes", "n", exact=3), *([b.Column("allocated", "n", exact=3)] if allocated else []))
    return b.Table(name, columns, [
        b.Row((cache.path, cache.kind, b.Number(cache.layers), b.Number(cache.tokens), b.Number(cache.bytes, "memory"),
             *([b.Number(cache.allocated_bytes or 0, "memory")] if allocated else [])))
        for cache in report.caches
    ], caption="What each layer caches, in bytes of the whole batch", level=2, lines=True)


def _kept(report: Report) -> b.Table:
    """Every tensor that autograd keeps; what one operation keeps stands together."""
    first = {kept.op: i for i, kept in reversed(list(enumerate(report.kept)))}
    columns = (b.Column("Kept for backward", "path"), b.Column("tensor"), b.Column("shape"), b.Column("times", "n"),
               b.Column("bytes", "n", exact=3))
    return b.Table("Kept for backward", columns, [
        b.Row((kept.op, kept.tensor, b.shape(kept.shape), b.Number(kept.times), b.Number(kept.bytes, "memory")))
        for kept in sorted(report.kept, key=lambda kept: first[kept.op])
    ], caption="Every tensor that autograd keeps, in bytes of all of them", level=2, lines=True)
