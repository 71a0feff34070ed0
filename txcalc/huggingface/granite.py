"""IBM's decoders: Granite 3 and 4."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import Data, rope
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, NO_ROPE, decoder, experts
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.layerwise import after, all_but, every, layer_types, windows
from txcalc.huggingface.mamba import beside_attention
from txcalc.huggingface.meta import llama
from txcalc.huggingface.rows import Fields, Rows, gated, size, some

_SINKS: Final[Fields] = {**GROUPED, "sinks": True}
_ROUTED: Final = experts(routing="topk-softmax")
granitemoe = partial(decoder, feed_forward=_ROUTED)


def _shared(c: Config) -> Fields:
    """Experts and a shared one of its own width; width 0 stands for none."""
    width = some("shared_intermediate_size")(c)
    return {**_ROUTED, **({"shared_experts": 1, "shared_d_ff": size("shared_intermediate_size")} if width else {})}


def _rope_where_theta(c: Config, layers: int) -> list[Data]:
    thetas = c.take("layer_rope_theta", default=None)
    thetas = [1] * layers if thetas is None else thetas
    if not isinstance(thetas, list) or len(thetas) != layers:
        raise c.error("layer_rope_theta", f"must be a list of {layers} numbers, one per layer; 0 for no positions")
    return [{} if theta else {"attention": NO_ROPE} for theta in thetas]


_SWA: Final = [windows(all_but(every(4, first=0)), window=size("sliding_window")), _rope_where_theta]


def _only_shared_or_beside(c: Config) -> Fields:
    """Experts beside a shared one; without them that is the feed-forward."""
    c.ignore("intermediate_size", "num_experts_per_tok", "num_local_experts", "init_method")
    width = c.size("shared_intermediate_size")
    beside = {**_ROUTED, "shared_experts": 1, "shared_d_ff": width}
    return beside if c.take("num_local_experts") else gated(d_ff=width)


def _rotary_or_none(c: Config, width: int) -> Data:
    rotary = c.choice("position_embedding_type", {"rope": True, "nope": False, None: False})
    return rope(c, width) if rotary else {"kind": "none"}


_MAMBA: Final = layer_types(
    "linear_attention", after(0), {"attention": None, "recurrent": beside_attention},
    unread="mamba_chunk_size mamba_conv_bias mamba_d_conv mamba_d_head mamba_d_state mamba_expand mamba_n_groups "
           "mamba_n_heads mamba_proj_bias time_step_limit")

ROWS: Final[Rows] = {
    "granite": llama("Granite"),
    "granite_swa": llama(lm_classes("GraniteSWA"), attention=_SINKS, layers=_SWA),
    "granitemoe": granitemoe("GraniteMoe"),
    "granitemoeshared": granitemoe("GraniteMoeShared", feed_forward=_shared),
    "granitemoe_swa": granitemoe("GraniteMoeSWA", attention=_SINKS, feed_forward=_shared, layers=_SWA),
    "granitemoehybrid": decoder("GraniteMoeHybrid", feed_forward=_only_shared_or_beside, position=_rotary_or_none,
                                layers=[_MAMBA], only={"normalization_function": "rmsnorm"}),
}
