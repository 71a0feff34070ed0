"""Sequence mixers as single layers, written as their forward pass from (b, n, d) to (b, n, d)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops
from txcalc.trace.attention import Around, self_attention
from txcalc.trace.cache import Cache
from txcalc.trace.products import Product
from txcalc.trace.record import Number, Tensor, Trace
from txcalc.trace.recurrent import recurrent

if TYPE_CHECKING:
    from txcalc.spec.mixers import LinearAttention, Mixer
    from txcalc.trace.workload import Workload


def trace_mixer(spec: Mixer, d: Number, workload: Workload) -> Trace:
    """Run one layer of width ``d`` on the workload's batch and length, causally."""
    t = Trace(workload)
    x = t.tensor(workload.batch, workload.seq, d, label="x")
    if spec.kind == "linear-attention":
        _linear_attention(t, spec, x)
    elif spec.kind == "standard":
        self_attention(t, spec, Around(None, causal=True, cached=True), x)
    else:
        recurrent(t, spec, x, cached=True)
    return t


def _linear_attention(t: Trace, spec: LinearAttention, x: Tensor) -> None:
    """S <- S + phi(k) [v, 1]^T; y = phi(q) S, whose last column is the sum that normalises the others.

    ``attention: eager`` runs it step by step, and autograd keeps the state of every step; ``flash`` stands for a
    kernel that computes the states anew in the backward pass (section 3.3.1). The state is held in fp32.
    """
    b, n, d = x.shape
    h, width = spec.heads, spec.heads * spec.head_dim
    q, k, _ = (ops.linear(t, name, x, width, bias=spec.bias) for name in ("q", "k", "v"))
    t.op("features", "slope_in", saves=(q, k))
    features = [t.tensor(b, n, width, label=f"phi({name})") for name in ("q", "k")]
    values = t.tensor(b, n, h * (spec.head_dim + 1), label="values and ones")
    state = width * (spec.head_dim + 1)
    saves = [*features, values]
    if t.workload.attention == "eager":
        saves.append(t.tensor(b, n, state, label="states"))
    write, read = Product(b * n, state, 1, 1), Product(b * n, state, 1, 1)
    if t.workload.attention != "eager":
        write = write._replace(recomputed=1)
    t.op("recurrence", "recurrence", products=(write, read), saves=tuple(saves),
         cache=Cache("state", state, 1, b, role="float32"))
    t.op("normalize", "product", saves=(t.tensor(b, n, h * (spec.head_dim + 1), label="weighted sums"),))
    ops.linear(t, "o", t.tensor(b, n, width, label="context"), d, bias=spec.bias)
