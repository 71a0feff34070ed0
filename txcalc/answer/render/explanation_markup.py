"""An explanation as GitHub-flavoured Markdown and as a LaTeX fragment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from txcalc import units
from txcalc.answer.explain.explanation import Explanation, Formula
from txcalc.answer.render.explanation_table import amount, conditions, heading, signed
from txcalc.answer.render.markdown import escaped

_SPECIAL: Final = str.maketrans({
    **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}", "×": r"$\times$", "·": r"$\cdot$", "−": "$-$", "–": "--", "≤": r"$\le$",
})


def markdown(explained: Explanation, *, latex: bool = False) -> str:
    """The derivation as Markdown; formulas in Unicode, or between dollar signs."""

    def shown(formula: Formula) -> str:
        return f"${formula.latex}$" if latex else escaped(formula.unicode)

    return "\n\n".join(_parts(explained, shown)) + "\n"


def _parts(e: Explanation, shown: Callable[[Formula], str]) -> Iterator[str]:
    name, title = heading(e)
    yield f"# {escaped(name)}: {escaped(title)}"
    if run := conditions(e):
        yield " · ".join(escaped(part) for part in run if part)
    yield _table(("Symbol", "Value", "Meaning"), "<><", (
        (shown(s.text), units.exact(s.value), escaped(s.meaning)) for s in e.symbols
    ))
    if e.relations or e.assumptions:
        yield "With " + ", ".join(shown(formula) for formula in (*e.relations, *e.assumptions)) + "."
    yield _table(("Component", "Formula", "Count", "Value", "%"), "<<>>>", (
        *((escaped(row.name), shown(row.each), units.exact(row.count), units.exact(row.value),
           units.percent(row.value, e.total)) for row in e.rows),
        ("**total**", "", "", f"**{units.exact(e.total)}**", "100.0"),
    ))
    if e.kept:
        yield _table(("Kept by", "Tensor", "Shape", "Bytes each", "Bytes", "Count", "Why"), "<<<><><", (
            (escaped(f"{kept.row}: {', '.join(kept.kept_by)}"), escaped(kept.tensor),
             " × ".join(map(shown, kept.shape)) or "1", units.exact(kept.bytes), shown(kept.each),
             units.exact(kept.count), escaped(kept.why)) for kept in e.kept
        ))
    for layer in e.layers:
        parts = ((escaped(part.row if part.count == "1" else f"{part.count} × {part.row}"), shown(part.formula))
                 for part in layer.parts)
        yield _table((f"{shown(layer.symbol)} = {units.exact(layer.count)}: {escaped(layer.meaning)}, each", "Formula"),
                     "<<", (*parts, ("**sum**", shown(layer.formula))))
    yield _closed(e, shown)
    if e.simplifications:
        yield _table(("In textbooks", "Value", "Off by", "Where", "Leaves out", "Source"), "<>><<<", (
            (shown(row.formula), units.exact(row.value), signed(row.difference),
             escaped(row.where if row.of == "total" else f"against {units.exact(row.exact)} {row.of}"),
             escaped(row.leaves_out), escaped(row.source)) for row in e.simplifications
        ))
    if e.published:
        yield _table(("Published", "Counted", "Ours", "Source", "Note"), ">>><<", (
            (escaped(row.printed), units.exact(row.counted), signed(row.difference), escaped(row.source),
             escaped(row.note or "")) for row in e.published
        ))
    yield "\n".join(f"- {escaped(note)}" for note in (*e.notes, *(f"{s.rule} ({s.source})" for s in e.sources)))


def _closed(e: Explanation, shown: Callable[[Formula], str]) -> str:
    where = f" with {', '.join(map(shown, e.substitutions))}" if e.substitutions else ""
    steps = [shown(e.closed), shown(e.substituted)]
    if len(e.terms) > 1:
        steps.append(" + ".join(units.exact(term.value) for term in e.terms).replace("+ −", "− "))
    steps.append(f"**{units.exact(e.total)}** {e.unit} ({amount(e, e.total)})")
    return f"Closed form{where}:\n\n" + " \\\n= ".join(steps)


def _table(head: Sequence[str], aligns: str, rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    marks = ["---:" if align == ">" else ":---" for align in aligns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def latex(explained: Explanation) -> str:
    """A fragment for a document that loads amsmath: the symbols, the table of components, the derivation."""
    e = explained
    symbols = ", ".join(f"${s.text.latex} = {_number(s.value)}$ ({_text(s.meaning)})" for s in e.symbols)
    rows = "\n".join(
        f"  {_text(row.name)} & ${row.each.latex}$ & ${_number(row.count)}$ & ${_number(row.value)}$ \\\\"
        for row in e.rows
    )
    steps = [e.closed.latex, e.substituted.latex]
    if len(e.terms) > 1:
        steps.append(" + ".join(_number(term.value) for term in e.terms).replace("+ -", "- "))
    where = ", ".join(f"${formula.latex}$" for formula in (*e.relations, *e.substitutions, *e.assumptions))
    return (
        f"% {e.model.name}: {e.title}; made by txcalc {e.provenance.txcalc}\n"
        f"{symbols}{f'; with {where}' if where else ''}.\n\n"
        "\\begin{tabular}{llrr}\n"
        f"  component & formula & count & {_text(e.unit)} \\\\ \\hline\n{rows} \\hline\n"
        f"  total & & & ${_number(e.total)}$\n"
        "\\end{tabular}\n\n"
        "\\begin{align*}\n  & " + " \\\\\n  & = ".join([*steps, _number(e.total)]) + "\n\\end{align*}\n"
    )


def _number(n: int) -> str:
    return units.exact(n).replace(",", "{,}").replace("−", "-")


def _text(raw: str) -> str:
    return raw.translate(_SPECIAL)
