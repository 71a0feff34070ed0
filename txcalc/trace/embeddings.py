"""Inputs of a stack, and the positions that are added to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txcalc.spec import facts
from txcalc.spec.inputs import eighth
from txcalc.spec.words import form
from txcalc.trace import ahead, curves, norms, ops, parts, split
from txcalc.trace.distances import query_biases, relative_bias
from txcalc.trace.record import Trace
from txcalc.trace.sizes import several
from txcalc.trace.tensors import How, Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.inputs import DisentangledPosition, FrameInput, Grid, PatchInput
    from txcalc.spec.layers import Norm
    from txcalc.spec.model import Model, Stack
    from txcalc.spec.tables import PerLayerEmbedding
    from txcalc.trace.attention import Around
    from txcalc.trace.workload import Workload


TABLE: Final = "token_embedding"
"""The path of the table that an output head may be tied to."""


def tokens(
    t: Trace, n: Number, rows: Number, width: Number, *, name: str = TABLE, tied: bool, ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(b, n) token ids to (b, n, width), and the ids. ``tied``: the table is another stack's."""
    ids = ids or parts.given(t, "token ids", n)
    own = f"{TABLE}.weight" if tied else None
    if t.layout.tp > 1:
        return split.embedding(t, name, ids, rows, width, tied=own), ids
    return ops.embedding(t, name, ids, rows, width, tied=own, part="tokens"), ids


def images(spec: Model, workload: Workload) -> Number:
    """Images in this run: as asked for, else one to each text of a contrastive model, and none of any other."""
    if workload.images is not None or spec.tower is None:
        return workload.images
    return workload.batch if spec.head.kind == "contrastive" else 0


def wanted(t: Trace, x: Tensor) -> Tensor:
    """Inputs as they are, or where frozen layers are recomputed in transformers' code: made to be given a gradient
    (``enable_input_require_grads``), which peft has of all inputs, and the classes have of tokens."""
    again = t.workload.recompute == "full" or form(t.workload.recompute or "") == "ops"
    if t.frozen is None or not again or t.workload.implementation != "transformers" or t.needs(x):
        return x
    if t.workload.adapter is None and (t.model.encoder or t.model).input.kind != "tokens":
        return x
    x = t.alias(x, *x.shape, grad=True)
    t.leaves = (*t.leaves, x)
    return x


def patches(t: Trace, spec: PatchInput, b: Number, d: Number) -> Tensor:
    """(b, channels, image, image) pixels to (b, positions, d), class tokens first; ``normed``: patch by patch."""
    if spec.normed:
        x = t.tensor(b, facts.patches(spec), spec.channels * spec.patch**2, role=Role.WEIGHT, label="pixels")
        x = ops.linear(t, "patch_embedding", norms.norm(t, "pixel_norm", x, norms.LAYER), d, bias=spec.bias)
        return norms.norm(t, "patch_norm", x, norms.LAYER)
    pixels = t.tensor(b, spec.channels, spec.image, spec.image, role=Role.WEIGHT, label="pixels", grad=False)
    kernel = spec.patch if spec.kernel is None else spec.kernel
    x = ops.convolution(t, "patch_embedding", pixels, d, facts.patches(spec), (kernel, kernel), bias=spec.bias)
    x = wanted(t, x)
    if spec.class_tokens:
        how: How = "part" if t.code.batch_axis and not several(t, b) else "new"
        first = ops.learned(t, "class_tokens", (spec.class_tokens, d), how=how)
        x = parts.join_positions(t, "patches", (first, x), b, x.label)
    if spec.registers:
        ops.parameter(t, "registers", spec.registers, d)
    if spec.mask_token:
        ops.parameter(t, "mask_token", 1, d)
    return x


def frames(t: Trace, spec: FrameInput, b: Number, n: Number, d: Number) -> Tensor:
    """(b, bins, 2n) spectrogram frames to (b, n, d)."""
    if spec.grid is not None:
        return _grid(t, spec, spec.grid, b, n, d)
    x = t.tensor(b, spec.bins, 2 * n, role=Role.WEIGHT, label="frames", grad=False)
    x = wanted(t, ops.convolution(t, "frame_conv1", x, d, 2 * n, (3,), bias=True))
    with t.frame():
        x = t.hold(curves.activation(t, "frame_activation1", x, "gelu")).view(b, d, 2 * n)
        x = ops.convolution(t, "frame_conv2", x, d, n, (3,), bias=True)
        return curves.activation(t, "frame_activation2", x, "gelu")


