"""GGUF and safetensors files as models: exact bytes from their headers alone, and every way in which one can lie."""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import txcalc
from tests.test_bad_input import refused
from tests.test_checkpoint import (
    LLAMA,
    LLAMA_GGUF,
    MAGIC,
    Tensors,
    gguf,
    header,
    llama_tensors,
    raw_safetensors,
    size,
    text,
)
from txcalc.answer.report import Report, count
from txcalc.count.weights import entries
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm", "model.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}
KEYS = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2,
        "context_length": 67, "feed_forward_length": 96}


def llama_gguf() -> Tensors:
    """Every matrix in blocks of 32, but those of layer 1, which are in 16 bits; norms in 32."""
    found = {}
    for name, (dtype, shape) in LLAMA_GGUF.items():
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        found[name] = ("F16" if name.startswith("blk.1.") and len(shape) > 1 else dtype, shape)
    return found


def field(name: str, value: object) -> bytes:
    """One field of metadata."""
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    values = value if isinstance(value, list) else [value]
    kind, form = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}[type(values[0])]
    many = struct.pack("<IIQ", 9, kind, len(values)) if isinstance(value, list) else struct.pack("<I", kind)
    return text(name) + many + struct.pack(f"<{len(values)}{form}", *values)


def fields(architecture: str = "llama", **changed: object) -> list[bytes]:
    keys = {name: value for name, value in {**KEYS, **changed}.items() if value is not None}
    return [field("general.architecture", architecture),
            *(field(f"{architecture}.{name}", value) for name, value in keys.items())]


def write(path: Path, tensors: Tensors | None = None, given: list[bytes] | None = None) -> Path:
    path.write_bytes(gguf(llama_gguf() if tensors is None else tensors, fields=fields() if given is None else given))
    return path


def bytes_of(tensors: Tensors) -> int:
    widths = {"Q8_0": 34 / 32, "F16": 2, "BF16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4}
    return int(sum(size("U8", shape) * widths[dtype] for dtype, shape in tensors.values()))


def weights(path: Path, *overrides: str, **workload: Any) -> Any:
    return count(load(str(path), overrides).model, Workload.of({"seq": 3, **workload})).totals.weight_bytes


def each(model: Model) -> dict[str, Any]:
    """Bytes by operation, in all layers."""
    return {entry.op.path: entry.value for entry in entries(trace(model, Workload(seq=3)))}


# ---------------------------------------------------------------- GGUF


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    """The same model as its configuration, with the bytes that the header has, tensor by tensor."""
    loaded = load(str(write(tmp_path / "tiny-Q8_0.gguf")))
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "max_position_embeddings": 67}))
    config = txcalc.load(str(tmp_path / "config.json"))
    changed = {name for name, value in loaded.model.to_data().items() if value != config.to_data()[name]}
    assert changed == {"name", "stored"} and loaded.model.name == "tiny-Q8_0" and loaded.dtype == "fp16"
    report = count(loaded.model, Workload(seq=3))
    assert (report.totals.weight_bytes.value, report.totals.weight_bytes.kind) == (bytes_of(llama_gguf()), "exact")
    assert Report.from_data(report.to_data()) == report
    rows = each(loaded.model)
    assert rows["head"] == 101 * 64 // 32 * 34 and sum(rows.values()) == bytes_of(llama_gguf())
    assert rows["layers.feed_forward.up"] == 96 * 64 // 32 * 34 + 2 * 96 * 64


def test_tensors_of_no_operation_count(tmp_path: Path) -> None:
    """llama.cpp loads factors of rotary positions, too; layers that predict further tokens it does not."""
    tensors = llama_gguf() | {"rope_freqs.weight": ("F32", (8,)), "blk.2.nextn.eh_proj.weight": ("F16", (64, 128))}
    path = write(tmp_path / "a.gguf", tensors, fields(block_count=3, nextn_predict_layers=1))
    assert weights(path).value == bytes_of(llama_gguf()) + 32
    assert load(str(path)).notes == (f"{path}: left out 1 tensors after the last layer, 16,384 bytes",)


