"""transformers' own classes, measured: fake tensors do as real ones, and a step takes what it took on a card."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch

from txcalc.check import classes, fake_cuda
from txcalc.check.fake_cuda import NotRun

WIDTHS = {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40,
          "vocab_size": 101}
STACKS = {"d_model": 24, "vocab_size": 101, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
          "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
CONFIGS: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 19, "vocab_size": 101},
    "LlamaForCausalLM": WIDTHS | {"num_attention_heads": 6, "num_key_value_heads": 2},
    "GPTNeoXForCausalLM": WIDTHS,
    "BertForMaskedLM": WIDTHS,
    "ViTForImageClassification": WIDTHS | {"image_size": 12, "patch_size": 4, "num_labels": 5},
    "BartForConditionalGeneration": STACKS,
    "T5ForConditionalGeneration": {"d_model": 24, "d_ff": 40, "d_kv": 8, "num_layers": 2, "num_heads": 3,
                                   "vocab_size": 101, "decoder_start_token_id": 0},
    "WhisperForConditionalGeneration": STACKS | {
        "max_source_positions": 11, "max_target_positions": 19, "num_mel_bins": 7, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}
MIXTRAL = WIDTHS | {"architectures": ["MixtralForCausalLM"], "num_key_value_heads": 3, "num_local_experts": 5,
                    "num_experts_per_tok": 2}
FACTS = json.loads((Path(__file__).parent / "data" / "gpu" / "h200.json").read_text())


def config(name: str) -> dict[str, Any]:
    return CONFIGS[name] | {"architectures": [name]}


def run(name: str) -> dict[str, Any]:
    return {"source_seq": 5} if name.startswith(("Bart", "T5")) else {}


@pytest.mark.grid(11)
@pytest.mark.parametrize("how", [
    {"attention": "eager"}, {"attention": "eager", "dtype": torch.bfloat16, "dropout": 0.1}, {"attention": "sdpa"},
    {"attention": "sdpa", "dropout": 0.1},
], ids=["eager", "eager-bf16-dropout", "sdpa", "sdpa-dropout"])
@pytest.mark.parametrize("name", CONFIGS)
def test_fake_tensors_do_as_real_ones(name: str, how: dict[str, Any]) -> None:
    """They have no data that a class could look at: it is told what it would see."""
    real, fake = (classes.kept(config(name), 2, 7, device=on, **run(name), **how) for on in ("cpu", "fake"))
    assert len(real) > 30
    assert fake == real
    one, other = (classes.live_bytes(config(name), 2, 7, device=on, **run(name), **how) for on in ("cpu", "fake"))
    assert max(live for _, live in one) == max(live for _, live in other) > sum(each.nbytes for each in real)
    assert one[-1] == other[-1]


def test_experts_get_equal_shares() -> None:
    """Of 28 rows the first three of five experts get six, the others five; each keeps two factors."""
    found = classes.kept(MIXTRAL, 2, 7, attention="eager", experts="eager")
    rows = [each.shape[0] for each in found if each.path == "model.layers.0.mlp.experts" and each.shape[1:] == (40,)]
    assert rows == [n for n in (6, 6, 6, 5, 5) for _ in range(2)]


@pytest.mark.parametrize("name", CONFIGS)
def test_recomputation_keeps_less(name: str) -> None:
    plain, again = (classes.kept(config(name), 2, 7, **run(name), recompute=each) for each in (False, True))
    assert sum(each.nbytes for each in again) < 0.6 * sum(each.nbytes for each in plain)


@pytest.mark.grid(7)
@pytest.mark.parametrize("index", [
    n for n, row in enumerate(FACTS["rows"]) if row["kind"] == "step" and row["name"] in ("gpt2 124M", "llama 1B")
])
def test_a_step_on_a_card(index: int) -> None:
    """Its peak above what was there before, as the allocator of an H200 counted it: in blocks of 512 bytes."""
    row = FACTS["rows"][index]
    given, measured = row["config"], row["measured"]
    try:
        events = fake_cuda.ask("live_bytes", given["model"], given["batch"], given["seq"], dtype="bf16",
                               attention="sdpa", recompute=given["recompute"] == "full")
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    peak = measured["peak_backward"] - measured["step_start"]
    assert max(live for _, live in events) == pytest.approx(peak, rel=2e-5)


def test_a_class_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="has no class GPT9Model"):
        classes.kept({"architectures": ["GPT9Model"]}, 1, 7)
