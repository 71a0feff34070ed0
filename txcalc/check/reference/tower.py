"""A second stack beside the main one in the reference: images for a contrastive head, or for the main stack."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.check.reference.beside import InstructionWeights
from txcalc.check.reference.heads import build_pooler
from txcalc.check.reference.inputs import Reader
from txcalc.check.reference.layers import Normalization, Options, activate
from txcalc.check.reference.stack import StackModules
from txcalc.spec.facts import located_blocks, unpatched
from txcalc.spec.inputs import PatchInput
from txcalc.spec.inputs import Projector as ProjectorSpec
from txcalc.spec.inputs import ProjectorLayer as ProjectorLayerSpec
from txcalc.spec.layers import Dense
from txcalc.spec.model import Model, SideTower, Tower
from txcalc.spec.model import Resampler as ResamplerSpec


class ProjectorLayer(nn.Module):
    """A projection, its norm and its activation, if any, with or without a gate."""

    def __init__(self, layer: ProjectorLayerSpec, width: int) -> None:
        super().__init__()
        self.activation = layer.activation
        self.dense = nn.Linear(width, layer.width, bias=layer.bias)
        self.gate = nn.Linear(width, layer.width, bias=layer.bias) if layer.gated else None
        self.norm = nn.Identity() if layer.norm is None else Normalization(layer.norm, layer.width)
        self.softmax, self.padding = nn.Softmax(-1) if layer.softmax else nn.Identity(), layer.padding

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., the layer's width), and its zeros."""
        y: Tensor = self.softmax(self.norm(self.dense(x)))
        y = F.pad(y, (0, self.padding)) if self.padding else y
        if self.activation is None:
            return y
        return activate(self.activation, y) if self.gate is None else activate(self.activation, self.gate(x)) * y


class Resampler(StackModules):
    """Learned queries that read a memory of ``width`` columns in layers with cross-attention."""

    def __init__(self, model: Model, resampler: ResamplerSpec, options: Options, width: int) -> None:
        super().__init__(model, resampler, options, causal=False, d_model=resampler.d_model, memory=width)
        plan, feed = resampler.input.instruction, located_blocks(resampler)[0][1].feed_forward
        self.instruction = None if plan is None or not isinstance(feed, Dense) else InstructionWeights(
            plan, resampler, feed)
        self.queries = nn.Parameter(torch.randn(resampler.input.length, resampler.d_model) * 0.02)

    def forward(self, memory: Tensor) -> Tensor:
        """(b, n, width) to (b, queries, d)."""
        return self.run(self.queries.expand(memory.shape[0], -1, -1), None, memory, None)


