"""A count against people who are not us: transformers' own classes, and the figures that papers printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from txcalc.answer.printed import PublishedRow, compare_published
from txcalc.answer.report import count
from txcalc.answer.validation import Device, Row, Validation, Verdict
from txcalc.count.labels import KV_CACHE
from txcalc.models.library import beside
from txcalc.spec.facts import located_blocks, positions
from txcalc.spec.inputs import FrameInput, LMHead, PatchInput, TokenInput
from txcalc.spec.layers import Attention
from txcalc.spec.model import Model, Stack, Tower
from txcalc.trace.workload import Workload

CONFIGS: Final = "transformers.json"
BATCH, SEQ, SOURCE = 2, 32, 48


class Quirk(NamedTuple):
    """A deviation of a library's class from the architecture, and the figure that it then gives, from our count."""

    reason: str
    expected: Callable[[Model, int], int]


def _tied(spec: Model, counted: int) -> int:
    assert isinstance(spec.head, LMHead) and spec.vocab is not None
    return counted - (0 if spec.head.tied else spec.vocab * spec.d_model)


def _all_heads(spec: Model, counted: int) -> int:
    (heads, kv_heads), = {(b.attention.heads, b.attention.kv_heads) for _, b in located_blocks(spec)
                          if isinstance(b.attention, Attention)}
    return counted * heads // kv_heads


def _all_experts(spec: Model, counted: int) -> int:
    def every(data: Any) -> Any:
        if isinstance(data, dict):
            own = {"active_experts": data["experts"]} if "active_experts" in data else {}
            return {name: every(value) for name, value in data.items()} | own
        return [every(item) for item in data] if isinstance(data, list | tuple) else data

    return count(Model.from_data(every(spec.to_data())), _workload(spec)).totals.flops_forward.value


QUIRKS: Final = {
    ("falcon", KV_CACHE): Quirk("the library caches keys and values repeated to all heads", _all_heads),
    ("llama4_text", "FLOPs forward, eager"): Quirk("the library runs every routed expert on every token",
                                                   _all_experts),
    **{(name, "parameters"): Quirk("the library ties the head whatever the configuration says", _tied)
       for name in ("t5", "mt5")},
}
"""Shown as explained where the class gives exactly what is expected of it."""


def known_config(spec: Model) -> dict[str, Any] | None:
    """The ``config.json`` of the same architecture, where a preset has one."""
    found: dict[str, dict[str, Any]] = json.loads(beside(CONFIGS))
    return found.get(spec.name)


def against_published(spec: Model) -> Validation:
    """Every published figure: does the count round to the digits that were printed, or does the preset say why not."""
    report = count(spec, _workload(spec, 1, 1).replaced(batch=1, phase="forward"))
    rows = tuple(
        Row(quantity=row.quantity, counted=row.counted, measured=None, printed=row.printed, verdict=_verdict(row),
            how=row.source, differences=(row.note,) if row.note else ())
        for row in compare_published(spec, report.totals)
    )
    return Validation.of(spec.name, "published figures", rows,
                         left_out=() if rows else ("no figure is published for it",))


def _verdict(row: PublishedRow) -> Verdict:
    if row.rounds_equal:
        return "rounds to it" if row.relative_difference else "equal"
    return "explained" if row.as_noted else "DIFFERS"


