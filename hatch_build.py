"""What installing does beside copying files: the built-in presets are resolved, see ``txcalc.models.resolved``."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ResolvePresets(BuildHookInterface[Any]):
    """Runs for a wheel and for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the resolved presets beside the presets, which are copied whole."""
        sys.path.insert(0, self.root)
        try:
            from txcalc.models import resolved

            # In a checkout that may not be written to, presets are validated whenever they are read.
            with contextlib.suppress(OSError):
                resolved.write()
        finally:
            sys.path.remove(self.root)
