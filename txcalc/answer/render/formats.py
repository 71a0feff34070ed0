"""One answer in every format. Each format has a file of its own; this one only chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from txcalc.answer.compare import Comparison
    from txcalc.answer.render.grid import Screen
    from txcalc.answer.view import View

Format = Literal["table", "json", "yaml", "csv", "md", "html"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SUFFIXES: Final[dict[str, Format]] = {
    ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".csv": "csv", ".md": "md", ".html": "html",
    ".htm": "html", ".txt": "table",
}


def render(view: View, form: Format, screen: Screen) -> str:
    """The view in a format. Only the table looks at the screen."""
    if form == "table":
        from txcalc.answer.render.table import table

        return table(view, screen)
    if form == "md":
        from txcalc.answer.render.markdown import markdown

        return markdown(view)
    if form == "csv":
        from txcalc.answer.render.csv import components

        return components(view.report)
    if form == "html":
        from txcalc.answer.page.count import page

        return page(view)
    from txcalc.answer.render import data as render_data

    return (render_data.json if form == "json" else render_data.yaml)(view.report.to_data())


def render_comparison(comparison: Comparison, form: Format, screen: Screen) -> str:
    """The comparison in a format. Only the table looks at the screen."""
    from txcalc.answer.render import comparison as each
    from txcalc.answer.render import data as render_data

    if form == "table":
        return each.table(comparison, screen)
    if form == "md":
        return each.markdown(comparison)
    if form == "csv":
        return each.csv(comparison)
    if form == "html":
        from txcalc.answer.page.comparison import page

        return page(comparison)
    return (render_data.json if form == "json" else render_data.yaml)(comparison.to_data())