def test_a_gguf_file_and_a_longest_request_are_llama_cpps(tmp_path: Path) -> None:
    path = str(write(tmp_path / "tiny-Q8_0.gguf"))
    found = txcalc.memory(path, context=300)
    assert found.engine is not None
    assert (found.engine.name, found.engine.tokens, found.peak.kind) == ("llama.cpp", 512, "estimate")
    assert txcalc.memory(path).engine is None
    assert [txcalc.fit(path, "24GB", **more).engine is None for more in ({}, {"seq": 256})] == [False, True]


def test_a_gguf_in_parts(tmp_path: Path) -> None:
    tensors = list(llama_gguf().items())
    for number, part, metadata in ((1, tensors[:5], None), (2, tensors[5:], [])):
        last = write(tmp_path / f"tiny-{number:05}-of-00002.gguf", dict(part), metadata)
    assert weights(last).value == bytes_of(llama_gguf())
    (tmp_path / "tiny-00001-of-00002.gguf").unlink()
    assert "tiny-00001-of-00002.gguf is missing" in refused("count", str(last))


def test_a_gguf_without_its_ending(tmp_path: Path) -> None:
    """As ollama calls its files."""
    assert weights(write(tmp_path / "sha256-0123")).value == bytes_of(llama_gguf())


def test_a_file_beside_other_models(tmp_path: Path) -> None:
    """Its tensors are nobody else's: in a difference they go before the sizes that they say."""
    path = write(tmp_path / "a.gguf")
    found = txcalc.diff(str(path), "gpt2")
    change = next(each for each in found.totals if each.total == "params")
    assert change.b - change.a == change.change == sum(share.change for share in change.shares)
    assert txcalc.validate(str(path)).agrees


def test_overrides_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    assert weights(path, "context=999").value == weights(path).value
    assert weights(path, weights="bf16").value == 2 * sum(size("U8", shape) for _, shape in llama_gguf().values())
    assert "has 2 layers, and the model 1; stored=null" in refused("count", f"{path}@layers=1")
    assert "its file holds 74,688 weights, and the model that it describes has" in refused(
        "count", f"{path}@feed_forward.d_ff=97")
    first = sum(size("U8", shape) for name, (_, shape) in llama_gguf().items() if "blk.1" not in name)
    assert weights(path, "layers=1", "stored=null").value == 2 * first


@pytest.mark.parametrize(("given", "words"), [
    (fields("rwkv6"), "general.architecture: 'rwkv6' is not known; txcalc knows llama, qwen2"),
    (fields("qwen3mo"), "did you mean qwen3moe?"), (fields("clip"), "'clip' is not known"),
    (fields()[1:], "general.architecture: required field is missing"),
    (fields(block_count=None), "llama.block_count: required field is missing"),
    (fields(embedding_length="a"), "llama.embedding_length: must be a whole number of at least 1, got 'a'"),
    (fields(block_count=0), "llama.block_count: must be a whole number of at least 1, got 0"),
    (fields(block_count=2**31), "must be a whole number of at most 10,000, got 2147483648"),
    (fields(nextn_predict_layers=2), "num_hidden_layers: must be a whole number of at least 1, got 0"),
    (fields(feed_forward_length=[96, 97]), "llama.feed_forward_length: differs from layer to layer"),
    (fields(feed_forward_length=95), "its file holds 74,688 weights"),
    (fields(**{"attention.head_count": 2**31}), "head_dim: positions rotate pairs of columns, here 0"),
    (fields(**{"attention.head_count": 0}), "llama.attention.head_count: must be a whole number"),
])
def test_metadata_that_do_not_suffice(
    tmp_path: Path, given: list[bytes], words: str
) -> None:
    assert words in refused("count", str(write(tmp_path / "a.gguf", given=given)))


def test_a_gguf_without_a_token_table(tmp_path: Path) -> None:
    tensors = {name: each for name, each in llama_gguf().items() if name != "token_embd.weight"}
    assert "has no token_embd.weight" in refused("count", str(write(tmp_path / "a.gguf", tensors)))


