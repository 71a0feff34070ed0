"""Alternating updates (arXiv 2301.13310) with learned augmented residuals (arXiv 2411.07501), as Gemma 3n has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from txcalc.trace import curves, embeddings, norms, ops
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product
from txcalc.trace.tensors import Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import Norm
    from txcalc.spec.projections import AltUp
    from txcalc.spec.tables import PerLayerEmbedding


def opened(t: Trace, own: AltUp, x: Tensor) -> Tensor:
    """Embeddings (b, n, d) to streams (b, n, count, d): as they are, and projections of as large a magnitude."""
    b, n, d = x.shape
    with t.scope("altup_in", component="altup"):
        made = _projected(t, own, x, x)
        streams = t.tensor(b, n, own.streams, d, label="streams")
        return t.op("streams", "elementwise", reads=(x, made), writes=(streams,))


def closed(t: Trace, own: AltUp, x: Tensor) -> Tensor:
    """Streams to the mean (b, n, d) of the first and of projections of the others."""
    b, n, _, d = x.shape
    with t.scope("altup_out", component="altup"):
        first = _part(t, "first", x)
        made = _projected(t, own, first, x)
        return t.op("mean", "elementwise", reads=(first, made), writes=(t.tensor(b, n, d, label="mean of streams"),))


def _projected(t: Trace, own: AltUp, first: Tensor, x: Tensor) -> Tensor:
    """Projections of ``x``, or of each of its streams, as large as ``first`` (b, n, d)."""
    b, n, d = first.shape
    others = own.streams - 1
    square, magnitude = (t.tensor(b, n, 1, label=label) for label in ("mean square", "magnitude"))
    t.op("target", "product", saves=(first, square, magnitude), reads=(first,), writes=(magnitude,))
    with t.scope("", copies=others, calls=others):
        y = ops.linear(t, "projections", x if len(x.shape) == 3 else _part(t, "other", x), d)
        square, root, scaled = (t.tensor(b, n, w, label="scaled") for w in (1, 1, d))
        return t.op("scaled", "product", saves=(y, square, root, scaled), reads=(y, magnitude), writes=(scaled,))


def _part(t: Trace, name: str, x: Tensor) -> Tensor:
    b, n, _, d = x.shape
    return t.op(name, "elementwise", reads=(x,), writes=(t.tensor(b, n, d, label=name),), backward=((ops.to(x),),))


def layer(
    t: Trace, own: AltUp, per_layer: PerLayerEmbedding, norm: Norm, x: Tensor, given: Tensor,
    run: Callable[[Tensor], Tensor],
) -> Tensor:
    """A layer on the first stream as the others predict it, from which all are corrected."""
    b, n, count, d = x.shape
    with t.scope("altup", component="altup"):
        weights = ops.linear(t, "prediction", _routed(t, own, norm, _part(t, "active", x)), count**2)
        predicted = t.tensor(*x.shape, label="predicted streams")
        t.op("predictions", "product", saves=(x, weights), reads=(x, weights), writes=(predicted,),
             products=(Product(b * n, d, count, count),))
        active = _part(t, "predicted", predicted)
    y = run(active)
    with t.scope("altup", component="altup"):
        with t.scope("", copies=0):
            routed = _routed(t, own, norm, y)
        weights = ops.linear(t, "correction", routed, count)
        news, raised = t.tensor(b, n, d, label="innovation"), t.tensor(b, n, count, label="weights of corrections")
        t.op("corrected", "product", saves=(news, raised), reads=(y, predicted, weights), writes=(predicted,))
        first = ops.scale(t, "output_scale", _part(t, "first", predicted))
    added = embeddings.per_layer_input(t, per_layer, norm, first, given)
    return t.op("altup_added", "elementwise", reads=(predicted, added), writes=(t.tensor(*x.shape, label="streams"),))


def _routed(t: Trace, own: AltUp, norm: Norm, x: Tensor) -> Tensor:
    return curves.activation(t, "router_activation", ops.linear(
        t, "router", norms.norm(t, "router_norm", x, norm), own.streams), "tanh")


def laurel(t: Trace, own: AltUp, norm: Norm, h: Tensor, x: Tensor) -> Tensor:
    """The sum after attention, with a low-rank product of what it read: h + norm(right(left(h)))."""
    with t.scope("altup", component="altup"):
        y = ops.linear(t, "laurel_right", ops.linear(t, "laurel_left", h, own.laurel_rank), h.shape[-1])
        return ops.add(t, x, ops.add(t, h, norms.norm(t, "laurel_norm", y, norm), "laurel"), "laurel_sum")
