"""A model at any length, hypothetical ones among them: its traces under both attention policies."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Final, Literal, TypeVar

from txcalc.answer.fit import fit
from txcalc.count.layer import alone, attention_layers
from txcalc.spec import inputs
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal, unpatched
from txcalc.spec.model import Model, Stack
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

S = TypeVar("S", bound=Stack)
Policy = Literal["eager", "flash"]
POLICIES: Final[tuple[Policy, ...]] = ("eager", "flash")
_ENDLESS: Final = 2**62
_IMAGES: Final = (1, 2, 4, 8)
"""An image model's default lengths: its own image, and those with sides so many times as long."""


class Run:
    """One length: the traces of the model under both policies, each made when it is asked for."""

    def __init__(self, spec: Model, workload: Workload) -> None:
        self.workload = workload
        self._spec = spec
        self._traces: dict[Policy, Trace] = {}

    def trace(self, policy: Policy = "flash") -> Trace:
        """The trace with score matrices in memory, or with a fused kernel where there is one."""
        if policy not in self._traces:
            self._traces[policy] = trace(self._spec, self.workload.replaced(attention=policy))
        return self._traces[policy]

    def layer(self, policy: Policy, path: str) -> Trace:
        """One of its attention layers alone."""
        return alone(self.trace(policy), path)

    def attention_layers(self) -> list[tuple[str, int]]:
        """Every attention layer's path, and how often it runs."""
        return attention_layers(self.trace())


class Stretched:
    """A model that can be run at any number of positions, whatever its tables of positions hold.

    ``workload`` gives everything but the lengths.
    """

    def __init__(self, spec: Model, workload: Workload) -> None:
        self.spec = spec
        self._workload = workload
        self._runs: dict[int, Run] = {}

    def default_lengths(self, usual: Sequence[int]) -> tuple[int, ...]:
        """The ``usual`` lengths of a token model; an image model's own length, and those of larger images."""
        given = self.spec.input
        if not isinstance(given, inputs.PatchInput):
            return tuple(usual)
        side = given.image // given.patch
        return tuple((side * times) ** 2 + unpatched(given) for times in _IMAGES)

    def length(self, step: int) -> int:
        """The ``step``-th shortest length, counted from 1: an image has a whole number of patches on each side."""
        given = self.spec.input
        return step**2 + unpatched(given) if isinstance(given, inputs.PatchInput) else step

    def at(self, length: int) -> Run:
        """The model run on so many positions. Raises ``SpecError`` for a length that its images cannot have."""
        if length not in self._runs:
            self._runs[length] = self._run(length)
        return self._runs[length]

    def _run(self, length: int) -> Run:
        shaped = _shaped(self.spec, length)
        decoding = self._workload.phase == "decode" and is_causal(self.spec)
        new, past = (1, length - 1) if decoding else (length, 0)
        workload = self._workload.replaced(seq=new, past=past)
        return Run(shaped, fit(_roomy(shaped), workload))


def _shaped(spec: Model, length: int) -> Model:
    given = spec.input
    if isinstance(given, inputs.FrameInput):
        return spec.replaced(input=given.replaced(length=length))
    if not isinstance(given, inputs.PatchInput):
        return spec
    side = isqrt(max(length - unpatched(given), 0))
    if side == 0 or side**2 + unpatched(given) != length:
        near = " or ".join(f"{s**2 + unpatched(given):,}" for s in (side, side + 1) if s)
        raise SpecError(f"{spec.name} reads square images, so it cannot have {length:,} positions; use {near}",
                        field="seq")
    return spec.replaced(input=given.replaced(image=side * given.patch))


def _roomy(spec: Model) -> Model:
    """The model with tables of positions that never end: only to have its other needs checked."""
    encoder = None if spec.encoder is None else _roomy_stack(spec.encoder)
    return _roomy_stack(spec).replaced(context=_ENDLESS, encoder=encoder)


def _roomy_stack(stack: S) -> S:
    match stack.position:
        case inputs.LearnedPosition() | inputs.SinusoidalPosition():
            name = "size"
        case inputs.RelativePosition(absolute=int()) | inputs.DisentangledPosition(absolute=int()):
            name = "absolute"
        case _:
            return stack
    position = stack.position.replaced(**{name: _ENDLESS})
    return stack.replaced(position=position)
