"""Dense decoders whose makers have a family or two here."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import ACTIVATIONS, Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, NO_ROPE, decoder, experts, hidden_over_heads, qkv, rope, square
from txcalc.huggingface.importer import decoder_classes, lm_classes
from txcalc.huggingface.layerwise import all_but, every, rotary, where, windows
from txcalc.huggingface.meta import llama
from txcalc.huggingface.qwen import used_window
from txcalc.huggingface.rows import (
    WIDTH,
    Fields,
    Reader,
    Rows,
    choice,
    flag,
    gated,
    given,
    number,
    plain,
    read,
    size,
)

_UNSCALED: Final[Data] = {"kind": "rmsnorm", "bias": False, "scale": False}
_HEADS: Final = size("num_attention_heads")
arcee = partial(decoder, feed_forward=plain(bias=flag("mlp_bias")))


def _expert_heads(c: Config) -> int:
    return c.size("num_key_value_heads") * c.size("num_experts_per_tok")


def _slides(c: Config, layers: int) -> list[bool]:
    return [used_window(c) is not None and rotates for rotates in rotary(c, layers)]


def _half_of(name: str) -> Reader:
    return lambda c: c.size(name) // 2


# ---------------------------------------------------------------- ModernBERT as a decoder

_NORM: Final[Fields] = {"kind": "layernorm", "bias": flag("norm_bias")}


def _half(c: Config) -> int:
    """A window that looks back only is half as wide."""
    return c.size("local_attention") // 2


def _first_norm(c: Config, layers: int) -> list[Data]:
    """The embedding's norm stands right before the first layer."""
    return [{"norm": {"on_attention": False}}, *({} for _ in range(layers - 1))]


def _transform(c: Config, kind: str, spec: Data) -> Data:
    bias, act = c.flag("classifier_bias"), c.choice("classifier_activation", ACTIVATIONS, default="gelu")
    if kind != "none":
        spec["head"]["transform"] = {"activation": act, "bias": bias, "norm": read(c, _NORM)}
    if kind == "sequence":
        spec["head"]["bias"] = bias
    return spec


