"""Attention over ranks that pass keys and values around (arXiv 2310.01889), as PyTorch's ``context_parallel`` does it.

Read in torch 2.13 (``torch/distributed/tensor/experimental/_context_parallel/_attention.py``), and measured event by
event. Each rank has two parts of a sequence, one from either end, so that all have as many pairs to compute: of its own
keys the causal half, of every other rank's as many pairs as half of its queries have with all of these. What a rank has
so far is merged with each step's in fp32. Counted is the first rank, of which only the second half of queries meets
others' keys; of other ranks it may be all of their queries, and half of the keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from txcalc.spec.errors import SpecError
from txcalc.trace import ops
from txcalc.trace.layout import CP
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product, same, several
from txcalc.trace.tensors import Gradient, Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.trace.cores import Core, Heads

WIDE = Role.FLOAT32


class Made(NamedTuple):
    """Results of the kernel on a step's keys: output, log-sum-exp and random state."""

    out: Tensor
    sums: Tensor
    state: tuple[Tensor, ...]


def attend(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core, *, flash: bool) -> Tensor:
    """Contexts (b, n, heads x dim) of a rank's queries, which meet the keys of all ranks. ``flash``: that kernel runs.

    Raises ``SpecError`` for what it does not compute, or with further masks than the causal one.
    """
    for what, runs in (
        ("flash attention whose queries and values have as many columns, a multiple of 8", flash),
        ("causal attention", core.span.masks), ("attention without a window", same(core.masked, 0)),
    ):
        if not runs:
            comm = t.layout.cp_comm or CP[0]
            raise SpecError(f"--cp-comm {comm} is of {what}, which this is not; all-to-all is of any",
                            field="cp_comm" if t.layout.cp_comm else "cp")
    with t.scope("core"), t.again("selective"):
        y = _ring(t, q, k, v, core)
    return ops.copy(t, "context_copy", y) if several(t, core.heads.queries, q.shape[1]) else y


def _ring(t: Trace, q: Tensor, k: Tensor, v: Tensor, core: Core) -> Tensor:
    """The steps, and what autograd is told of them, which is one operation."""
    heads = core.heads
    with t.frame(q, k, v):
        whole, used, made = _steps(t, q, k, v, heads)
        both = t.tensor(*k.shape, 2, role=Role.PARAMETER, label="keys and values")  # of one gradient
        t.op("keys", "elementwise", reads=(k, v), writes=(both,), backward=((ops.part_of(k), ops.part_of(v)),))
        out = ops.like(t, q, "context")
        return t.op("flash", "flash", products=tuple(_products(t, q, heads, core.span.pairs)), cache=core.cache,
                    saves=(q, k, v, out, whole[1], *made.state), reads=(q, both, *whole, used, *made[:2], *made.state),
                    writes=(out,), backward=tuple(_backward(t, q, k, both, heads)))


