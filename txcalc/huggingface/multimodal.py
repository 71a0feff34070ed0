"""Models that see: a tower of images, a projector, and a stack of text, each of a family that is known on its own.

A class of this kind builds both by the ``model_type`` of their nested configurations, and so do the importers here;
what a function adds is the projector between the two. Every class runs its whole tower, whichever layer's output it
goes on with. An image's positions take part in the main stack's causal mask like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from txcalc.huggingface import gemma, meta
from txcalc.huggingface.build import ACTIVATIONS, Data, gated, layernorm, rms
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import NONE
from txcalc.huggingface.vision import nested, patches, rotates_both_ways, siglip_tower, vit_tower
from txcalc.spec.errors import shown

PARTS: Final = ("llama4_vision_model",)
"""Types of configuration that stand only within another."""


def seeing_classes(prefix: str) -> dict[str, str]:
    """The classes that a model with a tower has."""
    return {f"{prefix}ForConditionalGeneration": "lm", f"{prefix}Model": "none"}


# ---------------------------------------------------------------- what is nested


def part_of(c: Config, name: str, usual: str, *, only: bool = False) -> tuple[Config, str]:
    """A nested configuration and its type, which is the ``usual`` one unless it says so, or ``only`` that."""
    data = c.take(name, default=None)
    if not isinstance(data, Mapping):
        raise c.error(name, "required field is missing" if data is None else f"must be a mapping, got {shown(data)}")
    model_type = data.get("model_type", usual)
    if only and model_type not in (usual, c.model_type):
        raise c.error(f"{name}.model_type", f"only {usual} is understood, got {shown(model_type)}")
    model_type = usual if only else model_type
    if not isinstance(model_type, str):
        raise c.error(f"{name}.model_type", f"must be the name of a type, got {shown(model_type)}")
    return c.part(name, data, model_type), model_type


def _family(part: Config, model_type: str, kinds: Iterable[str]) -> Callable[[Config, str], Data]:
    from txcalc.huggingface.families import FAMILIES

    family = FAMILIES.get(model_type)
    if family is None or not set(kinds) <= set(family.classes.values()):
        raise part.error("model_type", f"{shown(model_type)} is not understood here")
    return family.build


def text_stack(c: Config, kind: str, usual: str, *, either: bool = False, ignore: Iterable[str] = ()) -> Data:
    """The stack of text, of any family of decoders, under the seeing class's own head without a bias.

    ``either``: the head is tied if one of the two configurations says so.
    """
    part, model_type = part_of(c, "text_config", usual)
    part.ignore(*ignore)
    spec = _family(part, model_type, ("lm", "none"))(part, "lm")
    if spec.get("architecture", "decoder-only") != "decoder-only" or {"embedding_dim", "tower"} & spec.keys():
        raise part.error("model_type", f"{shown(model_type)} is not a stack of text that can be fed with images")
    part.finish()
    return {**spec, "head": head_of(kind, _tied(c, part, either=either))}


def _tied(c: Config, text: Config, *, either: bool) -> bool:
    """Whether the head shares the token table.

    Where the file leaves it open and the two classes' defaults differ, versions of the library before the fifth go by
    the text's, and later ones by the seeing class's.
    """
    tied, inner = c.flag("tie_word_embeddings"), text.flag("tie_word_embeddings", default=False)
    if either or tied == inner:
        return tied or inner
    if "tie_word_embeddings" in c.data:
        return tied
    version = str(c.data.get("transformers_version", "")).partition(".")[0]
    if not version.isdigit():
        raise c.error("tie_word_embeddings", "required field is missing: versions of the library differ in what they "
                      "then take it to be")
    return tied if int(version) >= 5 else inner


def head_of(kind: str, tied: bool) -> Data:
    """The output of a model that sees."""
    return {"kind": "lm", "tied": tied, "bias": False} if kind == "lm" else dict(NONE)


def _tower(c: Config, usual: str, *, only: bool = False) -> Data:
    """The tower, of any family of image encoders, without a head."""
    part, model_type = part_of(c, "vision_config", usual, only=only)
    # Of the text beside it, of a projector and of a contrastive model: the image encoders read none of these.
    part.ignore("vocab_size", "projection_dim", "num_image_tokens", "projector_hidden_act", "id2label", "num_labels")
    spec = _family(part, model_type, ("none",))(part, "none")
    if spec.get("input", {}).get("kind") != "patches":
        raise part.error("model_type", f"{shown(model_type)} is no image encoder")
    part.finish()
    return {name: value for name, value in spec.items() if name not in ("architecture", "head")}


def _skips(c: Config, tower: Data) -> Data:
    """How many of the tower's last layers come after the one whose output is read: the embeddings are number 0."""
    layer, layers = c.take("vision_feature_layer"), tower["layers"]
    if type(layer) is not int:
        raise c.error("vision_feature_layer", f"only a single layer is understood, got {shown(layer)}")
    skips = layers - layer if layer >= 0 else -1 - layer
    if not 0 <= skips < layers or "groups" in tower:
        raise c.error("vision_feature_layer", f"must be one of {layers} layers that are all alike, got {layer}")
    return {"skips": skips} if skips else {}


