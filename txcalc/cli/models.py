"""Loading a model for a command, with what its reader should know on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from txcalc.cli.options import CommonOptions
    from txcalc.models.loaded import Loaded


def load(
    model: str, overrides: Sequence[str], common: CommonOptions, *, dtype: str | None, resolved: bool = False,
    noted: bool = False,
) -> Loaded:
    """Load a model; ``dtype`` is the one it is counted in by default, None where none is.

    ``resolved``: a resolved preset will do, which has the fields of a validated model and nothing else.
    ``noted``: the answer holds the model's own notes.

    Raises ``SpecError``, see ``txcalc.models.load.load``.
    """
    loaded = _resolved(model) if resolved and not overrides else None
    if loaded is None:
        from txcalc.models import load as presets

        loaded = presets.load(model, overrides, strict=common.strict)
    return _told(loaded, common, dtype, noted=noted)


def load_all(
    model: str, overrides: Sequence[str], common: CommonOptions, *, dtype: str | None, noted: bool = False
) -> list[Loaded]:
    """Load every model of a saved answer about several, of anything else its one; ``noted`` as in ``load``.

    Raises ``SpecError``, see ``txcalc.models.load.load_all``.
    """
    from txcalc.models import load as presets

    found = presets.load_all(model, overrides, strict=common.strict)
    return [_told(each, common, dtype, noted=noted) for each in found]


def tell(changes: Iterable[str], common: CommonOptions) -> None:
    """Say on stderr what is counted otherwise than a saved answer says."""
    from txcalc.cli import write

    if not common.quiet:
        for each in changes:
            write.notice(each)


def _told(loaded: Loaded, common: CommonOptions, dtype: str | None, *, noted: bool) -> Loaded:
    tell((*(() if noted else loaded.notes), *_dtype_note(loaded, dtype)), common)
    return loaded


def _resolved(model: str) -> Loaded | None:
    from txcalc.models import resolved

    return resolved.load(model)


def _dtype_note(loaded: Loaded, dtype: str | None) -> list[str]:
    """Weights are counted as asked, and in the same dtype for every model: a file's own is only a hint."""
    from txcalc.trace.workload import BYTES

    own = next((known for known in BYTES if known == loaded.dtype), None)
    counted = next((known for known in BYTES if known == dtype), None)
    if own is None or counted is None or BYTES[own] == BYTES[counted]:
        return []
    return [f"{loaded.source}: its weights are {own}; counted in {counted}, see --dtype"]
