"""Further ways of attention to weigh and to mix: by angles, as a difference, and with convolutions beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import curves, norms, ops, parts
from txcalc.trace.cache import Cache
from txcalc.trace.cores import Core, context_of, scores_of
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, several
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from txcalc.spec.inputs import Position
    from txcalc.spec.layers import Attention


def convolved_values(t: Trace, spec: Attention, v: Tensor, positions: Number) -> Tensor:
    """A convolution of each head's values (b, n, heads x dim) over positions, of so many."""
    b, n, width = v.shape
    columns = n * (width // spec.heads)
    y = ops.convolution(t, "value_convolution", v.view(b, spec.heads, columns), spec.heads, columns, (positions, 1),
                        bias=False, groups=spec.heads)
    return y.view(b, n, width)


def span_convolution(t: Trace, spec: Attention, x: Tensor, q: Tensor, y: Tensor, positions: Number) -> Tensor:
    """Contexts (b, n, heads x dim), and beside them those of a kernel over positions that each query makes of its span.

    A depthwise and a pointwise convolution of ``x`` (b, n, d) times the query make it (arXiv 2008.02496, section 3.2).
    """
    (b, n, d), width, heads = x.shape, spec.heads * spec.head_dim, spec.heads
    with t.scope("span"):
        span = ops.convolution(t, "depthwise", x.view(b, d, n), d, n, (positions,), bias=False, groups=d)
        span = ops.convolution(t, "pointwise", span.view(b, d, n), width, n, (1,), bias=False)
        span = t.op("bias", "elementwise", weights={"": (width, 1)}, reads=(span,),
                    writes=(ops.like(t, span, span.label),), backward=(
                        (ops.through(span),), (ops.of_weight(t.path("bias"), width, 1)._replace(summed=True),)))
        kernel = ops.linear(t, "kernel", ops.multiply(t, "product", span, q), heads * positions, bias=True)
        kernel = ops.softmax(t, "softmax", kernel)
        v = ops.linear(t, "v", x, width, bias=True)
        v = parts.remade(t, "unfold", v, b, n, width * positions, label="values under a kernel")
        out = t.tensor(b, n, width, label="contexts of spans")
        mixed = ops.matmul(t, "context", v, kernel, Product(b * n * heads, spec.head_dim, 1, positions), out)
        return parts.join(t, "join", (y, mixed), "context")


def collisions(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """Unit contexts (b, n, heads x dim) by the angles of keys and queries: ``1 - acos(q k) / pi``, to a power."""
    b, heads, sides = q.shape[0], core.heads.queries, zip("qkv", (q, k, v), strict=True)
    with t.scope("core"):
        q, k, v = (ops.copy(t, f"{name}_copy", x) if several(t, b, heads, x.shape[1]) and name not in core.laid else x
                   for name, x in sides)
        scores = scores_of(t, unit(t, "q_unit", q, heads), unit(t, "k_unit", k, heads), core)
        angle = ops.elementwise(t, "angle", "slope_in", scores, ops.like(t, scores, "angles"), keeps=(scores,))
        share = ops.shifted(t, "share", ops.scaled(t, "share", angle))
        weights = ops.elementwise(t, "power", "slope_in", share, ops.like(t, share, "collisions"), keeps=(share,))
        return unit(t, "unit", context_of(t, weights, v, core), heads)


def unit(t: Trace, name: str, x: Tensor, heads: Number) -> Tensor:
    """``F.normalize`` of each head's columns (b, n, heads x dim): keeps them, their norm, and that above zero."""
    norm = t.tensor(*x.shape[:-1], heads, label="norms of heads")
    least = ops.like(t, norm, "norms above zero")
    ops.elementwise(t, name, "slope_in", x, norm, keeps=(x, norm))
    ops.elementwise(t, name, "slope_in", norm, least, keeps=(norm,))
    return t.op(name, "product", saves=(x, least), reads=(x, least), writes=(ops.like(t, x, name),),
                backward=((ops.to(x),), (ops.to(least),)), apart=True)


def value_scores(t: Trace, spec: Attention, v: Tensor) -> Tensor:
    """The addend of values (b, keys, width) to their keys' scores, (b, heads, 1, keys): ``exp(a softplus(w v))``."""
    b, keys, _ = v.shape
    with t.scope("value_scores"):
        soft = curves.activation(t, "softplus", ops.linear(t, "step", v, spec.kv_heads, bias=spec.bias.v), "softplus")
        rates = ops.scale(t, "rates", soft)
        found = ops.like(t, rates, "scores of values")
        ops.elementwise(t, "exp", "slope_out", rates, found, keeps=(found,))
        return parts.remade(t, "heads", found, b, spec.heads, 1, keys, label="scores of values")


def differential(
    t: Trace, spec: Attention, v: Tensor, attend: Callable[[Tensor, Cache | None], Tensor], cache: Cache | None
) -> Tensor:
    """The scores of all heads on either half of the values (b, n, width); of what comes out half of the heads less the
    others, times a number that is learned; then normed, pair by pair (arXiv 2410.05258, section 2.1)."""
    found = []
    for kept in (cache, None):
        half = t.tensor(*v.shape, label="half of the values")
        t.op("v_half", "elementwise", reads=(v,), writes=(half,), backward=((ops.to(v),),))
        found.append(attend(half, kept))
    with t.scope("differences"):
        for name in ("q1", "k1", "q2", "k2"):
            ops.parameter(t, name, spec.head_dim)
        t.op("exponentials", "slope_out", saves=(t.tensor(label="exponential"), t.tensor(label="exponential")))
        b, n, width = found[0].shape
        both = ops.gathered(t, "pairs", tuple(found), b, n, 2 * width, label="contexts of both halves")
        less = ops.multiply(t, "lambda", t.alias(both, b, n, width), t.tensor(label="lambda"), broadcast=True)
        less = ops.like(t, less, "differences").view(b, n, spec.heads // 2, 2 * spec.head_dim)
        y = norms.norm(t, "norm", less, norms.RMS._replace(scale=False)).view(b, n, width)
        return ops.copy(t, "scaled", y)


def beyond_kernels(spec: Attention, position: Position | None) -> str:
    """The reason why no kernel of PyTorch computes these scores, or nothing."""
    if position is not None and position.kind in ("relative", "continuous"):
        return "a learned relative bias needs the scores' gradient"
    if position is not None and position.kind in ("decomposed", "disentangled", "transformer-xl"):
        return "every query is scored with every distance as well"
    if spec.similarity != "softmax" or spec.blocks is not None:
        return f"no kernel of PyTorch goes by {'blocks' if spec.blocks else 'angles'}"
    if spec.kept_keys is not None:
        return "scores of values need the scores' gradient"
    if spec.indexer is not None:
        return "an indexer's choice is a mask of every sequence"
    if spec.softcap is not None:
        return "no kernel of PyTorch caps scores"
    return "no kernel of PyTorch has sinks" if spec.sinks else ""
