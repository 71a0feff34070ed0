"""Names of a family's matrices, for the lists of modules that a quantized checkpoint leaves alone.

Two projections of the same name are one matrix in the checkpoint, such as the q, k and v of GPT-NeoX.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from txcalc.spec.facts import layer_order
from txcalc.spec.layers import MLA, Attention, Dense, MoE
from txcalc.spec.model import Model, Sublayers

Names = Mapping[str, str]


class Family(NamedTuple):
    """Names of a family's matrices. One with ``+`` is that of several which are one of ours."""

    layers: str  # the list of layers
    names: Names  # by the path within a layer of ours
    router: str | None = None  # the one that older libraries made a linear layer, which some methods then packed
    also: tuple[str, ...] = ()  # other places of the list, where a tower stands beside it or an older library put it


class Matrix(NamedTuple):
    """A matrix of one layer: where in the trace, its name in the checkpoint (of expert 0), and how many."""

    layer: str
    path: str  # within the layer
    module: str
    copies: int
    parts: tuple[tuple[str, ...], ...]  # of each matrix that it is there: all names that it may have


def _attention(prefix: str = "self_attn", names: str = "q_proj k_proj v_proj o_proj") -> Names:
    """Queries, keys, values and output; one name stands for the first three."""
    *found, last = names.split()
    own = found if len(found) == 3 else found * 3
    return {f"attention.{ours}": f"{prefix}.{theirs}" for ours, theirs in zip("qkvo", (*own, last), strict=True)}


def _feed(prefix: str = "mlp.", names: str = "gate_proj up_proj down_proj", scope: str = "") -> Names:
    """Gate, up and down, or the last two; ``scope``: of ``experts.`` or ``shared.`` ones."""
    found = names.split()
    return {f"feed_forward.{scope}{ours}": f"{prefix}{theirs}"
            for ours, theirs in zip(("gate", "up", "down")[-len(found):], found, strict=True)}


def _experts(prefix: str = "mlp.experts.0.", names: str = "gate_proj up_proj down_proj") -> Names:
    return _feed(prefix, names, "experts.")


def _shared(prefix: str) -> Names:
    return _feed(prefix, scope="shared.")


def _recurrent(prefix: str, **names: str) -> Names:
    """A name for each of ours; of several with spaces between, all are one of ours."""
    return {f"recurrent.{ours}": "+".join(f"{prefix}.{theirs}" for theirs in names[ours].split()) for ours in names}


BESIDE_TOWERS: Final = ("model.language_model.layers", "language_model.model.layers", "language_model.layers",
                        "model.layers", "model.text_model.layers")
"""Paths of layers of text that stand beside a tower: today, in older files, and in those of a class's own."""
_LLAMA: Final = {**_attention(), **_feed()}
_QWEN_MOE: Final = {**_LLAMA, **_experts(), **_shared("mlp.shared_expert."),
                    "feed_forward.shared_gate": "mlp.shared_expert_gate"}
_DEEPSEEK: Final = {
    **_QWEN_MOE, **_shared("mlp.shared_experts."),
    "attention.q_down": "self_attn.q_a_proj", "attention.q_up": "self_attn.q_b_proj",
    "attention.kv_down": "self_attn.kv_a_proj_with_mqa", "attention.kv_up": "self_attn.kv_b_proj",
}
_GATED_DELTA: Final = {**_QWEN_MOE, "attention.gate": "self_attn.q_proj"}
_QWEN3_5: Final = {**_GATED_DELTA, **_recurrent(
    "linear_attn", in_proj="in_proj_qkv in_proj_z", rates="in_proj_b in_proj_a", out_proj="out_proj")}
_MAMBA: Final = {**_attention(), **_feed("feed_forward."),
                 **_recurrent("mamba", in_proj="in_proj", out_proj="out_proj")}
_RECURRENT_MIXER: Final = _recurrent("mixer", **{name: name for name in ("in_proj", "x_proj", "dt_proj", "out_proj")})
_MIXTRAL: Final = {**_LLAMA, **_experts("block_sparse_moe.experts.0.", "w1 w3 w2")}
_GLM: Final = {**_attention(), **_feed("mlp.", "gate_up_proj gate_up_proj down_proj")}
_GPT2: Final = {**_attention("attn", "c_attn c_proj"), **_feed("mlp.", "c_fc c_proj")}
_4H: Final = _feed("mlp.", "dense_h_to_4h dense_4h_to_h")
_BLOOM: Final = {**_attention("self_attention", "query_key_value dense"), **_4H}


def _plain(names: Names, router: str | None = None, layers: str = "model.layers") -> Family:
    return Family(layers, names, router)


