"""Bytes that a training run holds per parameter: weights, gradients and optimizer state, by recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from txcalc.count import params
from txcalc.count.entries import Entry
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Number
from txcalc.trace.workload import Recipe


class Bytes(NamedTuple):
    """Bytes per parameter."""

    weights: int
    gradients: int
    optimizer: int
    source: str

    @property
    def together(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer

    @property
    def apart(self) -> str:
        """Each by its name: ``2 weights + 2 gradients + 12 optimizer``."""
        return f"{self.weights} weights + {self.gradients} gradients + {self.optimizer} optimizer"


RECIPES: dict[Recipe, Bytes] = {
    "adam-mixed": Bytes(2, 2, 12, "ZeRO, arXiv 1910.02054, section 3.1: fp32 master weights, momentum, variance"),
    "adam-mixed-fp32-grads": Bytes(2, 4, 12, "Megatron, arXiv 2205.05198: gradients accumulated in fp32"),
    "adam-fp32": Bytes(4, 4, 8, "torch.optim.Adam on fp32 parameters"),
    "sgd-momentum-fp32": Bytes(4, 4, 4, "torch.optim.SGD(momentum=...) on fp32 parameters"),
}


def entries(trace: Trace) -> Iterator[Entry]:
    """Bytes of every parameter: those of a frozen one's weight, and of a trained one's state."""
    recipe = trace.workload.recipe
    frozen = RECIPES[recipe].weights
    return (entry._replace(each=entry.each * frozen if entry.op.frozen else training_state_bytes(entry.each, recipe))
            for entry in params.entries(trace))


def training_state_bytes(params: Number, recipe: Recipe) -> Number:
    """Weights, gradients and optimizer state of ``params`` trained parameters."""
    return params * RECIPES[recipe].together
