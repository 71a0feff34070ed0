"""Other models that see images of any size: GLM's, EXAONE's, Kimi's and PaddleOCR's.

Where a tower has a table of positions, an image here is as large as that table, which the classes interpolate for
others; GLM-OCR's has none, but its file says a size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import HEAD_NORM, decoder, qkv
from txcalc.huggingface.encoder import ACT, split_width
from txcalc.huggingface.multimodal import family_of, head_of, part_of, seeing_classes, text_stack, whole_squares
from txcalc.huggingface.qwen_vl import any_size, frames, image_of, joined, merged, patchwise, squares, text_of
from txcalc.huggingface.rows import LAYERNORM, RMS, SANDWICH, WIDTH, Family, Part, Rows, Value, flag, gated, read, size
from txcalc.huggingface.vision import patches, rotates_both_ways, side_of, vit_tower
from txcalc.spec.errors import shown


def _table(c: Config) -> tuple[int, Data]:
    """The number of squares of patches along a table of positions, and the table, which may have a border beside."""
    rows, merge = side_of(c, "image_size") // side_of(c, "patch_size"), c.size("spatial_merge_size")
    if rows < merge:
        raise c.error("spatial_merge_size", f"must be at most the {rows} patches along an image")
    return rows // merge, {"kind": "learned", "size": rows**2}


# ---------------------------------------------------------------- GLM


def _glm4v(c: Config) -> Data:
    """Patches are normed before positions are added: as many values as a norm on the sum has."""
    side, table = _table(c)
    return frames(c, bias=True, side=side, norm=RMS, final_norm=True, position=table, embedding_norm=True,
                  feed_forward=gated(d_ff=size("out_hidden_size")),
                  attention={"heads": size("num_heads"), "bias": qkv(flag("attention_bias"))})


def _glm_ocr(c: Config) -> Data:
    """Without a table of positions, and with a norm on each head."""
    return frames(c, bias=True, side=_table(c)[0], norm=RMS, final_norm=True,
                  feed_forward=gated(bias=flag("attention_bias")), attention={
                      "heads": size("num_heads"), "bias": flag("attention_bias"), "qk_norm": HEAD_NORM})


def _context(c: Config, _: Data, width: Value = WIDTH) -> Part:
    """A convolution over each square, a normed layer, and a gated one of the ``width``."""
    out = c.size("out_hidden_size")
    return {"merge": size("spatial_merge_size"), "hidden": [
        {"width": out, "bias": True}, {"width": out, "norm": LAYERNORM, "activation": "gelu"},
        {"width": read(c, width), "activation": ACT(c), "gated": True}]}


def _channels(c: Config) -> int:
    return c.size("out_hidden_size") * c.size("in_channels")


_GLM4_TEXT: Final = decoder({}, bias=qkv(True), norm=SANDWICH, only={
    "attention_bias": True, "head_dim": (None, split_width)})
_glm: Final = partial(any_size, tower=_glm4v, projector=_context)


def _glm46v(c: Config, kind: str) -> Data:
    """The text and the tower of GLM-4.1V or of GLM-4.5V."""
    types = {"text_config": ("glm4v_text", "glm4v_moe_text"), "vision_config": ("glm4v_vision", "glm4v_moe_vision")}
    given = {name: part_of(c, name, known[0])[1] for name, known in types.items()}
    for name, known in types.items():
        if given[name] not in known:
            raise c.error(f"{name}.model_type", f"only {' or '.join(known)} is understood, got {shown(given[name])}")
    image = image_of(c, given["vision_config"])
    if given["text_config"] == "glm4v_text":
        text = text_of(c, "glm4v_text")
        spec = _GLM4_TEXT.build(text, "lm")
    else:
        text = text_of(c, "glm4v_moe_text", use_qk_norm=False)
        spec = family_of(text, "glm4_moe", ("lm",)).build(text, "lm")
    return joined(c, kind, spec, _glm4v(image), text, image, projector=_context)


# ---------------------------------------------------------------- others


def _exaone4_5(c: Config, kind: str) -> Data:
    """EXAONE 4's text, and Qwen2.5-VL's tower with grouped queries."""
    data = c.take("text_config", default=None)
    if isinstance(data, Mapping) and data.get("model_type") == "exaone4_5_text":  # as it was first released
        c.data["text_config"] = {**data, "model_type": "exaone4"}
    text, image = text_of(c, "exaone4"), image_of(c, "exaone4_5_vision")
    c.only("vocab_size", text.size("vocab_size"))
    text.only("reorder_qk_norm", True)
    spec = family_of(text, "exaone4", ("lm",)).build(text, "lm")
    tower = squares(image, kv_heads=size("num_key_value_heads"))
    return joined(c, kind, spec, tower, text, image, projector=patchwise(RMS))


def _kimi_k25(c: Config, kind: str) -> Data:
    """Kimi K2.5, arXiv 2602.02276: MoonViT's patches, normed one by one, before Kimi K2's experts."""
    c.ignore("media_placeholder_token_id", "video_placeholder", "use_unified_vision_chunk",
             "projection_layer_norm_eps")
    spec = text_stack(c, kind, "deepseek_v3")
    image, _ = part_of(c, "vision_config", "kimi_k25_vision", only=True)
    side, merge = image.size("pos_emb_height"), side_of(image, "merge_kernel_size")
    image.only("pos_emb_width", side)
    patch = side_of(image, "patch_size")
    tower = vit_tower(image, input={"kind": "patches", "image": side * patch, "patch": patch, "class_tokens": 0},
                      position={"kind": "learned", "size": side**2})
    rotates_both_ways(image, "num_attention_heads", tower["d_model"])
    whole_squares(image, "merge_kernel_size", tower, merge)
    if c.size("projection_hidden_size") != tower["d_model"]:
        raise c.error("projection_hidden_size", f"must be the tower's width {tower['d_model']}, got "
                      f"{c.take('projection_hidden_size')}")
    _released(image, spec, tower)
    image.finish()
    tower["projector"] = merged(tower, merge)
    return spec | {"tower": tower}


def _released(c: Config, spec: Data, tower: Data) -> None:
    """Refuse another size under what Moonshot's own files call it, which the class passes over."""
    c.ignore("pos_emb_time", "init_pos_emb_time", "projector_ln_eps", "video_attn_type")
    feed = tower["feed_forward"]["d_ff"]
    for name, value in (
        ("vt_hidden_size", tower["d_model"]), ("vt_num_hidden_layers", tower["layers"]), ("vt_intermediate_size", feed),
        ("vt_num_attention_heads", tower["attention"]["heads"]), ("mm_hidden_size", tower["d_model"]),
        ("text_hidden_size", spec["d_model"]), ("init_pos_emb_height", c.size("pos_emb_height")),
        ("init_pos_emb_width", c.size("pos_emb_width")), ("merge_type", "sd2_tpool"),
        ("mm_projector_type", "patchmerger"), ("pos_emb_type", "divided_fixed"), ("projector_hidden_act", "gelu"),
    ):
        c.only(name, value)


