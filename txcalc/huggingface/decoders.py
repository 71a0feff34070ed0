"""Decoder-only families whose layers are dense: norms before, gates and rotary positions, mostly."""

from __future__ import annotations

from typing import Any

from txcalc.huggingface.build import (
    Data,
    gated,
    grouped_query,
    layer_types,
    layered,
    layernorm,
    plain,
    rms,
    rope,
    thetas,
    windowed,
)
from txcalc.huggingface.config import Config
from txcalc.huggingface.importer import decoder_head


def common(c: Config, kind: str, *, head_bias: bool = False, **parts: Any) -> Data:
    """Vocabulary, width, depth, context and head, under the names most decoders use; ``parts`` win."""
    position = parts["position"] if isinstance(parts.get("position"), dict) else {}
    return {
        "vocab": c.size("vocab_size"),
        "d_model": c.size("hidden_size", "n_embd", "d_model"),
        "layers": c.size("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        "context": c.size("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", default=2048),
        "head": decoder_head(c, kind, bias=head_bias),
        **parts,
        **({"position": {**thetas(c), **position}} if position.get("kind") == "rope" else {}),
    }


def head_dim(c: Config, attention: Data) -> int:
    """Width of a head, from the attention or from the model's width."""
    return int(attention.get("head_dim") or c.size("hidden_size", "n_embd") // attention["heads"])


def llama(c: Config, kind: str) -> Data:
    """Llama 1 to 3, Granite: RMSNorm before, RoPE, grouped queries, SwiGLU, biases if asked for."""
    c.only("activation", "swiglu")
    return plain_llama(c, kind, bias=c.flag("attention_bias"), mlp_bias=c.flag("mlp_bias", default=False))


def plain_llama(c: Config, kind: str, *, mlp_bias: bool = False, **parts: Any) -> Data:
    """Llama's shape, without biases but for those asked for; ``parts`` are the attention's."""
    attention = grouped_query(c, **parts)
    return common(c, kind, attention=attention, feed_forward=gated(c, bias=mlp_bias), norm=rms(),
                  position=rope(c, head_dim(c, attention)))


def sliding(c: Config, spec: Data, default: list[str]) -> Data:
    """``spec`` with a window in the layers that slide, as the file lists them or as the class has them."""
    window = c.take("sliding_window", default=None)
    kinds = layer_types(c, spec["layers"], default)
    return windowed(spec, [window if k == "sliding_attention" else None for k in kinds])


def olmo(c: Config, kind: str) -> Data:
    """Llama's shape with norms that have no weights."""
    c.ignore("clip_qkv", "mlp_bias")
    spec = plain_llama(c, kind, bias=c.flag("attention_bias"))
    spec["norm"] = layernorm(scale=False, bias=False)
    return spec


def olmo2(c: Config, kind: str) -> Data:
    """Norms after each sublayer instead of before, and norms over the whole of q and k."""
    c.ignore("mlp_bias")
    spec = plain_llama(c, kind, bias=c.flag("attention_bias"))
    spec["norm"] = rms(placement="res-post")
    spec["attention"]["qk_norm"] = rms(over="full")
    return spec


def olmo3(c: Config, kind: str) -> Data:
    """OLMo 2 with three sliding layers to each full one."""
    spec = olmo2(c, kind)
    default = ["sliding_attention" if (i + 1) % 4 else "full_attention" for i in range(spec["layers"])]
    return sliding(c, spec, default)


def cohere(c: Config, kind: str) -> Data:
    """Parallel block behind one norm without bias."""
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    if c.take("use_qk_norm", default=False):
        attention["qk_norm"] = layernorm(bias=False, over="heads")
    return common(c, kind, attention=attention, feed_forward=gated(c), norm=layernorm(bias=False, shared=True),
                  residual="parallel", position=rope(c, head_dim(c, attention)))


def cohere2(c: Config, kind: str) -> Data:
    """Cohere with three sliding layers to each full one, which has no positions."""
    for name in ("use_embedding_sharing", "use_gated_activation", "use_parallel_block", "use_parallel_embedding"):
        c.only(name, True)
    c.only("order_of_interleaved_layers", "local_attn_first")
    c.only("position_embedding_type", "rope_gptj")
    c.only("layer_switch", c.take("sliding_window_pattern", default=4))
    c.ignore("rotary_pct")
    c.only("use_qk_norm", False, None)
    spec = cohere(c, kind)
    pattern = c.take("sliding_window_pattern", default=4)
    default = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(spec["layers"])]
    kinds = layer_types(c, spec["layers"], default)
    window = c.take("sliding_window")
    return layered(spec, [
        {"attention": {"window": window}} if k == "sliding_attention" else {"attention": {"rope": False}} for k in kinds
    ])


def glm(c: Config, kind: str) -> Data:
    """Half-rotary heads, biases on q, k and v."""
    bias = c.flag("attention_bias")
    attention = grouped_query(c, bias={"q": bias, "k": bias, "v": bias})
    return common(c, kind, attention=attention, feed_forward=gated(c), norm=rms(),
                  position=rope(c, head_dim(c, attention), default=0.5))


def glm4(c: Config, kind: str) -> Data:
    """GLM with norms on both sides of a sublayer."""
    spec = glm(c, kind)
    spec["norm"] = rms(placement="sandwich")
    return spec


def phi(c: Config, kind: str) -> Data:
    """Parallel block behind one LayerNorm, biases everywhere, part-rotary heads."""
    attention = grouped_query(c, bias=True)
    if c.flag("qk_layernorm"):
        attention["qk_norm"] = layernorm(over="head")
        c.only("head_dim", None, c.size("hidden_size") // attention["heads"])  # the width of the class's norms
    return common(c, kind, head_bias=True, attention=attention, feed_forward=plain(c, c.size("intermediate_size")),
                  norm=layernorm(shared=True), residual="parallel",
                  position=rope(c, head_dim(c, attention), default=0.5))


def phi3(c: Config, kind: str) -> Data:
    """Llama's shape with a sliding window, and q, k, v in one matrix."""
    c.ignore("attention_bias", "embd_layer", "mlp_bias", "lm_head_bias")
    for name in ("full_attn_mod", "interpolate_factor"):
        c.only(name, 1)
    spec = plain_llama(c, kind)
    return windowed(spec, [c.take("sliding_window")] * spec["layers"])


def stablelm(c: Config, kind: str) -> Data:
    """LayerNorm, quarter-rotary heads; the larger ones parallel with a norm for every head."""
    qkv = c.flag("use_qkv_bias")
    attention = grouped_query(c, bias={"q": qkv, "k": qkv, "v": qkv})
    c.only("head_dim", None, c.size("hidden_size") // attention["heads"])  # the class does not read it
    if c.flag("qk_layernorm"):
        attention["qk_norm"] = layernorm(bias=False, over="heads")
    parallel = c.flag("use_parallel_residual")
    return common(c, kind, attention=attention, feed_forward=gated(c), norm=layernorm(shared=parallel),
                  residual="parallel" if parallel else "sequential",
                  position=rope(c, head_dim(c, attention), default=0.25))


def starcoder2(c: Config, kind: str) -> Data:
    """Biases everywhere, grouped queries, a plain GELU feed-forward, a sliding window."""
    bias = c.flag("use_bias")
    attention = grouped_query(c, bias=bias)
    spec = common(c, kind, attention=attention, feed_forward=plain(c, c.size("intermediate_size"), bias=bias),
                  norm=layernorm(), position=rope(c, head_dim(c, attention)))
    c.ignore("norm_type", "mlp_type", "activation_function", "scale_attn_weights", "attention_softmax_in_fp32",
             "scale_attention_softmax_in_fp32")
    return windowed(spec, [c.take("sliding_window")] * spec["layers"])


def nemotron(c: Config, kind: str) -> Data:
    """Squared ReLU without a gate, LayerNorm, half-rotary heads."""
    attention = grouped_query(c, bias=c.flag("attention_bias"))
    feed = plain(c, c.size("intermediate_size"), bias=c.flag("mlp_bias"))
    return common(c, kind, attention=attention, feed_forward=feed, norm=layernorm(),
                  position=rope(c, head_dim(c, attention), default=0.5))


def smollm3(c: Config, kind: str) -> Data:
    """Llama's shape with no positions in every fourth layer."""
    spec = llama(c, kind)
    c.ignore("max_window_layers", "layer_types", "no_rope_layer_interval")
    window = c.take("sliding_window")
    window = window if c.flag("use_sliding_window", default=False) else None
    no_rope = c.take("no_rope_layers", default=None)
    interval = c.take("no_rope_layer_interval", default=4)
    rotates = no_rope or [int((i + 1) % interval != 0) for i in range(spec["layers"])]
    if len(rotates) != spec["layers"]:
        raise c.error("no_rope_layers", f"must be a list of {spec['layers']} entries, one per layer")
    kinds = layer_types(c, spec["layers"], ["sliding_attention" if window and r else "full_attention" for r in rotates])
    return layered(spec, [
        {"attention": ({"window": window} if window and k == "sliding_attention" else {})
         | ({} if r else {"rope": False})}
        for k, r in zip(kinds, rotates, strict=True)
    ])