FAMILIES: Final[Mapping[str, Family]] = {
    **dict.fromkeys((
        "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "olmo3", "granite",
        "cohere", "cohere2", "smollm3", "stablelm", "nemotron", "ernie4_5", "seed_oss", "hunyuan_v1_dense", "arcee",
        "helium", "exaone4", "ministral", "ministral3", "cwm", "vaultgemma", "internlm3", "iquestcoder", "jais2",
        "hyperclovax", "granite_swa", "apertus", "bitnet"), _plain(_LLAMA)),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "olmoe", "flex_olmo"), _plain(_QWEN_MOE, "mlp.gate")),
    **dict.fromkeys((
        "deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe", "glm4_moe_lite", "youtu", "minicpm3", "solar_open",
        "exaone_moe", "mellum", "mimo_v2_flash", "ernie4_5_moe", "hy_v3", "cohere2_moe"), _plain(_DEEPSEEK)),
    **dict.fromkeys(("mixtral", "phimoe", "minimax_m2"), _plain(_MIXTRAL, "block_sparse_moe.gate")),
    **dict.fromkeys(("glm", "glm4"), _plain(_GLM)),
    "qwen3_next": _plain({**_GATED_DELTA, **_recurrent(
        "linear_attn", in_proj="in_proj_qkvz", rates="in_proj_ba", out_proj="out_proj")}, "mlp.gate"),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text"), Family("model.layers", _QWEN3_5, None, BESIDE_TOWERS)),
    "hunyuan_v1_moe": _plain({**_LLAMA, **_experts(), **_shared("mlp.shared_mlp.")}, "mlp.gate.wg"),
    "afmoe": _plain({**_DEEPSEEK, "attention.gate": "self_attn.gate_proj"}, "mlp.router.gate"),
    "laguna": _plain({**_DEEPSEEK, "attention.gate": "self_attn.g_proj"}),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _plain({
        **_DEEPSEEK, "attention.indexer.q": "self_attn.indexer.wq_b", "attention.indexer.k": "self_attn.indexer.wk",
        "attention.indexer.weights": "self_attn.indexer.weights_proj"})),
    "jamba": _plain({**_MAMBA, **_recurrent("mamba", x_proj="x_proj", dt_proj="dt_proj"),
                     **_experts("feed_forward.experts.0.")}, "feed_forward.router"),
    **dict.fromkeys(("bamba", "falcon_h1"), _plain(_MAMBA)),
    "nemotron_h": Family("model.layers", {
        **_attention("mixer"), **_RECURRENT_MIXER, **_experts("mixer.experts.0."), **_shared("mixer.shared_experts."),
        **_feed("mixer.", "up_proj down_proj"), "feed_forward.latent_down": "mixer.fc1_latent_proj",
        "feed_forward.latent_up": "mixer.fc2_latent_proj"}, None, ("backbone.layers",)),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba"), _plain(_RECURRENT_MIXER, layers="backbone.layers")),
    "minimax": _plain({**_MIXTRAL, **_recurrent("self_attn", qkv="qkv_proj", gate="output_gate", out_proj="out_proj")},
                      "block_sparse_moe.gate"),
    "olmo_hybrid": _plain({**_LLAMA, **_recurrent(
        "linear_attn", in_proj="q_proj k_proj v_proj g_proj", rates="a_proj b_proj", out_proj="o_proj")}),
    "kimi_linear": _plain({**_DEEPSEEK, **_recurrent(
        "self_attn", in_proj="q_proj k_proj v_proj", strength="b_proj", decay_down="forget_gate.f_a_proj",
        decay_up="forget_gate.f_b_proj", gate_down="g_a_proj", gate_up="g_b_proj", out_proj="o_proj")}),
    "gpt_oss": _plain({**_LLAMA, **_experts("mlp.experts.", "gate_up_proj gate_up_proj down_proj")}),
    "phi3": _plain({**_GLM, **_attention("self_attn", "qkv_proj o_proj")}),
    "llama4_text": _plain({**_attention(), **_feed("feed_forward."), **_experts("feed_forward.experts.0."),
                           **_shared("feed_forward.shared_expert.")}, "feed_forward.router"),
    "gemma4_text": _plain({**_LLAMA, **_experts("experts.0."), **_shared("mlp.")}, "router.proj"),
    "phi": _plain({**_attention("self_attn", "q_proj k_proj v_proj dense"), **_feed("mlp.", "fc1 fc2")}),
    "starcoder2": _plain({**_attention(), **_feed("mlp.", "c_fc c_proj")}),
    "opt": _plain({**_attention("self_attn", "q_proj k_proj v_proj out_proj"), **_feed("", "fc1 fc2")},
                  layers="model.decoder.layers"),
    "gpt_neox": _plain({**_attention("attention", "query_key_value dense"), **_4H}, layers="gpt_neox.layers"),
    "nanochat": _plain({**_attention(), **_feed("mlp.", "fc1 fc2")}),
    "persimmon": _plain({**_attention("self_attn", "query_key_value dense"), **_4H}),
    **dict.fromkeys(("gpt2", "gpt-sw3", "gpt_bigcode"), _plain(_GPT2, layers="transformer.h")),
    "gptj": _plain({**_attention("attn", "q_proj k_proj v_proj out_proj"), **_feed("mlp.", "fc_in fc_out")},
                   layers="transformer.h"),
    "codegen": _plain({**_attention("attn", "qkv_proj out_proj"), **_feed("mlp.", "fc_in fc_out")},
                      layers="transformer.h"),
    **dict.fromkeys(("bloom", "falcon"), _plain(_BLOOM, layers="transformer.h")),
    "mpt": _plain({**_attention("attn", "Wqkv out_proj"), **_feed("ffn.", "up_proj down_proj")},
                  layers="transformer.blocks"),
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

