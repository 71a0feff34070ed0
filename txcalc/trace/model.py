"""Whole models: embeddings, stacks of blocks, and what stands on top of them."""

from __future__ import annotations

from collections.abc import Callable

from txcalc.spec.model import (
    ClassifierHead,
    Group,
    LearnedPosition,
    LMHead,
    Model,
    RelativePosition,
    SinusoidalPosition,
    Stack,
    Sublayers,
)
from txcalc.trace import ops
from txcalc.trace.attention import cross_attention, relative_bias, self_attention
from txcalc.trace.feedforward import feed_forward
from txcalc.trace.record import Number, Role, Tensor, Trace
from txcalc.trace.workload import Workload


def trace(spec: Model, workload: Workload) -> Trace:
    """Run the model on sizes.

    Module paths are those of the PyTorch reference in ``txcalc.check.reference``, with the index of a repeated
    layer or expert left out.
    """
    t = Trace(workload)
    if spec.encoder is None:
        x = _stack(t, spec, spec, _tokens(t, spec, workload.seq), causal=spec.causal)
    else:
        source = _tokens(t, spec, workload.source_new)
        with t.scope("encoder"):
            memory = _stack(t, spec, spec.encoder, source, causal=False)
        target = _tokens(t, spec, workload.seq, tied=True)
        with t.scope("decoder"):
            x = _stack(t, spec, spec, target, causal=True, memory=memory)
    _top(t, spec, x)
    return t


def _tokens(t: Trace, spec: Model, n: Number, *, tied: bool = False) -> Tensor:
    """Look up ``n`` tokens per sequence; encoder and decoder share one table."""
    ids = t.tensor(t.workload.batch, n, role=Role.INDEX, label="token ids")
    return ops.embedding(t, "token_embedding", ids, spec.vocab, spec.embedding_width, tied=tied)


def _stack(t: Trace, spec: Model, stack: Stack, x: Tensor, *, causal: bool, memory: Tensor | None = None) -> Tensor:
    _, n, _ = x.shape
    x = _embed(t, spec, stack, x)
    position = stack.position
    if isinstance(position, RelativePosition) and not position.per_layer:
        past = t.workload.past if causal else 0
        relative_bias(t, "relative_bias", position, stack.attention_heads, n, past + n)

    def run(sublayers: Sublayers) -> Callable[[Tensor], Tensor]:
        return lambda x: _block(t, sublayers, stack, x, causal=causal, memory=memory)

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


def _embed(t: Trace, spec: Model, stack: Stack, x: Tensor) -> Tensor:
    """Add positions and token types to the token vectors."""
    b, n, width = x.shape
    if isinstance(stack.position, LearnedPosition):
        positions = t.tensor(n, role=Role.INDEX, label="positions")
        x = ops.add(t, x, ops.embedding(t, "position_embedding", positions, stack.position.size, width))
    elif isinstance(stack.position, SinusoidalPosition):
        if stack.position.stored:
            t.op("position_embedding", "embedding", weights={"weight": (stack.position.size, width)})
        x = t.tensor(b, n, width, label="embeddings")
    if spec.token_types:
        types = t.tensor(b, n, role=Role.INDEX, label="token types")
        x = ops.add(t, x, ops.embedding(t, "type_embedding", types, spec.token_types, width))
    if stack.embedding_norm:
        x = ops.norm(t, "embedding_norm", x, stack.norm)
    x = ops.dropout(t, "embedding_dropout", x)
    if spec.embedding_dim is not None:
        x = ops.linear(t, "embedding_projection", x, spec.d_model, bias=True)
    return x


def _block(t: Trace, block: Sublayers, stack: Stack, x: Tensor, *, causal: bool, memory: Tensor | None) -> Tensor:
    def attend(h: Tensor) -> Tensor:
        assert block.attention is not None
        return self_attention(t, "attention", block.attention, stack.position, h, causal=causal)

    def attend_source(h: Tensor) -> Tensor:
        assert block.cross_attention is not None and memory is not None
        return cross_attention(t, "cross_attention", block.cross_attention, stack.position, h, memory)

    def feed(h: Tensor) -> Tensor:
        assert block.feed_forward is not None
        return feed_forward(t, block.feed_forward, h)

    if block.residual == "parallel":
        h = ops.norm(t, "attention_norm", x, block.norm)
        g = h if block.norm.shared else ops.norm(t, "feed_forward_norm", x, block.norm)
        return ops.add(t, ops.add(t, x, attend(h)), feed(g))
    if block.attention is not None:
        x = _residual(t, "attention", block, attend, x)
    if block.cross_attention is not None:
        x = _residual(t, "cross_attention", block, attend_source, x)
    if block.feed_forward is not None:
        x = _residual(t, "feed_forward", block, feed, x)
    return x


def _residual(t: Trace, name: str, block: Sublayers, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """One sublayer with its residual connection and norms, placed as the spec says."""
    place = block.norm.placement
    if place == "post":
        return ops.norm(t, f"{name}_norm", ops.add(t, x, f(x)), block.norm)
    if place == "res-post":
        return ops.add(t, x, ops.norm(t, f"{name}_norm", f(x), block.norm))
    y = f(ops.norm(t, f"{name}_norm", x, block.norm))
    if place == "sandwich":
        y = ops.norm(t, f"{name}_post_norm", y, block.norm)
    return ops.add(t, x, y)


def _top(t: Trace, spec: Model, x: Tensor) -> None:
    """Pooler, head, and in training the loss."""
    b, _, d = x.shape
    if spec.pooler:
        with t.scope("pooler", component=True):
            pooled = ops.linear(t, "dense", x.view(b, d), d, bias=True)
            pooled = ops.activation(t, "activation", pooled, "tanh")
    head = spec.head
    if isinstance(head, ClassifierHead):
        first = pooled if spec.pooler else x.view(b, d)
        logits = ops.linear(t, "head", first, head.labels, bias=head.bias, kind="head")
    elif isinstance(head, LMHead):
        if head.transform is not None:
            with t.scope("head_transform", component=True):
                x = ops.linear(t, "dense", x, spec.embedding_width, bias=head.transform.bias)
                x = ops.activation(t, "activation", x, head.transform.activation)
                x = ops.norm(t, "norm", x, head.transform.norm)
        logits = ops.linear(t, "head", x, spec.vocab, bias=head.bias, tied=head.tied, kind="head")
    else:
        return
    if t.workload.phase == "training":
        ops.cross_entropy(t, "loss", logits)
