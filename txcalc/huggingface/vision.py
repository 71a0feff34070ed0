"""Encoders of images, alone or compared with one of texts.

Read off the forward pass of the transformers class of the same name; every function says what sets its family apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any, Final

from txcalc.huggingface.build import ACTIVATIONS, Data, activation, labels, layernorm, plain
from txcalc.huggingface.config import Config, class_defaults
from txcalc.huggingface.encoder import NONE, classifier
from txcalc.spec.errors import shown

SIDE: Final = 16
"""Positions of the text along an image, for towers that have no size of image of their own: 16 x 16 = 256 of them."""


def image_classes(prefix: str) -> dict[str, str]:
    """The classes that an image encoder usually has; the bare model is what no ``architectures`` stands for."""
    return {f"{prefix}Model": "none", f"{prefix}ForImageClassification": "image"}


def patches(c: Config, **more: Any) -> Data:
    """The image as a sequence. Images and patches that are not square are refused."""
    return {"kind": "patches", "image": side_of(c, "image_size"), "patch": side_of(c, "patch_size"),
            "channels": c.size("num_channels"), **more}


def side_of(c: Config, name: str) -> int:
    """One side of a square, which may be written as both."""
    value = c.take(name)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise c.error(name, f"must be one side of a square, got {shown(c.take(name))}")
    return value


def vit_tower(c: Config, image: Data, *, bias: bool | Data = True, **parts: Any) -> Data:
    """A stack of ViT's shape: norms before each sublayer and at the end. ``parts`` win."""
    c.ignore("tie_word_embeddings")
    heads, d = c.size("num_attention_heads"), c.size("hidden_size")
    attention: Data = {"heads": heads, "bias": bias}
    if "head_dim" in c.own and c.take("head_dim") is not None:
        attention["head_dim"] = c.size("head_dim")
    feed = parts.pop("feed_forward", None) or plain(c, c.size("intermediate_size"))
    return {"d_model": d, "layers": c.size("num_hidden_layers"), "input": image, "position": {"kind": "learned"},
            "norm": layernorm(), "attention": attention, "feed_forward": feed, **parts}


