"""Checkpoints that MLX wrote: counts against the bytes of its own files, measured by tests/mlx_files.py."""

import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tests.totals import quantized_params
from txcalc.answer.report import Quantity, count
from txcalc.check.checkpoint import compare_checkpoint
from txcalc.count.params import params
from txcalc.count.weights import weight_bytes
from txcalc.huggingface import mlx, modules
from txcalc.huggingface.importer import spec_from_config
from txcalc.models.checkpoints import read_checkpoint
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

TABLE: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "data" / "mlx.json").read_text())
CASES = TABLE["cases"]
NAMED = [case for case in CASES if "tensors" in case]
BYTES = {"U32": 4, "F32": 4, "BF16": 2, "U8": 1}
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
FOUR = {"group_size": 64, "bits": 4, "mode": "affine"}
LLAMA: dict[str, Any] = next(case["config"] for case in CASES if case["config"]["model_type"] == "llama")


def read(config: dict[str, Any], packing: Any = None) -> Model:
    fields = {"quantization": packing, "quantization_config": packing} if packing else {}
    return Model.from_data(spec_from_config({**config, **fields}, "config.json", "tiny", strict=True))


def names(case: dict[str, Any]) -> str:
    return f"{case['config']['model_type']}-{case['config'].get('hidden_size', case['config'].get('n_embd'))}"


@pytest.mark.parametrize("case", CASES, ids=names)
def test_bytes_equal_the_file(case: dict[str, Any]) -> None:
    """Of every family at two widths, with and without whole groups, in every mode, size and recipe."""
    config = case["config"]
    workload = Workload.of({"seq": 3, "dtype": DTYPES[config["torch_dtype"]]})
    plain = params(trace(read(config), workload))
    for file in case["files"]:
        t = trace(read(config, file["quantization"]), workload)
        assert weight_bytes(t) + file["buffers"] == file["bytes"], file["quantization"]
        assert params(t) == plain


def test_every_family_and_every_way_was_measured() -> None:
    measured = {case["config"]["model_type"] for case in CASES}
    assert measured == set(mlx.FAMILIES) <= {*modules.FAMILIES, *modules.MLX}
    assert not set(modules.FAMILIES) & set(modules.MLX)
    ways = {(q["mode"], q["group_size"], q["bits"]) for case in CASES for file in case["files"]
            for q in [{"mode": "affine", **file["quantization"]}]}
    assert ways == {(mode, *way) for mode, known in mlx.MODES.items() for way in known}


@pytest.mark.parametrize("case", TABLE["heads"], ids=names)
def test_heads_are_those_of_the_class(case: dict[str, Any]) -> None:
    """What the class takes is counted as its file has it, or refused; what it does not take is refused, if known."""
    config, family = case["config"], mlx.FAMILIES[case["config"]["model_type"]]
    takes = {tied for tied, file in ((True, case["tied"]), (False, case["untied"])) if file is not None}
    assert takes == ({True, False} if family.tied is None else {family.tied})
    for said, file in ((True, case["tied"]), (False, case["untied"]), (None, case["unsaid"])):
        given = {**config, **({} if said is None else {"tie_word_embeddings": said})}
        if said is not None and said not in takes:
            with pytest.raises(SpecError, match="has no such head"):
                read(given, FOUR if case["unsaid"] is None else case["unsaid"]["quantization"])
        elif file is not None and said is None and config["model_type"] in mlx.TIED_UNLESS_SAID:
            with pytest.raises(SpecError, match="tie_word_embeddings: must be given"):
                read(given, file["quantization"])
            assert file["bytes"] == case["tied"]["bytes"] < case["untied"]["bytes"]
        elif file is not None:
            assert weight_bytes(trace(read(given, file["quantization"]), Workload(seq=3))) == (
                file["bytes"] - file["buffers"])


