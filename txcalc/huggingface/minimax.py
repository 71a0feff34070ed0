"""MiniMax's decoders."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, HEADS, decoder, experts, head_dim, rope
from txcalc.huggingface.layerwise import all_but, every, layer_kinds, layer_types, listed_sparse, sparse
from txcalc.huggingface.rows import Rows, gated, read, size


def _rotary(c: Config, width: int) -> Data:
    older: Data = {"kind": "rope", "dim": c.size("rotary_dim")} if "rotary_dim" in c.data else {}
    found: Data = rope()(c, width)
    return found if "dim" in found else found | older


_INDEX: Final = {"index_n_heads": "sparse_num_index_heads", "index_head_dim": "sparse_index_dim",
                 "index_block_size": "sparse_block_size", "index_topk_blocks": "sparse_topk_blocks",
                 "index_local_blocks": "sparse_local_block"}
"""Sizes of what chooses blocks, and the names in ``sparse_attention_config``, which win."""


def _indexer(c: Config) -> Data:
    older = c.section("sparse_attention_config", "")
    heads, width, block, blocks, near = (
        older.size(was) if was in older.data else c.size(name) for name, was in _INDEX.items())
    if near > blocks:
        raise c.error("index_local_blocks", f"{near} are more than the {blocks} blocks that a query attends to")
    return {"attention": {"indexer": {"heads": heads, "head_dim": width, "block": block, "blocks": blocks}}}


def _listed(c: Config, name: str, layers: int, default: int) -> list[bool]:
    """Layers that a list of 0 and 1 names, of which a file may have none."""
    listed = c.take(name, default=None)
    if listed is not None and (not isinstance(listed, list) or len(listed) != layers):
        raise c.error(name, f"must be a list of {layers} entries, one per layer")
    return [bool(each) for each in ([default] * layers if listed is None else listed)]


def _sparse_attention(c: Config, layers: int) -> list[str]:
    found = _listed(c.section("sparse_attention_config", ""), "sparse_attention_freq", layers, 0)
    return ["minimax_m3_sparse" if chosen else "full_attention" for chosen in found]


def _sparse_layers(c: Config, layers: int) -> list[bool]:
    return _listed(c, "moe_layer_freq", layers, 1)


ROWS: Final[Rows] = {
    "minimax": decoder(  # lightning attention but for every second layer
        "MiniMax", feed_forward=experts(), layers=[
            layer_types("linear_attention", all_but(every(2, first=0)), {"attention": None, "recurrent": {
                "kind": "lightning", "heads": HEADS, "head_dim": lambda c: head_dim(c, read(c, GROUPED))}})],
        ignore="block_size full_attn_alpha_factor full_attn_beta_factor linear_attn_alpha_factor "
               "linear_attn_beta_factor mlp_alpha_factor mlp_beta_factor", only={"sliding_window": None}),
    "minimax_m3_vl_text": decoder(
        {"MiniMaxM3VLForCausalLM": "lm", "MiniMaxM3VLTextModel": "none"}, qk_norm="head",
        feed_forward={**gated(d_ff=size("dense_intermediate_size")), "activation": "silu"},
        layers=[layer_kinds(_sparse_attention, {"full_attention": {}, "minimax_m3_sparse": _indexer}), sparse(experts(
            routing="sigmoid-topk", shared_experts=1, shared_d_ff=size("shared_intermediate_size"), activation="silu"),
            listed_sparse(_sparse_layers))],
        ignore=f"hidden_act rotary_dim swiglu_alpha swiglu_limit routed_scaling_factor sparse_attention_config "
               f"moe_layer_freq {' '.join(_INDEX)}"),
    "minimax_m2": decoder(
        "MiniMaxM2", qk_norm="full", position=_rotary, feed_forward=experts(routing="sigmoid-topk"),
        ignore="use_routing_bias use_mtp num_mtp_modules mtp_transformer_layers mlp_intermediate_size shared_moe_mode "
               "layernorm_full_attention_beta layernorm_linear_attention_beta layernorm_mlp_beta",
        only={"use_qk_norm": True, "qk_norm_type": "per_layer", "shared_intermediate_size": 0,
              "scoring_func": "sigmoid", "attn_window_size": None,
              "attn_type_list": (None, lambda c: [1] * c.size("num_hidden_layers"))}),
}
