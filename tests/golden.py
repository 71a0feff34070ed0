"""Write the golden of all presets anew: ``python tests/golden.py``. Only a proved correction may move it.

A line holds a preset, a workload, a checksum of all totals and of the breakdown, and the totals that are in ``SHOWN``;
or why there are none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import txcalc
from txcalc.models.load import names

PATH = Path(__file__).parent / "data" / "totals.tsv"
LONG = 6007
SHOWN = ("params", "params_active", "flops_forward", "flops_skipped", "flops_backward", "activation_bytes",
         "kv_cache_bytes", "weight_bytes")
WORKLOADS: dict[str, dict[str, Any]] = {
    "forward": {},
    "forward-long": {"seq": LONG, "masked": "skipped"},
    "forward-eager-dropout": {"attention": "eager", "dropout": 0.1, "batch": 3},
    "training": {"phase": "training"},
    "training-eager-cpu-fp32": {"phase": "training", "attention": "eager", "dtype": "fp32", "dropout": 0.1, "batch": 2,
                                "kernels": "cpu"},
    "training-cpu": {"phase": "training", "kernels": "cpu"},
    "prefill-long": {"phase": "prefill", "seq": LONG},
    "decode-long": {"phase": "decode", "past": LONG - 1, "kv_block": 16},
    "decode-long-expanded": {"phase": "decode", "past": LONG - 1, "latents": "expanded"},
}


def lines() -> Iterator[str]:
    """Every line of the golden, counted now."""
    for info in names():
        spec = txcalc.load(info.name)
        for name, given in WORKLOADS.items():
            yield "\t".join((info.name, name, *_counted(spec, dict(given))))


def _counted(spec: Any, given: dict[str, Any]) -> list[str]:
    for length in ("seq", "past"):
        if length in given:
            given[length] = min(given[length], spec.context - (length == "past"))
    if spec.input.kind != "tokens":
        given.pop("seq", None)
    try:
        report = txcalc.count(spec, **given)
    except txcalc.SpecError as error:
        return [str(error)]
    data = report.to_data()
    whole = json.dumps([data["totals"], data["components"]], sort_keys=True)
    shown = (getattr(report.totals, name) for name in SHOWN)
    return [f"{crc32(whole.encode()):08x}", *("-" if each is None else str(each.value) for each in shown)]


if __name__ == "__main__":
    PATH.write_text("\n".join(lines()) + "\n", encoding="utf-8")
