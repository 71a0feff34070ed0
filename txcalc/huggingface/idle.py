"""Parts of models for which a run here has nothing, as their weights alone: what speaks, and what hears no sound."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, pairwise
from typing import Any, Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import split_width
from txcalc.huggingface.multimodal import part_of
from txcalc.huggingface.qwen_vl import ROWS as VISUAL
from txcalc.huggingface.rows import Family, Rows
from txcalc.huggingface.staged import listed
from txcalc.spec.errors import shown


class Idle:
    """Weights that are collected under a prefix, ``times`` over each."""

    def __init__(self, prefix: str, found: list[Data] | None = None, times: int = 1) -> None:
        self.prefix, self.times, self.found = prefix, times, [] if found is None else found

    def under(self, name: str, times: int = 1) -> Idle:
        """The same list, for a part of a part."""
        return Idle(f"{self.prefix}_{name}", self.found, self.times * times)

    def add(self, name: str, *shape: int, bias: int = 0, kind: str = "other") -> None:
        """A weight, and a bias of so many."""
        each = {"times": self.times} if self.times > 1 else {}
        kinds = {"kind": kind} if kind != "other" else {}
        self.found.append({"name": f"{self.prefix}_{name}", "shape": list(shape), **each, **kinds})
        if bias:
            self.add(f"{name}_bias", bias)

    def linear(self, name: str, out: int, into: int, *, bias: bool = True) -> None:
        """A linear layer."""
        self.add(name, out, into, bias=out if bias else 0, kind="linear")

    def convolved(self, name: str, out: int, *into: int, bias: bool = True) -> None:
        """A convolution: its channels out and, of a group, in, and the sides of its kernel."""
        self.add(name, out, *into, bias=out if bias else 0)

    def norms(self, width: int, *names: str, bias: bool = False) -> None:
        """Norms of one width."""
        for name in names:
            self.add(name, width, bias=width if bias else 0)

    def layers(self, c: Config, *, bias: tuple[bool, bool], qk_norm: bool = False, d_ff: int | None = None) -> Idle:
        """A decoder's layers: attention with ``bias`` of queries, keys and values, and of the output, and a gated
        feed-forward, unless ``d_ff`` is 0. What they stand under."""
        d, heads = c.size("hidden_size"), c.size("num_attention_heads")
        kv, head_dim = c.size_or(heads, "num_key_value_heads"), c.size_or(split_width(c), "head_dim")
        own = self.under("layers", c.size("num_hidden_layers"))
        for name, number in (("q", heads), ("k", kv), ("v", kv)):
            own.linear(name, number * head_dim, d, bias=bias[0])
        own.linear("o", d, heads * head_dim, bias=bias[1])
        own.norms(head_dim, *(("q_norm", "k_norm") if qk_norm else ()))
        own.norms(d, "attention_norm", "feed_forward_norm")
        if d_ff != 0:
            own.gated(d, d_ff or c.size("intermediate_size"))
        self.norms(d, "norm")
        return own

    def gated(self, d: int, d_ff: int) -> None:
        """A gated feed-forward."""
        for name in ("gate", "up"):
            self.linear(name, d_ff, d, bias=False)
        self.linear("down", d, d_ff, bias=False)


# What says how a part is run, and nothing of its weights.
_TALKS: Final = ("use_sliding_window sliding_window max_window_layers layer_types position_id_per_seconds "
                 "seconds_per_chunk spatial_merge_size tts_text_start_token_id tts_text_end_token_id "
                 "tts_text_pad_token_id tts_codec_start_token_id tts_codec_end_token_id tts_codec_pad_token_id "
                 "tts_codec_mask_token_id rope_parameters rope_theta rope_scaling hidden_act max_position_embeddings "
                 "tie_word_embeddings")


def _section(c: Config, name: str, model_type: str, ignore: str = "") -> Config:
    part, _ = part_of(c, name, model_type, only=True)
    part.ignore(*_TALKS.split(), *ignore.split())
    return part


def _untyped(c: Config, name: str) -> Config:
    """The same where the library gives it no type: what it leaves out is not known."""
    data = c.take(name, default=None)
    if not isinstance(data, Mapping):
        raise c.error(name, "required field is missing" if data is None else f"must be a mapping, got {shown(data)}")
    part = c.part(name, {**data, "model_type": c.model_type}, c.model_type)
    part.ignore(*_TALKS.split())
    return part


def _talker(c: Config) -> list[Data]:
    """Qwen2.5-Omni's second decoder, of what is spoken."""
    d, width, rows, own = c.size("hidden_size"), c.size("embedding_size"), c.size("vocab_size"), Idle("talker")
    own.linear("projection", d, width)
    own.add("table", rows, width)
    own.layers(c, bias=(True, False))
    own.linear("head", rows, d, bias=False)
    c.finish()
    return own.found


