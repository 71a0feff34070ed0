"""The matrix products of a training step, one by one: those that PyTorch runs have the recorded sizes."""

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

from txcalc.check import measure
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

Sizes = Counter[tuple[int, tuple[int, ...]]]
GPT = {
    "name": "gpt", "vocab": 101, "d_model": 24, "layers": 3, "context": 19, "position": {"kind": "learned"},
    "attention": {"heads": 3, "head_dim": 8, "bias": True}, "feed_forward": {"d_ff": 40, "bias": True},
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt": GPT,
    "gated": GPT | {"feed_forward": {"d_ff": 41, "gated": True}, "position": {"kind": "rope"}, "head": {"tied": False}},
    "relative": GPT | {"position": {"kind": "relative", "buckets": 8}},
    "latents": GPT | {"position": {"kind": "rope"}, "attention": {
        "kind": "mla", "heads": 3, "q_rank": 11, "kv_rank": 10, "nope_dim": 7, "rope_dim": 4, "value_dim": 5}},
    "lstm": {"name": "lstm", "vocab": 101, "d_model": 24, "layers": 2, "context": 19, "position": "none",
             "recurrent": {"kind": "lstm", "hidden": 24}, "norm": {"placement": "none"}, "residual": "none",
             "feed_forward": None, "final_norm": False},
}


class Products(TorchDispatchMode):
    """How many products (batch, m, k) x (batch, k, n) run; the three sizes sorted, as a transposed product is one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Sizes = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:]
            batch = a.shape[0] if a.dim() == 3 else 1
            self.seen[batch, tuple(sorted((*a.shape[-2:], b.shape[-1])))] += 1
        return func(*args, **(kwargs or {}))


def recorded(spec: Model, batch: int, seq: int) -> Sizes:
    run = trace(spec, Workload(phase="training", batch=batch, seq=seq, attention="eager", latents="expanded"))
    found: Sizes = Counter()
    for op, often in run.placed:
        for product in op.products:
            # What all steps of a cell do on the way back is recorded as one batch.
            batch, times = (product.batch, 1) if product.forward else (1, product.batch)
            many = often.calls * product.forward + often.back * product.backward * times
            found[batch, tuple(sorted((product.m, product.n, product.k)))] += many
    return found


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("name", list(MODELS))
def test_every_product_runs_with_its_sizes(name: str, batch: int) -> None:
    spec = Model.from_data(MODELS[name])
    with Products() as real:
        measure.flops(spec, batch, 7, loss=True, backward=True)
    assert real.seen == recorded(spec, batch, 7)
    assert len(real.seen) >= 3
