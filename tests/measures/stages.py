"""A stage of the reference in a pipeline of ``torch.distributed.pipelining``, in PyTorch's ``fake`` process group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, schedules
from torch.distributed.pipelining.stage import InferenceMode

from tests.measures.sharded import ShardedMode, layers, mesh, shard
from txcalc.check.measure import Inputs
from txcalc.check.measure_trained import build
from txcalc.check.reference.transformer import EncoderDecoder, Reference
from txcalc.spec.model import Model

SCHEDULES: Final[dict[str, Any]] = {
    "gpipe": schedules.ScheduleGPipe, "1f1b": schedules.Schedule1F1B, "interleaved": schedules.ScheduleInterleaved1F1B,
    "looped": schedules.ScheduleLoopedBFS, "zb": schedules.ScheduleInterleavedZeroBubble,
    "zbv": schedules.ScheduleZBVZeroBubble, "dualpipe": schedules.ScheduleDualPipeV}


class Stage(nn.Module):
    """Layers of a reference that read hidden states of the stage before, unless it is the first."""

    def __init__(self, root: Reference, *, first: bool, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.root, self.first, self.autocast = root, first, autocast
        if not first:
            for name in ("token_embedding", "position_embedding", "type_embedding", "embedding_norm"):
                root._modules.pop(name, None)

    def forward(self, x: Tensor) -> Tensor:
        """Token ids (b, n) or hidden states (b, n, d) to hidden states, or logits."""
        with torch.autocast("cuda", self.autocast, enabled=self.autocast is not None):
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        stack = self.root.stack
        if not self.first:
            stack._embed = lambda x, *_: x
        hidden = stack.run(self.root.embed(self.root.model, x) if self.first else x, None, None, None, ids=x)
        out = self.root.on_top(hidden)
        return out.hidden if out.logits is None else out.logits


class StageOfTwo(Stage):
    """Layers of an encoder, or of its decoder, which reads what the encoder has made and hands it on as well."""

    def __init__(self, root: EncoderDecoder, *, first: bool, encodes: bool, autocast: torch.dtype | None) -> None:
        super().__init__(root, first=first, autocast=autocast)
        for name in ("decoder", "head") if encodes else ("encoder",):
            root._modules.pop(name, None)
        self.inner = root.encoder if encodes else root.decoder
        self.encodes, self.ends = encodes, root.model.head.kind != "none"
        if not first:
            for name in ("position_embedding", "embedding_norm"):
                self.inner._modules.pop(name, None)
            self.inner._embed = lambda x, *_: x

    def forward(self, x: Tensor, memory: Tensor | None = None, *, ids: Tensor | None = None) -> Any:
        """Token ids or hidden states of an encoder; its memory and token ids, or hidden states and it."""
        with torch.autocast("cuda", self.autocast, enabled=self.autocast is not None):
            model = self.root.model
            if self.encodes:
                return self.inner(self.root.embed(model.encoder, x, source=True) if self.first else x, None, None, None)
            x, memory = (self.root.embed(model, ids), x) if self.first else (x, memory)
            out = self.root.on_top(self.inner(x, None, memory, None))
            return out.logits if self.ends else (out.hidden, memory)


@contextlib.contextmanager
def stage_of(rank: int, world: int, dp: int = 1) -> Iterator[DeviceMesh]:
    """Ranks of a pipeline, of which this is one, each of ``dp`` ranks: metadata are all given beforehand."""

    def static(schedule: Any, stages: list[PipelineStage], *_: Any) -> None:
        for each in stages:
            each._inference_mode = InferenceMode.STATIC

    before = schedules._PipelineSchedule._warmup_p2p, torch.random.fork_rng
    schedules._PipelineSchedule._warmup_p2p = static
    torch.random.fork_rng = lambda *_, **__: contextlib.nullcontext()
    try:
        yield mesh(world, dp, names=("pp", "dp"), rank=rank * dp)
    finally:
        dist.destroy_process_group()
        schedules._PipelineSchedule._warmup_p2p = before[0]
        torch.random.fork_rng = before[1]


def stage_peak(
    model: Model, batch: int, seq: int, *, stages: Sequence[int], pp: int, schedule: str, micro_batches: int,
    further: Sequence[dict[str, Any]] = (), dtype: torch.dtype = torch.float32, device: str = "fake-cuda",
    shards: Mapping[str, Any] | None = None, autocast: torch.dtype | None = None, source: int | None = None,
    encodes: int = 0, **how: Any,
) -> list[int]:
    """Live bytes before and at the peak of a rank's second step, all micro-batches' inputs and targets among them.

    ``model``: that of the first of its ``stages``; ``further``: those of the others, as data. ``shards``: how weights
    of each stage are sharded, as ``shard`` has it. ``autocast``: to that dtype, of each stage's forward
    pass by itself. ``source``: positions of an encoder's, which has the first so many stages (``encodes``).
    """
    kind, count = SCHEDULES[schedule.partition(":")[0]], pp * len(stages)
    dp, live = (shards or {"dp": 1})["dp"], ShardedMode("cuda")
    with stage_of(stages[0], pp, dp) as ranks, live.sharded(), FakeTensorMode(allow_non_fake_inputs=True):
        models = [model, *map(Model.from_data, further)]
        roots = [build(each, length=max(seq, source or 0), dtype=dtype, device="cuda", **how) for each in models]
        whole = Inputs(models[-1], batch * micro_batches, seq, source, "cuda", dtype=dtype)
        tokens, targets = whole.tokens, whole.targets if count - 1 in stages else ()
        read = tokens if source is None or encodes in stages else whole.source
        given = ([read] if 0 in stages else []), ({"ids": read} if encodes and encodes in stages else {})

        def made(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(batch, *shape, dtype=dtype, device="cuda", requires_grad=True)

        hidden, memory = made(seq, model.d_model), made(source or 0, model.d_model)
        ends = *[(memory,)] * (encodes + 1), *[(hidden, memory) if encodes else (hidden,)] * (count - encodes - 1), (
            made(seq, models[-1].vocab or 0, dtype=autocast or dtype),)
        parts = [Stage(root, first=i == 0, autocast=autocast) if source is None else StageOfTwo(
            root, first=i in (0, encodes), encodes=i < encodes, autocast=autocast)
            for i, root in zip(stages, roots, strict=True)]
        for part in parts:
            _ = shards and shard(part, layers(part.root), [*part.parameters()], shards, ranks["dp"])
        places = [PipelineStage(
            part, i, count, torch.device("cuda"), input_args=ends[i] if i else (read[:batch],),
            output_args=ends[i + 1], group=ranks["pp"].get_group())
            for i, part in zip(stages, parts, strict=True)]
        loss = roots[-1].loss if targets else nn.functional.mse_loss  # without one it runs no backward pass
        several = issubclass(kind, schedules.PipelineScheduleMulti)
        run = kind(places if several else places[0], micro_batches, loss_fn=loss, scale_grads=False)
        parameters = [p for root in roots for p in root.parameters()]
        for x in (*parameters, *given[0], *given[1].values(), *targets):
            live.see(x)
        with live:
            for _ in range(2):
                for p in parameters:
                    p.grad = None
                live.peak = before = live.now
                run.step(*given[0], target=targets[0] if targets else None, return_outputs=False, **given[1])
        return [before, live.peak]
