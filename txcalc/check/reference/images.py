"""Layers over both sides of an image in the reference: convolutions, reduced keys, windows with a border, distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.layers import Options, activate, dropout_or_nothing
from txcalc.spec.rnn import GlobalAttention as Additive
from txcalc.spec.rnn import ImageConvolution
from txcalc.spec.rnn import ImageConvolutions as Plan


def over_image(x: Tensor) -> Tensor:
    """(b, n, d) positions to (b, d, side, side)."""
    side = math.isqrt(x.shape[1])
    return x.transpose(1, 2).unflatten(2, (side, side))


class OneConvolution(nn.Module):
    """A convolution over both sides, its norm and its activation."""

    def __init__(self, plan: ImageConvolution, channels: int) -> None:
        super().__init__()
        self.activation = plan.activation
        self.conv = nn.Conv2d(channels, plan.channels, plan.kernel, plan.stride, groups=plan.groups, bias=plan.bias,
                              padding=plan.kernel // 2 if plan.kernel % 2 else 0)
        self.batch = plan.norm == "batchnorm"
        self.norm = nn.BatchNorm1d(plan.channels) if self.batch else (
            nn.LayerNorm(plan.channels) if plan.norm else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, m, channels)."""
        y: Tensor = self.conv(over_image(x)).flatten(2)
        y = self.norm(y).transpose(1, 2) if self.batch else self.norm(y.transpose(1, 2))
        return y if self.activation is None else activate(self.activation, y)


class ImageConvolutions(nn.Module):
    """Convolutions one after the other, and a table of positions."""

    positions: nn.Parameter | None
    class_tokens: nn.Parameter | None

    def __init__(self, plan: Plan, d_model: int, side: int, options: Options) -> None:
        super().__init__()
        self.width = plan.layers[-1].channels if plan.layers else d_model
        self.first = nn.BatchNorm1d(d_model) if plan.norm else None
        self.activation = plan.activation
        before = (d_model, *(layer.channels for layer in plan.layers))
        self.layers = nn.ModuleList(map(OneConvolution, plan.layers, before))
        count, rows = plan.class_tokens, plan.side(side) ** 2 + plan.class_tokens
        self.class_tokens = nn.Parameter(torch.randn(count, self.width) * 0.02) if count else None
        self.positions = nn.Parameter(torch.randn(rows, self.width) * 0.02) if plan.positions else None
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: object = None) -> Tensor:
        """(b, n, d) to (b, as many as strides leave, channels)."""
        if self.first is not None:
            x = self.first(x.transpose(1, 2)).transpose(1, 2)
            x = x if self.activation is None else activate(self.activation, x)
        for layer in self.layers:
            x = layer(x)
        if self.class_tokens is not None:
            x = torch.cat((self.class_tokens.expand(len(x), -1, -1), x), dim=1)
        out: Tensor = self.dropout(x if self.positions is None else x + self.positions)
        return out


class GlobalAttention(nn.Module):
    """One sum of all positions, weighted by a score of each, times each of them (arXiv 2303.15446, 2206.02680)."""

    def __init__(self, plan: Additive, d_model: int, options: Options) -> None:
        super().__init__()
        self.width = d_model
        if plan.separable:
            self.qkv = nn.Linear(d_model, 1 + 2 * d_model)
        else:
            self.q, self.k, self.projection = (nn.Linear(d_model, d_model) for _ in range(3))
            self.scores = nn.Linear(d_model, 1, bias=False)
        self.separable, self.out_proj = plan.separable, nn.Linear(d_model, d_model)
        self.dropout = dropout_or_nothing(options.dropout)

    def forward(self, x: Tensor, cache: object = None) -> Tensor:
        """(b, n, d) to (b, n, d)."""
        if self.separable:
            scores, k, v = self.qkv(x).split((1, x.shape[-1], x.shape[-1]), dim=-1)
            y = F.relu(v) * (scores.softmax(1) * k).sum(1, keepdim=True)
        else:
            x = x.transpose(1, 2).contiguous().transpose(1, 2).contiguous()  # rows of an image, channels first
            q, k = F.normalize(self.q(x), dim=-1), F.normalize(self.k(x), dim=-1)
            weights = (self.scores(q) * x.shape[-1] ** -0.5).softmax(1)
            y = self.projection((weights * q).sum(1, keepdim=True) * k) + q
        out: Tensor = self.dropout(self.out_proj(y))
        return out


