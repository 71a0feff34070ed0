"""Google's decoders: an embedding scaled by the root of the width, heads wider than d_model / heads."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import ACTIVATIONS, Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, decoder, qkv, rope
from txcalc.huggingface.importer import decoder_classes
from txcalc.huggingface.layerwise import all_but, every, windows
from txcalc.huggingface.rows import Part, Rows, activation, flag, gated, given, number, read, size
from txcalc.spec.errors import shown


def _gelu(c: Config) -> str:
    """Its tanh form, whatever the file calls it, or another function that the class reads under this name."""
    act = "hidden_activation" if c.data.get("hidden_activation") else "hidden_act"
    c.ignore("hidden_activation", "hidden_act")
    if c.data.get(act) in (None, "gelu", "gelu_new", "gelu_pytorch_tanh"):
        return "gelu_tanh"
    if act not in c.defaults:
        raise c.error(act, "only gelu is understood")
    return str(c.choice(act, ACTIVATIONS))


gemma = partial(decoder, embedding_scale=True,
                feed_forward={"d_ff": size("intermediate_size"), "activation": _gelu, "gated": True},
                only={"use_bidirectional_attention": (None, False)})
capped = partial(gemma, norm="sandwich", softcap=number("final_logit_softcapping"),
                 attention={**GROUPED, "softcap": number("attn_logit_softcapping")})
gemma2 = partial(capped, layers=[windows(all_but(every(2)))], only={
    "use_bidirectional_attention": (None, False),
    "sliding_window_size": lambda c: c.take("sliding_window")})  # Gemma 2 9B's own file says it twice

def _griffin(c: Config, layers: int) -> list[Data]:
    """Recurrent layers and windows of attention in turn, as ``block_types`` lists one period of them."""
    parts: dict[str, Part] = {"attention": {"attention": {"window": size("attention_window_size")}}, "recurrent": {
        "attention": None, "recurrent": {
            "kind": "rg-lru", "inner": lambda c: c.size_or(c.size("hidden_size"), "lru_width"),
            "heads": size("num_attention_heads"), "conv": size("conv1d_width"),
            "activation": activation("hidden_activation")}}}
    listed = c.take("block_types")
    if not isinstance(listed, list | tuple) or not listed or not {*listed} <= {*parts}:
        raise c.error("block_types", f"must list {' or '.join(parts)} of the layers of a period, got {shown(listed)}")
    return [read(c, parts[listed[i % len(listed)]]) for i in range(layers)]


ROWS: Final[Rows] = {
    "gemma": gemma("Gemma"),
    "gemma2": gemma2("Gemma2"),
    # EmbeddingGemma's sees both ways; its window reaches half as far to either side.
    "gemma3_text": capped(decoder_classes("Gemma3") | {
        "Gemma3TextModel": "none", "Gemma3TextForSequenceClassification": "sequence"}, qk_norm="head", layers=[
        windows(all_but(every(size("sliding_window_pattern", default=6))))], only={}, architecture=given(
            flag("use_bidirectional_attention", default=False), "encoder-only", "decoder-only")),
    "recurrent_gemma": decoder(  # Griffin, arXiv 2402.19427
        {"RecurrentGemmaForCausalLM": "lm", "RecurrentGemmaModel": "none"}, embedding_scale=True,
        bias={**qkv(flag("attention_bias")), "o": True}, position=rope(part=0.5),
        feed_forward={**gated(act="hidden_activation", bias=True), "d_ff": lambda c: c.size("intermediate_size") // 2},
        softcap=number("logits_soft_cap"), layers=[_griffin],
        ignore="w_init_variance_scale final_w_init_variance_scale conv1d_width lru_width attention_window_size"),
    "vaultgemma": gemma2("VaultGemma", norm="rms"),
}
