"""Sequence mixers as single layers, written as their forward pass from (b, n, d) to (b, n, d).

What the recurrent ones keep is what a loop over PyTorch operations keeps, one step after the other: that is
exact, and the same on every device. The fused kernels behind ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` keep something
else: cuDNN one opaque reserve buffer, and on the CPU oneDNN (the LSTM) a workspace of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from txcalc.trace import ops
from txcalc.trace.attention import self_attention
from txcalc.trace.record import Cache, Loop, Number, Tensor, Trace
from txcalc.trace.recurrent import recurrent
from txcalc.trace.workload import Workload

if TYPE_CHECKING:
    from txcalc.spec.mixers import CausalConvolution, LinearAttention, Mixer, RecurrentCell


def trace_mixer(spec: Mixer, d: Number, workload: Workload) -> Trace:
    """Run one layer of width ``d`` on the workload's batch and length, causally."""
    t = Trace(workload)
    x = t.tensor(workload.batch, workload.seq, d, label="x")
    if spec.kind == "convolution":
        _convolution(t, spec, x)
    elif spec.kind == "linear-attention":
        _linear_attention(t, spec, x)
    elif spec.kind == "mamba2":
        recurrent(t, spec, x)
    elif spec.kind == "standard":
        self_attention(t, spec, None, x, causal=True, cached=True)
    else:
        _recurrent_cell(t, spec, x)
    return t


def _recurrent_cell(t: Trace, spec: RecurrentCell, x: Tensor) -> None:
    """The inputs of all steps are projected at once; the loop has what needs the state before."""
    b, _, _ = x.shape
    h = spec.hidden
    ops.linear(t, "input", x, spec.gates * h, bias=spec.bias)
    cell = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}[spec.kind]
    states = 2 if spec.kind == "lstm" else 1
    _steps(t, [t.tensor(b, h, label=label) for label in ("hidden", "cell")[:states]],
           lambda state: cell(t, spec, state))
    for name in ("hidden", "cell")[:states]:
        t.op(f"{name}_state", "elementwise", cache=Cache("state", h, 1, b))


def _steps(t: Trace, before: list[Tensor], body: Callable[[list[Tensor]], list[Tensor]]) -> None:
    """As many steps as there are positions, with one set of weights; each reads the states the last one left."""
    n = t.workload.seq
    with t.scope("step", copies=1, calls=n):
        entries = [t.tensor(*state.shape, label=state.label) for state in before]
        exits = body(entries)
    for first, entry, leave in zip(before, entries, exits, strict=True):
        t.loops.append(Loop(first, entry, leave, t.tensor(*leave.shape, label=leave.label), n))


def _rnn(t: Trace, spec: RecurrentCell, states: list[Tensor]) -> list[Tensor]:
    """h' = tanh(W x + b + U h + c)."""
    (h,) = states
    gate = ops.linear(t, "hidden", h, spec.hidden, bias=spec.bias)
    return [ops.activation(t, "tanh", gate, "tanh")]


def _lstm(t: Trace, spec: RecurrentCell, states: list[Tensor]) -> list[Tensor]:
    """c' = f c + i g; h' = o tanh(c'), with i, f, o sigmoids and g a tanh."""
    h, c = states
    b, _ = h.shape
    ops.linear(t, "hidden", h, 4 * spec.hidden, bias=spec.bias)
    part = t.tensor(b, spec.hidden, label="gate")
    i, f, o = (ops.activation(t, name, part, "sigmoid") for name in ("i", "f", "o"))
    g = ops.activation(t, "g", part, "tanh")
    ops.multiply(t, "forget", f, c)
    ops.multiply(t, "write", i, g)
    after = t.tensor(b, spec.hidden, label="cell")
    shown = ops.activation(t, "tanh", after, "tanh")
    return [ops.multiply(t, "output", o, shown), after]


def _gru(t: Trace, spec: RecurrentCell, states: list[Tensor]) -> list[Tensor]:
    """n = tanh(W x + r (U h + c)); h' = (1 - z) n + z h, with r and z sigmoids, as ``nn.GRU`` has it."""
    (h,) = states
    b, _ = h.shape
    products = ops.linear(t, "hidden", h, 3 * spec.hidden, bias=spec.bias)
    part = t.tensor(b, spec.hidden, label="gate")
    r, z = (ops.activation(t, name, part, "sigmoid") for name in ("r", "z"))
    ops.multiply(t, "reset", r, products.view(b, spec.hidden))
    new = ops.activation(t, "n", part, "tanh")
    ops.multiply(t, "keep_new", t.tensor(b, spec.hidden, label="1 - z"), new)
    ops.multiply(t, "keep_old", z, h)
    return [t.tensor(b, spec.hidden, label="hidden")]


def _convolution(t: Trace, spec: CausalConvolution, x: Tensor) -> None:
    """``nn.Conv1d`` on a copy of the input with ``width - 1`` zeros before it."""
    b, n, d = x.shape
    padded = t.tensor(b, d, n + spec.width - 1, label="padded")
    ops.convolution(t, "conv", padded, d, n, (spec.width,), bias=spec.bias)
    t.op("conv_state", "elementwise", cache=Cache("state", d, spec.width - 1, b))


def _linear_attention(t: Trace, spec: LinearAttention, x: Tensor) -> None:
    """S <- S + phi(k) [v, 1]^T; y = phi(q) S, whose last column is the sum that normalises the others.

    ``attention: eager`` runs it step by step, and autograd keeps the state of every step; ``flash`` stands for a
    kernel that computes the states anew in the backward pass (section 3.3.1). The state is held in fp32.
    """
    b, n, d = x.shape
    h, width = spec.heads, spec.heads * spec.head_dim
    q, k, _ = (ops.linear(t, name, x, width, bias=spec.bias) for name in ("q", "k", "v"))
    t.op("features", "elementwise", saves=(q, k))
    features = [t.tensor(b, n, width, label=f"phi({name})") for name in ("q", "k")]
    values = t.tensor(b, n, h * (spec.head_dim + 1), label="values and ones")
    state = width * (spec.head_dim + 1)
    saves = [*features, values]
    if t.workload.attention == "eager":
        saves.append(t.tensor(b, n, state, label="states"))
    flops = 4 * b * n * state
    again = 0 if t.workload.attention == "eager" else flops // 2
    t.op("recurrence", "recurrence", flops=flops, flops_backward=2 * flops + again, saves=tuple(saves),
         cache=Cache("state", state, 1, b, role="float32"))
    t.op("normalize", "elementwise", saves=(t.tensor(b, n, h * (spec.head_dim + 1), label="weighted sums"),))
    ops.linear(t, "o", t.tensor(b, n, width, label="context"), d, bias=spec.bias)
