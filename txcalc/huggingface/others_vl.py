"""Other models that see: patches that no layer reads before the text does, words of images, layers of each patch."""

from __future__ import annotations

from typing import Any, Final

from txcalc.huggingface.build import ACTIVATIONS, Data, layered
from txcalc.huggingface.config import IRRELEVANT, Config
from txcalc.huggingface.decoder import GROUPED, NO_ROPE, decoder
from txcalc.huggingface.encoder import HEADS
from txcalc.huggingface.layerwise import all_but, listed_kinds, where, windows
from txcalc.huggingface.multimodal import (
    TILES,
    family_of,
    head_of,
    llava,
    part_of,
    seeing,
    seeing_classes,
    text_stack,
    whole_squares,
)
from txcalc.huggingface.rows import LAYERNORM, RMS, Family, Part, Rows, flag, gated, given, number, read
from txcalc.huggingface.staged import MERGES, listed
from txcalc.huggingface.vision import SIDE, attention, images, patches, qkv, rotates_both_ways, side_of, vit_tower
from txcalc.spec.errors import shown


def patches_alone(d_model: int, given: Data, projector: Data, **more: Any) -> Data:
    """A tower without layers."""
    return {"d_model": d_model, "layers": 0, "input": given, "position": {"kind": "none"}, "final_norm": False,
            "feed_forward": None, "projector": projector, **more}


def _fuyu(c: Config, kind: str) -> Data:
    """Patches through one layer among the text's embeddings; in older files the text stands beside them."""
    if c.take("text_config", default=None) is None:
        flat = [name for name in c.data if name not in c.own and name not in IRRELEVANT]
        c.data["text_config"] = {name: c.data.pop(name) for name in flat}
    c.ignore("partial_rotary_factor")  # beside a text of its own nothing reads it
    spec = text_stack(c, kind, "persimmon", tied=c.flag("tie_word_embeddings"))
    return {**spec, "tower": patches_alone(spec["d_model"], read(c, patches(class_tokens=0)), {"dense": False})}


def _gemma4_unified(c: Config, kind: str) -> Data:
    """Gemma 4's text, and patches that are normed, projected, given positions and normed again."""
    c.only("audio_config", None)
    text, _ = part_of(c, "text_config", "gemma4_unified_text", only=True)
    text.ignore("tie_word_embeddings")
    spec = family_of(text, "gemma4_unified_text", ("lm",)).build(text, kind)
    text.finish()
    tied = c.flag("tie_word_embeddings")
    spec["head"] |= {"tied": tied} if kind == "lm" else {}
    if c.take("vision_config", default=None) is None:
        return spec
    image, _ = part_of(c, "vision_config", "gemma4_unified_vision", only=True)
    d, patch = image.size("mm_embed_dim"), side_of(image, "patch_size") * image.size("pooling_kernel_size")
    image.only("output_proj_dims", d)
    tower = patches_alone(
        d, {"kind": "patches", "image": SIDE * patch, "patch": patch, "class_tokens": 0, "normed": True},
        {"norm": {**RMS, "scale": False}}, norm=LAYERNORM, embedding_norm=True,
        position={"kind": "learned", "both_ways": True, "size": image.size("mm_posemb_size")})
    image.only("model_patch_size", patch)
    image.finish()
    return {**spec, "tower": tower}


def _minimax_m3(c: Config, kind: str) -> Data:
    """Two equal frames rotated in three dimensions; each patch through two layers, and each square through two more.

    The class has parts of its own, whatever types a file names.
    """
    c.ignore("img_token_compression_config", "vision_feature_layer", "vision_feature_select_strategy")
    text, image = (c.section(name, f"minimax_m3_vl_{part}") for name, part in (
        ("text_config", "text"), ("vision_config", "vision")))
    image.ignore("img_token_compression_config", "vocab_size")
    spec = family_of(text, "minimax_m3_vl_text", ("lm",)).build(text, "lm")
    tied = c.flag("tie_word_embeddings") | text.flag("tie_word_embeddings")
    text.finish()
    merge, pairs = image.size("spatial_merge_size"), image.size("hidden_size") // HEADS(image) // 6
    if not pairs:
        raise image.error("num_attention_heads", "positions rotate pairs of columns in three dimensions, so a head "
                          "needs 6")
    tower = vit_tower(image, position={"kind": "rope", "dim": 6 * pairs}, embedding_norm=True, final_norm=False,
                      input=patches(bias=False, class_tokens=0, channels=(
                          lambda c: c.size("num_channels") * c.size("temporal_patch_size"))))
    whole_squares(image, "spatial_merge_size", tower, merge)
    image.finish()
    c.only("merged_hidden_size", None, spec["d_model"] * merge**2)
    first = {"width": c.size("projector_hidden_size"), "activation": "gelu", "bias": True}
    tower["projector"] = {"patchwise": [first, {"width": spec["d_model"], "bias": True}], "merge": merge,
                          "hidden": [first], "bias": True}
    return {**spec, "head": head_of(kind, tied), "tower": tower}


