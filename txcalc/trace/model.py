"""Whole models: embeddings, stacks of blocks, and what stands on top of them."""

from __future__ import annotations

from collections.abc import Callable

from txcalc.spec.inputs import (
    ClassifierHead,
    DisentangledPosition,
    FrameInput,
    LearnedPosition,
    LMHead,
    PatchInput,
    RelativePosition,
    SinusoidalPosition,
    TokenInput,
)
from txcalc.spec.model import Group, Model, Stack, Sublayers
from txcalc.trace import ops
from txcalc.trace.attention import cross_attention, relative_bias, self_attention
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.record import Number, Role, Tensor, Trace
from txcalc.trace.recurrent import recurrent
from txcalc.trace.workload import Workload


def trace(spec: Model, workload: Workload) -> Trace:
    """Run the model on sizes.

    Module paths are those of the PyTorch reference in ``txcalc.check.reference``, with the index of a repeated
    layer or expert left out.
    """
    t = Trace(workload)
    if spec.encoder is None:
        x = _stack(t, spec, spec, _input(t, spec, spec, workload.seq), causal=spec.causal)
    else:
        source = _input(t, spec, spec.encoder, workload.source_new)
        with t.scope("encoder"):
            memory = _stack(t, spec, spec.encoder, source, causal=False)
        target = _input(t, spec, spec, workload.seq, tied=isinstance(spec.encoder.input, TokenInput))
        with t.scope("decoder"):
            x = _stack(t, spec, spec, target, causal=True, memory=memory)
    _top(t, spec, x)
    return t


def _input(t: Trace, spec: Model, stack: Stack, n: Number, *, tied: bool = False) -> Tensor:
    """``n`` positions per sequence from tokens, image patches or spectrogram frames."""
    b = t.workload.batch
    if isinstance(stack.input, PatchInput):
        return _patches(t, stack.input, b, spec.d_model)
    if isinstance(stack.input, FrameInput):
        return _frames(t, stack.input, b, n, spec.d_model)
    ids = t.tensor(b, n, role=Role.INDEX, label="token ids")
    return ops.embedding(t, "token_embedding", ids, spec.vocab, spec.embedding_width, tied=tied)


def _patches(t: Trace, spec: PatchInput, b: Number, d: Number) -> Tensor:
    pixels = t.tensor(b, spec.channels, spec.image, spec.image, label="pixels", grad=False)
    ops.convolution(t, "patch_embedding", pixels, d, spec.patches, (spec.patch, spec.patch), bias=spec.bias)
    if spec.class_tokens:
        ops.parameter(t, "class_tokens", spec.class_tokens, d)
    if spec.mask_token:
        ops.parameter(t, "mask_token", 1, d)
    return t.tensor(b, spec.length, d, label="patches")


def _frames(t: Trace, spec: FrameInput, b: Number, n: Number, d: Number) -> Tensor:
    x = t.tensor(b, spec.bins, 2 * n, label="frames", grad=False)
    x = ops.convolution(t, "frame_conv1", x, d, 2 * n, (3,), bias=True)
    x = ops.activation(t, "frame_activation1", x, "gelu").view(b, d, 2 * n)
    x = ops.convolution(t, "frame_conv2", x, d, n, (3,), bias=True)
    return ops.activation(t, "frame_activation2", x, "gelu")


def _stack(t: Trace, spec: Model, stack: Stack, x: Tensor, *, causal: bool, memory: Tensor | None = None) -> Tensor:
    _, n, _ = x.shape
    x = _embed(t, spec, stack, x)
    position = stack.position
    if isinstance(position, RelativePosition) and not position.per_layer:
        past = t.workload.past if causal else 0
        relative_bias(t, "relative_bias", position, stack.attention_heads, n, past + n)
    table = _position_table(t, position, stack, spec.d_model) if isinstance(position, DisentangledPosition) else None

    def run(sublayers: Sublayers) -> Callable[[Tensor], Tensor]:
        return lambda x: _block(t, sublayers, stack, x, causal=causal, memory=memory, table=table)

    def run_group(group: Group) -> Callable[[Tensor], Tensor]:
        def body(x: Tensor) -> Tensor:
            for i, sublayers in enumerate(group.blocks):
                x = t.loop(str(i), sublayers.repeat, run(sublayers), x)
            return x

        return body

    if stack.groups is None:
        x = t.loop("layers", stack.layers, run(stack), x, copies=1 if stack.share_layers else stack.layers)
    else:
        with t.scope("layers"):
            for g, group in enumerate(stack.groups):
                x = t.loop(str(g), group.repeat, run_group(group), x)
    return ops.norm(t, "final_norm", x, stack.norm) if stack.final_norm else x


def _position_table(t: Trace, position: DisentangledPosition, stack: Stack, d: Number) -> Tensor:
    rows = 2 * position.buckets
    ops.parameter(t, "relative_embedding", rows, d, kind="embedding")
    table = t.tensor(rows, d, label="relative positions")
    return ops.norm(t, "relative_norm", table, stack.norm) if position.norm else table


