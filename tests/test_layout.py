"""One rank of a run over several devices: what each has of a model, and layouts that do not fit it."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import txcalc
from txcalc.answer.fit import fit
from txcalc.cli.app import app
from txcalc.count import step
from txcalc.count.collectives import collectives
from txcalc.count.params import params
from txcalc.models.load import load
from txcalc.spec.model import Model
from txcalc.trace.layout import Layout
from txcalc.trace.model import trace
from txcalc.trace.rank import stage_bounds
from txcalc.trace.record import Trace
from txcalc.trace.workload import Workload


def test_one_rank_of_llama() -> None:
    """By hand, from the sizes that its config.json has."""
    d, f, v, layers, heads, kv, k, n, tp = 8192, 28672, 128256, 80, 64, 8, 128, 512, 8
    found = txcalc.count("llama3-70b", seq=n, tp=tp).totals
    matrices = (2 * d * heads * k + 2 * d * kv * k + 3 * d * f) // tp
    assert found.params.value == layers * (matrices + 2 * d) + 2 * v * d // tp + d
    assert found.flops_forward.value == 2 * n * (layers * matrices + v * d // tp) + layers * 4 * n * n * heads * k // tp
    assert found.kv_cache_bytes is not None and found.kv_cache_bytes.value == layers * 2 * kv * k * n * 2 // tp


@pytest.mark.parametrize(("model", "layout", "why"), [
    ("llama3-70b", {"tp": 3}, "tp: 3 ranks cannot share the 64 heads of llama3-70b evenly; 2 or 4 would do"),
    ("llama3-70b", {"pp": 81}, "pp: 81 stages of 80 layers: at most 80 would do"),
    ("llama3-70b", {"dp": 2, "ep": 2}, "ep: llama3-70b has no experts"),
    ("mixtral-8x7b", {"dp": 16, "ep": 16}, "ep: 16 ranks cannot share the 8 experts of mixtral-8x7b evenly; "
     "8 would do"),
    ("mixtral-8x7b", {"dp": 4, "ep": 3}, "ep: 3 ranks do not divide dp · cp, 4; 2 or 4 would do"),
    ("llama3-70b", {"tp": 2, "etp": 2}, "etp: llama3-70b has no experts"),
    ("mixtral-8x7b", {"tp": 4, "etp": 2}, "etp: experts are split over all tp ranks or over none: must be 1 or 4, got "
     "2"),
    ("gpt2", {"tp": 0}, "tp: must be a whole number of at least 1, got 0"),
    ("gpt2", {"zero": 4}, "zero: must be a stage, 0 to 3, got 4"),
    ("gpt2", {"zero": 1, "fsdp": "yes"}, "fsdp: shards by itself: give one of --fsdp and --zero"),
    ("gpt2", {"fsdp": "reshard=maybe"}, "fsdp.reshard: must be one of yes, no, got 'maybe'"),
    ("gpt2", {"schedule": "interleaved"}, "schedule: must be one of gpipe, 1f1b, interleaved:V, looped:V, zb, "
     "zb:V, zbv, dualpipe, got 'interleaved'; did you mean interleaved:V?"),
    ("llama3-8b", {"cp": 4, "tp": 4, "cp_comm": "a2a"}, "cp: 4 ranks cannot share the 2 key heads of a tp rank of "
     "llama3-8b evenly; 2 would do"),
    ("gpt2", {"cp": 2, "phase": "decode", "seq": 1, "past": 8}, "cp: tokens in the cache are not split over ranks yet; "
     "leave it out, or take a prompt alone, in memory and fit with --new 0"),
    ("gpt2", {"cp": 3, "cp_comm": "a2a"}, "cp: 64 positions are no equal parts for 3 ranks; leave it out, or give a "
     "multiple of 3"),
    ("jamba-v0.1", {"cp": 2, "cp_comm": "a2a"}, "cp: jamba-v0.1 has recurrent layers or convolutions, which is not "
     "built over several ranks that split each sequence"),
    ("t5-small", {"cp": 2}, "cp: t5-small has an encoder beside its decoder, which is not built over several ranks "
     "that split each sequence"),
    ("t5-small", {"pp": 2, "schedule": "interleaved:2"}, "schedule: t5-small has an encoder beside its decoder, whose "
     "ranks have one stage each; 1f1b, gpipe or zb would do"),
    ("t5-small", {"pp": 13}, "pp: 13 stages of 12 layers: at most 12 would do"),
    ("clip-vit-b32", {"pp": 2}, "pp: clip-vit-b32 has images that are compared with texts, which is not built over "
     "several stages"),
    ("rnnsearch", {"pp": 2}, "pp: rnnsearch has an encoder or a decoder with a cell, which is not built over several "
     "stages"),
])
def test_a_layout_that_does_not_fit(model: str, layout: dict[str, Any], why: str) -> None:
    with pytest.raises(txcalc.SpecError) as error:
        txcalc.count(model, **{"seq": 64, "phase": "training"} | layout)
    assert str(error.value) == why


def test_the_command_line_and_a_saved_report_have_the_layout(tmp_path: Any) -> None:
    path = tmp_path / "report.json"
    args = ["count", "qwen3-30b-a3b", "--tp", "2", "--dp", "4", "--ep", "4", "--json", "-o", str(path)]
    assert CliRunner().invoke(app, args).exit_code == 0
    again = CliRunner().invoke(app, ["count", str(path), "--dp", "8", "--json"])
    report = txcalc.count("qwen3-30b-a3b", tp=2, dp=8, ep=4)
    assert '"layout": {\n      "tp": 2,\n      "dp": 8,\n      "ep": 4\n    }' in again.stdout
    assert f'"value": {report.totals.params.value},' in again.stdout
    assert [Layout.of({"cp": 2, "cp_comm": each}) for each in ("p2p", "A2A")] == [
        Layout(cp=2, cp_comm=each) for each in ("ring", "all-to-all")]
    assert [Layout.of({"pp": 2, "schedule": each}).order for each in (  # type: ignore[union-attr]
        "1F1B", "Interleaved1F1B:2", "GPipe", "LoopedBFS:2", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV",
    )] == ["1f1b", "interleaved", "gpipe", "looped", "zb", "zbv", "dualpipe"]  # PyTorch's names
    assert Layout.of({"tp": 1, "sp": False}) is None and txcalc.count("gpt2", tp=1) == txcalc.count("gpt2")


@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "deepseek-v3", "jamba-v0.1", "gemma3-4b"])
@pytest.mark.parametrize("pp", [2, 3, 7])
def test_stages_have_all_layers_and_weights(name: str, pp: int) -> None:
    """A tied table is on the last stage once more."""
    spec = txcalc.load(name)
    run = Workload(seq=32)
    stages = [params(trace(spec, run.replaced(layout=Layout(pp=pp)), rank=rank)) for rank in range(pp)]
    table = spec.vocab * spec.d_model if spec.head.tied else 0  # type: ignore[operator, union-attr]
    assert sum(stages) == params(trace(spec, run)) + table
    assert params(trace(spec, run.replaced(layout=Layout(pp=pp)))) == max(stages)
    folded = Layout(pp=2, schedule="dualpipe")
    assert sum(params(trace(spec, run.replaced(layout=folded), rank=rank)) for rank in (0, 1)) == sum(stages)
    assert [end - start for start, end in stage_bounds(7, 3)] == [3, 2, 2]


# ---------------------------------------------------------------- the sum over all ranks

MLA = {"kind": "mla", "heads": 8, "kv_rank": 10, "q_rank": 14, "nope_dim": 6, "rope_dim": 4, "value_dim": 9}
MOE = {"kind": "moe", "experts": 8, "active_experts": 2, "d_ff": 16, "shared_experts": 1, "shared_d_ff": 24}
MIXERS: dict[str, dict[str, Any]] = {
    "gqa": {"attention": {"heads": 8, "kv_heads": 2, "head_dim": 16}},
    "mha": {"attention": {"heads": 8, "head_dim": 8, "bias": True}},
    "mla": {"attention": MLA},
    "mamba2": {"attention": None, "recurrent": {"kind": "mamba2", "heads": 8, "head_dim": 6, "state": 7, "groups": 8}},
    "delta": {"attention": None, "recurrent": {"kind": "gated-delta", "key_heads": 8, "value_heads": 8, "key_dim": 3,
                                               "value_dim": 5}},
}
FEEDS = {"dense": {"d_ff": 32}, "gated": {"d_ff": 16, "gated": True, "activation": "silu"}, "moe": MOE}


@st.composite
def layouts(draw: st.DrawFn) -> tuple[dict[str, Any], Layout, int]:
    """A model, and a layout that splits it."""
    layers = draw(st.integers(1, 7))
    feed = draw(st.sampled_from(sorted(FEEDS)))
    ep = draw(st.sampled_from((1, 2, 4))) if feed == "moe" else 1
    model = {
        "name": "any", "vocab": 8 * draw(st.integers(5, 13)), "d_model": 24, "layers": layers, "context": 64,
        "position": {"kind": "none"}, "head": {"tied": draw(st.booleans())}, "feed_forward": FEEDS[feed],
        **MIXERS[draw(st.sampled_from(sorted(MIXERS)))],
    }
    layout = Layout(tp=draw(st.sampled_from((1, 2, 4, 8))), pp=draw(st.integers(1, layers)), dp=ep * draw(
        st.integers(1, 2)), ep=ep, sp=draw(st.booleans()))
    if (attention := model["attention"]) is not None:
        rings = ["ring", "all-gather"] * ("kv_rank" not in attention)
        heads = ["all-to-all"] * (max(1, attention.get("kv_heads", 8) // layout.tp) % 2 == 0)
        layout = layout.replaced(cp=draw(st.sampled_from((1, 2))) if rings + heads else 1,
                                 cp_comm=draw(st.sampled_from([*rings, *heads] or [None])))
    return model, layout, 16 * draw(st.integers(1, 3))


def own(t: Trace) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Weights of a rank and FLOPs of both passes, those of masked pairs left out, by the operation, without the index
    of its group of layers."""
    found = Counter[str](), Counter[str](), Counter[str]()
    for op, often in t.placed:
        name = f"{op.kind.name} {op.path}"
        for weight, shape in op.weights:
            found[0][f"{name} {weight}"] += prod(shape) * often.copies
        for i, times in ((1, often.calls), (2, often.back)):
            runs = ((p.forward if i == 1 else p.backward) * p.flops("skipped") for p in op.products)
            found[i][name] += times * sum(runs)
    return found


