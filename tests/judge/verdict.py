"""What is read of one model type, against its class: weights, FLOPs, the cache, active parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import test_import_decoders
import test_import_encoders
import test_import_experts
import test_import_multimodal
import torch
import transformers
from classes import on_meta, own_config
from huggingface_defaults import NAMED_OTHERWISE
from torch.utils.flop_counter import FlopCounterMode

from judge.recorded import recorded
from txcalc.answer.report import count
from txcalc.huggingface import hub
from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal, layer_order
from txcalc.spec.layers import MoE
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

BATCH, SEQ = 2, 13
Draw = Callable[[str, int], dict[str, Any]]
CAN_FAIL = (ValueError, TypeError, RuntimeError, AssertionError, AttributeError, LookupError, NotImplementedError,
            ZeroDivisionError, ImportError)
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
REPEATED: dict[str, Callable[[Any], int]] = {
    "falcon": lambda c: c.num_attention_heads // c.num_kv_heads if c.new_decoder_architecture else 1,
}
"""How often a class repeats keys and values before it caches them, which engines do not."""
READS_ROUTES = ("jetmoe", "xlnet")
"""Types that do not run on meta: they read how many rows each expert gets, or make tensors on a device they name."""
SKELETONS = ("llama", "qwen3", "qwen2", "olmo2", "gemma", "phi3", "mixtral", "qwen3_moe", "deepseek_v3", "bert", "vit")
"""Families whose forward pass others have, too, so that a row that says no more would do for them."""


class Verdict(NamedTuple):
    """``word``: exact, wrong, refused or unknown. ``compared``: which quantities, in how many draws."""

    word: str
    detail: str = ""
    compared: Mapping[str, int] = MappingProxyType({})


def draws_of(model_type: str) -> Draw | None:
    """How configurations of a type are drawn; None where there is no table of its fields."""
    if model_type in test_import_decoders.CASES:
        def draw(name: str, seed: int) -> dict[str, Any]:
            fields = {field: value for field, value in test_import_decoders.draw(name, seed).items()
                      if value is not None}
            classes = list(FAMILIES[name].classes)
            return {"model_type": name, "architectures": [classes[0 if seed % 3 else seed % len(classes)]], **fields}
        return draw
    for module in (test_import_encoders, test_import_multimodal):
        if model_type in module.CASES or model_type in getattr(module, "NESTED", ()):
            return module.draw
    return None


def judge(model_type: str, draws: int = 12) -> Verdict:
    """The verdict on a type of the installed library."""
    if model_type not in FAMILIES:
        return Verdict("unknown", _skeleton(model_type))
    if model_type in hub.ROWS:
        return _as_recorded(model_type)
    draw = draws_of(NAMED_OTHERWISE.get(model_type, model_type))
    if draw is None:
        return Verdict("unknown", "read, but nothing draws it")
    compared: Counter[str] = Counter()
    refused: SpecError | None = None
    alone = ""
    for seed in range(draws):
        config = draw(NAMED_OTHERWISE.get(model_type, model_type), seed) | {"model_type": model_type}
        model = live(config)
        if model is None:
            continue
        try:
            spec = Model.from_data(spec_from_config(config, "config.json", "drawn"))
        except SpecError as error:
            refused = error
            continue
        alone = "what sees, hears or speaks counts as weights alone, of which no run has any" if spec.idle else alone
        for name, ours, theirs in measured(config, spec, model):
            if ours != theirs:
                return Verdict("wrong", f"{name}: {_difference(ours, theirs)}, draw {seed}", compared)
            compared[name] += 1
    if not compared:
        return Verdict("refused", str(refused) if refused else "no draw can be built")
    return Verdict("exact", f"refused among them: {refused.field}: {refused.message}" if refused else alone, compared)


def _as_recorded(model_type: str) -> Verdict:
    compared: Counter[str] = Counter()
    for name, ours, theirs in recorded(model_type):
        if ours != theirs:
            return Verdict("wrong", f"{name}: {_difference(ours, theirs)}", compared)
        compared[name] += 1
    return Verdict("exact", "code of its repositories", compared)


def live(config: dict[str, Any]) -> Any:
    """The class on meta, in eager attention, with experts that the counter sees; None where it refuses the draw."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    try:
        cls = getattr(transformers, config["architectures"][0])
        whole = CONFIG_MAPPING[NAMED_OTHERWISE.get(config["model_type"], config["model_type"])](**fields)
        parsed = own_config(cls, whole)
        parsed._attn_implementation, parsed._experts_implementation = "eager", "batched_mm"
        with on_meta():
            return cls(parsed).eval()
    except CAN_FAIL:
        return None
    except Exception as error:  # the library's own class of validation errors
        if "Validation" in type(error).__name__:
            return None
        raise


