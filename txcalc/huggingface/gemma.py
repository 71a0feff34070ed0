"""Google's decoders: an embedding scaled by the root of the width, heads wider than d_model / heads."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, decoder
from txcalc.huggingface.importer import decoder_classes
from txcalc.huggingface.layerwise import all_but, every, windows
from txcalc.huggingface.rows import Rows, flag, given, number, size


def _gelu(c: Config) -> str:
    """Its tanh form, whatever the file calls it."""
    act = "hidden_activation" if c.data.get("hidden_activation") else "hidden_act"
    c.ignore("hidden_activation", "hidden_act")
    if c.data.get(act) not in (None, "gelu", "gelu_new", "gelu_pytorch_tanh"):
        raise c.error(act, "only gelu is understood")
    return "gelu_tanh"


gemma = partial(decoder, embedding_scale=True,
                feed_forward={"d_ff": size("intermediate_size"), "activation": _gelu, "gated": True},
                only={"use_bidirectional_attention": (None, False)})
capped = partial(gemma, norm="sandwich", softcap=number("final_logit_softcapping"),
                 attention={**GROUPED, "softcap": number("attn_logit_softcapping")})
gemma2 = partial(capped, layers=[windows(all_but(every(2)))], only={
    "use_bidirectional_attention": (None, False),
    "sliding_window_size": lambda c: c.take("sliding_window")})  # Gemma 2 9B's own file says it twice

ROWS: Final[Rows] = {
    "gemma": gemma("Gemma"),
    "gemma2": gemma2("Gemma2"),
    # EmbeddingGemma's sees both ways; its window reaches half as far to either side.
    "gemma3_text": capped(decoder_classes("Gemma3") | {"Gemma3TextModel": "none"}, qk_norm="head", layers=[
        windows(all_but(every(size("sliding_window_pattern", default=6))))], only={}, architecture=given(
            flag("use_bidirectional_attention", default=False), "encoder-only", "decoder-only")),
    "vaultgemma": gemma2("VaultGemma", norm="rms"),
}
