"""Transformers whose weights several layers use (Zamba): declared once before the layers, run in each of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from txcalc.spec.facts import located_blocks
from txcalc.trace import norms, ops
from txcalc.trace.attention import Around, self_attention
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from txcalc.spec.layers import BlockNorm
    from txcalc.spec.model import SharedBlock, Stack, Sublayers


def share(t: Trace, stack: Stack, around: Around, x: Tensor) -> Around:
    """The weights of every shared block of a stack, of which nothing runs by itself; and the embeddings for all."""
    blocks = {block.shared_block.index: block for _, block in located_blocks(stack) if block.shared_block is not None}
    for index, block in sorted(blocks.items()):
        assert block.shared_block is not None
        inside = partial(t.scope, t.path(f"shared_blocks.{index}"), absolute=True)
        with t.scope("", copies=1, calls=0, repeat=True):
            _run(t, block.shared_block, block.norm, around._replace(cached=False), _joined(t, x, x), inside)
    return around._replace(embedded=x, blocks=t.path("shared_blocks")) if blocks else around


def with_shared(t: Trace, block: Sublayers, around: Around, x: Tensor) -> Tensor:
    """The input of a layer's recurrence, (b, n, d): with what its use of a shared block puts out, if it has one."""
    own = block.shared_block
    if own is None or around.embedded is None:
        return x

    def adapt(name: str, x: Tensor, width: Number) -> None:
        with t.scope(f"adapters.{name}", component="adapter"):
            ops.linear(t, "up", ops.linear(t, "down", x, own.rank or 0), width)

    with t.scope("shared"):
        inside = partial(t.scope, f"{around.blocks}.{own.index}", copies=0, absolute=True)
        y = _run(t, own, block.norm, around, _joined(t, x, around.embedded), inside, adapt)
        return ops.add(t, x, ops.linear(t, "projection", y, x.shape[-1]))


def _joined(t: Trace, x: Tensor, embedded: Tensor) -> Tensor:
    b, n, d = x.shape
    return t.op("joined", "elementwise", reads=(x, embedded), writes=(t.tensor(b, n, 2 * d, label="joined"),))


def _run(
    t: Trace, own: SharedBlock, norm: BlockNorm, around: Around, x: Tensor,
    inside: Callable[[], AbstractContextManager[None]], adapt: Callable[[str, Tensor, Number], None] | None = None,
) -> Tensor:
    """(b, n, 2 d) to (b, n, d), ``inside`` the shared weights; beside them a layer's own adapters."""
    attention, feed = own.attention, own.feed_forward
    with inside():
        h = norms.norm(t, "attention_norm", x, norm)
    if adapt is not None and own.attention_adapters:
        for name, heads in (("q", attention.heads), ("k", attention.kv_heads), ("v", attention.kv_heads)):
            adapt(name, h, heads * attention.head_dim)
    with inside():
        y = self_attention(t, attention, around._replace(out=x.shape[-1] // 2, shared=None), h)
        h = norms.norm(t, "feed_forward_norm", y, norm)
    if adapt is not None and own.rank is not None:
        adapt("gate_up", h, (1 + feed.gated) * feed.d_ff)
    with inside():
        return feed_forward(t, feed, h, y, norm, cached=False)
