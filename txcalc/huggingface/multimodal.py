"""Models that see: a tower of images, a projector, and a stack of text, each of a family that is known on its own.

A class of this kind builds both by the ``model_type`` of their nested configurations, and so do the importers here;
what a row adds is the projector between the two. Every class runs its whole tower, whichever layer's output it
goes on with. An image's positions take part in the main stack's causal mask like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final

from txcalc.huggingface.build import ACTIVATIONS, Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import NONE
from txcalc.huggingface.rows import LAYERNORM, RMS, Family, Only, Part, Rows, Value, flag, passed_over, read, size
from txcalc.huggingface.vision import nested, tower_of
from txcalc.spec.errors import shown


def seeing_classes(prefix: str) -> dict[str, str]:
    """The classes that a model with a tower has."""
    return {f"{prefix}ForConditionalGeneration": "lm", f"{prefix}Model": "none"}


# ---------------------------------------------------------------- what is nested


def part_of(c: Config, name: str, usual: str, *, only: bool = False) -> tuple[Config, str]:
    """A nested configuration and its type, which is the ``usual`` one unless it says so, or ``only`` that."""
    data = c.take(name, default=None)
    if not isinstance(data, Mapping):
        raise c.error(name, "required field is missing" if data is None else f"must be a mapping, got {shown(data)}")
    model_type = data.get("model_type") or usual
    if only and model_type not in (usual, c.model_type):
        raise c.error(f"{name}.model_type", f"only {usual} is understood, got {shown(model_type)}")
    model_type = usual if only else model_type
    if not isinstance(model_type, str):
        raise c.error(f"{name}.model_type", f"must be the name of a type, got {shown(model_type)}")
    return c.part(name, data, model_type), model_type


def family_of(part: Config, model_type: str, kinds: Iterable[str]) -> Family:
    """The family of a nested configuration. Raises ``SpecError`` for one that is not known, or has no such heads."""
    from txcalc.huggingface.families import FAMILIES

    family = FAMILIES.get(model_type)
    if family is None or not set(kinds) <= set(family.classes.values()):
        raise part.error("model_type", f"{shown(model_type)} is not understood here")
    return family


def text_stack(
    c: Config, kind: str, usual: str, *, either: bool = False, ignore: Iterable[str] = (), tied: bool | None = None,
    own_head: bool = False,
) -> Data:
    """The stack of text, of any family of decoders, under the seeing class's own head without a bias.

    ``either``: the head is tied if one of the two configurations says so. ``tied``: it is, or not, whatever they say.
    ``own_head``: it is the text's own.
    """
    part, model_type = part_of(c, "text_config", usual)
    part.ignore(*ignore)
    spec = family_of(part, model_type, ("lm", "none")).build(part, "lm")
    if spec.get("architecture", "decoder-only") != "decoder-only" or {"embedding_dim", "tower"} & spec.keys():
        raise part.error("model_type", f"{shown(model_type)} is not a stack of text that can be fed with images")
    own = _tied(c, part, either=either) if kind == "lm" and tied is None and not own_head else tied
    c.ignore("tie_word_embeddings")
    part.ignore("tie_word_embeddings")
    part.finish()
    return spec if own_head else {**spec, "head": head_of(kind, bool(own))}


def text_alone(class_name: str, usual: str, *, flat: bool = False) -> Family:
    """The text of a model that sees by itself, as ``AutoModelForCausalLM`` makes it of the whole configuration.

    ``flat``: without a ``text_config``, its fields stand beside those of the whole.
    """
    def build(c: Config, kind: str) -> Data:
        if flat and c.take("text_config", default=None) is None:
            own = {name: value for name, value in c.data.items() if name not in c.own or name == "tie_word_embeddings"}
            part = Config(own, usual, source=c.source, within=c)
        else:
            part, _ = part_of(c, "text_config", usual, only=True)
        spec = family_of(part, usual, ("lm",)).build(part, kind)
        part.finish()
        c.ignore(*c.data)  # what the text does not hold is read by no class of it
        return spec

    return Family(build, {class_name: "lm"})


def _tied(c: Config, text: Config, *, either: bool) -> bool:
    """Tell whether the head shares the token table.

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


def image_tower(
    c: Config, usual: str, *, only: bool = False, family: Family | None = None, name: str = "vision_config"
) -> Data:
    """The tower, of any family of image encoders, or of this one, without a head."""
    part, model_type = part_of(c, name, usual, only=only)
    # Of the text beside it, of a projector and of a contrastive model: the image encoders read none of these.
    part.ignore("vocab_size", "projection_dim", "num_image_tokens", "projector_hidden_act", "id2label", "num_labels")
    tower = tower_of(family or family_of(part, model_type, ("none",)), part)
    if tower.get("input", {}).get("kind") != "patches":
        raise part.error("model_type", f"{shown(model_type)} is no image encoder")
    return tower


