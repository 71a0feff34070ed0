"""Encoder-decoders as transformers' modelling files compose them; its functions are named in quotes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from txcalc.trace import cache, norms, ops, tables
from txcalc.trace.cores import Core
from txcalc.trace.ops import made
from txcalc.trace.record import Trace
from txcalc.trace.sizes import several
from txcalc.trace.tables import Tables
from txcalc.trace.tensors import Gradient, Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.inputs import RelativePosition
    from txcalc.spec.model import Stack


def target_ids(t: Trace) -> Tensor:
    """``shift_tokens_right``: labels (b, n) moved by one, without what says that they are padding."""
    b, n = t.workload.batch, t.workload.seq
    with t.frame():
        ids = t.hold(made(t, "shift", b, n))
        made(t, "shift", b, n - 1)
        made(t, "shift", b, n, role=Role.BOOL, of=ids)
    return ids


def generating(t: Trace, encode: Callable[[], Tensor]) -> Tensor:
    """``encoder_outputs`` of ``generate``: what an encoder has made of the source, in this pass or before it, is there
    to the end. It runs before there are beams, each of which has a copy."""
    run, ran = t.workload, t.workload.phase == "decode"
    t.workload = run.replaced(beams=None)
    with t.frame(), t.scope("", copies=1, calls=0, repeat=True) if ran else nullcontext():
        found = memory = encode()
        t.workload = run
        if run.beams is not None:
            found = memory = made(t, "memory", run.rows, *memory.shape[1:], role=Role.ACTIVATION, of=memory,
                                  label=memory.label)
    if ran:
        shape = (run.rows, run.source_past, memory.shape[-1])
        memory = made(t, "memory", *shape, role=Role.ACTIVATION, label=memory.label, kind="past")
    t.op("memory", "cache", reads=(memory,))
    return found


def opened(t: Trace, stack: Stack, x: Tensor, *, causal: bool) -> tuple[Tensor, Tables]:
    """The first layer's input, of what the stack reads (b, n, d); and what all layers read."""
    (b, n, _), mask, bias, positions = x.shape, None, None, None
    caches = causal and not t.workload.keeps
    keys = cache.seen(t, n, None) if caches else n
    if stack.position.kind == "relative":
        mask = tables.mask(t, b, n, keys, None, x.made) if causal else None
        bias = partial(biased, position=stack.position, found={}, causal=causal, path=t.path("")[:-1])
    else:
        if causal:
            positions = made(t, "positions", n, of=made(t, "positions", n))
            if t.code.pads:
                t.hold(positions)
                if caches and t.workload.room is not None and t.size(t.workload.past) != 0:
                    t.hold(made(t, "padding"))  # how much is seen then
                with t.frame():  # of ones, which say that nothing is padding
                    t.hold(made(t, "padding", b, n + (t.workload.past if caches else 0), role=Role.FLOAT32))
                    mask = tables.padded(t, b, n, keys, None, x.made, whole=True)
        if positions is not None and not t.code.pads:
            positions = t.hold(made(t, "positions", b, n, of=positions))
        if not t.received(x):
            places = _places(t, stack, x, positions)
            x = ops.add(t, x, places if stack.position.kind == "sinusoidal" else t.hold(places))
            if stack.embedding_norm:
                x = norms.norm(t, "embedding_norm", x, stack.norm)
    x = x if t.received(x) else ops.dropout(t, "embedding_dropout", x)
    if positions is not None and not t.code.pads:
        if not caches:
            tables.packed(t, positions, b, n)
        mask = tables.mask(t, b, n, keys, None, x.made)
    if mask is not None:
        t.hold(mask)
    return x, Tables({None: mask}, {}, bias)


# ---------------------------------------------------------------- positions and masks


