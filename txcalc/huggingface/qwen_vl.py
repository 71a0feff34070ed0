"""Models that see images of any size, with rotary positions in three dimensions: a skeleton, and Qwen's rows.

Their towers have no size of image of their own, but for Qwen 3's, whose table of positions has one: an image here is
16 x 16 = 256 positions of the text, unless squares that attend by themselves do not fit into it. An image is read as
two equal frames of a film, so that its patches have twice the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any, Final

from txcalc.huggingface.build import ACTIVATIONS, Data, layered
from txcalc.huggingface.config import IRRELEVANT, Config
from txcalc.huggingface.decoder import HEAD_NORM, decoder
from txcalc.huggingface.encoder import split_width
from txcalc.huggingface.layerwise import listed_kinds
from txcalc.huggingface.multimodal import family_of, head_of, part_of, seeing_classes, text_stack, whole_squares
from txcalc.huggingface.rows import LAYERNORM, RMS, Family, Part, Rows, Value, flag, gated, plain, read, size
from txcalc.huggingface.sounds import grid_tower, pairs, two_layers, whisper_tower
from txcalc.huggingface.vision import SIDE, flexible, patches, rotates_both_ways, side_of, vit_tower
from txcalc.spec.errors import shown

Projector = Callable[[Config, Data], Part]
"""Projector between a tower and the text; of the tower's configuration and its spec."""

# ---------------------------------------------------------------- the skeleton


def merged(tower: Data, merge: int, norm: Data = LAYERNORM) -> Data:
    """Patches normed one by one, merged, and passed through a layer as wide as a square of them."""
    return {"merge": merge, "norm": norm, "norm_first": True, "bias": True,
            "hidden": [{"width": tower["d_model"] * merge**2, "activation": "gelu", "bias": True}]}


def patchwise(norm: Data = LAYERNORM) -> Projector:
    """The same as a projector of towers that say ``spatial_merge_size``."""
    return lambda image, tower: merged(tower, image.size("spatial_merge_size"), norm)


def any_size(
    prefix: str, model_type: str, text: str | Family, tower: Callable[[Config], Data], *,
    projector: Projector | None = None, width: str = "out_hidden_size", beside: bool = False, ties: bool = False,
    absent: Mapping[str, Any] | None = None, deep: bool = False,
) -> Family:
    """A family whose classes begin with ``prefix``, with the text of another one.

    Its own parts are of the types ``…_text`` and ``…_vision``. ``width``: the tower's field for the text's width.
    ``beside`` and ``absent`` are ``text_of``'s. ``ties``: the class ties the head if the text's configuration says so,
    too. ``deep``: the text's first layers get what layers of the tower make of an image.
    """
    def build(c: Config, kind: str) -> Data:
        own, image = text_of(c, parts[0], beside=beside, **(absent or {})), image_of(c, parts[1])
        family = family_of(own, text, ("lm",)) if isinstance(text, str) else text
        return joined(c, kind, family.build(own, "lm"), tower(image), own, image, width=width, ties=ties, deep=deep,
                      projector=projector or patchwise())

    parts = (f"{model_type}_text", f"{model_type}_vision")
    return Family(build, seeing_classes(prefix), parts)


def joined(
    c: Config, kind: str, spec: Data, tower: Data, text: Config, image: Config, *, projector: Projector,
    width: str = "out_hidden_size", ties: bool = False, deep: bool = False,
) -> Data:
    """Text, tower and projector, as ``any_size`` says."""
    merge = image.size("spatial_merge_size")
    if image.size(width) != spec["d_model"]:
        raise image.error(width, f"must be the text's width {spec['d_model']}, got {image.size(width)}")
    whole_squares(image, "spatial_merge_size", tower, merge)
    tied = c.flag("tie_word_embeddings") | (text.flag("tie_word_embeddings") and ties)
    tower["projector"] = read(image, projector(image, tower))
    if deep:
        tower |= _deepstack(image, tower, spec["layers"])
    text.finish()
    image.finish()
    return {**spec, "head": head_of(kind, tied), "tower": tower}


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


def frames(
    c: Config, *, side: int = SIDE, bias: bool = False, d_model: str = "hidden_size", heads: str = "num_heads",
    **parts: Value,
) -> Data:
    """A tower of two equal frames, whose image is ``side`` squares of patches wide; ``parts`` win."""
    merge, patch, number = c.size("spatial_merge_size"), side_of(c, "patch_size"), side_of(c, "temporal_patch_size")
    image = {"kind": "patches", "image": side * merge * patch, "patch": patch, "bias": bias, "class_tokens": 0,
             "channels": c.size("in_channels") * number}
    rotates_both_ways(c, heads, c.size(d_model))
    c.ignore("tie_word_embeddings")
    return dict(read(c, {
        "d_model": size(d_model), "layers": size("depth"), "input": image, "position": {"kind": "rope"},
        "norm": LAYERNORM, "attention": {"heads": size(heads), "bias": True}, "final_norm": False, **parts}))


