"""Attention's core: scores, softmax and weighted sum, by the kernel that runs.

PyTorch chooses it, by the rules of ``F.scaled_dot_product_attention``: the CPU's in ``sdp_utils_cpp.cpp``, CUDA's in
``cuda/sdp_utils.cpp``, in the order flash, memory-efficient, math. Newer builds try cuDNN's kernel first on Hopper and
Blackwell; it is counted as flash, which keeps 24 bytes of random state where cuDNN's keeps 16, and nothing else that is
different (measured on an H200 with torch 2.11).
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

from txcalc.trace import context, curves, ops, parts, ring
from txcalc.trace.autocast import autocast, widest
from txcalc.trace.cache import Cache, hides
from txcalc.trace.record import Part, Trace
from txcalc.trace.sizes import Product, same, several
from txcalc.trace.tensors import Number, Role, Tensor

Kernel = Literal["eager", "flash", "efficient", "math"]

FLASH_WIDEST = 256
"""Columns of a head that CUDA's flash kernel has at most."""

FLASH_UNIT = 8
"""Its heads have a multiple of so many columns; others are padded (``pad_last_dim`` in PyTorch's attention.cpp)."""


class Span(NamedTuple):
    """The keys that the queries of this run meet."""

    queries: Number
    new: Number  # keys computed in this run
    keys: Number  # keys in the score matrix: the new ones and the cached ones still held
    pairs: Number  # of queries and keys of one sequence, as far as the mask keeps them
    before: Number  # keys in the cache before this run
    held: Number  # keys in the cache after this run
    bound: Number | None = None  # keys that one query may see at most
    masks: bool = False  # a mask is added to the scores
    distances: Number = 0  # between a query and a key of the same sequence, behind it and, unless causal, before it

    @property
    def reach(self) -> Number:
        """Keys that the last query may see."""
        return self.keys if self.bound is None else self.bound


class Heads(NamedTuple):
    """The numbers of heads of queries, and of keys and values, and their columns."""

    queries: Number
    keys: Number
    dim: Number
    value_dim: Number

    @property
    def grouped(self) -> bool:
        """Several queries share a key."""
        return not same(self.queries, self.keys)

    @property
    def columns(self) -> dict[str, tuple[Number, Part]]:
        """The columns of queries, keys and values of all heads, and the part of each in the model."""
        return {"q": (self.queries * self.dim, "q"), "k": (self.keys * self.dim, "k"),
                "v": (self.keys * self.value_dim, "v")}

    def scores(self, b: Number, span: Span) -> Product:
        """Queries with keys, of ``b`` sequences."""
        return Product(b * self.queries, span.queries, span.keys, self.dim, self.dim * span.pairs)

    def context(self, b: Number, span: Span) -> Product:
        """Probabilities with values."""
        return Product(b * self.queries, span.queries, self.value_dim, span.keys, self.value_dim * span.pairs)


class Core(NamedTuple):
    """The computation between queries, keys and values, and a layer's changes to its scores.

    ``masked``: what a query sees is no more than a mask of its own says, such as a window's: one, or one a head.
    """

    heads: Heads
    span: Span
    cache: Cache | None = None
    why: str = ""  # only plain operations do it
    masked: Number = 0
    softcap: bool = False
    sinks: bool = False
    mask: Tensor | None = None  # whether a query sees a key, made in this run, in place of a buffer
    bias: Tensor | None = None  # is added to the scores, and learned
    learned: bool = False  # what is added wants a gradient
    holds: tuple[Tensor, ...] = ()  # lives until the core's function returns
    laid: str = ""  # which of q, k and v lie with their heads in front already, and whether the output (o) may
    masks: tuple[Tensor, ...] = ()  # copies of the mask that autocast has made


