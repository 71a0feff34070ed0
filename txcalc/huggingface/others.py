"""Dense decoders whose makers have a family or two here."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import ACTIVATIONS, Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import NO_ROPE, decoder, qkv, rope, square
from txcalc.huggingface.importer import decoder_classes, lm_classes
from txcalc.huggingface.layerwise import all_but, every, windows
from txcalc.huggingface.meta import llama
from txcalc.huggingface.rows import (
    LAYERNORM,
    PLAIN_LAYERNORM,
    RMS,
    WIDTH,
    Fields,
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

_BIAS: Final = flag("attention_bias")
_UNSCALED: Final[Data] = {**RMS, "scale": False}
_HEADS: Final = size("num_attention_heads")
arcee = partial(decoder, feed_forward=plain(bias=flag("mlp_bias")))


def _hidden_over_heads(c: Config) -> int:
    return c.size("hidden_size") // c.size("num_attention_heads")


# ---------------------------------------------------------------- SmolLM 3


def _window(c: Config) -> int | None:
    window = c.take("sliding_window")
    return window or None if c.flag("use_sliding_window", default=False) else None


def _rotary(c: Config, layers: int) -> list[bool]:
    listed, interval = c.take("no_rope_layers", default=None), c.take("no_rope_layer_interval", default=4)
    rotates = listed or [(i + 1) % interval for i in range(layers)]
    if len(rotates) != layers:
        raise c.error("no_rope_layers", f"must be a list of {layers} entries, one per layer")
    return [bool(r) for r in rotates]


def _slides(c: Config, layers: int) -> list[bool]:
    return [_window(c) is not None and rotary for rotary in _rotary(c, layers)]


def _positions(c: Config, layers: int) -> list[Data]:
    return [{} if rotary else {"attention": NO_ROPE} for rotary in _rotary(c, layers)]


# ---------------------------------------------------------------- ModernBERT as a decoder

_NORM: Final[Fields] = {**LAYERNORM, "bias": flag("norm_bias")}


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
    "ernie4_5": decoder("Ernie4_5", bias=flag("use_bias"), feed_forward=gated(bias=flag("use_bias"))),
    "seed_oss": llama("SeedOss", bias={**qkv(_BIAS), "o": flag("attention_out_bias")}),
    "arcee": arcee("Arcee"),
    "jais2": arcee(lm_classes("Jais2"), norm="layernorm"),
    "helium": llama("Helium", bias=qkv(_BIAS), finish=square),  # its output projection is square
    # The original has two biases apart, the library's class has not.
    "internlm3": llama(decoder_classes("Llama") | decoder_classes("InternLM3"),
                       only={"activation": "swiglu", "mlp_bias": _BIAS}),
    # Its own code has a window and clipped projections, which no published model uses.
    "iquestcoder": llama(
        decoder_classes("Llama") | decoder_classes("IQuestCoder"), ignore="max_window_layers",
        only={"activation": "swiglu", "use_sliding_window": (False, None), "sliding_window": None, "clip_qkv": None}),
    "nanochat": decoder(
        lm_classes("NanoChat"), qk_norm={**_UNSCALED, "over": "head"}, feed_forward=plain(bias=False),
        norm=_UNSCALED, embedding_norm=True, softcap=number("final_logit_softcapping")),
    "hyperclovax": llama(  # Granite, with norms after the sublayers as well unless switched off
        lm_classes("HyperCLOVAX"), ignore="end_token_id",
        norm={**RMS, "placement": given(flag("use_post_norm"), "sandwich", "pre")}),
    "apertus": decoder(  # arXiv 2509.14233
        lm_classes("Apertus") | {"ApertusForTokenClassification": "token"}, qk_norm="head",
        feed_forward={"d_ff": WIDTH, "activation": choice("hidden_act", ACTIVATIONS | {"xielu": "xielu"})},
        only={"qk_norm": True, "post_norm": False, "mlp_bias": False}),
    "stablelm": decoder(
        "StableLm", bias=qkv(flag("use_qkv_bias")), position=rope(part=0.25),
        qk_norm=given(flag("qk_layernorm"), {**PLAIN_LAYERNORM, "over": "heads"}),
        norm={**LAYERNORM, "shared": flag("use_parallel_residual")},
        residual=given(flag("use_parallel_residual"), "parallel", "sequential"),
        only={"head_dim": (None, _hidden_over_heads)}),  # the class does not read it
    "persimmon": decoder(
        lm_classes("Persimmon") | {"PersimmonForSequenceClassification": "sequence",
                                   "PersimmonForTokenClassification": "token"},
        attention={"heads": _HEADS}, bias=True, qk_norm=given(flag("qk_layernorm"), {**LAYERNORM, "over": "head"}),
        feed_forward=plain(), norm="layernorm", position=rope(part=0.5),
        only={"num_key_value_heads": (None, _HEADS)}),  # written in some files, read by no class
    "smollm3": llama("SmolLM3", layers=[windows(_slides, window=_window), _positions],
                     ignore="max_window_layers no_rope_layer_interval"),
    "modernbert-decoder": decoder(  # Ettin, arXiv 2507.11412
        lm_classes("ModernBertDecoder") | {"ModernBertDecoderForSequenceClassification": "sequence"},
        attention={"heads": _HEADS}, feed_forward=gated(act="hidden_activation", bias=flag("mlp_bias")),
        norm=_NORM, embedding_norm=True, head_bias=flag("decoder_bias"), finish=_transform, layers=[windows(
            all_but(every(size("global_attn_every_n_layers", default=3), first=0)), window=_half), _first_norm],
        ignore="position_embedding_type", only={"causal_mask": True, "is_causal": True, "sliding_window": _half}),
}
