"""A second table of tokens in the reference, with a vector for every layer (Gemma 3n, Gemma 4)."""

from __future__ import annotations

from torch import Tensor, nn

from txcalc.check.reference.layers import Normalization, activate
from txcalc.spec.layers import Norm
from txcalc.spec.tables import PerLayerEmbedding


class PerLayerInputs(nn.Module):
    """Inputs of every layer beside the residual stream: a row of the table, and the token's embedding, projected."""

    def __init__(self, plan: PerLayerEmbedding, norm: Norm, layers: int, d_model: int) -> None:
        super().__init__()
        self.layers, self.width = layers, plan.width
        self.table = nn.Embedding(plan.rows, layers * plan.width)
        self.projection = nn.Linear(d_model, layers * plan.width, bias=False)
        self.norm = Normalization(norm, plan.width)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        """Token ids (b, n) and their embeddings (b, n, d) to (b, n, layers, width)."""
        apart = (self.layers, self.width)
        looked_up = self.table(ids).unflatten(-1, apart) * self.width**0.5
        projected = self.norm((self.projection(x) * x.shape[-1] ** -0.5).unflatten(-1, apart))
        return (projected + looked_up) * 2**-0.5


class LayerInput(nn.Module):
    """A layer's own vector, multiplied with a gate that the layer's output gives, projected and normed."""

    def __init__(self, plan: PerLayerEmbedding, norm: Norm, d_model: int) -> None:
        super().__init__()
        self.activation = plan.activation
        self.gate = nn.Linear(d_model, plan.width, bias=False)
        self.up = nn.Linear(plan.width, d_model, bias=False)
        self.norm = Normalization(norm, d_model)

    def forward(self, x: Tensor, own: Tensor) -> Tensor:
        """Hidden states (b, n, d) and the layer's vectors (b, n, width) to what is added, (b, n, d)."""
        return self.norm(self.up(activate(self.activation, self.gate(x)) * own))
