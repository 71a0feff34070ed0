"""Other models that see images of any size: GLM's, EXAONE's, Kimi's and PaddleOCR's.

Where a tower has a table of positions, an image here is as large as that table, which the classes interpolate for
others; GLM-OCR's has none, but its file says a size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from txcalc.huggingface import exaone, glm, others
from txcalc.huggingface.build import Data, activation, gated, layernorm, rms
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import decoder, qkv
from txcalc.huggingface.multimodal import head_of, part_of, text_stack, whole_squares
from txcalc.huggingface.qwen_vl import any_size, image_of, joined, normed_squares, squares, text_of
from txcalc.huggingface.rows import SANDWICH
from txcalc.huggingface.vision import patches, rotates_both_ways, side_of, vit_tower
from txcalc.spec.errors import shown

PARTS: Final = ("glm4v_text", "glm4v_vision", "glm4v_moe_text", "glm4v_moe_vision", "glm_ocr_text", "glm_ocr_vision",
                "exaone4_5_vision", "kimi_k25_vision", "paddleocr_vl_text", "paddleocr_vl_vision")
"""Types of configuration that stand only within another."""


# ---------------------------------------------------------------- GLM


def glm4v(c: Config, kind: str) -> Data:
    """GLM-4.1V, arXiv 2507.01006: GLM-4's text, and a tower whose merged patches pass a gated layer."""
    text, image = text_of(c, "glm4v_text"), image_of(c, "glm4v_vision")
    return _glm(c, kind, _glm4_text(text), text, image, ties=True)


def glm4v_moe(c: Config, kind: str) -> Data:
    """GLM-4.5V: the same tower before GLM-4.5's experts."""
    text, image = text_of(c, "glm4v_moe_text", use_qk_norm=False), image_of(c, "glm4v_moe_vision")
    return _glm(c, kind, glm.ROWS["glm4_moe"].build(text, "lm"), text, image, ties=True)


def glm46v(c: Config, kind: str) -> Data:
    """GLM-4.6V: the text and the tower of GLM-4.1V or of GLM-4.5V."""
    texts, images = ("glm4v_text", "glm4v_moe_text"), ("glm4v_vision", "glm4v_moe_vision")
    (_, text_type), (_, image_type) = part_of(c, "text_config", texts[0]), part_of(c, "vision_config", images[0])
    for name, given, known in (("text_config", text_type, texts), ("vision_config", image_type, images)):
        if given not in known:
            raise c.error(f"{name}.model_type", f"only {' or '.join(known)} is understood, got {shown(given)}")
    image = image_of(c, image_type)
    if text_type == "glm4v_text":
        text = text_of(c, text_type)
        return _glm(c, kind, _glm4_text(text), text, image)
    text = text_of(c, text_type, use_qk_norm=False)
    return _glm(c, kind, glm.ROWS["glm4_moe"].build(text, "lm"), text, image)


