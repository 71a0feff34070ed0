"""Decoder-only families of GPT's line: plain feed-forwards, learned positions or ALiBi, biases almost everywhere."""

from __future__ import annotations

from txcalc.huggingface.build import Data, labels, layered, layernorm, plain, rope, runs, windowed
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoders import common, head_dim


def gpt2(c: Config, kind: str) -> Data:
    """GPT-2: learned positions, LayerNorm before, biases everywhere."""
    c.ignore("n_ctx", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
    d = c.size("n_embd", "hidden_size")
    feed = plain(c, c.size_or(4 * d, "n_inner"), act="activation_function")
    return common(c, kind, attention={"heads": c.size("n_head", "num_attention_heads"), "bias": True},
                  feed_forward=feed, norm=layernorm(), position={"kind": "learned"})


def openai_gpt(c: Config, kind: str) -> Data:
    """GPT: norms after the residual sum, none at the end."""
    c.ignore("n_ctx", "predict_special_tokens", "n_special")
    d = c.size("n_embd", "hidden_size")
    c.choice("afn", {"gelu": "gelu_tanh"})  # this class calls the tanh form gelu
    return common(c, kind, attention={"heads": c.size("n_head", "num_attention_heads"), "bias": True},
                  feed_forward={"d_ff": 4 * d, "activation": "gelu_tanh", "bias": True},
                  norm=layernorm(placement="post"), final_norm=False, position={"kind": "learned"})


def gpt_bigcode(c: Config, kind: str) -> Data:
    """GPT-2 with one key-value head (SantaCoder, StarCoder)."""
    c.ignore("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "validate_runner_input",
             "pre_allocate_kv_cache", "max_sequence_length", "max_batch_size", "pad_key_length", "inference_runner",
             "num_key_value_heads", "runner_max_sequence_length", "reorder_and_upcast_attn")
    spec = gpt2(c, kind)
    if c.flag("multi_query"):
        spec["attention"]["kv_heads"] = 1
    return spec


def gpt_neo(c: Config, kind: str) -> Data:
    """GPT-2's shape, no bias on q, k, v, and layers that alternate between full and a window."""
    d = c.size("hidden_size")
    attention = {"heads": c.size("num_heads", "num_attention_heads"), "bias": {"o": True}, "scale": 1.0,
                 "cached": "all"}
    c.ignore("embed_dropout")
    spec = common(c, kind, attention=attention,
                  feed_forward=plain(c, c.size_or(4 * d, "intermediate_size"), act="activation_function"),
                  norm=layernorm(), position={"kind": "learned"})
    c.ignore("attention_layers")
    kinds = [str(kind) for pattern, times in runs(c, "attention_types") for kind in pattern * times]
    if len(kinds) != spec["layers"]:
        raise c.error("attention_types", f"names {len(kinds)} layers, not {spec['layers']}")
    window = c.size("window_size")
    return windowed(spec, [window if k == "local" else None for k in kinds])


def gptj(c: Config, kind: str) -> Data:
    """Parallel block behind one norm, no biases in attention, rotary part of each head, a biased head."""
    d = c.size("n_embd", "hidden_size")
    c.ignore("n_ctx", "scale_attn_weights")
    c.only("rotary", True)
    feed = plain(c, c.size_or(4 * d, "n_inner"), act="activation_function")
    spec = common(c, kind, head_bias=True, attention={"heads": c.size("n_head", "num_attention_heads")},
                  feed_forward=feed, norm=layernorm(shared=True), residual="parallel",
                  position={"kind": "rope", "theta": 10_000.0, "dim": c.size("rotary_dim")})
    if kind == "span":
        spec["head"]["labels"] = labels(c)
    return spec


def gpt_neox(c: Config, kind: str) -> Data:
    """Parallel block with a norm for each branch (Pythia, GPT-NeoX-20B)."""
    parallel = c.flag("use_parallel_residual")
    attention = {"heads": c.size("num_attention_heads"), "bias": c.flag("attention_bias")}
    return common(c, kind, attention=attention, feed_forward=plain(c, c.size("intermediate_size")),
                  norm=layernorm(), residual="parallel" if parallel else "sequential",
                  position=rope(c, head_dim(c, attention), default=0.25))


def gpt_neox_japanese(c: Config, kind: str) -> Data:
    """GPT-NeoX one sublayer after the other, without biases but for the attention's output in the last layer."""
    d = c.size("hidden_size")
    attention: Data = {"heads": c.size("num_attention_heads")}
    spec = common(c, kind, attention=attention, norm=layernorm(), position=rope(c, head_dim(c, attention)),
                  feed_forward=plain(c, d * c.size("intermediate_multiple_size"), bias=False))
    return layered(spec, [{}] * (spec["layers"] - 1) + [{"attention": {"bias": {"o": True}}}])


def persimmon(c: Config, kind: str) -> Data:
    """Persimmon: a squared ReLU, half-rotary heads, and a LayerNorm on every head's queries and keys."""
    attention: Data = {"heads": c.size("num_attention_heads"), "bias": True}
    c.only("num_key_value_heads", None, attention["heads"])  # written in some files, read by no class
    if c.flag("qk_layernorm"):
        attention["qk_norm"] = layernorm(over="head")
    return common(c, kind, attention=attention, feed_forward=plain(c, c.size("intermediate_size")), norm=layernorm(),
                  position=rope(c, head_dim(c, attention), default=0.5))


def ctrl(c: Config, kind: str) -> Data:
    """CTRL: sines and cosines for positions, ReLU, a biased head (arXiv 1909.05858)."""
    c.ignore("n_ctx", "from_tf")
    return common(c, kind, head_bias=True, attention={"heads": c.size("n_head", "num_attention_heads"), "bias": True},
                  feed_forward={"d_ff": c.size("dff"), "activation": "relu", "bias": True}, norm=layernorm(),
                  embedding_scale=True, position={"kind": "sinusoidal"})


def biogpt(c: Config, kind: str) -> Data:
    """BioGPT: GPT-2's shape, two more rows of positions than the context, and scaled embeddings."""
    spec = common(c, kind, attention={"heads": c.size("num_attention_heads"), "bias": True},
                  feed_forward=plain(c, c.size("intermediate_size")), norm=layernorm(),
                  embedding_scale=c.flag("scale_embedding", default=True))
    return spec | {"position": {"kind": "learned", "size": spec["context"] + 2}}


def xglm(c: Config, kind: str) -> Data:
    """XGLM: GPT-2's shape, sines and cosines for positions, and scaled embeddings."""
    return common(c, kind, attention={"heads": c.size("attention_heads", "num_attention_heads"), "bias": True},
                  feed_forward=plain(c, c.size("ffn_dim"), act="activation_function"), norm=layernorm(),
                  embedding_scale=c.flag("scale_embedding", default=True), position={"kind": "sinusoidal"})


def opt(c: Config, kind: str) -> Data:
    """OPT: two more rows of positions than the context; OPT-350m has norms after and a narrower embedding."""
    c.ignore("_remove_final_layer_norm")
    bias, affine = c.flag("enable_bias"), c.flag("layer_norm_elementwise_affine")
    before = c.flag("do_layer_norm_before")
    spec = common(c, kind, attention={"heads": c.size("num_attention_heads"), "bias": bias},
                  feed_forward=plain(c, c.size("ffn_dim"), bias=bias, act="activation_function"),
                  norm=layernorm(scale=affine, placement="pre" if before else "post") | {"bias": affine},
                  final_norm=before and not c.data.get("_remove_final_layer_norm", False))
    spec["position"] = {"kind": "learned", "size": spec["context"] + 2}
    width = c.size("word_embed_proj_dim")
    if width != spec["d_model"]:
        spec |= {"embedding_dim": width, "embedding_projection": "tokens", "embedding_projection_bias": False}
    return spec


def bloom(c: Config, kind: str) -> Data:
    """ALiBi, a norm on the embeddings, biases everywhere."""
    c.ignore("apply_residual_connection_post_layernorm", "n_inner")
    d = c.size_or(c.size("hidden_size"), "n_embed")
    return common(c, kind, d_model=d, attention={"heads": c.size("num_attention_heads", "n_head"), "bias": True},
                  feed_forward={"d_ff": 4 * d, "activation": "gelu_tanh", "bias": True}, norm=layernorm(),
                  embedding_norm=True, position={"kind": "alibi"})


def mpt(c: Config, kind: str) -> Data:
    """ALiBi, no biases at all."""
    c.ignore("expansion_ratio", "learned_pos_emb", "no_bias", "embedding_fraction", "init_device", "norm_type",
             "verbose", "init_config", "init_nonlinearity")
    attn = c.section("attn_config", "")
    attn.only("alibi", True)
    attn.only("attn_type", "multihead_attention")
    attn.only("qk_ln", False)
    attn.only("prefix_lm", False)
    attn.ignore("alibi_bias_max", "attn_impl", "attn_pdrop", "attn_uses_sequence_id", "clip_qkv", "softmax_scale")
    attn.finish()
    d = c.size("d_model", "hidden_size")
    return common(c, kind, attention={"heads": c.size("n_heads", "num_attention_heads")},
                  feed_forward={"d_ff": 4 * d, "activation": "gelu"}, norm=layernorm(bias=False),
                  position={"kind": "alibi"})


def falcon(c: Config, kind: str) -> Data:
    """Parallel block, few key-value heads; the newer form has grouped queries and a norm for each branch."""
    c.ignore("apply_residual_connection_post_layernorm", "ff_factor")
    c.only("partial_rotary_factor", 1.0)
    heads = c.size("num_attention_heads", "n_head")
    new, bias = c.flag("new_decoder_architecture"), c.flag("bias")
    multi_query, parallel = c.flag("multi_query"), c.flag("parallel_attn")
    kv_heads = c.size_or(heads, "num_kv_heads", "n_head_kv")
    norms = c.size_or(2 if new else 1, "num_ln_in_parallel_attn")
    d = c.size("hidden_size")
    shared = parallel and norms != 2
    if new:
        parallel = True
    else:
        kv_heads = 1 if multi_query else heads
    found = common(c, kind, attention={"heads": heads, "kv_heads": kv_heads, "bias": bias},
                   feed_forward=plain(c, c.size_or(4 * d, "ffn_hidden_size"), bias=bias, act="activation"),
                   norm=layernorm(shared=shared), residual="parallel" if parallel else "sequential",
                   position={"kind": "alibi"} if c.flag("alibi") else rope(c, d // heads))
    return {**found, "gguf": "falcon"}
