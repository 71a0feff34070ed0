"""Decoder-only families that are Llama's shape with one or two things changed.

Read off the forward pass of the transformers class of the same name; every function says what sets its family apart.
"""

from __future__ import annotations

from txcalc.spec.huggingface.build import Data, grouped_query, layer_types, layered, plain, rms, rope
from txcalc.spec.huggingface.config import Config
from txcalc.spec.huggingface.decoders import common, gemma2, head_dim, llama, plain_llama, sliding


def ernie4_5(c: Config, kind: str) -> Data:
    """ERNIE 4.5: one switch for every bias but the head's."""
    bias = c.flag("use_bias")
    return plain_llama(c, kind, bias=bias, mlp_bias=bias)


def seed_oss(c: Config, kind: str) -> Data:
    """Seed-OSS: biases on q, k and v, and a switch of its own for the output's."""
    bias = c.flag("attention_bias")
    spec = llama(c, kind)
    spec["attention"]["bias"] = {"q": bias, "k": bias, "v": bias, "o": c.flag("attention_out_bias")}
    return spec


def hunyuan(c: Config, kind: str) -> Data:
    """Hunyuan: a norm on every head's queries and keys; no biases in the feed-forward."""
    spec = plain_llama(c, kind, bias=c.flag("attention_bias"), qk_norm=rms(over="head"))
    c.only("use_qk_norm", True)
    for name in ("mlp_bias", "use_cla", "add_classification_head"):
        c.only(name, False)
    c.only("norm_type", "rms", "hf_rms")
    c.only("attention_head_dim", head_dim(c, spec["attention"]))
    c.ignore("eod_token_id", "cla_share_factor", "class_num", "dense_list", "org_vocab_size")
    return spec


def arcee(c: Config, kind: str) -> Data:
    """Arcee's AFM: a squared ReLU without a gate."""
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    feed = plain(c, c.size("intermediate_size"), bias=c.flag("mlp_bias"))
    return common(c, kind, attention=attention, feed_forward=feed, norm=rms(), position=rope(c, head_dim(c, attention)))


def helium(c: Config, kind: str) -> Data:
    """Helium: its output projection is square, whatever the heads' width."""
    spec = llama(c, kind)
    attention = spec["attention"]
    bias = attention["bias"]
    attention["bias"] = {"q": bias, "k": bias, "v": bias}
    if attention["heads"] * head_dim(c, attention) != spec["d_model"]:
        raise c.error("head_dim", f"{attention['heads']} heads of {head_dim(c, attention)} are not as wide as "
                      f"hidden_size {spec['d_model']}")
    return spec


def exaone4(c: Config, kind: str) -> Data:
    """EXAONE 4: OLMo 2's norms, one on each head's queries and keys, and no positions beside sliding layers."""
    spec = plain_llama(c, kind, qk_norm=rms(over="head")) | {"norm": rms(placement="res-post")}
    window = c.take("sliding_window")
    pattern, given = c.take("sliding_window_pattern"), c.data.get("layer_types")
    if given is None and (window is None or not isinstance(pattern, int) or pattern < 1):
        raise c.error("layer_types", "must list every layer's kind where sliding_window or its pattern does not")
    default = ["sliding_attention" if given is None and (i + 1) % pattern else "full_attention"
               for i in range(spec["layers"])]
    kinds = layer_types(c, spec["layers"], default)
    whole: Data = {} if window is None else {"attention": {"rope": False}}
    return layered(spec, [
        {"attention": {"window": window}} if kind == "sliding_attention" and window else whole for kind in kinds
    ])


def ministral(c: Config, kind: str) -> Data:
    """Ministral: Mistral, with the kind of every layer listed."""
    spec = plain_llama(c, kind)
    return sliding(c, spec, ["sliding_attention" if c.take("sliding_window") else "full_attention"] * spec["layers"])


def cwm(c: Config, kind: str) -> Data:
    """Code World Model: three sliding layers to each full one."""
    spec = plain_llama(c, kind, mlp_bias=c.flag("mlp_bias"))
    return sliding(c, spec, ["sliding_attention" if i % 4 else "full_attention" for i in range(spec["layers"])])


def vaultgemma(c: Config, kind: str) -> Data:
    """VaultGemma: Gemma 2 without the norms after a sublayer."""
    spec = gemma2(c, kind)
    spec["norm"] = rms()
    return spec
