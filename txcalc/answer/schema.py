"""JSON Schemas of the documents that the package reads and writes."""

from __future__ import annotations

from typing import Any

from txcalc.answer.compare import Comparison
from txcalc.answer.curves import AttentionCurve
from txcalc.answer.diff import Diff
from txcalc.answer.explain.explanation import Explanation
from txcalc.answer.mixers import MixerTable
from txcalc.answer.report import Report
from txcalc.spec.errors import SpecError, nearest
from txcalc.spec.model import Model

DOCUMENTS: dict[str, type[Any]] = {
    "preset": Model, "report": Report, "comparison": Comparison, "attention": AttentionCurve, "mixers": MixerTable,
    "explanation": Explanation, "diff": Diff,
}


def json_schema(document: str) -> dict[str, Any]:
    """The schema (draft 2020-12) of what is read (a preset) or written (the others). Raises ``SpecError``."""
    if document not in DOCUMENTS:
        close = nearest(document, DOCUMENTS)
        hint = f"; did you mean {close}?" if close else f"; one of {', '.join(DOCUMENTS)}"
        raise SpecError(f"no such document {document!r}{hint}")
    from pydantic import TypeAdapter

    mode: Any = "validation" if document == "preset" else "serialization"
    found = TypeAdapter(DOCUMENTS[document]).json_schema(mode=mode)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": f"txcalc {document}"}
