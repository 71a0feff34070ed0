"""One rank of any number, on tensors without data: PyTorch's ``fake`` process group under fake CUDA.

A collective does nothing, and what it is given and gives has its size, so that live bytes are those of a rank.
FSDP2 needs streams and events, on which everything is done at once, and frees what it gathers by resizing storages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from txcalc.check.reference.stack import StackModules

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
    for unit in units if plan.get("unit", "layer") == "layer" else ():
        fully_shard(unit, mesh=over, mp_policy=policy, reshard_after_forward=plan["reshard"])
    fully_shard(root, mesh=over, mp_policy=policy,
                reshard_after_forward=None if plan.get("unit", "layer") == "layer" else plan["reshard"])
    now = {id(p): module.get_parameter(name) for module, name, p in places}
    return [now[id(wide[p])] for p in parameters]


def layers(root: nn.Module) -> list[nn.Module]:
    """The layers of all its stacks, each once."""
    stacks = [each for each in root.modules() if isinstance(each, StackModules)]
    return list(dict.fromkeys(block for each in stacks for block in each.blocks_in_order()))
