"""Documents for machines: JSON and YAML of the same data."""

from __future__ import annotations

from typing import Any


def json(data: dict[str, Any]) -> str:
    """The document as JSON, keys in the document's order."""
    from json import dumps

    return dumps(data, indent=2, ensure_ascii=False) + "\n"


def yaml(data: dict[str, Any]) -> str:
    """The document as YAML that reads back equal. Raises ``SpecError`` for a number of more digits than YAML takes."""
    from txcalc.spec.errors import SpecError
    from txcalc.spec.yaml import dump_yaml

    try:
        return dump_yaml(data)
    except ValueError as error:
        raise SpecError(f"cannot be written as YAML: {error}; use JSON") from None
