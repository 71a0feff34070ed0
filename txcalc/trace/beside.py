"""Projections in groups of columns, adapters of languages, and weights that no run uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txcalc.spec.facts import located_blocks
from txcalc.trace import curves, norms, ops
from txcalc.trace.record import Part, Trace
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from collections.abc import Sized

    from txcalc.spec.autoencoder import Autoencoder
    from txcalc.spec.layers import Attention, BlockNorm
    from txcalc.spec.model import Model, Resampler
    from txcalc.spec.projections import LanguageAdapter


def project(
    t: Trace, name: str, x: Tensor, d_out: Number, *, bias: bool, groups: Number, part: Part = "", copied: bool = False
) -> Tensor:
    """``F.linear``, or in groups of columns a convolution of one position: (b, n, d_in) -> (b, n, d_out)."""
    if t.size(groups) == 1:
        return ops.linear(t, name, x, d_out, bias=bias, part=part, copied=copied)
    b, n, d_in = x.shape
    y = ops.convolution(t, name, x.view(b, d_in, n), d_out, n, (1,), bias=bias, groups=groups)
    return ops.copy(t, name, y)


def unused_projections(t: Trace, spec: Attention, d: Number, value_dim: Number) -> None:
    """The weights of projections for what is not there."""
    widths = {"q": spec.heads * spec.head_dim, "k": spec.kv_heads * spec.head_dim, "v": spec.kv_heads * value_dim}
    for name, width in widths.items():
        if t.size(number := getattr(spec.unused, name)) == 0:
            continue
        with t.scope("", copies=number, active=0, calls=0, repeat=True):
            _weights(t, f"unused_{name}", width, d, bias=getattr(spec.bias, name))


def adapt(t: Trace, spec: LanguageAdapter, norm: BlockNorm, x: Tensor) -> Tensor:
    """(b, n, d) through the bottleneck of one language, added to what it was, or to what it was normed to."""
    *_, d = x.shape
    with t.frame(x):
        y = t.hold(norms.norm(t, "feed_forward_norm", x, norm, again=True)) if spec.norm == "again" else x
        with t.scope("adapter", component="adapter"):
            y = t.hold(norms.norm(t, "norm", x, norm)) if spec.norm == "own" else y
        with t.scope("adapter", component="adapter"), t.scope(
                "languages", copies=spec.languages, active=1, calls=1, repeat=True):
            h = curves.activation(t, "activation", ops.linear(t, "up", y, spec.width, bias=True), spec.activation)
            z = ops.dropout(t, "dropout", ops.linear(t, "down", t.hold(h), d, bias=True))
        return ops.add(t, z, y if spec.normed_residual else x)


def idle(t: Trace, spec: Model) -> None:
    """The weights of parts that no run has work for."""
    for each in spec.idle:
        with t.scope("idle", component="idle", copies=each.times, active=0, calls=0, repeat=True):
            t.op(each.name, "linear" if each.kind == "linear" else "elementwise", weights={"weight": each.shape})


def entities(t: Trace, spec: Model) -> None:
    """The weights that a model keeps for entities: tables, and of a language model a head."""
    own, d = spec.entities, spec.d_model
    if own is None:
        return
    affine, size = {"weight": (d,), "bias": (d,)}, getattr(spec.position, "size", None)
    with t.scope("entities", component="entities"):
        ops.parameter(t, "table", own.rows, own.width, kind="embedding")
        if own.width != d:
            _weights(t, "projection", d, own.width, bias=False)
        for name, rows in (("positions", spec.context if size is None else size), ("types", spec.token_types)):
            ops.parameter(t, name, rows, d, kind="embedding")
        t.op("norm", "norm", weights=affine)
        if spec.head.kind == "lm":
            _weights(t, "dense", own.width, d, bias=True)
            t.op("head_norm", "norm", weights=dict.fromkeys(affine, (own.width,)))
            if not own.tied:
                _weights(t, "head", own.rows, own.width, bias=False)
            ops.parameter(t, "head_bias", own.rows, kind="head")


def autoencoder(t: Trace, own: Autoencoder, d: Number) -> None:
    """The weights of an autoencoder of images, and of what generates its codes."""
    latent, width = own.latent, own.code_dim
    ups = [(i, own.levels[i]) for i in reversed(range(len(own.levels)))]
    with t.scope("autoencoder", component="autoencoder", copies=1, active=0, calls=0, repeat=True):
        with t.scope("encoder"):
            _convolved(t, "conv_in", own.channels, own.in_channels, 3)
            at = _levels(t, own, list(enumerate(own.levels)), own.channels, own.depth, "down", own.levels[:-1])
            _middle(t, own, at)
            _affine(t, "norm_out", at)
            _convolved(t, "conv_out", latent, at, 3)
        ops.parameter(t, "codebook", own.codes, width, kind="embedding")
        _convolved(t, "quantized", width, latent, 1)
        _convolved(t, "restored", latent, width, 1)
        if own.out_channels is not None:
            with t.scope("decoder"):
                _convolved(t, "conv_in", at, latent, 3)
                _middle(t, own, at)
                at = _levels(t, own, ups, at, own.depth + 1, "up", own.levels[1:])
                _affine(t, "norm_out", at)
                _convolved(t, "conv_out", own.out_channels, at, 3)
        if (generation := own.generation) is not None:
            ops.parameter(t, "generation_codebook", own.codes, width, kind="embedding")
            for i in range(generation.depth):
                _weights(t, f"inputs.{i}", generation.width, generation.width if i else width, bias=True)
            _weights(t, "outputs.0", generation.width, d, bias=True)
            _weights(t, "outputs.1", own.codes, generation.width, bias=True)


def _levels(
    t: Trace, own: Autoencoder, levels: list[tuple[int, int]], at: Number, blocks: int, name: str, resampled: Sized
) -> Number:
    """Residual blocks of each level, which attend or not, and a convolution to the next one."""
    for place, (i, channels) in enumerate(levels):
        with t.scope(f"levels.{i}"):
            for block in range(blocks):
                _residual(t, f"blocks.{block}", channels, at)
                at = channels
                if i in own.attention_levels:
                    _attends(t, f"attention.{block}", at)
            if place < len(resampled):
                _convolved(t, name, at, at, 3)
    return at


def _middle(t: Trace, own: Autoencoder, at: Number) -> None:
    _residual(t, "middle.0", at, at)
    _residual(t, "middle.1", at, at)
    if own.mid_attention:
        _attends(t, "middle_attention", at)


def _residual(t: Trace, name: str, out: Number, into: Number) -> None:
    with t.scope(name):
        for i, at in enumerate((into, out)):
            _affine(t, f"norm{i}", at)
            _convolved(t, f"conv{i}", out, at, 3)
        if t.size(out) != t.size(into):
            _convolved(t, "shortcut", out, into, 1)


def _attends(t: Trace, name: str, at: Number) -> None:
    with t.scope(name):
        _affine(t, "norm", at)
        for own in ("q", "k", "v", "o"):
            _convolved(t, own, at, at, 1)


def _affine(t: Trace, name: str, at: Number) -> None:
    t.op(name, "norm", weights={"weight": (at,), "bias": (at,)})


def _convolved(t: Trace, name: str, out: Number, into: Number, kernel: int) -> None:
    t.op(name, "linear", weights={"weight": (out, into, kernel, kernel), "bias": (out,)})


def instruction(t: Trace, stack: Resampler) -> None:
    """The weights that learned queries keep for a text beside them: tables, and a feed-forward of every layer."""
    own, d, feed = stack.input.instruction, stack.d_model, located_blocks(stack)[0][1].feed_forward
    if own is None or feed is None or feed.kind != "dense":
        return
    with t.scope("instruction", component="instruction"):
        ops.parameter(t, "table", own.rows, d, kind="embedding")
        ops.parameter(t, "positions", own.positions, d, kind="embedding")
        with t.scope("layers", copies=stack.layers, active=0, calls=0, repeat=True):
            for name in ("up", "gate", "down") if feed.gated else ("up", "down"):
                sizes = (d, feed.d_ff) if name == "down" else (feed.d_ff, d)
                _weights(t, name, *sizes, bias=getattr(feed.bias, name))
            t.op("norm", "norm", weights={"weight": (d,)} | ({"bias": (d,)} if stack.norm.bias else {}))


def _weights(t: Trace, name: str, d_out: Number, d_in: Number, *, bias: bool) -> None:
    t.op(name, "linear", weights={"weight": (d_out, d_in)} | ({"bias": (d_out,)} if bias else {}))
