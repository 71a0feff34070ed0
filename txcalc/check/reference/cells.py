"""Recurrent cells and 1-D convolutions of the reference: loops over plain operations, one position after another.

Weights have the shapes of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``; the loop is written out, since the kernels behind
those modules keep what they like.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.cache import State
from txcalc.check.reference.layers import Options, Repeated, activate, dropout_or_nothing
from txcalc.spec import rnn
from txcalc.spec.rnn import GRU, LSTM, RNN

States = tuple[Tensor, ...]

_GATES: Final = {"rnn": 1, "lstm": 4, "gru": 3}
"""Blocks of ``hidden`` rows in each weight matrix, one for every product that a step adds up."""


class Convolution1D(nn.Module):
    """A 1-D convolution that leaves as many positions as it read: (b, n, d) to (b, n, channels)."""

    def __init__(self, plan: rnn.Convolution1D, d: int, options: Options, *, causal: bool) -> None:
        super().__init__()
        self.plan, self.causal = plan, causal
        self.width = d if plan.channels is None else plan.channels
        self.conv = nn.Conv1d(d, self.width * (2 if plan.gated else 1), plan.width, bias=plan.bias)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None, memory: Tensor | None = None) -> Tensor:
        """The cache holds the last ``width - 1`` inputs, zeros before the first."""
        inputs, around = x.transpose(1, 2), self.plan.width - 1
        if cache is None:
            left = around if self.causal else around // 2
            inputs = F.pad(inputs, (left, around - left))
        else:
            before = inputs.new_zeros(*inputs.shape[:2], around) if cache.inputs is None else cache.inputs
            inputs = torch.cat((before, inputs), dim=-1)
            cache.inputs = inputs[..., inputs.shape[-1] - around :].clone()
        y = self.conv(inputs).transpose(1, 2).contiguous()
        if self.plan.gated:
            y = F.glu(y, dim=-1)
        elif self.plan.activation is not None:
            y = activate(self.plan.activation, y)
        return self.dropout(y)


class Additive(nn.Module):
    """v^T tanh(W s + U h), its softmax over the source, and the weighted sum of h (arXiv 1409.0473, A.1.2)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, width, bias=False)
        self.scores = nn.Linear(width, 1, bias=False)

    def forward(self, state: Tensor, memory: Tensor, keys: Tensor) -> Tensor:
        """States (b, hidden), memory (b, m, w), keys (b, m, width) to a context (b, w)."""
        weights = F.softmax(self.scores(torch.tanh(self.query(state)[:, None] + keys)), dim=1)
        return torch.bmm(weights.transpose(1, 2), memory)[:, 0]