def _paddleocr_vl(c: Config, kind: str) -> Data:
    """PaddleOCR-VL, arXiv 2510.14528: SigLIP's tower without the query that reads it, before ERNIE 4.5.

    The head is tied unless both configurations say otherwise, or one file that has the text's fields beside the tower.
    """
    c.ignore("ignored_index", "weight_share_add_bias", "use_3d_rope", "rope_is_neox_style", "use_flash_attention")
    text = text_of(c, "paddleocr_vl_text", beside=True)
    image, _ = part_of(c, "vision_config", "paddleocr_vl_vision", only=True)
    merge, (side, table) = image.size("spatial_merge_size"), _table(image)
    tower = vit_tower(image, input=patches(
        image=side * merge * side_of(image, "patch_size"), class_tokens=0), position=table)
    rotates_both_ways(image, "num_attention_heads", tower["d_model"])
    image.ignore("temporal_patch_size", "tokens_per_second")
    image.finish()
    spec = family_of(text, "ernie4_5", ("lm",)).build(text, "lm")
    text.finish()
    own = c.take("text_config", default=None)
    inner = text.flag("tie_word_embeddings") if own is None or "tie_word_embeddings" in own else True
    tower["projector"] = merged(tower, merge)
    tied = c.flag("tie_word_embeddings") or inner
    if tied and kind == "lm" and c.data.get("tie_word_embeddings") is False:
        c.remarks.choices.append("the head is tied, as the class ties it, though the file says that it is not")
    return {**spec, "head": head_of(kind, tied), "tower": tower}


ROWS: Final[Rows] = {
    # GLM-4.1V, arXiv 2507.01006: GLM-4's text, and a tower whose merged patches pass a gated layer.
    "glm4v": _glm("Glm4v", "glm4v", _GLM4_TEXT, ties=True),
    # GLM-4.5V: the same tower before GLM-4.5's experts. GLM-4.6V: either. GLM-OCR: GLM-4.1V without biases in the text.
    "glm4v_moe": _glm("Glm4vMoe", "glm4v_moe", "glm4_moe", ties=True, absent={"use_qk_norm": False}),
    "glm46v": Family(_glm46v, seeing_classes("Glm46V")), "glmga": Family(_glm46v, seeing_classes("Glm46V")),
    "glm_ocr": any_size("GlmOcr", "glm_ocr", decoder({}, norm=SANDWICH, only={"attention_bias": False},
                                                     ignore="num_nextn_predict_layers"),
                        _glm_ocr, ties=True, projector=partial(_context, width=_channels)),
    "exaone4_5": Family(_exaone4_5, seeing_classes("Exaone4_5_"), ("exaone4_5_vision",)),
    "kimi_k25": Family(_kimi_k25, seeing_classes("Kimi_K25") | {"KimiK25ForConditionalGeneration": "lm"},
                       ("kimi_k25_vision",)),
    "paddleocr_vl": Family(_paddleocr_vl, seeing_classes("PaddleOCRVL"), ("paddleocr_vl_text", "paddleocr_vl_vision")),
}
