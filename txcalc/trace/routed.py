"""Rows that a router sends to experts, each to a few of them: those of a feed-forward, or of attention's queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from txcalc.spec.base import Routing
from txcalc.trace import curves, ops, parts, split
from txcalc.trace.record import Trace
from txcalc.trace.sizes import least
from txcalc.trace.tensors import Number, Role, Tensor


class Experts(NamedTuple):
    """Experts: their number, the columns that each puts out, and the program of one on its rows."""

    count: Number
    width: Number
    run: Callable[[Tensor], Tensor]


def through(t: Trace, experts: Experts, rows: Tensor, chosen: Tensor, *, apart: bool = False) -> Tensor:
    """Sort rows by expert, split them, run each expert on its share, and put them back in place.

    (tokens, d), or ``apart``, with a row for each expert of a token, (tokens x active, d), to (tokens, active, width).
    What is made on the way lives until the caller's frame ends.
    """
    n, a = chosen.shape
    order = t.hold(_order(t, "permute", chosen))
    index = order if apart else ops.made(t, "permute", n * a, of=order, label="row index")
    rows = t.hold(parts.take_rows(t, "permute", rows, index))
    ops.made(t, "counts", experts.count, of=chosen, label="row index")
    rows = split.exchange(t, "dispatch", rows)
    y = ops.gathered(t, "outputs", (_run(t, experts, rows, a),), n * a, experts.width, label="expert outputs")
    y = t.hold(split.exchange(t, "collect", y))
    return parts.take_rows(t, "unpermute", y, _order(t, "unpermute", order)).view(n, a, experts.width)


def mixed(t: Trace, outputs: Tensor, weights: Tensor) -> Tensor:
    """The weighed sum of what a token's experts put out, (tokens, active, d) to (tokens, d)."""
    n, a, d = outputs.shape
    product = ops.multiply(t, "combine", t.hold(outputs), weights.view(n, a, 1), broadcast=True)
    return parts.sum_of(t, "combine", product, n, d, label="mixed experts")


def _run(t: Trace, experts: Experts, rows: Tensor, a: Number) -> Tensor:
    """Each expert on its share of the sorted rows, to a list of what they put out.

    Shares are equal as far as whole rows allow; an expert without any does not run. Together, they are as many passes
    of all tokens as there are active experts. Ranks that share experts have as many rows each as tokens have experts.
    """
    total, d = rows.shape
    own_experts = experts.count // t.layout.ep
    whole = ops.view(t, "split", rows, copied=True)
    outputs: Tensor | None = None
    with t.scope("experts", copies=own_experts, active=a if t.layout.ep == 1 else least(a, own_experts), calls=a,
                 repeat=True, within="experts"):
        experts.run(rows.view(total // a, d))
    each = total // own_experts
    more = total - each * own_experts
    last = len(t.body)
    for count, share in ((more, each + 1), (own_experts - more, each)):
        if t.size(share) == 0:
            continue
        with t.scope("experts", copies=count, calls=count, repeat=True, within="experts"):
            own = t.alias(whole, share, d)
            y = experts.run(own)
        if outputs is None:
            outputs = t.tensor(total, experts.width, label="expert output", grad=t.needs(y))
        t.extend(spreads=((whole, own),), gathers=((y, outputs),))
    runs = tuple(t.body[last:])
    del t.body[last:]
    t.extend(runs=runs)
    assert outputs is not None
    return outputs


def route(
    t: Trace, scores: Tensor, active: Number, routing: Routing, *,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Scores (tokens, experts) to weights and experts, both (tokens, active)."""
    tokens, _ = scores.shape
    with t.frame(scores):
        if routing == "softmax-topk":
            scores = ops.softmax(t, "router_softmax", scores)
        elif routing == "sigmoid-topk":
            scores = curves.activation(t, "router_sigmoid", scores, "sigmoid")
        elif routing == "softplus-topk":
            scores = curves.activation(t, "router_softplus", scores, "softplus")
            root = ops.like(t, scores, "square roots")
            scores = ops.elementwise(t, "router_root", "slope_out", scores, root, keeps=(root,))
        weights, chosen = (t.tensor(tokens, active, role=role, label=label, grad=role is not Role.INDEX)
                           for role, label in ((scores.role, "top-k weights"), (Role.INDEX, "top-k index")))
        t.op("topk", "choice", saves=(chosen,), reads=(scores,), writes=(t.hold(weights), chosen),
             backward=ops.into_zeros(ops.to(scores)))
        if routing == "topk-softmax":
            weights = ops.softmax(t, "router_softmax", weights)
        elif normalize:
            sums = parts.sum_of(t, "normalize", weights, tokens, 1, label="sum of weights")
            weights = curves.normalize(t, weights, sums)
        return weights, chosen


def _order(t: Trace, name: str, index: Tensor) -> Tensor:
    """``torch.argsort``: the sorted values are dropped."""
    values, order = (t.tensor(index.elements, role=Role.INDEX, label=label, grad=False)
                     for label in ("sorted", "order"))
    t.op(name, "elementwise", reads=(index,), writes=(values, order))
    return order
