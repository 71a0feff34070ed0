"""Latent attention to chosen keys: against the reference, and what a spec of it may not say."""

from __future__ import annotations

from typing import Any

import pytest

import txcalc
from txcalc.answer.conventions import conventions
from txcalc.answer.report import count
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.sizes import block_pairs, whole_blocks
from txcalc.trace.workload import Workload

INDEXER = {"heads": 5, "head_dim": 8}
BLOCKS = {"heads": 3, "head_dim": 8, "block": 4, "blocks": 2}
ATTENTION: dict[str, Any] = {"kind": "mla", "heads": 3, "q_rank": 26, "kv_rank": 14, "nope_dim": 12, "rope_dim": 6,
                             "value_dim": 10, "index_topk": 7}
BASE: dict[str, Any] = {
    "name": "sparse", "vocab": 101, "d_model": 30, "layers": 4, "context": 64, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": ATTENTION, "feed_forward": {"d_ff": 37, "activation": "silu"},
}
STACKS: dict[str, dict[str, Any]] = {
    "an indexer in every layer": {"attention": {**ATTENTION, "indexer": INDEXER}},
    "one for two layers": {"groups": [{"repeat": 2, "blocks": [{"attention": {"indexer": INDEXER}}, {}]}]},
    "blocks of keys": {"attention": {"heads": 6, "kv_heads": 3, "head_dim": 6, "indexer": BLOCKS}},
    "means of blocks": {"attention": {"heads": 6, "kv_heads": 3, "head_dim": 6, "indexer": {
        **BLOCKS, "heads": 5, "averaged": True}}},
    "one for all, after a layer without": {"groups": [{"blocks": [
        {"attention": {"index_topk": None}}, {"attention": {"indexer": INDEXER}}, {"repeat": 2}]}]},
}


def model(**fields: Any) -> Model:
    return Model.from_data({**BASE, **fields})


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "means of blocks"))
                                  for name in STACKS])
def test_the_reference_agrees(name: str) -> None:
    pytest.importorskip("torch")
    from txcalc.check.validate import validate

    result = validate(model(**STACKS[name]))
    assert result.agrees, [row for row in result.rows if row.verdict != "equal"]


def test_an_indexer_s_key_is_cached_beside_the_latent() -> None:
    for name, indexers in (("an indexer in every layer", 4), ("one for two layers", 2)):
        totals = count(model(**STACKS[name]), Workload(phase="prefill", seq=11, batch=3)).totals
        assert totals.kv_cache_bytes is not None
        assert totals.kv_cache_bytes.value == 2 * 3 * 11 * (4 * (14 + 6) + indexers * 8)


@pytest.mark.parametrize("past", [0, 5, 6, 7, 40])
def test_pairs_that_are_not_chosen_are_skipped_where_masked_ones_are(past: int) -> None:
    spec = model(**STACKS["an indexer in every layer"])
    t = trace(spec, Workload(phase="decode", seq=3, past=past, batch=2, latents="expanded"))
    flops = {op.path: sum(each.flops("skipped") for each in op.products) for op in t.ops if op.kind.group == "core"}
    visible = [past + i + 1 for i in range(3)]
    assert flops["layers.attention.core.scores"] == 2 * 2 * 3 * 18 * sum(min(keys, 7) for keys in visible)
    assert flops["layers.attention.indexer.scores"] == 2 * 2 * 5 * 8 * sum(visible)
    assert flops["layers.attention.indexer.mix"] == 2 * 2 * 5 * sum(visible)


def test_it_is_said_that_an_indexer_has_no_gradient() -> None:
    for more, said in (({"indexer": INDEXER}, True), ({"index_topk": None}, False)):
        spec = model(attention={**ATTENTION, **more})
        assert ("indexer" in {rule.id for rule in conventions(spec, trace(spec, Workload(seq=3)))}) == said


