"""Qwen's models that see, from the second on: images of any size, and rotary positions in three dimensions.

Their towers have no size of image of their own, but for Qwen 3's, whose table of positions has one: an image here is
16 x 16 = 256 positions of the text, unless squares that attend by themselves do not fit into it. An image is read as
two equal frames of a film, so that its patches have twice the channels.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Final

from txcalc.huggingface import qwen
from txcalc.huggingface.build import Data, gated, layered, layernorm, plain, rms
from txcalc.huggingface.config import IRRELEVANT, Config
from txcalc.huggingface.decoder import HEAD_NORM, decoder
from txcalc.huggingface.multimodal import head_of, part_of, whole_squares
from txcalc.huggingface.rows import flag
from txcalc.huggingface.vision import SIDE, rotates_both_ways, side_of

PARTS: Final = ("qwen2_vl_text", "qwen2_vl_vision", "qwen2_5_vl_text", "qwen2_5_vl_vision", "qwen3_vl_text",
                "qwen3_vl_vision", "qwen3_vl_moe_text", "qwen3_vl_moe_vision", "qwen3_5_vision", "qwen3_5_moe_vision")
"""Types of configuration that stand only within another."""

_QWEN3_TEXT: Final = decoder("Qwen3", bias=flag("attention_bias"), qk_norm=HEAD_NORM)


def qwen2_vl(c: Config, kind: str) -> Data:
    """Qwen2-VL, arXiv 2409.12191: squares of patches, normed one by one, through two layers."""
    text, image = text_of(c, "qwen2_vl_text", beside=True), image_of(c, "qwen2_vl_vision")
    d, heads = image.size("embed_dim"), image.size("num_heads")
    tower = any_size(image, d, heads, feed_forward=plain(image, int(d * (image.number("mlp_ratio") or 0))))
    return joined(c, kind, _qwen2_text(text), tower, text, image, width="hidden_size", ties=True)


def qwen2_5_vl(c: Config, kind: str) -> Data:
    """Qwen2.5-VL, arXiv 2502.13923: a tower like the text's layers, most of which see a square of the image only."""
    text, image = text_of(c, "qwen2_5_vl_text", beside=True), image_of(c, "qwen2_5_vl_vision")
    image.ignore("tokens_per_second")
    return joined(c, kind, _qwen2_text(text), squares(image), text, image, norm=rms(), width="out_hidden_size",
                  ties=True)


def qwen3_vl(c: Config, kind: str) -> Data:
    """Qwen3-VL, arXiv 2511.21631: what some layers of the tower make of an image is added to the text's first."""
    text = text_of(c, "qwen3_vl_text")
    spec = _QWEN3_TEXT.build(text, "lm")
    return _qwen3(c, kind, spec, text, "qwen3_vl_vision")


def qwen3_vl_moe(c: Config, kind: str) -> Data:
    """Qwen3-VL with experts."""
    text = text_of(c, "qwen3_vl_moe_text", norm_topk_prob=True, use_sliding_window=False, sliding_window=None)
    return _qwen3(c, kind, qwen.ROWS["qwen3_moe"].build(text, "lm"), text, "qwen3_vl_moe_vision")


def qwen3_5(c: Config, kind: str) -> Data:
    """Qwen 3.5: Qwen 3's tower, of which the text's first layers get no more than the others."""
    text = text_of(c, "qwen3_5_text")
    return _qwen3(c, kind, qwen.ROWS["qwen3_5_text"].build(text, "lm"), text, "qwen3_5_vision")


def qwen3_5_moe(c: Config, kind: str) -> Data:
    """Qwen 3.5 with experts."""
    text = text_of(c, "qwen3_5_moe_text")
    return _qwen3(c, kind, qwen.ROWS["qwen3_5_moe_text"].build(text, "lm"), text, "qwen3_5_moe_vision")


def _qwen3(c: Config, kind: str, spec: Data, text: Config, vision: str) -> Data:
    image = image_of(c, vision)
    rows, merge = image.size("num_position_embeddings"), image.size("spatial_merge_size")
    side = isqrt(rows)
    if side**2 != rows or side % merge:
        raise image.error("num_position_embeddings", f"must be those of a square image whose sides {merge} divides")
    tower = any_size(image, image.size("hidden_size"), image.size("num_heads"), bias=True, side=side // merge,
                     feed_forward=plain(image, image.size("intermediate_size")),
                     position={"kind": "learned", "size": rows})
    layers = tower["layers"]
    known = "deepstack_visual_indexes" in image.own
    if not known:
        image.only("deepstack_visual_indexes", [])
    deep = _layers(image, "deepstack_visual_indexes", layers) if known else []
    spec = joined(c, kind, spec, tower, text, image, width="out_hidden_size")
    projector = {name: value for name, value in spec["tower"]["projector"].items() if name != "norm_first"}
    if len(deep) > spec["layers"] or len(set(deep)) < len(deep) or list(deep) != sorted(deep):
        raise image.error("deepstack_visual_indexes", "must be different layers in order, as many as the text has "
                          "at most")
    spec["tower"]["deepstack"] = [
        projector | ({"skips": layers - 1 - i} if i + 1 < layers else {}) for i in deep
    ]
    return spec


