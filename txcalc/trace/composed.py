"""Positions, masks and attention as transformers' modelling files compose them; its functions are named in quotes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from txcalc.trace import cache, curves, norms, ops, parts
from txcalc.trace.autocast import widest
from txcalc.trace.cores import FLASH_WIDEST, Core, Heads, Kernel, add_bias, attend, choose, context_of, pads, scores_of
from txcalc.trace.ops import made
from txcalc.trace.record import Part, Trace
from txcalc.trace.sizes import same, several
from txcalc.trace.tables import Tables, pairs, rebound, scored
from txcalc.trace.tensors import Gradient, Number, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import Attention


# ---------------------------------------------------------------- attention


def attention(t: Trace, spec: Attention, given: Tables, x: Tensor, source: Tensor, core: Core) -> Tensor:
    """Attention of (b, n, d) hidden states to those of ``source``, with heads in front of positions from the
    projections on."""
    *_, d = x.shape
    heads, mask = core.heads, given.masks[spec.window] if source is x else None
    core, caches = unmasked(t, core, mask), core.cache is not None and not t.workload.keeps
    if given.bias is not None:
        learned = not t.workload.freezes if source is x else t.workload.recompute is not None
        core = core._replace(masked=1, learned=learned and t.workload.keeps, why="")
    wide = (t.size(heads.dim) or 0) > FLASH_WIDEST  # ``use_gqa_in_sdpa``
    if caches:  # a kernel that masks by itself has keys of its queries alone, unless they are repeated
        n = core.span.queries
        if source is x:
            keys = n if core.span.masks and mask is None and not (wide and heads.grouped) else cache.seen(
                t, n, spec.window)
            core = core._replace(span=core.span._replace(keys=keys))
    if (mask is not None or wide) and not scored(t):
        core = core._replace(heads=heads._replace(keys=heads.queries))
    kernel, local = choose(t, core), t.code.holds_sublayers == "sublayer"
    with t.frame(x, *(() if local else rebound(t))):
        project = partial(_projected, source=source) if t.code.qkv == "apart" else _projected_together
        repeated = not same(core.heads.keys, heads.keys)
        if caches and given.bias is not None and t.workload.room is not None and (
                source is not x or t.size(t.workload.past) != 0):
            t.hold(made(t, "past"))  # how much a static cache holds
        in_front = pads(t, kernel, heads) or (kernel == "math" and heads.grouped)
        copied = kernel in ("eager", "math")
        in_front = in_front or (t.code.copies_heads and kernel == "flash" and t.workload.kernels == "cuda")
        turned = in_front or repeated or bool(given.rotary)
        q, k, v = project(t, spec, x, heads, copied=copied or in_front or repeated, turned=turned)
        if t.code.copies_heads:
            core = core._replace(laid="qkv")
        if given.rotary:
            q, k = _rotated(t, q, k, heads, given.rotary[spec.window])
            if t.code.joins_rotated:
                core = core._replace(laid="qk")
        if caches:
            with t.frame(t.hold(q), k, v):
                own = source is x
                seen = cache.update(t, k, v, spec.window) if own else cache.once(t, k, v, core.span.keys)
            core = core._replace(laid=core.laid if seen == (k, v) else core.laid.replace("k", "") + "kv")
            k, v = (each.view(each.shape[0], core.span.keys, each.shape[-1]) for each in seen)
        for each in (q, k, v):
            t.hold(each)
        if given.bias is not None:
            keys = cache.seen(t, core.span.queries, spec.window) if caches and source is x else core.span.keys
            found = given.bias(t, core._replace(span=core.span._replace(keys=keys)), cross=source is not x)
            core = core._replace(bias=found.bias)
        if kernel == "eager" or core.bias is None:
            y = attended(t, q, k, v, core, heads, mask, kernel)
        else:
            with t.frame(q, k, v):
                added = t.hold(_bias_mask(t, core.bias, core, mask, q.shape[0], looked_up=source is x))
                y = attend(t, q, k, v, core._replace(bias=added), kernel)
        if t.code.output == "with attention":
            y = ops.linear(t, "o", y, d, bias=spec.bias.o, part="attention output")
        if t.code.drops == "inside":
            y = ops.dropout(t, "dropout", y)
    if t.code.output == "apart":
        y = ops.linear(t, "o", t.hold(y, "sublayer"), d, bias=spec.bias.o, part="attention output")
    if local:
        t.hold(y, "sublayer")
    return ops.dropout(t, "dropout", y) if t.code.drops == "outside" else y


def attended(
    t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core, heads: Heads, mask: Tensor | None, kernel: Kernel
) -> Tensor:
    """Contexts (b, n, width) of queries, keys and values that lie as ``core`` says."""
    if kernel == "eager":
        with t.scope("core"):
            return _eager(t, q, k, v, core, mask)
    if mask is None and same(core.heads.keys, heads.keys):
        return _by_position(t, attend(t, q, k, v, core, kernel), core, kernel)
    return _masked(t, q, k, v, core, heads, mask, kernel)


def unmasked(t: Trace, core: Core, mask: Tensor | None) -> Core:
    """The mask that a kernel is given: a tensor, that it is causal, or nothing for a single query."""
    masks = core.span.masks and (several(t, core.span.queries) or mask is not None)
    return core._replace(masked=0 if mask is None else 1, span=core.span._replace(masks=masks))


def _projected(
    t: Trace, spec: Attention, x: Tensor, heads: Heads, *, source: Tensor, copied: bool, turned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and keys and values of the ``source``.

    ``copied``: gradients come back with heads in front of positions, or columns of keys; ``turned``: those of keys as
    the others', rotated ones also where the others do not.
    """
    found = list[Tensor]()
    sizes: tuple[tuple[Part, Number, Number], ...] = (
        ("q", heads.queries, heads.dim), ("k", heads.keys, heads.dim), ("v", heads.keys, heads.value_dim))
    whole = spec.qk_norm is not None and spec.qk_norm.over == "full"
    late = sizes if whole else sizes[1:] if t.code.views_last and turned else ()

    def in_front(name: Part, y: Tensor, count: Number) -> Tensor:
        backward = several(t, y.shape[1], count) and (copied or (name != "v" and turned))
        return ops.view(t, name, y, copied=True) if backward and (name != "k" or turned) else y

    for name, count, width in sizes:
        of = x if name == "q" else source
        by_column = name == "k" and copied and not turned and several(t, *of.shape[:2])
        y = ops.linear(t, name, of, count * width, bias=getattr(spec.bias, name), part=name, copied=by_column)
        if t.code.copies_heads and name == "q":
            y = ops.scaled(t, name, y)
        if (name, count, width) not in late:
            y = in_front(name, y, count)
        if t.code.copies_heads and several(t, y.shape[1], count):
            y = ops.copy(t, f"{name}_copy", y)
        if name != "v" and (whole or not t.code.norms_after):
            y = norms.of_heads(t, name, y, spec.qk_norm, width)
        found.append(y)
    first = 3 - len(late)
    found[first:] = (in_front(name, y, count) for y, (name, count, _) in zip(found[first:], late, strict=True))
    if t.code.norms_after and not whole:
        found[:2] = (norms.of_heads(t, name, y, spec.qk_norm, heads.dim) for name, y in zip("qk", found, strict=False))
    return found[0], found[1], found[2]


