"""Meta's decoders, and Llama 4, which sees."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import NO_ROPE, decoder, experts
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.layerwise import all_but, every, layer_types, listed_layers, rotary, sparse, where, windows
from txcalc.huggingface.multimodal import image_tower, inverse, part_of, text_stack, whole_squares
from txcalc.huggingface.openai import TWO_MORE
from txcalc.huggingface.rows import NORMS, WIDTH, Family, Fields, Rows, flag, gated, given, plain, size, some
from txcalc.huggingface.vision import patches, vit_tower

_MLLAMA: Final[Fields] = {"heads": size("num_attention_heads"), "kv_heads": size("num_key_value_heads")}
llama = partial(decoder, only={"activation": "swiglu"})


def _unscaled(c: Config) -> Fields | None:
    return {**NORMS["head"], "scale": False} if c.flag("use_qk_norm") else None


def _interleaved(c: Config, layers: int) -> list[bool]:
    made_up, listed = every(size("interleave_moe_layer_step"))(c, layers), listed_layers(c, "moe_layers")
    return made_up if listed is None else [i in listed for i in range(layers)]


def _opt_norm(c: Config) -> Fields:
    affine = c.flag("layer_norm_elementwise_affine")
    return {"kind": "layernorm", "scale": affine, "bias": affine,
            "placement": given(flag("do_layer_norm_before"), "pre", "post")}


def _opt_width(c: Config, kind: str, spec: Data) -> Data:
    """OPT-350m has a narrower embedding."""
    width = c.size_or(spec["d_model"], "word_embed_proj_dim")
    narrower = {"embedding_dim": width, "embedding_projection": "tokens", "embedding_projection_bias": False}
    return spec | (narrower if width != spec["d_model"] else {})


def _llama4(c: Config, kind: str) -> Data:
    """Llama 4 with eyes: squares of patches through two layers of the tower's own, and one into the text."""
    c.ignore("tie_word_embeddings")
    spec = text_stack(c, kind, "llama4_text", own_head=True)
    family = Family(_llama4_tower, {})
    return {**spec, "tower": image_tower(c, "llama4_vision_model", only=True, family=family)}


def _llama4_tower(c: Config, _: str) -> Data:
    """The class token stands last. Of the adapter's sizes, all but one follow from others, or the class cannot run."""
    c.ignore("vision_feature_select_strategy", "multi_modal_projector_bias", "projector_dropout", "hidden_act",
             "vision_feature_layer")
    d, width = c.size("hidden_size"), c.size("projector_output_dim")
    merge = inverse(c, "pixel_shuffle_ratio", c.number("pixel_shuffle_ratio"))
    feed = {"d_ff": size("intermediate_size"), "activation": "gelu", "gated": False, "bias": True}
    tower = vit_tower(c, input=patches(bias=False), embedding_norm=True, feed_forward=feed)
    whole_squares(c, "pixel_shuffle_ratio", tower, merge)
    if c.size("intermediate_size") != d * merge**2:
        raise c.error("intermediate_size", f"must be the {d * merge**2} columns of a merged square, which it also is")
    for name in ("projector_input_dim", "vision_output_dim"):
        if c.size(name) != width:
            raise c.error(name, f"must be projector_output_dim {width}, got {c.take(name)}")
    layer = {"width": width, "activation": "gelu"}
    return {**tower, "projector": {"merge": merge, "hidden": [layer, layer]}}


def _crosses(c: Config, layers: int) -> list[bool]:
    listed = listed_layers(c, "cross_attention_layers")
    return [i in (range(3, layers, 5) if listed is None else listed) for i in range(layers)]


def _musicgen(type_: str, prefix: str, *, reads: bool) -> dict[str, Family]:
    """Decoders of sound in codebooks (arXiv 2306.05284), alone: their texts' encoder and the sound's are no part."""
    read: dict[str, Any] = {"unread_memory": size("hidden_size"), "cross_attention": {
        "heads": size("num_attention_heads")}} if reads else {}
    own = decoder(
        lm_classes(prefix), attention={"heads": size("num_attention_heads")}, bias=False, norm="layernorm",
        position={"kind": "sinusoidal"}, tied=False,
        feed_forward=plain(d_ff=size("ffn_dim"), bias=False, act="activation_function"), extra_tokens=1,
        token_tables=lambda c: [{"rows": c.size("vocab_size") + 1}] * (c.size("num_codebooks") - 1),
        ignore="tie_word_embeddings scale_embedding audio_channels initializer_factor cross_attention_hidden_size",
        finish=lambda c, kind, spec: spec | ({} if kind == "none" else {
            "head": {**spec["head"], "copies": c.size("num_codebooks")}}), **read)

    def build(c: Config, kind: str) -> Data:
        c.ignore("text_encoder", "audio_encoder", "num_chroma", "chroma_length")
        part, _ = part_of(c, "decoder", f"{type_}_decoder", only=True)
        spec = own.build(part, kind)
        part.finish()
        return spec

    return {f"{type_}_decoder": own, type_: Family(build, {f"{prefix}ForCausalLM": "lm"})}


ROWS: Final[Rows] = {
    **_musicgen("musicgen", "Musicgen", reads=True),
    **_musicgen("musicgen_melody", "MusicgenMelody", reads=False),
    "llama4": Family(_llama4, {"Llama4ForConditionalGeneration": "lm"}, ("llama4_vision_model",)),
    "llama": llama("Llama"),
    # Llama 3.2 Vision without eyes: layers that would read images do not run.
    "mllama_text_model": decoder(
        {"MllamaForCausalLM": "lm", "MllamaTextModel": "none"}, attention=_MLLAMA, bias=False, extra_tokens=8,
        unread_memory=size("hidden_size"), layers=[where(_crosses, {
            "attention": None, "tanh_gates": True, "cross_attention": {**_MLLAMA, "qk_norm": NORMS["head"]}})]),
    "cwm": decoder("Cwm", layers=[windows(all_but(every(4, first=0)))]),
    "llama4_text": decoder(  # a shared expert beside one routed, chunked attention, layers without positions
        "Llama4", position={"kind": "rope"}, feed_forward=gated(d_ff=size("intermediate_size_mlp")), layers=[
            sparse(experts(routing="sigmoid-topk", normalize=False, shared_experts=1, shared_d_ff=WIDTH), _interleaved),
            layer_types("chunked_attention", rotary, {"attention": {"chunk": some("attention_chunk_size")}}),
            where(all_but(rotary), {"attention": NO_ROPE}), where(rotary, {"attention": {"qk_norm": _unscaled}})],
        ignore="attn_scale floor_scale attn_temperature_tuning for_llm_compression for_llm_compressor"),
    "opt": decoder(
        "OPT", attention={"heads": size("num_attention_heads")}, bias=flag("enable_bias"), norm=_opt_norm,
        feed_forward=plain(d_ff=size("ffn_dim"), bias=flag("enable_bias"), act="activation_function"),
        final_norm=lambda c: c.flag("do_layer_norm_before") and not c.data.get("_remove_final_layer_norm", False),
        position=TWO_MORE, finish=_opt_width),
    "xglm": decoder(
        lm_classes("XGLM"), attention={"heads": size("attention_heads", "num_attention_heads")}, bias=True,
        feed_forward=plain(d_ff=size("ffn_dim"), act="activation_function"), norm="layernorm",
        embedding_scale=flag("scale_embedding", default=True), position={"kind": "sinusoidal"}),
}
