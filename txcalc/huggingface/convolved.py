"""Encoders of images in stages that are mostly convolutions, with attention between or within them."""

from __future__ import annotations

from math import prod
from typing import Any, Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import ACT, NONE, classifier
from txcalc.huggingface.rows import LAYERNORM, Family, Rows, read
from txcalc.huggingface.staged import MERGES, listed
from txcalc.huggingface.vision import side_of

_ALONE: Final[Data] = {"attention": None, "feed_forward": None, "norm": {"placement": "none"}}
"""A block of one layer in its residual, without a norm."""


def _convolutions(*layers: Data, **more: Any) -> Data:
    return {"recurrent": {"kind": "image-convolutions", "layers": list(layers), **more}}


def _batch(channels: int, kernel: int, act: str | None = None, **more: Any) -> Data:
    """A convolution with a batch norm, and an activation behind it."""
    return {"channels": channels, "kernel": kernel, "norm": "batchnorm", **({"activation": act} if act else {}), **more}


def _point(channels: int, act: str | None = None) -> Data:
    """A convolution of single positions, with a bias."""
    return {"channels": channels, "kernel": 1, "bias": True, **({"activation": act} if act else {})}


def _classes(prefix: str) -> dict[str, str]:
    return {f"{prefix}Model": "none", f"{prefix}ForImageClassification": "image"}


