"""``--weights`` and ``--kv-dtype``: against packed tensors, published files and llama.cpp's own tests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import Any, get_args

import pytest

import txcalc
from txcalc.answer.report import Report, count
from txcalc.answer.rerun import recorded
from txcalc.count import gguf, offload
from txcalc.count.kv_cache import FORMATS as KV_FORMATS
from txcalc.count.weights import by_layer, entries, stored_bytes, weight_bytes
from txcalc.explain.explain import explain
from txcalc.models import load as presets
from txcalc.spec.errors import SpecError
from txcalc.spec.ggml import MIXES, TYPES
from txcalc.spec.model import Model
from txcalc.spec.quantization import Quantization
from txcalc.spec.weight_formats import FORMATS, NAMES, PACKED, WHOLE, Layout
from txcalc.trace.model import trace
from txcalc.trace.workload import BYTES, KvDType, Workload

TINY: dict[str, Any] = {
    "name": "tiny", "vocab": 101, "d_model": 256, "layers": 3, "context": 64, "head": {"tied": False},
    "attention": {"heads": 8, "kv_heads": 2, "head_dim": 32}, "position": {"kind": "rope"},
    "norm": {"kind": "rmsnorm"}, "feed_forward": {"d_ff": 384, "gated": True},
}
LAYER = [(256, 256), (64, 256), (64, 256), (256, 256), (384, 256), (384, 256), (256, 384)]  # q, k, v, o, gate, up, down
NORMS = 7 * 256
TABLES = 2 * 101 * 256


def tiny(**changed: Any) -> Model:
    return Model.from_data({**TINY, **changed})


def size(model: Model, weights: str | None, **fields: Any) -> int:
    found = weight_bytes(trace(model, Workload.of({"seq": 3, "weights": weights, **fields})))
    assert isinstance(found, int)
    return found


# ---------------------------------------------------------------- published files


@pytest.mark.parametrize(("name", "released", "total"), [
    # metadata.total_size of each model.safetensors.index.json
    ("gpt-oss-20b", "mxfp4", 13_761_264_768), ("gpt-oss-120b", "mxfp4", 65_248_815_744),
])
def test_released_weights_equal_the_index(name: str, released: str, total: int) -> None:
    model = txcalc.load(name)
    report = count(model, Workload(seq=3))
    found = report.totals.released_weight_bytes
    assert found is not None and found.value == total and found.kind == "exact"
    assert size(model, "released") == total
    assert report.totals.weight_bytes.value == 2 * report.totals.params.value
    assert model.released is not None and model.released.method == released


def test_a_model_that_says_nothing_of_its_release_has_16_bits() -> None:
    assert count(tiny(), Workload(seq=3)).totals.released_weight_bytes is None
    assert count(tiny(), Workload(seq=3, weights="released")).totals.weight_bytes.kind == "estimate"
    assert size(tiny(), "released", dtype="fp32") == size(tiny(), "bf16", dtype="fp32") == size(tiny(), None)
    assert size(tiny(released="fp32"), "released") == size(tiny(), None, dtype="fp32") == 2 * size(tiny(), None)


def test_awq_of_llama_7b() -> None:
    """Whichever way it is asked for: --weights, the name in a spec, or the sizes that a configuration gives."""
    llama = txcalc.load("llama-7b")
    packed = [Model.from_data({**llama.to_data(), "quantization": given})
              for given in ("awq", {"method": "awq"}, {"method": "awq", "bits": 4, "group": 128})]
    assert [size(model, None) for model in packed] == [3_889_307_648] * 3
    assert size(llama, "awq") == 3_889_307_648


@pytest.mark.parametrize(("mix", "file"), [
    # TheBloke/Llama-2-7B-GGUF; its Q2_K is of 2023, before a rule changed.
    ("q3_k_m", 3_298_004_672), ("q4_0", 3_825_807_040), ("q4_k_m", 4_081_004_224), ("q5_k_m", 4_783_156_928),
    ("q6_k", 5_529_194_176), ("q8_0", 7_161_089_728),
])
def test_gguf_of_llama_2_7b_in_its_files(mix: str, file: int) -> None:
    """All files have the same metadata, vocabulary above all, and the same list of tensors before the tensors."""
    assert file - size(txcalc.load("llama2-7b"), mix) == 741_056


# ---------------------------------------------------------------- llama.cpp's own tests

EVERY = range(1000)
SOME_14B = [0, 1, 2, 3, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 35, 36, 37, 38, 39]
SOME_120B = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35]
SNAPSHOTS: dict[tuple[str, str], dict[str, dict[str, Iterable[int]]]] = {
    # tests/snapshots/*.schema of llama.cpp: in which layers a tensor is not of the mix's own type.
    ("qwen3-14b", "q2_k"): {"attention output": {"Q3_K": EVERY}, "v": {"Q4_K": EVERY}, "down": {"Q3_K": EVERY}},
    ("qwen3-14b", "q3_k_s"): {},
    ("qwen3-14b", "q3_k_m"): {"attention output": {"Q4_K": EVERY}, "v": {"Q5_K": range(2), "Q4_K": range(2, 40)},
                              "down": {"Q5_K": range(2), "Q4_K": range(2, 40)}},
    ("qwen3-14b", "q3_k_l"): {part: {"Q5_K": EVERY} for part in ("attention output", "v", "down")},
    ("qwen3-14b", "q4_k_s"): {"v": {"Q5_K": range(4)}, "down": {"Q5_K": range(5)}},
    ("qwen3-14b", "q4_k_m"): {"v": {"Q6_K": SOME_14B}, "down": {"Q6_K": SOME_14B}},
    ("qwen3-14b", "q5_k_s"): {},
    ("qwen3-14b", "q5_k_m"): {"v": {"Q6_K": SOME_14B}, "down": {"Q6_K": SOME_14B}},
    ("qwen3-14b", "q6_k"): {},
    ("qwen3-14b", "q2_k_s"): {"v": {"Q4_K": EVERY}, "down": {"Q4_K": range(5)}},
    **{("qwen3-14b", f"iq2_{size}"): {
        "output": {"Q5_K": EVERY}, "tokens": {"Q2_K": EVERY}, "v": {"Q4_K": EVERY}, "down": {"Q2_K": range(5)}}
       for size in ("xxs", "xs")},
    **{("qwen3-14b", f"iq1_{size}"): {
        "output": {"Q5_K": EVERY}, "tokens": {"Q2_K": EVERY}, "v": {"Q4_K": EVERY}, "down": {"Q2_K": range(5)},
        "attention output": {"IQ2_XXS": EVERY}} for size in "sm"},
    **{("qwen3-14b", f"iq2_{size}"): {
        "output": {"Q5_K": EVERY}, "tokens": {"IQ3_S": EVERY}, "v": {"Q4_K": EVERY}, "down": {"IQ3_S": range(5)},
        "attention output": {"IQ3_S": EVERY}} for size in "sm"},
    # Made without an importance matrix, as no file can be: with one, down has the mix's own type.
    ("qwen3-14b", "iq3_xxs"): {
        "output": {"Q5_K": EVERY}, "tokens": {"IQ3_S": EVERY}, "v": {"Q4_K": EVERY}, "q": {"IQ2_S": EVERY},
        "k": {"IQ2_S": EVERY}, "attention output": {"IQ3_S": EVERY}},
    ("qwen3-14b", "iq3_s"): {"output": {"Q6_K": EVERY}, "v": {"Q4_K": EVERY}},
    ("qwen3-14b", "iq3_m"): {"v": {"Q4_K": EVERY}, "down": {"Q4_K": range(5)}, "attention output": {"Q4_K": EVERY}},
    **{("qwen3-14b", f"iq4_{size}"): {"output": {"Q6_K": EVERY}, "v": {"Q5_K": EVERY}, "down": {"Q5_K": range(5)}}
       for size in ("nl", "xs")},
    **{("qwen3-14b", f"tq{n}_0"): {"output": {"Q6_K": EVERY}, "tokens": {"Q4_K": EVERY}} for n in (1, 2)},
    ("qwen3-14b", "mxfp4_moe"): {
        part: {"Q8_0": EVERY} for part in ("output", "tokens", "q", "k", "v", "attention output", "down", "")},
    ("qwen3-0.6b", "q2_k"): {part: {"Q3_K": EVERY} for part in ("attention output", "v", "down")},
    ("qwen3-0.6b", "q4_k_s"): {"v": {"Q5_K": range(4)}, "down": {"Q5_K": range(3)}},
    ("llama3.1-70b", "q2_k"): {"attention output": {"Q3_K": EVERY}, "v": {"Q5_K": EVERY}, "down": {"Q3_K": EVERY}},
    ("llama3.1-70b", "q3_k_s"): {"v": {"Q5_K": EVERY}},
    ("llama3.1-70b", "q3_k_m"): {"attention output": {"Q4_K": EVERY}, "v": {"Q5_K": EVERY},
                                 "down": {"Q5_K": range(5), "Q4_K": range(5, 80)}},
    ("deepseek-v3", "q2_k"): {"attention output": {"Q3_K": EVERY}, "down": {"Q3_K": EVERY}},
    ("deepseek-v3", "q3_k_m"): {"attention output": {"Q4_K": EVERY}, "down": {"Q5_K": range(3), "Q4_K": range(3, 61)}},
    ("gpt-oss-120b", "q4_k_s"): {"v": {"Q5_K": range(4)}, "down": {"Q5_K": range(4)}},
    ("gpt-oss-120b", "q4_k_m"): {"v": {"Q6_K": SOME_120B}, "down": {"Q6_K": SOME_120B}},
    ("gpt-oss-120b", "q5_k_m"): {"v": {"Q6_K": SOME_120B}, "down": {"Q6_K": SOME_120B}},
}
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # rows of no whole 256


@pytest.mark.parametrize(("name", "mix"), SNAPSHOTS)
def test_types_are_those_of_llama_cpp(name: str, mix: str) -> None:
    model, seen = txcalc.load(name), set()
    for tensor in gguf.tensors(trace(model, Workload(seq=3))):
        rules = SNAPSHOTS[name, mix].get(tensor.part, {})
        if tensor.part in ("tokens", "output") and not rules:
            continue
        wanted = next((kind for kind, layers in rules.items() if tensor.place.at in layers), MIXES[mix].type)
        wanted = FALLBACK[wanted] if tensor.columns % 256 else wanted
        assert gguf.tensor_type(model, tensor, mix) == wanted, tensor
        seen.add((tensor.part, tensor.place))
    assert len(seen) > 3 * model.layers - 3


@pytest.mark.parametrize(("name", "mix", "counted", "size_gib"), [
    # What llama.cpp prints of a file when it is loaded: tensors by type, and "file size".
    ("qwen3-30b-a3b", "q4_k_m", {"Q4_K": 289, "Q6_K": 49}, "17.28"),
    ("gpt-oss-20b", "mxfp4_moe", {"Q8_0": 98, "MXFP4": 72}, "11.27"),
])
def test_files_as_llama_cpp_prints_them(name: str, mix: str, counted: dict[str, int], size_gib: str) -> None:
    model = txcalc.load(name)
    found = Counter(gguf.tensor_type(model, each, mix) for each in gguf.tensors(trace(model, Workload(seq=3))))
    assert (found, f"{size(model, mix) / 2**30:.2f}") == (counted, size_gib)


def test_a_tower_stands_in_a_file_of_its_own() -> None:
    model = txcalc.load("qwen2.5-vl-7b")
    both, text = (count(each, Workload.of({"seq": 3, "weights": "q4_k_m"})).totals.weight_bytes
                  for each in (model, model.replaced(tower=None)))
    tower = count(model, Workload(seq=3)).totals.weight_bytes.value - size(model.replaced(tower=None), None)
    assert tower < both.value - text.value < 1.01 * tower  # all of it in 16 bits but norms and biases
    assert (both.kind, text.kind) == ("estimate", "exact")


def test_tables_in_gguf() -> None:
    """Tied to the head, the token table is of the head's type."""
    tensors = {"qwen3-14b": ("Q4_K", "Q6_K"), "gemma3-4b": ("Q6_K",), "gpt-oss-120b": ("Q5_0", "Q8_0")}
    for name, types in tensors.items():
        model = txcalc.load(name)
        found = [gguf.tensor_type(model, tensor, "q4_k_m") for tensor in gguf.tensors(trace(model, Workload(seq=3)))
                 if tensor.part in ("tokens", "output")]
        assert tuple(found) == types, name


