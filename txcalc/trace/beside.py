"""Projections in groups of columns, adapters of languages, and weights that no run uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.spec.facts import located_blocks
from txcalc.trace import curves, norms, ops, parts
from txcalc.trace.cache import Cache
from txcalc.trace.cores import Core, context_of, scores_of
from txcalc.trace.record import Part, Trace
from txcalc.trace.sizes import Product, several
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from txcalc.spec.layers import Attention, BlockNorm
    from txcalc.spec.model import Model, Resampler
    from txcalc.spec.projections import LanguageAdapter


def project(
    t: Trace, name: str, x: Tensor, d_out: Number, *, bias: bool, groups: Number, part: Part = "", copied: bool = False
) -> Tensor:
    """``F.linear``, or in groups of columns a convolution of one position: (b, n, d_in) -> (b, n, d_out)."""
    if t.size(groups) == 1:
        return ops.linear(t, name, x, d_out, bias=bias, part=part, copied=copied)
    b, n, d_in = x.shape
    y = ops.convolution(t, name, x.view(b, d_in, n), d_out, n, (1,), bias=bias, groups=groups)
    return ops.copy(t, name, y)


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
        q, k, v = (ops.copy(t, f"{name}_copy", x) if several(t, b, heads, x.shape[1]) else x for name, x in sides)
        scores = scores_of(t, _unit(t, "q_unit", q, heads), _unit(t, "k_unit", k, heads), core)
        angle = ops.elementwise(t, "angle", "slope_in", scores, ops.like(t, scores, "angles"), keeps=(scores,))
        share = ops.shifted(t, "share", ops.scaled(t, "share", angle))
        weights = ops.elementwise(t, "power", "slope_in", share, ops.like(t, share, "collisions"), keeps=(share,))
        return _unit(t, "unit", context_of(t, weights, v, core), heads)


def _unit(t: Trace, name: str, x: Tensor, heads: Number) -> Tensor:
    """``F.normalize`` of each head's columns (b, n, heads x dim): keeps them, their norm, and that above zero."""
    norm = t.tensor(*x.shape[:-1], heads, label="norms of heads")
    least = ops.like(t, norm, "norms above zero")
    ops.elementwise(t, name, "slope_in", x, norm, keeps=(x, norm))
    ops.elementwise(t, name, "slope_in", norm, least, keeps=(norm,))
    return t.op(name, "product", saves=(x, least), reads=(x, least), writes=(ops.like(t, x, name),),
                backward=((ops.to(x),), (ops.to(least),)), apart=True)


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


def unused_projections(t: Trace, spec: Attention, d: Number, value_dim: Number) -> None:
    """The weights of projections for what is not there."""
    widths = {"q": spec.heads * spec.head_dim, "k": spec.kv_heads * spec.head_dim, "v": spec.kv_heads * value_dim}
    for name, width in widths.items():
        if t.size(number := getattr(spec.unused, name)) == 0:
            continue
        with t.scope("", copies=number, active=0, calls=0, repeat=True):
            _weights(t, f"unused_{name}", width, d, bias=getattr(spec.bias, name))


def adapt(t: Trace, spec: LanguageAdapter, norm: BlockNorm, x: Tensor) -> Tensor:
    """(b, n, d) through the bottleneck of one language, added to what it was, or to what it was normed to."""
    *_, d = x.shape
    with t.frame(x):
        y = t.hold(norms.norm(t, "feed_forward_norm", x, norm, again=True)) if spec.norm == "again" else x
        with t.scope("adapter", component="adapter"):
            y = t.hold(norms.norm(t, "norm", x, norm)) if spec.norm == "own" else y
        with t.scope("adapter", component="adapter"), t.scope(
                "languages", copies=spec.languages, active=1, calls=1, repeat=True):
            h = curves.activation(t, "activation", ops.linear(t, "up", y, spec.width, bias=True), spec.activation)
            z = ops.dropout(t, "dropout", ops.linear(t, "down", t.hold(h), d, bias=True))
        return ops.add(t, z, y if spec.normed_residual else x)


def entities(t: Trace, spec: Model) -> None:
    """The weights that a model keeps for entities: tables, and of a language model a head."""
    own, d = spec.entities, spec.d_model
    if own is None:
        return
    affine, size = {"weight": (d,), "bias": (d,)}, getattr(spec.position, "size", None)
    with t.scope("entities", component="entities"):
        ops.parameter(t, "table", own.rows, own.width, kind="embedding")
        if own.width != d:
            _weights(t, "projection", d, own.width, bias=False)
        for name, rows in (("positions", spec.context if size is None else size), ("types", spec.token_types)):
            ops.parameter(t, name, rows, d, kind="embedding")
        t.op("norm", "norm", weights=affine)
        if spec.head.kind == "lm":
            _weights(t, "dense", own.width, d, bias=True)
            t.op("head_norm", "norm", weights=dict.fromkeys(affine, (own.width,)))
            if not own.tied:
                _weights(t, "head", own.rows, own.width, bias=False)
            ops.parameter(t, "head_bias", own.rows, kind="head")


def instruction(t: Trace, stack: Resampler) -> None:
    """The weights that learned queries keep for a text beside them: tables, and a feed-forward of every layer."""
    own, d, feed = stack.input.instruction, stack.d_model, located_blocks(stack)[0][1].feed_forward
    if own is None or feed is None or feed.kind != "dense":
        return
    with t.scope("instruction", component="instruction"):
        ops.parameter(t, "table", own.rows, d, kind="embedding")
        ops.parameter(t, "positions", own.positions, d, kind="embedding")
        with t.scope("layers", copies=stack.layers, active=0, calls=0, repeat=True):
            for name in ("up", "gate", "down") if feed.gated else ("up", "down"):
                sizes = (d, feed.d_ff) if name == "down" else (feed.d_ff, d)
                _weights(t, name, *sizes, bias=getattr(feed.bias, name))
            t.op("norm", "norm", weights={"weight": (d,)} | ({"bias": (d,)} if stack.norm.bias else {}))


def _weights(t: Trace, name: str, d_out: Number, d_in: Number, *, bias: bool) -> None:
    t.op(name, "linear", weights={"weight": (d_out, d_in)} | ({"bias": (d_out,)} if bias else {}))
