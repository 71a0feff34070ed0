"""Models that hear: a tower like Whisper's encoder, a projector, and a stack of text of a family that is known.

A sound is as long as the tower's own length, 30 seconds for those that are released.
"""

from __future__ import annotations

from typing import Final

from txcalc.huggingface.build import ACTIVATIONS, Data, rope
from txcalc.huggingface.config import Config
from txcalc.huggingface.encoder import split_width
from txcalc.huggingface.multimodal import Projector, family_of, head_of, part_of, seeing_classes, text_stack
from txcalc.huggingface.rows import LAYERNORM, RMS, Family, Part, Reader, Rows, Value, gated, plain, read, size
from txcalc.spec.inputs import eighth

_WIDTH: Final = size("hidden_size", "d_model")
_HEADS: Final = size("num_attention_heads", "encoder_attention_heads")
_FEED: Final = size("intermediate_size", "encoder_ffn_dim")
_LENGTH: Final = "max_source_positions"


def whisper_tower(c: Config, length: str = _LENGTH, **parts: Value) -> Data:
    """Whisper's encoder: two convolutions over frames, no bias on keys; ``parts`` win."""
    c.ignore("scale_embedding", "encoder_layerdrop", "layerdrop", "vocab_size", "tie_word_embeddings")
    return dict(read(c, {
        "d_model": _WIDTH, "layers": size("num_hidden_layers", "encoder_layers"),
        "input": {"kind": "frames", "bins": size("num_mel_bins"), "length": size(length)},
        "position": {"kind": "sinusoidal", "stored": True}, "norm": LAYERNORM,
        "attention": {"heads": _HEADS, "bias": {"q": True, "k": False, "v": True, "o": True}},
        "feed_forward": plain(d_ff=_FEED, act="activation_function"), **parts}))


def _halved(c: Config) -> Data:
    """Pairs of positions averaged before the last norm, which is the projector's here."""
    return whisper_tower(c, final_norm=False)