def test_gguf_of_a_mixture_of_eight() -> None:
    types = {tensor.part: gguf.tensor_type(model, tensor, "q4_k_m")
             for model in [txcalc.load("mixtral-8x7b")] for tensor in gguf.tensors(trace(model, Workload(seq=3)))}
    assert types["v"] == types["k"] == "Q8_0" and types["attention output"] == "Q5_K"


def test_fused_projections_in_gguf_are_values() -> None:
    """Of a joined q, k and v all are of the type that v would have; Falcon has rules of its own."""
    for name, v, down in (("pythia-6.9b", "Q6_K", "Q6_K"), ("falcon-40b", "Q6_K", "Q6_K")):
        model = txcalc.load(name)
        first = [tensor for tensor in gguf.tensors(trace(model, Workload(seq=3))) if tensor.place.at == 0]
        found = {tensor.op.path: gguf.tensor_type(model, tensor, "q4_k_m") for tensor in first}
        assert {found[f"layers.attention.{each}"] for each in "qkv"} == {v}
        assert found["layers.feed_forward.down"] == down
    last = [tensor for tensor in gguf.tensors(trace(model, Workload(seq=3))) if tensor.part == "down"][-1]
    assert gguf.tensor_type(model, last, "q4_k_m") == "Q5_K"


