"""Transformer-XL's relative positions in attention (arXiv 1901.02860 section 3.3), written as their forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops, parts
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, several
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.inputs import Position, RelativePosition, TransformerXLPosition
    from txcalc.spec.layers import Attention
    from txcalc.spec.projections import Blocks
    from txcalc.trace.cores import Span


def keeps_inputs(position: Position | None) -> bool:
    """Tell whether a layer's memory of earlier positions is its inputs, projected to keys and values in every run."""
    return position is not None and position.kind == "transformer-xl" and position.cached == "inputs"


def query_biases(t: Trace, heads: Number, head_dim: Number) -> Tensor:
    """u and v, which are added to the queries before they meet keys and positions: (2, heads, head_dim)."""
    shape = (2, heads, head_dim)
    return ops.learned(t, "query_bias", shape, how="same")


def relative_bias(
    t: Trace, spec: RelativePosition, heads: Number, queries: Number, keys: Number, *, causal: bool, fixed: bool,
    blocks: Blocks | None = None,
) -> Tensor:
    """T5's bias (heads, queries, keys): a table looked up by the bucketed distance of every (query, key) pair.

    ``fixed``: distances are those of an image, whose index is a buffer. ``blocks``: those of one block to three, and
    from a second table those of blocks' sums.
    """
    name = "relative_bias"
    if blocks is not None:
        if blocks.summaries is not None:
            away = t.tensor(queries, queries // blocks.summaries, role=Role.INDEX, label="blocks away", grad=False)
            ops.embedding(t, f"{name}.sums", away, spec.buckets, heads)
        queries, keys = (0, 0) if t.size(queries) == 0 else (blocks.length, 3 * blocks.length)
    with t.frame():
        role = Role.PARAMETER if fixed else Role.INDEX
        index = t.tensor(queries, keys, role=role, label="distance buckets", grad=False)
        if not fixed:
            index = _buckets(t, name, spec, index, causal=causal)
        found = ops.embedding(t, name, index, spec.buckets, heads)
    return found.view(heads, queries, keys)


def _buckets(t: Trace, name: str, spec: RelativePosition, like: Tensor, *, causal: bool) -> Tensor:
    """The first half of the buckets are distances, the rest their logarithms, of either sign unless causal."""
    def made(label: str, *reads: Tensor, role: Role = Role.INDEX) -> Tensor:
        return ops.made(t, name, *like.shape, role=role, of=reads, label=label)

    queries, keys = like.shape
    places = [t.hold(ops.made(t, name, each, label="positions")) for each in (keys, queries)]
    offsets = made("distances", *places)
    with t.frame(offsets):
        away = t.hold(made("distances", made("distances behind", offsets) if causal else offsets))
        part = made("part of the exact", made("distances", away), role=Role.FLOAT32)
        log = made("logarithms", made("logarithms", part, role=Role.FLOAT32), role=Role.FLOAT32)
        far = t.hold(made("buckets", made("buckets", log)))
        bucket = t.hold(made("buckets", made("near", away, role=Role.BOOL), away, made("buckets", far)))
        if causal or t.size(spec.buckets) == 1:
            return bucket
        return made("buckets", bucket, made("shift", made("before", offsets, role=Role.BOOL)))


def distance_scores(
    t: Trace, spec: Attention, position: TransformerXLPosition, q: Tensor, biases: Tensor | None, d: Number, span: Span
) -> tuple[Tensor, ...]:
    """(b, n, width) queries to q + u, what is made on the way, and the scores of q + v by key, (b, heads, n, keys).

    ``biases``: u and v of the whole stack. The sinusoids are a buffer, which keeping costs nothing, and one for all
    sequences: no batch is in their projection. The product's heads are its batch, so that no sequence needs a copy of
    the projected distances.
    """
    b, n, width = q.shape
    biases = query_biases(t, spec.heads, spec.head_dim) if biases is None else biases
    if position.segments:
        ops.parameter(t, "segments", 3, spec.heads, spec.head_dim)
    rows = span.distances + position.of_sequences if t.size(n) != 0 else 0
    shape, copied = ((b, rows), several(t, b)) if position.of_sequences else ((rows,), False)
    role = Role.ACTIVATION if copied else Role.PARAMETER
    sinusoids = t.tensor(*shape, d, role=role, label="sinusoids", grad=False)
    if copied:
        t.op("position", "elementwise", writes=(sinusoids,))
    projected = t.hold(ops.linear(t, "position", sinusoids, width))
    heads = q.view(b, n, spec.heads, spec.head_dim)
    to_keys, to_distances = (
        ops.add(t, heads, ops.view(t, "query_bias", biases, spec.heads, spec.head_dim, copied=True), "query_bias",
                label=label).view(b, n, width)
        for label in ("q + u", "q + v"))
    # Unmasked products by distance are those of pairs: each query meets each of its keys at one distance.
    kept = b * spec.head_dim * span.pairs
    product = Product(spec.heads, b * n, rows, spec.head_dim, kept)
    found = t.tensor(b, spec.heads, n, rows, label="scores by distance", scores=True)
    left, right = ops.casts(t, "core.by_distance", "matmul", to_distances, projected)
    ops.matmul(t, "core.by_distance", left, right, product, found, kind="by_distance", reach=span.reach)
    if several(t, b, spec.heads):
        found = ops.view(t, "core.by_distance", found, copied=True)
    return to_keys, to_distances, found, _shifted(t, found, span)


def _shifted(t: Trace, found: Tensor, span: Span) -> Tensor:
    """Scores (b, h, n, r) by distance to (b, h, n, t) by key, times the scale: a row of zeros moves them."""
    b, h, n, r = found.shape
    padded = t.tensor(b, h, n, r + 1, label="scores by distance, padded", scores=True)
    t.op("core.shift", "elementwise", reads=(found,), writes=(padded,), backward=((ops.to(found),),))
    moved = ops.view(t, "core.shift", padded, b, h, n, r, copied=True)
    if t.size(r) != t.size(span.keys):
        moved = parts.narrow(t, "core.shift", moved, span.keys)
    y = t.tensor(b, h, n, span.keys, label="scores of positions", scores=True)
    return ops.elementwise(t, "core.shift", "shift", moved, y)
