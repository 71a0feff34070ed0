"""The base of every spec: immutable data, sizes, and unions told apart by ``kind``."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self, dataclass_transform

from txcalc.document import Frozen

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu", "tanh", "sigmoid"]
Curve = Literal[Activation, "xielu"]
"""Activations of dense feed-forwards alone: xIELU (arXiv 2411.13010) has two learned numbers of its own."""
Gelu = Literal["kernel", "composed", "fast", "erf"]
"""Forms of GELU: PyTorch's own function, or single operations (transformers' gelu_new, gelu_fast, gelu_python)."""

Routing = Literal["softmax-topk", "topk-softmax", "sigmoid-topk", "softplus-topk"]
"""Routing function from a router's scores to experts' weights; softplus: its square root (DeepSeek-V4)."""


REQUIRED: Final = object()
"""The default of a field that has none."""


class Least(int):
    """The least whole number that a field takes, or the fewest letters or items."""


class Usual(str):
    """The ``kind`` that a union of specs is of where none is named."""


Size = Annotated[int, Least(1)]
Count = Annotated[int, Least(0)]
Flag = bool
Positive = float
"""Above 0, and finite."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Spec(Frozen):
    """Base of every spec. Its annotations say what each field takes: see ``txcalc.spec.fields``.

    A text in ``Annotated`` describes the field. A field without a value in the class is required.
    """

    def __init__(self, **given: Any) -> None:
        """The checked spec of these fields; every default needs no check. Raises ``SpecError``."""
        own = {name: self.default(name) for name in self.names()}
        checked = given or REQUIRED in own.values()
        vars(self).update(vars(self.from_data(given)) if checked else own)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields, in their order."""
        bases = (getattr(base, "__annotations__", ()) for base in reversed(cls.__mro__))
        return tuple(dict.fromkeys(name for names in bases for name in names))

    @classmethod
    def default(cls, name: str) -> Any:
        """The default of a field, ``REQUIRED`` where there is none."""
        value = getattr(cls, name, REQUIRED)
        return dict(value) if isinstance(value, dict) else value

    @classmethod
    def from_data(cls, data: object) -> Self:
        """The checked spec of plain data, with every default filled in.

        Raises ``SpecError``, an ``InvalidSpec``, of all that is wrong with it.
        """
        from txcalc.spec.fields import read

        return read(cls, data)

    @classmethod
    def checked(cls, fields: dict[str, Any]) -> Self:
        """The spec of these ``fields``, all of them. Raises ``FieldError`` where they do not fit one another."""
        spec = cls.made(fields)
        spec._check()
        return spec

    @classmethod
    def _filled(cls, data: Any) -> Any:
        """The data with what it leaves out and other fields decide. Raises ``FieldError``."""
        return data

    def _check(self) -> None:
        """Raises ``FieldError`` where fields do not fit one another."""


class Switches(Spec):
    """Flags of one kind. ``true`` or ``false`` in a spec stands for all of them."""

    @classmethod
    def _filled(cls, data: Any) -> Any:
        return dict.fromkeys(cls.names(), data) if isinstance(data, bool) else data
