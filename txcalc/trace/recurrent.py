"""Layers that carry a state of constant size in place of a KV cache.

Weights and state are exact. How a chunked kernel arranges a linear recurrence is its own choice, so its FLOPs here are
those of the recurrence itself, step by step, and reports mark totals with such layers as estimates. Convolutions and
cells (``txcalc.trace.cells``) are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal

from txcalc.spec.layers import Attention, AttentionBias
from txcalc.trace import curves, images, norms, ops, parts, split
from txcalc.trace.attention import Around, self_attention
from txcalc.trace.cache import Cache
from txcalc.trace.cells import cell, convolution
from txcalc.trace.record import Trace
from txcalc.trace.sizes import Product
from txcalc.trace.tensors import Number, Role, Tensor

if TYPE_CHECKING:
    from txcalc.spec.base import Activation
    from txcalc.spec.layers import (
        GatedDelta,
        KimiDelta,
        LightningAttention,
        Mamba2,
        Recurrent,
        ShortConvolution,
    )
    from txcalc.spec.rnn import MLSTM, RGLRU, WKV, FourierMixing, LinearAttention, Mamba, PatchMerging


def recurrent(t: Trace, spec: Recurrent, x: Tensor, *, cached: bool, memory: Tensor | None = None) -> Tensor:
    """(b, n, d) -> (b, n, d), or the width of a cell or convolution. ``memory``: what a cell attends to."""
    if spec.kind == "rnn" or spec.kind == "lstm" or spec.kind == "gru":
        with t.scope("recurrent", component="cell"):
            return cell(t, spec, x, cached=cached, memory=memory)
    own = {"convolution": "convolution", "patch-merging": "merging", "image-convolutions": "convolution"}.get(
        spec.kind, "recurrent")
    with t.scope("recurrent", component=own):
        y = _LAYERS[spec.kind](t, spec, x, cached=cached)
        return ops.dropout(t, "dropout", split.leave(t, "out_proj", y))


def _mamba(t: Trace, spec: Mamba, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2312.00752, algorithm 2: step sizes, B and C come from the channels themselves."""
    b, n, d = x.shape
    ops.linear(t, "in_proj", x, 2 * spec.inner, bias=spec.bias)
    _short_convolution(t, spec.inner, spec.conv, b, n, bias=spec.conv_bias, cached=cached)
    channels = t.tensor(b, n, spec.inner, label="channels")
    if spec.heads > 1:
        return _mamba_heads(t, spec, channels, d, cached=cached)
    split.summed(t, "x_proj", ops.linear(t, "x_proj", channels, spec.rank + 2 * spec.state))
    steps = t.tensor(b, n, spec.rank, label="step sizes")
    if spec.norms:
        norm = norms.RMS._replace(scale=spec.norm_scale)
        steps = norms.norm(t, "dt_norm", steps, norm)
        for name in ("b_norm", "c_norm"):
            norms.norm(t, name, t.tensor(b, n, spec.state, label=name), norm)
    ops.linear(t, "dt_proj", steps, spec.inner, bias=True)
    ops.parameter(t, "a_log", spec.inner, spec.state)
    ops.parameter(t, "skip", spec.inner)
    _recurrence(t, b, n, spec.inner * spec.state, products=2, cached=cached)
    return _gated_output(t, b, n, spec.inner, d, norm_width=None, bias=spec.bias)


def _mamba_heads(t: Trace, spec: Mamba, channels: Tensor, d: Number, *, cached: bool) -> Tensor:
    """The same for each head's own channels (Zamba, arXiv 2405.16712)."""
    b, n, _ = channels.shape
    heads, width, made = spec.heads, spec.inner // spec.heads, spec.rank + 2 * spec.state
    t.op("x_proj", "linear", weights={"weight": (heads, made, width)}, saves=(channels,),
         products=(Product(heads, b * n, made, width),))
    t.op("dt_proj", "linear", weights={"weight": (heads, width, spec.rank), "bias": (heads, width)},
         saves=(t.tensor(b, n, heads * spec.rank, label="step sizes"),),
         products=(Product(heads, b * n, width, spec.rank),))
    ops.parameter(t, "a_log", spec.inner, spec.state)
    ops.parameter(t, "skip", spec.inner)
    _recurrence(t, b, n, spec.inner * spec.state, products=2, cached=cached)
    return _gated_output(t, b, n, spec.inner, d, norm_width=None, bias=spec.bias)


