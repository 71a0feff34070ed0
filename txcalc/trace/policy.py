"""Outputs that a policy saves of layers that run once more (``torch.utils.checkpoint``, selective)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from txcalc.spec.errors import SpecError
from txcalc.spec.words import form, number
from txcalc.trace.kinds import listed

if TYPE_CHECKING:
    from txcalc.trace.record import Op
    from txcalc.trace.workload import Workload


def saved(ops: Iterable[Op], workload: Workload) -> list[Op]:
    """Operations whose outputs are saved: fused attention and products with weights, in ``ops:K`` but every K-th.

    Raises ``SpecError`` where as many products run as experts get rows.
    """
    if form(workload.recompute or "") != "ops":
        return []
    found, every = [op for op in ops if listed(op.kind, op.weights)], number(workload.recompute)
    products = [op for op in found if op.weights and every]
    if any(op.within.experts for op in products):
        raise SpecError("does not count products of experts that get rows: ops would do", field="recompute")
    left = {id(op) for op in products[every - 1::every]} if every else {0}
    return [op for op in found if id(op) not in left]
