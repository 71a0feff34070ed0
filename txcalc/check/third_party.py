"""A count against people who are not us: transformers' own classes, and the figures that papers printed."""

from __future__ import annotations

import json
from typing import Any, Final

from txcalc.answer.published import compare_published
from txcalc.answer.report import count
from txcalc.check.validate import Row, Validation
from txcalc.spec.errors import SpecError
from txcalc.spec.library import beside
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

CONFIGS: Final = "transformers.json"
BATCH, SEQ, SOURCE = 2, 32, 48


def known_config(spec: Model) -> dict[str, Any] | None:
    """The ``config.json`` of the same architecture, where a preset has one."""
    found: dict[str, dict[str, Any]] = json.loads(beside(CONFIGS))
    return found.get(spec.name)


def against_published(spec: Model) -> Validation:
    """Every published figure: equal when the count rounds to the printed digits, or the preset explains why not."""
    report = count(spec, Workload(seq=1, source_seq=None if spec.encoder is None else 1))
    rows = tuple(
        Row(quantity=f"{row.quantity}, printed {row.printed}", counted=row.counted, measured=None,
            verdict="equal" if row.rounds_equal else "explained" if row.note else "DIFFERS", how=row.source,
            differences=(row.note,) if row.note else ())
        for row in compare_published(spec, report.totals)
    )
    return Validation(model=spec.name, against="published figures", device=None, rows=rows,
                      left_out=() if rows else ("no figure is published for it",))


def against_transformers(spec: Model, config: dict[str, Any]) -> Validation:
    """The class that ``config`` names, on the meta device: parameters, and FLOPs with eager attention.

    Raises ``SpecError`` where this version of transformers has no such class.
    """
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    live = _instantiate(config)
    measured = sum(p.numel() for p in {id(p): p for p in live.parameters()}.values())
    w = Workload.training(seq=SEQ, batch=BATCH, attention="eager", dtype="fp32",
                          source_seq=None if spec.encoder is None else SOURCE)
    totals = count(spec, w).totals
    rows = [_row("parameters", totals.params.value, measured)]
    missing: tuple[str, ...] = ()
    if totals.flops_forward.kind != "exact":
        missing = ("FLOPs: estimates where a layer is recurrent",)
    else:
        try:
            with FlopCounterMode(display=False) as counter, torch.device("meta"):
                out = live(**_inputs(spec))
            rows.append(_row("FLOPs forward, eager", totals.flops_forward.value, counter.get_total_flops()))
            if totals.kv_cache_bytes is not None and getattr(out, "past_key_values", None) is not None:
                rows.append(_row("KV cache", totals.kv_cache_bytes.value, _cache_bytes(out.past_key_values)))
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            missing = (f"FLOPs: the class does not run on sizes alone ({str(error).splitlines()[0][:80]})",)
    return Validation(model=spec.name, against=f"transformers {transformers.__version__}, {type(live).__name__}",
                      device="meta", rows=tuple(rows), left_out=missing)


def _instantiate(config: dict[str, Any]) -> Any:
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {k: v for k, v in config.items() if k not in ("architectures", "auto_map")}
    name, model_type = config["architectures"][0], fields.pop("model_type")
    if model_type not in CONFIG_MAPPING or not hasattr(transformers, name):
        raise SpecError(f"transformers {transformers.__version__} has no class {name}")
    settings = CONFIG_MAPPING[model_type](**fields)
    settings._attn_implementation = "eager"
    settings._experts_implementation = "batched_mm"
    with torch.device("meta"):
        return getattr(transformers, name)(settings).eval()


def _cache_bytes(cache: Any) -> int:
    """Bytes of every key and value tensor that the library's cache object holds."""
    parts = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    layers = [layer for part in (parts if parts[0] is not None else [cache]) for layer in part.layers]
    tensors = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def _inputs(spec: Model) -> dict[str, Any]:
    import torch

    def ids(n: int) -> Any:
        return torch.zeros(BATCH, n, dtype=torch.long)

    if spec.encoder is None:
        return {"input_ids": ids(SEQ)}
    return {"input_ids": ids(SOURCE), "decoder_input_ids": ids(SEQ)}


def _row(quantity: str, counted: int, measured: int) -> Row:
    return Row(quantity=quantity, counted=counted, measured=measured,
               verdict="equal" if counted == measured else "DIFFERS", how="full size, meta")
