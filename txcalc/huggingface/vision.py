"""Encoders of images, alone or compared with one of texts: a skeleton, and rows that say what sets a family apart.

Read off the forward pass of the transformers class of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isqrt
from typing import Final

from txcalc.huggingface.build import ACTIVATIONS, Data
from txcalc.huggingface.config import Config, class_defaults
from txcalc.huggingface.decoder import FULL_NORM
from txcalc.huggingface.encoder import ACT, HEADS, NONE, Heads, classifier
from txcalc.huggingface.rows import (
    LAYERNORM,
    LEARNED,
    RMS,
    Family,
    Only,
    Part,
    Rows,
    Value,
    flag,
    gated,
    passed_over,
    plain,
    read,
    size,
)
from txcalc.spec.errors import shown

SIDE: Final = 16
"""Positions of the text along an image, for towers that have no size of image of their own: 16 x 16 = 256 of them."""

# ---------------------------------------------------------------- readers


def side_of(c: Config, name: str) -> int:
    """One side of a square, which may be written as both."""
    value = c.take(name)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise c.error(name, f"must be one side of a square, got {shown(c.take(name))}")
    return value


def patches(**more: Value) -> Part:
    """The image as a sequence. Images and patches that are not square are refused."""
    return {"kind": "patches", "image": lambda c: side_of(c, "image_size"),
            "patch": lambda c: side_of(c, "patch_size"), "channels": size("num_channels"), **more}


def rotates_both_ways(c: Config, name: str, d: int) -> None:
    """Refuse heads, of the number in field ``name``, whose columns cannot be rotated along both sides of an image."""
    heads = c.size(name)
    turns_both_ways(c, name, 0 if d % heads else d // heads)


def turns_both_ways(c: Config, name: str, width: int) -> None:
    """Refuse a head's ``width``, which field ``name`` decides, that does not split into pairs for either side."""
    if not width or width % 4:
        raise c.error(name, "positions rotate pairs of columns along both sides of an image, so a head's must be a "
                      "multiple of 4")


def _rotated(c: Config) -> Data:
    rotates_both_ways(c, "num_attention_heads", c.size("hidden_size"))
    return {"kind": "rope"}


def _own_width(c: Config) -> int | None:
    return c.size("head_dim") if "head_dim" in c.own and c.take("head_dim") is not None else None


def attention(bias: Value = True, **more: Value) -> Part:
    """As many heads as ``num_attention_heads`` says, with biases."""
    return {"heads": HEADS, "bias": bias, "head_dim": _own_width, **more}


def qkv(name: str) -> Part:
    """A switch for the biases of queries, keys and values."""
    return {**dict.fromkeys("qkv", flag(name)), "o": True}


# ---------------------------------------------------------------- the skeleton

TOWER: Final[Mapping[str, Value]] = {
    "d_model": size("hidden_size"), "layers": size("num_hidden_layers"), "position": LEARNED, "norm": LAYERNORM,
    "attention": attention(), "feed_forward": plain(), "input": patches()}
"""ViT's stack: norms before each sublayer and at the end."""


def vit_tower(c: Config, **parts: Value) -> Data:
    """A stack of ViT's shape but for ``parts``."""
    c.ignore("tie_word_embeddings")
    return dict(read(c, {**TOWER, **parts}))


BARE: Final[Heads] = {"none": {"head": NONE}, "image": {"head": classifier()}}


def images(
    classes: str | Mapping[str, str], heads: Heads = BARE, *, ignore: str = "", only: Only | None = None, **parts: Value
) -> Family:
    """A family of image encoders; ``classes`` are those that carry it, or how they begin."""
    def build(c: Config, kind: str) -> Data:
        passed_over(c, ignore, only or {})
        return {"architecture": "encoder-only", **vit_tower(c, **parts, **read(c, heads[kind]))}

    usual = {"Model": "none", "ForImageClassification": "image"}
    return Family(build, classes if not isinstance(classes, str) else {
        f"{classes}{suffix}": kind for suffix, kind in usual.items()})


def tower_of(family: Family, part: Config) -> Data:
    """The tower that a configuration of an image encoder's family says, without a head."""
    spec = family.build(part, "none")
    part.finish()
    return {name: value for name, value in spec.items() if name not in ("architecture", "head")}


_VIT_POOLER: Final[Part] = {"activation": lambda c: c.choice("pooler_act", ACTIVATIONS),
                            "width": lambda c: c.size_or(c.size("hidden_size"), "pooler_output_size")}
_vit: Final = partial(
    images, heads=BARE | {"none": {"pooler": _VIT_POOLER, "head": NONE}, "teacher": {"head": classifier(copies=2)}},
    ignore="encoder_stride pooler_act pooler_output_size", attention=attention(qkv("qkv_bias")))


