"""What txcalc/report/v1 and the documents of its time say otherwise than today's: names, and what they left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from txcalc.spec.errors import FieldError, SpecError
from txcalc.spec.formats import filled

SCHEMA: Final = "txcalc/report/v1"
"""Reports that were written before today's."""

FIELDS: Final[Mapping[str, str]] = {"device": "kernels"}
"""Fields of a workload that had other names."""

STORED: Final = ("fp8", "int8")
"""Dtypes in which nothing is computed."""

Data = dict[str, Any]


def is_older(data: Mapping[str, Any]) -> bool:
    """Whether it was written when reports were v1; what had no second version since names the workload's device."""
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
