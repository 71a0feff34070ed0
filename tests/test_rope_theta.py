"""The base of rotary frequencies: what the live configuration has, and for presets what was published."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from huggingface_defaults import NAMED_OTHERWISE, THETAS, as_text, read_thetas, read_types, thetas
from import_cases import CASES

from txcalc.huggingface.importer import spec_from_config
from txcalc.models.load import load, names
from txcalc.spec.model import Model

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "published_positions.json").read_text())
"""Context and thetas of presets, each read in the source beside them."""


def live(model_type: str, config: dict[str, Any]) -> tuple[float | None, float | None]:
    """Of the live configuration: of layers that see everything, and of those with a window where they differ."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    full, near = thetas(CONFIG_MAPPING[NAMED_OTHERWISE.get(model_type, model_type)](**config)).values()
    return full, None if near == full else near


def test_the_table_is_that_of_the_installed_classes() -> None:
    pytest.importorskip("transformers")
    assert THETAS.read_text() == as_text(read_thetas(read_types())), "run: python tests/huggingface_defaults.py"


def test_an_imported_theta_is_the_class_s() -> None:
    pytest.importorskip("transformers")
    compared = 0
    for model_type, values in CASES.items():
        rng = random.Random(f"{model_type} 8")  # of its own: what one type draws is no matter of the others
        config = {name: rng.choice(choices) for name, choices in values.items()}
        for own in ({}, {"rope_theta": 54_321.0}):
            given = {**config, **({} if "rope_parameters" in config else own)}
            spec = spec_from_config({"model_type": model_type, **given}, "config.json", "x")
            expected = live(model_type, given)
            position = spec["position"]
            if expected[0] is None or not isinstance(position, dict) or position["kind"] != "rope":
                continue
            assert (position["theta"], position.get("window_theta")) == expected, (model_type, own)
            compared += 1
    assert compared > 100


@pytest.mark.parametrize("name", [info.name for info in names()])
def test_a_preset_s_context_and_theta_are_the_published_ones(name: str) -> None:
    """A theta that nobody could be read for is not stated, and neither is a wrong one."""
    model = load(name).model
    fact = FACTS.get(name, {})
    position = model.position.to_data()
    assert position.get("theta") == fact.get("theta") and position.get("window_theta") == fact.get("window_theta")
    if "context" in fact:
        assert model.context == fact["context"]
    if "theta" in fact:
        assert "theta" in model.sources


def test_most_presets_with_rotary_positions_have_a_theta() -> None:
    rotary = [info.name for info in names() if load(info.name).model.position.kind == "rope"]
    assert sum("theta" in FACTS.get(name, {}) for name in rotary) >= 86 and len(rotary) >= 143


def test_without_a_theta_none_is_reported() -> None:
    base = {"name": "x", "vocab": 31, "d_model": 12, "layers": 2, "context": 41, "attention": {"heads": 2},
            "feed_forward": {"d_ff": 5}, "position": {"kind": "rope"}}
    assert Model.from_data(base).position.to_data()["theta"] is None