def against_transformers(spec: Model, config: dict[str, Any], device: Device = "cpu") -> Validation:
    """The class that ``config`` names: parameters, and FLOPs with eager attention, on the meta device; what a training
    step of a small one keeps and holds on ``device``.

    Raises ``SpecError`` where this version of transformers has no such class.
    """
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    from txcalc.check.classes import instantiate
    from txcalc.check.fake_cuda import NotRun
    from txcalc.check.small_classes import steps

    live = instantiate(config, "meta", experts="batched_mm").eval()
    measured = sum(p.numel() for p in {id(p): p for p in live.parameters()}.values())
    totals = count(spec, _workload(spec)).totals

    def row(quantity: str, counted: int, measured: int) -> Row:
        return compared(spec, config["model_type"], quantity, counted, measured)

    rows = [row("parameters", totals.params.value, measured)]
    missing: tuple[str, ...] = ()
    if totals.flops_forward.kind != "exact":
        missing = ("FLOPs: estimates where a layer is recurrent",)
    else:
        try:
            with FlopCounterMode(display=False) as counter, torch.device("meta"):
                out = live(**_inputs(spec))
            rows.append(row("FLOPs forward, eager", totals.flops_forward.value, counter.get_total_flops()))
            if totals.kv_cache_bytes is not None and getattr(out, "past_key_values", None) is not None:
                rows.append(row(KV_CACHE, totals.kv_cache_bytes.value, _cache_bytes(out.past_key_values)))
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            missing = (f"FLOPs: the class does not run on sizes alone ({str(error).splitlines()[0][:80]})",)
    try:
        found, why = steps(spec, config, device)
    except NotRun as reason:
        found, why = [], str(reason)
    if why:
        missing = (*missing, f"kept and live bytes of a training step: {why}")
    return Validation.of(spec.name, f"transformers {transformers.__version__}, {type(live).__name__}", rows + found,
                         device="meta", left_out=missing)


def compared(spec: Model, model_type: str, quantity: str, counted: int, measured: int) -> Row:
    """A count beside the class's: equal, explained by a quirk that gives exactly this number, or different."""
    quirk = None if counted == measured else QUIRKS.get((model_type, quantity))
    verdict: Verdict = "equal" if counted == measured else "DIFFERS"
    reason: tuple[str, ...] = ()
    if quirk is not None:
        expected = quirk.expected(spec, counted)
        verdict = "explained" if expected == measured else "DIFFERS"
        reason = (quirk.reason if expected == measured else f"{quirk.reason}: that would be {expected:,}",)
    return Row(quantity=quantity, counted=counted, measured=measured, how="full size, meta", verdict=verdict,
               differences=reason)


def _workload(spec: Model, seq: int = SEQ, source: int = SOURCE) -> Workload:
    """Lengths for what reads tokens; images and sounds have their own."""
    lengths: dict[str, Any] = {"seq": seq} if isinstance(spec.input, TokenInput) else {}
    if spec.encoder is not None and isinstance(spec.encoder.input, TokenInput):
        lengths["source_seq"] = source
    return Workload(phase="training", batch=BATCH, attention="eager", dtype="fp32", **lengths)


def _cache_bytes(cache: Any) -> int:
    """Bytes of every key, value and state that the library's cache object holds, indexers' keys among them."""
    names = ("self_attention_cache", "cross_attention_cache")
    parts = [getattr(cache, name) for name in names if hasattr(cache, name)] or [cache]
    layers = [layer for part in parts for layer in part.layers]
    tensors = [getattr(layer, name, None) for layer in layers for name in ("keys", "values", "indexer_keys")]
    for layer in layers:
        tensors += [x for name in ("conv_states", "recurrent_states") for x in getattr(layer, name, {}).values()]
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def _inputs(spec: Model) -> dict[str, Any]:
    """Inputs on the meta device, under the names that the library gives them."""
    if spec.encoder is not None:
        return {**_input(spec.encoder, SOURCE), "decoder_input_ids": _input(spec, SEQ)["input_ids"]}
    # A tower that feeds the main stack runs on no image unless one is asked for.
    images = {} if spec.tower is None or spec.tower.projector is not None else _input(spec.tower, 0)
    return {**_input(spec, SEQ), **images}


def _input(stack: Stack | Tower, tokens: int) -> dict[str, Any]:
    import torch

    if isinstance(stack.input, PatchInput):
        return {"pixel_values": torch.zeros(BATCH, stack.input.channels, stack.input.image, stack.input.image)}
    if isinstance(stack.input, FrameInput):
        return {"input_features": torch.zeros(BATCH, stack.input.bins, 2 * positions(stack.input))}
    return {"input_ids": torch.zeros(BATCH, tokens, dtype=torch.long)}
