"""Linear recurrences of one number, or a few, for each channel; and mixes with the token before."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.attention import SelfAttention
from txcalc.check.reference.cache import State
from txcalc.check.reference.layers import Dense, Normalization, Options, activate, dropout_or_nothing
from txcalc.spec import layers, rnn
from txcalc.spec.model import Stack


class HeadLinear(nn.Module):
    """A linear layer of each head's own columns."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        own = width // heads
        self.weight = nn.Parameter(torch.randn(heads, own, own) * own**-0.5)
        self.bias = nn.Parameter(torch.zeros(heads, own))

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, width) to the same shape."""
        heads, own = self.bias.shape
        rows = x.reshape(-1, heads, own).transpose(0, 1)
        return torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight).transpose(0, 1).reshape(x.shape)


class GatedUnit(nn.Module):
    """Griffin's recurrent block (arXiv 2402.19427, section 2.4)."""

    def __init__(self, plan: rnn.RGLRU, d_model: int, options: Options) -> None:
        super().__init__()
        self.curve, self.width = plan.activation, d_model
        self.gate, self.in_proj = nn.Linear(d_model, plan.inner), nn.Linear(d_model, plan.inner)
        self.conv = nn.Conv1d(plan.inner, plan.inner, plan.conv, groups=plan.inner, padding=plan.conv - 1)
        self.input_gate, self.recurrence_gate = (HeadLinear(plan.inner, plan.heads) for _ in range(2))
        self.decay = nn.Parameter(torch.zeros(plan.inner))
        self.out_proj = nn.Linear(plan.inner, d_model)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        gate, u = activate(self.curve, self.gate(x)), self._convolved(self.in_proj(x), cache)
        wide = torch.promote_types(x.dtype, torch.float32)
        log_decay = -8.0 * torch.sigmoid(self.recurrence_gate(u)).to(wide) * F.softplus(self.decay.to(wide))
        scale = torch.sqrt(1 - torch.exp(2 * log_decay))
        state = None if cache is None else cache.state
        if state is None:  # the first token is not scaled
            scale = torch.cat((torch.ones_like(scale[:, :1]), scale[:, 1:]), dim=1)
            state = torch.zeros_like(scale[:, 0])
        inputs, out = (u * torch.sigmoid(self.input_gate(u))).to(wide) * scale, []
        for i in range(x.shape[1]):
            state = log_decay[:, i].exp() * state + inputs[:, i]
            out.append(state)
        if cache is not None:
            cache.state = state
        return self.dropout(self.out_proj(torch.stack(out, dim=1).to(x.dtype) * gate))

    def _convolved(self, x: Tensor, cache: State | None) -> Tensor:
        """Zeros stand before the first token and behind the last of a first call; later inputs follow cached ones."""
        inputs, n, before = x.transpose(1, 2), x.shape[1], self.conv.kernel_size[0] - 1
        old = None if cache is None else cache.inputs
        if cache is not None:
            known = F.pad(inputs[..., :0], (before, 0)) if old is None else old
            cache.inputs = torch.cat((known, inputs), dim=-1)[..., n:].clone()
        if old is None:
            return self.conv(inputs)[..., :n].transpose(1, 2)
        joined = torch.cat((old, inputs), dim=-1)
        return F.conv1d(joined, self.conv.weight, self.conv.bias, groups=x.shape[-1]).transpose(1, 2)


class Mixes(nn.Module):
    """For each name a mix, column by column, of a token's vector and the one before, which is zeros at first."""

    def __init__(self, names: tuple[str, ...], d_model: int) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.rand(d_model)))

    def forward(self, x: Tensor, cache: State | None) -> list[Tensor]:
        """(b, n, d) to as many of the same shape."""
        last = torch.zeros_like(x[:, :1]) if cache is None or cache.inputs is None else cache.inputs
        if cache is not None:
            cache.inputs = x[:, -1:].clone()
        before = torch.cat((last, x[:, :-1]), dim=1)
        return [x * mix + before * (1 - mix) for mix in self.parameters()]


class TimeMix(nn.Module):
    """RWKV's time mixing (arXiv 2305.13048, section 3.1.2): sums as their largest exponent and a rest."""

    def __init__(self, plan: rnn.WKV, d_model: int, options: Options) -> None:
        super().__init__()
        self.mix = Mixes(("key", "value", "receptance"), d_model)
        self.key, self.value, self.receptance = (nn.Linear(d_model, plan.inner, bias=False) for _ in range(3))
        self.time_decay, self.time_first = (nn.Parameter(torch.zeros(plan.inner)) for _ in range(2))
        self.output = nn.Linear(plan.inner, d_model, bias=False)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        mixed = zip((self.key, self.value, self.receptance), self.mix(x, cache), strict=True)
        k, v, r = (project(each) for project, each in mixed)
        k, v, decay, first = k.to(wide), v.to(wide), -self.time_decay.to(wide).exp(), self.time_first.to(wide)
        state = None if cache is None else cache.state
        zeros = torch.zeros_like(k[:, 0])
        over, under, most = (zeros, zeros, zeros - 1e38) if state is None else state.unbind(1)
        out = []
        for i in range(x.shape[1]):
            top = torch.maximum(most, k[:, i] + first)
            old, new = torch.exp(most - top), torch.exp(k[:, i] + first - top)
            out.append((old * over + new * v[:, i]) / (old * under + new))
            top = torch.maximum(most + decay, k[:, i])
            old, new = torch.exp(most + decay - top), torch.exp(k[:, i] - top)
            over, under, most = old * over + new * v[:, i], old * under + new, top
        if cache is not None:
            cache.state = torch.stack((over, under, most), dim=1)
        return self.dropout(self.output(torch.sigmoid(r) * torch.stack(out, dim=1).to(x.dtype)))


