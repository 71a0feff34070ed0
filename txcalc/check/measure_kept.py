"""Tensors that autograd keeps of a run, by its own hooks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, count
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from txcalc.check.measure_modes import ModulePath, storage_of


class Kept(NamedTuple):
    """One storage that autograd keeps: the module that first saved it, as it saw it, and the storage's bytes."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def kept_by(
    root: nn.Module, run: Callable[[], Tensor], besides: tuple[Tensor, ...] = (), *, at_the_end: bool = False
) -> list[Kept]:
    """Every storage that autograd saves in a run, but parameters and buffers, and what is named ``besides``.

    ``at_the_end``: those alone that it still has then; what was saved for a result that nothing depends on is freed
    with it.
    """
    own = {storage_of(tensor) for tensor in chain(root.parameters(), root.buffers(), besides)}
    found: dict[int, Kept] = {}
    # A storage that is freed may lend its address to the next.
    alive: list[torch.UntypedStorage] = []
    packed, number = WeakValueDictionary[int, Tensor](), count()

    with ModulePath(root) as where:

        def pack(tensor: Tensor) -> Tensor:
            key = storage_of(tensor)
            nbytes = tensor.untyped_storage().nbytes()
            if key not in own and key not in found and nbytes:
                name = str(tensor.dtype).removeprefix("torch.")
                found[key] = Kept(where.now(), tuple(tensor.shape), name, nbytes)
                alive.append(tensor.untyped_storage())
            # Itself, it would hold the graph that holds it, and nothing would be freed.
            packed[next(number)] = saved = tensor.detach()
            return saved

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = run()
    kept = {storage_of(tensor) for tensor in packed.values()}
    del result
    return [storage for key, storage in found.items() if key in kept or not at_the_end]
