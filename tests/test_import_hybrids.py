"""Imported models with recurrent layers run as transformers' classes do, but for the recurrence's own products.

Its FLOPs are an estimate: a class scans in chunks, or token by token. Everything else is compared with ==.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from import_cases import CASES

from txcalc.count.kv_cache import kv_cache_bytes
from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

HYBRIDS = ("mamba", "falcon_mamba", "mamba2", "jamba", "nemotron_h", "granitemoehybrid", "bamba", "minimax",
           "falcon_h1", "kimi_linear", "olmo_hybrid", "lfm2", "zamba", "zamba2",
           "lfm2_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen4_exp_text")
MIXERS = ("Mixer", "MambaLayer", "GatedDeltaNet", "DeltaAttention", "ShortConv", "LightningAttention")
"""How the names of recurrent layers end."""
BATCH, SEQ = 2, 11


def drawn(model_type: str, seed: int) -> dict[str, Any]:
    rng = random.Random(f"{model_type} {seed}")
    fields = {name: rng.choice(values) for name, values in CASES[model_type].items()}
    return {name: value for name, value in fields.items() if value is not None}


def ran(model_type: str, fields: dict[str, Any], dtype: Any = None) -> tuple[Any, Any, FlopCounterMode] | None:
    """The family's first class on the CPU, what it gave, and its FLOPs; None where it refuses these fields."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[model_type](**fields)
        config._attn_implementation = "eager"
        config._experts_implementation = "batched_mm"
        model = getattr(transformers, next(iter(FAMILIES[model_type].classes)))(config)
        model = model.to(dtype or torch.float32).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            out = model(torch.zeros(BATCH, SEQ, dtype=torch.long), use_cache=True)
    except (ValueError, TypeError, RuntimeError, AttributeError):
        return None
    return model, out, counter


def counted(model_type: str, fields: dict[str, Any], **run: Any) -> Any:
    spec = Model.from_data(spec_from_config({"model_type": model_type, **fields}, "config.json", "drawn"))
    return trace(spec, Workload(**{"batch": BATCH, "seq": SEQ, "attention": "eager", "dtype": "fp32",
                                   "kernels": "cpu", **run}))


def held(cache: Any) -> int:
    """Bytes of keys, values and states of every layer."""
    tensors: list[Any] = [x for x in getattr(cache, "linear_cache", []) if len(x)]  # MiniMax's own
    for layer in cache.layers:
        tensors += [getattr(layer, name, None) for name in ("keys", "values", "indexer_keys")]
        for name in ("conv_states", "recurrent_states"):
            tensors += list((getattr(layer, name, None) or {}).values())
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


SCANS = {"zamba": 2}
"""Families whose projections are products of each head, as is what they read of a state: half of the recurrence."""


def measured(model: Any, counter: FlopCounterMode) -> tuple[int, int]:
    """FLOPs of everything but recurrences and their short convolutions, and those of these convolutions."""
    by_module, rest, convolutions = counter.get_flop_counts(), counter.get_total_flops(), 0
    for name, module in model.named_modules():
        if type(module).__name__.endswith(MIXERS):
            for op, flops in by_module[f"{type(model).__name__}.{name}"].items():
                convolutions += flops if "convolution" in str(op) else 0
                scans = "bmm" in str(op) and model.config.model_type not in SCANS
                rest -= flops if "mm" not in str(op) or scans else 0
    return rest, convolutions


def expected(t: Any, model_type: str) -> tuple[int, int]:
    """The same of ours."""
    rest = convolutions = 0
    for op, often in t.placed:
        if op.path.endswith("recurrent.conv"):
            convolutions += op.flops * often.calls
        elif op.kind.group != "recurrence":
            rest += op.flops * often.calls
        elif model_type in SCANS:
            rest += op.flops * often.calls // SCANS[model_type]
    return rest, convolutions


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_projections_and_states_are_those_of_the_class(model_type: str) -> None:
    compared = 0
    for seed in range(8):
        fields = drawn(model_type, seed)
        if compared == 3 or (found := ran(model_type, fields)) is None:
            continue
        model, out, counter = found
        t = counted(model_type, fields)
        assert expected(t, model_type) == measured(model, counter), fields
        cache = out.get("past_key_values") if "past_key_values" in out else out.cache_params
        assert kv_cache_bytes(t) == held(cache), fields
        compared += 1
    assert compared == 3


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_states_in_half_precision_and_convolutions_after_a_past_are_those_of_the_class(model_type: str) -> None:
    """Which states stay in fp32 is each class's own choice; cached inputs stand before the new ones."""
    compared = 0
    for seed in range(8):
        fields = drawn(model_type, seed)
        if compared == 2 or (found := ran(model_type, fields, torch.bfloat16)) is None:
            continue
        model, out, _ = found
        name = "past_key_values" if "past_key_values" in out else "cache_params"
        cache = getattr(out, name)
        assert kv_cache_bytes(counted(model_type, fields, dtype="bf16")) == held(cache), fields
        past = SEQ
        for phase, new in (("decode", 1), ("prefill", 3)):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.zeros(BATCH, new, dtype=torch.long), use_cache=True, **{name: cache})
            _, convolutions = expected(counted(model_type, fields, phase=phase, past=past, seq=new), model_type)
            assert convolutions == measured(model, counter)[1], (fields, phase)
            past += new
        compared += 1
    assert compared == 2
