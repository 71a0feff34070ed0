"""Whose code runs: what transformers' classes keep and hold, event by event; and what no code changes."""

from typing import Any

import pytest

pytest.importorskip("transformers")

import transformers

from tests.decoder_configs import DECODERS
from txcalc.check import classes, fake_cuda, measure
from txcalc.check.fake_cuda import NotRun
from txcalc.check.live import dtypes
from txcalc.count import flops, kv_cache, params
from txcalc.count.entries import grouped
from txcalc.count.lifetimes import live_bytes
from txcalc.huggingface.importer import spec_from_config
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal, positions
from txcalc.spec.inputs import HeadTransform, LearnedPosition, LMHead
from txcalc.spec.layers import Dense, MoE, Norm
from txcalc.spec.model import Model
from txcalc.trace.implementations import DECODER, code, features
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

WIDTHS = {"vocab_size": 101, "hidden_size": 30, "intermediate_size": 41, "num_hidden_layers": 2,
          "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
          "tie_word_embeddings": False}
LLAMA = WIDTHS | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 101, "n_embd": 24, "n_layer": 2,
        "n_head": 3, "n_positions": 19, "bos_token_id": 0, "eos_token_id": 0}
NEOX = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 101, "hidden_size": 48,
        "intermediate_size": 41, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 32,
        "rotary_pct": 0.25, "bos_token_id": 0, "eos_token_id": 0}
BERT = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "vocab_size": 101, "hidden_size": 24,
        "intermediate_size": 41, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 32}
VIT = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 24, "intermediate_size": 41,
       "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 12, "patch_size": 4,
       "id2label": {str(n): str(n) for n in range(5)}}
STACKS = {"d_model": 24, "vocab_size": 101, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 3,
          "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 44}
BART = STACKS | {"architectures": ["BartForConditionalGeneration"], "model_type": "bart", "max_position_embeddings": 32}
T5 = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 24, "d_ff": 40, "d_kv": 8,
      "num_layers": 3, "num_heads": 3, "vocab_size": 101, "decoder_start_token_id": 0}
WHISPER = STACKS | {
    "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "max_source_positions": 11,
    "max_target_positions": 19, "num_mel_bins": 7, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama-tied": LLAMA | {"tie_word_embeddings": True, "num_hidden_layers": 3},
    "llama-multi-head": LLAMA | {"num_key_value_heads": 6},
    "llama-multi-query": LLAMA | {"num_attention_heads": 5, "num_key_value_heads": 1},
    "llama-bias": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama-wide-heads": LLAMA | {"head_dim": 16, "num_hidden_layers": 1},
    "llama-heads-beyond-flash": LLAMA | {"head_dim": 264, "num_hidden_layers": 1},
    "gpt2": GPT2,
    "gpt2-inner": GPT2 | {"n_embd": 40, "n_layer": 3, "n_head": 5, "n_inner": 67},
    "neox": NEOX,
    "neox-all-rotated": NEOX | {"rotary_pct": 1.0, "num_hidden_layers": 1},
    "neox-without-bias": NEOX | {"hidden_size": 40, "num_attention_heads": 5, "rotary_pct": 0.5,
                                 "attention_bias": False, "tie_word_embeddings": True},
    "neox-sequential": NEOX | {"use_parallel_residual": False, "rotary_pct": 0.2},
    "bert": BERT,
    "bert-wide-heads": BERT | {"hidden_size": 52, "num_attention_heads": 4, "num_hidden_layers": 1},
    "vit": VIT,
    "vit-without-bias": VIT | {"hidden_size": 52, "num_attention_heads": 4, "num_hidden_layers": 1, "patch_size": 3,
                               "num_channels": 2, "qkv_bias": False},
    "gpt2-wide-heads": GPT2 | {"n_embd": 48, "n_layer": 1},
    "bart": BART,
    "bart-wide-heads": BART | {"d_model": 52, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
                               "encoder_layers": 4, "decoder_layers": 1, "scale_embedding": True,
                               "activation_function": "relu"},
    "t5": T5,
    "t5-gated": T5 | {"feed_forward_proj": "gated-gelu", "d_kv": 13, "num_layers": 1, "num_decoder_layers": 4},
    "mt5": T5 | {"architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "d_model": 30,
                 "feed_forward_proj": "gated-silu", "num_decoder_layers": 1},
    "whisper": WHISPER,
    "whisper-wide-heads": WHISPER | {"d_model": 52, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
                                     "encoder_layers": 1, "decoder_layers": 4, "max_source_positions": 5},
    **DECODERS,
    **{f"{name}-{act}": {"gpt2": GPT2, "bert": BERT, "t5": T5}[name] | {key: act} for name, key, act in (
        ("gpt2", "activation_function", "gelu_pytorch_tanh"), ("bert", "hidden_act", "gelu_fast"),
        ("bert", "hidden_act", "gelu_python"), ("t5", "feed_forward_proj", "gated-relu2"))},
}
CLASSES = {"pad_token_id": 0, "id2label": {str(n): str(n) for n in range(5)}}
for _name, _config in [(each, CONFIGS[each]) for each in (
    "llama", "gpt2", "neox", "bert", "mixtral", "gemma3", "phi3", "olmo2", "qwen3", "deepseek-v3")]:
    _class = _config["architectures"][0].removesuffix("ForCausalLM").removesuffix("LMHeadModel").removesuffix(
        "ForMaskedLM").replace("Gemma3", "Gemma3Text")
    for _head, _more in (("SequenceClassification", CLASSES), ("TokenClassification", CLASSES),
                         ("QuestionAnswering", {}), ("NextSentencePrediction", {})):
        if hasattr(transformers, f"{_class}For{_head}"):
            CONFIGS[f"{_name}-{_head}"] = _config | _more | {"architectures": [f"{_class}For{_head}"]}
