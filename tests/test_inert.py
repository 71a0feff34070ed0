"""Fields that no class reads: the table is the installed source's, and such fields change no class."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from test_import_fields import CASES, LLAMA, base, counted

from txcalc.spec.errors import SpecError
from txcalc.spec.huggingface.config import class_defaults
from txcalc.spec.huggingface.importer import spec_from_config
from txcalc.spec.huggingface.inert import is_inert

transformers = pytest.importorskip("transformers")

FIELDS = sorted({name for fields in class_defaults().values() for name in fields})
VALUES: tuple[Any, ...] = (7, True, "relu", None, [1, 2], {"a": 1}, 0.5, 0)


def notes_on(config: dict[str, Any]) -> list[str]:
    notes: list[str] = []
    spec_from_config(config, "config.json", "x", notes=notes)
    return notes


def test_the_table_equals_the_installed_source() -> None:
    from judge.table import WORDS, words_table

    assert json.loads(WORDS.read_text()) == words_table()


@pytest.mark.parametrize("model_type", CASES)
def test_fields_of_other_families_that_none_of_its_classes_reads_change_nothing(model_type: str) -> None:
    """All of them at once, in the file and in the class; that the class asks for none is recorded as it is built."""
    from judge.reads import reads_of_building

    config = base(model_type)
    foreign = [name for name in FIELDS if name not in config and is_inert(name, (model_type,))]
    assert len(foreign) > 100
    strange = {name: VALUES[i % len(VALUES)] for i, name in enumerate(foreign)}
    built, reads = reads_of_building({**config, **strange})
    plain, _ = reads_of_building(config)
    assert built == plain
    assert not {name for name, _ in reads} & set(strange)
    ours = counted(config)
    counts = [counted({**config, name: strange[name]}) for name in random.Random(model_type).sample(foreign, 20)]
    assert set(counts) <= {ours, None} and counts.count(ours) > 10  # None: a size that contradicts the one read


@pytest.mark.parametrize(("model_type", "more"), [
    ("qwen3_moe", {"qkv_bias": False, "shared_expert_intermediate_size": 0, "use_qk_norm": True}),
    ("bamba", {"mamba_dt_rank": "auto"}),
    ("llama", {"use_sliding_window": True, "never_heard_of": {"a": 1}}),
    ("ernie4_5", {"compression_ratio": 2.0}),
])
def test_what_the_class_does_not_read_is_passed_over_with_one_note(model_type: str, more: dict[str, Any]) -> None:
    config = base(model_type)
    assert counted({**config, **more}) == counted(config)
    fields = "1 field" if len(more) == 1 else f"{len(more)} fields"
    note = f"passed over {fields} that {config['architectures'][0]} does not read: {', '.join(more)}"
    assert notes_on({**config, **more}) == [note]
    with pytest.raises(SpecError, match="not understood"):
        spec_from_config({**config, **more}, "config.json", "x", strict=True)


@pytest.mark.parametrize(("more", "message"), [
    ({"n_embd": 64}, "64 contradicts hidden_size 32, which alone is read"),
    ({"n_layer": 3}, "3 contradicts num_hidden_layers 2, which alone is read"),
    ({"transformers_version": "6.1.0", "mystery": 1}, "mystery: not understood"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 16, "mystery": 1}}, "mystery"),
])
def test_what_may_mean_something_else_is_refused(more: dict[str, Any], message: str) -> None:
    """A size under a name that its class does not read; a field of a later version's; what is no class's to read."""
    with pytest.raises(SpecError, match=message):
        spec_from_config({**LLAMA, **more}, "config.json", "x")


def test_a_size_under_a_name_that_is_not_read_may_say_the_same() -> None:
    assert notes_on({**LLAMA, "n_layer": 2, "n_embd": 32}) == [
        "passed over 2 fields that LlamaForCausalLM does not read: n_layer, n_embd"]
