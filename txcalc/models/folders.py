"""The folders of presets, and that of models that were read before."""

from __future__ import annotations

import os
from typing import Final

DIRECTORY_VARIABLE: Final = "TXCALC_PRESETS"
"""Names the user's directory of presets; empty for none. Without it, it is ``presets`` in txcalc's config directory."""

CACHE_VARIABLE: Final = "TXCALC_CACHE"
"""Names the folder of models that were read before; empty for none. Without it, it is in the user's cache directory."""

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120


def built_in_folder() -> str:
    """The presets inside the wheel; for an editable install, the checkout's own."""
    inside = os.path.join(_PACKAGE, "_presets")  # noqa: PTH118
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(_PACKAGE), "presets")  # noqa: PTH112, PTH118, PTH120


def user_folder() -> str | None:
    """The user's own presets, if there are any."""
    folder = os.environ.get(DIRECTORY_VARIABLE)
    if folder is None:
        import platformdirs  # not needed where the variable is set

        folder = os.path.join(platformdirs.user_config_dir("txcalc", appauthor=False), "presets")  # noqa: PTH118
        if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir raises where a parent may not be entered
            return None
    return folder or None


def cache_folder() -> str | None:
    """Where models are kept that were read before, if they are."""
    folder = os.environ.get(CACHE_VARIABLE)
    if folder is None:
        import platformdirs

        folder = os.path.join(platformdirs.user_cache_dir("txcalc", appauthor=False), "models")  # noqa: PTH118
    return folder or None
