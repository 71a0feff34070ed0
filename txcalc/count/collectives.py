"""Collectives: what ranks do together in a run, how often, and how many bytes the full tensor of each has.

Of gradients: what PyTorch 2.13 does in its ``fake`` process group, of Megatron-LM what ``finalize_model_grads`` and
its distributed optimizer do (core 0.14, ``core/distributed``), of ZeRO what arXiv 1910.02054 has in its section 7: its
frameworks cut each into buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Final, Literal, NamedTuple

from txcalc.count import zero
from txcalc.count.flops import again
from txcalc.count.gradients import parameters, unrolled
from txcalc.count.optimizers import OPTIMIZERS
from txcalc.count.parameter import Parameter, reads_rows, summed
from txcalc.count.replay import gathered
from txcalc.count.stages import sent
from txcalc.spec.facts import attentions
from txcalc.trace.record import Op, Trace
from txcalc.trace.tensors import Number, Role


class Collective(NamedTuple):
    """A collective of an operation, in one pass, or in the optimizer's step: ``times`` calls of so many bytes each.
    ``overlappable``: something else may run meanwhile."""

    what: str
    axis: str
    bytes: Number
    times: Number
    phase: Literal["forward", "backward", "recomputation", "step"]
    path: str
    overlappable: bool = False


FIRST: Final = 2**20
BUCKET: Final = 25 * 2**20
"""Bytes that close the first bucket of ``DistributedDataParallel``, and all others (``bucket_cap_mb``)."""


def collectives(trace: Trace) -> Iterator[Collective]:
    """Every collective of a run, forward, run once more and backward, in the order of the forward pass.

    Bytes are those of the tensor that all ranks have together, as it is before a reduction or after a gathering.
    """
    for op, often in trace.placed:
        if (kind := op.kind.collective) is not None and kind.forward:
            yield Collective(kind.forward, kind.axis, _bytes(trace, op), often.calls, "forward", op.path)
    for op, times in again(trace.body, trace.workload) if trace.workload.phase == "training" else ():
        if (kind := op.kind.collective) is not None and kind.forward and times:
            yield Collective(kind.forward, kind.axis, _bytes(trace, op), times, "recomputation", op.path)
    for op, often in trace.placed if trace.workload.phase == "training" else ():
        if (kind := op.kind.collective) is not None and kind.backward and often.back and trace.needs(op.reads[0]):
            yield Collective(kind.backward, kind.axis, _bytes(trace, op), often.back, "backward", op.path)
        for g in (g for step in op.backward for g in step if g.collective and often.back):
            size = g.elements * trace.workload.bytes_of(g.role)
            yield Collective(g.collective, "cp", size, often.back, "backward", op.path)
    for (what, size, phase, path), times in gathered(trace).items():
        yield Collective(what, _dp(trace), size, times, phase, path, overlappable=True)  # type: ignore[arg-type]
    yield from _between_stages(trace)
    if trace.workload.phase == "training":
        yield from _of_gradients(trace)


def _between_stages(trace: Trace) -> Iterator[Collective]:
    """Hidden states of a micro-batch, and their gradient, that stages on other ranks send to a rank's, or get."""
    layout, w = trace.layout, trace.workload
    for stage in layout.stages_of(trace.stage) if layout.pp > 1 else ():
        for other, there, back in ((stage - 1, "receive", "send"), (stage + 1, "send", "receive")):
            if 0 <= other < layout.stages and layout.rank_of(other) != layout.rank_of(stage):
                for shape, width in sent(trace, min(stage, other)):
                    size = prod(shape) * width
                    yield Collective(there, "pp", size, 1, "forward", f"stage {stage + 1}")
                    if w.phase == "training":
                        yield Collective(back, "pp", size, 1, "backward", f"stage {stage + 1}")


def _bytes(trace: Trace, op: Op) -> Number:
    return max(prod(x.shape) * trace.workload.bytes_of(x.made) for x in (*op.reads, *op.writes))


def _dp(trace: Trace) -> str:
    return "dp · cp" if trace.layout.cp > 1 else "dp"


