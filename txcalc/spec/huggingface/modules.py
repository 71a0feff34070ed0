"""What a family calls the matrices of its layers, for the lists of modules that a quantized checkpoint leaves alone.

Two projections of the same name are one matrix in the checkpoint, such as the q, k and v of GPT-NeoX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from txcalc.spec.facts import layer_order
from txcalc.spec.layers import MLA, Attention, Dense, GatedDelta, MoE
from txcalc.spec.model import Model, Sublayers

Names = Mapping[str, str]


class Family(NamedTuple):
    """``layers`` is the list of layers; ``names`` maps a path within a layer of ours to theirs.

    ``router`` is the one that older libraries made a linear layer, which some methods then packed.
    """

    layers: str
    names: Names
    router: str | None = None


class Matrix(NamedTuple):
    """A matrix of one layer: where in the trace, its name in the checkpoint (of expert 0), and how many."""

    layer: str
    path: str  # within the layer
    module: str
    copies: int


def _names(attention: str, q: str, k: str, v: str, o: str, **feed_forward: str) -> Names:
    own = {f"attention.{ours}": f"{attention}.{theirs}" for ours, theirs in zip("qkvo", (q, k, v, o), strict=True)}
    return own | {f"feed_forward.{ours}": theirs for ours, theirs in feed_forward.items()}


def _experts(prefix: str, gate: str, up: str, down: str, *, scope: str = "experts") -> Names:
    return {f"feed_forward.{scope}.{ours}": f"{prefix}.{theirs}"
            for ours, theirs in {"gate": gate, "up": up, "down": down}.items()}


_LLAMA: Final = _names("self_attn", "q_proj", "k_proj", "v_proj", "o_proj",
                       gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj")
_QWEN_MOE: Final = {
    **_LLAMA, **_experts("mlp.experts.0", "gate_proj", "up_proj", "down_proj"),
    **_experts("mlp.shared_expert", "gate_proj", "up_proj", "down_proj", scope="shared"),
    "feed_forward.shared_gate": "mlp.shared_expert_gate",
}
_DEEPSEEK: Final = {
    **_QWEN_MOE, **_experts("mlp.shared_experts", "gate_proj", "up_proj", "down_proj", scope="shared"),
    "attention.q_down": "self_attn.q_a_proj", "attention.q_up": "self_attn.q_b_proj",
    "attention.kv_down": "self_attn.kv_a_proj_with_mqa", "attention.kv_up": "self_attn.kv_b_proj",
}
_QWEN3_NEXT: Final = {
    **_QWEN_MOE, "attention.gate": "self_attn.q_proj", "recurrent.in_proj": "linear_attn.in_proj_qkvz",
    "recurrent.rates": "linear_attn.in_proj_ba", "recurrent.out_proj": "linear_attn.out_proj",
}
_MIXTRAL: Final = {**_LLAMA, **_experts("block_sparse_moe.experts.0", "w1", "w3", "w2")}
_GPT_OSS: Final = {**_LLAMA, **_experts("mlp.experts", "gate_up_proj", "gate_up_proj", "down_proj")}
_GLM: Final = {**_LLAMA, "feed_forward.gate": "mlp.gate_up_proj", "feed_forward.up": "mlp.gate_up_proj"}
_PHI3: Final = {**_GLM, **_names("self_attn", "qkv_proj", "qkv_proj", "qkv_proj", "o_proj")}
_LLAMA4: Final = {
    **_names("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", gate="feed_forward.gate_proj",
             up="feed_forward.up_proj", down="feed_forward.down_proj"),
    **_experts("feed_forward.experts.0", "gate_proj", "up_proj", "down_proj"),
    **_experts("feed_forward.shared_expert", "gate_proj", "up_proj", "down_proj", scope="shared"),
}
_GPT2: Final = _names("attn", "c_attn", "c_attn", "c_attn", "c_proj", up="mlp.c_fc", down="mlp.c_proj")
_NEOX: Final = _names("attention", "query_key_value", "query_key_value", "query_key_value", "dense",
                      up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h")
_BLOOM: Final = {ours: theirs.replace("attention", "self_attention") for ours, theirs in _NEOX.items()}

FAMILIES: Final[Mapping[str, Family]] = {
    **{name: Family("model.layers", _LLAMA) for name in (
        "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "olmo3", "granite",
        "cohere", "cohere2", "smollm3", "stablelm", "nemotron", "ernie4_5", "seed_oss", "hunyuan_v1_dense", "arcee",
        "helium", "exaone4", "ministral", "ministral3", "cwm", "vaultgemma", "internlm3", "iquestcoder", "jais2",
        "hyperclovax", "granite_swa", "apertus", "bitnet",
    )},
    **{name: Family("model.layers", _QWEN_MOE, "mlp.gate") for name in ("qwen2_moe", "qwen3_moe", "olmoe")},
    **{name: Family("model.layers", _DEEPSEEK) for name in (
        "deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe", "glm4_moe_lite", "youtu", "minicpm3", "solar_open",
        "exaone_moe", "mellum", "mimo_v2_flash",
    )},
    **{name: Family("model.layers", _MIXTRAL, "block_sparse_moe.gate") for name in ("mixtral", "phimoe", "minimax_m2")},
    **{name: Family("model.layers", _GLM) for name in ("glm", "glm4")},
    "qwen3_next": Family("model.layers", _QWEN3_NEXT, "mlp.gate"),
    "gpt_oss": Family("model.layers", _GPT_OSS),
    "phi3": Family("model.layers", _PHI3),
    "llama4_text": Family("model.layers", _LLAMA4, "feed_forward.router"),
    "phi": Family("model.layers", _names("self_attn", "q_proj", "k_proj", "v_proj", "dense",
                                         up="mlp.fc1", down="mlp.fc2")),
    "starcoder2": Family("model.layers", _names("self_attn", "q_proj", "k_proj", "v_proj", "o_proj",
                                                up="mlp.c_fc", down="mlp.c_proj")),
    "opt": Family("model.decoder.layers", _names("self_attn", "q_proj", "k_proj", "v_proj", "out_proj",
                                                 up="fc1", down="fc2")),
    "gpt_neox": Family("gpt_neox.layers", _NEOX),
    "nanochat": Family("model.layers", _names("self_attn", "q_proj", "k_proj", "v_proj", "o_proj",
                                              up="mlp.fc1", down="mlp.fc2")),
    "persimmon": Family("model.layers", _names("self_attn", "query_key_value", "query_key_value", "query_key_value",
                                               "dense", up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h")),
    "gpt2": Family("transformer.h", _GPT2),
    "gpt-sw3": Family("transformer.h", _GPT2),
    "gpt_bigcode": Family("transformer.h", _GPT2),
    "gptj": Family("transformer.h", _names("attn", "q_proj", "k_proj", "v_proj", "out_proj",
                                           up="mlp.fc_in", down="mlp.fc_out")),
    "codegen": Family("transformer.h", _names("attn", "qkv_proj", "qkv_proj", "qkv_proj", "out_proj",
                                              up="mlp.fc_in", down="mlp.fc_out")),
    "bloom": Family("transformer.h", _BLOOM),
    "falcon": Family("transformer.h", _BLOOM),
    "mpt": Family("transformer.blocks", _names("attn", "Wqkv", "Wqkv", "Wqkv", "out_proj",
                                               up="ffn.up_proj", down="ffn.down_proj")),
}

_LFM2: Final = {
    **_names("self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    "recurrent.in_proj": "conv.in_proj", "recurrent.out_proj": "conv.out_proj",
}
_GRANITE_MOE: Final = {
    **_names("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", gate="shared_mlp.input_linear",
             up="shared_mlp.input_linear", down="shared_mlp.output_linear"),
    **_experts("block_sparse_moe.experts.0", "gate_proj", "up_proj", "down_proj"),
    **_experts("shared_mlp", "input_linear", "input_linear", "output_linear", scope="shared"),
    "recurrent.in_proj": "mamba.in_proj", "recurrent.out_proj": "mamba.out_proj",
}

MLX: Final[Mapping[str, Family]] = {
    "dots1": Family("model.layers", _DEEPSEEK),
    **dict.fromkeys(("granitemoe", "granitemoehybrid"), Family("model.layers", _GRANITE_MOE)),
    "lfm2": Family("model.layers", {**_LFM2, "feed_forward.gate": "feed_forward.w1", "feed_forward.up":
                                    "feed_forward.w3", "feed_forward.down": "feed_forward.w2"}),
    "lfm2_moe": Family("model.layers", {
        **_LFM2, **_experts("feed_forward.experts.0", "w1", "w3", "w2"), "feed_forward.gate": "feed_forward.gate_proj",
        "feed_forward.up": "feed_forward.up_proj", "feed_forward.down": "feed_forward.down_proj"}),
}
"""Families of which MLX's checkpoints alone are read, with the names that these have."""

