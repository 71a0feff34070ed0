"""Figures that stand in a report twice, or in two parts: with masked pairs and without, fixed and per token."""

from __future__ import annotations

from functools import cache

import pytest

from txcalc.answer.fit import fit
from txcalc.answer.report import SKIPPED, Component, Report, Totals, count, growth
from txcalc.count.entries import total
from txcalc.count.flops import Pass, entries
from txcalc.count.kv_cache import kv_cache_bytes
from txcalc.models.library import names
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.facts import is_causal
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.sizes import visible_pairs
from txcalc.trace.workload import Workload

PRESETS = [info.name for info in names() if info.origin == "built-in"]
CAUSAL = [name for name in PRESETS if is_causal(load(name).model)]
LENGTHS = (1, 7, 127, 128, 129, 1023, 1024, 4095, 4096, 4097, 8192, 131_071)


@cache
def preset(name: str) -> Model:
    return load(name).model


def test_as_many_generate_as_ever() -> None:
    assert len(CAUSAL) > 150


@pytest.mark.grid(9)
@pytest.mark.parametrize("name", CAUSAL)
def test_a_cache_is_its_fixed_part_and_its_slope_times_the_tokens(name: str) -> None:
    """And the slope is what the next token really adds."""
    spec, compared = preset(name), 0
    source = {"source_seq": 37} if spec.encoder is not None and spec.encoder.input.kind == "tokens" else {}
    for past in LENGTHS:
        try:
            now, then = (fit(spec, Workload.decode(past=past + more, batch=3, kv_dtype="fp16", **source))
                         for more in (0, 1))
        except SpecError:  # a learned table that ends before
            continue
        t = trace(spec, now)
        found, held = growth(t), kv_cache_bytes(t)
        if found is None:
            continue
        assert found.fixed_bytes + found.bytes_per_token * 3 * (past + 1) == held
        assert kv_cache_bytes(trace(spec, then)) == held + 3 * found.bytes_per_token
        assert sum(line.bytes_per_token for line in count(spec, now).caches) == found.bytes_per_token
        compared += 1
    assert compared >= 4


def report(name: str, **given: object) -> Report:
    return count(preset(name), Workload(**{"seq": 2048, **given}))  # type: ignore[arg-type]


def test_windows_that_are_full_grow_no_further() -> None:
    found = report("gemma4-26b-a4b", seq=131_072).kv_cache
    assert found is not None
    assert (found.fixed_bytes, found.bytes_per_token) == (200 * 2**20, 20 * 2**10)
    for seq, each in ((1023, 220 * 2**10), (1024, 20 * 2**10)):
        found = report("gemma4-26b-a4b", seq=seq).kv_cache
        assert found is not None and found.bytes_per_token == each


def test_model_and_hardware_flops_per_token() -> None:
    """nanochat's own estimate is 6N + 12Lhks; the scores that flash attention computes again are 2Lhks more."""
    t = report("nanochat-d20", phase="training").totals
    values = [getattr(t, name).value for name in SKIPPED.values() if name.startswith("flops_model")]
    assert t.flops_model_per_token is not None and t.flops_hardware_per_token is not None
    assert (t.flops_model_per_token.value, values) == (3_491_758_080, [3_177_338_880])
    assert t.flops_hardware_per_token.value == 3_596_615_680
    eager = report("nanochat-d20", phase="training", attention="eager").totals
    assert eager.flops_hardware_per_token == eager.flops_model_per_token == t.flops_model_per_token
    assert eager.flops_recomputed is not None and eager.flops_recomputed.value == 0


@pytest.mark.parametrize("name", ["gpt2", "mistral-7b", "gemma3-27b", "deepseek-v3.2", "t5-small", "bert-base"])
@pytest.mark.parametrize("phase", ["forward", "training"])
def test_one_trace_counts_with_masked_pairs_and_without(name: str, phase: str) -> None:
    found = report(name, phase=phase, seq=500)
    assert found == report(name, phase=phase, seq=500, masked="skipped").replaced(
        workload=found.workload, conventions=found.conventions)
    counted, skipped = found.totals, found.totals.shown("skipped")
    assert counted == counted.shown("counted")
    for part in SKIPPED.keys() & set(Component.names()):
        for totals, masked in ((counted, "counted"), (skipped, "skipped")):
            whole = getattr(totals, part)
            lines = [getattr(line.shown(masked), part) for line in found.components]  # type: ignore[arg-type]
            assert set(lines) == {None} if whole is None else sum(lines) == whole.value
    assert (counted.flops_backward is None) == (phase == "forward")


def pairs(found: Totals, width: int) -> int:
    """FLOPs of the core on one pair are 4 times the width of all heads."""
    return (found.flops_forward.value - found.flops_skipped.value) // (4 * width)


def test_what_is_masked_is_what_no_query_sees() -> None:
    n = 500
    gpt2, mistral, bert = (report(name, seq=n).totals for name in ("gpt2", "mistral-7b", "bert-base"))
    assert pairs(gpt2, 768 * 12) == n * n - n * (n + 1) // 2
    assert bert.flops_skipped == bert.flops_forward
    n = 5000
    mistral = report("mistral-7b", seq=n).totals
    assert pairs(mistral, 4096 * 32) == n * n - visible_pairs(n, 0, causal=True, window=4096)


def test_the_backward_pass_leaves_the_same_pairs_out() -> None:
    """Forward, both gradients of each product, and the scores once more: 2, 4 and 1 products a pair."""
    t = trace(preset("gpt2"), Workload(phase="training", seq=300))
    passes: tuple[Pass, ...] = ("forward", "backward", "recomputed")
    masked = [total(entries(t, each)) - total(entries(t, each, masked="skipped")) for each in passes]
    assert masked == [4 * 768 * 12 * 44850, 8 * 768 * 12 * 44850, 2 * 768 * 12 * 44850]
