"""One rank of any number, on tensors without data: PyTorch's ``fake`` process group under fake CUDA.

A collective does nothing, and what it is given and gives has its size, so that live bytes are those of a rank.
FSDP2 needs streams and events, on which everything is done at once, and frees what it gathers by resizing storages.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any, Final
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.testing._internal.distributed.fake_pg import FakeStore

from txcalc.check import classes, whole_step
from txcalc.check.measure import DTYPES, maker
from txcalc.check.measure_modes import LiveMode
from txcalc.check.reference.stack import StackModules
from txcalc.spec.model import Model

WRAPPERS: Final = (DTensor, AsyncCollectiveTensor)
"""Tensors that are none themselves, but hold one."""


class ShardedMode(LiveMode):
    """The same of tensors that are parts of others, and of storages that are resized."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._pauses = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, WRAPPERS) for each in types):
            return NotImplemented  # their own operations follow
        return func(*args, **(kwargs or {})) if self._pauses else super().__torch_dispatch__(func, types, args, kwargs)

    def see(self, tensor: Tensor) -> None:
        """Count the storage of a DTensor's own part."""
        super().see(getattr(tensor, "_local_tensor", tensor))

    @contextmanager
    def sharded(self) -> Iterator[None]:
        """See storages that are resized, as FSDP2 does with what it gathers: several in a row are one event. DTensors
        work their shapes out on whole tensors, which are no memory.
        """
        inner, propagate = torch.UntypedStorage.resize_, ShardingPropagator._propagate_tensor_meta_non_cached

        def resize(storage: Any, size: int) -> Any:
            key, before = int(storage._cdata), storage.nbytes()
            inner(storage, size)
            if key in self._live:
                self._live[key].detach()
                self._live[key] = weakref.finalize(storage, self._free, key, size)
                self.now += size - before
                name = "resize" if size else ""
                if self.events and self.events[-1][0] == name:
                    self.events.pop()
                self.events.append((name, self.now))
                self.peak = max(self.peak, self.now)
            return storage

        def pausing(*args: Any, **kwargs: Any) -> Any:
            self._pauses += 1
            try:
                return propagate(*args, **kwargs)
            finally:
                self._pauses -= 1

        with (patch.object(torch.UntypedStorage, "resize_", resize),
              patch.object(ShardingPropagator, "_propagate_tensor_meta_non_cached", pausing)):
            yield


class Stream:
    """A stream, or an event: everything is always done."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: Stream()


def join(world: int, rank: int = 0) -> None:
    """Be a rank of so many, and of no others any more."""
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)


def mesh(*sizes: int, names: tuple[str, ...] = (), rank: int = 0) -> DeviceMesh:
    """A mesh of so many ranks, of which this process is one."""
    for name, value in {
        "Stream": Stream, "Event": Stream, "stream": lambda stream: nullcontext(),
        "current_stream": lambda device=None: Stream(), "default_stream": lambda device=None: Stream(),
        "current_device": lambda: 0, "device_count": lambda: 1, "set_device": lambda device: None,
        "synchronize": lambda device=None: None, "is_initialized": lambda: True,
    }.items():
        setattr(torch.cuda, name, value)
    with unset_fake_temporarily():
        join(prod(sizes), rank)
        return init_device_mesh("cuda", sizes, mesh_dim_names=names or tuple(f"dim{i}" for i in range(len(sizes))))


def shard(
    root: nn.Module, units: Sequence[nn.Module], parameters: Sequence[nn.Parameter], plan: Mapping[str, Any],
    over: DeviceMesh | None = None,
) -> list[nn.Parameter]:
    """FSDP2 over ``dp`` ranks, of which ``replicas`` have the same: units, if not all is one, and what else is there.

    Weights are in fp32 from then on, ``params`` and ``reduce`` of the policy by name. ``over``: the ranks, if there is
    a mesh of them. Returns the ``parameters`` anew.
    """
    wide = {p: nn.Parameter(p.detach().float(), p.requires_grad) for p in parameters}
    places = [(module, name, wide[p]) for module in root.modules()
              for name, p in module.named_parameters(recurse=False, remove_duplicate=False)]
    for module, name, p in places:
        module.register_parameter(name, p)
    replicas = plan.get("replicas", 1)
    over = over or mesh(*((replicas, plan["dp"] // replicas) if replicas > 1 else (plan["dp"],)))
    policy = MixedPrecisionPolicy(param_dtype=DTYPES[plan["params"]], reduce_dtype=DTYPES[plan["reduce"]])
    to = CPUOffloadPolicy(pin_memory=False) if plan.get("offload") else OffloadPolicy()
    for unit in units if plan.get("unit", "layer") == "layer" else ():
        fully_shard(unit, mesh=over, mp_policy=policy, offload_policy=to, reshard_after_forward=plan["reshard"])
    fully_shard(root, mesh=over, mp_policy=policy, offload_policy=to,
                reshard_after_forward=None if plan.get("unit", "layer") == "layer" else plan["reshard"])
    now = {id(p): module.get_parameter(name) for module, name, p in places}
    return [now[id(wide[p])] for p in parameters]


def layers(root: nn.Module) -> list[nn.Module]:
    """The layers of all its stacks, each once."""
    stacks = [each for each in root.modules() if isinstance(each, StackModules)]
    return list(dict.fromkeys(block for each in stacks for block in each.blocks_in_order()))


def step_live_bytes(model: Model, batch: int, seq: int, *, shards: Mapping[str, Any], **how: Any) -> Any:
    """As ``whole_step.step_live_bytes``, of weights in fp32 that are sharded so."""
    live = ShardedMode("cuda")
    with live.sharded():
        return whole_step.step_live_bytes(
            model, batch, seq, live=live, prepared=lambda root, own: shard(root, layers(root), own, shards), **how)


def class_live_bytes(
    config: classes.Config, batch: int, seq: int, *, shards: Mapping[str, Any], device: str, **run: Any
) -> list[tuple[str, int]]:
    """As ``classes.live_bytes``, of the second step, after which gradients are set to none."""
    with maker(device) as at:
        model, forward = classes._step(config, batch, seq, at, **run)
        shard(model, class_layers(model), list(model.parameters()), shards)
        with ShardedMode(at) as live, classes._Yes(), live.sharded():
            forward().backward()
            model.zero_grad()
            before, _ = live.now, live.taken()
            loss = forward()
            loss.backward()
            return [(name, now - before) for name, now in live.events]


def class_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a class of transformers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