def pairs(tower: Data) -> Data:
    """Means of two positions each, normed."""
    return {"average": True, "tokens": tower["input"]["length"] // 2, "norm": LAYERNORM}


def _glm_tower(c: Config) -> Data:
    """Rotary positions over half of each head, and grouped queries."""
    return whisper_tower(
        c, "max_position_embeddings", position=lambda c: rope(c, split_width(c), default=0.5),
        feed_forward=plain(), attention={
            "heads": _HEADS, "kv_heads": lambda c: c.size_or(c.size("num_attention_heads"), "num_key_value_heads"),
            "bias": {"q": True, "k": False, "v": True, "o": True}})


def _layer(c: Config, width: int, bias: bool) -> Data:
    return {"hidden": [{"width": width, "activation": c.choice("projector_hidden_act", ACTIVATIONS), "bias": bias}],
            "bias": bias}


def _qwen2(_: Config, text: Data, tower: Data) -> Part:
    """One layer."""
    return {**pairs(tower), "bias": True}


def _flamingo(c: Config, text: Data, tower: Data) -> Part:
    return {**pairs(tower), **_layer(c, text["d_model"], c.flag("projector_bias"))}


def _wide_rows(c: Config, text: Data, tower: Data) -> Part:
    """As many positions side by side as make the feed-forward's width, through two layers."""
    wide, width, length = tower["feed_forward"]["d_ff"], tower["d_model"], tower["input"]["length"]
    if wide % width or length % (wide // width):
        raise c.error("audio_config.intermediate_size", f"must be the {width} columns of each of some positions, and "
                      f"divide all {length} of them")
    return {"merge": wide // width, **_layer(c, text["d_model"], bias=False)}


def _glm(c: Config, text: Data, tower: Data) -> Part:
    """The same of four positions, through a layer of twice the text's width."""
    if tower["feed_forward"]["d_ff"] != 4 * tower["d_model"]:
        raise c.error("audio_config.intermediate_size", "must be the columns of 4 positions, which the class goes by")
    return {**read(c, _wide_rows(c, text, tower)), **_layer(c, 2 * text["d_model"], bias=True)}


def _moss(c: Config, text: Data, tower: Data) -> Part:
    """Some positions side by side, through two layers, normed."""
    merge = c.size("audio_merge_size")
    if tower["input"]["length"] % merge:
        raise c.error("audio_merge_size", f"must divide the {tower['input']['length']} positions of a sound")
    return {"merge": merge, "final_norm": LAYERNORM, **_layer(c, text["d_model"], c.flag("projector_bias"))}


def grid_tower(c: Config) -> Data:
    """Whisper's layers behind convolutions over pieces of a sound, of which each window attends by itself."""
    c.ignore("max_position_embeddings", "max_source_positions", "conv_chunksize")
    piece, window = 2 * c.size("n_window"), c.size("n_window_infer")
    if window % piece:
        raise c.error("n_window_infer", f"must be whole pieces of {piece} frames")
    return whisper_tower(c, position={"kind": "sinusoidal"}, attention={"heads": _HEADS, "bias": True}, input={
        "kind": "frames", "bins": size("num_mel_bins"), "length": window // piece * eighth(piece),
        "grid": {"channels": size("downsample_hidden_size"), "frames": piece}})


def two_layers(c: Config, text: Data, tower: Data) -> Part:
    """A layer of the tower's width with its activation, and another; of the sound's configuration."""
    c.only("output_dim", text["d_model"])
    return {"hidden": [{"width": tower["d_model"], "activation": tower["feed_forward"]["activation"], "bias": True}],
            "bias": True}


def _streamed_tower(c: Config) -> Data:
    """Layers like Mistral's behind Whisper's convolutions: each position sees those of a window before it."""
    c.ignore("activation_function", "num_key_value_heads")
    return whisper_tower(
        c, "max_position_embeddings", position=lambda c: rope(c, c.size("head_dim")), norm=RMS, causal_mask=True,
        feed_forward=gated(bias={"down": True}), attention={
            "heads": _HEADS, "head_dim": size("head_dim"), "window": size("sliding_window"),
            "bias": {"q": True, "k": False, "v": True, "o": True}})


_STREAMED: Final = {"vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 9216, "num_hidden_layers": 26,
                    "rms_norm_eps": 1e-5, "rope_theta": 1e6, "head_dim": 128, "sliding_window": 8192}


def _lagging(c: Config) -> Data:
    """Mistral's text, whose feed-forwards read what is scaled by how far it lags behind the sound."""
    given, _ = part_of(c, "text_config", "voxtral_realtime_text", only=True)
    part = c.part("text_config", {**_STREAMED, **given.data, "model_type": "mistral"}, "mistral")
    spec = family_of(part, "mistral", ("lm",)).build(part, "lm")
    part.ignore("tie_word_embeddings")
    part.finish()
    return {**spec, "norm": {**spec["norm"], "gate_rank": 32, "gate_on": "time"}}


def _streamed(c: Config, text: Data, tower: Data) -> Part:
    """Some positions side by side, through two layers, which are added to the embeddings of tokens."""
    merge = c.size("downsample_factor")
    if tower["input"]["length"] % merge:
        raise c.error("downsample_factor", f"must divide the {tower['input']['length']} positions of a sound")
    return {"merge": merge, **_layer(c, text["d_model"], bias=False)}


def hearing(
    prefix: str, text: str | Reader, tower_type: str, tower: Value, projector: Projector, *, ties: bool = False,
    ignore: str = "",
) -> Family:
    """A family whose classes begin with ``prefix``; ``ties``: the head can be tied."""
    def build(c: Config, kind: str) -> Data:
        c.ignore("hidden_size", "tie_word_embeddings", *ignore.split())
        spec = text_stack(c, "none", text, tied=False) if isinstance(text, str) else text(c)
        sound, _ = part_of(c, "audio_config", tower_type, only=True)
        built = read(sound, tower)
        own = read(c if projector is not two_layers else sound, lambda part: projector(part, spec, built))
        sound.finish()
        tied = ties and c.flag("tie_word_embeddings")
        return {**spec, "head": head_of(kind, tied), "tower": {**built, "projector": own}}

    return Family(build, seeing_classes(prefix), (tower_type,))


ROWS: Final[Rows] = {
    # Qwen2-Audio, arXiv 2407.10759; Audio Flamingo 3, arXiv 2507.08128.
    "qwen2_audio": hearing("Qwen2Audio", "qwen2", "qwen2_audio_encoder", _halved, _qwen2),
    "audioflamingo3": hearing("AudioFlamingo3", "qwen2", "audioflamingo3_encoder", _halved, _flamingo),
    # Music Flamingo, arXiv 2511.10289: times rotate what the projector reads.
    "musicflamingo": hearing("MusicFlamingo", "qwen2", "audioflamingo3_encoder", _halved, _flamingo,
                             ignore="audio_frame_step rope_parameters partial_rotary_factor rope_theta"),
    "qwen3_asr": hearing("Qwen3ASR", "qwen3", "qwen3_asr_encoder", grid_tower, two_layers, ties=True,
                         ignore="timestamp_token_id token_classification_bias"),
    # Voxtral, arXiv 2507.13264; GLM-ASR; MOSS Transcribe Diarize.
    "voxtral": hearing("Voxtral", "llama", "voxtral_encoder", whisper_tower, _wide_rows),
    "voxtral_realtime": hearing(
        "VoxtralRealtime", _lagging, "voxtral_realtime_encoder", _streamed_tower, _streamed, ties=True,
        ignore="audio_length_per_tok default_num_delay_tokens"),
    "glmasr": hearing("GlmAsr", "llama", "glmasr_encoder", _glm_tower, _glm, ties=True),
    "moss_transcribe_diarize": hearing(
        "MossTranscribeDiarize", "qwen3", "moss_transcribe_diarize_audio", whisper_tower, _moss, ties=True,
        ignore="audio_chunk_size"),
}
