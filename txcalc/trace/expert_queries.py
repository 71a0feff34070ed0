"""Experts of attention: each token's queries and outputs are projected by those that it chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from txcalc.trace import ops, routed
from txcalc.trace.record import Trace
from txcalc.trace.routed import Experts
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import Attention


class Route(NamedTuple):
    """Tokens (b x n, d), and the weights and numbers of each one's experts, (b x n, active)."""

    tokens: Tensor
    weights: Tensor
    chosen: Tensor


def route(t: Trace, spec: Attention, x: Tensor) -> Route:
    """Experts that project each token's queries and outputs (JetMoE, arXiv 2404.07413, section 2.2)."""
    b, n, d = x.shape
    assert spec.query_experts is not None
    with t.scope("query_experts"):
        tokens = t.hold(ops.view(t, "tokens", x, b * n, d))
        scores = ops.linear(t, "router", tokens, spec.query_experts, kind="router")
        return Route(tokens, *map(t.hold, routed.route(t, scores, spec.heads // spec.kv_heads, "topk-softmax")))


def queries(t: Trace, spec: Attention, x: Tensor, route: Route) -> Tensor:
    """Queries of each token's experts, side by side."""
    b, n, _ = x.shape
    assert spec.query_experts is not None
    width = spec.kv_heads * spec.head_dim
    with t.scope("query_experts"):
        experts = Experts(spec.query_experts, width, lambda rows: ops.linear(t, "q", rows, width))
        return routed.through(t, experts, route.tokens, route.chosen).view(b, n, spec.heads * spec.head_dim)


def outputs(t: Trace, spec: Attention, y: Tensor, d: Number, route: Route) -> Tensor:
    """The weighed sum of what the same experts project the contexts of their queries to."""
    b, n, width = y.shape
    assert spec.query_experts is not None
    tokens, active = route.chosen.shape
    with t.scope("output_experts"):
        experts = Experts(spec.query_experts, d, lambda rows: ops.linear(t, "o", rows, d))
        rows = ops.view(t, "rows", y, tokens * active, width // active)
        o = routed.mixed(t, routed.through(t, experts, rows, route.chosen, apart=True), route.weights).view(b, n, d)
        if spec.bias.o:
            o = ops.add(t, o, ops.learned(t, "bias", (d,), d, how="same"), "bias")
    return o
