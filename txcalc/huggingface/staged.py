"""Encoders of images in stages: squares of patches become one, of twice the width (Swin, arXiv 2103.14030)."""

from __future__ import annotations

from typing import Any, Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import ACT, NONE, classifier
from txcalc.huggingface.rows import LAYERNORM, Family, Rows, read
from txcalc.huggingface.vision import patches, side_of

MERGES: Final[Data] = {"attention": None, "feed_forward": None, "residual": "none", "norm": {"placement": "none"}}
"""A block that merges patches and does nothing else, but for the layer that does."""


def listed(c: Config, name: str, length: int | None = None) -> list[int]:
    """A list of whole numbers, of so many stages."""
    found: Any = c.take(name)
    if not isinstance(found, list) or not found or len(found) != (length or len(found)) or not all(
            type(each) is int and each > 0 for each in found):
        raise c.error(name, f"must be a list of whole numbers, one for each stage of {length or 'several'}")
    return found


def _swin(prefix: str, *, final_norm: bool) -> Family:
    """Windows that attend by themselves, each with a bias for every distance of two patches in it."""
    def build(c: Config, kind: str) -> Data:
        c.ignore("hidden_size", "num_layers", "encoder_stride", "stage_names", "out_features", "out_indices",
                 "tie_word_embeddings")
        if not final_norm:  # where a table of absolute positions has a row too many to be added
            c.only("use_absolute_embeddings", False)
        image, patch = side_of(c, "image_size"), side_of(c, "patch_size")
        d, side, depths = c.size("embed_dim"), image // patch, listed(c, "depths")
        if image % patch:
            raise c.error("patch_size", "must divide image_size: what the class adds to a border is not understood")
        window, bias = c.size("window_size"), {**dict.fromkeys("qkv", c.flag("qkv_bias")), "o": True}
        blocks: list[Data] = []
        for i, (depth, heads) in enumerate(zip(depths, listed(c, "num_heads", len(depths)), strict=True)):
            width, own = d * 2**i, min(window, side)
            whole = own == window if not final_norm else own  # Donut's biases are those of a whole window
            if width % heads or not whole or side % own or (i + 1 < len(depths) and side % 2):
                raise c.error("window_size", f"{side} x {side} patches of {width} columns, stage {i + 1}, do not fall "
                              f"into windows, squares and {heads} heads")
            blocks.append({"repeat": depth, "feed_forward": {
                "d_ff": int(width * (c.number("mlp_ratio") or 0)), "activation": ACT(c), "bias": True}, "attention": {
                "heads": heads, "head_dim": width // heads, "image_window": own, "bias": bias}})
            if i + 1 < len(depths):
                blocks.append({**MERGES, "recurrent": {"kind": "patch-merging", "width": 2 * width}})
                side //= 2
        absolute = {"absolute": (image // patch) ** 2}
        return {
            "architecture": "encoder-only", "d_model": d, "input": read(c, patches(class_tokens=0)), "norm": LAYERNORM,
            "position": {"kind": "relative", "buckets": (2 * window - 1) ** 2, "per_layer": True,
                         **(absolute if c.flag("use_absolute_embeddings") else {})},
            "embedding_norm": True, "final_norm": final_norm, "groups": [{"blocks": blocks}],
            "head": NONE if kind == "none" else read(c, classifier(of="mean"))}

    return Family(build, {f"{prefix}Model": "none", f"{prefix}ForImageClassification": "image"})


ROWS: Final[Rows] = {
    # Swin, arXiv 2103.14030, and Donut's encoder, arXiv 2111.15664, without a last norm.
    "swin": _swin("Swin", final_norm=True), "donut-swin": _swin("DonutSwin", final_norm=False),
}
