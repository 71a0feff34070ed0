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

Reader = Callable[[Config], Any]
Value = Any
"""A constant, a reader, or a part that holds some."""
Fields = Mapping[str, Value]
Part = Fields | Reader
Only = Fields
"""Fields that must have one value, or one of several in a tuple, to be understood."""


class Family(NamedTuple):
    """The reader of one ``model_type``. ``classes`` says which head each class puts on top.

    ``parts``: types of configuration that stand only within this one's.
    """

    build: Callable[[Config, str], Data]
    classes: Mapping[str, str]
    parts: tuple[str, ...] = ()


Rows = Mapping[str, Family]


def read(c: Config, value: Value) -> Any:
    """The value of a constant, a reader or a part for this configuration."""
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


def derived(name: str, *sizes: str) -> Reader:
    """A size that the class makes of others, where it is left out, before it looks at what those may be called."""
    def reader(c: Config) -> Any:
        for other in () if name in c.data else sizes:
            c.by_its_name(other)
        return read(c, optional(name))
    return reader


def number(name: str) -> Reader:
    """A number, where there is one."""
    return lambda c: None if (value := c.number(name)) is None else float(value)


def choice(name: str, known: Mapping[Any, Any]) -> Reader:
    """The entry of ``known`` for the field's value."""
    return lambda c: c.choice(name, known)


def given(condition: Reader, part: Value, otherwise: Value = None) -> Reader:
    """``part`` where the condition holds."""
    return lambda c: part if condition(c) else otherwise


def switch(name: str, otherwise: Any) -> Reader:
    """A switch that the class has; ``otherwise`` of one that has none."""
    return lambda c: otherwise if c.own and name not in c.own else c.flag(name, default=otherwise)


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
NORMS: Final[Mapping[str, Data]] = {
    "rms": RMS, "layernorm": LAYERNORM, "sandwich": SANDWICH, "res-post": RES_POST,
    "head": {**RMS, "over": "head"}, "full": {**RMS, "over": "full"},
}
"""Norms by their names; ``head`` and ``full`` are those of queries and keys: of each head, or of all."""
LEARNED: Final[Data] = {"kind": "learned"}
WIDTH: Final = size("intermediate_size")
MLP_BIAS: Final = switch("mlp_bias", False)


def gated(*, d_ff: Value = WIDTH, bias: Value = MLP_BIAS, act: str = "hidden_act") -> Fields:
    """A gated feed-forward (SwiGLU and kin)."""
    return {"d_ff": d_ff, "activation": activation(act), "gated": True, "bias": bias}


def plain(*, d_ff: Value = WIDTH, bias: Value = True, act: str = "hidden_act") -> Fields:
    """Two projections around an activation."""
    return {"d_ff": d_ff, "activation": activation(act), "gated": False, "bias": bias}