def _glm4_text(c: Config) -> Data:
    c.only("attention_bias", True)
    c.only("head_dim", None, c.size("hidden_size") // c.size("num_attention_heads"))
    return decoder("Glm4v", bias=qkv(True), norm=SANDWICH).build(c, "lm")


def _glm(c: Config, kind: str, spec: Data, text: Config, image: Config, *, ties: bool = False) -> Data:
    """Patches are normed before positions are added: as many values as a norm on the sum has."""
    bias, heads = image.flag("attention_bias"), image.size("num_heads")
    width, context = image.size("out_hidden_size"), image.size("intermediate_size")
    return _glm_tower(
        c, kind, spec, text, image, ties=ties, context=context, position=_table(image)[1], embedding_norm=True,
        attention={"heads": heads, "bias": {"q": bias, "k": bias, "v": bias}},
        feed_forward=gated(image, d_ff=width),
    )


def glm_ocr(c: Config, kind: str) -> Data:
    """GLM-OCR: GLM-4.1V without biases in the text, without a table of positions, and with a norm on each head."""
    text, image = text_of(c, "glm_ocr_text"), image_of(c, "glm_ocr_vision")
    text.only("attention_bias", False)
    text.ignore("num_nextn_predict_layers")
    spec = decoder("GlmOcr", norm=SANDWICH).build(text, "lm")
    bias = image.flag("attention_bias")
    return _glm_tower(
        c, kind, spec, text, image, ties=True, context=image.size("out_hidden_size") * image.size("in_channels"),
        attention={"heads": image.size("num_heads"), "bias": bias, "qk_norm": rms(over="head")},
        feed_forward=gated(image, bias=bias),
    )


def _glm_tower(
    c: Config, kind: str, spec: Data, text: Config, image: Config, *, ties: bool, context: int, **parts: Any
) -> Data:
    """The tower, and a projector of a convolution over each square, a normed layer, and a gated one of ``context``."""
    width, merge = image.size("out_hidden_size"), image.size("spatial_merge_size")
    tower = any_size(image, image.size("hidden_size"), image.size("num_heads"), bias=True, side=_table(image)[0],
                     norm=rms(), final_norm=True, **parts)
    projector: Data = {"merge": merge, "hidden": [
        {"width": width, "bias": True}, {"width": width, "norm": layernorm(), "activation": "gelu"},
        {"width": context, "activation": activation(image, "hidden_act"), "gated": True},
    ]}
    return joined(c, kind, spec, tower, text, image, width="out_hidden_size", ties=ties, projector=projector)


def _table(c: Config) -> tuple[int, Data]:
    """How many squares of patches fit along a table of positions, and the table, which may have a border beside."""
    rows, merge = side_of(c, "image_size") // side_of(c, "patch_size"), c.size("spatial_merge_size")
    if rows < merge:
        raise c.error("spatial_merge_size", f"must be at most the {rows} patches along an image")
    return rows // merge, {"kind": "learned", "size": rows**2}


# ---------------------------------------------------------------- others


def exaone4_5(c: Config, kind: str) -> Data:
    """EXAONE 4.5: EXAONE 4's text, and Qwen2.5-VL's tower with grouped queries."""
    data = c.take("text_config", default=None)
    if isinstance(data, Mapping) and data.get("model_type") == "exaone4_5_text":  # as it was first released
        c.data["text_config"] = {**data, "model_type": "exaone4"}
    text, image = text_of(c, "exaone4"), image_of(c, "exaone4_5_vision")
    c.only("vocab_size", text.size("vocab_size"))
    text.only("reorder_qk_norm", True)
    image.ignore("tokens_per_second")
    kv_heads = image.size("num_key_value_heads")
    spec = exaone.ROWS["exaone4"].build(text, "lm")
    return joined(c, kind, spec, squares(image, kv_heads=kv_heads), text, image, norm=rms(), width="out_hidden_size")


def kimi_k25(c: Config, kind: str) -> Data:
    """Kimi K2.5, arXiv 2602.02276: MoonViT's patches, normed one by one, before Kimi K2's experts."""
    c.ignore("ignore_index", "media_placeholder_token_id", "video_placeholder", "use_unified_vision_chunk",
             "projection_layer_norm_eps")
    spec = text_stack(c, kind, "deepseek_v3")
    image, _ = part_of(c, "vision_config", "kimi_k25_vision", only=True)
    side, merge = image.size("pos_emb_height"), side_of(image, "merge_kernel_size")
    image.only("pos_emb_width", side)
    patch = side_of(image, "patch_size")
    tower = vit_tower(image, {"kind": "patches", "image": side * patch, "patch": patch, "class_tokens": 0},
                      position={"kind": "learned", "size": side**2})
    rotates_both_ways(image, "num_attention_heads", tower["d_model"])
    whole_squares(image, "merge_kernel_size", tower, merge)
    if c.size("projection_hidden_size") != tower["d_model"]:
        raise c.error("projection_hidden_size", f"must be the tower's width {tower['d_model']}, got "
                      f"{c.take('projection_hidden_size')}")
    _released(image, spec, tower)
    image.finish()
    tower["projector"] = normed_squares(tower["d_model"], merge, norm=layernorm())
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


def paddleocr_vl(c: Config, kind: str) -> Data:
    """PaddleOCR-VL, arXiv 2510.14528: SigLIP's tower without the query that reads it, before ERNIE 4.5.

    The head is tied unless both configurations say otherwise, or one file that has the text's fields beside the tower.
    """
    c.ignore("ignored_index", "weight_share_add_bias", "use_3d_rope", "rope_is_neox_style", "use_flash_attention")
    text = text_of(c, "paddleocr_vl_text", beside=True)
    image, _ = part_of(c, "vision_config", "paddleocr_vl_vision", only=True)
    merge, (side, table) = image.size("spatial_merge_size"), _table(image)
    given = patches(image, class_tokens=0)
    tower = vit_tower(image, given | {"image": side * merge * given["patch"]}, position=table)
    rotates_both_ways(image, "num_attention_heads", tower["d_model"])
    image.ignore("temporal_patch_size", "tokens_per_second")
    image.finish()
    spec = others.ROWS["ernie4_5"].build(text, "lm")
    text.finish()
    own = c.take("text_config", default=None)
    inner = text.flag("tie_word_embeddings") if own is None or "tie_word_embeddings" in own else True
    tower["projector"] = normed_squares(tower["d_model"], merge, norm=layernorm())
    tied = c.flag("tie_word_embeddings") or inner
    if tied and kind == "lm" and c.data.get("tie_word_embeddings") is False:
        c.remarks.choices.append("the head is tied, as the class ties it, though the file says that it is not")
    return {**spec, "head": head_of(kind, tied), "tower": tower}
