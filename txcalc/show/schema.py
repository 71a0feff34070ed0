"""JSON Schemas of the documents that the package reads and writes."""

from __future__ import annotations

from typing import Any, Final

from txcalc.answer.capacity import Capacity
from txcalc.answer.catalogue import Listing
from txcalc.answer.comparison import Comparison
from txcalc.answer.curve import AttentionCurve
from txcalc.answer.devices import Devices
from txcalc.answer.difference import Diff
from txcalc.answer.memory import Memory
from txcalc.answer.mixer_table import MixerTable
from txcalc.answer.report import Report
from txcalc.answer.reproduce import Reproduction
from txcalc.answer.validation import Validations
from txcalc.explain.explanation import Explanation
from txcalc.models import basis
from txcalc.spec import fields
from txcalc.spec.base import Switches
from txcalc.spec.errors import SpecError, meant
from txcalc.spec.model import Model
from txcalc.spec.resolve import SUBLAYERS
from txcalc.spec.weight_formats import FORMATS, NAMES
from txcalc.trace.workload import FILLED, LEAST

DOCUMENTS: dict[str, type[Any]] = {
    "preset": Model, "report": Report, "comparison": Comparison, "attention": AttentionCurve, "memory": Memory,
    "mixers": MixerTable, "explanation": Explanation, "diff": Diff, "validation": Validations,
    "presets": Listing, "devices": Devices, "fit": Capacity, "reproduction": Reproduction,
}

_FOLLOWING: Final = ("layers", "context", "feed_forward")
"""Fields that a whole model need not say: what its groups do, and the positions of an image or a sound."""

_SWITCHES: Final = {each.__name__ for each in Switches.__subclasses__()}


def json_schema(document: str) -> dict[str, Any]:
    """The schema (draft 2020-12) of what is read (a preset) or written (the others). Raises ``SpecError``."""
    if document not in DOCUMENTS:
        raise SpecError(f"no such document {document!r}; {meant(document, DOCUMENTS)}")
    found = _preset() if document == "preset" else _written(DOCUMENTS[document])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": f"txcalc {document}"}


def _preset() -> dict[str, Any]:
    """A preset says less than a model has: ``txcalc.spec.resolve`` fills in the rest before it is checked.

    What of a layer a block leaves out stands in its stack, what an encoder does in the decoder, so that only
    ``kind`` can be asked for below the top.
    """
    schema, parts = fields.schema(Model)
    required = [name for name in schema.pop("required") if name not in _FOLLOWING]
    schema["anyOf"] = [{"required": [basis.FIELD]}, {"required": required}]
    schema["properties"][basis.FIELD] = {"type": "string", "description": "the preset that this one starts from"}
    schema["properties"]["pooler"]["anyOf"].append({"type": "boolean"})
    for part in (schema, *(parts[name] for name in ("Block", "Encoder", "Resampler", "Tower"))):
        for field in (*SUBLAYERS, *(("position",) if "position" in part["properties"] else ())):
            part["properties"][field]["anyOf"].append({"const": "none"})
    for name, part in parts.items():
        part["required"] = [each for each in part.get("required", ()) if each == "kind"]
        if name in _SWITCHES:
            parts[name] = {"anyOf": [{"type": "boolean"}, part]}
    parts["Quantization"] = {"anyOf": [{"enum": list(FORMATS)}, parts["Quantization"]]}
    return {**schema, "$defs": parts}


def _written(document: type[Any]) -> dict[str, Any]:
    from pydantic import TypeAdapter

    found = TypeAdapter(document).json_schema(mode="serialization")
    _bounded(found)
    return found


def _bounded(schema: dict[str, Any]) -> None:
    """Bounds that a workload checks by itself, and its types do not say."""
    if "Workload" not in schema["$defs"]:
        return
    fields = schema["$defs"]["Workload"]["properties"]
    for name, least in LEAST.items():
        whole = next(each for each in fields[name].get("anyOf", [fields[name]]) if each["type"] == "integer")
        whole["minimum"] = least
    fields["weights"]["anyOf"][0]["enum"] = list(NAMES)
    fields["dropout"] |= {"minimum": 0, "exclusiveMaximum": 1}
    for name in FILLED:
        del fields[name]["default"]
