"""Encoders of images, and models with one of them beside a stack of text.

Read off the forward pass of the transformers class of the same name; every function says what sets its family apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from txcalc.spec.errors import shown
from txcalc.spec.huggingface import decoders
from txcalc.spec.huggingface.build import ACTIVATIONS, Data, activation, labels, layernorm, plain, rms
from txcalc.spec.huggingface.config import Config, class_defaults
from txcalc.spec.huggingface.encoders import classifier, no_head


def image_classes(prefix: str) -> dict[str, str]:
    """The classes that an image encoder usually has; the bare model is what no ``architectures`` stands for."""
    return {f"{prefix}Model": "none", f"{prefix}ForImageClassification": "image"}


def patches(c: Config, **more: Any) -> Data:
    """The image as a sequence. Images and patches that are not square are refused."""
    return {"kind": "patches", "image": _side(c, "image_size"), "patch": _side(c, "patch_size"),
            "channels": c.size("num_channels"), **more}


def _side(c: Config, name: str) -> int:
    value = c.take(name)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise c.error(name, f"must be one side of a square, got {shown(c.take(name))}")
    return value


def _tower(c: Config, image: Data, *, bias: bool | Data = True, **parts: Any) -> Data:
    """A stack of ViT's shape: norms before each sublayer and at the end. ``parts`` win."""
    c.ignore("tie_word_embeddings")
    heads, d = c.size("num_attention_heads"), c.size("hidden_size")
    attention: Data = {"heads": heads, "bias": bias}
    if "head_dim" in c.own and c.take("head_dim") is not None:
        attention["head_dim"] = c.size("head_dim")
    feed = parts.pop("feed_forward", None) or plain(c, c.size("intermediate_size"))
    return {"d_model": d, "layers": c.size("num_hidden_layers"), "input": image, "position": {"kind": "learned"},
            "norm": layernorm(), "attention": attention, "feed_forward": feed, **parts}


def _image_head(c: Config, kind: str, **more: Any) -> Data:
    return {"architecture": "encoder-only",
            "head": no_head() if kind == "none" else classifier(labels(c), **more)}


def vit(c: Config, kind: str) -> Data:
    """ViT, arXiv 2010.11929: a class token; the bare class has a pooler of its own width."""
    return _vit(c, kind, class_tokens=1)


def deit(c: Config, kind: str) -> Data:
    """DeiT, arXiv 2012.12877: a distillation token too, and with a teacher a second classifier on it."""
    return _vit(c, kind, class_tokens=2)


def _vit(c: Config, kind: str, *, class_tokens: int) -> Data:
    c.ignore("encoder_stride")
    bias = c.flag("qkv_bias")
    spec = _tower(c, patches(c, class_tokens=class_tokens), bias={"q": bias, "k": bias, "v": bias, "o": True})
    width = c.size_or(spec["d_model"], "pooler_output_size")
    act = c.choice("pooler_act", ACTIVATIONS)
    if kind == "none":
        spec["pooler"] = {"activation": act, "width": width}
    return spec | _image_head(c, kind, **({"copies": 2} if kind == "teacher" else {}))


