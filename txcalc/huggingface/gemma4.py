"""Gemma 4: full layers with heads of another width, layers without keys of their own, per-layer embeddings.

Its towers have no size of image of their own: an image here is 16 x 16 = 256 positions of the text. Towers for sound
are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from txcalc.huggingface.build import Data, gated, grouped_query, layer_types, layered, rms, rope
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import common
from txcalc.huggingface.multimodal import head_of, part_of, seeing_classes
from txcalc.huggingface.rows import Family, Rows
from txcalc.huggingface.vision import SIDE, side_of, turns_both_ways
from txcalc.spec.errors import shown

PARTS: Final = ("gemma4_vision",)
"""Types of configuration that stand only within another."""

_FULL: Final = "full_attention"
_PERIOD: Final = 6  # as the class has it, where a file lists no types: the last of so many layers is full


def gemma4(c: Config, kind: str) -> Data:
    """Gemma 4's text.

    Values are normed without a weight, and scores are not scaled. Where the class is told so, the keys of full layers
    are their values as well, and the last layers read the keys and values of the last of their kind before them.
    """
    c.only("use_bidirectional_attention", None, "vision")  # which changes the mask of images only
    spec = _shape(c, kind)
    layers, kinds = spec["layers"], _kinds(c, spec["layers"])
    shared = c.size("num_kv_shared_layers", least=0)
    if shared >= layers or not {*kinds[layers - shared:]} <= {*kinds[: layers - shared]}:
        raise c.error("num_kv_shared_layers", f"leaves a kind of layer without one that has keys, with {shared} of "
                      f"{layers} layers")
    sizes, wide = _sizes_of_full(c, spec, kinds), c.flag("use_double_wide_mlp")
    keys_as_values, window = c.flag("attention_k_eq_v"), c.size("sliding_window")
    blocks = []
    for i, layer in enumerate(kinds):
        attention: Data = {"window": window} if layer != _FULL else {"value_from": "key"} if keys_as_values else {}
        last = i >= layers - shared
        attention |= sizes.get(i, {}) | ({"kv_shared": True} if last else {})
        feed = _twice_as_wide(spec["feed_forward"]) if last and wide else {}
        blocks.append(({"attention": attention} if attention else {}) | feed)
    return layered(spec, blocks)


def _shape(c: Config, kind: str) -> Data:
    """What all layers have in common."""
    norm = rms(placement="sandwich")
    attention = grouped_query(c, bias=c.flag("attention_bias"), qk_norm=rms(over="head"), value_norm=rms(scale=False),
                              scale=1.0)
    spec = common(c, kind, attention=attention, feed_forward=gated(c, act="hidden_activation"), norm=norm,
                  embedding_scale=True, position=rope(c, attention["head_dim"]))
    if c.flag("enable_moe_block"):
        spec["feed_forward"] = _experts(c, spec["feed_forward"])
    c.ignore("num_experts", "top_k_experts", "moe_intermediate_size")
    final = c.number("final_logit_softcapping")
    if final is not None and spec["head"]["kind"] == "lm":
        spec["head"]["softcap"] = float(final)
    c.ignore("vocab_size_per_layer_input")
    if c.take("hidden_size_per_layer_input"):
        rows, width = c.size("vocab_size_per_layer_input"), c.size("hidden_size_per_layer_input")
        spec["per_layer_embedding"] = {"rows": rows, "width": width, "activation": spec["feed_forward"]["activation"]}
    return spec


def _twice_as_wide(feed_forward: Data) -> Data:
    name = "shared_d_ff" if "experts" in feed_forward else "d_ff"
    return {"feed_forward": {name: 2 * feed_forward[name]}}


def _experts(c: Config, dense: Data) -> Data:
    """Experts beside the dense feed-forward, which every token passes."""
    return {"kind": "moe", "experts": c.size("num_experts"), "active_experts": c.size("top_k_experts"),
            "d_ff": c.size("moe_intermediate_size"), "activation": dense["activation"], "shared_experts": 1,
            "shared_d_ff": dense["d_ff"], "apart": True}


def _kinds(c: Config, layers: int) -> list[str]:
    """The class makes its last layer a full one, whatever a file says."""
    default = [_FULL if (i + 1) % _PERIOD == 0 else "sliding_attention" for i in range(layers)]
    return [*layer_types(c, layers, default)[:-1], _FULL]


def _sizes_of_full(c: Config, spec: Data, kinds: list[str]) -> dict[int, Data]:
    """Heads of another width, and other numbers of them for keys, by layer: in full layers, or as a file lists them."""
    usual = {name: spec["attention"][name] for name in ("head_dim", "kv_heads")}
    listed = c.take("per_layer_config", default=None)
    wide, few = c.size("global_head_dim", default=512), c.take("num_global_key_value_heads", default=None)
    if "per_layer_config" not in c.data:
        full = {"head_dim": wide}
        if few is not None and c.flag("attention_k_eq_v"):
            full["kv_heads"] = c.size("num_global_key_value_heads")
        found = {i: full for i, kind in enumerate(kinds) if kind == _FULL}
    else:
        found = {} if listed is None else _listed(c, listed, len(kinds))
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


# ---------------------------------------------------------------- images


def gemma4_seeing(c: Config, kind: str) -> Data:
    """Gemma 4 with eyes: squares of patches averaged, normed without a weight and projected into the text."""
    c.only("audio_config", None)
    c.ignore("boa_token_id", "eoa_token_id", "eoa_token_index", "audio_token_id", "video_token_id",
             "vision_soft_tokens_per_image")
    text, _ = part_of(c, "text_config", "gemma4_text", only=True)
    image, _ = part_of(c, "vision_config", "gemma4_vision", only=True)
    text.ignore("tie_word_embeddings")
    spec, tower = gemma4(text, kind), _tower(image)
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
    attention = grouped_query(c, qk_norm=rms(over="head"), value_norm=rms(scale=False), scale=1.0)
    turns_both_ways(c, "head_dim", attention["head_dim"])
    return {
        "d_model": c.size("hidden_size"), "layers": c.size("num_hidden_layers"),
        "input": {"kind": "patches", "image": SIDE * kernel * patch, "patch": patch, "bias": False, "class_tokens": 0},
        "position": {"kind": "learned", "size": c.size("position_embedding_size"), "both_ways": True},
        "norm": rms(placement="sandwich"), "attention": attention, "final_norm": False,
        "feed_forward": gated(c, act="hidden_activation"),
        "projector": {"average": True, "tokens": SIDE**2, "norm": rms(scale=False)},
    }


ROWS: Final[Rows] = {
    "gemma4_text": Family(gemma4, {"Gemma4ForCausalLM": "lm", "Gemma4TextModel": "none"}),
    "gemma4": Family(gemma4_seeing, seeing_classes("Gemma4")),
}