def test_gguf_tensors_of_a_latent() -> None:
    """What raises keys and values is two tensors, of nope_dim and of kv_rank inputs."""
    model = txcalc.load("deepseek-v2-lite")
    found = [(t.rows, t.columns, gguf.tensor_type(model, t, "q4_k_m"))
             for t in gguf.tensors(trace(model, Workload(seq=3))) if t.op.path.endswith("kv_up")]
    assert set(found) == {(16 * 512, 128, "Q5_0"), (16 * 128, 512, "Q4_K")}
    assert len(found) == 2 * 27


def test_gguf_bytes_are_those_of_the_gguf_package() -> None:
    package = pytest.importorskip("gguf")
    for number, kind in TYPES.items():
        assert package.GGML_QUANT_SIZES[package.GGMLQuantizationType(number)] == (kind.block, kind.bytes)


def test_what_gguf_does_not_pack_is_fp32() -> None:
    model = tiny(feed_forward={"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 384})
    experts = 3 * 5 * 3 * 256 * 384
    attention = 3 * sum(rows * columns for rows, columns in LAYER[:4])
    assert size(model, "q8_0") == (experts + attention + TABLES) // 32 * 34 + 4 * (NORMS + 3 * 5 * 256)
    assert size(model, "q8_0", dtype="fp32") == size(model, "q8_0")


@pytest.mark.parametrize("name", ["t5-small", "mamba-2.8b", "bert-base", "deepseek-v3.2"])
def test_models_whose_gguf_is_not_known_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match="the tensors of a GGUF file are not known for a model with"):
        size(txcalc.load(name), "q4_k_m")


def test_rows_that_llama_cpp_cannot_pack_are_refused() -> None:
    with pytest.raises(SpecError, match=r"Q8_0 packs blocks of 32, and layers\.feed_forward.down has 100 inputs"):
        size(tiny(feed_forward={"d_ff": 100, "gated": True}), "q8_0")


# ---------------------------------------------------------------- packed tensors

def packed(name: str, out: int, columns: int) -> dict[str, Any]:
    """The tensors that the method's own tool writes for a linear layer."""
    import torch

    groups = columns // 128
    words = {"scales": torch.zeros(groups, out, dtype=torch.float16)}
    blocks = ceil(out * columns / 64)
    four = {"weight": torch.zeros(ceil(out * columns / 2), 1, dtype=torch.uint8), "quant_map": torch.zeros(16)}
    double = {"absmax": torch.zeros(blocks, dtype=torch.uint8), "nested_quant_map": torch.zeros(256),
              "nested_absmax": torch.zeros(ceil(blocks / 256))}

    def gptq(bits: int) -> dict[str, Any]:
        return {"qweight": torch.zeros(columns * bits // 32, out, dtype=torch.int32), **words,
                "qzeros": torch.zeros(groups, out * bits // 32, dtype=torch.int32),
                "g_idx": torch.zeros(columns, dtype=torch.int32)}

    return {
        "fp8": lambda: {"weight": torch.zeros(out, columns, dtype=torch.float8_e4m3fn),
                        "weight_scale_inv": torch.zeros(ceil(out / 128), ceil(columns / 128))},
        "int8": lambda: {"weight": torch.zeros(out, columns, dtype=torch.int8), "SCB": torch.zeros(out),
                         "weight_format": torch.tensor(0, dtype=torch.uint8)},
        "int4": lambda: {"weight_packed": torch.zeros(out, columns // 8, dtype=torch.int32),
                         "weight_scale": torch.zeros(out, groups, dtype=torch.bfloat16),
                         "weight_shape": torch.zeros(2, dtype=torch.int64)},
        "nf4": lambda: {**four, "absmax": torch.zeros(blocks)}, "fp4": lambda: {**four, "absmax": torch.zeros(blocks)},
        "nf4-dq": lambda: {**four, **double}, "fp4-dq": lambda: {**four, **double},
        "awq": lambda: {"qweight": torch.zeros(columns, out // 8, dtype=torch.int32), **words,
                        "qzeros": torch.zeros(groups, out // 8, dtype=torch.int32)},
        "gptq": lambda: gptq(4), "gptq-int8": lambda: gptq(8),
        "nvfp4": lambda: {"weight": torch.zeros(out, columns // 2, dtype=torch.uint8), "input_scale": torch.zeros(1),
                          "weight_scale": torch.zeros(out, columns // 16, dtype=torch.float8_e4m3fn),
                          "weight_scale_2": torch.zeros(1)},
        "bitnet": lambda: {"weight": torch.zeros(ceil(out / 4), columns, dtype=torch.uint8),
                           "weight_scale": torch.zeros(1, dtype=torch.bfloat16)},
    }[name]()


@pytest.mark.parametrize("name", sorted(PACKED - MIXES.keys() - {"mxfp4"}))
def test_formats_equal_packed_tensors(name: str) -> None:
    pytest.importorskip("torch")
    layers = 3 * sum(each.numel() * each.element_size() for out, columns in LAYER
                     for each in packed(name.partition("@")[0], out, columns).values())
    assert size(tiny(), name) == layers + 2 * (TABLES + NORMS)


def test_mxfp4_packs_routed_experts_alone() -> None:
    model = tiny(feed_forward={"kind": "moe", "experts": 5, "active_experts": 2, "d_ff": 384, "shared_experts": 1})
    codes = 3 * 5 * 3 * 256 * 384
    assert size(model, None) - size(model, "mxfp4") == 2 * codes - codes // 2 - codes // 32
    with pytest.raises(SpecError, match="mxfp4 packs routed experts, and tiny has none"):
        size(tiny(), "mxfp4")


@pytest.mark.parametrize(("name", "words"), [
    ("awq", "awq needs inputs in multiples of 128, and layers.feed_forward.down has 400"),
    ("gptq", "gptq needs outputs in multiples of 32, and layers.feed_forward.up has 400"),
])
def test_matrices_that_a_tool_refuses(name: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        size(tiny(feed_forward={"d_ff": 400, "gated": True}), name)


def test_layouts_have_the_defaults_of_the_spec() -> None:
    given = {"method": "custom", "bits": 5}
    assert Quantization.from_data(Layout(**given)._asdict()) == Quantization.from_data(given)
    for name, known in FORMATS.items():
        assert Quantization.from_data(name) == Quantization.from_data(known.layout._asdict())


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(("given", "words"), [
    ({"method": "foo", "bits": 4}, "'foo' is no known format of weights; one of fp32, fp16, bf16, fp8, int8"),
    ({"method": "gguf", "bits": 4}, "'gguf' is no known format"),
    ({"method": "bitsandbytes", "bits": 4}, "'bitsandbytes' is no known format"),
    ({"method": "awq", "bits": 3}, "awq has 4 here, got 3; a layout of your own is method: custom"),
    ({"method": "nf4", "group": 32}, "nf4 has 64 here, got 32"),
])
def test_unknown_methods_and_sizes_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(quantization=given)


@pytest.mark.parametrize("dtype", ["fp8", "int8", "nf4", "q4_0", "mxfp4"])
def test_nothing_is_computed_in_a_packed_format(dtype: str) -> None:
    with pytest.raises(SpecError, match=f"nothing is computed in {dtype}; --weights {dtype}") as caught:
        Workload.of({"seq": 3, "dtype": dtype})
    assert caught.value.field == "dtype"


def test_other_spellings_of_dtypes() -> None:
    for spelt, meant in {"float32": "fp32", "single": "fp32", "half": "fp16", "float16": "fp16",
                         "bfloat16": "bf16"}.items():
        found = Workload.of({"seq": 3, "dtype": spelt, "weights": spelt, "kv_dtype": spelt})
        assert (found.dtype, found.weights, found.kv_dtype) == (meant, meant, meant)
    with pytest.raises(SpecError, match="weights: must be one of fp32, fp16, bf16, fp8"):
        Workload.of({"seq": 3, "weights": "foo"})
    assert set(NAMES) == {*WHOLE, *PACKED, "released"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_packed_weights_have_no_training_state(name: str) -> None:
    model = tiny(feed_forward={"kind": "moe", "experts": 3, "active_experts": 2, "d_ff": 384})
    report = count(model, Workload.of({"seq": 3, "weights": name}))
    assert (report.totals.training_state_bytes is None) == (name in PACKED)
    assert Report.from_data(report.to_data()) == report
    rules = {rule.id: rule.text for rule in report.conventions}
    assert ("weights" in rules) == (name in PACKED)
    assert report.totals.activation_bytes == count(model, Workload(seq=3)).totals.activation_bytes


@pytest.mark.parametrize("name", sorted(NAMES))
def test_parts_of_packed_weights_add_up(name: str) -> None:
    model = tiny(feed_forward={"kind": "moe", "experts": 3, "active_experts": 2, "d_ff": 384})
    found = explain(model, Workload.of({"seq": 3, "weights": name}), "weights")
    assert sum(row.value for row in found.rows) == found.total == size(model, name)
    assert all(row.value > 0 for row in found.rows)


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize("name", get_args(KvDType))
def test_rows_of_the_cache(name: KvDType) -> None:
    """Two layers' worth of keys and values: llama.cpp's blocks, LMDeploy's scale and zero point for each head."""
    vector = {"fp32": 128, "fp16": 64, "bf16": 64, "fp8": 32, "int8": 32 + 4, "int4": 16 + 4, "q8_0": 34, "q5_1": 24,
              "q5_0": 22, "q4_1": 20, "q4_0": 18}[name]
    report = count(tiny(), Workload.of({"seq": 7, "batch": 5, "kv_dtype": name}))
    assert report.totals.kv_cache_bytes_per_token is not None and report.totals.kv_cache_bytes is not None
    assert report.totals.kv_cache_bytes_per_token.value == 3 * 2 * 2 * vector
    assert report.totals.kv_cache_bytes.value == 5 * 7 * 3 * 2 * 2 * vector == sum(c.bytes for c in report.caches)
    found = explain(tiny(), Workload.of({"seq": 7, "batch": 5, "kv_dtype": name}), "kv-cache")
    assert found.total == report.totals.kv_cache_bytes.value
    assert report.totals.weight_bytes == count(tiny(), Workload(seq=7)).totals.weight_bytes


def test_a_cache_of_latents_in_blocks() -> None:
    """llama.cpp caches a row of 512 + 64 elements."""
    report = count(txcalc.load("deepseek-v2-lite"), Workload.of({"seq": 3, "kv_dtype": "q8_0"}))
    assert report.totals.kv_cache_bytes_per_token is not None
    assert report.totals.kv_cache_bytes_per_token.value == 27 * 576 // 32 * 34


def test_heads_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(SpecError, match="q4_0 packs blocks of 32, and a vector of this model's cache has 48") as caught:
        count(tiny(attention={"heads": 8, "kv_heads": 2, "head_dim": 48}), Workload.of({"seq": 3, "kv_dtype": "q4_0"}))
    assert caught.value.field == "kv_dtype"


def test_states_are_not_packed() -> None:
    """What is no vector of a key or value stays in the dtype."""
    model = txcalc.load("mamba2-2.7b")
    plain, packed_ = (count(model, Workload.of({"seq": 3, "kv_dtype": name})) for name in ("bf16", "q8_0"))
    assert plain.totals.kv_cache_bytes == packed_.totals.kv_cache_bytes
    assert set(KV_FORMATS) == {*BYTES, *get_args(KvDType)}
    assert stored_bytes(4, 4, FORMATS["fp8"].layout, 2) == 16 + 4


# ---------------------------------------------------------------- reports of v1


@pytest.mark.parametrize(("old", "method"), [
    ({"method": "bitsandbytes int8", "bits": 8, "scale_bytes": 4, "matrix_bytes": 1, "weights": "linear"}, "int8"),
    ({"method": "bitsandbytes fp4", "bits": 4, "group": 64, "flat": True, "scale_bytes": 1, "scale_group": 256,
      "matrix_bytes": 1088, "weights": "linear", "exact": False}, "fp4-dq"),
    ({"method": "awq", "bits": 4, "group": 128, "word_bits": 32, "scale_bytes": 2, "zero_points": True}, "awq"),
    ({"method": "awq", "bits": 4, "group": 128, "word_bits": 8, "scale_bytes": None}, "custom"),
    ({"method": "foo", "bits": 4}, "custom"), ({"method": "mlx", "bits": 4, "word_bits": 32}, "mlx"),
])
def test_older_reports_are_read(tmp_path: Path, old: dict[str, Any], method: str) -> None:
    """What was packed then, with the same sizes, and fused projections where they stand now."""
    report = count(tiny(), Workload(seq=3)).to_data()
    report["schema"] = "txcalc/report/v1"
    report["model"]["spec"] |= {"quantization": {**old, "fused": [["q", "k", "v"]]}}
    del report["model"]["spec"]["fused"], report["model"]["spec"]["released"], report["workload"]["weights"]
    report["workload"] |= {"dtype": "fp8", "kv_dtype": "fp8"}
    (path := tmp_path / "report.json").write_text(json.dumps(report))
    loaded = presets.load(str(path))
    assert loaded.model.fused == (("q", "k", "v"),)
    packing = loaded.model.quantization
    assert packing is not None and packing.method == method
    assert {name: getattr(packing, name) for name in old} == {**old, "method": method}
    found = recorded(loaded)
    assert found is not None
    assert [found.workload[name] for name in ("dtype", "weights", "kv_dtype")] == ["bf16", "fp8", "fp8"]


# ---------------------------------------------------------------- two memories


@pytest.mark.parametrize("weights", ["bf16", "q4_k_m", "nf4", "released"])
@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite", "gemma3-1b"])
def test_bytes_by_layer_add_up(name: str, weights: str) -> None:
    t = trace(txcalc.load(name), Workload.of({"seq": 3, "weights": weights}))
    found, whole = by_layer(t), dict[str, int]()
    for (path, _), each in found.items():
        whole[path] = whole.get(path, 0) + each
    assert whole == {entry.op.path: entry.value for entry in entries(t)}
    assert {layer for _, layer in found} == {None, *range(t.model.layers)}


def test_experts_in_the_memory_of_the_cpu() -> None:
    """Mixtral's: eight of three matrices in each layer, and the token table, which is there in any case."""
    t = trace(txcalc.load("mixtral-8x7b"), Workload.of({"seq": 3, "weights": "q8_0"}))
    table, experts = 32000 * 4096 // 32 * 34, 8 * 3 * 4096 * 14336 // 32 * 34
    for given, away in {"experts": table + 32 * experts, "experts:5": table + 5 * experts, "layers:0": table}.items():
        parts = list(offload.placed(t, offload.offload(given, t.model)))
        assert sum(part.bytes for part in parts if not part.on_card) == away
        assert sum(part.bytes for part in parts) == weight_bytes(t)
    whole = {part.layer for part in offload.placed(t, offload.Offload(layers=7)) if part.on_card}
    assert whole == {None, *range(7, 32)}


@pytest.mark.parametrize(("name", "mix", "given", "card", "host"), [
    # What llama.cpp prints of its buffers in MiB; the second log is older than the head's place on the card.
    ("llama3-8b", "q4_k_m", offload.Offload(), "4403.49", "281.81"),
    ("mistral-7b", "q4_k_m", offload.Offload(layers=12), "2495.31", None),
])
def test_buffers_as_llama_cpp_prints_them(
    name: str, mix: str, given: offload.Offload, card: str, host: str | None
) -> None:
    t = trace(txcalc.load(name), Workload.of({"seq": 3, "weights": mix}))
    parts = [part for part in offload.placed(t, given) if host or part.layer is not None]
    found = [f"{sum(part.bytes for part in parts if part.on_card == where) / 2**20:.2f}" for where in (True, False)]
    assert found[0] == card and host in (None, found[1])


def test_a_tied_table_is_in_both_memories() -> None:
    t = trace(txcalc.load("gemma3-1b"), Workload.of({"seq": 3, "weights": "q8_0"}))
    parts = [part for part in offload.placed(t, offload.Offload()) if part.path == "token_embedding"]
    assert sorted(part.on_card for part in parts) == [False, True] and len({part.bytes for part in parts}) == 1


@pytest.mark.parametrize(("given", "words"), [
    ("layers", "must be layers:N, experts or experts:N, got 'layers'"), ("half", "got 'half'"),
    ("layers:33", "llama3-8b has 32 layers, and 33 of them cannot go to the CPU"),
    ("experts", "llama3-8b has no routed experts; layers:N puts layers into"), ("layers:-1", "got 'layers:-1'"),
])
def test_what_cannot_be_offloaded(given: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        offload.offload(given, txcalc.load("llama3-8b"))
    assert caught.value.field == "offload"