@pytest.mark.parametrize("raw", [
    MAGIC + struct.pack("<IQQ", 3, 1, 2**17), MAGIC + struct.pack("<IQQ", 3, 2**17, 1),
    MAGIC + struct.pack("<IQQ", 3, 1, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**36),
    MAGIC + struct.pack("<IQQ", 3, 1, 1) + text("a") + struct.pack("<IIQ", 9, 9, 2**36),
    MAGIC + struct.pack("<IQQ", 3, 1, 1) + text("a") + struct.pack("<IIQ", 9, 4, 2**63),
    MAGIC + struct.pack("<IQQ", 3, 1, 1) + text("a") + struct.pack("<IQ", 8, 2**63),
    MAGIC + struct.pack("<IQQ", 3, 1, 90_000), MAGIC + struct.pack("<IQQ", 3, 90_000, 0),
], ids=repr)
def test_counts_that_lie_end_at_once(tmp_path: Path, raw: bytes) -> None:
    """In a file as long as they say, all of it zeros, which a disk does not hold."""
    path = tmp_path / "a.gguf"
    path.write_bytes(raw)
    os.truncate(path, 2**42)
    start = time.process_time()
    refused("count", str(path))
    assert time.process_time() - start < 3


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=9)), max_size=3), st.integers(0, 3000))
def test_no_bytes_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], end: int
) -> None:
    raw = bytearray(gguf(llama_gguf(), fields=fields()))
    for at, junk in changes:
        raw[at:at + len(junk)] = junk
    path = tmp_path_factory.getbasetemp() / "junk.gguf"
    path.write_bytes(raw if end > 2000 else raw[:end])
    with contextlib.suppress(SpecError):
        count(load(str(path)).model, Workload(seq=3))


# ---------------------------------------------------------------- safetensors


def model_folder(folder: Path, tensors: Tensors, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    path = folder / "model.safetensors"
    path.write_bytes(raw_safetensors(header(tensors), sum(size(*each) for each in tensors.values())))
    return path


def fp8_tensors() -> Tensors:
    """DeepSeek's blocks of 128 x 128, with a scale of each."""
    tensors = llama_tensors()
    for name, (_, shape) in list(tensors.items()):
        if "_proj" in name:
            tensors |= {name: ("F8_E4M3", shape), f"{name}_scale_inv": ("F32", (1, 1))}
    return tensors


FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}}


@pytest.mark.parametrize("tied", [False, True])
def test_a_safetensors_file_is_a_model(tmp_path: Path, tied: bool) -> None:
    """A tied head that an FP8 file holds once more counts as its bytes do: it is loaded so."""
    path = model_folder(tmp_path, fp8_tensors(), tie_word_embeddings=tied, **FP8)
    config, file = (load(str(one)).model for one in (tmp_path / "config.json", path))
    counted = count(config, Workload(seq=3)).totals.weight_bytes.value
    assert weights(path).value == bytes_of(fp8_tensors()) == counted + 2 * 101 * 64 * tied
    rows = each(file)
    assert rows["layers.attention.q"] == 2 * (64 * 64 + 4)
    assert weights(path, weights="bf16").value == weights(tmp_path / "config.json", weights="bf16").value


def test_files_of_one_width_are_as_the_run_has_them(tmp_path: Path) -> None:
    path = model_folder(tmp_path, llama_tensors("F16"), torch_dtype="bfloat16")
    loaded = load(str(path))
    assert loaded.dtype == "fp16" and loaded.model.stored is not None and not loaded.model.stored.outside
    assert weights(path).value == bytes_of(llama_tensors()) == weights(path, dtype="fp32").value // 2
    mixed = llama_tensors() | {"model.norm.weight": ("F32", (64,))}
    assert weights(model_folder(tmp_path, mixed)).value == bytes_of(llama_tensors()) + 2 * 64
    assert weights(path, dtype="fp32").value == 2 * bytes_of(llama_tensors())


@pytest.mark.parametrize(("dtype", "width"), [("fp32", 4), ("fp16", 2)])
def test_adapters_stand_beside_a_files_tensors(tmp_path: Path, dtype: str, width: int) -> None:
    file = load(str(model_folder(tmp_path, llama_tensors() | {"model.norm.weight": ("F32", (64,))}))).model
    rows = entries(trace(file, Workload(phase="training", seq=3, dtype="fp16", lora=f"r=2,targets=q,dtype={dtype}")))
    assert sum(row.value for row in rows if row.op.kind.name == "adapter") == width * 2 * 2 * (64 + 64)


