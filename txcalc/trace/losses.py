"""The loss of a training step: cross-entropy, as it is, in chunks or fused with the head, and contrasts."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Final, NamedTuple

from txcalc.spec import words
from txcalc.spec.errors import SpecError
from txcalc.trace import ops, parts, split
from txcalc.trace.autocast import autocast
from txcalc.trace.embeddings import TABLE
from txcalc.trace.kinds import Name
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, several
from txcalc.trace.tensors import Gradient, Number, Role, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from txcalc.spec.inputs import LMHead
    from txcalc.spec.model import Model

_made: Final[Callable[..., Tensor]] = partial(ops.made, kind="loss")


class Scores(NamedTuple):
    """The outputs of a head: logits, in chunks of positions if the loss wants them so, and those of a further head.

    A fused loss makes logits itself: what its head reads stands in their place.
    """

    logits: tuple[Tensor, ...] = ()
    pairs: Tensor | None = None

    @property
    def all(self) -> tuple[Tensor, ...]:
        """Every tensor of them."""
        return self.logits if self.pairs is None else (*self.logits, self.pairs)


def loss(t: Trace, spec: Model, scores: Scores) -> None:
    """The loss of a training step, where a model has one: the sum of every head's cross-entropy, or a contrast."""
    head, logits = spec.head, scores.logits
    if t.workload.phase != "training" or head.kind == "none" or head.kind == "projection":
        return
    if head.kind == "contrastive":
        (_pairs_loss if head.loss == "sigmoid" else _contrastive_loss)(t, "loss", *logits)
        return
    copies = head.copies
    with t.scope("", copies=copies, calls=copies):
        if head.kind == "lm" and t.workload.loss == "fused":
            total = _fused(t, "loss", spec, head, logits[0])
        elif head.kind == "lm" and words.number(t.workload.loss):
            total = _chunked(t, "loss", logits)
        elif getattr(head, "of", "") == "span":
            total = _span(t, "loss", logits[0])
        else:
            total = cross_entropy(t, "loss", logits[0])
        if scores.pairs is not None:
            total = ops.add(t, total, cross_entropy(t, "pair_loss", scores.pairs), "total_loss")
        t.results, t.loss = (total,), total


