"""Recurrent layers in the reference, one token after another: what they compute and carry, not how fast kernels do it.

The products are ``torch.bmm``, so that their FLOPs can be read; a kernel that works on chunks of tokens computes the
same function with more of them. What autograd keeps here is this loop's own and is compared with nothing. Cells and
convolutions, which are compared, are in ``cells``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.cache import State
from txcalc.check.reference.cells import BothWays, Convolution1D, Recurrence
from txcalc.check.reference.images import GlobalAttention, ImageConvolutions
from txcalc.check.reference.layers import Normalization, Options, dropout_or_nothing
from txcalc.check.reference.mixes import GatedUnit, MatrixMemory, Merging, TimeMix
from txcalc.spec import rnn
from txcalc.spec.layers import (
    GatedDelta,
    KimiDelta,
    LightningAttention,
    Mamba2,
    Norm,
    Recurrent,
    ShortConvolution,
)


class CausalConv(nn.Conv1d):
    """A depthwise convolution over the last ``width`` tokens: (b, n, channels) to the same shape."""

    def __init__(self, channels: int, width: int, bias: bool) -> None:
        super().__init__(channels, channels, width, groups=channels, bias=bias, padding=width - 1)
        self.width = width

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """The cache holds the last ``width`` inputs, zeros before the first token.

        Zeros stand on both sides, as ``transformers`` has it; a single token after cached inputs needs none.
        """
        inputs, n = x.transpose(1, 2), x.shape[1]
        first = cache is None or cache.inputs is None
        if cache is not None:
            before = F.pad(inputs[..., :0], (self.width, 0)) if cache.inputs is None else cache.inputs
            joined = torch.cat((before, inputs), dim=-1)
            cache.inputs = joined[..., -self.width :].clone()
            inputs = inputs if first else joined
        if n == 1 and not first:
            return F.conv1d(inputs, self.weight, self.bias, groups=self.groups)[..., -n:].transpose(1, 2)
        past = inputs.shape[-1] - n
        return super().forward(inputs)[..., past : past + n].transpose(1, 2)


class ImageConv(nn.Conv2d):
    """A depthwise convolution along both sides of a square image: (b, n, channels) to the same shape."""

    def __init__(self, channels: int, width: int, bias: bool) -> None:
        super().__init__(channels, channels, width, groups=channels, bias=bias, padding=width // 2)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """As the causal one's: nothing is cached."""
        side = math.isqrt(x.shape[1])
        return super().forward(x.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)