def test_what_is_not_understood_of_packing_has_bytes_all_the_same(tmp_path: Path) -> None:
    packing = {"quantization_config": {"quant_method": "new-method", "bits": 3}}
    path = model_folder(tmp_path, fp8_tensors(), **packing)
    assert count(load(str(tmp_path / "config.json")).model, Workload(seq=3)).totals.weight_bytes is None
    assert weights(path).value == bytes_of(fp8_tensors())


def test_an_index_is_a_model(tmp_path: Path) -> None:
    model_folder(tmp_path, fp8_tensors(), **FP8)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": bytes_of(fp8_tensors())},
                                 "weight_map": dict.fromkeys(fp8_tensors(), "model.safetensors")}))
    assert weights(index).value == bytes_of(fp8_tensors())
    assert not any("beside it" in note for note in load(str(index)).notes)
    (tmp_path / "model.safetensors").unlink()
    assert weights(index).value == bytes_of(fp8_tensors())
    assert any("files are not all beside it" in note for note in load(str(index)).notes)
    (tmp_path / "config.json").unlink()
    assert "has no config.json beside it, which would say what model its tensors are of" in refused(
        "count", str(index))


def test_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    few = {name: each for name, each in fp8_tensors().items() if "up_proj" not in name}
    for more in ({}, {"model.norm.weight": ("F32", (64,))}):
        path = model_folder(tmp_path, few | more)
        assert "its file holds 62,400 weights" in refused("count", str(path))
        assert "its file holds 62,400 weights" in refused("count", str(path), "--weights", "nf4")


# ---------------------------------------------------------------- as gguf and transformers have them

SIZES: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 67, "tie_word_embeddings": False, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}
MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
HEADS, TIED, WINDOW = {"head_dim": 24}, {"tie_word_embeddings": True}, {"sliding_window": 13}
LATENT = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1,
          "n_shared_experts": 2, "q_lora_rank": 44, "kv_lora_rank": 40, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
          "v_head_dim": 24, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4}
ROUTED = {name: LATENT[name] for name in (
    "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace", "n_shared_experts")}
SHARED = {"shared_expert_intermediate_size": 40}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
         "num_hidden_layers": 5, "full_attention_interval": 4}
