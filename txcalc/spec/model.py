"""The model: frozen, validated sizes and switches, and nothing that is computed from them.

A uniform model is flat: the fields of its one repeated block stand at the top level. A model whose layers differ lists
``groups``; each block there gives only what differs. After validation every default is filled in (``kv_heads``,
``head_dim``, the encoder, the groups), so that programs that read it never ask what a missing value means.

Sizes are ints here, and every check on a size is made here. The programs under ``txcalc.trace`` also run on
symbols and arrays, which enter a validated spec through ``replaced``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from txcalc.spec import resolve, widths
from txcalc.spec.autoencoder import Autoencoder
from txcalc.spec.base import Count, Flag, Gelu, Least, Size, Spec
from txcalc.spec.errors import FieldError
from txcalc.spec.facts import first_attention, is_causal, located_blocks, mask_kind
from txcalc.spec.inputs import (
    ContrastiveHead,
    Head,
    Input,
    LearnedPosition,
    LMHead,
    Pooler,
    Position,
    Projector,
    QueryInput,
    RotaryPosition,
    TokenInput,
    TransformerXLPosition,
)
from txcalc.spec.layers import MLA, AnyAttention, Attention, BlockNorm, Dense, FeedForward, Recurrent
from txcalc.spec.projections import AltUp, Bottleneck, Convolution, LanguageAdapter, check_altup, check_crossing
from txcalc.spec.quantization import Quantization, StoredTensors
from txcalc.spec.tables import Entities, IdleWeight, PerLayerEmbedding, TokenTable

Architecture = Literal["decoder-only", "encoder-only", "encoder-decoder"]


class SharedBlock(Spec):
    """A transformer over hidden states and embeddings side by side, whose weights several layers use, not residual.

    What it puts out, projected by each, is added to what its recurrence reads (Zamba, arXiv 2405.16712, 2411.15242).
    """

    attention: Attention
    feed_forward: Dense
    index: Annotated[Count, "which set of weights"] = 0
    rank: Annotated[Size | None, "of low-rank adapters of each layer's own: of gate and up"] = None
    attention_adapters: Annotated[Flag, "and of queries, keys and values"] = False


class Sublayers(Spec):
    """The contents of one block, in the order of the forward pass."""

    shared_block: SharedBlock | None = None
    attention: AnyAttention | None = None
    recurrent: Recurrent | None = None
    cross_attention: Attention | None = None
    feed_forward: Annotated[FeedForward | None, "none: a block without one"]
    adapter: LanguageAdapter | None = None
    convolution: Convolution | None = None
    bottleneck: Bottleneck | None = None
    tanh_gates: Annotated[Flag, "each sublayer's output times the tanh of a learned number (arXiv 2204.14198)"] = False
    norm: BlockNorm = BlockNorm()
    residual: Annotated[
        Literal["sequential", "parallel", "mixers", "none"],
        "parallel: x + attention(norm(x)) + feed_forward(norm(x)); mixers: x + attention(h) + recurrent(h) with h = "
        "norm(x), and a feed_forward after them; none: a sublayer's output replaces x",
    ] = "sequential"

    def _check(self) -> None:
        if self.residual == "parallel":
            others = (self.cross_attention, self.recurrent)
            if self.attention is None or self.feed_forward is None or others != (None, None):
                raise FieldError(("residual",), "parallel needs attention and feed_forward, and nothing else")
            if self.norm.placement != "pre" or self.norm.gate_rank is not None:
                raise FieldError(("norm", "placement"), "a parallel block takes pre, without gates")
        elif self.norm.shared:
            raise FieldError(("norm", "shared"), "only a parallel block can share its norm")
        if self.tanh_gates and (self.residual != "sequential" or self.bottleneck is not None):
            raise FieldError(("tanh_gates",), "needs residual: sequential, and no bottleneck")
        if self.residual == "mixers":
            self._check_mixers()
        experts = self.feed_forward is not None and self.feed_forward.kind == "moe" and self.feed_forward.separate_norms
        if experts and (self.residual == "parallel" or self.norm.placement not in ("pre", "sandwich")):
            raise FieldError(("feed_forward", "separate_norms"), "needs a norm before feed_forward: pre or sandwich, "
                             "and no parallel block")
        own = self.attention
        for name in ("joined", "memory_norm", "twice") if isinstance(own, Attention) else ():
            if getattr(own, name):
                raise FieldError(("attention", name), "only cross_attention has something else to read")
        if self.cross_attention is not None:
            check_crossing(self.cross_attention)

    def _check_mixers(self) -> None:
        if self.attention is None or self.recurrent is None or self.cross_attention is not None:
            raise FieldError(("residual",), "mixers needs attention and recurrent, and no cross_attention")
        if self.norm.placement != "pre" or not self.norm.on_attention or self.norm.gate_rank is not None:
            raise FieldError(("norm", "placement"), "attention and recurrent read one norm before them: it takes pre")


class Block(Sublayers):
    """One block of a group, ``repeat`` times in a row."""

    repeat: Size = 1


class Group(Spec):
    """A sequence of blocks, the whole sequence ``repeat`` times."""

    repeat: Size = 1
    blocks: Annotated[tuple[Block, ...], Least(1)]
    shared: Annotated[Flag, "every repetition uses one set of weights"] = False


class Stack(Sublayers):
    """A tower of blocks over one sequence of hidden states."""

    layers: Size
    input: Input = TokenInput()
    position: Position
    embedding_norm: Annotated[Flag, "a norm on the summed embeddings"] = False
    embedding_norm_scale: Annotated[Flag, "false: that norm has no weights (Muse Glimmer)"] = True
    layer_scale: Annotated[Flag, "a sublayer's output, where it is added, times a learned vector (CaiT)"] = False
    residual_scale: Annotated[Flag, "what a sublayer's output is added to, times a learned vector (Doge)"] = False
    streams: Annotated[Size | None, "residuals side by side, of which a sublayer reads a mix (arXiv 2409.19606)"] = None
    sinkhorn: Annotated[Size | None, "steps that balance weights by which streams mix (mHC, arXiv 2512.24880)"] = None
    mix_rank: Annotated[Size | None, "streams are normed, and read by gates of each column behind a bottleneck"] = None
    final_norm: Annotated[Flag, "a norm after the last block"] = True
    causal_mask: Annotated[Flag, "an encoder whose positions see none after them (CLIP's text)"] = False
    share_layers: Annotated[Flag, "every layer uses one set of weights"] = False
    groups: Annotated[tuple[Group, ...] | None, "only for layers that differ"] = None

    def _check(self) -> None:
        super()._check()
        if (groups := self.groups) is not None:
            total = sum(g.repeat * sum(b.repeat for b in g.blocks) for g in groups)
            if total != self.layers:
                raise FieldError(("layers",), f"the groups hold {total} layers, not {self.layers}")
            if self.share_layers:
                raise FieldError(("share_layers",), "layers that differ cannot share one set of weights")
        if isinstance(self.position, LearnedPosition) and self.position.both_ways:
            widths.check_sides(self, self.position.size)
        indexed = False
        own: dict[str, Attention] = {}
        for path, block in located_blocks(self):
            if isinstance(block.attention, MLA):
                indexed = indexed or block.attention.indexer is not None
                if block.attention.index_topk is not None and not indexed:
                    raise FieldError((*path, "attention", "indexer"), "no layer before this one has one")
            if self.layers and not any((block.attention, block.recurrent, block.cross_attention, block.feed_forward)):
                raise FieldError((*path, "attention"), "a block needs attention, recurrent or feed_forward")
            if isinstance(block.attention, Attention) and block.attention.image_window is not None:
                widths.check_squares(self, block.attention.image_window, block, (*path, "attention", "image_window"))
            if isinstance(block.attention, Attention):
                self._check_keys(block.attention, own, (*path, "attention"))
            if isinstance(self.position, TransformerXLPosition) and block.attention is not None:
                self._check_distances(self.position, block.attention, (*path, "attention"))
            if (isinstance(self.position, RotaryPosition) and self.position.dim is not None
                    and isinstance(block.attention, Attention) and self.position.dim > block.attention.head_dim):
                raise FieldError(("position", "dim"), f"{self.position.dim} is more than head_dim "
                                 f"{block.attention.head_dim}")

    def _check_keys(self, attention: Attention, own: dict[str, Attention], path: tuple[str | int, ...]) -> None:
        """A layer without keys and values needs one before it that has its own, of the same sizes."""
        if not attention.kv_shared:
            own[mask_kind(attention)] = attention
            return
        path, before = (*path, "kv_shared"), own.get(mask_kind(attention))
        if before is None:
            raise FieldError(path, f"no layer of the same reach ({mask_kind(attention)}) before this one has its own")
        for name in ("kv_heads", "head_dim", "value_dim", "window", "chunk", "image_window", "cached"):
            if getattr(attention, name) != getattr(before, name):
                raise FieldError(path, f"{name} {getattr(attention, name)} must be {getattr(before, name)}, as in the "
                                 "layer whose keys and values it reads")
        if self.position.kind in ("disentangled", "transformer-xl"):
            raise FieldError(path, f"{self.position.kind} positions need every layer's own keys")

    def _check_distances(
        self, position: TransformerXLPosition, attention: AnyAttention, path: tuple[str | int, ...]
    ) -> None:
        """Transformer-XL's positions need whole queries, and as many of one size as their stack's u and v have."""
        if not isinstance(attention, Attention):
            raise FieldError((*path, "kind"), "transformer-xl positions need standard attention")
        if attention.softcap is not None:
            raise FieldError((*path, "softcap"), "transformer-xl positions have no cap on their scores")
        first = first_attention(self)
        sizes = (attention.heads, attention.head_dim)
        if isinstance(first, Attention) and sizes != (first.heads, first.head_dim) and not position.per_layer:
            raise FieldError(("position", "per_layer"), "layers share u and v only if their heads are alike")


class Resampler(Stack):
    """Learned queries that read what a projector makes of a tower's positions, in layers with cross-attention.

    Flamingo's resampler (arXiv 2204.14198, section 3.1.1), BLIP-2's Q-Former (arXiv 2301.12597).
    """

    d_model: Size
    input: QueryInput


class Encoder(Stack):
    """The encoder of an encoder-decoder: as wide as the decoder, unless it reads images or sounds."""

    d_model: Annotated[Size | None, "default: the decoder's"] = None
    pooler: Annotated[Pooler | None, "on what it puts out, whose vector nothing reads"] = None
    projection: Annotated[Flag, "a projection to the decoder's width, with a bias, which the decoder reads"] = False


class SideTower(Stack):
    """A tower whose weights stand beside another's, and for which a run has nothing to read."""

    d_model: Size
    layers: Annotated[Count, "0: its inputs alone, projected (Fuyu)"]
    pooler: Pooler | None = None
    projector: Annotated[Projector | None, "feeds the main stack"] = None