def _embed(t: Trace, spec: Model, stack: Stack, x: Tensor) -> Tensor:
    """Add positions and token types to the token vectors."""
    b, n, _ = x.shape
    project = isinstance(stack.input, TokenInput) and spec.embedding_dim is not None
    if project and spec.embedding_projection == "tokens":
        x = ops.linear(t, "embedding_projection", x, spec.d_model, bias=spec.embedding_projection_bias)
    *_, width = x.shape
    x = _positions(t, stack, x)
    if spec.token_types:
        types = t.tensor(b, n, role=Role.INDEX, label="token types")
        x = ops.add(t, x, ops.embedding(t, "type_embedding", types, spec.token_types, width))
    if stack.embedding_norm:
        x = ops.norm(t, "embedding_norm", x, stack.norm)
    x = ops.dropout(t, "embedding_dropout", x)
    if project and spec.embedding_projection == "sum":
        x = ops.linear(t, "embedding_projection", x, spec.d_model, bias=spec.embedding_projection_bias)
    return x


def _positions(t: Trace, stack: Stack, x: Tensor) -> Tensor:
    """Add a table of positions: looked up for tokens, added whole for images and sound."""
    _, n, width = x.shape
    position = stack.position
    if isinstance(position, LearnedPosition):
        if isinstance(stack.input, TokenInput):
            ids = t.tensor(n, role=Role.INDEX, label="positions")
            return ops.add(t, x, ops.embedding(t, "position_embedding", ids, position.size, width))
        ops.parameter(t, "position_embedding", position.size, width, kind="embedding")
    elif isinstance(position, SinusoidalPosition):
        if position.stored:
            t.op("position_embedding", "embedding", weights={"weight": (position.size, width)})
    else:
        return x
    return ops.add(t, x, x)


def _block(
    t: Trace, block: Sublayers, stack: Stack, x: Tensor, *, causal: bool, memory: Tensor | None, table: Tensor | None
) -> Tensor:
    def attend(h: Tensor) -> Tensor:
        assert block.attention is not None
        return self_attention(t, block.attention, stack.position, h, causal=causal, table=table)

    def attend_source(h: Tensor) -> Tensor:
        assert block.cross_attention is not None and memory is not None
        return cross_attention(t, block.cross_attention, stack.position, h, memory)

    def recur(h: Tensor) -> Tensor:
        assert block.recurrent is not None
        return recurrent(t, block.recurrent, h)

    def feed(h: Tensor) -> Tensor:
        assert block.feed_forward is not None
        return feed_forward(t, block.feed_forward, h)

    if block.residual == "parallel":
        h = ops.norm(t, "attention_norm", x, block.norm)
        g = h if block.norm.shared else ops.norm(t, "feed_forward_norm", x, block.norm)
        return ops.add(t, ops.add(t, x, attend(h)), feed(g))
    sublayers = {"attention": attend, "recurrent": recur, "cross_attention": attend_source, "feed_forward": feed}
    for name, run in sublayers.items():
        if getattr(block, name) is not None:
            x = _residual(t, name, block, stack, run, x)
    return x


def _residual(
    t: Trace, name: str, block: Sublayers, stack: Stack, run: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """One sublayer with its residual connection and norms, placed as the spec says."""
    place = block.norm.placement if block.norm.on_attention or name != "attention" else None

    def normed(suffix: str, y: Tensor) -> Tensor:
        return ops.norm(t, f"{name}{suffix}", y, block.norm)

    y = run(normed("_norm", x) if place in ("pre", "sandwich") else x)
    if stack.layer_scale:
        y = ops.scale(t, f"{name}_scale", y)
    if place == "res-post":
        y = normed("_norm", y)
    elif place == "sandwich":
        y = normed("_post_norm", y)
    x = ops.add(t, x, y)
    return normed("_norm", x) if place == "post" else x


def _top(t: Trace, spec: Model, x: Tensor) -> None:
    """Pooler, head, and in training the loss."""
    if spec.embedding_dim is not None and spec.embedding_projection == "tokens":
        x = ops.linear(t, "output_projection", x, spec.embedding_dim)
    b, _, d = x.shape
    first = x.view(b, d)
    if spec.pooler:
        with t.scope("pooler", component=True):
            first = ops.activation(t, "activation", ops.linear(t, "dense", first, d, bias=True), "tanh")
    if isinstance(spec.head, ClassifierHead):
        logits = _classify(t, spec.head, x, first)
    elif isinstance(spec.head, LMHead):
        logits = _predict(t, spec, spec.head, x)
    else:
        return
    if t.workload.phase == "training":
        ops.cross_entropy(t, "loss", logits)


def _classify(t: Trace, head: ClassifierHead, x: Tensor, first: Tensor) -> Tensor:
    b, _, d = x.shape
    of = {"first": first, "all": x, "mean": t.tensor(b, d, label="mean of positions")}[head.of]
    if head.dense is not None:
        with t.scope("head_transform", component=True):
            of = ops.activation(t, "activation", ops.linear(t, "dense", of, d, bias=True), head.dense)
    with t.scope("", copies=head.copies, calls=head.copies):
        return ops.linear(t, "head", of, head.labels, bias=head.bias, kind="head")


def _predict(t: Trace, spec: Model, head: LMHead, x: Tensor) -> Tensor:
    if head.transform is not None:
        with t.scope("head_transform", component=True):
            x = ops.linear(t, "dense", x, spec.embedding_width, bias=head.transform.bias)
            x = ops.norm(t, "norm", ops.activation(t, "activation", x, head.transform.activation), head.transform.norm)
    logits = ops.linear(t, "head", x, spec.vocab, bias=head.bias, tied=head.tied, kind="head")
    if head.softcap is not None:
        logits = ops.activation(t, "head_softcap", logits, "tanh").view(*logits.shape)
    return logits
