"""Collectives of tensor parallelism, as PyTorch's DTensor does them (``torch.distributed.tensor.parallel``).

Before a product whose columns are split, hidden states are gathered, if they are split by position, and their gradient
is summed; after one whose rows are split, the result is summed (arXiv 1909.08053, section 3; 2205.05198, section 4.2).
Gathering or scattering another axis than the first makes a copy of the whole (``_functional_collectives.py``).
"""

from __future__ import annotations

from txcalc.trace import ops
from txcalc.trace.kinds import Name
from txcalc.trace.record import Trace
from txcalc.trace.sizes import several
from txcalc.trace.tensors import Gradient, Number, Role, Steps, Tensor


def enter(t: Trace, name: str, x: Tensor) -> Tensor:
    """(b, n / tp, d), or (b, n, d) without sequence parallelism, to (b, n, d), read by products with split columns."""
    (b, n, d), tp = x.shape, t.layout.tp
    if tp == 1:
        return x
    if not t.layout.sp:
        return t.op(f"{name}_enter", "entered", reads=(x,), writes=(t.alias(x, *x.shape),), backward=((ops.to(x),),))
    buffer, whole = (t.tensor(b, n * tp, d, role=x.made, label=x.label, grad=grad) for grad in (False, t.needs(x)))
    t.op(f"{name}_enter", "gathering", reads=(x,), writes=(buffer,))
    first = t.code.positions_first or not several(t, b)
    if first:
        whole = t.alias(buffer, b, n * tp, d, grad=t.needs(x))
    back: Steps = ((ops.to(x),),) if t.code.positions_first else ((ops.temporary(whole),), (ops.to(x),))
    return t.op(f"{name}_enter", "gathered", reads=(x, buffer), writes=(whole,), backward=back)


def summed(t: Trace, name: str, x: Tensor) -> Tensor:
    """The sum of what all ranks have, on each of them."""
    if t.layout.tp == 1:
        return x
    return t.op(f"{name}_sum", "reduced", reads=(x,), writes=(ops.like(t, x, x.label),), backward=((ops.through(x),),))


def exchange(t: Trace, name: str, rows: Tensor) -> Tensor:
    """Rows to the ranks that have their experts, or back: as many to each as from it (arXiv 2006.16668)."""
    if t.layout.ep == 1:
        return rows
    return t.op(name, "exchanged", reads=(rows,), writes=(ops.like(t, rows, rows.label),),
                backward=((ops.to(rows),),))


