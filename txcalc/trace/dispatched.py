"""Mixtures of experts as Megatron-LM routes, dispatches and runs them (``megatron/core/transformer/moe`` of 0.14).

Every expert has as many rows, as with a capacity of one: what is alive does not depend on the router's choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import curves, ops, split
from txcalc.trace.record import Part, Trace
from txcalc.trace.tensors import Number, Role, Steps, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import MoE


def route(t: Trace, spec: MoE, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """``TopKRouter.forward``: of (tokens, d) the weight of every expert for every token, and where its row goes.

    Scores are in fp32, once more for the loss that balances experts (``compute_routing_scores_for_aux_loss``).
    ``_moe_permute_mask_map`` of TransformerEngine keeps two integers of every expert, and one.
    """
    (n, _), e = tokens.shape, spec.experts
    with t.frame(tokens):
        logits = t.hold(ops.linear(t, "router", tokens, e, bias=spec.router_bias, kind="router"))
        scores, balanced = (_scores(t, spec, name, logits) for name in ("router", "balance"))
        scores = t.hold(ops.cast(t, "router_cast", scores, logits.role))
        chosen = t.tensor(n, spec.active_experts, role=Role.INDEX, label="top-k index", grad=False)
        weights = t.tensor(n, spec.active_experts, role=scores.role, label="top-k weights")
        t.op("topk", "choice", saves=(chosen,), reads=(scores,), writes=(weights, chosen),
             backward=ops.into_zeros(ops.to(scores)))
        seen = t.tensor(n, e, role=Role.BOOL, label="routing map", grad=False)
        spread = t.tensor(n, e, role=scores.role, label="weights of experts")
        t.op("routing_map", "choice", saves=(chosen, seen), reads=(weights, chosen, balanced), writes=(spread, seen),
             backward=((ops.to(spread),), (ops.to(weights), ops.to(balanced))))
        return spread, ops.made(t, "row_map", n, 2 * e + 1, role=Role.COUNT, of=seen, label="row map")


def _scores(t: Trace, spec: MoE, name: str, logits: Tensor) -> Tensor:
    if spec.routing == "sigmoid-topk":
        return curves.activation(t, f"{name}_sigmoid", ops.cast(t, f"{name}_sigmoid", logits, Role.FLOAT32), "sigmoid")
    out = ops.like(t, logits, "scores", Role.FLOAT32)
    return ops.elementwise(t, f"{name}_softmax", "softmax", logits, out, keeps=(out,))


def dispatch(t: Trace, spec: MoE, tokens: Tensor, weights: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of this rank's experts, and their weights: permuted, exchanged, gathered over tp and sorted by expert."""
    (n, d), a = tokens.shape, spec.active_experts
    rows, own = t.tensor(n * a, d, label="permuted tokens"), t.tensor(n * a, role=weights.role, label="weights of rows")
    t.op("permute", "index", saves=(kept,), reads=(tokens, weights, kept), writes=(rows, own),
         backward=((ops.to(tokens), ops.to(weights)),))
    t.hold(rows)
    rows, own = (split.exchange(t, name, x) for name, x in (("dispatch", rows), ("dispatch_weights", own)))
    if t.layout.sp and t.layout.experts_tp > 1:
        rows, own = (_gathered(t, name, x) for name, x in (("dispatch", rows), ("dispatch_weights", own)))
    if spec.experts > t.layout.ep:
        t.hold(rows)
        rows, own = ops.copy(t, "sort", rows), ops.copy(t, "sort_weights", own)
    return rows, own


def _gathered(t: Trace, name: str, x: Tensor) -> Tensor:
    shape = x.shape[0] * t.layout.tp, *x.shape[1:]
    y = t.tensor(*shape, role=x.role, label=x.label)
    return t.op(f"{name}_enter", "gathered", reads=(x,), writes=(y,), backward=((ops.to(x),),))


def experts(t: Trace, spec: MoE, rows: Tensor, weights: Tensor) -> Tensor:
    """``TEGroupedMLP.forward``: a product of the rows of all experts, and one kernel that activates and weighs."""
    count, d = spec.experts // t.layout.ep, rows.shape[-1]
    sizes: dict[str, tuple[Number, Part]] = dict.fromkeys(("gate", "up") if spec.gated else ("up",), (spec.d_ff, ""))
    active = spec.active_experts if t.layout.ep == 1 else min(spec.active_experts, count)
    with t.frame(rows, weights), t.scope("experts", copies=count, active=active, repeat=True, within="experts"):
        both = t.hold(ops.linears(t, rows, sizes, bias=spec.bias.up, sets=(count,)))
        h = t.tensor(*both.shape[:-1], spec.d_ff, role=both.made, label="activation")
        h = t.op("activation", "slope_in", saves=(both, weights), reads=(both, weights), writes=(h,),
                 backward=((ops.to(both), ops.to(weights)),))
        return ops.linears(t, h, {"down": (d, "down")}, bias=spec.bias.down, sets=(count,))


def combine(t: Trace, spec: MoE, y: Tensor, kept: Tensor, tokens: Number) -> Tensor:
    """Rows of experts to (tokens, d)."""
    if spec.experts > t.layout.ep:
        y = ops.copy(t, "unsort", y, label="expert outputs")
    if t.layout.sp and t.layout.experts_tp > 1:
        part = t.tensor(y.shape[0] // t.layout.tp, y.shape[1], role=y.role, label=y.label)
        y = t.op("collect_leave", "scattered", reads=(y,), writes=(part,), backward=((ops.to(y),),))
    y = split.exchange(t, "collect", y)
    back: Steps = ((ops.to(y),),)
    return t.op("unpermute", "index", saves=(kept,), reads=(y, kept), backward=back,
                writes=(t.tensor(tokens, y.shape[-1], label="mixed experts"),))
