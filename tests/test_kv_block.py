"""What a paged engine allocates: against a list of blocks, token by token."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from txcalc.answer.report import Totals, count
from txcalc.answer.sweep import Table
from txcalc.count.entries import total
from txcalc.count.kv_cache import allocated, kv_cache_bytes
from txcalc.explain.polynomial import atomic
from txcalc.huggingface.importer import spec_from_config
from txcalc.spec.model import Model
from txcalc.trace.cache import Cache
from txcalc.trace.model import trace
from txcalc.trace.sizes import least
from txcalc.trace.workload import Workload

FACTS = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
TINY: dict[str, Any] = {"name": "tiny", "vocab": 97, "d_model": 24, "layers": 5, "context": 4096, "norm": {},
                        "attention": {"heads": 6, "kv_heads": 2, "head_dim": 7}, "feed_forward": {"d_ff": 41},
                        "position": "none"}


def spec(**attention: Any) -> Model:
    return Model.from_data({**TINY, "attention": {**TINY["attention"], **attention}})


def totals(model: Model, **workload: Any) -> Totals:
    return count(model, Workload(**workload)).totals


def blocks(tokens: range, size: int) -> int:
    return len({token // size for token in tokens})


@pytest.mark.parametrize("size", [1, 3, 16, 128])
@pytest.mark.parametrize("past", [0, 1, 15, 16, 17, 47, 48, 1000])
def test_full_attention_rounds_up_per_sequence_and_layer(size: int, past: int) -> None:
    found = totals(spec(), phase="decode", seq=1, past=past, batch=3, kv_block=size).kv_cache_allocated_bytes
    assert found is not None
    assert found.value == 3 * 5 * blocks(range(past + 1), size) * size * 2 * 2 * 7 * 2
    assert (found.unit, found.kind) == ("B", "exact")


@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("past", [0, 9, 10, 11, 31, 32, 33, 500])
def test_a_window_keeps_the_blocks_that_it_touches(size: int, past: int) -> None:
    tokens = range(max(0, past + 1 - 11), past + 1)
    found = totals(spec(window=11), phase="decode", seq=1, past=past, kv_block=size).kv_cache_allocated_bytes
    assert found is not None
    assert found.value == 5 * blocks(tokens, size) * size * 2 * 2 * 7 * 2
    assert blocks(tokens, size) <= -(-11 // size) + 1


def test_a_chunk_begins_with_a_block() -> None:
    found = totals(spec(chunk=32), seq=100, phase="prefill", kv_block=16).kv_cache_allocated_bytes
    assert found is not None
    assert found.value == 5 * 32 * 2 * 2 * 7 * 2


def test_blocks_of_one_token_allocate_what_is_needed() -> None:
    for name in ("gpt-oss-20b", "deepseek-v3", "qwen3-next-80b-a3b", "gemma-2-2b", "llama-4-scout-text", "t5-small"):
        model = Model.from_data(spec_from_config(FACTS[name]["config"], "config.json", name))
        found = totals(model, seq=300, phase="prefill", kv_block=1)
        assert found.kv_cache_allocated_bytes == found.kv_cache_bytes, name


def test_a_recurrent_state_is_not_paged() -> None:
    model = Model.from_data(spec_from_config(FACTS["qwen3-next-80b-a3b"]["config"], "config.json", "hybrid"))
    report = count(model, Workload(seq=17, phase="prefill", kv_block=16))
    assert [line.kind for line in report.caches] == ["state", "state", "full"]
    states, full = report.caches[:2], report.caches[2]
    assert all(line.bytes == line.allocated_bytes for line in states)
    assert full.allocated_bytes == full.bytes // 17 * 32


def test_latents_and_the_source_are_paged() -> None:
    latent = Model.from_data(spec_from_config(FACTS["deepseek-v3"]["config"], "config.json", "latent"))
    line = count(latent, Workload(seq=17, phase="prefill", kv_block=16)).caches[0]
    assert (line.kind, line.layers, line.tokens) == ("latent", 3, 17)
    assert line.allocated_bytes == line.bytes // 17 * 32
    pair = Model.from_data(spec_from_config(FACTS["t5-small"]["config"], "config.json", "pair"))
    own, cross = count(pair, Workload(seq=5, source_seq=33, phase="prefill", kv_block=16)).caches
    assert (own.kind, own.tokens, cross.kind, cross.tokens) == ("full", 5, "cross", 33)
    assert (own.allocated_bytes, cross.allocated_bytes) == (own.bytes // 5 * 16, cross.bytes // 33 * 48)


@pytest.mark.parametrize("name", [name for name in FACTS if "kv" in FACTS[name]])
def test_lines_add_up(name: str) -> None:
    model = Model.from_data(spec_from_config(FACTS[name]["config"], "config.json", name))
    lengths = {"seq": 77} if model.encoder is None else {"seq": 77, "source_seq": None}
    report = count(model, Workload(batch=2, phase="prefill", kv_block=16, **lengths))  # type: ignore[arg-type]
    assert report.totals.kv_cache_bytes is not None
    assert report.totals.kv_cache_allocated_bytes is not None
    assert sum(line.bytes for line in report.caches) == report.totals.kv_cache_bytes.value
    allocated = sum(line.allocated_bytes or 0 for line in report.caches)
    assert allocated == report.totals.kv_cache_allocated_bytes.value >= report.totals.kv_cache_bytes.value


def test_null_without_blocks_and_without_a_cache() -> None:
    assert totals(spec(), seq=9, phase="prefill").kv_cache_allocated_bytes is None
    encoder = Model.from_data({**TINY, "architecture": "encoder-only"})
    assert totals(encoder, seq=9, kv_block=16).kv_cache_allocated_bytes is None
    assert count(encoder, Workload(seq=9)).caches == ()


def test_symbols_and_arrays() -> None:
    n, size = atomic("n"), atomic("b")
    cache = Cache("self", 28, n, 1)
    assert cache.blocks(size).value({"n": 33, "b": 16}) == 3
    window = Cache("self", 28, least(n, 11), 1, layout="window", end=n)
    assert window.blocks(16).value({"n": 33}) == 2
    rows = numpy.arange(4)
    table = Table([numpy.array([2.0, 16.0, 17.0, 33.0])], rows)
    w = Workload(phase="prefill", seq=1, kv_block=16).replaced(seq=table.columns()[0])
    [(_, found)] = table.blocks([total(allocated(trace(spec(), w))), kv_cache_bytes(trace(spec(), w))])
    assert [list(values // (5 * 56)) for values in found] == [[16, 16, 32, 48], [2, 16, 17, 33]]