def rotates_both_ways(c: Config, name: str, d: int) -> None:
    """Refuse heads, of the number in field ``name``, whose columns cannot be rotated along both sides of an image."""
    heads = c.size(name)
    turns_both_ways(c, name, 0 if d % heads else d // heads)


def turns_both_ways(c: Config, name: str, width: int) -> None:
    """Refuse a head's ``width``, which field ``name`` decides, that does not split into pairs for either side."""
    if not width or width % 4:
        raise c.error(name, "positions rotate pairs of columns along both sides of an image, so a head's must be a "
                      "multiple of 4")


def _image_head(c: Config, kind: str, **more: Any) -> Data:
    return {"architecture": "encoder-only",
            "head": dict(NONE) if kind == "none" else classifier(labels(c), **more)}


def vit(c: Config, kind: str) -> Data:
    """ViT, arXiv 2010.11929: a class token; the bare class has a pooler of its own width."""
    return _vit(c, kind, class_tokens=1)


def deit(c: Config, kind: str) -> Data:
    """DeiT, arXiv 2012.12877: a distillation token too, and with a teacher a second classifier on it."""
    return _vit(c, kind, class_tokens=2)


def _vit(c: Config, kind: str, *, class_tokens: int) -> Data:
    c.ignore("encoder_stride")
    bias = c.flag("qkv_bias")
    spec = vit_tower(c, patches(c, class_tokens=class_tokens), bias={"q": bias, "k": bias, "v": bias, "o": True})
    width = c.size_or(spec["d_model"], "pooler_output_size")
    act = c.choice("pooler_act", ACTIVATIONS)
    if kind == "none":
        spec["pooler"] = {"activation": act, "width": width}
    return spec | _image_head(c, kind, **({"copies": 2} if kind == "teacher" else {}))


def vit_msn(c: Config, kind: str) -> Data:
    """MSN, arXiv 2204.07141: ViT without a pooler."""
    return _bare_vit(c, class_tokens=1) | _image_head(c, kind)


def ijepa(c: Config, kind: str) -> Data:
    """I-JEPA, arXiv 2301.08243: ViT without a class token; the mean of all patches is classified."""
    c.ignore("pooler_output_size", "pooler_act")
    return _bare_vit(c, class_tokens=0) | _image_head(c, kind, of="mean")


def _bare_vit(c: Config, *, class_tokens: int) -> Data:
    bias = c.flag("qkv_bias")
    return vit_tower(c, patches(c, class_tokens=class_tokens), bias={"q": bias, "k": bias, "v": bias, "o": True})


def data2vec(c: Config, kind: str) -> Data:
    """data2vec's image encoder, arXiv 2202.03555: BEiT, but the bare class has no pooler."""
    spec = beit(c, kind)
    if kind == "none":
        spec.pop("pooler", None)
    return spec


def beit(c: Config, kind: str) -> Data:
    """BEiT, arXiv 2106.08254: relative positions, a learned scale on each sublayer, no bias on keys."""
    c.ignore("vocab_size", "use_auxiliary_head", "auxiliary_loss_weight", "auxiliary_channels", "auxiliary_num_convs",
             "auxiliary_concat_input", "semantic_loss_ignore_index", "pool_scales", "out_indices", "out_features",
             "segmentation_indices", "stage_names", "add_fpn", "reshape_hidden_states")
    image = patches(c, mask_token=c.flag("use_mask_token"))
    mean = c.flag("use_mean_pooling")
    spec = vit_tower(c, image, bias={"q": True, "k": False, "v": True, "o": True}, position=_beit_position(c, image),
                  layer_scale=(c.number("layer_scale_init_value") or 0) > 0, final_norm=not mean)
    if mean:
        spec["pooler"] = {"kind": "norm", "of": "mean"}
    return spec | _image_head(c, kind)


def _beit_position(c: Config, image: Data) -> Data:
    """A table of all distances between two patches, and three rows for the class token; or absolute positions."""
    absolute, own = c.flag("use_absolute_position_embeddings"), c.flag("use_relative_position_bias")
    shared = c.flag("use_shared_relative_position_bias")
    if absolute + own + shared > 1:
        raise c.error("use_relative_position_bias", "more than one kind of position at a time is not understood")
    if own or shared:
        side = image["image"] // image["patch"]
        return {"kind": "relative", "buckets": (2 * side - 1) ** 2 + 3, "per_layer": own}
    return {"kind": "learned"} if absolute else {"kind": "none"}


def dinov2(c: Config, kind: str) -> Data:
    """DINOv2, arXiv 2304.07193: a learned scale on each sublayer; the giant has a gated feed-forward."""
    return _dinov2(c, kind, mask_token=c.flag("use_mask_token"))


def dinov2_with_registers(c: Config, kind: str) -> Data:
    """DINOv2 with registers, arXiv 2309.16588, and always with a token for masked patches."""
    c.ignore("interpolate_antialias", "interpolate_offset")
    return _dinov2(c, kind, mask_token=True, registers=_registers(c))


def _registers(c: Config) -> int:
    value = c.take("num_register_tokens")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise c.error("num_register_tokens", f"must be a whole number of at least 0, got {shown(value)}")
    return value


_BACKBONE: Final = ("apply_layernorm", "reshape_hidden_states", "out_features", "out_indices", "stage_names",
                    "layerscale_value")


def dinov3(c: Config, kind: str) -> Data:
    """DINOv3, arXiv 2508.10104: rotary positions, registers, and a switch for every bias."""
    c.ignore(*_BACKBONE, "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale", "return_class_token")
    image = patches(c, mask_token=True, registers=_registers(c))
    names = {"q": "query", "k": "key", "v": "value", "o": "proj"}
    bias = {short: c.flag(f"{name}_bias") for short, name in names.items()}
    feed = {"d_ff": c.size("intermediate_size"), "activation": activation(c, "hidden_act"),
            "gated": c.flag("use_gated_mlp"), "bias": c.flag("mlp_bias")}
    spec = vit_tower(c, image, bias=bias, layer_scale=True, feed_forward=feed, position={"kind": "rope"})
    rotates_both_ways(c, "num_attention_heads", spec["d_model"])
    return spec | _image_head(c, kind)


def _dinov2(c: Config, kind: str, **image: Any) -> Data:
    c.ignore(*_BACKBONE)
    bias, d = c.flag("qkv_bias"), c.size("hidden_size")
    width = int(d * (c.number("mlp_ratio") or 0))
    if width < 1:
        raise c.error("mlp_ratio", "must make a feed-forward of at least 1")
    act = activation(c, "hidden_act")
    feed: Data = {"d_ff": width, "activation": act, "bias": True}
    if c.flag("use_swiglu_ffn"):
        feed = {"d_ff": (width * 2 // 3 + 7) // 8 * 8, "activation": "silu", "gated": True, "bias": True}
    spec = vit_tower(c, patches(c, **image), bias={"q": bias, "k": bias, "v": bias, "o": True}, layer_scale=True,
                  feed_forward=feed)
    return spec | _image_head(c, kind, of="first+mean")


def siglip_vision(c: Config, kind: str) -> Data:
    """SigLIP's image encoder, arXiv 2303.15343: no class token, a learned query that attends to all patches."""
    return siglip_tower(c) | _image_head(c, kind)


def siglip2_vision(c: Config, kind: str) -> Data:
    """SigLIP 2's for images of any shape, arXiv 2502.14786: as many patches as its table of positions has rows."""
    return siglip_tower(c, _flexible(c)) | _image_head(c, kind)


def _flexible(c: Config) -> Data:
    patch, number = side_of(c, "patch_size"), c.size("num_patches")
    side = isqrt(number)
    if side**2 != number:
        raise c.error("num_patches", f"must be those of a square image, got {number}")
    return {"kind": "patches", "image": side * patch, "patch": patch, "channels": c.size("num_channels"),
            "class_tokens": 0}


def siglip_tower(c: Config, image: Data | None = None) -> Data:
    """SigLIP's image encoder without what stands on it."""
    c.ignore("projection_dim")
    spec = vit_tower(c, image or patches(c, class_tokens=0))
    if c.flag("vision_use_head"):
        spec["pooler"] = {"kind": "attention", "attention": spec["attention"], "feed_forward": spec["feed_forward"]}
    return spec


def siglip_text(c: Config, kind: str) -> Data:
    """SigLIP's text encoder: every position sees all, and the last one is projected."""
    return _siglip_text(c) | {"head": dict(NONE)}


def _siglip_text(c: Config) -> Data:
    c.ignore("tie_word_embeddings", "projection_dim")
    d = c.size("hidden_size")
    return {
        "architecture": "encoder-only", "vocab": c.size("vocab_size"), "d_model": d,
        "layers": c.size("num_hidden_layers"), "context": c.size("max_position_embeddings"),
        "position": {"kind": "learned"}, "norm": layernorm(),
        "attention": {"heads": c.size("num_attention_heads"), "bias": True},
        "feed_forward": plain(c, c.size("intermediate_size")),
        "pooler": {"of": "last", "activation": None, "width": c.size_or(d, "projection_size")},
    }


def siglip(c: Config, kind: str) -> Data:
    """SigLIP, arXiv 2303.15343: both encoders' vectors are compared as they are, each pair on its own."""
    return _siglip_pair(c, kind, "siglip")


def siglip2(c: Config, kind: str) -> Data:
    """SigLIP 2 for images of any shape: SigLIP with another image encoder."""
    return _siglip_pair(c, kind, "siglip2", _flexible)


def _siglip_pair(c: Config, kind: str, family: str, patches_of: Callable[[Config], Data] | None = None) -> Data:
    c.ignore("tie_word_embeddings")
    image = nested(c, "vision_config", f"{family}_vision_model")
    if kind == "contrastive":
        image.only("vision_use_head", True)
    tower = siglip_tower(image, None if patches_of is None else patches_of(image))
    image.finish()
    if kind == "image":
        return _classified(c, tower)
    text = nested(c, "text_config", f"{family}_text_model")
    spec = _siglip_text(text) | {"tower": tower}
    text.finish()
    return spec | {"head": {"kind": "contrastive", "loss": "sigmoid"}}


def _classified(c: Config, tower: Data) -> Data:
    """The mean of the patches, classified: what a pooler makes of them is not read, and no text is."""
    c.ignore("text_config", "text_config_dict", "projection_dim")
    return tower | _image_head(c, "image", of="mean")


def clip_vision(c: Config, kind: str) -> Data:
    """CLIP's image encoder, arXiv 2103.00020."""
    return {"architecture": "encoder-only", **clip_tower(c), "head": _projection(c, kind)}


def clip_text(c: Config, kind: str) -> Data:
    """CLIP's text encoder, which masks the future without generating."""
    return _clip_text(c) | {"head": _projection(c, kind)}


def _projection(c: Config, kind: str) -> Data:
    width = c.size("projection_dim")
    return {"kind": "projection", "width": width} if kind == "projection" else dict(NONE)


def clip_tower(c: Config) -> Data:
    """CLIP's image encoder without what stands on it."""
    c.ignore("projection_dim")
    return vit_tower(c, patches(c, bias=False), embedding_norm=True, final_norm=False, pooler={"kind": "norm"})


def _clip_text(c: Config) -> Data:
    c.ignore("projection_dim", "tie_word_embeddings")
    return {
        "architecture": "encoder-only", "causal_mask": True, "vocab": c.size("vocab_size"),
        "d_model": c.size("hidden_size"), "layers": c.size("num_hidden_layers"),
        "context": c.size("max_position_embeddings"), "position": {"kind": "learned"}, "norm": layernorm(),
        "attention": {"heads": c.size("num_attention_heads"), "bias": True},
        "feed_forward": plain(c, c.size("intermediate_size")),
    }


def clip(c: Config, kind: str) -> Data:
    """CLIP: both encoders, each projected to one vector, and the products of all pairs."""
    return _clip_pair(c, kind, "clip")


def metaclip_2(c: Config, kind: str) -> Data:
    """MetaCLIP 2, arXiv 2507.22062: CLIP with other words."""
    return _clip_pair(c, kind, "metaclip_2")


def _clip_pair(c: Config, kind: str, family: str) -> Data:
    image = nested(c, "vision_config", f"{family}_vision_model")
    tower = clip_tower(image)
    image.finish()
    if kind == "image":
        return _classified(c, tower)
    text = nested(c, "text_config", f"{family}_text_model")
    spec = _clip_text(text) | {"tower": tower}
    text.finish()
    return spec | {"head": {"kind": "contrastive", "width": c.size("projection_dim")}}


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