@pytest.mark.parametrize(("attention", "words"), [
    ({"index_topk": None, "indexer": INDEXER}, "how many keys"), ({"q_rank": None, "indexer": INDEXER}, "query latent"),
    ({"indexer": {**INDEXER, "head_dim": 5}}, "less than rope_dim"), ({}, "no layer before"),
])
def test_what_chooses_nothing_is_refused(attention: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(attention={**ATTENTION, **attention})


@pytest.mark.parametrize(("attention", "words"), [
    ({"value_dim": 10}, "leave it out"), ({"gate_over": "head"}, "needs output_gate"),
    ({"gate_activation": "softplus"}, "needs output_gate"),
])
def test_widths_and_gates_that_say_nothing_are_refused(attention: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(attention={"heads": 3, **attention})


ACROSS = {"architecture": "encoder-decoder", "encoder": {}}


@pytest.mark.parametrize(("changes", "field"), [
    ({"attention": {"heads": 3, "kept_keys": 4, "window": 5}}, "attention.window"),
    ({"attention": {"heads": 3, "kept_keys": 4, "chunk": 5}}, "attention.chunk"),
    (ACROSS | {"cross_attention": {"heads": 3, "window": 5}}, "cross_attention.window"),
    (ACROSS | {"cross_attention": {"heads": 3, "chunk": 5}}, "cross_attention.chunk"),
    ({"architecture": "encoder-only", "position": {"kind": "rope"}, "attention": {
        "heads": 3, "head_dim": 4, "blocks": {"length": 3}}}, "attention.blocks"),
    (ACROSS | {"input": {"kind": "tokens", "mask_token": True}}, "input.mask_token"),
])
def test_what_no_class_has_together_is_refused(changes: dict[str, Any], field: str) -> None:
    """Their figures would not be what the reference measures, or it could not run."""
    with pytest.raises(SpecError) as caught:
        Model.from_data({"name": "x", "vocab": 31, "layers": 2, "context": 29, "d_model": 15, "attention": {"heads": 3},
                         "feed_forward": {"d_ff": 23}, "position": {"kind": "none"}} | changes)
    assert (caught.value.field or "").rpartition("].")[2] == field


def test_cross_attention_takes_no_chunks_from_the_decoder() -> None:
    spec = Model.from_data({"name": "x", "vocab": 31, "layers": 2, "context": 29, "d_model": 15, "position": "none",
                            "attention": {"heads": 3, "chunk": 4}, "feed_forward": {"d_ff": 23}, **ACROSS})
    assert spec.cross_attention is not None and spec.cross_attention.chunk is None


@pytest.mark.parametrize(("block", "blocks"), [(1, 1), (3, 1), (4, 3), (5, 2)])
@pytest.mark.parametrize("past", [0, 7, 19])
def test_a_query_sees_whole_blocks_and_its_own_up_to_itself(block: int, blocks: int, past: int) -> None:
    seen = sum((min(blocks, at // block + 1) - 1) * block + at % block + 1 for at in range(past, past + 23))
    assert block_pairs(23, past, block, blocks) == seen
    ends = [(at + 1) // block for at in range(past, past + 23)]  # of means of whole blocks
    assert whole_blocks(23, past, block) == sum(ends)
    seen = sum(min(blocks, whole) * block + (past + i + 1) % block for i, whole in enumerate(ends))
    assert block_pairs(23, past, block, blocks, whole_ones=True) == seen


@pytest.mark.parametrize(("changes", "field"), [
    ({"window": 5}, "attention.window"), ({"indexer": {**BLOCKS, "heads": 2}}, "attention.indexer.heads"),
    ({"indexer": {**BLOCKS, "head_dim": 3}}, "attention.indexer"),
])
def test_an_indexer_of_blocks_that_fits_no_attention_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        Model.from_data({"name": "x", "vocab": 31, "layers": 2, "context": 29, "d_model": 15,
                         "attention": {"heads": 3, "head_dim": 4, "indexer": BLOCKS} | changes,
                         "position": {"kind": "rope"},
                         "feed_forward": {"d_ff": 23}})
    assert (caught.value.field or "").rpartition("].")[2] == field


@pytest.mark.parametrize(("run", "field"), [({"lora": "r=2,targets=q"}, "lora"), ({"tp": 3}, "tp")])
def test_an_indexer_of_blocks_takes_neither_adapters_nor_ranks(run: dict[str, Any], field: str) -> None:
    """PEFT would adapt the indexer's projections of the same names; no rank's part of its choice is proved."""
    with pytest.raises(SpecError) as caught:
        txcalc.count(model(**STACKS["blocks of keys"]), seq=5, **run)
    assert caught.value.field == field
