"""Differences from layer to layer: patterns, windows, experts in some layers, layers of other kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.rows import Part, Value, read, size, some
from txcalc.spec.errors import shown

Pattern = Callable[[Config, int], list[bool]]
"""For each layer whether it is of the other of two kinds; of a configuration and the number of layers."""
Layers = Callable[[Config, int], list[Data]]
"""For each layer what is laid over the part that all share."""


def every(period: Value, *, first: Value = -1) -> Pattern:
    """One layer in each period: that which ``first`` counts from 0, or, below it, from the end."""
    def pattern(c: Config, layers: int) -> list[bool]:
        step, offset = read(c, period), read(c, first)
        return [i % step == (offset if offset >= 0 else step + offset) for i in range(layers)]
    return pattern


def all_but(which: Pattern) -> Pattern:
    """The other layers."""
    return lambda c, layers: [not chosen for chosen in which(c, layers)]


def after(number: Value) -> Pattern:
    """All layers but so many of the first."""
    def pattern(c: Config, layers: int) -> list[bool]:
        least = read(c, number)
        return [i >= least for i in range(layers)]
    return pattern


def listed_layers(c: Config, name: str) -> list[int] | None:
    """Layers by their number, counted from 0, or None where the file lists none."""
    listed = c.take(name, default=None)
    if listed is not None and not (isinstance(listed, list) and all(type(i) is int for i in listed)):
        raise c.error(name, f"must be a list of layers' numbers, got {shown(listed)}")
    found: list[int] | None = listed
    return found


def layer_kinds(
    default: Callable[[Config, int], list[str]], parts: Mapping[str, Part], *, unread: str = ""
) -> Layers:
    """Layers of several kinds, each with a part of its own; as the file lists them. ``unread``: as below."""
    def layers(c: Config, number: int) -> list[Data]:
        c.ignore(*unread.split())
        listed = c.take("layer_types", default=None) or default(c, number)
        if not isinstance(listed, list) or len(listed) != number or not all(
                isinstance(kind, str) and kind in parts for kind in listed):
            raise c.error("layer_types", f"must say {' or '.join(parts)} of each of {number} layers")
        return [read(c, parts[kind]) for kind in listed]
    return layers


def layer_types(
    other: str, default: Pattern, there: Part, elsewhere: Part | None = None, *, unread: str = "",
) -> Layers:
    """Layers of full attention, and of the ``other`` kind, which have the part ``there``; as the file lists them.

    ``unread``: fields of that part which may hold anything where no layer is of this kind.
    """
    def layers(c: Config, number: int) -> list[Data]:
        c.ignore(*unread.split())
        kinds = listed_kinds(c, "layer_types", number, default, "full_attention", other)
        own, full = {} if unread and not any(kinds) else read(c, there), read(c, elsewhere or {})
        return [own if kind else full for kind in kinds]
    return layers


def listed_kinds(c: Config, name: str, layers: int, default: Pattern, usual: str, other: str) -> list[bool]:
    """Layers of the other kind: as the file lists them, or the pattern that the class makes up."""
    listed, made_up = c.take(name, default=None), default(c, layers)
    if listed is None:
        return made_up
    if not isinstance(listed, list) or len(listed) != layers:
        raise c.error(name, f"must be a list of {layers} entries, one per layer")
    kinds = [_OLDER_KINDS.get(kind, kind) if isinstance(kind, str) else kind for kind in listed]
    for kind in kinds:
        if kind not in (usual, other):
            raise c.error(name, f"{shown(kind)} is not known; txcalc knows {usual}, {other}")
    return [kind == other for kind in kinds]


_OLDER_KINDS: Final = {"attention": "full_attention", "mamba": "linear_attention"}


def listed_sparse(default: Pattern) -> Pattern:
    """Layers with experts, as ``mlp_layer_types`` lists them."""
    return lambda c, layers: listed_kinds(c, "mlp_layer_types", layers, default, "dense", "sparse")


WINDOW: Final = some("sliding_window")


def windows(default: Pattern, *, window: Value = WINDOW, **more: Part) -> Layers:
    """Layers that slide and such that do not; ``more``: what those of full attention have of their own."""
    return layer_types("sliding_attention", default, {"attention": {"window": window}}, more,
                       unread="sliding_window")


def sparse(moe: Part, which: Pattern) -> Layers:
    """Layers with the experts ``moe`` in place of the feed-forward that all share."""
    return where(which, {"feed_forward": moe})


def where(which: Pattern, there: Part) -> Layers:
    """Layers that have the part ``there``, and others."""
    def layers(c: Config, number: int) -> list[Data]:
        own = read(c, there)
        return [own if chosen else {} for chosen in which(c, number)]
    return layers


def rotary(c: Config, layers: int) -> list[bool]:
    """Layers that rotate queries and keys: as ``no_rope_layers`` says, or all but one in each interval."""
    made_up = all_but(every(size("no_rope_layer_interval", default=4)))(c, layers)
    listed = c.take("no_rope_layers", default=None) or made_up
    if len(listed) != layers:
        raise c.error("no_rope_layers", f"must be a list of {layers} entries, one per layer")
    return [bool(rotates) for rotates in listed]
