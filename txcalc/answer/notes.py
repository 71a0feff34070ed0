"""Notes beside the numbers: a length that the model was not made for, a kernel that does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from txcalc.count.scores import is_fused
from txcalc.trace.record import Trace

if TYPE_CHECKING:
    from txcalc.spec.model import Model


def notes(spec: Model, t: Trace) -> Iterator[str]:
    """Notes on a model under the workload of its trace, each a sentence."""
    workload = t.workload
    longest = workload.past + workload.seq if spec.input.kind == "tokens" else 0
    if spec.encoder is not None and spec.encoder.input.kind == "tokens":
        longest = max(longest, workload.source_seq or 0)
    yield from beyond(spec, longest)
    yield from without_flash(spec, t)


def beyond(spec: Model, length: int) -> Iterator[str]:
    """A length beyond the context is a hypothetical one."""
    if length > spec.context:
        yield (f"{length:,} positions are hypothetical: {spec.name} was made for {spec.context:,}, and nothing says "
               "that it is of use beyond them")


def without_flash(spec: Model, t: Trace) -> Iterator[str]:
    """The attention that no flash kernel computes, where one was asked for."""
    if t.workload.attention != "flash":
        return
    eager = list(dict.fromkeys(op.component for op in t.ops if op.kind == "core" and not is_fused(op)))
    if eager:
        which = f"{', '.join(eager)} of {spec.name}" if any(map(is_fused, t.ops)) else f"the attention of {spec.name}"
        yield f"no flash kernel of PyTorch computes {which}: counted eager, its scores and softmax are tensors"


def runs_as(t: Trace) -> str | None:
    """What attention runs as in this trace: flash, eager, or both; None without attention."""
    found = {"flash" if is_fused(op) else "eager" for op in t.ops if op.kind == "core"}
    return " and ".join(sorted(found, reverse=True)) or None
