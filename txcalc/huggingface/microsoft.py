"""Microsoft's decoders, Phi and BitNet, and GIT, which sees."""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, decoder, experts, rope, square
from txcalc.huggingface.encoder import BODY
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.layerwise import WINDOW
from txcalc.huggingface.rows import LAYERNORM, RMS, Family, Fields, Rows, flag, gated, plain, read
from txcalc.huggingface.vision import images, nested, patches, tower_of


def _head_norm(c: Config) -> Fields | None:
    if not c.flag("qk_layernorm"):
        return None
    c.only("head_dim", None, c.size("hidden_size") // c.size("num_attention_heads"))  # the width of the class's norms
    return {**LAYERNORM, "over": "head"}


def _git(c: Config, kind: str) -> Data:
    """BERT's layers, blind to what comes after, behind all of CLIP's positions, projected and normed."""
    c.only("num_image_with_embedding", None)
    c.ignore("tie_word_embeddings")
    image = nested(c, "vision_config", "git_vision_model")
    tower = tower_of(ROWS["git_vision_model"], image)
    head = {"kind": "lm", "tied": c.flag("tie_word_embeddings"), "bias": True} if kind == "lm" else {"kind": "none"}
    projector = {"bias": True, "final_norm": LAYERNORM, "unpatched": True}
    return {**read(c, BODY), "architecture": "decoder-only", "head": head, "tower": {**tower, "projector": projector}}


ROWS: Final[Rows] = {
    # GIT, arXiv 2205.14100.
    "git": Family(_git, {"GitForCausalLM": "lm", "GitModel": "none"}),
    "git_vision_model": images({"GitVisionModel": "none"}, input=patches(bias=False), embedding_norm=True,
                               ignore="projection_dim"),
    "phi": decoder(  # a parallel block behind one LayerNorm, biases everywhere
        "Phi", bias=True, qk_norm=_head_norm, feed_forward=plain(), norm={**LAYERNORM, "shared": True},
        residual="parallel", position=rope(part=0.5), head_bias=True),
    "phi3": decoder("Phi3", window=WINDOW, ignore="attention_bias embd_layer mlp_bias lm_head_bias",
                    only={"full_attn_mod": 1, "interpolate_factor": 1}),
    "phimoe": decoder("Phimoe", window=WINDOW, norm="layernorm", feed_forward=experts(), head_bias=flag("lm_head_bias"),
                      only={"num_experts_per_tok": 2}),  # the class picks two, one after the other
    "bitnet": decoder(  # arXiv 2504.12285: norms on what the output and the down projections read
        lm_classes("BitNet"), attention={**GROUPED, "inner_norm": RMS}, feed_forward={**gated(), "inner_norm": RMS},
        finish=square),
}