class Projector(nn.Module):
    """Neighbouring positions averaged or side by side, a norm, projections to the main stack's width.

    ``flat``: these are a sound's, in a row.
    """

    def __init__(
        self, projector: ProjectorSpec, width: int, d_model: int, unpatched: int, *, flat: bool = False,
        resampler: Callable[[int], Resampler] | None = None,
    ) -> None:
        super().__init__()
        self.flat = flat
        self.tokens, self.merge, self.average = projector.tokens, projector.merge, projector.average
        self.unpatched = 0 if projector.unpatched else unpatched
        self.read = (projector.unused_layers, *projector.feature_layers)
        width *= len(self.read)
        first = (width, *(layer.width for layer in projector.patchwise))
        self.patchwise, width = nn.Sequential(*map(ProjectorLayer, projector.patchwise, first)), first[-1]
        merged = width * (projector.merge or 1) ** (1 if flat else 2)
        self.norm_first = projector.norm_first
        normed = width if projector.norm_first else merged
        self.norm = nn.Identity() if projector.norm is None else Normalization(projector.norm, normed)
        widths = (merged, *(layer.width + layer.padding for layer in projector.hidden))
        self.hidden = nn.ModuleList(map(ProjectorLayer, projector.hidden, widths))
        self.resampler = None if resampler is None else resampler(widths[-1])
        last_width = widths[-1] if self.resampler is None else self.resampler.width
        behind = (last_width, *(layer.width for layer in projector.behind))
        self.behind, last_width = nn.Sequential(*map(ProjectorLayer, projector.behind, behind)), behind[-1]
        self.dense = nn.Linear(last_width, d_model, bias=projector.bias) if projector.dense else nn.Identity()
        self.newline = nn.Parameter(torch.zeros(last_width)) if projector.newlines else None
        self.begin = nn.Parameter(torch.zeros(d_model)) if projector.newlines else None
        self.end = nn.Parameter(torch.zeros(d_model)) if projector.newlines else None
        last = projector.final_norm
        self.final_norm = nn.Identity() if last is None else Normalization(last, d_model)
        self.separators = nn.Parameter(torch.zeros(projector.separators, d_model)) if projector.separators else None

    def forward(self, hidden: Tensor, layers: list[Tensor]) -> Tensor:
        """(images, positions, width), at the end and after each layer, to (images, tokens, d)."""
        read = [(layers[-1 - skips] if skips else hidden)[:, self.unpatched :] for skips in self.read]
        x = torch.cat(read, dim=-1) if len(read) > 1 else read[0]
        x = self.patchwise(x)
        x = self._squares(self.norm(x)) if self.norm_first else self.norm(self._squares(x))
        for layer in self.hidden:
            x = layer(x)
        if self.resampler is not None:
            x = self.behind(self.resampler(x))
        if self.newline is not None:
            side = math.isqrt(x.shape[1])
            rows = x.unflatten(1, (side, side))
            x = torch.cat((rows, self.newline.expand(*rows.shape[:2], 1, -1)), dim=2).flatten(1, 2)
        y: Tensor = self.dense(x)
        if self.begin is not None and self.end is not None:
            y = torch.cat((self.begin.expand(len(y), 1, -1), y, self.end.expand(len(y), 1, -1)), dim=1)
        return self.final_norm(y)

    def _squares(self, x: Tensor) -> Tensor:
        if not self.average and self.merge is None:
            return x
        if self.flat:
            each = self.merge or x.shape[1] // self.tokens
            x = x[:, : self.tokens * each].unflatten(1, (self.tokens, each))
            return x.mean(dim=2) if self.average else x.flatten(2)
        side, squares = math.isqrt(x.shape[1]), math.isqrt(self.tokens)
        if self.merge is not None:
            used = squares * self.merge  # a border too narrow for a whole square is left out
            x = x.unflatten(1, (side, side))[:, :used, :used]
            x = x.unflatten(2, (squares, self.merge)).unflatten(1, (squares, self.merge))
            return x.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)
        each = side // squares
        if squares**2 != self.tokens or squares * each != side:
            raise ValueError(f"{side} x {side} patches cannot be averaged in squares down to {self.tokens}")
        return x.reshape(-1, squares, each, squares, each, x.shape[-1]).mean(dim=(2, 4)).flatten(1, 2)


class TowerModules(StackModules, Reader):
    """The tower with its own input, and what makes of its positions a vector or positions of the main stack."""

    def __init__(self, model: Model, tower: SideTower, options: Options) -> None:
        super().__init__(model, tower, options, causal=tower.causal_mask, d_model=tower.d_model)
        self.input, width = tower.input, tower.d_model
        self.add_reader(tower.input, width)
        extra = unpatched(tower.input) if isinstance(tower.input, PatchInput) else 0
        self.pooler = build_pooler(tower.pooler, tower.norm, self.width, extra, options)
        whole = tower if isinstance(tower, Tower) else None
        second = None if whole is None else whole.second
        self.second = None if second is None else TowerModules(model, second, options)
        specs = () if tower.projector is None else (tower.projector, *(() if whole is None else whole.deepstack))
        rest = () if whole is None else whole.unused
        flat = not isinstance(tower.input, PatchInput)
        reader = None if whole is None else whole.resampler
        read_by = None if reader is None else lambda width: Resampler(model, reader, options, width)
        made = [Projector(each, self.width, model.d_model, extra, flat=flat, resampler=None if i else read_by)
                for i, each in enumerate(specs)]
        self.projector = made[0] if made else None
        self.unused = nn.ModuleList(Projector(each, self.width, model.d_model, extra, flat=flat) for each in rest)
        self.deepstack = nn.ModuleList(made[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pixels to (images, width) for a contrastive head, or to (images, tokens, d) for the main stack.

        Of the latter there is one for its embeddings, and one for each of the first layers that is given more.
        """
        made = [] if self.projector is None else [self.projector, *self.deepstack]
        layers: list[Tensor] = []
        reads = layers if any(skips for projector in made for skips in projector.read) else None
        hidden = self.run(self.read(self.input, images), None, None, None, layers=reads)
        pooled = hidden[:, 0] if self.pooler is None else self.pooler(hidden)
        if self.projector is None:
            return [pooled]
        return [projector(hidden, layers) for projector in made]
