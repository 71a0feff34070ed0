"""GGUF metadata as a configuration of the hub: rows of llama.cpp's architectures, and what their tensors are here.

The keys and the names of tensors are those of llama.cpp's gguf-py/gguf/constants.py (``Keys``, ``TENSOR_NAMES``), its
tensor_mapping.py says which of the hub's tensors they are. What metadata leave out, tensors tell: the vocabulary, a
head of its own, biases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from txcalc.spec.errors import SpecError, nearest, shown

Shapes = Mapping[str, tuple[int, ...]]


class Metadata:
    """Metadata of one file. ``tensors``: shapes by name, in PyTorch's order."""

    def __init__(self, fields: Mapping[str, Any], tensors: Shapes, source: str) -> None:
        self.tensors, self.source, self._fields, self._read = tensors, source, fields, {"general.architecture"}
        self.architecture = self._fields.get("general.architecture")

    def get(self, *keys: str) -> Any:
        """The value of the first of these keys that there is, of the list of a value for every layer the only one."""
        for key in (f"{self.architecture}.{key}" for key in keys):
            self._read.add(key)
            value = self._fields.get(key)
            if isinstance(value, list):
                if len(set(map(str, value))) != 1:
                    raise SpecError("differs from layer to layer, which is not understood", source=self.source,
                                    field=key)
                value = value[0]
            if value is not None:
                return value
        return None

    def each(self, key: str) -> list[Any]:
        """A value for every layer, in the file itself or one for all."""
        self._read.add(key := f"{self.architecture}.{key}")
        value, layers = self._fields.get(key), _COMMON["num_hidden_layers"](self)
        return value[:layers] if isinstance(value, list) else [value] * layers

    def need(self, *keys: str) -> Any:
        """The same. Raises ``SpecError`` where there is none."""
        if (value := self.get(*keys)) is None:
            raise SpecError("required field is missing", source=self.source, field=f"{self.architecture}.{keys[0]}")
        return value

    def whole(self, *keys: str, least: int = 1) -> int:
        """A whole number of at least 1, or of at least ``least``. Raises ``SpecError``."""
        value = self.need(*keys) if least else self.get(*keys) or 0
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SpecError(f"must be a whole number of at least {least}, got {shown(value)}", source=self.source,
                            field=f"{self.architecture}.{keys[0]}")
        return value

    def has(self, name: str) -> bool:
        """Tell whether a layer has a tensor of this name, such as ``attn_q.bias``."""
        return any(each.startswith("blk.") and each.partition(".")[2].partition(".")[2] == name
                   for each in self.tensors)

    def unread(self) -> list[str]:
        """Keys of the architecture that nothing asked for, and that may say something of it."""
        own = f"{self.architecture}."
        return [key for key in self._fields if key.startswith(own) and key not in self._read
                and not key.removeprefix(own).startswith(_PASSED)]


Value = Callable[[Metadata], Any]
Fields = Mapping[str, Value]


class Row(NamedTuple):
    """A family: the type of its configurations, its class, and the fields that others do not have."""

    model_type: str
    named: str
    fields: Fields


def _of(*keys: str) -> Value:
    return lambda m: m.get(*keys)


def _there(name: str) -> Value:
    return lambda m: m.has(name)


def _part(m: Metadata) -> float | None:
    """The rotated part of a head."""
    rotated, heads = m.whole("rope.dimension_count", least=0), m.whole("attention.head_count")
    return rotated * heads / m.whole("embedding_length") if rotated else None


def _beside_rotated(m: Metadata) -> int:
    return m.whole("attention.key_length_mla", "attention.key_length") - m.whole("rope.dimension_count")


def _kinds(key: str, kind: str) -> Value:
    """``layer_types`` of a key that says for every layer if it is of a kind."""
    return lambda m: [kind if on else "full_attention" for on in m.each(key)] if m.each(key)[0] is not None else None


_COMMON: Final[Fields] = {
    "num_hidden_layers": lambda m: m.whole("block_count") - m.whole("nextn_predict_layers", least=0),
    "hidden_size": lambda m: m.whole("embedding_length"),
    "num_attention_heads": lambda m: m.whole("attention.head_count"),
    "max_position_embeddings": lambda m: m.whole("context_length"),
    "intermediate_size": _of("feed_forward_length"),
}
_GROUPED: Final[Fields] = {"num_key_value_heads": _of("attention.head_count_kv"), "rope_theta": _of("rope.freq_base")}
_HEADS: Final[Fields] = {**_GROUPED, "head_dim": _of("attention.key_length")}
_BIASED: Final[Fields] = {"attention_bias": _there("attn_q.bias")}
_WINDOW: Final[Fields] = {"sliding_window": _of("attention.sliding_window")}
_CAPS: Final[Fields] = {"attn_logit_softcapping": _of("attn_logit_softcapping"),
                        "final_logit_softcapping": _of("final_logit_softcapping")}
