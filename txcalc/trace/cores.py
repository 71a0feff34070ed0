"""Attention's core: scores, softmax and weighted sum, by the kernel that runs.

PyTorch chooses it, by the rules of ``F.scaled_dot_product_attention``: the CPU's in ``sdp_utils_cpp.cpp``, CUDA's in
``cuda/sdp_utils.cpp``, in the order flash, memory-efficient, math. Newer builds try cuDNN's kernel first on Hopper and
Blackwell; it is not counted.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from txcalc.trace import ops, parts
from txcalc.trace.cache import Cache
from txcalc.trace.products import Product
from txcalc.trace.record import Number, Role, Tensor, Trace
from txcalc.trace.sizes import same, several

Kernel = Literal["eager", "flash", "efficient", "math"]

FLASH_WIDEST = 256
"""Columns of a head that CUDA's flash kernel has at most."""

FLASH_UNIT = 8
"""Its heads have a multiple of so many columns; others are padded (``pad_last_dim`` in PyTorch's attention.cpp)."""


class Span(NamedTuple):
    """Which keys the queries of this run meet."""

    queries: Number
    new: Number  # keys computed in this run
    keys: Number  # keys in the score matrix: the new ones and the cached ones still held
    pairs: Number  # of queries and keys of one sequence, as far as the mask keeps them
    held: Number  # keys in the cache after this run
    bound: Number | None = None  # keys that one query may see at most
    masks: bool = False  # a mask is added to the scores
    distances: Number = 0  # between a query and a key of the same sequence, behind it and, unless causal, before it

    @property
    def reach(self) -> Number:
        """Keys that the last query may see."""
        return self.keys if self.bound is None else self.bound


class Heads(NamedTuple):
    """How many heads queries have, how many keys and values, and their columns."""

    queries: Number
    keys: Number
    dim: Number
    value_dim: Number

    @property
    def grouped(self) -> bool:
        """Several queries share a key."""
        return not same(self.queries, self.keys)

    @property
    def unequal(self) -> bool:
        """Values are of another size than keys."""
        return not same(self.dim, self.value_dim)

    def scores(self, b: Number, span: Span) -> Product:
        """Queries with keys, of ``b`` sequences."""
        return Product(b * self.queries, span.queries, span.keys, self.dim, self.dim * span.pairs)

    def context(self, b: Number, span: Span) -> Product:
        """Probabilities with values."""
        return Product(b * self.queries, span.queries, self.value_dim, span.keys, self.value_dim * span.pairs)


class Extra(NamedTuple):
    """What a layer does to its scores that only plain operations do, and why."""

    why: str = ""
    softcap: bool = False
    sinks: bool = False
    bias: Tensor | None = None  # is added to the scores, and learned
    laid: str = ""  # which of q, k and v lie with their heads in front already


def attend(
    t: Trace, q: Tensor, k: Tensor, v: Tensor, heads: Heads, span: Span, cache: Cache | None, *,
    masked: Number = 0, extra: Extra | None = None, kernel: Kernel | None = None,
) -> Tensor:
    """Contexts (b, n, heads x value_dim) of queries (b, n, heads x dim), by the kernel that has been chosen, if it has.

    ``masked``: what a query sees is no more than a mask of its own says, such as a window's: one, or one a head.
    """
    kernel = kernel or choose(t, heads, masked=masked, extra=extra)
    with t.scope("core"):
        if kernel == "eager":
            return _eager(t, q, k, v, heads, span, cache, extra or Extra())
        if kernel == "math":
            return _math(t, q, k, v, heads, span, cache)
        return _fused(t, q, k, v, heads, span, cache, efficient=kernel == "efficient", masked=masked)


def choose(t: Trace, heads: Heads, *, masked: Number = 0, extra: Extra | None = None) -> Kernel:
    """The kernel that runs; the trace notes it, and why none of those that are tried before it does."""
    kernel, why = _choice(t, heads, masked, extra)
    t.runs(kernel, why)
    return kernel


def _choice(t: Trace, heads: Heads, masked: Number, extra: Extra | None) -> tuple[Kernel, str]:
    """The kernel that runs, and why none of those that are tried before it does."""
    asked = t.workload.attention
    if asked == "eager":
        return "eager", ""
    if extra is not None and extra.why:
        return "eager", extra.why
    reasons = []
    if asked in ("flash", "sdpa"):
        reasons.append(_not_flash(t, heads, masked=asked == "sdpa" and not same(masked, 0)))
        if not reasons[-1]:
            return "flash", ""
    if asked != "math" and t.workload.kernels == "cuda":
        reasons.append(_not_efficient(t, heads))
        if not reasons[-1]:
            return "efficient", "; ".join(reasons[:-1])
    return "math", "; ".join(reasons)


