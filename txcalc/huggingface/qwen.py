"""Alibaba's decoders: Qwen 1.5 to 3.5."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, decoder, experts, qkv, rope
from txcalc.huggingface.importer import decoder_classes
from txcalc.huggingface.layerwise import all_but, every, layer_kinds, layer_types, listed_layers, sparse, windows
from txcalc.huggingface.rows import RMS, Fields, Rows, Value, flag, size


def used_window(c: Config) -> int | None:
    """The window, where there is one and it is used."""
    window = c.take("sliding_window")
    return window or None if c.flag("use_sliding_window") else None


def _from_max_window_layers(c: Config, layers: int) -> list[bool]:
    """From ``max_window_layers`` on, layers slide, if windows are used at all."""
    first = _max_window_layers(c, layers)
    return [i >= first for i in range(layers)]


def _before_max_window_layers(c: Config, layers: int) -> list[bool]:
    """Unlike that: every other one of the first layers, as the configuration class says."""
    first = _max_window_layers(c, layers)
    return [used_window(c) is not None and i % 2 == 0 and i < first for i in range(layers)]


def _max_window_layers(c: Config, layers: int) -> int:
    """The layer from which on windows are used, which may be anything where there are none."""
    if used_window(c) is None:
        c.ignore("max_window_layers")
        return layers
    return c.size("max_window_layers", default=layers, least=0)


def decoder_sparse_step(c: Config, layers: int) -> list[bool]:
    """Every ``decoder_sparse_step``-th layer has experts, but those listed as dense."""
    dense = listed_layers(c, "mlp_only_layers") or ()
    return [chosen and i not in dense for i, chosen in enumerate(every(size("decoder_sparse_step"))(c, layers))]


SHARED: Final[Mapping[str, Value]] = {"shared_experts": 1, "shared_d_ff": size("shared_expert_intermediate_size"),
                                      "shared_gate": True}
"""A shared expert of its own width, behind a gate."""

_GATED_DELTA: Final[Mapping[str, Value]] = {"attention": None, "recurrent": {
    "kind": "gated-delta", "key_heads": size("linear_num_key_heads"), "value_heads": size("linear_num_value_heads"),
    "key_dim": size("linear_key_head_dim"), "value_dim": size("linear_value_head_dim"),
    "conv": size("linear_conv_kernel_dim")}}
_DELTAS: Final = all_but(every(size("full_attention_interval", default=4)))
DELTA: Final = layer_types("linear_attention", _DELTAS, _GATED_DELTA)
"""Three gated delta-rule layers to each layer of attention."""
hybrid = partial(decoder, qk_norm="head",
                 attention={**GROUPED, "output_gate": True}, position=rope(part=0.25))
_IGNORED: Final = "mtp_num_hidden_layers mtp_use_dedicated_embeddings mamba_ssm_dtype mlp_only_layers"

_INDEXER: Final = "indexer_n_heads indexer_kv_heads indexer_head_dim indexer_budget indexer_compress_ratio"


def _indexed(c: Config) -> Fields:
    """Keys that an indexer chooses by means of their blocks."""
    c.only("indexer_kv_heads", 1)
    budget, block = c.size("indexer_budget"), c.size("indexer_compress_ratio")
    if budget % block:
        raise c.error("indexer_budget", f"must be whole blocks of {block} tokens, got {budget}")
    return {"attention": {"indexer": {"heads": size("indexer_n_heads"), "head_dim": size("indexer_head_dim"),
                                      "block": block, "blocks": budget // block, "averaged": True}}}


ROWS: Final[Rows] = {
    "qwen2": decoder("Qwen2", bias=qkv(True), layers=[windows(_from_max_window_layers, window=used_window)],
                     ignore="use_mrope attention_bias mlp_bias dual_chunk_attention_config"),
    "qwen3": decoder("Qwen3", qk_norm="head",
                     layers=[windows(_from_max_window_layers, window=used_window)]),
    "qwen2_moe": decoder("Qwen2Moe", bias=qkv(flag("qkv_bias")), layers=[
        sparse(experts(**SHARED), decoder_sparse_step),
        windows(_before_max_window_layers, window=used_window)]),
    "qwen3_moe": decoder("Qwen3Moe", qk_norm="head", window=used_window, ignore="max_window_layers",
                         layers=[sparse(experts(normalize=flag("norm_topk_prob")), decoder_sparse_step)]),
    "qwen3_next": hybrid("Qwen3Next", layers=[
        sparse(experts(**SHARED), decoder_sparse_step), DELTA]),
    "qwen3_5_text": hybrid(
        decoder_classes("Qwen3_5") | {"Qwen3_5TextModel": "none", "Qwen3_5TextForSequenceClassification": "sequence"},
        layers=[DELTA], ignore=_IGNORED, only={"attn_output_gate": True}),
    "qwen3_5_moe_text": hybrid(
        decoder_classes("Qwen3_5Moe") | {"Qwen3_5MoeTextModel": "none"}, layers=[DELTA],
        feed_forward=experts(**SHARED), ignore=f"{_IGNORED} intermediate_size",
        only={"attn_output_gate": True, "norm_topk_prob": True, "decoder_sparse_step": 1}),
    "qwen4_exp_text": hybrid(
        decoder_classes("Qwen4Exp") | {"Qwen4ExpTextModel": "none"}, norm={**RMS, "placement": "none"},
        streams=size("hc_count", least=2), mix_rank=size("hc_lowrank"), final_norm=False,
        feed_forward=experts(**SHARED), layers=[layer_kinds(
            lambda c, n: ["linear_attention" if delta else "full_attention" for delta in _DELTAS(c, n)],
            {"linear_attention": _GATED_DELTA, "full_attention": _indexed, "indexed_attention": _indexed},
            unread=f"{_INDEXER} full_attention_interval")],
        ignore=f"{_IGNORED} intermediate_size decoder_sparse_step ple_embed_dim ple_conv_kernel_size ngram_size seed "
               "heads_per_ngram ngram_vocab_size_base make_ngram_vocab_size_divisible_by split_ngram_parts "
               "number_of_conv_states",
        only={"ple_layer_ids": (None, []), "output_gate_type": (None, "sigmoid", "silu")}),
}
