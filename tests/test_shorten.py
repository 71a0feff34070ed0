"""A shortened spec stands for the same model, and has nothing left to leave out."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from specs import specs

from txcalc.huggingface.importer import spec_from_config
from txcalc.models.load import load, names
from txcalc.spec.model import Model
from txcalc.spec.shorten import shorten
from txcalc.spec.yaml import dump_yaml, read_yaml

FACTS = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())


def through_yaml(model: Model) -> Model:
    return Model.from_data(read_yaml(dump_yaml(shorten(model)), "short.yaml").data)


@pytest.mark.parametrize("name", [info.name for info in names()])
def test_presets(name: str) -> None:
    model = load(name).model
    assert through_yaml(model) == model


@pytest.mark.parametrize("name", FACTS)
def test_configurations(name: str) -> None:
    model = Model.from_data(spec_from_config(FACTS[name]["config"], "config.json", name))
    assert through_yaml(model) == model


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(specs())
def test_random_specs(model: Model) -> None:
    assert through_yaml(model) == model


def test_nothing_is_left_to_leave_out() -> None:
    config = FACTS["gemma-2-2b"]["config"]
    model = Model.from_data(spec_from_config(config, "config.json", "gemma-2-2b"))
    short = shorten(model)
    assert short["groups"] == [{"repeat": 13, "blocks": [{"attention": {"window": 4096}}, {}]}]
    for name in short:
        try:
            without = Model.from_data({key: value for key, value in short.items() if key != name})
        except ValueError:
            continue
        assert without != model, name


def test_short_words() -> None:
    tiny: dict[str, Any] = {"name": "tiny", "vocab": 97, "d_model": 24, "layers": 5, "context": 64,
                            "attention": {"heads": 6, "bias": True}, "feed_forward": {"d_ff": 41, "bias": {"up": True}},
                            "position": "none"}
    assert shorten(Model.from_data(tiny)) == tiny
