"""Feed-forward layers, dense and mixture of experts, written as their forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import beside, curves, dispatched, grouped, megatron, norms, ops, parts, routed, split
from txcalc.trace.record import Trace
from txcalc.trace.recurrent import mixed_with_last
from txcalc.trace.routed import Experts
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import Dense, MoE, Norm


def feed_forward(
    t: Trace, spec: Dense | MoE, x: Tensor, given: Tensor | None = None, norm: Norm | None = None, *,
    cached: bool = False,
) -> Tensor:
    """(b, n, d) -> (b, n, d). ``given`` and ``norm``: what ``x`` was normed from, and the block's norm.

    ``cached``: it keeps what later tokens need, where they need anything.
    """
    with t.scope("feed_forward", component="gated" if spec.gated else "feed_forward"):
        if spec.kind == "dense" and spec.channel_mix:
            y = _channel_mix(t, spec, x, cached=cached)
        elif spec.kind == "dense":
            y = _dense(t, spec, spec.d_ff, x)
        elif spec.separate_norms:
            assert given is not None and norm is not None
            y = _moe_separate(t, spec, x, given, norm)
        elif t.code.router == "dispatched":
            y = _moe_parallel(t, spec, x)
        elif t.code.router:
            y = _moe_grouped(t, spec, x)
        else:
            y = _moe(t, spec, x)
        return y


def _dense(t: Trace, spec: Dense | MoE, d_ff: Number, x: Tensor) -> Tensor:
    """``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))`` when gated (arXiv 2002.05202)."""
    *_, d = x.shape
    drops = t.code.drops if spec.kind == "dense" else "no"
    with t.frame(*(() if t.code.feeds_inline else (x,))):
        h = _widened(t, spec, d_ff, x)
        if spec.kind == "dense" and spec.inner_norm is not None:
            h = norms.norm(t, "inner_norm", h, spec.inner_norm)
        if t.code.drops_widened and spec.kind == "dense":
            h = ops.dropout(t, "widened_dropout", h)
        if not t.code.reuses_names or t.code.output == "apart":
            t.hold(h, "sublayer" if t.code.output == "apart" else "")
        h = ops.cast(t, "down", h, Role.WEIGHT) if t.code.widens else h
        with t.frame(h):
            y = beside.project(t, "down", h, d, bias=spec.bias.down, part="down", groups=_groups(spec, "down"))
        if spec.kind == "dense" or t.code.sums_shared:
            y = split.leave(t, "down", y)
        if drops == "inside":
            y = ops.dropout(t, "dropout", y)
    if t.code.holds_sublayers == "sublayer":
        t.hold(y, "sublayer")
    return ops.dropout(t, "dropout", y) if drops == "outside" else y


def _channel_mix(t: Trace, spec: Dense, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2305.13048, equations 17 and 18: sigmoid(receptance) times the rest, of mixes with the token before."""
    mixed = mixed_with_last(t, x, ("up", "receptance"), cached=cached)
    y = _dense(t, spec, spec.d_ff, mixed["up"])
    gate = ops.linear(t, "receptance", mixed["receptance"], x.shape[-1])
    return ops.multiply(t, "gated", curves.activation(t, "receptance_activation", gate, "sigmoid"), y)


def _groups(spec: Dense | MoE, name: str) -> Number:
    return getattr(spec.column_groups, name) if spec.kind == "dense" else 1


def _widened(t: Trace, spec: Dense | MoE, d_ff: Number, x: Tensor) -> Tensor:
    if t.code.gate_up == "fused":  # one kernel activates and multiplies, and keeps what it reads
        both = megatron.column(t, x, dict.fromkeys(("gate", "up") if spec.gated else ("up",), (d_ff, "")),
                               bias=spec.bias.up)
        h = t.tensor(*both.shape[:-1], d_ff, role=both.made, label="activation")
        return ops.elementwise(t, "activation", "slope_in", both, h, keeps=(both,))
    if not spec.gated and t.code.feeds_inline:
        with t.frame(x):
            return curves.activation(t, "activation", ops.linear(t, "up", x, d_ff, bias=spec.bias.up), spec.activation)
    if not spec.gated:
        up = beside.project(t, "up", x, d_ff, bias=spec.bias.up, groups=_groups(spec, "up"))
        return curves.activation(t, "activation", up if t.code.reuses_names else t.hold(up), spec.activation)
    if t.code.gate_up == "together" and spec.kind == "dense":
        both = t.hold(ops.linears(t, x, {"gate": (d_ff, ""), "up": (d_ff, "")}, bias=spec.bias.up))
        gate, up = parts.columns(t, "gate_up", both, d_ff, d_ff)
        return ops.multiply(t, "product", up, curves.activation(t, "activation", gate, spec.activation))
    if t.code.gate_first:
        opened, up = _gate(t, spec, d_ff, x), ops.linear(t, "up", x, d_ff, bias=spec.bias.up)
        if t.code.drops_widened:
            opened, up = t.hold(opened), t.hold(up)
        return ops.multiply(t, "product", opened, up)
    up = t.hold(ops.linear(t, "up", x, d_ff, bias=spec.bias.up))
    return ops.multiply(t, "product", _gate(t, spec, d_ff, x), up)


def _gate(t: Trace, spec: Dense | MoE, d_ff: Number, x: Tensor) -> Tensor:
    return curves.activation(t, "activation", ops.linear(t, "gate", x, d_ff, bias=spec.bias.gate), spec.activation)


