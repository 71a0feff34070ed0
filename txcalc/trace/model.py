"""Whole models: embeddings, stacks of blocks, and what stands on top of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from txcalc.spec.facts import embedding_width, first_attention, is_causal, shares_keys
from txcalc.trace import ops
from txcalc.trace.attention import KeysValues, cross_attention, self_attention
from txcalc.trace.cells import convolve
from txcalc.trace.distances import query_biases, relative_bias
from txcalc.trace.embeddings import (
    add_per_layer_input,
    embed,
    frames,
    own_input,
    patches,
    per_layer_inputs,
    position_table,
    tokens,
)
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.heads import Outputs, loss, pool, project, top
from txcalc.trace.record import Number, Tensor, Trace
from txcalc.trace.recurrent import recurrent
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from txcalc.spec.model import Group, Model, Stack, Sublayers, Tower


_Sublayer = Callable[[Tensor, Tensor], Tensor]
"""What it reads, normed, and that before its norm, to what it puts out."""


def trace(spec: Model, workload: Workload, sizes: Mapping[str, int] | None = None) -> Trace:
    """Run the model on sizes; ``sizes`` says what symbols among them stand for.

    Module paths are those of the PyTorch reference in ``txcalc.check.reference.model``, with the index of a repeated
    layer or expert left out.
    """
    t = Trace(workload, model=spec, sizes=sizes or {})
    with t.frame():
        made = _forward(t, spec)
        for x in (made.hidden, made.pooled, *made.logits):
            if x is not None:
                t.hold(x)
        loss(t, spec, made)
    return t


def _forward(t: Trace, spec: Model) -> Outputs:
    with t.frame():
        pooled, prefix = (None, None) if spec.tower is None else _tower(t, spec, spec.tower)
        if prefix is not None:
            t.hold(prefix)
        if spec.encoder is None:
            x, ids = _input(t, spec, spec, t.workload.seq)
            x = _stack(t, spec, spec, x, cached=is_causal(spec), ids=ids, prefix=prefix)
        else:
            x = _encoder_decoder(t, spec, spec.encoder)
        return top(t, spec, t.hold(x), pooled)


def _encoder_decoder(t: Trace, spec: Model, encoder: Stack) -> Tensor:
    source = _source(t, spec, encoder)
    with t.scope("encoder"):
        memory = _stack(t, spec, encoder, source, cached=False)
    shared = encoder.input.kind == "tokens" and spec.source_vocab is None
    target, ids = _input(t, spec, spec, t.workload.seq, tied=shared)
    if spec.unread_table:
        ops.parameter(t, "unread_table", spec.vocab, embedding_width(spec), kind="embedding")
    with t.scope("decoder"):
        return _stack(t, spec, spec, target, cached=True, memory=memory, ids=ids)


def images(spec: Model, workload: Workload) -> Number:
    """Images in this run: as asked for, else one to each text of a contrastive model, and none of any other."""
    if workload.images is not None or spec.tower is None:
        return workload.images
    return workload.batch if spec.head.kind == "contrastive" else 0


def _tower(t: Trace, spec: Model, tower: Tower) -> tuple[Tensor, Tensor | None]:
    """A tower's images as vectors, and as positions of the main stack, if there are any."""
    # While decoding, what images have become stands in the cache.
    count, projector = 0 if t.workload.phase == "decode" else images(spec, t.workload), tower.projector
    with t.scope("tower", within="tower"):
        x = _stack(t, spec, tower, _read(t, tower, count, 0, tower.d_model), cached=False,
                   unread=0 if projector is None else projector.skips)
        with t.scope("", back=1 if projector is None else 0):
            pooled = x.view(count, tower.d_model) if tower.pooler is None else pool(t, tower, x)
        made = None if projector is None else project(t, "projector", projector, tower, x, spec.d_model)
        for i, deep in enumerate(tower.deepstack):
            project(t, f"deepstack.{i}", deep, tower, x, spec.d_model)
    return pooled, None if t.size(count) == 0 else made


