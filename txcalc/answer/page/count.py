"""A count as a page: the numbers, where they go, what is kept, and every rule."""

from __future__ import annotations

from collections.abc import Iterator

from txcalc import units
from txcalc.answer.page.chart import Bar, bars
from txcalc.answer.page.markup import Html, html, tag
from txcalc.answer.page.page import (
    NONE,
    Column,
    Row,
    amount,
    bullets,
    charts,
    document,
    folded,
    header,
    linked,
    number,
    rules,
    section,
    shape,
    table,
)
from txcalc.answer.published import PublishedRow
from txcalc.answer.render import headings
from txcalc.answer.render.figures import Figure, cache_label, figures, label
from txcalc.answer.render.where import Share, operations, shares, whole
from txcalc.answer.report import Report
from txcalc.answer.rerun import Since
from txcalc.answer.view import View

_SURE = {"=": "exact", "~": "estimate", "<": "bound", "p": "published"}


def page(view: View) -> str:
    """The whole page."""
    report = view.report
    return document(report.model.name, _body(view), report.to_data(), report.provenance)


def _body(view: View) -> Iterator[Html]:
    report = view.report
    name, *identity = headings.identity(report.model)
    run = headings.run(report.workload, view.defaults, report.attention)
    yield header(name, identity, headings.origin(report.model), run)
    yield section("Totals", _totals(view))
    if view.since is not None:
        yield section(f"Since {view.since.source}", _since(view.since))
    found = operations(report) if view.by_module else shares(report)
    yield section("Where it goes", _charts(found), _breakdown(found, report))
    yield section(cache_label(report.caches), _caches(report))
    yield section("Published figures", _published(view))
    yield section("Tensors", folded("Weights", _weights(view)), folded("Kept for backward", _kept(report)))
    yield section("Notes", bullets(report.notes))
    yield section("Counting rules", rules(report.conventions))
    yield section("Sources", bullets(linked(f"{field}: {source}") for field, source in report.sources.items()))


def _totals(view: View) -> Html:
    columns = (Column("Quantity"), Column("Value", "n"), Column("Exactly", "n"), Column("Certainty"), Column("Note"))
    return table("Totals of this workload", columns, (_total(figure) for figure in figures(view)))


def _total(figure: Figure) -> Row:
    plain = figure.exact.removesuffix(" B").replace(",", "")
    exact = tag("data", figure.exact, value=plain) if plain.isdigit() else html(figure.exact)
    return Row((figure.label, figure.value, exact, _SURE[figure.mark], figure.note), sub=figure.sub)


def _since(since: Since) -> Html:
    if not since.changes:
        return tag("p", f"Unchanged since {since.made_by} counted it.")
    columns = (Column("Quantity"), Column("Then", "n"), Column("Now", "n"))
    return table(f"What {since.made_by} counted, and what is counted now", columns, (
        Row((label(each.total), number(each.then), number(each.now))) for each in since.changes
    ))


def _charts(found: list[Share]) -> Html:
    return charts(
        bars("Parameters", [Bar(s.title, s.params) for s in found], units.params),
        bars("FLOPs, forward",
             [Bar(s.title, s.passes[0], s.flops_core if s.flops_core < s.passes[0] else 0) for s in found],
             units.flops, part="the products of queries with keys and of scores with values"),
        bars("Kept for backward", [Bar(s.title, s.kept or 0) for s in found], units.memory),
    )


def _breakdown(found: list[Share], report: Report) -> Html:
    total = whole(report)
    columns = (Column("Component"), Column("Parameters", "n"), Column("%", "n"), Column("FLOPs", "n"), Column("%", "n"),
               *((Column("Kept for backward", "n"),) if total.kept is not None else ()))
    return table("By component, in the order of the forward pass", columns,
                 (_share(share, total) for share in found), _share(total, total))


def _share(share: Share, total: Share) -> Row:
    kept = (amount(share.kept, units.memory, " B"),) if total.kept is not None else ()
    return Row((
        share.title, amount(share.params, units.params) if share.params else NONE, _percent(share.params, total.params),
        amount(share.flops, units.flops) if share.flops else NONE, _percent(share.flops, total.flops), *kept,
    ))


def _percent(part: int, total: int) -> str:
    return units.percent(part, total) if part else ""


def _caches(report: Report) -> Html:
    allocated = report.totals.kv_cache_allocated_bytes is not None
    columns = (Column("Component", "path"), Column("Kind"), Column("Layers", "n"), Column("Tokens", "n"),
               Column("Bytes", "n"), *((Column("Allocated", "n"),) if allocated else ()))
    return table("What each layer caches, in bytes of the whole batch", columns, (
        Row((cache.path, cache.kind, number(cache.layers), number(cache.tokens), amount(cache.bytes, units.memory),
             *((amount(cache.allocated_bytes, units.memory),) if allocated else ())))
        for cache in report.caches
    ))


def _published(view: View) -> Html:
    columns = (Column("Quantity"), Column("Printed", "n"), Column("Counted", "n"), Column("Difference", "n"),
               Column("Source", "words"), Column("Note", "words"))
    return table("What was printed about this model, beside the count", columns, map(_printed, view.published))


def _printed(row: PublishedRow) -> Row:
    difference = row.relative_difference
    shown = units.MISSING if difference is None else f"{'+' if difference >= 0 else '−'}{abs(difference):.2%}"
    return Row((label(row.quantity), row.printed, number(row.counted), shown, linked(row.source), row.note or ""))


def _weights(view: View) -> Html:
    columns = (Column("Weight", "path"), Column("Shape", "n"), Column("Copies", "n"))
    return table("Every weight", columns, (
        Row((row.path, shape(row.shape), number(row.copies))) for row in view.weights
    ))


def _kept(report: Report) -> Html:
    columns = (Column("Operation", "path"), Column("Tensor"), Column("Shape", "n"), Column("Times", "n"),
               Column("Bytes", "n"))
    return table("Every tensor that autograd keeps, in bytes of all of them", columns, (
        Row((kept.op, kept.tensor, shape(kept.shape), number(kept.times), amount(kept.bytes, units.memory)))
        for kept in report.kept
    ))
