"""Attention as nanotron composes it (``CausalSelfAttention.forward`` in ``src/nanotron/models/llama.py``, July
2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import ops, parts, split
from txcalc.trace.cores import Core, attend
from txcalc.trace.record import Trace
from txcalc.trace.sizes import several
from txcalc.trace.tensors import Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import Attention


def attention(t: Trace, spec: Attention, x: Tensor, core: Core) -> Tensor:
    """One projection, copied with sequences in front: queries are turned in place, as a part of it; keys and values are
    joined in a copy, and keys turned there. What the kernel puts out is copied with positions in front again."""
    h, d = core.heads, x.shape[-1]
    widths = [width for width, _ in h.columns.values()]
    with t.frame(x):
        wide = ops.linears(t, x, h.columns, bias=spec.bias.q)
        if h.grouped:
            q, k, v = (ops.copy(t, f"{y.label}_copy", y) for y in parts.columns(t, "qkv_split", wide, *widths))
        else:
            wide = ops.copy(t, "qkv_copy", wide, label="queries, keys and values")
            q, k, v = parts.columns(t, "qkv_split", wide, *widths)
        joined = parts.join(t, "kv_join", (k, v), "keys and values")
        k, v = parts.columns(t, "kv_split", ops.copy(t, "kv_copy", joined), *widths[1:])
        y = attend(t, ops.view(t, "q_rotary", q), ops.view(t, "k_rotary", k), v, core)
        y = ops.copy(t, "context_copy", y) if several(t, y.shape[0]) else y
        o = ops.linear(t, "o", y, d, bias=spec.bias.o, part="attention output")
        return ops.dropout(t, "dropout", split.leave(t, "o", o))
