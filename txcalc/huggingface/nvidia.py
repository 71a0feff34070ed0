"""NVIDIA's decoders: Nemotron, and Nemotron-H, whose layers are one sublayer each."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data, layered
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, common, decoder, experts, rope
from txcalc.huggingface.importer import decoder_classes
from txcalc.huggingface.rows import RMS, Family, Part, Rows, flag, optional, passed_over, plain, read, size
from txcalc.spec.errors import shown

_IGNORED: Final = """
chunk_size time_step_floor time_step_max time_step_min time_step_limit time_step_rank use_mamba_kernels
residual_in_fp32 num_logits_to_keep moe_shared_expert_overlap n_group topk_group routed_scaling_factor expand
mamba_hidden_act num_nextn_predict_layers mtp_layers_block_type mtp_hybrid_override_pattern num_hidden_layers
num_query_groups attention_bias n_routed_experts n_shared_experts moe_intermediate_size num_experts_per_tok
moe_shared_expert_intermediate_size norm_topk_prob ssm_state_size mamba_num_heads mamba_head_dim n_groups conv_kernel
use_conv_bias use_bias moe_latent_size partial_rotary_factor
"""  # attention_bias: the class builds none whatever it says, and never ties its head; it has no positions
_PARTS: Final[dict[str, Part]] = {
    "mamba": {"recurrent": {
        "kind": "mamba2", "heads": size("mamba_num_heads"), "head_dim": size("mamba_head_dim"),
        "state": size("ssm_state_size"), "groups": size("n_groups"), "conv": size("conv_kernel"),
        "conv_bias": flag("use_conv_bias"), "bias": flag("use_bias")}},
    "attention": {"attention": GROUPED},
    "mlp": {"feed_forward": plain(bias=flag("mlp_bias"), act="mlp_hidden_act")},
    "moe": {"feed_forward": experts(
        act="mlp_hidden_act", gated=False, routing="sigmoid-topk",
        latent=optional("moe_latent_size"), shared_experts=1, shared_d_ff=size("moe_shared_expert_intermediate_size"))},
}


def nemotron_h(c: Config, kind: str) -> Data:
    """Nemotron-H: every layer is one of Mamba-2, attention, a plain feed-forward or experts."""
    passed_over(c, _IGNORED, {"mamba_ssm_cache_dtype": "float32", "sliding_window": None})
    blocks = _block_kinds(c)
    # The sizes of attention and feed-forward are read whether a layer has them or not.
    parts = {name: read(c, part) for name, part in _PARTS.items() if name in {*blocks, "attention", "mlp"}}
    if "moe" in blocks and c.flag("mlp_bias"):
        raise c.error("mlp_bias", "true is not understood beside experts, whose routed ones then have none")
    c.defaults = {**c.defaults, "num_hidden_layers": len(blocks)}
    spec = common(c, kind, feed_forward="none", norm=RMS, position="none") | {"layers": len(blocks)}
    if kind == "lm":
        spec["head"]["tied"] = False
    return layered(spec, [parts[block] for block in blocks])


def _block_kinds(c: Config) -> list[str]:
    letters = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    names = {"linear_attention": "mamba", "full_attention": "attention"}
    pattern = c.take("hybrid_override_pattern", default=None)
    field = "hybrid_override_pattern" if pattern else "layers_block_type"
    given = c.take("layers_block_type", "layer_types", default=None)
    marks = pattern or given
    if not isinstance(marks, str if pattern else list):
        raise c.error(field, f"must name a known kind for every layer, got {shown(marks)}")
    kinds = [(letters if pattern else names).get(mark, mark) if isinstance(mark, str) else shown(mark)
             for mark in marks]
    unknown = [kind for kind in kinds if kind not in letters.values()]
    if unknown or not kinds:
        raise c.error(field, f"must name a known kind for every layer, got {unknown[0] if unknown else 'none'}")
    return kinds


ROWS: Final[Rows] = {
    "nemotron": decoder("Nemotron", feed_forward=plain(bias=flag("mlp_bias")), norm="layernorm",
                        position=rope(part=0.5)),
    "nemotron_h": Family(nemotron_h, decoder_classes("NemotronH")),
}