def _several_skips(c: Config, tower: Data) -> Data:
    """The same where the columns of several layers may come side by side: their order changes no number."""
    listed = c.take("vision_feature_layer")
    if not isinstance(listed, list) or not listed:
        return _skips(c, tower)
    each = (Config({"vision_feature_layer": layer}, "", source=c.source, path=c.path) for layer in listed)
    first, *beside = sorted(_skips(one, tower).get("skips", 0) for one in each)
    return ({"skips": first} if first else {}) | ({"beside": beside} if beside else {})


def whole_squares(c: Config, name: str, tower: Data, merge: int) -> None:
    """Refuse squares that leave a border of an image."""
    side = tower["input"]["image"] // tower["input"]["patch"]
    if side % merge:
        raise c.error(name, f"squares of {merge} do not divide an image's {side} x {side} patches")


def _only_patches_are_read(c: Config, tower: Data) -> None:
    """Refuse a class token that is read as if it were a patch, and a patch that is left out as if it were one."""
    extra = tower["input"].get("class_tokens", 1) + tower["input"].get("registers", 0)
    c.only("vision_feature_select_strategy", "full" if not extra else "default")
    if extra > 1:
        raise c.error("vision_config", f"only the first of {extra} positions that are no patches would be left out")


def _projector(c: Config) -> str:
    return str(c.choice("projector_hidden_act", ACTIVATIONS))


# ---------------------------------------------------------------- families


def gemma3(c: Config, kind: str) -> Data:
    """Gemma 3 with eyes, arXiv 2503.19786: SigLIP's positions averaged, normed and projected into the text."""
    text, image = nested(c, "text_config", "gemma3_text"), nested(c, "vision_config", "siglip_vision_model")
    text.ignore("tie_word_embeddings")
    spec, tower = gemma.ROWS["gemma3_text"].build(text, kind), siglip_tower(image)
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


def llava(c: Config, kind: str) -> Data:
    """LLaVA 1.5, arXiv 2310.03744: patches as a layer before the tower's last has them, through two layers."""
    c.ignore("ignore_index", "vocab_size", "image_seq_length", "image_grid_pinpoints")
    text, tower = text_stack(c, kind, "llama", either=True), _tower(c, "clip_vision_model")
    bias = c.flag("multimodal_projector_bias")
    _only_patches_are_read(c, tower)
    tower["projector"] = {"hidden": [{"width": text["d_model"], "activation": _projector(c), "bias": bias}],
                          "bias": bias, **_several_skips(c, tower)}
    return text | {"tower": tower}


def vipllava(c: Config, kind: str) -> Data:
    """ViP-LLaVA, arXiv 2312.00784: LLaVA with several layers of the tower side by side, and a norm on them."""
    c.ignore("ignore_index", "vocab_size", "image_seq_length")
    text, tower = text_stack(c, kind, "llama"), _tower(c, "clip_vision_model")
    if tower["input"].get("class_tokens", 1) + tower["input"].get("registers", 0) != 1:
        raise c.error("vision_config", "of any but a class token alone, a patch would be left out, or another be read")
    tower["projector"] = {"norm": layernorm(), "bias": True, **_several_skips(c, tower), "hidden": [
        {"width": text["d_model"], "activation": _projector(c), "bias": True}]}
    return text | {"tower": tower}


