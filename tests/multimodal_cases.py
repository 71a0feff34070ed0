"""Small configurations of models that see: a tower, a stack of text, and what stands beside them."""

from typing import Any

from import_cases import CASES as TEXTS
from import_encoder_cases import CASES as IMAGES
from import_encoder_cases import Values

TIED: Values = {"tie_word_embeddings": [True, False]}
TEXT_TYPES = ["llama", "mistral", "qwen2", "gemma2", "cohere2", "olmoe"]
SIGLIP: Values = IMAGES["siglip_vision_model"]
CLIP: Values = {k: v for k, v in IMAGES["clip_vision_model"].items() if k != "projection_dim"}
EVEN: Values = {"image_size": [24], "patch_size": [5, 6]}  # four patches along a side
LAYERS: Values = {"num_hidden_layers": [3, 4]}
DINO: Values = IMAGES["dinov2"]


def text(*types: str, **more: list[Any]) -> list[Values]:
    return [{"model_type": [name], **{k: v for k, v in TEXTS[name].items() if k != "tie_word_embeddings"}, **more}
            for name in types]


def tower(name: str, *changes: Values, **more: list[Any]) -> Values:
    values = {"model_type": [name], **IMAGES[name]}
    for change in changes:
        values |= change
    return values | more


def reads(name: str) -> Values:
    """An encoder of text, of whose output another configuration says more."""
    said = ("classifier_pooling", "tie_word_embeddings", "num_labels")
    return {"model_type": [name], **{k: v for k, v in IMAGES[name].items() if k not in said}}


READER: Values = TIED | {"pixel_shuffle_factor": [1, 2], "classifier_pooling": ["cls", "mean"], "num_labels": [2, 3, 5]}
QWEN: Values = {"depth": [3, 4], "num_heads": [1, 2], "patch_size": [5, 6], "in_channels": [1, 3],
                "spatial_merge_size": [1, 2], "temporal_patch_size": [1, 2]}
QWEN3: Values = QWEN | {
    "hidden_size": [16, 24], "intermediate_size": [17], "out_hidden_size": [32], "num_position_embeddings": [16, 36],
    "deepstack_visual_indexes": [[0, 2], [1], [], [0, 1]], "hidden_act": ["gelu", "gelu_pytorch_tanh"]}
