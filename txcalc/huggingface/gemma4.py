"""Gemma 4: full layers with heads of another width, layers without keys of their own, per-layer embeddings.

Its towers have no size of image of their own: an image here is 16 x 16 = 256 positions of the text. Towers for sound
are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from txcalc.huggingface.build import Data, layered
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import GROUPED, HEAD_NORM, decoder
from txcalc.huggingface.layerwise import all_but, every, listed_kinds
from txcalc.huggingface.multimodal import head_of, part_of, seeing_classes
from txcalc.huggingface.rows import (
    RMS,
    SANDWICH,
    Family,
    Part,
    Rows,
    Value,
    activation,
    flag,
    gated,
    number,
    read,
    size,
    some,
)
from txcalc.huggingface.vision import SIDE, side_of, turns_both_ways
from txcalc.spec.errors import shown

_ATTENTION: Final[Mapping[str, Value]] = {
    **GROUPED, "qk_norm": HEAD_NORM, "value_norm": {**RMS, "scale": False}, "scale": 1.0}
"""Values are normed without a weight, and scores are not scaled."""


def _with_keys(c: Config, slides: list[bool]) -> int:
    """The number of first layers with keys of their own; refuse one that leaves a kind of layer without any."""
    layers, shared = len(slides), c.size("num_kv_shared_layers", least=0)
    own = slides[: max(layers - shared, 0)]
    if {*own} != {*slides}:
        raise c.error("num_kv_shared_layers", f"leaves a kind of layer without one that has keys, with {shared} of "
                      f"{layers} layers")
    return len(own)


def _layers(c: Config, _: str, spec: Data) -> Data:
    """Layers whose keys are their values as well: full ones, where the class is told so.

    The last layers read the keys and values of the last of their kind before them.
    """
    layers = spec["layers"]
    # The class makes its last layer a full one, whatever a file says.
    kinds = listed_kinds(c, "layer_types", layers, all_but(every(6)), "full_attention", "sliding_attention")
    slides = [*kinds[:-1], False]
    own = _with_keys(c, slides)
    sizes, wide = _sizes_of_full(c, spec, slides), c.flag("use_double_wide_mlp")
    window = {"window": c.size("sliding_window")}
    full = {"value_from": "key"} if c.flag("attention_k_eq_v") else {}
    name = "shared_d_ff" if "experts" in spec["feed_forward"] else "d_ff"
    twice = {"feed_forward": {name: 2 * spec["feed_forward"][name]}}
    blocks = []
    for i, slid in enumerate(slides):
        last = i >= own
        attention = (window if slid else full) | sizes.get(i, {}) | ({"kv_shared": True} if last else {})
        blocks.append(({"attention": attention} if attention else {}) | (twice if last and wide else {}))
    return layered(spec, blocks)


def _feed_forward(c: Config) -> Part:
    """Experts beside the dense feed-forward, which every token passes, if there are any."""
    dense = read(c, gated(act="hidden_activation"))
    return dense if not c.flag("enable_moe_block", default=False) else {
        "kind": "moe", "experts": size("num_experts"), "active_experts": size("top_k_experts"),
        "d_ff": size("moe_intermediate_size"), "activation": dense["activation"], "shared_experts": 1,
        "shared_d_ff": dense["d_ff"], "separate_norms": True}


def _per_layer(c: Config) -> Part | None:
    return None if some("hidden_size_per_layer_input")(c) is None else {
        "rows": size("vocab_size_per_layer_input"), "width": size("hidden_size_per_layer_input"),
        "activation": read(c, _feed_forward)["activation"]}


def _sizes_of_full(c: Config, spec: Data, slides: list[bool]) -> dict[int, Data]:
    """Heads of another width, and other numbers of them for keys, by layer: in full layers, or as a file lists them."""
    usual = {"head_dim": c.size("head_dim"), "kv_heads": spec["attention"]["kv_heads"]}
    listed = c.take("per_layer_config", default=None)
    wide, few = c.size("global_head_dim", default=512), c.take("num_global_key_value_heads", default=None)
    if "per_layer_config" not in c.data:
        full = {"head_dim": wide}
        if few is not None and c.flag("attention_k_eq_v"):
            full["kv_heads"] = c.size("num_global_key_value_heads")
        found = {i: full for i, slid in enumerate(slides) if not slid}
    else:
        found = {} if listed is None else _listed(c, listed, len(slides))
    return {i: {k: v for k, v in sizes.items() if v != usual[k]} for i, sizes in found.items()}


def _listed(c: Config, listed: Any, layers: int) -> dict[int, Data]:
    names = {"head_dim": "head_dim", "num_key_value_heads": "kv_heads"}
    if not isinstance(listed, Mapping) or not all(
        str(i).isdecimal() and int(i) < layers and isinstance(own, Mapping)
        and all(name in names and type(size) is int and size > 0 for name, size in own.items())
        for i, own in listed.items()
    ):
        raise c.error("per_layer_config", f"must give some of {layers} layers, counted from 0, a head_dim or "
                      f"num_key_value_heads, got {shown(listed)}")
    return {int(i): {names[name]: size for name, size in own.items()} for i, own in listed.items()}


gemma4 = partial(
    decoder, attention={**_ATTENTION, "bias": flag("attention_bias")},
    feed_forward=_feed_forward, norm=SANDWICH, softcap=number("final_logit_softcapping"), embedding_scale=True,
    per_layer_embedding=_per_layer, only={"use_bidirectional_attention": (None, "vision")},  # the mask of images only
    ignore="num_experts top_k_experts moe_intermediate_size vocab_size_per_layer_input", finish=_layers)


def _gemma3n(c: Config, _: str, spec: Data) -> Data:
    """Layers whose feed-forwards may differ; the last of each kind before those that share has their keys."""
    layers = spec["layers"]
    slides = listed_kinds(c, "layer_types", layers, all_but(every(5)), "full_attention", "sliding_attention")
    own, widths = _with_keys(c, slides), c.take("intermediate_size")
    if isinstance(widths, list) and (len(widths) != layers or not all(type(w) is int and w > 0 for w in widths)):
        raise c.error("intermediate_size", f"must be a whole number, or a list of {layers}")
    each = widths if isinstance(widths, list) else [widths] * layers
    return layered(spec, [{
        "attention": {**({"window": c.size("sliding_window")} if slid else {}), "kv_shared": i >= own},
        "feed_forward": {"d_ff": each[i]}} for i, slid in enumerate(slides)])


TEXT_3N: Final = decoder(
    {"Gemma3nForCausalLM": "lm", "Gemma3nTextModel": "none"}, attention=_ATTENTION, feed_forward=lambda c: gated(
        act="hidden_activation", d_ff=max(w) if isinstance(w := c.take("intermediate_size"), list) else w),
    norm=SANDWICH, softcap=number("final_logit_softcapping"), embedding_scale=True, per_layer_embedding=lambda c: {
        "rows": size("vocab_size_per_layer_input"), "width": size("hidden_size_per_layer_input"),
        "activation": activation("hidden_activation")},
    altup={"streams": size("altup_num_inputs"), "laurel_rank": size("laurel_rank")}, finish=_gemma3n,
    ignore="altup_active_idx altup_coef_clip activation_sparsity_pattern", only={"altup_correct_scale": True})
TEXT: Final = gemma4({"Gemma4ForCausalLM": "lm", "Gemma4TextModel": "none"})

# ---------------------------------------------------------------- images


def _seeing(c: Config, kind: str) -> Data:
    """Gemma 4 with eyes: squares of patches averaged, normed without a weight and projected into the text."""
    c.only("audio_config", None)
    c.ignore("boa_token_id", "eoa_token_id", "eoa_token_index", "audio_token_id", "video_token_id",
             "vision_soft_tokens_per_image")
    text, _ = part_of(c, "text_config", "gemma4_text", only=True)
    image, _ = part_of(c, "vision_config", "gemma4_vision", only=True)
    text.ignore("tie_word_embeddings")
    spec, tower = TEXT.build(text, kind), _tower(image)
    text.finish()
    image.finish()
    tied = c.flag("tie_word_embeddings")
    head = head_of(kind, tied) | ({"softcap": spec["head"]["softcap"]} if "softcap" in spec["head"] else {})
    return {**spec, "head": head, "tower": tower}


def _tower(c: Config) -> Data:
    c.only("use_clipped_linears", False)
    c.ignore("attention_bias", "standardize", "default_output_length", "global_head_dim", "max_position_embeddings",
             "tie_word_embeddings")
    patch, kernel = side_of(c, "patch_size"), c.size("pooling_kernel_size")
    attention = read(c, _ATTENTION)
    turns_both_ways(c, "head_dim", attention["head_dim"])
    return {
        "d_model": c.size("hidden_size"), "layers": c.size("num_hidden_layers"),
        "input": {"kind": "patches", "image": SIDE * kernel * patch, "patch": patch, "bias": False, "class_tokens": 0},
        "position": {"kind": "learned", "size": c.size("position_embedding_size"), "both_ways": True},
        "norm": SANDWICH, "attention": attention, "final_norm": False,
        "feed_forward": read(c, gated(act="hidden_activation")),
        "projector": {"average": True, "tokens": SIDE**2, "norm": {**RMS, "scale": False}},
    }


ROWS: Final[Rows] = {
    "gemma3n_text": TEXT_3N,
    "gemma4_text": TEXT,
    "gemma4_unified_text": gemma4({"Gemma4UnifiedForCausalLM": "lm", "Gemma4UnifiedTextModel": "none"}),
    "gemma4": Family(_seeing, seeing_classes("Gemma4"), ("gemma4_vision",)),
}
