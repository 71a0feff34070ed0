"""Fields that no class reads: the table is the installed source's, and such fields change no class."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from huggingface_defaults import NAMED_OTHERWISE
from test_import_fields import CASES, LLAMA, base, counted, live

from txcalc.huggingface.config import Config, class_defaults
from txcalc.huggingface.importer import spec_from_config
from txcalc.huggingface.inert import is_inert
from txcalc.spec.errors import SpecError

transformers = pytest.importorskip("transformers")

FIELDS = sorted({name for fields in class_defaults().values() for name in fields})
WHOLE = LLAMA | {"max_position_embeddings": 97, "tie_word_embeddings": True}
VALUES: tuple[Any, ...] = (7, True, "relu", None, [1, 2], {"a": 1}, 0.5, 0)


def notes_on(config: dict[str, Any]) -> list[str]:
    notes: list[str] = []
    spec_from_config(config, "config.json", "x", notes=notes)
    return notes


def test_the_table_equals_the_installed_source() -> None:
    from judge.table import WORDS, words_table

    assert json.loads(WORDS.read_text()) == words_table()


@pytest.mark.grid(9)
@pytest.mark.parametrize("model_type", CASES)
def test_fields_of_other_families_that_none_of_its_classes_reads_change_nothing(model_type: str) -> None:
    """All of them at once, in the file and in the class; that the class asks for none is recorded as it is built."""
    from judge.reads import reads_of_building
    from judge.table import folder_of
    from judge.words import own_files

    config = base(model_type)
    foreign = [name for name in FIELDS if name not in config and is_inert(name, (model_type,))]
    assert len(foreign) > 100
    strange = {name: VALUES[i % len(VALUES)] for i, name in enumerate(foreign)}
    built, reads = reads_of_building({**config, **strange})
    plain, _ = reads_of_building(config)
    assert built == plain
    own = own_files(folder_of(model_type))  # other families' files ask configurations that stand within
    assert not {name for name, path in reads if path in own or path.parent.parent.name != "models"} & set(strange)
    ours = counted(config)
    counts = [counted({**config, name: strange[name]}) for name in random.Random(model_type).sample(foreign, 20)]
    assert set(counts) <= {ours, None} and counts.count(ours) > 10  # None: a size that contradicts the one read


@pytest.mark.parametrize(("model_type", "more"), [
    ("qwen3_moe", {"qkv_bias": False, "shared_expert_intermediate_size": 0, "use_qk_norm": True}),
    ("bamba", {"mamba_dt_rank": "auto"}),
    ("llama", {"use_sliding_window": True, "never_heard_of": {"a": 1}}),
    ("ernie4_5", {"compression_ratio": 2.0}),
    ("exaone4", {"num_nextn_predict_layers": 1, "mtp_share_layers": True, "output_gate_type": "swish"}),
    ("hunyuan_v1_dense", {"im_start_id": 5, "mask_init_id": 13, "pad_id": 2, "num_media_embeds": 257,
                          "v_head_dim": None, "kv_lora_rank": None}),
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
])
def test_what_may_mean_something_else_is_refused(more: dict[str, Any], message: str) -> None:
    """A size under a name that its class does not read; a field of a later version's."""
    with pytest.raises(SpecError, match=message):
        spec_from_config({**LLAMA, **more}, "config.json", "x")


def test_a_size_under_a_name_that_is_not_read_may_say_the_same() -> None:
    assert notes_on({**WHOLE, "n_layer": 2, "n_embd": 32}) == [
        "passed over 2 fields that LlamaForCausalLM does not read: n_layer, n_embd"]


@pytest.mark.parametrize(("said", "same"), [
    ({"head_dim": 8, "num_key_value_heads": 4}, True), ({"head_dim": 16}, False), ({"num_key_value_heads": 2}, False),
    ({"audio_token_id": 24, "speech_token_index": 3}, True),
])
def test_what_follows_from_other_fields_may_be_said_once_more(said: dict[str, Any], same: bool) -> None:
    """As published files do, whose class reads neither."""
    config = base("bert") | {"hidden_size": 32, "num_attention_heads": 4}
    if same:
        assert counted({**config, **said}) == counted(config) is not None
    else:
        with pytest.raises(SpecError, match="not understood"):
            spec_from_config({**config, **said}, "config.json", "x")