def _diffusion(c: Config) -> list[Data]:
    """A diffusion transformer from codes to sounds, and what takes a speaker's vector of a sound (ECAPA-TDNN)."""
    c.ignore("block_size", "look_ahead_layers", "look_backward_layers", "repeats", "enc_dilations")
    own, d, mel = Idle("diffusion"), c.size("hidden_size"), c.size("mel_dim")
    inner, width = c.size("num_attention_heads") * c.size("head_dim"), c.size("emb_dim")
    for i, into in enumerate((256, d)):
        own.linear(f"time_{i}", d, into)
    own.add("codes", c.size("num_embeds") + 1, width)
    own.linear("input", d, mel + c.size("enc_dim") + c.size("enc_emb_dim") + width)
    layer = own.under("layers", c.size("num_hidden_layers"))
    layer.linear("modulation", 6 * d, d)
    for name in "qkv":
        layer.linear(name, inner, d)
    layer.linear("o", d, inner)
    layer.linear("up", d * c.size("ff_mult"), d)
    layer.linear("down", d, d * c.size("ff_mult"))
    own.linear("modulation", 2 * d, d)
    own.linear("output", mel, d)
    _speaker(c, own.under("speaker"), mel)
    c.finish()
    return own.found


def _speaker(c: Config, own: Idle, mel: int) -> None:
    widths = listed(c, "enc_channels")
    kernels, scale, squeezed = listed(c, "enc_kernel_sizes", len(widths)), c.size("enc_res2net_scale"), c.size(
        "enc_se_channels")
    if len(widths) < 2:
        raise c.error("enc_channels", "must be of two layers or more")
    last, attends = widths[-1], c.size("enc_attention_channels")
    own.convolved("first", widths[0], mel, kernels[0])
    for i, (before, after) in enumerate(pairwise(widths[:-1]), 1):
        layer = own.under(f"layers_{i}")
        layer.convolved("first", after, before, 1)
        if scale > 1:
            layer.under("parts", scale - 1).convolved("part", after // scale, after // scale, kernels[i])
        layer.convolved("second", after, after, 1)
        layer.convolved("squeeze", squeezed, after, 1)
        layer.convolved("excite", after, squeezed, 1)
    own.convolved("aggregated", last, last, kernels[-1])
    own.convolved("attention", attends, 3 * last, 1)
    own.convolved("scores", last, attends, 1)
    own.convolved("output", c.size("enc_dim"), 2 * last, 1)


def _snake(own: Idle, name: str, width: int) -> None:
    own.norms(width, f"{name}_alpha", f"{name}_beta")


def _vocoder(c: Config) -> list[Data]:
    """Convolutions from spectra to sound (BigVGAN, arXiv 2206.04658)."""
    own, width, rates = Idle("vocoder"), c.size("upsample_initial_channel"), listed(c, "upsample_rates")
    kernels, apart = listed(c, "resblock_kernel_sizes"), c.take("resblock_dilation_sizes")
    if not isinstance(apart, list | tuple) or len(apart) < len(kernels):
        raise c.error("resblock_dilation_sizes", f"must have three for each of {len(kernels)} kernels")
    own.convolved("first", width, c.size("mel_dim"), 7)
    for i, kernel in enumerate(listed(c, "upsample_kernel_sizes", len(rates))):
        own.add(f"up_{i}", width, width := width // 2, kernel, bias=width)
        for j, own_kernel in enumerate(kernels):
            layer = own.under(f"blocks_{i}_{j}", 6)
            layer.convolved("conv", width, width, own_kernel)
            _snake(layer, "activation", width)
    _snake(own, "activation", width)
    own.convolved("last", 1, width, 7, bias=False)
    c.finish()
    return own.found


def _speaks(c: Config) -> list[Data]:
    """The talker of Qwen2.5-Omni, and what makes sound of its codes."""
    sound = _section(c, "token2wav_config", "qwen2_5_omni_token2wav")
    found = [_talker(_section(c, "talker_config", "qwen2_5_omni_talker")),
             _diffusion(_section(sound, "dit_config", "qwen2_5_omni_dit")),
             _vocoder(_section(sound, "bigvgan_config", "qwen2_5_omni_bigvgan"))]
    sound.finish()
    return list(chain(*found))


def _talker3(c: Config) -> list[Data]:
    """Qwen3-Omni's talker: a mixture of experts for the first code of each frame, a decoder for the others."""
    c.ignore("accept_hidden_layer", "speaker_id", "num_code_groups", "codec_nothink_id", "codec_think_bos_id",
             "codec_think_eos_id", "codec_pad_id", "codec_bos_id", "text_config")
    text = _section(c, "text_config", "qwen3_omni_moe_talker_text", "decoder_sparse_step mlp_only_layers "
                    "norm_topk_prob num_experts_per_tok")
    own, d, rows, feed = Idle("talker"), text.size("hidden_size"), text.size("vocab_size"), text.size(
        "intermediate_size")
    for name in ("text", "hidden"):
        own.linear(f"{name}_up", feed, c.size("thinker_hidden_size"))
        own.linear(f"{name}_down", d, feed)
    own.add("table", rows, d)
    own.linear("head", rows, d, bias=False)
    both = text.flag("attention_bias")
    layer = own.layers(text, bias=(both, both), qk_norm=True, d_ff=0)
    number, width = text.size("num_local_experts"), text.size("moe_intermediate_size")
    layer.add("router", number, d)
    layer.add("experts_up", number, 2 * width, d)
    layer.add("experts_down", number, d, width)
    layer.under("shared").gated(d, text.size("shared_expert_intermediate_size"))
    layer.linear("shared_gate", 1, d, bias=False)
    text.finish()
    code = _section(c, "code_predictor_config", "qwen3_omni_moe_talker_code_predictor")
    own, both, groups = Idle("codes", own.found), code.flag("attention_bias"), code.size("num_code_groups") - 1
    own.layers(code, bias=(both, both), qk_norm=True)
    if groups:
        each = own.under("each", groups)
        each.add("table", code.size("vocab_size"), code.size("hidden_size"))
        each.linear("head", code.size("vocab_size"), code.size("hidden_size"), bias=False)
    code.finish()
    c.finish()
    return own.found


def _codec(c: Config) -> list[Data]:
    """Decoder of Qwen3-Omni's codes to a waveform: Transformer layers, then upsampling convolutions."""
    c.ignore("layer_scale_initial_scale")
    c.size("num_key_value_heads")  # whose default is a number, and not that of heads
    own, d, width, both = Idle("sound"), c.size("hidden_size"), c.size("decoder_dim"), c.flag("attention_bias")
    own.add("codes", c.size("codebook_size") * c.size("num_quantizers"), d)
    layer = own.layers(c, bias=(both, both))
    layer.norms(d, "attention_scale", "feed_forward_scale")
    for i, factor in enumerate(listed(c, "upsampling_ratios")):
        part = own.under(f"longer_{i}")
        part.convolved("up", d, d, factor)
        part.convolved("conv", d, 1, 7)
        part.norms(d, "norm", bias=True)
        part.linear("wide", 4 * d, d)
        part.linear("narrow", d, 4 * d)
        part.add("scale", d)
    own.convolved("first", width, d, 7)
    for i, rate in enumerate(listed(c, "upsample_rates")):
        part = own.under(f"narrower_{i}")
        _snake(part, "activation", width)
        part.add("up", width, width := width // 2, 2 * rate, bias=width)
        block = part.under("blocks", 3)
        for j, kernel in enumerate((7, 1)):
            _snake(block, f"activation_{j}", width)
            block.convolved(f"conv_{j}", width, width, kernel)
    _snake(own, "activation", width)
    own.convolved("last", 1, width, 7)
    c.finish()
    return own.found


def _speaks3(c: Config) -> list[Data]:
    return [*_talker3(_untyped(c, "talker_config")),
            *_codec(_untyped(c, "code2wav_config"))]


def _whole(prefix: str, model_type: str, speaks: Any, *parts: str) -> Family:
    """A thinker, which sees and hears and whose passes are counted, and what speaks, if it is built."""
    thinker = VISUAL[f"{model_type}_thinker"]

    def build(c: Config, kind: str) -> Data:
        own, _ = part_of(c, "thinker_config", f"{model_type}_thinker", only=True)
        spec = thinker.build(own, kind)
        own.finish()
        if c.flag("enable_audio_output"):
            return {**spec, "idle": speaks(c)}
        c.ignore("talker_config", "token2wav_config", "code2wav_config")
        return spec

    return Family(build, {f"{prefix}ForConditionalGeneration": "lm"}, tuple(f"{model_type}_{each}" for each in parts))


ROWS: Final[Rows] = {
    # Qwen2.5-Omni, arXiv 2503.20215; Qwen3-Omni, arXiv 2509.17765.
    "qwen2_5_omni": _whole("Qwen2_5Omni", "qwen2_5_omni", _speaks, "talker", "token2wav", "dit", "bigvgan"),
    "qwen3_omni_moe": _whole("Qwen3OmniMoe", "qwen3_omni_moe", _speaks3, "talker_text", "talker_code_predictor"),
}
