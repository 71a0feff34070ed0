"""The programs run on ints, polynomials and float64 arrays, and agree."""

from typing import Any

import numpy as np
import pytest

from txcalc.answer.sweep import BLOCK, SWEPT, Split, Table, sweep
from txcalc.count.entries import total
from txcalc.count.flops import forward_flops
from txcalc.count.params import params
from txcalc.count.totals import TOTALS
from txcalc.explain.polynomial import Poly, atomic, poly
from txcalc.spec.model import Model
from txcalc.spec.replace import replace
from txcalc.trace.model import trace
from txcalc.trace.record import Trace
from txcalc.trace.sizes import least, same
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


def test_columns_compute_as_numbers_do() -> None:
    values, other = np.array([1.0, 6.0, 9.0]), np.array([7.0, 2.0, 9.0])
    table = Table([values, other], np.arange(3))
    a, b = table.columns()
    sums = [a + 0, 3 + a, a - b, 5 - a, a * 1, a * 0, 2 * a * b, a**2, a // 4, 13 // a, -(-a // 4), a % 4, a / 2,
            a.least(b), least(a, 5), least(5, a), a * b - b * a]
    expected = [values, 3 + values, values - other, 5 - values, values, 0 * values, 2 * values * other, values**2,
                values // 4, 13 // values, -(-values // 4), values % 4, values / 2, np.minimum(values, other),
                np.minimum(values, 5), np.minimum(values, 5), 0 * values]
    [(_, found)] = table.blocks(sums)
    for got, wanted in zip(found, expected, strict=True):
        assert (got == wanted).all()
    assert a < 10 and a > 0 and bool(a) and same(a, a) and not same(a, 5)
    with pytest.raises(Split) as split:
        _ = a == b
    assert list(split.value.holds) == [False, False, True]


def test_quotients_of_columns_are_exact_up_to_the_largest_whole_number() -> None:
    for divisor in (1, 2, 3, 7, 32, 1024, 2**26 - 5):
        near = [k * divisor + off for k in (1, 2**20 + 1, (2**53 - 1) // divisor) for off in (-1, 0, 1)]
        whole = [n for n in near if 0 <= n < 2**53]
        table = Table([np.array(whole, dtype=np.float64)], np.arange(len(whole)))
        [(_, [found])] = table.blocks([table.columns()[0] // divisor])
        assert [int(each) for each in found] == [n // divisor for n in whole]


def test_blocks_join_up() -> None:
    many = 2 * BLOCK + 3
    values = np.arange(1, many + 1)
    found = sweep(GPT2, Workload(seq=1), {}, {"seq": values})
    for i in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK, many - 1):
        run = trace(GPT2, Workload(seq=int(values[i])))
        assert found["flops_forward"][i] == sum_of("flops_forward", run)
        assert found["activation_bytes"][i] == sum_of("activation_bytes", run)
