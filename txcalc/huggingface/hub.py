"""Decoders whose classes are their repositories' own code on the hub, and not the library's.

Each was read off that code, which is never run; the figures in the tests are what it gave. Such code changes without
a version, so no size has a default here, and a field is passed over only where it is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from txcalc.huggingface.build import Data, as_wide
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import FULL_NORM, decoder, hidden_over_heads, qkv
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.multimodal import inverse, seeing, whole_squares
from txcalc.huggingface.openai import inner
from txcalc.huggingface.rows import (
    LAYERNORM,
    RMS,
    Family,
    Fields,
    Rows,
    choice,
    flag,
    gated,
    given,
    optional,
    passed_over,
    plain,
    size,
)
from txcalc.huggingface.vision import images, patches

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


def _falcons_norms(c: Config) -> Data:
    """A norm for each branch, and heads of 64, whatever the model's width is."""
    as_wide(c, c.size("n_head"), 64, c.size("hidden_size"))
    return LAYERNORM


def _rotated_part(c: Config, width: int) -> Data:
    return {**_rope()(c, width), "dim": int(width * float(c.number("rope_pct") or 0))}


# ---------------------------------------------------------------- Phi, before the library had it

_phi = partial(
    decoder, vocab=lambda c: -(-c.size("vocab_size") // 64) * 64, head_bias=True, bias=True, residual="parallel",
    attention={"heads": size("n_head"), "kv_heads": lambda c: c.size_or(c.size("n_head"), "n_head_kv")},
    feed_forward=plain(d_ff=inner, act="activation_function"), norm={**LAYERNORM, "shared": True},
    position=lambda c, width: {"kind": "rope", "theta": 10_000.0, "dim": min(c.size("rotary_dim"), width)},
    only={"pad_vocab_size_multiple": 64}, ignore="flash_attn flash_rotary fused_dense architecture")

# ---------------------------------------------------------------- Nemotron, whose layers a search has made


def _searched_layers(c: Config, layers: int) -> list[Data]:
    """Layers that differ in their groups of keys, in how wide they are and in what they leave out."""
    blocks, d, heads = c.take("block_configs"), c.size("hidden_size"), c.size("num_attention_heads")
    if not isinstance(blocks, list) or len(blocks) != layers:
        raise c.error("block_configs", f"must be a list of {layers} entries, one per layer")
    found = []
    for i, block in enumerate(blocks):
        whole = c.part(f"block_configs[{i}]", block if isinstance(block, Mapping) else {}, "")
        attention, ffn = whole.section("attention", ""), whole.section("ffn", "")
        for part in (attention, ffn):
            passed_over(part, "use_prefill_window_in_sink_attention", {
                "replace_with_linear": False, "sparsify": None, "unshifted_sink": False, "num_sink_tokens": None,
                "window_length": None, "prefill_sliding_window": None})
        own: Data = {"attention": None, "feed_forward": None}
        if not attention.flag("no_op"):
            own["attention"] = {"kv_heads": heads // min(attention.size("n_heads_in_group"), heads)}
        if not ffn.flag("no_op"):
            own["feed_forward"] = {"d_ff": -(-int(2 * (ffn.number("ffn_mult") or 0) * d / 3) // 256) * 256}
        attention.ignore("n_heads_in_group")
        ffn.ignore("ffn_mult")
        for part in (attention, ffn, whole):
            part.finish()
        found.append(own)
    return found


# ---------------------------------------------------------------- InternVL

_INTERN_VIT: Final = images(
    {}, input=patches(class_tokens=1), layer_scale=True, final_norm=False, ignore="initializer_factor use_flash_attn",
    norm=choice("norm_type", {"layer_norm": LAYERNORM, "rms_norm": RMS}),
    attention={"heads": size("num_attention_heads"), "bias": {**dict.fromkeys("qkv", flag("qkv_bias")), "o": True},
               "qk_norm": given(flag("qk_normalization"), FULL_NORM)})


def _internvl_texts(c: Config) -> None:
    """The text's configuration, which the newer class calls ``text_config``; versions of the code tie heads or not."""
    c.rename(llm_config="text_config")
    c.data.setdefault("tie_word_embeddings", False)
    c.only("tie_word_embeddings", False)


def _internvl_squares(c: Config, text: Data, tower: Data) -> Data:
    """Squares of patches, normed, through two layers."""
    c.only("force_image_size", None, tower["input"]["image"])
    merge = inverse(c, "downsample_ratio", c.number("downsample_ratio"))
    whole_squares(c, "downsample_ratio", tower, merge)
    layer = {"width": text["d_model"], "activation": "gelu", "bias": True}
    return {"merge": merge, "norm": LAYERNORM, "hidden": [layer], "bias": True}


_INTERNVL: Final = seeing(
    "", "", "intern_vit_6b", _internvl_squares, only_tower=True, family=_INTERN_VIT, before=_internvl_texts,
    only={"select_layer": -1, "use_backbone_lora": 0, "use_llm_lora": 0},
    ignore="pad2square template dynamic_image_size use_thumbnail ps_version min_dynamic_patch max_dynamic_patch "
           "system_message hidden_size image_fold")

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
    "internvl_chat": Family(_INTERNVL.build, {"InternVLChatModel": "lm"}),
    "mixformer-sequential": _phi({"MixFormerSequentialForCausalLM": "lm"}),
    "nemotron-nas": decoder(
        lm_classes("DeciLM"), attention=_ALIKE, bias=flag("attention_bias"), position=_rope(),
        feed_forward={**_SILU, "d_ff": size("hidden_size"), "bias": flag("mlp_bias")}, layers=[_searched_layers],
        only={"hidden_act": "silu", "intermediate_size": None, "num_key_value_heads": None}),
    "phi-msft": _phi(lm_classes("Phi")),
    "PanguEmbedded": _llama(
        lm_classes("PanguEmbedded"), bias=flag("bias"), position=_rope(),
        attention={"heads": size("num_attention_heads"), "kv_heads": size("num_key_value_heads"),
                   "head_dim": optional("head_dim")}),
    "qwen": decoder(
        {"QWenLMHeadModel": "lm", "QWenModel": "none"}, attention=_ALIKE,
        bias=qkv(True), position=_rope("rotary_emb_base"), context=size("max_position_embeddings"),
        feed_forward={**_SILU, "d_ff": lambda c: c.size("intermediate_size") // 2},
        only={"rotary_pct": 1.0, "no_bias": True, "kv_channels": hidden_over_heads},
        ignore="seq_length padded_vocab_size scale_attn_weights onnx_safe use_dynamic_ntk use_logn_attn rope_theta "
               "use_cache_quantization use_cache_kernel use_flash_attn softmax_in_fp32 bf16 fp16 fp32 params_dtype "
               "attn_dropout_prob emb_dropout_prob num_key_value_heads tokenizer_type"),
    "RefinedWeb": decoder(
        {"RWForCausalLM": "lm", "RWModel": "none"}, tied=flag("tie_word_embeddings", default=True),
        attention={"heads": size("n_head"), "kv_heads": size("n_head_kv")}, bias=flag("bias"), norm=_falcons_norms,
        feed_forward={"d_ff": lambda c: 4 * c.size("hidden_size"), "activation": "gelu", "bias": flag("bias")},
        residual="parallel", position={"kind": "rope", "theta": 10_000.0}, context=2048,
        only={"alibi": False, "parallel_attn": True}, ignore="apply_residual_connection_post_layernorm"),
    "stablelm_epoch": _llama(
        lm_classes("StableLMEpoch"), norm="layernorm", bias=qkv(flag("use_qkv_bias")), position=_rotated_part,
        feed_forward={**_SILU, "d_ff": size("intermediate_size"), "bias": False},
        attention={"heads": size("num_attention_heads"), "kv_heads": size("num_key_value_heads")},
        only={"hidden_act": "silu"}, ignore="norm_eps"),
}