@given(case=layouts())
@settings(max_examples=8, deadline=None)
def test_all_ranks_together_are_the_model(case: tuple[dict[str, Any], Layout, int]) -> None:
    check(case)


@pytest.mark.slow
@given(case=layouts())
@settings(max_examples=200, deadline=None)
def test_all_ranks_of_many_layouts_are_the_model(case: tuple[dict[str, Any], Layout, int]) -> None:
    check(case)


def check(case: tuple[dict[str, Any], Layout, int]) -> None:
    """Of what is split, each rank of tp or ep has as much; of the rest each has all, and a tied table is on the last
    stage too. Ranks that share experts run each its own batch."""
    data, layout, seq = case
    spec = Model.from_data(data)
    run = Workload(phase="training", seq=seq, batch=2)
    whole = own(trace(spec, run))
    ranks = [own(trace(spec, run.replaced(layout=layout), stage=stage)) for stage in range(layout.pp)]
    if layout.pp > 1 and data["head"]["tied"]:
        whole[0]["head head weight"] = data["vocab"] * data["d_model"]
    for quantity, expected in enumerate(whole):
        together = sum((rank[quantity] for rank in ranks), Counter[str]())
        for name, amount in expected.items():
            ways = _ways(spec, name, layout, quantity)
            assert together[name] * ways * (layout.cp if quantity else 1) == amount, (name, ways)
        assert set(+together) <= set(expected)