def _of_gradients(trace: Trace) -> Iterator[Collective]:
    """Collectives on gradients of weights, and on weights that an optimizer has changed a part of."""
    layout, w = trace.layout, trace.workload
    width = w.bytes_of(Role.WEIGHT) if w.held is None else w.held.gradients
    own = [Parameter(op, f"{op.path}.{name}".rstrip("."), name, shape, width, often.copies)
           for op, often in trace.placed if not op.frozen and often.copies for name, shape in op.weights]
    for experts in (False, True) if layout.alike > 1 and not layout.shards else ():
        axis = f"{'expert ' * (experts and layout.ep > 1)}{_dp(trace)}"
        together = [p for p in own if bool(p.op.within.experts) == experts or (layout.ep == 1 and not experts)]
        if together and (not experts or layout.ep > 1) and zero.ranks(trace, together[0].op) > 1:
            yield from _shared(trace, together, axis)
    split = [p for p in own if layout.tp > 1 and summed(trace, p.op, p.name)]
    if split and trace.code.adds_gradients:
        yield Collective("all-reduce", "tp", sum(map(_size, split)), 1, "step", "norms")
    else:
        often = OPTIMIZERS[w.updates].reads if w.held is None and w.optimizer_kernel != "fused" else 1
        times = 1 if layout.shards else often + bool(w.clip)
        for p in split:
            yield Collective("all-reduce", "tp", p.elements * p.width, p.copies * times,
                             "backward" if layout.shards and reads_rows(p.op) else "step", p.path)
    copied = {each.head_dim for each in attentions(trace.whole)
              if each.kind == "standard" and each.kv_heads < layout.tp}
    for p in own:
        if p.op.part in ("k", "v") and p.shape[0] in copied:  # of the ranks that have a copy of a head
            yield Collective("all-reduce", "tp", p.elements * p.width, p.copies, "step", p.path)
    if layout.pp > 1 and trace.code.adds_gradients and getattr(trace.whole.head, "tied", False):
        for p in own:
            if p.op.part in ("tokens", "output"):  # of the first stage and the last (_allreduce_word_embedding_grads)
                yield Collective("all-reduce", "pp", _size(p), 1, "step", p.path)
    ranks = {"tp": layout.tp, _dp(trace): max(1, layout.shards)}
    if w.clip and (trace.code.adds_gradients or zero.stage(trace)):
        yield Collective("all-reduce", "all", 4, 1, "step", "norm of gradients")
    apart = own and w.clip and not trace.code.adds_gradients and not zero.stage(trace)
    for axis, many in ranks.items() if apart else ():
        if many > 1:
            number, width = sum(p.copies for p in parameters(trace)), 4 if layout.shards else own[0].width
            yield Collective("all-reduce", axis, number * width, 1, "step", "norms of gradients")


def _size(p: Parameter) -> int:
    return p.elements * p.copies * p.width


def _shared(trace: Trace, own: Sequence[Parameter], axis: str) -> Iterator[Collective]:
    """Collectives of data-parallel ranks on gradients that all have, or share, and on weights that they share."""
    w, stage = trace.workload, zero.stage(trace)
    if not stage and not trace.code.adds_gradients:
        for size in _buckets(reversed(unrolled(trace, own))):
            yield Collective("all-reduce", axis, size, 1, "backward", "gradients", overlappable=True)
        return
    size, width = sum(map(_size, own)), w.bytes_of(Role.WEIGHT) if w.held is None else w.held.weights
    weights = sum(p.elements * p.copies for p in own) * width
    late = stage < 2
    for phase in ("forward", "backward") if stage == 3 else ():
        yield Collective("all-gather", axis, weights, 1, phase, "weights", overlappable=True)
    yield Collective("reduce-scatter" if stage else "all-reduce", axis, size, 1, "step" if late else "backward",
                     "gradients", overlappable=not late)
    if stage in (1, 2):
        yield Collective("all-gather", axis, weights, 1, "step", "weights")


def _buckets(gradients: Iterable[Parameter]) -> Iterator[int]:
    """Bytes of the buckets of ``DistributedDataParallel``, once it knows in which order gradients come: a bucket ends
    with the gradient that makes it full (``compute_bucket_assignment_by_size``)."""
    size, most = 0, FIRST
    for p in gradients:
        size += p.elements * p.width
        if size >= most:
            yield size
            size, most = 0, BUCKET
    if size:
        yield size
