"""Experts of attention: each token's queries and outputs are projected by those that it chooses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from txcalc.check.reference import routed
from txcalc.check.reference.layers import Repeated
from txcalc.spec.layers import Attention


class Expert(nn.Module):
    """One projection, called as it is in the layer whose experts share it."""

    def __init__(self, name: str, columns: int, rows: int) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(columns, rows, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, columns) to (rows, width)."""
        return self.get_submodule(self.name)(x)


class QueryExperts(nn.Module):
    """Queries of ``active`` experts of each token, side by side (JetMoE, arXiv 2404.07413, section 2.2)."""

    def __init__(self, d_model: int, width: int, experts: int, active: int) -> None:
        super().__init__()
        self.active, self.routes = active, list[tuple[Tensor, Tensor]]()
        self.router = nn.Linear(d_model, experts, bias=False)
        self.experts = Repeated(lambda: Expert("q", d_model, width), experts)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, n, active x width); the weights and numbers of the experts are left in ``routes``."""
        tokens = x.flatten(0, 1)
        weights, chosen = routed.route(self.router(tokens), self.active, "topk-softmax")
        self.routes.append((weights, chosen))
        return routed.through(self.experts, tokens, chosen).flatten(1).view(*x.shape[:-1], -1)


class OutputExperts(nn.Module):
    """The sum of what the same experts project the contexts of their queries to."""

    def __init__(
        self, width: int, d_model: int, experts: int, routes: list[tuple[Tensor, Tensor]], *, bias: bool
    ) -> None:
        super().__init__()
        self.routes = routes
        self.experts = Repeated(lambda: Expert("o", width, d_model), experts)
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, active x width) to (b, n, d), by the experts whose queries were made last."""
        weights, chosen = self.routes.pop()
        rows = x.reshape(chosen.numel(), -1)
        out = routed.through(self.experts, rows, chosen, weights, apart=True).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


def expert_projections(attention: Attention, d_model: int) -> tuple[QueryExperts | None, OutputExperts | None]:
    """Experts in place of an attention's query and output projections, or None."""
    if attention.query_experts is None:
        return None, None
    keys, count = attention.kv_heads, attention.query_experts
    queries = QueryExperts(d_model, keys * attention.head_dim, count, attention.heads // keys)
    width = keys * (attention.value_dim or attention.head_dim)
    return queries, OutputExperts(width, d_model, count, queries.routes, bias=attention.bias.o)
