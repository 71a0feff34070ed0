"""What a family calls the matrices of its layers, for the lists of modules that a quantized checkpoint leaves alone.

Two projections of the same name are one matrix in the checkpoint, such as the q, k and v of GPT-NeoX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from txcalc.spec.facts import layer_order
from txcalc.spec.layers import MLA, Attention, Dense, MoE
from txcalc.spec.model import Model, Sublayers

Names = Mapping[str, str]


class Family(NamedTuple):
    """``layers`` is the list of layers; ``names`` maps a path within a layer of ours to theirs.

    ``router`` is the one that older libraries made a linear layer, which some methods then packed. ``also``: other
    places of the list of layers, where a tower stands beside it or an older library put it. A name with ``+`` is that
    of several matrices which are one of ours.
    """

    layers: str
    names: Names
    router: str | None = None
    also: tuple[str, ...] = ()


class Matrix(NamedTuple):
    """A matrix of one layer: where in the trace, its name in the checkpoint (of expert 0), and how many."""

    layer: str
    path: str  # within the layer
    module: str
    copies: int
    parts: tuple[tuple[str, ...], ...]  # of each matrix that it is there: all names that it may have


def _names(attention: str, q: str, k: str, v: str, o: str, **feed_forward: str) -> Names:
    own = {f"attention.{ours}": f"{attention}.{theirs}" for ours, theirs in zip("qkvo", (q, k, v, o), strict=True)}
    return own | {f"feed_forward.{ours}": theirs for ours, theirs in feed_forward.items()}


def _experts(prefix: str, gate: str, up: str, down: str, *, scope: str = "experts") -> Names:
    return {f"feed_forward.{scope}.{ours}": f"{prefix}.{theirs}"
            for ours, theirs in {"gate": gate, "up": up, "down": down}.items()}


BESIDE_TOWERS: Final = ("model.language_model.layers", "language_model.model.layers", "language_model.layers",
                        "model.layers", "model.text_model.layers")
"""Where layers of text stand beside a tower: today, in older files, and in those of a class's own."""
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
_QWEN3_5: Final = {
    **_QWEN_MOE, "attention.gate": "self_attn.q_proj",
    "recurrent.in_proj": "linear_attn.in_proj_qkv+linear_attn.in_proj_z",
    "recurrent.rates": "linear_attn.in_proj_b+linear_attn.in_proj_a", "recurrent.out_proj": "linear_attn.out_proj",
}
_MAMBA: Final = {
    **_names("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", gate="feed_forward.gate_proj",
             up="feed_forward.up_proj", down="feed_forward.down_proj"),
    "recurrent.in_proj": "mamba.in_proj", "recurrent.out_proj": "mamba.out_proj",
}
_RECURRENT_MIXER: Final = {f"recurrent.{x}": f"mixer.{x}" for x in ("in_proj", "x_proj", "dt_proj", "out_proj")}
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
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text"), Family("model.layers", _QWEN3_5, None, BESIDE_TOWERS)),
    "flex_olmo": Family("model.layers", _QWEN_MOE, "mlp.gate"),
    "hunyuan_v1_moe": Family("model.layers", {
        **_LLAMA, **_experts("mlp.experts.0", "gate_proj", "up_proj", "down_proj"),
        **_experts("mlp.shared_mlp", "gate_proj", "up_proj", "down_proj", scope="shared")}, "mlp.gate.wg"),
    **dict.fromkeys(("ernie4_5_moe", "hy_v3", "cohere2_moe"), Family("model.layers", _DEEPSEEK)),
    "afmoe": Family("model.layers", {**_DEEPSEEK, "attention.gate": "self_attn.gate_proj"}, "mlp.router.gate"),
    "laguna": Family("model.layers", {**_DEEPSEEK, "attention.gate": "self_attn.g_proj"}),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), Family("model.layers", {
        **_DEEPSEEK, "attention.indexer.q": "self_attn.indexer.wq_b", "attention.indexer.k": "self_attn.indexer.wk",
        "attention.indexer.weights": "self_attn.indexer.weights_proj"})),
    "jamba": Family("model.layers", {
        **_MAMBA, "recurrent.x_proj": "mamba.x_proj", "recurrent.dt_proj": "mamba.dt_proj",
        **_experts("feed_forward.experts.0", "gate_proj", "up_proj", "down_proj")}, "feed_forward.router"),
    **dict.fromkeys(("bamba", "falcon_h1"), Family("model.layers", _MAMBA)),
    "nemotron_h": Family("model.layers", {
        **{f"attention.{x}": f"mixer.{x}_proj" for x in "qkvo"}, **_RECURRENT_MIXER,
        **_experts("mixer.experts.0", "gate_proj", "up_proj", "down_proj"),
        **_experts("mixer.shared_experts", "gate_proj", "up_proj", "down_proj", scope="shared"),
        "feed_forward.up": "mixer.up_proj", "feed_forward.down": "mixer.down_proj"}, None, ("backbone.layers",)),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba"), Family("backbone.layers", _RECURRENT_MIXER)),
    "minimax": Family("model.layers", {
        **_MIXTRAL, "recurrent.qkv": "self_attn.qkv_proj", "recurrent.gate": "self_attn.output_gate",
        "recurrent.out_proj": "self_attn.out_proj"}, "block_sparse_moe.gate"),
    "olmo_hybrid": Family("model.layers", {
        **_LLAMA, "recurrent.in_proj": "+".join(f"linear_attn.{x}_proj" for x in "qkvg"),
        "recurrent.rates": "linear_attn.a_proj+linear_attn.b_proj", "recurrent.out_proj": "linear_attn.o_proj"}),
    "kimi_linear": Family("model.layers", {
        **_DEEPSEEK, **_experts("mlp.experts.0", "gate_proj", "up_proj", "down_proj"),
        "recurrent.in_proj": "self_attn.q_proj+self_attn.k_proj+self_attn.v_proj",
        "recurrent.strength": "self_attn.b_proj", "recurrent.decay_down": "self_attn.forget_gate.f_a_proj",
        "recurrent.decay_up": "self_attn.forget_gate.f_b_proj", "recurrent.gate_down": "self_attn.g_a_proj",
        "recurrent.gate_up": "self_attn.g_b_proj", "recurrent.out_proj": "self_attn.o_proj"}),
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

