"""Cohere's decoders: a parallel block behind one norm without bias."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import NO_ROPE, decoder, experts
from txcalc.huggingface.layerwise import after, all_but, every, listed_sparse, sparse, windows
from txcalc.huggingface.rows import PLAIN_LAYERNORM, RMS, SHARED, Rows, gated, given, size, take

cohere = partial(decoder, norm=SHARED, residual="parallel")
_PATTERN: Final = size("sliding_window_pattern", default=4)
_DENSE: Final = size("first_k_dense_replace", default=0, least=0)
_ROUTING: Final = {"softmax": "topk-softmax", "sigmoid": "sigmoid-topk"}
_SPARSE: Final = listed_sparse(after(_DENSE))


def _rms_or_not(c: Config) -> Data:
    return {**(PLAIN_LAYERNORM if c.take("rms_norm_eps", default=None) is None else RMS), "shared": True}


def _normalizes(c: Config) -> bool:
    c.ignore("norm_topk_prob")
    return c.choice("expert_selection_fn", _ROUTING) == "topk-softmax" or c.flag("norm_topk_prob")


def _sliding(c: Config, layers: int) -> list[bool]:
    """Dense layers before those with experts have a pattern of their own."""
    first, rest, dense = c.size(_PREFIX), c.size("sliding_window_pattern"), _DENSE(c)
    return [bool((i + 1) % first if i < dense else (i - dense + 1) % rest) for i in range(layers)]


_PREFIX: Final = "prefix_dense_sliding_window_pattern"


def _no_rope(c: Config, layers: int) -> list[Data]:
    """Layers of full attention have no positions, but dense ones that all are of this kind."""
    sliding = windows(_sliding, window=1)(c, layers)
    return [{} if own or (c.size(_PREFIX) == 1 and not has_experts) else {"attention": NO_ROPE}
            for own, has_experts in zip(sliding, _SPARSE(c, layers), strict=True)]


def _where_unrotated(c: Config) -> Data:
    """Layers of full attention rotate nothing where their parameters are null."""
    parameters = c.data.get("rope_parameters")
    return NO_ROPE if isinstance(parameters, Mapping) and parameters.get("full_attention", 1) is None else {}


ROWS: Final[Rows] = {
    "cohere": cohere("Cohere", qk_norm=given(take("use_qk_norm", default=False), {**PLAIN_LAYERNORM, "over": "heads"})),
    "cohere2": cohere("Cohere2", ignore="rotary_pct", layers=[
        windows(all_but(every(_PATTERN)), window=take("sliding_window"), attention=NO_ROPE)], only={
        "use_embedding_sharing": True, "use_gated_activation": True, "use_parallel_block": True,
        "use_parallel_embedding": True, "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj", "layer_switch": _PATTERN, "use_qk_norm": (False, None)}),
    "cohere_compass_text": cohere(
        {"CohereCompassForCausalLM": "lm", "CohereCompassTextModel": "none",
         "CohereCompassTextForSequenceClassification": "sequence"}, ignore="pooling sliding_window_pattern",
        layers=[windows(all_but(after(0)), window=take("sliding_window"), attention=_where_unrotated)]),
    "cohere2_moe": cohere(
        "Cohere2Moe", norm=_rms_or_not,
        feed_forward=gated(d_ff=lambda c: c.size_or(c.size("intermediate_size"), "prefix_dense_intermediate_size")),
        layers=[windows(_sliding, window=size("sliding_window")), _no_rope, sparse(experts(
            routing=lambda c: c.choice("expert_selection_fn", _ROUTING),
            normalize=_normalizes), _SPARSE)],
        only={"use_qk_norm": (False, None), "shared_expert_combination_strategy": ("average", "sum")}),
}
