"""Models that see through learned queries: Q-Formers and Perceivers between a tower and a stack of text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from txcalc.huggingface.build import Data, layered
from txcalc.huggingface.captioning import rows_of_patches
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import ACT, HEADS, POST
from txcalc.huggingface.multimodal import head_of, image_tower, part_of, seeing, seeing_classes
from txcalc.huggingface.rows import LAYERNORM, RMS, Family, Part, Rows, Value, flag, gated, plain, read, size
from txcalc.huggingface.vision import images, patches


def _queries(number: Value, d_model: Value, **parts: Value) -> Data:
    return {"input": {"kind": "queries", "length": number}, "d_model": d_model, "position": {"kind": "none"}, **parts}


def _qformer(c: Config, text: Data, tower: Data, usual: str = "blip_2_qformer") -> Part:
    """BERT's layers on queries, some of which read the whole tower; of other types also on an instruction."""
    own, _ = part_of(c, "qformer_config", usual, only=True)
    own.ignore("encoder_hidden_size", "position_embedding_type")
    beside = None
    if usual == "blip_2_qformer":
        own.only("use_qformer_text_input", False)
        own.ignore("vocab_size", "max_position_embeddings")
    else:
        beside = {"rows": own.size("vocab_size"), "positions": own.size("max_position_embeddings")}
    every, heads = own.size("cross_attention_frequency"), {"heads": HEADS(own), "bias": True}
    reader = read(own, _queries(
        c.size("num_query_tokens"), size("hidden_size"), layers=size("num_hidden_layers"), norm=POST,
        embedding_norm=True, final_norm=False, attention=heads, feed_forward=plain()))
    reader["input"]["instruction"] = beside
    reader = layered(reader, [{} if i % every else {"cross_attention": heads} for i in range(reader["layers"])])
    own.finish()
    return {"bias": True, "unpatched": True, "resampler": reader}


def _perceiver(c: Config, text: Data, tower: Data) -> Part:
    """A gated layer to the text's width, and latents that are keys of their own."""
    own, _ = part_of(c, "perceiver_config", "idefics2_perceiver", only=True)
    d, act = text["d_model"], ACT(own)
    own.ignore("hidden_size")  # the class takes the text's
    reader = read(own, _queries(
        size("resampler_n_latents"), d, layers=size("resampler_depth"), norm=RMS, cross_attention={
            "heads": size("resampler_n_heads"), "kv_heads": size("num_key_value_heads"),
            "head_dim": size("resampler_head_dim"), "joined": True, "memory_norm": RMS},
        feed_forward={"d_ff": 4 * d, "activation": act, "gated": True}))
    own.finish()
    hidden = [{"width": text["feed_forward"]["d_ff"], "activation": text["feed_forward"]["activation"], "gated": True},
              {"width": d}]
    return {"hidden": hidden, "dense": False, "resampler": reader}


def _kosmos(prefix: str, part: str, tower: Family, *, ties: bool, **more: Value) -> Family:
    """Text behind a tower of which every position is normed, through a layer to the text's width and latents that are
    keys of their own in one attention without a norm. ``ties``: the head is tied if either configuration says so, else
    as the text's says."""
    def build(c: Config, kind: str) -> Data:
        text, _ = part_of(c, "text_config", f"{part}_text_model", only=True)
        text.ignore("layerdrop")
        text.only("add_cross_attention", False)
        spec, image = read(text, _KOSMOS_TEXT | more), image_tower(c, f"{part}_vision_model", only=True, family=tower)
        tied = text.flag("tie_word_embeddings") | c.flag("tie_word_embeddings") & ties
        text.finish()
        d, heads = spec["d_model"], {**read(text, _HEADS), "joined": True}
        reader = _queries(c.size("latent_query_num"), d, layers=1, norm={"placement": "none"}, final_norm=False,
                          cross_attention=heads, feed_forward=None)
        projector = {"hidden": [{"width": d, "bias": True}], "dense": False}
        projector |= {"unpatched": True} if image["input"].get("class_tokens", 1) else {}
        return {**spec, "head": head_of(kind, tied), "tower": {**image, "projector": projector, "resampler": reader}}

    return Family(build, seeing_classes(prefix), (f"{part}_text_model", f"{part}_vision_model"))