_EXPERTS: Final[Fields] = {
    "num_experts": _of("expert_count"), "num_experts_per_tok": _of("expert_used_count"),
    "moe_intermediate_size": _of("expert_feed_forward_length"),
}
_EVERY: Final[Fields] = {**_EXPERTS, "decoder_sparse_step": lambda _: 1}
_ROUTED: Final[Fields] = {
    "n_routed_experts": _of("expert_count"), "num_experts_per_tok": _of("expert_used_count"),
    "moe_intermediate_size": _of("expert_feed_forward_length"), "n_shared_experts": _of("expert_shared_count"),
    "first_k_dense_replace": _of("leading_dense_block_count"),
}
_LOCAL: Final[Fields] = {"num_local_experts": _of("expert_count"), "num_experts_per_tok": _of("expert_used_count")}
_LATENT: Final[Fields] = {
    **_GROUPED, "q_lora_rank": _of("attention.q_lora_rank"), "kv_lora_rank": _of("attention.kv_lora_rank"),
    "qk_rope_head_dim": _of("rope.dimension_count"), "qk_nope_head_dim": _beside_rotated,
    "v_head_dim": _of("attention.value_length_mla", "attention.value_length"),
}
_V3: Final[Fields] = {
    **_LATENT, **_ROUTED, "n_group": lambda m: _of("expert_group_count")(m) or 1,  # older files leave groups out
    "topk_group": lambda m: _of("expert_group_used_count")(m) or 1}
_QWEN3_MOE: Final[Fields] = {**_HEADS, **_BIASED, **_EVERY, "norm_topk_prob": lambda _: True}
_ERNIE: Final[Fields] = {**_HEADS, "use_bias": _there("attn_q.bias")}
_EXPERT_WIDTH: Final[Fields] = {"intermediate_size": _of("expert_feed_forward_length", "feed_forward_length")}
_DELTA: Final[Fields] = {
    "linear_conv_kernel_dim": _of("ssm.conv_kernel"), "linear_key_head_dim": _of("ssm.state_size"),
    "linear_num_key_heads": _of("ssm.group_count"), "linear_num_value_heads": _of("ssm.time_step_rank"),
    "linear_value_head_dim": lambda m: m.whole("ssm.inner_size") // m.whole("ssm.time_step_rank"),
    "layer_types": _kinds("attention.recurrent_layers", "linear_attention"),
    "full_attention_interval": _of("full_attention_interval"), "partial_rotary_factor": lambda m: (
        m.whole("rope.dimension_count") / m.whole("attention.key_length"))}
_SHARED_GATED: Final[Fields] = {
    **_EXPERTS, "shared_expert_intermediate_size": _of("expert_shared_feed_forward_length")}


def _full(m: Metadata) -> list[bool]:
    return [not slides for slides in m.each("attention.sliding_window_pattern")]


def _of_kind(key: str, *, full: bool) -> Value:
    """The value of a key in the first layer that has a window, or that has none."""
    return lambda m: next((value for value, kind in zip(m.each(key), _full(m), strict=True) if kind == full), None)


_GEMMA4: Final[Fields] = {
    "rope_theta": _of("rope.freq_base"), "intermediate_size": lambda m: m.each("feed_forward_length")[0],
    "use_double_wide_mlp": lambda m: len(set(m.each("feed_forward_length"))) > 1,
    "layer_types": _kinds("attention.sliding_window_pattern", "sliding_attention"),
    "num_key_value_heads": _of_kind("attention.head_count_kv", full=False),
    "num_global_key_value_heads": _of_kind("attention.head_count_kv", full=True),
    "attention_k_eq_v": lambda m: not all(f"blk.{i}.attn_v.weight" in m.tensors for i in range(len(_full(m)))
                                          if f"blk.{i}.attn_k.weight" in m.tensors),
    "head_dim": _of("attention.key_length_swa"), "global_head_dim": _of("attention.key_length"), **_WINDOW,
    "num_kv_shared_layers": lambda m: m.whole("attention.shared_kv_layers", least=0),
    "hidden_size_per_layer_input": lambda m: m.whole("embedding_length_per_layer_input", least=0),
    "vocab_size_per_layer_input": lambda m: m.tensors.get("per_layer_token_embd.weight", (None,))[0],
    "enable_moe_block": lambda m: m.whole("expert_count", least=0) > 0, "num_experts": _of("expert_count"),
    "top_k_experts": _of("expert_used_count"), "moe_intermediate_size": _of("expert_feed_forward_length"),
    "final_logit_softcapping": _of("final_logit_softcapping"),
}
_LLAMA: Final[Fields] = {**_HEADS, **_BIASED, "mlp_bias": _there("ffn_up.bias")}

