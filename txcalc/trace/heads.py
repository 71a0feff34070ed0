"""What stands on top of a stack: poolers, heads, and in training the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from txcalc.spec.facts import embedding_width, first_attention, unpatched
from txcalc.trace import curves, norms, ops, parts
from txcalc.trace.attention import pooling_attention
from txcalc.trace.embeddings import TABLE
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, several
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec import inputs
    from txcalc.spec.layers import Norm
    from txcalc.spec.model import Model, Tower


class Outputs(NamedTuple):
    """Hidden states (b, n, d) and what is made of them, which the caller holds."""

    hidden: Tensor
    pooled: Tensor | None
    logits: tuple[Tensor, ...]


def top(t: Trace, spec: Model, x: Tensor, images: Tensor | None) -> Outputs:
    """Pooler and head on (b, n, d) hidden states. ``images``: the pooled vectors of the tower."""
    if spec.embedding_dim is not None and spec.embedding_projection == "tokens":
        x = ops.linear(t, "output_projection", x, spec.embedding_dim)
    head = spec.head
    unused = head.kind == "classifier" and head.of != "first"
    pooled = None
    if spec.pooler is not None:
        with t.scope("", back=0 if unused else 1):
            pooled = pool(t, spec, x)
    if spec.contact_head:
        maps = spec.layers * first_attention(spec).heads
        t.op("contact_head", "linear", weights={"weight": (1, maps), "bias": (1,)})
    logits = _logits(t, spec, x, pooled, images)
    hidden = () if logits and (t.workload.keeps or not t.code.returns_hidden) else (x,)  # a graph: for a reader alone
    t.results = (*logits, *hidden, *(() if pooled is None or unused else (pooled,)))
    return Outputs(x, pooled, logits)


def loss(t: Trace, spec: Model, outputs: Outputs) -> None:
    """The loss of a training step, where a model has one: the sum of every head's cross-entropy, or a contrast."""
    head, logits = spec.head, outputs.logits
    if t.workload.phase != "training" or head.kind == "none" or head.kind == "projection":
        return
    if head.kind == "contrastive":
        (_pairs_loss if head.loss == "sigmoid" else _contrastive_loss)(t, "loss", *logits)
        return
    copies = head.copies if head.kind == "classifier" else 1
    with t.scope("", copies=copies, calls=copies):
        total = cross_entropy(t, "loss", logits[0])
        for each in logits[1:]:
            total = ops.add(t, total, cross_entropy(t, "pair_loss", each), "total_loss")
        t.results, t.loss = (total,), total


def _logits(t: Trace, spec: Model, x: Tensor, pooled: Tensor | None, images: Tensor | None) -> tuple[Tensor, ...]:
    """What a model puts out beside its hidden states and their pooled vector: one tensor for each head."""
    head = spec.head
    if head.kind == "none":
        return ()
    if head.kind == "classifier":
        return (_classify(t, spec, head, x, pooled),)
    if head.kind == "lm":
        logits = _predict(t, spec, head, x)
        if not head.pair_labels:
            return (logits,)
        assert pooled is not None
        return logits, ops.linear(t, "pair_head", pooled, head.pair_labels, bias=True, kind="head")
    if pooled is None:
        pooled = parts.position(t, "position", x)
    if head.kind == "projection":
        return (ops.linear(t, "projection", pooled, head.width),)
    assert images is not None
    return (_contrast(t, head, pooled, images),)


def pool(t: Trace, stack: Model | Tower, x: Tensor) -> Tensor:
    """(b, n, d) of a stack to one vector for each sequence."""
    *_, d = x.shape
    spec = stack.pooler
    assert spec is not None
    with t.scope("pooler", component="pooler"):
        if spec.kind == "attention":
            return _pool_by_attention(t, spec, x, stack.norm)
        if spec.kind == "norm":
            one = parts.position(t, "position", x) if spec.of == "first" else _mean(t, stack, x)
            return norms.norm(t, "norm", one, stack.norm)
        width = d if spec.width is None else spec.width
        y = ops.linear(t, "dense", parts.position(t, "position", x), width, bias=True)
        return y if spec.activation is None else curves.activation(t, "activation", y, spec.activation)


