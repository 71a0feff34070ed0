"""MiniMax's decoders."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, HEADS, decoder, experts, head_dim, rope
from txcalc.huggingface.layerwise import all_but, every, layer_types
from txcalc.huggingface.rows import Rows, read


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
    "minimax_m2": decoder(
        "MiniMaxM2", qk_norm="full", position=_rotary, feed_forward=experts(routing="sigmoid-topk"),
        ignore="use_routing_bias use_mtp num_mtp_modules mtp_transformer_layers mlp_intermediate_size shared_moe_mode "
               "layernorm_full_attention_beta layernorm_linear_attention_beta layernorm_mlp_beta",
        only={"use_qk_norm": True, "qk_norm_type": "per_layer", "shared_intermediate_size": 0,
              "scoring_func": "sigmoid", "attn_window_size": None,
              "attn_type_list": (None, lambda c: [1] * c.size("num_hidden_layers"))}),
}