class Reduction(nn.Module):
    """The source of keys and values: a convolution as wide as its stride, normed (PVT, arXiv 2102.12122, 3.3)."""

    def __init__(self, stride: int, d_model: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(d_model, d_model, stride, stride), nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, n / stride^2, d)."""
        y: Tensor = self.norm(self.conv(over_image(x)).flatten(2).transpose(1, 2))
        return y


class ConvolvedSource(nn.Module):
    """Depthwise convolution, normed, before queries, keys or values are projected (CvT, arXiv 2103.15808, 3.2)."""

    def __init__(self, kernel: int, stride: int, d_model: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(d_model, d_model, kernel, stride, kernel // 2, groups=d_model, bias=False)
        self.norm = nn.BatchNorm1d(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, as many as the stride leaves, d), behind class tokens as they are."""
        count = x.shape[1] - math.isqrt(x.shape[1]) ** 2
        first, rest = x[:, :count], x[:, count:]
        y: Tensor = self.norm(self.conv(over_image(rest)).flatten(2)).transpose(1, 2)
        return torch.cat((first, y), dim=1) if count else y


class SideDistances(nn.Module):
    """Vectors of the distances along either side, which every query meets (MViTv2, arXiv 2112.01526, equation 4)."""

    index: Tensor

    def __init__(self, side: int, head_dim: int) -> None:
        super().__init__()
        self.rows, self.columns = (nn.Parameter(torch.randn(2 * side - 1, head_dim) * 0.02) for _ in range(2))
        at = torch.arange(side)
        self.register_buffer("index", at[:, None] - at + side - 1, persistent=False)

    def forward(self, q: Tensor) -> Tensor:
        """Queries (b, heads, n, head_dim) to a bias (b, heads, n, n)."""
        b, h, _, d = q.shape
        side = len(self.index)
        by_row = q.unflatten(2, (side, side)).permute(2, 0, 1, 3, 4).reshape(side, -1, d)
        by_column = q.unflatten(2, (side, side)).permute(3, 0, 1, 2, 4).reshape(side, -1, d)
        rows = (by_row @ self.rows[self.index].transpose(1, 2)).view(side, b, h, side, side).permute(1, 2, 0, 3, 4)
        columns = (by_column @ self.columns[self.index].transpose(1, 2)).view(side, b, h, side, side).permute(
            1, 2, 3, 0, 4)
        return (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(4).flatten(2, 3)


def windows(x: Tensor, window: int) -> Tensor:
    """(b, n, d) to the positions of every window, zeros behind an image that is no whole number of them."""
    side = math.isqrt(x.shape[1])
    x = x.unflatten(1, (side, side))
    x = F.pad(x, (0, 0, 0, -side % window, 0, -side % window))
    count = x.shape[1] // window
    x = x.unflatten(2, (count, window)).unflatten(1, (count, window)).transpose(2, 3)
    return x.flatten(3, 4).flatten(0, 2)


def inside(y: Tensor, n: int, window: int) -> Tensor:
    """The positions of windows as those of (b, n, d) images, without their border."""
    side = math.isqrt(n)
    count = -(-side // window)
    y = y.unflatten(1, (window, window)).unflatten(0, (-1, count, count)).transpose(2, 3)
    return y.flatten(3, 4).flatten(1, 2)[:, :side, :side].flatten(1, 2)


class ContinuousBias(nn.Module):
    """Cosines, their scales, and biases that two layers make of the distances in a window (arXiv 2111.09883)."""

    distances: Tensor
    index: Tensor

    def __init__(self, hidden: int, side: int, heads: int) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.up, self.down = nn.Linear(2, hidden), nn.Linear(hidden, heads, bias=False)
        along, most = torch.arange(1 - side, side), max(side - 1, 1)
        apart = torch.stack(torch.meshgrid(along, along, indexing="ij"), -1).flatten(0, 1) * (8 / most)
        dtype = torch.get_default_dtype()
        self.register_buffer("distances", (apart.sign() * (apart.abs() + 1).log2() / 3).to(dtype), persistent=False)
        at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
        rows, columns = at[:, :, None] - at[:, None, :] + side - 1
        self.register_buffer("index", rows * (2 * side - 1) + columns, persistent=False)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (b, heads, n, head_dim), and a bias (heads, n, n)."""
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        bias = self.down(F.relu(self.up(self.distances)))[self.index].permute(2, 0, 1)
        return q * self.logit_scale.clamp(max=math.log(100.0)).exp(), k, 16 * torch.sigmoid(bias)