@pytest.mark.parametrize("case", [case for case in CASES if "modules" in case], ids=names)
def test_every_module_of_the_file_has_its_name_in_the_table(case: dict[str, Any]) -> None:
    """One by one: left alone, each takes away just its own matrix; read with 8 bits, each is counted with them."""
    config, rest = case["config"], case["files"][0]["quantization"]
    whole = trace(read(config, rest), Workload(seq=3))
    split = [name for name in case["modules"] if name.endswith(("embed_q", "unembed_out"))]
    for name in split:
        with pytest.raises(SpecError, match="names no module of this model"):
            read(config, {**rest, name: False})
    none = {name: trace(read(config, {**rest, name: False}), Workload(seq=3))
            for name in case["modules"] if name not in split}
    left = {name: quantized_params(whole) - quantized_params(t) for name, t in none.items()}
    assert min(left.values()) > 0
    if not split:
        assert sum(left.values()) == quantized_params(whole)
    for name, weights in left.items():
        t = trace(read(config, {**rest, name: {"group_size": 32, "bits": 8, "mode": "mxfp8"}}), Workload(seq=3))
        assert weight_bytes(none[name]) - weight_bytes(t) == weights * 2 - weights * 33 // 32


# ---------------------------------------------------------------- published files

FACTS = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
OLD = {"group_size": 64, "bits": 4}
EIGHT = {"group_size": 64, "bits": 8}
LLAMA3, LLAMA32 = FACTS["llama-3-8b"]["config"], FACTS["llama-3.2-1b"]["config"]
GPT_OSS = {name: value for name, value in FACTS["gpt-oss-20b"]["config"].items() if name != "quantization_config"}


def each(layers: int, *modules: str) -> dict[str, Any]:
    return {f"model.layers.{i}.{module}": EIGHT for i in range(layers) for module in modules}


