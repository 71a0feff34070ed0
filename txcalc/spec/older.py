"""Other names and omissions of older specs and documents, txcalc/report/v1 among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from txcalc.spec.errors import FieldError, SpecError
from txcalc.spec.weight_formats import filled

if TYPE_CHECKING:
    from txcalc.spec.files import Document

SCHEMA: Final = "txcalc/report/v1"
"""Reports that were written before today's."""

FIELDS: Final[Mapping[str, str]] = {"device": "kernels"}
"""Fields of a workload that had other names."""

STORED: Final = ("fp8", "int8")
"""Dtypes in which nothing is computed."""

RENAMED: Final[Mapping[str, str]] = {
    "unread_table": "unused_table", "unread_bias": "unused_bias", "chosen": "index_topk", "squares": "image_window",
    "apart": "separate_norms", "skips": "unused_layers", "beside": "feature_layers",
}
"""Fields of a spec that had other names, each the only one of that name anywhere in it."""

Data = dict[str, Any]


def renamed(document: Document, place: str) -> tuple[Document, list[str]]:
    """The document of a spec with every field by its own name, and a note where it has one by an older name.

    Raises SpecError for a field that stands there by both.
    """
    found: set[str] = set()
    data = _renamed(document.data, found, place)
    if not found:
        return document, []
    marks = {tuple(RENAMED.get(key, key) if isinstance(key, str) else key for key in loc): place
             for loc, place in document.marks.items()}
    names = ", ".join(f"{name} is now {RENAMED[name]}" for name in RENAMED if name in found)
    return document._replace(data=data, marks=marks), [f"older names of fields, readable for one release: {names}"]


def _renamed(node: Any, found: set[str], place: str) -> Any:
    if isinstance(node, list):
        return [_renamed(each, found, place) for each in node]
    if not isinstance(node, Mapping):
        return node
    if both := [name for name in RENAMED if name in node and RENAMED[name] in node]:
        raise SpecError(f"is an older name of {RENAMED[both[0]]}: give one of them", source=place, field=both[0])
    found |= RENAMED.keys() & node.keys()
    return {RENAMED.get(key, key): value if key == "sources" else _renamed(value, found, place)
            for key, value in node.items()}


def is_older(data: Mapping[str, Any]) -> bool:
    """Tell whether it was written when reports were v1; one without a second version names the workload's device."""
    workload = data.get("workload")
    return data.get("schema") == SCHEMA or (isinstance(workload, Mapping) and "device" in workload)


def workload(data: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run as they are now: v1 had one dtype for what is stored and what is computed in."""
    if is_older(data) and found.get("phase") == "decode" and not found.get("past") and (found.get("seq") or 1) != 1:
        raise SpecError(f"{found['seq']:,} tokens decoded at once, into an empty cache, are not a decoding step; count "
                        f"the model with --phase decode --past {found['seq'] - 1}", field="seq")
    if is_older(data) and found.get("dtype") in STORED:
        return {**found, "dtype": "bf16", "weights": found["dtype"]}
    return dict(found)


def totals(
    data: Mapping[str, Any], masked: object, found: Mapping[str, int | None], skipped: Mapping[str, str]
) -> dict[str, int | None]:
    """Totals by today's names: v1 had FLOPs without masked pairs, where they were asked for, in place of the others.

    ``skipped``: what those without are called now.
    """
    if not is_older(data) or masked != "skipped":
        return dict(found)
    return {skipped.get(name, name): value for name, value in found.items()}


def spec(data: Mapping[str, Any]) -> Data:
    """Fill in what a spec left out, as it was meant.

    Where it left out a feed-forward or positions, it meant ``none``; a rotary base of 10,000 was nobody's. Its methods
    of quantization were labels beside sizes, which count as they did; fused projections stood there, too.
    """
    out = dict(data)
    for name in ("encoder", "tower"):
        if isinstance(out.get(name), Mapping):
            out[name] = spec(out[name]) if name == "tower" else {**out[name], **_base_unknown(out[name])}
    if isinstance(out.get("quantization"), Mapping):
        packing = dict(out["quantization"])
        out |= {"fused": packing.pop("fused", ()), "quantization": _older_packing(packing)}
    return {"feed_forward": None, "position": None, **out, **_base_unknown(out)}


def _older_packing(packing: Data) -> Data:
    """A method of today where the sizes are what it writes, else the sizes alone."""
    name = str(packing.get("method")).removeprefix("bitsandbytes ")
    for method in (f"{name}-dq", name):
        try:
            return filled({**packing, "method": method})
        except FieldError:
            pass
    return {**packing, "method": "custom"}


def _base_unknown(stack: Mapping[str, Any]) -> Data:
    position = stack.get("position")
    if isinstance(position, Mapping) and position.get("kind") == "rope" and position.get("theta") == 10_000:
        return {"position": {**position, "theta": None}}
    return {}