def _input(
    t: Trace, spec: Model, stack: Stack, n: Number, *, tied: bool = False
) -> tuple[Tensor, Tensor | None]:
    """``n`` positions per sequence of the model's own stack, and their token ids, if they are tokens."""
    if stack.input.kind == "tokens":
        return tokens(t, n, spec.vocab, embedding_width(spec), tied=tied)
    return _read(t, stack, t.workload.batch, n, spec.d_model), None


def _source(t: Trace, spec: Model, encoder: Stack) -> Tensor:
    """What the encoder reads: with a table that the decoder shares, or one of its own."""
    if spec.source_vocab is None or encoder.input.kind != "tokens":
        return _input(t, spec, encoder, t.workload.source_new)[0]
    n, rows, width = t.workload.source_new, spec.source_vocab, embedding_width(spec)
    return tokens(t, n, rows, width, name="source_embedding", tied=False)[0]


def _read(t: Trace, stack: Stack, b: Number, n: Number, d: Number) -> Tensor:
    """``b`` images or sounds."""
    if stack.input.kind == "patches":
        return patches(t, stack.input, b, d)
    assert stack.input.kind == "frames"
    return frames(t, stack.input, b, n, d)


def _stack(
    t: Trace, spec: Model, stack: Stack, x: Tensor, *, cached: bool, memory: Tensor | None = None, unread: Number = 0,
    ids: Tensor | None = None, prefix: Tensor | None = None,
) -> Tensor:
    """Embedded inputs to hidden states. ``cached``: the stack generates, so it masks the future and keeps keys.

    ``unread``: the last layers whose output is not read. ``ids``: the tokens that ``x`` was looked up for. ``prefix``:
    positions (images, tokens, d) that replace the first ones.
    """
    with t.frame(x):
        x = embed(t, spec, stack, x, prefix)
        return _run(t, spec, stack, x, cached=cached, memory=memory, unread=unread, ids=ids)


def _run(
    t: Trace, spec: Model, stack: Stack, x: Tensor, *, cached: bool, memory: Tensor | None, unread: Number,
    ids: Tensor | None,
) -> Tensor:
    _, n, d = x.shape
    position, table = stack.position, None
    if position.kind == "relative" and not position.per_layer:
        past = t.workload.past if cached else 0
        table = t.hold(relative_bias(t, position, first_attention(stack).heads, n, past + n,
                                     causal=cached or stack.causal_mask, fixed=stack.input.kind == "patches"))
    if position.kind == "transformer-xl" and not position.per_layer:
        first = first_attention(stack)
        assert first.kind == "standard"
        table = query_biases(t, first.heads, first.head_dim)
    if position.kind == "disentangled":
        table = t.hold(position_table(t, position, stack, d))

    shared: dict[str, KeysValues] | None = {} if shares_keys(stack) else None
    per_layer = spec.per_layer_embedding if stack is spec else None
    inputs = None
    if per_layer is not None and ids is not None:
        inputs = t.hold(per_layer_inputs(t, per_layer, stack.norm, stack.layers, ids, x))

    def run(sublayers: Sublayers) -> Callable[[Tensor], Tensor]:
        def body(x: Tensor) -> Tensor:
            own = None if inputs is None else own_input(t, inputs)
            with t.frame(x):
                y = _block(t, sublayers, stack, x, cached=cached, memory=memory, table=table, shared=shared)
                if per_layer is None or own is None:
                    return y
                return add_per_layer_input(t, per_layer, sublayers.norm, y, own)

        return body

    def run_group(group: Group) -> Callable[[Tensor], Tensor]:
        def body(x: Tensor) -> Tensor:
            for i, sublayers in enumerate(group.blocks):
                x = t.loop(str(i), sublayers.repeat, run(sublayers), x, within="layer")
            return x

        return body

    with t.frame():
        if stack.groups is None:
            x = t.loop("layers", stack.layers, run(stack), x, copies=1 if stack.share_layers else stack.layers,
                       unread=unread, within="layer")
        else:
            with t.scope("layers"):
                for g, group in enumerate(stack.groups):
                    x = t.loop(str(g), group.repeat, run_group(group), x, copies=1 if group.shared else group.repeat)
        for held in (each for pair in (shared or {}).values() for each in pair):
            t.hold(held)
    return ops.norm(t, "final_norm", x, stack.norm) if stack.final_norm else x


