"""A layer of the reference with a narrower one within: MobileBERT's (arXiv 2004.02984, section 3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from txcalc.check.reference.attention import SelfAttention
from txcalc.check.reference.block import PositionTables
from txcalc.check.reference.cache import LayerCache
from txcalc.check.reference.layers import Normalization, Options, Repeated, contexts, dense, dropout_or_nothing, linear
from txcalc.spec.layers import Attention, BlockNorm, Dense
from txcalc.spec.model import Sublayers


class Fed(nn.Module):
    """A feed-forward in its residual, with a norm after it."""

    def __init__(self, plan: Dense, norm: BlockNorm, width: int, options: Options) -> None:
        super().__init__()
        self.feed_forward, self.feed_forward_norm = dense(plan, width, options), Normalization(norm, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, width) to the same shape."""
        return self.feed_forward_norm(x + self.feed_forward(x))


class Bottlenecked(Fed):
    """Down, attention and feed-forwards there, and back up."""

    def __init__(self, block: Sublayers, d_model: int, options: Options, tables: PositionTables) -> None:
        own, attention, feed, norm = block.bottleneck, block.attention, block.feed_forward, block.norm
        assert own is not None and isinstance(attention, Attention) and isinstance(feed, Dense)
        super().__init__(feed, norm, own.width, options)
        self.width, self.shared, self.recomputes = d_model, own.shared, options.checkpoints
        self.contexts = contexts(options.recompute)
        self.narrow, self.narrow_norm = nn.Linear(d_model, own.width), Normalization(norm, own.width)
        made = tables.attention(attention, own.width)
        assert isinstance(made, SelfAttention)
        if own.shared:
            self.narrow_queries = nn.Linear(d_model, own.width)
            self.narrow_queries_norm = Normalization(norm, own.width)
            columns = attention.kv_heads * (attention.value_dim or attention.head_dim)
            made.v = linear(d_model, columns, bias=attention.bias.v, groups=attention.column_groups.v)
        self.attention, self.attention_norm = made, Normalization(norm, own.width)
        self.further = Repeated(lambda: Fed(feed, norm, own.width, options), own.feed_forwards - 1)
        self.wide, self.wide_norm = nn.Linear(own.width, d_model), Normalization(norm, d_model)
        self.wide_dropout = dropout_or_nothing(options.dropout)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, bias: Tensor | None = None, past: int = 0,
        cache: LayerCache | None = None, own: Tensor | None = None,
    ) -> Tensor:
        """(b, n, d) to (b, n, d); it has nothing of what other layers are given beside."""
        if not self.recomputes:
            return self._run(x)
        return checkpoint(self._run, x, use_reentrant=False, context_fn=self.contexts)

    def _run(self, x: Tensor) -> Tensor:
        inner = self.narrow_norm(self.narrow(x))
        of = self.narrow_queries_norm(self.narrow_queries(x)) if self.shared else inner
        y = self.attention_norm(inner + self.attention(of, None, 0, None, *((x,) if self.shared else ())))
        for fed in self.further:
            y = fed(y)
        y = self.wide_dropout(self.wide(super().forward(y)))
        return self.wide_norm(x + y)
