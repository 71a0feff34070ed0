"""Rows: one model type each, as a spec in which readers stand for what its configuration says.

A file of a maker (``qwen.py``, ``gemma.py``) holds ``ROWS``, a ``Family`` for every ``model_type``; ``families.py``
finds them by listing the folder, so that a new type is one row and nothing else. Most rows call a *skeleton*, such as
``decoder``, whose typed keyword arguments say what sets the family apart; one that needs more gives a function of its
configuration in place of a part, or of the whole.

A *part* of a spec is a mapping of its fields. A field is a constant or a *reader*: a function of the configuration,
such as ``flag("attention_bias")``, which takes what it reads, and refuses what it does not understand. A reader that
gives None leaves its field out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from txcalc.huggingface.build import ACTIVATIONS, Data
from txcalc.huggingface.config import REQUIRED, Config
from txcalc.spec.errors import shown

Reader = Callable[[Config], Any]
Value = Any
"""A constant, a reader, or a part that holds some."""
Fields = Mapping[str, Value]
Part = Fields | Reader
Only = Fields
"""Fields that must have one value, or one of several in a tuple, to be understood."""


class Family(NamedTuple):
    """How one ``model_type`` is read. ``classes`` says which head each class puts on top."""

    build: Callable[[Config, str], Data]
    classes: Mapping[str, str]


Rows = Mapping[str, Family]


def read(c: Config, value: Value) -> Any:
    """What a constant, a reader or a part comes to for this configuration."""
    if callable(value):
        return read(c, value(c))
    if isinstance(value, Mapping):
        found = {name: (given, read(c, given)) for name, given in value.items()}
        return {name: known for name, (given, known) in found.items() if known is not None or given is None}
    return value


def passed_over(c: Config, ignore: str, only: Only) -> None:
    """Take fields that change nothing, named with spaces between, and those that must have one value."""
    c.ignore(*ignore.split())
    for name, understood in only.items():
        values = [read(c, value) for value in understood] if isinstance(understood, tuple) else [read(c, understood)]
        c.only(name, *values)


# ---------------------------------------------------------------- readers


def flag(*names: str, default: Any = REQUIRED) -> Reader:
    """True or false."""
    return lambda c: c.flag(*names, default=default)


def size(*names: str, default: Any = REQUIRED, least: int = 1) -> Reader:
    """A whole number."""
    return lambda c: c.size(*names, default=default, least=least)


def take(*names: str, default: Any = REQUIRED) -> Reader:
    """A value as it stands in the file."""
    return lambda c: c.take(*names, default=default)


def some(*names: str) -> Reader:
    """A size, where the field is neither missing nor null nor 0."""
    return lambda c: c.take(*names, default=None) or None


def optional(*names: str) -> Reader:
    """A size, where the field is neither missing nor null."""
    return lambda c: None if c.take(*names, default=None) is None else c.size(*names)


def number(name: str) -> Reader:
    """A number, where there is one."""
    return lambda c: None if (value := c.number(name)) is None else float(value)


def choice(name: str, known: Mapping[Any, Any]) -> Reader:
    """What ``known`` says of the field's value."""
    return lambda c: c.choice(name, known)


def given(condition: Reader, part: Value, otherwise: Value = None) -> Reader:
    """``part`` where the condition holds."""
    return lambda c: part if condition(c) else otherwise


def activation(*names: str) -> Reader:
    """An activation function, under the first of these names that the file has."""
    def reader(c: Config) -> str:
        name = next((n for n in names if n in c.data), names[0])
        c.ignore(*names)
        return str(c.choice(name, ACTIVATIONS))
    return reader


# ---------------------------------------------------------------- norms and feed-forwards

RMS: Final[Data] = {"kind": "rmsnorm", "bias": False}
SANDWICH: Final[Data] = {**RMS, "placement": "sandwich"}
RES_POST: Final[Data] = {**RMS, "placement": "res-post"}
LAYERNORM: Final[Data] = {"kind": "layernorm", "bias": True}
PLAIN_LAYERNORM: Final[Data] = {"kind": "layernorm", "bias": False}
SHARED: Final[Data] = {**PLAIN_LAYERNORM, "shared": True}
"""One norm before both branches of a parallel block."""
WIDTH: Final = size("intermediate_size")


def gated(*, d_ff: Value = WIDTH, bias: Value = False, act: str = "hidden_act") -> Fields:
    """A gated feed-forward (SwiGLU and kin)."""
    return {"d_ff": d_ff, "activation": activation(act), "gated": True, "bias": bias}


def plain(*, d_ff: Value = WIDTH, bias: Value = True, act: str = "hidden_act") -> Fields:
    """Two projections around an activation."""
    return {"d_ff": d_ff, "activation": activation(act), "gated": False, "bias": bias}


# ---------------------------------------------------------------- layers that differ

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
    """Which layers are of the other kind: as the file lists them, or the pattern that the class makes up."""
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
    """Which layers have experts, as ``mlp_layer_types`` lists them."""
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