def squares(c: Config, **attention: Value) -> Data:
    """A tower of gated layers, of which all but those listed see a square of the image only."""
    c.ignore("tokens_per_second")
    merge, patch = c.size("spatial_merge_size"), side_of(c, "patch_size")
    square = c.size("window_size") // merge // patch
    if not square:
        raise c.error("window_size", f"must be at least one merged square of {merge * patch} pixels")
    tower = frames(c, norm=RMS, feed_forward=gated(bias=True), side=SIDE if SIDE % square == 0 else 4 * square,
                   attention={"heads": size("num_heads"), "bias": True, **attention})
    whole = _layers(c, "fullatt_block_indexes")
    return layered(tower, [{} if i in whole else {"attention": {"image_window": square * merge}}
                           for i in range(tower["layers"])])


def _layers(c: Config, name: str) -> list[int]:
    """Numbers of layers, counted from 0: of one that the tower does not have, nothing is read."""
    listed = c.take(name)
    if not isinstance(listed, list) or not all(type(i) is int for i in listed):
        raise c.error(name, f"must be a list of numbers of layers, got {shown(listed)}")
    return listed


# ---------------------------------------------------------------- Qwen's


def _qwen2_text(c: Config, kind: str) -> Data:
    c.only("head_dim", None, split_width(c))
    return family_of(c, "qwen2", ("lm",)).build(c, kind)


def _qwen2(c: Config) -> Data:
    width = int(c.size("embed_dim") * c.factor("mlp_ratio"))
    return frames(c, d_model="embed_dim", feed_forward=plain(d_ff=width))


