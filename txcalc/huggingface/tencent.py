"""Tencent's decoders: a norm on every head's queries and keys."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, ROUTING, decoder, experts, head_dim
from txcalc.huggingface.deepseek import grouped, v32, with_indexer
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.layerwise import after, listed_kinds, listed_sparse, sparse
from txcalc.huggingface.rows import WIDTH, Fields, Reader, Rows, Value, read, size

# What Hunyuan-A13B's file has for other models of the same code: latents that are off, images, sampling of tokens.
_UNREAD: Final = """
moe_drop_tokens moe_random_routing_dropped_token routed_scaling_factor group_limited_greedy n_group topk_group
kv_lora_rank q_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim xdrope_section mask_init_id pad_id pool_type
im_start_id im_end_id im_newline_id image_token_id video_start_id video_end_id text_start_id text_end_id
num_media_embeds skip_cls_token anyres_pooling_size anyres_vit_max_image_size anyres_vit_two_views
vit_add_patchemb_bias vit_input_resolution vit_mapping_type vit_norm_type vit_patch vit_path vit_remove_prenorm
vit_token vit_type vit_used_rms_norm
"""
_IGNORED: Final = "eod_token_id cla_share_factor class_num dense_list org_vocab_size"
_ONLY: Final = {
    "use_qk_norm": True, "mlp_bias": False, "use_cla": False, "add_classification_head": False,
    "norm_type": ("rms", "hf_rms"), "attention_head_dim": lambda c: head_dim(c, read(c, GROUPED))}


def _each(value: Value) -> Reader:
    """A value, or a list of it for each layer."""
    return lambda c: [read(c, value)] * c.size("num_hidden_layers")


hunyuan = partial(decoder, qk_norm="head")


def _chosen(c: Config) -> list[int]:
    """The number of experts that a token passes in each layer."""
    chosen, layers = c.take("moe_topk"), c.size("num_hidden_layers")
    listed = chosen if isinstance(chosen, list) else [chosen] * layers
    if len(listed) != layers or not all(type(k) is int and k > 0 for k in listed):
        raise c.error("moe_topk", f"must be a whole number of at least 1, or a list of {layers} of them")
    return listed


def _experts(c: Config) -> Fields:
    return {**experts(), "active_experts": _chosen(c)[0], "shared_experts": 1}


def _by_layer(c: Config, layers: int) -> list[Data]:
    return [{"feed_forward": {"active_experts": k}} for k in _chosen(c)]


def _shared(c: Config) -> Fields:
    """Without shared experts there is one as wide as a dense layer."""
    number = c.size("num_shared_experts", least=0)
    return {"shared_experts": number} if number else {"shared_experts": 1, "shared_d_ff": WIDTH}


def _borrowed(c: Config, layers: int) -> list[Data]:
    """All but one layer in four attend to the keys that the indexer of one before them chose."""
    kinds = listed_kinds(c, "indexer_types", layers, lambda c, layers: [
        i > 0 and i % 4 != 1 for i in range(layers)], "full", "shared")
    return [{"attention": {"indexer": None}} if kind else {} for kind in kinds]


def _gated_latents(c: Config) -> Fields:
    return {**with_indexer(c), "interleaved": False, "output_gate": True, "sinks": True}


ROWS: Final[Rows] = {
    "hy_v4": v32(lm_classes("HYV4"), attention=_gated_latents, streams=size("hc_mult"), layers=[
        sparse(grouped, listed_sparse(after(1))), _borrowed],
                 ignore=f"{ROUTING} hc_magnitude hc_eps learnable_sink_init swiglu_limit"),
    "hunyuan_v1_dense": hunyuan("HunYuanDenseV1", ignore=_IGNORED, only=_ONLY),
    "hunyuan_v1_moe": hunyuan(
        "HunYuanMoEV1", feed_forward=_experts, layers=[_by_layer], ignore=f"{_IGNORED} {_UNREAD}", only={
            **_ONLY, "moe_intermediate_size": (WIDTH, _each(WIDTH)),  # the class does not read it
            "num_shared_expert": (1, _each(1)), "moe_layer_num_skipped": 0, "use_mixed_mlp_moe": True,
            "norm_topk_prob": True, "use_rotary_pos_emb": True, "use_mla": False, "position_embedding_xdrope": False}),
    "hy_v3": hunyuan(
        "HYV3", layers=[sparse(lambda c: experts(routing="sigmoid-topk", **_shared(c)), listed_sparse(after(1)))],
        ignore="router_scaling_factor enable_moe_fp32_combine num_nextn_predict_layers", only={"mlp_bias": False}),
}
