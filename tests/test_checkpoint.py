"""Headers of checkpoints: real files written here, and every way in which one can be damaged."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from txcalc.answer.validation import Row
from txcalc.check.checkpoint import compare_checkpoint
from txcalc.huggingface.importer import spec_from_config
from txcalc.models.checkpoints import read_checkpoint
from txcalc.models.gguf_header import MAGIC
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model

WIDTH = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "U8": 1, "F8_E4M3": 1, "I64": 8}
GPT2: dict[str, Any] = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 101, "n_embd": 24,
                        "n_layer": 2, "n_head": 4, "n_positions": 67}
LLAMA: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 101,
                         "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "tie_word_embeddings": False}
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def spec(config: dict[str, Any]) -> Model:
    return Model.from_data(spec_from_config(config, "config.json", "tiny"))


def llama_tensors(dtype: str = "BF16") -> Tensors:
    block = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
             "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64),
             "mlp.down_proj": (64, 96), "input_layernorm": (64,), "post_attention_layernorm": (64,)}
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in block.items()}
    shapes |= {"model.embed_tokens.weight": (101, 64), "model.norm.weight": (64,), "lm_head.weight": (101, 64)}
    return {name: (dtype, shape) for name, shape in shapes.items()}


def size(dtype: str, shape: tuple[int, ...]) -> int:
    total = WIDTH[dtype]
    for side in shape:
        total *= side
    return total


def header(tensors: Tensors) -> dict[str, Any]:
    found: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + size(dtype, shape)
        found[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return found


def raw_safetensors(found: Any, data: int) -> bytes:
    text = json.dumps(found).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def write(path: Path, tensors: Tensors) -> Path:
    path.write_bytes(raw_safetensors(header(tensors), sum(size(*tensor) for tensor in tensors.values())))
    return path


def compare(config: dict[str, Any], path: Path, dtype: Any = None) -> dict[str, Row]:
    return {row.quantity: row for row in compare_checkpoint(spec(config), dtype, read_checkpoint(str(path)))}


def refused(path: Path, raw: bytes | None = None) -> str:
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(SpecError) as caught:
        read_checkpoint(str(path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path.parent))
    return str(caught.value)


# ---------------------------------------------------------------- safetensors


def test_a_file_that_safetensors_wrote(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "model.safetensors"
    tensors = {"a.weight": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7),
               "c": torch.zeros((), dtype=torch.int64)}
    save(tensors, path, metadata={"format": "pt"})
    found = read_checkpoint(str(path))
    assert found.tensors == {"a.weight": (3, 5), "b": (7,), "c": ()}
    assert (found.kind, found.parameters, found.bytes) == ("safetensors", 15 + 7 + 1, 30 + 28 + 8)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_transformers_saves(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = {"gpt2": GPT2, "llama": LLAMA}[name]
    cls = getattr(transformers, config["architectures"][0])
    model = cls(cls.config_class(**{k: v for k, v in config.items() if k not in ("model_type", "architectures")}))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    rows = compare(config, tmp_path)
    assert {row.verdict for row in rows.values()} == {"equal"}
    assert rows["parameters"].measured == sum(p.numel() for p in model.parameters())
    assert rows["weight bytes"].how.startswith("safetensors; bf16")


def test_equal(tmp_path: Path) -> None:
    rows = compare(LLAMA, write(tmp_path / "m.safetensors", llama_tensors()))
    assert [row.verdict for row in rows.values()] == ["equal", "equal"]
    assert rows["parameters"].counted == rows["parameters"].measured
    assert compare(LLAMA, write(tmp_path / "m.safetensors", llama_tensors("F32")))["weight bytes"].verdict == "equal"
    assert compare(LLAMA, tmp_path / "m.safetensors", "bf16")["weight bytes"].verdict == "DIFFERS"


def test_a_tied_table_that_is_stored_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", llama_tensors())
    rows = compare({**LLAMA, "tie_word_embeddings": True}, path)
    assert {row.verdict for row in rows.values()} == {"equal"}
    assert "the tied token table of 6,464 is stored once more" in rows["parameters"].how
    assert "the tied token table of 6,464 is stored once more" in rows["weight bytes"].how


def test_a_tied_table_that_is_stored_once(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in llama_tensors().items() if name != "lm_head.weight"}
    path = write(tmp_path / "m.safetensors", tensors)
    assert {row.verdict for row in compare({**LLAMA, "tie_word_embeddings": True}, path).values()} == {"equal"}
    assert {row.verdict for row in compare(LLAMA, path).values()} == {"DIFFERS"}


def test_buffers_are_left_out(tmp_path: Path) -> None:
    more: Tensors = {"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (8,)),
                     "h.0.attn.bias": ("F32", (1, 1, 67, 67)), "h.0.attn.masked_bias": ("F32", ()),
                     "model.layers.1.mlp.gate.e_score_correction_bias": ("F32", (8,))}
    rows = compare(LLAMA, write(tmp_path / "m.safetensors", llama_tensors() | more))
    assert {row.verdict for row in rows.values()} == {"equal"}
    assert "4 buffers of 4,506 elements left out" in rows["parameters"].how


def test_what_differs_is_named(tmp_path: Path) -> None:
    more: Tensors = {"vision_tower.patch.weight": ("F32", (17, 3))}
    row = compare(LLAMA, write(tmp_path / "m.safetensors", llama_tensors() | more))["parameters"]
    assert row.verdict == "DIFFERS"
    assert row.measured == (row.counted or 0) + 51
    assert row.differences[0] == "only in the file: vision_tower.patch.weight (17, 3) F32"
    assert "types in the file: 21 BF16, 1 F32" in row.differences


def test_packed_weights_have_bytes_and_no_count_of_parameters(tmp_path: Path) -> None:
    tensors: Tensors = {}
    for name, (dtype, shape) in llama_tensors().items():
        if "_proj" not in name:
            tensors[name] = (dtype, shape)
            continue
        base, (out, columns) = name.removesuffix(".weight"), shape
        tensors |= {f"{base}.qweight": ("I32", (columns // 8, out)),
                    f"{base}.qzeros": ("I32", (columns // 32, out // 8)),
                    f"{base}.scales": ("F16", (columns // 32, out)), f"{base}.g_idx": ("I32", (columns,))}
    config = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    rows = compare(config, write(tmp_path / "m.safetensors", tensors))
    assert list(rows) == ["weight bytes"]
    assert rows["weight bytes"].verdict == "equal"


def test_scales_are_no_parameters(tmp_path: Path) -> None:
    tensors: Tensors = {}
    for name, (dtype, shape) in llama_tensors().items():
        tensors[name] = ("F8_E4M3" if "_proj" in name else dtype, shape)
        if "_proj" in name:
            tensors[f"{name}_scale_inv"] = ("F32", (1, 1))
    config = {**LLAMA, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    rows = compare(config, write(tmp_path / "m.safetensors", tensors))
    assert [row.verdict for row in rows.values()] == ["equal", "equal"]


# ---------------------------------------------------------------- an index


def split(folder: Path, *, total: int | None = None) -> Path:
    tensors = llama_tensors()
    halves = [dict(list(tensors.items())[:9]), dict(list(tensors.items())[9:])]
    names = {}
    for i, half in enumerate(halves):
        write(folder / f"model-{i}.safetensors", half)
        names |= dict.fromkeys(half, f"model-{i}.safetensors")
    whole = sum(size(*tensor) for tensor in tensors.values())
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": total or whole}, "weight_map": names}))
    return path


def test_an_index_with_its_files(tmp_path: Path) -> None:
    path = split(tmp_path)
    assert len(read_checkpoint(str(path)).tensors) == 21
    assert {row.verdict for row in compare(LLAMA, tmp_path).values()} == {"equal"}


def test_an_index_alone(tmp_path: Path) -> None:
    path = split(tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    found = read_checkpoint(str(path))
    assert (found.parameters, found.tensors, found.stated) == (None, {}, found.bytes)
    rows = compare(LLAMA, path)
    assert list(rows) == ["weight bytes"]
    assert rows["weight bytes"].verdict == "equal"
    tied = compare({**LLAMA, "tie_word_embeddings": True}, path)["weight bytes"]
    assert tied.verdict == "equal" and "stored once more" in tied.how


def test_an_index_that_is_wrong_about_its_files(tmp_path: Path) -> None:
    row = compare(LLAMA, split(tmp_path, total=99))["weight bytes"]
    assert row.verdict == "equal"
    assert "the index says 99" in row.how


@pytest.mark.parametrize(("data", "words"), [
    ({"metadata": {"total_size": 5}}, "weight_map: must map"),
    ({"weight_map": {"a": 3}}, "weight_map: must map"),
    ({"weight_map": {"a": "../../etc/passwd"}}, "is not the name of a file beside it"),
    ({"weight_map": {"a": "m.safetensors"}}, "metadata.total_size: is missing"),
    ({"metadata": {"total_size": "5"}, "weight_map": {}}, "metadata.total_size: must be a whole number"),
    ({"metadata": {"total_size": -5}, "weight_map": {}}, "metadata.total_size: must be a whole number"),
    ([1], "must be a JSON object"),
])
def test_a_malformed_index(tmp_path: Path, data: Any, words: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    assert words in refused(path, json.dumps(data).encode())


def test_an_index_of_a_tensor_that_no_file_has(tmp_path: Path) -> None:
    path = split(tmp_path)
    data = json.loads(path.read_text())
    data["weight_map"]["more"] = "model-0.safetensors"
    assert "no file holds 'more'" in refused(path, json.dumps(data).encode())


# ---------------------------------------------------------------- damaged


ONE = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


@pytest.mark.parametrize(("raw", "words"), [
    (b"", "ends too early"), (b"\x10\0\0", "ends too early"),
    (struct.pack("<Q", 50) + b"{}", "ends too early"),
    (struct.pack("<Q", 2**63), "is neither GGUF nor safetensors: a header of 9,223,372,036,854,775,808 bytes"),
    (b"PK\x03\x04aaaaaaaaaaaaaaaaaaa", "is neither GGUF nor safetensors"),
    (raw_safetensors([], 0), "must be a JSON object"), (raw_safetensors({"a": 3}, 0), "tensor 'a' must be an object"),
    (struct.pack("<Q", 4) + b"{\"a\"", "the header is not JSON"),
    (struct.pack("<Q", 4) + b"\xff\xfe\xff\xff", "is not UTF-8"),
    (struct.pack("<Q", 13) + b'{"a":1,"a":2}', "a name stands twice"),
    (struct.pack("<Q", 100_000) + b"[" * 100_000, "the header is not valid: nested too deeply"),
    (struct.pack("<Q", 10_000) + b"9" * 10_000, "the header is not valid: a whole number of more than 100 digits"),
    (raw_safetensors(ONE, 20), "24 bytes of tensors in the header, but 20 in the file"),
    (raw_safetensors(ONE, 25), "24 bytes of tensors in the header, but 25 in the file"),
    (raw_safetensors({"a": {**ONE["a"], "dtype": "X9"}}, 24), "the unknown dtype 'X9'"),
    (raw_safetensors({"a": {**ONE["a"], "shape": [2, -3]}}, 24), "needs a shape"),
    (raw_safetensors({"a": {**ONE["a"], "shape": [2] * 100}}, 24), "needs a shape"),
    (raw_safetensors({"a": {**ONE["a"], "shape": [2, 3.0]}}, 24), "needs a shape"),
    (raw_safetensors({"a": {**ONE["a"], "data_offsets": [0]}}, 24), "two data_offsets"),
    (raw_safetensors({"a": {**ONE["a"], "shape": [2, 4]}}, 24), "of 32 bytes is given 24"),
    (raw_safetensors({**ONE, "b": {**ONE["a"]}}, 24), "overlap or leave a gap at byte 24"),
])
def test_a_damaged_file(tmp_path: Path, raw: bytes, words: str) -> None:
    assert words in refused(tmp_path / "m.safetensors", raw)


def test_no_file_and_no_checkpoint(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.safetensors")
    assert "holds neither model.safetensors.index.json nor model.safetensors" in refused(tmp_path)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int) -> None:
    good = raw_safetensors(ONE, 24)
    for raw in (junk, good[:at] + junk, gguf(LLAMA_GGUF)[:at] + junk):
        path = tmp_path_factory.getbasetemp() / "junk.safetensors"
        path.write_bytes(raw)
        with contextlib.suppress(SpecError):
            read_checkpoint(str(path))


# ---------------------------------------------------------------- GGUF

TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "BF16": (30, 1, 2)}
LLAMA_GGUF: Tensors = {
    name: ("F32" if len(shape) == 1 else "Q8_0" if shape[-1] % 32 == 0 else "F16", shape)
    for name, (_, shape) in llama_tensors().items()
}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(tensors: Tensors, *, version: int = 3, fields: list[bytes] | None = None, alignment: int = 32) -> bytes:
    default = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, alignment),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("ü"),
        text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 3) + bytes(12),
        text("general.flag") + struct.pack("<I?", 7, True), text("general.big") + struct.pack("<IQ", 10, 5),
    ]
    fields = default if fields is None else fields
    out, data = bytearray(MAGIC + struct.pack("<IQQ", version, len(tensors), len(fields)) + b"".join(fields)), 0
    for name, (dtype, shape) in tensors.items():
        number, block, width = TYPES[dtype]
        elements = 1
        for side in shape:
            elements *= side
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        out += struct.pack("<IQ", number, data)
        data += -(-(elements // block * width) // alignment) * alignment
    out += bytes(-len(out) % alignment)
    return bytes(out) + bytes(data)


@pytest.mark.parametrize("version", [2, 3])
def test_gguf(tmp_path: Path, version: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(LLAMA_GGUF | {"rope_freqs.weight": ("F32", (8,))}, version=version))
    found = read_checkpoint(str(path))
    assert found.kind == "gguf"
    assert found.tensors["model.layers.0.mlp.up_proj.weight"] == (96, 64)
    weights = sum(tensor.elements for name, tensor in found.stored.items() if name != "rope_freqs.weight")
    assert found.parameters == weights
    assert found.stored["model.layers.0.mlp.up_proj.weight"].bytes == 96 * 64 // 32 * 34
    rows = compare(LLAMA, path)
    assert list(rows) == ["parameters"]
    assert rows["parameters"].verdict == "equal"


def test_gguf_as_the_library_writes_it(tmp_path: Path) -> None:
    library = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "m.gguf"
    writer = library.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_tensor("a.weight", numpy.zeros((3, 64), dtype=numpy.float32))
    kind = library.GGMLQuantizationType.Q8_0
    packed = library.quants.quantize(numpy.zeros((5, 64), dtype=numpy.float32), kind)
    writer.add_tensor("b.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_checkpoint(str(path))
    assert found.tensors == {"a.weight": (3, 64), "b.weight": (5, 64)}
    assert found.bytes == 3 * 64 * 4 + 5 * 2 * 34


@pytest.mark.parametrize(("raw", "words"), [
    (MAGIC, "ends too early"), (MAGIC + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1 is not read"),
    (MAGIC + struct.pack(">IQQ", 3, 0, 0), "a big-endian file is not read"),
    (MAGIC + struct.pack("<IQQ", 3, 2**60, 0), "are more than any model has"),
    (gguf({}, fields=[struct.pack("<Q", 2**60)]), "a name of 1,152,921,504,606,846,976 bytes"),
    (gguf({}, fields=[text("a") + struct.pack("<I", 99)]), "metadata of the unknown type 99"),
    (gguf({}, fields=[text("a") + struct.pack("<IIQ", 9, 8, 2**60)]), "is longer than the file"),
    (gguf({}, fields=[text("a") + struct.pack("<IIQ", 9, 6, 2**60)]), "ends too early"),
    (gguf({}, fields=[text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 6 + bytes(99)]), "too deeply"),
    (gguf({}, fields=[text("general.alignment") + struct.pack("<II", 4, 0)]), "not a multiple of 8"),
    (gguf({"a": ("F32", (4, 4))})[:-40], "ends past the end of the file"),
    (gguf({"a": ("Q4_K", (4, 64))}), "rows of 64 are not whole blocks of Q4_K"),
    (gguf({"a": ("F32", (1,) * 9)}), "has 9 dimensions"),
])
def test_a_damaged_gguf(tmp_path: Path, raw: bytes, words: str) -> None:
    assert words in refused(tmp_path / "m.gguf", raw)


def test_a_gguf_of_an_unknown_type(tmp_path: Path) -> None:
    info = text("abc") + struct.pack("<IQ", 1, 4)
    raw = gguf({"abc": ("F32", (4,))}).replace(info + struct.pack("<I", 0), info + struct.pack("<I", 77))
    assert "tensor 'abc' has the unknown type 77" in refused(tmp_path / "m.gguf", raw)
