"""A view as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from txcalc import units
from txcalc.answer.render import headings, rules
from txcalc.answer.render.figures import figures, label
from txcalc.answer.render.grid import printable
from txcalc.answer.render.where import operations, shares, whole
from txcalc.answer.rerun import Since
from txcalc.answer.view import View


def markdown(view: View) -> str:
    """The whole answer: heading, numbers, breakdown, rules."""
    report = view.report
    name, *identity = headings.identity(report.model)
    parts = [
        f"# {escaped(name)}",
        " · ".join(escaped(part) for part in [*identity, *headings.origin(report.model)] if part),
        " · ".join(escaped(part) for part in headings.run(report.workload, view.defaults, report.attention) if part),
        _figures(view),
    ]
    if view.since is not None:
        parts.append(_since(view.since))
    if not view.quiet:
        below = [*report.notes, *rules.full(report.conventions)]
        parts += [_where(view), "\n".join(f"- {escaped(each)}" for each in below)]
    return "\n\n".join(parts) + "\n"


def pipe_table(head: Sequence[str], aligns: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; ``aligns`` has ``<`` or ``>`` for each column."""
    marks = ["---:" if align == ">" else ":---" for align in aligns]
    lines = [[escaped(cell) for cell in head], marks, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escaped(raw: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\|*_`<>[]#~" else c for c in printable(raw))


def _figures(view: View) -> str:
    rows = (
        (f"– {figure.label}" if figure.sub else figure.label, figure.value, figure.exact, figure.mark, figure.note)
        for figure in figures(view)
    )
    return pipe_table(("Quantity", "Value", "Exact", "", "Note"), "<>><<", rows)


def _since(since: Since) -> str:
    head = f"Since {escaped(since.source)} ({escaped(since.made_by)})"
    if not since.changes:
        return f"{head}: unchanged"
    rows = ((label(each.total), units.exact(each.then), units.exact(each.now), each.why) for each in since.changes)
    return f"{head}:\n\n{pipe_table(('Quantity', 'Then', 'Now', 'Why'), '<>><', rows)}"


def _where(view: View) -> str:
    report = view.report
    total = whole(report)
    found = operations(report) if view.by_module else shares(report)
    head = ("Operation" if view.by_module else "Where it goes", "Parameters", "%", "FLOPs", "%", "Kept for backward")
    rows = (
        (
            share.title,
            units.exact(share.params), units.percent(share.params, total.params),
            units.exact(share.flops), units.percent(share.flops, total.flops),
            units.memory(share.kept),
        )
        for share in [*found, total]
    )
    return pipe_table(head, "<>>>>>", rows)
