"""A narrower layer within each: MobileBERT's (arXiv 2004.02984, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.trace import norms, ops
from txcalc.trace.attention import Around, self_attention
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Tensor

if TYPE_CHECKING:
    from txcalc.spec.model import Sublayers


def layer(t: Trace, block: Sublayers, around: Around, x: Tensor) -> Tensor:
    """(b, n, d) down to the width of the bottleneck, through its sublayers, back up, and added to what it was."""
    own, attention = block.bottleneck, block.attention
    assert own is not None and attention is not None and block.feed_forward is not None

    def narrowed(name: str) -> Tensor:
        return norms.norm(t, f"{name}_norm", ops.linear(t, name, x, own.width, bias=True), block.norm)

    def fed(y: Tensor) -> Tensor:
        assert block.feed_forward is not None
        return norms.norm(t, "feed_forward_norm", ops.add(t, y, feed_forward(t, block.feed_forward, y)), block.norm)

    inner = narrowed("narrow")
    of, values = (narrowed("narrow_queries"), x) if own.shared else (inner, None)
    y = ops.add(t, inner, self_attention(t, attention, around, of, values))
    y = norms.norm(t, "attention_norm", y, block.norm)
    if t.size(own.feed_forwards) != 1:
        y = t.loop("further", own.feed_forwards - 1, fed, y)
    y = ops.dropout(t, "wide_dropout", ops.linear(t, "wide", fed(y), x.shape[-1], bias=True))
    return norms.norm(t, "wide_norm", ops.add(t, x, y), block.norm)
