"""Moonshot's decoders; Kimi K2 is a row of DeepSeek's."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import decoder, experts
from txcalc.huggingface.deepseek import latent
from txcalc.huggingface.layerwise import after, all_but, every, layer_types, listed_sparse, sparse
from txcalc.huggingface.rows import Fields, Reader, Rows, flag, passed_over, size


def _attention(c: Config) -> Fields:
    c.rename(model_max_length="max_position_embeddings")
    return latent(c)


def _delta(c: Config) -> Fields:
    given = c.section("linear_attn_config", "")
    passed_over(given, "full_attn_layers kda_layers", {})
    delta = {"kind": "kimi-delta", "heads": given.size("num_heads", default=c.size("linear_num_heads")),
             "head_dim": given.size("head_dim", default=c.size("linear_head_dim")),
             "conv": given.size("short_conv_kernel_size", default=c.size("linear_conv_kernel_dim"))}
    given.finish()
    return delta


def _linear(name: str, otherwise: str) -> Reader:
    """A size of linear layers under a name of theirs, as the library saves it, or that of all layers."""
    return lambda c: c.size_or(c.size(otherwise), name)


_LING: Final[Fields] = {
    "kind": "kimi-delta", "heads": _linear("linear_num_heads", "num_attention_heads"), "bottleneck": False,
    "head_dim": _linear("linear_head_dim", "head_dim"), "conv": _linear(
        "linear_conv_kernel_dim", "short_conv_kernel_size")}


def _ling_attention(c: Config) -> Fields:
    return {**_attention(c), "q_rank": None, "output_gate": True, "gate_over": "head"}


def _pattern(c: Config, layers: int) -> list[bool]:
    """Full attention in the layers that the file lists, numbered from 1, or in 4, 8, 12 and so on."""
    given = c.section("linear_attn_config", "")
    full, other = given.take("full_attn_layers", default=None), given.take("kda_layers", default=None)
    if full is None or other is None:
        return [i == 0 or i % 4 > 0 for i in range(layers)]
    if not isinstance(full, list) or not isinstance(other, list) or sorted(full + other) != list(range(1, layers + 1)):
        raise given.error("full_attn_layers", f"and kda_layers must list each of {layers} layers once, from 1")
    return [i + 1 in other for i in range(layers)]


ROWS: Final[Rows] = {
    # Ling 3: Kimi's layers with rotary positions, a gate on each head's output, and no bottlenecks.
    "bailing_hybrid": decoder(
        "BailingHybrid", attention=_ling_attention, position={"kind": "rope"}, tied=False, layers=[
            layer_types("linear_attention", all_but(every(size("layer_group_size"))), {
                "attention": None, "recurrent": _LING}),
            sparse(experts(routing="sigmoid-topk", normalize=flag("norm_topk_prob", "moe_renormalize")),
                   listed_sparse(after(size("first_k_dense_replace", least=0))))],
        ignore="num_expert_group topk_group routed_scaling_factor num_nextn_predict_layers mtp_loss_scaling_factor "
               "kda_safe_gate kda_lower_bound"),
    # Three layers of Kimi delta attention to each of latent attention, without rotary positions. The class ties no
    # head, whatever the file says.
    "kimi_linear": decoder(
        "KimiLinear", attention=_attention, position="none", tied=False, layers=[
            layer_types("linear_attention", _pattern, {"attention": None, "recurrent": _delta}),
            sparse(experts(routing="sigmoid-topk", normalize=flag("norm_topk_prob", "moe_renormalize")),
                   listed_sparse(after(size("first_k_dense_replace", default=1, least=0))))],
        ignore="n_group num_expert_group topk_group routed_scaling_factor use_grouped_topk num_nextn_predict_layers",
        only={"moe_layer_freq": 1, "mla_use_nope": True, "moe_router_activation_func": "sigmoid"}),
}
