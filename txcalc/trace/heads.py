"""Poolers and heads on top of a stack."""

from __future__ import annotations

from functools import partial
from math import isqrt, prod
from typing import TYPE_CHECKING, NamedTuple

from txcalc.spec import words
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import ahead, embedding_width, first_attention, unpatched, unread
from txcalc.trace import beside, curves, megatron, norms, ops, parts, split
from txcalc.trace.attention import pooling_attention
from txcalc.trace.autocast import autocast
from txcalc.trace.embeddings import TABLE
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.losses import Scores
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, several
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from txcalc.spec import inputs
    from txcalc.spec.layers import Norm
    from txcalc.spec.model import Encoder, Model, SideTower


class Outputs(NamedTuple):
    """Hidden states (b, n, d) and what is made of them, which the caller holds."""

    hidden: Tensor
    pooled: Tensor | None
    scores: Scores


def top(t: Trace, spec: Model, x: Tensor, images: Tensor | None) -> Outputs:
    """Pooler and head on (b, n, d) hidden states. ``images``: the pooled vectors of the tower."""
    if spec.embedding_dim is not None and spec.embedding_projection == "tokens":
        x = ops.linear(t, "output_projection", x, spec.embedding_dim)
    head, streams = spec.head, ahead(spec)
    if streams and head.kind == "lm":
        x = parts.positions(t, "ahead", x, x.shape[1] // (1 + streams) * streams)
    if t.layout.sp and (head.kind != "lm" or spec.pooler is not None):
        x = split.enter(t, "top", x)
    unused = unread(head)
    pooled = None
    if spec.pooler is not None:
        with t.scope("", back=0 if unused else 1), t.frame(*t.embedded):
            pooled = pool(t, spec, x)
    beside.entities(t, spec)
    beside.idle(t, spec)
    if spec.autoencoder is not None:
        beside.autoencoder(t, spec.autoencoder, spec.d_model)
    if spec.contact_head:
        maps = spec.layers * first_attention(spec).heads
        t.op("contact_head", "linear", weights={"weight": (1, maps), "bias": (1,)})
    with t.frame(*(() if pooled is None else (pooled,))):
        scores = _scores(t, spec, x, pooled, images)
    pooled = None if unused else pooled
    hidden = () if scores.logits and (t.workload.keeps or not t.code.returns_hidden) else (x,)  # a graph: for a reader
    t.results = (*scores.all, *hidden, *(() if pooled is None else (pooled,)))
    return Outputs(x, pooled, scores)


def _scores(t: Trace, spec: Model, x: Tensor, pooled: Tensor | None, images: Tensor | None) -> Scores:
    """The outputs of a model beside its hidden states and their pooled vector."""
    head = spec.head
    if head.kind == "none":
        return Scores()
    if head.kind == "classifier":
        return Scores((_classify(t, spec, head, x, pooled),))
    if head.kind == "lm":
        logits = _predict(t, spec, head, x)
        if not head.pair_labels:
            return Scores(logits)
        assert pooled is not None
        return Scores(logits, ops.linear(t, "pair_head", pooled, head.pair_labels, bias=True, kind="head"))
    if head.kind == "projection" and head.of == "mean":
        pooled = parts.mean(t, "mean", x, "mean of positions")
    elif pooled is None:
        pooled = parts.position(t, "position", x)
    if head.kind == "projection":
        if head.hidden is not None:
            pooled = ops.linear(t, "hidden", pooled, head.hidden)
        return Scores((ops.linear(t, "projection", pooled, head.width),))
    assert images is not None
    return Scores((_contrast(t, head, pooled, images),))


def pool(t: Trace, stack: Model | Encoder | SideTower, x: Tensor) -> Tensor:
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


def project(
    t: Trace, name: str, spec: inputs.Projector, tower: SideTower, x: Tensor, d_out: Number,
    resample: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(b, n, d) of a tower to (b, tokens, d_out): to average or to merge costs no product.

    ``resample``: what learned queries make of the positions before the last layer.
    """
    with t.scope(name, component="projector"), t.frame(x):
        if spec.feature_layers:
            b, n, d = x.shape
            wide = d * (1 + len(spec.feature_layers))
            x = t.tensor(b, n - _left_out(spec, tower), wide, label="columns of several layers")
        else:
            x = t.hold(parts.positions(t, "patches", x, x.shape[1] - _left_out(spec, tower)))
        for i, layer in enumerate(spec.patchwise):
            with t.scope(f"patchwise.{i}"), t.frame(x):
                x = _projected(t, layer, x)
        if spec.norm is not None and spec.norm_first:
            x = norms.norm(t, "norm", x, spec.norm)
        x = _gathered(t, spec, tower, x)
        if spec.norm is not None and not spec.norm_first:
            x = norms.norm(t, "norm", x, spec.norm)
        for i, layer in enumerate(spec.hidden):
            with t.scope(f"hidden.{i}"), t.frame(x):
                x = _projected(t, layer, x)
        x = x if resample is None else resample(x)
        for i, layer in enumerate(spec.behind):
            with t.scope(f"behind.{i}"), t.frame(x):
                x = _projected(t, layer, x)
        if spec.separators:
            ops.parameter(t, "separators", spec.separators, d_out)
        with t.frame(x):
            if spec.newlines:
                return _with_newlines(t, spec, x, d_out)
            y = ops.linear(t, "dense", x, d_out, bias=spec.bias) if spec.dense else x
            return y if spec.final_norm is None else norms.norm(t, "final_norm", y, spec.final_norm)


def further(t: Trace, tower: SideTower, x: Tensor, d_out: Number) -> None:
    """The outputs that further projectors make of a tower's positions, and the weights of those that no run takes."""
    for i, deep in enumerate(getattr(tower, "deepstack", ())):
        project(t, f"deepstack.{i}", deep, tower, x, d_out)
    for i, other in enumerate(getattr(tower, "unused", ())):
        with t.scope("unused", copies=1, active=0, calls=0, repeat=True):
            project(t, f"{i}", other, tower, t.tensor(0, *x.shape[1:]), d_out)


def _with_newlines(t: Trace, spec: inputs.Projector, x: Tensor, d_out: Number) -> Tensor:
    """A vector behind each row (b, side, side, d), projected with it, and one at either end; normed."""
    b, _, d = x.shape
    x = ops.gathered(t, "newline", (x, ops.learned(t, "newline", (d,))), b, spec.tokens - 2, d, label=x.label)
    y = ops.linear(t, "dense", x, d_out, bias=spec.bias)
    ends = tuple(ops.learned(t, name, (d_out,), 1, 1, d_out) for name in ("begin", "end"))
    y = parts.join_positions(t, "ends", (ends[0], y, ends[1]), b, y.label)
    return y if spec.final_norm is None else norms.norm(t, "final_norm", y, spec.final_norm)


def _left_out(spec: inputs.Projector, tower: SideTower) -> Number:
    """Positions at the beginning that a projector does not read."""
    return 0 if spec.unpatched else _unpatched(tower)


def _unpatched(stack: Model | Encoder | SideTower) -> Number:
    """Positions that are no patches."""
    return unpatched(stack.input) if stack.input.kind == "patches" else 0


def _gathered(t: Trace, spec: inputs.Projector, tower: SideTower, x: Tensor) -> Tensor:
    """The positions that a projector reads: a tensor of its own, unless they are all of the tower's."""
    b, *_ = x.shape
    if spec.merge is not None:
        each = spec.merge**2 if tower.input.kind == "patches" else spec.merge
        beside = isqrt(int(t.size(spec.tokens) or 0) - 2) + 2 if spec.newlines else 0
        return parts.remade(t, "squares", x, b, spec.tokens - beside, x.shape[-1] * each, label="merged positions")
    if spec.average:
        return parts.remade(t, "squares", x, b, spec.tokens, x.shape[-1], label="averaged positions")
    if spec.feature_layers:
        return x
    if x.strided or (tower.final_norm and not spec.unused_layers):
        return x
    # The next layer's norm keeps them already, unless it keeps them in fp32. Without a norm on them, embeddings lie in
    # memory as the convolution left them, and so does what was added to them.
    w = t.workload
    post = tower.norm.placement == "post"
    own = post or tower.norm.kind == "layernorm" or w.fused_norms or w.dtype == "fp32"
    left, (_, n, d) = _left_out(spec, tower), x.shape
    as_made = not post and not tower.embedding_norm and not left and several(t, b, n)
    if spec.unused_layers:
        role = Role.PARAMETER if own else Role.ACTIVATION
        x = t.alias(t.tensor(b, n + left, d, role=role, label="positions between layers"), b, n, d)
    return x._replace(strided=as_made)


def _projected(t: Trace, spec: inputs.ProjectorLayer, x: Tensor) -> Tensor:
    y = ops.linear(t, "dense", x, spec.width, bias=spec.bias)
    if spec.norm is not None:
        y = norms.norm(t, "norm", y, spec.norm)
    if spec.softmax:
        logits, y = y, ops.like(t, y, "probabilities")
        ops.elementwise(t, "softmax", "slope_out", logits, y, keeps=(y,))
    if spec.padding:
        y = parts.join(t, "padding", (y, t.tensor(*y.shape[:-1], spec.padding, label="zeros", grad=False)))
    if spec.activation is None:
        return y
    if not spec.gated:
        return curves.activation(t, "activation", y, spec.activation)
    gate = curves.activation(t, "activation", ops.linear(t, "gate", x, spec.width, bias=spec.bias), spec.activation)
    return ops.multiply(t, "product", gate, y)


def _mean(t: Trace, stack: Model | Encoder | SideTower, x: Tensor) -> Tensor:
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
        for name, columns in (("hidden", spec.hidden), ("dense", width)):
            if columns is not None:
                x = curves.activation(t, "activation", ops.linear(t, name, x, columns, bias=spec.bias), spec.activation)
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
    if head.of in t.code.drops_head and not head.undropped:
        of = t.hold(ops.dropout(t, "head_dropout", of, t.code.head_dropout), "pass")
    with t.scope("", copies=head.copies, calls=head.copies):
        logits = ops.linear(t, "head", of, head.labels, bias=head.bias, kind="head")
    if head.of == "last":
        return _last(t, t.hold(logits, "pass"), sought=several(t, x.shape[0]) or head.padded)
    return parts.mean(t, "mean", logits, "mean of logits") if head.of == "votes" else logits


def _last(t: Trace, x: Tensor, *, sought: bool) -> Tensor:
    """The last position (b, d) of (b, n, d), which transformers looks for where there may be padding."""
    (b, n, classes), made, indices = x.shape, partial(ops.made, t, "last"), []
    if not t.code.seeks_last:
        return parts.position(t, "last", x)
    if sought:
        with t.frame():
            mask = t.hold(made(b, n, role=Role.COUNT, of=made(b, n, role=Role.BOOL)), "pass")
        places = t.hold(made(n, role=Role.COUNT), "pass")
        indices = [t.hold(made(b, of=made(b, n, role=Role.COUNT, of=(mask, places))), "pass")]
    else:
        x = parts.position(t, "last", x)
    indices.insert(0, made(b))
    return t.op("last", "index", saves=tuple(indices), reads=(x, *indices), backward=ops.into_zeros(ops.to(x)),
                writes=(t.tensor(b, classes, role=x.made, label="logits"),))


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


def _predict(t: Trace, spec: Model, head: inputs.LMHead, x: Tensor) -> tuple[Tensor, ...]:
    if head.transform is not None:
        x = _transform(t, head.transform, x, spec.d_model if head.widened else embedding_width(spec))
    if head.maxout is not None:
        x = _maxout(t, head.maxout, x)
    if t.workload.logits == "last" and not t.code.targets:
        x = parts.positions(t, "last", x, 1)
    if t.code.scales_hidden and head.tied:
        x = t.hold(ops.scaled(t, "head", x), "pass")
    if t.code.linear == "parallel":
        tied = f"{TABLE}.weight" if head.tied else None
        return (megatron.column(t, x, {"head": (spec.vocab, "output")}, bias=head.bias, tied=tied, kind="head"),)
    x = x if t.layout.sp and spec.pooler is not None else split.enter(t, "head", x)
    logits: tuple[Tensor, ...] = (x,)
    if head.widened:
        return (_widened(t, spec, head, x),)
    if head.copies > 1 and (t.workload.loss or "plain") not in ("plain", "fp32"):
        raise SpecError("several heads have a loss each, of whole logits: plain or fp32", field="loss")
    if t.workload.loss != "fused":
        chunks = words.number(t.workload.loss)
        with t.frame(*((x,) if chunks else ())), t.scope("", copies=head.copies, calls=head.copies):
            logits = tuple(y if head.softcap is None else curves.cap(t, "head_softcap", y)
                           for y in _products(t, spec, head, x, chunks))
    if t.code.shifts_logits:
        logits = tuple(ops.shifted(t, "head", y, buffer=True) for y in logits)
    if head.unused_bias:
        ops.parameter(t, "head.unused_bias", spec.vocab, kind="head")
    return logits


def _widened(t: Trace, spec: Model, head: inputs.LMHead, x: Tensor) -> Tensor:
    """A product with the token table and further rows, one below the other."""
    if t.workload.loss not in (None, "plain", "fp32"):
        raise SpecError("a head with rows beside the token table has its loss in one piece", field="loss")
    *rows, d = x.shape
    width, vocab = embedding_width(spec), spec.vocab
    further = {"rows": (d - width, vocab)} | ({} if head.tied else {"weight": (vocab, width)})
    made = tuple(ops.of_weight(f"{t.path('head')}.{name}", *shape) for name, shape in further.items())
    whole = t.op("head", "head", weights=further, writes=(t.tensor(d, vocab, role=Role.WEIGHT, label="rows"),),
                 backward=(made,))
    y = t.tensor(*rows, vocab, label="logits")
    y = ops.matmul(t, "head", x, whole, Product(1, prod(rows), vocab, d), y, kind="head")
    own = {"bias": (vocab,)} if head.bias else {}
    if head.unused_bias:
        ops.parameter(t, "head.unused_bias", vocab, kind="head")
    return t.op("head", "elementwise", weights=own, reads=(y,), writes=(ops.like(t, y, "logits"),),
                backward=((ops.through(y),), (ops.of_weight(f"{t.path('head')}.bias", vocab)._replace(summed=True),)))


def _products(t: Trace, spec: Model, head: inputs.LMHead, x: Tensor, chunks: int | None) -> Iterator[Tensor]:
    """The head's product, or one for each of ``x.chunk(chunks, dim=1)``.

    The rows of a chunk are copied for it if they are of several sequences, unless autocast makes a copy of them, or
    the weight is not trained; a bias is then added to what comes of it.
    """
    b, n, d = x.shape
    own = f"{TABLE}.weight" if head.tied else "head.weight"
    product = partial(ops.linear, t, "head", d_out=spec.vocab, kind="head", part="output",
                      tied=own if head.tied else None)
    if chunks is None:
        yield product(x=x, bias=head.bias)
        return
    views = tuple(t.alias(x, b, length, d) for length in _lengths(t, n, chunks))
    t.op("chunks", "elementwise", reads=(x,), writes=views, backward=((ops.to(x),),))
    weights = partial(ops.matrix, t, "head", own, spec.vocab, d, bias=head.bias, kind="head")
    read, strided = weights(), several(t, b, len(views))
    for i, each in enumerate(views):
        read = read if t.trains(own, "head") or not i else weights()
        plain = autocast(t, "linear") in (None, each.made)
        if plain and strided and several(t, each.shape[1]) and t.trains(own, "head"):
            each = ops.copy(t, "head", each)
        y = product(x=each, bias=head.bias and not strided, read=read, weighs=i == 0)
        yield _offset(t, "head", y, read, weighs=i == 0) if head.bias and strided else y


def _lengths(t: Trace, n: Number, chunks: int) -> list[Number]:
    """The lengths of ``torch.chunk``: alike but for the last, and fewer than ``chunks`` where those would be empty."""
    length = t.size(n)
    if length is None:
        raise SpecError("positions go into chunks at one length at a time; sweep over something else", field="loss")
    if length % chunks == 0:
        return [n // chunks] * chunks
    each = (n + chunks - 1) // chunks
    whole = (length - 1) // t.size(each)
    return [*[each] * whole, n - each * whole]


def _offset(t: Trace, name: str, x: Tensor, read: ops.Matrix, *, weighs: bool) -> Tensor:
    """``x`` plus the bias of a linear layer, where that is no part of its product."""
    assert read.offset is not None
    weights = {"bias": read.offset.shape} if weighs else {}
    return t.op(name, "elementwise", weights=weights, reads=(x, *read.added), writes=(ops.like(t, x, name),),
                backward=((ops.through(x),), (read.offset._replace(summed=True),)))
