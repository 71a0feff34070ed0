"""A configuration that notices which of its fields were understood.

An importer takes the fields it knows. Whatever is left over, and is neither known not to matter nor equal to the
class's own default, could change the architecture, and is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from txcalc.spec.errors import SpecError, shown

# Fields that change neither a weight's shape, nor which products are computed, nor what is cached.
IRRELEVANT: Final = frozenset(["_name_or_path", "_commit_hash", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype", "model_type", "is_encoder_decoder", "is_decoder", "use_cache", "return_dict", "return_dict_in_generate", "output_past", "output_attentions", "output_hidden_states", "output_scores", "output_router_logits", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "unk_token_id", "mask_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "prefix", "tokenizer_class", "processor_class", "task_specific_params", "finetuning_task", "problem_type", "custom_pipelines", "id2label", "label2id", "num_labels", "chunk_size_feed_forward", "gradient_checkpointing", "torchscript", "use_bfloat16", "pruned_heads", "initializer_range", "initializer_factor", "init_std", "init_method", "init_cutoff_factor", "embedding_initializer_range", "rescale_prenorm_residual", "mup_enabled", "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "resid_pdrop", "embd_pdrop", "emb_pdrop", "hidden_dropout", "hidden_dropout_prob", "classifier_dropout", "classifier_dropout_prob", "dropout", "dropout_rate", "activation_dropout", "layerdrop", "encoder_layerdrop", "decoder_layerdrop", "hidden_dropout_p", "residual_dropout", "embedding_dropout", "attention_dropout_prob", "mlp_dropout", "embd_dropout", "summary_first_dropout", "drop_path_rate", "resid_dropout", "router_jitter_noise", "input_jitter_noise", "jitter_noise", "pretraining_tp", "slow_but_exact", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "skip_bias_add", "skip_bias_add_qkv", "offset_alibi", "router_aux_loss_coef", "router_z_loss_coef", "aux_loss_alpha", "seq_aux", "moe_loss_weight", "use_flash_attn", "_attn_implementation", "_flash_attn_2_enabled", "attn_implementation", "_experts_implementation", "experts_implementation", "layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps", "norm_epsilon", "layernorm_epsilon", "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "rope_interleaved", "rope_interleave", "global_rope_theta", "local_rope_theta", "rotary_emb_base", "rotary_emb_scale_base", "original_max_position_embeddings", "default_theta", "logit_scale", "logits_scaling", "attention_multiplier", "embedding_multiplier", "residual_multiplier", "scale_embedding", "query_pre_attn_scalar", "attention_scale_factor", "logit_scale_init_value", "scale_embeddings", "mup_width_multiplier", "max_length", "min_length", "do_sample", "num_beams", "temperature", "top_k", "top_p", "early_stopping", "length_penalty", "no_repeat_ngram_size", "num_beam_groups", "diversity_penalty", "repetition_penalty", "typical_p", "encoder_no_repeat_ngram_size", "num_return_sequences", "remove_invalid_values", "exponential_decay_length_penalty", "tf_legacy_loss", "use_mems_eval", "static_position_embeddings", "normalize_before", "normalize_embedding", "add_bias_logits", "add_final_layer_norm", "extra_pos_embeddings", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout", "summary_last_dropout", "sparse_prediction", "sparse_pred_ignore_index", "reference_compile", "repad_logits_with_grad", "deterministic_flash_attn", "classifier_pooling", "classifier_activation", "cross_attention_hidden_size", "add_cross_attention", "encoder_hidden_size", "tie_encoder_decoder", "mask_time_prob", "mask_time_length", "mask_time_min_masks", "mask_feature_prob", "mask_feature_length", "mask_feature_min_masks", "apply_spec_augment", "median_filter_length", "image_token_id", "boi_token_id", "eoi_token_id", "image_token_index", "eoi_token_index", "boi_token_index", "use_cache_quantization", "use_cache_kernel", "use_dynamic_ntk", "use_logn_attn", "fused_attention", "onnx_safe", "quantization_config", "compression_config", "unsloth_version", "unsloth_fixed", "cache_implementation"])

REQUIRED: Final = object()


class Config:
    """One JSON object of a configuration, with the class's defaults behind it."""

    def __init__(self, data: Mapping[str, Any], model_type: str, *, source: str, path: str = "") -> None:
        self.data = data
        self.model_type = model_type
        self.source = source
        self.path = path
        self.defaults = class_defaults().get(model_type, {})
        self._taken: set[str] = set()

    def take(self, *names: str, default: Any = REQUIRED) -> Any:
        """The value of the first of these names in the file, else the class's default, else ``default``.

        Raises ``SpecError`` when there is none.
        """
        self._taken.update(names)
        for name in names:
            if name in self.data:
                return self.data[name]
        for name in names:
            if name in self.defaults:
                return self.defaults[name]
        if default is REQUIRED:
            raise self.error(names[0], "required field is missing")
        return default

    def size(self, *names: str, default: Any = REQUIRED) -> int:
        """A whole number of at least 1."""
        value = self.take(*names, default=default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(names[0], f"must be a whole number of at least 1, got {shown(value)}")
        return value

    def size_or(self, fallback: int, *names: str) -> int:
        """A size, or ``fallback`` where the field is null or missing."""
        return fallback if self.take(*names, default=None) is None else self.size(*names)

    def flag(self, *names: str, default: Any = REQUIRED) -> bool:
        """True or false."""
        value = self.take(*names, default=default)
        if not isinstance(value, bool):
            raise self.error(names[0], f"must be true or false, got {shown(value)}")
        return value

    def number(self, *names: str, default: Any = REQUIRED) -> float | None:
        """A number, or None where the field is null."""
        value = self.take(*names, default=default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.error(names[0], f"must be a number, got {shown(value)}")
        return value

    def choice(self, name: str, known: Mapping[Any, Any], default: Any = REQUIRED) -> Any:
        """What ``known`` says of the field's value. Raises ``SpecError`` naming a value it does not know."""
        value = self.take(name, default=default)
        if isinstance(value, list | dict) or value not in known:
            raise self.error(name, f"{shown(value)} is not known; txcalc knows {', '.join(map(str, known))}")
        return known[value]

    def only(self, name: str, *understood: Any) -> None:
        """Refuse the field unless it has one of the understood values (or is left out with such a default)."""
        value = self.take(name, default=understood[0])
        if value not in understood:
            expected = " or ".join(shown(v) for v in understood)
            raise self.error(name, f"only {expected} is understood, got {shown(value)}")

    def ignore(self, *names: str) -> None:
        """Fields known not to matter for this family."""
        self._taken.update(names)

    def section(self, name: str, model_type: str) -> Config:
        """A nested configuration."""
        data = self.take(name, default=None) or {}
        if not isinstance(data, Mapping):
            raise self.error(name, f"must be a mapping, got {shown(data)}")
        return Config(data, model_type, source=self.source, path=f"{self.path}{name}.")

    def finish(self) -> None:
        """Refuse any field that was neither taken nor known not to matter."""
        for name, value in self.data.items():
            if name in self._taken or name in IRRELEVANT or name.startswith("_"):
                continue
            if name in self.defaults and self.defaults[name] == value:
                continue
            raise self.error(name, f"not understood for model_type {self.model_type}, and it could change the "
                             f"architecture (value {shown(value)})")

    def error(self, field: str, message: str) -> SpecError:
        """A one-line error on a field of this file."""
        return SpecError(message, source=self.source, field=f"{self.path}{field}")


@cache
def class_defaults() -> dict[str, dict[str, Any]]:
    """``{model_type: {field: default}}`` of the configuration classes, for files that leave defaults out."""
    text = resources.files("txcalc.spec.huggingface").joinpath("defaults.json").read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found