def paligemma(c: Config, kind: str) -> Data:
    """PaliGemma, arXiv 2407.07726: SigLIP's patches through one layer into Gemma."""
    c.ignore("ignore_index", "vocab_size", "hidden_size", "num_image_tokens")
    data = c.take("text_config", default=None)
    if isinstance(data, Mapping) and data.get("use_bidirectional_attention") is True:  # as the class has it anyway
        c.data["text_config"] = {**data, "use_bidirectional_attention": None}
    text, tower = text_stack(c, kind, "gemma", ignore=("num_image_tokens",)), _tower(c, "siglip_vision_model")
    if c.size("projection_dim") != text["d_model"]:
        raise c.error("projection_dim", f"must be the text's width {text['d_model']}, got {c.take('projection_dim')}")
    _no_class_token(c, tower)
    tower["projector"] = {"bias": True}
    return text | {"tower": tower}


def _no_class_token(c: Config, tower: Data) -> None:
    if tower["input"].get("class_tokens", 1) or tower["input"].get("registers", 0):
        raise c.error("vision_config.model_type", "a class token would be read as if it were a patch")


def pixtral_vision(c: Config, kind: str) -> Data:
    """Pixtral's image encoder, arXiv 2410.07073: Llama's layers on patches, rotated along both sides of the image."""
    heads, d = c.size("num_attention_heads"), c.size("hidden_size")
    c.only("head_dim", None, d // heads)
    spec = vit_tower(c, patches(c, bias=False, class_tokens=0), bias=False, norm=rms(), embedding_norm=True,
                     final_norm=False, position={"kind": "rope"}, feed_forward=gated(c))
    spec["attention"].pop("head_dim", None)
    rotates_both_ways(c, "num_attention_heads", d)
    return {"architecture": "encoder-only", **spec, "head": dict(NONE)}


def mistral3(c: Config, kind: str) -> Data:
    """Mistral Small 3.1: Pixtral's patches normed, merged by a layer of their own, and through two more."""
    c.ignore("ignore_index")
    spec = _pixtral(c, kind, "mistral", activation=_projector(c), bias=c.flag("multimodal_projector_bias"))
    spec["tower"]["projector"] |= _skips(c, spec["tower"])
    return spec


def _pixtral(c: Config, kind: str, usual: str, *, activation: str, bias: bool) -> Data:
    text, tower = text_stack(c, kind, usual), _tower(c, "pixtral")
    _no_class_token(c, tower)
    tower["projector"] = {
        "merge": c.size("spatial_merge_size"), "norm": rms(), "norm_first": True, "bias": bias,
        "hidden": [{"width": tower["d_model"]}, {"width": text["d_model"], "activation": activation, "bias": bias}],
    }
    return text | {"tower": tower}


def lighton_ocr(c: Config, kind: str) -> Data:
    """LightOnOCR: Mistral Small 3.1's projector before Qwen 3's text."""
    c.only("multimodal_projector_bias", False)
    c.only("projector_hidden_act", "gelu")
    c.only("vision_feature_layer", -1)
    return _pixtral(c, kind, "qwen3", activation="gelu", bias=False)


def aya_vision(c: Config, kind: str) -> Data:
    """Aya Vision, arXiv 2505.08751: squares of SigLIP's patches, normed, through a gated layer."""
    text, tower = text_stack(c, kind, "cohere2"), _tower(c, "siglip_vision_model")
    _only_patches_are_read(c, tower)
    width = c.size_or(text["d_model"], "alignment_intermediate_size")
    tower["projector"] = _gated_squares(c, tower, width) | {"norm": layernorm(), **_skips(c, tower)}
    return text | {"tower": tower}


def cohere2_vision(c: Config, kind: str) -> Data:
    """Command A Vision: Aya Vision's projector without a norm, of a width of its own."""
    text, tower = text_stack(c, kind, "cohere2"), _tower(c, "siglip_vision_model")
    _no_class_token(c, tower)
    tower["projector"] = _gated_squares(c, tower, c.size("alignment_intermediate_size"))
    return text | {"tower": tower}


def _gated_squares(c: Config, tower: Data, width: int) -> Data:
    """One matrix makes both the gate and what it multiplies."""
    merge = c.size("downsample_factor")
    whole_squares(c, "downsample_factor", tower, merge)
    if width % 2:
        raise c.error("alignment_intermediate_size", f"must be two equal halves, got {width}")
    return {"merge": merge, "bias": True,
            "hidden": [{"width": width // 2, "activation": "silu", "gated": True, "bias": True}]}


def internvl_vision(c: Config, kind: str) -> Data:
    """InternVL's image encoder, arXiv 2312.14238: a learned scale on each sublayer, and a choice of norms."""
    heads, bias = c.size("num_attention_heads"), c.flag("attention_bias")
    norm = c.choice("norm_type", {"layer_norm": layernorm(), "rms_norm": rms()})
    mean = c.flag("use_mean_pooling")
    if not mean and norm["kind"] != "layernorm":
        raise c.error("use_mean_pooling", "another kind of norm at the end than in the layers is not understood")
    attention: Data = {"heads": heads, "bias": {"q": bias, "k": bias, "v": bias, "o": True}}
    if c.flag("use_qk_norm"):
        attention["qk_norm"] = rms(over="full")
    position = {"kind": "learned" if c.flag("use_absolute_position_embeddings") else "none"}
    c.ignore("layer_scale_init_value", "projection_dropout")
    spec = vit_tower(c, patches(c, mask_token=c.flag("use_mask_token")), norm=norm, final_norm=not mean,
                     layer_scale=True, attention=attention, position=position)
    return {"architecture": "encoder-only", **spec, "head": dict(NONE)}


def internvl(c: Config, kind: str) -> Data:
    """InternVL 3, arXiv 2504.10479: squares of patches, normed, through two layers."""
    c.ignore("image_seq_length")
    text, tower = text_stack(c, kind, "qwen2"), _tower(c, "internvl_vision")
    merge = _inverse(c, "downsample_ratio", c.number("downsample_ratio"))
    whole_squares(c, "downsample_ratio", tower, merge)
    _only_patches_are_read(c, tower)
    tower["projector"] = {
        "merge": merge, "norm": layernorm(), "bias": True,
        "hidden": [{"width": text["d_model"], "activation": _projector(c), "bias": True}], **_skips(c, tower),
    }
    return text | {"tower": tower}


def _inverse(c: Config, name: str, ratio: float | None) -> int:
    merge = int(1 / ratio) if ratio else 0
    if merge < 1 or merge * (ratio or 0) != 1:
        raise c.error(name, f"must be one over a whole number, got {shown(ratio)}")
    return merge


def deepseek_vl(c: Config, kind: str) -> Data:
    """DeepSeek-VL, arXiv 2403.05525: SigLIP's patches through two layers, in the size without a second tower."""
    text, tower = text_stack(c, kind, "llama"), _tower(c, "siglip_vision_model")
    _no_class_token(c, tower)
    tower["projector"] = {"hidden": [{"width": text["d_model"], "activation": "gelu", "bias": True}], "bias": True}
    return text | {"tower": tower}


def lfm2_vl(c: Config, kind: str) -> Data:
    """LFM2-VL: squares of SigLIP 2's patches, normed, through a layer of a width of its own."""
    c.ignore(*_CUTTING)
    c.only("vision_feature_layer", -1)
    if "tie_embedding" in c.data:  # which the class reads first
        c.data = {"tie_word_embeddings": c.flag("tie_embedding"), **c.data}
        c.only("tie_embedding", c.flag("tie_word_embeddings"))
    text, tower = text_stack(c, kind, "lfm2"), _tower(c, "siglip2_vision_model", only=True)
    merge, bias = c.size("downsample_factor"), c.flag("projector_bias")
    whole_squares(c, "downsample_factor", tower, merge)
    layer = {"width": c.size("projector_hidden_size"), "activation": _projector(c), "bias": bias}
    normed = {"norm": layernorm()} if c.flag("projector_use_layernorm") else {}
    return text | {"tower": {**tower, "projector": {"merge": merge, **normed, "hidden": [layer], "bias": bias}}}


# How a processor cuts images, in the configurations of LFM2-VL.
_CUTTING: Final = ("do_image_splitting", "encoder_patch_size", "max_image_tokens", "max_num_patches",
                   "max_pixels_tolerance", "max_tiles", "min_image_tokens", "min_tiles", "tile_size",
                   "use_image_special_tokens", "use_thumbnail")


def idefics3_vision(c: Config, kind: str) -> Data:
    """Idefics 3's image encoder: SigLIP's without the query that reads it."""
    c.ignore("max_image_size", "size", "use_base_siglip")  # what a processor does, and where weights came from
    spec = vit_tower(c, patches(c, class_tokens=0))
    return {"architecture": "encoder-only", **spec, "head": dict(NONE)}


def idefics3(c: Config, kind: str) -> Data:
    """Idefics 3, arXiv 2408.12637: squares of patches through one layer."""
    return _idefics3(c, kind, "idefics3_vision")


def smolvlm(c: Config, kind: str) -> Data:
    """SmolVLM, arXiv 2504.05299: Idefics 3 in small."""
    return _idefics3(c, kind, "smolvlm_vision")


def _idefics3(c: Config, kind: str, vision: str) -> Data:
    c.ignore("image_seq_len", "vocab_size")
    text, tower = text_stack(c, kind, "llama", ignore=_UNREAD), _tower(c, vision, only=True)
    merge = c.size("scale_factor")
    whole_squares(c, "scale_factor", tower, merge)
    tower["projector"] = {"merge": merge}
    return text | {"tower": tower}


# What earlier models of the Idefics line had, which stands in the newer ones' files and which no class reads.
_UNREAD: Final = ("additional_vocab_size", "freeze_lm_head", "freeze_text_layers", "freeze_text_module_exceptions",
                  "is_llama_config", "neftune_noise_alpha", "perceiver_config", "pixel_shuffle_factor",
                  "qk_layer_norms", "transformers.js_config", "use_resampler")


def llama4(c: Config, kind: str) -> Data:
    """Llama 4 with eyes: squares of patches through two layers of the tower's own, and one into the text."""
    text, _ = part_of(c, "text_config", "llama4_text", only=True)
    image, _ = part_of(c, "vision_config", "llama4_vision_model", only=True)
    spec = meta.ROWS["llama4_text"].build(text, "lm")
    text.finish()
    c.ignore("tie_word_embeddings")  # the stack of text is a whole language model, with a head of its own
    tower = _llama4_tower(image)
    image.finish()
    return spec | {"tower": tower}


def _llama4_tower(c: Config) -> Data:
    """The class token stands last. Of the adapter's sizes, all but one follow from others, or the class cannot run."""
    c.ignore("vision_feature_select_strategy", "multi_modal_projector_bias", "projector_dropout", "hidden_act",
             "vision_feature_layer")
    d, width = c.size("hidden_size"), c.size("projector_output_dim")
    merge = _inverse(c, "pixel_shuffle_ratio", c.number("pixel_shuffle_ratio"))
    feed = {"d_ff": c.size("intermediate_size"), "activation": "gelu", "gated": False, "bias": True}
    tower = vit_tower(c, patches(c, bias=False), embedding_norm=True, feed_forward=feed)
    whole_squares(c, "pixel_shuffle_ratio", tower, merge)
    if c.size("intermediate_size") != d * merge**2:
        raise c.error("intermediate_size", f"must be the {d * merge**2} columns of a merged square, which it also is")
    for name in ("projector_input_dim", "vision_output_dim"):
        if c.size(name) != width:
            raise c.error(name, f"must be projector_output_dim {width}, got {c.take(name)}")
    layer = {"width": width, "activation": "gelu"}
    return {**tower, "projector": {"merge": merge, "hidden": [layer, layer]}}
