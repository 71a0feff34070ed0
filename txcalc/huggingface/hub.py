"""Decoders whose classes are their repositories' own code on the hub, and not the library's.

Each was read off that code, which is never run; the figures in the tests are what it gave. Such code changes without
a version, so no size has a default here, and a field is passed over only where it is listed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import decoder, hidden_over_heads, qkv
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.rows import LAYERNORM, RMS, Family, Fields, Rows, flag, gated, plain, size

_SILU: Final[Fields] = {"activation": "silu", "gated": True}
_ALIKE: Final[Fields] = {"heads": size("num_attention_heads")}
_BIAS: Final = flag("bias", default=True)
_llama = partial(decoder, feed_forward=gated(bias=False))


def _rope(base: str = "rope_theta") -> Callable[[Config, int], Data]:
    """Rotary positions whose base is this field, or 10,000."""
    return lambda c, _: {"kind": "rope", "theta": float(c.number(base, default=None) or 10_000)}


def _baichuan_position(c: Config, width: int) -> Data:
    """ALiBi in the 13B's configuration class, which has no ``max_position_embeddings``; rotary in the 7B's."""
    return _rope()(c, width) if "max_position_embeddings" in c.data else {"kind": "alibi"}


_CHATGLM: Final = {"ChatGLMForConditionalGeneration": "lm", "ChatGLMModel": "lm"}
"""The bare model carries the head."""
_BIASED: Final = flag("add_bias_linear", default=False)
_IGNORED: Final = "layernorm_epsilon prefix_projection quantization_bit quantization_embeddings"


def _groups(c: Config) -> int:
    groups = c.size("multi_query_group_num", default=1)
    return groups if c.flag("multi_query_attention", default=False) else c.size("num_attention_heads")


def _half_rotates(c: Config, width: int) -> Data:
    """Half of each head, on a base that grows by a ratio."""
    return {"kind": "rope", "dim": width // 2, "theta": 10_000.0 * float(c.number("rope_ratio", default=1) or 1)}


_CHATGLM_2: Final = decoder(
    _CHATGLM, tied=False, context=size("seq_length"),
    attention={**_ALIKE, "kv_heads": _groups, "head_dim": size("kv_channels")}, position=_half_rotates,
    bias=lambda c: {**qkv(c.flag("add_qkv_bias", default=False) or _BIASED(c)), "o": _BIASED(c)},
    feed_forward={**_SILU, "d_ff": size("ffn_hidden_size"), "bias": _BIASED},
    norm=lambda c: RMS if c.flag("rmsnorm", default=True) else LAYERNORM,
    final_norm=flag("post_layer_norm", default=True),
    only={"pre_seq_len": None, "interleaved_qkv": False, "rotary_percent": 0.5},
    ignore=f"{_IGNORED} apply_query_key_layer_scaling apply_residual_connection_post_layernorm "
           "original_rope attention_softmax_in_fp32 bias_dropout_fusion fp32_residual_connection "
           "classifier_dropout num_hidden_layers")
_CHATGLM_1: Final = decoder(
    _CHATGLM, tied=False, context=size("max_sequence_length"), attention=_ALIKE, bias=True, norm="layernorm",
    feed_forward={**plain(d_ff=size("inner_hidden_size")), "activation": "gelu_tanh"},
    position={"kind": "rope", "theta": 10_000.0},
    only={"position_encoding_2d": True, "pre_seq_len": None}, ignore=_IGNORED)


def _chatglm(c: Config, kind: str) -> Data:
    """ChatGLM 2 and later, or the first, which has biases, LayerNorm and rotary positions in two dimensions."""
    c.rename(padded_vocab_size="vocab_size")
    return (_CHATGLM_1 if "position_encoding_2d" in c.data else _CHATGLM_2).build(c, kind)


ROWS: Final[Rows] = {
    "baichuan": _llama(
        lm_classes("Baichuan"), attention=_ALIKE, bias=False, position=_baichuan_position,
        context=size("model_max_length", "max_position_embeddings"),
        ignore="max_position_embeddings z_loss_weight gradient_checkpointing"),
    "chatglm": Family(_chatglm, _CHATGLM),
    "internlm": _llama(
        lm_classes("InternLM"), attention=_ALIKE, bias=_BIAS, position=_rope(), ignore="num_key_value_heads rotary"),
    "internlm2": _llama(lm_classes("InternLM2"), bias=_BIAS, position=_rope(), ignore="attn_implementation"),
    "minicpm": _llama(
        lm_classes("MiniCPM"), tied=flag("tie_word_embeddings", default=True), position=_rope(),
        bias=flag("attention_bias", default=False), only={"sparse_config": None},
        ignore="scale_emb scale_depth dim_model_base mup_denominator"),
    "qwen": decoder(
        {"QWenLMHeadModel": "lm", "QWenModel": "none"}, attention=_ALIKE,
        bias=qkv(True), position=_rope("rotary_emb_base"), context=size("max_position_embeddings"),
        feed_forward={**_SILU, "d_ff": lambda c: c.size("intermediate_size") // 2},
        only={"rotary_pct": 1.0, "no_bias": True, "kv_channels": hidden_over_heads},
        ignore="seq_length padded_vocab_size scale_attn_weights onnx_safe use_dynamic_ntk use_logn_attn rope_theta "
               "use_cache_quantization use_cache_kernel use_flash_attn softmax_in_fp32 bf16 fp16 fp32 params_dtype "
               "attn_dropout_prob emb_dropout_prob num_key_value_heads tokenizer_type"),
}
