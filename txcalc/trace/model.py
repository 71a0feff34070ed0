"""Whole models: embeddings, stacks of blocks, and what stands on top of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from txcalc.spec.facts import embedding_width, is_causal, shares_keys, skipped, width
from txcalc.trace import (
    altup,
    beside,
    embeddings,
    encoder_decoders,
    low_rank,
    neighbours,
    norms,
    ops,
    packed,
    split,
    tables,
)
from txcalc.trace.attention import Around, cross_attention, gathered, self_attention
from txcalc.trace.beams import search
from txcalc.trace.bottleneck import layer as layer_within
from txcalc.trace.cells import convolve
from txcalc.trace.curves import tanh_gated
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.frozen import Frozen, check
from txcalc.trace.heads import Outputs, further, pool, project, top
from txcalc.trace.implementations import Code, code
from txcalc.trace.kinds import Call
from txcalc.trace.layout import WHOLE
from txcalc.trace.losses import loss
from txcalc.trace.rank import RECEIVED, encoder_stages, heaviest, local
from txcalc.trace.record import Trace
from txcalc.trace.recurrent import recurrent
from txcalc.trace.repeats import turns
from txcalc.trace.shared_blocks import share, with_shared
from txcalc.trace.sizes import several
from txcalc.trace.streams import added, balanced, mixed, spread
from txcalc.trace.tensors import Number, Role, Tensor
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from txcalc.spec.model import Block, Encoder, Model, Resampler, SideTower, Stack, Sublayers, Tower


def trace(
    spec: Model, workload: Workload, sizes: Mapping[str, int] | None = None, stage: int | None = None,
    rank: int | None = None, share: int = 0, row: Code | None = None,
) -> Trace:
    """Run the model on sizes; ``sizes`` says what symbols among them stand for. In a layout it is that of one rank, of
    this ``stage`` of a pipeline alone, or of all stages of a ``rank`` of it, one after the other; none: of that with
    the most weights. ``share``: see ``local``; ``row``: whose code it is, where symbols can't tell.

    Module paths are those of the PyTorch reference in ``txcalc.check.reference.transformer``, with the index of a
    repeated layer or expert left out.
    """
    layout = workload.layout or WHOLE
    layout = layout.replaced(sp=layout.sp and layout.tp > 1)
    if stage is None and rank is None and layout.pp > 1:
        return heaviest(spec, workload, layout, partial(trace, sizes=sizes, share=share, row=row))
    own = row or code(spec, workload)
    if own.vocab_multiple > 1 and spec.vocab is not None:
        multiple = own.vocab_multiple * layout.tp
        spec = spec.replaced(vocab=-(-spec.vocab // multiple) * multiple)
    stages = (stage,) if stage is not None else layout.stages_of(rank or 0)
    whole, spec = spec, local(spec, layout, stages, share)
    t = Trace(workload, model=spec, code=own, sizes=sizes or {}, layout=layout, whole=whole,
              stage=stages[0], share=share)
    if workload.freezes:
        t.frozen = Frozen(spec, workload, low_rank.linear, packed.packing(t),
                          merged=t.code.router not in ("", "dispatched"))
    with t.frame(name="pass", unit=workload.implementation == "transformers"):
        before = _memory(t, spec, spec.encoder) if workload.beams and spec.encoder else None
        made = search(t, partial(_forward, t, spec, before)) if workload.beams else _forward(t, spec)
        for x in (made.hidden, made.pooled, *made.scores.all):
            if x is not None and own.holds_outputs and workload.beams is None:
                t.hold(x)
        loss(t, spec, made.scores)
    if layout.pp > 1 and t.loss is not None and own.holds_sent:
        t.leaves += made.scores.logits  # which a schedule holds until a micro-batch has been back
    check(t)
    return t


def _forward(t: Trace, spec: Model, memory: Tensor | None = None) -> Outputs:
    with t.frame(unit=t.workload.implementation != "transformers"):
        pooled, prefix = (None, None) if spec.tower is None else _tower(t, spec, spec.tower)
        if prefix is not None:
            t.hold(prefix)
        n = t.workload.seq // t.layout.cp if t.layout.cp > 1 else t.workload.seq
        if spec.encoder is None:
            types = embeddings.types(t, n) if t.code.types_first and spec.token_types else None
            if t.stage:
                x = _received(t, n, spec.d_model)
                return top(t, spec, t.hold(_stack(t, spec, spec, x, cached=is_causal(spec))), pooled)
            x, ids = _input(t, spec, spec, n, spec.vocab)
            x = _stack(t, spec, spec, x, cached=is_causal(spec), ids=ids, prefix=prefix, types=types)
        else:
            x = _encoder_decoder(t, spec, spec.encoder, memory)
        return top(t, spec, t.hold(x), pooled)


def _encoder_decoder(t: Trace, spec: Model, encoder: Encoder, memory: Tensor | None) -> Tensor:
    first = encoder_stages(t.whole, t.layout.stages)
    asked = t.code.targets if t.stage == first and t.workload.keeps else ""  # else they are given
    made = t.hold(encoder_decoders.target_ids(t), "pass") if asked == "first" else None
    if t.stage < first or t.layout.pp == 1:
        memory = memory or _memory(t, spec, encoder)
        if t.stage < first:
            return memory
    else:
        wide = spec.d_model if encoder.projection else width(spec, encoder)
        memory = _received(t, t.workload.source_new, wide, first - 1)
    if encoder.input.kind == "patches" and t.size(t.workload.source_new) == 0:  # what images have become is cached
        memory = t.tensor(t.workload.rows, 0, memory.shape[-1], label=memory.label)
    if t.stage > first:
        with t.scope("decoder"):
            return _stack(t, spec, spec, _received(t, t.workload.seq, spec.d_model, first), cached=True, memory=memory)
    shared = t.layout.pp == 1 and encoder.input.kind == "tokens" and spec.source_vocab is None
    made = t.hold(encoder_decoders.target_ids(t), "pass") if asked == "after source" else made
    target, ids = _input(t, spec, spec, t.workload.seq, spec.vocab, tied=shared, ids=made)
    if spec.unused_table:
        ops.parameter(t, "unused_table", spec.vocab, embedding_width(spec), kind="embedding")
    with t.scope("decoder"):
        return _stack(t, spec, spec, target, cached=True, memory=memory, ids=ids)


def _received(t: Trace, n: Number, d: Number, stage: int = 0) -> Tensor:
    """``n`` positions of what the stage before has sent: under autocast the residual streams of this ``stage``."""
    amp = t.workload.precision == "amp"
    role = trace(t.whole, t.workload, t.sizes, stage=stage).results[0].made if amp else Role.ACTIVATION
    x = t.tensor(t.workload.rows, n // t.layout.by_position, d, label=RECEIVED, role=role)
    t.inputs += (x,)
    return x


def _memory(t: Trace, spec: Model, encoder: Encoder) -> Tensor:
    """An encoder's hidden states, or those of its stage."""
    if t.code.targets and not t.workload.keeps:
        return encoder_decoders.generating(t, partial(_encoded, t, spec, encoder, ""))
    return _encoded(t, spec, encoder, "pass" if t.code.targets else "")  # outputs hold it, and their caller targets


