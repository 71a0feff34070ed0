"""Text of models whose encoders of images or sounds no run here has: these are weights alone."""

from __future__ import annotations

from math import ceil, log2, prod
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, decoder
from txcalc.huggingface.encoder import split_width
from txcalc.huggingface.idle import Idle
from txcalc.huggingface.importer import lm_classes
from txcalc.huggingface.microsoft import ROWS as MICROSOFT
from txcalc.huggingface.multimodal import part_of, seeing_classes, text_stack
from txcalc.huggingface.rows import Family, Rows, gated, size
from txcalc.huggingface.staged import listed
from txcalc.huggingface.vision import side_of


def _part(c: Config, name: str, model_type: str, ignore: str = "") -> Config:
    part, _ = part_of(c, name, model_type, only=True)
    part.ignore("hidden_act", "tie_word_embeddings", *ignore.split())
    return part


def _alone(c: Config, spec: Data, what: str, found: list[Data]) -> Data:
    """A stack of text beside such weights, and a note."""
    c.remarks.choices.append(f"{what}: counted as weights alone, and no run has any")
    return {**spec, "idle": found}


def _layers(own: Idle, number: int, d: int, d_ff: int, *, inner: int | None = None, bias: bool = True) -> Idle:
    """An encoder's layers: attention, ``inner`` columns wide, two projections and two norms. What they stand under."""
    layer, inner = own.under("layers", number), d if inner is None else inner
    for name in "qkv":
        layer.linear(name, inner, d, bias=bias)
    layer.linear("o", d, inner, bias=bias)
    layer.linear("up", d_ff, d)
    layer.linear("down", d, d_ff)
    layer.norms(d, "attention_norm", "feed_forward_norm", bias=True)
    return layer


# ---------------------------------------------------------------- Granite Speech


