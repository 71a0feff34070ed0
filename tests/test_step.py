"""Live bytes of a whole training step in steady state, weights and states among them: the reference's, and ours."""

from collections.abc import Iterable
from math import prod
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.test_live import GPT, LLAMA
from txcalc.check.fake_cuda import NotRun
from txcalc.check.live import measured
from txcalc.count import step
from txcalc.count.entries import total
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.tensors import Role
from txcalc.trace.workload import Workload

MODELS = {"gpt": GPT, "llama": LLAMA}


def run(name: str, **more: Any) -> tuple[Model, Workload, Trace]:
    spec, workload = Model.from_data(MODELS[name]), {"phase": "training", "kernels": "cpu", "batch": 2, "seq": 7} | more
    return spec, Workload(**workload), trace(spec, Workload(**workload))


def changes(events: Iterable[tuple[str, int]]) -> list[int]:
    """The live bytes wherever they change, those between two operations once."""
    found: list[tuple[str, int]] = []
    for path, live in events:
        if found and live == found[-1][1]:
            continue
        if len(found) > 1 and not path and not found[-1][0]:
            found.pop()
        found.append((path, live))
    return [live for _, live in found]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("kernels", ["cpu", "cuda"])
def test_a_whole_step(name: str, dtype: str, kernels: str) -> None:
    spec, w, t = run(name, dtype=dtype, kernels=kernels)
    try:
        real = changes(measured("step_live_bytes", spec, w, "cpu" if kernels == "cpu" else "fake-cuda"))
    except NotRun as reason:
        pytest.skip(f"not run: {reason}")
    assert len(real) > 100
    assert changes((event.path, sum(event.live.values())) for event in step.events(t, in_place=False)) == real


@pytest.mark.parametrize("run_of", [{}, {"phase": "forward"}, {"phase": "prefill"}, {"phase": "decode", "past": 5}],
                         ids=["training", "forward", "prefill", "decode"])
@pytest.mark.parametrize("name", list(MODELS))
def test_the_peaks_of_the_phases_are_the_highest_events(name: str, run_of: dict[str, Any]) -> None:
    _, _, t = run(name, **run_of)
    peaks: dict[str, int] = {}
    for event in step.events(t):
        peaks[event.phase] = max(peaks.get(event.phase, 0), sum(event.live.values()))
    assert {each.name: each.peak_bytes for each in step.phases(t)} == peaks
    assert total(step.at_peak(t)) == max(peaks.values())
    first = next(step.events(t)).live
    there = step.resident(t)
    assert {part: total(each for each in there if each.part == part) for part in first} == first


@pytest.mark.parametrize("run_of", [{}, {"phase": "decode", "past": 5}], ids=["training", "decode"])
@pytest.mark.parametrize("name", list(MODELS))
def test_every_storage_is_rounded_as_asked(name: str, run_of: dict[str, Any]) -> None:
    """Three times the bytes of each are three times the peak; of weights, each tensor is a storage."""
    _, _, t = run(name, **run_of)
    plain = [each.peak_bytes for each in step.phases(t)]
    assert [each.peak_bytes for each in step.phases(t, rounded=lambda size: 3 * size)] == [3 * each for each in plain]
    sizes: list[int] = []
    step.phases(t, rounded=lambda size: sizes.append(size) or size)  # type: ignore[func-returns-value]
    width = t.workload.bytes_of(Role.ACTIVATION)
    for op in t.ops:
        assert all(prod(shape) * width in sizes for _, shape in op.weights), op.path