def _encoded(t: Trace, spec: Model, encoder: Encoder, until: Call) -> Tensor:
    own = spec.source_vocab if encoder.input.kind == "tokens" else None
    name, rows = (embeddings.TABLE, spec.vocab) if own is None else ("source_embedding", own)
    n = t.workload.source_new
    source = _received(t, n, width(spec, encoder)) if t.stage else _input(t, spec, encoder, n, rows, name)[0]
    with t.scope("encoder"):
        memory = t.hold(_stack(t, spec, encoder, source, cached=False), until)
        if encoder.pooler is not None:
            with t.scope("", back=0):
                pool(t, encoder, memory)
        if encoder.projection and t.stage >= encoder_stages(t.whole, t.layout.stages) - 1:
            memory = t.hold(ops.linear(t, "projection", memory, spec.d_model, bias=True), until)
    return memory


def _tower(t: Trace, spec: Model, tower: Tower) -> tuple[Tensor, Tensor | None]:
    """A tower's images as vectors, and as positions of the main stack, if there are any."""
    # While decoding, what images have become stands in the cache.
    count, layout, run = embeddings.images(spec, t.workload), t.layout, t.workload
    count = 0 if run.phase == "decode" else count
    t.layout = WHOLE if tower is t.whole.tower else layout.replaced(sp=False)
    if run.precision == "amp" and t.size(count) == 0:  # of no image autocast casts nothing
        t.workload = run.replaced(precision=None)
    with t.scope("tower", within="tower"):
        pooled, made = _seen(t, spec, tower, count)
        if tower.second is not None:
            with t.scope("second", copies=1, active=0, calls=0, repeat=True):
                _seen(t, spec, tower.second, 0)
    t.layout, t.workload = layout, run
    return pooled, None if t.size(count) == 0 else made


