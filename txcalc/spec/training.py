"""Optimizers by name, or the bytes that are held for every parameter."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Self

from txcalc.spec import words
from txcalc.spec.errors import SpecError, not_one_of, shown

OPTIMIZERS: Final = (
    "adamw", "adam", "adamw-amsgrad", "nadam", "radam", "adagrad", "rmsprop", "sgd", "sgd-momentum", "adafactor",
    "muon", "lion", "adam-mini", "adamw-8bit", "paged-adamw-8bit", "torchao-adamw-8bit", "torchao-adamw-4bit",
    "torchao-adamw-fp8",
)
"""Optimizers by name, those of ``torch.optim`` first, the others with their package where that is not theirs alone."""


BESIDE_MASTER: Final = {"adamw": 8, "adam": 8, "lion": 4, "sgd-momentum": 4, "sgd": 0}
"""Bytes of a parameter's states, in fp32 as an fp32 master of the weights is."""


class Held(NamedTuple):
    """Bytes that are held for every parameter that is trained."""

    weights: int
    master: int = 0
    gradients: int = 0
    states: int = 0

    @classmethod
    def of(cls, text: str) -> Self:
        """From ``weights=2,master=4,gradients=2,states=8``. Raises ``SpecError``."""
        found: dict[str, int] = {}
        for part in text.split(","):
            name, _, value = (each.strip() for each in part.partition("="))
            if name not in cls._fields or name in found or not value.isdecimal():
                wanted = "weights=2,master=4,gradients=2,states=8, whole bytes of a parameter, each once"
                raise SpecError(f"must be a name or of the form {wanted}, got {shown(part)}", field="optimizer")
            found[name] = int(value)
        if "weights" not in found:
            raise SpecError("must say the bytes of weights too: weights=2", field="optimizer")
        return cls(**found)


def check_optimizer(value: object) -> None:
    """Raise ``SpecError`` for what is neither an optimizer's name nor bytes of a parameter."""
    name = words.word("optimizer", value, OPTIMIZERS)
    if name not in OPTIMIZERS and not (isinstance(value, str) and "=" in value):
        raise SpecError(not_one_of(OPTIMIZERS, value), field="optimizer")
    if name not in OPTIMIZERS:
        Held.of(str(value))


def beside_master(optimizer: str, gradients: int) -> Held:
    """Bytes beside 16-bit weights that have a master, with ``gradients`` of so many. Raises ``SpecError`` for an
    optimizer that is not known so."""
    if optimizer not in BESIDE_MASTER:
        raise SpecError(f"a master is known beside {', '.join(BESIDE_MASTER)}; else give bytes: --optimizer "
                        "weights=2,master=4,gradients=2,states=8", field="optimizer")
    return Held(2, master=4, gradients=gradients, states=BESIDE_MASTER[optimizer])


def check_precision(w: Any) -> None:
    """Raise ``SpecError`` for a precision that a workload cannot have."""
    if not w.keeps:
        raise SpecError(f"a {w.phase} pass trains nothing; --dtype is what it is computed in", field="precision")
    if w.weights is not None:
        raise SpecError(f"weights are stored as {w.weights}: give one of --precision and --weights", field="precision")
    fits = {"mixed": ("bf16", "fp16"), "fp32": ("fp32",)}.get(w.precision, ("bf16",))
    if w.dtype not in fits:
        raise SpecError(f"{w.precision} computes in {' or '.join(fits)}, and --dtype is {w.dtype}", field="precision")
