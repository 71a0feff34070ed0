"""EleutherAI's decoders and their descendants: a parallel block, or GPT-2's shape with windows."""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import Data, labels, runs
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import decoder, rope
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.openai import HEADS, inner
from txcalc.huggingface.rows import LAYERNORM, LEARNED, Fields, Rows, flag, given, plain, size

_HEADS: Final[Fields] = {"heads": size("num_attention_heads")}


def _own_labels(c: Config, kind: str, spec: Data) -> Data:
    if kind == "span":
        spec["head"] |= {"labels": labels(c), "of": "span" if labels(c) == 2 else "all"}
    return spec


gptj = partial(decoder, attention=HEADS, feed_forward=plain(d_ff=inner, act="activation_function"),
               norm={**LAYERNORM, "shared": True}, residual="parallel", head_bias=True, finish=_own_labels,
               position={"kind": "rope", "theta": 10_000.0, "dim": size("rotary_dim")},
               ignore="n_ctx scale_attn_weights window_size",
               only={"rotary": True, "num_heads": HEADS["heads"], "intermediate_size": (None, inner)})


def _local(c: Config, layers: int) -> list[Data]:
    c.ignore("attention_layers")
    kinds = [str(kind) for pattern, times in runs(c, "attention_types") for kind in pattern * times]
    if len(kinds) != layers:
        raise c.error("attention_types", f"names {len(kinds)} layers, not {layers}")
    window = c.size("window_size")
    return [{"attention": {"window": window}} if kind == "local" else {} for kind in kinds]


ROWS: Final[Rows] = {
    "gpt_neo": decoder(
        "GPTNeo", attention={"heads": size("num_heads", "num_attention_heads"), "scale": 1.0, "cached": "all"},
        bias={"o": True}, norm="layernorm", position=LEARNED, layers=[_local], ignore="embed_dropout",
        feed_forward=plain(d_ff=lambda c: c.size_or(4 * c.size("hidden_size"), "intermediate_size"),
                           act="activation_function")),
    "gptj": gptj("GPTJ"),
    "codegen": gptj("CodeGen"),
    "gpt_neox": decoder(
        "GPTNeoX", attention=_HEADS, feed_forward=plain(), norm="layernorm",
        residual=given(flag("use_parallel_residual"), "parallel", "sequential"), position=rope(part=0.25)),
    "gpt_neox_japanese": decoder(
        lm_classes("GPTNeoXJapanese"), attention=_HEADS, norm="layernorm",
        layers=[lambda c, layers: [{}] * (layers - 1) + [{"attention": {"bias": {"o": True}}}]],
        feed_forward=plain(d_ff=lambda c: c.size("hidden_size") * c.size("intermediate_multiple_size"), bias=False)),
}
