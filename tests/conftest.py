"""Property tests take the same examples every day, and as long as the machine needs; each worker one thread."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: there is a worker for every core
os.environ["TXCALC_CACHE"] = ""  # every test reads anew, but those of the cache
settings.register_profile("every run", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("every run")


@pytest.fixture(scope="module")
def fake_tensors() -> None:
    """CUDA's operators without a GPU, or no tests."""
    from txcalc.check import fake_cuda

    try:
        fake_cuda.start()
    except fake_cuda.NotRun as reason:
        pytest.skip(f"not run: {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a grid's cases let one in so many run every time, and the others with the slow ones."""
    seen = Counter[str]()
    for item in items:
        grid = item.get_closest_marker("grid")
        if grid is not None:
            name = item.nodeid.partition("[")[0]
            if seen[name] % grid.args[0]:
                item.add_marker("slow")
            seen[name] += 1