# What stands beside the matrices and is never packed.
OTHERS: Final = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
    "attention_layernorm", "feedforward_layernorm", "mlp.act_fn", "self_attn.attn_sub_norm", "mlp.ffn_sub_norm",
    "self_attn.q_norm", "self_attn.k_norm", "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm",
    "mlp.gate", "mlp.gate.e_score_correction_bias", "mlp.router", "block_sparse_moe.gate", "feed_forward.router",
    "linear_attn.conv1d", "linear_attn.norm", "linear_attn.A_log", "linear_attn.dt_bias", "ln_1", "ln_2",
)
TOP: Final = ("lm_head", "model.embed_tokens", "model.norm", "transformer.wte", "transformer.wpe", "transformer.ln_f",
              "gpt_neox.embed_in", "embed_out", "gpt_neox.final_layer_norm", "model.decoder.embed_tokens", "score")


def matrices(family: Family, model: Model) -> list[Matrix]:
    """Every matrix of every layer, in order. Raises ``KeyError`` for one that the family has no name for."""
    return [
        Matrix(prefix, ours, f"{family.layers}.{i}.{family.names[ours]}", copies)
        for i, (prefix, block) in enumerate(layer_order(model)) for ours, copies in _paths(block)
    ]


def fused(names: Names, paths: set[str]) -> list[list[str]]:
    """Projections, by the last part of their path, that the checkpoint holds as one matrix."""
    joined: dict[str, list[str]] = {}
    for ours, theirs in names.items():
        if ours in paths:
            joined.setdefault(theirs, []).append(ours.rpartition(".")[2])
    return [group for group in joined.values() if len(group) > 1]


