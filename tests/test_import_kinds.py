"""Values of a kind that no class has are read or refused by one line, in every field of every family."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from import_cases import CASES as DECODERS
from import_encoder_cases import CASES as ENCODERS

from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError

VALUES: list[Any] = [None, "x", [], {}, 5, 0, -1, True, 1.5, ["x"], [None], {"a": 1}]
CASES: dict[str, Any] = {**ENCODERS, **DECODERS}


def drawn(values: Any, rng: random.Random) -> Any:
    """One of the values of every field, also of those within a field."""
    if isinstance(values, dict):
        return {name: drawn(each, rng) for name, each in values.items()}
    return rng.choice(values)


def changed(config: dict[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    """The configuration with another value for one field, three for each."""
    for name, value in config.items():
        yield from ({**config, name: each} for each in rng.sample(VALUES, 3))
        if isinstance(value, dict):
            yield from ({**config, name: inner} for inner in changed(value, rng))


@pytest.mark.parametrize("model_type", CASES)
def test_a_value_of_another_kind_is_read_or_refused(model_type: str) -> None:
    rng, compared = random.Random(model_type), 0
    for name in itertools.islice(FAMILIES[model_type].classes, 2):
        config = {"model_type": model_type, "architectures": [name], **drawn(CASES[model_type], rng)}
        for each in changed(config, rng):
            compared += 1
            with contextlib.suppress(SpecError):
                spec_from_config(each, "config.json", "drawn")
    assert compared > 20


@pytest.mark.parametrize("model_type", ["qwen3", "gemma2", "llama4_text"])
def test_layers_that_differ_are_not_listed_without_end(model_type: str) -> None:
    rng = random.Random(model_type)
    name = next(iter(FAMILIES[model_type].classes))
    config = {"model_type": model_type, "architectures": [name], **drawn(CASES[model_type], rng)}
    with pytest.raises(SpecError, match="read one by one, up to 100,000 of them"):
        spec_from_config({**config, "num_hidden_layers": 10**12}, "config.json", "drawn")