def _seen(t: Trace, spec: Model, tower: SideTower, count: Number) -> tuple[Tensor, Tensor | None]:
    """The outputs of a tower and its projector for ``count`` images or sounds."""
    projector, reader = tower.projector, getattr(tower, "resampler", None)
    length = tower.input.length if tower.input.kind == "frames" else 0
    x = _stack(t, spec, tower, _read(t, tower, count, length, tower.d_model), cached=False,
               unused=0 if projector is None else projector.unused_layers)
    with t.scope("", back=1 if projector is None else 0):
        pooled = x.view(count, x.shape[-1]) if tower.pooler is None else pool(t, tower, x)
    reads = None if reader is None else partial(_resample, t, spec, reader)
    made = None if projector is None else project(t, "projector", projector, tower, x, spec.d_model, reads)
    further(t, tower, x, spec.d_model)
    return pooled, made


def _resample(t: Trace, spec: Model, stack: Resampler, memory: Tensor) -> Tensor:
    """Learned queries that have read ``memory`` (b, n, width): (b, queries, d)."""
    b, shape = memory.shape[0], (stack.input.length, stack.d_model)
    with t.scope("resampler"), t.frame(memory):
        beside.instruction(t, stack)
        queries = ops.learned(t, "queries", shape, b, *shape, how="new" if several(t, b) else "same")
        queries = queries._replace(strided=several(t, b, stack.input.length))  # the same rows for all
        return _stack(t, spec, stack, queries, cached=False, memory=memory)


