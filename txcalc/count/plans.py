"""Plans of an operation's backward pass: the storages of every step with their bytes, the same in every turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from txcalc.trace.record import Op
from txcalc.trace.tensors import Gradient, Number, Role, Tensor


class Back(NamedTuple):
    """A step of an operation's backward pass: what it makes, of so many bytes, and what it hands on as it is.

    ``summed``: it sums over what was broadcast, ``first``: before dtypes are looked at. ``kept``: what was made before.
    """

    summed: bool
    first: bool
    new: tuple[tuple[Gradient, Number], ...]
    same: tuple[Gradient, ...]
    kept: tuple[Gradient, ...]


class Plan(NamedTuple):
    """An operation's backward pass; ``casts``: gradients, by identity, whose dtype is not that of what was read."""

    casts: frozenset[int]
    steps: tuple[Back, ...]


def plan(op: Op, width: Callable[[Role], int], number: Callable[..., Number], *, in_place: bool) -> Plan:
    """The backward pass of an operation. ``width``: bytes of an element. ``number``: a size as it is, or as an int."""
    made = op.writes[0].made if op.writes else Role.ACTIVATION
    if op.kind.name == "weighing":  # what is written in place may be narrower than what its gradients are computed in
        made = max((x.made for x in op.reads), key=width)
    differ = [g for step in op.backward for g in step
              if isinstance(g.of, Tensor) and not g.own and width(g.of.made) != width(made)]
    casting = any(not g.kept for g in differ)

    def size(g: Gradient) -> Number:
        floats = g.role not in (Role.INDEX, Role.BOOL) and not g.own
        return number(g.elements * width(made if casting and floats else g.role), g)

    steps = [[g for g in step if not (g.watched and in_place)] for step in op.backward]
    return Plan(frozenset(map(id, differ)) if casting else frozenset(), tuple(
        Back(any(g.summed for g in step), any(g.first for g in step),
             tuple((g, size(g)) for g in wanted if not (g.how in ("same", "part") or g.kept)),
             tuple(g for g in wanted if g.how in ("same", "part")), tuple(g for g in wanted if g.kept))
        for step, wanted in zip(op.backward, steps, strict=True)))


def gradient_name(g: Gradient) -> str:
    """A gradient in words."""
    of = g.of.label if isinstance(g.of, Tensor) else g.of
    return f"gradient of {of}" if of else "temporary"


def through_view(g: Gradient) -> bool:
    """True where the gradient goes on through the backward pass of a view: of the tensor, or of a transposed weight."""
    return g.of.viewed if isinstance(g.of, Tensor) else g.how == "view"