def _places(t: Trace, stack: Stack, x: Tensor, given: Tensor | None) -> Tensor:
    """Rows of a table: for the indices (n,) of positions that are ``given``, or for those of a stack that sees all."""
    (b, n, width), position, name = x.shape, stack.position, "positions"
    assert position.kind in ("learned", "sinusoidal")
    if given is None and position.kind == "sinusoidal":
        given = t.hold(made(t, name, n))
        return ops.embedding(t, "position_embedding", given, position.size, width, frozen=True)
    with t.frame():
        if given is None:
            ids = made(t, name, b, n, of=t.hold(made(t, name, n)))
        elif t.code.pads:
            ids = made(t, name, n, of=given)
        else:
            return _gathered(t, given, position.size, width)
        ids = ids if several(t, b) else ids.view(1, n)
        return ops.embedding(t, "position_embedding", ids, position.size, width)


def _gathered(t: Trace, ids: Tensor, rows: Number, width: Number) -> Tensor:
    """``weight[ids]``: rows of a table at an index (b, n), which it keeps."""
    name = "position_embedding"
    return t.op(name, "index", weights={"weight": (rows, width)}, saves=(ids,), reads=(ids,),
                writes=(t.tensor(*ids.shape, width, role=Role.WEIGHT, label=name),),
                backward=ops.into_zeros(ops.of_weight(f"{t.path(name)}.weight", rows, width)))


# ---------------------------------------------------------------- T5's biases


def biased(
    t: Trace, core: Core, *, cross: bool, position: RelativePosition, found: dict[bool, Tensor], causal: bool,
    path: str,
) -> Core:
    """The bias of the scores: of the first layer's making, whose table is the stack's at this ``path``, or made in
    every layer.
    """
    if cross not in found or position.per_layer:
        heads, queries, keys = core.heads.queries, core.span.queries, core.span.keys
        if cross:
            bias = _zeros(t, heads, queries, keys)
        elif position.per_layer:
            bias = _bias(t, position, heads, queries, keys, causal=causal)
        else:
            with t.scope(path, absolute=True):
                bias = _bias(t, position, heads, queries, keys, causal=causal)
        found[cross] = t.hold(t.hold(bias, "stack"), "layer")
    return core._replace(bias=found[cross])


def _zeros(t: Trace, heads: Number, queries: Number, keys: Number) -> Tensor:
    """The zeros that cross-attention adds: given a gradient where layers are recomputed."""
    again = t.workload.recompute is not None
    y = t.tensor(heads, queries, keys, label="zeros", scores=True, grad=again)
    t.leaves = (*t.leaves, *((y,) if again else ()))
    gradient = Gradient(t.path("zeros"), y.shape, how="same")
    if again and t.frozen is not None:
        t.frozen.leaves.add(t.path("zeros"))
    return t.op("zeros", "elementwise", writes=(y,), backward=((gradient,),) if again else ())


def _bias(
    t: Trace, spec: RelativePosition, heads: Number, queries: Number, keys: Number, *, causal: bool
) -> Tensor:
    """``compute_bias``: a table (buckets, heads) looked up by every distance, to (heads, queries, keys)."""
    name = "relative_bias"
    with t.frame():
        places = (t.hold(made(t, name, queries, of=made(t, name, queries))), t.hold(made(t, name, keys)))
        apart = t.hold(made(t, name, queries, keys, of=places, label="distances"))
        with t.frame():
            bucket = _buckets(t, name, apart, causal=causal)
        y = ops.embedding(t, name, t.hold(bucket), spec.buckets, heads)
    return y.view(heads, queries, keys)


def _buckets(t: Trace, name: str, apart: Tensor, *, causal: bool) -> Tensor:
    """``_relative_position_bucket``: as many exact distances as logarithms of them, of either sign unless causal."""
    def like(*reads: Tensor, role: Role = Role.INDEX) -> Tensor:
        return made(t, name, *apart.shape, role=role, of=reads, label="distance buckets")

    if causal:
        away, sign = like(like(apart, like(apart))), None
    else:
        sign = t.hold(like(like(like(like(apart, role=Role.BOOL)))))
        away = like(apart)
    t.hold(away)
    near = t.hold(like(away, role=Role.BOOL))
    wide = Role.FLOAT32
    part = like(like(like(like(like(away, role=wide), role=wide), role=wide), role=wide), role=wide)
    far = like(like(part))
    far = t.hold(like(far, like(far)))
    which = t.hold(like(near, away, far))
    return like(which) if sign is None else sign
