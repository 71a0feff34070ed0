"""Every field of every configuration class: what changes the class changes the count, or is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from huggingface_defaults import ALIASES, DEFAULTS, NAMED_OTHERWISE, as_text, read_aliases, read_defaults, read_types
from import_cases import CASES as DECODERS
from import_encoder_cases import CASES as ENCODERS

from txcalc.count.params import params
from txcalc.huggingface.config import IRRELEVANT, class_aliases, class_defaults
from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from classes import on_meta, unique_params  # noqa: E402

torch.set_num_threads(1)

CASES = {**DECODERS, **ENCODERS}
QUIRKS = {("t5", "tie_word_embeddings"), ("mt5", "tie_word_embeddings"), ("umt5", "tie_word_embeddings"),
          ("t5", "scale_decoder_outputs"), ("longt5", "tie_word_embeddings"), ("longt5", "scale_decoder_outputs")}
"""Where the class does not do what its configuration says, and the count does."""
FLOOR = 20
"""The fewest changes of a family's fields that must be compared with its class."""
FEW = {"pvt_v2": 15, "segformer": 19, "cvt": 3, "swiftformer": 8, "mobilevitv2": 12}
"""The same of families most of whose fields are lists, which are not changed."""
UNNAMED = {"bamba", "falcon_h1", "lfm3", "zamba", "zamba2"}
"""Types whose draws say their kinds of layers otherwise than by the field with two names, or need just one of these."""
UNBUILDABLE = (ValueError, TypeError, RuntimeError, AssertionError, ZeroDivisionError, AttributeError, LookupError,
               NotImplementedError)


def base(model_type: str) -> dict[str, Any]:
    """One small configuration that the class can be built from, with the family's first class."""
    for seed in range(20):
        rng = random.Random(f"{model_type} {seed}")
        drawn = {name: rng.choice(values) for name, values in CASES[model_type].items()}
        fields = {name: value for name, value in drawn.items() if value is not None}
        config = {"model_type": model_type, "architectures": [next(iter(FAMILIES[model_type].classes))], **fields}
        if counted(config) is not None and live(config) is not None:
            return config
    raise AssertionError(f"no draw of {model_type} can be built")


