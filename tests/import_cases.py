"""Small decoder configurations, and what may be varied in each, for comparison with the live classes."""

from typing import Any

from huggingface_defaults import NAMED_OTHERWISE

from txcalc.huggingface import hub
from txcalc.huggingface.config import class_defaults
from txcalc.huggingface.families import FAMILIES

LLAMA: dict[str, list[Any]] = {
    "vocab_size": [101, 131], "hidden_size": [32, 48], "intermediate_size": [37, 53], "num_hidden_layers": [2, 5],
    "num_attention_heads": [4, 8], "num_key_value_heads": [1, 2, 4], "max_position_embeddings": [67, 97],
    "tie_word_embeddings": [True, False],
}
GPT: dict[str, list[Any]] = {
    "vocab_size": [101, 131], "n_embd": [24, 40], "n_layer": [2, 3], "n_head": [2, 4], "n_positions": [67, 97],
    "n_inner": [None, 37], "tie_word_embeddings": [True, False],
}
HEADS = {"head_dim": [6, 10]}
EXPERTS: dict[str, list[Any]] = {"num_experts_per_tok": [1, 2, 3], "moe_intermediate_size": [11, 13]}
MAMBA: dict[str, list[Any]] = {
    "vocab_size": [101], "hidden_size": [24, 40], "num_hidden_layers": [2, 3], "state_size": [5, 7],
    "expand": [1, 2, 3], "time_step_rank": ["auto", 6], "conv_kernel": [3, 4],
    "use_bias": [True, False], "use_conv_bias": [True, False], "tie_word_embeddings": [True, False],
}
MAMBA2: dict[str, list[Any]] = {
    "mamba_n_heads": [4, 8], "mamba_d_head": ["auto"], "mamba_n_groups": [1, 2], "mamba_d_state": [5, 7],
    "mamba_d_conv": [3, 4], "mamba_expand": [1, 2], "mamba_conv_bias": [True, False],
    "mamba_proj_bias": [True, False],
}
DELTA: dict[str, list[Any]] = {
    "head_dim": [8, 12], "linear_num_key_heads": [2, 4], "linear_num_value_heads": [4, 8], "linear_key_head_dim": [6],
    "linear_value_head_dim": [10], "linear_conv_kernel_dim": [3, 4], "num_hidden_layers": [4, 7],
    "attention_bias": [True, False],
}

MLA: dict[str, list[Any]] = {
    "num_attention_heads": [4], "num_key_value_heads": [4], "kv_lora_rank": [14, 22], "q_lora_rank": [None, 26],
    "qk_nope_head_dim": [6], "qk_rope_head_dim": [4, 8], "v_head_dim": [10, 6], "attention_bias": [True, False],
}
SPARSE: dict[str, list[Any]] = {
    "q_lora_rank": [26], "index_topk": [3, 7], "index_n_heads": [2, 5], "index_head_dim": [8, 12],
    "n_routed_experts": [8], "n_shared_experts": [1, 2], "n_group": [2], "topk_group": [1],
    "first_k_dense_replace": [0, 1, 2], "norm_topk_prob": [True, False],
}
FOUR_LAYERS: dict[str, list[Any]] = {
    "num_hidden_layers": [4], "mlp_layer_types": [None, ["dense", "sparse", "dense", "sparse"], ["sparse"] * 4],
}
SLIDING: dict[str, list[Any]] = {
    "num_hidden_layers": [4], "sliding_window": [5],
    "layer_types": [None, ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]],
}

