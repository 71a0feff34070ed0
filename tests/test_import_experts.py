"""Families with experts or latents against transformers' own classes on meta: FLOPs, the cache, active parameters."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from import_cases import CASES

from txcalc.answer.report import Report, count
from txcalc.huggingface.families import FAMILIES
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.model import Model
from txcalc.trace.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BATCH, SEQ = 2, 13  # longer than any window
TYPES = ("hunyuan_v1_moe", "glm4_moe_lite", "youtu", "minicpm3", "exaone_moe", "afmoe", "solar_open", "cohere2_moe",
         "granitemoe_swa", "hy_v3", "mellum", "mimo_v2_flash", "laguna",
         "deepseek_v32", "glm_moe_dsa", "minimax_m3_vl_text")
CHOSEN = ("num_experts_per_tok", "moe_topk")


def draw(model_type: str, seed: int) -> dict[str, Any]:
    rng = random.Random(f"{model_type} flops {seed}")
    drawn = {name: rng.choice(values) for name, values in CASES[model_type].items()}
    named = {"model_type": model_type, "architectures": [next(iter(FAMILIES[model_type].classes))]}
    return named | {name: value for name, value in drawn.items() if value is not None}


def live(config: dict[str, Any]) -> Any:
    """The class on meta, its experts run as products that the counter sees; None where it refuses the draw."""
    cls = getattr(transformers, config["architectures"][0])
    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    try:
        settings = cls.config_class(**fields)
        settings._attn_implementation, settings._experts_implementation = "eager", "batched_mm"
        with torch.device("meta"):
            return cls(settings).eval()
    except (ValueError, TypeError, AttributeError):
        return None


def counted(config: dict[str, Any]) -> Report:
    spec = Model.from_data(spec_from_config(config, "config.json", "drawn"))
    return count(spec, Workload(phase="prefill", batch=BATCH, seq=SEQ, attention="eager", dtype="fp32"))


def held_there(report: Report) -> int:
    """Bytes that the library holds after a prefill: of a window, all but the token that the next one pushes out."""
    bounded = ("window", "chunk", "latent")
    return sum(line.bytes - (line.bytes // line.tokens if line.kind in bounded and line.tokens < SEQ else 0)
               for line in report.caches)


def cache_bytes(cache: Any) -> int:
    """Of a layer whose values are its keys, once: DeepSeek V4's windows alone are in a class that copies both."""
    alike = any(hasattr(layer, "compressed_kv") for layer in cache.layers)
    names = ("keys", *(() if alike else ("values",)), "indexer_keys", "idx_keys", "compressed_kv", "buffer_kv",
             "buffer_gate", "overlap_kv", "overlap_gate")
    found = [getattr(layer, name, None) for layer in cache.layers for name in names]
    tensors = [each for one in found for each in (one.values() if isinstance(one, dict) else [one])]
    return sum(each.numel() * each.element_size() for each in {id(x): x for x in tensors}.values() if each is not None)


def active(model: Any, chosen: int | list[int]) -> int:
    """Every weight once, and of the routed experts those that a token is sent to."""
    total = 0
    for name, weight in {id(w): (n, w) for n, w in model.named_parameters()}.values():
        routed = re.search(r"layers\.(\d+)\.(?:.*\.)?"
                           r"(?:experts\.(?:gate_up|up|down)_proj|(?:mlp|experts)\.(?:in|out)put_linear)", name)
        k = (chosen[int(routed[1])] if isinstance(chosen, list) else chosen) if routed else 1
        total += weight.numel() if routed is None else weight.numel() // weight.shape[0] * k
    return total


