"""Rows that a router sends to experts, each to a few of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn import functional as F

from txcalc.spec.base import Routing


def through(
    experts: nn.ModuleList, rows: Tensor, chosen: Tensor, weights: Tensor | None = None, *, apart: bool = False
) -> Tensor:
    """(tokens, d), and each one's experts (tokens, active), to (tokens, active, width), or their sum by ``weights``.

    ``apart``: there is a row for each expert of a token, (tokens x active, d). Rows are sorted by expert, split, and
    put back; an expert without any does not run.
    """
    order = torch.argsort(chosen.flatten(), stable=True)
    sorted_rows = rows[order if apart else order // chosen.shape[1]]
    if sorted_rows.is_meta:  # one module stands for all experts, so what each is given can go in together
        outputs = experts[0](sorted_rows)
    else:
        parts = torch.split(sorted_rows, _counts(chosen, len(experts)))
        outputs = torch.cat([expert(part) for expert, part in zip(experts, parts, strict=True) if len(part)])
    unsorted = outputs[torch.argsort(order)].view(*chosen.shape, -1)
    return unsorted if weights is None else (unsorted * weights.unsqueeze(-1)).sum(dim=1)


def route(
    scores: Tensor, active: int, routing: Routing, *,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Scores (tokens, experts) to weights and indices, both (tokens, active)."""
    match routing:
        case "topk-softmax":
            weights, chosen = scores.topk(active, dim=-1)
            return F.softmax(weights, dim=-1), chosen  # sums to 1 already
        case "softmax-topk":
            weights, chosen = F.softmax(scores, dim=-1).topk(active, dim=-1)
        case "sigmoid-topk":
            weights, chosen = torch.sigmoid(scores).topk(active, dim=-1)
        case "softplus-topk":
            weights, chosen = F.softplus(scores).sqrt().topk(active, dim=-1)
    return (weights / weights.sum(dim=-1, keepdim=True) if normalize else weights), chosen


def _counts(chosen: Tensor, experts: int) -> list[int]:
    """Tokens per expert; where tensors have no values to read, as even as can be."""
    if isinstance(chosen, FakeTensor):
        chosen.new_empty(experts)  # as bincount makes one
        each, left = divmod(chosen.numel(), experts)
        return [each + (e < left) for e in range(experts)]
    return torch.bincount(chosen.flatten(), minlength=experts).tolist()
