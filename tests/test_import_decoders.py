"""Decoder configurations, varied at random, agree with transformers' own classes on the meta device."""

import random
from typing import Any

import pytest
from import_cases import CASES as OWN
from import_cases import WHOLE

from txcalc.count.params import params
from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from classes import on_meta, own_config, unique_params  # noqa: E402

CASES = OWN | WHOLE
DRAWS = 12
LEFT_TO_DEFAULTS = ("vocab_size", "tie_word_embeddings", "max_position_embeddings", "attention_bias", "mlp_bias",
                    "norm_topk_prob", "use_bias", "qkv_bias", "parallel_attn", "decoder_sparse_step")


def draw(model_type: str, seed: int) -> dict[str, Any]:
    rng = random.Random(f"{model_type} {seed}")
    return {
        name: rng.choice(values) for name, values in CASES[model_type].items()
        if name not in LEFT_TO_DEFAULTS or rng.random() < 0.8
    }


def live_params(model_type: str, fields: dict[str, Any], class_name: str) -> int | None:
    """Unique parameters of the class on meta; None when the class itself refuses these fields."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {k: v for k, v in fields.items() if not (k == "attention_types" and v is None)}
    try:
        cls = getattr(transformers, class_name)
        with on_meta():
            model = cls(own_config(cls, CONFIG_MAPPING[model_type](**fields)))
    except (ValueError, TypeError, RuntimeError, AssertionError, ZeroDivisionError, AttributeError, IndexError):
        return None
    return unique_params(model)


@pytest.mark.grid(11)
@pytest.mark.parametrize("model_type", CASES)
def test_parameters_equal_the_class(model_type: str) -> None:
    compared = 0
    for seed in range(DRAWS):
        fields = {k: v for k, v in draw(model_type, seed).items() if not (k == "attention_types" and v is None)}
        classes = FAMILIES[model_type].classes
        class_name = next(iter(classes)) if seed % 3 else random.Random(seed).choice(list(classes))
        live = live_params(model_type, fields, class_name) if hasattr(transformers, class_name) else None
        if live is None:
            continue
        config = {"model_type": model_type, "architectures": [class_name], **fields}
        try:
            spec = Model.from_data(spec_from_config(config, "config.json", "drawn"))
        except SpecError as error:
            pytest.fail(f"{config}: {error}")
        assert params(trace(spec, Workload(seq=3))) == live, config
        compared += 1
    assert compared >= DRAWS // 2