_LFM2: Final = {**_attention("self_attn", "q_proj k_proj v_proj out_proj"),
                **_recurrent("conv", in_proj="in_proj", out_proj="out_proj")}
_FUSED: Final = "input_linear input_linear output_linear"

MLX: Final[Mapping[str, Family]] = {
    "dots1": _plain(_DEEPSEEK),
    **dict.fromkeys(("granitemoe", "granitemoehybrid"), _plain({
        **_MAMBA, **_feed("shared_mlp.", _FUSED), **_experts("block_sparse_moe.experts.0."),
        **_feed("shared_mlp.", _FUSED, "shared.")})),
    "lfm2": _plain({**_LFM2, **_feed("feed_forward.", "w1 w3 w2")}),
    "lfm2_moe": _plain({**_LFM2, **_experts("feed_forward.experts.0.", "w1 w3 w2"), **_feed("feed_forward.")}),
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
    """Names of a type's matrices, or of the type of its ``text``, whose layers stand beside a tower."""
    found = FAMILIES.get(model_type) or MLX.get(model_type)
    if found is None:
        inner = FAMILIES.get(_TEXTS.get(text or model_type, text or "")) or MLX.get(text or "")
        return inner and inner._replace(layers=BESIDE_TOWERS[0], also=BESIDE_TOWERS[1:])
    return found


def places(model: Model) -> Callable[[str], tuple[int | None, str]]:
    """A function of a tensor's name: its layer, and the path of its operation within it, empty for one unknown."""
    family = family_of(model.modeling or "", None)
    own = (family.layers, *family.also) if family else ()
    ours: dict[str, str] = {}
    for path, theirs in family.names.items() if family else ():
        for name in theirs.split("+"):
            ours.setdefault(name, path)
    longest = sorted(ours, key=len, reverse=True)
    inside = re.compile(rf"(?:{'|'.join(map(re.escape, (*own, *(each.partition('.')[2] or each for each in own))))})"
                        r"\.(\d+)\.(.+)")

    def place(name: str) -> tuple[int | None, str]:
        found = inside.fullmatch(name) if own else None
        if found is None:
            parts = name.split(".")
            return None, next((path for each, path in _OUTSIDE.items() if each in parts[-2:]), "")
        rest = re.sub(r"\.experts\.\d+\.", ".experts.0.", found[2])
        return int(found[1]), next(
            (ours[each] for each in longest if rest == each or rest.startswith((f"{each}.", f"{each}_"))), "")

    return place


_OUTSIDE: Final = {**dict.fromkeys(("embed_tokens", "wte", "word_embeddings", "embed_in"), "token_embedding"),
                   **dict.fromkeys(("lm_head", "embed_out"), "head")}


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
    "lightning": ("qkv", "gate", "out_proj"), "rg-lru": ("gate", "in_proj", "out_proj"),
    "mlstm": ("q", "k", "v", "gate", "rates", "out_proj"), "wkv": ("key", "value", "receptance", "output"),
    "kimi-delta": ("in_proj", "strength", "decay_down", "decay_up", "gate_down", "gate_up", "out_proj"),
}


def _paths(block: Sublayers) -> Iterator[tuple[str, int]]:
    yield from ((f"attention.{name}", 1) for name in _of_attention(block.attention))
    if block.recurrent is not None:
        yield from ((f"recurrent.{name}", 1) for name in _RECURRENT[block.recurrent.kind])
    yield from ((f"feed_forward.{name}", copies) for name, copies in _of_feed_forward(block.feed_forward))


def _of_attention(spec: Any) -> tuple[str, ...]:
    if isinstance(spec, MLA):
        indexer = () if spec.indexer is None else ("indexer.q", "indexer.k", "indexer.weights")
        return (*(("q",) if spec.q_rank is None else ("q_down", "q_up")), *indexer, "kv_down", "kv_up", "o")
    if isinstance(spec, Attention):
        own = () if spec.kv_shared else ("k",) if spec.value_from == "key" else ("k", "v")
        return ("q", *(("gate",) if spec.output_gate else ()), *own, "o")
    if spec is not None:
        raise KeyError(spec.kind)  # whose modules in a checkpoint are not known
    return ()


def _of_feed_forward(spec: Dense | MoE | None) -> Iterator[tuple[str, int]]:
    if spec is None:
        return
    names = ("gate", "up", "down") if spec.gated else ("up", "down")
    if isinstance(spec, Dense):
        yield from ((name, 1) for name in names)
        return
    yield from ((f"experts.{name}", spec.experts) for name in names)
    yield from (() if spec.latent is None else (("latent_down", 1), ("latent_up", 1)))
    if spec.shared_experts:
        yield from ((f"shared.{name}", 1) for name in names)
        if spec.shared_gate:
            yield "shared_gate", 1