class GroupedNorm(nn.Module):
    """RMSNorm over each of ``groups`` equal parts of the last axis, with a weight for every feature."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups, self.weight = groups, nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        parts = x.unflatten(-1, (self.groups, -1))
        return F.rms_norm(parts, parts.shape[-1:], eps=1e-5).flatten(-2) * self.weight


class DeltaRule(nn.Module):
    """A gated delta-rule layer (Gated DeltaNet, arXiv 2412.06464): every head holds a state of (key_dim, value_dim)."""

    def __init__(self, plan: GatedDelta, d_model: int, options: Options) -> None:
        super().__init__()
        self.plan = plan
        self.keys, self.values = plan.key_heads * plan.key_dim, plan.value_heads * plan.value_dim
        self.in_proj = nn.Linear(d_model, 2 * self.keys + 2 * self.values, bias=False)
        self.rates = nn.Linear(d_model, 2 * plan.value_heads, bias=False)
        self.conv = CausalConv(2 * self.keys + self.values, plan.conv, bias=False)
        self.dt_bias = nn.Parameter(torch.ones(plan.value_heads))
        self.a_log = nn.Parameter(torch.zeros(plan.value_heads))
        self.norm = Normalization(Norm(kind="rmsnorm", eps=1e-6), plan.value_dim)
        self.out_proj = nn.Linear(self.values, d_model, bias=False)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        plan, keys, values = self.plan, self.keys, self.values
        mixed, z = self.in_proj(x).split((2 * keys + values, values), dim=-1)
        q, k, v = F.silu(self.conv(mixed, cache)).split((keys, keys, values), dim=-1)
        strength, decay = self.rates(x).chunk(2, dim=-1)
        wide = torch.promote_types(x.dtype, torch.float32)
        beta = torch.sigmoid(strength).to(wide)
        g = -self.a_log.to(wide).exp() * F.softplus(decay.to(wide) + self.dt_bias)
        group = plan.value_heads // plan.key_heads
        q, k = (_unit(y.unflatten(-1, (plan.key_heads, -1)).to(wide)).repeat_interleave(group, dim=2) for y in (q, k))
        v = v.unflatten(-1, (plan.value_heads, -1))
        out = _delta_rule(q * plan.key_dim**-0.5, k, v.to(wide), beta, g.exp().unsqueeze(-1), cache).to(x.dtype)
        gated = self.norm(out) * F.silu(z.unflatten(-1, (plan.value_heads, -1)))
        return self.dropout(self.out_proj(gated.flatten(2)))


def _delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, cache: State | None) -> Tensor:
    """Q and K (b, n, h, dk), V (b, n, h, dv), beta (b, n, h), decay (b, n, h, 1 or dk) to (b, n, h, dv)."""
    b, n, h, dk = q.shape
    state = q.new_zeros(b, h, dk, v.shape[-1]) if cache is None or cache.state is None else cache.state
    state, out = state.flatten(0, 1), []
    for i in range(n):
        q_i, k_i, v_i = (y[:, i].flatten(0, 1).unsqueeze(1) for y in (q, k, v))
        state = state * decay[:, i].flatten(0, 1).unsqueeze(2)
        known = torch.bmm(k_i, state)
        state = state + torch.bmm(k_i.transpose(1, 2), (v_i - known) * beta[:, i].flatten()[:, None, None])
        out.append(torch.bmm(q_i, state))
    if cache is not None:
        cache.state = state.unflatten(0, (b, h))
    return torch.cat(out, dim=1).unflatten(0, (b, h)).transpose(1, 2)


class ChannelDeltaRule(nn.Module):
    """A delta rule with a decay for every channel of a key (Kimi Linear, arXiv 2510.26692)."""

    def __init__(self, plan: KimiDelta, d_model: int, options: Options) -> None:
        super().__init__()
        self.plan, width = plan, plan.heads * plan.head_dim
        self.in_proj = nn.Linear(d_model, 3 * width, bias=False)
        self.strength = nn.Linear(d_model, plan.heads, bias=False)
        for name in ("decay", "gate"):
            if not plan.bottleneck:
                self.add_module(name, nn.Linear(d_model, width, bias=False))
                continue
            self.add_module(f"{name}_down", nn.Linear(d_model, plan.head_dim, bias=False))
            self.add_module(f"{name}_up", nn.Linear(plan.head_dim, width, bias=False))
        self.conv = CausalConv(3 * width, plan.conv, bias=False)
        self.dt_bias, self.a_log = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(plan.heads))
        self.norm = Normalization(Norm(kind="rmsnorm", eps=1e-6), plan.head_dim)
        self.out_proj = nn.Linear(width, d_model, bias=False)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        plan = self.plan
        wide = torch.promote_types(x.dtype, torch.float32)
        mixed = F.silu(self.conv(self.in_proj(x), cache)).to(wide)
        q, k, v = (y.unflatten(-1, (plan.heads, -1)) for y in mixed.chunk(3, dim=-1))
        rate = F.softplus(self._wide("decay", x).to(wide) + self.dt_bias).unflatten(-1, (plan.heads, -1))
        decay = torch.exp(-self.a_log.to(wide).exp()[:, None] * rate)
        beta = torch.sigmoid(self.strength(x)).to(wide)
        out = _delta_rule(_unit(q) * plan.head_dim**-0.5, _unit(k), v, beta, decay, cache).to(x.dtype)
        gate = torch.sigmoid(self._wide("gate", x))
        return self.dropout(self.out_proj(self.norm(out).flatten(2) * gate))

    def _wide(self, name: str, x: Tensor) -> Tensor:
        for each in (f"{name}_down", f"{name}_up") if self.plan.bottleneck else (name,):
            x = getattr(self, each)(x)
        return x


class StateSpace(nn.Module):
    """A state-space layer with one decay per head (Mamba-2, arXiv 2405.21060): states of (state, head_dim)."""

    def __init__(self, plan: Mamba2, d_model: int, options: Options) -> None:
        super().__init__()
        self.plan, self.inner, self.shared = plan, plan.heads * plan.head_dim, plan.groups * plan.state
        self.in_proj = nn.Linear(d_model, 2 * self.inner + 2 * self.shared + plan.heads, bias=plan.bias)
        self.conv = CausalConv(self.inner + 2 * self.shared, plan.conv, bias=plan.conv_bias)
        self.dt_bias = nn.Parameter(torch.ones(plan.heads))
        self.a_log = nn.Parameter(torch.arange(1, plan.heads + 1, dtype=torch.get_default_dtype()).log())
        self.skip = nn.Parameter(torch.ones(plan.heads))
        self.norm = GroupedNorm(self.inner, plan.groups) if plan.norm else nn.Identity()
        self.out_proj = nn.Linear(self.inner, d_model, bias=plan.bias)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        plan, inner, shared = self.plan, self.inner, self.shared
        z, mixed, dt = self.in_proj(x).split((inner, inner + 2 * shared, plan.heads), dim=-1)
        u, write, read = F.silu(self.conv(mixed, cache)).split((inner, shared, shared), dim=-1)
        wide = torch.promote_types(x.dtype, torch.float32)
        dt = F.softplus(dt.to(wide) + self.dt_bias)
        decay = torch.exp(-self.a_log.to(wide).exp() * dt)
        u = u.unflatten(-1, (plan.heads, -1)).to(wide)
        write, read = (
            y.unflatten(-1, (plan.groups, -1)).to(wide).repeat_interleave(plan.heads // plan.groups, dim=2)
            for y in (write, read)
        )
        out = self._recurrence(u * dt.unsqueeze(-1), write, read, decay, cache) + u * self.skip[:, None]
        return self.dropout(self.out_proj(self.norm(out.flatten(2).to(x.dtype) * F.silu(z))))

    def _recurrence(self, u: Tensor, write: Tensor, read: Tensor, decay: Tensor, cache: State | None) -> Tensor:
        """U (b, n, h, hd), B and C (b, n, h, state), decay (b, n, h) to (b, n, h, hd)."""
        b, n, h, hd = u.shape
        state = u.new_zeros(b, h, write.shape[-1], hd) if cache is None or cache.state is None else cache.state
        state, out = state.flatten(0, 1), []
        for i in range(n):
            u_i, write_i, read_i = (y[:, i].flatten(0, 1).unsqueeze(1) for y in (u, write, read))
            state = state * decay[:, i].flatten()[:, None, None] + torch.bmm(write_i.transpose(1, 2), u_i)
            out.append(torch.bmm(read_i, state))
        if cache is not None:
            cache.state = state.unflatten(0, (b, h))
        return torch.cat(out, dim=1).unflatten(0, (b, h)).transpose(1, 2)


class HeadProjection(nn.Module):
    """A linear layer of each head's own columns, to as many columns for each."""

    def __init__(self, heads: int, width: int, made: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(heads, made, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(heads, made)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, heads * width) to (b, n, heads * made)."""
        rows = x.reshape(-1, len(self.weight), self.weight.shape[-1]).transpose(0, 1)
        y = torch.bmm(rows, self.weight.transpose(1, 2))
        y = y if self.bias is None else y + self.bias.unsqueeze(1)
        return y.transpose(0, 1).reshape(*x.shape[:2], -1)


class SelectiveScan(nn.Module):
    """A selective state-space layer (Mamba, arXiv 2312.00752): every channel has ``state`` decays of its own."""

    def __init__(self, plan: rnn.Mamba, d_model: int, options: Options) -> None:
        super().__init__()
        self.plan, inner, state = plan, plan.inner, plan.state
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=plan.bias)
        self.conv = CausalConv(inner, plan.conv, bias=plan.conv_bias)
        made = plan.rank + 2 * state
        self.x_proj: nn.Module = nn.Linear(inner, made, bias=False) if plan.heads == 1 else HeadProjection(
            plan.heads, inner // plan.heads, made, bias=False)
        self.dt_norm, self.b_norm, self.c_norm = (
            Normalization(Norm(kind="rmsnorm", scale=plan.norm_scale, eps=1e-6), width) if plan.norms else nn.Identity()
            for width in (plan.rank, state, state)
        )
        self.dt_proj: nn.Module = nn.Linear(plan.rank, inner) if plan.heads == 1 else HeadProjection(
            plan.heads, plan.rank, inner // plan.heads, bias=True)
        self.a_log = nn.Parameter(torch.arange(1, state + 1, dtype=torch.get_default_dtype()).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=plan.bias)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u = F.silu(self.conv(u, cache))
        dt, write, read = self._own(self.x_proj(u)).split((self.plan.rank, self.plan.state, self.plan.state), dim=-1)
        dt = dt.flatten(2)
        wide = torch.promote_types(x.dtype, torch.float32)
        dt = F.softplus(self.dt_proj(self.dt_norm(dt)).to(wide))
        decay = torch.exp(-self.a_log.to(wide).exp() * dt.unsqueeze(-1))
        write, read, u = self.b_norm(write).to(wide), self.c_norm(read).to(wide), u.to(wide)
        state = u.new_zeros(*u[:, 0].shape, self.plan.state) if cache is None or cache.state is None else cache.state
        out, heads = [], (-1, u.shape[-1] // self.plan.heads)
        for i in range(x.shape[1]):
            change = torch.bmm((u * dt)[:, i].reshape(*heads, 1), write[:, i].reshape(-1, 1, self.plan.state))
            state = state * decay[:, i] + change.view(state.shape)
            made = torch.bmm(state.view(*heads, self.plan.state), read[:, i].reshape(-1, self.plan.state, 1))
            out.append(made.view(u[:, i].shape))
        if cache is not None:
            cache.state = state
        y = torch.stack(out, dim=1) + u * self.skip
        return self.dropout(self.out_proj(y.to(x.dtype) * F.silu(z)))

    def _own(self, x: Tensor) -> Tensor:
        """Each head's columns apart, (b, n, heads, made), where there are several."""
        return x if self.plan.heads == 1 else x.unflatten(-1, (self.plan.heads, -1))


class Lightning(nn.Module):
    """Linear attention with a fixed decay per head (MiniMax-01, arXiv 2501.08313): states of (head_dim, head_dim).

    The decay is ALiBi's slope for the head; MiniMax makes it smaller from layer to layer, which is a constant too.
    """

    slopes: Tensor

    def __init__(self, plan: LightningAttention, d_model: int, options: Options) -> None:
        super().__init__()
        self.heads, width = plan.heads, plan.heads * plan.head_dim
        self.qkv = nn.Linear(d_model, 3 * width, bias=False)
        self.norm = Normalization(Norm(kind="rmsnorm", eps=1e-6), width)
        self.gate = nn.Linear(d_model, width, bias=False)
        self.out_proj = nn.Linear(width, d_model, bias=False)
        self.dropout = dropout_or_nothing(options.dropout)
        slopes = 2.0 ** (-8 * torch.arange(1, plan.heads + 1) / plan.heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        (b, n, _), h = x.shape, self.heads
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k, v = F.silu(self.qkv(x)).to(wide).view(b, n, h, -1).transpose(1, 2).flatten(0, 1).chunk(3, dim=-1)
        state = q.new_zeros(b, h, q.shape[-1], q.shape[-1]) if cache is None or cache.state is None else cache.state
        state, decay, out = state.flatten(0, 1), torch.exp(-self.slopes.to(wide)).repeat(b)[:, None, None], []
        for i in range(n):
            state = state * decay + torch.bmm(k[:, i].unsqueeze(2), v[:, i].unsqueeze(1))
            out.append(torch.bmm(q[:, i].unsqueeze(1), state))
        if cache is not None:
            cache.state = state.unflatten(0, (b, h))
        y = torch.cat(out, dim=1).unflatten(0, (b, h)).transpose(1, 2).flatten(2)
        return self.dropout(self.out_proj(self.norm(y.to(x.dtype)) * torch.sigmoid(self.gate(x))))


class GatedConvolution(nn.Module):
    """A short causal convolution of every channel between two gates (LFM2)."""

    def __init__(self, plan: ShortConvolution, d_model: int, options: Options) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=plan.bias)
        self.conv = ImageConv(d_model, plan.conv, bias=plan.bias) if plan.image else CausalConv(
            d_model, plan.conv, bias=plan.bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=plan.bias)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        before, after, inputs = self.in_proj(x).chunk(3, dim=-1)
        return self.dropout(self.out_proj(after * self.conv(before * inputs, cache)))


class Fourier(nn.Module):
    """The real part of a transform over positions and columns (FNet, arXiv 2105.03824)."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: State | None = None) -> Tensor:
        """(b, n, d) to (b, n, d). PyTorch transforms nothing in bf16."""
        wide = x.float() if x.dtype is torch.bfloat16 else x
        return self.dropout(torch.fft.fftn(wide, dim=(1, 2)).real.to(x.dtype))


AnyRecurrence = (
    DeltaRule | ChannelDeltaRule | StateSpace | SelectiveScan | Lightning | GatedConvolution | Fourier
    | Recurrence | BothWays | Convolution1D | GatedUnit | TimeMix | Merging | MatrixMemory | ImageConvolutions
    | GlobalAttention
)


def build_recurrence(
    plan: Recurrent, d_model: int, options: Options, *, causal: bool, memory: int | None, side: int = 0
) -> AnyRecurrence:
    """The recurrent layer that ``plan`` describes, on inputs of ``d_model`` and an encoder's output of ``memory``.

    ``side``: positions along an image.
    """
    match plan:
        case rnn.Convolution1D():
            return Convolution1D(plan, d_model, options, causal=causal)
        case rnn.RNN() | rnn.LSTM() | rnn.GRU():
            both = plan.bidirectional
            return BothWays(plan, d_model, options) if both else Recurrence(plan, d_model, memory or 0, options)
        case GatedDelta():
            return DeltaRule(plan, d_model, options)
        case Mamba2():
            return StateSpace(plan, d_model, options)
        case rnn.Mamba():
            return SelectiveScan(plan, d_model, options)
        case KimiDelta():
            return ChannelDeltaRule(plan, d_model, options)
        case ShortConvolution():
            return GatedConvolution(plan, d_model, options)
        case rnn.FourierMixing():
            return Fourier(options)
        case rnn.RGLRU():
            return GatedUnit(plan, d_model, options)
        case rnn.MLSTM():
            return MatrixMemory(plan, d_model, options)
        case rnn.WKV():
            return TimeMix(plan, d_model, options)
        case rnn.PatchMerging():
            return Merging(plan, d_model, options)
        case rnn.GlobalAttention():
            return GlobalAttention(plan, d_model, options)
        case rnn.ImageConvolutions():
            return ImageConvolutions(plan, d_model, side, options)
        case LightningAttention():
            return Lightning(plan, d_model, options)


def _unit(x: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + 1e-6)