def measured(config: dict[str, Any], spec: Model, model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every quantity that can be looked at without data: ours and the class's."""
    bare = trace(spec, Workload(seq=3) if spec.input.kind == "tokens" else Workload())
    yield "weights", *_shapes(bare, model)
    k = next((config[name] for name in CHOSEN if name in config), None)
    if k is not None and any(isinstance(block.feed_forward, MoE) for _, block in layer_order(spec)):
        yield "active", count(spec, Workload(seq=3)).totals.params_active.value, test_import_experts.active(model, k)
    if spec.input.kind != "tokens" or spec.encoder is not None or spec.tower is not None:
        return
    device = "cpu" if config["model_type"] in READS_ROUTES else "meta"
    if device == "cpu":
        model = model.to_empty(device=device)
    rows = BATCH * getattr(spec.head, "copies", 1)  # each codebook's tokens are a row
    try:
        with torch.device(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            out = model(input_ids=torch.zeros(rows, SEQ, dtype=torch.long), use_cache=True)
    except CAN_FAIL:
        return
    phase = "prefill" if "past_key_values" in out and is_causal(spec) else "forward"
    report = count(spec, Workload(phase=phase, batch=BATCH, seq=SEQ, attention="eager", dtype="fp32"))
    if any(block.recurrent is not None for _, block in layer_order(spec)):
        return  # what its kernels run is compared apart, in tests/test_import_hybrids.py
    if config["model_type"] not in test_import_multimodal.RUNS_ALL:
        yield "FLOPs", report.totals.flops_forward.value, counter.get_total_flops()
    cache = out.get("past_key_values")
    if cache is not None and report.totals.kv_cache_bytes is not None and hasattr(cache, "layers"):
        times = REPEATED[config["model_type"]](model.config) if config["model_type"] in REPEATED else 1
        yield "cache", test_import_experts.held_there(report) * times, test_import_experts.cache_bytes(cache)


def _shapes(t: Trace, model: Any) -> tuple[Any, Any]:
    """All weights by their sizes; what has none of the same on the other side is one weight there, or several.

    Those are compared by their sum: projections that are stored as one, experts that are stored apart.
    """
    ours: Counter[tuple[int, ...]] = Counter()
    for op, often in t.placed:
        for _, shape in op.weights:
            ours[_sizes(shape)] += often.copies
    theirs = Counter(_sizes(weight.shape) for weight in {id(p): p for p in model.parameters()}.values())
    left, right = ours - theirs, theirs - ours
    if _total(left) == _total(right):
        return True, True
    return dict(left), dict(right)


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(sorted(size for size in shape if size != 1))


def _total(shapes: Counter[tuple[int, ...]]) -> int:
    return sum(prod(shape) * times for shape, times in shapes.items())


def _difference(ours: Any, theirs: Any) -> str:
    return f"{ours:,} for {theirs:,}" if isinstance(ours, int) else f"{ours} for {theirs}"


def _skeleton(model_type: str) -> str:
    """Which family's forward pass has the weights of this type's own defaults, made small; empty where none has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as classes

    name = classes.get(model_type)
    if not isinstance(name, str):
        return ""
    small = {"vocab_size": 101, "hidden_size": 48, "intermediate_size": 37, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 97, "head_dim": 10,
             "moe_intermediate_size": 11, "num_experts_per_tok": 2, "pad_token_id": 0}
    model = live({"model_type": model_type, "architectures": [name], **small})
    if model is None:
        return ""
    known = CONFIG_MAPPING[model_type](**small).to_dict()
    for skeleton in SKELETONS:
        data = known | {"model_type": skeleton, "architectures": [next(iter(FAMILIES[skeleton].classes))]}
        try:
            spec = Model.from_data(spec_from_config(data, "config.json", "drawn"))
            ours, theirs = _shapes(trace(spec, Workload(seq=3)), model)
        except CAN_FAIL:
            continue
        if ours == theirs:
            return f"{skeleton}'s skeleton has its weights"
    return ""
