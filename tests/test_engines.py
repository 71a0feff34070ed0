"""Inference engines: pools by hand, what fits and one step beyond, ranks, saved answers, refusals."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from showing import render
from typer.testing import CliRunner

import txcalc
from txcalc.answer.engines import BUNDLES, Engine, Layers, Setup, engine, names, pool
from txcalc.answer.memory import Memory
from txcalc.answer.serving import serving
from txcalc.cli.app import app
from txcalc.spec.model import Model

LLAMA = {
    "name": "llama", "vocab": 1009, "d_model": 96, "layers": 7, "context": 4099, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "attention": {"heads": 6, "kv_heads": 2, "head_dim": 32},
    "feed_forward": {"d_ff": 41, "activation": "silu", "gated": True}, "head": {"tied": False},
}
HYBRID = LLAMA | {"name": "hybrid", "layers": 15, "groups": [
    {"repeat": 3, "blocks": [{"repeat": 4, "attention": {"window": 67}}, {}]}]}
CHUNKS = LLAMA | {"name": "chunks", "layers": 8, "groups": [
    {"repeat": 2, "blocks": [{"repeat": 3, "attention": {"chunk": 64}}, {}]}]}
LATENT = LLAMA | {"name": "latent", "attention": {
    "kind": "mla", "heads": 6, "q_rank": 11, "kv_rank": 58, "nope_dim": 8, "rope_dim": 6, "value_dim": 8}}
MODELS = {name: Model.from_data(data) for name, data in (
    ("llama", LLAMA), ("hybrid", HYBRID), ("chunks", CHUNKS), ("latent", LATENT))}
ENGINES = ("vllm@0.6.4", "vllm@0.11", "vllm@0.30", "sglang", "llama.cpp", "llama.cpp@0.9")
OF_LLAMA = 7 * 2 * 2 * 32 * 2  # bytes of a token: layers, keys and values, heads, width, 16 bits


def run(*args: object) -> Any:
    return CliRunner().invoke(app, list(map(str, args)))


# ---------------------------------------------------------------- pools, by hand


@pytest.mark.parametrize(("name", "model", "more", "block", "blocks", "tokens", "requests"), [
    ("vllm@0.11", "llama", {}, 16, 100, 1600, 0),  # 1,601 tokens would be 101 blocks
    ("vllm@0.11", "llama", {"context": 800}, 16, 100, 1600, 2),
    ("vllm@0.30", "llama", {"context": 801}, 16, 100, int(100 / 51 * 801), 1),
    ("vllm@0.11", "llama", {"context": 800, "kv_dtype": "fp8"}, 16, 200, 3200, 4),
    ("vllm@0.11", "llama", {"context": 800, "drafter": 3}, 16, 70, 1120, 1),
    ("vllm@0.11", "llama", {"context": 800, "tp": 2}, 16, 200, 3200, 4),  # a rank has one of the two key heads
    ("vllm@0.11", "llama", {"context": 800, "tp": 6}, 16, 200, 3200, 4),  # and at least one
    ("vllm@0.11", "llama", {"context": 800, "kv_block": 32}, 32, 50, 1600, 2),
    # 100 blocks of 7 layers are 233 of 3: 12 windows in four groups, which may begin within a block, 3 full ones in one
    ("vllm@0.11", "hybrid", {"context": 64}, 16, 233, 233 // 5 * 16, 233 // (4 * 5 + 4)),
    ("vllm@0.11", "hybrid", {"context": 800, "chunk": 100}, 16, 233, 233 // 5 * 16, 233 // (4 * 12 + 50)),
    ("vllm@0.30", "hybrid", {"context": 800, "chunk": 100}, 16, 233, int(233 / (4 * 18 + 50) * 800), 1),
    ("vllm@0.9.0", "hybrid", {"context": 800}, 16, 100 * 7 // 15, 46 * 16, 0),
    ("vllm@0.11", "latent", {"context": 800}, 64, 100 * 256 // 256, 6400, 7),
    ("vllm@0.7.3", "latent", {"context": 800}, 16, 200, 3200, 4),  # 64 elements of 16 bits, padded to 256 bytes
    # 100 blocks of 7 layers are 87 of 8, where chunks are as full layers, or 350 of 2, three of whose four groups have
    # 64 tokens and those of a pass in blocks
    ("vllm@0.11", "chunks", {"context": 800, "chunk": 100}, 16, 87, 87 * 16, 87 // 50),
    ("vllm@0.14", "chunks", {"context": 800, "chunk": 100}, 16, 350, 350 // 4 * 16, 350 // (3 * 11 + 50)),
    ("sglang", "llama", {"context": 800}, 1, 1600, 1600, 2),
    ("sglang", "llama", {"context": 800, "kv_dtype": "fp8"}, 1, 3200, 3200, 4),
])
def test_a_pool_holds_what_it_holds_by_hand(
    name: str, model: str, more: dict[str, Any], block: int, blocks: int, tokens: int, requests: int
) -> None:
    size = 100 * 16 * OF_LLAMA
    if model == "latent":
        size = 100 * 64 * 7 * 64 * 2
        size = size if name == "vllm@0.11" else 200 * 16 * 7 * 256
    found = txcalc.memory(MODELS[model], engine=name, pool=size + 1, **more).engine
    assert found is not None
    assert (found.block, found.blocks, found.tokens, found.requests) == (block, blocks, tokens, requests)
    assert found.pool_bytes == size + 1


@pytest.mark.parametrize(("card", "version", "peak", "block"), [
    ("h100-80gb", "0.11", 1024, 64), ("a100-80gb", "0.11", 256, 16), ("a100-80gb", "0.8.5", 1024, 16),
    ("l40s", "0.11", 256, 16), ("b200", "0.11", 1024, 128), ("b200", "0.9.1", 1024, 16), ("b200", "0.18", 1024, 32),
    ("h100-80gb", "0.18", 1024, 16),
])
def test_sizes_of_a_pass_and_of_latents_go_by_the_card(card: str, version: str, peak: int, block: int) -> None:
    found = txcalc.memory("deepseek-v2-lite", engine=f"vllm@{version}", device=card, context=256)
    size = {row.what: row.bytes for row in found.at_peak}["activation peak"]
    assert size == int(peak * 102400 * Fraction("38.35") + {1024: 8192, 256: 2048}[peak] * 2048 * 2)
    assert found.engine is not None and found.engine.block == block


@pytest.mark.parametrize(("tp", "each"), [
    (1, (96 + 192) + 2 * (96 + 64) + (192 + 96) + 2 * (96 + 42) + (42 + 96)),
    (2, (96 + 96) + 2 * (96 + 32) + (96 + 96) + 2 * (96 + 21) + (21 + 96)),  # q, k and v, o, up and gate, down
])
def test_slots_of_adapters_have_both_factors_of_every_matrix(tp: int, each: int) -> None:
    spec = Model.from_data(LLAMA | {"feed_forward": LLAMA["feed_forward"] | {"d_ff": 42}})
    made = serving(spec, {"engine": "vllm", "max_loras": 3, "max_lora_rank": 8, "tp": tp})
    assert {row.what: row.bytes for row in made.held}["slots of adapters"] == 7 * each * 3 * 8 * 2


def test_each_sequence_takes_its_own_blocks() -> None:
    """Of 33, 17 and 5 tokens, and 12 more of each, are 3, 2 and 2 blocks of 16; as long as the longest 9."""
    made = serving(MODELS["llama"], {"engine": "vllm@0.11", "lengths": "33,17, 5", "new": 12})
    assert (made.users, made.context, made.taken) == (3, 45, (3 + 2 + 2) * 16 * OF_LLAMA)
    assert serving(MODELS["llama"], {"engine": "vllm", "batch": 3, "context": 45}).taken == 9 * 16 * OF_LLAMA


@pytest.mark.parametrize(("model", "tp", "block", "page", "states", "whole"), [
    # 3 of 4 inputs of 8,192 channels and 32 x 128 x 128 of state, 1,097,728 B, beside 2,048 B of a token
    ("qwen3-next-80b-a3b", 1, 544, 544 * 2048 * 12, 3, 1), ("qwen3-next-80b-a3b", 2, 544, 544 * 1024 * 12, 3, 1),
    ("qwen3-next-80b-a3b", 4, 272, 272 * 1024 * 12, 3, 1), ("jamba-v0.1", 1, 80, 80 * 4096 * 4, 7, 1),
    ("mamba-2.8b", 1, 800, 5120 * (3 + 16) * 2 * 64, 1, 0),
])
def test_a_state_is_a_page_of_attention(model: str, tp: int, block: int, page: int, states: int, whole: int) -> None:
    found = txcalc.memory(model, engine="vllm@0.11", pool=97 * page + 1, context=5 * block if whole else block, tp=tp)
    engine = found.engine
    assert engine is not None
    assert (engine.block, engine.blocks) == (block, 97)
    assert engine.tokens == 97 // (states + whole) * block
    assert engine.requests == 97 // (states + 5 * whole)


def test_states_have_their_part_of_sglangs_memory() -> None:
    """A log of LFM2 700M: 473,854 tokens beside 85,292 states, and one more of each that is never given out."""
    state, token = 10 * 1536 * 2 * 2, 6 * 2 * 8 * 64 * 2
    size = (473_854 + 1) * token + (85_292 + 1) * state
    spec = "lfm2-1.2b@d_model=1536,attention.heads=24,attention.head_dim=64"
    engine = txcalc.memory(spec, engine="sglang@0.5.5", pool=size, context=4096).engine
    assert engine is not None
    assert engine.tokens == 473_854 + 1
    assert engine.requests == size // -(-4096 * token * 19 // 10)
    short = txcalc.memory(spec, engine="sglang@0.5.5", pool=size, context=1).engine
    assert short is not None
    assert short.requests == size * 9 // (19 * state)


@pytest.mark.parametrize(("model", "full", "windows", "token"), [
    ("gemma4-26b-a4b", 5 * 4096, 25 * 8192, 184320), ("gemma4-31b", 10 * 8192, 50 * 16384, 737280),  # as two logs say
    ("gpt-oss-120b", 18 * 2048, 18 * 2048, 66355.2),
])
def test_windows_have_a_part_of_sglangs_slots(model: str, full: int, windows: int, token: float) -> None:
    assert full + windows * 4 / 5 == token
    size = 10 * 2**30 + 1
    engines = {at: txcalc.memory(model, engine=f"sglang@{at}", pool=size, context=9000).engine
               for at in ("0.5.3", "0.5.9")}
    tokens = {at: engine.tokens for at, engine in engines.items() if engine is not None}
    assert tokens == {"0.5.3": size // (full + windows), "0.5.9": size * 5 // (full * 5 + windows * 4)}
    requests = engines["0.5.9"].requests  # type: ignore[union-attr]
    assert requests == tokens["0.5.9"] // 9000
    short = txcalc.memory(model, engine="sglang@0.5.9", pool=size, context=64).engine  # windows are not full then
    assert short is not None
    assert short.requests == tokens["0.5.9"] * 4 // 5 // 64


@pytest.mark.parametrize(("more", "cells", "window_cells"), [
    ({"context": 800}, 1024, 1024),  # a window is no longer than the context: 4 of 67, and 512 of a micro-batch
    ({"context": 4000}, 4096, 1024), ({"context": 4000, "swa_full": True}, 4096, 4096),
    ({"context": 4000, "batch": 3}, 3 * 4096, 3 * 768), ({"context": 4000, "chunk": 16}, 4096, 512),
])
def test_cells_for_a_context_and_for_windows(more: dict[str, Any], cells: int, window_cells: int) -> None:
    found = txcalc.memory(MODELS["hybrid"], engine="llama.cpp", **more).engine
    assert found is not None
    assert found.pool_bytes == (3 * cells + 12 * window_cells) * 2 * 2 * 32 * 2
    packed = txcalc.memory(MODELS["hybrid"], engine="llama.cpp", kv_dtype="q8_0", **more).engine
    assert packed is not None
    assert packed.pool_bytes * 32 * 2 == found.pool_bytes * 34


@pytest.mark.parametrize(("version", "context", "size"), [
    ("0.9", 131072, 439_484_416), ("0.9", 512, 512 * (201088 + 2880) * 4),
    ("0.26", 65536, 2 * 512 * (65536 + 768) + 2048 * (3 * 4 * 2880 + 4 * 2880)),
])
def test_the_buffer_for_a_pass_has_masks_of_the_context(version: str, context: int, size: int) -> None:
    """A log of 0.9 has 420.08 MiB, 0.2 % more than the first; runs of 0.26 with random models grew as the last."""
    given = {"engine": f"llama.cpp@{version}", "context": context, "batch": 1}
    held = {row.what: row.bytes for row in serving(txcalc.load("gpt-oss-20b"), given).held}
    assert held["compute buffer"] == size


def test_latents_that_llama_cpp_makes_keys_and_values_of() -> None:
    """A run of 0.26 with a random MiniCPM3 of 3 layers, 4 heads of 16 + 8 and 16: 2.81 and 1.88 MiB of 5,120 cells."""
    made = {code: serving(Model.from_data(LATENT | {"modeling": code}), {"engine": "llama.cpp", "context": 4000}).taken
            for code in ("minicpm3", "deepseek_v3")}
    assert made == {"minicpm3": 4096 * 7 * 6 * (14 + 8) * 2, "deepseek_v3": 4096 * 7 * 64 * 2}


def test_values_have_a_dtype_of_their_own() -> None:
    sizes = {(k, v): txcalc.memory(MODELS["llama"], engine="llama.cpp", kv_dtype=k, v_dtype=v).engine.pool_bytes
             for k in ("fp16", "q8_0", "q4_0") for v in ("fp16", "q8_0", "q4_0")}  # type: ignore[union-attr]
    each = {"fp16": 64, "q8_0": 34, "q4_0": 18}
    assert sizes == {(k, v): 7 * 2 * 4352 * (each[k] + each[v]) for k, v in sizes}


def test_layers_that_are_not_on_the_card_are_in_the_cpus_memory() -> None:
    found = [txcalc.memory(MODELS["llama"], engine="llama.cpp", gpu_layers=n) for n in range(9)]
    held = [each.resident[0].bytes for each in found]
    host = [each.outside[0].bytes or 0 for each in found]
    head, table = (1009 * 96 + 96) * 2, 1009 * 96 * 2  # the last norm is beside the head
    layer = (held[8] - head) // 7
    assert held == [0, *(head + n * layer for n in range(8))]
    assert host == [table + head + 7 * layer, *(table + (7 - n) * layer for n in range(8))]
    pools = [each.engine.pool_bytes for each in found]  # type: ignore[union-attr]
    assert pools == [0, *(pools[8] * n // 7 for n in range(8))]


@pytest.mark.parametrize(("version", "windows", "full", "groups"), [
    ("0.11", 13, 12, 2 + 1), ("0.12", 13, 12, 1 + 1), ("0.12", 15, 12, 2 + 1), ("0.18", 15, 12, 1 + 1),
    ("0.18", 18, 12, 2 + 1),
])
def test_groups_are_of_the_rarest_kind_or_of_the_most_frequent(
    version: str, windows: int, full: int, groups: int
) -> None:
    of: Engine = engine(f"vllm@{version}")
    made = pool([Layers("window", 64, 128, windows), Layers("full", None, 128, full)], of, Setup(None, 1))
    assert made.blocks(1, 16) == groups - 1 + 1 + (groups - 1)  # a window may begin within a block
    assert made.block_bytes == 16 * 128 * (max(windows, full) if groups == 2 else min(windows, full))


# ---------------------------------------------------------------- what fits, and one step beyond


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(ENGINES), model=st.sampled_from(sorted(MODELS)), context=st.integers(1, 4099),
       room=st.integers(40, 4000), users=st.integers(2, 5), cards=st.sampled_from((1, 2)))
def test_every_answer_fits_and_one_step_beyond_does_not(
    name: str, model: str, context: int, room: int, users: int, cards: int
) -> None:
    spec, batch, own = MODELS[model], users, {"engine": name, "chunk": 97}
    card = f"{cards}x{room}MiB"
    more: dict[str, Any] = {"utilization": 0.93}
    reserve = None
    if name.startswith("llama.cpp"):
        more, reserve = {}, "1MiB"

    def fits(users: int, context: int) -> bool:
        asked = {**own, **more, "context": context, "batch": batch}
        return serving(spec, asked, card, reserve, shared=False).at(users, context).fits

    found = txcalc.fit(spec, card, reserve=reserve, context=context, batch=batch, **own, **more)
    most = {each.size: each for each in found.most}
    assert found.fits == fits(users, context)
    many = most["users"].largest_fits or 0
    assert not many or fits(many, context)
    assert not fits(many + 1, context)
    longest = most["context"].largest_fits or 0
    assert not longest or fits(users, longest)
    assert longest == spec.context or not fits(users, longest + 1)
    for corner in found.frontier:
        assert fits(corner.batch, corner.length)
        assert corner.length == spec.context or not fits(corner.batch, corner.length + 1)


# ---------------------------------------------------------------- documents, commands


COMMANDS = [
    ("memory", "gpt-oss-120b", "--engine", "vllm", "--utilization", "0.9", "--context", "32K", "--device",
     "h100-80gb"),
    ("memory", "llama3-70b", "--engine", "llama.cpp", "--weights", "q4_k_m", "--kv-dtype", "q8_0", "--context", "32K",
     "--device", "2xrtx-4090-24gb"),
    ("memory", "qwen3-32b", "--engine", "vllm@0.9", "--pool", "53.29GiB"),
    ("fit", "qwen3-32b", "--weights", "awq", "--engine", "vllm", "--device", "rtx-5090-32gb"),
    ("fit", "mixtral-8x7b", "--engine", "llama.cpp", "--weights", "q4_k_m", "--device", "24GB"),
]


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: f"{args[0]} {args[1]}")
def test_the_commands_work_and_their_documents_are_counted_again(args: tuple[str, ...], tmp_path: Any) -> None:
    saved = tmp_path / "saved.yaml"
    done = run(*args, "-o", saved)
    assert done.exit_code in (0, 1) and not done.stderr, done.output
    data = json.loads(run(*args, "--json").stdout)
    again = run(args[0], saved, "--json")
    assert f"unchanged since {saved}" in again.stderr
    now = json.loads(again.stdout)
    for key in ("peak", "engine", "workload", "device", "fits"):
        assert now[key] == data[key], key
    if args[0] == "memory":
        memory = Memory.from_data(data)
        assert sum(row.bytes for row in memory.at_peak) == memory.peak.bytes
        for form in ("table", "md", "html", "csv"):
            assert render(memory, form)


def test_a_card_is_used_up_to_its_part() -> None:
    memory = txcalc.memory("llama3-8b", engine="vllm", device="h100-80gb", context=4096)
    assert memory.engine and memory.device and memory.fits
    offered = memory.device.visible_bytes or memory.device.memory_bytes
    assert memory.peak.bytes == offered * 9 // 10 and memory.peak.kind == "estimate"
    assert {row.what for row in memory.at_peak} >= {"weights", "activation peak", "outside PyTorch"}
    fp8, plain = (txcalc.memory("llama3-8b", engine="vllm", pool="10GiB", kv_dtype=kv).engine for kv in ("fp8", "bf16"))
    assert fp8 and plain and fp8.tokens == 2 * plain.tokens


def test_ranks_share_weights_but_for_vectors_and_at_least_one_key_head() -> None:
    one, two, six = (txcalc.memory(MODELS["llama"], engine="vllm", tp=tp, pool="1GiB").resident[0].bytes
                     for tp in (1, 2, 6))
    vectors, keys = 2 * 96 * 15, 2 * 7 * 2 * 96 * 64
    assert two == (one - vectors) // 2 + vectors
    assert six == -(-(one - vectors - keys) // 6) + keys // 2 + vectors


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama.cpp"])
def test_what_speaks_is_not_loaded(name: str) -> None:
    """Of Qwen-Omni engines have the thinker; encoders of other classes that no run here has are loaded."""
    parts = LLAMA | {"idle": [{"name": "voice", "shape": [11, 7], "times": 3}]}
    held = [serving(Model.from_data({**data, "modeling": code}), {"engine": name, "context": 512}).held[0].bytes
            for data, code in ((LLAMA, "qwen3_omni_moe"), (parts, "qwen3_omni_moe"), (parts, "granite_speech"))]
    assert held[0] == held[1] == held[2] - 3 * 11 * 7 * 2


def test_a_lever_is_what_the_command_says() -> None:
    levers = txcalc.fit("llama3-8b", "24GB", engine="vllm").engine.levers  # type: ignore[union-attr]
    assert [each.option for each in levers] == ["--kv-dtype fp8", "--weights awq", "--device 2x24GB"]
    for each, more in zip(levers, ({"kv_dtype": "fp8"}, {"weights": "awq"}, {}), strict=True):
        device = "2x24GB" if not more else "24GB"
        then = txcalc.memory("llama3-8b", engine="vllm", device=device, **more).engine
        assert then and (each.requests, each.tokens) == (then.requests, then.tokens)


def test_as_many_layers_as_fit_stay_on_the_card() -> None:
    found = txcalc.fit("mixtral-8x7b", "24GB", engine="llama.cpp", weights="q4_k_m", reserve="1GiB")
    assert found.engine and found.short_bytes
    [count] = [int(each.option.split()[1]) for each in found.engine.levers if each.option.startswith("--gpu-layers")]
    fits = [txcalc.fit("mixtral-8x7b", "24GB", engine="llama.cpp", weights="q4_k_m", reserve="1GiB",
                       gpu_layers=n).fits for n in (count, count + 1)]
    assert fits == [True, False]


@pytest.mark.parametrize(("args", "message"), [
    (("bert-base", "--engine", "vllm"), "encoder-only"), (("bert-base", "--kv-dtype", "fp8", "--engine", "sglang"), ""),
    (("t5-base", "--engine", "llama.cpp"), "encoder-decoder"), (("vit-base", "--engine", "vllm"), "decoder"),
    (("mamba-2.8b", "--engine", "sglang"), "recurrent layers"),
    (("jamba-v0.1", "--engine", "vllm@0.9"), "recurrent layers, as jamba-v0.1 has them, is not known before 0.10"),
    (("kimi-linear-48b-a3b", "--engine", "vllm"), "beside latents"),
    (("gpt2", "--engine", "vlm"), "did you mean vllm"), (("gpt2", "--engine", "vllm@0.5"), "from 0.6.4 to"),
    (("gpt2", "--engine", "vllm@new"), "no version"), (("gpt2", "--engine", "vllm", "--context", "2K"), "admits 1,024"),
    (("gpt2", "--engine", "vllm", "--kv-dtype", "q8_0"), "bf16, fp8, not in q8_0"),
    (("gpt2", "--engine", "llama.cpp", "--kv-dtype", "fp8"), "not in fp8"),
    (("gpt2", "--engine", "vllm", "--phase", "training"), "does not train"),
    (("gpt2", "--engine", "vllm", "--optimizer", "adamw"), "does not train"),
    (("gpt2", "--engine", "vllm", "--past", "3"), "plain PyTorch"), (("gpt2", "--pool", "1GiB"), "give --engine"),
    (("gpt2", "--engine", "vllm", "--tp", "5"), "share 12 heads"), (("gpt2", "--engine", "llama.cpp", "--tp", "2"), ""),
    (("gpt2", "--engine", "vllm", "--utilization", "1.1"), "up to 1"),
    (("gpt2", "--engine", "vllm", "--context", "0"), "at least 1"),
    (("gpt2", "--engine", "llama.cpp", "--pool", "1GiB"), "--context"),
    (("gemma4-26b-a4b", "--engine", "vllm"), "0.12"),
    (("gpt2", "--engine", "llama.cpp", "--gpu-layers", "14"), "12 layers and a head"),
    (("gpt2", "--engine", "vllm", "--v-dtype", "fp8"), "llama.cpp's"),
    (("gpt2", "--engine", "llama.cpp", "--v-dtype", "fp8"), "not in fp8"),
    (("gpt2", "--engine", "vllm", "--reserve", "1GiB", "--device", "t4"), "--utilization"),
    (("gpt2", "--engine", "llama.cpp", "--lengths", "3,5"), "goes by the longest"),
    (("gpt2", "--engine", "sglang", "--max-loras", "3"), "is vLLM's"),
    (("gpt2", "--engine", "vllm", "--max-lora-rank", "7"), "takes 1, 8"),
    (("mixtral-8x7b", "--engine", "vllm", "--max-loras", "2"), "adapters of mixtral-8x7b's layers"),
    (("gpt2", "--offload", "layers:3"), "give --engine"), (("gpt2", "--engine", "vllm", "-ngl", "3"), "llama.cpp's"),
    (("gpt2", "--engine", "llama.cpp", "--offload", "layers:13"), "gpt2 has 12 layers, and 13 of them cannot"),
    (("gpt2", "--engine", "llama.cpp", "--offload", "layers:3", "-ngl", "3"), "give one of them"),
    (("gpt2", "--engine", "vllm", "--lengths", "700, 65", "--batch", "3"), "the lengths say 2"),
    (("gpt2", "--engine", "vllm", "--lengths", "700, 65", "--context", "512"), "at least 700"),
])
def test_what_an_engine_does_not_run_or_admit_is_one_line(args: tuple[str, ...], message: str) -> None:
    done = run("memory", *args)
    assert done.exit_code == 2 and not done.stdout
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_every_rule_has_its_source_and_versions_in_order() -> None:
    for name in (each for each in names() if each not in BUNDLES):
        first, last = engine(f"{name}@{engine(name).version}"), engine(f"{name}@99")
        assert first.rules.keys() <= last.rules.keys()
        assert all(rule.source and rule.since for rule in last.rules.values())
        noted = txcalc.memory("llama3-8b", engine=f"{name}@99", context=512).notes
        assert any("newer than the versions whose rules were read" in note for note in noted)


# ---------------------------------------------------------------- what is in the CPU's memory


MIX = LLAMA | {"name": "mix", "feed_forward": {"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 41,
                                               "activation": "silu", "gated": True}}
LAYER, TABLE = 2 * (2 * 96 * 192 + 2 * 96 * 64 + 2 * 96 + 5 * 96), 2 * 1009 * 96  # a router of five
EXPERTS = 2 * 5 * 3 * 41 * 96


@pytest.mark.parametrize(("given", "host", "layers"), [
    ({}, TABLE, 7), ({"offload": "experts"}, TABLE + 7 * EXPERTS, 7),
    ({"offload": "experts:3"}, TABLE + 3 * EXPERTS, 7), ({"offload": "layers:3"}, TABLE + 3 * (LAYER + EXPERTS), 4),
    ({"gpu_layers": 8}, TABLE, 7), ({"gpu_layers": 5}, TABLE + 3 * (LAYER + EXPERTS), 4),
    ({"gpu_layers": 0}, None, 0),
])
def test_weights_and_cache_on_each_side(given: dict[str, Any], host: int | None, layers: int) -> None:
    """Of the first layers all is on the CPU's side, their keys and values too; the head stays on the card."""
    model = Model.from_data(MIX)
    made = serving(model, {"engine": "llama.cpp", "context": 512, "batch": 1, **given}, "24GB")
    whole = serving(model, {"engine": "llama.cpp", "context": 512, "batch": 1}, "24GB")
    assert made.held[0].bytes + made.host == whole.held[0].bytes + TABLE
    assert made.host == (host or whole.held[0].bytes + TABLE)
    cells = 512 * 2 * 2 * 32 * 2
    assert (made.taken, made.host_cache) == (layers * cells, (7 - layers) * cells)


