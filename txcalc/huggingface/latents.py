"""Decoder-only families with latent attention (MLA), with experts or without."""

from __future__ import annotations

from txcalc.huggingface.build import Data, gated, rms
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoders import common
from txcalc.huggingface.experts import experts, sparse_layers, with_experts


def latent(c: Config, **more: object) -> Data:
    """Latent attention under DeepSeek's field names."""
    c.ignore("num_key_value_heads", "head_dim", "qk_head_dim")
    attention = {
        "kind": "mla", "heads": c.size("num_attention_heads"), "kv_rank": c.size("kv_lora_rank"),
        "nope_dim": c.size("qk_nope_head_dim"), "rope_dim": c.size("qk_rope_head_dim"),
        "value_dim": c.size_or(c.size("hidden_size") // c.size("num_attention_heads"), "v_head_dim"),
        "bias": c.flag("attention_bias"), **more,
    }
    if c.take("q_lora_rank") is not None:
        attention["q_rank"] = c.size("q_lora_rank")
    return attention


def _routed(c: Config, routing: str) -> Data:
    """DeepSeek's experts, and the shared ones beside them."""
    c.ignore("num_nextn_predict_layers", "n_group", "topk_group", "topk_method", "routed_scaling_factor",
             "scoring_func", "ep_size")
    c.only("moe_layer_freq", 1)
    c.only("mlp_bias", False)
    shared = c.take("n_shared_experts")
    return experts(c, count=("n_routed_experts",), normalize=c.flag("norm_topk_prob"), routing=routing,
                   **({"shared_experts": shared} if shared else {}))


def deepseek_v2(c: Config, kind: str) -> Data:
    """DeepSeek V2: softmax routing, the first layers dense."""
    return _deepseek(c, kind, "softmax-topk")


def deepseek_v3(c: Config, kind: str) -> Data:
    """DeepSeek V3 and Kimi K2: sigmoid routing, the first layers dense."""
    return _deepseek(c, kind, "sigmoid-topk")


def _deepseek(c: Config, kind: str, routing: str) -> Data:
    moe = _routed(c, routing)
    c.size("v_head_dim")
    spec = common(c, kind, attention=latent(c), feed_forward=gated(c), norm=rms(), position={"kind": "rope"})
    first = c.take("first_k_dense_replace")
    return with_experts(spec, [i >= first for i in range(spec["layers"])], moe)


def glm4_moe_lite(c: Config, kind: str) -> Data:
    """GLM-4.7-Flash: DeepSeek V3 with the kind of every layer listed; as the class has it, the first is dense."""
    moe = _routed(c, "sigmoid-topk")
    c.only("first_k_dense_replace", 1)  # the class does not read it
    c.only("partial_rotary_factor", 1.0)
    c.size("v_head_dim")
    spec = common(c, kind, attention=latent(c), feed_forward=gated(c), norm=rms(), position={"kind": "rope"})
    return with_experts(spec, sparse_layers(c, [i > 0 for i in range(spec["layers"])]), moe)


def youtu(c: Config, kind: str) -> Data:
    """Youtu-LLM: DeepSeek's latents before a dense feed-forward."""
    c.only("mlp_bias", False)
    c.size("v_head_dim")
    return common(c, kind, attention=latent(c), feed_forward=gated(c), norm=rms(), position={"kind": "rope"})


def minicpm3(c: Config, kind: str) -> Data:
    """MiniCPM 3: latents before a dense feed-forward, values as wide as d_model / heads where nothing else is said."""
    c.ignore("scale_emb", "scale_depth", "dim_model_base")
    feed = gated(c, bias=c.flag("mlp_bias"))
    return common(c, kind, attention=latent(c), feed_forward=feed, norm=rms(), position={"kind": "rope"})


def _sparse(c: Config, kind: str) -> tuple[Data, list[bool], Data]:
    """DeepSeek V3.2's layers, each with an indexer; which have experts; and those."""
    moe = _routed(c, "sigmoid-topk")
    c.ignore("indexer_rope_interleave", "index_share_for_mtp_iteration", "moe_router_dtype")
    c.only("num_experts", None, moe["experts"])
    for name in ("q_lora_rank", "v_head_dim"):
        c.size(name)
    indexer = {"heads": c.size("index_n_heads"), "head_dim": c.size("index_head_dim")}
    spec = common(c, kind, attention=latent(c, chosen=c.size("index_topk"), indexer=indexer), feed_forward=gated(c),
                  norm=rms(), position={"kind": "rope"})
    layers, dense = spec["layers"], c.size("first_k_dense_replace", least=0)
    c.only("layer_types", None, ["indexed_attention"] * layers)
    return spec, sparse_layers(c, [i >= dense for i in range(layers)]), moe


def deepseek_v32(c: Config, kind: str) -> Data:
    """DeepSeek V3.2: V3 with an indexer in every layer, which chooses the keys of each query."""
    return with_experts(*_sparse(c, kind))


def glm_moe_dsa(c: Config, kind: str) -> Data:
    """GLM-5: DeepSeek V3.2, but a layer may attend to the keys that the indexer of one before it chose."""
    spec, sparse, moe = _sparse(c, kind)
    own = _indexed(c, spec["layers"])
    return with_experts(spec, sparse, moe, [{} if chooses else {"attention": {"indexer": None}} for chooses in own])


def _indexed(c: Config, layers: int) -> list[bool]:
    """Which layers have an indexer: as listed, as a pattern of letters says, or every so many."""
    kinds, pattern = c.take("indexer_types", default=None), c.take("index_topk_pattern", default=None)
    every = max(c.size("index_topk_freq", default=1, least=0), 1)
    first = c.size("index_skip_topk_offset", default=2, least=0)
    if kinds is None and pattern is None:
        return [max(i - first + 1, 0) % every == 0 for i in range(layers)]
    name, listed = ("indexer_types", kinds) if kinds is not None else ("index_topk_pattern", pattern)
    letters = {"F": "full", "S": "shared"} if isinstance(listed, str) else {}
    named = [letters.get(kind, kind) for kind in listed] if isinstance(listed, list | str) else []
    if len(named) != layers or not all(kind in ("full", "shared") for kind in named):
        raise c.error(name, f"must say full or shared of each of {layers} layers")
    return [kind == "full" for kind in named]
