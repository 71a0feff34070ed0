"""Projections of a layer in groups of columns or by experts, unused ones, adapters of languages, convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from txcalc.spec.base import Activation, Count, Flag, Size, Spec
from txcalc.spec.errors import FieldError
from txcalc.spec.facts import located_blocks

if TYPE_CHECKING:
    from txcalc.spec.layers import Attention, BlockNorm
    from txcalc.spec.model import Model, SharedBlock, Sublayers


class UnusedProjections(Spec):
    """Numbers of projections that an attention keeps and a run does not use."""

    q: Count = 0
    k: Count = 0
    v: Count = 0


class AttentionGroups(Spec):
    """In how many groups of columns each projection is made, each of its own share of the input."""

    q: Size = 1
    k: Size = 1
    v: Size = 1
    o: Size = 1


class DenseGroups(Spec):
    """In how many groups of columns each projection is made, each of its own share of the input."""

    up: Size = 1
    down: Size = 1


class LanguageAdapter(Spec):
    """A bottleneck for every language behind the feed-forward, of which a text passes its own (arXiv 2205.06266)."""

    width: Size
    languages: Size = 1
    activation: Activation = "gelu"
    norm: Annotated[
        Literal["none", "again", "own"], "before it; again: the feed-forward's, which stands behind it too",
    ] = "again"
    normed_residual: Annotated[Flag, "what it is added to is what it reads, normed"] = True


class Blocks(Spec):
    """Attention block by block: each position sees its own block, and those on either side as far as it is long.

    ``chunks``: of two blocks that overlap (Longformer, arXiv 2004.05150, app. A); ``three``: each block meets three
    (LongT5, arXiv 2112.07916); ``own``: itself alone (PEGASUS-X, arXiv 2208.04347). A stack is padded to whole pairs of
    ``chunks``, or to whole blocks of its ``own``; ``three`` pad keys alone.
    """

    length: Annotated[Size, "positions of a block, which are seen to either side"]
    reach: Literal["chunks", "three", "own"] = "chunks"
    summaries: Annotated[Size | None, "positions whose normed sum is a key for all (LongT5's transient globals)"] = None
    global_tokens: Annotated[Count, "learned vectors that see all and are seen by all, with a norm of their own"] = 0
    staggered: Annotated[Flag, "blocks begin half a block before the first position"] = False

    def _check(self) -> None:
        for name, reach in (("summaries", "three"), ("global_tokens", "own"), ("staggered", "own")):
            if getattr(self, name) and self.reach != reach:
                raise FieldError((name,), f"needs reach: {reach}")
        if self.staggered and self.length % 2:
            raise FieldError(("length",), f"{self.length} is odd: there is no half of a block")


class Ahead(Spec):
    """Streams beside the positions, each of which predicts one token further ahead (ProphetNet, arXiv 2001.04063).

    They begin as learned vectors, see themselves and the positions before, and are what a language model's head reads.
    Every position gives a bias for each bucket of distances and each head.
    """

    streams: Size
    buckets: Size = 32


class AltUp(Spec):
    """Residual streams, of which a layer updates one as all predict it, and corrects all (arXiv 2301.13310).

    Beside attention runs a low-rank product of what it reads (LAuReL, arXiv 2411.07501), as in Gemma 3n.
    """

    streams: Size
    laurel_rank: Size


class Bottleneck(Spec):
    """A narrower layer within each, between a projection down and one back up (MobileBERT, arXiv 2004.02984)."""

    width: Annotated[Size, "columns of what is within: attention reads them, and the feed-forwards"]
    shared: Annotated[
        Flag, "queries and keys are made of a projection of their own, and values of what the layer reads",
    ] = True
    feed_forwards: Annotated[Size, "feed-forwards, one after the other, each in its residual"] = 4


class Convolution(Spec):
    """A convolution of a block's input over its positions, activated, added to the block's output and normed.

    DeBERTa-v2 has one around its first layer. Each position sees as many neighbours on either side.
    """

    kernel: Size
    activation: Activation = "tanh"

    def _check(self) -> None:
        if self.kernel % 2 == 0:
            raise FieldError(("kernel",), f"{self.kernel} is even: it would look further to one side")


def check_crossing(attention: Attention) -> None:
    """Raise ``FieldError`` for what attention to something else cannot do."""
    for name in ("kv_shared", "blocks", "similarity", "span_convolution", "kept_keys", "indexer", "ahead",
                 "image_reduction", "image_convolution"):
        if getattr(attention, name) != attention.default(name):
            raise FieldError(("cross_attention", name), "only layers over one sequence share keys and values, or go by "
                             "neighbours and angles")
    for name in ("window", "chunk"):
        if getattr(attention, name) is not None:
            raise FieldError(("cross_attention", name), "what is read is seen whole")
    if attention.twice and (attention.value_from == "key" or attention.query_experts is not None):
        raise FieldError(("cross_attention", "twice"), "needs queries and values that are projected from what is read")


def check_experts(attention: Attention) -> None:
    """Raise ``FieldError`` where experts cannot project an attention's queries, or its heads are no two halves."""
    for name in ("value_dim", "sinks", "image_window", "value_convolution", "blocks", "span_convolution", "similarity"):
        if attention.differential and getattr(attention, name) not in (None, False, "softmax"):
            raise FieldError((name,), "differential attention has none")
    for name in ("image_window", "window", "chunk", "blocks", "similarity", "differential"):
        if attention.kept_keys is not None and getattr(attention, name) != attention.default(name):
            raise FieldError((name,), "keys that are kept by what values say have none")
    for name in ("image_window", "window", "chunk", "blocks", "similarity", "differential", "kept_keys", "kv_shared",
                 "span_convolution", "value_convolution", "query_experts"):
        if attention.indexer is not None and getattr(attention, name) != attention.default(name):
            raise FieldError((name,), "blocks of keys that an indexer chooses have none")
    own = attention.indexer
    if own is not None and not own.averaged and attention.heads % own.heads:
        raise FieldError(("indexer", "heads"), f"{own.heads} does not divide heads {attention.heads}")
    if attention.differential and attention.kv_heads % 2:
        raise FieldError(("kv_heads",), "differential attention halves them: an even number")
    if attention.window_border and attention.image_window is None:
        raise FieldError(("window_border",), "needs image_window")
    plain = {"kind", "heads", "kv_heads", "head_dim", "bias", "scale", "image_reduction", "image_convolution",
             "qk_norm"}
    if (attention.image_convolution or 1) % 2 == 0:
        raise FieldError(("image_convolution",), f"{attention.image_convolution} is even: it would look further to one "
                         "side")
    reduces = attention.image_reduction is not None or attention.image_convolution is not None
    for name in sorted({*attention.names()} - plain) if reduces else ():
        if getattr(attention, name) != attention.default(name):
            raise FieldError((name,), "keys of fewer positions of an image have none")
    if attention.query_experts is None:
        return
    active, groups = attention.heads // attention.kv_heads, attention.column_groups
    if active > attention.query_experts:
        raise FieldError(("query_experts",), f"each token chooses {active} of them")
    for path, there, why in (
        (("bias", "q"), attention.bias.q, "experts project queries without one"),
        (("image_window",), attention.image_window is not None, "experts project queries of whole sequences"),
        (("column_groups",), groups.q > 1 or groups.o > 1, "experts project queries and outputs whole"),
    ):
        if there:
            raise FieldError(path, why)