def _projected_together(
    t: Trace, spec: Attention, x: Tensor, heads: Heads, *, copied: bool, turned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as parts of one product's result, whose gradients are joined."""
    *lead, _ = x.shape
    sizes = heads.columns
    widths = [width for width, _ in sizes.values()]
    wide = ops.linears(t, x, sizes, bias=spec.bias.q)
    if t.code.qkv != "together":
        t.hold(wide)
    if t.code.qkv == "sliced":
        found = [parts.narrow(t, name, wide, width) for name, width in zip(sizes, widths, strict=True)]
        for i, count in enumerate((heads.queries, heads.keys, heads.keys)):
            if several(t, lead[-1], count) and (copied or (i < 2 and turned)):
                found[i] = ops.view(t, "qkv"[i], found[i], copied=True)
        return found[0], found[1], found[2]
    if t.code.qkv == "by head":
        wide = ops.view(t, "qkv", wide, copied=True) if several(t, lead[-1], heads.queries) else wide
        q, k, v = parts.columns(t, "qkv", wide, *widths)
        return q, k, v
    q, k, v = parts.columns(t, "qkv", wide, *widths)
    if copied and several(t, lead[-1], heads.queries):
        q, v = (ops.view(t, name, y, copied=True) for name, y in (("q", q), ("v", v)))
        k = ops.view(t, "k", k, copied=True) if turned else k
    return q, k, v


def _rotated(t: Trace, q: Tensor, k: Tensor, heads: Heads, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """``apply_rotary_pos_emb`` of queries and keys (b, n, width); what is not rotated may be joined to what is."""
    (b, n, _), columns = q.shape, rotary[0].shape[-1]
    names, counts = ("q_rotary", "k_rotary"), (heads.queries, heads.keys)
    by_head = [x.view(b, n, count, heads.dim) for x, count in zip((q, k), counts, strict=True)]
    with t.frame(q, k):
        if not t.code.joins_rotated:
            found = [t.hold(turn(t, name, x, rotary)) for name, x in zip(names, by_head, strict=True)]
            if t.code.rotary == "fp32":
                found = [ops.cast(t, name, y, q.role) for name, y in zip(names, found, strict=True)]
        else:
            whole = same(columns, heads.dim)
            split = [(x if whole else parts.narrow(t, name, x, columns), parts.narrow(t, name, x, heads.dim - columns))
                     for name, x in zip(names, by_head, strict=True)]
            turned = (turn(t, name, part, rotary) for name, (part, _) in zip(names, split, strict=True))
            found = [t.hold(parts.join(t, name, (y, rest))) for name, y, (_, rest) in zip(
                names, turned if t.code.joins_rotated == "each" else list(turned), split, strict=True)]
    return found[0].view(*q.shape), found[1].view(*k.shape)


def turn(t: Trace, name: str, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """``x cos + (-x2, x1) sin``; keeps the tables."""
    cos, sin = rotary
    with t.frame():
        along = t.hold(times(t, name, x, cos))
        first, second = (parts.narrow(t, name, x, x.shape[-1] // 2) for _ in range(2))
        crossed = parts.join(t, name, (ops.scaled(t, name, second), first))
        across = t.hold(times(t, name, crossed, sin))
        return ops.add(t, along, across, name, label=f"rotated {x.label}")


def times(t: Trace, name: str, x: Tensor, table: Tensor) -> Tensor:
    """``x * table``, which has no gradient, and is all that is kept."""
    out = ops.like(t, x, x.label, widest(t, x.made, table.role))
    return t.op(name, "product", saves=(table,), reads=(x, table), writes=(out,), backward=((ops.to(x),),))


def _masked(
    t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core, heads: Heads, mask: Tensor | None, kernel: Kernel
) -> Tensor:
    """``sdpa_attention_forward`` with a mask or wide heads: keys and values are repeated for every query."""
    with t.frame(q, k, v):
        if heads.grouped and not several(t, core.span.queries):
            return _packed_queries(t, q, k, v, core, heads, mask, kernel)
        if heads.grouped:
            k, v = _for_every_query(t, k, v, heads)
            # One head is repeated as a view, of which a product or a cast makes a tensor, and no copy of values does.
            viewed = not several(t, heads.keys) and t.workload.dtype == "fp32"
            core = core._replace(laid=core.laid + ("k" if viewed else "kv"))
        core = core._replace(mask=mask)
        return _by_position(t, attend(t, q, k, v, core, kernel), core, kernel)


def _packed_queries(
    t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core, heads: Heads, mask: Tensor | None, kernel: Kernel
) -> Tensor:
    """``pack_gqa``: one query of every head goes as several queries of each head of the keys."""
    (b, _, width), span = q.shape, core.span
    each = heads.queries // heads.keys
    core = core._replace(
        heads=heads._replace(queries=heads.keys), span=span._replace(queries=each, pairs=span.pairs * each),
        mask=mask, laid="qkvo")
    y = attend(t, q.view(b, each, width // each), k, v, core, kernel)
    whole = y.view(b, 1, heads.queries * heads.value_dim)
    return ops.copy(t, "context_copy", whole) if kernel == "efficient" and several(t, heads.keys, each) else whole


def _by_position(t: Trace, y: Tensor, core: Core, kernel: Kernel) -> Tensor:
    """Contexts with heads behind positions: a copy where flash has left them as the queries lie."""
    laid = kernel == "flash" and "q" in core.laid and not pads(t, kernel, core.heads)
    return ops.copy(t, "context_copy", y) if laid and several(t, core.heads.queries, core.span.queries) else y


def _eager(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core, mask: Tensor | None) -> Tensor:
    """``eager_attention_forward``: keys and values are repeated for every query, and the softmax is in fp32."""
    (b, n, _), heads = q.shape, core.heads
    batched = several(t, b, heads.queries, n)
    part = t.code.qkv in ("together", "sliced") and several(t, b, heads.queries)  # of one position: a part of a tensor
    with t.frame(q, k, v):
        if heads.grouped:
            k, v = _for_every_query(t, k, v, heads)
        side_by_side = several(t, k.shape[1]) if not heads.grouped else not several(t, heads.keys)
        copied = (side_by_side and several(t, b, heads.queries)) or (part and not heads.grouped)
        with t.frame():
            left, right = (t.hold(x) for x in ops.casts(t, "scores", "matmul", q, k))
            left = ops.copy(t, "q_copy", left) if (batched or part) and "q" not in core.laid else left
            laid = right is not k if heads.grouped else "k" in core.laid  # a cast of one repeated head lays it out
            right = ops.copy(t, "k_copy", right) if copied and not laid else right
            scores = scores_of(t, left, right, core)
        scores = ops.scaled(t, "scale", scores, kind="shift")
        if core.softcap:
            scores = curves.cap(t, "softcap", scores)
        if core.bias is not None:
            scores = add_bias(t, scores, core.bias, "bias")
        if mask is not None:
            added = ops.like(t, scores, "scores", widest(t, scores.made, mask.made))
            scores = t.op("mask", "shift", reads=(scores, mask), writes=(added,), backward=((ops.through(scores),),))
        wide = t.code.softmax == "fp32"
        with t.frame(*((scores,) if wide else ())):
            with t.frame(scores):
                probabilities = ops.softmax(t, "softmax", scores, wide="softmax_cast" if wide else "")
            if t.code.softmax != "own":
                probabilities = ops.cast(t, "softmax_cast", probabilities, q.role)
        probabilities = t.hold(ops.dropout(t, "dropout", probabilities), "weights")  # returned as well
        with t.frame():
            weighing, weighed = (t.hold(x) for x in ops.casts(t, "context", "matmul", probabilities, v))
            weighed = ops.copy(t, "v_copy", weighed) if copied and (heads.grouped or "v" not in core.laid) else weighed
            out = context_of(t, weighing, weighed, core)
        if batched:
            out = ops.view(t, "context", out, copied=True)
        return ops.copy(t, "context_copy", out) if several(t, heads.queries, n) else out


def _bias_mask(
    t: Trace, bias: Tensor, core: Core, mask: Tensor | None, b: Number, *, looked_up: bool
) -> Tensor:
    """``create_position_bias_mask``, which is added in place of a mask: a bias (heads, queries, keys) with the least
    number in place of what comes after, or of what a ``mask`` hides. ``looked_up``: heads lie behind."""
    n, name, shape = core.span.queries, "bias_mask", bias.shape
    with t.frame():
        if core.span.masks:
            shape = (shape[0], n, n) if mask is None else (b, *shape)
            seen = mask or t.hold(pairs(t, n, n, *(made(t, name, n) for _ in range(2))))
            reads = (seen, bias, made(t, name, role=bias.made))
            y = t.tensor(*shape, role=bias.made, label=bias.label)
            bias = t.hold(t.op(name, "where", saves=(seen,), reads=reads, writes=(y,),
                               backward=((Gradient(None, role=bias.made),), (ops.to(bias),))))
        return ops.copy(t, name, bias) if looked_up and several(t, bias.shape[-3], bias.shape[-1]) else bias


def _for_every_query(t: Trace, k: Tensor, v: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    return t.hold(_repeated(t, "k", k, heads, heads.dim)), t.hold(_repeated(t, "v", v, heads, heads.value_dim))


def _repeated(t: Trace, name: str, x: Tensor, heads: Heads, dim: Number) -> Tensor:
    """``repeat_kv``: a copy, unless there is one head to repeat."""
    b, n, _ = x.shape
    if not several(t, heads.keys):
        return ops.view(t, f"{name}_repeat", x, b, n, heads.queries * dim, copied=True)
    return parts.remade(t, f"{name}_repeat", x, b, n, heads.queries * dim, label=f"{x.label} of every head")
