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
    """What one file says. ``tensors``: shapes by name, in PyTorch's order."""

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
        """Whether a layer has a tensor of this name, such as ``attn_q.bias``."""
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
    **_GROUPED, **_ROUTED, "q_lora_rank": _of("attention.q_lora_rank"), "kv_lora_rank": _of("attention.kv_lora_rank"),
    "qk_rope_head_dim": _of("rope.dimension_count"), "qk_nope_head_dim": _beside_rotated,
    "v_head_dim": _of("attention.value_length_mla", "attention.value_length"),
}
_LLAMA: Final[Fields] = {**_HEADS, **_BIASED, "mlp_bias": _there("ffn_up.bias")}

_NONE: Final = ("q_lora_rank", "sliding_window")
"""Fields that are null where their keys are missing; of others the class has its own default, as llama.cpp has."""

ARCHITECTURES: Final[Mapping[str, Row]] = {
    "llama": Row("llama", "LlamaForCausalLM", _LLAMA),
    "qwen2": Row("qwen2", "Qwen2ForCausalLM", _GROUPED),
    "qwen2moe": Row("qwen2_moe", "Qwen2MoeForCausalLM", {
        **_GROUPED, **_EVERY, "shared_expert_intermediate_size": _of("expert_shared_feed_forward_length")}),
    "qwen3": Row("qwen3", "Qwen3ForCausalLM", {**_HEADS, **_BIASED}),
    "qwen3moe": Row("qwen3_moe", "Qwen3MoeForCausalLM", {
        **_HEADS, **_BIASED, **_EVERY, "norm_topk_prob": lambda _: True}),
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
    "olmoe": Row("olmoe", "OlmoeForCausalLM", {**_GROUPED, **_EXPERTS, "intermediate_size": _of(
        "expert_feed_forward_length", "feed_forward_length")}),
    "granite": Row("granite", "GraniteForCausalLM", {**_GROUPED, **_BIASED}),
    "command-r": Row("cohere", "CohereForCausalLM", {**_GROUPED, "use_qk_norm": _there("attn_q_norm.weight")}),
    "cohere2": Row("cohere2", "Cohere2ForCausalLM", {**_HEADS, **_WINDOW}),
    "smollm3": Row("smollm3", "SmolLM3ForCausalLM", {**_GROUPED, "no_rope_layer_interval": lambda _: 4}),
    "seed_oss": Row("seed_oss", "SeedOssForCausalLM", {**_HEADS, **_BIASED}),
    "glm4": Row("glm4", "Glm4ForCausalLM", {**_HEADS, **_BIASED}),
    "glm4moe": Row("glm4_moe", "Glm4MoeForCausalLM", {
        **_HEADS, **_BIASED, **_ROUTED, "use_qk_norm": _there("attn_q_norm.weight")}),
    "deepseek2": Row("deepseek_v2", "DeepseekV2ForCausalLM", _LATENT),
    "gpt-oss": Row("gpt_oss", "GptOssForCausalLM", {
        **_HEADS, **_WINDOW, **_LOCAL, "intermediate_size": _of("expert_feed_forward_length")}),
}
"""By ``general.architecture``."""

_MIXTRAL: Final = Row("mixtral", "MixtralForCausalLM", {**_HEADS, **_LOCAL})
_DEEPSEEK_V3: Final = Row("deepseek_v3", "DeepseekV3ForCausalLM", {
    **_LATENT, "n_group": lambda m: _of("expert_group_count")(m) or 1,  # older files leave groups out
    "topk_group": lambda m: _of("expert_group_used_count")(m) or 1})


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
    unread = m.unread()
    return config, [f"{source}: passed over {', '.join(unread)}"] if unread else []


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
    "ffn_gate_inp": "feed_forward.router", "ffn_gate_inp_shexp": "feed_forward.shared_gate",
    **{f"ffn_{name}{ending}": f"feed_forward.{scope}{name}"
       for name in ("gate", "up", "down") for ending, scope in _FEEDS.items()},
}
"""What operations of ours are called whose weights a tensor holds, the first of several that are stored as one."""


def place(name: str) -> tuple[int | None, str]:
    """The layer of a tensor and the path of its operation within it; an empty path for one that is not known."""
    found = _LAYER.match(name)
    if found is None:
        return None, _PATHS.get(name.partition(".")[0], "")
    own = f"{found[2]}_exps" if re.search(r"\.\d+\.weight$", name) else found[2]  # the older one for each expert
    return int(found[1]), _PATHS.get(own, "")
