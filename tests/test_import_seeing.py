"""Models that see, as they were released: counted to the last weight, and what their files say beside that."""

from __future__ import annotations

from typing import Any

import pytest
from test_import_encoders import imported, live, unique_params
from test_import_experts import active
from test_import_multimodal import draw, totals

from txcalc.answer.report import count
from txcalc.spec.errors import SpecError
from txcalc.spec.inputs import PatchInput
from txcalc.spec.model import Model
from txcalc.spec.resolve import merge
from txcalc.spec.shorten import shorten
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")

TIED = {"paddleocr_vl": 103_424 * 1024}
"""A head that the class ties though the released file says that it does not, and has a matrix for it."""
SLIDES = ["sliding_attention"] * 3 + ["full_attention"]
MROPE = {"mrope_section": [16, 24, 24], "rope_type": "default"}
GEMMA4_TEXT: dict[str, Any] = {
    "model_type": "gemma4_text", "attention_bias": False, "attention_k_eq_v": True, "enable_moe_block": False,
    "final_logit_softcapping": 30.0, "global_head_dim": 512, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 5376, "hidden_size_per_layer_input": 0, "intermediate_size": 21504,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 10, "max_position_embeddings": 262144,
    "moe_intermediate_size": None, "num_attention_heads": 32, "num_experts": None, "num_global_key_value_heads": 4,
    "num_hidden_layers": 60, "num_key_value_heads": 16, "num_kv_shared_layers": 0, "rope_parameters": {
        "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}},
    "sliding_window": 1024, "tie_word_embeddings": True, "top_k_experts": None,
    "use_bidirectional_attention": "vision", "use_double_wide_mlp": False, "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
}
RELEASED: dict[int, dict[str, Any]] = {
    31_273_086_512: {  # Gemma 4 31B
        "model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"], "audio_config": None,
        "audio_token_id": 258881, "boa_token_id": 256000, "boi_token_id": 255999, "eoa_token_id": 258883,
        "eoa_token_index": 258883, "eoi_token_id": 258882, "image_token_id": 258880, "tie_word_embeddings": True,
        "video_token_id": 258884, "vision_soft_tokens_per_image": 280, "text_config": GEMMA4_TEXT,
        "vision_config": {
            "model_type": "gemma4_vision", "attention_bias": False, "default_output_length": 280, "global_head_dim": 72,
            "head_dim": 72, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 4304,
            "max_position_embeddings": 131072, "num_attention_heads": 16, "num_hidden_layers": 27,
            "num_key_value_heads": 16, "patch_size": 16, "pooling_kernel_size": 3, "position_embedding_size": 10240,
            "rope_parameters": {"rope_theta": 100.0, "rope_type": "axial"}, "standardize": True,
            "use_clipped_linears": False}},
    1_107_405_824: {  # GLM-OCR, without the layer that predicts a token more
        "model_type": "glm_ocr", "architectures": ["GlmOcrForConditionalGeneration"], "image_end_token_id": 59257,
        "text_config": {
            "model_type": "glm_ocr_text", "attention_bias": False, "head_dim": 128, "hidden_size": 1536,
            "intermediate_size": 4608, "num_attention_heads": 16, "num_hidden_layers": 16, "num_key_value_heads": 8,
            "num_nextn_predict_layers": 1, "tie_word_embeddings": False, "vocab_size": 59392,
            "rope_parameters": MROPE | {"partial_rotary_factor": 1.0, "rope_theta": 10000}},
        "vision_config": {
            "model_type": "glm_ocr_vision", "attention_bias": True, "depth": 24, "hidden_dropout_prob": 0.0,
            "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "num_heads": 16,
            "out_hidden_size": 1536, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}},
    33_813_987_328: {  # EXAONE 4.5: "33B"
        "model_type": "exaone4_5", "architectures": ["Exaone4_5_ForConditionalGeneration"], "vocab_size": 153600,
        "text_config": {
            "model_type": "exaone4_5_text", "architectures": ["Exaone4ForCausalLM"], "hidden_size": 5120,
            "intermediate_size": 27392, "layer_types": SLIDES * 16, "max_position_embeddings": 131072,
            "max_window_layers": 64, "num_attention_heads": 40, "num_hidden_layers": 64, "num_key_value_heads": 8,
            "reorder_qk_norm": True, "sliding_window": 4096, "sliding_window_pattern": "LLLG", "vocab_size": 153600},
        "vision_config": {
            "model_type": "exaone4_5_vision", "depth": 28, "fullatt_block_indexes": [6, 13, 20, 27],
            "hidden_size": 2048, "in_chans": 3, "intermediate_size": 5120, "num_heads": 32, "num_key_value_heads": 8,
            "out_hidden_size": 5120, "spatial_patch_size": 14, "tokens_per_second": 2, "window_size": 112}},
    # PaddleOCR-VL: of the 958,588,736 of its file, a table of 37,748,736 and a query's 15,238,352 are read by nothing.
    905_601_648: {
        "model_type": "paddleocr_vl", "architectures": ["PaddleOCRVLForConditionalGeneration"],
        "compression_ratio": 1.0, "head_dim": 128, "hidden_size": 1024, "ignored_index": -100,
        "intermediate_size": 3072, "max_position_embeddings": 131072, "max_sequence_length": None,
        "num_attention_heads": 16, "num_hidden_layers": 18, "num_key_value_heads": 2, "rope_is_neox_style": True,
        "rope_scaling": MROPE, "rope_theta": 500000, "sliding_window": None, "tie_word_embeddings": False,
        "use_3d_rope": True, "use_bias": False, "use_flash_attention": False, "vocab_size": 103424,
        "weight_share_add_bias": True,
        "vision_config": {
            "model_type": "paddleocr_vl", "architectures": ["SiglipVisionModel"], "hidden_size": 1152,
            "image_size": 384, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2}},
    1_005_647_872: {  # LightOnOCR: "1B"
        "model_type": "lighton_ocr", "architectures": ["LightOnOcrForConditionalGeneration"],
        "text_config": {
            "model_type": "qwen3", "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072,
            "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "sliding_window": None,
            "tie_word_embeddings": True, "vocab_size": 151936},
        "vision_config": {
            "model_type": "pixtral", "head_dim": 64, "hidden_size": 1024, "image_size": 1540,
            "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14}},
    7_080_214_528: {  # ViP-LLaVA 7B
        "model_type": "vipllava", "architectures": ["VipLlavaForConditionalGeneration"], "ignore_index": -100,
        "text_config": {"model_type": "llama", "vocab_size": 32064}, "vision_feature_layers": [-2, -5, -8, -11, 6],
        "tie_word_embeddings": False, "vocab_size": 32064, "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
            "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "vocab_size": 32000}},
}


@pytest.mark.parametrize(("expected", "config"), RELEASED.items(), ids=lambda x: x.get("model_type") if isinstance(
    x, dict) else None)
def test_released_files_are_read(expected: int, config: dict[str, Any]) -> None:
    assert totals(imported(config), 0).params.value == expected
    assert unique_params(live(config)) == expected - TIED.get(config["model_type"], 0)


@pytest.mark.parametrize("model_type", ["glm4v_moe", "glm46v", "kimi_k25", "qwen3_vl_moe"])
def test_a_token_passes_as_many_weights_as_in_the_class(model_type: str) -> None:
    compared = 0
    for seed in range(20):
        config = draw(model_type, seed)
        chosen = config["text_config"].get("num_experts_per_tok")
        if chosen is not None:
            assert totals(imported(config), 0).params_active.value == active(live(config), chosen), config
            compared += 1
    assert compared > 2


@pytest.mark.parametrize("model_type", ["qwen3_vl", "qwen3_vl_moe"])
def test_projectors_of_layers_that_a_tower_has_not_are_counted_and_no_run_takes_them(model_type: str) -> None:
    config = draw(model_type, 0)
    least, more = ({**config, "vision_config": {**config["vision_config"], "deepstack_visual_indexes": layers}}
                   for layers in ([0], [0, 8, 16]))
    few, many = (count(imported(each), Workload(seq=90, batch=2, images=2)).totals for each in (least, more))
    assert many.params.value == unique_params(live(more)) > few.params.value == unique_params(live(least))
    assert many.flops_forward.value == few.flops_forward.value


def test_moonshots_own_names_for_a_towers_sizes_must_agree() -> None:
    """Their class is not the library's, which passes these names over and takes its defaults for them."""
    config = draw("kimi_k25", 0)
    image, text = config["vision_config"], config["text_config"]
    own = {"vt_hidden_size": image["hidden_size"], "vt_num_hidden_layers": image["num_hidden_layers"],
           "vt_num_attention_heads": image["num_attention_heads"], "vt_intermediate_size": image["intermediate_size"],
           "mm_hidden_size": image["hidden_size"], "text_hidden_size": text["hidden_size"], "init_pos_emb_height": 4,
           "init_pos_emb_width": 4, "init_pos_emb_time": 4, "merge_type": "sd2_tpool", "projector_hidden_act": "gelu",
           "mm_projector_type": "patchmerger", "pos_emb_type": "divided_fixed", "video_attn_type": "spatial_temporal"}
    assert imported({**config, "vision_config": {**image, **own}}) == imported(config)
    for name in ("vt_hidden_size", "vt_num_hidden_layers", "text_hidden_size", "init_pos_emb_width"):
        with pytest.raises(SpecError) as caught:
            imported({**config, "vision_config": {**image, **own, name: own[name] + 1}})
        assert caught.value.field == f"vision_config.{name}"


@pytest.mark.parametrize("model_type", ["glm4v", "kimi_k25", "qwen3_vl"])
def test_an_image_of_another_size_meets_the_same_table(model_type: str) -> None:
    """The classes interpolate it; what import writes keeps it as well."""
    spec = imported(draw(model_type, 0))
    assert spec.tower is not None
    assert isinstance(spec.tower.input, PatchInput)
    larger = {"tower": {"input": {"image": 3 * spec.tower.input.image}}}
    for data in (spec.to_data(), shorten(spec)):
        tower = {name: value for name, value in merge(data, larger)["tower"].items() if name != "projector"}
        tower["projector"] = {**data["tower"]["projector"], "tokens": None}
        changed = Model.from_data({**data, "tower": tower | {"deepstack": []}})
        plain = Model.from_data({**data, "tower": {**data["tower"], "deepstack": []}})
        assert totals(changed, 0).params.value == totals(plain, 0).params.value


def test_lfm2_vl_reads_the_older_name_of_a_tied_head_first() -> None:
    config = {name: value for name, value in draw("lfm2_vl", 0).items() if not name.startswith("tie_")}
    text = {**config["text_config"], "tie_word_embeddings": False}
    for tied in (True, False):
        said = {**config, "text_config": text, "tie_embedding": tied}
        assert totals(imported(said), 0).params.value == unique_params(live(said))


def test_paligemma_may_say_that_its_text_attends_both_ways_over_an_image() -> None:
    config = draw("paligemma", 0)
    said = {**config, "text_config": {**config["text_config"], "use_bidirectional_attention": True}}
    assert imported(said) == imported(config)
    with pytest.raises(SpecError, match="use_bidirectional_attention"):
        imported({**config, "text_config": {**config["text_config"], "use_bidirectional_attention": 3}})


@pytest.mark.parametrize(("model_type", "change", "field"), [
    ("glm4v", {"vision_config": {"out_hidden_size": 31}}, "vision_config.out_hidden_size"),
    ("glm4v", {"vision_config": {"out_hidden_size": 32, "image_size": 9, "patch_size": 5, "spatial_merge_size": 2}},
     "vision_config.spatial_merge_size"),
    ("glm4v", {"text_config": {"attention_bias": False}}, "text_config.attention_bias"),
    ("glm4v_moe", {"text_config": {"use_qk_norm": True}}, "text_config.use_qk_norm"),
    ("glm46v", {"text_config": {"model_type": "llama"}}, "text_config.model_type"),
    ("gemma4", {"text_config": {"model_type": "gemma4_text", "per_layer_config": {"0": {"width": 3}}}},
     "text_config.per_layer_config"),
    ("gemma4", {"audio_config": {"model_type": "gemma4_audio"}}, "audio_config"),
    ("gemma4", {"vision_config": {"use_clipped_linears": True}}, "vision_config.use_clipped_linears"),
    ("gemma4", {"vision_config": {"head_dim": 6}}, "vision_config.head_dim"),
    ("glm46v", {"vision_config": {"model_type": "pixtral"}}, "vision_config.model_type"),
    ("glm_ocr", {"text_config": {"attention_bias": True}}, "text_config.attention_bias"),
    ("exaone4_5", {"vocab_size": 7}, "vocab_size"),
    ("kimi_k25", {"projection_hidden_size": 25}, "projection_hidden_size"),
    ("kimi_k25", {"vision_config": {"pos_emb_width": 5}}, "vision_config.pos_emb_width"),
    ("lighton_ocr", {"projector_hidden_act": "relu"}, "projector_hidden_act"),
    ("granite_docling", {"vision_config": {"deepstack_visual_indexes": [1, 1]}},
     "vision_config.deepstack_visual_indexes"),
    ("deepseek_vl", {"vision_config": {"model_type": "clip_vision_model"}}, "vision_config.model_type"),
])
def test_what_is_not_understood_is_refused_by_name(model_type: str, change: dict[str, Any], field: str) -> None:
    config = draw(model_type, 0)
    parts = {name: {**config[name], **value} if isinstance(value, dict) and "model_type" not in value else value
             for name, value in change.items()}
    with pytest.raises(SpecError) as caught:
        imported({**config, **parts})
    assert caught.value.field == field


def test_a_text_that_does_not_say_so_ties_hunyuans_head() -> None:
    config = draw("hunyuan_vl", 0) | {"tie_word_embeddings": False}
    text = {name: value for name, value in config["text_config"].items() if name != "tie_word_embeddings"}
    for more in ({}, {"tie_word_embeddings": False}):
        said = config | {"text_config": text | more}
        assert totals(imported(said), 0).params.value == unique_params(live(said))


def test_aria_may_say_the_most_of_its_queries_once_more() -> None:
    """As the library does that saves it."""
    config = draw("aria", 0)
    most = max(config["projector_patch_to_query_dict"].values())
    assert imported({**config, "max_value_projector_patch_to_query_dict": most}) == imported(config)
    with pytest.raises(SpecError, match="max_value"):
        imported({**config, "max_value_projector_patch_to_query_dict": most + 1})