_TEXTS: Final[Mapping[str, str]] = {
    "llava": "llama", "vipllava": "llama", "mistral3": "mistral", "gemma3": "gemma3_text", "paligemma": "gemma",
    "aya_vision": "cohere2", "cohere2_vision": "cohere2", "internvl": "qwen2", "idefics3": "llama", "smolvlm": "llama",
    "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3", "qwen3_vl_text": "qwen3", "qwen3_vl_moe": "qwen3_moe", "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text", "deepseek_vl": "llama", "lfm2_vl": "lfm2",
    "lighton_ocr": "qwen3", "glm4v": "glm4", "glm4v_text": "glm4", "glm4v_moe": "glm4_moe",
    "glm4v_moe_text": "glm4_moe", "glm46v": "glm4", "glm_ocr": "glm4", "glm_ocr_text": "glm4", "exaone4_5": "exaone4",
    "exaone4_5_text": "exaone4", "kimi_k25": "deepseek_v3", "paddleocr_vl": "ernie4_5",
    "paddleocr_vl_text": "ernie4_5", "llama4": "llama4_text", "gemma4": "gemma4_text",
}
"""Of a type with a tower, or of its text, the one whose matrices have the same names."""

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

def matrices(family: Family, model: Model) -> list[Matrix]:
    """Every matrix of every layer, in order. Raises ``KeyError`` for one that the family has no name for."""
    return [
        Matrix(prefix, ours, f"{family.layers}.{i}.{family.names[ours]}", copies, tuple(
            tuple(f"{place}.{i}.{name}" for place in (family.layers, *family.also))
            for name in family.names[ours].split("+")))
        for i, (prefix, block) in enumerate(layer_order(model)) for ours, copies in _paths(block)
    ]


def family_of(model_type: str, text: str | None) -> Family | None:
    """How a type calls its matrices, or the type of its ``text``, whose layers stand beside a tower."""
    found = FAMILIES.get(model_type) or MLX.get(model_type)
    if found is None:
        inner = FAMILIES.get(_TEXTS.get(text or model_type, text or "")) or MLX.get(text or "")
        return inner and inner._replace(layers=BESIDE_TOWERS[0], also=BESIDE_TOWERS[1:])
    return found


def fused(names: Names, paths: set[str]) -> list[list[str]]:
    """Projections, by the last part of their path, that the checkpoint holds as one matrix."""
    joined: dict[str, list[str]] = {}
    for ours, theirs in names.items():
        if ours in paths:
            joined.setdefault(theirs, []).append(ours.rpartition(".")[2])
    return [group for group in joined.values() if len(group) > 1]


_RECURRENT: Final[Mapping[str, tuple[str, ...]]] = {
    "gated-delta": ("in_proj", "rates", "out_proj"), "mamba2": ("in_proj", "out_proj"),
    "short-convolution": ("in_proj", "out_proj"), "mamba": ("in_proj", "x_proj", "dt_proj", "out_proj"),
    "lightning": ("qkv", "gate", "out_proj"),
    "kimi-delta": ("in_proj", "strength", "decay_down", "decay_up", "gate_down", "gate_up", "out_proj"),
}


def _paths(block: Sublayers) -> Iterator[tuple[str, int]]:
    yield from ((f"attention.{name}", 1) for name in _attention(block.attention))
    if block.recurrent is not None:
        yield from ((f"recurrent.{name}", 1) for name in _RECURRENT[block.recurrent.kind])
    yield from ((f"feed_forward.{name}", copies) for name, copies in _feed_forward(block.feed_forward))


def _attention(spec: Any) -> tuple[str, ...]:
    if isinstance(spec, MLA):
        indexer = () if spec.indexer is None else ("indexer.q", "indexer.k", "indexer.weights")
        return (*(("q",) if spec.q_rank is None else ("q_down", "q_up")), *indexer, "kv_down", "kv_up", "o")
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