def _paths(block: Sublayers) -> Iterator[tuple[str, int]]:
    yield from ((f"attention.{name}", 1) for name in _attention(block.attention))
    if block.recurrent is not None:
        yield from ((f"recurrent.{name}", 1) for name in (
            ("in_proj", "rates", "out_proj") if isinstance(block.recurrent, GatedDelta) else ("in_proj", "out_proj")))
    yield from ((f"feed_forward.{name}", copies) for name, copies in _feed_forward(block.feed_forward))


def _attention(spec: Any) -> tuple[str, ...]:
    if isinstance(spec, MLA):
        return (*(("q",) if spec.q_rank is None else ("q_down", "q_up")), "kv_down", "kv_up", "o")
    if isinstance(spec, Attention):
        return ("q", "gate", "k", "v", "o") if spec.output_gate else ("q", "k", "v", "o")
    return ()


def _feed_forward(spec: Dense | MoE | None) -> Iterator[tuple[str, int]]:
    if spec is None:
        return
    names = ("gate", "up", "down") if spec.gated else ("up", "down")
    if isinstance(spec, Dense):
        yield from ((name, 1) for name in names)
        return
    yield from ((f"experts.{name}", spec.experts) for name in names)
    if spec.shared_experts:
        yield from ((f"shared.{name}", 1) for name in names)
        if spec.shared_gate:
            yield "shared_gate", 1
