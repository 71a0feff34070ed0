"""Small configurations of the decoders whose modelling code in transformers is followed."""

from typing import Any, Final

WIDTHS: Final = {
    "vocab_size": 101, "hidden_size": 30, "intermediate_size": 41, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64, "tie_word_embeddings": False,
}


def of(model_type: str, name: str, **more: Any) -> dict[str, Any]:
    return WIDTHS | {"model_type": model_type, "architectures": [f"{name}ForCausalLM"]} | more


MISTRAL: Final = of("mistral", "Mistral", sliding_window=3)
QWEN3: Final = of("qwen3", "Qwen3")
PHI3: Final = of("phi3", "Phi3", hidden_size=24, pad_token_id=0)
SPARSE: Final = {"hidden_size": 40, "head_dim": 8, "num_experts_per_tok": 2}
MIXTRAL: Final = of("mixtral", "Mixtral", **SPARSE, num_local_experts=5) | {"intermediate_size": 48}
QWEN3_MOE: Final = of("qwen3_moe", "Qwen3Moe", **SPARSE, num_experts=7, moe_intermediate_size=24)
DEEPSEEK: Final = of(
    "deepseek_v3", "DeepseekV3", hidden_size=40, num_attention_heads=3, num_key_value_heads=3, moe_intermediate_size=24,
    n_routed_experts=6, n_shared_experts=1, num_experts_per_tok=2, n_group=3, topk_group=2, q_lora_rank=11,
    kv_lora_rank=13, qk_nope_head_dim=8, qk_rope_head_dim=4, head_dim=4, v_head_dim=10, first_k_dense_replace=1)
DECODERS: Final[dict[str, dict[str, Any]]] = {
    "mistral": MISTRAL,
    "mistral-whose-window-reaches": MISTRAL | {"sliding_window": 40},
    "mistral-multi-head": MISTRAL | {"sliding_window": 7, "num_key_value_heads": 6, "head_dim": 8},
    "mistral-multi-query": MISTRAL | {"num_attention_heads": 5, "num_key_value_heads": 1},
    "qwen2": of("qwen2", "Qwen2", hidden_size=24),
    "qwen3": QWEN3,
    "qwen3-window": QWEN3 | {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 3,
                             "max_window_layers": 1},
    "gemma2": of("gemma2", "Gemma2", num_hidden_layers=4, sliding_window=3, query_pre_attn_scalar=4),
    "gemma3": of("gemma3_text", "Gemma3", num_hidden_layers=7, sliding_window=3, query_pre_attn_scalar=4),
    "phi3": PHI3,
    "phi3-multi-head": PHI3 | {"num_key_value_heads": 6, "num_hidden_layers": 1},
    "phi3-partly-rotated": PHI3 | {"hidden_size": 48, "head_dim": 8, "partial_rotary_factor": 0.5, "sliding_window": 3},
    "mixtral": MIXTRAL,
    "mixtral-one-expert": MIXTRAL | {"num_experts_per_tok": 1, "sliding_window": 3, "num_hidden_layers": 1},
    "qwen3-moe": QWEN3_MOE | {"decoder_sparse_step": 2},
    "qwen3-moe-normalised": QWEN3_MOE | {"num_experts_per_tok": 7, "norm_topk_prob": True, "attention_bias": True,
                                         "num_hidden_layers": 1},
    "deepseek-v3": DEEPSEEK,
    "deepseek-v3-one-group": DEEPSEEK | {
        "n_group": 1, "topk_group": 1, "q_lora_rank": None, "norm_topk_prob": False, "n_shared_experts": 2,
        "attention_bias": True, "rope_interleave": False, "num_hidden_layers": 1, "first_k_dense_replace": 0,
        "v_head_dim": 12},
    "olmo2": of("olmo2", "Olmo2", hidden_size=24),
}
