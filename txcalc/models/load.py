"""A model by a preset's name, a file or stdin, with what the command line lays over it."""

from __future__ import annotations

from collections.abc import Sequence

from txcalc.models import store
from txcalc.models.library import names
from txcalc.models.sources import Source, read_source, split_name
from txcalc.models.store import Loaded
from txcalc.spec.files import Document

__all__ = ["Loaded", "load", "load_all", "names"]


def load(model: str, overrides: Sequence[str] = (), *, strict: bool = False) -> Loaded:
    """Load the model that an argument names, see ``txcalc.models.sources``; a report stands for the model in it.

    A Hugging Face configuration is read as the spec of the same model; ``strict`` refuses fields that its class does
    not read. ``overrides`` are ``KEY=VALUE`` texts, see ``txcalc.spec.overrides``, which may also follow the name; with
    any, the figures published for the model no longer apply and are left out. A report's model has every default
    written out, so that there an override changes its own field and none that would otherwise follow it.
    Raises SpecError for whatever cannot be found, read or validated.
    """
    name, own = split_name(model)
    return _load(read_source(name), name, own, overrides, strict=strict)


def load_all(model: str, overrides: Sequence[str] = (), *, strict: bool = False) -> list[Loaded]:
    """Load every model of a saved comparison or difference; of anything else the one that ``load`` gives."""
    name, own = split_name(model)
    source = read_source(name)
    if "txcalc" not in source.text:  # as in every saved answer
        return [_load(source, name, own, overrides, strict=strict)]
    from txcalc.models.read import parts

    return [
        _read(source if at is None else source._replace(label=f"{source.label}, {at}"), part, name, own, overrides,
              strict=strict)
        for at, part in parts(source.document(), source.place)
    ]


def _load(source: Source, name: str, own: Sequence[str], given: Sequence[str], *, strict: bool) -> Loaded:
    """The model that was read before of the same text in the same way, or else read now."""
    if source.header is not None:
        return _read(source, source.document(), name, own, given, strict=strict)
    key = [source.text, source.packing, source.label, source.place, source.name, [*own], [*given], strict]
    if (kept := store.get(key)) is not None:
        return kept
    document = source.document()
    loaded = _read(source, document, name, own, given, strict=strict)
    if "base" not in document.data:  # another text that decides
        store.put(key, loaded)
    return loaded


def _read(
    source: Source, document: Document, name: str, own: Sequence[str], given: Sequence[str], *, strict: bool
) -> Loaded:
    from txcalc.models.read import read
    from txcalc.spec.overrides import parse_overrides

    return read(source, document, parse_overrides(own, f"{name}@") + parse_overrides(given), strict=strict)
