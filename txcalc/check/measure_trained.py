"""Trained weights of a reference: frozen parts, and adapters of our own or of ``peft``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from txcalc.check.measure_modes import canonical_paths
from txcalc.check.reference import adapters, transformer
from txcalc.check.reference.transformer import Reference
from txcalc.spec.model import Model

Trained = Mapping[str, Any]
"""The fields ``lora``, ``dora`` and ``freeze`` of a workload; ``peft``: whose adapters they are; those of ``dora``
always are. ``packed``: bitsandbytes' format of linear layers, ``float8``: torchao runs them."""


def build(model: Model, *, trained: Trained | None = None, **how: Any) -> Reference:
    """The reference (``how``: see there), some of its weights frozen, and adapters; ``peft`` only where asked for."""
    root = transformer.build(model, **how)
    if not trained:
        return root
    paths, adapter = canonical_paths(root), trained.get("lora") or trained.get("dora")
    adapters.freeze(paths, trained.get("freeze") or ())
    if (packed := trained.get("packed")) is not None:
        _pack(root, packed)
    if trained.get("float8"):
        with_float8(root)
    if adapter is not None and not trained.get("peft") and "dora" not in trained:
        adapters.adapt(root, paths, adapter)
    elif adapter is not None:
        meant = {base for _, _, base in adapters.targets(paths, adapter["targets"])}
        names = [name for name, module in root.named_modules() if module in meant]
        with_peft(root, {**adapter, "targets": names}, dora="dora" in trained)
    return root.train()


def with_peft(root: nn.Module, adapter: Mapping[str, Any], *, dora: bool = False) -> None:
    """Let ``peft`` put adapters on layers of these names."""
    import peft

    config = peft.LoraConfig(
        r=adapter["r"], lora_alpha=adapter.get("alpha") or adapter["r"], use_dora=dora,
        lora_dropout=adapter.get("dropout", 0.0), target_modules=list(adapter["targets"]))
    # They are made where the weights are, and not moved there, which tensors without data refuse.
    first, own = next(root.parameters()), torch.get_default_dtype()
    torch.set_default_dtype(first.dtype if adapter.get("dtype") else own)
    with first.device, patch.object(nn.Module, "to", lambda module, *_, **__: module):
        peft.get_peft_model(root, config, autocast_adapter_dtype=not adapter.get("dtype"))
    torch.set_default_dtype(own)


def with_float8(root: nn.Module) -> None:
    """Let torchao run linear layers in float8."""
    from torchao.float8 import convert_to_float8_training

    convert_to_float8_training(root)


def _pack(root: Reference, name: str) -> None:
    """Let bitsandbytes store the linear layers in 4 bits, all but the head and routers."""
    import bitsandbytes

    format, _, twice = name.partition("-")
    for module in [*root.modules()]:
        for child, layer in [*module.named_children()]:
            if type(layer) is nn.Linear and child not in ("head", "pair_head", "router"):
                packed = bitsandbytes.nn.Linear4bit(layer.in_features, layer.out_features, layer.bias is not None,
                                                    layer.weight.dtype, bool(twice), format)
                packed.weight = bitsandbytes.nn.Params4bit(layer.weight.data, False, quant_type=format,
                                                           compress_statistics=bool(twice), module=packed)
                packed.bias = layer.bias
                setattr(module, child, packed.to("cpu"))
    object.__setattr__(root, "is_loaded_in_4bit", True)  # peft asks for it
