"""Encoder-decoders of two families: an encoder of images or of text, and a decoder of text that attends to it."""

from __future__ import annotations

from functools import partial
from math import isqrt
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import ACT, BODY, HEADS, masked_lm
from txcalc.huggingface.multimodal import family_of, image_tower, part_of
from txcalc.huggingface.rows import RMS, Family, Rows, gated, read, size
from txcalc.huggingface.vision import images
from txcalc.spec.model import Encoder, Stack


def captioner(image: Data, text: Data, **more: object) -> Data:
    """Text that attends to an encoder's positions, which takes none of its decoder's fields."""
    own = {"embedding_norm": False, "final_norm": True, "share_layers": False, "residual": "sequential"}
    kept = {name: value for name, value in text.items() if name != "unread_memory"}
    return {"cross_attention": text["attention"], **kept, "architecture": "encoder-decoder",
            "encoder": {**own, **image, **more}}


def rows_of_patches(c: Config, number: str) -> Data:
    """Patches that come as rows of numbers, of three colours, as many as there may be."""
    columns, side = c.size("patch_embed_hidden_size"), isqrt(c.size(number))
    patch = isqrt(columns // 3)
    if 3 * patch**2 != columns:
        raise c.error("patch_embed_hidden_size", f"must be those of a square of three colours, got {columns}")
    return {"kind": "patches", "image": side * patch, "patch": patch, "class_tokens": 0}


def _text_encoder(c: Config) -> Data:
    """Any encoder of text, whose pooler runs and is read by nothing."""
    part, model_type = part_of(c, "encoder", "bert")
    spec = family_of(part, model_type, ("none",)).build(part, "none")
    part.ignore("tie_word_embeddings")
    part.finish()
    if spec.get("architecture") != "encoder-only":
        raise part.error("is_decoder", "must be an encoder")
    pooler, at = {"kind": "dense"} if spec.get("pooler") is True else spec.get("pooler"), spec["position"]
    own = {"size": spec["context"], **at} if at["kind"] in ("learned", "sinusoidal") else at
    return {**spec, "pooler": pooler, "position": own}


def _both(c: Config, source: Data, text: Data) -> Data:
    """The two stacks, as far as what they look tokens up in has one shape."""
    own = {name: part for name, part in source.items() if name in Encoder.names() and name != "d_model"}
    apart = {*own, "vocab", "context", "architecture", "head", "family", "name", *Stack.names()}
    for name in sorted(({*source, *text} - apart) | {"d_model"}):
        if (source.get(name) or None) != (text.get(name) or None):
            raise c.error("encoder", f"{name} {source.get(name)}, but {text.get(name)} in the decoder: stacks whose "
                          "embeddings have different shapes are not understood")
    return captioner(own, text) | {"source_vocab": source["vocab"]}


def _any(c: Config, kind: str, *, reads_text: bool = False) -> Data:
    """Any encoder and any decoder that can attend to it, with a projection between two widths."""
    c.ignore("tie_word_embeddings")
    image = _text_encoder(c) if reads_text else image_tower(c, "vit", name="encoder")
    text, model_type = part_of(c, "decoder", "bert")
    text.ignore("tie_word_embeddings")
    if not text.flag("add_cross_attention", default=False):
        raise text.error("add_cross_attention", "must be true: else nothing reads the encoder")
    read_width = text.take("cross_attention_hidden_size", default=None)
    text.only("cross_attention_hidden_size", None, image["d_model"])
    text.data = {**text.data, "add_cross_attention": False}  # a family is read as it is alone
    family = family_of(text, model_type, ())
    named = (head for name, head in family.classes.items() if name.endswith(("LMHeadModel", "ForCausalLM")))
    spec = family.build(text, next(named, "none"))
    text.finish()
    if spec.get("architecture") == "encoder-only" or spec["head"]["kind"] != "lm":
        raise text.error("is_decoder", "must be a decoder with a language model's head")
    if reads_text:
        return _both(c, image, spec)
    return captioner(image, spec, projection=image["d_model"] != spec["d_model"] and read_width is None)


def _blip(c: Config, kind: str) -> Data:
    """BERT's layers that attend to ViT's, under BERT's masked-LM head."""
    c.ignore("projection_dim", "image_text_hidden_size", "label_smoothing")
    image, (text, _) = image_tower(c, "blip_vision_model", only=True), part_of(
        c, "text_config", "blip_text_model", only=True)
    text.only("is_decoder", True)
    text.ignore("encoder_hidden_size", "projection_dim", "label_smoothing")  # the class takes the tower's width
    text.data["tie_word_embeddings"] = c.flag("tie_word_embeddings") | text.flag("tie_word_embeddings")
    spec = read(text, {**BODY, "head": masked_lm(ACT(text), two_biases=True)})
    text.finish()
    return captioner(image, spec)


def _pix2struct(c: Config, kind: str) -> Data:
    """T5's decoder, and an encoder with a table for either side of an image of any shape."""
    c.ignore("is_vqa", "initializer_factor")
    image = image_tower(c, "pix2struct_vision_model", only=True, family=_PIX2STRUCT_TOWER)
    text, _ = part_of(c, "text_config", "pix2struct_text_model", only=True)
    text.only("is_decoder", True)
    text.ignore("tie_word_embeddings")
    d, heads = text.size("hidden_size"), read(text, {"heads": size("num_heads"), "head_dim": size("d_kv")})
    if heads["heads"] * heads["head_dim"] != d or image["d_model"] != d:
        raise text.error("hidden_size", "must be the width of all heads together and that of the tower")
    spec = read(text, {
        "vocab": size("vocab_size"), "d_model": d, "layers": size("num_layers"), "norm": RMS, "context": 2048,
        "attention": {**heads, "scale": 1.0}, "feed_forward": gated(d_ff=size("d_ff"), act="dense_act_fn", bias=False),
        "position": {"kind": "relative", "buckets": size("relative_attention_num_buckets"),
                     "max_distance": size("relative_attention_max_distance")},
        "head": {"kind": "lm", "tied": c.flag("tie_word_embeddings")}})
    text.finish()
    return captioner(image, spec)


_PIX2STRUCT_TOWER: Final = images(
    {}, input=lambda c: rows_of_patches(c, "seq_len"), norm=RMS, attention={"heads": HEADS, "head_dim": size("d_kv")},
    feed_forward=gated(d_ff=size("d_ff"), act="dense_act_fn", bias=False),
    position={"kind": "learned", "both_ways": True, "size": size("seq_len")},
    ignore="relative_attention_num_buckets relative_attention_max_distance")

ROWS: Final[Rows] = {
    "encoder-decoder": Family(partial(_any, reads_text=True), {"EncoderDecoderModel": "lm"}),
    "vision-encoder-decoder": Family(_any, {"VisionEncoderDecoderModel": "lm"}),
    "blip": Family(_blip, {"BlipForConditionalGeneration": "lm"}, ("blip_text_model",)),
    "pix2struct": Family(_pix2struct, {"Pix2StructForConditionalGeneration": "lm"},
                         ("pix2struct_text_model", "pix2struct_vision_model")),
}