def _moe(t: Trace, spec: MoE, x: Tensor) -> Tensor:
    """The experts that the router chooses, and the shared ones."""
    b, n, d = x.shape
    with t.frame(x):
        tokens = t.hold(ops.view(t, "tokens", x, b * n, d))
        rows = tokens if spec.latent is None else t.hold(ops.linear(t, "latent_down", tokens, spec.latent))
        scores = ops.linear(t, "router", tokens, spec.experts, bias=spec.router_bias, kind="router")
        y = _routed(t, spec, rows, *_route(t, spec, scores))
        if spec.latent is not None:
            y = ops.linear(t, "latent_up", y, d)
        if spec.shared_d_ff is not None:
            shared = t.hold(_shared(t, spec, tokens))
            if spec.shared_gate:
                gate = ops.linear(t, "shared_gate", tokens, 1)
                gate = curves.activation(t, "shared_gate_activation", gate, "sigmoid")
                shared = ops.multiply(t, "shared_product", shared, gate, broadcast=True)
            y = ops.add(t, y, shared)
        y = split.leave(t, "output", (y if spec.output_bias else t.hold(y)).view(b, n, d))
        if spec.output_bias:
            own = ops.learned(t, "output_bias", (d,), d, how="same")
            y = t.hold(ops.add(t, y, own, "output_bias"))
        y = y if spec.output_norm is None else norms.norm(t, "output_norm", y, spec.output_norm)
        return ops.dropout(t, "dropout", y)


def _moe_grouped(t: Trace, spec: MoE, x: Tensor) -> Tensor:
    """``SparseMoeBlock.forward``: the same, with one product for the rows of all experts."""
    b, n, d = x.shape
    with t.frame(x):
        tokens = ops.view(t, "tokens", x, b * n, d)
        route = grouped.route_in_groups if t.code.router == "groups" else grouped.route
        weights, chosen = (t.hold(each) for each in route(t, spec, tokens))
        if t.code.router == "groups":
            tokens = ops.view(t, "tokens", x, b * n, d)
        y = grouped.experts(t, spec, tokens, weights, chosen).view(b, n, d)
        return y if spec.shared_d_ff is None else ops.add(t, t.hold(y), _shared(t, spec, x))


def _moe_parallel(t: Trace, spec: MoE, x: Tensor) -> Tensor:
    """``MoELayer.forward``: tokens are permuted, exchanged and sorted by expert, and go the same way back."""
    b, n, d = x.shape
    with t.frame(x):
        tokens = ops.view(t, "tokens", x, b * n, d)
        weights, kept = dispatched.route(t, spec, tokens)
        rows, weights = dispatched.dispatch(t, spec, tokens, weights, kept)
        shared = None if spec.shared_d_ff is None else t.hold(_shared(t, spec, x))
        y = dispatched.combine(t, spec, dispatched.experts(t, spec, rows, weights), kept, b * n).view(b, n, d)
        return ops.dropout(t, "dropout", y if shared is None else ops.add(t, y, shared))


def _moe_separate(t: Trace, spec: MoE, x: Tensor, given: Tensor, norm: Norm) -> Tensor:
    """Shared experts on the normed input, routed ones on ``given`` through a norm of theirs, both normed again."""
    b, n, d = given.shape
    with t.frame(x, given):
        tokens = t.hold(ops.view(t, "tokens", given, b * n, d))
        plain = ops.scale(t, "router_scale", norms.norm(t, "router_norm", tokens, norms.RMS._replace(scale=False)))
        plain = ops.scaled(t, "router_scale", plain)
        scores = t.hold(ops.linear(t, "router", plain, spec.experts, bias=spec.router_bias, kind="router"))
        weights, chosen = (t.hold(each) for each in _route(t, spec, scores))
        normed = norms.norm(t, "routed_norm", tokens, norm)
        scales = t.op("expert_scale", "index", weights={"": (spec.experts,)}, saves=(chosen,), reads=(chosen,),
                      writes=(t.tensor(*chosen.shape, role=Role.WEIGHT, label="expert_scale"),),
                      backward=ops.into_zeros(ops.of_weight(t.path("expert_scale"), spec.experts)))
        mixed = t.hold(_routed(t, spec, normed, ops.multiply(t, "expert_scale", weights, scales), chosen))
        shared = norms.norm(t, "shared_norm", _shared(t, spec, ops.view(t, "tokens", x, b * n, d)), norm)
        y = t.hold(ops.add(t, shared, norms.norm(t, "routed_post_norm", mixed, norm)))
        return ops.dropout(t, "dropout", y.view(b, n, d))


def _shared(t: Trace, spec: MoE, x: Tensor) -> Tensor:
    assert spec.shared_d_ff is not None
    with t.scope("shared"):
        return _dense(t, spec, spec.shared_experts * spec.shared_d_ff, x)


def _routed(t: Trace, spec: MoE, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """Each token through its experts, (tokens, d) to (tokens, d), weighed by (tokens, active)."""
    _, d = tokens.shape
    with t.frame(tokens, weights, chosen):
        run = Experts(spec.experts, d, lambda rows: _dense(t, spec, spec.d_ff, rows))
        return routed.mixed(t, routed.through(t, run, tokens, chosen), weights)


def _route(t: Trace, spec: MoE, scores: Tensor) -> tuple[Tensor, Tensor]:
    return routed.route(t, scores, spec.active_experts, spec.routing, normalize=spec.normalize)