ROWS: Final[Rows] = {
    "aria_text": decoder("AriaText", feed_forward=experts(routing="topk-softmax"), only={"hidden_act": "silu"}),
    "emu3_text_model": llama({"Emu3ForCausalLM": "lm", "Emu3TextModel": "none"}),
    "ernie4_5": decoder("Ernie4_5", bias=flag("use_bias"), feed_forward=gated(bias=flag("use_bias"))),
    "seed_oss": llama("SeedOss", bias={**qkv(flag("attention_bias")), "o": flag("attention_out_bias")}),
    "arcee": arcee("Arcee"),
    "jais2": arcee(lm_classes("Jais2"), norm="layernorm"),
    "jetmoe": decoder(  # arXiv 2404.07413: what experts project queries of are as many heads as keys have
        "JetMoe", attention={"heads": _expert_heads, "kv_heads": size("num_key_value_heads"), "bias": {"o": True},
                             "head_dim": size("kv_channels"), "query_experts": size("num_local_experts")}, bias=None,
        feed_forward=experts(act="activation_function", routing="topk-softmax", output_bias=True),
        only={"num_attention_heads": (None, _expert_heads)}),
    "diffllama": decoder(  # arXiv 2410.05258
        "DiffLlama", attention={**GROUPED, "differential": True}, ignore="lambda_std_dev"),
    # Doge: a query sees the keys whose values score highest. Its experts by product keys are refused.
    "doge": decoder(
        lm_classes("Doge") | {"DogeForSequenceClassification": "sequence"}, qk_norm="head", residual_scale=True,
        attention={**GROUPED, "kept_keys": size("keep_window_size")}, only={"is_moe": False, "sliding_window": None},
        ignore="num_experts num_experts_per_tok norm_topk_prob"),
    "helium": llama("Helium", bias=qkv(flag("attention_bias")), finish=square),  # its output projection is square
    # The original has two biases apart, the library's class has not.
    "internlm3": llama(decoder_classes("Llama") | decoder_classes("InternLM3"),
                       only={"activation": "swiglu", "mlp_bias": flag("attention_bias")}),
    # Its own code has a window and clipped projections, which no published model uses.
    "iquestcoder": llama(
        decoder_classes("Llama") | decoder_classes("IQuestCoder"), ignore="max_window_layers",
        only={"activation": "swiglu", "use_sliding_window": (False, None), "sliding_window": None, "clip_qkv": None}),
    "nanochat": decoder(
        lm_classes("NanoChat"), qk_norm={**_UNSCALED, "over": "head"}, feed_forward=plain(bias=False),
        norm=_UNSCALED, embedding_norm=True, softcap=number("final_logit_softcapping")),
    "hyperclovax": llama(  # Granite, with norms after the sublayers as well unless switched off
        lm_classes("HyperCLOVAX"), ignore="end_token_id",
        norm={"kind": "rmsnorm", "bias": False, "placement": given(flag("use_post_norm"), "sandwich", "pre")}),
    "apertus": decoder(  # arXiv 2509.14233
        lm_classes("Apertus") | {"ApertusForTokenClassification": "token"}, qk_norm="head",
        feed_forward={"d_ff": WIDTH, "activation": choice("hidden_act", ACTIVATIONS | {"xielu": "xielu"})},
        only={"qk_norm": True, "post_norm": False, "mlp_bias": False}),
    "stablelm": decoder(
        "StableLm", bias=qkv(flag("use_qkv_bias")), position=rope(part=0.25),
        qk_norm=given(flag("qk_layernorm"), {"kind": "layernorm", "bias": False, "over": "heads"}),
        norm={"kind": "layernorm", "bias": True, "shared": flag("use_parallel_residual")},
        residual=given(flag("use_parallel_residual"), "parallel", "sequential"),
        only={"head_dim": (None, hidden_over_heads)}),  # the class does not read it
    "persimmon": decoder(
        lm_classes("Persimmon") | {"PersimmonForSequenceClassification": "sequence",
                                   "PersimmonForTokenClassification": "token"},
        attention={"heads": _HEADS}, bias=True, feed_forward=plain(), norm="layernorm", position=rope(part=0.5),
        qk_norm=given(flag("qk_layernorm"), {"kind": "layernorm", "bias": True, "over": "head"}),
        only={"num_key_value_heads": (None, _HEADS)}),  # written in some files, read by no class
    # Moshi's backbone: one token more than there are logits for; what is read of both halves of a projection is gated.
    "moshi": decoder(
        {"MoshiForCausalLM": "lm", "MoshiModel": "none"}, window=size("sliding_window"), extra_tokens=1,
        feed_forward=gated(d_ff=_half_of("ffn_dim")), only={"tie_word_embeddings": False},
        ignore="audio_vocab_size num_codebooks audio_encoder_config depth_decoder_config"),
    "smollm3": llama("SmolLM3", layers=[
        windows(_slides, window=used_window), where(all_but(rotary), {"attention": NO_ROPE})],
                     ignore="max_window_layers no_rope_layer_interval"),
    "modernbert-decoder": decoder(  # Ettin, arXiv 2507.11412
        lm_classes("ModernBertDecoder") | {"ModernBertDecoderForSequenceClassification": "sequence"},
        attention={"heads": _HEADS}, feed_forward=gated(act="hidden_activation", bias=flag("mlp_bias")),
        norm=_NORM, embedding_norm=True, head_bias=flag("decoder_bias"), finish=_transform, layers=[windows(
            all_but(every(size("global_attn_every_n_layers", default=3), first=0)), window=_half), _first_norm],
        ignore="position_embedding_type", only={"causal_mask": True, "is_causal": True, "sliding_window": _half}),
}