def _products(t: Trace, q: Tensor, heads: Heads, pairs: Number) -> Iterator[Product]:
    (b, n, _), count, dim, cp = q.shape, heads.queries, heads.dim, t.layout.cp
    others = n // 2 * n
    for batch, m, kept in ((b * count, n, pairs), ((cp - 1) * b * count, n // 2, others)):
        yield Product(batch, m, n, dim, dim * kept, recomputed=1)
        yield Product(batch, m, dim, n, dim * kept)


def _steps(t: Trace, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> tuple[tuple[Tensor, Tensor], Tensor, Made]:
    """The merged output and log-sum-exp, the last keys and values, and what the last step has made."""
    (b, n, width), cp, gathers = q.shape, t.layout.cp, t.layout.cp_comm == "all-gather"
    alone = several(t, n, heads.keys)

    def made(name: str, *reads: Tensor, shape: tuple[Number, ...], role: Role = WIDE, **more: Any) -> Tensor:
        kind = more.pop("kind", "elementwise")
        return t.op(name, kind, reads=reads, writes=(t.tensor(*shape, role=role, label=name, grad=False),), **more)

    def kernel(rows: Number, *reads: Tensor) -> Made:
        out = t.tensor(b, rows, width, label="context of a step", grad=False)
        sums = t.tensor(b, heads.queries, rows, role=WIDE, label="log-sum-exp", grad=False)
        state = (t.tensor(2, role=Role.INDEX, label="random state"), t.tensor(role=Role.INDEX, label="unused state"))
        t.op("step", "elementwise", reads=(q, *reads), writes=(out, sums, *state))
        return Made(out, sums, state)

    own = tuple(made(f"{name}_copy", x, shape=x.shape, role=x.made) if alone else x for name, x in (("k", k), ("v", v)))
    before: tuple[Tensor, ...] = own
    sent = made("sent", *own, shape=(2, *k.shape), role=k.made)
    received = made("received", sent, k, shape=(cp if gathers else 1, 2, *k.shape), role=k.made,
                    kind="ring_gathered" if gathers else "rotated")
    now = kernel(n, *own)
    out, sums = made("wide", now.out, *(own if cp == 2 else ()), shape=q.shape), now.sums
    half, row = (b, n // 2, width), (b, heads.queries, n // 2)
    for i in range(1, cp):
        last, here = now, received
        if i < cp - 1:
            sent = made("sent", here, *(before if gathers else ()), shape=(2, *k.shape), role=k.made)
            if not gathers:
                received = made("received", sent, *before, shape=(1, 2, *k.shape), role=k.made, kind="rotated")
        now = kernel(n // 2, here, last.out, *(() if i == 1 else (last.sums,)), *last.state)
        wide = made("wide", now.out, shape=half)
        gate = made("gate", made("gate", sums, now.sums, shape=row), shape=row)
        part = made("merge", gate, made("merge", out, wide, shape=half), shape=half)
        part = made("merge", out, part, shape=half)
        less = made("sums", made("sums", sums, now.sums, shape=row), shape=row)
        less = made("sums", sums, less, shape=row)
        sums = made("sums", sums, less, shape=(*row[:2], n))
        out = made("merge", out, part, wide, less, *((here,) if i == cp - 2 and not gathers else ()), shape=q.shape)
        before = () if gathers else (here,)
    return (out, sums), received, now


def _backward(t: Trace, q: Tensor, k: Tensor, both: Tensor, heads: Heads) -> Iterator[tuple[Gradient, ...]]:
    """Steps back, of which each says what it makes, and for how many more what it makes is there."""
    (b, n, width), cp, gathers = q.shape, t.layout.cp, t.layout.cp_comm == "all-gather"
    own, pair, half = k.shape, (2, *k.shape), (b, n // 2, width)
    steps: list[list[tuple[str, tuple[Number, ...], Role, str]]] = []
    gone: dict[str, int] = {}

    def make(name: str, *shape: Number, role: Role = WIDE, what: str = "") -> None:
        steps.append([(name, shape, role, what)])

    def free(*names: str) -> None:
        gone.update({name: len(steps) for name in names if name not in gone})

    narrow = q.made
    for name, shape in (("gq", q.shape), ("gk", own), ("gv", own)):
        make(name, *shape)
    if several(t, n, heads.keys):
        make("k", *own, role=narrow)
        make("v", *own, role=narrow)
    for i in range(cp):
        if i < cp - 1:
            make(f"sent{i}", *pair, role=narrow)
            free(f"sent{i - 1}")
            if not gathers or i == 0:
                make(f"received{i}", cp if gathers else 1, *pair, role=narrow,
                     what="all-gather" if gathers else "send/receive")
        if i:
            make(f"sums{i}", b, heads.queries, n // 2)
            free("k", "v", f"sums{i - 1}", *(() if gathers else (f"received{i - 2}",)))
        steps.append([(f"{name}{i}", shape, narrow, "") for name, shape in (
            ("dq", half if i else q.shape), ("dk", own), ("dv", own))])
        free(*(f"{name}{i - 1}" for name in ("dq", "dk", "dv", "joined")),
             *(("gk", "gv") if i == 1 else (f"passed{i - 2}",)) * bool(i))
        if i == 0 and several(t, n, heads.keys):
            make("flat_k", *own)
            make("flat_v", *own)
        make(f"joined{i}", *pair)
        free("flat_k", "flat_v")
        make(f"passed{i}", *pair, what="send/receive")
        if i:
            make(f"gq{i}", *q.shape)
            free("gq" if i == 1 else f"gq{i - 1}")
    at = len(steps)
    free(*(f"gq{i}" for i in range(1, cp)))
    del gone[f"gq{cp - 1}"]
    gone[f"gq{cp - 1}"] = at + 1
    gone[f"joined{cp - 1}"] = at + 2
    for i, step in enumerate(steps, 1):
        yield tuple(Gradient(None, shape, role, passing=gone[name] - i if name in gone else 0, collective=what)
                    for name, shape, role, what in step)
    yield (ops.to(q),)
    yield (Gradient(both, pair, narrow),)
