"""Fill in what a short spec leaves out, on plain data, before it is validated.

Everything here is tolerant: a value of the wrong type is passed through for validation to refuse with its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from txcalc.spec.errors import FieldError, SpecError, is_size
from txcalc.spec.rnn import ImageConvolutions, OverImages, PatchMerging

Data = dict[str, Any]

BLOCK_FIELDS = ("attention", "recurrent", "cross_attention", "feed_forward", "convolution", "norm", "residual")
ACROSS = ("attends", "initial")  # what a recurrent layer of a decoder has from the encoder
SUBLAYERS = ("attention", "recurrent", "cross_attention", "feed_forward", "convolution")
NONE = (None, "none")  # what leaves out a layer
STACK_FIELDS = (*BLOCK_FIELDS, "layers", "position", "embedding_norm", "final_norm", "share_layers", "groups")


def model(data: Any) -> Any:
    """The encoder takes missing fields from the decoder; every block takes missing fields from its stack."""
    if not isinstance(data, Mapping):
        return data
    out = _said(data)
    if isinstance(out.get("pooler"), bool):
        out["pooler"] = {"kind": "dense"} if out["pooler"] else None
    if "context" not in out and (length := _input_length(out)) is not None:
        out["context"] = length + _registers(out)
    if isinstance(out.get("tower"), Mapping):
        tower = _stack(_said(out["tower"]), out["tower"], ("tower",))
        for name in ("resampler", "second"):
            if isinstance(own := tower.get(name), Mapping):
                tower[name] = _projectors(_stack(_said(own), dict(own), ("tower", name)))
        out["tower"] = _projectors(tower)
    if out.get("architecture") == "encoder-decoder":
        own = out.get("encoder")
        if own is None or isinstance(own, Mapping):
            apart = ("cross_attention", "groups", *(("layers",) if own and own.get("groups") else ()))
            inherited = {k: _without(out[k], *ACROSS, "ahead") for k in STACK_FIELDS if k in out and k not in apart}
            wide = {**out, "d_model": (own or {}).get("d_model") or out.get("d_model")}
            out["encoder"] = _stack(merge(inherited, _said(own or {})), wide, ("encoder",))
        if "cross_attention" not in out and "attention" in out:
            out["cross_attention"] = _without(out["attention"], "window", "chunk", "ahead")
    return _stack(out, out, ())


def norm(data: Any, default_kind: str) -> Any:
    """RMSNorm has no bias unless asked for."""
    if isinstance(data, Mapping) and data.get("kind", default_kind) == "rmsnorm" and "bias" not in data:
        return {**data, "bias": False}
    return data


def attention(data: Any) -> Any:
    """Without ``kv_heads`` every head has keys and values of its own."""
    if isinstance(data, Mapping) and data.get("kv_heads") is None and "heads" in data:
        return {**data, "kv_heads": data["heads"]}
    return data


def moe(data: Any) -> Any:
    """A shared expert is as wide as a routed one unless said otherwise."""
    if isinstance(data, Mapping) and data.get("shared_experts") and data.get("shared_d_ff") is None:
        return {**data, "shared_d_ff": data.get("d_ff")}
    return data


def merge(base: Data, override: Data) -> Data:
    """``override`` laid over ``base``, mapping by mapping; a mapping of another ``kind`` replaces, not merges."""
    out = dict(base)
    for key, value in override.items():
        old = base.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("kind", k := old.get("kind")) == k:
            out[key] = merge(dict(old), dict(value))
        else:
            out[key] = value
    return out


def divisors(n: int) -> str:
    """The divisors of ``n`` up to 12 of them, for error messages."""
    found = [i for i in range(1, min(n, 4096) + 1) if n % i == 0][:12]
    return ", ".join(map(str, found))


def _without(data: Any, *keys: str) -> Any:
    return {k: v for k, v in data.items() if k not in keys} if isinstance(data, Mapping) else data


def _said(data: Mapping[str, Any]) -> Data:
    """The fields of a stack or a block, with ``none`` as what stands for it."""
    out = {key: None if key in SUBLAYERS and value in NONE else value for key, value in data.items()}
    if "position" in out and out["position"] in NONE:
        out["position"] = {"kind": "none"}
    return out


def _stack(data: Data, whole: Data, path: tuple[str | int, ...]) -> Data:
    out = dict(data)
    d_model = whole.get("d_model")
    groups = out.get("groups")
    if isinstance(groups, list | tuple):
        base = {k: out[k] for k in BLOCK_FIELDS if k in out}
        out["groups"] = [_group(g, base, d_model, (*path, "groups", i)) for i, g in enumerate(groups)]
        out.setdefault("feed_forward", None)  # said, or missing, in the blocks
        if "layers" not in out and (total := _total(out["groups"])) is not None:
            out["layers"] = total
    position = out.get("position")
    if isinstance(position, Mapping) and position.get("kind") in ("learned", "sinusoidal") and "size" not in position:
        length = _side(out) if position.get("both_ways") is True else _input_length(out)
        out["position"] = {**position, "size": whole.get("context") if length is None else length}
    pooler = out.get("pooler")
    if isinstance(pooler, Mapping) and isinstance(pooler.get("attention"), Mapping):
        own = _head_dim(dict(pooler["attention"]), d_model, (*path, "pooler", "attention"))
        out["pooler"] = {**pooler, "attention": own}
    return _block(out, d_model, path)


def _input_length(stack: Mapping[str, Any]) -> int | None:
    """Positions of an image or a sound; None for tokens, or where validation will find something to refuse."""
    own = stack.get("input")
    if not isinstance(own, Mapping):
        return None
    length = own.get("length")
    if isinstance(length, int):
        return length
    image, patch, extra = own.get("image"), own.get("patch"), own.get("class_tokens", 1)
    if not (isinstance(image, int) and isinstance(patch, int) and isinstance(extra, int)) or not 1 <= patch <= image:
        return None
    return (image // patch) ** 2 + extra


def _side(stack: Mapping[str, Any]) -> int | None:
    """Patches along an image."""
    own = stack.get("input")
    image, patch = (own.get("image"), own.get("patch")) if isinstance(own, Mapping) else (None, None)
    return image // patch if isinstance(image, int) and isinstance(patch, int) and 1 <= patch <= image else None


def _registers(stack: Mapping[str, Any]) -> int:
    registers = stack["input"].get("registers", 0)
    return registers if isinstance(registers, int) else 0


def _projectors(tower: Data) -> Data:
    out = {**tower}
    if "projector" in tower:
        out["projector"] = _projected(tower.get("resampler") or tower, tower["projector"])
    for name in ("deepstack", "unused"):
        if isinstance(more := tower.get(name), list | tuple):
            out[name] = [_projected(tower, each) for each in more]
    return out


def _projected(tower: Data, projector: Any) -> Any:
    """A projector hands on every patch, or every whole square of those that it merges."""
    own = tower.get("input")
    if not isinstance(own, Mapping) or not isinstance(projector, Mapping) or projector.get("tokens") is not None:
        return projector
    merge = 1 if projector.get("merge") is None else projector["merge"]
    if isinstance(own.get("length"), int) and not projector.get("average") and is_size(merge):
        return {**projector, "tokens": own["length"] // merge}
    image, patch = own.get("image", 0), own.get("patch", 0)
    if projector.get("average") or not all(map(is_size, (image, patch, merge))) or image < patch * merge:
        return projector
    side, newlines = image // patch, projector.get("newlines") is True
    blocks = [block for group in tower.get("groups") or () for block in group["blocks"]]
    for recurrent in (block.get("recurrent") for block in blocks if isinstance(block.get("recurrent"), Mapping)):
        known: dict[Any, type[OverImages]] = {"patch-merging": PatchMerging, "image-convolutions": ImageConvolutions}
        kind = known.get(recurrent.get("kind"))
        try:
            side = side if kind is None else kind.from_data(recurrent).side(side)
        except SpecError:  # which is said where it stands
            return projector
    side //= merge
    extra = own.get("class_tokens", 1) + _registers(tower) if projector.get("unpatched") is True else 0
    return {**projector, "tokens": side**2 + extra + (side + 2 if newlines else 0)}


def _group(group: Any, base: Data, d_model: Any, path: tuple[str | int, ...]) -> Any:
    if not isinstance(group, Mapping) or not isinstance(group.get("blocks"), list | tuple):
        return group
    blocks = [
        _block(merge(base, _said(b)), d_model, (*path, "blocks", i)) if isinstance(b, Mapping) else b
        for i, b in enumerate(group["blocks"])
    ]
    return {**group, "blocks": blocks}


def _total(groups: list[Any]) -> int | None:
    try:
        return int(sum(g.get("repeat", 1) * sum(b.get("repeat", 1) for b in g["blocks"]) for g in groups))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _block(data: Data, d_model: Any, path: tuple[str | int, ...]) -> Data:
    out = dict(data)
    for name in ("attention", "cross_attention"):
        if isinstance(out.get(name), Mapping):
            out[name] = _head_dim(dict(out[name]), d_model, (*path, name))
    return out


def _head_dim(data: Data, d_model: Any, path: tuple[str | int, ...]) -> Data:
    heads = data.get("heads")
    if data.get("kind", "standard") != "standard":
        return data
    if data.get("head_dim") is None and is_size(heads) and is_size(d_model):
        if d_model % heads:
            raise FieldError((*path, "heads"), f"{heads} does not divide d_model {d_model}; "
                             f"use one of {divisors(d_model)}, or give head_dim")
        data["head_dim"] = d_model // heads
    return data