def _lightning(t: Trace, spec: LightningAttention, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2501.08313, section 2.2: S <- a S + k v^T, then q S, in every head."""
    b, n, d = x.shape
    width = spec.heads * spec.head_dim
    ops.linear(t, "qkv", x, 3 * width)
    # MiniMax's class holds the state in the model's dtype.
    _recurrence(t, b, n, width * spec.head_dim, products=2, cached=cached, role="kv")
    y = norms.norm(t, "norm", t.tensor(b, n, width, label="recurrence"), norms.RMS)
    gate = curves.activation(t, "gate_activation", ops.linear(t, "gate", x, width), "sigmoid")
    return ops.linear(t, "out_proj", ops.multiply(t, "gated", y, gate), d)


def _mamba2(t: Trace, spec: Mamba2, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2405.21060, section 7: one projection in, a short convolution, the recurrence, a gated norm, one out."""
    b, n, d = x.shape
    inner = spec.heads * spec.head_dim
    mixed = inner + 2 * spec.groups * spec.state
    ops.linear(t, "in_proj", x, inner + mixed + spec.heads, bias=spec.bias)
    _short_convolution(t, mixed, spec.conv, b, n, bias=spec.conv_bias, cached=cached)
    for name in ("dt_bias", "a_log", "skip"):
        ops.parameter(t, name, spec.heads)
    # S <- a S + dt x B^T, then S C: two products of head_dim x state per head and token.
    _recurrence(t, b, n, spec.heads * spec.head_dim * spec.state, products=2, cached=cached)
    return _gated_output(t, b, n, inner, d, norm_width=inner if spec.norm else None, bias=spec.bias)


def _gated_delta(t: Trace, spec: GatedDelta, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2412.06464, equation 10: S <- a S (1 - b k k^T) + b v k^T, then S q."""
    b, n, d = x.shape
    keys, values = spec.key_heads * spec.key_dim, spec.value_heads * spec.value_dim
    ops.linear(t, "in_proj", x, 2 * values + 2 * keys)
    ops.linear(t, "rates", x, 2 * spec.value_heads)
    _short_convolution(t, values + 2 * keys, spec.conv, b, n, bias=False, cached=cached)
    for name in ("dt_bias", "a_log"):
        ops.parameter(t, name, spec.value_heads)
    _recurrence(t, b, n, spec.value_heads * spec.key_dim * spec.value_dim, products=3, cached=cached)
    return _gated_output(t, b, n, values, d, norm_width=spec.value_dim, bias=False)


def _kimi_delta(t: Trace, spec: KimiDelta, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2510.26692, equation 1: S <- (1 - b k k^T) Diag(a) S + b k v^T, then S^T q."""
    b, n, d = x.shape
    width = spec.heads * spec.head_dim
    ops.linear(t, "in_proj", x, 3 * width)
    ops.linear(t, "strength", x, spec.heads)
    for name in ("decay", "gate"):
        ends = f"{name}_up" if spec.bottleneck else name
        ops.linear(t, ends, ops.linear(t, f"{name}_down", x, spec.head_dim) if spec.bottleneck else x, width)
    _short_convolution(t, 3 * width, spec.conv, b, n, bias=False, cached=cached)
    ops.parameter(t, "dt_bias", width)
    ops.parameter(t, "a_log", spec.heads)
    _recurrence(t, b, n, width * spec.head_dim, products=3, cached=cached)
    return _gated_output(t, b, n, width, d, norm_width=spec.head_dim, bias=False, act="sigmoid")


def _rg_lru(t: Trace, spec: RGLRU, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2402.19427, equations 1 to 4: h <- a h + sqrt(1 - a^2) i x: no matrix product."""
    b, n, d = x.shape
    width = spec.inner // spec.heads
    gate = curves.activation(t, "activation", ops.linear(t, "gate", x, spec.inner, bias=True), spec.activation)
    ops.linear(t, "in_proj", x, spec.inner, bias=True)
    channels = _causal(t, t.tensor(b, spec.inner, n, label="in"), spec.conv, bias=True, cached=cached,
                       held=spec.conv - 1)
    for name in ("input_gate", "recurrence_gate"):
        t.op(name, "linear", weights={"weight": (spec.heads, width, width), "bias": (spec.heads, width)},
             products=(Product(spec.heads, b * n, width, width),), saves=(channels,))
    ops.parameter(t, "decay", spec.inner)
    _recurrence(t, b, n, spec.inner, products=0, cached=cached)
    y = ops.multiply(t, "gated", t.tensor(b, n, spec.inner, label="recurrence"), gate)
    return ops.linear(t, "out_proj", y, d, bias=True)


def _mlstm(t: Trace, spec: MLSTM, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2405.04517, equations 19 to 27: C <- f C + i v k^T, n <- f n + i k, then C q and n q."""
    b, n, d = x.shape
    keys, values, state = (spec.heads * width for width in (
        spec.key_dim, spec.value_dim, spec.key_dim * spec.value_dim))
    for name, width in (("q", keys), ("k", keys), ("v", values), ("gate", values)):
        ops.linear(t, name, x, width, bias=spec.bias)
    ops.linear(t, "rates", x, 2 * spec.heads, bias=True)
    sizes = (state, state, keys)
    t.op("recurrence", "recurrence", products=tuple(Product(b * n, size, 1, 1) for size in sizes),
         saves=(t.tensor(b, n, state, label="states"),),
         cache=Cache("state", state + keys + spec.heads, 1, b, role="float32") if cached else None)
    y = t.tensor(b, n, spec.heads, spec.value_dim, label="recurrence")
    y = norms.norm(t, "norm", y, norms.LAYER._replace(bias=spec.bias), weight_shape=(spec.heads, spec.value_dim))
    gate = curves.activation(t, "gate_activation", t.tensor(b, n, values, label="gate"), "sigmoid")
    return ops.linear(t, "out_proj", ops.multiply(t, "gated", y.view(b, n, values), gate), d, bias=spec.bias)


def _wkv(t: Trace, spec: WKV, x: Tensor, *, cached: bool) -> Tensor:
    """arXiv 2305.13048, equations 19 to 22: a numerator, a denominator and the largest exponent for each channel."""
    b, n, d = x.shape
    mixed = mixed_with_last(t, x, ("key", "value", "receptance"), cached=cached)
    for name, each in mixed.items():
        ops.linear(t, name, each, spec.inner)
    for name in ("time_decay", "time_first"):
        ops.parameter(t, name, spec.inner)
    _recurrence(t, b, n, 3 * spec.inner, products=0, cached=cached)
    gate = curves.activation(t, "activation", t.tensor(b, n, spec.inner, label="receptance"), "sigmoid")
    return ops.linear(t, "output", ops.multiply(t, "gated", gate, t.tensor(b, n, spec.inner, label="recurrence")), d)


def mixed_with_last(t: Trace, x: Tensor, names: tuple[str, ...], *, cached: bool) -> dict[str, Tensor]:
    """For each name a mix of ``x`` (b, n, d) and itself one token later; the last token's vector is a state."""
    b, n, d = x.shape
    before = t.tensor(b, n, d, label="tokens before")
    for name in names:
        rest = t.tensor(d, role=Role.WEIGHT, label=f"1 - mix of {name}")
        t.op(f"mix.{name}", "scale", weights={"": (d,)}, saves=(x, before, rest))
    if cached:
        t.op("shift_state", "elementwise", cache=Cache("state", d, 1, b))
    return {name: t.tensor(b, n, d, label=f"mixed {name}") for name in names}


def _gated_convolution(t: Trace, spec: ShortConvolution, x: Tensor, *, cached: bool) -> Tensor:
    """c * convolution(b * x) for three projections b, c and x, which lie in one tensor and are kept as that."""
    b, n, d = x.shape
    own = d // t.layout.tp
    projected = ops.linear(t, "in_proj", x, 3 * own, bias=spec.bias)
    t.op("gate_in", "product", saves=(projected,))
    inputs = t.tensor(b, own, n, label="gated in")
    if spec.image:
        y = ops.convolution(t, "conv", inputs, own, n, (spec.conv, spec.conv), bias=spec.bias, groups=own)
    else:
        y = _causal(t, inputs, spec.conv, bias=spec.bias, cached=cached)
    return ops.linear(t, "out_proj", ops.multiply(t, "gated", y, projected.view(b, n, own)), d, bias=spec.bias)


def _fourier(t: Trace, spec: FourierMixing, x: Tensor, *, cached: bool) -> Tensor:
    """``torch.fft.fftn`` over positions and columns, of which the real part goes on: keeps nothing."""
    complex_numbers = t.tensor(*x.shape, 2, role=Role.FLOAT32, label="transform")
    y = t.op("transform", "elementwise", reads=(x,), writes=(complex_numbers,), backward=((ops.to(x),),))
    return ops.cast(t, "transform", t.alias(y, *x.shape), x.made)


def _short_convolution(
    t: Trace, channels: Number, width: Number, b: Number, n: Number, *, bias: bool, cached: bool
) -> None:
    y = _causal(t, t.tensor(b, channels, n, label="in"), width, bias=bias, cached=cached)
    curves.activation(t, "conv_activation", y, "silu")


def _causal(
    t: Trace, x: Tensor, width: Number, *, bias: bool, cached: bool, held: Number | None = None
) -> Tensor:
    """A depthwise causal convolution: each channel looks at its last ``width`` inputs, which it keeps as state.

    As ``transformers`` runs it without a package of kernels: with zeros on both sides, so that it also stands on
    ``width - 1`` positions after the last, which are dropped. Inputs of the past are put before the new ones, all
    ``width`` of them; a single new token has no zeros around those. ``held``: as many as are kept, and no zeros.
    """
    b, channels, n = x.shape
    past = t.workload.past if cached else 0
    after = n + 1 if t.size(n) == 1 else n + 2 * width - 1
    positions = 0 if t.size(n) == 0 else n + width - 1 if t.size(past) == 0 else after if held is None else n
    y = ops.convolution(t, "conv", x, channels, positions, (width,), bias=bias, groups=channels)
    if cached:
        t.op("conv_state", "elementwise", cache=Cache("state", channels, width if held is None else held, b))
    return y.view(b, n, channels)


def _recurrence(
    t: Trace, b: Number, n: Number, state: Number, *, products: int, cached: bool,
    role: Literal["kv", "float32"] = "float32",
) -> None:
    """``products`` multiply-accumulates per state element and token; the state is in fp32 if ``role`` says no other."""
    t.op("recurrence", "recurrence", products=products * (Product(b * n, state, 1, 1),),
         saves=(t.tensor(b, n, state, label="states"),),
         cache=Cache("state", state, 1, b, role=role) if cached else None)


def _gated_output(
    t: Trace, b: Number, n: Number, width: Number, d: Number, *, norm_width: Number | None, bias: bool,
    act: Activation = "silu",
) -> Tensor:
    y = t.tensor(b, n, width, label="recurrence")
    if norm_width is not None:
        y = norms.norm(t, "norm", y, norms.RMS, weight_shape=(norm_width,))
    gate = curves.activation(t, "gate_activation", t.tensor(b, n, width, label="gate"), act)
    return ops.linear(t, "out_proj", ops.multiply(t, "gated", y, gate), d, bias=bias)


def _merging(t: Trace, spec: PatchMerging, x: Tensor, *, cached: bool) -> Tensor:
    """(b, n, d) patches to (b, n / merge^2, width), or as they are past weights that they skip."""
    if not spec.skipped:
        return _merged(t, spec, x)
    with t.scope("", copies=1, active=0, calls=0, repeat=True):
        _merged(t, spec, t.tensor(*x.shape))
    return x


def _merged(t: Trace, spec: PatchMerging, x: Tensor) -> Tensor:
    (b, n, d), each = x.shape, spec.merge**2
    if spec.heads is not None:
        own = Attention(heads=1, head_dim=1, bias=AttentionBias(q=True, k=True, v=True, o=True)).replaced(
            heads=spec.heads, kv_heads=spec.heads, head_dim=d // spec.heads, image_window=spec.merge)
        with t.frame(x):
            y = self_attention(t, own, Around(None, causal=False, cached=False), t.hold(
                norms.norm(t, "attention_norm", x, norms.LAYER)))
            x = ops.add(t, x, y)
    with t.frame(x):
        y = parts.remade(t, "squares", x, b, n // each, d * each, label="merged positions")
        y = norms.norm(t, "norm", y, norms.LAYER) if spec.norm else y
        if spec.d_ff is not None:
            y = ops.linear(t, "up", y, spec.d_ff, bias=spec.bias)
            y = curves.activation(t, "activation", y, spec.activation)
        y = ops.linear(t, "out_proj", y, spec.width, bias=spec.bias)
        return ops.add(t, y, parts.remade(t, "mean", x, b, n // each, d, label="means")) if spec.mean else y


def linear_attention(t: Trace, spec: LinearAttention, x: Tensor) -> None:
    """S <- S + phi(k) [v, 1]^T; y = phi(q) S, whose last column is the sum that normalises the others.

    ``attention: eager`` runs it step by step, and autograd keeps the state of every step; ``flash`` stands for a
    kernel that computes the states anew in the backward pass (section 3.3.1). The state is held in fp32.
    """
    b, n, d = x.shape
    h, width = spec.heads, spec.heads * spec.head_dim
    q, k, _ = (ops.linear(t, name, x, width, bias=spec.bias) for name in ("q", "k", "v"))
    t.op("features", "slope_in", saves=(q, k))
    features = [t.tensor(b, n, width, label=f"phi({name})") for name in ("q", "k")]
    values = t.tensor(b, n, h * (spec.head_dim + 1), label="values and ones")
    state = width * (spec.head_dim + 1)
    saves = [*features, values]
    if t.workload.attention == "eager":
        saves.append(t.tensor(b, n, state, label="states"))
    write, read = Product(b * n, state, 1, 1), Product(b * n, state, 1, 1)
    if t.workload.attention != "eager":
        write = write._replace(recomputed=1)
    t.op("recurrence", "recurrence", products=(write, read), saves=tuple(saves),
         cache=Cache("state", state, 1, b, role="float32"))
    t.op("normalize", "product", saves=(t.tensor(b, n, h * (spec.head_dim + 1), label="weighted sums"),))
    ops.linear(t, "o", t.tensor(b, n, width, label="context"), d, bias=spec.bias)


_LAYERS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "mamba": _mamba, "mamba2": _mamba2, "gated-delta": _gated_delta, "kimi-delta": _kimi_delta,
    "lightning": _lightning, "short-convolution": _gated_convolution, "convolution": convolution,
    "fourier": _fourier, "patch-merging": _merging, "image-convolutions": images.convolutions,
    "additive-attention": images.additive,
    "rg-lru": _rg_lru, "wkv": _wkv, "mlstm": _mlstm,
}