def attend(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core, kernel: Kernel | None = None) -> Tensor:
    """Contexts (b, n, heads x value_dim) of queries (b, n, heads x dim), by the kernel chosen before, or now."""
    kernel = kernel or choose(t, core)
    if (ranks := t.layout.by_head) == 1:
        if t.layout.cp > 1:
            return ring.attend(t, q, k, v, core, flash=kernel == "flash" and not pads(t, kernel, core.heads))
        return _attend(t, q, k, v, core, kernel)
    own = core.heads._replace(queries=core.heads.queries // ranks, keys=core.heads.keys // ranks)
    q, k, v = (context.positions(t, name, x, count) for name, x, count in (
        ("q", q, own.queries), ("k", k, own.keys), ("v", v, own.keys)))
    in_front = kernel in ("eager", "math") or pads(t, kernel, own)
    y = _attend(t, q, k, v, core._replace(heads=own, laid="o" * in_front), kernel)
    return context.heads(t, "context", y, in_front=in_front and several(t, own.queries))


def _attend(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core, kernel: Kernel) -> Tensor:
    with t.scope("core"), t.again("selective"):
        if kernel != "eager":
            core = core._replace(masks=_cast_mask(t, core))
            if core.bias is not None:
                masks = ops.casts(t, "mask", "attention", core.bias)
                core = core._replace(bias=masks[0], masks=masks)
            q, k, v = ops.casts(t, kernel, "attention", q, k, v)
            if core.mask is not None and core.mask.role is Role.BOOL:
                core = core._replace(mask=added_mask(t, core.mask, q.shape[0], Role.ACTIVATION))
        return {"eager": _eager, "math": _math, "efficient": _efficient, "flash": _flash}[kernel](t, q, k, v, core)


def choose(t: Trace, core: Core) -> Kernel:
    """The kernel that runs; the trace notes it, and why none of those that are tried before it does."""
    kernel, why = _choice(t, core)
    t.note_kernel(kernel, why)
    return kernel


def _choice(t: Trace, core: Core) -> tuple[Kernel, str]:
    asked, reasons = t.workload.attention, list[str]()
    if asked == "eager" or core.why:
        return "eager", "" if asked == "eager" else core.why
    if asked in ("flash", "sdpa"):
        masked = not same(core.masked, 0) and (asked == "sdpa" or hides(t, core.cache))
        reasons.append(_not_flash(t, core.heads, masked=masked, learned=core.learned))
        if not reasons[-1]:
            return "flash", ""
    if asked != "math" and t.workload.kernels == "cuda":
        reasons.append(_not_efficient(t, core))
        if not reasons[-1]:
            return "efficient", "; ".join(reasons[:-1])
    return "math", "; ".join(reasons)


def pads(t: Trace, kernel: Kernel, heads: Heads) -> bool:
    """Tell whether q, k and v go to CUDA's flash kernel in copies with heads of a multiple of 8 columns."""
    dim = t.size(heads.dim)
    return kernel == "flash" and t.workload.kernels == "cuda" and dim is not None and dim % FLASH_UNIT != 0


def _not_flash(t: Trace, heads: Heads, *, masked: bool, learned: bool) -> str:
    """The reason why the flash kernel does not run, or nothing."""
    w, dim = t.workload, t.size(heads.dim)
    if not same(heads.dim, heads.value_dim):
        return "flash kernels want keys and values of one size"
    if w.kernels == "cpu":
        why = "dropout" if w.drops else "gradient of a mask" if learned else ""
        return why and f"the CPU's flash kernel has no {why}"
    if w.dtype == "fp32":
        return "CUDA's flash kernel has no fp32"
    if dim is not None and dim > FLASH_WIDEST:
        return f"CUDA's flash kernel has no heads of more than {FLASH_WIDEST}"
    return "CUDA's flash kernel takes no mask that is a tensor" if masked else ""


def _not_efficient(t: Trace, core: Core) -> str:
    """The reason why CUDA's memory-efficient kernel does not run, or nothing."""
    heads = core.heads
    if core.learned and not several(t, core.span.queries) and not several(t, core.span.keys):
        return "CUDA's memory-efficient kernel wants columns of a mask side by side"
    unit = 4 if t.workload.dtype == "fp32" else 8
    sizes = (t.size(heads.dim), t.size(heads.value_dim))
    if any(size is not None and size % unit for size in sizes):
        return f"CUDA's memory-efficient kernel wants heads of multiples of {unit}"
    return "CUDA's memory-efficient kernel has no grouped heads" if heads.grouped else ""


def _eager(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """Scores, softmax and weighted sum as three operations with an N x N tensor between them.

    Grouped queries share their keys without copying them. The mask is added, so it is not kept.
    """
    (b, n, _), heads, span = q.shape, core.heads, core.span
    grouped = heads.grouped and several(t, n)
    batched = several(t, b, heads.keys, span.keys)
    by_position = several(t, n) and (batched or grouped)  # queries lie position by position
    with t.frame(q, k, v, *core.holds):
        left = ops.copy(t, "q_copy", q) if by_position and grouped and "q" not in core.laid else q
        with t.frame(left):
            left, right = ops.casts(t, "scores", "matmul", left, k)
            left = ops.copy(t, "q_copy", t.hold(left)) if by_position and not grouped and "q" not in core.laid else left
            right = ops.copy(t, "k_copy", t.hold(right)) if batched and "k" not in core.laid else right
            scores = scores_of(t, left, right, core)
        scores = ops.scaled(t, "scale", scores, kind="shift")
        if core.softcap:
            scores = curves.cap(t, "softcap", scores)
        if core.bias is not None:
            scores = ops.add(t, scores, core.bias, "shift", label="scores with positions")
        if span.masks:
            scores = ops.shifted(t, "mask", scores, buffer=True)
        if core.sinks:
            sinks = ops.learned(t, "sinks", (heads.queries,), heads.queries, 1, 1, how="view")
            scores = parts.join(t, "sinks", (scores, sinks), "scores and sink", scores=True)
        probabilities = ops.softmax(t, "softmax", t.hold(scores))
        if core.sinks:
            probabilities = parts.narrow(t, "softmax", probabilities, span.keys)
        probabilities = t.hold(ops.dropout(t, "dropout", probabilities))
        with t.frame():
            probabilities, weighed = ops.casts(t, "context", "matmul", probabilities, v)
            weighed = ops.copy(t, "v_copy", t.hold(weighed)) if batched and "v" not in core.laid else weighed
            out = context_of(t, probabilities, weighed, core)
        if by_position:
            out = ops.view(t, "context", out, copied=True)
    return ops.copy(t, "context_copy", out) if several(t, heads.queries, n) and "o" not in core.laid else out


def add_bias(t: Trace, scores: Tensor, bias: Tensor, name: str, over: int | None = None) -> Tensor:
    """Scores (b, h, n, m), and what is added (h, n, m) to all of a batch. ``over``: in whose place it may write."""
    summed = several(t, scores.shape[0])
    steps = ((ops.through(scores),), (ops.summed(bias),)) if summed else ((ops.through(scores), ops.through(bias)),)
    role = widest(t, scores.made, bias.made)
    y = t.tensor(*scores.shape, role=role, label="scores with positions", scores=True, over=over)
    return t.op(name, "shift", reads=(scores, bias), writes=(y,), backward=steps)


def scores_of(t: Trace, q: Tensor, k: Tensor, core: Core, role: Role = Role.ACTIVATION) -> Tensor:
    """Queries times keys."""
    (b, n, _), heads, span = q.shape, core.heads, core.span
    out = t.tensor(b, heads.queries, n, span.keys, role=role, label="scores", scores=True)
    return ops.matmul(t, "scores", q, k, heads.scores(b, span), out, cache=core.cache, reach=span.reach)


def context_of(t: Trace, probabilities: Tensor, v: Tensor, core: Core, role: Role = Role.ACTIVATION) -> Tensor:
    """Probabilities times values."""
    (b, _, n, _), heads = probabilities.shape, core.heads
    out = t.tensor(b, n, heads.queries * heads.value_dim, role=role, label="context")
    return ops.matmul(t, "context", probabilities, v, heads.context(b, core.span), out, reach=core.span.reach)


def _flash(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """FlashAttention (arXiv 2205.14135): CUDA's also keeps its random state, and wants heads of multiples of 8 columns.

    ``F.scaled_dot_product_attention`` pads other heads with zeros, in copies of q, k and v and in the output, which are
    what is kept.
    """
    (b, n, _), heads = q.shape, core.heads
    statistics = [t.tensor(b, heads.queries, n, role=Role.FLOAT32, label="log-sum-exp")]
    if t.workload.kernels == "cuda" and not same(b, 0) and not same(n, 0):  # of nothing it keeps nothing
        statistics += [t.tensor(*shape, role=Role.INDEX, label=f"{what} state")
                       for what, shape in (("random", (2,)), ("unused", ()))]
    if not pads(t, "flash", heads):
        masks = core.masks if t.workload.kernels == "cpu" else ()
        own = tuple(x for x in (core.mask, core.bias) if x is not None)
        return _fused(t, "flash", q, k, v, core, tuple(statistics), own or masks)
    wide = -(-heads.dim // FLASH_UNIT) * FLASH_UNIT
    with t.frame(q, k, v, *core.masks):
        q, k, v = (parts.remade(t, f"{name}_pad", x, *x.shape[:-1], count * wide, label=f"{x.label}, padded")
                   for name, x, count in (("q", q, heads.queries), ("k", k, heads.keys), ("v", v, heads.keys)))
        padded = core._replace(heads=heads._replace(dim=wide, value_dim=wide))
        out = _fused(t, "flash", q, k, v, padded, tuple(statistics))
    out = parts.narrow(t, "context", out, heads.queries * heads.dim)
    return ops.copy(t, "context_copy", out) if several(t, heads.queries) and "o" not in core.laid else out


def _efficient(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """CUDA's memory-efficient kernel (arXiv 2112.05682): random state, and where it is for a backward pass rows of
    statistics up to a multiple of 32."""
    b, n, _ = q.shape
    mask: tuple[Tensor, ...] = ()
    if core.bias is not None:
        mask = (_aligned_bias(t, core, core.bias, b),)
    elif not same(core.masked, 0):
        mask = (*_aligned_mask(t, core), *core.masks[:1])
    rows = -(-n // 32) * 32 if t.workload.keeps and any(map(t.needs, (q, k, v))) else 0
    statistics = t.tensor(b, core.heads.queries, rows, role=Role.FLOAT32, label="log-sum-exp")
    state = (t.tensor(role=Role.HOST, label=f"random {name}") for name in ("seed", "offset"))
    return _fused(t, "efficient", q, k, v, core, (statistics, *state), mask)


def _cast_mask(t: Trace, core: Core) -> tuple[Tensor, ...]:
    """Autocast's copy of a mask that is a tensor: where its columns are a multiple of 8, else another. One is empty."""
    own = core.mask is not None or core.bias is not None
    if same(core.masked, 0) or own or autocast(t, "attention") is None:
        return ()
    span = core.span
    unaligned = -(-span.keys // 8) - span.keys // 8
    masks = tuple(t.tensor(often, core.masked, span.queries, span.keys, label="mask", scores=True, grad=False)
                  for often in (1 - unaligned, unaligned))
    t.op("mask", "elementwise", writes=masks)
    return masks


def added_mask(t: Trace, seen: Tensor, b: Number, role: Role) -> Tensor:
    """Zero where a query sees a key, else the least number, in a matrix for every sequence."""
    bounds = (ops.made(t, "mask", role=role) for _ in range(2))
    return ops.made(t, "mask", b, *seen.shape[1:], role=role, of=(seen, *bounds), scores=True)


def _aligned_mask(t: Trace, core: Core) -> tuple[Tensor, ...]:
    """The copy of masks whose columns are no multiple of 8 (``preprocess_mask``); others are buffers, there anyway."""
    keys, own = core.span.keys, () if core.mask is None else (core.mask,)
    aligned, above = keys // 8, -(-keys // 8)  # as many of both where nothing is added
    if own and t.size(above - aligned) == 0:
        return own
    masks = own[0].shape[:-1] if own else (core.masked, core.span.queries)
    shape = (above - aligned, *masks, 8 * above)
    return (ops.made(t, "mask", *shape, role=Role.ACTIVATION, of=own, scores=True),)


def _aligned_bias(t: Trace, core: Core, bias: Tensor, b: Number) -> Tensor:
    """The bias of a batch's scores, aligned likewise: its gradient comes back part by part."""
    *_, heads, queries, keys = bias.shape
    wide = -(-keys // 8) * 8
    if t.size(wide - keys) != 0:
        padded = t.tensor(*bias.shape[:-1], wide, role=bias.role, label="mask", scores=True, grad=bias.grad)
        bias = ops.view(t, "mask", ops.elementwise(t, "mask", "elementwise", bias, padded), *bias.shape, copied=True)
    step = ops.to(bias) if several(t, b) else ops.through(bias)
    y = t.alias(bias, b, heads, queries, keys)
    return t.op("mask", "elementwise", reads=(bias,), writes=(y,), backward=((step,),))


def _fused(
    t: Trace, name: Literal["flash", "efficient"], q: Tensor, k: Tensor, v: Tensor, core: Core,
    statistics: tuple[Tensor, ...], mask: tuple[Tensor, ...] = (),
) -> Tensor:
    """A kernel of ``F.scaled_dot_product_attention`` that makes no N x N tensor.

    Keeps q, k, v, its output and one fp32 log-sum-exp per row, and recomputes the scores backward: 5 matrix
    products to the forward pass's 2.
    """
    (b, n, _), heads, span = q.shape, core.heads, core.span
    out = t.tensor(b, n, heads.queries * heads.value_dim, label="context")
    products = (heads.scores(b, span)._replace(recomputed=1), heads.context(b, span))
    of_mask = (ops.to(x)._replace(shape=(*x.shape[:-1], -(-span.keys // 16) * 16)) for x in mask if x.grad)
    with t.frame(q, k, v, *core.masks):
        return t.op(name, name, products=products, saves=(q, k, v, out, *statistics, *mask), cache=core.cache,
                    reads=(q, k, v, *mask), writes=(out, *statistics), reach=span.reach,
                    backward=((ops.to(q), ops.to(k), ops.to(v), *of_mask),))


def _math(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """``_scaled_dot_product_attention_math``: plain operations in fp32, on scaled copies of queries and keys.

    Grouped keys and values are copied for every head. The products of a batch want heads in front of positions.
    """
    (b, n, _), heads, span = q.shape, core.heads, core.span
    own, wide = q.role, Role.FLOAT32
    batched = not heads.grouped and several(t, b, heads.keys, span.keys)
    with t.frame(q, k, v, *(() if core.mask is None else (core.mask,)), *core.masks), t.frame():
        q, k, v = (t.hold(ops.cast(t, f"{name}_cast", x, wide)) for name, x in (("q", q), ("k", k), ("v", v)))
        left = t.hold(ops.scaled(t, "q_scale", q))
        if span.masks and same(core.masked, 0) and t.size(span.before) == 0:  # else a buffer says what each query sees
            _causal_mask(t, n, span.keys)
        if heads.grouped:
            k, v = (t.hold(parts.remade(t, f"{name}_repeat", x, *x.shape[:-1], heads.queries * dim,
                                      label=f"{x.label} of every head"))
                    for name, x, dim in (("k", k, heads.dim), ("v", v, heads.value_dim)))
        with t.frame():
            right = t.hold(ops.scaled(t, "k_scale", k))
            left = ops.copy(t, "q_copy", left) if several(t, b, heads.queries, n) and "q" not in core.laid else left
            right = ops.copy(t, "k_copy", right) if batched and "k" not in core.laid else right
            scores = scores_of(t, left, right, core, wide)
        if core.bias is not None:
            scores = add_bias(t, scores, core.bias, "mask", over=scores.id)
        elif span.masks:
            added = t.tensor(*scores.shape, role=wide, label="scores", scores=True, over=scores.id)
            scores = t.op("mask", "shift", reads=(scores,), writes=(added,), backward=((ops.through(scores),),))
        probabilities = t.hold(ops.dropout(t, "dropout", ops.softmax(t, "softmax", scores)))
        t.hold(ops.cast(t, "softmax_cast", probabilities, own))
        part = t.workload.dtype == "fp32" and t.code.qkv in ("together", "sliced")  # of one position
        batched = batched or (part and not heads.grouped and several(t, b, heads.keys))
        weighed = ops.copy(t, "v_copy", v) if batched and "v" not in core.laid else v
        out = t.hold(context_of(t, probabilities, weighed, core, wide))
        if several(t, b, heads.queries, n):
            out = ops.view(t, "context", out, copied=True)
        out = ops.cast(t, "context_cast", out, own, label="context")
    moved = several(t, heads.queries, n) and "o" not in core.laid
    return ops.copy(t, "context_copy", out) if moved else out


def _causal_mask(t: Trace, queries: Number, keys: Number) -> None:
    """``ones().tril()`` and zero or minus infinity ``where`` it says so, which the caller holds."""
    seen = partial(ops.made, t, "causal", queries, keys, scores=True)
    with t.frame():
        lower = t.hold(seen(role=Role.BOOL, of=seen(role=Role.BOOL, label="causal mask"), label="causal mask"))
        values = [ops.made(t, "causal", role=Role.FLOAT32, label="value of the mask") for _ in range(2)]
        mask = seen(role=Role.FLOAT32, of=(lower, *values), label="additive mask")
    t.hold(mask)
