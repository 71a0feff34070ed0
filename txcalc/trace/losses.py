"""The losses of a training step, written as their forward pass from logits in the model's dtype."""

from __future__ import annotations

from txcalc.trace import ops
from txcalc.trace.record import Role, Tensor, Trace


def cross_entropy(t: Trace, name: str, logits: Tensor) -> Tensor:
    """``F.cross_entropy`` on fp32 logits: keeps the log-probabilities, the targets and the total weight."""
    *rows, classes = logits.shape
    with t.frame(logits):
        wide = t.hold(ops.cast(t, name, logits, Role.FLOAT32, kind="loss"))
        found = t.tensor(*rows, classes, role=Role.FLOAT32, label="log-probabilities")
        ops.elementwise(t, name, "loss", wide, found, keeps=(found,))
        targets = t.tensor(*rows, role=Role.INDEX, label="targets", grad=False)
        weight = t.tensor(role=Role.FLOAT32, label="total weight", grad=False)
        loss = t.tensor(role=Role.FLOAT32, label="loss")
        t.op(name, "loss", saves=(found, targets, weight), reads=(found, targets), writes=(loss, weight),
             backward=((ops.to(found),),))
    return loss


def contrastive_loss(t: Trace, name: str, logits: Tensor) -> None:
    """The mean of two ``F.cross_entropy``, over the rows and over the columns of fp32 logits, with the same targets."""
    rows, columns = logits.shape
    t.op(name, "loss", saves=(
        t.tensor(rows, columns, role=Role.FLOAT32, label="log-probabilities"),
        t.tensor(columns, rows, role=Role.FLOAT32, label="log-probabilities of columns"),
        t.tensor(rows, role=Role.INDEX, label="targets"),
        *(t.tensor(role=Role.FLOAT32, label="total weight") for _ in range(2)),
    ))


def pairs_loss(t: Trace, name: str, logits: Tensor) -> None:
    """``F.logsigmoid`` of every (text, image) pair in fp32, with a sign for whether they belong together.

    The CPU's kernel also keeps a buffer as large as its input.
    """
    keeps = ("signs", "signed products", *(("exponentials",) if t.workload.kernels == "cpu" else ()))
    t.op(name, "loss", saves=tuple(t.tensor(*logits.shape, role=Role.FLOAT32, label=label) for label in keeps))
