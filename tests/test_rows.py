"""A new type is one row and nothing else: the one that the documentation invents, and cases that nobody writes."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from import_cases import listed_case

from txcalc.huggingface import families
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model

pytest.importorskip("transformers")
from judge.verdict import live, measured

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
SIZES = {"vocab_size": 101, "hidden_size": 40, "intermediate_size": 53, "num_attention_heads": 8, "head_dim": 6,
         "num_key_value_heads": 2, "max_position_embeddings": 97, "tie_word_embeddings": False, "sliding_window": 5,
         "hidden_act": "silu"}


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert example is not None
    names: dict[str, Any] = {}
    exec(example[1], names)
    monkeypatch.setattr(families, "FAMILIES", {**families.FAMILIES, **names["ROWS"]})


@pytest.mark.usefixtures("invented")
@pytest.mark.parametrize(("layers", "bias"), [(4, False), (9, True)])
def test_the_row_of_an_invented_family_counts_as_its_class_would(layers: int, bias: bool) -> None:
    """Qwen 3's class is such a one, once it is told which layers slide."""
    fields = {**SIZES, "num_hidden_layers": layers, "attention_bias": bias}
    kinds = ["full_attention" if (i + 1) % 4 else "sliding_attention" for i in range(layers)]
    theirs = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **fields, "layer_types": kinds,
              "use_sliding_window": True}
    ours = {"model_type": "invented", "architectures": ["InventedForCausalLM"], **fields}
    spec = Model.from_data(spec_from_config(ours, "config.json", "x"))
    found = {name: pair for name, *pair in measured(theirs, spec, live(theirs))}
    assert {*found} == {"weights", "FLOPs", "cache"}
    assert all(one == other for one, other in found.values()), found


@pytest.mark.usefixtures("invented")
@pytest.mark.parametrize(("more", "field"), [({"use_qk_norm": True}, "use_qk_norm"), ({"head_dim": "x"}, "head_dim"),
                                             ({"layer_types": ["full_attention"]}, "layer_types")])
def test_it_refuses_what_it_does_not_understand(more: dict[str, Any], field: str) -> None:
    data = {"model_type": "invented", **SIZES, "num_hidden_layers": 4, "attention_bias": False, **more}
    with pytest.raises(SpecError) as caught:
        spec_from_config(data, "config.json", "x")
    assert caught.value.field == field


def test_every_type_stands_in_one_row() -> None:
    rows = [name for module in families._MODULES for name in getattr(module, "ROWS", {})]
    assert len(rows) == len({*rows})
    assert {*rows} <= {*families.FAMILIES}


@pytest.mark.parametrize("model_type", ["llama", "olmo", "cohere", "mixtral", "gpt_neox", "glm4_moe"])
def test_a_case_that_nobody_writes_varies_what_the_class_has(model_type: str) -> None:
    case = listed_case(model_type)
    assert {"hidden_size", "vocab_size", "num_hidden_layers"} <= {*case}
    assert sum(len(values) > 1 for values in case.values()) >= 5
    exact = 0
    for seed in range(6):
        rng = random.Random(seed)
        config = {"model_type": model_type, **{name: rng.choice(values) for name, values in case.items()}}
        config["architectures"] = [next(iter(families.FAMILIES[model_type].classes))]
        if (model := live(config)) is not None:
            spec = Model.from_data(spec_from_config(config, "config.json", "x"))
            for name, ours, theirs in measured(config, spec, model):
                assert ours == theirs, (name, config)
            exact += 1
    assert exact >= 3
