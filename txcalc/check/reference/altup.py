"""Alternating updates (arXiv 2301.13310) with learned augmented residuals (arXiv 2411.07501), in the reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from txcalc.check.reference.layers import Normalization, Repeated
from txcalc.spec.layers import Norm
from txcalc.spec.projections import AltUp


class End(nn.Module):
    """Projections of the embeddings to further streams, or of these back, each as large as the first is."""

    def __init__(self, plan: AltUp, width: int) -> None:
        super().__init__()
        self.projections = Repeated(lambda: nn.Linear(width, width, bias=False), plan.streams - 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, n, count, d), or back."""
        opens = x.dim() == 3
        first, *others = [x] * (1 + len(self.projections)) if opens else (y.contiguous() for y in x.unbind(2))
        magnitude, made = first.pow(2).mean(-1, keepdim=True) ** 0.5, [first]
        for project, read in zip(self.projections, others, strict=True):
            y = project(read)
            own = torch.sqrt(y.pow(2).mean(-1, keepdim=True).clamp(min=1e-5))
            made.append(y * magnitude / own)
        streams = torch.stack(made, dim=2)
        return streams if opens else streams.mean(dim=2)


class Predictions(nn.Module):
    """Streams (b, n, count, d) as weights (b, n, count, count) of all of them predict them."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(b, n, count, d)."""
        return torch.matmul(x.transpose(2, 3), weights.transpose(2, 3)).transpose(2, 3) + x


class Alternating(nn.Module):
    """The parts of a layer beside its sublayers, which run on the first stream."""

    def __init__(self, plan: AltUp, norm: Norm, width: int) -> None:
        super().__init__()
        count, self.count = plan.streams, plan.streams
        self.router_norm, self.laurel_norm = Normalization(norm, width), Normalization(norm, width)
        self.router, self.correction = nn.Linear(width, count, bias=False), nn.Linear(count, count, bias=False)
        self.prediction, self.predictions = nn.Linear(count, count**2, bias=False), Predictions()
        self.output_scale = nn.Parameter(torch.ones(width))
        self.laurel_left = nn.Linear(width, plan.laurel_rank, bias=False)
        self.laurel_right = nn.Linear(plan.laurel_rank, width, bias=False)

    def _routed(self, x: Tensor) -> Tensor:
        return torch.tanh(self.router(self.router_norm(x) / x.shape[-1]))

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Streams (b, n, count, d) to predicted ones, or to those that what came of the first one corrects.

        Beside them the first one (b, n, d), scaled where they are corrected.
        """
        return self._predict(x) if y is None else self._correct(x, y)

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.prediction(self._routed(x[:, :, 0].contiguous()))
        made: Tensor = self.predictions(x, weights.unflatten(-1, (self.count, self.count)))
        return made, made[:, :, 0].contiguous()

    def _correct(self, predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.correction(self._routed(y)) + 1.0
        corrected = predicted + (y - predicted[:, :, 0]).unsqueeze(2) * weights.unsqueeze(-1)
        return corrected, corrected[:, :, 0].contiguous() * self.output_scale

    def laurel(self, h: Tensor, x: Tensor) -> Tensor:
        """The sum after attention (b, n, d), with a low-rank product of what it read."""
        return (x + h + self.laurel_norm(self.laurel_right(self.laurel_left(h)))) * 2**-0.5