def _conformer(c: Config) -> Idle:
    """Conformer's blocks (arXiv 2005.08100) with vectors of distances, and a classifier after half of them."""
    c.ignore("context_size", "cat_hidden_layers")
    own, d, out = Idle("sound"), c.size("hidden_dim"), c.size("output_dim")
    heads, width = c.size("num_heads"), c.size("hidden_dim") * c.size("feedforward_mult")
    inner, wide = heads * c.size_or(d // heads, "dim_head"), d * c.size("conv_expansion_factor")
    own.linear("input", d, c.size("input_dim"))
    own.linear("classes", out, d)
    own.linear("restored", d, out)
    layer = own.under("layers", c.size("num_layers"))
    layer.linear("q", inner, d, bias=False)
    layer.linear("kv", 2 * inner, d, bias=False)
    layer.linear("o", d, inner)
    layer.add("distances", 2 * c.size("max_pos_emb") + 1, inner // heads)
    layer.norms(d, "attention_norm", "convolution_norm", "last_norm", bias=True)
    layer.convolved("wide", 2 * wide, d, 1)
    layer.convolved("depthwise", wide, 1, c.size("conv_kernel_size"), bias=False)
    layer.norms(wide, "batch_norm", bias=True)
    layer.convolved("narrow", d, wide, 1)
    for name in ("first", "second"):
        layer.norms(d, f"{name}_norm", bias=True)
        layer.linear(f"{name}_up", width, d)
        layer.linear(f"{name}_down", d, width)
    c.finish()
    return own


def _reader(c: Config, own: Idle, queries: int, d_model: int) -> None:
    """BERT's layers on queries, some of which read a sound, and a layer to the text's width."""
    c.only("use_qformer_text_input", False)
    c.ignore("vocab_size", "max_position_embeddings", "position_embedding_type")
    d, read, layers = c.size("hidden_size"), c.size("encoder_hidden_size"), c.size("num_hidden_layers")
    c.size("num_attention_heads")
    _layers(own, layers, d, c.size("intermediate_size"))
    crossing = own.under("crossing", -(-layers // c.size("cross_attention_frequency")))
    for name, into in (("q", d), ("k", read), ("v", read), ("o", d)):
        crossing.linear(name, d, into)
    crossing.norms(d, "norm", bias=True)
    own.norms(d, "norm", bias=True)
    own.add("queries", queries, d)
    own.linear("projection", d_model, d)
    c.finish()


def _granite(prefix: str, model_type: str) -> Family:
    def build(c: Config, kind: str) -> Data:
        c.ignore("has_lora_adapter")
        spec = text_stack(c, kind, "granite", tied=c.flag("tie_word_embeddings"))
        own = _conformer(_part(c, "encoder_config", f"{model_type}_encoder"))
        window, rate = c.size("window_size"), c.size("downsample_rate")
        if window < rate:
            raise c.error("downsample_rate", f"must be at most window_size {window}")
        reader = _part(c, "projector_config", "blip_2_qformer")
        _reader(reader, Idle("reader", own.found), window // rate, spec["d_model"])
        return _alone(c, spec, "what hears sounds", own.found)

    return Family(build, seeing_classes(prefix), (f"{model_type}_encoder", "blip_2_qformer"))


# ---------------------------------------------------------------- Phi-4 multimodal


def _phi4(c: Config, kind: str) -> Data:
    """Phi 3's layers; SigLIP's before a layer that averages, and Conformer's blocks."""
    image, sound = _part(c, "vision_config", "phi4_multimodal_vision", "crop_size feature_layer image_token_id"), _part(
        c, "audio_config", "phi4_multimodal_audio", "chunk_size left_chunk dropout_rate activation conv_activation "
        "conv_glu_type nemo_activation feature_layer audio_token_id")
    spec = MICROSOFT["phi3"].build(c, kind)
    return _alone(c, spec, "what sees and hears", [*_sees(image, spec["d_model"]), *_hears(sound, spec["d_model"])])


def _sees(c: Config, d_model: int) -> list[Data]:
    own, d, d_ff, patch = Idle("image"), c.size("hidden_size"), c.size("intermediate_size"), side_of(c, "patch_size")
    c.size("num_attention_heads")
    own.convolved("patches", d, c.size("num_channels"), patch, patch)
    own.add("positions", (side_of(c, "image_size") // patch) ** 2, d)
    _layers(own, c.size("num_hidden_layers"), d, d_ff)
    own.norms(d, "norm", "pooler_norm", bias=True)
    own.add("probe", 1, 1, d)
    own.add("pooler_qkv", 3 * d, d, bias=3 * d)
    own.linear("pooler_o", d, d)
    own.linear("pooler_up", d_ff, d)
    own.linear("pooler_down", d, d_ff)
    own.norms(d, "newline", "separator")
    own.linear("projection_up", d_model, d)
    own.linear("projection_down", d_model, d_model)
    c.finish()
    return own.found


def _hears(c: Config, d_model: int) -> list[Data]:
    own, d, width, out = Idle("sound"), c.size("hidden_size"), c.size("intermediate_size"), c.size("ext_pw_out_channel")
    channels, steps, bins = c.size("nemo_conv_channels"), int(log2(c.size("time_reduction"))), c.size("input_size")
    own.convolved("conv", channels, 1, 3, 3)
    for _ in range(steps):
        bins = (bins - 1) // 2 + 1
    c.only("nemo_final_size", bins)  # which the class works out, and a file that it saves says again
    if steps > 1:
        each = own.under("convolutions", steps - 1)
        each.convolved("depthwise", channels, 1, 3, 3)
        each.convolved("pointwise", channels, channels, 1, 1)
    own.linear("input", d, channels * bins)
    heads = c.size("num_attention_heads")
    own.add("distances", c.size("bias_max_distance") * (1 if c.flag("bias_symmetric") else 2), heads)
    layer, inner = own.under("layers", c.size("num_blocks")), heads * (d // heads)
    for name in "qkv":
        layer.linear(name, inner, d)
    layer.linear("o", d, inner)
    for name in ("first", "second"):
        layer.norms(d, f"{name}_norm", bias=True)
        layer.linear(f"{name}_gate_up", 2 * width, d)
        layer.linear(f"{name}_down", d, width)
    layer.norms(d, "attention_norm", "convolution_norm", "last_norm", bias=True)
    layer.convolved("gated", 2 * out, d, 1)
    layer.norms(out, "gate_bias_1", "gate_bias_2")
    deep = d * c.size("depthwise_multiplier")
    layer.convolved("depthwise", deep, 1, c.size("kernel_size"))
    layer.convolved("pointwise", c.size("depthwise_separable_out_channel"), deep, 1)
    layer.convolved("narrow", out, d, 1)
    for name in ("speech", "vision"):
        own.linear(f"{name}_up", d_model, d * c.size("downsample_rate"))
        own.linear(f"{name}_down", d_model, d_model)
    c.finish()
    return own.found


# ---------------------------------------------------------------- Llama 3.2 Vision


def _mllama(c: Config, kind: str) -> Data:
    """Llama's layers, some of which read images where there are any, and their encoder."""
    spec = text_stack(c, kind, "mllama_text_model", tied=False)
    image = _part(c, "vision_config", "mllama_vision_model", "intermediate_layers_indices")
    own, d, patch = Idle("image"), image.size("hidden_size"), side_of(image, "patch_size")
    ratios, tiles = image.take("supported_aspect_ratios"), image.size("max_num_tiles")
    kinds = 9 if ratios is None else len(ratios) + 1
    positions, d_ff = (side_of(image, "image_size") // patch) ** 2 + 1, image.size("intermediate_size")
    heads = image.size("attention_heads")
    own.convolved("patches", d, image.size("num_channels"), patch, patch, bias=False)
    own.add("class_token", d)
    own.add("positions", positions, d)
    own.add("tile_positions", kinds, tiles * positions * d)
    for name in ("before", "after"):
        own.add(f"{name}_tiles", kinds, tiles * d)
    own.norms(1, "position_gate", "before_gate", "after_gate")
    own.norms(d, "first_norm", "last_norm", bias=True)
    for name, number in (("local", "num_hidden_layers"), ("global", "num_global_layers")):
        layer = _layers(own.under(name), image.size(number), d, d_ff, inner=d // heads * heads, bias=False)
        if name == "global":
            layer.norms(1, "attention_gate", "feed_forward_gate")
    own.linear("projector", spec["d_model"], image.size("vision_output_dim"))
    image.finish()
    return _alone(c, spec, "what sees, and layers that read it", own.found)


# ---------------------------------------------------------------- Kyutai


def _kyutai(c: Config, kind: str) -> Data:
    """A decoder of one token of text and some codes of sound at every position; its table has rows for all of them."""
    c.ignore("frame_size")
    number = c.size("num_codebooks")
    spec = _KYUTAI_TEXT.build(c, kind)
    rows = [{"rows": number * c.size("codebook_vocab_size") + 1, "lookups": number}]
    codec = _mimi(_part(c, "codec_config", "mimi", "cluster_usage"))
    return _alone(c, {**spec, "token_tables": rows}, "what makes codes of sounds", codec)


def _mimi(c: Config) -> list[Data]:
    """Convolutions and layers to codes and back (Mimi, arXiv 2410.00037, 3.3); the codes' own tables are no weights."""
    c.ignore("use_causal_conv", "pad_mode", "trim_right_ratio", "codebook_size", "codebook_dim", "num_quantizers",
             "num_semantic_quantizers", "dilation_growth_rate", "layer_scale_initial_scale", "use_streaming",
             "normalize", "sliding_window", "rope_theta", "rope_parameters", "max_position_embeddings", "norm_eps")
    own, d, base, channels = Idle("codec"), c.size("hidden_size"), c.size("num_filters"), c.size("audio_channels")
    ratios, kernel, last = listed(c, "upsampling_ratios"), c.size("kernel_size"), c.size("last_kernel_size")
    heads, number, rate = c.size("num_attention_heads"), c.size("num_residual_layers"), c.number("sampling_rate") or 0
    head_dim, both, d_ff = c.size_or(split_width(c), "head_dim"), c.flag("attention_bias"), c.size("intermediate_size")
    kv, squeezed, shortcut = c.size("num_key_value_heads"), c.size("compress"), c.flag("use_conv_shortcut")
    inside = c.size("residual_kernel_size")

    def residual(part: Idle, width: int) -> None:
        block = part.under("blocks", number)
        block.convolved("first", width // squeezed, width, inside)
        block.convolved("second", width, width // squeezed, 1)
        if shortcut:
            block.convolved("shortcut", width, width, 1)

    into, back, widest = own.under("encoder"), own.under("decoder"), base * 2 ** len(ratios)
    into.convolved("first", base, channels, kernel)
    into.convolved("last", d, widest, last)
    back.convolved("first", widest, d, kernel)
    back.convolved("last", channels, base, last)
    for i, ratio in enumerate(reversed(ratios)):
        width = base * 2**i
        for part, out, wide in ((into, 2 * width, width), (back, width, 2 * width)):
            own_part = part.under(f"step_{i}")
            residual(own_part, width)
            own_part.add("step", *((out, wide) if part is into else (wide, out)), 2 * ratio, bias=out)
    for part in (into, back):
        layer = part.under("layers", c.size("num_hidden_layers"))
        for name, out in (("q", heads), ("k", kv), ("v", kv)):
            layer.linear(name, out * head_dim, d, bias=both)
        layer.linear("o", d, heads * head_dim, bias=both)
        layer.linear("up", d_ff, d, bias=False)
        layer.linear("down", d, d_ff, bias=False)
        layer.norms(d, "attention_norm", "feed_forward_norm", bias=True)
        layer.norms(d, "attention_scale", "feed_forward_scale")
    per_second, groups = ceil(rate / prod(ratios)), c.size("upsample_groups")
    frames = c.number("_frame_rate", default=None) or c.number("frame_rate", default=None) or rate / (2 * prod(ratios))
    if frames != per_second:
        stride = 2 * int(per_second / frames)
        own.add("shorter", d, d, stride)
        own.add("longer", d, d // groups, stride)
    if (width := c.size("vector_quantization_hidden_dimension")) != d:
        for name in ("semantic", "acoustic"):
            own.add(f"{name}_input", width, d, 1)
            own.add(f"{name}_output", d, width, 1)
    c.finish()
    return own.found


def _halves(c: Config) -> int:
    """Columns of a feed-forward whose field says those of both its halves."""
    return c.size("ffn_dim") // 2


_KYUTAI_TEXT: Final = decoder(
    {}, attention=GROUPED, bias=False, window=size("sliding_window"), feed_forward=gated(d_ff=_halves, bias=False),
    tied=False, ignore="audio_bos_token_id audio_pad_token_id tie_word_embeddings")

ROWS: Final[Rows] = {
    # Granite Speech, arXiv 2505.08699.
    "granite_speech": _granite("GraniteSpeech", "granite_speech"),
    "granite_speech_plus": _granite("GraniteSpeechPlus", "granite_speech_plus"),
    # Phi-4-Multimodal, arXiv 2503.01743.
    "phi4_multimodal": Family(_phi4, lm_classes("Phi4Multimodal"), ("phi4_multimodal_vision", "phi4_multimodal_audio")),
    # Llama 3.2 Vision, arXiv 2407.21783.
    "mllama": Family(_mllama, seeing_classes("Mllama"), ("mllama_vision_model",)),
    "kyutai_speech_to_text": Family(_kyutai, seeing_classes("KyutaiSpeechToText"), ("mimi",)),
}
