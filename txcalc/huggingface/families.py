"""Every ``model_type`` that can be read, with the classes that carry it, as the files of this folder list them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Final

from txcalc import huggingface
from txcalc.huggingface.rows import Rows

_NAMES: Final = [module.name for module in iter_modules(huggingface.__path__, f"{huggingface.__name__}.")]
_MODULES: Final = [import_module(name) for name in _NAMES if name != __name__]
FAMILIES: Final[Rows] = {name: row for module in _MODULES for name, row in getattr(module, "ROWS", {}).items()}
PARTS: Final = [part for row in FAMILIES.values() for part in row.parts]
"""Types of configuration that stand only within another."""
