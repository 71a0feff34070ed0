"""Feed-forward layers, dense and mixture of experts, written as their forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops
from txcalc.trace.record import Number, Role, Tensor, Trace

if TYPE_CHECKING:
    from txcalc.spec.layers import Dense, MoE


def feed_forward(t: Trace, spec: Dense | MoE, x: Tensor) -> Tensor:
    """(b, n, d) -> (b, n, d)."""
    with t.scope("feed_forward", component=True):
        y = _moe(t, spec, x) if spec.kind == "moe" else _dense(t, spec, spec.d_ff, x)
        return ops.dropout(t, "dropout", y)


def _dense(t: Trace, spec: Dense | MoE, d_ff: Number, x: Tensor) -> Tensor:
    """``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))`` when gated (arXiv 2002.05202)."""
    *_, d = x.shape
    if spec.gated:
        up = ops.linear(t, "up", x, d_ff, bias=spec.bias.up)
        gate = ops.linear(t, "gate", x, d_ff, bias=spec.bias.gate)
        h = ops.multiply(t, "product", ops.activation(t, "activation", gate, spec.activation), up)
    else:
        h = ops.activation(t, "activation", ops.linear(t, "up", x, d_ff, bias=spec.bias.up), spec.activation)
    if spec.kind == "dense" and spec.inner_norm is not None:
        h = ops.norm(t, "inner_norm", h, spec.inner_norm)
    return ops.linear(t, "down", h, d, bias=spec.bias.down)


def _moe(t: Trace, spec: MoE, x: Tensor) -> Tensor:
    """Route every token to its top experts, sort the copies by expert, run each expert on its share, put them back.

    The experts' scope runs ``active_experts`` times over all tokens: however the router spreads the tokens,
    that many rows in all pass through the experts.
    """
    b, n, d = x.shape
    tokens, a = b * n, spec.active_experts
    weights = _route(t, spec, x.view(tokens, d))
    rows = ops.take_rows(t, "permute", x.view(tokens, d), tokens * a)
    with t.scope("experts", copies=spec.experts, active=a, calls=a):
        _dense(t, spec, spec.d_ff, rows.view(tokens, d))
    y = ops.take_rows(t, "unpermute", t.tensor(tokens * a, d, label="expert outputs"), tokens * a)
    y = ops.multiply(t, "combine", y, weights)
    y = t.tensor(b, n, d, label="mixed experts")
    if spec.shared_d_ff is not None:
        with t.scope("shared"):
            shared = _dense(t, spec, spec.shared_experts * spec.shared_d_ff, x)
        if spec.shared_gate:
            gate = ops.activation(t, "shared_gate_activation", ops.linear(t, "shared_gate", x, 1), "sigmoid")
            shared = ops.multiply(t, "shared_product", shared, gate)
        y = ops.add(t, y, shared)
    return y


def _route(t: Trace, spec: MoE, x: Tensor) -> Tensor:
    """The router's (tokens, active_experts) weights. The sorted order and the top-k index are kept."""
    tokens, _ = x.shape
    scores = ops.linear(t, "router", x, spec.experts, bias=spec.router_bias, kind="router")
    chosen = (tokens, spec.active_experts)
    index = t.tensor(*chosen, role=Role.INDEX, label="top-k index")
    if spec.routing == "topk-softmax":
        t.op("topk", "router", saves=(index,))
        return ops.softmax(t, "router_softmax", t.tensor(*chosen, label="top-k scores"))
    if spec.routing == "softmax-topk":
        ops.softmax(t, "router_softmax", scores)
    else:
        ops.activation(t, "router_sigmoid", scores, "sigmoid")
    t.op("topk", "router", saves=(index,))
    weights = t.tensor(*chosen, label="top-k weights")
    if spec.normalize:
        t.op("normalize", "router", saves=(weights, t.tensor(tokens, 1, label="sum of weights")))
        weights = t.tensor(*chosen, label="normalised weights")
    return weights
