"""Layers over both sides of an image: convolutions, keys of fewer positions, windows with a border, distances."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from txcalc.trace import curves, norms, ops, parts
from txcalc.trace.cores import Span
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product
from txcalc.trace.tensors import Number, Role, Tensor
from txcalc.trace.variants import unit

if TYPE_CHECKING:
    from txcalc.spec.layers import Attention
    from txcalc.spec.rnn import GlobalAttention, ImageConvolutions


def along(t: Trace, n: Number) -> int:
    """Positions along a square of so many: sides of images are numbers."""
    return isqrt(int(t.size(n) or 0))


def convolutions(t: Trace, spec: ImageConvolutions, x: Tensor, *, cached: bool) -> Tensor:
    """(b, n, d) positions of an image to (b, as many as strides leave, channels), one convolution after the other."""
    if spec.norm is not None:
        with t.frame(x):
            x = _batch_norm(t, x, "first")
            x = x if spec.activation is None else curves.activation(t, "activation", x, spec.activation)
    for i, layer in enumerate(spec.layers):
        b, n, d = x.shape
        before = along(t, n)
        side = layer.side(before)
        with t.scope(f"layers.{i}"), t.frame(x):
            x = ops.convolution(t, "conv", x.view(b, d, n), layer.channels, n if side == before else side**2,
                                (layer.kernel, layer.kernel), bias=layer.bias, groups=layer.groups)
            if layer.norm is not None:
                x = (norms.norm(t, "norm", x, norms.LAYER) if layer.norm == "layernorm" else _batch_norm(t, x))
            x = x if layer.activation is None else curves.activation(t, "activation", x, layer.activation)
    if spec.class_tokens:
        first = ops.learned(t, "class_tokens", (spec.class_tokens, x.shape[-1]))
        x = parts.join_positions(t, "positions", (first, x), x.shape[0], x.label)
    if spec.positions:
        x = ops.add(t, x, ops.learned(t, "positions", x.shape[1:]), "position", label=x.label)
    return x


def _batch_norm(t: Trace, x: Tensor, name: str = "norm") -> Tensor:
    """``F.batch_norm`` over all but the channels: keeps its input, and their means and deviations in this batch."""
    *_, c = x.shape
    role = Role.ACTIVATION if t.workload.kernels == "cpu" else Role.FLOAT32
    statistics = tuple(t.tensor(c, role=role, label=label) for label in ("mean", "rstd"))
    weights = [ops.of_weight(f"{t.path(name)}.{each}", c) for each in ("weight", "bias")]
    return t.op(name, "norm", weights={"weight": (c,), "bias": (c,)}, saves=(x, *statistics), reads=(x,),
                writes=(ops.like(t, x, name), *statistics), backward=((ops.to(x), *weights),))


def additive(t: Trace, spec: GlobalAttention, x: Tensor, *, cached: bool) -> Tensor:
    """(b, n, d) to (b, n, d): every position meets one sum of all, weighted by a score of each."""
    b, n, d = x.shape
    weights, total, met = t.tensor(b, n, 1, label="scores"), t.tensor(b, 1, d, label="sum of positions"), t.tensor(
        b, n, d, label="contexts")
    if spec.separable:
        made = scores = read = ops.linear(t, "qkv", x, 1 + 2 * d, bias=True)
        values = t.tensor(b, n, d, label="values")
        t.op("values", "slope_out", reads=(made,), saves=(values,), writes=(values,))
    else:
        x = ops.copy(t, "rows", x)  # of an image whose channels stand first
        q, values = (unit(t, f"unit_{name}", ops.linear(t, name, x, d, bias=True), 1) for name in ("q", "k"))
        read, scores = q, ops.linear(t, "scores", q, 1)
    t.op("softmax", "softmax", reads=(scores,), saves=(weights,), writes=(weights,))
    t.op("sum", "product", reads=(weights, read), saves=(weights, read), writes=(total,))
    t.op("met", "product", reads=(total, values), saves=(total, values), writes=(met,))
    if not spec.separable:
        met = ops.add(t, ops.linear(t, "projection", met, d, bias=True), read)
    return ops.linear(t, "out_proj", met, d, bias=True)


def reduced(t: Trace, stride: Number, x: Tensor) -> tuple[Tensor, Span]:
    """(b, n, d) to (b, n / stride^2, d): what keys and values are made of, and who meets whom."""
    b, n, d = x.shape
    side = along(t, n) // int(t.size(stride) or 1)
    with t.scope("reduction"), t.frame(x):
        y = ops.convolution(t, "conv", x.view(b, d, n), d, side**2, (stride, stride), bias=True)
        return norms.norm(t, "norm", y, norms.LAYER), Span(n, side**2, side**2, n * side**2, 0, side**2)


def convolved(t: Trace, kernel: Number, stride: Number, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Span]:
    """(b, n, d) to what queries, keys and values are made of, each convolved by itself, and who meets whom.

    Class tokens, as many as positions make no square, stand by.
    """
    b, n, d = x.shape
    side, made = along(t, n), list[Tensor]()
    count = int(t.size(n) or 0) - side**2
    for name in ("q", "k", "v"):
        after = side if name == "q" else (side - 1) // int(t.size(stride) or 1) + 1
        with t.scope(f"{name}_convolution"), t.frame(x):
            patches = parts.positions(t, "patches", x, side**2) if count else x
            y = _batch_norm(t, ops.convolution(t, "conv", patches.view(b, d, side**2), d, after**2, (kernel, kernel),
                                               bias=False, groups=d))
            made.append(y if not count else parts.join_positions(t, "joined", (parts.positions(
                t, "class_tokens", x, count), y), b, x.label))
    q, k, v = made
    keys = k.shape[1]
    return q, k, v, Span(n, keys, keys, n * keys, 0, keys)


def windows(t: Trace, spec: Attention, x: Tensor) -> tuple[Tensor, Number]:
    """(b, n, d) to each window's own positions, and how many; zeros fill an image up where it has a border."""
    (b, n, d), together = x.shape, (spec.image_window or 1) ** 2
    if not (count := _bordered(t, spec, n)):
        return x.view(b * (n // together), together, d), together
    return parts.remade(t, "windows", x, b * count, together, d, label="windows"), together


def inside(t: Trace, spec: Attention, y: Tensor, shape: tuple[Number, ...]) -> Tensor:
    """Windows back to (b, n, d), without their border."""
    bordered = _bordered(t, spec, shape[1])
    return parts.remade(t, "image", y, *shape, label=y.label) if bordered else y.view(*shape)


def _bordered(t: Trace, spec: Attention, n: Number) -> int:
    """The number of windows, of an image that is no whole number of them; else 0."""
    side, window = along(t, n), int(t.size(spec.image_window) or 1)
    return (-(-side // window)) ** 2 if spec.window_border and side % window else 0


def side_scores(t: Trace, spec: Attention, q: Tensor, span: Span) -> Tensor:
    """Queries (b, n, width) times vectors of distances along both sides: (b, heads, n, n), a bias of the scores."""
    b, n, _ = q.shape
    side, both = along(t, n), list[Tensor]()
    for name in ("rows", "columns"):
        table = ops.learned(t, f"relative_bias.{name}", (2 * side - 1, spec.head_dim))
        index = t.tensor(side, side, role=Role.PARAMETER, label="distances", grad=False)
        found = ops.elementwise(t, f"relative_bias.{name}", "index", table, t.tensor(
            side, side, spec.head_dim, role=Role.WEIGHT, label="distances"), keeps=(index,))
        out = t.tensor(b, spec.heads, n, side, label=f"scores of {name}", scores=True)
        by_side = ops.copy(t, f"relative_bias.{name}", q)
        both.append(ops.matmul(t, f"relative_bias.{name}", by_side, found, Product(
            side, b * spec.heads * side, side, spec.head_dim), out, kind="by_distance"))
    y = t.tensor(b, spec.heads, n, span.keys, label="scores of distances", scores=True)
    return t.op("distances", "elementwise", reads=tuple(both), writes=(y,),
                backward=(tuple(ops.to(each) for each in both),))


def cosines(t: Trace, spec: Attention, hidden: Number, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit queries, times a number of each head, unit keys, and a bias (heads, n, n) of each distance in a window."""
    _, n, _ = q.shape
    rows, heads = (2 * along(t, n) - 1) ** 2, spec.heads
    with t.scope("relative_bias"):
        q, k = (unit(t, name, x, heads) for name, x in (("q", q), ("k", k)))
        scale = ops.learned(t, "logit_scale", (heads, 1, 1))
        grown = t.tensor(heads, 1, 1, role=Role.WEIGHT, label="scales")
        q = ops.multiply(t, "scaled", q, ops.elementwise(t, "exp", "slope_out", scale, grown, keeps=(grown,)),
                         broadcast=True)
        given = t.tensor(rows, 2, role=Role.PARAMETER, label="distances", grad=False)
        made = curves.activation(t, "activation", ops.linear(t, "up", given, hidden, bias=True), "relu")
        made = ops.linear(t, "down", made, heads)
        index = t.tensor(n, n, role=Role.PARAMETER, label="distances", grad=False)
        found = ops.elementwise(t, "index", "index", made, t.tensor(heads, n, n, label="biases"), keeps=(index,))
        return q, k, ops.scaled(t, "scale", curves.activation(t, "sigmoid", found, "sigmoid"))