CONFIGS["llama-SequenceClassification-unpadded"] = CONFIGS["llama-SequenceClassification"] | {"pad_token_id": None}
SOURCE = 5
OFTEN = ("llama", "gpt2", "mistral")
"""All runs of these are among the quick tests, of others half; under autocast fewer."""


def model(name: str) -> Model:
    return Model.from_data(spec_from_config(CONFIGS[name], "config.json", name))


def workload(name: str = "llama", device: str = "cpu", **run: Any) -> Workload:
    kernels = "cpu" if device == "cpu" else "cuda"
    spec = model(name)
    seq, source = positions(spec.input, 7), spec.encoder and positions(spec.encoder.input, SOURCE)
    return Workload(**{"phase": "training", "seq": seq, "source_seq": source, "implementation": "transformers",
                       "kernels": kernels} | run)


RUNS = [{"attention": kernel, "dtype": dtype, "dropout": dropout}
        for kernel in ("eager", "sdpa") for dtype in ("fp32", "bf16") for dropout in (0.0, 0.1)]
RUNS += [{"attention": kernel, "dtype": "bf16", "precision": "amp", "dropout": dropout}
         for kernel in ("eager", "sdpa") for dropout in (0.0, 0.1)]
RUNS += [{"attention": "eager", "dtype": "fp16", "dropout": 0.1}]
RUNS += [{**run, "recompute": "full"} for run in RUNS if (run["attention"] == "eager") == bool(run["dropout"])]
RUNS += [{"attention": kernel, "dtype": "bf16", "dropout": 0.1, "recompute": "ops"} for kernel in ("eager", "sdpa")]


def named(run: dict[str, Any]) -> str:
    return f"{run['attention']}-{run.get('precision', run['dtype'])}" + ("-dropout" if run["dropout"] else "") + (
        f"-recompute-{run['recompute']}" if "recompute" in run else "")


def steps(name: str, batch: int, device: str, run: dict[str, Any]) -> tuple[list[int], list[int]]:
    """What PyTorch has alive, and what the trace has, event by event."""
    given, w, encoder = CONFIGS[name], workload(name, batch=batch, device=device, **run), model(name).encoder
    again = "ops" if w.recompute == "ops" else bool(w.recompute)
    how = {"attention": w.attention, "dropout": w.dropout, "recompute": again}
    if encoder is not None and encoder.input.kind == "tokens":
        how["source_seq"] = SOURCE
    if device == "fake-cuda":
        real = fake_cuda.ask("live_bytes", given, batch, 7, **how, **dtypes(w))
    else:
        read = {key: measure.DTYPES[dtype] for key, dtype in dtypes(w).items()}
        real = classes.live_bytes(given, batch, 7, **how, **read)
    return [live for _, live in real], [event.live for event in live_bytes(trace(model(name), w), in_place=False)]


