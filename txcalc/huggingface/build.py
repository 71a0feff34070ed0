"""Parts that the importers of all families share: sizes, heads, and layers that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from txcalc.huggingface.config import Config, class_thetas
from txcalc.spec.errors import shown
from txcalc.spec.resolve import merge

Data = dict[str, Any]

ACTIVATIONS: Final = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "relu": "relu",
    "gelu_accurate": "gelu_tanh", "gelu_python_tanh": "gelu_tanh", "relu2": "relu2", "silu": "silu",
    "swish": "silu", "tanh": "tanh", "sigmoid": "sigmoid",
}
_GELU: Final = {"gelu_pytorch_tanh": "kernel", "gelu_fast": "fast", "gelu_python": "erf",
                **dict.fromkeys(("gelu_new", "gelu_accurate", "gelu_python_tanh"), "composed")}


def gelu(c: Config) -> Data:
    """GELU variant that the file names, where it is not the default of its class."""
    usual = {"dense_act_fn": "gelu_new", **c.defaults}  # which T5 makes of another field
    for name in ("hidden_act", "hidden_activation", "activation_function", "dense_act_fn"):
        own = _GELU.get(str(c.data.get(name))) if name in usual else None
        if own is not None and own != _GELU.get(str(usual[name]), "kernel"):
            return {"gelu": own}
    return {}


def as_wide(c: Config, heads: int, head_dim: int, d_model: int) -> int:
    """The width of a head; refuse heads that are not together as wide as the model, with which a class cannot run."""
    if heads * head_dim != d_model:
        raise c.error("head_dim", f"{heads} heads of {head_dim} are not as wide as hidden_size {d_model}")
    return head_dim


def rope(c: Config, head_dim: int, *, default: float = 1.0) -> Data:
    """Rotary positions, over part of each head where the configuration says so."""
    parameters = c.data.get("rope_parameters") or c.data.get("rope_scaling") or {}
    nested = parameters.get("partial_rotary_factor") if isinstance(parameters, Mapping) else None
    part = c.take("partial_rotary_factor", "rotary_pct", default=None)
    part = nested if part is None else part
    dim = int(head_dim * (default if part is None else part))
    dim += dim % 2  # a frequency for every second column, counted from the first, turns two
    if head_dim % 2 or dim < 2:
        raise c.error("head_dim", f"positions rotate pairs of columns, here {dim} of a head's {head_dim}")
    return {"kind": "rope", **thetas(c)} | ({} if dim == head_dim else {"dim": dim})


def thetas(c: Config) -> Data:
    """Bases of the rotary frequencies, from the file or the class; ``window_theta`` if windows have another."""
    parameters = c.data.get("rope_parameters") or c.data.get("rope_scaling")
    kinds = parameters if isinstance(parameters, Mapping) else {}
    nested = {"full": kinds.get("full_attention", kinds), "window": kinds.get("sliding_attention")}
    classes = class_thetas().get(c.model_type, {})
    found = {}
    for kind, place in nested.items():
        known = classes.get(kind, {"names": [], "default": None})
        found[kind] = _theta(place, ("rope_theta",)) or _theta(c.data, known["names"]) or known["default"]
    full = found.get("full")
    return {"theta": full} | ({} if found.get("window") in (None, full) else {"window_theta": found["window"]})


def _theta(place: Any, names: Sequence[str]) -> float | None:
    """The first positive number of one of these names."""
    given = [place.get(name) for name in names] if isinstance(place, Mapping) else []
    return next((float(x) for x in given if isinstance(x, int | float) and not isinstance(x, bool) and x > 0), None)


def layered(base: Data, overrides: Sequence[Data]) -> Data:
    """A stack whose layer i is ``base`` with ``overrides[i]`` laid over, as short as it can be said."""
    layers = len(overrides)
    if all(o == overrides[0] for o in overrides):
        return {**merge(base, overrides[0]), "layers": layers}
    for period in range(1, min(layers, 16) + 1):
        whole = layers // period
        if whole > 1 and all(overrides[i] == overrides[i % period] for i in range(whole * period)):
            groups = [{"repeat": whole, "blocks": _runs(overrides[:period])}]
            if layers % period:
                groups.append({"blocks": _runs(overrides[whole * period :])})
            return {**base, "layers": layers, "groups": groups}
    return {**base, "layers": layers, "groups": _repetitions(_runs(overrides))}


def groups_of(overrides: Sequence[Data]) -> list[Data]:
    """These layers as groups, also where all are alike."""
    return layered({}, overrides).get("groups") or [{"blocks": _runs(overrides)}]


def _repetitions(blocks: list[Data]) -> list[Data]:
    """Groups of these blocks in their order: each sequence of two or more that comes again at once is one group."""
    groups: list[Data] = []
    at = 0
    while at < len(blocks):
        period, times = max(((p, _times(blocks[at:], p)) for p in range(2, len(blocks))), key=_covered, default=(1, 1))
        if times > 1:
            groups.append({"repeat": times, "blocks": blocks[at : at + period]})
        elif groups and "repeat" not in groups[-1]:
            groups[-1]["blocks"].append(blocks[at])
        else:
            groups.append({"blocks": [blocks[at]]})
        at += period * times if times > 1 else 1
    return groups


def _times(blocks: Sequence[Data], period: int) -> int:
    """The number of times that the first ``period`` of these blocks come in a row."""
    times = 1
    while blocks[times * period : (times + 1) * period] == blocks[:period]:
        times += 1
    return times


def _covered(found: tuple[int, int]) -> tuple[int, int]:
    """Prefer what leaves out the most blocks, then the shortest sequence."""
    period, times = found
    return (period * (times - 1), -period)


def _runs(overrides: Sequence[Data]) -> list[Data]:
    blocks: list[Data] = []
    for override in overrides:
        if blocks and {k: v for k, v in blocks[-1].items() if k != "repeat"} == override:
            blocks[-1] = {"repeat": blocks[-1].get("repeat", 1) + 1, **override}
        else:
            blocks.append(dict(override))
    return blocks


def labels(c: Config) -> int:
    """Classes of a classifier: the label table's length, or 2 as the library has it.

    Of a table and a number that contradict each other, versions of the library differ in which one wins.
    """
    table = c.take("id2label", default=None)
    if table is None:
        return c.size("num_labels", default=2)
    if not isinstance(table, Mapping) or not table:
        raise c.error("id2label", f"must be a mapping with a name for every class, got {shown(table)}")
    if c.size("num_labels", default=len(table)) != len(table):
        raise c.error("num_labels", f"{c.take('num_labels')} contradicts the {len(table)} names in id2label")
    return len(table)


def runs(c: Config, name: str) -> list[tuple[list[Any], int]]:
    """A list of pairs: a pattern of layers, and how often it follows itself (GPT-Neo)."""
    pairs = c.take(name)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and type(pair[1]) is int
        for pair in pairs
    ):
        raise c.error(name, f"must be a list of pairs of a pattern and how often it follows itself, got {shown(pairs)}")
    return [(pattern, times) for pattern, times in pairs]
