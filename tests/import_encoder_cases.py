"""Small configurations of encoders, encoder-decoders and image models, and what may be varied in each."""

from typing import Any

Values = dict[str, list[Any]]
ACTIVATIONS = ["gelu", "relu", "gelu_new", "silu"]
LABELS = [None, 3, 5]

BERT: Values = {
    "vocab_size": [101, 131], "hidden_size": [12, 20], "num_hidden_layers": [1, 2, 3], "num_attention_heads": [1, 2, 4],
    "intermediate_size": [17, 29], "max_position_embeddings": [23, 31], "type_vocab_size": [1, 2, 3],
    "hidden_act": ACTIVATIONS, "num_labels": LABELS, "pad_token_id": [0],
}
UNTYPED: Values = {name: values for name, values in BERT.items() if name != "type_vocab_size"}
XLM: Values = {
    "vocab_size": [101, 131], "emb_dim": [12, 20], "n_layers": [1, 2], "n_heads": [2, 4], "n_langs": [1, 3],
    "use_lang_emb": [True, False], "gelu_activation": [True, False], "sinusoidal_embeddings": [True, False],
    "max_position_embeddings": [23], "causal": [True, False], "num_labels": LABELS,
    "tie_word_embeddings": [True, False],
}
DECODING: Values = {"is_decoder": [True, False], "tie_word_embeddings": [True, False]}
DEBERTA: Values = BERT | {
    "type_vocab_size": [0, 2], "relative_attention": [True, True, False], "position_biased_input": [True, False],
    "pos_att_type": [["c2p", "p2c"], "p2c|c2p", "c2p | p2c"], "max_relative_positions": [-1, 13],
    "pooler_hidden_act": ACTIVATIONS, "legacy": [True, False], "tie_word_embeddings": [True, False],
}
T5: Values = {
    "vocab_size": [101, 131], "d_model": [12, 20], "d_kv": [3, 7], "d_ff": [17, 29], "num_layers": [1, 2],
    "num_decoder_layers": [None, 1, 3], "num_heads": [2, 3], "relative_attention_num_buckets": [6, 14],
    "relative_attention_max_distance": [19], "feed_forward_proj": ["relu", "gated-gelu", "gated-silu", "gelu"],
    "num_labels": LABELS,
}
BART: Values = {
    "vocab_size": [101, 131], "d_model": [12, 20], "encoder_layers": [1, 2], "decoder_layers": [1, 3],
    "encoder_attention_heads": [1, 2], "decoder_attention_heads": [2, 4],
    "encoder_ffn_dim": [17], "decoder_ffn_dim": [29],
    "max_position_embeddings": [23, 31], "activation_function": ACTIVATIONS, "scale_embedding": [True, False],
    "num_labels": LABELS, "pad_token_id": [1], "eos_token_id": [2], "decoder_start_token_id": [2],
    "tie_word_embeddings": [True, True, False],
}
SEAMLESS: Values = {name: values for name, values in BART.items() if name not in ("d_model", "num_labels")} | {
    "hidden_size": [12, 20], "tie_word_embeddings": [True, False], "t2u_encoder_layers": [1, 3]}
VIT: Values = {
    "hidden_size": [12, 20], "num_hidden_layers": [1, 2, 3], "num_attention_heads": [1, 2, 4],
    "intermediate_size": [17, 29], "image_size": [21, 26, [21, 21]], "patch_size": [5, 7], "num_channels": [1, 3],
    "hidden_act": ACTIVATIONS, "qkv_bias": [True, False], "num_labels": LABELS,
}
CLIP_TEXT: Values = {
    "vocab_size": [101, 131], "hidden_size": [12, 20], "intermediate_size": [17], "num_hidden_layers": [1, 2],
    "num_attention_heads": [1, 2], "max_position_embeddings": [13, 19], "hidden_act": ["quick_gelu", "gelu"],
    "projection_dim": [9, 11],
}
VISION: Values = {k: v for k, v in VIT.items() if k not in ("qkv_bias", "num_labels")} | {"image_size": [21, 26]}
BLIP_VISION: Values = {k: v for k, v in (VIT | {"image_size": [21, 26]}).items() if k not in (
    "num_channels", "num_labels")}
