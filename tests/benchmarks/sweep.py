"""Configurations counted per second: in one call on arrays, and one by one on ints."""

import resource
import time

import numpy as np

from txcalc.answer.sweep import SWEPT, sweep
from txcalc.count.entries import total
from txcalc.count.totals import TOTALS
from txcalc.spec.model import Model
from txcalc.spec.replace import replace
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

MANY, FEW = 1_000_000, 1_000


def main() -> None:
    spec = Model.from_data({
        "name": "decoder", "vocab": 50257, "d_model": 768, "layers": 12, "context": 1024,
        "attention": {"heads": 12}, "feed_forward": {"d_ff": 3072}, "position": {"kind": "rope"},
    })
    work = Workload.training(seq=1024)
    rng = np.random.default_rng(0)
    d = 12 * rng.integers(8, 512, MANY)
    layers = rng.integers(1, 97, MANY)
    sizes = {"d_model": d, "attention.head_dim": d // 12, "feed_forward.d_ff": 4 * d, "layers": layers}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    totals = sweep(spec, work, sizes, {"seq": rng.integers(1, 8193, MANY)})
    arrays = MANY / (time.perf_counter() - start)
    answer = sum(values.nbytes for values in totals.values()) / 2**20
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 - answer
    start = time.perf_counter()
    for i in range(FEW):
        run = trace(replace(spec, {path: int(values[i]) for path, values in sizes.items()}), work)
        for name in SWEPT:
            total(TOTALS[name].entries(run))
    ints = FEW / (time.perf_counter() - start)
    print(f"{MANY:,} configurations in one call: {arrays:,.0f} per second ({', '.join(totals)})")
    print(f"memory beyond the answer's {answer:,.0f} MiB: {more:,.0f} MiB")
    print(f"one by one on ints: {ints:,.0f} per second; ratio {arrays / ints:,.0f}")


if __name__ == "__main__":
    main()
