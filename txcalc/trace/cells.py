"""Recurrent cells and 1-D convolutions, written as their forward pass from (b, n, d) to a width of their own.

What a cell keeps is what a loop over PyTorch operations keeps, one step after the other: that is exact, and the
same on every device. The fused kernels behind ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` keep something else: cuDNN one
opaque reserve buffer, and on the CPU oneDNN (the LSTM) a workspace of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txcalc.trace import curves, ops, parts
from txcalc.trace.cache import Cache
from txcalc.trace.record import Loop, Node, Op, Trace
from txcalc.trace.sizes import Product, least
from txcalc.trace.tensors import Number, Tensor

if TYPE_CHECKING:
    from txcalc.spec.projections import Convolution
    from txcalc.spec.rnn import GRU, LSTM, RNN, AdditiveAttention, Convolution1D, InitialState

    Cell = RNN | LSTM | GRU

GATES: Final = {"rnn": 1, "lstm": 4, "gru": 3}
"""Blocks of ``hidden`` rows in each weight matrix of a cell."""

_STATES: Final = {"rnn": ("hidden",), "lstm": ("hidden", "cell"), "gru": ("hidden",)}


def convolution(t: Trace, spec: Convolution1D, x: Tensor, *, cached: bool) -> Tensor:
    """``nn.Conv1d`` on a copy of the input with ``width - 1`` zeros around it, all before it in a causal stack.

    (b, n, d) -> (b, n, channels). A gate keeps what it splits in two (``F.glu``).
    """
    b, n, d = x.shape
    channels = d if spec.channels is None else spec.channels
    padded = t.tensor(b, d, n + spec.width - 1, label="padded")
    y = ops.convolution(t, "conv", padded, 2 * channels if spec.gated else channels, n, (spec.width,), bias=spec.bias)
    if cached:
        t.op("conv_state", "elementwise", cache=Cache("state", d, spec.width - 1, b))
    if spec.gated:
        t.op("gate", "product", saves=(y,))
        return t.tensor(b, n, channels, label="gated")
    return y if spec.activation is None else curves.activation(t, "activation", y, spec.activation)


def convolve(t: Trace, spec: Convolution, x: Tensor) -> Tensor:
    """(b, n, d) -> (b, n, d): what DeBERTa-v2 adds to a block's output, ``nn.Conv1d`` and an activation."""
    b, n, d = x.shape
    with t.scope("convolution", component="convolution"):
        y = ops.convolution(t, "conv", x.view(b, d, n), d, n, (spec.kernel,), bias=True)
        return curves.activation(t, "activation", ops.dropout(t, "dropout", y), spec.activation)


def cell(t: Trace, spec: Cell, x: Tensor, *, cached: bool, memory: Tensor | None = None) -> Tensor:
    """(b, n, d) -> (b, n, what it hands on). ``memory``: the encoder's output (b, m, w), as far as it is new."""
    if not spec.bidirectional:
        return _direction(t, spec, x, cached=cached, memory=memory)
    b, n, _ = x.shape
    with t.frame(x):
        outputs = t.tensor(b, n, spec.hidden, label="outputs")
        with t.scope("directions", copies=2, calls=2):
            one = _direction(t, spec, x, cached=cached, memory=None)
        t.extend(gathers=((one, outputs),))
        y = ops.gathered(t, "join", (t.hold(outputs),), b, n, 2 * spec.hidden, label="both directions")
        return ops.dropout(t, "dropout", y)


def _direction(t: Trace, spec: Cell, x: Tensor, *, cached: bool, memory: Tensor | None) -> Tensor:
    """The inputs of all steps are projected at once; the loop has what needs the state before.

    What attends has its inputs projected beside the context, step by step.
    """
    b, n, d = x.shape
    h, names = spec.hidden, _STATES[spec.kind]
    if spec.attends is None:
        widths = {"state": h}
    else:
        assert memory is not None
        _source(t, spec.attends, memory)
        widths = {"input": d, "state": h, "previous": h, "context": memory.shape[-1]}
    with t.frame(x):
        if spec.initial is None:
            before = [t.op("zeros", "elementwise", writes=(t.tensor(b, h, label=name, grad=False),)) for name in names]
        else:
            assert memory is not None
            before = [_initial(t, spec.initial, name, memory, h) for name in names]
        if spec.attends is None:
            x = t.hold(ops.linear(t, "input", x, GATES[spec.kind] * h, bias=spec.bias.input))
        states = _steps(t, spec, before, x, memory)
        for name in names if cached else ():
            t.op(f"{name}_state", "elementwise", cache=Cache("state", h, 1, b))
        if spec.attends is None:
            y = ops.gathered(t, "states", (t.hold(states),), b, n, h, label="state")
            return y if spec.bidirectional else ops.dropout(t, "dropout", y)
    readout = ("state",) if spec.attends is None else spec.attends.readout
    y = t.tensor(b, n, sum(widths[name] for name in widths if name in readout), label=" and ".join(readout))
    return ops.dropout(t, "dropout", y)