def check_shared_blocks(model: Model, blocks: list[tuple[tuple[str | int, ...], Sublayers]]) -> None:
    """Shared blocks of one index are alike, and have no bias by distance and no keys of other layers."""
    found: dict[int, tuple[SharedBlock, BlockNorm]] = {}
    for path, block in blocks:
        if (own := block.shared_block) is None:
            continue
        if block.recurrent is None or block.attention or (
                block.norm.placement, block.residual) != ("pre", "sequential"):
            raise FieldError((*path, "shared_block"), "stands before a recurrent layer, alone and normed before it")
        if own.attention_adapters and own.rank is None:
            raise FieldError((*path, "shared_block", "rank"), "adapters need one")
        alike = (own.replaced(rank=None, attention_adapters=False), block.norm)
        if found.setdefault(own.index, alike) != alike:
            raise FieldError((*path, "shared_block", "index"), f"other layers have another block {own.index}")
        plain = {"kind", "heads", "kv_heads", "head_dim", "bias", "scale", "window"}
        for name in sorted({*own.attention.names()} - plain):
            if getattr(own.attention, name) != own.attention.default(name):
                raise FieldError((*path, "shared_block", "attention", name), "a shared block has plain attention")
        feed = own.feed_forward
        if feed.channel_mix or feed.inner_norm or feed.column_groups != DenseGroups():
            raise FieldError((*path, "shared_block", "feed_forward"), "a shared block has a plain one")
        if model.position.kind not in ("none", "learned", "sinusoidal", "rope") or model.encoder or model.streams:
            raise FieldError((*path, "shared_block"), "needs positions in embeddings, rope or none, and a single stack")


def check_altup(model: Model) -> None:
    """Alternating updates need a vector of each layer's, and layers of attention and feed-forward in norms."""
    if model.altup is None:
        return
    beside = model.streams or model.layer_scale or model.residual_scale or model.per_layer_embedding is None
    if beside or any(
            block.attention is None or block.feed_forward is None or block.recurrent or block.adapter
            or block.tanh_gates or block.residual != "sequential" or block.norm.placement != "sandwich"
            or block.norm.gate_rank or not block.norm.on_attention or block.convolution or block.bottleneck
            or getattr(block.attention, "blocks", None) for _, block in located_blocks(model)):
        raise FieldError(("altup",), "needs per_layer_embedding, and layers of attention and feed_forward with norms "
                         "before and behind both")