def _grid(t: Trace, spec: FrameInput, grid: Grid, b: Number, n: Number, d: Number) -> Tensor:
    """Pieces of a sound as images of one channel, to (b, n, d)."""
    high, wide, c = int(t.size(spec.bins) or 0), int(t.size(grid.frames) or 0), grid.channels
    pieces = b * (int(t.size(spec.length) or 0) // eighth(wide))
    x = t.tensor(pieces, 1, high, wide, role=Role.WEIGHT, label="frames", grad=False)
    with t.frame():
        for i in (1, 2, 3):
            high, wide = -(-high // 2), -(-wide // 2)
            y = ops.convolution(t, f"frame_conv{i}", x, c, high * wide, (3, 3), bias=True)
            x = t.hold(curves.activation(t, f"frame_activation{i}", y, "gelu")).view(pieces, c, high, wide)
        return ops.linear(t, "frame_projection", ops.copy(t, "frames", x).view(b, n, c * high), d)


def embed(
    t: Trace, spec: Model, stack: Stack, x: Tensor, prefix: Tensor | None, made: Tensor | None = None,
    types: Tensor | None = None,
) -> Tensor:
    """Add positions and token types to the vectors of the inputs, norm and project them.

    ``prefix``: positions (images, tokens, d) of a tower, which replace the first ones. ``made``: the indices (n,) of
    positions, where they are there before, and what is looked up with them stays until the stack is left. ``types``: of
    tokens, where they are there before.
    """
    if types is not None:
        return _typed(t, spec, x, types)
    b, n, width = x.shape
    reads_tokens = stack.input.kind == "tokens"
    if stack.input.kind == "tokens" and stack.input.mask_token:
        ops.parameter(t, "mask_token", 1, width)
    if reads_tokens and spec.embedding_scale and not t.code.scales_table:
        x = ops.scaled(t, "embedding_scale", x)
    project = reads_tokens and spec.embedding_dim is not None
    if project and (t.size(spec.embedding_span) or 1) > 1:
        x = parts.remade(t, "span", x, b, n, spec.embedding_span * width, label="rows of neighbours")
    if project and spec.embedding_projection != "sum":
        x = ops.linear(t, "embedding_projection", x, spec.d_model, bias=spec.embedding_projection_bias)
        width = spec.d_model
    beside = [table for table in spec.token_tables if table.width is not None] if reads_tokens else []
    if beside:
        with t.frame(x):
            found = (x, *(_looked_up(t, f"token_tables.{spec.token_tables.index(table)}", b, n, table.rows, table.width)
                          for table in beside))
            x = ops.gathered(t, "token_tables", found, b, n, sum(y.shape[-1] for y in found), label="embeddings")
        x, width = ops.linear(t, "embedding_projection", x, spec.d_model, bias=True), spec.d_model
    if prefix is not None:
        rest = ops.view(t, "images", x, b * n - prefix.shape[0] * prefix.shape[1], width, copied=True)
        with t.frame(prefix):
            both = ops.casts(t, "images", "cat", prefix, rest)
            x = ops.gathered(t, "images", both, b, n, width, label=x.label)
    x = _positions(t, stack, x, made)
    if stack.input.kind == "patches" and stack.input.registers:
        x = _with_registers(t, stack.input, x)
        b, n, width = x.shape
    with t.frame():
        for name, rows, hold in (("type", spec.token_types, t.hold), ("task", spec.task_types, _same)):
            if rows and reads_tokens:  # the first type for every token, where none are given
                types = hold(ops.made(t, f"{name}_embedding", b, n, label=f"{name} types", kind="embedding"))
                x = ops.add(t, x, ops.embedding(t, f"{name}_embedding", types, rows, width))
        for i, table in enumerate(spec.token_tables if reads_tokens else ()):
            for turn in range(0 if table.width is not None else t.size(table.lookups) or 0):
                x = ops.add(t, x, _looked_up(t, f"token_tables.{i}", b, n, table.rows, width, tied=turn > 0))
        x = ahead.opened(t, stack, x)
        with t.frame(x):
            if stack.embedding_norm:
                own = {} if stack.embedding_norm_scale else {"scale": False, "bias": False}
                x = norms.norm(t, "embedding_norm", x, stack.norm.replaced(**own))
            if t.code.drops != "no" and made is None:
                x = ops.dropout(t, "embedding_dropout", x)
        if project and spec.embedding_projection == "sum":
            x = ops.linear(t, "embedding_projection", x, spec.d_model, bias=spec.embedding_projection_bias)
    return x


def _looked_up(
    t: Trace, name: str, b: Number, n: Number, rows: Number, width: Number, *, tied: bool = False
) -> Tensor:
    """Rows (b, n, width) of a table: its first one for every token, where no others are given."""
    ids = ops.made(t, name, b, n, label="rows of tables", kind="embedding")
    return ops.embedding(t, name, ids, rows, width, tied=f"{t.path(name)}.weight" if tied else None)


def _same(x: Tensor) -> Tensor:
    return x


def types(t: Trace, n: Number) -> Tensor:
    """The types (n,) of tokens, made of buffers before the tokens are looked up."""
    return ops.made(t, "type_embedding", n, label="token types", kind="embedding")


def _typed(t: Trace, spec: Model, x: Tensor, types: Tensor) -> Tensor:
    """BERT's embeddings: those of types are added before those of positions, whose indices are a buffer."""
    (b, n, width), position = x.shape, spec.position
    assert position.kind == "learned"
    with t.frame(x, types):
        of_types = t.hold(ops.embedding(t, "type_embedding", types.view(b, n), spec.token_types, width))
        x = ops.add(t, x, of_types)
        ids = t.tensor(*((n,) if several(t, b) else (1, n)), role=Role.PARAMETER, label="positions", grad=False)
        x = ops.add(t, x, t.hold(ops.embedding(t, "position_embedding", ids, position.size, width)))
        if spec.embedding_norm:
            x = t.hold(norms.norm(t, "embedding_norm", x, spec.norm))
        return ops.dropout(t, "embedding_dropout", x)


def _with_registers(t: Trace, spec: PatchInput, x: Tensor) -> Tensor:
    """Registers between class tokens and patches."""
    b, n, width = x.shape
    rows = ops.learned(t, "registers", (spec.registers, width), weighs=False)
    before, after = (parts.positions(t, "registers", x, count) for count in (spec.class_tokens, n - spec.class_tokens))
    return parts.join_positions(t, "registers", (before, rows, after), b, x.label)


def per_layer_inputs(
    t: Trace, spec: PerLayerEmbedding, norm: Norm, layers: Number, ids: Tensor, x: Tensor
) -> Tensor:
    """Embeddings (b, n, d) to (b, n, layers, width): each layer's row of the tokens, and a projection of ``x``, normed.

    The token ids are kept by the table that all layers share.
    """
    b, n = ids.shape
    with t.scope("per_layer_embedding", component="per-layer embedding"), t.frame(ids, x):
        found = t.hold(ops.scaled(t, "scale", ops.embedding(t, "table", ids, spec.rows, layers * spec.width)))
        projected = ops.scaled(t, "scale", ops.linear(t, "projection", x, layers * spec.width))
        normed = t.hold(norms.norm(t, "norm", projected.view(b, n, layers, spec.width), norm))
        both = ops.add(t, normed, found.view(b, n, layers, spec.width), "sum", label="per-layer inputs")
        return ops.scaled(t, "scale", both)


def per_layer_input(t: Trace, spec: PerLayerEmbedding, norm: Norm, x: Tensor, own: Tensor) -> Tensor:
    """A layer's own input, gated by its output (b, n, d), projected and normed."""
    with t.scope("per_layer_input", component="per-layer input"), t.frame():
        gate = curves.activation(t, "activation", ops.linear(t, "gate", x, spec.width), spec.activation)
        y = ops.multiply(t, "product", gate, own)
        return norms.norm(t, "norm", ops.linear(t, "up", y, x.shape[-1]), norm)


def add_per_layer_input(t: Trace, spec: PerLayerEmbedding, norm: Norm, x: Tensor, own: Tensor) -> Tensor:
    """A layer's output (b, n, d), and its own input gated by it."""
    with t.frame(x):
        return ops.add(t, x, per_layer_input(t, spec, norm, x, own))


def _positions(t: Trace, stack: Stack, x: Tensor, made: Tensor | None) -> Tensor:
    """Add a table of positions: looked up for tokens, added row by row for images and sound. ``made``: as of embed."""
    b, n, width = x.shape
    position, apart = stack.position, t.workload.padded and stack is not t.model.encoder  # each sequence has its own
    if position.kind in ("sinusoidal", "rope"):
        t.fixed.add(t.path("position_embedding.weight"))
        if t.frozen is not None:
            t.frozen.weights |= t.fixed
    if position.kind == "rope" and position.size is not None:
        first = facts.first_attention(stack)
        rotated = first.rope_dim if first.kind == "mla" else first.head_dim if position.dim is None else position.dim
        t.op("position_embedding", "embedding", weights={"weight": (position.size, rotated)})
    if position.kind == "sinusoidal" and not (position.stored and stack.input.kind == "tokens"):
        if position.stored:
            t.op("position_embedding", "embedding", weights={"weight": (position.size, width)})
        if apart and stack.input.kind == "tokens":
            return ops.add(t, x, ops.made(t, "position", b, n, width, role=Role.ACTIVATION), "position")
        return ops.shifted(t, "position", x, buffer=True)
    rows: Number
    if position.kind in ("learned", "sinusoidal"):
        rows = position.size
    elif position.kind in ("continuous", "decomposed", "disentangled", "relative") and position.absolute is not None:
        rows = position.absolute
    else:
        return x
    if stack.input.kind == "tokens":
        if made is not None:
            made = made if several(t, b) else made.view(1, n)
            return ops.add(t, x, t.hold(ops.embedding(t, "position_embedding", made, rows, width)))
        frozen = position.kind == "sinusoidal"
        ids = parts.given(t, "given positions", n) if apart else ops.made(
            t, "position_embedding", n, label="positions", kind="embedding")
        return ops.add(t, x, ops.embedding(t, "position_embedding", ids, rows, width, frozen=frozen))
    if position.kind == "learned" and position.both_ways:
        return _both_ways(t, x, rows)
    of_table = ops.of_weight(t.path("position_embedding"), rows, width, viewed=True)
    weights: dict[str, tuple[Number, ...]] = {"": (rows, width)}
    if t.code.batch_axis:
        return t.op("position_embedding", "embedding", weights=weights, reads=(x,),
                    writes=(ops.like(t, x, x.label),), backward=((ops.through(x),), (of_table,)))
    table = t.tensor(n, width, role=Role.PARAMETER, label="position_embedding")
    table = t.op("position_embedding", "embedding", weights=weights, writes=(table,), backward=((of_table,),))
    return ops.add(t, x, table, "position_embedding", label=x.label)


def _both_ways(t: Trace, x: Tensor, rows: Number) -> Tensor:
    """Two tables in one weight (2, rows, width), views whose gradients are stacked, looked up with buffers."""
    (_, n, width), name = x.shape, "position_embedding"
    tables = tuple(t.tensor(rows, width, role=Role.PARAMETER, label=name) for _ in range(2))
    t.op(name, "embedding", weights={"": (2, rows, width)}, writes=tables,
         backward=((ops.of_weight(t.path(name), 2, rows, width),),))
    for table in tables:
        found = t.tensor(n, width, role=Role.WEIGHT, label=name)
        x = ops.add(t, x, t.op(name, "embedding", reads=(table,), writes=(found,), backward=((ops.to(table),),)))
    return x


def position_table(t: Trace, position: DisentangledPosition, stack: Stack, d: Number) -> Tensor:
    """DeBERTa's table of relative positions, which every layer projects."""
    rows = 2 * position.buckets
    ops.parameter(t, "relative_embedding", rows, d, kind="embedding")
    table = t.tensor(rows, d, role=Role.PARAMETER, label="relative positions")
    return norms.norm(t, "relative_norm", table, stack.norm) if position.norm else table


def shared_positions(t: Trace, stack: Stack, around: Around, x: Tensor) -> Tensor | None:
    """Parts of its positions that all layers share: a bias by distance or of queries, relative embeddings."""
    (_, n, d), position = x.shape, stack.position
    if position.kind == "relative" and not position.per_layer:
        n, first = n * t.layout.by_position, facts.first_attention(stack)
        keys = n + (t.workload.past if around.cached else 0)
        return t.hold(relative_bias(t, position, first.heads, n, keys, causal=around.causal, fixed=around.fixed,
                                    blocks=getattr(first, "blocks", None)))
    if position.kind == "transformer-xl" and not position.per_layer:
        first = facts.first_attention(stack)
        assert first.kind == "standard"
        return query_biases(t, first.heads, first.head_dim)
    return t.hold(position_table(t, position, stack, d)) if position.kind == "disentangled" else None
