"""The lines above the numbers, which model and which run, and the counting rules below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from txcalc import units
from txcalc.answer.conventions import Convention
from txcalc.answer.report import ModelInfo, Totals
from txcalc.count.labels import KV_CACHE
from txcalc.explain.naming import Fields, blocks, stacks, tower_input
from txcalc.trace.workload import Workload

_PHASES: Final = {"forward": "forward pass", "training": "training step", "prefill": "prefill", "decode": "decode"}


def identity(model: ModelInfo) -> list[str]:
    """``gpt2 · decoder-only · 12 layers · d_model 768 · 12 heads · vocab 50,257 · tied``, in parts."""
    spec = model.spec
    head = spec["head"]
    vocab = spec.get("vocab")
    return [
        model.name,
        spec["architecture"],
        _counted(layers(spec), "layer"),
        f"d_model {units.exact(spec['d_model'])}",
        _heads(spec),
        _experts(spec),
        _tower(spec),
        f"vocab {units.exact(vocab)}" if vocab else "",
        ("tied" if head["tied"] else "untied") if head["kind"] == "lm" else "",
    ]


def _counted(number: int | str, what: str) -> str:
    """``1 layer``, ``12 layers``, ``6 + 6 layers``."""
    shown = number if isinstance(number, str) else units.exact(number)
    return f"{shown} {what}{'' if shown == '1' else 's'}"


def title(model: ModelInfo) -> str:
    """``llama3-8b@layers=30``: the model as a command names it, with what was set."""
    return model.name + (f"@{','.join(model.overrides)}" if model.overrides else "")


def origin(model: ModelInfo) -> list[str]:
    """The source of the model and what was set, where its name does not say it already."""
    source = "" if model.source in (f"preset {model.name}", "python") else f"from {model.source}"
    return [source, *(f"set {override}" for override in model.overrides)]


_CODE: Final = {"torch": "plain PyTorch's", "transformers": "transformers'", "megatron": "Megatron-LM's",
                "nanotron": "nanotron's"}


def run(workload: Workload, defaults: frozenset[str], attention: str | None, *models: ModelInfo) -> list[str]:
    """``batch 1 · seq 1,024 · bf16 · forward pass · flash attention · plain PyTorch's CUDA kernels``, in parts.

    ``attention``: what it runs as, where that is one thing. ``models``: those that run.
    """
    return [
        f"batch {units.exact(workload.batch)}" + f" of {workload.search[0]} beams" * (workload.beams is not None),
        *lengths(workload, defaults, *models),
        dtypes(workload),
        _PHASES[workload.phase],
        "" if workload.layout is None else str(workload.layout),
        *policy(workload if any(map(_has_latents, models)) else workload.replaced(latents=None)),
        "" if attention is None else kernel(workload, attention),
        f"{_CODE[workload.implementation]} {workload.kernels.upper()} kernels",
    ]


def kernel(workload: Workload, attention: str) -> str:
    """``flash attention``, and by what else it was called or asked for."""
    if workload.attention == "sdpa":
        return f"sdpa: {attention} attention"
    beside = "" if attention == workload.attention else f" ({workload.attention} asked for)"
    return f"{attention} attention{beside}"


def lengths(workload: Workload, defaults: frozenset[str], *models: ModelInfo) -> list[str]:
    """The numbers of tokens that are new, cached and read by an encoder, and how many images or sounds by a tower."""
    what = {tower_input(model.spec) for model in models if model.spec.get("tower")}
    one = what.pop() if len(what) == 1 else "input" if what else "image"
    default, each = " (default)", workload.lengths or ()
    own = [f"sequences of {', '.join(map(units.exact, each))}" if len(each) <= 8 else
           f"sequences of {units.exact(min(each))} to {units.exact(max(each))}"] if each else []
    cached = f"{units.exact(workload.past)} cached{default * ('past' in defaults)}"
    return [
        f"seq {units.exact(workload.seq)}{default * ('seq' in defaults and workload.phase != 'decode')}",
        *own,
        cached if workload.past or workload.phase == "decode" else "",
        f"source {units.exact(workload.source_seq)}" if workload.source_seq is not None else "",
        "" if workload.images is None else _counted(workload.images, one) if workload.images else f"no {one}s",
    ]


def dtypes(workload: Workload) -> str:
    """``bf16``, ``bf16 over fp32 shards``, ``amp: bf16 over fp32``, or ``bf16, weights q4_k_m, KV cache fp8``."""
    if workload.layout is not None and workload.layout.shards and workload.dtype != "fp32":
        return f"{workload.dtype} over fp32 shards"
    if workload.precision in ("amp", "mixed"):
        return f"{workload.precision}: {workload.dtype} over fp32"
    weights = f", weights {workload.weights}" if workload.weights not in (None, workload.dtype) else ""
    cache = f", {KV_CACHE} {workload.kv_dtype}" if workload.kv_dtype != workload.dtype else ""
    return workload.dtype + (", products in float8" if workload.precision == "float8" else "") + weights + cache


def policy(workload: Workload) -> list[str]:
    """Policies that are not the usual ones."""
    return [
        f"dropout {workload.dropout:g}" if workload.dropout else "",
        f"recompute {workload.recompute}" if workload.recompute else "",
        f"LoRA {workload.lora}" if workload.lora is not None else "",
        f"DoRA {workload.dora}" if workload.dora is not None else "",
        f"frozen: {', '.join(workload.freeze)}" if workload.freeze else "",
        "masked pairs skipped" if workload.masked == "skipped" else "",
        # Latents are absorbed, or expanded where engines absorb them.
        f"latents {workload.latents}" if workload.latents == "absorbed" or (
            workload.latents == "expanded" and workload.phase == "decode") else "",
    ]


def layers(spec: Fields) -> str:
    """``12``, or ``6 + 6`` for an encoder and a decoder."""
    return " + ".join(units.exact(stack["layers"]) for stack in stacks(spec))


def heads(spec: Fields) -> tuple[int, int | None] | None:
    """Query heads and, where they are counted, heads of keys and values: of the first attention, or the encoder's."""
    found = (block.get("attention") for stack in reversed(stacks(spec)) for block in blocks(stack))
    first = next(filter(None, found), None)
    return None if first is None else (first["heads"], first.get("kv_heads"))