def leave(t: Trace, name: str, y: Tensor) -> Tensor:
    """(b, n, d) of products with split rows to their sum, of (b, n / tp, d) with sequence parallelism."""
    if not t.layout.sp:
        return summed(t, name, y)
    b, n, d = y.shape
    if t.code.positions_first:
        part = t.tensor(b, n // t.layout.tp, d, role=y.made, label=y.label, grad=t.needs(y))
        return t.op(f"{name}_leave", "scattered", reads=(y,), writes=(part,), backward=((ops.to(y),),))
    with t.frame(y):
        chunks = ops.made(t, f"{name}_leave", *y.shape, role=y.made, of=y, label=y.label)
        part = t.tensor(b, n // t.layout.tp, d, role=y.made, label=y.label, grad=t.needs(y))
        buffer: Steps = ((ops.temporary(y),),) if several(t, b) else ()
        return t.op(f"{name}_leave", "scattered", reads=(y, chunks), writes=(part,), backward=(*buffer, (ops.to(y),)))


def masked(t: Trace, name: str, kind: Name, index: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of an index that are not this rank's (``_MaskPartial``), and the index moved to its own rows."""
    def made(role: Role, *reads: Tensor) -> Tensor:
        return ops.made(t, name, *index.shape, role=role, of=reads, label="rows of others", kind=kind)

    with t.frame():
        below = t.hold(made(Role.BOOL, index))
        mask = made(Role.BOOL, below, made(Role.BOOL, index))
    with t.frame():
        return mask, made(Role.INDEX, t.hold(made(Role.INDEX, index)))


def embedding(t: Trace, name: str, ids: Tensor, rows: Number, width: Number, *, tied: str | None) -> Tensor:
    """Rows of a table of which each rank has a part: those of others are zero, and all are to be summed.

    The gradient is that of the whole table, as DTensor's ``embedding_dense_backward`` is not split. ``tied``: as of
    ``ops.embedding``.
    """
    mask, own = masked(t, name, "embedding", ids)
    every = t.whole.vocab if rows == t.model.vocab else t.whole.source_vocab
    every = rows if t.code.positions_first else every
    with t.frame(mask, own):
        return t.op(name, "embedding", weights={} if tied else {"weight": (rows, width)}, saves=(ids,),
                    reads=(mask, own), writes=(t.tensor(*ids.shape, width, role=Role.WEIGHT, label=name),),
                    backward=((ops.of_weight(tied or f"{t.path(name)}.weight", every, width),),), part="tokens")


def log_softmax(t: Trace, name: str, logits: Tensor) -> Tensor:
    """``loss_parallel``'s, in fp32: the largest and the sum of every row are those of all ranks."""
    *rows, _ = logits.shape
    narrow = t.workload.bytes_of(logits.made) < t.workload.bytes_of(Role.FLOAT32)
    role = Role.FLOAT32 if narrow else logits.made

    def row(kind: Name, *reads: Tensor) -> Tensor:
        return ops.made(t, name, *rows, 1, role=role, of=reads, kind=kind)

    def like(*reads: Tensor) -> Tensor:
        return ops.made(t, name, *logits.shape, role=role, of=reads, kind="loss")

    with t.frame():
        x = t.hold(like(logits)) if narrow else logits
        with t.frame():
            most = row("loss_reduced", row("loss", x))
        shifted = t.hold(like(x, t.hold(most)))
        sums = t.hold(row("loss_reduced", row("loss", like(shifted))))
        reads = shifted, t.hold(row("loss", sums))
        if narrow:
            reads = t.hold(like(*reads)), logits
        found = ops.like(t, logits, "log-probabilities")
        return t.op(name, "loss", saves=(found,), reads=(logits, *reads), writes=(found,),
                    backward=((ops.through(logits),),))


def nll_loss(t: Trace, name: str, found: Tensor, targets: Tensor) -> Tensor:
    """``loss_parallel``'s: each rank has the log-probabilities of its targets alone; the gradient is that of logits."""
    def made(role: Role, *reads: Tensor, kind: Name = "loss", shape: tuple[Number, ...] = targets.shape) -> Tensor:
        return ops.made(t, name, *shape, role=role, of=reads, kind=kind)

    role = found.role
    with t.frame():
        safe = t.hold(made(Role.INDEX, targets, made(Role.BOOL, targets)))
        with t.frame():
            mask, own = masked(t, name, "loss", safe)
            picked = made(role, found, mask, own)
        t.hold(own)
        summed = t.hold(made(role, t.hold(picked), kind="loss_reduced"))
        with t.frame():
            negative = t.hold(made(role, summed))
            each = made(role, negative, made(Role.BOOL, targets))
        t.hold(each)
        weight = made(role, made(Role.INDEX, made(Role.BOOL, targets), shape=()), shape=())
        total = t.hold(made(role, each, shape=()))
        return t.op(name, "loss", saves=(found, targets, weight), reads=(found, targets, weight, total),
                    writes=(t.tensor(role=role, label="loss"),), backward=_nll_steps(found, targets))


def _nll_steps(found: Tensor, targets: Tensor) -> Steps:
    """``_nll_loss_and_log_softmax_backward``."""
    def step(role: Role, passing: int = 0, shape: tuple[Number, ...] = targets.shape) -> tuple[Gradient, ...]:
        return (Gradient(None, shape, role, passing=passing),)

    role, index, flags = found.role, Role.INDEX, Role.BOOL
    return (
        step(role, 13, ()), step(flags, 1), step(index), step(role, 0, found.shape),  # scaled, ignored ones, zeros
        step(flags, 2), step(flags, 1), step(flags), step(index, 1), step(index),  # rows of others
        step(role, 1), step(role), step(index),  # minus one where they are not, and each row's number
        step(flags, 1), step(role),  # the given gradient
        step(role, 1, found.shape), step(role, 0, found.shape), (ops.to(found),),
    )
