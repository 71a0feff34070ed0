"""Low-rank adapters on the reference's linear layers, and frozen parts of it.

LoRA (arXiv 2106.09685) as ``peft`` writes it: a frozen layer's output, and two small products in the adapter's dtype,
which is fp32 on 16-bit layers unless it is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from txcalc.check.reference.attention import Projections
from txcalc.check.reference.latent import LatentAttention
from txcalc.check.reference.layers import MixtureOfExperts, dropout_or_nothing


class LoRA(nn.Linear):
    """A frozen linear layer with an adapter beside it."""

    def __init__(self, base: nn.Linear, r: int, alpha: float, dropout: float, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        linear = partial(nn.Linear, bias=False, dtype=dtype, device=base.weight.device)
        self.lora_A, self.lora_B = linear(base.in_features, r), linear(r, base.out_features)
        self.lora_dropout, self.scaling = dropout_or_nothing(dropout), alpha / r

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        result = super().forward(x)
        dtype = result.dtype
        x = x.to(self.lora_A.weight.dtype)
        result = result + self.lora_B(self.lora_A(self.lora_dropout(x))) * self.scaling
        return result.to(dtype)


def targets(
    paths: Mapping[nn.Module, str], names: Sequence[str]
) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers that are meant: ends of paths, ``attention``, or ``all`` but routers and the head.

    ``paths``: of every module, without the index of repeated ones. Each with the module that it is in, and its name.
    """
    for module, path in paths.items():
        for name, child in module.named_children():
            routes = isinstance(module, MixtureOfExperts) and name == "router"
            meant = {
                "attention": isinstance(module, Projections | LatentAttention),
                "all": not routes and name not in ("head", "pair_head"),
            }
            full = f".{path}.{name}"
            if isinstance(child, nn.Linear) and any(meant.get(each, full.endswith(f".{each}")) for each in names):
                yield module, name, child


def adapt(root: nn.Module, paths: Mapping[nn.Module, str], adapter: Mapping[str, Any]) -> None:
    """Freeze all, and put adapters on the layers that ``adapter`` targets."""
    root.requires_grad_(False)
    for module, name, base in list(targets(paths, adapter["targets"])):
        alpha = adapter.get("alpha") or adapter["r"]
        dtype = base.weight.dtype if adapter.get("dtype") else torch.float32
        setattr(module, name, LoRA(base, adapter["r"], alpha, adapter.get("dropout", 0.0), dtype))


def freeze(paths: Mapping[nn.Module, str], parts: Sequence[str]) -> None:
    """Freeze what is in these parts."""
    for module, path in paths.items():
        for name, weight in module.named_parameters(recurse=False):
            full = f"{path}.{name}".lstrip(".")
            if any(full == each or full.startswith(f"{each}.") for each in parts):
                weight.requires_grad_(False)