def _input(
    t: Trace, spec: Model, stack: Stack, n: Number, rows: Number, name: str = embeddings.TABLE, *, tied: bool = False,
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``n`` positions per sequence of a stack, and their token ids, if they are tokens: then of a table of ``rows``.

    ``tied``: the table is another stack's. ``ids``: the tokens, where the run has made them.
    """
    if stack.input.kind == "tokens":
        rows = rows + spec.extra_tokens if name == embeddings.TABLE else rows
        x, ids = embeddings.tokens(t, n, rows, embedding_width(spec), name=name, tied=tied, ids=ids)
        x = split.leave(t, name, x)
        scales = t.code.scales_table == "always" or (spec.embedding_scale and t.code.scales_table)
        return embeddings.wanted(t, ops.scaled(t, name, x) if scales else x), ids
    seen = 0 if stack.input.kind == "patches" and t.size(n) == 0 else t.workload.rows
    return _read(t, stack, seen, n, width(spec, stack)), None


def _read(t: Trace, stack: Stack, b: Number, n: Number, d: Number) -> Tensor:
    """``b`` images or sounds."""
    if stack.input.kind == "patches":
        return embeddings.patches(t, stack.input, b, d)
    assert stack.input.kind == "frames"
    return embeddings.frames(t, stack.input, b, n, d)


def _stack(
    t: Trace, spec: Model, stack: Stack, x: Tensor, *, cached: bool, memory: Tensor | None = None, unused: Number = 0,
    ids: Tensor | None = None, prefix: Tensor | None = None, types: Tensor | None = None,
) -> Tensor:
    """Embedded inputs to hidden states. ``cached``: the stack generates, so it masks the future and keeps keys.

    ``unused``: last layers, not read. ``ids``: the tokens of ``x``. ``prefix``: (images, tokens, d) for the first ones.
    """
    with t.frame(*((x,) if t.code.holds_inputs else ()), name="stack"):
        positions = t.hold(tables.positions(t, x.shape[1])) if t.code.makes_tables else None
        causal, fixed = cached or stack.causal_mask, stack.input.kind == "patches"
        around = Around(stack.position, causal=causal, cached=cached, fixed=fixed, memory=memory,
                        shared={} if shares_keys(stack) else None, unread=spec.unread_memory)
        n = x.shape[1]
        if t.code.targets:
            x, made = encoder_decoders.opened(t, stack, x, causal=causal)
            around = around._replace(made=made)
        else:
            if not t.received(x):
                x = embeddings.embed(t, spec, stack, x, prefix, positions, types)
            t.embedded, x = () if t.code.holds_inputs else (t.hold(x),), neighbours.padded(t, stack, x)
            around = around._replace(table=embeddings.shared_positions(t, stack, around, x))
        if positions is not None:
            x, made = tables.tables(t, stack, x, positions, tables.rotated(stack), cached=cached)
            around = around._replace(made=made)
        elif t.code.attention == "heads" and around.made is None:
            around = around._replace(made=tables.Tables({None: None}, {}))
        per_layer = spec.per_layer_embedding if stack is spec else None
        inputs, alternates = None, spec.altup if stack is spec else None
        if per_layer is not None and ids is not None:
            inputs = t.hold(embeddings.per_layer_inputs(t, per_layer, stack.norm, stack.layers, ids, x))

        def layer(block: Sublayers, x: Tensor) -> Tensor:
            own = None
            if inputs is not None:  # the layer's vectors (b, n, width) of those of all
                own = ops.view(t, "own_input", inputs, *inputs.shape[:2], inputs.shape[-1], copied=True)
            given = gathered(t, around)
            with t.frame(x, unit=True), t.again("full", *([] if positions is None else [positions])):
                if alternates is not None and per_layer is not None and own is not None:
                    return altup.layer(t, alternates, per_layer, block.norm, x, own,
                                       partial(_block, t, block, stack, given))
                y = _block(t, block, stack, given, x)
                if per_layer is None or own is None:
                    return y
                return embeddings.add_per_layer_input(t, per_layer, block.norm, y, own)

        def group(blocks: Sequence[Block], x: Tensor) -> Tensor:
            for i, block in enumerate(blocks):
                x = t.loop(str(i), block.repeat, partial(layer, block), x, within="layer")
            return x

        around = share(t, stack, around, x)
        with t.frame():
            x = x if stack.streams is None else spread(t, x, stack.streams)
            x = x if alternates is None else altup.opened(t, alternates, x)
            if stack.groups is None and t.size(stack.layers) != 0:
                x = turns(t, "layers", stack.layers, partial(layer, stack), x, shared=stack.share_layers,
                           unused=unused, within="layer", apart=around.made is not None and bool(around.made.bias))
            for g, each in enumerate(stack.groups or ()):
                x = turns(t, f"layers.{g}", each.repeat, partial(group, each.blocks), x,
                           shared=each.shared, each=sum(block.repeat for block in each.blocks))
            for held in (each for pair in (around.shared or {}).values() for each in pair):
                t.hold(held)
        x = neighbours.cut(t, stack, x, n)
        x = x if stack.streams is None else mixed(t, "final_streams", x, adds=False, rank=stack.mix_rank)[0]
        x = x if alternates is None else altup.closed(t, alternates, x)
        x = norms.norm(t, "final_norm", x, stack.norm) if stack.final_norm else x
        return ops.dropout(t, "final_dropout", x) if t.code.drops_last else x


def _block(t: Trace, block: Sublayers, stack: Stack, around: Around, x: Tensor) -> Tensor:
    """The sublayers that a layer has, each in its residual, or the first two side by side in one."""
    with t.frame(x, name="layer"), t.frame(name="weights") if t.code.attention == "heads" else nullcontext():
        if block.bottleneck is not None:
            return layer_within(t, block, around, x)
        y, names = x, ["attention", "recurrent", "cross_attention", "feed_forward"]
        if block.residual == "parallel":
            y, names = _parallel(t, block, stack, around, x), []
        elif block.residual == "mixers":
            h = norms.norm(t, "attention_norm", x, block.norm)
            for name in names[:2]:
                y = ops.add(t, y, _scaled(t, stack, name, _sublayer(t, name, block, around, h, y)))
            names = names[3:]
        for name in names:
            if getattr(block, name) is None:
                continue
            if around.memory is None and (name == "cross_attention" or skipped(block)):
                none = around._replace(memory=t.tensor(0, 1, around.unread or 0), cached=False)
                _residual(t, name, block, stack, none, t.tensor(0, *y.shape[1:]))
            else:
                y = _residual(t, name, block, stack, around, y)
        if block.convolution is None:
            return y
        with t.frame(y):
            return norms.norm(t, "convolution_norm", ops.add(t, y, convolve(t, block.convolution, x)), block.norm)


def _sublayer(t: Trace, name: str, block: Sublayers, around: Around, h: Tensor, x: Tensor) -> Tensor:
    """A sublayer of ``h``, which is ``x`` normed, or not."""
    if t.code.linear == "parallel":  # each of its linear layers gathers by itself
        return _whole_sublayer(t, name, block, around, h, x)
    with t.frame(h) if t.layout.sp else nullcontext():
        return _whole_sublayer(t, name, block, around, split.enter(t, name, h), x)


def _whole_sublayer(t: Trace, name: str, block: Sublayers, around: Around, h: Tensor, x: Tensor) -> Tensor:
    if name == "attention" and block.attention is not None:
        return self_attention(t, block.attention, around, h)
    if name == "recurrent" and block.recurrent is not None:
        return recurrent(t, block.recurrent, h, cached=around.cached, memory=around.memory)
    if name == "cross_attention" and block.cross_attention is not None and around.memory is not None:
        return cross_attention(t, block.cross_attention, around, h, split.enter(t, "memory", around.memory))
    assert block.feed_forward is not None
    return feed_forward(t, block.feed_forward, h, x, block.norm, cached=around.cached)


def _scaled(t: Trace, stack: Stack, name: str, y: Tensor) -> Tensor:
    return ops.scale(t, f"{name}_scale", y) if stack.layer_scale else y


def _parallel(t: Trace, block: Sublayers, stack: Stack, around: Around, x: Tensor) -> Tensor:
    if t.code.sublayers_first:
        y, z = (t.hold(_sublayer(t, name, block, around, norms.norm(t, f"{name}_norm", x, block.norm), x))
                for name in ("attention", "feed_forward"))
        return ops.add(t, ops.add(t, z, y), x)
    h = norms.norm(t, "attention_norm", x, block.norm)
    g = h if block.norm.shared else norms.norm(t, "feed_forward_norm", x, block.norm)
    y = t.hold(_sublayer(t, "attention", block, around, t.hold(h), x))
    attended = ops.add(t, x, t.hold(_scaled(t, stack, "attention", y)) if stack.layer_scale else y)
    z = _sublayer(t, "feed_forward", block, around, t.hold(g), x)
    return ops.add(t, attended, _scaled(t, stack, "feed_forward", z))


def _residual(t: Trace, name: str, block: Sublayers, stack: Stack, around: Around, x: Tensor) -> Tensor:
    """One sublayer with its residual connection and norms, as far as it has them."""
    place = block.norm.placement if block.norm.on_attention or name != "attention" else None
    attends, local = name != "feed_forward", t.code.holds_sublayers == "sublayer"
    with t.frame(x, *(tables.rebound(t) if local and attends else ()), name="sublayer"):
        read, weights, kept = x, None, x
        if stack.sinkhorn is not None:
            read, weights, kept = balanced(t, f"{name}_streams", x, stack.sinkhorn)
        elif stack.streams is not None:
            read, weights = mixed(t, f"{name}_streams", x, adds=True, rank=stack.mix_rank)
        read = with_shared(t, block, around, read) if name == "recurrent" else read
        h = norms.before(t, name, read, block) if place in ("pre", "sandwich") else read
        if t.code.holds_sublayers == "layer" or (local and attends):
            t.hold(h)
        y = _sublayer(t, name, block, around, h, read)
        y = y if block.residual == "none" else _scaled(t, stack, name, y)
        y = tanh_gated(t, f"{name}_gate", y) if block.tanh_gates else y
        if place == "res-post":
            y = norms.norm(t, f"{name}_norm", y, block.norm)
        elif place == "sandwich":
            y = norms.norm(t, f"{name}_post_norm", y if t.code.rebinds else t.hold(y), block.norm)
        with t.frame(*((y,) if t.code.drops == "residual" else ())):
            y = ops.dropout(t, f"{name}_dropout", y) if t.code.drops == "residual" else y
            x = ops.scale(t, f"{name}_residual", x) if stack.residual_scale else x
            if weights is not None:
                x = added(t, kept, y, weights)
            else:
                x = y if block.residual == "none" else ops.add(t, x, y)
            own = getattr(stack, "altup", None) if name == "attention" else None
            x = x if own is None else altup.laurel(t, own, block.norm, h, x)
        x = x if name != "feed_forward" or block.adapter is None else beside.adapt(t, block.adapter, block.norm, x)
        if place == "post":
            x = norms.norm(t, f"{name}_norm", x, block.norm)
            if t.code.output == "apart":
                t.hold(y)
    if t.code.holds_sublayers == "layer":
        t.hold(y)
    return x
