"""Decoder-only families that are Llama's shape with one or two things changed.

Read off the forward pass of the transformers class of the same name; every function says what sets its family apart.
"""

from __future__ import annotations

from txcalc.huggingface.build import (
    ACTIVATIONS,
    Data,
    gated,
    grouped_query,
    layer_types,
    layered,
    layernorm,
    plain,
    rms,
    rope,
)
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoders import common, head_dim, llama, plain_llama


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
    _square(c, spec)
    return spec


def _square(c: Config, spec: Data) -> None:
    """Refuse heads that are not together as wide as the model, where the class could not run with them."""
    attention = spec["attention"]
    if attention["heads"] * head_dim(c, attention) != spec["d_model"]:
        raise c.error("head_dim", f"{attention['heads']} heads of {head_dim(c, attention)} are not as wide as "
                      f"hidden_size {spec['d_model']}")


def exaone4(c: Config, kind: str) -> Data:
    """EXAONE 4: OLMo 2's norms, one on each head's queries and keys, and no positions beside sliding layers."""
    spec, layers = exaone_layers(c, kind)
    return layered(spec | {"norm": rms(placement="res-post")}, layers)


def exaone_layers(c: Config, kind: str) -> tuple[Data, list[Data]]:
    """What all of EXAONE's layers have, and what each has of its own."""
    spec = plain_llama(c, kind, qk_norm=rms(over="head"))
    window = c.take("sliding_window")
    pattern, given = c.take("sliding_window_pattern"), c.data.get("layer_types")
    if given is None and (window is None or not isinstance(pattern, int) or pattern < 1):
        raise c.error("layer_types", "must list every layer's kind where sliding_window or its pattern does not")
    default = ["sliding_attention" if given is None and (i + 1) % pattern else "full_attention"
               for i in range(spec["layers"])]
    kinds = layer_types(c, spec["layers"], default)
    whole: Data = {} if window is None else {"attention": {"rope": False}}
    return spec, [{"attention": {"window": window}} if kind == "sliding_attention" and window else whole
                  for kind in kinds]


def internlm3(c: Config, kind: str) -> Data:
    """InternLM 3: Llama with names of its own for the biases, which are all there or none."""
    spec = llama(c, kind)
    c.only("mlp_bias", c.flag("attention_bias"))  # the original has them apart, the library's class has not
    return spec


def iquestcoder(c: Config, kind: str) -> Data:
    """IQuest-Coder: Llama; its own code has a window and clipped projections, which no published model uses."""
    spec = llama(c, kind)
    c.only("use_sliding_window", False, None)
    c.only("sliding_window", None)
    c.only("clip_qkv", None)
    c.ignore("max_window_layers")
    return spec


def jais2(c: Config, kind: str) -> Data:
    """Jais 2: LayerNorms, a squared ReLU without a gate, biases."""
    return arcee(c, kind) | {"norm": layernorm()}


def nanochat(c: Config, kind: str) -> Data:
    """nanochat: no norm has weights, one stands before the first layer, and logits are capped."""
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(scale=False, over="head"))
    spec = common(c, kind, attention=attention, feed_forward=plain(c, c.size("intermediate_size"), bias=False),
                  norm=rms(scale=False), embedding_norm=True, position=rope(c, head_dim(c, attention)))
    cap = c.number("final_logit_softcapping")
    if cap is not None and kind == "lm":
        spec["head"]["softcap"] = float(cap)
    return spec


def hyperclovax(c: Config, kind: str) -> Data:
    """HyperCLOVA X: Granite, with norms after the sublayers as well unless switched off."""
    c.ignore("end_token_id")
    return llama(c, kind) | {"norm": rms(placement="sandwich" if c.flag("use_post_norm") else "pre")}


def granite_swa(c: Config, kind: str) -> Data:
    """Granite with a sink in every layer, three sliding layers to each full one, and layers without positions."""
    spec = llama(c, kind)
    spec["attention"]["sinks"] = True
    layers, window = spec["layers"], c.size("sliding_window")
    kinds = layer_types(c, layers, ["sliding_attention" if i % 4 else "full_attention" for i in range(layers)])
    thetas = c.take("layer_rope_theta", default=None)
    thetas = [1] * layers if thetas is None else thetas
    if not isinstance(thetas, list) or len(thetas) != layers:
        raise c.error("layer_rope_theta", f"must be a list of {layers} numbers, one per layer; 0 for no positions")
    return layered(spec, [
        {"attention": ({"window": window} if k == "sliding_attention" else {}) | ({} if theta else {"rope": False})}
        for k, theta in zip(kinds, thetas, strict=True)
    ])


def modernbert_decoder(c: Config, kind: str) -> Data:
    """ModernBERT as a decoder (Ettin, arXiv 2507.11412): its window looks back only, so it is half as wide."""
    heads, normed = c.size("num_attention_heads"), layernorm(bias=c.flag("norm_bias"))
    attention: Data = {"heads": heads, "bias": c.flag("attention_bias")}
    feed = gated(c, act="hidden_activation", bias=c.flag("mlp_bias"))
    spec = common(c, kind, head_bias=c.flag("decoder_bias"), attention=attention, feed_forward=feed, norm=normed,
                  embedding_norm=True, position=rope(c, head_dim(c, attention)))
    bias, act = c.flag("classifier_bias"), c.choice("classifier_activation", ACTIVATIONS, default="gelu")
    if kind != "none":
        spec["head"]["transform"] = {"activation": act, "bias": bias, "norm": normed}
    if kind == "sequence":
        spec["head"]["bias"] = bias
    layers, every, window = spec["layers"], c.size("global_attn_every_n_layers", default=3), c.size("local_attention")
    c.only("sliding_window", window // 2)
    for name in ("causal_mask", "is_causal"):
        c.only(name, True)
    c.ignore("position_embedding_type")
    kinds = layer_types(c, layers, ["sliding_attention" if i % every else "full_attention" for i in range(layers)])
    overrides: list[Data] = [{"attention": {"window": window // 2}} if k == "sliding_attention" else {} for k in kinds]
    overrides[0]["norm"] = {"on_attention": False}  # the embedding's norm stands right before it
    return layered(spec, overrides)


def apertus(c: Config, kind: str) -> Data:
    """Apertus (arXiv 2509.14233): xIELU without a gate, and a norm on every head's queries and keys."""
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="head"))
    act = c.choice("hidden_act", ACTIVATIONS | {"xielu": "xielu"})
    c.only("qk_norm", True)
    for name in ("post_norm", "mlp_bias"):
        c.only(name, False)
    return common(c, kind, attention=attention, feed_forward={"d_ff": c.size("intermediate_size"), "activation": act},
                  norm=rms(), position=rope(c, head_dim(c, attention)))


def bitnet(c: Config, kind: str) -> Data:
    """BitNet b1.58 (arXiv 2504.12285): norms on what the output and the down projections read, a squared ReLU."""
    spec = plain_llama(c, kind, bias=c.flag("attention_bias"), inner_norm=rms())
    spec["feed_forward"]["inner_norm"] = rms()
    _square(c, spec)
    return spec