_NONE: Final = ("q_lora_rank", "sliding_window")
"""Fields that are null where their keys are missing; of others the class has its own default, as llama.cpp has."""

ARCHITECTURES: Final[Mapping[str, Row]] = {
    "llama": Row("llama", "LlamaForCausalLM", _LLAMA),
    "qwen2": Row("qwen2", "Qwen2ForCausalLM", _GROUPED),
    "qwen2moe": Row("qwen2_moe", "Qwen2MoeForCausalLM", {
        **_GROUPED, **_EVERY, **_SHARED_GATED}),
    "qwen3": Row("qwen3", "Qwen3ForCausalLM", {**_HEADS, **_BIASED}),
    "qwen3moe": Row("qwen3_moe", "Qwen3MoeForCausalLM", _QWEN3_MOE),
    "gemma": Row("gemma", "GemmaForCausalLM", _HEADS),
    "gemma2": Row("gemma2", "Gemma2ForCausalLM", {
        **_HEADS, **_CAPS, "sliding_window": lambda m: m.get("attention.sliding_window") or 4096}),
    "gemma3": Row("gemma3_text", "Gemma3ForCausalLM", {**_HEADS, **_WINDOW}),
    "phi2": Row("phi", "PhiForCausalLM", {**_GROUPED, "partial_rotary_factor": _part}),
    "phi3": Row("phi3", "Phi3ForCausalLM", {**_GROUPED, **_WINDOW, "partial_rotary_factor": _part}),
    "gpt2": Row("gpt2", "GPT2LMHeadModel", {
        "intermediate_size": lambda _: None, "n_inner": _of("feed_forward_length")}),
    "gptneox": Row("gpt_neox", "GPTNeoXForCausalLM", {
        "use_parallel_residual": _of("use_parallel_residual"), "rotary_pct": _part}),
    "starcoder2": Row("starcoder2", "Starcoder2ForCausalLM", {
        **_GROUPED, **_WINDOW, "use_bias": _there("attn_q.bias")}),
    "stablelm": Row("stablelm", "StableLmForCausalLM", {
        **_GROUPED, "partial_rotary_factor": _part, "use_qkv_bias": _there("attn_q.bias"),
        "use_parallel_residual": lambda m: not m.has("ffn_norm.weight"), "qk_layernorm": _there("attn_q_norm.weight")}),
    "olmo2": Row("olmo2", "Olmo2ForCausalLM", _GROUPED),
    "olmoe": Row("olmoe", "OlmoeForCausalLM", {**_GROUPED, **_EXPERTS, **_EXPERT_WIDTH}),
    "granite": Row("granite", "GraniteForCausalLM", {**_GROUPED, **_BIASED}),
    "command-r": Row("cohere", "CohereForCausalLM", {**_GROUPED, "use_qk_norm": _there("attn_q_norm.weight")}),
    "cohere2": Row("cohere2", "Cohere2ForCausalLM", {**_HEADS, **_WINDOW}),
    "smollm3": Row("smollm3", "SmolLM3ForCausalLM", {**_GROUPED, "no_rope_layer_interval": lambda _: 4}),
    "seed_oss": Row("seed_oss", "SeedOssForCausalLM", {**_HEADS, **_BIASED}),
    "glm4": Row("glm4", "Glm4ForCausalLM", {**_HEADS, **_BIASED}),
    "glm4moe": Row("glm4_moe", "Glm4MoeForCausalLM", {
        **_HEADS, **_BIASED, **_ROUTED, "use_qk_norm": _there("attn_q_norm.weight")}),
    "deepseek2": Row("deepseek_v2", "DeepseekV2ForCausalLM", {**_LATENT, **_ROUTED}),
    "gpt-oss": Row("gpt_oss", "GptOssForCausalLM", {
        **_HEADS, **_WINDOW, **_LOCAL, **_EXPERT_WIDTH}),
    **{name: Row(model_type, f"{named}ForCausalLM", fields) for name, model_type, named, fields in (
        ("arcee", "arcee", "Arcee", _LLAMA), ("dots1", "dots1", "Dots1", {**_GROUPED, **_ROUTED}),
        ("ernie4_5", "ernie4_5", "Ernie4_5", _ERNIE), ("exaone4", "exaone4", "Exaone4", {
            **_GROUPED, **_WINDOW, "layer_types": _kinds("attention.sliding_window_pattern", "sliding_attention")}),
        ("granitemoe", "granitemoe", "GraniteMoe", {**_GROUPED, **_LOCAL}),
        ("hunyuan-dense", "hunyuan_v1_dense", "HunYuanDenseV1", {**_HEADS, **_BIASED}),
        ("jais2", "jais2", "Jais2", {**_HEADS, **_BIASED}), ("minicpm3", "minicpm3", "MiniCPM3", _LATENT),
        ("minimax-m2", "minimax_m2", "MiniMaxM2", {**_HEADS, **_LOCAL, **_EXPERT_WIDTH}),
        ("falcon", "falcon", "Falcon", {
            "num_kv_heads": _of("attention.head_count_kv"), "new_decoder_architecture": _there("attn_norm_2.weight"),
            "multi_query": lambda m: m.get("attention.head_count_kv") == 1, "intermediate_size": lambda _: None}),
        ("gemma4", "gemma4_text", "Gemma4", _GEMMA4), ("hunyuan-moe", "hunyuan_v1_moe", "HunYuanMoEV1", {
            **_HEADS, **_BIASED, "num_experts": _of("expert_count"), "moe_topk": _of("expert_used_count"),
            **_EXPERT_WIDTH}),
        ("llama4", "llama4_text", "Llama4", {
            **_HEADS, **_LOCAL, **_EXPERT_WIDTH, "intermediate_size_mlp": _of("feed_forward_length"),
            "interleave_moe_layer_step": _of("interleave_moe_layer_step")}),
        ("mistral3", "ministral3", "Ministral3", _HEADS), ("mistral4", "mistral4", "Mistral4", _V3),
        ("nemotron", "nemotron", "Nemotron", {**_GROUPED, "partial_rotary_factor": _part}),
        ("olmo", "olmo", "Olmo", _GROUPED), ("paddleocr", "ernie4_5", "Ernie4_5", _ERNIE),
        ("phimoe", "phimoe", "Phimoe", {**_GROUPED, **_LOCAL, **_WINDOW, **_BIASED}),
        ("qwen3next", "qwen3_next", "Qwen3Next", {**_HEADS, **_DELTA, **_SHARED_GATED}),
        ("qwen35", "qwen3_5_text", "Qwen3_5", {**_HEADS, **_DELTA}),
        ("qwen35moe", "qwen3_5_moe_text", "Qwen3_5Moe", {**_HEADS, **_DELTA, **_SHARED_GATED}),
        ("starcoder", "gpt_bigcode", "GPTBigCode", {
            "intermediate_size": lambda _: None, "n_inner": _of("feed_forward_length"),
            "multi_query": lambda m: m.get("attention.head_count_kv") == 1}),
        ("qwen2vl", "qwen2", "Qwen2", _GROUPED), ("qwen3vl", "qwen3", "Qwen3", {**_HEADS, **_BIASED}),
        ("qwen3vlmoe", "qwen3_moe", "Qwen3Moe", _QWEN3_MOE),
        )},
}
"""By ``general.architecture``."""