QWEN_TEXT: Values = {k: v for k, v in TEXTS["qwen2"].items() if k not in (
    "tie_word_embeddings", "use_sliding_window", "sliding_window", "max_window_layers")} | {
    "hidden_size": [32], "num_attention_heads": [4], "tie_word_embeddings": [True, False],
    "rope_parameters": [{"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}]}
QWEN3_TEXT: Values = QWEN_TEXT | {"head_dim": [8, 16], "attention_bias": [True, False]}

GLM: Values = QWEN | {
    "hidden_size": [16, 24], "intermediate_size": [17, 19], "out_hidden_size": [32], "image_size": [20, 24],
    "attention_bias": [True, False], "hidden_act": ["silu", "gelu"]}
ROTATED: dict[int, Values] = {width: {"head_dim": [width], "rope_parameters": [
    {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [width // 4, width // 8, width // 8]}]}
    for width in (8, 16)}
HALF: Values = {"rope_parameters": [{**ROTATED[8]["rope_parameters"][0], "partial_rotary_factor": 0.5}]}
GLM_MOE_TEXT: Values = {k: v for k, v in TEXTS["glm4_moe"].items() if k != "use_qk_norm"} | HALF | {
    "hidden_size": [32], "head_dim": [16], "tie_word_embeddings": [True, False]}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
COMPASS: Values = {
    "hidden_size": [32], "num_attention_heads": [4], "num_hidden_layers": [3], "tie_word_embeddings": [True],
    "layer_types": [["sliding_attention", "full_attention", "sliding_attention"]],
    "rope_parameters": [{"sliding_attention": _ROPE, "full_attention": None},
                        {"sliding_attention": _ROPE, "full_attention": _ROPE}]}
PADDLE: Values = TEXTS["ernie4_5"] | {"tie_word_embeddings": [True, False]}

SOUND: Values = {
    "num_mel_bins": [5, 8], "num_hidden_layers": [1, 3], "num_attention_heads": [2], "intermediate_size": [17, 29],
    "hidden_size": [16, 24], "max_source_positions": [11, 13], "activation_function": ["gelu", "relu"]}
WIDE: Values = {"hidden_size": [16], "intermediate_size": [64, 32], "max_source_positions": [8, 12]}
HEARD: Values = {"projector_hidden_act": ["gelu", "relu"]}

GRID: dict[str, Any] = {
    "num_mel_bins": 5, "encoder_attention_heads": 2, "encoder_ffn_dim": 17, "n_window": 50, "n_window_infer": 200,
    "downsample_hidden_size": 7}
SEES: Values = {k: v for k, v in SIGLIP.items() if k != "vision_use_head"}
KOSMOS_TEXT: Values = {
    "vocab_size": [101], "embed_dim": [16, 24], "layers": [1, 2], "ffn_dim": [17, 29], "attention_heads": [2, 4],
    "activation_function": ["gelu", "relu"], "scale_embedding": [True, False], "max_position_embeddings": [97],
    "tie_word_embeddings": [True, False]}

CASES: dict[str, tuple[list[Values], list[Values], Values]] = {
    "llava": (
        text(*TEXT_TYPES, tie_word_embeddings=[True, False]),
        [{"model_type": ["clip_vision_model"], **CLIP, **LAYERS}, tower("clip_vision_model", LAYERS)],
        TIED | {"vision_feature_layer": [-1, -2, -3, 2, [-2, -3], [-1, 2], [-2]],
                "multimodal_projector_bias": [True, False], "projector_hidden_act": ["gelu", "relu"]},
    ),
    "vipllava": (
        text(*TEXT_TYPES, tie_word_embeddings=[True, False]), [tower("clip_vision_model", LAYERS)],
        TIED | {"vision_feature_layer": [[-2, -3], [-1, -2, 1], [2], -2, -1], "projector_hidden_act": ["gelu", "relu"]},
    ),
    "mistral3": (
        text("mistral", "ministral3"), [tower("pixtral", LAYERS, image_size=[33, 41])],
        TIED | {"vision_feature_layer": [-1, -2], "multimodal_projector_bias": [True, False],
                "spatial_merge_size": [1, 2], "projector_hidden_act": ["gelu", "silu"]},
    ),
    "paligemma": (
        text("gemma", "gemma2", hidden_size=[24]), [tower("siglip_vision_model")], TIED | {"projection_dim": [24]},
    ),
    "gemma4": (
        text("gemma4_text", hidden_size_per_layer_input=[6], num_hidden_layers=[9], num_kv_shared_layers=[0, 1, 2]),
        [{"hidden_size": [16, 24], "intermediate_size": [17, 23], "num_hidden_layers": [1, 2],
          "num_attention_heads": [4], "num_key_value_heads": [1, 2, 4], "head_dim": [8, 12], "patch_size": [2, 3],
          "pooling_kernel_size": [2, 3], "position_embedding_size": [48, 53], "standardize": [True, False]}], TIED,
    ),
    "aya_vision": (
        text("cohere2", "cohere", "llama"), [tower("siglip_vision_model", EVEN, LAYERS)],
        TIED | {"downsample_factor": [1, 2], "vision_feature_layer": [-1, -2],
                "alignment_intermediate_size": [14, 22]},
    ),
    "cohere2_vision": (
        text("cohere2"), [tower("siglip_vision_model", EVEN)],
        TIED | {"downsample_factor": [1, 2], "alignment_intermediate_size": [14, 22]},
    ),
    "internvl": (
        text("qwen2", "llama", "qwen3"), [tower("internvl_vision", EVEN, LAYERS, use_mean_pooling=[True])],
        TIED | {"downsample_ratio": [0.5, 0.25, 1.0], "vision_feature_layer": [-1, -2],
                "projector_hidden_act": ["gelu", "relu"]},
    ),
    "idefics3": (text("llama", "qwen3"), [tower("idefics3_vision", EVEN)], TIED | {"scale_factor": [1, 2, 4]}),
    "smolvlm": (text("llama"), [tower("smolvlm_vision", EVEN)], TIED | {"scale_factor": [2]}),
    "qwen2_vl": (
        [QWEN_TEXT | {"use_sliding_window": [True, False], "sliding_window": [5], "max_window_layers": [0, 1]}],
        [QWEN | {"embed_dim": [16, 24], "mlp_ratio": [2, 3], "hidden_size": [32],
                 "hidden_act": ["quick_gelu", "gelu"]}],
        TIED,
    ),
    "qwen2_5_vl": (
        [QWEN_TEXT], [QWEN | {"hidden_size": [16, 24], "intermediate_size": [17], "out_hidden_size": [32],
                              "window_size": [40, 48], "fullatt_block_indexes": [[0, 2], [1, 9], []]}],
        TIED,
    ),
    "qwen3_vl": (
        [QWEN3_TEXT], [QWEN3], TIED,
    ),
    "qwen3_vl_moe": (
        [QWEN3_TEXT | {"tie_word_embeddings": [True, False], "num_experts": [4, 5], "num_experts_per_tok": [1, 2],
                       "moe_intermediate_size": [12, 16], "mlp_only_layers": [[], [1]], "decoder_sparse_step": [1, 2]}],
        [QWEN3], TIED,
    ),
    "qwen3_5": (
        text("qwen3_5_text", hidden_size=[32], tie_word_embeddings=[True, False]),
        [{k: v for k, v in QWEN3.items() if k != "deepstack_visual_indexes"}], TIED,
    ),
    "qwen3_5_moe": (
        text("qwen3_5_moe_text", hidden_size=[32], tie_word_embeddings=[True, False]),
        [{k: v for k, v in QWEN3.items() if k != "deepstack_visual_indexes"}], TIED,
    ),
    "qwen4_exp": (
        text("qwen4_exp_text", hidden_size=[32], tie_word_embeddings=[True, False]),
        [{k: v for k, v in QWEN3.items() if k != "deepstack_visual_indexes"}], TIED,
    ),
    "llama4": (
        text("llama4_text", tie_word_embeddings=[True, False]),
        [{"hidden_size": [16], "num_hidden_layers": [1, 3], "num_attention_heads": [1, 2, 4],
          "intermediate_size": [64], **EVEN, "num_channels": [1, 3],
          "pixel_shuffle_ratio": [0.5], "projector_input_dim": [13], "projector_output_dim": [13],
          "vision_output_dim": [13]}],
        {},
    ),
    "deepseek_vl": (text("llama", "qwen2"), [tower("siglip_vision_model")], TIED),
    "lfm2_vl": (
        text("lfm2", "lfm2_moe", "qwen3", tie_word_embeddings=[True, False]),
        [tower("siglip2_vision_model", num_patches=[16, 36])],
        TIED | {"downsample_factor": [1, 2], "projector_hidden_size": [14, 22], "projector_bias": [True, False],
                "projector_use_layernorm": [True, False], "projector_hidden_act": ["gelu", "relu"]},
    ),
    "lighton_ocr": (text("qwen3", "mistral"), [tower("pixtral", image_size=[33, 41])], TIED | {
        "spatial_merge_size": [1, 2]}),
    "glm4v": ([QWEN_TEXT], [GLM], TIED),
    "glm4v_moe": ([GLM_MOE_TEXT], [GLM], TIED),
    "glm46v": (
        [{"model_type": ["glm4v_text"], **QWEN_TEXT}, {"model_type": ["glm4v_moe_text"], **GLM_MOE_TEXT}],
        [{"model_type": ["glm4v_vision"], **GLM}, {"model_type": ["glm4v_moe_vision"], **GLM}], TIED,
    ),
    "glmga": (
        [{"model_type": ["glm4v_text"], **QWEN_TEXT}], [{"model_type": ["glm4v_vision"], **GLM}], TIED),
    "glm_ocr": (
        [QWEN_TEXT, QWEN_TEXT | ROTATED[8], QWEN_TEXT | ROTATED[16], QWEN_TEXT | HALF | {"head_dim": [16]}], [GLM],
        TIED,
    ),
    "exaone4_5": (
        text("exaone4", hidden_size=[32], tie_word_embeddings=[True, False]),
        [QWEN | {"hidden_size": [16, 32], "intermediate_size": [17], "out_hidden_size": [32], "num_heads": [2, 4],
                 "num_key_value_heads": [1, 2], "window_size": [40, 48], "fullatt_block_indexes": [[0, 2], [1], []]}],
        TIED,
    ),
    "kimi_k25": (
        text("deepseek_v3", "qwen3", tie_word_embeddings=[True, False]),
        [{"hidden_size": [24], "num_hidden_layers": [1, 3], "num_attention_heads": [1, 2],
          "intermediate_size": [17, 19], "patch_size": [3, 5], "pos_emb_height": [4], "pos_emb_width": [4],
          "pos_emb_time": [2, 4], "merge_kernel_size": [[2, 2], [1, 1]], "hidden_act": ["gelu", "gelu_pytorch_tanh"]}],
        TIED | {"projection_hidden_size": [24]},
    ),
    "paddleocr_vl": (
        [PADDLE | ROTATED[8], PADDLE | ROTATED[16]],
        [{"hidden_size": [16, 24], "num_hidden_layers": [1, 3], "num_attention_heads": [1, 2],
          "intermediate_size": [17, 19], "num_channels": [1, 3], "image_size": [20, 28], "patch_size": [4, 5],
          "spatial_merge_size": [1, 2], "hidden_act": ["gelu", "gelu_pytorch_tanh"]}],
        TIED,
    ),
    "llava_next": (
        text(*TEXT_TYPES, tie_word_embeddings=[True, False]), [tower("clip_vision_model", LAYERS)],
        TIED | {"vision_feature_layer": [-1, -2, 2, [-2, -3]], "multimodal_projector_bias": [True, False],
                "projector_hidden_act": ["gelu", "relu"]},
    ),
    "video_llava": (
        text("llama", "qwen2", tie_word_embeddings=[True, False]), [tower("clip_vision_model", LAYERS)],
        TIED | {"vision_feature_layer": [-1, -2], "multimodal_projector_bias": [True, False]}),
    "llava_next_video": (
        text("llama"), [tower("clip_vision_model", LAYERS)], TIED | {"vision_feature_layer": [-1, -2]}),
    "llava_onevision": (
        text("qwen2"), [tower("siglip_vision_model", LAYERS)],
        TIED | {"vision_feature_layer": [-1, -2], "vision_feature_select_strategy": ["full"]}),
    "qianfan_ocr": (
        text("qwen3"), [tower("qianfan_ocr_vision", EVEN, LAYERS, use_mean_pooling=[True])],
        TIED | {"downsample_ratio": [0.5, 1.0], "vision_feature_layer": [-1, -2]}),
    "hyperclovax_vision_v2": (
        text("hyperclovax"), [QWEN | {"model_type": ["qwen2_5_vl_vision", "qwen2_5_vl"], "hidden_size": [16, 24],
                              "intermediate_size": [17], "out_hidden_size": [26], "window_size": [40, 48],
                              "fullatt_block_indexes": [[0, 2], []]}], TIED),
    "cosmos3_omni": ([QWEN3_TEXT], [QWEN3], TIED),
    "cosmos3_edge": (
        [QWEN3_TEXT | ROTATED[8] | {"mlp_bias": [True, False], "hidden_act": ["relu2", "gelu"]}],
        [{k: v for k, v in IMAGES["siglip2_vision_model"].items() if k != "vision_use_head"} | {
            "num_patches": [16, 36], "spatial_merge_size": [1, 2]}], TIED | {"projector_hidden_size": [13]}),
    "cohere_compass": (
        [{k: v for k, v in TEXTS["cohere2"].items() if k != "tie_word_embeddings"} | COMPASS], [QWEN3], TIED),
    "video_llama_3": (
        [QWEN_TEXT | {"model_type": ["qwen2"]}, QWEN3_TEXT | {"model_type": ["qwen3"]}],
        [{"hidden_size": [16, 24], "intermediate_size": [17], "num_hidden_layers": [1, 3],
          "num_attention_heads": [1, 2], "num_channels": [1, 3], "patch_size": [5, 6]}], TIED),
    "modernvbert": ([reads("modernbert")], [tower("siglip_vision_model", EVEN)], READER),
    "ultravbert": ([reads("ultrabert")], [tower("siglip_vision_model", EVEN)], READER),
    "blip-2": (
        text("opt", hidden_size=[24], word_embed_proj_dim=[24], tie_word_embeddings=[True, False]) + text("llama"),
        [tower("blip_2_vision_model")],
        {"num_query_tokens": [5, 7], "qformer_config": [{
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 23,
            "cross_attention_frequency": every} for width in (14, 18) for layers in (1, 3, 4) for every in (1, 2)]}),
    **{name: (
        text("opt", hidden_size=[24], word_embed_proj_dim=[24], tie_word_embeddings=[True, False]) + text("llama"),
        [tower(f"{name}_vision_model")],
        {"num_query_tokens": [5, 7], "qformer_config": [{
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 23,
            "vocab_size": 43, "max_position_embeddings": 7,
            "cross_attention_frequency": every} for width in (14, 18) for layers in (1, 3) for every in (1, 2)]})
       for name in ("instructblip", "instructblipvideo")},
    "idefics2": (
        text("mistral", "llama"), [SEES],
        TIED | {"perceiver_config": [{
            "resampler_n_latents": latents, "resampler_depth": layers, "resampler_n_heads": 4,
            "num_key_value_heads": few, "resampler_head_dim": 7, "hidden_act": "silu"}
            for latents in (3, 5) for layers in (1, 2) for few in (1, 2)]}),
    "kosmos-2": ([KOSMOS_TEXT], [SEES], TIED | {"latent_query_num": [3, 5]}),
    "kosmos-2.5": ([KOSMOS_TEXT], [{
        "hidden_size": [12, 20], "num_hidden_layers": [1, 3], "num_attention_heads": [1, 2], "head_dim": [3, 7],
        "intermediate_size": [17], "patch_embed_hidden_size": [12, 27], "max_num_patches": [9, 17],
        "dense_act_fn": ["gelu_new", "relu"]}], TIED | {"latent_query_num": [3, 5]}),
    "gemma4_unified": (
        text("gemma4_unified_text"),
        [{"patch_size": [2, 3], "pooling_kernel_size": [1, 2], "mm_embed_dim": [14], "output_proj_dims": [14],
          "mm_posemb_size": [16, 21]}], TIED),
    "fuyu": (
        text("persimmon", tie_word_embeddings=[True, False]), [{"image_size": [24], "patch_size": [5, 6],
                                                               "num_channels": [1, 3]}], TIED),
    "minimax_m3_vl": (
        text("minimax_m3_vl_text", tie_word_embeddings=[True, False]), [{
            "hidden_size": [16, 24], "intermediate_size": [17], "num_hidden_layers": [1, 3],
            "num_attention_heads": [1, 2], "num_channels": [1, 3], **EVEN,
            "temporal_patch_size": [1, 2], "spatial_merge_size": [1, 2], "hidden_act": ["gelu", "quick_gelu"]}],
        TIED | {"projector_hidden_size": [13, 19]}),
    **{name: (
        text("qwen3_5_text", hidden_size=[32], tie_word_embeddings=[True, False]), [{
            "hidden_size": [16, 24], "intermediate_size": [17, 19], "num_hidden_layers": [3, 4],
            "num_attention_heads": [1, 2], "num_channels": [1, 3], **EVEN,
            "hidden_act": ["gelu", "gelu_pytorch_tanh"]}],
        TIED | {"insert_layer_id": [0, 1, 2], "downsample_mode": ["4x", "16x"]})
       for name in ("minicpmv4_6", "minicpmv4_7", "minicpm_ocr")},
    "ovis2": (
        text("qwen2", hidden_size=[24], num_attention_heads=[2, 4], num_key_value_heads=[1, 2], vocab_size=[101],
             tie_word_embeddings=[True, False]), [{
            "hidden_size": [12, 20], "intermediate_size": [17], "num_hidden_layers": [1, 3],
            "num_attention_heads": [1, 2], "num_channels": [1, 3], **EVEN, "qkv_bias": [True, False],
            "mlp_bias": [True, False], "vocab_size": [31, 43], "hidden_stride": [1, 2],
            "num_visual_indicator_tokens": [3, 5], "tokenize_function": ["softmax", "st_argmax"]}],
        TIED | {"hidden_size": [24], "vocab_size": [101]}),
    "qwen2_5_omni_thinker": (
        [QWEN_TEXT], [QWEN | {"hidden_size": [16, 24], "intermediate_size": [17], "out_hidden_size": [32],
                              "window_size": [40, 48], "fullatt_block_indexes": [[0, 2], [1], []]}],
        TIED | {"vision_start_token_id": [7], "audio_config": [{
            "num_mel_bins": 5, "encoder_layers": layers, "encoder_attention_heads": 2, "encoder_ffn_dim": 17,
            "d_model": width, "n_window": 8, "output_dim": 32} for layers in (1, 3) for width in (12, 20)]}),
    "qwen3_omni_moe_thinker": (
        [QWEN3_TEXT | {"num_experts": [4, 5], "num_experts_per_tok": [1, 2], "norm_topk_prob": [True, False],
                       "moe_intermediate_size": [12, 16], "mlp_only_layers": [[], [1]], "decoder_sparse_step": [1, 2]}],
        [QWEN3], TIED | {"vision_start_token_id": [7], "audio_config": [
            GRID | {"encoder_layers": layers, "d_model": width, "output_dim": 32}
            for layers in (1, 3) for width in (12, 20)]}),
    "aria": (
        text("aria_text", tie_word_embeddings=[True, False]), [tower("idefics3_vision", EVEN)],
        TIED | {"projector_patch_to_query_dict": [{"16": 5, "9": 3}, {"16": 7}]}),
    "janus": (
        text("llama", hidden_size=[24], tie_word_embeddings=[True, False]), [{
            "hidden_size": [12, 20], "num_hidden_layers": [1, 3], "num_attention_heads": [1, 2], "mlp_ratio": [2.5, 4],
            "num_channels": [1, 3], **EVEN, "projection_dim": [24], "depth": [1, 2, 3],
            "attention_bias": [True, False], "hidden_act": ["gelu", "relu"]}],
        TIED | {"vq_config": [{
            "base_channels": 32, "channel_multiplier": levels, "num_res_blocks": blocks, "latent_channels": 7,
            "num_embeddings": 43, "embed_dim": 5, "projection_dim": 26, "image_token_embed_dim": 24,
            "num_hidden_layers": layers, "out_channels": 2} for levels in ([1, 2], [1, 1, 3]) for blocks in (1, 2)
            for layers in (1, 2)]}),
    "lfm3_vl": (
        text("lfm3", tie_word_embeddings=[True, False]), [{
            "hidden_size": [16, 32], "intermediate_size": [17, 19], "num_hidden_layers": [3, 4],
            "num_attention_heads": [2, 4], "num_key_value_heads": [1, 2], "conv_kernel_size": [3, 5],
            "patch_size": [5, 6], "in_channels": [1, 3], "spatial_merge_size": [1, 2],
            "temporal_patch_size": [1, 2]}],
        TIED | {"projector_hidden_size": [14, 22], "projector_bias": [True, False],
                "projector_hidden_act": ["gelu", "relu"]}),
    "hunyuan_vl": (
        [QWEN_TEXT | ROTATED[8], QWEN_TEXT | ROTATED[16]], [{
            "hidden_size": [16, 24], "intermediate_size": [17, 19], "num_hidden_layers": [1, 3],
            "num_attention_heads": [1, 2], "num_channels": [1, 3], "max_image_size": [24], "patch_size": [5, 6],
            "spatial_merge_size": [1, 2], "hidden_act": ["gelu", "gelu_pytorch_tanh"]}], TIED),
    **{name: (
        text("qwen2", tie_word_embeddings=[True, False]), [{
            "hidden_size": [12, 20], "num_hidden_layers": [2, 4], "num_attention_heads": [1, 2], "mlp_dim": [17, 29],
            "num_channels": [1, 3], "image_size": [24, 28], "patch_size": [4], "output_channels": [5, 8],
            "qkv_bias": [True, False], "use_abs_pos": [True, False], "use_rel_pos": [True, False],
            "window_size": [2, 3, 5], "global_attn_indexes": [[1, 3], [0, 2], []], "hidden_act": ["gelu", "relu"]}],
        TIED)
       for name in ("got_ocr2", "pp_chart2table")},
    "muse_glimmer": ([{
        "vocab_size": [101], "hidden_size": [32], "intermediate_size": [37], "num_hidden_layers": [3, 5],
        "num_attention_heads": [4], "num_key_value_heads": [1, 2], "head_dim": [6, 8], "sliding_window": [5],
        "attention_bias": [True, False], "max_position_embeddings": [97], "layer_rope_theta": [None],
        "hidden_activation": ["silu", "gelu"], "tie_word_embeddings": [True, False],
        "final_logit_softcapping": [20.0]}], [{
            "hidden_size": [24], "intermediate_size": [17], "num_hidden_layers": [1, 5],
            "num_attention_heads": [1, 2], "patch_size": [5, 6], "pos_emb_height": [4], "pos_emb_width": [4],
            "patch_temporal": [1, 2], "merge_size": [2], "hidden_act": ["gelu", "relu"],
            "layer_types": [None]}],
        TIED | {"out_hidden_size": [96], "projector_hidden_size": [13, 19],
                "projector_hidden_act": ["gelu", "relu"]}),
    "step3p7": ([{
        "vocab_size": [101], "hidden_size": [32], "intermediate_size": [37], "num_hidden_layers": [4],
        "num_attention_heads": [4], "num_key_value_heads": [2], "head_dim": [6, 8], "sliding_window": [5],
        "attention_bias": [True, False], "mlp_bias": [False], "max_position_embeddings": [97],
        "num_sliding_attention_heads": [None, 6], "moe_intermediate_size": [11, 13], "n_routed_experts": [5, 7],
        "num_experts_per_tok": [1, 2], "share_expert_dim": [17, 19], "tie_word_embeddings": [True, False],
        "layer_types": [None, ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]],
        "mlp_layer_types": [None, ["dense", "sparse", "sparse", "dense"]]}], [{
            "hidden_size": [16, 24], "num_hidden_layers": [1, 3], "num_attention_heads": [1, 2],
            "mlp_ratio": [1.5, 2.0], "num_channels": [1, 3], "image_size": [24, 28], "patch_size": [4],
            "hidden_act": ["gelu", "quick_gelu"]}], TIED | {"projector_bias": [True, False]}),
    "granite_docling": (
        [{k: v for k, v in TEXTS["granite"].items() if k not in ("hidden_size", "tie_word_embeddings")} | {
            "hidden_size": [32], "num_hidden_layers": [3], "num_attention_heads": [4, 8], "pad_token_id": [0],
            "tie_word_embeddings": [True, False]}], [{
                "hidden_size": [12, 20], "num_hidden_layers": [3, 4], "num_attention_heads": [1, 2],
                "intermediate_size": [17], "num_channels": [1, 3], **EVEN, "scale_factor": [2, 4],
                "out_hidden_size": [32], "deepstack_visual_indexes": [[0, 2], [1], []],
                "use_fine_route": [True, False], "hidden_act": ["gelu", "relu"]}], TIED),
    "qwen3_asr": (
        text("qwen3", hidden_size=[24]),
        [{k: [v] for k, v in GRID.items()} | {"encoder_layers": [1, 3], "d_model": [12, 20], "output_dim": [24],
                                             "activation_function": ["gelu", "relu"]}], TIED),
    "qwen2_audio": (text("qwen2"), [SOUND], {}),
    "audioflamingo3": (text("qwen2"), [SOUND], HEARD | {"projector_bias": [True, False]}),
    "musicflamingo": (text("qwen2"), [SOUND | {"model_type": ["audioflamingo3_encoder"]}], HEARD | {
        "projector_bias": [True, False]}),
    "voxtral": (text("llama", "mistral"), [SOUND | WIDE], HEARD),
    "voxtral_realtime": ([{k: v for k, v in TEXTS["mistral"].items() if k != "tie_word_embeddings"}, {
        "num_hidden_layers": [1], "vocab_size": [43]}], [{
        "hidden_size": [12, 20], "num_hidden_layers": [1, 3], "num_attention_heads": [2, 4], "head_dim": [6, 8],
        "intermediate_size": [17, 23], "num_mel_bins": [5, 7], "max_position_embeddings": [8, 16],
        "sliding_window": [3, 9]}], TIED | HEARD | {"downsample_factor": [2, 4]}),
    "glmasr": (
        text("llama"), [{k: v for k, v in (SOUND | WIDE).items() if k not in (
            "max_source_positions", "activation_function")} | {
            "intermediate_size": [64], "max_position_embeddings": [8, 12],
            "num_key_value_heads": [None, 1, 2], "hidden_act": ["gelu", "relu"]}],
        TIED | HEARD),
    "moss_transcribe_diarize": (
        text("qwen3"), [SOUND | {"max_source_positions": [8, 16]}],
        TIED | HEARD | {"audio_merge_size": [2, 4], "projector_bias": [True, False]}),
}
"""Of each: texts, towers, and the fields beside them."""
SOUNDS = {"voxtral_realtime",
          "qwen2_audio", "qwen3_asr", "musicflamingo", "audioflamingo3", "voxtral", "glmasr", "moss_transcribe_diarize"}
"""Those whose towers hear."""
ALONE = {"fuyu"}
"""Those without a tower's configuration."""


def tower_of(model_type: str) -> str:
    """The field of the tower's configuration, or nothing where its fields stand beside the text's."""
    if model_type in ALONE:
        return ""
    return "audio_config" if model_type in SOUNDS else "vision_config"


_LAYERS: Values = {"hidden_size": [24, 32], "num_attention_heads": [4], "num_key_value_heads": [1, 2],
                   "head_dim": [6, 8], "num_hidden_layers": [1, 3], "intermediate_size": [17, 19], "vocab_size": [43]}
NESTED: dict[str, dict[str, Values]] = {
    "qwen2_5_omni": {
        "": {"enable_audio_output": [True, True, False]},
        "talker_config": {**_LAYERS, "embedding_size": [20, 24]},
        "token2wav_config.dit_config": {
            "hidden_size": [12, 16], "num_hidden_layers": [1, 3], "num_attention_heads": [2], "ff_mult": [2, 3],
            "emb_dim": [5], "head_dim": [6, 8], "num_embeds": [31], "mel_dim": [7, 11], "enc_emb_dim": [3],
            "enc_dim": [13], "enc_channels": [[16, 16, 24], [8, 16, 16, 24]], "enc_attention_channels": [9],
            "enc_res2net_scale": [1, 2, 4], "enc_se_channels": [5]},
        "token2wav_config.bigvgan_config": {
            "mel_dim": [7], "upsample_initial_channel": [16, 24], "resblock_kernel_sizes": [[3, 5], [3, 7, 11]],
            "upsample_rates": [[5, 2], [3, 2, 2]]}},
    "qwen3_omni_moe": {
        "": {"enable_audio_output": [True, True, False]},
        "talker_config": {"num_code_groups": [1, 5], "thinker_hidden_size": [13, 32], "spatial_merge_size": [2]},
        "talker_config.text_config": {
            **_LAYERS, "attention_bias": [True, False], "num_experts": [4, 5], "moe_intermediate_size": [7, 12],
            "shared_expert_intermediate_size": [11, 13], "num_experts_per_tok": [2]},
        "talker_config.code_predictor_config": {**_LAYERS, "attention_bias": [True, False]},
        "code2wav_config": {
            **{k: v for k, v in _LAYERS.items() if k != "vocab_size"}, "codebook_size": [13], "num_quantizers": [3, 4],
            "attention_bias": [True, False], "upsample_rates": [[3, 2], [4, 3, 2]], "upsampling_ratios": [[2], [2, 3]],
            "decoder_dim": [16, 24]}},
    **{name: {
        "": {"tie_word_embeddings": [True, False], "downsample_rate": [2, 3], "window_size": [6, 7]},
        "text_config": text("granite")[0],
        "encoder_config": {
            "input_dim": [11], "num_layers": [1, 3], "hidden_dim": [12, 20], "feedforward_mult": [2, 3],
            "output_dim": [7], "num_heads": [2, 4], "dim_head": [None, 5], "context_size": [4], "max_pos_emb": [5, 8],
            "conv_kernel_size": [3, 5], "conv_expansion_factor": [1, 2]},
        "projector_config": {
            "model_type": ["blip_2_qformer"], "hidden_size": [16, 24], "encoder_hidden_size": [12],
            "num_hidden_layers": [1, 3], "num_attention_heads": [2, 4], "intermediate_size": [17, 19],
            "cross_attention_frequency": [1, 2]},
    } for name in ("granite_speech", "granite_speech_plus")},
    "mllama": {
        "": {"image_token_index": [7]},
        "text_config": {"model_type": ["mllama_text_model"], **TEXTS["mllama_text_model"]},
        "vision_config": {
            "hidden_size": [12, 20], "num_hidden_layers": [3], "num_global_layers": [1, 2], "attention_heads": [2, 4],
            "num_channels": [1, 3], "intermediate_size": [17], "vision_output_dim": [24, 36], **EVEN,
            "supported_aspect_ratios": [[[1, 1], [1, 2]], [[1, 1], [2, 1], [3, 1]]], "max_num_tiles": [2, 3],
            "intermediate_layers_indices": [[1]]}},
    "kyutai_speech_to_text": {
        "": {"vocab_size": [43], "codebook_vocab_size": [9], "num_codebooks": [2, 4], "hidden_size": [24],
             "num_hidden_layers": [1, 3], "num_attention_heads": [4], "num_key_value_heads": [2, 4], "head_dim": [6, 8],
             "ffn_dim": [18, 38], "sliding_window": [5, 40], "max_position_embeddings": [97], "pad_token_id": [3],
             "audio_pad_token_id": [5]},
        "codec_config": {
            "model_type": ["mimi"], "audio_channels": [1, 2], "hidden_size": [12, 16], "num_filters": [4, 8],
            "num_residual_layers": [1, 2], "upsampling_ratios": [[3, 2], [2, 2, 3]], "kernel_size": [5, 7],
            "last_kernel_size": [3], "residual_kernel_size": [3, 5], "compress": [2], "upsample_groups": [2, 4],
            "vector_quantization_hidden_dimension": [8, 12], "use_conv_shortcut": [True, False],
            "num_hidden_layers": [1, 3], "intermediate_size": [17], "num_attention_heads": [2],
            "num_key_value_heads": [1, 2], "head_dim": [None, 6], "frame_rate": [None, 12.5],
            "sampling_rate": [150, 24000], "attention_bias": [True, False]}},
}
"""Parts that no run has work for and what stands beside them, by the path of each configuration."""
SAME_LENGTHS = {"enc_channels": ("enc_kernel_sizes", "enc_dilations"), "upsample_rates": ("upsample_kernel_sizes",)}
"""Lists that are as long as another."""