def _skips(c: Config, tower: Data) -> Data:
    """The number of the tower's last layers after the one whose output is read: the embeddings are number 0."""
    layer, layers = c.take("vision_feature_layer"), tower["layers"]
    if type(layer) is not int:
        raise c.error("vision_feature_layer", f"only a single layer is understood, got {shown(layer)}")
    skips = layers - layer if layer >= 0 else -1 - layer
    if not 0 <= skips < layers or "groups" in tower:
        raise c.error("vision_feature_layer", f"must be one of {layers} layers that are all alike, got {layer}")
    return {"unused_layers": skips} if skips else {}


def _several_skips(c: Config, tower: Data) -> Data:
    """The same where the columns of several layers may come side by side: their order changes no number."""
    listed = c.take("vision_feature_layer")
    if not isinstance(listed, list) or not listed:
        return _skips(c, tower)
    each = (Config({"vision_feature_layer": layer}, "", source=c.source, path=c.path) for layer in listed)
    first, *beside = sorted(_skips(one, tower).get("unused_layers", 0) for one in each)
    return ({"unused_layers": first} if first else {}) | ({"feature_layers": beside} if beside else {})


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


# ---------------------------------------------------------------- projectors

Projector = Callable[[Config, Data, Data], Part]
"""Projector between a tower and a stack of text; of the configuration and both."""


def _layer(c: Config, width: Value, act: Value = _projector, bias: Value = True) -> Data:
    return dict(read(c, {"width": width, "activation": act, "bias": bias}))


def llava(c: Config, text: Data, tower: Data) -> Part:
    """Patches as a layer before the tower's last has them, through two layers."""
    bias = c.flag("multimodal_projector_bias")
    _only_patches_are_read(c, tower)
    return {"hidden": [_layer(c, text["d_model"], bias=bias)], "bias": bias, **_several_skips(c, tower)}


def _llava_next(c: Config, text: Data, tower: Data) -> Part:
    return {**read(c, llava(c, text, tower)), "separators": 1}


def _vipllava(c: Config, text: Data, tower: Data) -> Part:
    """LLaVA's with several layers of the tower side by side, and a norm on them."""
    if tower["input"].get("class_tokens", 1) + tower["input"].get("registers", 0) != 1:
        raise c.error("vision_config", "of any but a class token alone, a patch would be left out, or another be read")
    return {"norm": LAYERNORM, "bias": True, **_several_skips(c, tower), "hidden": [_layer(c, text["d_model"])]}


def _paligemma(c: Config, text: Data, tower: Data) -> Part:
    """One layer."""
    if c.size("projection_dim") != text["d_model"]:
        raise c.error("projection_dim", f"must be the text's width {text['d_model']}, got {c.take('projection_dim')}")
    _no_class_token(c, tower)
    return {"bias": True}


def _no_class_token(c: Config, tower: Data) -> None:
    if tower["input"].get("class_tokens", 1) or tower["input"].get("registers", 0):
        raise c.error("vision_config.model_type", "a class token would be read as if it were a patch")


_BIAS: Final = flag("multimodal_projector_bias")


def _pixtral(c: Config, text: Data, tower: Data, *, act: Value = _projector, bias: Value = _BIAS) -> Part:
    """Patches normed, merged by a layer of their own, and through two more."""
    _no_class_token(c, tower)
    last = _layer(c, text["d_model"], act, bias)
    return {"merge": size("spatial_merge_size"), "norm": RMS, "norm_first": True, "bias": last["bias"],
            "hidden": [{"width": tower["d_model"]}, last]}


def _mistral3(c: Config, text: Data, tower: Data) -> Part:
    return {**read(c, _pixtral(c, text, tower)), **_skips(c, tower)}


def _aya(c: Config, text: Data, tower: Data) -> Part:
    """Squares of patches, normed, through a gated layer."""
    _only_patches_are_read(c, tower)
    width = c.size_or(text["d_model"], "alignment_intermediate_size")
    return {**_gated_squares(c, tower, width), "norm": LAYERNORM, **_skips(c, tower)}


def _cohere2(c: Config, _: Data, tower: Data) -> Part:
    """The same without a norm, of a width of its own."""
    _no_class_token(c, tower)
    return _gated_squares(c, tower, c.size("alignment_intermediate_size"))