def test_what_is_said_of_the_text_may_be_said_above_it_once_more() -> None:
    above = {"model_type": "gemma3", "text_config": {"vocab_size": 97}}
    file = Config({**above, "vocab_size": 97}, "gemma3", source="config.json")
    file.ignore("text_config")
    file.finish()
    assert not file.remarks.problems and not file.remarks.passed
    file = Config({**above, "vocab_size": 96}, "gemma3", source="config.json")
    file.ignore("text_config")
    file.finish()
    assert [each.field for each in file.remarks.problems] == ["vocab_size"]


def test_a_width_of_heads_above_a_text_is_no_restatement_where_no_heads_stand() -> None:
    file = Config({"model_type": "gemma3", "text_config": {"head_dim": 128}, "head_dim": 77}, "gemma3", source="c.json")
    file.ignore("text_config")
    file.finish()
    assert [each.field for each in file.remarks.problems] == ["head_dim"]


def test_choices_that_a_file_leaves_open_are_said() -> None:
    without = {name: value for name, value in WHOLE.items() if name not in ("architectures", "tie_word_embeddings")}
    assert notes_on(WHOLE) == []
    assert notes_on({**without, "transformers_version": "4.40.1"}) == [
        "architectures is missing: counted as LlamaForCausalLM",
        "tie_word_embeddings is missing: the head is untied, as transformers 4.40.1 reads it"]
    assert notes_on({**without, "architectures": ["LlamaModel"]}) == []  # without a head


def test_sizes_that_a_file_leaves_out_are_the_classs_and_named() -> None:
    text = {"model_type": "gemma3_text", "architectures": ["Gemma3TextModel"], "hidden_size": 32,
            "intermediate_size": 37, "num_hidden_layers": 2, "max_position_embeddings": 97, "sliding_window": 5}
    assert notes_on(text) == ["missing, so counted as the class has them by default: num_attention_heads 8, "
                              "num_key_value_heads 4, head_dim 256, vocab_size 262208"]
    assert counted(text) == live(text)


@pytest.mark.parametrize("model_type", CASES)
def test_what_the_library_saves_is_read_whole(model_type: str) -> None:
    """A class's own file says all, and nothing in it is passed over."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = base(model_type)
    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    parsed = CONFIG_MAPPING[NAMED_OTHERWISE.get(model_type, model_type)](**fields)
    saved = {**json.loads(parsed.to_json_string()), **{name: config[name] for name in ("model_type", "architectures")}}
    assert counted(saved) == counted(config)
    assert notes_on(saved) == []


@pytest.mark.parametrize(("fields", "tied"), [
    ({"tie_word_embeddings": False}, False), ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
    ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, True), ({"tie_word_embeddings": True}, True),
])
def test_t5_has_the_two_tables_of_its_published_weights_whatever_its_class_ties(
    fields: dict[str, Any], tied: bool
) -> None:
    """As the library loads and saves v1.1's weights again: the second field alone tells that they differ."""
    config = {**base("t5"), **fields}
    notes: list[str] = []
    spec = spec_from_config(config, "config.json", "x", notes=notes)
    assert spec["head"]["tied"] is tied
    assert notes == [] if tied else "today's class ties it" in notes[0]
    assert not tied or counted(config) == live(config)


NOMIC = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
         "intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}
SWITCHES = {"prenorm": False, "causal": False, "use_rms_norm": False, "activation_function": "swiglu",
            "rotary_emb_fraction": 1.0, "pad_vocab_size_multiple": 64, "mlp_fc1_bias": False}


def test_nomics_own_files_have_the_names_of_gpt() -> None:
    config = {"model_type": "nomic_bert", "architectures": ["NomicBertModel"], "vocab_size": 30528, "hidden_size": 768,
              "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "type_vocab_size": 2,
              "max_position_embeddings": 8192}
    renamed = {NOMIC.get(name, name): value for name, value in config.items()} | SWITCHES
    assert counted(renamed) == counted(config) == live(config) == 136_731_648
    for change in ({"hidden_size": 512}, {"prenorm": True}, {"n_inner": 3000}, {"pad_vocab_size_multiple": 1000},
                   {"num_experts": 8}, {"activation_function": "gelu"}, {"rotary_emb_fraction": 0.0}):
        assert counted({**renamed, **change}) is None


def test_another_name_of_a_size_that_is_read_may_say_the_same() -> None:
    """As Falcon's published files do, whose class holds the word ``n_head``."""
    config = base("falcon")
    again = config | {"n_head": config["num_attention_heads"], "n_layer": config["num_hidden_layers"]}
    assert counted(again) == counted(config) == live(again)
    assert counted(again | {"n_head": config["num_attention_heads"] + 1}) is None