def _minicpm(prefix: str, model_type: str) -> Family:
    """SigLIP's layers, of which one is followed by squares that attend by themselves and are merged, and a merger."""
    def build(c: Config, kind: str) -> Data:
        c.ignore("image_size", "patch_size", "drop_vision_last_layer")
        spec = text_stack(c, kind, "qwen3_5_text")
        image, _ = part_of(c, "vision_config", f"{model_type}_vision", only=True)
        image.only("window_kernel_size", [2, 2])
        c.only("merge_kernel_size", [2, 2])
        c.only("merger_times", 1)
        image.ignore("insert_layer_id")  # the whole's wins
        patch = side_of(image, "patch_size")
        side = side_of(image, "image_size") // patch  # along the table of positions, which others are interpolated from
        tower = vit_tower(image, input=patches(class_tokens=0, image=side // 4 * 4 * patch),
                          position={"kind": "learned", "size": side**2})
        image.finish()
        d, layers, feed, heads = tower["d_model"], tower["layers"], tower["feed_forward"], tower["attention"]["heads"]
        after = c.size("insert_layer_id", least=0) + 1
        if after > layers:
            raise c.error("insert_layer_id", f"must be one of {layers} layers, counted from 0")
        if side < 4:
            raise image.error("patch_size", "must be at most a quarter of image_size: 4 x 4 patches become one")
        merging = {"kind": "patch-merging", "width": d, "d_ff": 4 * feed["d_ff"], "bias": True, "mean": True,
                   "heads": heads, "skipped": c.take("downsample_mode") == "4x"}
        blocks = [{"repeat": after}, {**MERGES, "recurrent": merging}, {"repeat": layers - after}]
        layer = {"width": 4 * d, "activation": "gelu", "bias": True}
        return {**spec, "tower": {
            **tower, "attention": {"heads": heads, "bias": True}, "layers": layers + 1, "projector": {
                "merge": 2, "norm": LAYERNORM, "hidden": [layer], "bias": True},
            "groups": [{"blocks": blocks if after < layers else blocks[:-1]}]}}

    return Family(build, seeing_classes(prefix), (f"{model_type}_vision",))


def _video_llava(c: Config, kind: str) -> Data:
    """LLaVA with another tower of the same sizes."""
    spec = _VIDEO_LLAVA.build(c, kind)
    beside = {name: value for name, value in spec["tower"].items() if name != "projector"}
    return {**spec, "tower": {**spec["tower"], "second": beside}}


_VIDEO_LLAVA: Final = seeing("VideoLlava", "llama", "clip_vision_model", llava, ignore=f"{TILES} video_seq_length")


def _ovis2(c: Config, text: Data, tower: Data) -> Part:
    """Squares of patches as words of a vocabulary of images: how likely each is, times a table of theirs."""
    c.only("hidden_size", text["d_model"])
    if text["head"].get("tied") is not True:
        c.only("vocab_size", text["vocab"])
    image = c.part("vision_config", c.data["vision_config"], "ovis2_vision")
    words, rest = image.size("vocab_size"), image.size("num_visual_indicator_tokens")
    merge = image.size("hidden_stride")
    whole_squares(image, "hidden_stride", tower, merge)
    if words <= rest:
        raise image.error("num_visual_indicator_tokens", f"must be fewer than the {words} words of images")
    layer = {"width": words - rest, "norm": LAYERNORM, "softmax": True, "padding": rest}
    return {"hidden": [layer], **({"merge": merge} if merge > 1 else {})}


def _vqgan(c: Config, model_type: str) -> tuple[Config, Data]:
    """The configuration of an autoencoder and its encoder, in which the last of several resolutions attend."""
    own, _ = part_of(c, "vq_config", model_type, only=True)
    own.only("double_latent", False)
    base, levels = own.size("base_channels"), listed(own, "channel_multiplier")
    return own, {"channels": base, "levels": [base * level for level in levels], "depth": own.size("num_res_blocks"),
                 "in_channels": own.size("in_channels"), "latent": own.size("latent_channels"),
                 "codes": own.size("num_embeddings"), "code_dim": own.size("embed_dim")}


def _chameleon(c: Config, kind: str, spec: Data) -> Data:
    """A decoder that reads image codes as it reads other tokens, and the autoencoder that makes them."""
    own, encoder = _vqgan(c, "chameleon_vqgan")
    side, attended = own.size("resolution"), own.take("attn_resolutions") or []
    if not isinstance(attended, list):
        raise own.error("attn_resolutions", f"must be a list, got {shown(attended)}")
    attends = own.choice("attn_type", {"vanilla": True, None: False})
    own.finish()
    return {**spec, "autoencoder": {**encoder, "mid_attention": attends, "attention_levels": [
        i for i in range(len(encoder["levels"])) if attends and side // 2**i in attended]}}


def _janus(c: Config, kind: str) -> Data:
    """LLaVA's parts, and an autoencoder with a decoder, and layers that generate its codes."""
    spec, (image, _) = text_stack(c, kind, "llama"), part_of(c, "vision_config", "janus_vision_model", only=True)
    own, encoder = _vqgan(c, "janus_vqgan")
    image.only("use_qk_norm", False)
    image.only("projection_dim", spec["d_model"])
    image.ignore("num_image_tokens", "hidden_dropout_rate", "projection_dropout")
    layer = {"width": spec["d_model"], "activation": image.choice("hidden_act", ACTIVATIONS), "bias": True}
    tower = vit_tower(image, input=patches(class_tokens=0), attention=attention(qkv("attention_bias")), feed_forward={
        "d_ff": int(image.size("hidden_size") * image.factor("mlp_ratio")), "activation": layer["activation"],
        "bias": True})
    projector = {"hidden": [layer] * (image.size("depth") - 1), "bias": True}
    image.finish()
    own.only("image_token_embed_dim", spec["d_model"])
    own.ignore("num_patches", "hidden_act")
    encoder |= {"out_channels": own.size("out_channels"), "attention_levels": [len(encoder["levels"]) - 1],
                "generation": {"width": own.size("projection_dim"), "depth": own.size("num_hidden_layers")}}
    own.finish()
    return {**spec, "autoencoder": encoder, "tower": {**tower, "projector": projector}}


def _last_of_four(c: Config, layers: int) -> list[bool]:
    return [(layers - 1 - i) % 4 == 0 for i in range(layers)]


def _unrotated(c: Config, layers: int) -> list[bool]:
    """Layers without positions: whose base is 0, or every fourth, counted from the last."""
    listed = c.take("layer_rope_theta", default=None)
    if listed is None:
        return _last_of_four(c, layers)
    if not isinstance(listed, list) or len(listed) != layers:
        raise c.error("layer_rope_theta", f"must be a list of {layers} entries, one per layer")
    return [not theta for theta in listed]


_MUSE_TEXT: Final = decoder(
    {}, norm="sandwich", qk_norm={**RMS, "over": "head", "scale": False}, softcap=number("final_logit_softcapping"),
    attention={**GROUPED, "output_gate": True, "gate_bias": "none"}, feed_forward=gated(act="hidden_activation"),
    embedding_norm=True, embedding_norm_scale=False, ignore="qk_scale_factor output_multiplier post_norm_eps",
    layers=[windows(all_but(_last_of_four)), where(_unrotated, {"attention": NO_ROPE})])


def _muse_glimmer(c: Config, kind: str) -> Data:
    """Patches of an image as large as the table of positions, merged, through two layers and the text's own norm."""
    text, _ = part_of(c, "text_config", "muse_glimmer_text", only=True)
    image, _ = part_of(c, "vision_config", "muse_glimmer_vision", only=True)
    spec = _MUSE_TEXT.build(text, "lm")
    softcap, tied = spec["head"].get("softcap"), c.flag("tie_word_embeddings", default=False)
    text.ignore("tie_word_embeddings")
    text.finish()
    side, merge, patch = image.size("pos_emb_height"), image.size("merge_size"), side_of(image, "patch_size")
    image.only("pos_emb_width", side)
    image.ignore("max_position_embeddings")
    tower = vit_tower(image, embedding_norm=True, position={"kind": "learned", "size": side**2}, input={
        "kind": "patches", "image": side * patch, "patch": patch, "bias": False, "class_tokens": 0,
        "channels": 3 * image.size("patch_temporal")})
    rotates_both_ways(image, "num_attention_heads", tower["d_model"])
    whole_squares(image, "merge_size", tower, merge)
    whole = listed_kinds(image, "layer_types", tower["layers"], lambda _, layers: [
        (i + 1) % 4 == 0 or i == layers - 1 for i in range(layers)], "window_attention", "full_attention")
    image.finish()
    c.only("out_hidden_size", tower["d_model"] * merge**2)
    layer = {"width": c.size("projector_hidden_size"), "activation": c.choice("projector_hidden_act", ACTIVATIONS)}
    tower = layered(tower, [{} if full else {"attention": {"image_window": side}} for full in whole])
    head = head_of(kind, tied) | ({"softcap": softcap} if softcap and kind == "lm" else {})
    return {**spec, "head": head, "tower": {**tower, "projector": {"merge": merge, "hidden": [layer, layer]}}}


def _granite_docling(c: Config, kind: str) -> Data:
    """Squares of patches through a normed layer, layers of the tower beside, and a finer route that no run takes."""
    c.only("density_router_hidden_size", None)
    c.ignore("density_router_threshold", "density_router_loss_weight")
    text, _ = part_of(c, "text_config", "granite_docling_text", only=True)
    image, _ = part_of(c, "vision_config", "granite_docling_vision", only=True)
    spec = family_of(text, "granite", ("lm",)).build(text, "lm")
    text.ignore("tie_word_embeddings")
    text.finish()
    tower = vit_tower(image, input=patches(class_tokens=0))
    merge, layers, listed = image.size("scale_factor"), tower["layers"], image.take("deepstack_visual_indexes")
    listed = [3, 7, 10] if listed is None else listed
    if not isinstance(listed, list) or not all(type(i) is int and 0 <= i < layers for i in listed) or (
            len({*listed}) < len(listed)):
        raise image.error("deepstack_visual_indexes", f"must list some of the {layers} layers, counted from 0, once")
    image.only("out_hidden_size", spec["d_model"])
    fine, layer = image.flag("use_fine_route"), {"width": spec["d_model"], "activation": "gelu"}
    whole_squares(image, "scale_factor", tower, merge)
    if fine and merge < 2:
        raise image.error("scale_factor", "must be at least 2, half of which the fine route has")
    image.finish()
    deep = [[{"merge": side, "unused_layers": layers - 1 - i, "norm": LAYERNORM, "bias": True, "hidden": [
        {**layer, "bias": True}]} for i in sorted(listed)] for side in (merge, merge // 2)]
    return {**spec, "head": head_of(kind, c.flag("tie_word_embeddings")), "tower": {
        **tower, "deepstack": deep[0], "unused": [{"merge": merge // 2}, *deep[1]] if fine else [], "projector": {
            "merge": merge, "norm": LAYERNORM, "norm_first": True, "hidden": [{**layer, "norm": LAYERNORM}],
            "final_norm": LAYERNORM}}}


ROWS: Final[Rows] = {
    "granite_docling": Family(_granite_docling, seeing_classes("GraniteDocling"), (
        "granite_docling_text", "granite_docling_vision")),
    "muse_glimmer": Family(_muse_glimmer, seeing_classes("MuseGlimmer"), (
        "muse_glimmer_text", "muse_glimmer_vision")),
    # Fuyu has no tower, nor has Gemma 4's 12B model.
    "fuyu": Family(_fuyu, {"FuyuForCausalLM": "lm", "FuyuModel": "none"}),
    "gemma4_unified": Family(_gemma4_unified, seeing_classes("Gemma4Unified"), ("gemma4_unified_vision",)),
    "minimax_m3_vl": Family(_minimax_m3, {
        "MiniMaxM3SparseForConditionalGeneration": "lm", "MiniMaxM3VLModel": "none"}, ("minimax_m3_vl_vision",)),
    # Chameleon, arXiv 2405.09818; Janus, arXiv 2410.13848.
    "chameleon": decoder({"ChameleonForConditionalGeneration": "lm", "ChameleonModel": "none"}, ignore="vocabulary_map "
                         "model_parallel_size", norm={**RMS, "placement": given(flag("swin_norm"), "res-post", "pre")},
                         qk_norm={**LAYERNORM, "over": "heads"}, finish=_chameleon)._replace(
                             parts=("chameleon_vqgan",)),
    "janus": Family(_janus, seeing_classes("Janus"), ("janus_vision_model", "janus_vqgan")),
    # Video-LLaVA, arXiv 2311.10122.
    "video_llava": Family(_video_llava, _VIDEO_LLAVA.classes),
    "minicpmv4_6": _minicpm("MiniCPMV4_6", "minicpmv4_6"), "minicpmv4_7": _minicpm("MiniCPMV4_7", "minicpmv4_7"),
    "minicpm_ocr": _minicpm("MiniCPMOcr", "minicpm_ocr"),
    # Ovis 2, arXiv 2405.20797: patches are normed before positions are added, as many values as a norm on the sum.
    "ovis2": seeing("Ovis2", "qwen2", "ovis2_vision", _ovis2, only_tower=True, ignore="vocab_size", parts=(
        "ovis2_vision",), family=images(
            {}, input=patches(class_tokens=0), norm=RMS, embedding_norm=True, attention=attention(flag("qkv_bias")),
            feed_forward=gated(), ignore="hidden_stride num_visual_indicator_tokens tokenize_function vocab_size")),
}
