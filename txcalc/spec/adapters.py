"""Low-rank adapters of linear layers, and frozen parts: how they are written.

LoRA (arXiv 2106.09685) adds ``B(A(dropout(x))) * alpha / r`` to what a frozen layer puts out; DoRA (arXiv 2402.09353)
also learns the length of every row. Both as ``peft`` runs them: its adapters of 16-bit layers are fp32, unless they are
given another dtype (``autocast_adapter_dtype=False``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

from txcalc.document import Part
from txcalc.spec import words
from txcalc.spec.errors import SpecError, nearest, shown

KEYS: Final = ("r", "targets", "dropout", "alpha", "dtype")
DTYPES: Final = ("fp32", "fp16", "bf16")
GROUPS: Final = ("attention", "all")
"""Targets that are no names: the projections of every attention, and every linear layer but routers and the head."""

_NAMES: Final = {
    "q_proj": "q", "query": "q", "k_proj": "k", "key": "k", "v_proj": "v", "value": "v", "o_proj": "o",
    "up_proj": "up", "gate_proj": "gate", "down_proj": "down", "all-linear": "all", "lm_head": "head",
}
"""Names of ``transformers``' classes and of ``peft`` for what has another one here."""


class Adapter(Part):
    """Adapters of rank ``r`` on the linear layers that ``targets`` name, as ends of their paths or by ``GROUPS``.

    ``dtype``: of their weights; none: fp32.
    """

    r: int
    targets: tuple[str, ...] = ("attention",)
    dropout: float = 0.0
    alpha: float | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise SpecError(f"r must be a whole number of at least 1, got {shown(self.r)}")
        for name in ("dropout", "alpha"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise SpecError(f"{name} must be a number, got {shown(value)}")
        if not 0 <= self.dropout < 1:
            raise SpecError(f"dropout must be a number from 0 to below 1, got {shown(self.dropout)}")
        if not self.targets or not all(isinstance(each, str) and each for each in self.targets):
            raise SpecError("targets must be names of linear layers, such as q,v")
        dtype = words.word("dtype", self.dtype, DTYPES)
        if dtype is not None and dtype not in DTYPES:
            raise SpecError(f"dtype must be fp32, fp16 or bf16, got {shown(dtype)}")
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "targets", tuple(dict.fromkeys(_NAMES.get(each, each) for each in self.targets)))

    @classmethod
    def read(cls, given: object) -> Self:
        """An adapter as it is, of its fields, or of a text such as ``r=16,targets=q,v,dropout=0.05``.

        Raises ``SpecError``.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, str | Mapping):
            raise SpecError(f"must be like r=16,targets=q,v, got {shown(given)}")
        fields: dict[str, Any] = dict(_fields(given)) if isinstance(given, str) else dict(given)
        for name in fields.keys() - {*KEYS}:
            close = nearest(name, KEYS)
            raise SpecError(f"{name} is none of {', '.join(KEYS)}" + (f"; did you mean {close}?" if close else ""))
        if "r" not in fields:
            raise SpecError("r must be given: the rank, such as r=16")
        if isinstance(targets := fields.get("targets"), str | list):
            fields["targets"] = tuple([targets] if isinstance(targets, str) else targets)
        return cls(**fields)

    def to_data(self) -> dict[str, Any]:
        """The fields as plain data, a dtype where one was given."""
        return {name: value for name, value in super().to_data().items() if name != "dtype" or value is not None}

    def __str__(self) -> str:
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        return f"r {self.r} on {', '.join(self.targets)}{dropout}{f', {self.dtype}' if self.dtype else ''}"


def _fields(text: str) -> Iterator[tuple[str, Any]]:
    """The fields that a text gives: what has no name of its own is one more target."""
    found: dict[str, list[str]] = {}
    name = ""
    for part in text.replace(" ", "").split(","):
        key, given, value = part.partition("=")
        if given:
            name = key
            if name in found:
                raise SpecError(f"{name} is given twice")
        elif name != "targets":
            raise SpecError(f"must be like r=16,targets=q,v, got {shown(text)}")
        found.setdefault(name, []).append(value if given else part)
    for name, values in found.items():
        yield name, tuple(values) if name == "targets" else _number(name, values[0])


def _number(name: str, text: str) -> Any:
    try:
        return int(text) if name == "r" else float(text)
    except ValueError:
        return text


def paths(given: object) -> tuple[str, ...]:
    """Paths of parts: a list of them, or a text of one or several. Raises ``SpecError``."""
    found = given.split(",") if isinstance(given, str) else given
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) and each.strip() for each in found):
        raise SpecError(f"must be paths of parts, such as encoder, got {shown(given)}")
    return tuple(dict.fromkeys(each.strip() for each in found))