def _gated_squares(c: Config, tower: Data, width: int) -> Data:
    """One matrix makes both the gate and what it multiplies."""
    merge = c.size("downsample_factor")
    whole_squares(c, "downsample_factor", tower, merge)
    if width % 2:
        raise c.error("alignment_intermediate_size", f"must be two equal halves, got {width}")
    return {"merge": merge, "bias": True, "hidden": [{**_layer(c, width // 2, "silu"), "gated": True}]}


def _internvl(c: Config, text: Data, tower: Data) -> Part:
    """Squares of patches, normed, through two layers."""
    merge = inverse(c, "downsample_ratio", c.number("downsample_ratio"))
    whole_squares(c, "downsample_ratio", tower, merge)
    _only_patches_are_read(c, tower)
    return {"merge": merge, "norm": LAYERNORM, "bias": True, "hidden": [_layer(c, text["d_model"])],
            **_skips(c, tower)}


def inverse(c: Config, name: str, ratio: float | None) -> int:
    """The whole number that a ratio is one over."""
    merge = int(1 / ratio) if ratio else 0
    if merge < 1 or merge * (ratio or 0) != 1:
        raise c.error(name, f"must be one over a whole number, got {shown(ratio)}")
    return merge


def _deepseek(c: Config, text: Data, tower: Data) -> Part:
    """Two layers, in the size without a second tower."""
    _no_class_token(c, tower)
    return {"hidden": [_layer(c, text["d_model"], "gelu")], "bias": True}


def _lfm2(c: Config, _: Data, tower: Data) -> Part:
    """Squares of patches, normed, through a layer of a width of its own."""
    merge = c.size("downsample_factor")
    whole_squares(c, "downsample_factor", tower, merge)
    normed = {"norm": LAYERNORM} if c.flag("projector_use_layernorm") else {}
    layer = _layer(c, size("projector_hidden_size"), bias=flag("projector_bias"))
    return {"merge": merge, **normed, "hidden": [layer], "bias": layer["bias"]}


def _idefics3(c: Config, _: Data, tower: Data) -> Part:
    """Squares of patches through one layer."""
    merge = c.size("scale_factor")
    whole_squares(c, "scale_factor", tower, merge)
    return {"merge": merge}


# ---------------------------------------------------------------- the skeleton


def seeing(
    prefix: str, text: str, tower: str, projector: Projector, *, ignore: str = "", only: Only | None = None,
    text_ignore: str = "", only_tower: bool = False, either: bool = False,
    before: Callable[[Config], None] | None = None, own_head: Collection[str] = (),
    parts: tuple[str, ...] = (), family: Family | None = None,
) -> Family:
    """A family whose classes begin with ``prefix``, with its usual types of text and of tower.

    ``ignore`` and ``text_ignore``: fields that change nothing. ``only_tower``: no other type of tower. ``either``: the
    head is tied if one of the two configurations says so. ``before``: what older files need. ``own_head``: in which
    kinds of classes the text's own stands. ``parts`` and ``family``: types that stand only within this one's, and
    how the tower is read that is one of them.
    """
    def build(c: Config, kind: str) -> Data:
        passed_over(c, ignore, only or {})
        if before:
            before(c)
        spec = text_stack(c, kind, text, either=either, ignore=text_ignore.split(), own_head=kind in own_head)
        image = image_tower(c, tower, only=only_tower, family=family)
        own = read(c, projector(c, spec, image))
        reader = {"resampler": own.pop("resampler")} if "resampler" in own else {}
        return {**spec, "tower": {**image, "projector": own, **reader}}

    return Family(build, seeing_classes(prefix), parts)


def _sees_both_ways(c: Config) -> None:
    """PaliGemma's text may say what the class does anyway."""
    data = c.take("text_config", default=None)
    if isinstance(data, Mapping) and data.get("use_bidirectional_attention") is True:
        c.data["text_config"] = {**data, "use_bidirectional_attention": None}


def _tie_embedding(c: Config) -> None:
    """LFM2-VL's class reads this name first."""
    if "tie_embedding" in c.data:
        c.data = {"tie_word_embeddings": c.flag("tie_embedding"), **c.data}
        c.only("tie_embedding", c.flag("tie_word_embeddings"))


def _gemma3(c: Config, kind: str, *, either: bool = False) -> Data:
    """SigLIP's positions averaged, normed and projected into the text; ``either`` as in ``text_stack``."""
    text, image = nested(c, "text_config", "gemma3_text"), nested(c, "vision_config", "siglip_vision_model")
    text.ignore("tie_word_embeddings")
    spec = family_of(text, "gemma3_text", ("lm",)).build(text, kind)
    tower = tower_of(family_of(image, "siglip_vision_model", ("none",)), image)
    text.finish()
    side = tower["input"]["image"] // tower["input"]["patch"]
    kernel = side // int(c.size("mm_tokens_per_image") ** 0.5)
    if not kernel:
        raise c.error("mm_tokens_per_image", f"must not be more than the image's {side**2} patches")
    tied = c.flag("tie_word_embeddings") or (either and text.flag("tie_word_embeddings"))
    if kind == "lm":
        spec["head"] |= {"tied": tied}
    return {**spec, "tower": {**tower, "projector": {
        "average": True, "tokens": (side // kernel) ** 2, "norm": RMS}}}


# ---------------------------------------------------------------- rows

_SIGLIP: Final = "siglip_vision_model"
TILES: Final = "vocab_size image_seq_length image_grid_pinpoints"

# How a processor cuts images, in the configurations of LFM2-VL.
_CUTTING: Final = ("do_image_splitting encoder_patch_size max_image_tokens max_num_patches max_pixels_tolerance "
                   "max_tiles min_image_tokens min_tiles tile_size use_image_special_tokens use_thumbnail")
# What earlier models of the Idefics line had, which stands in the newer ones' files and which no class reads.
_UNREAD: Final = ("additional_vocab_size freeze_lm_head freeze_text_layers freeze_text_module_exceptions "
                  "is_llama_config neftune_noise_alpha perceiver_config pixel_shuffle_factor qk_layer_norms "
                  "transformers.js_config use_resampler")

ROWS: Final[Rows] = {
    "emu3": text_alone("Emu3ForCausalLM", "emu3_text_model"),
    "dots3_note": text_alone("Dots3NoteForCausalLM", "dots3_note_text", flat=True),
    # Gemma 3, arXiv 2503.19786.
    "gemma3": Family(_gemma3, seeing_classes("Gemma3")),
    "shieldgemma2": Family(partial(_gemma3, either=True), {
        "ShieldGemma2ForImageClassification": "lm", **seeing_classes("Gemma3")}),
    # LLaVA 1.5, arXiv 2310.03744; ViP-LLaVA, arXiv 2312.00784.
    "llava": seeing("Llava", "llama", "clip_vision_model", llava, either=True, ignore=TILES),
    "vipllava": seeing("VipLlava", "llama", "clip_vision_model", _vipllava,
                       ignore="vocab_size image_seq_length"),
    # LLaVA-NeXT and its successors: an image here is one tile, as large as the tower's; newlines stand between rows.
    "llava_next": seeing("LlavaNext", "llama", "clip_vision_model", _llava_next, ignore=TILES),
    "llava_next_video": seeing(
        "LlavaNextVideo", "llama", "clip_vision_model", _llava_next, ignore=f"{TILES} video_seq_length "
        "spatial_pool_stride spatial_pool_out_channels", only={"spatial_pool_mode": ("average", "max")}),
    "llava_onevision": seeing("LlavaOnevision", "qwen2", _SIGLIP, _llava_next, ignore=f"{TILES} vision_aspect_ratio"),
    # PaliGemma, arXiv 2407.07726.
    "paligemma": seeing("PaliGemma", "gemma", _SIGLIP, _paligemma, text_ignore="num_image_tokens",
                        ignore="vocab_size hidden_size num_image_tokens", before=_sees_both_ways),
    # Mistral Small 3.1; LightOnOCR has its projector before Qwen 3's text.
    "mistral3": seeing("Mistral3", "mistral", "pixtral", _mistral3),
    "lighton_ocr": seeing("LightOnOcr", "qwen3", "pixtral", partial(_pixtral, act="gelu", bias=False), only={
        "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "vision_feature_layer": -1}),
    # Aya Vision, arXiv 2505.08751; Command A Vision.
    "aya_vision": seeing("AyaVision", "cohere2", _SIGLIP, _aya),
    "cohere2_vision": seeing("Cohere2Vision", "cohere2", _SIGLIP, _cohere2),
    # InternVL 3, arXiv 2504.10479.
    "internvl": seeing("InternVL", "qwen2", "internvl_vision", _internvl, ignore="image_seq_length"),
    "qianfan_ocr": seeing("QianfanOCR", "qwen3", "qianfan_ocr_vision", _internvl, ignore="image_seq_length"),
    # DeepSeek-VL, arXiv 2403.05525.
    "deepseek_vl": seeing("DeepseekVL", "llama", _SIGLIP, _deepseek),
    "lfm2_vl": seeing("Lfm2Vl", "lfm2", "siglip2_vision_model", _lfm2, only_tower=True, ignore=_CUTTING,
                      only={"vision_feature_layer": -1}, before=_tie_embedding),
    # Idefics 3, arXiv 2408.12637; SmolVLM, arXiv 2504.05299.
    "idefics3": seeing("Idefics3", "llama", "idefics3_vision", _idefics3, only_tower=True, text_ignore=_UNREAD,
                       ignore="image_seq_len vocab_size"),
    "smolvlm": seeing("SmolVLM", "llama", "smolvlm_vision", _idefics3, only_tower=True, text_ignore=_UNREAD,
                      ignore="image_seq_len vocab_size"),
}