def _heads(spec: Fields) -> str:
    found = heads(spec)
    if found is None:
        return ""
    own, kv = found
    return f"{units.exact(own)} heads" + (f" ({units.exact(kv)} KV)" if kv is not None and kv != own else "")


def _has_latents(model: ModelInfo) -> bool:
    found = (block.get("attention") for stack in stacks(model.spec) for block in blocks(stack))
    return any(each and each["kind"] == "mla" for each in found)


def _tower(spec: Fields) -> str:
    tower = spec.get("tower")
    if not tower:
        return ""
    return f"{tower_input(spec)} tower of {units.exact(tower['layers'])} layers"


def _experts(spec: Fields) -> str:
    layers = (block.get("feed_forward") for stack in stacks(spec) for block in blocks(stack))
    moe = next((layer for layer in layers if layer and layer["kind"] == "moe"), None)
    if moe is None:
        return ""
    shared = f" + {units.exact(moe['shared_experts'])} shared" if moe["shared_experts"] else ""
    return f"{units.exact(moe['experts'])} experts, {units.exact(moe['active_experts'])} active{shared}"


_SHORT: Final = ("flops", "recurrence", "masked", "latents", "distances", "images")


def short(found: Sequence[Convention]) -> str:
    """The rules that change the numbers most, in one sentence."""
    return "; ".join(rule.text for rule in found if rule.id in _SHORT)


def rules(found: Sequence[Convention]) -> list[str]:
    """Every rule, with the option that changes it."""
    return [f"{rule.text} ({rule.flag})" if rule.flag else rule.text for rule in found]


def legend(totals: Totals) -> str:
    """The meaning of the marks."""
    found = totals.quantities().values()
    estimate = any(quantity.kind == "estimate" for quantity in found if quantity is not None)
    return "=  exact for these assumptions" + ("   ~  estimate" if estimate else "")