class Tower(SideTower):
    """A second stack beside the main one, with a width and inputs of its own: the images of CLIP or of Gemma 3.

    It runs once per image of the workload: on one image per sequence for a contrastive head, else on none by default.
    """

    second: Annotated[SideTower | None, "for films (Video-LLaVA) or sounds (Qwen2.5-Omni), which no run has"] = None
    unused: Annotated[tuple[Projector, ...], "projectors that no run takes (Granite Docling's fine route)"] = ()
    resampler: Annotated[Resampler | None, "between a projector's hidden layers and its last one"] = None
    deepstack: Annotated[
        tuple[Projector, ...], "further projectors, added to the main stack's first layers (arXiv 2406.04334)",
    ] = ()


class Published(Spec):
    """A figure that a paper or model card printed, kept to be compared with the count."""

    quantity: Literal["params", "params_active", "params_non_embedding", "flops_forward", "kv_cache_bytes_per_token"]
    printed: Annotated[str, "the figure as printed, such as 124 M or 1.5 B"]
    source: str
    difference: Annotated[str | None, "why the count rounds to something else, in one line"] = None
    counted: Annotated[int | None, "the count that ``difference`` explains, to the last digit"] = None


class Model(Stack):
    """A whole model. The stack fields describe its only stack, or the decoder of an encoder-decoder."""

    name: Annotated[str, Least(1)]
    family: str | None = None
    modeling: Annotated[
        str | None, "whose code runs it in transformers: the model_type of its classes, such as qwen3",
    ] = None
    gelu: Annotated[Gelu | None, "how that code composes GELU, if not as its class usually does"] = None
    aliases: tuple[str, ...] = ()
    summary: str | None = None
    sources: Annotated[dict[str, str], "where each group of fields was read"] = {}  # noqa: RUF012  copied
    published: tuple[Published, ...] = ()

    architecture: Architecture = "decoder-only"
    vocab: Annotated[Size | None, "rows of the token table; needed by token input and LM heads"] = None
    d_model: Annotated[Size, "width of what the first layer reads; layers without a residual may change it"]
    context: Annotated[Size, "the longest sequence the model was made for, in tokens"]
    extra_tokens: Annotated[Count, "rows of the token table beside vocab, which an untied head has no logits of"] = 0
    token_types: Annotated[Count, "rows of the token type (segment) table; 0 for none"] = 0
    task_types: Annotated[Count, "rows of a task type table beside it (ERNIE 2.0); 0 for none"] = 0
    token_tables: Annotated[tuple[TokenTable, ...], "tables of what else a token has"] = ()
    embedding_dim: Annotated[Size | None, "factorised embeddings: width before projection"] = None
    embedding_projection: Annotated[
        Literal["sum", "tokens", "rows"],
        "what a factorised embedding projects: the sum with positions, or the tokens alone (back on top, or not: rows)",
    ] = "sum"
    embedding_projection_bias: Flag = True
    embedding_span: Annotated[Size, "rows: tokens whose rows stand side by side before that (MobileBERT: 3)"] = 1
    embedding_scale: Annotated[Flag, "token embeddings times sqrt(d_model)"] = False
    per_layer_embedding: PerLayerEmbedding | None = None
    altup: Annotated[AltUp | None, "streams of alternating updates, to which per_layer_embedding adds"] = None
    encoder: Annotated[Encoder | None, "fields left out are taken from the decoder"] = None
    unread_memory: Annotated[
        Size | None, "decoders alone: columns of the encoder's output that cross_attention would read, were there one",
    ] = None
    source_vocab: Annotated[Size | None, "rows of the encoder's own token table; none: shared"] = None
    unused_table: Annotated[Flag, "a third token table, read by nothing (BART's, when untied)"] = False
    tower: Annotated[Tower | None, "a second stack, for images"] = None
    pooler: Annotated[Pooler | None, "true: dense and tanh on the first position (BERT)"] = None
    autoencoder: Annotated[Autoencoder | None, "of images into codes, beside the stack"] = None
    entities: Annotated[Entities | None, "what is kept for entities, of which a text has none"] = None
    idle: Annotated[tuple[IdleWeight, ...], "of parts that no run here has work for: what speaks, or hears"] = ()
    contact_head: Annotated[Flag, "a regression on all layers' attention maps (ESM), beside the forward pass"] = False
    head: Head = LMHead()
    fused: Annotated[
        tuple[tuple[str, ...], ...], "projections that its files store as one matrix, such as [q, k, v]",
    ] = ()
    gguf: Annotated[
        Literal["falcon"] | None, "an architecture of llama.cpp's with rules of its own for the types of tensors",
    ] = None
    quantization: Annotated[
        Quantization | None, "how a checkpoint packs the weights; changes their bytes and nothing else",
    ] = None
    unknown_quantization: Annotated[
        str | None, "what is not understood of how a checkpoint packs the weights: no bytes of them",
    ] = None
    stored: Annotated[
        StoredTensors | None, "the tensors of the file that it was read from; none: from no such file",
    ] = None
    released: Annotated[
        Quantization | None, "how its own files store the weights where that is not 16 bits; --weights released",
    ] = None

    @classmethod
    def _filled(cls, data: Any) -> Any:
        return resolve.model(data)

    def _check(self) -> None:
        super()._check()
        if (self.architecture == "encoder-decoder") != (self.encoder is not None):
            raise FieldError(("encoder",), "an encoder-decoder needs one, and only it can have one")
        for path, block in located_blocks(self):
            if self.unread_memory is not None and (
                    self.encoder is not None or getattr(block.cross_attention, "query_experts", None) is not None):
                raise FieldError(("unread_memory",), "needs cross_attention without experts, and no encoder")
            if block.cross_attention is not None and self.encoder is None and self.unread_memory is None:
                raise FieldError((*path, "cross_attention"), "needs architecture: encoder-decoder")
            for name in ("joined", "twice") if block.cross_attention is not None else ():
                if getattr(block.cross_attention, name):
                    raise FieldError((*path, "cross_attention", name), "only of learned queries that read a tower")
            if block.convolution is not None and is_causal(self):
                raise FieldError((*path, "convolution"), "it sees what comes after: only an encoder can have one")
        for path, block in located_blocks(self.encoder) if self.encoder else []:
            if block.cross_attention is not None:
                raise FieldError(("encoder", *path, "cross_attention"), "an encoder has nothing to attend to")
        reads_tokens = any(s is not None and isinstance(s.input, TokenInput) for s in (self, self.encoder))
        if self.vocab is None and (reads_tokens or isinstance(self.head, LMHead)):
            raise FieldError(("vocab",), "required field is missing")
        if isinstance(self.head, LMHead) and self.head.tied and not reads_tokens:
            raise FieldError(("head", "tied"), "there is no token table to share")
        if isinstance(self.head, LMHead) and self.head.tied and self.extra_tokens:
            raise FieldError(("extra_tokens",), "a tied head has logits of all tokens")
        for name, stack in (("input", self), ("encoder", self.encoder), ("tower", self.tower)):
            if stack is not None and isinstance(stack.input, QueryInput):
                raise FieldError((name,), "learned queries stand in a tower's resampler")
        own = self.encoder
        if own is not None and isinstance(own.input, TokenInput) and own.d_model not in (None, self.d_model):
            raise FieldError(("encoder", "d_model"), "tokens of both stacks have vectors of one width: leave it out")
        self._check_per_layer_embedding()
        check_altup(self)
        self._check_vectors()
        widths.check(self)
        for name, sizes in self.stored.layers.items() if self.stored else ():
            if len(sizes) not in (1, self.layers):
                raise FieldError(("stored", "layers", name), f"has {len(sizes)} layers, and the model {self.layers}; "
                                 "stored=null leaves the file's tensors out")

    def _check_per_layer_embedding(self) -> None:
        own = self.per_layer_embedding
        if own is None:
            return
        if self.encoder is not None or not isinstance(self.input, TokenInput):
            raise FieldError(("per_layer_embedding",), "needs a single stack that reads tokens")
        if self.vocab is not None and own.rows < self.vocab:
            raise FieldError(("per_layer_embedding", "rows"), f"{own.rows} leaves some of the {self.vocab} tokens "
                             "without a row")

    def _check_vectors(self) -> None:
        if self.embedding_dim is not None and any(table.width is not None for table in self.token_tables):
            raise FieldError(("token_tables",), "rows beside the token's are projected already: no embedding_dim")
        if self.embedding_span % 2 == 0 or (self.embedding_span > 1 and self.embedding_projection != "rows"):
            raise FieldError(("embedding_span",), "must be odd, and have embedding_projection: rows")
        tower, head = self.tower, self.head
        if tower is not None and isinstance(tower.input, TokenInput):
            raise FieldError(("tower", "input"), "a tower reads patches or frames")
        if isinstance(head, ContrastiveHead) and tower is None:
            raise FieldError(("tower",), "a contrastive head compares the model's vectors with those of a tower")
        if isinstance(head, ContrastiveHead) and head.width is None and tower is not None:
            text, image = ((getattr(stack.pooler, "width", None) or stack.d_model) for stack in (self, tower))
            if text != image:
                raise FieldError(("head", "width"), f"texts of {text} and images of {image} need projections to one")
        if tower is not None and tower.projector is None and not isinstance(head, ContrastiveHead):
            raise FieldError(("tower", "projector"), "needed where the tower feeds the main stack")
        if tower is not None and tower.projector is not None:
            widths.check_projector(tower, tower.projector, ("tower", "projector"))
            if tower.second is not None and tower.second.projector is not None:
                widths.check_projector(tower.second, tower.second.projector, ("tower", "second", "projector"))
            for name in ("deepstack", "unused"):
                for i, other in enumerate(getattr(tower, name)):
                    widths.check_projector(tower, other, ("tower", name, i))
            for i, deep in enumerate(tower.deepstack):
                if deep.tokens != tower.projector.tokens or len(tower.deepstack) > self.layers:
                    raise FieldError(("tower", "deepstack", i), "must be of its positions, and of the first layers")
        elif tower is not None and (tower.deepstack or tower.resampler):
            raise FieldError(("tower", "deepstack" if tower.deepstack else "resampler"), "needs a projector")
        if isinstance(head, LMHead) and head.pair_labels and self.pooler is None:
            raise FieldError(("pooler",), "head.pair_labels needs one")
        if self.source_vocab is not None and self.encoder is None:
            raise FieldError(("source_vocab",), "needs architecture: encoder-decoder")
        if self.unused_table and self.source_vocab is None:
            raise FieldError(("unused_table",), "needs source_vocab, without which stacks share a table")
        if self.contact_head and (self.groups is not None or self.attention is None):
            raise FieldError(("contact_head",), "needs attention, and layers that are alike")
