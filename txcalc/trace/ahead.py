"""Streams beside the positions, each of which predicts one token further ahead (ProphetNet, arXiv 2001.04063)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.spec.facts import ahead
from txcalc.trace import ops, parts, split
from txcalc.trace.cache import Cache, extend
from txcalc.trace.cores import Core, Heads, Span, choose
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, visible_pairs
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import Attention
    from txcalc.spec.model import Stack


def opened(t: Trace, stack: Stack, x: Tensor) -> Tensor:
    """Positions (b, n, d) and behind them streams of as many: a learned vector each, and the places to predict."""
    (b, n, d), streams = x.shape, ahead(stack)
    if not streams:
        return x
    places: tuple[Tensor, ...] = ()
    if stack.position.kind == "learned":
        name = "position_embedding"
        ids = ops.made(t, name, n, label="places ahead", kind="embedding")
        places = (ops.embedding(t, name, ids, stack.position.size, d, tied=t.path(f"{name}.weight")),)
    with t.scope("ahead"):
        first = ops.learned(t, "streams", (streams, d), streams, 1, d)
        made = t.tensor(streams, n, d, label="streams ahead")
        t.op("sum", "elementwise", reads=(first, *places), writes=(made,),
             backward=(tuple(ops.to(each) for each in (first, *places)),))
        return parts.join_positions(t, "join", (x, t.alias(made, 1, streams * n, d)), b, x.label)


def attention(t: Trace, spec: Attention, x: Tensor, past: Number, span: Span, cache: Cache | None) -> Tensor:
    """Positions to those before them, as ever; each stream to those before it, and to itself."""
    assert spec.ahead is not None
    (b, _, d), g, h, hd = x.shape, spec.ahead.streams, spec.heads, spec.head_dim
    core = Core(Heads(h, h, hd, hd), span, cache, "biases of distances need the scores' gradient")
    choose(t, core)
    n, width = core.span.queries, h * hd
    with t.frame(x):
        q, k, v = (ops.linear(t, name, x, width, bias=getattr(spec.bias, name), part=name) for name in ("q", "k", "v"))
        biases = ops.linear(t, "distances", x, spec.ahead.buckets * h, bias=True)
        seen = [parts.remade(t, f"{name}_first", y, b, n, width, label=y.label) for name, y in (("k", k), ("v", v))]
        if core.cache is not None and not t.workload.keeps:
            seen = [*extend(t, seen[0], seen[1], core.span.before, core.span.held)]
        total = core.span.keys + n
        own = [parts.remade(t, f"{name}_ahead", y, b * g, total, width, label=y.label)
               for name, y in (("k", k), ("v", v))]
        kept = g * n * total  # behind cached tokens the class masks nothing
        if t.size(past) == 0:
            kept = g * n + sum(visible_pairs(n - i, 0, causal=True) for i in range(min(t.size(g) or 0, t.size(n) or 0)))
        found = [_contexts(t, spec, "core", q, seen, biases, core, 1, hd * core.span.pairs)]
        biases = parts.remade(t, "biases", biases, b * g, h, n, spec.ahead.buckets, label="biases")
        found.append(_contexts(t, spec, "core.ahead", q, own, biases, core._replace(cache=None), g, hd * kept))
        y = parts.join_positions(t, "join", tuple(found), b, "contexts")
        o = ops.linear(t, "o", t.hold(y), d, bias=spec.bias.o, part="attention output")
        return ops.dropout(t, "dropout", split.leave(t, "o", o))


def _contexts(
    t: Trace, spec: Attention, name: str, q: Tensor, sides: list[Tensor], biases: Tensor, core: Core, count: Number,
    kept: Number,
) -> Tensor:
    """Contexts (b, count * n, width) of ``count`` streams' queries among all, whose projections bias scores."""
    (keys, values), b, n, hd = sides, q.shape[0], core.span.queries, spec.head_dim
    rows, ahead_of = keys.shape[1], name != "core"
    index = t.tensor(n, rows, role=Role.INDEX if ahead_of else Role.PARAMETER, label="distances", grad=False)
    if ahead_of:
        t.op("index", "elementwise", writes=(index,))
    shape = (b * count, spec.heads, n, rows)
    bias = t.tensor(*shape, label="biases of distances", scores=True)
    t.op("gather", "index", saves=(biases, index), reads=(biases, index), writes=(bias,),
         backward=ops.into_zeros(ops.to(biases)))
    product = Product(b * spec.heads, count * n, rows, hd, kept)
    with t.scope(name):
        q = parts.remade(t, "q", ops.scaled(t, "scale", q), b * count, n, q.shape[2], label="queries")
        scores = ops.matmul(t, "scores", q, keys, product, t.tensor(*shape, label="scores", scores=True),
                            cache=core.cache)
        scores = ops.shifted(t, "mask", ops.add(t, scores, bias, "bias"), buffer=True)
        weights = ops.dropout(t, "dropout", ops.softmax(t, "softmax", scores))
        y = t.tensor(b * count, n, q.shape[2], label="context")
        product = product._replace(n=hd, k=rows)
        if t.size(rows) == 1:  # ``torch.einsum`` over one key multiplies value by value
            product = product._replace(forward=0, backward=0)
        y = ops.matmul(t, "context", weights, values, product, y)
    return y.view(b, count * n, q.shape[2])
