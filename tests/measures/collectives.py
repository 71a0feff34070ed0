"""Collectives of a whole training step on one of several ranks, as PyTorch's ``fake`` process group sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import loss_parallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from tests.measures.ranks import RankMode, plan
from tests.measures.sharded import class_layers, join, layers, mesh, shard
from txcalc.check import classes
from txcalc.check.measure import Inputs
from txcalc.check.measure_trained import build
from txcalc.check.reference.attention import SelfAttention
from txcalc.check.whole_step import KERNELS, MADE
from txcalc.spec.model import Model


def step_collectives(
    model: Model | Mapping[str, Any], batch: int, seq: int, *, tp: int = 1, sp: bool = False,
    shards: Mapping[str, Any] | None = None, ddp: Mapping[str, Any] | None = None, optimizer: str = "adamw",
    kernel: str = "foreach", clip: bool = False, dtype: torch.dtype = torch.float32, device: str = "fake-cuda",
    **how: Any,
) -> list[list[tuple[str, int]]]:
    """Name and bytes of every collective of a step in steady state: forward with the loss, backward, what follows.

    ``shards``: of ``sharded``; ``ddp``: ranks, and the buckets' size; ``how``: of ``build`` or of a class.
    """
    live = RankMode("cuda")
    at, fakes = ("cpu", nullcontext()) if ddp else ("cuda", FakeTensorMode(allow_non_fake_inputs=True))
    both = mesh(shards["dp"] if shards else 1, tp, names=("dp", "tp")) if tp > 1 else None
    over, others = (both["tp"], both["dp"] if shards else None) if both else (None, None)
    # The coordinates of the first rank, which meshes else read from a tensor.
    first = patch.object(DeviceMesh, "_compute_coordinates_from_mesh", staticmethod(lambda ranks, _: ranks.ndim * (0,)))
    with fakes, first, live.sharded(), loss_parallel() if tp > 1 else nullcontext():
        root, forward = _made(model, batch, seq, at, dtype, over=over, sp=sp, **how)
        parameters = list(root.parameters())
        if shards is not None:
            units = layers(root) if isinstance(model, Model) else class_layers(root)
            parameters = shard(root, units, parameters, shards, others)
        if ddp is not None:
            join(ddp["dp"])
            forward = DistributedDataParallel(Whole(forward, root), bucket_cap_mb=ddp["cap"], broadcast_buffers=False)
            forward.register_comm_hook(live.collectives, _reduced)
        update = MADE[optimizer](parameters, **KERNELS[kernel])
        with live:
            for _ in range(3):  # in the second one buckets are ordered anew
                live.collectives.clear()
                end = forward()
                ends = [len(live.collectives)]
                end.backward()
                ends.append(len(live.collectives))
                if clip:
                    nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
                update.step()
                update.zero_grad()
                del end
        found = live.collectives
        return [found[:ends[0]], found[ends[0]:ends[1]], found[ends[1]:]]


def _reduced(found: list[tuple[str, int]], bucket: Any) -> Any:
    """Note a bucket, whose all-reduce is done at once: the group's own has no result."""
    found.append(("allreduce_", bucket.buffer().nbytes))
    done = torch.futures.Future[Tensor]()
    done.set_result(bucket.buffer())
    return done


_reduced.__annotations__ = {"bucket": dist.GradBucket}


class Whole(nn.Module):
    """A model with its loss."""

    def __init__(self, run: Callable[[], Tensor], root: nn.Module) -> None:
        super().__init__()
        self.run, self.root = run, root

    def forward(self) -> Tensor:
        """The loss of a step."""
        return self.run()


def _made(model: Any, batch: int, seq: int, at: str, dtype: torch.dtype, *, over: Any, sp: bool, **how: Any) -> Any:
    if not isinstance(model, Model):
        return classes._step(model, batch, seq, at, dtype=dtype, **how)
    run = Inputs(model, batch, seq, None, at, dtype=dtype)
    root = build(model, length=run.length, dtype=dtype, device=at, **how)
    if over is not None:
        tp = over.size()
        parallelize_module(root, over, plan(root, sp=sp))
        for module in root.modules():
            if isinstance(module, SelfAttention):
                module.heads, module.kv_heads = module.heads // tp, max(1, module.kv_heads // tp)
        if model.head.kind == "lm" and model.head.tied:
            root.head.weight = root.token_embedding.weight

    def forward() -> Tensor:
        return root.loss_of(root(run.tokens), run.targets)

    return root, forward
