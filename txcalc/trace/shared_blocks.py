"""Transformers whose weights several layers use (Zamba): declared once before the layers, run in each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.spec.facts import located_blocks
from txcalc.trace import norms, ops
from txcalc.trace.attention import Around, self_attention
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import BlockNorm
    from txcalc.spec.model import SharedBlock, Stack, Sublayers


def share(t: Trace, stack: Stack, around: Around, x: Tensor) -> Around:
    """The weights of every shared block of a stack, of which nothing runs by itself; and the embeddings for all."""
    blocks = {block.shared_block.index: block for _, block in located_blocks(stack) if block.shared_block is not None}
    for index, block in sorted(blocks.items()):
        assert block.shared_block is not None
        with t.scope(_path(index), copies=1, calls=0, repeat=True):
            _run(t, block.shared_block, block.norm, around._replace(cached=False), _joined(t, x, x))
    return around._replace(embedded=x) if blocks else around


def with_shared(t: Trace, block: Sublayers, around: Around, x: Tensor) -> Tensor:
    """What a layer's recurrence reads, (b, n, d): with what its use of a shared block puts out, if it has one."""
    own = block.shared_block
    if own is None or around.embedded is None:
        return x
    joined, d = _joined(t, x, around.embedded), x.shape[-1]
    with t.scope("shared"):
        with t.scope("adapters", component="adapters"):
            for name in ("q", "k", "v") if own.attention_adapters else ():
                heads = own.attention.heads if name == "q" else own.attention.kv_heads
                _adapter(t, own, name, joined, heads * own.attention.head_dim)
            if own.rank is not None:
                _adapter(t, own, "gate_up", x, (1 + own.feed_forward.gated) * own.feed_forward.d_ff)
        with t.scope(_path(own.index), copies=0, absolute=True):
            y = _run(t, own, block.norm, around, joined)
        return ops.add(t, x, ops.linear(t, "projection", y, d))


def _path(index: int) -> str:
    return f"shared_blocks.{index}"


def _joined(t: Trace, x: Tensor, embedded: Tensor) -> Tensor:
    b, n, d = x.shape
    return t.op("joined", "elementwise", reads=(x, embedded), writes=(t.tensor(b, n, 2 * d, label="joined"),))


def _adapter(t: Trace, own: SharedBlock, name: str, x: Tensor, width: object) -> None:
    ops.linear(t, f"{name}.up", ops.linear(t, f"{name}.down", x, own.rank), width)


def _run(t: Trace, own: SharedBlock, norm: BlockNorm, around: Around, x: Tensor) -> Tensor:
    """(b, n, 2 d) to (b, n, d)."""
    d = x.shape[-1] // 2
    h = norms.norm(t, "attention_norm", x, norm)
    y = self_attention(t, own.attention, around._replace(out=d), h)
    return feed_forward(t, own.feed_forward, norms.norm(t, "feed_forward_norm", y, norm), y, norm, cached=False)