_MIXTRAL: Final = Row("mixtral", "MixtralForCausalLM", {**_HEADS, **_LOCAL})
_DEEPSEEK_V3: Final = Row("deepseek_v3", "DeepseekV3ForCausalLM", _V3)


def _row(m: Metadata) -> Row:
    """The row of an architecture; two of them are several families."""
    known = ARCHITECTURES.get(m.architecture) if isinstance(m.architecture, str) else None
    if known is None and m.architecture is None:
        raise SpecError("required field is missing", source=m.source, field="general.architecture")
    if known is None:
        hint = nearest(str(m.architecture), ARCHITECTURES)
        raise SpecError(f"{shown(m.architecture)} is not known" + (f"; did you mean {hint}?" if hint else "")
                        + f"; txcalc knows {', '.join(ARCHITECTURES)}", source=m.source, field="general.architecture")
    if m.architecture == "llama" and m.get("expert_count"):
        return _MIXTRAL
    return _DEEPSEEK_V3 if m.architecture == "deepseek2" and m.has("exp_probs_b.bias") else known


def configuration(fields: Mapping[str, Any], tensors: Shapes, source: str) -> tuple[dict[str, Any], list[str]]:
    """The configuration of a file's model, and what its reader should know. Raises ``SpecError`` where metadata do not
    suffice."""
    m = Metadata(fields, tensors, source)
    row = _row(m)
    found = {name: value(m) for name, value in {**_COMMON, **row.fields}.items()}
    table = tensors.get("token_embd.weight")
    if table is None or len(table) != 2:
        raise SpecError("has no token_embd.weight, a matrix: not a whole language model", source=source)
    config = {
        "model_type": row.model_type, "architectures": [row.named], "vocab_size": table[0], "dtype": "float16",
        "tie_word_embeddings": "output.weight" not in tensors,
        **{name: value for name, value in found.items() if value is not None or name in _NONE},
    }
    notes = [f"{source}: passed over {', '.join(unread)}"] if (unread := m.unread()) else []
    if row.fields is not _LATENT and "kv_lora_rank" in row.fields and m.get("attention.key_length_mla") is None:
        notes.append(f"{source}: converted before llama.cpp cached latents: it caches keys and values of all heads, "
                     "more than is counted")
    return config, notes