def project(t: Trace, name: str, spec: inputs.Projector, tower: Tower, x: Tensor, d_out: Number) -> Tensor:
    """(b, n, d) of a tower to (b, tokens, d_out): to average or to merge costs no product."""
    with t.scope(name, component="projector"), t.frame(x):
        if spec.feature_layers:
            b, n, d = x.shape
            wide = d * (1 + len(spec.feature_layers))
            x = t.tensor(b, n - _unpatched(tower), wide, label="columns of several layers")
        else:
            x = t.hold(parts.positions(t, "patches", x, x.shape[1] - _unpatched(tower)))
        if spec.norm is not None and spec.norm_first:
            x = norms.norm(t, "norm", x, spec.norm)
        x = _gathered(t, spec, tower, x)
        if spec.norm is not None and not spec.norm_first:
            x = norms.norm(t, "norm", x, spec.norm)
        for i, layer in enumerate(spec.hidden):
            with t.scope(f"hidden.{i}"):
                x = _project_once(t, layer, x)
        with t.frame(x):
            return ops.linear(t, "dense", x, d_out, bias=spec.bias)


def _unpatched(stack: Model | Tower) -> Number:
    """Positions that are no patches."""
    return unpatched(stack.input) if stack.input.kind == "patches" else 0


def _gathered(t: Trace, spec: inputs.Projector, tower: Tower, x: Tensor) -> Tensor:
    """The positions that a projector reads: a tensor of its own, unless they are all of the tower's."""
    b, *_ = x.shape
    if spec.merge is not None:
        return ops.remade(t, "squares", x, b, spec.tokens, x.shape[-1] * spec.merge**2, label="merged positions")
    if spec.average:
        return ops.remade(t, "squares", x, b, spec.tokens, x.shape[-1], label="averaged positions")
    if spec.feature_layers:
        return x
    if _unpatched(tower):
        first = t.path("hidden.0.dense.weight" if spec.hidden else "dense.weight")
        # A matrix that is not trained is multiplied with each image's rows as they lie.
        return ops.copy(t, "patches", x, "patches") if several(t, b) and t.trains(first, "linear") else x
    if not spec.unused_layers:
        return x
    # Without a norm on them, embeddings lie in memory as the convolution left them, and a projection copies what was
    # added to them. With one, the next layer's norm keeps them already, unless it keeps them in fp32.
    w = t.workload
    own = tower.norm.kind == "layernorm" or w.fused_norms or w.dtype == "fp32"
    role = Role.PARAMETER if tower.embedding_norm and own else Role.ACTIVATION
    return t.tensor(*x.shape, role=role, label="positions between layers")


def _project_once(t: Trace, spec: inputs.ProjectorLayer, x: Tensor) -> Tensor:
    with t.frame(x):
        return _projected(t, spec, x)


def _projected(t: Trace, spec: inputs.ProjectorLayer, x: Tensor) -> Tensor:
    y = ops.linear(t, "dense", x, spec.width, bias=spec.bias)
    if spec.norm is not None:
        y = norms.norm(t, "norm", y, spec.norm)
    if spec.activation is None:
        return y
    if not spec.gated:
        return curves.activation(t, "activation", y, spec.activation)
    gate = curves.activation(t, "activation", ops.linear(t, "gate", x, spec.width, bias=spec.bias), spec.activation)
    return ops.multiply(t, "product", gate, y)


def _mean(t: Trace, stack: Model | Tower, x: Tensor) -> Tensor:
    """The mean of all positions but those that are no patches."""
    _, n, _ = x.shape
    return parts.mean(t, "mean", parts.positions(t, "positions", x, n - _unpatched(stack)), "mean of positions")


def _pool_by_attention(t: Trace, spec: inputs.AttentionPooler, x: Tensor, norm: Norm) -> Tensor:
    b, _, d = x.shape
    query = ops.learned(t, "query", (1, 1, d), b, 1, d, how="new" if several(t, b) else "same")
    with t.frame():
        y = t.hold(pooling_attention(t, spec.attention, query, x))
        y = t.hold(ops.add(t, y, feed_forward(t, spec.feed_forward, norms.norm(t, "norm", y, norm))))
        return parts.position(t, "position", y)


def _transform(t: Trace, spec: inputs.HeadTransform, x: Tensor, width: Number) -> Tensor:
    width = width if spec.width is None else spec.width
    with t.scope("head_transform", component="transform"):
        x = curves.activation(t, "activation", ops.linear(t, "dense", x, width, bias=spec.bias), spec.activation)
        return x if spec.norm is None else norms.norm(t, "norm", x, spec.norm)