CLIP_VISION: Values = VISION | {"hidden_act": ["quick_gelu", "gelu"], "projection_dim": [9, 11]}
SIGLIP_TEXT: Values = {k: v for k, v in CLIP_TEXT.items() if k != "projection_dim"} | {"projection_size": [None, 9]}
GEMMA3_TEXT: Values = {
    "vocab_size": [101], "hidden_size": [16, 24], "intermediate_size": [17], "num_hidden_layers": [2, 7],
    "num_attention_heads": [4], "num_key_value_heads": [1, 2], "head_dim": [6, 10], "sliding_window": [5],
    "max_position_embeddings": [67],
}

T5GEMMA: Values = {name: values for name, values in GEMMA3_TEXT.items() if name != "hidden_size"} | {
    "vocab_size": [101, 103], "hidden_size": [16], "attention_bias": [True, False], "num_hidden_layers": [1, 2, 5],
    "attn_logit_softcapping": [None, 30.0], "final_logit_softcapping": [None, 20.0],
}

CASES: dict[str, Values] = {
    "bert": BERT | DECODING,
    "bert-generation": {k: v for k, v in BERT.items() if k not in ("type_vocab_size", "num_labels")} | DECODING,
    "roberta": BERT | DECODING | {"pad_token_id": [0, 1, 2]},
    "xlm-roberta": BERT | DECODING | {"pad_token_id": [1]},
    "camembert": BERT | DECODING | {"pad_token_id": [1]},
    "xlm-roberta-xl": BERT | DECODING | {"pad_token_id": [0, 1]},
    "roberta-prelayernorm": BERT | DECODING | {"pad_token_id": [0, 1]},
    "data2vec-text": BERT | DECODING | {"pad_token_id": [0, 1]},
    "megatron-bert": BERT | DECODING,
    "ernie": BERT | DECODING | {"use_task_id": [True, False], "task_type_vocab_size": [3, 5]},
    "big_bird": BERT | DECODING | {"attention_type": ["original_full"], "use_bias": [True, False],
                                   "rescale_embeddings": [True, False]},
    "mpnet": UNTYPED | {"relative_attention_num_buckets": [32, 37], "tie_word_embeddings": [True, False]},
    "esm": UNTYPED | {"pad_token_id": [0, 1, 2], "position_embedding_type": ["absolute", "rotary"],
                      "emb_layer_norm_before": [True, False], "token_dropout": [False, True], "mask_token_id": [4],
                      "hidden_act": ["gelu"], "hidden_size": [16, 24],
                      "tie_word_embeddings": [True, False]},
    "eurobert": UNTYPED | {
        "num_key_value_heads": [1, 2], "num_attention_heads": [2, 4], "head_dim": [None, 6],
        "attention_bias": [True, False], "mlp_bias": [True, False], "tie_word_embeddings": [True, False],
        "hidden_size": [16, 24], "classifier_pooling": ["late", "bos", "mean"]},
    "nomic_bert": BERT | {"hidden_size": [16, 24], "head_dim": [None, 6], "tie_word_embeddings": [True, False]},
    "gte": BERT | {"hidden_size": [16, 24], "type_vocab_size": [0, 1, 2], "tie_word_embeddings": [True, False]},
    "jina_embeddings_v3": BERT | {"hidden_size": [16, 24], "tie_word_embeddings": [True, False]},
    "esmc": UNTYPED | {"hidden_size": [16, 24], "attention_bias": [True, False], "mlp_bias": [True, False],
                       "tie_word_embeddings": [True, False]},
    "ultrabert": UNTYPED | {
        "num_key_value_heads": [1, 2], "num_attention_heads": [2, 4], "head_dim": [None, 6],
        "attention_bias": [True, False], "mlp_bias": [True, False], "tie_word_embeddings": [True, False],
        "hidden_size": [16, 24], "num_hidden_layers": [2, 4], "classifier_pooling": ["cls", "mean"],
        "prediction_head_size": [9, 11], "sliding_window": [1, 2]},
    "layoutlm": BERT | {"max_2d_position_embeddings": [11, 13], "tie_word_embeddings": [True, False]},
    "tapas": UNTYPED | {"type_vocab_sizes": [[3, 7, 5, 2], [2, 3]], "reset_position_index_per_cell": [False],
                        "tie_word_embeddings": [True, False]},
    "roc_bert": BERT | DECODING | {"shape_vocab_size": [7], "shape_embed_dim": [5, 9], "pronunciation_vocab_size": [11],
                                   "pronunciation_embed_dim": [3, 8]},
    "roformer": BERT | DECODING | {"hidden_size": [16, 24], "embedding_size": [None, 7, 16]},
    "fnet": {k: v for k, v in BERT.items() if k != "num_attention_heads"} | {"tie_word_embeddings": [True, False]},
    "xmod": BERT | DECODING | {
        "pad_token_id": [0, 1], "languages": [["a"], ["a", "b", "c"]], "default_language": ["a"],
        "pre_norm": [True, False], "adapter_layer_norm": [True, False], "adapter_reuse_layer_norm": [True, False],
        "ln_before_adapter": [True, False], "adapter_reduction_factor": [2, 3]},
    "luke": BERT | {"pad_token_id": [0, 1], "entity_vocab_size": [41, 43], "entity_emb_size": [7, 12],
                    "use_entity_aware_attention": [True, False], "tie_word_embeddings": [True, False]},
    "squeezebert": BERT | {"tie_word_embeddings": [True, False], "hidden_size": [12], "embedding_size": [12],
                           "intermediate_size": [24, 36], **{f"{name}_groups": [1, 2, 3] for name in (
                               "q", "k", "v", "post_attention", "intermediate", "output")}},
    "nystromformer": BERT | {"conv_kernel_size": [1, 3, 5], "num_landmarks": [5], "segment_means_seq_len": [5],
                             "tie_word_embeddings": [True, False]},
    "yoso": BERT | {"conv_window": [None, 3, 5], "tie_word_embeddings": [True, False]},
    "longformer": BERT | {"pad_token_id": [0, 1], "attention_window": [4, 6], "tie_word_embeddings": [True, False]},
    "convbert": BERT | {
        "embedding_size": [7, 12], "hidden_size": [12, 24], "head_ratio": [2, 3], "num_attention_heads": [2, 4, 6],
        "conv_kernel_size": [1, 3, 5], "intermediate_size": [24, 36], "num_groups": [1, 2],
        "tie_word_embeddings": [True, False]},
    "mobilebert": BERT | {
        "embedding_size": [7, 9], "intra_bottleneck_size": [8], "normalization_type": ["no_norm", "layer_norm"],
        "num_feedforward_networks": [1, 2, 4], "tie_word_embeddings": [True, False]},
    "xlnet": {"vocab_size": [101, 131], "d_model": [12, 20], "n_layer": [1, 2, 3], "n_head": [1, 2, 4],
              "d_inner": [17, 29], "ff_activation": ACTIVATIONS, "num_labels": LABELS,
              "summary_use_proj": [True, False], "tie_word_embeddings": [True, False]},
    "ibert": BERT | {"pad_token_id": [0, 1], "hidden_act": ["gelu"], "tie_word_embeddings": [True, False]},
    "rembert": BERT | {"is_decoder": [True, False], "input_embedding_size": [7, 12], "output_embedding_size": [9, 20]},
    "xlm": XLM, "flaubert": XLM | {"pre_norm": [True, False]},
    "distilbert": {
        "vocab_size": [101, 131], "dim": [12, 20], "n_layers": [1, 2], "n_heads": [2, 4], "hidden_dim": [17],
        "max_position_embeddings": [23], "activation": ["gelu", "relu"], "sinusoidal_pos_embds": [True, False],
        "tie_word_embeddings": [True, False], "num_labels": [None, 2],
    },
    "albert": BERT | {"embedding_size": [7, 12], "num_hidden_layers": [4, 5, 6], "num_hidden_groups": [1, 2, 3],
                      "inner_group_num": [1, 2], "tie_word_embeddings": [True, False]},
    "electra": BERT | DECODING | {"embedding_size": [7, 12]},
    "deberta": DEBERTA | {"pos_att_type": [["c2p", "p2c"], "p2c", "c2p", None, []]},
    "deberta-v2": DEBERTA | {"conv_kernel_size": [0, 3, 5], "conv_act": ["tanh", "gelu"],
                             "position_buckets": [-1, 5], "share_att_key": [True, False],
                             "norm_rel_ebd": ["none", "layer_norm"]},
    "modernbert": {
        "vocab_size": [101], "hidden_size": [16, 24], "intermediate_size": [17, 29], "num_hidden_layers": [1, 4, 7],
        "num_attention_heads": [2, 4], "max_position_embeddings": [31], "global_attn_every_n_layers": [2, 3],
        "local_attention": [6], "attention_bias": [True, False], "mlp_bias": [True, False], "norm_bias": [True, False],
        "classifier_bias": [True, False], "decoder_bias": [True, False], "tie_word_embeddings": [True, False],
        "classifier_pooling": ["cls", "mean"], "hidden_activation": ACTIVATIONS, "num_labels": LABELS,
        "pad_token_id": [0],
    },
    "prophetnet": {k: BART[k] for k in ("vocab_size", "max_position_embeddings", "activation_function", "eos_token_id",
                                        "tie_word_embeddings")} | {
        "hidden_size": [12, 20], "num_encoder_layers": [2, 3], "num_decoder_layers": [1, 2], "encoder_ffn_dim": [17],
        "num_encoder_attention_heads": [1, 2], "num_decoder_attention_heads": [2, 4], "decoder_ffn_dim": [29],
        "ngram": [1, 2, 3], "num_buckets": [5, 8], "pad_token_id": [0]},
    "longt5": T5 | {"encoder_attention_type": ["local", "transient-global"], "local_radius": [2, 4],
                    "global_block_size": [3, 4], "tie_word_embeddings": [True]},
    "pegasus_x": BART | {"block_size": [2, 4], "num_global_tokens": [3, 5], "stagger_local_blocks": [True, False],
                         "encoder_layers": [1, 3]},
    "t5": T5, "mt5": T5, "umt5": T5,
    "bart": BART, "mbart": BART, "blenderbot": BART, "pegasus": BART,
    "switch_transformers": {k: v for k, v in T5.items() if k not in ("feed_forward_proj", "num_labels")} | {
        "num_layers": [2, 4, 6], "num_decoder_layers": [2, 4, None], "num_sparse_encoder_layers": [0, 1, 2],
        "num_sparse_decoder_layers": [1, 2], "num_experts": [2, 3], "dense_act_fn": ["relu", "gelu_new"],
        "router_bias": [True, False], "tie_word_embeddings": [True, True, False]},
    "led": {name: values for name, values in BART.items() if name not in (
        "max_position_embeddings", "scale_embedding", "num_labels")} | {
        "max_encoder_position_embeddings": [23], "max_decoder_position_embeddings": [31],
        "attention_window": [4, 6, 8]},
    "fsmt": {name: values for name, values in BART.items() if name not in ("vocab_size", "num_labels")} | {
        "src_vocab_size": [101, 101, 131], "tgt_vocab_size": [101]},
    "bigbird_pegasus": BART | {"attention_type": ["original_full"], "use_bias": [True, False]},
    "trocr": {name: values for name, values in BART.items() if "encoder" not in name and name != "num_labels"} | {
        "use_learned_position_embeddings": [True, False], "layernorm_embedding": [True, False],
        "cross_attention_hidden_size": [None, 11, 17]},
    "nllb-moe": {name: values for name, values in BART.items() if name != "num_labels"} | {
        "encoder_layers": [2, 3], "decoder_layers": [1, 4], "encoder_sparse_step": [0, 1, 2], "num_experts": [3, 5],
        "decoder_sparse_step": [1, 2, 3], "router_bias": [True, False], "second_expert_policy": ["all", "sampling"]},
    "seamless_m4t": SEAMLESS, "seamless_m4t_v2": SEAMLESS,
    "m2m_100": BART, "blenderbot-small": BART, "plbart": BART, "mvp": BART,
    "marian": BART | {"pad_token_id": [0], "share_encoder_decoder_embeddings": [True, False],
                      "decoder_vocab_size": [None, 97], "tie_word_embeddings": [True, False]},
    "whisper": {k: v for k, v in BART.items() if k not in ("max_position_embeddings", "num_labels")} | {
        "num_mel_bins": [5, 8], "max_source_positions": [11, 17], "max_target_positions": [13],
        "tie_word_embeddings": [True, False]},
    "vit": VIT | {"pooler_output_size": [None, 9], "pooler_act": ["tanh", "relu"]},
    "deit": VIT | {"pooler_output_size": [None, 9]},
    "beit": VISION | {
        "image_size": [21, [26, 26]],
        "use_mask_token": [True, False], "use_mean_pooling": [True, False], "layer_scale_init_value": [0.1, 0.0],
        "use_absolute_position_embeddings": [True, False, False], "use_relative_position_bias": [True, False],
        "use_shared_relative_position_bias": [True, False, False], "num_labels": LABELS},
    "dinov2": {k: v for k, v in VIT.items() if k != "intermediate_size"} | {
        "mlp_ratio": [2, 3], "use_swiglu_ffn": [True, False], "use_mask_token": [True, False]},
    "data2vec-vision": VISION | {
        "use_mask_token": [True, False], "use_mean_pooling": [True, False], "layer_scale_init_value": [0.1, 0.0],
        "use_absolute_position_embeddings": [True, False, False], "use_relative_position_bias": [True, False],
        "use_shared_relative_position_bias": [True, False, False], "num_labels": LABELS},
    **{name: {
        "embed_dim": [6, 12], "depths": [[1, 2], [2, 1]], "num_heads": [[1, 3], [3, 6], [2, 2]],
        "image_size": [32, [64, 64]], "patch_size": [4] if name == "donut-swin" else [4, 8],
        "window_size": [2, 4], "num_channels": [1, 3], "mlp_ratio": [1.5, 2.0],
        "qkv_bias": [True, False], "hidden_act": ["gelu", "relu"], "use_absolute_embeddings": [name == "swin", False],
        "num_labels": LABELS} for name in ("swin", "donut-swin", "swinv2")},
    "cvt": {
        "depth": [[1, 2, 3], [2, 2, 4]], "embed_dim": [[6, 12, 20], [8, 12, 24]], "patch_sizes": [[7, 3, 3], [5, 3, 3]],
        "patch_stride": [[4, 2, 2]], "patch_padding": [[2, 1, 1]], "num_heads": [[1, 3, 4], [2, 2, 4]],
        "kernel_qkv": [[3, 3, 3]], "stride_kv": [[2, 2, 2], [3, 2, 1]], "mlp_ratio": [[2.0, 3.0, 1.5]],
        "qkv_bias": [[True, False, True], [False, True, False]], "num_channels": [1, 3], "num_labels": LABELS,
        "cls_token": [[False, False, True]]},
    "swiftformer": {
        "depths": [[2, 1, 3], [1, 2, 2]], "embed_dims": [[6, 12, 20], [8, 12, 24]], "image_size": [32, 48],
        "mlp_ratio": [2, 3], "downsamples": [[True, False, True], [True, True, True]], "hidden_act": ["gelu", "relu"],
        "down_patch_size": [3], "down_stride": [2, 3], "down_pad": [1], "num_channels": [1, 3],
        "num_labels": LABELS},
    "mobilevitv2": {
        "image_size": [64, 128], "patch_size": [1, 2], "expand_ratio": [2.0, 1.5], "hidden_act": ["silu", "relu"],
        "conv_kernel_size": [3, 5], "n_attn_blocks": [[1, 2, 1], [2, 1, 3]], "width_multiplier": [0.25, 0.5],
        "base_attn_unit_dims": [[64, 96, 128]], "ffn_multiplier": [1, 2], "num_channels": [1, 3],
        "num_labels": LABELS},
    **{name: {
        "num_encoder_blocks": [3], "depths": [[1, 2, 1], [2, 1, 2]], "hidden_sizes": [[6, 12, 20], [8, 12, 24]],
        "strides": [[4, 2, 2]], "patch_sizes": [[4, 2, 2]] if name == "pvt" else [[7, 3, 3], [5, 5, 3]],
        "num_attention_heads": [[1, 3, 4], [2, 2, 4]], "mlp_ratios": [[2, 3, 1], [1, 2, 2]],
        "sequence_reduction_ratios" if name == "pvt" else "sr_ratios": [[4, 2, 1], [2, 1, 1]], "num_channels": [1, 3],
        "hidden_act": ["gelu", "relu"], "num_labels": LABELS, **({} if name == "segformer" else {
            "image_size": [32, 64], "qkv_bias": [True, False]})} for name in ("pvt", "pvt_v2", "segformer")},
    "vit_msn": VIT,
    "ijepa": VIT | {"pooler_output_size": [None, 9]},
    "dinov2_with_registers": {k: v for k, v in VIT.items() if k != "intermediate_size"} | {
        "mlp_ratio": [2, 3], "use_swiglu_ffn": [True, False], "num_register_tokens": [0, 1, 3]},
    "dinov3_vit": {k: v for k, v in VIT.items() if k not in ("qkv_bias", "num_labels")} | {
        "hidden_size": [16, 24], "num_attention_heads": [1, 2], "num_register_tokens": [0, 1, 3],
        "query_bias": [True, False], "key_bias": [True, False], "value_bias": [True, False],
        "proj_bias": [True, False], "mlp_bias": [True, False], "use_gated_mlp": [True, False]},
    "pixtral": VISION | {"hidden_size": [16, 24], "num_attention_heads": [1, 2], "image_size": [21, 26]},
    "internvl_vision": VISION | {
        "image_size": [21, [26, 26]], "attention_bias": [True, False], "use_qk_norm": [True, False],
        "norm_type": ["layer_norm", "rms_norm"], "use_mask_token": [True, False], "use_mean_pooling": [True, False],
        "use_absolute_position_embeddings": [True, False]},
    "qianfan_ocr_vision": VISION | {
        "image_size": [21, [26, 26]], "attention_bias": [True, False], "use_qk_norm": [True, False],
        "use_mean_pooling": [True]},
    "idefics3_vision": VISION, "smolvlm_vision": VISION,
    "siglip2_text_model": SIGLIP_TEXT,
    "siglip2_vision_model": {k: v for k, v in VISION.items() if k != "image_size"} | {
        "num_patches": [9, 16], "vision_use_head": [True, False]},
    "metaclip_2_text_model": CLIP_TEXT | {"eos_token_id": [2]},
    "metaclip_2_vision_model": CLIP_VISION,
    "siglip_text_model": SIGLIP_TEXT,
    "siglip_vision_model": VISION | {"vision_use_head": [True, False]},
    "clip_text_model": CLIP_TEXT,
    "clip_vision_model": CLIP_VISION, "chinese_clip_vision_model": CLIP_VISION, "altclip_vision_model": CLIP_VISION,
    "clipseg_vision_model": {k: v for k, v in CLIP_VISION.items() if k != "projection_dim"},
    "blip_vision_model": {k: v for k, v in CLIP_VISION.items() if k != "num_channels"},
    "blip_2_vision_model": BLIP_VISION, "instructblip_vision_model": BLIP_VISION,
    "instructblipvideo_vision_model": BLIP_VISION,
    "git_vision_model": VISION,
}
PIX2STRUCT: Values = {"d_ff": [17, 29], "d_kv": [6], "hidden_size": [12], "dense_act_fn": ["gelu_new", "relu"]}
NESTED: dict[str, dict[str, Values]] = {
    "vision-encoder-decoder": {
        "encoder": VIT | {"model_type": ["vit", "deit", "beit"], "image_size": [21], "num_labels": [None]},
        "decoder": {k: v for k, v in BERT.items() if k != "num_labels"} | {
            "model_type": ["bert"], "is_decoder": [True], "add_cross_attention": [True],
            "tie_word_embeddings": [True, False]},
        "": {}},
    "encoder-decoder": {
        "encoder": {k: v for k, v in BERT.items() if k != "num_labels"} | {
            "model_type": ["bert", "roberta"], "hidden_size": [12], "type_vocab_size": [2]},
        "decoder": {k: v for k, v in BERT.items() if k != "num_labels"} | {
            "model_type": ["bert", "roberta"], "is_decoder": [True], "add_cross_attention": [True], "hidden_size": [12],
            "type_vocab_size": [2], "tie_word_embeddings": [True, False]},
        "": {}},
    "blip": {"vision_config": {k: v for k, v in CLIP_VISION.items() if k != "num_channels"},
             "text_config": {k: v for k, v in UNTYPED.items() if k != "num_labels"},
             "": {"tie_word_embeddings": [True, False]}},
    "pp_formulanet": {
        "vision_config": {
            "hidden_size": [12, 20], "num_hidden_layers": [2, 4], "num_attention_heads": [1, 2], "mlp_dim": [17, 29],
            "num_channels": [1, 3], "image_size": [24, 28], "patch_size": [4], "output_channels": [5],
            "qkv_bias": [True, False], "use_abs_pos": [True, False], "use_rel_pos": [True, False],
            "window_size": [2, 3, 5], "global_attn_indexes": [[1, 3], [0, 2], []], "hidden_act": ["gelu", "relu"],
            "post_conv_in_channels": [5], "post_conv_mid_channels": [7], "post_conv_out_channels": [9, 11],
            "decoder_hidden_size": [16]},
        "text_config": {
            "vocab_size": [101], "max_position_embeddings": [23, 31], "decoder_layers": [1, 2],
            "decoder_ffn_dim": [17, 29], "decoder_attention_heads": [2, 4], "activation_function": ["gelu", "relu"],
            "d_model": [16], "scale_embedding": [True, False], "pad_token_id": [0]},
        "": {}},
    "pix2struct": {
        "vision_config": PIX2STRUCT | {
            "num_hidden_layers": [1, 3], "num_attention_heads": [2, 3], "patch_embed_hidden_size": [12, 27],
            "seq_len": [9, 17]},
        "text_config": PIX2STRUCT | {
            "vocab_size": [101], "num_layers": [1, 3], "num_heads": [2], "relative_attention_num_buckets": [6, 14],
            "pad_token_id": [0]},
        "": {"tie_word_embeddings": [True, False]}},
    "clip": {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION,
             "": {"projection_dim": [5, 9], "num_labels": LABELS}},
    "metaclip_2": {"text_config": CLIP_TEXT | {"eos_token_id": [2]}, "vision_config": CLIP_VISION,
                   "": {"projection_dim": [5, 9], "num_labels": LABELS}},
    "git": {"vision_config": CASES["git_vision_model"], "": {
        **{k: v for k, v in BERT.items() if k not in ("type_vocab_size", "num_labels")},
        "tie_word_embeddings": [True, False]}},
    "siglip": {"text_config": SIGLIP_TEXT | {"projection_size": [12]}, "vision_config": VISION | {"hidden_size": [12]},
               "": {"num_labels": LABELS}},
    "siglip2": {"text_config": SIGLIP_TEXT | {"projection_size": [12]},
                "vision_config": CASES["siglip2_vision_model"] | {"hidden_size": [12], "vision_use_head": [True]},
                "": {"num_labels": LABELS}},
    "t5gemma": {"encoder": T5GEMMA, "decoder": T5GEMMA,
                "": {"tie_word_embeddings": [True, False], "num_labels": LABELS}},
    "shieldgemma2": {"text_config": GEMMA3_TEXT | {"vocab_size": [10_789]},
                     "vision_config": CASES["siglip_vision_model"],
                     "": {"mm_tokens_per_image": [1, 4]}},
    "gemma3": {"text_config": GEMMA3_TEXT, "vision_config": CASES["siglip_vision_model"],
               "": {"mm_tokens_per_image": [1, 4], "tie_word_embeddings": [True, False]}},
}
"""Fields of the nested configurations, and under "" those beside them."""