def _ways(spec: Model, name: str, layout: Layout, quantity: int) -> Any:
    """Ranks among which an operation's weights, or FLOPs, are split, by hand."""
    tp, (kind, path, weight) = layout.tp, [*name.split(" "), ""][:3]
    last = path.rpartition(".")[2]
    if weight == "bias" and last in ("o", "down"):  # each adds a part of it, and has all
        return 1
    if "experts" in name:
        return tp * layout.ep if quantity == 0 else tp
    split = last == "norm" and spec.recurrent is not None and spec.recurrent.kind == "mamba2"
    if (kind in ("norm", "router") and not split) or last in ("q_down", "kv_down"):
        return 1
    if last in ("k", "v"):
        return Fraction(tp, max(1, tp // spec.attention.kv_heads))  # type: ignore[union-attr]
    return tp


@pytest.mark.parametrize("pp", [2, 3, 5])
@pytest.mark.parametrize(("name", "shared", "biases"), [
    ("t5-small", True, 32 * 8), ("bart-base", True, 0),
    ("whisper-tiny@encoder.d_model=66,encoder.projection=true", False, 0)])
def test_stages_of_an_encoder_and_its_decoder(name: str, shared: bool, biases: int, pp: int) -> None:
    """What is on several: a token table that both read, that of a tied head, and a stack's table of biases."""
    spec = txcalc.load(name)
    run = fit(spec, Workload(phase="training", seq=7, batch=2))
    whole = own(trace(spec, run))
    ranks = [trace(spec, run.replaced(layout=Layout(pp=pp)), rank=rank) for rank in range(pp)]
    layers = [(t.model.encoder.layers, t.model.layers) for t in ranks if t.model.encoder is not None]
    first = {2: 1, 3: 1, 5: 2}[pp]
    assert all(bool(own) == (i < first) and bool(others) == (i >= first) for i, (own, others) in enumerate(layers))
    assert [*map(sum, zip(*layers, strict=True))] == [spec.encoder.layers, spec.layers]  # type: ignore[union-attr]
    table, last = (spec.vocab or 0) * spec.d_model, getattr(spec.head, "tied", False)
    more = {"embedding token_embedding weight": shared * table, "head head weight": last * (first < pp - 1) * table,
            "embedding encoder.relative_bias weight": (first - 1) * biases,
            "embedding decoder.relative_bias weight": (pp - first - 1) * biases}
    for quantity, expected in enumerate(whole):
        together = sum((own(t)[quantity] for t in ranks), Counter[str]())
        assert together == expected + Counter(more if not quantity else {})


def test_a_decoder_s_stages_send_the_encoder_s_memory_on() -> None:
    source, target, run = 3 * 11 * 512 * 2, 3 * 7 * 512 * 2, Workload(
        phase="training", seq=7, source_seq=11, batch=3, layout=Layout(pp=4))
    links = [{source: 1}, {source: 1}, {source: 1, target: 1}]
    for rank in range(4):
        found = list(collectives(trace(txcalc.load("t5-small"), run, rank=rank)))
        for phase, after, before in (("forward", "send", "receive"), ("backward", "receive", "send")):
            for what, link in ((after, links[rank:rank + 1]), (before, links[rank - 1:rank] if rank else [])):
                assert [Counter(each.bytes for each in found if (each.what, each.phase) == (what, phase))] == [
                    Counter(each) for each in link or [{}]]


def test_every_rank() -> None:
    """By hand: of gpt2's 50,257 rows the last of four ranks has 12,562; norms, positions and biases after sums are on
    all, the tied table is on the last stage once more. Its peak is that of the rank with the highest."""
    d, rows, layers, run = 768, 50257, 12, {"phase": "training", "seq": 8, "tp": 4, "pp": 3, "dp": 2}
    counted = txcalc.count("gpt2", ranks=True, **run).ranks or ()
    found = txcalc.memory("gpt2", ranks=True, precision="bf16", zero=1, **run)
    ranks = found.ranks or ()
    assert [(each.pp, each.tp, each.times, each.layers, each.params) for each in counted] == [
        (each.pp, each.tp, each.times, each.layers, each.params) for each in ranks]
    assert [(each.pp, each.tp, each.times) for each in ranks] == [
        ((0,), (0, 1, 2), 6), ((0,), (3,), 2), ((1,), (0, 1, 2, 3), 8), ((2,), (0, 1, 2), 6), ((2,), (3,), 2)]
    assert ranks[0].params - ranks[1].params == (12565 - 12562) * d
    alike = layers * 6 * d + 2 * d + 1024 * d  # on all four ranks, once for every pipeline
    whole = txcalc.count("gpt2", phase="training", seq=8).totals
    step = txcalc.memory("gpt2", phase="training", seq=8, precision="bf16", ranks=True).ranks or ()
    assert sum(each.times * each.params for each in ranks) == 2 * (whole.params.value + rows * d + 3 * alike)
    flops = whole.named("flops_training")
    assert flops is not None and sum(each.times * each.flops for each in ranks) == 2 * step[0].flops == 2 * flops.value
    assert all(each.weight_bytes == each.gradient_bytes == 2 * each.params for each in ranks)
    assert all(0 <= (each.state_bytes or 0) - 2 * each.params < 100 for each in ranks)  # and a step of each
    assert max(each.peak_bytes or 0 for each in ranks) == ranks[0].peak_bytes == found.peak.bytes
    text = CliRunner().invoke(app, ["count", "gpt2", "--tp", "4", "--pp", "3", "--ranks"]).stdout
    assert [line.split("  ")[0] for line in text.partition("Ranks")[2].splitlines()[1:6]] == [
        "stage 1, tp 1–3", "stage 1, tp 4", "stage 2, tp 1–4", "stage 3, tp 1–3", "stage 3, tp 4"]


@pytest.mark.parametrize("layout", [
    {"pp": 3, "schedule": "interleaved:2"}, {"pp": 2, "schedule": "dualpipe"}, {"dp": 4, "fsdp": "yes"}, {"dp": 2}])
def test_the_highest_rank_is_shown(layout: dict[str, Any]) -> None:
    found = txcalc.memory("gpt2", phase="training", seq=8, precision=None if "fsdp" in layout else "bf16", ranks=True,
                          device="24GB", **layout)
    assert max(each.peak_bytes or 0 for each in found.ranks or ()) == found.peak.bytes
    assert sum(each.times for each in found.ranks or ()) == Layout(**{**layout, "fsdp": None}).world
    held = {each.what: each.bytes for each in found.resident}
    assert held["weights"] in {each.weight_bytes for each in found.ranks or ()}


@pytest.mark.parametrize("tp", [2, 3, 4])
@pytest.mark.parametrize("name", ["gpt2", "opt-125m"])
def test_states_of_a_split_table_that_is_tied(name: str, tp: int) -> None:
    for precision, width in (("bf16", 2), ("fp32", 4)):
        found = txcalc.memory(name, phase="training", seq=8, precision=precision, tp=tp)
        held = {each.what: each.bytes for each in found.resident}
        assert held["weights"] == width * txcalc.count(name, seq=8, tp=tp).totals.params.value
        assert 0 <= held["optimizer state"] - 2 * held["weights"] < 10_000  # and a step of each


def test_ranks_that_share_weights_are_no_matter_of_a_count() -> None:
    for shared, field in (({"zero": 3}, "zero"), ({"fsdp": "yes"}, "fsdp")):
        with pytest.raises(txcalc.SpecError, match="txcalc memory") as error:
            txcalc.count("gpt2", phase="training", dp=4, **shared)
        assert error.value.field == field


def test_an_axis_of_one_rank_does_nothing() -> None:
    run = {"phase": "training", "seq": 8, "precision": "bf16"}
    one, whole = (txcalc.memory("gpt2", **run, **more) for more in ({"sp": True}, {}))
    assert one.peak == whole.peak and not one.collectives and "sp changes nothing here: tp is 1" in one.notes
    assert txcalc.count("gpt2", sp=True, seq=7).totals == txcalc.count("gpt2", seq=7).totals


def test_a_further_token_is_on_one_rank_of_a_ring() -> None:
    found = txcalc.count("llama3-8b", seq=4096, cp=4)
    assert found.kv_cache is not None and found.totals.kv_cache_bytes is not None
    assert found.kv_cache.bytes_per_token * 4096 == found.totals.kv_cache_bytes.value


def test_a_bound_says_what_it_is() -> None:
    args = ["memory", "gpt2", "--seq", "8", "--phase", "training", "--optimizer"]
    texts = [CliRunner().invoke(app, [*args, each]).stdout for each in ("weights=2,states=8", "adamw")]
    assert ["\n<  at least: what some part" in text for text in texts] == [True, False]


@pytest.mark.parametrize(("model", "layout", "why"), [
    ("llama3-8b", {"implementation": "megatron", "fsdp": "yes", "dp": 8}, "fsdp: fully_shard is not followed under "
     "--implementation megatron, whose own way is --zero 1"),
    ("deepseek-v2-lite", {"cp": 2}, "cp: --cp-comm ring is of flash attention whose queries and values have as many "
     "columns, a multiple of 8, which this is not; all-to-all is of any"),
])
def test_a_layout_that_is_not_followed(model: str, layout: dict[str, Any], why: str) -> None:
    with pytest.raises(txcalc.SpecError) as error:
        txcalc.memory(model, phase="training", seq=64, **layout)
    assert str(error.value) == why


def test_buckets_are_of_weights_that_several_ranks_have() -> None:
    found = {dp: txcalc.memory("mixtral-8x7b", phase="training", seq=8, precision="bf16", dp=dp, ep=4)
             for dp in (4, 8)}
    buckets = {dp: next(each.bytes for each in memory.resident if each.what == "collectives")
               for dp, memory in found.items()}
    weights = next(each.bytes for each in found[8].resident if each.what == "weights")
    assert buckets[8] == weights > 5 * buckets[4]


def test_stages_are_searched_and_read_back(tmp_path: Path) -> None:
    assert txcalc.fit("gpt2", "24GB", phase="training", seq=64, pp=2).fits
    run = ["memory", "gpt2", "--phase", "training", "--seq", "8", "--dp", "4", "--fsdp", "reshard=no"]
    assert CliRunner().invoke(app, [*run, "-o", str(tmp_path / "shards.yaml")]).exit_code == 0
    found = CliRunner().invoke(app, ["memory", str(tmp_path / "shards.yaml")])
    assert found.exit_code == 0 and "note: unchanged since" in found.stderr
    assert txcalc.memory("gpt2", seq=8, pp=2).workload.phase == "prefill"
    for layout, unit in (({"tp": 4, "sp": True}, 4), ({"cp": 2}, 4)):
        longest = txcalc.fit("gpt2", "24GB", phase="training", precision="bf16", **layout).most[-1]
        assert longest.largest_fits and longest.largest_fits % unit == 0


@pytest.mark.parametrize("zero", [2, 3])
def test_stages_whose_gradients_are_shared_are_estimates(zero: int) -> None:
    run = {"phase": "training", "seq": 8, "accumulate": 2}
    found = txcalc.memory("gpt2", pp=2, dp=4, zero=zero, precision="bf16", **run)
    assert found.peak.kind == "estimate" and any("a pipeline whose gradients are shared" in n for n in found.notes)
    whole, shared = (
        {part: sum(each.value for each in step.resident(trace(txcalc.load("gpt2"), Workload.of(run | more), rank=0))
                   if each.part == part) for part in ("weights", "gradients")}
        for more in ({"pp": 2}, {"pp": 2, "dp": 4, "zero": zero}))
    assert shared["gradients"] == whole["weights"] // 4
    assert shared["weights"] == whole["weights"] // (4 if zero == 3 else 1)


def test_the_heading_of_sharded_weights_says_what_they_are_in() -> None:
    args = ["memory", "gpt2", "--phase", "training", "--seq", "8", "--dp", "4", "--fsdp", "yes"]
    assert " · bf16 over fp32 shards · training step · dp 4, fsdp" in CliRunner().invoke(app, args).stdout


@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "bert-base", "gemma2-2b", "t5-small", "mpnet-base",
                                  "transformer-xl-enwik8-24l"])
@pytest.mark.parametrize("pp", [3, 4])
def test_the_rank_with_the_most_weights_is_counted(name: str, pp: int) -> None:
    spec = load(name).model
    work = Workload.of({"seq": 12, "phase": "forward", "layout": {"tp": 2, "pp": pp}})
    each = [sum(op.params * often.copies for op, often in trace(spec, work, rank=rank).placed) for rank in range(pp)]
    assert trace(spec, work).stage == max(range(pp), key=lambda rank: (each[rank], rank))