class Step(nn.Module):
    """One step of a cell: what was added up for the gates, and the states before, to the states after."""

    def __init__(self, plan: RNN | LSTM | GRU, d: int, memory: int) -> None:
        super().__init__()
        self.plan, h = plan, plan.hidden
        bias = plan.bias.hidden
        gates = _GATES[plan.kind]
        early = isinstance(plan, GRU) and plan.reset == "before"
        self.hidden = nn.Linear(h, (2 if early else gates) * h, bias=bias)
        self.candidate = nn.Linear(h, h, bias=bias) if early else None
        self.attention = None
        if plan.attends is not None:
            self.attention = Additive(plan.attends.width, h)
            self.context = nn.Linear(memory, gates * h, bias=False)
            self.input = nn.Linear(d, gates * h, bias=plan.bias.input)

    def forward(self, x: Tensor, states: States, memory: Tensor | None, keys: Tensor | None) -> tuple[States, Tensor]:
        """X is (b, gates * hidden), projected already, or (b, d) where the cell attends; with the context seen."""
        context = x
        if self.attention is not None:
            assert memory is not None and keys is not None
            context = self.attention(states[0], memory, keys)
            x = self.context(context) + self.input(x)
        match self.plan:
            case RNN():
                return (torch.tanh(x + self.hidden(states[0])),), context
            case LSTM():
                return self._lstm(x, *states), context
            case GRU():
                return (self._gru(x, states[0]),), context

    def _lstm(self, x: Tensor, h: Tensor, c: Tensor) -> States:
        i, f, g, o = (x + self.hidden(h)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def _gru(self, x: Tensor, h: Tensor) -> Tensor:
        x_r, x_z, x_n = x.chunk(3, dim=-1)
        if self.candidate is None:
            h_r, h_z, h_n = self.hidden(h).chunk(3, dim=-1)
            new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        else:
            h_r, h_z = self.hidden(h).chunk(2, dim=-1)
            new = torch.tanh(x_n + self.candidate(torch.sigmoid(x_r + h_r) * h))
        z = torch.sigmoid(x_z + h_z)
        return (1 - z) * new + z * h


class Recurrence(nn.Module):
    """A cell run over all positions in one direction: (b, n, d) to (b, n, width)."""

    keys: nn.Linear | None

    def __init__(self, plan: RNN | LSTM | GRU, d: int, memory: int, options: Options, *, dropout: bool = True) -> None:
        super().__init__()
        self.plan, h, attends = plan, plan.hidden, plan.attends
        self.names = ("hidden", "cell") if isinstance(plan, LSTM) else ("hidden",)
        self.input = self.keys = None
        self.width = h
        if attends is None:
            self.input = nn.Linear(d, _GATES[plan.kind] * h, bias=plan.bias.input)
        else:
            self.keys = nn.Linear(memory, attends.width, bias=attends.bias)
            self.width = sum({"state": h, "previous": h, "input": d, "context": memory}[part]
                             for part in attends.readout)
        if plan.initial is not None:
            given = memory // 2 if plan.initial.of == "reverse" else memory
            for name in self.names:
                self.add_module(f"initial_{name}", nn.Linear(given, h, bias=plan.initial.bias))
        self.step = Step(plan, d, memory)
        self.dropout = dropout_or_nothing(options.dropout if dropout else 0.0)

    def forward(
        self, x: Tensor, cache: State | None = None, memory: Tensor | None = None, *, reverse: bool = False
    ) -> Tensor:
        """Reads a memory (b, m, w), or what was cached of it when it was first read; ``reverse`` begins at the end."""
        keys = None
        if self.keys is not None:
            memory, keys = self._read(memory, cache)
        states = cache.cells if cache is not None and cache.cells else self._initial(x, memory)
        inputs = x if self.input is None else self.input(x)
        order = range(x.shape[1])
        seen: dict[str, list[Tensor]] = {"state": [], "previous": [], "context": []}
        for i in reversed(order) if reverse else order:
            seen["previous"].append(states[0])
            states, context = self.step(inputs[:, i], states, memory, keys)
            seen["state"].append(states[0])
            seen["context"].append(context)
        if cache is not None:
            cache.cells = states
        return self.dropout(self._handed_on(x, seen, reverse))

    def _handed_on(self, x: Tensor, seen: dict[str, list[Tensor]], reverse: bool) -> Tensor:
        if self.plan.attends is None:
            return torch.stack(seen["state"][:: -1 if reverse else 1], dim=1)
        parts = [x if name == "input" else torch.stack(seen[name], dim=1) for name in self.plan.attends.readout]
        return torch.cat(parts, dim=-1)

    def _read(self, memory: Tensor | None, cache: State | None) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        if memory is None:
            if cache is None or not cache.source:
                raise ValueError("a cell that attends needs a source, or a cache that was filled from one")
            memory, keys = cache.source
            return memory, keys
        keys = self.keys(memory)
        if cache is not None:
            cache.source = memory, keys
        return memory, keys

    def _initial(self, x: Tensor, memory: Tensor | None) -> States:
        b, h, start = x.shape[0], self.plan.hidden, self.plan.initial
        if start is None:
            return tuple(x.new_zeros(b, h) for _ in self.names)
        assert memory is not None
        last = memory[:, 0, memory.shape[-1] // 2 :] if start.of == "reverse" else memory[:, -1]
        return tuple(torch.tanh(self.get_submodule(f"initial_{name}")(last)) for name in self.names)


class BothWays(nn.Module):
    """A cell from the beginning and another from the end: (b, n, d) to (b, n, 2 * hidden)."""

    def __init__(self, plan: RNN | LSTM | GRU, d: int, options: Options) -> None:
        super().__init__()
        self.width = 2 * plan.hidden
        self.directions = Repeated(lambda: Recurrence(plan, d, 0, options, dropout=False), 2)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None, memory: Tensor | None = None) -> Tensor:
        """Nothing is cached: what reads from the end has no next token."""
        outputs = [one(x, reverse=bool(i)) for i, one in enumerate(self.directions)]
        return self.dropout(torch.cat(outputs, dim=-1))
