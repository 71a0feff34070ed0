"""HTML and SVG from plain functions: whatever is not markup already is escaped, so that nothing can be forgotten."""

from __future__ import annotations

from html import escape
from typing import Final

from txcalc.show.blocks import printable

_VOID: Final = frozenset(("br", "link", "meta", "wbr"))


class Html(str):
    """Text that is markup already. Every other text is escaped when it is put into markup."""

    __slots__ = ()


def html(raw: str) -> Html:
    """Markup as it is, and text so that it reads as it is: a name from a file can neither break out nor hide."""
    return raw if isinstance(raw, Html) else Html(escape(printable(raw)))


def join(*parts: str, by: str = "") -> Html:
    """Parts in a row, each escaped unless it is markup."""
    return Html(html(by).join(html(part) for part in parts))


def tag(name: str, /, *inside: str, **attributes: str | int | float | None) -> Html:
    """An element: ``tag("th", "FLOPs", scope="col", class_="n")``. An attribute that is None is left out.

    A trailing ``_`` of an attribute's name goes, any other becomes ``-``.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html(str(value))}"'
        for key, value in attributes.items() if value is not None
    )
    return Html(f"<{name}{shown}>" + ("" if name in _VOID else f"{join(*inside)}</{name}>"))