@pytest.mark.parametrize(("config", "packing", "size"), [
    ({**LLAMA3, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
      "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}, EIGHT, 142_955_136),
    (LLAMA32, OLD, 695_242_752),
    ({**LLAMA32, "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128}, OLD,
     1_807_423_488),
    (LLAMA3, OLD, 4_517_404_672),
    ({**LLAMA3, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
     OLD, 39_688_355_840),
    (GPT_OSS, {"group_size": 32, "bits": 4, "mode": "mxfp4", "model.embed_tokens": EIGHT, "lm_head": EIGHT,
               **each(24, *(f"self_attn.{name}_proj" for name in "qkvo"), "mlp.router")}, 12_076_119_168),
    (FACTS["qwen3-30b-a3b"]["config"], {**OLD, **each(48, "mlp.gate")}, 17_180_913_664),
    (FACTS["qwen3-next-80b-a3b"]["config"], {**OLD, **each(48, "mlp.gate", "mlp.shared_expert_gate")}, 44_844_060_160),
    # The rest are the routers' correction biases, in fp32.
    ({"model_type": "glm4_moe_lite", "tie_word_embeddings": False}, OLD, 16_852_202_496 - 46 * 64 * 4),
], ids=["SmolLM2-135M-Instruct-8bit", "Llama-3.2-1B-Instruct-4bit", "Llama-3.2-3B-Instruct-4bit",
        "Llama-3.1-8B-Instruct-4bit", "Llama-3.3-70B-Instruct-4bit", "gpt-oss-20b-MXFP4-Q8",
        "Qwen3-Coder-30B-A3B-Instruct-4bit", "Qwen3-Coder-Next-4bit", "GLM-4.7-Flash-4bit"])
def test_bytes_equal_the_published_size(config: dict[str, Any], packing: dict[str, Any], size: int) -> None:
    """Of files of mlx-community, as github.com/exo-explore/exo (resources/inference_model_cards) has them."""
    found = count(read(config, packing), Workload(seq=3)).totals.weight_bytes
    assert found == Quantity(value=size, unit="B", kind="exact")


# ---------------------------------------------------------------- against the file


def write(path: Path, tensors: dict[str, list[Any]]) -> None:
    """A safetensors file of these types and shapes, of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, (dtype, *shape) in tensors.items():
        start, end = end, end + prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


@pytest.mark.parametrize("case", NAMED, ids=names)
def test_the_check_against_a_file_is_equal(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, case["tensors"])
    spec = read(case["config"], case["files"][0]["quantization"])
    rows = compare_checkpoint(spec, None, read_checkpoint(str(path)))
    assert {row.quantity: row.verdict for row in rows}["weight bytes"] == "equal"
    assert {row.verdict for row in rows} == {"equal"}
    other = read(case["config"], {**FOUR, "bits": 3})
    assert "DIFFERS" in {row.verdict for row in compare_checkpoint(other, None, read_checkpoint(str(path)))}


def test_a_module_that_is_read_as_packed_says_no_parameters(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, {"a.weight": ["U32", 5, 8], "a.scales": ["BF16", 5, 1], "a.biases": ["BF16", 5, 1]})
    assert read_checkpoint(str(path)).parameters is None


# ---------------------------------------------------------------- what is exact, and what is refused


def stored(quantization: dict[str, Any], **fields: Any) -> Quantity:
    return count(read({**LLAMA, "quantization": quantization, **fields}), Workload(seq=3)).totals.weight_bytes


def test_a_file_of_an_older_release_is_an_estimate() -> None:
    """Without a mode or the second name of the field, nothing tells whether embeddings were packed."""
    old = {"group_size": 64, "bits": 4}
    exact = stored(old, quantization_config=old)
    assert exact == stored(FOUR) == stored(FOUR, quantization_config=FOUR)
    assert exact.kind == "exact"
    assert stored(old) == replace(exact, kind="estimate")


@pytest.mark.parametrize(("quantization", "kind"), [
    (FOUR, "exact"), ({**FOUR, "group_size": 128}, "exact"), ({**FOUR, "group_size": 32}, "estimate"),
    ({**FOUR, "group_size": 32, "bits": 8}, "exact"), ({"group_size": 128, "bits": 8}, "exact"),
    ({"group_size": 128, "bits": 4}, "estimate"), ({"group_size": 64, "bits": 4}, "exact"),
    ({**FOUR, "group_size": 32, "mode": "mxfp4"}, "estimate"),
    ({**FOUR, "group_size": 32, "mode": "mxfp4", "lm_head": {**FOUR, "bits": 8}}, "exact"),
])
def test_codes_that_may_be_another_methods_make_an_estimate(quantization: dict[str, Any], kind: str) -> None:
    assert stored(quantization, quantization_config=quantization).kind == kind


def test_yaml_says_it_as_well() -> None:
    own = read(LLAMA, FOUR)
    said = {"method": "mlx", "bits": 4, "group": 64, "word_bits": 32, "offsets": True, "weights": "all"}
    plain = read(LLAMA).to_data()
    assert Model.from_data({**plain, "quantization": said}) == own
    q = "model.layers.1.self_attn.q_proj"
    eight = read(LLAMA, {**FOUR, q: {"group_size": 32, "bits": 8}})
    mixed = {"bits": 8, "group": 32, "offsets": True, "matrices": {"layers.attention.q": 1}}
    assert Model.from_data({**plain, "quantization": {**said, "mixed": [mixed]}}) == eight
    none = read(LLAMA, {**FOUR, q: False})
    assert Model.from_data({**plain, "quantization": {**said, "left": {"layers.attention.q": 1}}}) == none


@pytest.mark.parametrize(("packing", "words"), [
    ({"left": {"layers.attention.query": 1}}, "quantization.left: names 1 matrices layers.attention.query, and the "),
    ({"left": {"layers.attention.q": 3}}, "quantization.left: names 3 matrices layers.attention.q, and the model has"),
    ({"mixed": [{"bits": 8, "matrices": {"layers.attention.q": 3}}]}, "quantization.mixed: names 3 matrices"),
    ({"mixed": [{"bits": 8, "group": 128, "matrices": {"layers.attention.q": 1}}]},
     "quantization.mixed: layers.attention.q has 192 inputs, which are no whole groups of 128"),
])
def test_matrices_that_the_model_has_not_are_refused(packing: dict[str, Any], words: str) -> None:
    said = {"method": "mlx", "bits": 4, "group": 64, "word_bits": 32, "offsets": True, "weights": "all", **packing}
    spec = Model.from_data({**read(LLAMA).to_data(), "quantization": said})
    with pytest.raises(SpecError) as caught:
        weight_bytes(trace(spec, Workload(seq=3)))
    assert words in str(caught.value)


def test_whole_groups_alone_are_packed() -> None:
    """A hidden size of 192 is no multiple of 128: only what reads 128 values is packed, as in the file."""
    t = trace(read(LLAMA, {**FOUR, "group_size": 128}), Workload(seq=3))
    assert quantized_params(t) == 2 * 192 * 128


def test_names_that_nothing_packs_may_be_false() -> None:
    extra = ["model.norm", "model.layers.0.input_layernorm", "model.layers.1.self_attn.rope"]
    assert read(LLAMA, {**FOUR, **dict.fromkeys(extra, False)}) == read(LLAMA, FOUR)


@pytest.mark.parametrize(("quantization", "words"), [
    ({**FOUR, "mode": "int4"}, "quantization.mode: 'int4' is not known"),
    ({**FOUR, "bits": 7}, "quantization.bits: 7 bits in groups of 64 are not known of mode affine"),
    ({**FOUR, "group_size": 16}, "quantization.bits: 4 bits in groups of 16"),
    ({**FOUR, "mode": "mxfp4"}, "quantization.bits: 4 bits in groups of 64 are not known of mode mxfp4"),
    ({"bits": 4}, "quantization.group_size: required field is missing"),
    ({**FOUR, "group_size": True}, "quantization.group_size: must be a whole number"),
    ({**FOUR, "new_field": 3}, "quantization.new_field: must be true, false or sizes, got 3"),
    ({**FOUR, "new_field": False}, "quantization.new_field: names no module of this model"),
    ({**FOUR, "model.norm": True}, "quantization.model.norm: names no module of this model"),
    ({**FOUR, "model.layers.2.mlp.up_proj": {"group_size": 64, "bits": 8}}, "layers.2.mlp.up_proj: names no module"),
    ({**FOUR, "lm_head": {"bits": 8}}, "quantization.lm_head.group_size: required field is missing"),
    ({**FOUR, "lm_head": {**FOUR, "global_scale": True}}, "quantization.lm_head.global_scale: not understood"),
    ({**FOUR, "lm_head": {**FOUR, "quantize_input": True}}, "quantization.lm_head.quantize_input: not understood"),
    (4, "quantization: must be a mapping"),
])
def test_what_is_not_understood_is_refused(quantization: Any, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(LLAMA, quantization)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("fields", "words"), [
    ({"quantization_config": {"group_size": 64, "bits": 8}}, "quantization_config: contradicts quantization"),
    ({"quantization_config": {"quant_method": "mxfp4"}}, "quantization_config: contradicts quantization"),
    ({"compression_config": {"quant_method": "mxfp4"}}, "compression_config: contradicts quantization"),
    ({"quantize_activations": True}, "quantize_activations"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "MLX's class of model_type llama has no such head"),
    ({"model_type": "arcee"}, "quantization: MLX's checkpoints of model_type arcee are not understood"),
    ({"model_type": "phi"}, "MLX's class of model_type phi has no such head"),
])
def test_what_does_not_fit_is_refused(fields: dict[str, Any], words: str) -> None:
    sizes = {name: LLAMA[name] for name in ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers")}
    with pytest.raises(SpecError) as caught:
        read({"model_type": "llama", **sizes, "tie_word_embeddings": True, "quantization": FOUR, **fields})
    assert words in str(caught.value)


def test_a_latent_that_is_split_into_halves_of_other_groups_is_refused() -> None:
    deepseek = next(case["config"] for case in CASES if case["config"]["model_type"] == "deepseek_v3")
    with pytest.raises(SpecError, match=r"quantization\.group_size: 64 divides one of"):
        read({**deepseek, "qk_nope_head_dim": 32}, FOUR)


def test_a_packed_part_of_a_model_is_refused() -> None:
    facts = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
    config = facts["gemma-3-4b"]["config"]
    with pytest.raises(SpecError, match=r"text_config\.quantization: a packed part"):
        read({**config, "text_config": {**config["text_config"], "quantization": FOUR}})
    with pytest.raises(SpecError, match="MLX's checkpoints of model_type gemma3 are not understood"):
        read(config, FOUR)
