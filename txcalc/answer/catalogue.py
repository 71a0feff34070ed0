"""The presets by family, with what each weighs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Literal

from txcalc import units
from txcalc.answer.render.grid import Align, Line, Screen, Span, grid, line, paragraph, text, total_width, widths
from txcalc.count import params
from txcalc.document import Part
from txcalc.spec.errors import SpecError
from txcalc.spec.library import PresetInfo, find, names, unknown
from txcalc.spec.presets import load
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload


class Listed(Part):
    """A preset, its weights, or the reason why it cannot be counted."""

    name: str
    family: str | None
    aliases: tuple[str, ...]
    summary: str | None = None
    params: int | None = None
    params_active: int | None = None
    path: str
    origin: str
    shadows: str | None
    error: str | None = None


class Listing(Part):
    """Presets by family, in the order of the library."""

    schema: Literal["txcalc/presets/v1"] = "txcalc/presets/v1"
    presets: tuple[Listed, ...]


def listing(search: str | None = None) -> Listing:
    """Every preset whose name, alias, family or summary mentions the words of ``search``.

    Raises ``SpecError`` where nothing does.
    """
    found = tuple(listed for info in names() if _matches(listed := _listed(info), search))
    if search is not None and not found:
        raise SpecError(f"no preset mentions {search!r}", field="search")
    return Listing(presets=tuple(sorted(found, key=lambda preset: (preset.family or "", preset.params or 0))))


def shown(name: str) -> str:
    """A preset's YAML under a comment with its path. Raises ``SpecError`` for a name that there is not."""
    file = find(name)
    if file is None:
        raise unknown(name)
    return f"# {file.entry}\n{file.text}"


def table(listed: Listing, screen: Screen) -> str:
    """The presets for people, a heading for each family."""
    return text(_lines(listed, screen), color=screen.color)


def _listed(info: PresetInfo) -> Listed:
    where: dict[str, Any] = {
        "name": info.name, "aliases": info.aliases, "path": info.path, "origin": info.origin, "shadows": info.shadows,
    }
    try:
        spec = load(info.name).model
        t = trace(spec, Workload(seq=1))
    except SpecError as error:
        return Listed(**where, family=info.family, error=str(error))
    return Listed(
        **where, family=spec.family or info.family, summary=spec.summary, params=params.params(t),
        params_active=params.active_params(t),
    )


def _matches(listed: Listed, search: str | None) -> bool:
    everything = " ".join(filter(None, (listed.name, *listed.aliases, listed.family, listed.summary))).casefold()
    return all(word in everything for word in (search or "").casefold().split())


def _lines(listed: Listing, screen: Screen) -> Iterator[Line]:
    active = any(preset.params_active != preset.params for preset in listed.presets)
    rows = [_row(preset, active=active) for preset in listed.presets]
    head = [Span(name, "bold") for name in ("preset", "params", "active" if active else "", "aliases")]
    wide = screen.fits(total_width(widths([head, *rows])))
    aligns: tuple[Align, ...] = ("<", ">", ">", "<")
    lines = grid([row if wide else row[:3] for row in [head, *rows]], aligns)
    yield lines[0]
    for family, members in groupby(zip(listed.presets, lines[1:], strict=True), key=lambda pair: pair[0].family):
        yield line()
        yield line(family or "other", "bold")
        for preset, row in members:
            yield row
            note = preset.error or (f"in place of the built-in {preset.shadows}" if preset.shadows else "")
            if note:
                yield from paragraph(note, screen, first="    ", rest="    ", style="red" if preset.error else "dim")


def _row(preset: Listed, *, active: bool) -> list[Span]:
    return [
        Span(f"  {preset.name}"),
        Span(units.params(preset.params)),
        Span(units.params(preset.params_active) if active else ""),
        Span(", ".join(preset.aliases), "dim"),
    ]