def _layers(c: Config, name: str, layers: int) -> list[int]:
    listed = c.take(name)
    if not isinstance(listed, list) or not all(type(i) is int and 0 <= i < layers for i in listed):
        raise c.error(name, f"must be a list of some of the {layers} layers, counted from 0")
    return listed


# ---------------------------------------------------------------- what all of them share


def text_of(c: Config, model_type: str, *, beside: bool = False, **absent: Any) -> Config:
    """The text's own configuration, which older files may write ``beside`` that of the tower.

    ``absent``: fields of a related family that this one's class does not have, as it behaves.
    """
    if c.take("text_config", default=None) is not None or not beside:
        part, _ = part_of(c, "text_config", model_type, only=True)
        data, path = part.data, part.path
    else:
        own = Config({}, model_type, source=c.source).own - c.own
        data, path = {name: value for name, value in c.data.items() if name in own or name in IRRELEVANT}, c.path
        c.ignore(*data)
    for name, value in absent.items():
        if name in data and data[name] != value:
            raise c.error(f"{path}{name}".removeprefix(c.path), "is not understood: the class does not read it")
    part = Config({"tie_word_embeddings": False, **data, **absent}, model_type, source=c.source, path=path, within=c)
    part.ignore("use_mrope", "max_window_layers")
    return part


def image_of(c: Config, model_type: str) -> Config:
    """The tower's own configuration."""
    part, _ = part_of(c, "vision_config", model_type, only=True)
    part.only("in_chans", part.size("in_channels"))  # names that the class does not read
    part.only("spatial_patch_size", side_of(part, "patch_size"))
    return part


def _qwen2_text(c: Config) -> Data:
    c.only("head_dim", None, c.size("hidden_size") // c.size("num_attention_heads"))
    return qwen.ROWS["qwen2"].build(c, "lm")


def any_size(c: Config, d: int, heads: int, *, bias: bool = False, side: int = SIDE, **parts: Any) -> Data:
    """A tower of two equal frames, whose image is ``side`` squares of patches wide; ``parts`` win."""
    merge, patch, frames = c.size("spatial_merge_size"), side_of(c, "patch_size"), side_of(c, "temporal_patch_size")
    image = {"kind": "patches", "image": side * merge * patch, "patch": patch, "bias": bias, "class_tokens": 0,
             "channels": c.size("in_channels") * frames}
    rotates_both_ways(c, "num_heads", d)
    c.ignore("tie_word_embeddings")
    return {"d_model": d, "layers": c.size("depth"), "input": image, "position": {"kind": "rope"},
            "norm": layernorm(), "attention": {"heads": heads, "bias": True}, "final_norm": False, **parts}


def squares(c: Config, **attention: Any) -> Data:
    """A tower of gated layers, of which all but those listed see a square of the image only."""
    merge, patch = c.size("spatial_merge_size"), side_of(c, "patch_size")
    square = c.size("window_size") // merge // patch
    if not square:
        raise c.error("window_size", f"must be at least one merged square of {merge * patch} pixels")
    tower = any_size(c, c.size("hidden_size"), c.size("num_heads"), norm=rms(), feed_forward=gated(c, bias=True),
                     side=SIDE if SIDE % square == 0 else 4 * square)
    tower["attention"] |= attention
    whole = _layers(c, "fullatt_block_indexes", tower["layers"])
    return layered(tower, [{} if i in whole else {"attention": {"squares": square * merge}}
                           for i in range(tower["layers"])])


def joined(
    c: Config, kind: str, spec: Data, tower: Data, text: Config, image: Config, *, width: str,
    norm: Data | None = None, ties: bool = False, projector: Data | None = None,
) -> Data:
    """Text, tower and ``projector``, Qwen's unless another is given.

    ``ties``: the class ties the head if the text's configuration says so, too.
    """
    merge = image.size("spatial_merge_size")
    if image.size(width) != spec["d_model"]:
        raise image.error(width, f"must be the text's width {spec['d_model']}, got {image.size(width)}")
    whole_squares(image, "spatial_merge_size", tower, merge)
    tied = c.flag("tie_word_embeddings") | (text.flag("tie_word_embeddings") and ties)
    text.finish()
    image.finish()
    tower["projector"] = projector or normed_squares(tower["d_model"], merge, norm=norm or layernorm())
    return {**spec, "head": head_of(kind, tied), "tower": tower}


def normed_squares(width: int, merge: int, *, norm: Data) -> Data:
    """A projector: patches normed one by one, merged, and passed through a layer as wide as a square of them."""
    return {"merge": merge, "norm": norm, "norm_first": True, "bias": True,
            "hidden": [{"width": width * merge**2, "activation": "gelu", "bias": True}]}