def test_before_the_head_went_with_any_layer() -> None:
    given = {"engine": "llama.cpp@0.9", "context": 512, "gpu_layers": 5}
    made = serving(Model.from_data(MIX), given)
    assert made.host_cache == 2 * 512 * 2 * 2 * 32 * 2
    assert made.held[0].bytes == 5 * (LAYER + EXPERTS)


def test_cards_that_share_layers_have_what_is_theirs() -> None:
    """The head is behind the last of the layers: of 7 on three cards 3 and 3, then 1 and the head."""
    of = {"engine": "llama.cpp", "context": 512, "batch": 1}
    three, whole = (txcalc.memory(MODELS["llama"], device=f"{n}24GB", **of) for n in ("3x", ""))
    assert three.engine and three.engine.card_bytes[0] == three.engine.card_bytes[1] == three.peak.bytes
    work = sum(row.bytes for row in whole.at_peak if row.what == "compute buffer")
    assert sum(three.engine.card_bytes) == whole.peak.bytes + 2 * work and three.engine.card_bytes[2] < three.peak.bytes


def test_so_many_cards_leave_another_room() -> None:
    most = txcalc.fit("megatron-530b", "h100-80gb", engine="sglang").most[-1]
    then = serving(txcalc.load("megatron-530b"), {"engine": "sglang"}, "16xh100-80gb")
    assert (most.first_not, most.bytes_first_not, most.room_first_not) == (16, then.needs, then.room)
    assert then.room is not None and then.needs > then.room


def test_experts_in_the_memory_of_the_cpu_are_a_lever() -> None:
    run_of = ("fit", "mixtral-8x7b", "--engine", "llama.cpp", "--weights", "q4_k_m", "--device", "24GB", "--json")
    levers = {each["option"]: each["requests"] for each in json.loads(run(*run_of).stdout)["engine"]["levers"]}
    then = json.loads(run(*run_of, "--offload", "experts").stdout)
    assert then["fits"] and then["most"][0]["largest_fits"] == levers["--offload experts"] == 5
    none = run("fit", "gpt2", "--engine", "llama.cpp", "--device", "24GB", "--offload", "layers:12")
    assert none.exit_code == 2 and "are in the CPU's memory, of which no size is known" in none.stderr