def live(config: Mapping[str, Any]) -> int | None:
    """Unique parameters of the class on meta, or None where the class refuses."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    model_type = config["model_type"]
    try:
        parsed = CONFIG_MAPPING[NAMED_OTHERWISE.get(model_type, model_type)](**fields)
        with on_meta():
            model = getattr(transformers, config["architectures"][0])(parsed)
    except UNBUILDABLE:
        return None
    except Exception as error:  # the library's own class of validation errors
        if "Validation" in type(error).__name__:
            return None
        raise
    return unique_params(model)


def counted(config: Mapping[str, Any]) -> int | None:
    """The count, or None where it is refused."""
    try:
        spec = Model.from_data(spec_from_config(config, "config.json", "changed"))
    except (SpecError, ValueError):
        return None
    return int(params(trace(spec, Workload(seq=3))))


def changes(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Another value for every field that the class knows, the ones that are passed over among them."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = NAMED_OTHERWISE.get(config["model_type"], config["model_type"])
    known = CONFIG_MAPPING[model_type]().to_dict()
    for name in sorted({*known, *class_defaults()[config["model_type"]], *class_aliases().get(config["model_type"], {})}
                       - {"architectures", "model_type", "dtype", "transformers_version"}):
        old = config.get(name, known.get(name))
        if isinstance(old, bool):
            yield name, not old
        elif isinstance(old, int):
            yield from ((name, value) for value in (old + 1, 2 * old, 1) if value != old)
        elif old is None:
            yield from ((name, value) for value in (True, 4))
        elif isinstance(old, str):
            yield name, "relu"


@pytest.mark.grid(19)
@pytest.mark.parametrize("model_type", CASES)
def test_a_changed_field_changes_the_count_as_it_does_the_class(model_type: str) -> None:
    config = base(model_type)
    compared = 0
    for name, value in changes(config):
        if (model_type, name) in QUIRKS or name == "id2label":
            continue
        changed = {**config, name: value}
        ours = counted(changed)
        theirs = live(changed) if ours is not None else None
        if theirs is not None:
            assert ours == theirs, (name, value, changed)
            compared += 1
    assert compared >= FEW.get(model_type, FLOOR)


@pytest.mark.parametrize("model_type", [name for name in class_aliases() if name in CASES])
def test_a_field_under_its_other_name_is_the_field(model_type: str) -> None:
    config = base(model_type)
    compared = 0
    for alias, proper in class_aliases()[model_type].items():
        other, name = (proper, alias) if alias in config and proper not in config else (alias, proper)
        if name in IRRELEVANT or name not in config:
            continue
        renamed = {other: config[name], **{n: value for n, value in config.items() if n != name}}
        if (ours := counted(renamed)) is not None:
            assert ours == counted(config), other
            assert live(renamed) == ours, other
            compared += 1
        with pytest.raises(SpecError, match="contradicts") as caught:
            spec_from_config({**config, other: -3}, "config.json", "x")
        assert caught.value.field in (other, name)
    assert compared or model_type in UNNAMED


def test_the_tables_equal_the_installed_classes() -> None:
    types = read_types()
    assert DEFAULTS.read_text() == as_text(read_defaults(types))
    assert ALIASES.read_text() == as_text(read_aliases(types))


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 101, "hidden_size": 32,
         "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(("more", "field"), [
    ({"n_embd": 64}, "n_embd"),
    ({"n_layer": 3}, "n_layer"),
    ({"head_dim": 7}, "head_dim"),
    ({"architectures": ["LlamaForTokenClassification"], "id2label": {}}, "id2label"),
    ({"architectures": ["LlamaForTokenClassification"], "id2label": {"0": "a"}, "num_labels": 3}, "num_labels"),
    ({"model_type": "stablelm", "architectures": ["StableLmForCausalLM"], "head_dim": 4}, "head_dim"),
    ({"model_type": "phimoe", "architectures": ["PhimoeForCausalLM"], "num_experts_per_tok": 1},
     "num_experts_per_tok"),
    ({"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "mlp_bias": True}, "mlp_bias"),
    ({"model_type": "cohere2", "architectures": ["Cohere2ForCausalLM"], "use_qk_norm": True}, "use_qk_norm"),
    ({"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"],
      "layer_types": ["linear_attention", "chunked_attention"]}, "layer_types"),
    ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": False},
     "is_encoder_decoder"),
    ({"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "attention_types": [1]}, "attention_types"),
    ({"model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"], "layers_block_type": 3},
     "layers_block_type"),
    ({"model_type": "xlstm", "architectures": ["xLSTMForCausalLM"], "use_bias": True}, "use_bias"),
])
def test_what_would_be_a_wrong_number_is_refused_by_name(more: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_config({**LLAMA, **more}, "config.json", "x")
    assert caught.value.field == field


@pytest.mark.parametrize(("model_type", "more"), [
    ("llama", {"is_llama_config": True, "rope_interleaved": False, "activation": "swiglu", "sliding_window": None,
               "transformers.js_config": {"dtype": "q4"}, "use_sliding_window": False, "model_max_length": 99,
               "bias": False}),
    ("cohere2", {"layer_switch": 4, "order_of_interleaved_layers": "local_attn_first", "rotary_pct": 1.0,
                 "position_embedding_type": "rope_gptj", "use_embedding_sharing": True, "use_parallel_block": True,
                 "use_gated_activation": True, "use_parallel_embedding": True}),
    ("bert", {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
              "sentence_transformers": {"version": "4.1.0"}}),
    ("blenderbot", {"do_blenderbot_90_layernorm": True, "extra_layer_norm": False}),
    ("mbart", {"adaptor_hidden_size": 1024, "adaptor_activation_function": "gelu"}),
    ("ernie", {"pool_act": "tanh", "task_id": 0, "paddlenlp_version": None}),
    ("eurobert", {"clf_pooling": "late", "mask_token": "<|mask|>", "hidden_dropout": 0.0}),
    ("esm", {"esmfold_config": None, "vocab_list": None, "cls_token_id": 0, "hidden_act": "gelu"}),
    ("flaubert", {"amp": 1, "bptt": 512, "encoder_only": True, "word_mask_keep_rand": "0.8,0.1,0.1", "mlm_steps": []}),
    ("fsmt", {"langs": ["en", "de"], "decoder": {"vocab_size": 7}, "num_beams": 5}),
    ("megatron-bert", {"tokenizer_type": "BertWordPieceLowerCase"}),
    ("rembert", {"embedding_dropout_prob": 0}),
    ("laguna", {"decoder_sparse_step": 1, "mlp_only_layers": [0]}),
    ("roberta", {"name": "Roberta", "language": "english"}),
    ("fuyu", {"hidden_size": 4096, "qk_layernorm": True, "partial_rotary_factor": 0.5}),
    ("switch_transformers", {"is_gated_act": False, "router_type": "tokens_masked", "num_selected_experts": 1}),
    ("xlm", {"max_vocab": -1, "same_enc_dec": True, "share_inout_emb": True, "id2lang": {"0": "en"}}),
    ("starcoder2", {"activation_function": "gelu"}),
    ("dinov2_with_registers", {"interpolate_antialias": True, "interpolate_offset": 0.0}),
    ("nemotron", {"rope_percent": 0.5}),
    ("blip_vision_model", {"num_channels": 3, "dropout": 0.0}),
    ("ernie4_5", {"compression_ratio": 1.0}),
    ("minimax_m2", {"mlp_intermediate_size": 8192, "layernorm_mlp_beta": 1.0, "sliding_window": None}),
])
def test_what_published_files_say_beside_their_architecture_is_passed_over(
    model_type: str, more: dict[str, Any]
) -> None:
    config = base(model_type)
    assert counted({**config, **more}) == counted(config)


@pytest.mark.parametrize(("model_type", "field", "value"), [
    ("llama", "activation", "geglu"), ("llama", "sliding_window", 7), ("llama", "num_experts", 5),
    ("llama", "bias", True),
    ("cohere2", "layer_switch", 3), ("cohere2", "use_gated_activation", False),
    ("ernie", "pool_act", "relu"), ("rembert", "embedding_size", 3), ("flaubert", "encoder_only", False),
    ("esm", "hidden_act", "relu"), ("xlm", "share_inout_emb", False), ("switch_transformers", "is_gated_act", True),
    ("switch_transformers", "num_selected_experts", 2),
    ("zamba2", "attention_hidden_size", 41), ("zamba2", "attention_head_dim", 7), ("zamba2", "hybrid_layer_ids", [0]),
    ("zamba2", "mamba_headdim", 5), ("zamba2", "n_mamba_heads", 43), ("zamba2", "num_key_value_heads", 1),
])
def test_another_value_of_it_is_not(model_type: str, field: str, value: object) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_config({**base(model_type), field: value}, "config.json", "x")
    assert caught.value.field == field


@pytest.mark.parametrize("model_type", ["mpt", "phimoe"])
def test_a_class_is_known_however_its_letters_are_cased(model_type: str) -> None:
    config = base(model_type)
    assert counted({**config, "architectures": [config["architectures"][0].upper()]}) == counted(config)


def test_a_width_that_is_left_out_is_the_models() -> None:
    config = {**base("opt"), "word_embed_proj_dim": None}
    assert counted(config) == live(config) != None  # noqa: E711


@pytest.mark.parametrize(("model_type", "classes"), [
    ("llama", ["LLaMaForX", "LlamaModel", "LlamaForCausalLM"]), ("t5", ["T5WithLMHeadModel"])])
def test_the_first_class_that_is_known_counts_also_by_its_former_name(model_type: str, classes: list[str]) -> None:
    config = base(model_type)
    found = counted({**config, "architectures": classes})
    assert found == counted({**config, "architectures": ["LlamaModel" if len(classes) > 1 else
                                                         "T5ForConditionalGeneration"]})


@pytest.mark.parametrize(("name", "said"), [
    ("Qwen3_5ForConditionalGeneration", "is not built of qwen3"),
    ("LlavaForConditionalGeneration", "is built of several")])
def test_a_class_that_is_built_of_others_is_said(name: str, said: str) -> None:
    notes: list[str] = []
    spec_from_config({**base("qwen3"), "architectures": [name]}, "config.json", "small", notes=notes)
    assert any(note.startswith(f"{name} {said}") for note in notes)


@pytest.mark.parametrize(("model_type", "padded"), [("gemma2", True), ("llama", False)])
def test_padding_that_a_file_leaves_out_is_the_classs(model_type: str, padded: bool) -> None:
    config = {name: value for name, value in base(model_type).items() if name != "pad_token_id"}
    classifier = FAMILIES[model_type].classes
    name = next(name for name, kind in classifier.items() if kind == "sequence")
    assert spec_from_config({**config, "architectures": [name]}, "config.json", "small")["head"]["padded"] is padded
