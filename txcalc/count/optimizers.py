"""Optimizers: the states of every parameter, and what a step allocates for a moment, kernel by kernel.

Both are read from ``torch.optim`` (2.13) and proved against it: states have the parameter's dtype, and the events of
``optimizer.step()`` are those that a dispatch mode sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Final, Literal, NamedTuple

from txcalc.count.entries import Entry, total
from txcalc.trace.record import Op, Trace

Shape = tuple[int, ...]
Kernel = Literal["foreach", "fused", "loop"]
Part = Literal["all", "one"]


class Parameter(NamedTuple):
    """A weight that is trained, or as many as there are ``copies``: bytes of an element are its ``width``."""

    op: Op
    path: str
    shape: Shape
    width: int
    copies: int


class State(NamedTuple):
    """A tensor that an optimizer keeps for a parameter. ``width``: bytes of an element, if not the parameter's.
    ``host``: in the CPU's memory, unless the kernel is fused."""

    name: str
    elements: Part = "all"
    width: int | None = None
    host: bool = False


class Make(NamedTuple):
    """An operation whose result a local holds, until the local's next one is there or the step returns."""

    operation: str
    local: str


class Optimizer(NamedTuple):
    """An optimizer's states, and by kernel what its step allocates, in order."""

    states: tuple[State, ...]
    steps: Mapping[Kernel, tuple[Make, ...]]


ELEMENTS: Final[Mapping[Part, Callable[[Shape], int]]] = {"all": prod, "one": lambda shape: 1}
"""Elements of a state or a temporary, of the parameter's shape."""

OPTIMIZERS: Final[Mapping[str, Optimizer]] = {
    "adamw": Optimizer(
        (State("step", "one", 4, host=True), State("exp_avg"), State("exp_avg_sq")),
        {"foreach": (Make("_foreach_sqrt", "denominator"),)}),
}


def states(trace: Trace, parameters: Sequence[Parameter]) -> Iterator[Entry]:
    """The states of all parameters that are on the device."""
    for each in parameters:
        for state in OPTIMIZERS["adamw"].states:
            if not (state.host and trace.workload.kernels == "cuda"):
                yield Entry(each.op, state.name, _bytes(each, state.elements, state.width), each.copies,
                            part="optimizer state")


def moments(parameters: Sequence[Parameter]) -> Iterator[tuple[str, list[Entry]]]:
    """The moments of a step: the operation, and all that is allocated then besides what was there before."""
    alive: dict[str, list[Entry]] = {}
    for step in OPTIMIZERS["adamw"].steps["foreach"]:
        made = [Entry(each.op, step.local, _bytes(each), each.copies, part="transient") for each in parameters]
        yield step.operation, [*(entry for entries in alive.values() for entry in entries), *made]
        alive[step.local] = made


def highest(parameters: Sequence[Parameter]) -> tuple[str, list[Entry]]:
    """The moment of a step at which most is allocated."""
    return max(moments(parameters), key=lambda moment: total(moment[1]), default=("", []))


def _bytes(of: Parameter, elements: Part = "all", width: int | None = None) -> int:
    return ELEMENTS[elements](of.shape) * (of.width if width is None else width)