def beit(c: Config, kind: str) -> Data:
    """BEiT, arXiv 2106.08254: relative positions, a learned scale on each sublayer, no bias on keys."""
    c.ignore("vocab_size", "use_auxiliary_head", "auxiliary_loss_weight", "auxiliary_channels", "auxiliary_num_convs",
             "auxiliary_concat_input", "semantic_loss_ignore_index", "pool_scales", "out_indices", "out_features",
             "segmentation_indices", "stage_names", "add_fpn", "reshape_hidden_states")
    image = patches(c, mask_token=c.flag("use_mask_token"))
    mean = c.flag("use_mean_pooling")
    spec = _tower(c, image, bias={"q": True, "k": False, "v": True, "o": True}, position=_beit_position(c, image),
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
    c.ignore("apply_layernorm", "reshape_hidden_states", "out_features", "out_indices", "stage_names",
             "layerscale_value")
    bias, d = c.flag("qkv_bias"), c.size("hidden_size")
    width = int(d * (c.number("mlp_ratio") or 0))
    if width < 1:
        raise c.error("mlp_ratio", "must make a feed-forward of at least 1")
    act = activation(c, "hidden_act")
    feed: Data = {"d_ff": width, "activation": act, "bias": True}
    if c.flag("use_swiglu_ffn"):
        feed = {"d_ff": (width * 2 // 3 + 7) // 8 * 8, "activation": "silu", "gated": True, "bias": True}
    spec = _tower(c, patches(c, mask_token=c.flag("use_mask_token")), bias={"q": bias, "k": bias, "v": bias, "o": True},
                  layer_scale=True, feed_forward=feed)
    return spec | _image_head(c, kind, of="first+mean")


def siglip_vision(c: Config, kind: str) -> Data:
    """SigLIP's image encoder, arXiv 2303.15343: no class token, a learned query that attends to all patches."""
    return _siglip(c) | _image_head(c, kind)


def _siglip(c: Config) -> Data:
    c.ignore("projection_dim")
    spec = _tower(c, patches(c, class_tokens=0))
    if c.flag("vision_use_head"):
        spec["pooler"] = {"kind": "attention", "attention": spec["attention"], "feed_forward": spec["feed_forward"]}
    return spec


def siglip_text(c: Config, kind: str) -> Data:
    """SigLIP's text encoder: every position sees all, and the last one is projected."""
    return _siglip_text(c) | {"head": no_head()}


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
    c.ignore("tie_word_embeddings")
    text, image = _nested(c, "text_config", "siglip_text_model"), _nested(c, "vision_config", "siglip_vision_model")
    image.only("vision_use_head", True)
    spec = _siglip_text(text) | {"tower": _siglip(image)}
    text.finish()
    image.finish()
    return spec | {"head": {"kind": "contrastive", "loss": "sigmoid"}}


def clip_vision(c: Config, kind: str) -> Data:
    """CLIP's image encoder, arXiv 2103.00020."""
    return {"architecture": "encoder-only", **_clip_vision(c), "head": _projection(c, kind)}


def clip_text(c: Config, kind: str) -> Data:
    """CLIP's text encoder, which masks the future without generating."""
    return _clip_text(c) | {"head": _projection(c, kind)}


def _projection(c: Config, kind: str) -> Data:
    width = c.size("projection_dim")
    return {"kind": "projection", "width": width} if kind == "projection" else no_head()


def _clip_vision(c: Config) -> Data:
    c.ignore("projection_dim")
    return _tower(c, patches(c, bias=False), embedding_norm=True, final_norm=False, pooler={"kind": "norm"})


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
    text, image = _nested(c, "text_config", "clip_text_model"), _nested(c, "vision_config", "clip_vision_model")
    spec = _clip_text(text) | {"tower": _clip_vision(image)}
    text.finish()
    image.finish()
    return spec | {"head": {"kind": "contrastive", "width": c.size("projection_dim")}}


def gemma3(c: Config, kind: str) -> Data:
    """Gemma 3 with eyes, arXiv 2503.19786: SigLIP's positions averaged, normed and projected into the text."""
    text, image = _nested(c, "text_config", "gemma3_text"), _nested(c, "vision_config", "siglip_vision_model")
    text.ignore("tie_word_embeddings")
    spec, tower = decoders.gemma3(text, kind), _siglip(image)
    text.finish()
    image.finish()
    side = tower["input"]["image"] // tower["input"]["patch"]
    kernel = side // int(c.size("mm_tokens_per_image") ** 0.5)
    if not kernel:
        raise c.error("mm_tokens_per_image", f"must not be more than the image's {side**2} patches")
    tower["projector"] = {"average": True, "tokens": (side // kernel) ** 2, "norm": rms()}
    tied = c.flag("tie_word_embeddings")
    if kind == "lm":
        spec["head"] |= {"tied": tied}
    return spec | {"tower": tower}


def _nested(c: Config, name: str, model_type: str) -> Config:
    """A nested configuration, as CLIP's class puts it together with what older files call ``…_dict``."""
    data, legacy = c.take(name, default=None), c.take(f"{name}_dict", default=None)
    for field, value in ((name, data), (f"{name}_dict", legacy)):
        if value is not None and not isinstance(value, Mapping):
            raise c.error(field, f"must be a mapping, got {shown(value)}")
    merged = {**(data or {}), **(class_defaults()[model_type] if legacy is not None else {}), **(legacy or {})}
    if merged.get("model_type", model_type) != model_type:
        raise c.error(f"{name}.model_type", f"only {model_type} is understood, got {shown(merged['model_type'])}")
    return Config(merged, model_type, source=c.source, path=f"{c.path}{name}.")
