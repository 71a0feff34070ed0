"""A small model of the same structure: what is too large for the machine is checked on it instead.

Every size is replaced by a small one, different from its neighbours and mostly prime; every switch, kind, ratio of
heads and pattern of layers stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from txcalc.spec.errors import SpecError
from txcalc.spec.facts import STORAGE, architecture_fields, located_blocks
from txcalc.spec.inputs import eighth
from txcalc.spec.model import Model
from txcalc.spec.rnn import ImageConvolutions, PatchMerging

SMALL: Final[dict[str, int]] = {
    "vocab": 101, "d_model": 30, "context": 64, "size": 67, "d_ff": 37, "shared_d_ff": 19, "head_dim": 10,
    "experts": 5, "window": 5, "chunk": 6, "token_types": 3, "task_types": 4, "embedding_dim": 13, "buckets": 7,
    "labels": 11, "q_rank": 26, "kv_rank": 14, "nope_dim": 12, "rope_dim": 6, "value_dim": 10, "state": 9, "key_dim": 8,
    "conv": 3, "image": 12, "patch": 4, "bins": 17, "length": 23, "max_distance": 20, "tokens": 1,
    "absolute": 71, "source_vocab": 89, "width": 16, "pair_labels": 2, "channels": 3, "inner": 22,
    "rank": 7, "kernel": 5, "pieces": 2, "index_topk": 8, "registers": 2, "merge": 3, "unused_layers": 1,
    "image_window": 3, "rows": 103, "block": 5, "blocks": 3,
}
"""Small values of sizes; other sizes are derived below or kept (they are small counts already)."""

_OF_A_WIDTH: Final = ("rnn", "lstm", "gru", "convolution")
"""Layers that hand on a width of their own."""


def sibling(spec: Model) -> Model:
    """The same structure in small: at most 2 repeats of anything, heads in the same kind of groups.

    Raises ``SpecError`` for stages of an image, whose widths and sides depend on each other.
    """
    staged = [isinstance(block.recurrent, ImageConvolutions) or (stack is spec and isinstance(
        block.recurrent, PatchMerging)) for stack in (spec, spec.encoder, spec.tower) if stack is not None
        for _, block in located_blocks(stack)]
    if any(staged):
        raise SpecError(f"{spec.name} has stages of an image, which are not made small to be run")
    data = {name: value for name, value in architecture_fields(spec).items() if name not in STORAGE}
    return Model.from_data(_shrunk(data, spec.d_model))


def structure(small: Model) -> str:
    """All of a model that decides what runs: what is compared is the same of those that have the same one."""
    return repr(small.replaced(name="", family=None, modeling=None))


def _shrunk(data: Mapping[str, Any], d_model: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            out[name] = _shrunk(value, d_model)
        elif isinstance(value, list | tuple):
            out[name] = [_shrunk(item, d_model) if isinstance(item, Mapping) else item for item in value]
        elif name in ("hidden", "channels") and data.get("kind") in _OF_A_WIDTH and value is not None:
            out[name] = _in_proportion(value, d_model)
        elif isinstance(value, int) and not isinstance(value, bool):
            out[name] = min(value, SMALL[name]) if name in SMALL else value
        else:
            out[name] = value
    _related(data, out)
    return out


def _in_proportion(width: int, d_model: int) -> int:
    """A layer's own width: as it is to the model's, where that comes out small and even, so that sums still fit."""
    own = min(d_model, SMALL["d_model"])
    small, rest = divmod(width * own, d_model)
    return small if not rest and 0 < small <= 4 * own else min(width, 23)


def _related(data: Mapping[str, Any], out: dict[str, Any]) -> None:
    """Sizes that must fit one another."""
    if "kv_heads" in data:
        group = data["heads"] // data["kv_heads"]
        kv_heads = min(data["kv_heads"], 2)
        out |= {"kv_heads": kv_heads, "heads": kv_heads * min(group, 3)}
        if data.get("indexer"):
            out["indexer"]["heads"] = min(data["indexer"]["heads"], kv_heads)
        if data["value_dim"] is not None:
            out["value_dim"] = 7  # other than a head's
    elif "heads" in data:
        out["heads"] = min(data["heads"], 3 if "inner" not in data else 1 + (out["inner"] % 2 == 0))
    if "state" in data and "groups" in data:
        groups = min(data["groups"], 2)
        out |= {"groups": groups, "heads": groups * min(data["heads"] // data["groups"], 3)}
    if "key_heads" in data:
        out |= {"key_heads": 2, "value_heads": 2 * min(data["value_heads"] // data["key_heads"], 2)}
    if "active_experts" in data:
        out["active_experts"] = min(data["active_experts"], out["experts"], 2)
        out |= {"expert_groups": 1, "active_groups": 1}  # they say which experts are chosen, not how many
    if data.get("kind") == "rope" and data.get("dim") is not None:
        out["dim"] = 4
    if data.get("feature_layers"):
        out["feature_layers"] = [min(skips, 2) for skips in data["feature_layers"]]
    if data.get("image_window"):
        out["image_window"] = SMALL["image_window"] if data["image_window"] >= SMALL["image_window"] else 1
    if "patch" in data:
        out["image"] = min(data["image"], 3 * out["patch"])
    for projector in [out.get("projector"), *out.get("deepstack", ())]:
        if projector and not projector["average"]:
            projector["tokens"] = None  # as many as the smaller image has
    if data.get("shared_experts"):
        out["shared_experts"] = min(data["shared_experts"], 2)
    if "repeat" in data:
        out["repeat"] = min(data["repeat"], 2)
    if data.get("grid"):  # an eighth of every piece's frames
        out["grid"]["frames"] = 8 * SMALL["conv"]
        out["length"] = SMALL["conv"] * min(data["length"] // eighth(data["grid"]["frames"]), 2)
    if "position" in data and (length := _positions(out["input"])) is not None:
        if "size" in out["position"]:
            out["position"]["size"] = length
        if out["position"]["kind"] == "relative" and "patch" in out["input"]:
            sides = 2 * (out["input"]["image"] // out["input"]["patch"]) - 1
            out["position"]["buckets"] = sides**2 + 3  # a row for every distance of two patches, and three besides
    head = data.get("head", {})
    if head.get("kind") == "contrastive" and head["width"] is None and "width" in (out["pooler"] or {}):
        out["pooler"]["width"] = out["tower"]["d_model"]
    if "layers" in data:
        groups = out.get("groups")
        out["layers"] = min(data["layers"], 3) if groups is None else sum(
            g["repeat"] * sum(b["repeat"] for b in g["blocks"]) for g in groups
        )


def _positions(own: Mapping[str, Any]) -> int | None:
    """Positions of one image or sound; None for tokens."""
    if "patch" in own:
        return int((own["image"] // own["patch"]) ** 2 + own["class_tokens"])
    return own.get("length")
