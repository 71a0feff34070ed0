"""Decoders of repositories' own code, against what that code gave."""

from typing import Any

import pytest
from judge.recorded import RECORDED, measured

from txcalc.answer.report import count
from txcalc.huggingface import hub
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload


def config_of(model_type: str, **fields: Any) -> dict[str, Any]:
    """The first drawn configuration of this type, with some of its fields changed."""
    found = next(entry["config"] for entry in RECORDED["drawn"] if entry["config"]["model_type"] == model_type)
    return {**found, **fields}


@pytest.mark.parametrize("entry", RECORDED["drawn"], ids=lambda entry: entry["config"]["model_type"])
def test_a_drawn_model(entry: dict[str, Any]) -> None:
    for name, ours, theirs in measured(entry):
        assert ours == theirs, name


@pytest.mark.parametrize("entry", RECORDED["whole"], ids=lambda entry: entry["source"])
def test_a_whole_checkpoint(entry: dict[str, Any]) -> None:
    model = Model.from_data(spec_from_config(entry["config"], "config.json", "whole"))
    assert 2 * count(model, Workload(seq=3)).totals.params.value == entry["bytes"]


def test_a_layer_that_is_replaced_by_one_matrix_is_refused() -> None:
    blocks = config_of("nemotron-nas")["block_configs"]
    replaced = [{**block, "ffn": {**block["ffn"], "replace_with_linear": True}} for block in blocks]
    with pytest.raises(SpecError, match=r"block_configs\[0\]\.ffn\.replace_with_linear: only false"):
        spec_from_config(config_of("nemotron-nas", block_configs=replaced), "config.json", "drawn")


def test_every_type_is_drawn() -> None:
    assert {entry["config"]["model_type"] for entry in RECORDED["drawn"]} == {*hub.ROWS}


@pytest.mark.parametrize(("model_type", "fields", "said"), [
    ("qwen", {"visual": {"width": 64}}, "visual: not understood"),
    ("qwen", {"no_bias": False}, "no_bias: only true is understood"),
    ("qwen", {"kv_channels": 5}, "kv_channels: only 4 is understood"),
    ("qwen", {"kv_channels": None}, "kv_channels: only 4 is understood"),
    ("chatglm", {"pre_seq_len": 128}, "pre_seq_len: only null is understood"),
    ("chatglm", {"vocab_size": 7}, "vocab_size"),
    ("minicpm", {"sparse_config": {"topk": 64}}, "sparse_config: only null is understood"),
    ("baichuan", {"num_key_value_heads": 1}, "num_key_value_heads: not understood"),
    ("RefinedWeb", {"alibi": True}, "alibi: only false is understood"),
    ("RefinedWeb", {"n_head": 1}, "head_dim: 1 heads of 64 are not as wide"),
    ("stablelm_epoch", {"use_qkv_bias": None}, "use_qkv_bias: must be true or false"),
    ("internvl_chat", {"force_image_size": 48}, "force_image_size: only null or 24 is understood"),
    ("internvl_chat", {"tie_word_embeddings": True}, "tie_word_embeddings: only false is understood"),
    ("internvl_chat", {"select_layer": -2}, "select_layer: only -1 is understood"),
    ("nemotron-nas", {"block_configs": []}, "block_configs: must be a list of"),
    ("mixformer-sequential", {"pad_vocab_size_multiple": 8}, "pad_vocab_size_multiple: only 64 is understood"),
    ("internlm2", {"architectures": ["InternLM2ForSequenceClassifier"]}, "architectures: class"),
])
def test_what_would_change_it_is_refused(model_type: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        spec_from_config(config_of(model_type, **fields), "config.json", "drawn")