def _beit_position(c: Config) -> Data:
    """A table of all distances between two patches, and three rows for the class token; or absolute positions."""
    absolute, own = c.flag("use_absolute_position_embeddings"), c.flag("use_relative_position_bias")
    shared = c.flag("use_shared_relative_position_bias")
    if absolute + own + shared > 1:
        raise c.error("use_relative_position_bias", "more than one kind of position at a time is not understood")
    if own or shared:
        side = side_of(c, "image_size") // side_of(c, "patch_size")
        return {"kind": "relative", "buckets": (2 * side - 1) ** 2 + 3, "per_layer": own}
    return LEARNED if absolute else {"kind": "none"}


def _beit_pooler(c: Config) -> Data | None:
    return {"kind": "norm", "of": "mean"} if c.flag("use_mean_pooling") else None


_MASK: Final[Part] = patches(mask_token=flag("use_mask_token"))
_beit: Final = partial(
    images, ignore="vocab_size use_auxiliary_head auxiliary_loss_weight auxiliary_channels auxiliary_num_convs "
    "auxiliary_concat_input semantic_loss_ignore_index pool_scales out_indices out_features segmentation_indices "
    "stage_names add_fpn reshape_hidden_states", input=_MASK, position=_beit_position,
    attention=attention({"q": True, "k": False, "v": True, "o": True}),
    layer_scale=lambda c: (c.number("layer_scale_init_value") or 0) > 0,
    final_norm=lambda c: not c.flag("use_mean_pooling"))


