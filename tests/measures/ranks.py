"""One rank of a step of the reference over several devices, as PyTorch's DTensor splits it.

Ranks are those of PyTorch's ``fake`` process group, so that one stands for any number of them; tensors have no data and
say that they are CUDA's. The process of its own (``txcalc.check.fake_cuda``) serves one mesh after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import set_rotate_method
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.utils._pytree import tree_leaves

from tests.measures.sharded import WRAPPERS, ShardedMode, layers, mesh, shard
from txcalc.check.measure import Inputs
from txcalc.check.measure_trained import build
from txcalc.check.reference.attention import SelfAttention
from txcalc.check.reference.block import Block
from txcalc.check.reference.layers import Dense, Normalization
from txcalc.check.reference.transformer import Reference
from txcalc.spec.model import Model


class RankMode(ShardedMode):
    """The same, with the collectives of a rank: name and bytes of the larger side of each, the full tensor's."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.collectives: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "wait_tensor" in str(func) and not any(issubclass(each, WRAPPERS) for each in types):
            return args[0]  # which a card's kernel returns, and a tensor without data copies
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if "c10d" in str(func) and out is not NotImplemented:
            sizes = [x.numel() * x.element_size() for x in tree_leaves((args, out)) if isinstance(x, Tensor)]
            self.collectives.append((str(func).split(".")[1], max(sizes)))
        return out


def plan(root: Reference, *, sp: bool) -> dict[str, Any]:
    """What PyTorch's documentation does with a Llama, by the path of each module of a decoder."""
    whole, part = Replicate(), Shard(1) if sp else Replicate()
    gather = PrepareModuleInput(input_layouts=(part,), desired_input_layouts=(whole,))
    attends = PrepareModuleInput(input_layouts=(part, *3 * (None,)), desired_input_layouts=(whole, *3 * (None,)))
    column, row = ColwiseParallel(), RowwiseParallel(output_layouts=part)
    found: dict[str, Any] = {
        "token_embedding": RowwiseParallel(input_layouts=whole, output_layouts=part),
        "head": ColwiseParallel(input_layouts=part, output_layouts=Shard(-1), use_local_output=False),
    }
    for path, module in root.named_modules():
        styles: dict[str, Any] = {}
        if isinstance(module, SelfAttention):
            styles = {"": attends} | dict.fromkeys(("q", "k", "v"), column) | {"o": row}
        elif isinstance(module, Dense):
            styles = {"": gather} | dict.fromkeys(("up", "gate"), column) | {"down": row}
        elif isinstance(module, Block) and sp:
            styles = dict.fromkeys((name for name, child in module.named_children()
                                    if isinstance(child, Normalization)), SequenceParallel(use_local_output=True))
        for name, style in styles.items():
            if not name or getattr(module, name, None) is not None:
                found[f"{path}.{name}".rstrip(".")] = style
    return found | ({"final_norm": SequenceParallel(use_local_output=True)} if sp else {})


class Ulysses(nn.Module):
    """A core of attention around which heads are split in place of positions, by ``over``'s ranks."""

    def __init__(self, core: nn.Module, over: DeviceMesh) -> None:
        super().__init__()
        self.core, self.over = core, over

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        """(b, h, n / cp, hd) to the same, by way of (b, h / cp, n, hd)."""
        parts = (self._exchange(x, 1, 2) for x in (q, k, v))
        return self._exchange(self.core(*parts, *rest), 2, 1)

    def _exchange(self, x: Tensor, split: int, joined: int) -> Tensor:
        """Positions of a part of the heads from heads of a part of the positions, or back."""
        cp = self.over.size()
        split, joined = 3 - split, 3 - joined
        x = x.transpose(1, 2)
        sent = x.unflatten(split, (cp, -1)).movedim(split, 0).contiguous()
        got = all_to_all_single_autograd(sent, None, None, self.over)
        got = got.view(sent.shape).movedim(0, joined)
        return got.flatten(joined, joined + 1).transpose(1, 2)


def rank_live_bytes(
    model: Model, batch: int, seq: int, *, tp: int = 1, cp: int = 1, sp: bool = False, rotates: str = "",
    rank: int = 0, shards: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32,
    device: str = "fake-cuda", **how: Any,
) -> list[Any]:
    """Live bytes of a training step on one of cp x tp ranks, and the collectives of both passes.

    See ``txcalc.check.measure.live_bytes``; ``how``: see ``build``. ``shards``: of ``sharded``, over dp and cp: then of
    the second step, and what it adds, AdamW's highest moment last.
    """
    live = RankMode("cuda")
    # The coordinates of the first rank, which meshes of shards else read from a tensor.
    first = patch.object(DeviceMesh, "_compute_coordinates_from_mesh", staticmethod(lambda ranks, _: ranks.ndim * (0,)))
    with live.sharded(), FakeTensorMode(allow_non_fake_inputs=True), first if shards else nullcontext():
        run = Inputs(model, batch, seq // cp, None, "cuda", dtype=dtype)
        root = build(model, length=seq, dtype=dtype, device="cuda", **how)
        dp, groups = (shards["dp"], shards.get("replicas", 1)) if shards else (1, 1)
        over = mesh(groups, dp // groups, cp, tp, names=("replicas", "dp", "cp", "tp"), rank=rank)
        if tp > 1:
            parallelize_module(root, over["tp"], plan(root, sp=sp))
        for module in root.modules() if cp > 1 and not rotates else ():
            if isinstance(module, SelfAttention):
                module.core = Ulysses(module.core, over["cp"])
                if (mask := module.mask) is not None:
                    module._modules.pop("mask")
                    vars(module)["mask"] = lambda past, n, keys, mask=mask: mask(past, n * cp, keys * cp)
        if model.head.kind == "lm" and model.head.tied and root.head and root.token_embedding:
            root.head.weight = root.token_embedding.weight
        for module in root.modules():
            if isinstance(module, SelfAttention):
                module.heads, module.kv_heads = module.heads // tp, max(1, module.kv_heads // tp)
        if shards:
            with unset_fake_temporarily():
                both = over["dp", "cp"]._flatten("shards") if cp > 1 else over["dp"]
                both = over["replicas", "dp"] if groups > 1 else both
            update = torch.optim.AdamW(shard(root, layers(root), list(root.parameters()), shards, both))
        ring: AbstractContextManager[None] = nullcontext()
        if rotates:
            set_rotate_method(rotates)
            ring = context_parallel(over["cp"], buffers=[torch.empty(2 * cp, device="cuda")], buffer_seq_dims=[0])
        with ring, live, loss_parallel() if tp > 1 else nullcontext():
            end = None
            for _ in range(1 + bool(shards)):
                del end
                root.zero_grad()
                before, _, _ = live.now, live.taken(), live.collectives.clear()
                out = root(run.tokens)
                end = root.loss_of(out, run.targets)
                del out
                between = len(live.collectives)
                end.backward()
                if shards:
                    events, live.peak = live.taken(), live.now
                    update.step()
                    events.append(("step", live.peak))
        events = [(name, now - before) for name, now in (events if shards else live.events)]
        return [events, live.collectives[:between], live.collectives[between:]]
