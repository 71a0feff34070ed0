"""MiniMax's decoders."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, HEADS, decoder, experts, head_dim, rope
from txcalc.huggingface.layerwise import after, all_but, every, layer_kinds, layer_types, listed_sparse, sparse
from txcalc.huggingface.rows import Rows, gated, read, size


def _rotary(c: Config, width: int) -> Data:
    older: Data = {"kind": "rope", "dim": c.size("rotary_dim")} if "rotary_dim" in c.data else {}
    found: Data = rope()(c, width)
    return found if "dim" in found else found | older


ROWS: Final[Rows] = {
    "minimax": decoder(  # lightning attention but for every second layer
        "MiniMax", feed_forward=experts(), layers=[
            layer_types("linear_attention", all_but(every(2, first=0)), {"attention": None, "recurrent": {
                "kind": "lightning", "heads": HEADS, "head_dim": lambda c: head_dim(c, read(c, GROUPED))}})],
        ignore="block_size full_attn_alpha_factor full_attn_beta_factor linear_attn_alpha_factor "
               "linear_attn_beta_factor mlp_alpha_factor mlp_beta_factor", only={"sliding_window": None}),
    # M3's text, where it attends to everything: what chooses blocks of keys in its sparse layers is refused.
    "minimax_m3_vl_text": decoder(
        {"MiniMaxM3VLForCausalLM": "lm", "MiniMaxM3VLTextModel": "none"}, qk_norm="head", position={
            "kind": "rope", "dim": size("rotary_dim")}, feed_forward=gated(d_ff=size("dense_intermediate_size")),
        layers=[layer_kinds(lambda c, layers: ["full_attention"] * layers, {"full_attention": {}}), sparse(experts(
            routing="sigmoid-topk", shared_experts=1, shared_d_ff=size("shared_intermediate_size")),
            listed_sparse(after(0)))],
        ignore="swiglu_alpha swiglu_limit routed_scaling_factor index_n_heads index_head_dim index_block_size "
               "index_topk_blocks index_local_blocks", only={"sparse_attention_config": None, "moe_layer_freq": None}),
    "minimax_m2": decoder(
        "MiniMaxM2", qk_norm="full", position=_rotary, feed_forward=experts(routing="sigmoid-topk"),
        ignore="use_routing_bias use_mtp num_mtp_modules mtp_transformer_layers mlp_intermediate_size shared_moe_mode "
               "layernorm_full_attention_beta layernorm_linear_attention_beta layernorm_mlp_beta",
        only={"use_qk_norm": True, "qk_norm_type": "per_layer", "shared_intermediate_size": 0,
              "scoring_func": "sigmoid", "attn_window_size": None,
              "attn_type_list": (None, lambda c: [1] * c.size("num_hidden_layers"))}),
}