def cross_entropy(t: Trace, name: str, logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """``F.cross_entropy``, unless it is ``plain`` of an fp32 copy: keeps the log-probabilities, the targets and the
    total weight."""
    *rows, _ = logits.shape
    if t.code.loss in ("in place", "softmax"):
        return _in_place(t, name, logits)
    compiled = words.form(t.workload.loss or "") == "compiled"
    with t.frame(logits):
        if not compiled and (t.workload.loss or t.code.loss) != "plain":
            logits = t.hold(ops.cast(t, name, logits, Role.FLOAT32, kind="loss"))
        if compiled:
            return _compiled(t, name, logits, _targets(t, *rows) if targets is None else targets)
        if targets is None:
            targets = _shifted(t, name, *rows) if t.code.shifts_labels else _targets(t, *rows)
        if t.layout.tp > 1 and logits.shape[-1] == t.model.vocab:
            with t.frame(targets):
                return split.nll_loss(t, name, split.log_softmax(t, name, logits), targets)
        with t.frame():
            (logits,) = map(t.hold, ops.casts(t, name, "cross_entropy", logits))
            found = ops.like(t, logits, "log-probabilities")
            ops.elementwise(t, name, "loss", logits, found, keeps=(found,))
            (found,) = ops.casts(t, name, "nll_loss", found)
            weight = t.tensor(role=found.role, label="total weight", grad=False)
            loss = t.tensor(role=found.role, label="loss")
            t.op(name, "loss", saves=(found, targets, weight), reads=(found, targets), writes=(loss, weight),
                 backward=((ops.to(found),),))
    return loss


def _span(t: Trace, name: str, logits: Tensor) -> Tensor:
    """The mean of two cross-entropies over the positions (b, n, 2), of where a span starts and where it ends."""
    b, n, _ = logits.shape
    each = parts.columns(t, name, logits, 1, 1)
    each = tuple(t.hold(ops.copy(t, name, x.view(b, n), "starts or ends"), "pass") for x in each)
    with t.frame():
        targets = [t.hold(ops.made(t, name, b, label="targets")) for _ in each]  # none beyond the last position
        found = [t.hold(cross_entropy(t, name, x, wanted)) for x, wanted in zip(each, targets, strict=True)]
        return ops.scaled(t, name, ops.add(t, found[0], found[1], name))


def _compiled(t: Trace, name: str, logits: Tensor, targets: Tensor) -> Tensor:
    """``torch.compile`` of the cross-entropy of an fp32 copy: keeps logits as they are, the targets, and the largest of
    each row and the logarithm of its sum; its kernels make nothing else (read off what inductor saves)."""
    rows = [t.tensor(*logits.shape[:-1], 1, role=Role.FLOAT32, label=label, grad=False)
            for label in ("largest logits", "logarithms of sums")]
    loss = t.tensor(role=logits.made, label="loss")  # whose dtype is that of the gradient
    t.op(name, "loss", saves=(logits, targets, *rows), reads=(logits, targets), writes=(loss, *rows),
         backward=((ops.to(logits),),))
    return ops.cast(t, name, loss, Role.FLOAT32, kind="loss")


def _in_place(t: Trace, name: str, logits: Tensor) -> Tensor:
    """TransformerEngine's ``CrossEntropyFunction``: its kernels write the gradient over logits, from the largest, the
    sum and the target of every row, of all ranks (``pytorch/triton/cross_entropy.py``).

    nanotron's ``_ShardedCrossEntropy`` writes it over the softmax of an fp32 copy (``tensor_parallel/functional.py``).
    """
    *rows, _ = logits.shape
    copied = t.code.loss == "softmax"
    logits = ops.cast(t, name, logits, Role.FLOAT32, kind="loss") if copied else logits
    found = ops.like(t, logits, "softmax") if copied else logits
    if copied:
        t.op(name, "loss", reads=(logits,), writes=(found,))
    targets = _targets(t, *rows)
    own, every = (t.tensor(*rows, 3 * ranks, role=Role.FLOAT32, label="statistics of rows", grad=False)
                  for ranks in (1, t.layout.tp))
    t.op(name, "loss", reads=(logits, targets), writes=(own,))
    if t.layout.tp > 1:
        t.op(name, "gathering", reads=(own,), writes=(every,))
    losses = t.tensor(*rows, role=Role.FLOAT32, label="losses")
    t.op(name, "loss", saves=(found,), reads=(logits, found, own if t.layout.tp == 1 else every), writes=(losses,),
         backward=((ops.to(logits)._replace(kept=found),),))
    total = t.tensor(role=Role.FLOAT32, label="loss")
    return t.op(name, "loss", reads=(losses,), writes=(total,), backward=((ops.to(losses),),))


def _targets(t: Trace, *rows: Number) -> Tensor:
    return t.tensor(*rows, role=Role.INDEX, label="targets", grad=False)


def _shifted(t: Trace, name: str, *rows: Number) -> Tensor:
    """Labels (b, n) that are padded by one and shifted, which makes a copy of them unless they are one row."""
    *batch, n = rows
    padded = t.hold(ops.made(t, name, *batch, n + 1, label="shifted labels"))
    return t.hold(ops.made(t, name, *batch, n, of=padded, label="shifted labels")) if several(t, *batch) else padded


def _chunked(t: Trace, name: str, logits: tuple[Tensor, ...]) -> Tensor:
    """torchtune's ``CEWithChunkedOutputLoss``: the sum of the chunks' losses over the number of targets."""
    b, lengths, classes = logits[0].shape[0], [each.shape[1] for each in logits], logits[0].shape[-1]
    targets = _targets(t, b, sum(lengths))
    with t.frame(targets):
        count = t.hold(_counted(t, name, targets))
        labels = [t.hold(_made(t, name, b * n, label="labels", of=targets)
                         if several(t, b, n, len(logits)) else t.alias(targets, b * n)) for n in lengths]
        total: Tensor | None = None
        for each, wanted in zip(logits, labels, strict=True):
            found = cross_entropy(t, name, each.view(wanted.shape[0], classes), wanted)
            before = () if total is None else (total,)
            sums = ops.like(t, found, "loss") if total is None else t.alias(total)
            total = t.op(name, "loss", reads=(*before, found), writes=(sums,),
                         backward=(tuple(map(ops.through, (*before, found))),))
        assert total is not None
        t.hold(total)
        return t.op(name, "loss", saves=(count,), reads=(total, count), writes=(ops.like(t, total, "loss"),),
                    backward=((ops.to(total),),))


def _counted(t: Trace, name: str, targets: Tensor) -> Tensor:
    """The number of targets that are not ignored."""
    return _made(t, name, label="number of targets", of=_mask(t, name, targets))


def _mask(t: Trace, name: str, targets: Tensor) -> Tensor:
    return _made(t, name, *targets.shape, role=Role.BOOL, label="mask of targets", of=targets)


def _fused(t: Trace, name: str, spec: Model, head: LMHead, x: Tensor) -> Tensor:
    """``LigerFusedLinearCrossEntropyFunction`` of liger-kernel 0.8.5, whose forward pass makes all gradients.

    A chunk of logits at a time is in memory, and a Triton kernel writes its gradient over it. On cards from Ampere on
    the gradient of the weight is summed in place, but that of fp32 logits, and a bias, are made for every chunk first.
    """
    *lead, d = x.shape
    rows, vocab, own = prod(lead), spec.vocab, f"{TABLE}.weight" if head.tied else "head.weight"
    shapes = {own: (vocab, d)} | ({"head.bias": (vocab,)} if head.bias else {})
    trained = {path: shape for path, shape in shapes.items() if t.trains(path, "head")}
    role, step = autocast(t, "linear") or x.made, chunk_rows(t, rows, d, vocab)
    weights = ({} if head.tied else {"weight": (vocab, d)}) | ({"bias": (vocab,)} if head.bias else {})
    product = Product(1, rows, vocab, d, backward=bool(trained) + t.needs(x))

    def logits(count: Number, *, first: bool) -> Tensor:
        return t.op("head", "head", weights=weights if first else {}, products=(product,) if first else (), reads=(x,),
                    writes=(t.tensor(count, vocab, role=role, label="logits of a chunk", grad=False),), part="output")

    def cast(kind: Name, *shape: Number) -> Tensor:
        return ops.made(t, name, *shape, role=role, label="cast of a chunk", kind=kind)

    def under_autocast(count: Number, *, first: bool = False) -> None:
        """A chunk whose products read casts: of the transposed weight anew, and of the weight one that is cached."""
        with t.frame():
            with t.frame():
                t.hold(cast("loss", vocab, d))
                t.hold(cast("loss", count, d))
                y = logits(count, first=first)
            t.hold(y)
            if first:
                cast("cast", vocab, d)
            _made(t, name, count, d, role=role, label="gradient of a chunk")
            cast("loss", count, d)

    if t.workload.kernels == "cpu":
        raise SpecError("Liger's kernel is Triton's, which has none for the CPU", field="loss")
    if trained and not t.needs(x):
        raise SpecError("Liger's makes no gradient of a head whose input wants none; train what is below it as well",
                        field="loss")
    with t.frame(x):
        gradients = [ops.to(x.view(rows, d)), *(ops.of_weight(path, *shape) for path, shape in trained.items())]
        made = [t.hold(_made(t, name, *g.shape, role=g.role, label="gradients")) for g in gradients]
        losses = t.hold(_made(t, name, rows, role=Role.FLOAT32, label="losses"))
        _made(t, name, label="number of targets", of=t.hold(_mask(t, name, _targets(t, *lead))))
        with t.frame():
            if t.workload.precision == "amp":
                under_autocast(step, first=True)
                for times, count in ((rows // step - 1, step), (1, rows - rows // step * step)):
                    if t.size(times * count) != 0:
                        with t.scope("", calls=times, repeat=True):
                            under_autocast(count)
            else:
                t.hold(logits(step, first=True))
                anew = [shape for path, shape in trained.items() if path != own or t.workload.dtype == "fp32"]
                if anew:
                    with t.scope("", calls=-(-rows // step), repeat=True):
                        for shape in anew:
                            _made(t, name, *shape, role=role, label="gradient of a chunk")
        one = Gradient(None, role=Role.FLOAT32, passing=1)
        handed = tuple(g._replace(kept=kept) for g, kept in zip(gradients, made, strict=True))
        return t.op(name, "fused_loss", saves=tuple(made), reads=(losses, *made), backward=((one,), handed),
                    writes=(t.tensor(role=Role.FLOAT32, label="loss"),))


def chunk_rows(t: Trace, rows: Number, width: Number, classes: Number) -> Number:
    """Rows of logits at a time: about as many elements as the hidden states have, rounded up to a power of two.

    All of them where sizes stand for no numbers.
    """
    n, d, v = (t.size(each) for each in (rows, width, classes))
    if n is None or d is None or v is None:
        return rows
    return min(1 << (-(-n // -(-v // d)) - 1).bit_length(), n)


# ---------------------------------------------------------------- contrasts


def _contrastive_loss(t: Trace, name: str, logits: Tensor) -> None:
    """The mean of two ``F.cross_entropy``, over the rows and over the columns of fp32 logits, with the same targets."""
    rows, columns = logits.shape
    t.op(name, "loss", saves=(
        t.tensor(rows, columns, role=Role.FLOAT32, label="log-probabilities"),
        t.tensor(columns, rows, role=Role.FLOAT32, label="log-probabilities of columns"),
        t.tensor(rows, role=Role.INDEX, label="targets"),
        *(t.tensor(role=Role.FLOAT32, label="total weight") for _ in range(2)),
    ))


def _pairs_loss(t: Trace, name: str, logits: Tensor) -> None:
    """``F.logsigmoid`` of every (text, image) pair in fp32, with a sign for whether they belong together.

    The CPU's kernel also keeps a buffer as large as its input.
    """
    keeps = ("signs", "signed products", *(("exponentials",) if t.workload.kernels == "cpu" else ()))
    t.op(name, "loss", saves=tuple(t.tensor(*logits.shape, role=Role.FLOAT32, label=label) for label in keeps))
