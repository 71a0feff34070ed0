"""Dense decoders, varied at random, run in transformers' own classes: their FLOPs and caches are those we count."""

from __future__ import annotations

import random
from typing import Any

import pytest
from import_cases import CASES

from txcalc.answer.report import count
from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import located_blocks
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

UNCACHED = {"openai-gpt"}  # a class that runs without a cache
BATCH, DRAWS = 2, 4
SEQ, SHORT = 7, 4
"""A window of the drawn configurations is full at one of these lengths and not at the other."""


def draw(model_type: str, seed: int) -> dict[str, Any]:
    rng = random.Random(f"{model_type} runs {seed}")
    fields = {name: rng.choice(values) for name, values in CASES[model_type].items()}
    if model_type == "ministral":
        fields["sliding_window"] = 5  # the class is built without, and does not run
    if model_type == "gemma4_text" and fields["num_kv_shared_layers"]:
        fields["hidden_size_per_layer_input"] = 6  # the class does not run without
    classes = [name for name in FAMILIES[model_type].classes if hasattr(transformers, name)]
    return {"model_type": model_type, "architectures": [classes[seed % len(classes)]], **fields}


def is_dense(config: dict[str, Any]) -> bool:
    """A decoder alone, of attention with keys and values and dense feed-forwards."""
    spec = Model.from_data(spec_from_config(config, "config.json", "drawn"))
    return spec.architecture == "decoder-only" and spec.tower is None and all(
        block.attention is not None and block.attention.kind == "standard" and block.recurrent is None
        and block.feed_forward is not None and block.feed_forward.kind == "dense"
        for _, block in located_blocks(spec))


DENSE = [name for name in CASES if all(is_dense(draw(name, seed)) for seed in range(DRAWS))]


def live(config: dict[str, Any]) -> Any:
    """The class itself on the CPU, where some of them look at their inputs, with eager attention."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    try:
        parsed = CONFIG_MAPPING[config["model_type"]](**fields)
        parsed._attn_implementation = parsed._experts_implementation = "eager"
        parsed.pad_token_id = 0  # without one a classifier takes no batch
        return getattr(transformers, config["architectures"][0])(parsed).eval()
    except (ValueError, TypeError, RuntimeError, AssertionError, AttributeError):
        return None


def ids(spec: Model, seq: int) -> Any:
    """Tokens of a batch; those of each codebook are a row."""
    return torch.full((BATCH * (1 + len(spec.token_tables)), seq), 3)


def flops(model: Any, given: Any) -> int:
    """FLOPs of a prefill of ``SEQ`` tokens by PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(given)
    return int(counter.get_total_flops())


def held(model: Any, given: Any) -> int:
    """Bytes of the keys and values after a prefill of ``SHORT`` tokens; a layer that reads another's holds none."""
    with torch.no_grad():
        cache = model(given, use_cache=True).past_key_values
    own = getattr(cache, "self_attention_cache", cache)  # of a decoder that may read an encoder
    tensors = [x for layer in own.layers for x in (layer.keys, layer.values) if x is not None]
    return sum(x.numel() * x.element_size() for x in tensors)


@pytest.mark.grid(9)
@pytest.mark.parametrize("model_type", DENSE)
def test_flops_and_cache_equal_the_class(model_type: str) -> None:
    compared = 0
    for seed in range(DRAWS):
        config = draw(model_type, seed)
        model = live(config)
        if model is None:
            continue
        try:
            spec = Model.from_data(spec_from_config(config, "config.json", "drawn"))
        except SpecError as error:
            pytest.fail(f"{config}: {error}")
        prefill = count(spec, Workload.prefill(seq=SEQ, batch=BATCH, attention="eager")).totals
        assert prefill.flops_forward.value == flops(model, ids(spec, SEQ)), config
        cache = count(spec, Workload.prefill(seq=SHORT, batch=BATCH, dtype="fp32")).totals.kv_cache_bytes
        if model_type not in UNCACHED and config["architectures"][0].endswith(("ForCausalLM", "LMHeadModel")):
            assert cache is not None and cache.value == held(model, ids(spec, SHORT)), config
        compared += 1
    assert compared >= DRAWS // 2
