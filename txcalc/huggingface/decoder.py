"""The skeleton of decoders: a row says by keyword arguments what sets a family apart from Llama's shape.

Read off the forward pass of the transformers class of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Final

from txcalc.huggingface.build import Data, as_wide, layered, thetas
from txcalc.huggingface.build import rope as rope_of
from txcalc.huggingface.config import Config
from txcalc.huggingface.importer import decoder_classes, decoder_head
from txcalc.huggingface.layerwise import Layers
from txcalc.huggingface.rows import (
    NORMS,
    Family,
    Fields,
    Only,
    Part,
    Reader,
    Value,
    activation,
    gated,
    optional,
    passed_over,
    read,
    size,
    switch,
)
from txcalc.spec.resolve import merge

Position = Fields | str | Callable[[Config, int], Data]
"""A part, or what a configuration and a head's width make of it."""


def rope(*, part: float = 1.0) -> Callable[[Config, int], Data]:
    """Rotary positions, over ``part`` of each head unless the file says otherwise."""
    return lambda c, width: rope_of(c, width, default=part)


def _kv_heads(c: Config) -> int:
    return c.size_or(read(c, HEADS), "num_key_value_heads")


ROUTING: Final = "n_group topk_group routed_scaling_factor num_nextn_predict_layers"
"""Fields by which DeepSeek's routing narrows and scales what it chooses, and layers that are never built."""
CONTEXT: Final = size("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", default=2048)
HEAD_NORM: Final = NORMS["head"]
FULL_NORM: Final = NORMS["full"]
BIAS: Final = switch("attention_bias", False)
NO_ROPE: Final[Data] = {"rope": False}
HEADS: Final = size("num_attention_heads", "n_head")
GROUPED: Final[Fields] = {"heads": HEADS, "kv_heads": _kv_heads, "head_dim": optional("head_dim")}
"""Heads, key-value heads and head size as most decoders write them."""


def qkv(bias: Value) -> Fields:
    """A bias on queries, keys and values."""
    return {"q": bias, "k": bias, "v": bias}


_COUNT: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE: Final = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk")
_SHARED: Final = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")


def _expert_width(c: Config) -> int:
    return c.size("moe_intermediate_size" if "moe_intermediate_size" in c.own else "intermediate_size")


def _shared(c: Config) -> int | None:
    known = bool({*_SHARED} & {*c.own}) and c.take(*_SHARED) is not None
    return c.size(*_SHARED, least=0) or None if known else None


def experts(*, act: str = "hidden_act", **more: Value) -> Fields:
    """Gated experts, under those of the common names that the class has."""
    return {"kind": "moe", "experts": size(*_COUNT), "active_experts": size(*_ACTIVE), "d_ff": _expert_width,
            "activation": activation(act), "normalize": switch("norm_topk_prob", True), "shared_experts": _shared,
            **more}


def decoder(
    classes: str | Mapping[str, str], *, attention: Part | None = GROUPED, bias: Value = BIAS, qk_norm: Value = None,
    window: Value = None, feed_forward: Part | str | None = None, norm: Part | str = "rms",
    position: Position | None = None, head_bias: Value = False, tied: Value = None, softcap: Value = None,
    layers: Sequence[Layers] = (), ignore: str = "", only: Only | None = None,
    finish: Callable[[Config, str, Data], Data] | None = None,
    **more: Value,
) -> Family:
    """A family of decoders; without arguments it has Llama's shape, and the biases that its class has switches for.

    ``classes``: those that carry it, or how the usual ones are called before ``ForCausalLM``. ``bias``, ``qk_norm`` and
    ``window`` are the attention's, ``tied`` and ``softcap`` the language model's head's. ``layers``: what differs from
    layer to layer. ``ignore``: fields that change nothing, with spaces between. ``only``: fields that must have some
    value to be understood. ``finish`` makes of the spec what no argument says. ``more``: other fields of the spec.
    """
    def build(c: Config, kind: str) -> Data:
        passed_over(c, ignore, only or {})
        parts: Data = {}
        if attention is not None:
            own = read(c, {"bias": bias, "qk_norm": _norm(qk_norm), "window": window})
            parts["attention"] = {**read(c, attention), **_given(own)}
        parts |= {"feed_forward": read(c, feed_forward or gated()), "norm": read(c, _norm(norm))}
        at = position or rope()
        parts["position"] = at(c, head_dim(c, parts["attention"])) if callable(at) else read(c, at)
        spec = common(c, kind, head_bias=read(c, head_bias), **parts, **read(c, more))
        on_top = _given(read(c, {"tied": tied, "softcap": softcap}))
        spec["head"] |= on_top if kind == "lm" else {}
        spec = by_layer(c, spec, layers)
        return finish(c, kind, spec) if finish else spec

    return Family(build, decoder_classes(classes) if isinstance(classes, str) else classes)


_USUAL: Final[Mapping[str, Reader]] = {
    "vocab": size("vocab_size"), "d_model": size("hidden_size", "n_embd", "d_model"),
    "layers": size("num_hidden_layers", "n_layer", "num_layers", "n_layers"), "context": CONTEXT}


def common(c: Config, kind: str, *, head_bias: bool = False, **parts: Any) -> Data:
    """Vocabulary, width, depth, context and head, under the names most decoders use; ``parts`` win."""
    position = parts["position"] if isinstance(parts.get("position"), dict) else {}
    return {
        **{name: usual(c) for name, usual in _USUAL.items() if name not in parts},
        "head": decoder_head(c, kind, bias=head_bias),
        **parts,
        **({"position": {**thetas(c), **position}} if position.get("kind") == "rope" else {}),
    }


def head_dim(c: Config, attention: Data) -> int:
    """Width of a head, from the attention or from the model's width."""
    return int(attention.get("head_dim") or c.size("hidden_size", "n_embd") // attention["heads"])


def hidden_over_heads(c: Config) -> int:
    """Width of a head where it is no field."""
    return c.size("hidden_size") // c.size("num_attention_heads")


def square(c: Config, kind: str, spec: Data) -> Data:
    """The same, where all heads must be together as wide as the model."""
    as_wide(c, spec["attention"]["heads"], head_dim(c, spec["attention"]), spec["d_model"])
    return spec


_MOST: Final = 100_000


def by_layer(c: Config, spec: Data, layers: Sequence[Layers]) -> Data:
    """``spec`` with what differs from layer to layer laid over."""
    if not layers:
        return spec
    if spec["layers"] > _MOST:
        raise c.error("num_hidden_layers", f"layers that differ are read one by one, up to {_MOST:,} of them")
    each = [_pruned(reduce(merge, own)) for own in zip(*(layer(c, spec["layers"]) for layer in layers), strict=True)]
    alike = {name: value for name, value in each[0].items() if all(name in own and own[name] == value for own in each)}
    return layered(merge(spec, alike), [{k: v for k, v in own.items() if k not in alike} for own in each])


def _norm(norm: Value) -> Value:
    return NORMS[norm] if isinstance(norm, str) else norm


def _given(part: Data) -> Data:
    return {name: value for name, value in part.items() if value is not None}


def _pruned(part: Data) -> Data:
    """The same without mappings that hold nothing."""
    return {name: value for name, value in part.items() if value != {}}