CASES: dict[str, dict[str, list[Any]]] = {
    "llama": LLAMA | HEADS | {"attention_bias": [True, False], "mlp_bias": [True, False]},
    "mllama_text_model": LLAMA | {"num_hidden_layers": [5, 7], "cross_attention_layers": [None, [1, 3], [0, 2]],
                                  "pad_token_id": [0], "tie_word_embeddings": [False]},
    "zamba": {"vocab_size": [101], "hidden_size": [24, 40], "intermediate_size": [37, 53], "num_hidden_layers": [5, 7],
              "num_attention_heads": [4], "num_key_value_heads": [2, 4], "n_mamba_heads": [2, 4],
              "mamba_d_state": [5, 7],
              "mamba_d_conv": [3, 4], "mamba_expand": [1, 2], "mamba_dt_rank": ["auto", 6], "pad_token_id": [0],
              "attn_layer_period": [2, 3], "attn_layer_offset": [0, 1], "mamba_conv_bias": [True, False],
              "mamba_proj_bias": [True, False], "tie_word_embeddings": [True, False]},
    "zamba2": {"vocab_size": [101], "hidden_size": [24, 40], "intermediate_size": [37, 53], "num_hidden_layers": [5],
               "num_attention_heads": [4], "n_mamba_heads": [2, 4], "mamba_d_state": [5, 7],
               "mamba_d_conv": [3, 4], "mamba_expand": [1, 2], "mamba_ngroups": [1, 2], "adapter_rank": [3, 5],
               "layers_block_type": [["mamba", "hybrid", "mamba", "hybrid", "hybrid"], ["hybrid"] * 5, [
                   "mamba", "mamba", "hybrid", "mamba", "mamba"]], "num_mem_blocks": [1, 2],
               "use_shared_attention_adapter": [True, False], "use_mem_rope": [True, False], "pad_token_id": [0],
               "add_bias_linear": [True, False], "tie_word_embeddings": [True]},
    "mistral": LLAMA | HEADS | {"sliding_window": [None, 7]},
    "qwen2": LLAMA | {"use_sliding_window": [True, False], "sliding_window": [5], "max_window_layers": [0, 1, 2]},
    "qwen3": LLAMA | HEADS | {"attention_bias": [True, False]},
    "gemma": LLAMA | HEADS | {"attention_bias": [True, False]},
    "gemma2": LLAMA | HEADS | {"attention_bias": [True, False], "sliding_window": [5],
                               "attn_logit_softcapping": [None, 50.0], "final_logit_softcapping": [None, 30.0]},
    "gemma3_text": LLAMA | HEADS | {"num_hidden_layers": [2, 7, 13], "sliding_window": [5],
                                    "use_bidirectional_attention": [True, False]},
    "gemma4_text": LLAMA | HEADS | {
        "num_hidden_layers": [7, 8], "sliding_window": [5], "attention_bias": [True, False],
        "global_head_dim": [10, 14], "num_global_key_value_heads": [None, 1, 2], "attention_k_eq_v": [True, False],
        "num_kv_shared_layers": [0, 1, 3], "use_double_wide_mlp": [True, False],
        "hidden_size_per_layer_input": [0, 6], "vocab_size_per_layer_input": [262144, 262147],
        "layer_types": [None], "final_logit_softcapping": [None, 30.0], "enable_moe_block": [True, False],
        "num_experts": [5, 7], "top_k_experts": [1, 2], "moe_intermediate_size": [11, 13],
    },
    "gemma3n_text": LLAMA | HEADS | {
        "num_hidden_layers": [7, 8], "sliding_window": [5], "attention_bias": [True, False], "pad_token_id": [0],
        "num_kv_shared_layers": [0, 1, 2], "hidden_size_per_layer_input": [6, 10], "altup_num_inputs": [2, 3, 4],
        "vocab_size_per_layer_input": [262400, 262411], "laurel_rank": [3, 7], "final_logit_softcapping": [30.0],
        "num_attention_heads": [4]},
    "olmo": LLAMA | {"attention_bias": [True, False], "clip_qkv": [None, 8.0]},
    "olmo2": LLAMA | {"attention_bias": [True, False]},
    "olmo3": LLAMA | {"num_hidden_layers": [3, 8, 9], "sliding_window": [5]},
    "granite": LLAMA | {"attention_bias": [True, False], "mlp_bias": [True, False]},
    "cohere": LLAMA | {"attention_bias": [True, False], "use_qk_norm": [True, False]},
    "cohere2": LLAMA | {"attention_bias": [True, False], "num_hidden_layers": [3, 8, 9], "sliding_window": [5]},
    "glm": LLAMA | {"head_dim": [8, 12], "attention_bias": [True, False], "pad_token_id": [0]},
    "glm4": LLAMA | {"head_dim": [8, 12], "attention_bias": [True, False], "pad_token_id": [0]},
    "phi": LLAMA | {"num_attention_heads": [4], "qk_layernorm": [True, False], "hidden_size": [32, 64]},
    "phi3": LLAMA | {"sliding_window": [None, 5], "pad_token_id": [0]},
    "stablelm": LLAMA | {"hidden_size": [32, 64], "num_attention_heads": [4], "use_qkv_bias": [True, False],
                         "qk_layernorm": [True, False],
                         "use_parallel_residual": [True, False]},
    "starcoder2": LLAMA | {"use_bias": [True, False], "sliding_window": [None, 5]},
    "nemotron": LLAMA | {"head_dim": [8, 12], "attention_bias": [True, False], "mlp_bias": [True, False]},
    "smollm3": LLAMA | {"attention_bias": [True, False], "mlp_bias": [True, False], "pad_token_id": [0]},
    "ernie4_5": LLAMA | HEADS | {"use_bias": [True, False]},
    "seed_oss": LLAMA | HEADS | {"attention_bias": [True, False], "attention_out_bias": [True, False],
                                 "mlp_bias": [True, False]},
    "hunyuan_v1_dense": LLAMA | HEADS | {"attention_bias": [True, False]},
    "arcee": LLAMA | HEADS | {"attention_bias": [True, False], "mlp_bias": [True, False]},
    "helium": LLAMA | {"hidden_size": [48], "num_attention_heads": [8], "head_dim": [6],
                       "attention_bias": [True, False], "mlp_bias": [True, False]},
    "exaone4": LLAMA | {"num_hidden_layers": [2, 5, 8], "sliding_window": [5], "sliding_window_pattern": [2, 4]},
    "ministral": LLAMA | HEADS | {"sliding_window": [None, 5]},
    "ministral3": LLAMA | HEADS | {"sliding_window": [None, 5]},
    "cwm": LLAMA | HEADS | {"mlp_bias": [True, False], "sliding_window": [5], "num_hidden_layers": [3, 8, 9]},
    "vaultgemma": LLAMA | HEADS | {"attention_bias": [True, False], "sliding_window": [5],
                                   "attn_logit_softcapping": [None, 50.0], "final_logit_softcapping": [None, 30.0]},
    "internlm3": LLAMA | HEADS | {"attention_bias": [False], "mlp_bias": [False]},
    "iquestcoder": LLAMA | HEADS | {"attention_bias": [True, False], "mlp_bias": [True, False]},
    "jais2": LLAMA | HEADS | {"attention_bias": [True, False], "mlp_bias": [True, False]},
    "nanochat": LLAMA | {"attention_bias": [True, False], "final_logit_softcapping": [None, 15.0]},
    "hyperclovax": LLAMA | HEADS | {"attention_bias": [True, False], "mlp_bias": [True, False],
                                    "use_post_norm": [True, False]},
    "granite_swa": LLAMA | {"attention_bias": [True, False], "mlp_bias": [True, False], "sliding_window": [5],
                            "num_hidden_layers": [5], "layer_rope_theta": [None, [1e4, 0, 1e4, 1e5, 0]]},
    "apertus": LLAMA | HEADS | {"attention_bias": [True, False], "hidden_act": ["xielu", "xielu", "silu"]},
    "bitnet": LLAMA | {"attention_bias": [True, False]},
    "modernbert-decoder": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {
        "num_hidden_layers": [2, 5, 8], "norm_bias": [True, False], "attention_bias": [True, False],
        "mlp_bias": [True, False], "decoder_bias": [True, False], "classifier_bias": [True, False],
        "local_attention": [10], "global_attn_every_n_layers": [2, 3], "pad_token_id": [0]},
    "gpt2": GPT,
    "gpt-sw3": GPT,
    "imagegpt": {k: v for k, v in GPT.items() if k != "tie_word_embeddings"},
    "openai-gpt": {k: v for k, v in GPT.items() if k != "n_inner"},
    "gpt_bigcode": GPT | {"multi_query": [True, False]},
    "gpt_neo": {"vocab_size": [101], "hidden_size": [24, 40], "num_layers": [2], "num_heads": [2, 4],
                "intermediate_size": [None, 37], "max_position_embeddings": [67], "window_size": [5],
                "attention_types": [[[["global", "local"], 1]], [[["local"], 2]]],
                "tie_word_embeddings": [True, False]},
    "gptj": GPT | {"rotary_dim": [2, 4]},
    "codegen": GPT | {"rotary_dim": [2, 4], "n_head": [4], "n_embd": [32, 48]},
    "gpt_neox": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {
        "hidden_size": [32, 64], "num_attention_heads": [4], "use_parallel_residual": [True, False],
        "attention_bias": [True, False]},
    "gpt_neox_japanese": {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "intermediate_size")} | {
        "intermediate_multiple_size": [2, 3]},
    "persimmon": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {
        "hidden_size": [32, 64], "qk_layernorm": [True, False]},
    "ctrl": {k: v for k, v in GPT.items() if k != "n_inner"} | {"dff": [37, 53]},
    "biogpt": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {"scale_embedding": [True, False]},
    "xglm": {"vocab_size": [101, 131], "d_model": [24, 40], "ffn_dim": [37, 53], "num_layers": [2, 3],
             "attention_heads": [2, 4], "max_position_embeddings": [67, 97], "scale_embedding": [True, False],
             "tie_word_embeddings": [True, False]},
    "opt": {"vocab_size": [101], "hidden_size": [24, 40], "ffn_dim": [37], "num_hidden_layers": [2, 3],
            "num_attention_heads": [2, 4], "max_position_embeddings": [67], "word_embed_proj_dim": [24, 40, 16],
            "do_layer_norm_before": [True, False], "enable_bias": [True, False],
            "layer_norm_elementwise_affine": [True, False], "tie_word_embeddings": [True, False]},
    "bloom": {"vocab_size": [101], "hidden_size": [24, 40], "n_layer": [2, 3], "n_head": [2, 4],
              "tie_word_embeddings": [True, False]},
    "mpt": {"vocab_size": [101], "d_model": [24, 40], "n_layers": [2, 3], "n_heads": [2, 4], "max_seq_len": [67],
            "expansion_ratio": [4], "no_bias": [True]},
    "falcon": {"vocab_size": [101], "hidden_size": [24, 40], "num_hidden_layers": [2, 3],
               "num_attention_heads": [4], "num_kv_heads": [None, 1, 2, 4], "ffn_hidden_size": [None, 37],
               "new_decoder_architecture": [True, False], "multi_query": [True, False],
               "parallel_attn": [True, False], "bias": [True, False], "alibi": [True, False],
               "num_ln_in_parallel_attn": [None, 1, 2], "tie_word_embeddings": [True, False]},
    "mixtral": LLAMA | HEADS | {"num_local_experts": [3, 5], "num_experts_per_tok": [1, 2],
                                "sliding_window": [None, 5]},
    "qwen2_moe": LLAMA | EXPERTS | {"num_experts": [5, 7], "shared_expert_intermediate_size": [17, 19],
                                    "decoder_sparse_step": [1, 2], "mlp_only_layers": [[], [0], [1]],
                                    "num_hidden_layers": [4, 5], "qkv_bias": [True, False],
                                    "use_sliding_window": [True, False], "sliding_window": [5],
                                    "max_window_layers": [1, 2], "norm_topk_prob": [True, False]},
    "qwen3_moe": LLAMA | EXPERTS | HEADS | {"num_experts": [5, 7], "decoder_sparse_step": [1, 2],
                                            "mlp_only_layers": [[], [0], [1]], "num_hidden_layers": [4, 5],
                                            "attention_bias": [True, False]},
    "olmoe": LLAMA | {"num_experts": [5, 7], "num_experts_per_tok": [1, 2], "attention_bias": [True, False],
                      "norm_topk_prob": [True, False]},
    "granitemoe": LLAMA | {"num_local_experts": [3, 5], "num_experts_per_tok": [1, 2],
                           "attention_bias": [True, False]},
    "granitemoeshared": LLAMA | {"num_local_experts": [3, 5], "num_experts_per_tok": [1, 2],
                                 "shared_intermediate_size": [0, 19], "attention_bias": [True, False]},
    "flex_olmo": LLAMA | {"num_experts": [5, 7], "num_experts_per_tok": [1, 2], "attention_bias": [True, False],
                          "norm_topk_prob": [True, False], "pad_token_id": [0]},
    "minimax_m2": LLAMA | HEADS | {"num_local_experts": [3, 5], "num_experts_per_tok": [1, 2]},
    "ernie4_5_moe": LLAMA | {
        "moe_intermediate_size": [11, 13], "moe_k": [1, 2], "moe_num_experts": [5, 7],
        "moe_num_shared_experts": [0, 1, 2], "moe_layer_start_index": [0, 1, 2], "moe_layer_end_index": [-1, 2],
        "moe_layer_interval": [1, 2], "num_hidden_layers": [3, 4]},
    "dots1": LLAMA | EXPERTS | {
        "n_routed_experts": [5], "n_shared_experts": [1, 2], "first_k_dense_replace": [0, 1, 2],
        "attention_bias": [True, False], "norm_topk_prob": [True, False], "sliding_window": [5],
        "max_window_layers": [1, 2], "num_hidden_layers": [3, 4]},
    "phimoe": LLAMA | {"num_local_experts": [3, 5], "num_experts_per_tok": [2], "attention_bias": [True, False],
                       "lm_head_bias": [True, False]},
    "dbrx": {"vocab_size": [101], "d_model": [24], "n_layers": [2, 3], "n_heads": [4], "max_seq_len": [67],
             "attn_config": [{"kv_n_heads": 2, "rope_theta": 1e4}, {"kv_n_heads": 4, "rope_theta": 1e4}],
             "ffn_config": [{"ffn_hidden_size": 37, "moe_num_experts": 5, "moe_top_k": 2, "hidden_size": 24}]},
    "gpt_oss": LLAMA | {"head_dim": [6, 10], "num_local_experts": [3, 5], "num_experts_per_tok": [1, 2],
                        "sliding_window": [5], "num_hidden_layers": [2, 3]},
    "deepseek_v2": LLAMA | EXPERTS | {
        "kv_lora_rank": [14, 22], "q_lora_rank": [None, 26], "qk_nope_head_dim": [6], "qk_rope_head_dim": [4, 8],
        "v_head_dim": [10, 6], "n_routed_experts": [5], "n_shared_experts": [1, 2], "first_k_dense_replace": [0, 1, 2],
        "attention_bias": [True, False], "num_hidden_layers": [3, 4], "num_key_value_heads": [4],
        "num_attention_heads": [4]},
    "mistral4": LLAMA | EXPERTS | {
        "kv_lora_rank": [14, 22], "q_lora_rank": [None, 26], "qk_nope_head_dim": [6], "qk_rope_head_dim": [4, 8],
        "v_head_dim": [10, 6], "n_routed_experts": [8], "n_shared_experts": [1, 2], "first_k_dense_replace": [0, 1, 2],
        "attention_bias": [True, False], "num_hidden_layers": [3, 4], "n_group": [2], "topk_group": [1],
        "num_key_value_heads": [4], "num_attention_heads": [4], "num_experts_per_tok": [2]},
    "deepseek_v3": LLAMA | EXPERTS | {
        "kv_lora_rank": [14, 22], "q_lora_rank": [None, 26], "qk_nope_head_dim": [6], "qk_rope_head_dim": [4, 8],
        "v_head_dim": [10, 6], "n_routed_experts": [8], "n_shared_experts": [1, 2], "first_k_dense_replace": [0, 1, 2],
        "attention_bias": [True, False], "num_hidden_layers": [3, 4], "n_group": [2], "topk_group": [1],
        "num_key_value_heads": [4], "num_attention_heads": [4], "num_experts_per_tok": [2]},
    "glm4_moe": LLAMA | EXPERTS | {
        "head_dim": [8, 12], "n_routed_experts": [5], "n_shared_experts": [1, 2], "first_k_dense_replace": [0, 1, 2],
        "attention_bias": [True, False], "use_qk_norm": [True, False], "num_hidden_layers": [3, 4]},
    "hunyuan_v1_moe": LLAMA | HEADS | {
        "num_experts": [3, 5], "moe_topk": [1, 2, 3, [2, 1, 2]], "num_hidden_layers": [3],
        "attention_bias": [True, False]},
    "solar_open": LLAMA | EXPERTS | {
        "head_dim": [8, 12], "n_routed_experts": [6], "n_shared_experts": [0, 1, 2], "attention_bias": [True, False],
        "n_group": [2], "topk_group": [1], "norm_topk_prob": [True, False]},
    "cohere_compass_text": LLAMA | HEADS | SLIDING | {"attention_bias": [True, False], "rope_parameters": [
        {kind: {"rope_theta": 1e4, "mrope_section": [2, 1, 1]} for kind in ("full_attention", "sliding_attention")}]},
    "hy_v3": LLAMA | HEADS | EXPERTS | FOUR_LAYERS | {
        "num_experts": [5], "num_shared_experts": [0, 1, 2], "attention_bias": [True, False]},
    "exaone_moe": LLAMA | EXPERTS | HEADS | FOUR_LAYERS | SLIDING | {
        "num_experts": [5], "num_shared_experts": [0, 1, 2], "first_k_dense_replace": [0, 1, 2],
        "sliding_window_pattern": [2, 4], "norm_topk_prob": [True, False]},
    "afmoe": LLAMA | EXPERTS | HEADS | SLIDING | {
        "num_experts": [5], "num_shared_experts": [0, 1, 2], "num_dense_layers": [0, 1, 2],
        "global_attn_every_n_layers": [2, 3], "mup_enabled": [True, False], "attention_bias": [True, False]},
    "mellum": LLAMA | EXPERTS | HEADS | FOUR_LAYERS | SLIDING | {
        "num_experts": [5, 7], "attention_bias": [True, False], "norm_topk_prob": [True, False]},
    "granitemoe_swa": LLAMA | SLIDING | {
        "num_local_experts": [3, 5], "num_experts_per_tok": [1, 2], "shared_intermediate_size": [0, 19],
        "attention_bias": [True, False], "layer_rope_theta": [None, [0, 1e4, 1e6, 0]]},
    "cohere2_moe": LLAMA | HEADS | FOUR_LAYERS | SLIDING | {
        "num_experts": [5], "num_experts_per_tok": [1, 2, 3], "num_shared_experts": [0, 1, 2],
        "attention_bias": [True, False], "expert_selection_fn": ["softmax", "sigmoid"],
        "norm_topk_prob": [True, False], "rms_norm_eps": [None, 1e-5], "prefix_dense_intermediate_size": [None, 43],
        "first_k_dense_replace": [0, 1, 2], "prefix_dense_sliding_window_pattern": [1, 2],
        "sliding_window_pattern": [2, 4]},
    "mimo_v2_flash": LLAMA | EXPERTS | FOUR_LAYERS | SLIDING | {
        "num_attention_heads": [8], "num_key_value_heads": [1, 2, 4], "head_dim": [8, 12], "v_head_dim": [6, 8, 14],
        "n_routed_experts": [6], "n_group": [2], "topk_group": [1], "attention_bias": [True, False],
        "norm_topk_prob": [True, False], "sliding_window_size": [None, 4]},
    "laguna": LLAMA | EXPERTS | FOUR_LAYERS | SLIDING | {
        "head_dim": [8, 12], "num_experts": [5], "shared_expert_intermediate_size": [17, 19],
        "gating": [True, "per-head", "per-element"],
        "attention_bias": [True, False], "num_attention_heads_per_layer": [None, [4, 8, 8, 4]]},
    "glm4_moe_lite": LLAMA | MLA | EXPERTS | FOUR_LAYERS | {
        "n_routed_experts": [8], "n_shared_experts": [1, 2], "n_group": [2], "topk_group": [1],
        "norm_topk_prob": [True, False]},
    "deepseek_v32": LLAMA | MLA | EXPERTS | FOUR_LAYERS | SPARSE,
    "glm_moe_dsa": LLAMA | MLA | EXPERTS | FOUR_LAYERS | SPARSE | {
        "indexer_types": [None, ["full", "shared", "shared", "full"]], "index_topk_pattern": [None, "FSFS"],
        "index_topk_freq": [1, 2, 4], "index_skip_topk_offset": [1, 2]},
    "youtu": LLAMA | MLA,
    "minicpm3": LLAMA | MLA | {"v_head_dim": [None, 10, 6], "mlp_bias": [True, False], "scale_depth": [None, 1.4],
                               "dim_model_base": [None, 16]},
    "llama4_text": LLAMA | {
        "head_dim": [6, 10], "intermediate_size_mlp": [43], "num_local_experts": [3], "num_experts_per_tok": [1],
        "interleave_moe_layer_step": [1, 2], "attention_chunk_size": [5], "use_qk_norm": [True, False],
        "num_hidden_layers": [4, 5], "attention_bias": [True, False], "no_rope_layer_interval": [2, 4]},
    "qwen3_next": LLAMA | EXPERTS | DELTA | {
        "num_experts": [5], "shared_expert_intermediate_size": [17], "decoder_sparse_step": [1, 2],
        "mlp_only_layers": [[]]},
    "jamba": LLAMA | {
        "num_hidden_layers": [4, 9], "attn_layer_period": [3, 4], "attn_layer_offset": [1, 2], "num_experts": [1, 4],
        "expert_layer_period": [2], "expert_layer_offset": [0, 1], "num_experts_per_tok": [1, 2],
        "mamba_d_state": [5, 7], "mamba_dt_rank": ["auto", 6], "mamba_d_conv": [3, 4], "mamba_expand": [2],
        "mamba_conv_bias": [True, False], "mamba_proj_bias": [True, False], "pad_token_id": [0]},
    "nemotron_h": {k: v for k, v in LLAMA.items() if k != "num_hidden_layers"} | {
        "layers_block_type": [["mamba", "mlp", "attention", "mlp"], ["mamba", "moe", "mamba", "attention", "mlp"]],
        "head_dim": [6, 10], "mamba_num_heads": [4, 6], "mamba_head_dim": [6], "ssm_state_size": [5, 7],
        "n_groups": [1, 2], "conv_kernel": [3, 4], "use_conv_bias": [True, False], "use_bias": [True, False],
        "mlp_bias": [False], "attention_bias": [True, False], "n_routed_experts": [4],
        "moe_intermediate_size": [11], "moe_shared_expert_intermediate_size": [13], "num_experts_per_tok": [2],
        "moe_latent_size": [None, 17]},
    "doge": LLAMA | {"attention_bias": [True, False], "mlp_bias": [True, False], "keep_window_size": [5, 64]},
    "diffllama": LLAMA | HEADS | {"num_key_value_heads": [2, 4], "attention_bias": [True, False]},
    "hy_v4": LLAMA | MLA | EXPERTS | {k: v for k, v in SPARSE.items() if "dense" not in k} | {
        "num_hidden_layers": [3, 6], "hc_mult": [1, 2, 3], "pad_token_id": [0], "n_group": [1, 2],
        "indexer_types": [None], "hidden_size": [32], "attention_bias": [True, False]},
    "axk2": LLAMA | MLA | EXPERTS | {k: v for k, v in SPARSE.items() if "group" not in k} | {
        "num_hidden_layers": [3], "gated_norm_rank": [3, 5], "first_k_dense_replace": [0, 1, 2]},
    "axk1": LLAMA | MLA | EXPERTS | FOUR_LAYERS | {
        "q_lora_rank": [26], "n_routed_experts": [8], "n_shared_experts": [1, 2], "n_group": [2], "topk_group": [1],
        "norm_topk_prob": [True, False], "pad_token_id": [0]},
    "dots3_note_text": LLAMA | MLA | SPARSE | EXPERTS | {
        "num_hidden_layers": [4, 7], "sliding_window": [None, 5], "head_dim": [10], "first_k_dense_replace": [1, 3],
        "shared_experts_intermediate_size": [9], "swa_num_attention_heads": [6], "swa_num_key_value_heads": [6],
        "swa_q_lora_rank": [15], "swa_kv_lora_rank": [18], "swa_head_dim": [16], "swa_qk_nope_head_dim": [10],
        "swa_v_head_dim": [12, 14], "pad_token_id": [0]},
    "deepseek_v4": {k: v for k, v in LLAMA.items() if k != "intermediate_size"} | EXPERTS | {
        "num_hidden_layers": [4, 5], "head_dim": [16, 24], "q_lora_rank": [15, 21], "o_groups": [2, 4],
        "o_lora_rank": [5, 7], "sliding_window": [4, 17], "n_routed_experts": [5, 7], "index_n_heads": [2, 3],
        "index_head_dim": [6, 10], "index_topk": [2, 5], "hc_mult": [2, 3], "hc_sinkhorn_iters": [1, 3],
        "compress_rates": [None, {"compressed_sparse_attention": 2, "heavily_compressed_attention": 3}],
        "compress_ratios": [None, [0, 4, 128, 4, 0, 4]], "qk_rope_head_dim": [None, 4], "num_hash_layers": [1],
        "pad_token_id": [0]},
    "minimax_m3_vl_text": LLAMA | HEADS | FOUR_LAYERS | {
        "rotary_dim": [4], "dense_intermediate_size": [29, 31], "shared_intermediate_size": [17], "pad_token_id": [0],
        "num_experts_per_tok": [1, 2], "num_local_experts": [5], "index_n_heads": [1, 2], "index_head_dim": [22, 26],
        "index_block_size": [3, 5], "index_topk_blocks": [2, 3], "moe_layer_freq": [None, [0, 0, 1, 1]],
        "layer_types": [None, ["full_attention", "minimax_m3_sparse"] * 2],
        "sparse_attention_config": [None, {"sparse_attention_freq": [0, 1, 1, 0], "sparse_num_index_heads": 2,
                                           "sparse_index_dim": 23, "sparse_block_size": 4, "sparse_topk_blocks": 2}]},
    "bailing_hybrid": {k: v for k, v in LLAMA.items() if k != "max_position_embeddings"} | {
        "model_max_length": [67, 97], "kv_lora_rank": [14, 22], "qk_nope_head_dim": [6], "qk_rope_head_dim": [4, 8],
        "v_head_dim": [10, 6], "num_experts": [8], "num_shared_experts": [1, 2], "num_experts_per_token": [2, 3],
        "moe_intermediate_size": [11, 13], "first_k_dense_replace": [0, 2], "attention_bias": [True, False],
        "num_hidden_layers": [4, 7], "num_attention_heads": [4], "num_key_value_heads": [4], "head_dim": [6, 10],
        "short_conv_kernel_size": [3, 4], "layer_group_size": [2, 3], "moe_renormalize": [True, False],
        "num_expert_group": [2], "topk_group": [1], "pad_token_id": [0]},
    "moshi": {k: v for k, v in LLAMA.items() if k != "intermediate_size"} | HEADS | {
        "ffn_dim": [26, 38], "sliding_window": [5, 90], "tie_word_embeddings": [False]},
    "jetmoe": {k: v for k, v in LLAMA.items() if k != "num_attention_heads"} | {
        "kv_channels": [6, 10], "num_local_experts": [4, 5], "num_experts_per_tok": [1, 2, 3]},
    "minimax": LLAMA | HEADS | {"num_local_experts": [3, 5], "num_experts_per_tok": [1, 2],
                                "num_hidden_layers": [3, 4]},
    "mamba2": {"vocab_size": [101], "hidden_size": [24], "num_heads": [8], "head_dim": [6], "state_size": [5, 7],
               "n_groups": [1, 2], "conv_kernel": [3, 4], "num_hidden_layers": [2, 3], "use_conv_bias": [True, False],
               "use_bias": [True, False], "tie_word_embeddings": [True, False], "expand": [2]},
    **{f"musicgen{kind}_decoder": {
        "vocab_size": [101], "hidden_size": [24, 40], "num_hidden_layers": [2, 3], "ffn_dim": [37, 53],
        "num_attention_heads": [2, 4], "num_codebooks": [1, 3], "max_position_embeddings": [67, 97],
        "scale_embedding": [True, False]} for kind in ("", "_melody")},
    "mamba": MAMBA,
    "xlstm": {"vocab_size": [101], "hidden_size": [24, 48], "num_hidden_layers": [2, 3], "num_heads": [2, 4],
              "qk_dim_factor": [0.5], "v_dim_factor": [1.0, 1.5], "ffn_round_up_to_multiple_of": [8, 14],
              "weight_mode": ["single", "fused"], "tie_word_embeddings": [True, False]},
    "rwkv": {"vocab_size": [101], "hidden_size": [24, 40], "num_hidden_layers": [2, 3], "intermediate_size": [None, 53],
             "context_length": [67], "attention_hidden_size": [None], "tie_word_embeddings": [True, False]},
    "recurrent_gemma": LLAMA | {
        "num_hidden_layers": [3, 5], "intermediate_size": [36, 54], "lru_width": [None, 56], "conv1d_width": [3, 4],
        "attention_window_size": [5], "attention_bias": [True, False], "num_key_value_heads": [None, 1, 2],
        "block_types": [["recurrent", "recurrent", "attention"], ["attention", "recurrent"]]},
    "falcon_mamba": MAMBA | {"intermediate_size": [26, 34]},
    "granitemoehybrid": LLAMA | MAMBA2 | {
        "num_local_experts": [0, 3, 5], "num_experts_per_tok": [1, 2], "shared_intermediate_size": [17, 19],
        "layer_types": [None, ["linear_attention", "full_attention"], ["mamba", "attention"],
                        ["full_attention", "full_attention"]],
        "num_hidden_layers": [2], "position_embedding_type": [None, "rope", "nope"], "attention_bias": [True, False]},
    "bamba": LLAMA | MAMBA2 | HEADS | {
        "attn_layer_indices": [None, [1], [0, 3]], "num_hidden_layers": [2, 5], "attention_bias": [True, False],
        "mlp_bias": [True, False], "pad_token_id": [0]},
    "falcon_h1": LLAMA | MAMBA2 | HEADS | {
        "mamba_d_ssm": [None, 24, 40], "mamba_rms_norm": [True, False], "mamba_proj_bias": [False],
        "attention_bias": [True, False], "mlp_bias": [True, False], "pad_token_id": [0]},
    "kimi_linear": {k: v for k, v in LLAMA.items() if k != "max_position_embeddings"} | {
        "model_max_length": [67, 97], "kv_lora_rank": [14, 22], "q_lora_rank": [None, 26], "qk_nope_head_dim": [6],
        "qk_rope_head_dim": [4, 8], "v_head_dim": [10, 6], "num_experts": [8], "num_shared_experts": [1, 2],
        "num_experts_per_token": [2, 3], "moe_intermediate_size": [11, 13], "first_k_dense_replace": [0, 1, 2],
        "attention_bias": [True, False], "num_hidden_layers": [4, 6], "num_attention_heads": [4],
        "num_key_value_heads": [4], "linear_num_heads": [3, 5], "linear_head_dim": [6, 10],
        "linear_conv_kernel_dim": [3, 4], "moe_renormalize": [True, False], "num_expert_group": [2],
        "pad_token_id": [0]},
    "olmo_hybrid": LLAMA | DELTA | {
        "linear_num_key_heads": [None, 2, 4], "linear_num_value_heads": [None, 8], "linear_key_head_dim": [None, 6],
        "linear_value_head_dim": [None, 10], "num_hidden_layers": [2, 5, 8], "pad_token_id": [0],
        "rope_parameters": [{"rope_type": "default", "rope_theta": theta} for theta in (None, 500000.0)]},
    "lfm2": {k: v for k, v in LLAMA.items() if k != "tie_word_embeddings"} | HEADS | {
        "num_hidden_layers": [3, 4], "full_attn_idxs": [None, [1], [0, 2]], "conv_L_cache": [3, 4],
        "conv_bias": [True, False], "block_auto_adjust_ff_dim": [True, False], "block_multiple_of": [8, 16],
        "block_ffn_dim_multiplier": [1.0, 1.3], "tie_embedding": [True, False]},
    "lfm2_moe": LLAMA | EXPERTS | {
        "num_hidden_layers": [3],
        "layer_types": [["conv", "full_attention", "conv"], ["conv", "conv", "full_attention"]],
        "num_experts": [4, 5], "num_dense_layers": [0, 1, 2], "conv_L_cache": [3, 4], "conv_bias": [True, False],
        "use_expert_bias": [True, False], "norm_topk_prob": [True, False]},
    "aria_text": LLAMA | HEADS | {"moe_num_experts": [5], "moe_topk": [1, 2], "moe_num_shared_experts": [1, 2],
                                  "attention_bias": [True, False]},
    "chameleon": LLAMA | {
        "num_key_value_heads": [1, 2], "attention_bias": [True, False], "swin_norm": [True, False],
        "vocabulary_map": [{}], "tie_word_embeddings": [True, False], "vq_config": [{
            "base_channels": 32, "channel_multiplier": levels, "num_res_blocks": blocks, "attn_resolutions": attended,
            "resolution": 64, "latent_channels": 7, "num_embeddings": 43, "embed_dim": 5}
            for levels in ([1, 2], [1, 1, 3]) for blocks in (1, 2) for attended in (None, [32], [64, 16])]},
    "lfm3": LLAMA | HEADS | {
        "pad_token_id": [0], "num_hidden_layers": [6],
        "layer_types": [None, None, ["conv", "full_attention", "sliding_attention"] * 2],
        "sliding_window": [5], "conv_L_cache": [3, 4], "conv_bias": [True, False], "attention_bias": [True, False],
        "use_sandwich_norm": [True, False], "use_attention_gate": [True, False]},
    "beam": LLAMA | HEADS | EXPERTS | FOUR_LAYERS | SLIDING | {
        "num_experts": [8], "n_group": [2, 4], "topk_group": [1, 2], "attention_bias": [True, False],
        "norm_topk_prob": [True, False], "final_logit_softcapping": [None, 20.0]},
    "qwen3_5_text": LLAMA | DELTA,
    "qwen3_5_moe_text": LLAMA | EXPERTS | DELTA | {"num_experts": [5], "shared_expert_intermediate_size": [17]},
    "qwen4_exp_text": LLAMA | EXPERTS | DELTA | {
        "num_hidden_layers": [4], "num_experts": [5], "shared_expert_intermediate_size": [17], "hc_count": [2, 3],
        "hc_lowrank": [7, 13], "indexer_n_heads": [2, 5], "indexer_kv_heads": [1], "indexer_head_dim": [14, 18],
        "indexer_budget": [6, 12], "indexer_compress_ratio": [2, 3], "norm_topk_prob": [True, False],
        "layer_types": [None, ["linear_attention", "full_attention", "indexed_attention", "linear_attention"]]},
}