def _aria(c: Config, text: Data, tower: Data) -> Part:
    """Queries that read the patches once, in attention whose inputs are projected twice, then a layer and two more."""
    c.only("vision_feature_layer", -1)
    known, image = c.take("projector_patch_to_query_dict") or {"1225": 128, "4900": 256}, tower["input"]
    patches, d = (image["image"] // image["patch"]) ** 2, tower["d_model"]
    number = known.get(str(patches), known.get(patches)) if isinstance(known, Mapping) else None
    if type(number) is not int or number != max(known.values()):
        raise c.error("projector_patch_to_query_dict", f"must have the most queries for an image's {patches} patches")
    c.only("max_value_projector_patch_to_query_dict", number)  # as the library writes it
    reader = _queries(number, d, layers=1, norm=LAYERNORM, residual="none", final_norm=False, feed_forward=None,
                      cross_attention={"heads": tower["attention"]["heads"], "bias": True, "twice": True,
                                       "memory_norm": LAYERNORM})
    return {"resampler": reader, "behind": [{"width": d, "bias": True, "norm": LAYERNORM},
                                            {"width": text["d_model"], "activation": "gelu_tanh"}]}


_HEADS: Final = {"heads": size("attention_heads"), "bias": True}
_KOSMOS_TEXT: Final = {
    "vocab": size("vocab_size"), "d_model": size("embed_dim"), "layers": size("layers"), "norm": LAYERNORM,
    "context": size("max_position_embeddings"), "position": {"kind": "sinusoidal"},
    "embedding_scale": flag("scale_embedding"), "attention": {**_HEADS, "inner_norm": LAYERNORM},
    "feed_forward": {**plain(d_ff=size("ffn_dim"), act="activation_function"), "inner_norm": LAYERNORM}}
_KOSMOS25_TOWER: Final = images(
    {}, input=lambda c: rows_of_patches(c, "max_num_patches"), norm=RMS, attention={
        "heads": HEADS, "head_dim": size("head_dim")}, feed_forward=gated(act="dense_act_fn", bias=False),
    position={"kind": "learned", "both_ways": True, "size": size("max_num_patches")})

ROWS: Final[Rows] = {
    # BLIP-2, arXiv 2301.12597.
    "blip-2": seeing("Blip2", "opt", "blip_2_vision_model", _qformer, own_head=("lm", "none"),
                     parts=("blip_2_qformer",), ignore="image_text_hidden_size initializer_factor"),
    # InstructBLIP, arXiv 2305.06500: the Q-Former reads an instruction, too.
    **{name: seeing(prefix, "opt", f"{name}_vision_model", partial(_qformer, usual=f"{name}_qformer"), own_head=("lm",),
                    parts=(f"{name}_qformer",), ignore="initializer_factor use_decoder_only_language_model")
       for name, prefix in {"instructblip": "InstructBlip", "instructblipvideo": "InstructBlipVideo"}.items()},
    # Aria, arXiv 2410.05993.
    "aria": seeing("Aria", "aria_text", "idefics3_vision", _aria),
    # Idefics 2, arXiv 2405.02246.
    "idefics2": seeing("Idefics2", "mistral", "idefics2_vision", _perceiver, only_tower=True,
                       family=images({}, input=patches(class_tokens=0)),
                       parts=("idefics2_perceiver", "idefics2_vision")),
    # Kosmos-2, arXiv 2306.14824, and Kosmos-2.5, arXiv 2309.11419, whose texts have segments.
    "kosmos-2": _kosmos("Kosmos2", "kosmos_2", images({}, input=patches(bias=False), embedding_norm=True), ties=True),
    "kosmos-2.5": _kosmos("Kosmos2_5", "kosmos_2_5", _KOSMOS25_TOWER, ties=False, token_types=2, attention=_HEADS),
}