def _qwen3(c: Config) -> Data:
    rows, merge = c.size("num_position_embeddings"), c.size("spatial_merge_size")
    side = isqrt(rows)
    if side**2 != rows or side % merge:
        raise c.error("num_position_embeddings", f"must be those of a square image whose sides {merge} divides")
    return frames(c, bias=True, side=side // merge, feed_forward=plain(), position={"kind": "learned", "size": rows})


def _deepstack(image: Config, tower: Data, text_layers: int) -> Data:
    """Projectors of some layers, whose norms stand behind the merging, and those of layers that do not exist."""
    if "deepstack_visual_indexes" not in image.own:
        image.only("deepstack_visual_indexes", [])
        return {}
    layers, listed = tower["layers"], _layers(image, "deepstack_visual_indexes")
    deep = [i for i in listed if 0 <= i < layers]
    if len(deep) > text_layers or len(set(deep)) < len(deep) or deep != sorted(deep):
        raise image.error("deepstack_visual_indexes", "must be different layers in order, as many as the text has "
                          "at most")
    projector = {name: value for name, value in tower["projector"].items() if name != "norm_first"}
    return {"unused": [projector] * (len(listed) - len(deep)), "deepstack": [
        projector | ({"unused_layers": layers - 1 - i} if i + 1 < layers else {}) for i in deep]}


# ---------------------------------------------------------------- those of others with parts of Qwen's


def _hyperclovax(c: Config, kind: str) -> Data:
    """Qwen2.5-VL's whole tower, and one layer more into the text."""
    data = c.take("vision_config", default=None)
    if isinstance(data, Mapping) and data.get("model_type") == "qwen2_5_vl":  # as it was first released
        c.data["vision_config"] = {**data, "model_type": "qwen2_5_vl_vision"}
    spec, image = text_stack(c, kind, "hyperclovax"), image_of(c, "qwen2_5_vl_vision")
    tower = squares(image)
    whole_squares(image, "spatial_merge_size", tower, image.size("spatial_merge_size"))
    projector = read(image, patchwise(RMS)(image, tower))
    projector["hidden"] += [{"width": image.size("out_hidden_size"), "bias": True}]
    image.finish()
    return {**spec, "tower": {**tower, "projector": projector}}


def _video_llama3(c: Config, kind: str) -> Data:
    """SigLIP's layers with rotary positions: the patches of an image go through two layers, unmerged."""
    if isinstance(data := c.take("text_config", default=None), Mapping):
        c.data["text_config"] = {"tie_word_embeddings": False, **data}
    spec = text_stack(c, kind, "qwen2", either=True)
    image, _ = part_of(c, "vision_config", "video_llama_3_vision", only=True)
    rotates_both_ways(image, "num_attention_heads", image.size("hidden_size"))
    patch = side_of(image, "patch_size")
    tower = vit_tower(image, position={"kind": "rope"}, input={
        "kind": "patches", "image": SIDE * patch, "patch": patch, "channels": image.size("num_channels"),
        "class_tokens": 0})
    image.finish()
    layer = {"width": spec["d_model"], "activation": "gelu", "bias": True}
    return {**spec, "tower": {**tower, "projector": {"hidden": [layer], "bias": True}}}


def _cosmos3_edge(c: Config, kind: str) -> Data:
    """SigLIP 2's layers before Llama's with a squared ReLU, and a head that is never tied."""
    c.ignore("tie_word_embeddings")
    own, (image, _) = text_of(c, "cosmos3_edge_text"), part_of(c, "vision_config", "cosmos3_edge_vision", only=True)
    spec, tower = _COSMOS_TEXT.build(own, "lm"), vit_tower(image, input=flexible)
    own.finish()
    merge = image.size("spatial_merge_size")
    whole_squares(image, "spatial_merge_size", tower, merge)
    image.ignore("vision_use_head")
    image.finish()
    layer = {"width": c.size("projector_hidden_size"), "activation": "gelu", "bias": True}
    projector = merged(tower, merge) | {"hidden": [layer]}
    return {**spec, "head": head_of(kind, tied=False), "tower": {**tower, "projector": projector}}


def _omni(prefix: str, family: str, *, three: bool) -> Family:
    """Qwen2.5-VL or Qwen3-VL, and a tower for sounds, which are cut: each piece or window is a sound of its own."""
    parts = tuple(f"{family}_{name}" for name in ("text", "vision_encoder", "audio_encoder"))

    def build(c: Config, kind: str) -> Data:
        c.ignore("position_id_per_seconds", "seconds_per_chunk", "user_token_id")
        absent = {"use_sliding_window": False} if three else {}
        text, image = text_of(c, parts[0], **absent), image_of(c, parts[1])
        text.ignore("shared_expert_intermediate_size")  # the talker's alone
        sound, _ = part_of(c, "audio_config", parts[2], only=True)
        own = family_of(text, "qwen3_moe", ("lm",)).build(text, "lm") if three else _qwen2_text(text, "lm")
        spec = joined(c, kind, own, _qwen3(image) if three else squares(image), text, image, deep=three,
                      projector=patchwise(LAYERNORM if three else RMS))
        if three:
            heard = grid_tower(sound)
            projector = two_layers(sound, spec, heard)
        else:
            sound.ignore("max_source_positions")
            sound.only("output_dim", spec["d_model"])
            heard = whisper_tower(sound, "n_window", final_norm=False, position={"kind": "sinusoidal"})
            projector = {**pairs(heard), "bias": True, "separators": 2}
        sound.finish()
        return {**spec, "tower": {**spec["tower"], "second": {**heard, "projector": projector}}}

    return Family(build, seeing_classes(prefix), parts)


def _lfm3(c: Config, kind: str) -> Data:
    """Convolutions along both sides of an image among layers with rotary positions."""
    spec = text_stack(c, kind, "lfm3")
    image, _ = part_of(c, "vision_config", "lfm3_vl_vision", only=True)
    tower = frames(image, heads="num_attention_heads", norm=RMS, layers=size("num_hidden_layers"), embedding_norm=True,
                   feed_forward={"d_ff": size("intermediate_size"), "activation": "silu", "gated": True}, attention={
                       "heads": size("num_attention_heads"), "kv_heads": size("num_key_value_heads"),
                       "qk_norm": HEAD_NORM})
    convolution = {"attention": None, "recurrent": {
        "kind": "short-convolution", "conv": image.size("conv_kernel_size"), "image": True}}
    kinds = listed_kinds(image, "layer_types", tower["layers"], lambda c, layers: [
        i < 2 or i % 2 > 0 for i in range(layers)], "full_attention", "conv")
    tower = layered(tower, [convolution if own else {} for own in kinds])
    merge, bias = image.size("spatial_merge_size"), c.flag("projector_bias")
    image.finish()
    layer = {"width": c.size("projector_hidden_size"), "activation": c.choice("projector_hidden_act", ACTIVATIONS),
             "bias": bias}
    return {**spec, "tower": {**tower, "projector": merged(tower, merge) | {"hidden": [layer], "bias": bias}}}


def _hunyuan(c: Config, kind: str) -> Data:
    """Squares of patches through a convolution and two layers, and newlines among them."""
    own, (image, _) = text_of(c, "hunyuan_vl_text"), part_of(c, "vision_config", "hunyuan_vl_vision", only=True)
    spec = family_of(own, "hunyuan_v1_dense", ("lm",)).build(own, "lm")
    tied = c.flag("tie_word_embeddings") | own.flag("tie_word_embeddings")
    tied |= "tie_word_embeddings" not in c.data["text_config"]  # where its own default ties them
    own.finish()
    image.ignore("num_key_value_heads", "interpolate_mode", "temporal_patch_size", "out_hidden_size", "min_image_size",
                 "img_max_token_num", "max_vit_seq_len", "text_hidden_size")
    patch = side_of(image, "patch_size")
    side = image.size("max_image_size") // patch
    tower = vit_tower(image, input=patches(class_tokens=0, image=side * patch), final_norm=False,
                      position={"kind": "learned", "size": side**2 + 1})
    merge, d, act = image.size("spatial_merge_size"), tower["d_model"], image.choice("hidden_act", ACTIVATIONS)
    whole_squares(image, "spatial_merge_size", tower, merge)
    image.finish()
    hidden = [{"width": 2 * d, "activation": act, "bias": True}, {"width": 4 * d, "bias": True}]
    return {**spec, "head": head_of(kind, tied), "tower": {**tower, "projector": {
        "merge": merge, "norm": RMS, "norm_first": True, "hidden": hidden, "bias": True, "newlines": True,
        "separators": 1, "final_norm": RMS}}}


_COSMOS_TEXT: Final = decoder({}, feed_forward=plain(bias=flag("mlp_bias")))
_QWEN2_TEXT: Final = Family(_qwen2_text, {})
_QWEN3_TEXT: Final = decoder({}, bias=flag("attention_bias"), qk_norm=HEAD_NORM)

ROWS: Final[Rows] = {
    # Qwen2-VL, arXiv 2409.12191: squares of patches through two layers.
    "qwen2_vl": any_size("Qwen2VL", "qwen2_vl", _QWEN2_TEXT, _qwen2, width="hidden_size", beside=True, ties=True),
    # Qwen2.5-VL, arXiv 2502.13923: a tower like the text's layers, most of which see a square of the image only.
    "qwen2_5_vl": any_size("Qwen2_5_VL", "qwen2_5_vl", _QWEN2_TEXT, squares, projector=patchwise(RMS), beside=True,
                           ties=True),
    # Qwen3-VL, arXiv 2511.21631: what some layers of the tower make of an image is added to the text's first.
    "qwen3_vl": any_size("Qwen3VL", "qwen3_vl", _QWEN3_TEXT, _qwen3, deep=True),
    "qwen3_vl_moe": any_size("Qwen3VLMoe", "qwen3_vl_moe", "qwen3_moe", _qwen3, deep=True, absent={
        "norm_topk_prob": True, "use_sliding_window": False, "sliding_window": None}),
    # Qwen 3.5: its text's first layers get no more than the others.
    "qwen3_5": any_size("Qwen3_5", "qwen3_5", "qwen3_5_text", _qwen3, deep=True),
    "qwen3_5_moe": any_size("Qwen3_5Moe", "qwen3_5_moe", "qwen3_5_moe_text", _qwen3, deep=True),
    "qwen4_exp": any_size("Qwen4Exp", "qwen4_exp", "qwen4_exp_text", _qwen3, deep=True),
    # Cosmos 3: Qwen3-VL as it is; SigLIP 2's layers. Command A+ (Compass): Cohere's text.
    "cosmos3_omni": any_size("Cosmos3Omni", "qwen3_vl", _QWEN3_TEXT, _qwen3, deep=True),
    "cosmos3_edge": Family(_cosmos3_edge, seeing_classes("Cosmos3Edge"), ("cosmos3_edge_text", "cosmos3_edge_vision")),
    "cohere_compass": any_size("CohereCompass", "cohere_compass", "cohere_compass_text", _qwen3, deep=True),
    "hyperclovax_vision_v2": Family(_hyperclovax, seeing_classes("HyperCLOVAXVisionV2")),
    # Qwen2.5-Omni, arXiv 2503.20215: what it hears with stands beside what it sees with.
    "qwen2_5_omni_thinker": _omni("Qwen2_5OmniThinker", "qwen2_5_omni", three=False),
    "qwen3_omni_moe_thinker": _omni("Qwen3OmniMoeThinker", "qwen3_omni_moe", three=True),
    "lfm3_vl": Family(_lfm3, seeing_classes("Lfm3Vl"), ("lfm3_vl_vision",)),
    "hunyuan_vl": Family(_hunyuan, seeing_classes("HunYuanVL"), ("hunyuan_vl_text", "hunyuan_vl_vision")),
    # VideoLLaMA 3, arXiv 2501.13106.
    "video_llama_3": Family(_video_llama3, seeing_classes("VideoLlama3"), ("video_llama_3_vision",)),
}
