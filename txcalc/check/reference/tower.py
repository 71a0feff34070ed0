"""A second stack beside the main one in the reference: images for a contrastive head, or for the main stack."""

from __future__ import annotations

import math

from torch import Tensor, nn

from txcalc.check.reference.heads import build_pooler
from txcalc.check.reference.inputs import Reader
from txcalc.check.reference.layers import Normalization, Options
from txcalc.check.reference.stack import StackModules
from txcalc.spec.inputs import PatchInput
from txcalc.spec.inputs import Projector as ProjectorSpec
from txcalc.spec.model import Model, Tower


class Projector(nn.Module):
    """Squares of neighbouring patches averaged, then a norm, then a projection to the main stack's width."""

    def __init__(self, projector: ProjectorSpec, width: int, d_model: int, class_tokens: int) -> None:
        super().__init__()
        self.tokens, self.class_tokens = projector.tokens, class_tokens
        self.norm = nn.Identity() if projector.norm is None else Normalization(projector.norm, width)
        self.dense = nn.Linear(width, d_model, bias=projector.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(images, positions, width) to (images, tokens, d)."""
        x = hidden[:, self.class_tokens :]
        side, squares = math.isqrt(x.shape[1]), math.isqrt(self.tokens)
        if side != squares:
            each = side // squares
            if squares**2 != self.tokens or squares * each != side:
                raise ValueError(f"{side} x {side} patches cannot be averaged in squares down to {self.tokens}")
            x = x.reshape(-1, squares, each, squares, each, x.shape[-1]).mean(dim=(2, 4)).flatten(1, 2)
        y: Tensor = self.dense(self.norm(x))
        return y


class TowerModules(StackModules, Reader):
    """The tower with its own input, and what makes of its positions a vector or positions of the main stack."""

    projector: Projector | None

    def __init__(self, model: Model, tower: Tower, options: Options) -> None:
        super().__init__(model, tower, options, causal=tower.causal_mask, d_model=tower.d_model)
        self.input, width = tower.input, tower.d_model
        self.add_reader(tower.input, width)
        extra = tower.input.class_tokens if isinstance(tower.input, PatchInput) else 0
        self.pooler = build_pooler(tower.pooler, tower.norm, width, extra, options)
        self.projector = None
        if tower.projector is not None:
            self.projector = Projector(tower.projector, width, model.d_model, extra)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels to (images, width) for a contrastive head, or (images, tokens, d) for the main stack."""
        hidden = self.run(self.read(self.input, images), None, None, None)
        if self.projector is not None:
            seen: Tensor = self.projector(hidden)
            return seen
        return hidden[:, 0] if self.pooler is None else self.pooler(hidden)