def often(name: str, batch: int, run: dict[str, Any]) -> bool:
    if run.get("recompute") == "ops":
        return batch == 2 and name in (*OFTEN, "mixtral", "t5")
    if "precision" in run:
        return batch == 2 and (run["attention"] == "eager" if name in OFTEN else "recompute" in run)
    return (batch == 1) == bool(run["dropout"]) or name in OFTEN


EVERY = pytest.mark.parametrize(("name", "batch", "run"), [
    pytest.param(name, batch, run, id=f"{name}-{batch}-{named(run)}",
                 marks=() if often(name, batch, run) else pytest.mark.slow)
    for name in CONFIGS for batch in (1, 2) for run in RUNS
    if (name != "gemma2" or run["attention"] == "eager") and (batch == 1 or "unpadded" not in name)
    and (run["dtype"] != "fp16" or name.split("-")[0] not in ("bart", "t5", "mt5", "whisper"))
])


@pytest.mark.grid(47)
@EVERY
def test_a_training_step_on_the_cpu(name: str, batch: int, run: dict[str, Any]) -> None:
    real, ours = steps(name, batch, "cpu", run)
    assert len(real) > 70
    assert ours == real


@pytest.mark.grid(75)
@EVERY
def test_a_training_step_under_cudas_operators(name: str, batch: int, run: dict[str, Any]) -> None:
    try:
        real, ours = steps(name, batch, "fake-cuda", run)
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    assert len(real) > 70
    assert ours == real


def test_zeros_that_one_layer_adds_get_a_gradient_of_their_own() -> None:
    real, ours = steps("mt5", 1, "cpu", {"attention": "eager", "dtype": "fp32", "dropout": 0.0, "recompute": "full"})
    assert ours == real


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_flops_and_caches_are_those_of_the_model(name: str) -> None:
    counted = []
    for each in ("torch", "transformers"):
        run = trace(model(name), workload(name, implementation=each, attention="eager", batch=2, device="fake-cuda"))
        found = (params.entries(run), flops.entries(run, "forward", "backward"), kv_cache.entries(run))
        counted.append([grouped(entries, lambda op: op.component) for entries in found])
    assert counted[0] == counted[1]
    assert [bool(each) for each in counted[0]] == [True, True, is_causal(model(name))]


def test_a_model_that_does_not_say_whose_classes_run_it_is_run_by_the_first_that_fit() -> None:
    spec = model("llama")
    assert code(spec.replaced(modeling=None), workload()) == code(spec, workload())


def test_a_class_without_sdpa_runs_eager() -> None:
    eager, sdpa = (live_bytes(trace(model("gemma2"), workload(attention=each))) for each in ("eager", "sdpa"))
    assert eager == sdpa


@pytest.mark.parametrize(("change", "run", "why"), [
    ({"modeling": "ctrl"}, {}, "ctrl of transformers is not counted yet"),
    ({}, {"attention": "flash"}, "transformers runs eager or sdpa, not flash"),
    ({}, {"loss": "plain"}, "own loss casts logits to fp32"),
    ({"head": LMHead(transform=HeadTransform())}, {}, "head.transform in llama is not counted yet"),
    ({"modeling": "gpt2", "position": LearnedPosition(size=64), "norm": Norm(kind="layernorm"),
      "feed_forward": Dense(d_ff=41, activation="gelu_tanh")}, {}, "gpt2 without attention.bias.k"),
    ({"embedding_scale": True}, {}, "embedding_scale in llama is not counted yet"),
    ({"attention": model("llama-bias").attention, "modeling": "phi3"}, {}, "attention.bias.k in phi3 is not counted"),
    ({"layer_scale": True, "modeling": None}, {}, "layer_scale in classes of transformers"),
    ({"modeling": None, "position": LearnedPosition(size=64), "norm": Norm(kind="layernorm"),
      "feed_forward": Dense(d_ff=41, activation="gelu_tanh")}, {}, "a model without .* in classes of transformers"),
    ({"modeling": "mixtral", "feed_forward": MoE(d_ff=41, experts=5, active_experts=2)},
     {"dtype": "bf16", "precision": "amp"}, "F.grouped_mm wants d_model and d_ff of experts in multiples of 4"),
])
def test_what_is_not_proved_is_refused(change: dict[str, Any], run: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        trace(model("llama").replaced(**change), workload(**run))


def test_what_a_model_has() -> None:
    assert features(load("llama3-8b").model) <= DECODER
    assert features(load("gemma2-2b").model) - DECODER == {
        "attention.softcap", "attention.window", "embedding_scale", "head.softcap", "norm.placement sandwich",
    }