def _steps(t: Trace, spec: Cell, before: list[Tensor], x: Tensor, memory: Tensor | None) -> Tensor:
    """As many steps as there are positions, with one set of weights; each reads the states that the last one left.

    A list of what they leave.
    """
    _, n, _ = x.shape
    states = t.tensor(*before[0].shape, label="states")
    with t.scope("step", copies=1, calls=n, repeat=True), t.frame():
        entries = [t.tensor(*state.shape, label=state.label, grad=state.grad) for state in before]
        if spec.attends is not None and memory is not None:
            _attend(t, spec.attends, entries[0], memory)
        update = len(t.body)
        given = _inputs(t, spec, x, memory) if memory is not None and spec.attends else parts.position(t, "input", x)
        exits = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}[spec.kind](t, spec, given, entries)  # type: ignore[operator]
        last_unused = spec.attends is not None and "state" not in spec.attends.readout
        rest = _without_idle_gradients(t.body, update if last_unused else len(t.body), n, entries)
    carries = tuple(Loop(first, entry, leave, t.hold(t.tensor(*leave.shape, label=leave.label)), n)
                    for first, entry, leave in zip(before, entries, exits, strict=True))
    t.extend(carries=carries, gathers=((exits[0], states),))
    t.body += rest
    return states


def _without_idle_gradients(body: list[Node], update: int, n: Number, entries: list[Tensor]) -> list[Node]:
    """The way back is shorter than the way there: what all steps do on it, where they do not do it all alike.

    A state that begins as zeros needs no gradient, so that the first step has one product less for each of its
    readers. A last state that nobody reads gets none, so that the operations from ``update`` on run once less.
    """
    zeros = {entry.id for entry in entries if not entry.grad}
    rest: list[Node] = []
    for i, op in enumerate(body):
        if not isinstance(op, Op) or not op.weights:
            continue
        reads_zeros = any(tensor.id in zeros for tensor in op.saves)
        if not (reads_zeros or i >= update):
            continue
        times = n - 1 if i >= update else n
        body[i] = op._replace(products=tuple(each._replace(backward=0) for each in op.products))
        back = [each._replace(batch=times * each.batch, forward=0) for each in op.products]
        if reads_zeros:
            again = times - least(times, 1)
            back += [each._replace(batch=again * each.batch, forward=0, backward=1) for each in op.products]
        rest.append(Op(op.path, op.component, op.layer, op.kind, products=tuple(back)))
    return rest


def _inputs(t: Trace, spec: Cell, x: Tensor, memory: Tensor) -> Tensor:
    """The addends of the gates besides the state's product."""
    b, _, d = x.shape
    width = GATES[spec.kind] * spec.hidden
    context = ops.linear(t, "context", t.tensor(b, memory.shape[-1], label="context"), width)
    return ops.add(t, context, ops.linear(t, "input", x.view(b, d), width, bias=spec.bias.input), "sum")


