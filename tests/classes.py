"""transformers' own classes on the meta device, where there is nothing to initialize."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

_FILLS = [name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")]


@contextmanager
def on_meta() -> Iterator[None]:
    """Tensors without data; PyTorch's modules pass over filling them, which takes a third of the time."""
    with ExitStack() as stack:
        for name in _FILLS:
            stack.enter_context(patch.object(torch.nn.init, name, _untouched))
        stack.enter_context(torch.device("meta"))
        yield


def own_config(cls: Any, parsed: Any) -> Any:
    """What a class reads of a whole configuration: its text or decoder, where it has no more."""
    for name, kind in parsed.sub_configs.items():
        if kind is not None and kind is getattr(cls, "config_class", None):
            return getattr(parsed, name)
    return parsed


def unique_params(model: Any) -> int:
    """Parameters, tied ones once."""
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


def _untouched(tensor: Any, *_: Any, **__: Any) -> Any:
    return tensor
