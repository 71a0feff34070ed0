"""Types whose classes are repositories' own code, against what that code gave once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from txcalc.answer.report import count
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

RECORDED: Final = json.loads((Path(__file__).parent.parent / "data" / "hub_code.json").read_text("utf-8"))


def recorded(model_type: str) -> Iterator[tuple[str, Any, Any]]:
    """Each quantity of each drawn configuration of this type: ours and the code's."""
    for entry in RECORDED["drawn"]:
        if entry["config"]["model_type"] == model_type:
            yield from measured(entry)


def measured(entry: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Parameters, FLOPs and elements of the cache of one configuration: ours and the code's."""
    model = Model.from_data(spec_from_config(entry["config"], "config.json", "drawn"))
    totals = count(model, Workload(phase="prefill", batch=2, seq=13, attention="eager", dtype="fp32")).totals
    yield "weights", totals.params.value, entry["params"]
    yield "FLOPs", totals.flops_forward.value, entry["flops"]
    if entry["cache"] is not None:
        assert totals.kv_cache_bytes is not None
        yield "cache", totals.kv_cache_bytes.value, 4 * entry["cache"]
    if "image_flops" in entry:
        run = Workload(phase="prefill", batch=2, seq=90, attention="eager", dtype="fp32")
        with_images, without = (count(model, replace(run, images=n)).totals.flops_forward.value for n in (2, 0))
        yield "images", with_images - without, entry["image_flops"]
