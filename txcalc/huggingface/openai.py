"""OpenAI's decoders and those of GPT's line that others made: learned positions, biases almost everywhere."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import CONTEXT, GROUPED, decoder, experts
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.layerwise import WINDOW, all_but, every, windows
from txcalc.huggingface.rows import LEARNED, Fields, Rows, flag, given, passed_over, plain, size

HEADS: Final[Fields] = {"heads": size("n_head", "num_attention_heads")}
TWO_MORE: Final[Fields] = {"kind": "learned", "size": lambda c: CONTEXT(c) + 2}
"""Two more rows of positions than the context."""
_CLASSES: Final = {"GPT2LMHeadModel": "lm", "GPT2Model": "none", "GPT2ForSequenceClassification": "sequence",
                   "GPT2ForTokenClassification": "token", "GPT2ForQuestionAnswering": "span"}


def four_times(c: Config) -> int:
    """The width of GPT-2's feed-forward where the file does not say it."""
    return 4 * c.size("n_embd", "hidden_size")


def inner(c: Config) -> int:
    """The width of a feed-forward."""
    return c.size_or(four_times(c), "n_inner")


gpt2 = partial(decoder, attention=HEADS, bias=True, feed_forward=plain(d_ff=inner, act="activation_function"),
               norm="layernorm", position=LEARNED,
               ignore="n_ctx scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn")


def _mpt_heads(c: Config) -> Fields:
    attn = c.section("attn_config", "")
    passed_over(attn, "alibi_bias_max attn_impl attn_pdrop attn_uses_sequence_id clip_qkv softmax_scale",
                {"alibi": True, "attn_type": "multihead_attention", "qk_ln": False, "prefix_lm": False})
    attn.finish()
    return {"heads": size("n_heads", "num_attention_heads")}


def _bloom_width(c: Config) -> int:
    return c.size_or(c.size("hidden_size"), "n_embed")


ROWS: Final[Rows] = {
    "gpt2": gpt2(_CLASSES),
    "gpt-sw3": gpt2(_CLASSES),
    "imagegpt": gpt2(  # OpenAI's Image GPT: colours as tokens, and their mean classified
        {"ImageGPTModel": "none", "ImageGPTForImageClassification": "sequence"}, norm="rms",
        finish=lambda _, kind, spec: {**spec, "head": {**spec["head"], "of": "mean"}} if kind == "sequence" else spec),
    "openai-gpt": decoder(  # norms after the residual sum, none at the end
        {"OpenAIGPTLMHeadModel": "lm", "OpenAIGPTModel": "none"}, attention=HEADS, bias=True,
        feed_forward={"d_ff": four_times, "activation": lambda c: c.choice("afn", {"gelu": "gelu_tanh"}), "bias": True},
        norm={"kind": "layernorm", "bias": True, "placement": "post"}, final_norm=False, position=LEARNED,
        ignore="n_ctx predict_special_tokens n_special"),
    "gpt_oss": decoder(  # biases on everything, sinks, and a window in every second layer
        "GptOss", attention={**GROUPED, "sinks": True},
        feed_forward=experts(bias=True, router_bias=True, routing="topk-softmax"),
        layers=[windows(all_but(every(2)), window=size("sliding_window"))],
        ignore="swiglu_limit swiglu_alpha experts_per_token initial_context_length"),
    "gpt_bigcode": gpt2(  # SantaCoder, StarCoder: one key-value head
        "GPTBigCode", attention={**HEADS, "kv_heads": given(flag("multi_query"), 1)}, ignore=(
            "n_ctx scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn num_key_value_heads "
            "attention_softmax_in_fp32 scale_attention_softmax_in_fp32 validate_runner_input pre_allocate_kv_cache "
            "max_sequence_length max_batch_size pad_key_length inference_runner runner_max_sequence_length")),
    "starcoder2": decoder(
        "Starcoder2", bias=flag("use_bias"), window=WINDOW,
        feed_forward=plain(bias=flag("use_bias")), norm="layernorm",
        ignore="norm_type mlp_type activation_function scale_attn_weights attention_softmax_in_fp32 "
               "scale_attention_softmax_in_fp32"),
    "bloom": decoder(
        "Bloom", attention={"heads": size("num_attention_heads", "n_head")}, bias=True, d_model=_bloom_width,
        feed_forward={"d_ff": lambda c: 4 * _bloom_width(c), "activation": "gelu_tanh", "bias": True}, norm="layernorm",
        embedding_norm=True, position={"kind": "alibi"}, ignore="apply_residual_connection_post_layernorm n_inner"),
    "mpt": decoder(
        "Mpt", attention=_mpt_heads, feed_forward={"d_ff": lambda c: 4 * c.size("d_model", "hidden_size"),
                                                   "activation": "gelu"},
        norm={"kind": "layernorm", "bias": False}, position={"kind": "alibi"},
        ignore="expansion_ratio learned_pos_emb no_bias embedding_fraction init_device norm_type verbose init_config "
               "init_nonlinearity"),
    "ctrl": decoder(  # arXiv 1909.05858
        {"CTRLLMHeadModel": "lm", "CTRLModel": "none", "CTRLForSequenceClassification": "sequence"}, attention=HEADS,
        bias=True, feed_forward={"d_ff": size("dff"), "activation": "relu", "bias": True}, norm="layernorm",
        embedding_scale=True, position={"kind": "sinusoidal"}, head_bias=True, ignore="n_ctx from_tf"),
    "biogpt": decoder(
        lm_classes("BioGpt") | {"BioGptForSequenceClassification": "sequence", "BioGptForTokenClassification": "token"},
        attention={"heads": size("num_attention_heads")}, bias=True, feed_forward=plain(), norm="layernorm",
        embedding_scale=flag("scale_embedding", default=True), position=TWO_MORE),
}