def _maxout(t: Trace, spec: inputs.Maxout, x: Tensor) -> Tensor:
    """``x.max(dim=-1)`` over the pieces keeps which of them was the largest."""
    *rows, _ = x.shape
    with t.scope("maxout", component="maxout"):
        ops.linear(t, "dense", x, spec.width * spec.pieces, bias=spec.bias)
        t.op("max", "index", saves=(t.tensor(*rows, spec.width, role=Role.INDEX, label="largest pieces"),))
        return t.tensor(*rows, spec.width, label="maxout")


def _classify(t: Trace, spec: Model, head: inputs.ClassifierHead, x: Tensor, pooled: Tensor | None) -> Tensor:
    if head.of == "first":
        of = parts.position(t, "position", x) if pooled is None else pooled
    elif head.of == "mean":
        of = parts.mean(t, "mean", x, "mean of positions")
    else:
        of = x
        if head.of == "first+mean":
            of = parts.join(t, "join", (parts.position(t, "position", x), _mean(t, spec, x)), "first and mean")
    if head.transform is not None:
        *_, width = of.shape
        of = _transform(t, head.transform, of, width)
    with t.scope("", copies=head.copies, calls=head.copies):
        logits = ops.linear(t, "head", of, head.labels, bias=head.bias, kind="head")
    return parts.mean(t, "mean", logits, "mean of logits") if head.of == "votes" else logits


def _contrast(t: Trace, head: inputs.ContrastiveHead, texts: Tensor, images: Tensor) -> Tensor:
    """Products of all texts with all images, each made a unit vector, times the temperature (arXiv 2103.00020)."""
    if head.width is not None:
        texts = ops.linear(t, "text_projection", texts, head.width)
        images = ops.linear(t, "image_projection", images, head.width)
    ops.parameter(t, "temperature")
    if head.loss == "sigmoid":
        ops.parameter(t, "similarity_bias")
    (b, width), (count, _) = texts.shape, images.shape
    units = [t.tensor(rows, width, label=f"unit {x.label}") for rows, x in ((b, texts), (count, images))]
    lengths = [t.tensor(rows, 1, label="lengths") for rows in (b, count)]
    products = t.tensor(b, count, label="products")
    t.op("similarity", "head", products=(Product(1, b, count, width),),
         saves=(texts, images, *lengths, *units, products, t.tensor(label="temperature")))
    return t.tensor(b, count, label="similarity")


def _predict(t: Trace, spec: Model, head: inputs.LMHead, x: Tensor) -> Tensor:
    if head.transform is not None:
        x = _transform(t, head.transform, x, embedding_width(spec))
    if head.maxout is not None:
        x = _maxout(t, head.maxout, x)
    if t.workload.logits == "last":
        x = parts.positions(t, "last", x, 1)
    logits = ops.linear(t, "head", x, spec.vocab, bias=head.bias, kind="head", part="output",
                        tied=f"{TABLE}.weight" if head.tied else None)
    if head.unused_bias:
        ops.parameter(t, "head.unused_bias", spec.vocab, kind="head")
    if head.softcap is not None:
        logits = ops.cap(t, "head_softcap", logits)
    return logits


# ---------------------------------------------------------------- losses


def cross_entropy(t: Trace, name: str, logits: Tensor) -> Tensor:
    """``F.cross_entropy``, unless it is ``plain`` of an fp32 copy: keeps the log-probabilities, the targets and the
    total weight."""
    *rows, _ = logits.shape
    with t.frame(logits):
        if (t.workload.loss or t.code.loss) != "plain":
            logits = t.hold(ops.cast(t, name, logits, Role.FLOAT32, kind="loss"))
        targets = _shifted(t, name, *rows) if t.code.shifts_labels else t.tensor(
            *rows, role=Role.INDEX, label="targets", grad=False)
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


def _shifted(t: Trace, name: str, *rows: Number) -> Tensor:
    """Labels (b, n) that are padded by one and shifted, which makes a copy of them unless they are one row."""
    *batch, n = rows
    padded, shifted = (t.tensor(*batch, length, role=Role.INDEX, label="shifted labels", grad=False)
                       for length in (n + 1, n))
    t.op(name, "elementwise", writes=(t.hold(padded),))
    if not several(t, *batch):
        return padded
    return t.op(name, "elementwise", reads=(padded,), writes=(t.hold(shifted),))


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
