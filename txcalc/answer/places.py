"""Where an operation stands among the modules of a real model."""

from __future__ import annotations

from txcalc.count.turns import Turns


def placed(path: str, turns: Turns) -> str:
    """A path as the modules of a real model have it, with the index of every layer: ``layers.31.attention.q``."""
    for repeat, turn in sorted(turns, key=lambda each: -len(each[0])):
        if path.startswith(f"{repeat}."):
            path = f"{repeat}.{turn}{path.removeprefix(repeat)}"
    return path