def _block(
    t: Trace, block: Sublayers, stack: Stack, x: Tensor, *, cached: bool, memory: Tensor | None, table: Tensor | None,
    shared: dict[str, KeysValues] | None,
) -> Tensor:
    def attend(h: Tensor, _: Tensor) -> Tensor:
        assert block.attention is not None
        return self_attention(t, block.attention, stack.position, h, causal=cached or stack.causal_mask, cached=cached,
                              fixed=stack.input.kind == "patches", table=table, shared=shared)

    def attend_source(h: Tensor, _: Tensor) -> Tensor:
        assert block.cross_attention is not None and memory is not None
        return cross_attention(t, block.cross_attention, h, memory)

    def recur(h: Tensor, _: Tensor) -> Tensor:
        assert block.recurrent is not None
        return recurrent(t, block.recurrent, h, cached=cached, memory=memory)

    def feed(h: Tensor, x: Tensor) -> Tensor:
        assert block.feed_forward is not None
        return feed_forward(t, block.feed_forward, h, x, block.norm)

    with t.frame(x):
        y = _sublayers(t, block, stack, x, {
            "attention": attend, "recurrent": recur, "cross_attention": attend_source, "feed_forward": feed,
        })
        if block.convolution is None:
            return y
        with t.frame(y):
            return ops.norm(t, "convolution_norm", ops.add(t, y, convolve(t, block.convolution, x)), block.norm)


def _sublayers(
    t: Trace, block: Sublayers, stack: Stack, x: Tensor, sublayers: dict[str, _Sublayer]
) -> Tensor:
    """The sublayers that the block has, each in its residual, or the first two side by side in one."""
    if block.residual == "parallel":
        h = ops.norm(t, "attention_norm", x, block.norm)
        g = h if block.norm.shared else ops.norm(t, "feed_forward_norm", x, block.norm)
        y = t.hold(sublayers["attention"](t.hold(h), x))
        attended = ops.add(t, x, t.hold(ops.scale(t, "attention_scale", y)) if stack.layer_scale else y)
        z = sublayers["feed_forward"](t.hold(g), x)
        return ops.add(t, attended, ops.scale(t, "feed_forward_scale", z) if stack.layer_scale else z)
    if block.residual == "mixers":
        h = ops.norm(t, "attention_norm", x, block.norm)
        for name in ("attention", "recurrent"):
            y = sublayers[name](h, x)
            x = ops.add(t, x, ops.scale(t, f"{name}_scale", y) if stack.layer_scale else y)
        sublayers = {"feed_forward": sublayers["feed_forward"]}
    for name, run in sublayers.items():
        if getattr(block, name) is not None:
            x = _residual(t, name, block, stack, run, x)
    return x


def _residual(
    t: Trace, name: str, block: Sublayers, stack: Stack, run: _Sublayer, x: Tensor
) -> Tensor:
    """One sublayer with its residual connection and norms, as far as it has them, placed as the spec says."""
    place = block.norm.placement if block.norm.on_attention or name != "attention" else None

    def normed(suffix: str, y: Tensor) -> Tensor:
        return ops.norm(t, f"{name}{suffix}", y, block.norm)

    with t.frame(x):
        y = run(normed("_norm", x) if place in ("pre", "sandwich") else x, x)
        if stack.layer_scale:
            y = ops.scale(t, f"{name}_scale", y)
        if place == "res-post":
            y = normed("_norm", y)
        elif place == "sandwich":
            y = normed("_post_norm", t.hold(y))
        x = y if block.residual == "none" else ops.add(t, x, y)
        return normed("_norm", x) if place == "post" else x