def _not_flash(t: Trace, heads: Heads, *, masked: bool) -> str:
    """Why the flash kernel does not run, or nothing."""
    w, dim = t.workload, t.size(heads.dim)
    if heads.unequal:
        return "flash kernels want keys and values of one size"
    if w.kernels == "cpu":
        return "the CPU's flash kernel has no dropout" if w.dropout and w.keeps else ""
    if w.dtype == "fp32":
        return "CUDA's flash kernel has no fp32"
    if dim is not None and dim > FLASH_WIDEST:
        return f"CUDA's flash kernel has no heads of more than {FLASH_WIDEST}"
    return "CUDA's flash kernel takes no mask that is a tensor" if masked else ""


def _not_efficient(t: Trace, heads: Heads) -> str:
    """Why CUDA's memory-efficient kernel does not run, or nothing."""
    unit = 4 if t.workload.dtype == "fp32" else 8
    sizes = (t.size(heads.dim), t.size(heads.value_dim))
    if any(size is not None and size % unit for size in sizes):
        return f"CUDA's memory-efficient kernel wants heads of multiples of {unit}"
    return ""


def _eager(
    t: Trace, q: Tensor, k: Tensor, v: Tensor, heads: Heads, span: Span, cache: Cache | None, extra: Extra
) -> Tensor:
    """Scores, softmax and weighted sum as three operations with an N x N tensor between them.

    Grouped queries share their keys without copying them. The mask is added, so it is not kept.
    """
    b, n, _ = q.shape
    out_width = heads.queries * heads.value_dim
    grouped = heads.grouped and several(t, n)
    batched = several(t, b, heads.keys)
    keys, values = _seen(t, k, v, span)
    with t.frame(q, k, v):
        left = ops.copy(t, "q_copy", q) if (batched or grouped) and "q" not in extra.laid else q
        right = ops.copy(t, "k_copy", keys) if batched and "k" not in extra.laid else keys
        scores = t.tensor(b, heads.queries, n, span.keys, label="scores", scores=True)
        t.op("scores", "core", products=(heads.scores(b, span),), saves=(left, right),
             cache=cache, reads=(left, right), writes=(scores,), reach=span.reach,
             backward=((ops.to(right),), (ops.to(left),)))
        scores = ops.scaled(t, "scale", scores, kind="shift")
        if extra.softcap:
            scores = ops.cap(t, "softcap", scores)
        if extra.bias is not None:
            scores = ops.add(t, scores, extra.bias, "shift", label="scores with positions")
        if span.masks:
            scores = ops.shifted(t, "mask", scores)
        if extra.sinks:
            sinks = t.tensor(heads.queries, 1, 1, role=Role.PARAMETER, label="sinks")
            t.op("sinks", "elementwise", weights={"": (heads.queries,)}, writes=(sinks,),
                 backward=((ops.of_weight(t.path("sinks"), heads.queries, viewed=True),),))
            scores = parts.join(t, "sinks", (scores, sinks), "scores and sink", scores=True)
        probabilities = ops.softmax(t, "softmax", t.hold(scores))
        if extra.sinks:
            probabilities = parts.narrow(t, "softmax", probabilities, span.keys)
        probabilities = t.hold(ops.dropout(t, "dropout", probabilities))
        weighed = ops.copy(t, "v_copy", values) if batched and "v" not in extra.laid else values
        out = t.tensor(b, n, out_width, label="context")
        t.op("context", "core", products=(heads.context(b, span),),
             saves=(probabilities, weighed), reads=(probabilities, weighed), writes=(out,), reach=span.reach,
             backward=((ops.to(weighed),), (ops.to(probabilities),)))
        if batched or grouped:
            out = ops.reorder(t, "context", out)
    return ops.copy(t, "context_copy", out) if several(t, heads.queries, n) else out


def _seen(t: Trace, k: Tensor, v: Tensor, span: Span) -> tuple[Tensor, Tensor]:
    """All keys and values that are read, the cached ones among them."""
    if t.size(t.workload.past) == 0:
        return k, v
    (b, _, k_width), (_, _, v_width) = k.shape, v.shape
    keys = t.tensor(b, span.keys, k_width, label="keys")
    if v.id == k.id:  # values that are columns of the keys
        t.op("cache", "elementwise", reads=(k,), writes=(keys,))
        return keys, keys.view(b, span.keys, v_width)
    values = t.tensor(b, span.keys, v_width, label="values")
    t.op("cache", "elementwise", reads=(k, v), writes=(keys, values))
    return keys, values