GEMMA4 = {"num_hidden_layers": 6, "global_head_dim": 32, "layer_types": [
    "sliding_attention", "sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0}
MLA = {name: size for name, size in LATENT.items() if name not in ROUTED and "group" not in name}
CLASSES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "llama", {"attention_bias": True, "mlp_bias": True}), ("llama", "llama", HEADS | TIED),
    ("mixtral", "llama", {"num_local_experts": 5, "num_experts_per_tok": 2}), ("qwen2", "qwen2", {}),
    ("qwen2_moe", "qwen2moe", MOE | {"shared_expert_intermediate_size": 40}), ("qwen3", "qwen3", HEADS),
    ("qwen3_moe", "qwen3moe", HEADS | MOE), ("gemma", "gemma", HEADS | TIED),
    ("gemma2", "gemma2", HEADS | TIED | WINDOW), ("gemma3_text", "gemma3", HEADS | TIED | WINDOW),
    ("phi", "phi2", {"intermediate_size": 256, "num_key_value_heads": 4}), ("phi3", "phi3", {}), ("gpt2", "gpt2", {}),
    ("gpt_neox", "gptneox", {}),
    ("starcoder2", "starcoder2", {}), ("stablelm", "stablelm", {}), ("olmo2", "olmo2", {}),
    ("olmoe", "olmoe", {"num_experts": 5, "num_experts_per_tok": 2}), ("granite", "granite", {}),
    ("cohere", "command-r", TIED), ("cohere2", "cohere2", TIED | HEADS), ("smollm3", "smollm3", {}),
    ("seed_oss", "seed_oss", HEADS), ("glm4", "glm4", HEADS),
    ("glm4_moe", "glm4moe", HEADS | ROUTED),
    ("deepseek_v2", "deepseek2", LATENT | {"q_lora_rank": None}), ("deepseek_v3", "deepseek2", LATENT),
    ("arcee", "arcee", HEADS),
    ("dots1", "dots1", ROUTED), ("ernie4_5", "ernie4_5", HEADS), ("exaone4", "exaone4", WINDOW),
    ("granitemoe", "granitemoe", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    ("hunyuan_v1_dense", "hunyuan-dense", HEADS), ("jais2", "jais2", HEADS),
    ("minicpm3", "minicpm3", MLA | {"v_head_dim": 16}),
    ("minimax_m2", "minimax-m2", HEADS | {"num_local_experts": 5, "num_experts_per_tok": 2}),
    ("qwen3_next", "qwen3next", HEADS | MOE | DELTA | SHARED), ("qwen3_5_text", "qwen35", HEADS | DELTA),
    ("qwen3_5_moe_text", "qwen35moe", HEADS | MOE | DELTA | SHARED), ("falcon", "falcon", {}),
    ("falcon", "falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("hunyuan_v1_moe", "hunyuan-moe", HEADS | {"num_experts": 5, "moe_topk": 2}),
    ("llama4_text", "llama4", HEADS | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size_mlp": 80,
                                       "interleave_moe_layer_step": 2, "num_hidden_layers": 4}),
    ("gpt_bigcode", "starcoder", {}),
    ("gemma4_text", "gemma4", HEADS | TIED | WINDOW | GEMMA4 | MOE | {
        "top_k_experts": 2, "enable_moe_block": True, "attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    ("gemma4_text", "gemma4", HEADS | TIED | WINDOW | GEMMA4 | {
        "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 101,
        "use_double_wide_mlp": True}),
    ("ministral3", "mistral3", HEADS), ("mistral4", "mistral4", LATENT), ("nemotron", "nemotron", {}),
    ("olmo", "olmo", {}), ("phimoe", "phimoe", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    ("gpt_oss", "gpt-oss", HEADS | WINDOW | {"num_local_experts": 5, "num_experts_per_tok": 2}),
]
CONVERTED = Path(__file__).parent / "data" / "gguf_keys.json"


def config_of(model_type: str, sizes: dict[str, Any]) -> Any:
    """A configuration of transformers with these sizes."""
    import transformers

    if model_type == "gpt2":
        return transformers.GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=67, vocab_size=101)
    left = {"gpt_neox": "key", "falcon": "key|intermediate", "gpt_bigcode": "key|intermediate"}.get(model_type, "^$")
    own = {name: value for name, value in SIZES.items() if not re.search(left, name)}
    return transformers.CONFIG_MAPPING[model_type](**{**own, **sizes})


@pytest.mark.parametrize(("model_type", "said", "keys", "tensors"), [
    pytest.param(*row, id=row[0]) for row in json.loads(CONVERTED.read_text())])
def test_files_as_llama_cpps_converter_writes_them(
    tmp_path: Path, model_type: str, said: dict[str, Any], keys: dict[str, Any], tensors: list[list[Any]]
) -> None:
    """Of random models of transformers' classes (tests/gguf_keys.py): all bytes are counted, and what is counted of the
    configuration follows from the file."""
    names = {f"blk.{layer}.{name}" if layers else name: (kind, tuple(shape))
             for name, kind, shape, layers in tensors for layer in layers or [None]}
    given = {"general.architecture": next(iter(keys)).partition(".")[0], **keys}
    path = write(tmp_path / "a.gguf", names, [field(*each) for each in given.items()])
    (tmp_path / "config.json").write_text(json.dumps({**said, "model_type": model_type}))
    found, wanted = (count(load(str(each)).model, Workload(seq=5)).totals for each in (path, tmp_path / "config.json"))
    assert found.weight_bytes.value == bytes_of(names)
    totals = ("params", "params_active", "flops_forward", "kv_cache_bytes", "kv_cache_bytes_per_token")
    assert [getattr(found, name) for name in totals] == [getattr(wanted, name) for name in totals]