def _cvt(c: Config, kind: str) -> Data:
    """Stages whose queries, keys and values are convolved by themselves; a class token stands in the last, or none."""
    c.ignore("attention_drop_rate", "drop_rate", "tie_word_embeddings")
    depths = listed(c, "depth")
    stages, side = len(depths), 14 * prod(strides := listed(c, "patch_stride", len(depths)))
    widths, patch, heads, kernels, apart = (
        listed(c, name, stages) for name in ("embed_dim", "patch_sizes", "num_heads", "kernel_qkv", "stride_kv"))
    several = {name: c.take(name) for name in ("patch_padding", "mlp_ratio", "qkv_bias", "cls_token")}
    for name, found in several.items():
        if not isinstance(found, list | tuple) or len(found) != stages:
            raise c.error(name, f"must be a list of {stages}, one for each stage")
    around = [kernel // 2 for kernel in kernels]
    expected: dict[str, list[Any]] = {
        "qkv_projection_method": ["dw_bn"] * stages, "padding_kv": around, "padding_q": around,
        "stride_q": [1] * stages, "cls_token": [False] * (stages - 1) + [c.take("cls_token")[-1]],
        "kernel_qkv": [kernel + 1 - kernel % 2 for kernel in kernels],
        "patch_sizes": [size + 1 - size % 2 for size in patch]}
    for name, understood in expected.items():
        if (found := c.take(name, default=understood)) not in (understood, tuple(understood)):
            raise c.error(name, f"only {understood} is understood, got {found}")
    first, blocks, image = bool(several["cls_token"][-1]), list[Data](), side
    if first is (stages == 1) or not (first or kind == "none"):
        raise c.error("cls_token", "a class token stands in the last of several stages, and the classifier reads it")
    for i, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
        if (side + 2 * several["patch_padding"][i] - patch[i]) // stride != (side - 1) // stride:
            raise c.error("patch_padding", f"stage {i + 1} has other positions than half its kernel would leave")
        side = (side - 1) // stride + 1
        if width % heads[i]:
            raise c.error("num_heads", f"{heads[i]} heads do not divide {width} columns of stage {i + 1}")
        layer = {"channels": width, "kernel": patch[i], "stride": stride, "bias": True, "norm": "layernorm"}
        if i:
            blocks.append({**MERGES, "recurrent": {"kind": "image-convolutions", "layers": [layer],
                                                   "class_tokens": int(first and i == stages - 1)}})
        bias = {**dict.fromkeys("qkv", bool(several["qkv_bias"][i])), "o": True}
        blocks.append({"repeat": depth, "attention": {
            "heads": heads[i], "head_dim": width // heads[i], "bias": bias, "scale": width**-0.5,
            "image_convolution": kernels[i], "image_reduction": apart[i]}, "feed_forward": {
                "d_ff": int(width * several["mlp_ratio"][i]), "activation": "gelu", "bias": True}})
    return {
        "architecture": "encoder-only", "d_model": widths[0], "norm": LAYERNORM, "embedding_norm": True,
        "position": {"kind": "none"}, "groups": [{"blocks": blocks}], "final_norm": kind != "none", "input": {
            "kind": "patches", "image": image, "patch": strides[0], "channels": c.size("num_channels"),
            "class_tokens": 0, "kernel": patch[0]},
        "head": NONE if kind == "none" else read(c, classifier(of="first" if first else "mean"))}


def _swift(c: Config, kind: str) -> Data:
    """Stages of convolutions in residuals, the last of each followed by attention and two layers of each position."""
    c.ignore("drop_mlp_rate", "drop_conv_encoder_rate", "batch_norm_eps", "tie_word_embeddings",
             "layer_scale_init_value")
    c.only("use_layer_scale", True)
    depths, image, ratio = listed(c, "depths"), side_of(c, "image_size"), c.factor("mlp_ratio")
    widths, down, kernel = listed(c, "embed_dims", len(depths)), c.take("downsamples"), side_of(c, "down_patch_size")
    stride, act = side_of(c, "down_stride"), ACT(c)
    c.only("down_pad", kernel // 2, [kernel // 2] * 2)
    if not isinstance(down, list | tuple) or len(down) < len(depths) - 1 or kernel % 2 == 0:
        raise c.error("downsamples", "must be a list, one for each stage, of odd down_patch_size")
    if widths[0] % 2 or image % 2:
        raise c.error("embed_dims", "must begin with an even width, of an image of an even number of pixels")
    blocks: list[Data] = [{**MERGES, **_convolutions(
        _batch(widths[0], 3, "relu", stride=2, bias=True), norm="batchnorm", activation="relu")}]
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        def local(hidden: int, width: int = width) -> Data:
            return {**_ALONE, **_convolutions(_batch(width, 3, groups=width, bias=True), _point(hidden, "gelu"),
                                              _point(width))}

        blocks += [{**local(int(ratio * width)), "repeat": depth - 1}] if depth > 1 else []
        blocks += [local(width), {**_ALONE, "recurrent": {"kind": "additive-attention"}}, {**_ALONE, **_convolutions(
            _point(int(width * ratio), act), _point(width), norm="batchnorm")}]
        if i + 1 < len(depths) and (down[i] or width != widths[i + 1]):
            blocks.append({**MERGES, **_convolutions(_batch(widths[i + 1], kernel, stride=stride, bias=True))})
    blocks += [] if kind == "none" else [{**MERGES, **_convolutions(norm="batchnorm")}]
    return {
        "architecture": "encoder-only", "d_model": widths[0] // 2, "position": {"kind": "none"}, "layer_scale": True,
        "final_norm": False, "groups": [{"blocks": blocks}], "input": {
            "kind": "patches", "image": image, "patch": 2, "kernel": 3, "channels": c.size("num_channels"),
            "class_tokens": 0}, "head": NONE if kind == "none" else read(c, classifier(of="mean", copies=2))}


def _divisible(value: float, by: int = 8, least: int | None = None) -> int:
    """The multiple of ``by`` near a value, and no less than nine tenths of it."""
    found = max(least or by, int(value + by / 2) // by * by)
    return found + by if found < 0.9 * value else found


def _mobile(c: Config, kind: str) -> Data:
    """MobileNetV2's blocks, and in three stages attention among convolutions, whose norms are over a whole image."""
    c.ignore("aspp_out_channels", "atrous_rates", "aspp_dropout_prob", "semantic_loss_ignore_index",
             "classifier_dropout_prob", "attn_dropout", "ffn_dropout", "tie_word_embeddings")
    c.only("output_stride", 32)
    act, wider, expand, image = ACT(c), c.number("width_multiplier") or 0, c.number("expand_ratio") or 0, side_of(
        c, "image_size")
    kernel, times, square = c.size("conv_kernel_size"), c.size("ffn_multiplier"), side_of(c, "patch_size")
    depths, units = listed(c, "n_attn_blocks", 3), listed(c, "base_attn_unit_dims", 3)
    if image % (32 * square) or kernel % 2 == 0:
        raise c.error("patch_size", f"must divide the {image // 32} positions in the end of an image of 32 pixels or a "
                      "multiple, and conv_kernel_size be odd")
    first, second = _divisible(min(max(32 * wider, 16), 64), least=16), _divisible(64 * wider, 16)

    def inverted(into: int, out: int, stride: int = 1) -> Data:
        wide = _divisible(round(into * expand))
        return {**(_ALONE if stride == 1 and into == out else MERGES), **_convolutions(
            _batch(wide, 1, act), _batch(wide, 3, act, stride=stride, groups=wide), _batch(out, 1))}

    width = _divisible(128 * wider)
    blocks = [{**MERGES, **_convolutions(norm="batchnorm", activation=act)}, inverted(first, second),
              inverted(second, width, 2), inverted(width, width)]
    for i, (depth, base, unit) in enumerate(zip(depths, (256, 384, 512), units, strict=True)):
        before, width, d = width, _divisible(base * wider), _divisible(unit * wider)
        if (d_ff := times * d // 16 * 16) < 1:
            raise c.error("ffn_multiplier", f"leaves stage {i + 1} no feed-forward")
        blocks += [
            inverted(before, width, 2),
            {**MERGES, **_convolutions(_batch(width, kernel, act, groups=width), {"channels": d, "kernel": 1})},
            {"repeat": depth, "attention": None, "recurrent": {"kind": "additive-attention", "separable": True},
             "feed_forward": {"d_ff": d_ff, "activation": act, "bias": True}},
            {**MERGES, "norm": {"placement": "pre"}, **_convolutions(_batch(width, 1))}]
    return {
        "architecture": "encoder-only", "d_model": first, "position": {"kind": "none"}, "norm": LAYERNORM,
        "final_norm": False, "groups": [{"blocks": blocks}], "input": {
            "kind": "patches", "image": image, "patch": 2, "kernel": 3, "channels": c.size("num_channels"),
            "class_tokens": 0, "bias": False}, "head": NONE if kind == "none" else read(c, classifier(of="mean"))}


ROWS: Final[Rows] = {
    # CvT, arXiv 2103.15808; SwiftFormer, arXiv 2303.15446; MobileViTv2, arXiv 2206.02680.
    "cvt": Family(_cvt, _classes("Cvt")), "swiftformer": Family(_swift, _classes("SwiftFormer")),
    "mobilevitv2": Family(_mobile, _classes("MobileViTV2")),
}
