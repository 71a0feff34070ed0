"""The programs run on ints, polynomials and float64 arrays, and agree."""

from typing import Any

import numpy as np
import pytest

from txcalc.answer.sweep import SWEPT, sweep
from txcalc.count.entries import total
from txcalc.count.flops import forward_flops
from txcalc.count.params import params
from txcalc.count.totals import TOTALS
from txcalc.derivation.polynomial import Poly, atomic, poly
from txcalc.spec.model import Model
from txcalc.spec.replace import replace
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload

GPT2 = Model.from_data({
    "name": "gpt2", "vocab": 50257, "d_model": 768, "layers": 12, "context": 1024,
    "attention": {"heads": 12, "bias": True},
    "feed_forward": {"d_ff": 3072, "activation": "gelu_tanh", "bias": True},
    "position": {"kind": "learned"},
})
WINDOWED = Model.from_data({
    "name": "windowed", "vocab": 101, "d_model": 30, "context": 64, "position": "none",
    "attention": {"heads": 6, "kv_heads": 3, "head_dim": 7},
    "feed_forward": {"kind": "moe", "d_ff": 11, "experts": 5, "active_experts": 2},
    "norm": {"kind": "rmsnorm"},
    "groups": [
        {"repeat": 3, "blocks": [{"repeat": 2, "attention": {"window": 5}}, {}]},
        {"blocks": [{"feed_forward": {"kind": "dense", "d_ff": 13}}]},
    ],
})


def sum_of(name: str, run: Trace) -> Any:
    return total(TOTALS[name].entries(run))


def symbols(names: str) -> tuple[Poly, ...]:
    return tuple(map(atomic, names.split()))


def test_gpt2_in_symbols() -> None:
    L, d, V, n, h, b, s = symbols("L d V n h b s")
    spec = replace(GPT2, {
        "layers": L, "d_model": d, "vocab": V, "position.size": n, "attention.heads": h, "attention.kv_heads": h,
        "attention.head_dim": d / h, "feed_forward.d_ff": 4 * d,
    })
    run = trace(spec, Workload(seq=1, attention="eager").replaced(batch=b, seq=s))
    assert params(run) == L * (12 * d**2 + 13 * d) + V * d + n * d + 2 * d
    assert forward_flops(run) == 2 * b * s * d * (12 * L * d + 2 * L * s + V)


@pytest.mark.parametrize("attention", ["eager", "flash"])
@pytest.mark.parametrize("phase", ["training", "decode"])
def test_symbols_evaluate_to_the_counts(attention: str, phase: str) -> None:
    past = {"past": 3} if phase == "decode" else {}
    work = Workload(phase=phase, seq=17, attention=attention, dropout=0.1, **past)  # type: ignore[arg-type]
    w, r, s, d = symbols("w r s d")
    spec = replace(WINDOWED, {"groups.0.blocks.0.attention.window": w, "groups.0.repeat": r, "d_model": d})
    symbolic = trace(spec, work.replaced(seq=s))
    exact = trace(WINDOWED, work)
    for name in SWEPT:
        assert poly(sum_of(name, symbolic)).value({"w": 5, "r": 3, "s": 17, "d": 30}) == sum_of(name, exact), name


def test_arrays_agree_with_ints() -> None:
    d = np.array([64, 96, 120])
    layers = np.array([2, 3, 5])
    work = Workload(phase="training", seq=33, attention="eager", dropout=0.1)
    found = sweep(GPT2, work, {"d_model": d, "layers": layers, "attention.head_dim": d // 12, "position.size": 7 * d},
                  {"seq": np.array([7, 8, 9])})
    for i in range(3):
        spec = replace(GPT2, {"d_model": int(d[i]), "layers": int(layers[i]), "attention.head_dim": int(d[i]) // 12,
                              "position.size": 7 * int(d[i])})
        run = trace(spec, work.replaced(seq=7 + i))
        for name in SWEPT:
            assert found[name][i] == sum_of(name, run), name


def test_arrays_cross_a_window() -> None:
    lengths = np.arange(1, 12)
    work = Workload(seq=1)
    found = sweep(WINDOWED, work, {}, {"seq": lengths})
    for i, seq in enumerate(lengths):
        run = trace(WINDOWED, work.replaced(seq=int(seq)))
        for name in ("flops_forward", "flops_skipped", "kv_cache_bytes"):
            assert found[name][i] == sum_of(name, run), name


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(KeyError, match=r"attention\.head"):
        replace(GPT2, {"attention.head": 3})