@pytest.mark.parametrize("model_type", TYPES)
def test_flops_cache_and_active_parameters_equal_the_class(model_type: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    compared = 0
    for seed in range(9):
        config = draw(model_type, seed)
        model = live(config)
        if model is None or compared == 3:
            continue
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            out = model(input_ids=torch.zeros(BATCH, SEQ, dtype=torch.long), use_cache=True)
        report = counted(config)
        totals = report.totals
        assert totals.flops_forward.value == counter.get_total_flops(), config
        assert held_there(report) == cache_bytes(out.past_key_values), config
        chosen = next((config[name] for name in CHOSEN if name in config), 1)
        assert totals.params_active.value == active(model, chosen), config
        compared += 1
    assert compared == 3


SLIDES = ["sliding_attention"] * 3 + ["full_attention"]
FULL = [i == 0 or (i + 1) % 6 == 0 for i in range(48)]
REAL: dict[int, dict[str, Any]] = {
    236_571_150_336: {  # K-EXAONE: "236B"
        "model_type": "exaone_moe", "architectures": ["ExaoneMoEForCausalLM"], "first_last_k_dense_replace": 1,
        "head_dim": 128, "hidden_size": 6144, "intermediate_size": 18432, "is_moe_layer": [False] + [True] * 47,
        "layer_types": SLIDES * 12, "max_position_embeddings": 262144, "moe_intermediate_size": 2048, "n_group": 1,
        "num_attention_heads": 64, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 8, "num_shared_experts": 1, "rope_scaling": None, "rope_theta": 1000000,
        "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "sliding_window": 128,
        "sliding_window_pattern": "LLLG", "topk_method": "noaux_tc", "vocab_size": 153600},
    26_123_974_400: {  # Trinity Mini: "26B"
        "model_type": "afmoe", "architectures": ["AfmoeForCausalLM"], "global_attn_every_n_layers": 4, "head_dim": 128,
        "hidden_size": 2048, "intermediate_size": 6144, "layer_types": SLIDES * 8, "max_position_embeddings": 131072,
        "moe_intermediate_size": 1024, "mup_enabled": True, "n_group": 1, "num_attention_heads": 32,
        "num_dense_layers": 2, "num_expert_groups": 1, "num_experts": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 32, "num_key_value_heads": 4, "num_limited_groups": 1, "num_shared_experts": 1,
        "rope_theta": 10000, "route_norm": True, "route_scale": 2.826, "score_func": "sigmoid", "sliding_window": 2048,
        "tie_word_embeddings": False, "topk_group": 1, "use_grouped_mm": True, "vocab_size": 200192},
    80_393_183_232: {  # Hunyuan-A13B: "80B"
        "model_type": "hunyuan_v1_moe", "architectures": ["HunYuanMoEV1ForCausalLM"], "attention_head_dim": 128,
        "head_dim": 128, "hidden_size": 4096, "intermediate_size": 3072, "moe_intermediate_size": [3072] * 32,
        "moe_topk": [8] * 32, "num_attention_heads": 32, "num_experts": 64, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "num_shared_expert": [1] * 32, "pad_id": -1, "tie_word_embeddings": True,
        "use_cla": False, "use_mixed_mlp_moe": True, "use_mla": False, "use_qk_norm": True, "vocab_size": 128167},
    308_778_768_832: {  # MiMo-V2-Flash: "309B"
        "model_type": "mimo_v2_flash", "architectures": ["MiMoV2FlashForCausalLM"], "attention_chunk_size": 128,
        "hybrid_block_size": None, "hybrid_layer_pattern": [int(not full) for full in FULL], "layernorm_epsilon": 1e-5,
        "moe_layer_freq": [0] + [1] * 47, "n_shared_experts": None, "partial_rotary_factor": 0.334,
        "routed_scaling_factor": None, "scoring_func": "sigmoid", "sliding_window": 128, "sliding_window_size": 128,
        "swa_head_dim": 192, "swa_num_attention_heads": 64, "swa_num_key_value_heads": 8, "swa_v_head_dim": 128},
    743_911_199_232: {  # GLM-5: "744B"
        "model_type": "glm_moe_dsa", "architectures": ["GlmMoeDsaForCausalLM"], "head_dim": 192, "qk_head_dim": 256,
        "index_share_for_mtp_iteration": True, "index_topk_pattern": None, "indexer_rope_interleave": True,
        "moe_router_dtype": "float32", "num_nextn_predict_layers": 1, "scoring_func": "sigmoid"},
    102_651_793_408: {"model_type": "solar_open", "architectures": ["SolarOpenForCausalLM"]},  # "102B"
    295_033_528_320: {"model_type": "hy_v3", "architectures": ["HYV3ForCausalLM"]},  # "295B"
    1_961_560_064: {"model_type": "youtu", "architectures": ["YoutuForCausalLM"]},  # "1.96B"
}


@pytest.mark.parametrize(("expected", "config"), REAL.items())
def test_released_files_are_read(expected: int, config: dict[str, Any]) -> None:
    """What stands in them beside what the classes read does no harm, and comes to the size that was published."""
    assert counted(config).totals.params.value == expected