class MatrixMemory(nn.Module):
    """xLSTM's mLSTM (arXiv 2405.04517, section 2.3); gates are capped at 15 (arXiv 2503.13427, section 3.2)."""

    def __init__(self, plan: rnn.MLSTM, d_model: int, options: Options) -> None:
        super().__init__()
        self.heads, self.scale, keys = plan.heads, plan.key_dim**-0.5, plan.heads * plan.key_dim
        values = plan.heads * plan.value_dim
        self.q, self.k = (nn.Linear(d_model, keys, bias=plan.bias) for _ in range(2))
        self.v, self.gate = (nn.Linear(d_model, values, bias=plan.bias) for _ in range(2))
        self.rates = nn.Linear(d_model, 2 * plan.heads)
        self.norm = Normalization(layers.Norm(bias=plan.bias, eps=1e-6), plan.value_dim, plan.heads)
        self.out_proj = nn.Linear(values, d_model, bias=plan.bias)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)).to(wide) for project in (self.q, self.k, self.v))
        into, forget = (15 * torch.tanh(self.rates(x).to(wide) / 15)).chunk(2, dim=-1)
        (b, n, h, dk), dv = q.shape, v.shape[-1]
        zeros = q.new_zeros(b, h, dk * dv + dk + 1)
        matrix, vector, most = (zeros if cache is None or cache.state is None else cache.state).split(
            (dk * dv, dk, 1), dim=-1)
        matrix, keep, out = matrix.reshape(b * h, dk, dv), F.logsigmoid(forget), list[Tensor]()
        for i in range(n):
            q_i, k_i, v_i = (y[:, i].flatten(0, 1).unsqueeze(1) for y in (q * self.scale, k, v))
            top = torch.maximum(keep[:, i, :, None] + most, into[:, i, :, None])
            old, new = torch.exp(keep[:, i, :, None] + most - top), torch.exp(into[:, i, :, None] - top)
            matrix = old.view(-1, 1, 1) * matrix + new.view(-1, 1, 1) * torch.bmm(k_i.transpose(1, 2), v_i)
            vector, most = old * vector + new * k[:, i], top
            under = torch.bmm(q_i, vector.reshape(b * h, dk, 1)).abs()
            out.append(torch.bmm(q_i, matrix) / (torch.maximum(under, torch.exp(-top).view(-1, 1, 1)) + 1e-6))
        if cache is not None:
            cache.state = torch.cat((matrix.reshape(b, h, -1), vector, most), dim=-1)
        y = self.norm(torch.stack(out, dim=1).view(b, h, n, dv).transpose(1, 2).to(x.dtype)).flatten(2)
        return self.dropout(self.out_proj(y * torch.sigmoid(self.gate(x))))


class Streams(nn.Module):
    """Weights of residual streams, of the streams themselves: those of what is read, and perhaps of what is added."""

    def __init__(self, count: int, width: int, *, adds: bool) -> None:
        super().__init__()
        self.sets, self.columns = 1 + adds, count * width
        self.weights = nn.Linear(self.columns, self.sets * count, bias=False)
        self.scale = nn.Parameter(torch.full((self.sets, 1), 0.5))
        self.offset = nn.Parameter(torch.zeros(self.sets, count))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Streams (b, n, count, d) to (b, n, d), and the weights (b, n, count, 1) of a sublayer's output."""
        weights = self.weights(F.rms_norm(x.flatten(2), (self.columns,), eps=1e-5)).unflatten(-1, (self.sets, -1))
        read, *added = torch.sigmoid(weights * self.scale + self.offset).unbind(2)
        return ((read + 1e-6).unsqueeze(-1) * x).sum(dim=2), *((2 * each + 1e-6).unsqueeze(-1) for each in added)


class GatedStreams(nn.Module):
    """Normed streams, of which a gate of every column is read, through a bottleneck (Qwen4-Exp)."""

    def __init__(self, count: int, width: int, rank: int, *, adds: bool) -> None:
        super().__init__()
        self.count = count
        self.norm = Normalization(layers.Norm(kind="rmsnorm", bias=False), width, count)
        self.down, self.up = nn.Linear(count * width, rank, bias=False), nn.Linear(rank, count * width, bias=False)
        self.weights = nn.Linear(count * width, count, bias=False) if adds else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Streams (b, n, count, d) to (b, n, d), and the weights (b, n, count, 1) of a sublayer's output."""
        normed = self.norm(x)
        flat = normed.flatten(2)
        gates = torch.sigmoid(self.up(F.silu(self.down(flat) / self.count))).view_as(x)
        read = (gates * normed).mean(2)
        return (read,) if self.weights is None else (
            read, 2 * torch.sigmoid(self.weights(flat) / self.count).unsqueeze(-1))


