"""Measure the files that MLX writes: what it packs, and every byte of it.

Run: python tests/mlx_files.py, where torch, transformers, mlx, mlx-cpu (or a Mac) and mlx-lm are installed.

For each family a tiny checkpoint is saved by transformers, loaded strictly by mlx-lm's own class, packed by its own
``quantize_model`` and saved by its own ``save_model`` and ``save_config``; what is written down is the configuration
and the bytes of the file's tensors. The tests compare counts with this table and need none of these packages.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "data" / "mlx.json"
BUFFERS = ("e_score_correction_bias", "expert_bias", ".act_fn.beta", ".act_fn.eps")
"""Tensors that are no parameters."""
NAMED = ("llama", "qwen3_moe", "gpt_oss", "deepseek_v3", "apertus")
"""Families whose tensors are all written down."""
CLASSES = {"kimi_k2": "deepseek_v3"}

TINY = {"vocab_size": 101, "hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 67, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
GPT = {"vocab_size": 101, "n_embd": 192, "n_layer": 2, "n_head": 4, "n_positions": 67, "n_ctx": 67, "n_inner": None,
       "layer_norm_epsilon": 1e-5, "torch_dtype": "bfloat16"}
HEADS = {"head_dim": 32}
TIED = {"tie_word_embeddings": True}
PLAIN = {"attention_bias": False, "mlp_bias": False}
EPS = {"layer_norm_eps": 1e-5}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 96, "norm_topk_prob": True}
SHARED = {**EXPERTS, "n_routed_experts": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "attention_bias": False,
          "n_group": 2, "topk_group": 1, "routed_scaling_factor": 1.0, "rope_scaling": None}
LATENT = {"num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 96, "qk_nope_head_dim": 64,
          "qk_rope_head_dim": 16, "v_head_dim": 32, "attention_bias": False}
DEEPSEEK = {**SHARED, **LATENT, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1}
LAYERS = {"num_hidden_layers": 4, "sliding_window": 8,
          "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]}
LONG = {"original_max_position_embeddings": 67}
YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, **LONG}

SCALED = {"logits_scaling": 1.0, "attention_multiplier": 1.0, "embedding_multiplier": 1.0, "residual_multiplier": 1.0}
GRANITE = {**SCALED, "attention_bias": False, "num_local_experts": 5, "num_experts_per_tok": 2}
CONVOLUTION = {"rms_norm_eps": None, "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "num_hidden_layers": 3,
               "layer_types": ["conv", "full_attention", "conv"], **TIED}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**HEADS, "attention_bias": True, "mlp_bias": True},
    "mistral": HEADS,
    "qwen2": TIED,
    "qwen3": HEADS,
    "gemma": {**HEADS, **TIED},
    "gemma2": {**HEADS, **TIED, "query_pre_attn_scalar": 144, "attn_logit_softcapping": 50.0,
               "final_logit_softcapping": 30.0},
    "gemma3_text": {**HEADS, **TIED, "sliding_window_pattern": 6, "sliding_window": 8},
    "olmo2": HEADS,
    "olmo3": LAYERS,
    "granite": {**PLAIN, **SCALED},
    "cohere": {**TIED, **EPS, "use_qk_norm": True},
    "cohere2": {**TIED, **EPS, "num_hidden_layers": 4, "sliding_window": 8, "sliding_window_pattern": 4,
                "head_dim": 48},
    "glm": {**HEADS, "attention_bias": True, "pad_token_id": 0},
    "glm4": {**HEADS, "attention_bias": True, "pad_token_id": 0, "partial_rotary_factor": 0.5},
    "phi": {**EPS, "partial_rotary_factor": 0.5},
    "phi3": {"pad_token_id": 0, "rope_scaling": None, "partial_rotary_factor": 1.0},
    "stablelm": {**EPS, "use_qkv_bias": True, "partial_rotary_factor": 0.25},
    "starcoder2": {**TIED, "norm_epsilon": 1e-5},
    "nemotron": {**HEADS, **PLAIN, "norm_eps": 1e-5, "hidden_act": "relu2", "partial_rotary_factor": 0.5},
    "smollm3": {"no_rope_layer_interval": 4, "pad_token_id": 0},
    "ernie4_5": {**HEADS, "use_bias": False},
    "seed_oss": {**HEADS, "attention_bias": True, "attention_out_bias": False, "mlp_bias": False},
    "hunyuan_v1_dense": {**HEADS, "use_qk_norm": True},
    "helium": {**PLAIN, "head_dim": 48, "num_key_value_heads": 4},
    "exaone4": {**HEADS, **LAYERS, "sliding_window_pattern": "LLLG", "rope_scaling": None},
    "ministral3": {**HEADS, "rope_parameters": {"rope_theta": 1e4, "type": "yarn", "factor": 16.0, **LONG,
                                                "llama_4_scaling_beta": 0.1}},
    "internlm3": {"head_dim": 48, "qkv_bias": False, "bias": False},
    "apertus": {**PLAIN, "head_dim": 48, "hidden_act": "xielu", "post_norm": False, "qk_norm": True,
                "rope_scaling": None},
    "iquestcoder": HEADS,
    "gpt2": GPT,
    "gpt_bigcode": {**GPT, "n_inner": 320, "multi_query": True, "attention_softmax_in_fp32": True,
                    "scale_attn_weights": True},
    "gptj": {**GPT, "rotary_dim": 16, "tie_word_embeddings": False},
    "gpt_neox": {**EPS, "intermediate_size": 768, "num_key_value_heads": None, "rotary_emb_base": 10000,
                 "rotary_pct": 0.25, "use_parallel_residual": True},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "minimax_m2": {**HEADS, "num_local_experts": 5, "num_experts_per_tok": 2, "shared_intermediate_size": 0,
                   "rotary_dim": 16, "use_qk_norm": True, "scoring_func": "sigmoid"},
    "qwen2_moe": {**EXPERTS, "num_experts": 5, "shared_expert_intermediate_size": 160, "decoder_sparse_step": 1},
    "qwen3_moe": {**EXPERTS, **HEADS, "num_experts": 5, "decoder_sparse_step": 1, "mlp_only_layers": [0]},
    "olmoe": {"num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": False},
    "phimoe": {"num_local_experts": 5, "num_experts_per_tok": 2, "lm_head_bias": True, "attention_bias": True, **LONG,
               "rope_scaling": {"type": "longrope", "long_factor": [1.0] * 24, "short_factor": [1.0] * 24,
                                "long_mscale": 1.0, "short_mscale": 1.0, **LONG}},
    "gpt_oss": {**HEADS, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 8, "rope_scaling": YARN,
                "layer_types": ["sliding_attention", "full_attention"], "attention_bias": True},
    "deepseek_v2": {**DEEPSEEK, "topk_method": "greedy", "scoring_func": "softmax",
                    "rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0, **LONG}},
    "deepseek_v3": DEEPSEEK,
    "kimi_k2": DEEPSEEK,
    "glm4_moe": {**SHARED, **HEADS, "use_qk_norm": True, "partial_rotary_factor": 0.5},
    "glm4_moe_lite": DEEPSEEK,
    "minicpm3": {**LATENT, "v_head_dim": 48, "dim_model_base": 256, "scale_depth": 1.4, "scale_emb": 12,
                 "rope_scaling": {"type": "longrope", "long_factor": [1.0] * 8, "short_factor": [1.0] * 8, **LONG}},
    "solar_open": {**SHARED, **HEADS, "first_k_dense_replace": 0, "use_qk_norm": False, "partial_rotary_factor": 1.0},
    "exaone_moe": {**EXPERTS, **HEADS, **LAYERS, "num_experts": 5, "num_shared_experts": 1, "first_k_dense_replace": 1,
                   "sliding_window_pattern": "LLLG", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.5,
                   "is_moe_layer": [False, True, True, True], "rope_scaling": None},
    "mellum": {**EXPERTS, **HEADS, "num_experts": 5, "sliding_window": 8,
               "layer_types": ["sliding_attention", "full_attention"], "mlp_layer_types": ["sparse", "sparse"],
               "rope_parameters": {kind: {"rope_theta": 1e4, "rope_type": "default"}
                                   for kind in ("full_attention", "sliding_attention")}},
    "dots1": {**EXPERTS, "n_routed_experts": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 2,
              "topk_group": 1, "routed_scaling_factor": 1.0, "attention_bias": False, "scoring_func": "noaux_tc"},
    "granitemoe": GRANITE,
    "granitemoehybrid": {**GRANITE, "shared_intermediate_size": 160, "layer_types": ["mamba", "attention"],
                         "mamba_n_heads": 6, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 32,
                         "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False,
                         "position_embedding_type": "rope"},
    "lfm2": {**CONVOLUTION, "block_dim": 192, "block_ff_dim": 320, "block_multiple_of": 64,
             "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True},
    "lfm2_moe": {**EXPERTS, **CONVOLUTION, "num_experts": 5, "use_expert_bias": True, "num_dense_layers": 1},
    "qwen3_next": {**EXPERTS, **HEADS, "num_experts": 5, "shared_expert_intermediate_size": 160,
                   "decoder_sparse_step": 1, "mlp_only_layers": [], "linear_num_key_heads": 2,
                   "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
                   "linear_conv_kernel_dim": 4, "num_hidden_layers": 4, "partial_rotary_factor": 0.25,
                   "full_attention_interval": 4},
}
WIDE = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 64, "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 256, "n_embd": 256, "kv_lora_rank": 128, "q_lora_rank": 128,
        "qk_nope_head_dim": 128, "v_head_dim": 64, "linear_value_head_dim": 64, "linear_key_head_dim": 64}
WIDER: dict[str, dict[str, Any]] = {
    "gpt_neox": {"intermediate_size": 1024}, "gpt_bigcode": {"n_inner": 384},
    "granitemoehybrid": {"mamba_n_heads": 8, "shared_intermediate_size": 192},
    "lfm2": {"block_dim": 256, "block_ff_dim": 384},
    "phimoe": {"rope_scaling": {**FAMILIES["phimoe"]["rope_scaling"], "long_factor": [1.0] * 32,
                                "short_factor": [1.0] * 32}},
}

AFFINE = [(bits, group, "affine") for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
MODES = [(4, 32, "mxfp4"), (8, 32, "mxfp8"), (4, 16, "nvfp4")]
PUBLISHED = [None, (8, 64, "affine"), (4, 64, "affine"), (8, 128, "affine"), (4, 32, "mxfp4")]
"""What is made of a checkpoint whose experts are in mxfp4 already: the first as it is."""
EVERY = ("llama", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "mixtral", "phi3", "granite", "glm4_moe")
"""Families that are packed in every way; the others as most files are."""
RECIPES = {"llama": {"num_hidden_layers": 9}, "phi3": {"num_hidden_layers": 8}, "mixtral": {"num_hidden_layers": 5}}


def config_of(model_type: str, *, wide: bool = False) -> dict[str, Any]:
    own = FAMILIES[model_type]
    config = {"model_type": model_type, **({} if "n_embd" in own else TINY), **own}
    if wide:
        config |= {name: size for name, size in WIDE.items() if name in config} | WIDER.get(model_type, {})
    return {name: value for name, value in config.items() if value is not None or name in ("n_inner", "rope_scaling")}


def save_original(config: dict[str, Any], folder: Path) -> None:
    """As transformers saves it, under the names that the family's published files have."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name = CLASSES.get(config["model_type"], config["model_type"])
    fields = {field: value for field, value in config.items() if field not in ("model_type", "torch_dtype")}
    dtype = getattr(torch, config["torch_dtype"])
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**fields)).to(dtype).save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if name == "gpt2":
        tensors = {key.removeprefix("transformer."): tensor for key, tensor in tensors.items()}
    if name == "gpt_oss":
        for key in [key for key in tensors if key.endswith(("gate_up_proj", "down_proj"))]:
            experts, columns, rows = tensors.pop(key).shape
            tensors[f"{key}_blocks"] = torch.zeros(experts, rows, columns // 32, 16, dtype=torch.uint8)
            tensors[f"{key}_scales"] = torch.zeros(experts, rows, columns // 32, dtype=torch.uint8)
        config = {**config, "quantization_config": {"quant_method": "mxfp4"}}
    save_file(tensors, path, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """As ``mlx_lm.convert`` does it, the cast to the configuration's dtype included."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path
    from mlx_lm.utils import load_model

    model, config = load_model(folder, lazy=True)
    dtype, casts = getattr(mx, config["torch_dtype"]), getattr(model, "cast_predicate", lambda _: True)

    def cast(name: str, value: Any) -> Any:
        return value.astype(dtype) if casts(name) and mx.issubdtype(value.dtype, mx.floating) else value

    model.update(tree_map_with_path(cast, model.parameters()))
    return model, config


def packed(folder: Path, sizes: tuple[int, int, str] | None, predicate: Callable[[Any], Any] | None = None
           ) -> dict[str, Any]:
    """The file that MLX makes of a checkpoint: its ``quantization``, its bytes, and its tensors."""
    from mlx_lm.utils import quantize_model, save_config, save_model

    model, config = load(folder)
    with redirect_stdout(StringIO()), tempfile.TemporaryDirectory() as name:
        if sizes is not None:
            bits, group, mode = sizes
            chosen = None if predicate is None else predicate(model)
            model, config = quantize_model(model, config, group, bits, mode=mode, quant_predicate=chosen)
        save_model(name, model)
        save_config(config, Path(name) / "config.json")
        written = json.loads((Path(name) / "config.json").read_text())
        assert written["quantization_config"] == written["quantization"]
        return {"quantization": written["quantization"], **measure(Path(name) / "model.safetensors")}


def measure(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    spans = {name: tensor["data_offsets"] for name, tensor in header.items()}
    buffers = sum(end - start for name, (start, end) in spans.items() if name.endswith(BUFFERS))
    tensors = {name: [tensor["dtype"], *tensor["shape"]] for name, tensor in header.items()}
    return {"bytes": len(raw) - 8 - length, "buffers": buffers, "tensors": tensors}


def without_tensors(file: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in file.items() if name != "tensors"}


def listed(folder: Path) -> Iterator[dict[str, Any]]:
    """A file of which every module is named, true or false, as mlx-lm 0.26 wrote it; loaded back to be sure."""
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    model, config = load(folder)
    leaves = [name for name, _ in tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)]
    named: dict[str, Any] = {}

    def predicate(path: str, _: Any) -> Any:
        special = {"v_proj": {"group_size": 32, "bits": 6}, "o_proj": False, "lm_head": False}
        return next((sizes for name, sizes in special.items() if path.endswith(name)), True)

    def noted(path: str, module: Any) -> Any:
        named[path] = predicate(path, module)
        return named[path]

    with redirect_stdout(StringIO()), tempfile.TemporaryDirectory() as name:
        model, config = quantize_model(model, config, 64, 4, quant_predicate=noted)
        config["quantization"] |= {leaf: named.get(leaf, False) for leaf in leaves}
        save_model(name, model)
        save_config(config, Path(name) / "config.json")
        found = measure(Path(name) / "model.safetensors")
        again, _ = load_model(Path(name))
        assert sum(array.nbytes for _, array in tree_flatten(again.parameters())) == found["bytes"]
        yield {"quantization": config["quantization"], **found}


def families() -> Iterator[dict[str, Any]]:
    for model_type in FAMILIES:
        for wide in (False, True):
            config = config_of(model_type, wide=wide)
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                save_original(config, folder)
                ways = [*AFFINE, *MODES] if model_type in EVERY and not wide else [(4, 64, "affine"), MODES[0]]
                ways = PUBLISHED if model_type == "gpt_oss" else ways
                files = [packed(folder, sizes) for sizes in ways]
            tensors = files[0]["tensors"]
            modules = [key.removesuffix(".scales") for key in sorted(tensors) if key.endswith(".scales")]
            yield {"config": config, "files": list(map(without_tensors, files)),
                   **({} if wide else {"modules": modules}),
                   **({"tensors": tensors} if model_type in NAMED and not wide else {})}


def others() -> Iterator[dict[str, Any]]:
    """Mixed recipes, other dtypes, and every module named."""
    from mlx_lm.convert import QUANT_RECIPES, mixed_quant_predicate_builder

    for model_type, fields in RECIPES.items():
        config = {**config_of(model_type), **fields}
        with tempfile.TemporaryDirectory() as name:
            save_original(config, Path(name))
            files = [packed(Path(name), (4, 64, "affine"),
                            lambda model, recipe=recipe: mixed_quant_predicate_builder(recipe, model, 64))
                     for recipe in QUANT_RECIPES]
            yield {"config": config, "files": list(map(without_tensors, files))}
    for dtype in ("float16", "float32"):
        config = {**config_of("llama"), "torch_dtype": dtype}
        with tempfile.TemporaryDirectory() as name:
            save_original(config, Path(name))
            yield {"config": config, "files": [without_tensors(packed(Path(name), (4, 64, "affine")))]}
    for model_type in ("llama", "qwen3_moe", "deepseek_v3"):
        config = config_of(model_type)
        with tempfile.TemporaryDirectory() as name:
            save_original(config, Path(name))
            yield {"config": config, "files": list(map(without_tensors, listed(Path(name))))}


def heads() -> Iterator[dict[str, Any]]:
    """Whether a class takes a checkpoint whose head is tied, is not, or of which the file does not say it.

    Null where it refuses the checkpoint, else the bytes of the file.
    """
    for model_type in FAMILIES:
        config = config_of(model_type)
        config.pop("tie_word_embeddings", None)
        found = []
        for said in ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}, {}):
            with tempfile.TemporaryDirectory() as name:
                save_original(config | said, Path(name))
                sizes = None if model_type == "gpt_oss" else (4, 64, "affine")
                try:
                    found.append(without_tensors(packed(Path(name), sizes)))
                except (ValueError, TypeError):  # a tensor too many or too few, a required field
                    found.append(None)
        yield {"config": config, "tied": found[0], "untied": found[1], "unsaid": found[2]}


def main() -> None:
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    versions = {name: version(name) for name in ("mlx", "mlx-lm", "transformers")}
    parts = {"cases": [*families(), *others()], "heads": [*heads()]}
    lists = (f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in parts.items())
    TABLE.write_text(f'{{"versions": {json.dumps(versions)},\n' + ",\n".join(lists) + "}\n")


if __name__ == "__main__":
    main()
