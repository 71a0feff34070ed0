"""Loading a model for a command, with what its reader should know on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from txcalc.cli.options import CommonOptions
    from txcalc.spec.loaded import Loaded


def load(
    model: str, overrides: Sequence[str], common: CommonOptions, *, dtype: str | None, resolved: bool = False
) -> Loaded:
    """Load a model; ``dtype`` is the one it is counted in by default, None where none is.

    ``resolved``: a resolved preset will do, which has the fields of a validated model and nothing else.

    Raises ``SpecError``, see ``txcalc.spec.presets.load``.
    """
    from txcalc.cli import write

    loaded = _resolved(model) if resolved and not overrides else None
    if loaded is None:
        from txcalc.spec import presets

        loaded = presets.load(model, overrides, strict=common.strict)
    if not common.quiet:
        for note in (*loaded.notes, *_dtype_note(loaded, dtype)):
            write.to_stream(f"note: {note}\n", sys.stderr)
    return loaded


def _resolved(model: str) -> Loaded | None:
    from txcalc.spec import resolved

    return resolved.load(model)


def _dtype_note(loaded: Loaded, dtype: str | None) -> list[str]:
    """Weights are counted as asked, and in the same dtype for every model: a file's own is only a hint."""
    from txcalc.trace.workload import BYTES

    own = next((known for known in BYTES if known == loaded.dtype), None)
    counted = next((known for known in BYTES if known == dtype), None)
    if own is None or counted is None or BYTES[own] == BYTES[counted]:
        return []
    return [f"{loaded.source}: its weights are {own}; counted in {counted}, see --dtype"]