USUAL = LLAMA | EXPERTS | {
    "hidden_size": [32, 64], "num_attention_heads": [4], "head_dim": [8, 12],
    "num_experts": [5, 7], "num_local_experts": [5, 7], "n_routed_experts": [8], "n_shared_experts": [1, 2],
    "n_group": [2], "topk_group": [1], "first_k_dense_replace": [0, 1], "sliding_window": [5],
}
"""What may be varied of a decoder, under the names that most classes give it."""


def listed_case(model_type: str) -> dict[str, list[Any]]:
    """The case of a type for which none is written: the usual fields that its class has, and all its switches."""
    defaults = class_defaults()[model_type]
    switches = {name: [True, False] for name, default in defaults.items() if isinstance(default, bool)}
    return switches | {name: values for name, values in USUAL.items() if name in defaults} | {"pad_token_id": [0]}


def nested(case: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The text of a whole configuration."""
    return {"text_config": [{name: values[i % len(values)] for name, values in case.items()} for i in range(4)]}


_ADAPTED = {f"{part}_config": [{"adapter_out_dim": 32}] for part in ("vision", "audio")}
_SENSES: dict[str, list[Any]] = {
    "vision_config": [{"hidden_size": width, "intermediate_size": 17, "num_hidden_layers": layers, "image_size": 24,
                       "num_attention_heads": 2, "num_channels": colours, "patch_size": patch}
                      for width, layers, colours, patch in ((12, 1, 1, 5), (20, 3, 3, 6))],
    "audio_config": [{"hidden_size": 16, "intermediate_size": 17, "num_blocks": blocks, "num_attention_heads": 4,
                      "depthwise_multiplier": deep, "kernel_size": kernel, "input_size": bins, "time_reduction": steps,
                      "bias_max_distance": 9, "bias_symmetric": blocks > 1, "nemo_conv_channels": 6,
                      "downsample_rate": deep, "ext_pw_out_channel": 16, "depthwise_separable_out_channel": 16}
                     for blocks, deep, kernel, bins, steps in ((1, 2, 3, 11, 2), (3, 1, 5, 16, 4), (2, 1, 3, 13, 8))]}
WHOLE = {**{f"musicgen{kind}": {"decoder": nested(CASES[f"musicgen{kind}_decoder"])["text_config"]}
            for kind in ("", "_melody")},
         "phi4_multimodal": CASES["phi3"] | _SENSES, "emu3": nested(LLAMA | {"pad_token_id": [0]}),
         "dots3_note": nested(CASES["dots3_note_text"] | {"hidden_size": [32]}) | _ADAPTED}
"""Of types whose text alone is read: its fields vary, those beside it are no one's."""
CASES |= {name: listed_case(name) for name, row in FAMILIES.items()
          if "ForCausalLM" in next(iter(row.classes)) and name not in {*CASES, *WHOLE, *NAMED_OTHERWISE, *hub.ROWS}}
