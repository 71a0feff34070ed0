"""An explanation in every format and notation. Each format has a file of its own; this one only chooses."""

from __future__ import annotations

from typing import Final

from txcalc.answer.explain.explanation import Explanation
from txcalc.answer.render import data as render_data
from txcalc.answer.render.grid import Screen

NOTATIONS: Final = ("unicode", "ascii", "latex")


def render(
    explained: Explanation, form: str, screen: Screen, notation: str = "unicode", *, quiet: bool = False
) -> str:
    """The explanation as table, md, html, json or yaml. ``quiet`` leaves of a table the closed form."""
    if form in ("json", "yaml"):
        return (render_data.json if form == "json" else render_data.yaml)(explained.to_data())
    if form == "html":
        from txcalc.answer.page.explanation import page

        return page(explained)
    from txcalc.answer.render import explanation_markup as render_explain_markup
    from txcalc.answer.render import explanation_table as render_explain_table

    if form == "md":
        return render_explain_markup.markdown(explained, latex=notation == "latex")
    if notation == "latex":
        return render_explain_markup.latex(explained)
    return render_explain_table.table(explained, screen, ascii_only=notation == "ascii", quiet=quiet)