def _fused(
    t: Trace, q: Tensor, k: Tensor, v: Tensor, heads: Heads, span: Span, cache: Cache | None, *, efficient: bool,
    masked: Number,
) -> Tensor:
    """A kernel of ``F.scaled_dot_product_attention`` that makes no N x N tensor (arXiv 2205.14135, 2112.05682).

    Keeps q, k, v, its output and one fp32 log-sum-exp per row, and recomputes the scores backward: 5 matrix
    products to the forward pass's 2. CUDA's kernels also keep their random state. The memory-efficient one has as
    many heads of keys as of queries, so that grouped keys are copied; it rounds its rows up to 32, and the columns of a
    mask to 8, in a copy of it that is kept (``preprocess_mask``; as on an H200).
    """
    own = heads.dim
    if not efficient and t.workload.kernels == "cuda" and (t.size(own) or 0) % FLASH_UNIT:
        wide = -(-own // FLASH_UNIT) * FLASH_UNIT
        padded = [parts.pad(t, f"{name}_pad", x, count * wide)
                  for name, x, count in (("q", q, heads.queries), ("k", k, heads.keys), ("v", v, heads.keys))]
        out = _fused(t, padded[0], padded[1], padded[2], heads._replace(dim=wide, value_dim=wide), span, cache,
                     efficient=False, masked=masked)
        out = parts.narrow(t, "context_part", out, heads.queries * own)
        return ops.copy(t, "context_copy", out) if several(t, heads.queries) else out
    b, n, _ = q.shape
    out_width = heads.queries * heads.value_dim
    out = t.tensor(b, n, out_width, label="context")
    reads = (q, *_seen(t, k, v, span))
    rows = -(-n // 32) * 32 if efficient else n
    statistics = t.tensor(b, heads.queries, rows, role=Role.FLOAT32, label="log-sum-exp")
    if efficient and heads.grouped:
        k, v = _of_every_head(t, b, heads, span)
    saves = [q, k, v, out, statistics]
    if efficient:
        saves += [t.tensor(role=Role.HOST, label=label) for label in ("random seed", "random offset")]
    elif t.workload.kernels == "cuda" and not same(b, 0):  # of nothing it keeps nothing
        saves += [t.tensor(2, role=Role.INDEX, label="random state"), t.tensor(role=Role.INDEX, label="unused state")]
    if efficient and not same(masked, 0):
        aligned, above = span.keys // 8, -(-span.keys // 8)  # as many of both where nothing is added
        saves.append(t.tensor(above - aligned, masked, n, 8 * above, label="mask", scores=True))
    scores, context = heads.scores(b, span)._replace(recomputed=1), heads.context(b, span)
    kernel: Literal["flash", "efficient"] = "efficient" if efficient else "flash"
    with t.frame(q, k, v):
        t.op(kernel, kernel, products=(scores, context), saves=tuple(saves), cache=cache,
             reads=reads, writes=tuple(saves[3:]), reach=span.reach, backward=((ops.to(q), ops.to(k), ops.to(v)),))
    return out


def _math(
    t: Trace, q: Tensor, k: Tensor, v: Tensor, heads: Heads, span: Span, cache: Cache | None
) -> Tensor:
    """``_scaled_dot_product_attention_math``: plain operations in fp32, on scaled copies of queries and keys.

    Grouped keys and values are copied for every head. A dropped-out product keeps what it multiplies, too.
    """
    b, n, _ = q.shape
    out_width, wide = heads.queries * heads.value_dim, Role.FLOAT32
    keys, values = _seen(t, k, v, span)
    if heads.grouped:
        k, v = _of_every_head(t, b, heads, span, role=wide)
    elif t.workload.dtype != "fp32":
        v = t.tensor(*v.shape, role=wide, label="values in fp32")
    k = t.tensor(*k.shape, role=wide, label="scaled keys")
    scaled = t.tensor(*q.shape, role=wide, label="scaled queries")
    shape = (b, heads.queries, n, span.keys)
    scores, probabilities = (t.tensor(*shape, role=wide, label=label, scores=True) for label in ("scores", "softmax"))
    t.op("scores", "core", products=(heads.scores(b, span),), saves=(scaled, k), cache=cache,
         reads=(q, keys), writes=(scores,), reach=span.reach)
    t.op("softmax", "softmax", saves=(probabilities,), reads=(scores,), writes=(probabilities,))
    if t.workload.dropout:
        mask = t.tensor(*shape, role=Role.MASK if t.workload.kernels == "cuda" else wide, label="dropout mask",
                        scores=True)
        dropped = t.tensor(*shape, role=wide, label="softmax after dropout", scores=True)
        t.op("dropout", "dropout", saves=(mask,), reads=(probabilities,), writes=(mask, dropped))
        probabilities = dropped
    out = t.tensor(b, n, out_width, label="context")
    t.op("context", "core", products=(heads.context(b, span),), saves=(probabilities, v),
         reads=(probabilities, values), writes=(out,), reach=span.reach)
    return out


def _of_every_head(
    t: Trace, b: Number, heads: Heads, span: Span, role: Role = Role.ACTIVATION
) -> tuple[Tensor, Tensor]:
    """Copies of the keys and values that queries share, one for each of them."""
    keys, values = (t.tensor(b, span.new, heads.queries * size, role=role, label=f"{name} of every head")
                    for name, size in (("keys", heads.dim), ("values", heads.value_dim)))
    return keys, values
