"""Feed-forward layers, dense and mixture of experts, written as their forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops
from txcalc.trace.record import Number, Role, Tensor, Trace

if TYPE_CHECKING:
    from txcalc.spec.layers import Dense, MoE, Norm


def feed_forward(
    t: Trace, spec: Dense | MoE, x: Tensor, given: Tensor | None = None, norm: Norm | None = None
) -> Tensor:
    """(b, n, d) -> (b, n, d). ``given`` and ``norm``: what ``x`` was normed from, and the block's norm."""
    with t.scope("feed_forward", component=True):
        if spec.kind == "dense":
            y = _dense(t, spec, spec.d_ff, x)
        elif spec.apart:
            assert given is not None and norm is not None
            y = _moe_apart(t, spec, x, given, norm)
        else:
            y = _moe(t, spec, x)
        return y if spec.kind == "dense" else ops.dropout(t, "dropout", y)


def _dense(t: Trace, spec: Dense | MoE, d_ff: Number, x: Tensor) -> Tensor:
    """``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))`` when gated (arXiv 2002.05202)."""
    *_, d = x.shape
    with t.frame(x):
        up = t.hold(ops.linear(t, "up", x, d_ff, bias=spec.bias.up))
        if spec.gated:
            gate = ops.linear(t, "gate", x, d_ff, bias=spec.bias.gate)
            h = ops.multiply(t, "product", ops.activation(t, "activation", gate, spec.activation), up)
        else:
            h = ops.activation(t, "activation", up, spec.activation)
        if spec.kind == "dense" and spec.inner_norm is not None:
            h = ops.norm(t, "inner_norm", h, spec.inner_norm)
        y = ops.linear(t, "down", t.hold(h), d, bias=spec.bias.down)
        return ops.dropout(t, "dropout", y) if spec.kind == "dense" else y


def _moe(t: Trace, spec: MoE, x: Tensor) -> Tensor:
    """The experts that the router chooses, and the shared ones."""
    b, n, d = x.shape
    y = _routed(t, spec, x, _route(t, spec, x.view(b * n, d)))
    if spec.shared_d_ff is not None:
        shared = _shared(t, spec, x)
        if spec.shared_gate:
            gate = ops.activation(t, "shared_gate_activation", ops.linear(t, "shared_gate", x, 1), "sigmoid")
            shared = ops.multiply(t, "shared_product", shared, gate, broadcast=True)
        y = ops.add(t, y, shared)
    return y


def _moe_apart(t: Trace, spec: MoE, x: Tensor, given: Tensor, norm: Norm) -> Tensor:
    """Shared experts on the normed input, routed ones on ``given`` through a norm of theirs, both normed again."""
    b, n, d = given.shape
    shared = ops.norm(t, "shared_norm", _shared(t, spec, x), norm)
    plain = ops.rms_norm(t, "router_norm", given.view(b * n, d), scale=False)
    weights = _route(t, spec, ops.scale(t, "router_scale", plain))
    scales = t.tensor(*weights.shape, label="expert scales")
    t.op("expert_scale", "elementwise", weights={"": (spec.experts,)}, saves=(weights, scales))
    weights = t.tensor(*weights.shape, label="scaled weights")
    routed = _routed(t, spec, ops.norm(t, "routed_norm", given, norm), weights)
    return ops.add(t, shared, ops.norm(t, "routed_post_norm", routed, norm))


def _shared(t: Trace, spec: MoE, x: Tensor) -> Tensor:
    assert spec.shared_d_ff is not None
    with t.scope("shared"):
        return _dense(t, spec, spec.shared_experts * spec.shared_d_ff, x)


def _routed(t: Trace, spec: MoE, x: Tensor, weights: Tensor) -> Tensor:
    """Sort copies of the tokens by expert, run each expert on its share, put them back.

    The experts' scope runs ``active_experts`` times over all tokens: however the router spreads the tokens,
    that many rows in all pass through the experts.
    """
    b, n, d = x.shape
    tokens, a = b * n, spec.active_experts
    rows = ops.take_rows(t, "permute", x.view(tokens, d), tokens * a)
    with t.scope("experts", copies=spec.experts, active=a, calls=a):
        _dense(t, spec, spec.d_ff, rows.view(tokens, d))
    y = ops.take_rows(t, "unpermute", t.tensor(tokens * a, d, label="expert outputs"), tokens * a)
    ops.multiply(t, "combine", y, weights, broadcast=True)
    return t.tensor(b, n, d, label="mixed experts")


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
