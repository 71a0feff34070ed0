"""Configurations counted per second: in one call on arrays, and one by one on ints."""

import time

import numpy as np

from txcalc.answer.sweep import FOLDS, sweep
from txcalc.spec.model import Model
from txcalc.spec.replace import replace
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

MANY, FEW = 1_000_000, 1_000


def main() -> None:
    spec = Model.model_validate({
        "name": "decoder", "vocab": 50257, "d_model": 768, "layers": 12, "context": 1024,
        "attention": {"heads": 12}, "feed_forward": {"d_ff": 3072}, "position": {"kind": "rope"},
    })
    work = Workload.training(seq=1024)
    rng = np.random.default_rng(0)
    d = 12 * rng.integers(8, 512, MANY)
    layers = rng.integers(1, 97, MANY)
    sizes = {"d_model": d, "attention.head_dim": d // 12, "feed_forward.d_ff": 4 * d, "layers": layers}
    start = time.perf_counter()
    totals = sweep(spec, work, sizes, {"seq": rng.integers(1, 8193, MANY)})
    arrays = MANY / (time.perf_counter() - start)
    start = time.perf_counter()
    for i in range(FEW):
        run = trace(replace(spec, {path: int(values[i]) for path, values in sizes.items()}), work)
        for fold in FOLDS.values():
            fold(run)
    ints = FEW / (time.perf_counter() - start)
    print(f"{MANY:,} configurations in one call: {arrays:,.0f} per second ({', '.join(totals)})")
    print(f"one by one on ints: {ints:,.0f} per second; ratio {arrays / ints:,.0f}")


if __name__ == "__main__":
    main()