def streams(stack: Stack, width: int, *, adds: bool) -> nn.Module | None:
    """Module that reads the residual streams and ``adds`` outputs to them; None without streams."""
    if stack.streams is None:
        return None
    if stack.mix_rank is not None:
        return GatedStreams(stack.streams, width, stack.mix_rank, adds=adds)
    if stack.sinkhorn is not None and adds:
        return BalancedStreams(stack.streams, width, stack.sinkhorn)
    return Streams(stack.streams, width, adds=adds)


class BalancedStreams(nn.Module):
    """The same, and weights by which streams mix, whose rows and columns are made to sum to one (arXiv 2512.24880)."""

    def __init__(self, count: int, width: int, steps: int) -> None:
        super().__init__()
        self.count, self.columns, self.steps = count, count * width, steps
        self.weights = nn.Linear(self.columns, (2 + count) * count, bias=False)
        self.scale = nn.Parameter(torch.full((3,), 0.5))
        self.offset = nn.Parameter(torch.zeros((2 + count) * count))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Streams (b, n, count, d) to (b, n, d), the weights of a sublayer's output, and the streams mixed."""
        sizes = (self.count, self.count, self.count**2)
        made = self.weights(F.rms_norm(x.flatten(2), (self.columns,), eps=1e-5)).split(sizes, dim=-1)
        read, added, mix = (w * s + o for w, s, o in zip(
            made, self.scale.unbind(), self.offset.split(sizes), strict=True))
        mix = F.softmax(mix.unflatten(-1, (self.count, self.count)), dim=-1) + 1e-6
        for i in range(2 * self.steps - 1):
            mix = mix / (mix.sum(-2 + i % 2, keepdim=True) + 1e-6)
        read = torch.sigmoid(read) + 1e-6
        return (read.unsqueeze(-1) * x).sum(2), 2 * torch.sigmoid(added).unsqueeze(-1), torch.matmul(mix.mT, x)


class NormGate(nn.Module):
    """A gate of what is normed, read through a bottleneck (A.X K2), or of how far a run lags (Voxtral Realtime)."""

    time: Tensor | None

    def __init__(self, width: int, rank: int, *, timed: bool) -> None:
        super().__init__()
        self.register_buffer("time", torch.ones(1, width) if timed else None, persistent=False)
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        if self.time is not None:
            return x * (1 + self.up(F.gelu(self.down(self.time))))
        return x * torch.sigmoid(self.up(F.silu(self.down(x))))


class ChannelMix(Dense):
    """RWKV's channel mixing: a feed-forward of a mix with the token before, gated by another one."""

    def __init__(self, plan: layers.Dense, d_model: int, options: Options) -> None:
        super().__init__(d_model, plan.d_ff, plan.activation, plan.gated, plan.bias, options.dropout, plan.inner_norm)
        self.mix = Mixes(("up", "receptance"), d_model)
        self.receptance = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        up, receptance = self.mix(x, cache)
        return torch.sigmoid(self.receptance(receptance)) * super().forward(up)


class Merging(nn.Module):
    """Squares of patches side by side, normed and projected (arXiv 2103.14030, section 3.1)."""

    def __init__(self, plan: rnn.PatchMerging, d_model: int, options: Options) -> None:
        super().__init__()
        self.plan, self.width, merged = plan, d_model if plan.skipped else plan.width, d_model * plan.merge**2
        self.attention_norm = self.attention = None
        if plan.heads is not None:
            own = layers.Attention(heads=plan.heads, head_dim=d_model // plan.heads, image_window=plan.merge,
                                   bias=layers.AttentionBias(q=True, k=True, v=True, o=True))
            self.attention_norm = nn.LayerNorm(d_model)
            self.attention = SelfAttention(own, d_model, options, mask=None, plain_causal=False, rotary=None,
                                           relative_bias=None, shared=None)
        self.norm = nn.LayerNorm(merged) if plan.norm else nn.Identity()
        self.up = nn.Identity() if plan.d_ff is None else nn.Linear(merged, plan.d_ff, bias=plan.bias)
        self.out_proj = nn.Linear(plan.d_ff or merged, plan.width, bias=plan.bias)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: object = None) -> Tensor:
        """(b, n, d) to (b, n / merge^2, width)."""
        if self.plan.skipped:
            return self.dropout(x)
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.attention(self.attention_norm(x), None, 0, None)
        side, m = math.isqrt(x.shape[1]), self.plan.merge
        squares = x.reshape(x.shape[0], side // m, m, side // m, m, -1).transpose(2, 3).flatten(3).flatten(1, 2)
        y = self.up(self.norm(squares))
        y = self.out_proj(y if self.plan.d_ff is None else activate(self.plan.activation, y))
        y = y + squares.unflatten(2, (m**2, -1)).mean(dim=2) if self.plan.mean else y
        return self.dropout(y)
