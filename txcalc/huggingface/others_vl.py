"""Other models that see: patches that no layer reads before the text does, words of images, layers of each patch."""

from __future__ import annotations

from typing import Any, Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import IRRELEVANT, Config
from txcalc.huggingface.encoder import HEADS
from txcalc.huggingface.multimodal import family_of, head_of, part_of, seeing, seeing_classes, text_stack, whole_squares
from txcalc.huggingface.rows import LAYERNORM, RMS, Family, Part, Rows, flag, gated, read
from txcalc.huggingface.vision import SIDE, attention, images, patches, side_of, vit_tower


def patches_alone(d_model: int, given: Data, projector: Data, **more: Any) -> Data:
    """A tower without layers."""
    return {"d_model": d_model, "layers": 0, "input": given, "position": {"kind": "none"}, "final_norm": False,
            "feed_forward": None, "projector": projector, **more}


def _fuyu(c: Config, kind: str) -> Data:
    """Patches through one layer among the text's embeddings; in older files the text stands beside them."""
    if c.take("text_config", default=None) is None:
        flat = [name for name in c.data if name not in c.own and name not in IRRELEVANT]
        c.data["text_config"] = {name: c.data.pop(name) for name in flat}
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
    """Two equal frames rotated in three dimensions; each patch through two layers, and each square through two more."""
    text, _ = part_of(c, "text_config", "minimax_m3_vl_text", only=True)
    image, _ = part_of(c, "vision_config", "minimax_m3_vl_vision", only=True)
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


ROWS: Final[Rows] = {
    # Fuyu has no tower, nor has Gemma 4's 12B model.
    "fuyu": Family(_fuyu, {"FuyuForCausalLM": "lm", "FuyuModel": "none"}),
    "gemma4_unified": Family(_gemma4_unified, seeing_classes("Gemma4Unified"), ("gemma4_unified_vision",)),
    "minimax_m3_vl": Family(_minimax_m3, {
        "MiniMaxM3SparseForConditionalGeneration": "lm", "MiniMaxM3VLModel": "none"}, ("minimax_m3_vl_vision",)),
    # Ovis 2, arXiv 2405.20797: patches are normed before positions are added, as many values as a norm on the sum.
    "ovis2": seeing("Ovis2", "qwen2", "ovis2_vision", _ovis2, only_tower=True, ignore="vocab_size", parts=(
        "ovis2_vision",), family=images(
            {}, input=patches(class_tokens=0), norm=RMS, embedding_norm=True, attention=attention(flag("qkv_bias")),
            feed_forward=gated(), ignore="hidden_stride num_visual_indicator_tokens tokenize_function vocab_size")),
}