_PASSED: Final = (
    "vocab_size", "attention.layer_norm", "attention.key_length", "attention.value_length", "attention.scale",
    "attention.output_scale", "attention.causal", "rope.", "expert_weights", "expert_gating_func", "expert_group",
    "expert_shared", "expert_used_count", "expert_count", "logit_scale", "embedding_scale", "residual_scale",
    "tensor_data_layout", "use_parallel_residual", "feed_forward_length", "attention.head_count_kv",
)
"""Keys, or how they begin, that change no weight, product or cache where a family does not ask for them."""

_LAYER: Final = re.compile(r"blk\.(\d+)\.([a-z_0-9.]+?)(?:\.\d+)?(?:\.(?:weight|bias))?$")
_FEEDS: Final = {"": "", "_exps": "experts.", "_shexp": "shared."}
_PATHS: Final[Mapping[str, str]] = {
    "token_embd": "token_embedding", "position_embd": "position_embedding", "output_norm": "final_norm",
    "output": "head", "attn_norm": "attention_norm", "ffn_norm": "feed_forward_norm", "attn_q": "attention.q",
    "attn_k": "attention.k", "attn_v": "attention.v", "attn_qkv": "attention.q", "attn_output": "attention.o",
    "attn_q_norm": "attention.q_norm", "attn_k_norm": "attention.k_norm", "attn_sinks": "attention.core.sinks",
    "attn_q_a": "attention.q_down", "attn_q_b": "attention.q_up", "attn_kv_a_mqa": "attention.kv_down",
    "attn_kv_a_norm": "attention.kv_norm", **dict.fromkeys(("attn_kv_b", "attn_k_b", "attn_v_b"), "attention.kv_up"),
    "ssm_in": "recurrent.in_proj", "attn_gate": "recurrent.in_proj", "ssm_out": "recurrent.out_proj",
    "ssm_conv1d": "recurrent.conv", **dict.fromkeys(("ssm_ba", "ssm_alpha", "ssm_beta"), "recurrent.rates"),
    "ssm_dt": "recurrent.dt_bias", "ssm_a": "recurrent.a_log", "ssm_norm": "recurrent.norm",
    "ffn_gate_inp": "feed_forward.router", "ffn_gate_inp_shexp": "feed_forward.shared_gate",
    "per_layer_token_embd": "per_layer_embedding.table", "per_layer_model_proj": "per_layer_embedding.projection",
    "inp_gate": "per_layer_input.gate", "proj": "per_layer_input.up", "ffn_gate_up_exps": "feed_forward.experts.gate",
    **{f"ffn_{name}{ending}": f"feed_forward.{scope}{name}"
       for name in ("gate", "up", "down") for ending, scope in _FEEDS.items()},
}
"""Names of our operations whose weights a tensor holds, the first of several that are stored as one."""


def place(name: str) -> tuple[int | None, str]:
    """The layer of a tensor and the path of its operation within it; an empty path for one that is not known."""
    found = _LAYER.match(name)
    if found is None:
        return None, _PATHS.get(name.partition(".")[0], "")
    own = f"{found[2]}_exps" if re.search(r"\.\d+\.weight$", name) else found[2]  # the older one for each expert
    return int(found[1]), _PATHS.get(own, "")
