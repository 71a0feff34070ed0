"""What of the spec the reference runs. Anything else is refused by name: a field passed over proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

from txcalc.spec import inputs, layers, model
from txcalc.spec.base import Spec

_STACK = {
    "attention", "cross_attention", "feed_forward", "norm", "residual", "layers", "input", "position",
    "embedding_norm", "final_norm", "share_layers", "groups",
}
_NORM = {"kind", "scale", "bias", "eps"}

UNDERSTOOD: dict[type[Spec], set[str]] = {
    model.Model: _STACK | {
        "name", "family", "aliases", "summary", "sources", "published", "architecture", "vocab", "d_model", "context",
        "token_types", "embedding_dim", "embedding_projection", "embedding_projection_bias", "embedding_scale",
        "encoder", "pooler", "head",
    },
    model.Stack: _STACK,
    model.Group: {"repeat", "blocks"},
    model.Block: {"attention", "cross_attention", "feed_forward", "norm", "residual", "repeat"},
    model.Published: set(model.Published.model_fields),
    layers.Norm: _NORM,
    layers.BlockNorm: _NORM | {"placement", "shared", "on_attention"},
    layers.HeadNorm: _NORM | {"over"},
    layers.AttentionBias: {"q", "k", "v", "o"},
    layers.Attention: {
        "kind", "heads", "kv_heads", "head_dim", "bias", "window", "qk_norm", "scale", "rope", "chunk", "softcap",
    },
    layers.DenseBias: {"up", "gate", "down"},
    layers.Dense: {"kind", "d_ff", "activation", "gated", "bias"},
    layers.MoE: {
        "kind", "experts", "active_experts", "d_ff", "activation", "gated", "bias", "router_bias", "routing",
        "normalize", "shared_experts", "shared_d_ff", "shared_gate",
    },
    inputs.TokenInput: {"kind"},
    inputs.NoPosition: {"kind"},
    inputs.LearnedPosition: {"kind", "size"},
    inputs.SinusoidalPosition: {"kind", "stored", "size"},
    inputs.RotaryPosition: {"kind", "theta", "dim"},
    inputs.AlibiPosition: {"kind"},
    inputs.RelativePosition: {"kind", "buckets", "max_distance", "per_layer"},
    inputs.HeadTransform: {"activation", "bias", "norm"},
    inputs.LMHead: {"kind", "tied", "bias", "transform"},
    inputs.ClassifierHead: {"kind", "labels", "bias", "of"},
    inputs.NoHead: {"kind"},
    inputs.DensePooler: {"kind"},
}


def not_understood(spec: Spec, path: str = "") -> Iterator[str]:
    """The fields of ``spec`` that the reference does not run, unless they stand at their default."""
    fields = UNDERSTOOD.get(type(spec))
    if fields is None:
        yield f"{path or 'model'} of kind {type(spec).__name__}"
        return
    for name, info in type(spec).model_fields.items():
        value, inner = getattr(spec, name), f"{path}.{name}" if path else name
        if name not in fields:
            if value != info.get_default(call_default_factory=True):
                yield inner
            continue
        values = value if isinstance(value, tuple) else (value,)
        for item in values:
            if isinstance(item, Spec):
                yield from not_understood(item, inner)


def refuse_unknown(spec: Spec) -> None:
    """Raises NotImplementedError that names every field the reference would have passed over."""
    if missing := list(not_understood(spec)):
        raise NotImplementedError(f"the reference does not run: {', '.join(missing)}")
