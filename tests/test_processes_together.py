"""Ranks that are processes (gloo, on the CPU): together they compute what the undivided model does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel, parallelize_module

from tests.measures.ranks import plan
from tests.measures.stages import SCHEDULES, Stage
from tests.test_ranks import MODELS
from txcalc.check.measure import Inputs
from txcalc.check.measure_trained import build
from txcalc.check.reference.attention import SelfAttention
from txcalc.check.reference.transformer import Reference
from txcalc.count.params import params
from txcalc.spec.model import Model
from txcalc.trace.layout import Layout
from txcalc.trace.model import trace
from txcalc.trace.rank import local
from txcalc.trace.workload import Workload

pytestmark = pytest.mark.slow
BATCH, SEQ = 3, 24


Pools = list[ProcessPoolExecutor]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Pools]:
    """A process for each rank, which is never another: DTensor remembers the sizes of one."""
    with ExitStack() as stack:
        yield [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in range(4)]


def together(pools: Pools, folder: Path, world: int, what: Any, *given: Any) -> list[Any]:
    """What every rank finds, each in a process of its own."""
    found = [pools[rank].submit(_rank, str(folder / "store"), rank, world, what, given) for rank in range(world)]
    return [each.result(timeout=600) for each in found]


def _rank(store: str, rank: int, world: int, what: Any, given: Any) -> Any:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world,
                            timeout=timedelta(minutes=4))
    try:
        return what(rank, world, *given)
    finally:
        dist.destroy_process_group()


def _made(model: Model) -> Reference:
    """The reference in fp64, the same in every process."""
    torch.manual_seed(3)
    return build(model, length=SEQ, dtype=torch.float64, device="cpu", loss_as="plain")


def _run(model: Model, batch: int) -> tuple[Reference, Inputs, Tensor]:
    whole = _made(model)
    run = Inputs(model, batch, SEQ, None, "cpu", dtype=torch.float64)
    out = whole(run.tokens)
    whole.loss_of(out, run.targets).backward()
    return whole, run, out.logits.detach()


def _full(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _split(rank: int, world: int, data: dict[str, Any], sp: bool) -> int:
    """Compare a model that ranks split with all of it. Returns elements of the weights that this rank has."""
    model = Model.from_data(data)
    (whole, run, logits), root = _run(model, BATCH), _made(model)
    parallelize_module(root, init_device_mesh("cpu", (world,)), plan(root, sp=sp))
    if model.head.kind == "lm" and model.head.tied:
        root.head.weight = root.token_embedding.weight  # type: ignore[union-attr]
    for module in root.modules():
        if isinstance(module, SelfAttention):
            module.heads, module.kv_heads = module.heads // world, max(1, module.kv_heads // world)
    with loss_parallel():
        out = root(run.tokens)
        loss = root.loss_of(out, run.targets)
        loss.backward()
    torch.testing.assert_close(_full(out.logits), logits)
    expected = dict(whole.named_parameters())
    for name, p in root.named_parameters():
        assert p.grad is not None and expected[name].grad is not None
        grad = _full(p.grad)
        if re.search(r"[.][qk]_norm[.]", name):  # of some of the heads, which ranks are to sum
            dist.all_reduce(grad)
        torch.testing.assert_close(grad, expected[name].grad, msg=name)
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in root.parameters())


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(("name", "sp"), [
    ("gpt", False), ("llama", False), ("llama", True), ("gemma", True), ("olmo", True), ("parallel", False)])
def test_tensor_parallelism(name: str, sp: bool, world: int, ranks: Pools, tmp_path: Path) -> None:
    held = together(ranks, tmp_path, world, _split, MODELS[name], sp)
    layout = Layout(tp=world, sp=sp)
    w = Workload(phase="training", seq=SEQ, layout=layout)
    assert held == [params(trace(Model.from_data(MODELS[name]), w, share=rank)) for rank in range(world)]


def _stage(rank: int, world: int, data: dict[str, Any], schedule: str) -> int:
    """Compare a stage of a pipeline with its part of all layers. Returns elements of its weights."""
    model, count = Model.from_data(data), 2 * world
    whole, run, logits = _run(model, count)
    layout = Layout(pp=world, schedule=schedule)
    parts = [local(model, layout, [stage]) for stage in range(world)]
    offset = sum(part.layers for part in parts[:rank])
    root = _made(parts[rank])
    module = Stage(root, first=rank == 0)
    given = whole.state_dict()
    names = {name: re.sub(r"\.(\d+)\.", lambda found: f".{int(found[1]) + offset}.", name, count=1)
             for name in root.state_dict()}
    root.load_state_dict({name: given[names[name]] for name in names})
    place = PipelineStage(module, rank, world, torch.device("cpu"))
    last = rank == world - 1
    step = SCHEDULES[schedule](place, count, loss_fn=root.loss if last else nn.functional.mse_loss, scale_grads=False)
    out = step.step(*([run.tokens] if rank == 0 else []), **({"target": run.targets[0]} if last else {}))
    if last:
        torch.testing.assert_close(out.detach(), logits)
    for name, p in root.named_parameters():
        expected = dict(whole.named_parameters())[names[name]].grad
        assert p.grad is not None and expected is not None
        torch.testing.assert_close(p.grad / count, expected, msg=name)  # losses are means over a micro-batch each
    return sum(p.numel() for p in root.parameters())


@pytest.mark.parametrize(("schedule", "world"), [("gpipe", 2), ("1f1b", 2), ("1f1b", 4)])
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_pipelines(name: str, schedule: str, world: int, ranks: Pools, tmp_path: Path) -> None:
    data = MODELS[name] | {"layers": 5, "head": {"tied": False}}
    held = together(ranks, tmp_path, world, _stage, data, schedule)
    assert sum(held) == sum(p.numel() for p in _made(Model.from_data(data)).parameters())
