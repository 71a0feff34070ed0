"""DeepSeek's decoders, with latent attention, and those that others built on them."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import ROUTING, decoder, experts
from txcalc.huggingface.layerwise import after, listed_sparse, sparse
from txcalc.huggingface.rows import Fields, Rows, flag, gated, optional, size


def _value_dim(c: Config) -> int:
    return c.size_or(c.size("hidden_size") // c.size("num_attention_heads"), "v_head_dim")


def latent(c: Config) -> Fields:
    """Latent attention under DeepSeek's field names."""
    c.ignore("num_key_value_heads", "head_dim", "qk_head_dim")
    return {
        "kind": "mla", "heads": size("num_attention_heads"), "kv_rank": size("kv_lora_rank"),
        "nope_dim": size("qk_nope_head_dim"), "rope_dim": size("qk_rope_head_dim"), "value_dim": _value_dim,
        "bias": flag("attention_bias"), "q_rank": optional("q_lora_rank"),
    }


def with_value_dim(c: Config) -> Fields:
    """The same where the width of values must be said."""
    c.size("v_head_dim")
    return {**latent(c), "interleaved": c.flag("rope_interleave", default=True)}


def routed(routing: str = "sigmoid-topk") -> Fields:
    """DeepSeek's experts, and the shared ones beside them."""
    return experts(routing=routing)


def grouped(c: Config) -> Fields:
    """Experts in groups, of which some are left out first."""
    return {**routed(), "expert_groups": size("n_group", default=1), "active_groups": size("topk_group", default=1)}


deepseek = partial(decoder, attention=with_value_dim, position={"kind": "rope"})
_IGNORED: Final = f"{ROUTING} topk_method scoring_func ep_size"
_ONLY: Final = {"moe_layer_freq": 1, "mlp_bias": False}
_FIRST_DENSE: Final = after(size("first_k_dense_replace", least=0))
v3 = partial(deepseek, layers=[sparse(routed(), _FIRST_DENSE)], ignore=_IGNORED, only=_ONLY)


def _with_indexer(c: Config) -> Fields:
    c.size("q_lora_rank")
    return {**with_value_dim(c), "index_topk": size("index_topk"),
            "indexer": {"heads": size("index_n_heads"), "head_dim": size("index_head_dim")}}


def _alike(kind: str, c: Config) -> list[str]:
    return [kind] * c.size("num_hidden_layers")


_V32_EXPERTS: Final = sparse(routed(), listed_sparse(after(size("first_k_dense_replace", least=0))))
v32 = partial(
    deepseek, attention=_with_indexer, ignore=f"{_IGNORED} indexer_rope_interleave index_share_for_mtp_iteration "
    "moe_router_dtype", only=_ONLY | {
        "num_experts": (None, size("n_routed_experts")),
        "layer_types": (None, *(partial(_alike, kind) for kind in ("indexed_attention", "deepseek_sparse_attention")))})


def _borrowed(c: Config, layers: int) -> list[Data]:
    """Layers that attend to the keys that the indexer of one before them chose: listed, by letters, or all but some."""
    kinds, pattern = c.take("indexer_types", default=None), c.take("index_topk_pattern", default=None)
    every = max(c.size("index_topk_freq", default=1, least=0), 1)
    first = c.size("index_skip_topk_offset", default=2, least=0)
    name, listed = ("indexer_types", kinds) if kinds is not None else ("index_topk_pattern", pattern)
    if listed is None:
        listed = ["shared" if max(i - first + 1, 0) % every else "full" for i in range(layers)]
    letters = {"F": "full", "S": "shared"} if isinstance(listed, str) else {}
    named = [letters.get(kind, kind) for kind in listed] if isinstance(listed, list | str) else []
    if len(named) != layers or not all(kind in ("full", "shared") for kind in named):
        raise c.error(name, f"must say full or shared of each of {layers} layers")
    return [{} if kind == "full" else {"attention": {"indexer": None}} for kind in named]


ROWS: Final[Rows] = {
    "deepseek_v2": v3("DeepseekV2", layers=[sparse(routed("softmax-topk"), _FIRST_DENSE)]),
    "deepseek_v3": v3("DeepseekV3", layers=[sparse(grouped, _FIRST_DENSE)]),
    "kimi_k2": v3("DeepseekV3", layers=[sparse(grouped, _FIRST_DENSE)]),
    "deepseek_v32": v32("DeepseekV32", layers=[_V32_EXPERTS]),  # an indexer in every layer chooses the keys of a query
    "glm4_moe_lite": v3("Glm4MoeLite", layers=[sparse(routed(), listed_sparse(after(1)))], only={
        **_ONLY, "first_k_dense_replace": 1, "partial_rotary_factor": 1.0}),  # which the class does not read
    "glm_moe_dsa": v32("GlmMoeDsa", layers=[_V32_EXPERTS, _borrowed]),
    "youtu": deepseek("Youtu", only={"mlp_bias": False}),
    "minicpm3": deepseek("MiniCPM3", attention=latent, feed_forward=gated(bias=flag("mlp_bias")),
                         ignore="scale_emb scale_depth dim_model_base"),
}
