"""Attention over the positions of a window and sums of those before it (DeepSeek-V4), and what chooses among keys."""

from __future__ import annotations

from typing import Annotated, Literal

from txcalc.spec.base import Flag, Size, Spec
from txcalc.spec.errors import FieldError


class Indexer(Spec):
    """The indexer of sparse attention: small heads that score all keys to choose some (arXiv 2512.02556 section 2.1).

    Queries come from the query latent; one key per token, normed, is shared by the heads and cached.
    """

    heads: Size
    head_dim: Size


class BlockIndexer(Spec):
    """Small heads that score all keys, of which a block's best counts: each chooses blocks for its heads of queries.

    Queries and the key of a token, which the heads share and which is cached, come from the input, normed and rotated;
    a query's own block is always chosen (MiniMax M3). Where they are ``averaged``, the mean of a block's is normed and
    rotated, and the heads choose together, of whole blocks: the rest is always seen (Qwen4-Exp).
    """

    heads: Size
    head_dim: Size
    block: Annotated[Size, "keys of a block"]
    blocks: Annotated[Size, "the most blocks that a query attends to"]
    averaged: Annotated[Flag, "keys are means of whole blocks; beside those chosen, a query sees the rest"] = False


class Compression(Spec):
    """Keys that are each a weighed sum of some positions' (DeepSeek-V4's compressor); what is no whole sum yet waits.

    An ``indexer`` scores sums of its own, with columns of its heads, and chooses ``index_topk`` of them for a query.
    """

    rate: Annotated[Size, "positions of each sum"]
    overlaps: Annotated[Flag, "sums also take the positions of the one before, by columns of their own"] = False
    index_topk: Annotated[Size | None, "the most sums that a query attends to"] = None
    indexer: Indexer | None = None

    def _check(self) -> None:
        if (self.indexer is None) != (self.index_topk is None):
            raise FieldError(("index_topk",), "an indexer and how many it chooses go together")
        if self.indexer is not None and not self.overlaps:
            raise FieldError(("indexer",), "needs overlaps, as its own sums have")


class Compressed(Spec):
    """Attention in which one vector of a position is key and value of all heads: a window, and sums of what is before.

    Queries come from a latent, each head's normed without weights; contexts are rotated back, and projected in groups
    of heads, then together. Each head has a sink (DeepSeek-V4).
    """

    kind: Literal["compressed"]
    heads: Size
    head_dim: Size
    q_rank: Annotated[Size, "width of the query latent"]
    o_groups: Annotated[Size, "groups of heads whose contexts are projected by themselves"] = 1
    o_rank: Annotated[Size, "columns of each group's projection"]
    window: Annotated[Size, "sliding window: keys each query sees, itself included"]
    compression: Compression | None = None

    def _check(self) -> None:
        if self.heads * self.head_dim % self.o_groups:
            raise FieldError(("o_groups",), f"{self.o_groups} does not divide {self.heads * self.head_dim} columns")
