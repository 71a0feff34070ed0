"""LG's decoders: a norm on each head's queries and keys, and no positions beside sliding layers."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import NO_ROPE, ROUTING, decoder, experts
from txcalc.huggingface.importer import decoder_classes
from txcalc.huggingface.layerwise import after, listed_sparse, sparse, windows
from txcalc.huggingface.rows import Rows, given, size


def _pattern(c: Config, layers: int) -> list[bool]:
    pattern, given = c.take("sliding_window_pattern"), c.data.get("layer_types")
    if given is None and (c.take("sliding_window") is None or not isinstance(pattern, int) or pattern < 1):
        raise c.error("layer_types", "must list every layer's kind where sliding_window or its pattern does not")
    return [given is None and bool((i + 1) % pattern) for i in range(layers)]


_WINDOWS: Final = windows(_pattern, attention=given(lambda c: c.take("sliding_window") is not None, NO_ROPE))
_DENSE: Final = size("first_k_dense_replace", least=0)
_SPARSE: Final = listed_sparse(after(_DENSE))

ROWS: Final[Rows] = {
    "exaone4": decoder("Exaone4", qk_norm="head", norm="res-post", layers=[_WINDOWS]),
    "exaone_moe": decoder(
        decoder_classes("ExaoneMoe") | {"ExaoneMoEForCausalLM": "lm"}, qk_norm="head", layers=[
            _WINDOWS, sparse(experts(routing="sigmoid-topk"), _SPARSE)],
        ignore=f"{ROUTING} topk_method", only={
            "scoring_func": "sigmoid", "first_last_k_dense_replace": (None, _DENSE),
            "is_moe_layer": (None, lambda c: _SPARSE(c, c.size("num_hidden_layers")))}),
}
