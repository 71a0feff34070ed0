"""Encoders of images in stages: squares of patches become one, of twice the width (Swin, arXiv 2103.14030)."""

from __future__ import annotations

from math import prod
from typing import Any, Final

from txcalc.huggingface.build import Data, labels
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import ACT, NONE, classifier
from txcalc.huggingface.rows import LAYERNORM, Family, Rows, read, take
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


def _swin(prefix: str, *, final_norm: bool, continuous: bool = False) -> Family:
    """Windows that attend by themselves, each with a bias for every distance of two patches in it.

    ``continuous``: of cosines, with norms behind each sublayer and behind what merges.
    """
    def build(c: Config, kind: str) -> Data:
        c.ignore("hidden_size", "num_layers", "encoder_stride", "stage_names", "out_features", "out_indices",
                 "tie_word_embeddings", "pretrained_window_sizes")
        if continuous or not final_norm:  # where a table of absolute positions has a row too many to be added
            c.only("use_absolute_embeddings", False)
        image, patch = side_of(c, "image_size"), side_of(c, "patch_size")
        d, side, depths = c.size("embed_dim"), image // patch, listed(c, "depths")
        if image % patch:
            raise c.error("patch_size", "must divide image_size: what the class adds to a border is not understood")
        window, bias = c.size("window_size"), {**dict.fromkeys("qkv", c.flag("qkv_bias")), "o": True}
        more: Data = {"scale": 1.0} if continuous else {}
        bias |= {"k": False} if continuous else {}
        blocks: list[Data] = []
        for i, (depth, heads) in enumerate(zip(depths, listed(c, "num_heads", len(depths)), strict=True)):
            width, own = d * 2**i, min(window, side)
            whole = own == window if not final_norm else own  # Donut's biases are those of a whole window
            if width % heads or not whole or side % own or (i + 1 < len(depths) and side % 2):
                raise c.error("window_size", f"{side} x {side} patches of {width} columns, stage {i + 1}, do not fall "
                              f"into windows, squares and {heads} heads")
            blocks.append({"repeat": depth, "feed_forward": {
                "d_ff": int(width * c.factor("mlp_ratio")), "activation": ACT(c), "bias": True}, "attention": {
                "heads": heads, "head_dim": width // heads, "image_window": own, "bias": bias, **more}})
            if i + 1 < len(depths):
                blocks.append({**MERGES, "recurrent": {"kind": "image-convolutions", "layers": [
                    {"channels": 2 * width, "kernel": 2, "stride": 2, "norm": "layernorm"}]} if continuous else {
                        "kind": "patch-merging", "width": 2 * width}})
                side //= 2
        absolute = {"absolute": (image // patch) ** 2} if c.flag("use_absolute_embeddings") else {}
        relative = {"kind": "continuous"} if continuous else {
            "kind": "relative", "buckets": (2 * window - 1) ** 2, "per_layer": True}
        return {
            "architecture": "encoder-only", "d_model": d, "input": read(c, patches(class_tokens=0)),
            "norm": {**LAYERNORM, "placement": "res-post" if continuous else "pre"}, "position": {
                **relative, **absolute},
            "embedding_norm": True, "final_norm": final_norm, "groups": [{"blocks": blocks}],
            "head": NONE if kind == "none" else read(c, classifier(of="mean"))}

    return Family(build, {f"{prefix}Model": "none", f"{prefix}ForImageClassification": "image"})


def _pyramid(
    prefix: str, *, sr: str = "sr_ratios", overlap: bool = True, sized: bool = True, classes: int = 2
) -> Family:
    """Stages of patches that become fewer and wider, whose keys are made of fewer still.

    ``overlap``: patches overlap, and the feed-forward has a depthwise convolution within (PVTv2, SegFormer). ``sized``:
    it says how large an image is; else one has 7 x 7 positions in the end. ``classes``: unless the file says another.
    """
    def build(c: Config, kind: str) -> Data:
        c.ignore("stage_names", "out_features", "out_indices", "tie_word_embeddings", "decoder_hidden_size",
                 "semantic_loss_ignore_index", "reshape_last_stage", "num_hidden_layers")
        if overlap and sized:
            c.only("linear_attention", False)
        depths = listed(c, "depths", stages := c.size("num_encoder_blocks"))
        widths, patch, strides, ratios, heads = (
            listed(c, name, stages) for name in ("hidden_sizes", "patch_sizes", "strides", sr, "num_attention_heads"))
        wider = read(c, take("mlp_ratios"))
        image = side_of(c, "image_size") if sized else 7 * prod(strides)
        if image % prod(strides) or not isinstance(wider, list) or len(wider) != stages:
            raise c.error("strides", f"must divide an image of {image} pixels, with mlp_ratios for each stage")
        if any(each % 2 == 0 or each <= stride if overlap else each != stride
               for each, stride in zip(patch, strides, strict=True)):
            raise c.error("patch_sizes", "must be odd and more than strides" if overlap else "must be strides")
        bias = {**dict.fromkeys("qkv", c.flag("qkv_bias") if sized else True), "o": True}
        act, side, blocks = ACT(c), image, list[Data]()
        for i, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
            if width % heads[i]:
                raise c.error("num_attention_heads", f"{heads[i]} heads do not divide {width} columns of stage {i + 1}")
            side //= stride
            if not overlap and (image // (2 ** (i + 1) if i else 1)) // stride != side:
                raise c.error("patch_sizes", f"stage {i + 1} has {side} positions along an image, its table others")
            layer = {"channels": width, "kernel": patch[i], "stride": stride, "bias": True, "norm": "layernorm"}
            apart = {} if overlap else {"positions": True, "class_tokens": int(i == stages - 1)}
            if i:
                blocks.append({**MERGES, "norm": {"placement": "pre" if overlap else "none"}, "recurrent": {
                    "kind": "image-convolutions", "layers": [layer], **apart}})
            d_ff, reduction = int(width * wider[i]), {"image_reduction": ratios[i]} if ratios[i] > 1 else {}
            mix = [{"channels": d_ff, "kernel": 1, "bias": True}, {
                "channels": d_ff, "groups": d_ff, "bias": True, "activation": act}, {
                "channels": width, "kernel": 1, "bias": True}]
            blocks.append({"repeat": depth, "attention": {
                "heads": heads[i], "head_dim": width // heads[i], "bias": bias, **reduction}, **(
                {"feed_forward": None, "recurrent": {"kind": "image-convolutions", "layers": mix}} if overlap else
                {"feed_forward": {"d_ff": d_ff, "activation": act, "bias": True}})})
        if not overlap and (stages == 1 or ratios[-1] > 1):
            raise c.error(sr, "the last of several stages has a class token, which no convolution passes")
        return {
            "architecture": "encoder-only", "d_model": widths[0], "norm": LAYERNORM, "embedding_norm": True,
            "position": {"kind": "none" if overlap else "learned"}, "groups": [{"blocks": blocks}],
            "input": {"kind": "patches", "image": image, "patch": strides[0], "channels": c.size("num_channels"),
                      "class_tokens": 0, "kernel": patch[0] if overlap else None},
            "head": NONE if kind == "none" else read(c, classifier(of="mean" if overlap else "first", classes=(
                lambda c: labels(c) if {"id2label", "num_labels"} & c.data.keys() else classes)))}

    return Family(build, {f"{prefix}Model": "none", f"{prefix}ForImageClassification": "image"})


ROWS: Final[Rows] = {
    # PVT, arXiv 2102.12122, PVTv2, arXiv 2106.13797, and SegFormer, arXiv 2105.15203.
    "pvt": _pyramid("Pvt", sr="sequence_reduction_ratios", overlap=False, classes=1000), "pvt_v2": _pyramid("PvtV2"),
    "segformer": _pyramid("Segformer", sized=False),
    # Swin, arXiv 2103.14030, and Donut's encoder, arXiv 2111.15664, without a last norm.
    "swin": _swin("Swin", final_norm=True), "donut-swin": _swin("DonutSwin", final_norm=False),
    # Swin v2, arXiv 2111.09883.
    "swinv2": _swin("Swinv2", final_norm=True, continuous=True),
}