def _dinov2_feed(c: Config) -> Part:
    """The giant has a gated feed-forward."""
    width = int(c.size("hidden_size") * c.factor("mlp_ratio"))
    if width < 1:
        raise c.error("mlp_ratio", "must make a feed-forward of at least 1")
    if c.flag("use_swiglu_ffn"):
        c.ignore("hidden_act")
        return {"d_ff": (width * 2 // 3 + 7) // 8 * 8, "activation": "silu", "gated": True, "bias": True}
    return {"d_ff": width, "activation": ACT, "bias": True}


_BACKBONE: Final = "apply_layernorm reshape_hidden_states out_features out_indices stage_names layerscale_value"
_REGISTERS: Final = size("num_register_tokens", least=0)
_dinov2: Final = partial(
    images, heads=BARE | {"image": {"head": classifier(of="first+mean")}}, attention=attention(qkv("qkv_bias")),
    layer_scale=True, feed_forward=_dinov2_feed)


def _siglip_pooler(c: Config) -> Part | None:
    """A learned query that attends to all patches."""
    parts = {"kind": "attention", "attention": attention(), "feed_forward": plain()}
    return parts if c.flag("vision_use_head") else None


def flexible(c: Config) -> Data:
    """As many patches as the table of positions has rows."""
    patch, number = side_of(c, "patch_size"), c.size("num_patches")
    side = isqrt(number)
    if side**2 != number:
        raise c.error("num_patches", f"must be those of a square image, got {number}")
    return {"kind": "patches", "image": side * patch, "patch": patch, "channels": c.size("num_channels"),
            "class_tokens": 0}


_siglip: Final = partial(images, ignore="projection_dim", pooler=_siglip_pooler)


def _internvl_norm(c: Config) -> Data:
    norm: Data = c.choice("norm_type", {"layer_norm": LAYERNORM, "rms_norm": RMS})
    if not c.flag("use_mean_pooling") and norm["kind"] != "layernorm":
        raise c.error("use_mean_pooling", "another kind of norm at the end than in the layers is not understood")
    return norm


_internvl: Final = partial(
    images, ignore="layer_scale_init_value projection_dropout", input=_MASK, norm=_internvl_norm, layer_scale=True,
    final_norm=lambda c: not c.flag("use_mean_pooling"),
    attention={"heads": HEADS, "bias": qkv("attention_bias"),
               "qk_norm": lambda c: FULL_NORM if c.flag("use_qk_norm") else None},
    position={"kind": lambda c: "learned" if c.flag("use_absolute_position_embeddings") else "none"})
_idefics3: Final = partial(images, ignore="max_image_size size use_base_siglip", input=patches(class_tokens=0))

# ---------------------------------------------------------------- texts, and pairs

_TEXT: Final[Mapping[str, Value]] = {
    "architecture": "encoder-only", "vocab": size("vocab_size"), "d_model": size("hidden_size"),
    "layers": size("num_hidden_layers"), "context": size("max_position_embeddings"), "position": LEARNED,
    "norm": LAYERNORM, "attention": {"heads": HEADS, "bias": True}, "feed_forward": plain()}
_PROJECTED: Final[Heads] = {
    "none": {"head": NONE}, "projection": {"head": {"kind": "projection", "width": size("projection_dim")}}}


def _texts(prefix: str, heads: Heads = BARE, **parts: Value) -> Family:
    def build(c: Config, kind: str) -> Data:
        passed_over(c, "projection_dim tie_word_embeddings", {})
        return dict(read(c, {**_TEXT, **parts, **read(c, heads[kind])}))

    return Family(build, _model_classes(prefix, heads))


def _model_classes(prefix: str, heads: Heads) -> dict[str, str]:
    projecting = {f"{prefix}ModelWithProjection": "projection"} if "projection" in heads else {}
    return {f"{prefix}Model": "none", **projecting}


def _clip_text(prefix: str) -> Family:
    """CLIP's text encoder, which masks the future without generating."""
    return _texts(f"{prefix}Text", _PROJECTED, causal_mask=True)


def _siglip_text(prefix: str) -> Family:
    """SigLIP's text encoder: every position sees all, and the last one is projected."""
    return _texts(f"{prefix}Text", pooler={
        "of": "last", "activation": None, "width": lambda c: c.size_or(c.size("hidden_size"), "projection_size")})


def _clip_vision(prefix: str, heads: Heads = _PROJECTED) -> Family:
    return images(_model_classes(f"{prefix}Vision", heads), heads, ignore="projection_dim",
                  input=patches(bias=False), embedding_norm=True, final_norm=False, pooler={"kind": "norm"})


def _blip(prefix: str, own: Part | None = None) -> Family:
    """BLIP's image encoder, in colours: normed once more, its class token is the vector of an image."""
    return images({f"{prefix}VisionModel": "none"}, ignore="projection_dim", input=patches(channels=3),
                  only={"num_channels": 3}, attention=own or attention(qkv("qkv_bias")))


def _pair(prefix: str, family: str, head: Part, *, only: Only | None = None) -> Family:
    """Both encoders, and the products of all pairs of what they make; or the mean of the patches, classified.

    Then what a pooler makes of them is not read, and no text is. ``only``: fields of the tower that a pair must have.
    """
    def build(c: Config, kind: str) -> Data:
        c.ignore("tie_word_embeddings")
        image = nested(c, "vision_config", f"{family}_vision_model")
        passed_over(image, "", (kind == "contrastive" and only) or {})
        tower = tower_of(ROWS[f"{family}_vision_model"], image)
        if kind == "image":
            c.ignore("text_config", "text_config_dict", "projection_dim")
            return {"architecture": "encoder-only", **tower, "head": read(c, classifier(of="mean"))}
        text = nested(c, "text_config", f"{family}_text_model")
        spec = ROWS[f"{family}_text_model"].build(text, "none")
        text.finish()
        return {**spec, "tower": tower, "head": read(c, head)}

    return Family(build, {f"{prefix}Model": "contrastive", f"{prefix}ForImageClassification": "image"})


def nested(c: Config, name: str, model_type: str) -> Config:
    """A nested configuration, as CLIP's class puts it together with what older files call ``…_dict``."""
    data, legacy = c.take(name, default=None), c.take(f"{name}_dict", default=None)
    for field, value in ((name, data), (f"{name}_dict", legacy)):
        if value is not None and not isinstance(value, Mapping):
            raise c.error(field, f"must be a mapping, got {shown(value)}")
    merged = {**(data or {}), **(class_defaults()[model_type] if legacy is not None else {}), **(legacy or {})}
    if merged.get("model_type", model_type) != model_type:
        raise c.error(f"{name}.model_type", f"only {model_type} is understood, got {shown(merged['model_type'])}")
    return c.part(name, merged, model_type)


_CLIP_HEAD: Final[Part] = {"kind": "contrastive", "width": size("projection_dim")}
_SIGLIP_HEAD: Final[Part] = {"kind": "contrastive", "loss": "sigmoid"}

# ---------------------------------------------------------------- rows

ROWS: Final[Rows] = {
    # ViT, arXiv 2010.11929: a class token; the bare class has a pooler of its own width.
    "vit": _vit("ViT", input=patches(class_tokens=1)),
    # DeiT, arXiv 2012.12877: a distillation token too, and with a teacher a second classifier on it.
    "deit": _vit({"DeiTModel": "none", "DeiTForImageClassification": "image",
                  "DeiTForImageClassificationWithTeacher": "teacher"}, input=patches(class_tokens=2)),
    # MSN, arXiv 2204.07141: ViT without a pooler. I-JEPA, arXiv 2301.08243: and without a class token.
    "vit_msn": images("ViTMSN", attention=attention(qkv("qkv_bias")), input=patches(class_tokens=1)),
    "ijepa": images("IJepa", BARE | {"image": {"head": classifier(of="mean")}}, input=patches(class_tokens=0),
                    ignore="pooler_output_size pooler_act", attention=attention(qkv("qkv_bias"))),
    # BEiT, arXiv 2106.08254, and data2vec's image encoder, arXiv 2202.03555, whose bare class has no pooler.
    "beit": _beit("Beit", pooler=_beit_pooler),
    "data2vec-vision": _beit("Data2VecVision", BARE | {"image": {"head": classifier(), "pooler": _beit_pooler}}),
    # DINOv2, arXiv 2304.07193; with registers, arXiv 2309.16588, and always with a token for masked patches.
    "dinov2": _dinov2("Dinov2", ignore=_BACKBONE, input=_MASK),
    "dinov2_with_registers": _dinov2(
        "Dinov2WithRegisters", ignore=f"{_BACKBONE} interpolate_antialias interpolate_offset",
        input=patches(mask_token=True, registers=_REGISTERS)),
    # DINOv3, arXiv 2508.10104: rotary positions, registers, and a switch for every bias.
    "dinov3_vit": images(
        {"DINOv3ViTModel": "none"}, layer_scale=True, position=_rotated,
        ignore=f"{_BACKBONE} pos_embed_shift pos_embed_jitter pos_embed_rescale return_class_token",
        input=patches(mask_token=True, registers=_REGISTERS), attention=attention({
            "q": flag("query_bias"), "k": flag("key_bias"), "v": flag("value_bias"), "o": flag("proj_bias")}),
        feed_forward={"d_ff": size("intermediate_size"), "activation": ACT, "gated": flag("use_gated_mlp"),
                      "bias": flag("mlp_bias")}),
    # SigLIP, arXiv 2303.15343, and SigLIP 2 for images of any shape, arXiv 2502.14786.
    "siglip_vision_model": _siglip({"SiglipVisionModel": "none"}, input=patches(class_tokens=0)),
    "siglip_text_model": _siglip_text("Siglip"),
    "siglip": _pair("Siglip", "siglip", _SIGLIP_HEAD, only={"vision_use_head": True}),
    "siglip2_vision_model": _siglip({"Siglip2VisionModel": "none"}, input=flexible),
    "siglip2_text_model": _siglip_text("Siglip2"),
    "siglip2": _pair("Siglip2", "siglip2", _SIGLIP_HEAD, only={"vision_use_head": True}),
    # CLIP, arXiv 2103.00020, and MetaCLIP 2, arXiv 2507.22062: both vectors are projected.
    "clip_vision_model": _clip_vision("CLIP"), "clip_text_model": _clip_text("CLIP"),
    "clip": _pair("CLIP", "clip", _CLIP_HEAD),
    "metaclip_2_vision_model": _clip_vision("MetaClip2"), "metaclip_2_text_model": _clip_text("MetaClip2"),
    # The encoders of images of Chinese CLIP, AltCLIP and CLIPSeg are CLIP's; those of BLIP-2 and its heirs, ViT's.
    "chinese_clip_vision_model": _clip_vision("ChineseCLIP", BARE),
    "altclip_vision_model": _clip_vision("AltCLIP", BARE), "clipseg_vision_model": _clip_vision("CLIPSeg", BARE),
    "blip_vision_model": _blip("Blip", attention()), "blip_2_vision_model": _blip("Blip2"),
    "instructblip_vision_model": _blip("InstructBlip"), "instructblipvideo_vision_model": _blip("InstructBlipVideo"),
    "metaclip_2": _pair("MetaClip2", "metaclip_2", _CLIP_HEAD),
    # Pixtral, arXiv 2410.07073: Llama's layers on patches, rotated along both sides of the image.
    "pixtral": images(
        {"PixtralVisionModel": "none"}, only={"head_dim": (None, lambda c: c.size("hidden_size") // read(c, HEADS))},
        input=patches(bias=False, class_tokens=0), attention={"heads": HEADS, "bias": False}, norm=RMS,
        embedding_norm=True, final_norm=False, position=_rotated, feed_forward=gated()),
    # InternVL, arXiv 2312.14238: a learned scale on each sublayer, and a choice of norms. Qianfan-OCR has the same.
    "internvl_vision": _internvl({"InternVLVisionModel": "none"}),
    "qianfan_ocr_vision": _internvl({"QianfanOCRVisionModel": "none"}),
    # Idefics 3 and SmolVLM: SigLIP's without the query that reads it.
    "idefics3_vision": _idefics3({"Idefics3VisionTransformer": "none"}),
    "smolvlm_vision": _idefics3({"SmolVLMVisionTransformer": "none"}),
}
