"""Mixtures of experts as transformers' modelling files route and run them: one product for the rows of all experts.

Its functions are named in quotes. What is alive does not depend on the choices of the router: ``F.grouped_mm`` takes
rows sorted by expert, and the weights of all experts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from txcalc.spec.errors import SpecError
from txcalc.trace import curves, low_rank, ops, parts
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, several
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import MoE


def route(t: Trace, spec: MoE, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """``TopKRouter.forward``: weights and experts of each token, (tokens, active)."""
    n, _ = tokens.shape
    read = ops.view(t, "router", tokens)
    logits = t.hold(ops.linear(t, "router", read, spec.experts, bias=spec.router_bias, kind="router"))
    with t.frame(tokens):
        given = logits if t.code.router == "narrow" else ops.cast(t, "router_softmax", logits, Role.FLOAT32)
        scores = t.hold(ops.softmax(t, "router_softmax", given, wide="router_softmax"))
        weights, chosen = (t.tensor(n, spec.active_experts, role=role, label=label, grad=role is not Role.INDEX)
                           for role, label in ((scores.role, "top-k weights"), (Role.INDEX, "top-k index")))
        t.op("topk", "choice", saves=(chosen,), reads=(scores,), writes=(t.hold(weights), chosen),
             backward=ops.into_zeros(ops.to(scores)))
        if spec.normalize:
            sums = parts.sum_of(t, "normalize", weights, n, 1, label="sum of weights")
            weights = curves.normalize(t, weights, sums, in_place=True)
        if t.code.router == "narrow":
            weights = ops.cast(t, "router_cast", weights, logits.role)
        return weights, chosen


def route_in_groups(t: Trace, spec: MoE, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """``DeepseekV3TopkRouter.forward``: the same in fp32, from the groups whose best two experts score highest."""
    (n, _), e, g, a, name = tokens.shape, spec.experts, spec.expert_groups, spec.active_experts, "groups"
    logits = t.hold(_wide_product(t, spec, tokens))

    def made(*shape: Number, role: Role = Role.FLOAT32) -> Tensor:
        return t.tensor(n, *shape, role=role, label=name, grad=False)

    ranks, hidden = made(g, 2, role=Role.INDEX), made(e, role=Role.BOOL)
    with t.frame(*((ranks, hidden) if t.workload.keeps and t.needs(logits) else ()), saved=True), t.frame(tokens):
        scores = t.hold(curves.activation(t, "router_sigmoid", logits, "sigmoid"))
        shifted, best, sums, mask, spread, masked = made(e), made(g, 2), made(g), made(g), made(e), made(e)
        places, chosen = (made(count, role=Role.INDEX) for count in (spec.active_groups, a))
        shown = made(e, role=Role.BOOL)
        for reads, writes in (
            ((scores,), (shifted,)), ((shifted,), (best, ranks)), ((best,), (t.hold(sums),)),
            ((sums,), (t.hold(places), made(spec.active_groups))), ((sums,), (t.hold(mask),)),
            *([((mask,), (t.hold(spread),))] if several(t, g) else []),
            ((spread if several(t, g) else mask,), (shown,)), ((shown,), (hidden,)),
            ((shifted, hidden), (t.hold(masked),)), ((masked,), (chosen, made(a))),
        ):
            t.op(name, "elementwise", reads=reads, writes=writes)
        weights = t.tensor(n, a, role=scores.made, label="top-k weights")
        t.op("topk", "choice", saves=(chosen,), reads=(scores, chosen), writes=(weights,),
             backward=ops.into_zeros(ops.to(scores)))
        if spec.normalize:
            total = ops.shifted(t, "normalize", parts.sum_of(t, "normalize", weights, n, 1, label="sum of weights"))
            weights = curves.normalize(t, weights, t.hold(total), in_place=True)
        return ops.scaled(t, "router_scale", t.hold(weights)), t.hold(chosen)


def _wide_product(t: Trace, spec: MoE, tokens: Tensor) -> Tensor:
    """``F.linear`` of tokens and weights in fp32."""
    x = ops.cast(t, "router_cast", tokens, Role.FLOAT32)
    if x is tokens:
        return ops.linear(t, "router", tokens, spec.experts, kind="router")
    (n, d), e, path = tokens.shape, spec.experts, f"{t.path('router')}.weight"
    weight = t.op("router_cast", "elementwise", writes=(t.tensor(e, d, role=Role.FLOAT32, label="router in fp32"),),
                  backward=((ops.of_weight(path, e, d),),))
    return t.op("router", "router", weights={"weight": (e, d)}, products=(Product(1, n, e, d),), saves=(x, weight),
                reads=(x, weight), writes=(t.tensor(n, e, role=Role.FLOAT32, label="router"),),
                backward=((ops.to(weight.view(e, d)),), (ops.to(x),)), apart=True)


def experts(t: Trace, spec: MoE, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """``grouped_mm_experts_forward``: (tokens, d), and the weights and experts of each, to (tokens, d)."""
    (n, d), a = tokens.shape, spec.active_experts
    rows, unit = n * a, 16 // t.workload.bytes_of(tokens.made)
    if any(size is not None and size % unit for size in map(t.size, (d, spec.d_ff))):
        raise SpecError(f"F.grouped_mm wants d_model and d_ff of experts in multiples of {unit}",
                        field="implementation")
    sets, integers = (spec.experts,), partial(ops.made, t, label="row index")
    with t.frame(tokens, weights, chosen):
        with t.scope("experts", copies=spec.experts, active=a, repeat=True, within="experts"):
            down = low_rank.summed(t, ("down",), *sets, d, spec.d_ff)
            both = low_rank.summed(t, ("gate", "up"), *sets, 2 * spec.d_ff, d)
        ranks, order = (t.hold(t.tensor(rows, role=Role.INDEX, label=label, grad=False))
                        for label in ("sorted", "order"))
        t.op("permute", "elementwise", reads=(chosen,), writes=(ranks, order))
        own = integers("permute", rows, of=order)
        selected = t.hold(parts.take_rows(t, "permute", tokens, own))
        own_weights = t.hold(parts.take_rows(t, "permute_weights", weights.view(rows), order))
        counted = t.hold(integers("counts", rows, of=ranks, role=Role.COUNT))
        each = t.hold(integers("counts", spec.experts, of=counted, role=Role.COUNT))
        bounds = (t.hold(integers("counts", spec.experts, of=each, role=Role.COUNT)),)
        with t.scope("experts", copies=spec.experts, active=a, repeat=True, within="experts"):
            wide = ops.linears(t, selected, {"gate": (spec.d_ff, ""), "up": (spec.d_ff, "")}, bias=spec.bias.up,
                               sets=sets, bounds=bounds, read=both())
            with t.frame(wide):
                gate, up = parts.columns(t, "gate_up", wide, spec.d_ff, spec.d_ff)
                h = t.hold(ops.multiply(t, "product", curves.activation(t, "activation", gate, spec.activation), up))
            y = t.hold(ops.linears(t, h, {"down": (d, "down")}, bias=spec.bias.down, sets=sets, bounds=bounds,
                                   read=down()))
        weighted = ops.multiply(t, "combine", y, own_weights.view(rows, 1), broadcast=True)
        back = t.hold(integers("unpermute", rows, of=order))
        integers("unpermute", rows, of=back)
        restored = t.hold(parts.take_rows(t, "unpermute", weighted, back))
        by_token = ops.view(t, "combine", restored, n, a, d, copied=several(t, n, a))
        mixed = t.hold(parts.sum_of(t, "combine", by_token, n, d, label="mixed experts"))
        return ops.cast(t, "combine", mixed, tokens.role)
