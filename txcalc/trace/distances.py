"""Transformer-XL's relative positions in attention (arXiv 1901.02860 section 3.3), written as their forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops
from txcalc.trace.record import Number, Pairs, Role, Tensor, Trace

if TYPE_CHECKING:
    from txcalc.spec.inputs import Position, TransformerXLPosition
    from txcalc.spec.layers import Attention
    from txcalc.trace.cores import Span


def keeps_inputs(position: Position | None) -> bool:
    """Whether a layer's memory of earlier positions is its inputs, projected to keys and values in every run."""
    return position is not None and position.kind == "transformer-xl" and position.cached == "inputs"


def query_biases(t: Trace, heads: Number, head_dim: Number) -> None:
    """u and v, which are added to the queries before they meet keys and positions: (2, heads, head_dim)."""
    ops.parameter(t, "query_bias", 2, heads, head_dim)


def distance_scores(
    t: Trace, spec: Attention, position: TransformerXLPosition, q: Tensor, d: Number, span: Span
) -> tuple[Tensor, Tensor]:
    """(b, n, width) queries to q + u, and the scores of q + v with every distance, (b, heads, n, distances).

    The sinusoids are a buffer, which keeping costs nothing, and one for all sequences: no batch is in their
    projection. The product's heads are its batch, so that no sequence needs a copy of the projected distances.
    """
    b, n, width = q.shape
    if position.per_layer:
        query_biases(t, spec.heads, spec.head_dim)
    sinusoids = t.tensor(span.distances, d, role=Role.PARAMETER, label="sinusoids", grad=False)
    projected = ops.linear(t, "position", sinusoids, width)
    to_keys, to_distances = (t.tensor(b, n, width, label=label) for label in ("q + u", "q + v"))
    # Unmasked products by distance are those of pairs: each query meets each of its keys at one distance.
    pairs = Pairs(n * span.distances, span.pairs.kept)
    flops = 2 * b * width
    found = t.tensor(b, spec.heads, n, span.distances, label="scores by distance", scores=True)
    t.op("core.by_distance", "core", pairs=pairs, flops=flops, flops_backward=2 * flops,
         saves=(to_distances, projected), reads=(to_distances, projected), writes=(found,), reach=span.reach)
    return to_keys, found