def _rnn(t: Trace, spec: RNN, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """h' = tanh(W x + b + U h + c)."""
    (h,) = states
    gate = ops.linear(t, "hidden", h, spec.hidden, bias=spec.bias.hidden)
    return [curves.activation(t, "tanh", ops.add(t, x, gate, "sum"), "tanh")]


def _lstm(t: Trace, spec: LSTM, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """c' = f c + i g; h' = o tanh(c'), with i, f, o sigmoids and g a tanh."""
    h, c = states
    gates = ops.add(t, x, ops.linear(t, "hidden", h, 4 * spec.hidden, bias=spec.bias.hidden), "sum")
    i, f, g, o = parts.columns(t, "gates", t.hold(gates), *(4 * (spec.hidden,)))
    kept = ops.multiply(t, "forget", curves.activation(t, "f", f, "sigmoid"), c)
    i, g = curves.activation(t, "i", i, "sigmoid"), curves.activation(t, "g", g, "tanh")
    after = ops.add(t, kept, ops.multiply(t, "write", i, g), "cell", label="cell")
    o = curves.activation(t, "o", o, "sigmoid")
    return [ops.multiply(t, "output", o, curves.activation(t, "tanh", after, "tanh")), after]


def _gru(t: Trace, spec: GRU, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """n = tanh(W x + r (U h + c)), or tanh(W x + U (r h) + c); h' = (1 - z) n + z h, with r and z sigmoids."""
    (h,) = states
    width, late = spec.hidden, spec.reset == "after"
    x_r, x_z, x_n = parts.columns(t, "inputs", x, width, width, width)
    products = t.hold(ops.linear(t, "hidden", h, (3 if late else 2) * width, bias=spec.bias.hidden))
    h_r, h_z, *h_n = parts.columns(t, "products", products, *((3 if late else 2) * (width,)))
    r = curves.activation(t, "r", ops.add(t, x_r, h_r, "sum"), "sigmoid")
    reset = ops.multiply(t, "reset", r, h_n[0] if late else h)
    if not late:
        reset = ops.linear(t, "candidate", reset, width, bias=spec.bias.hidden)
    new = t.hold(curves.activation(t, "n", ops.add(t, x_n, reset, "sum"), "tanh"))
    z = t.hold(curves.activation(t, "z", ops.add(t, x_z, h_z, "sum"), "sigmoid"))
    kept = ops.multiply(t, "keep_new", ops.scaled(t, "rest", z), new)
    return [ops.add(t, kept, ops.multiply(t, "keep_old", z, h), "hidden_state", label="hidden")]


# ---------------------------------------------------------------- what a cell has from an encoder


def _initial(t: Trace, spec: InitialState, name: str, memory: Tensor, hidden: Number) -> Tensor:
    """The state before the first token: once there is a past, it has been made."""
    b, _, width = memory.shape
    width = width // 2 if spec.of == "reverse" else width
    last = t.tensor(0, width) if t.workload.phase == "decode" else memory.view(b, width)
    state = ops.linear(t, f"initial_{name}", last, hidden, bias=spec.bias)
    return curves.activation(t, f"initial_{name}_tanh", state, "tanh").view(b, hidden)


def _source(t: Trace, spec: AdditiveAttention, memory: Tensor) -> None:
    """Each source token is projected once; its projection and itself are held for the whole generation."""
    b, new, width = memory.shape
    ops.linear(t, "keys", memory, spec.width, bias=spec.bias)
    t.op("source", "elementwise", cache=Cache("cross", spec.width + width, t.workload.source_past + new, b,
                                             layout="source"))


def _attend(t: Trace, spec: AdditiveAttention, state: Tensor, memory: Tensor) -> None:
    """v^T tanh(W s + U h) over the source, its softmax, and the weighted sum of h, for one target token.

    The tanh of every (target, source) pair is kept, ``width`` columns wide: the O(N M) part, whatever the policy.
    """
    b, new, width = memory.shape
    m = t.workload.source_past + new
    t.note_kernel("eager", "" if t.workload.attention == "eager" else "no kernel of PyTorch has additive scores")
    with t.scope("attention"):
        ops.linear(t, "query", state, spec.width)
        pairs = t.tensor(b, m, spec.width, label="tanh of pairs", scores=True)
        t.op("tanh", "slope_out", saves=(pairs,), writes=(pairs,))
        scores, context = t.tensor(b, m, label="scores", scores=True), t.tensor(b, width, label="context")
        t.op("scores", "core", weights={"weight": (1, spec.width)}, products=(Product(1, b * m, 1, spec.width),),
             saves=(pairs,), reads=(pairs,), writes=(scores,))
        weights = ops.softmax(t, "softmax", scores)
        t.op("context", "core", products=(Product(b, 1, width, m),), saves=(weights, memory),
             reads=(weights, memory), writes=(context,))
