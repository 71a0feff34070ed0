"""Bytes of packed weights: against published totals, against libraries' own modules, against files laid out by hand."""

import json
import random
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from tests.totals import quantized_params
from txcalc.answer.report import Quantity, count
from txcalc.check.sibling import sibling
from txcalc.count.params import params
from txcalc.count.weights import stored_bytes, weight_bytes
from txcalc.huggingface import modules
from txcalc.huggingface.importer import spec_from_config
from txcalc.models.load import load
from txcalc.spec.errors import SpecError
from txcalc.spec.model import Model
from txcalc.spec.quantization import Quantization
from txcalc.trace.model import trace
from txcalc.trace.workload import Workload

FACTS = json.loads((Path(__file__).parent / "data" / "conformance.json").read_text())
LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 101, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
LAYER = [(64, 64), (32, 64), (32, 64), (64, 64), (96, 64), (96, 64), (64, 96)]  # q, k, v, o, gate, up, down
REST = 2 * (2 * 101 * 64 + 7 * 64)  # embedding, head and norms in bf16
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}


def read(config: dict[str, Any], quantization: dict[str, Any] | None, *, strict: bool = False) -> Model:
    found = {**config, **({"quantization_config": quantization} if quantization else {})}
    return Model.from_data(spec_from_config(found, "config.json", "tiny", strict=strict))


def stored(config: dict[str, Any], quantization: dict[str, Any] | None, dtype: str = "bf16") -> Quantity:
    found = count(read(config, quantization), Workload.of({"seq": 3, "dtype": dtype})).totals.weight_bytes
    assert found is not None
    return found


def refused(quantization: dict[str, Any], config: dict[str, Any] = LLAMA) -> str:
    """What is said of it, strictly; otherwise the bytes of the weights are left out, and a note says the same."""
    with pytest.raises(SpecError) as caught:
        read(config, quantization, strict=True)
    found, plain = (count(read(config, packing), Workload(seq=3)) for packing in (quantization, None))
    assert found.totals.weight_bytes is None
    bytes_of_weights = {name: getattr(plain.totals, name) for name in ("weight_bytes", "training_state_bytes")}
    assert replace(found.totals, **bytes_of_weights) == plain.totals
    assert any(caught.value.message in note for note in found.notes)
    return str(caught.value)


def test_a_name_that_is_no_modules_here_leaves_nothing_alone_and_is_said() -> None:
    """Files name modules of other libraries' code; the bytes are then an estimate."""
    plain = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}
    strange = {**plain, "modules_to_not_convert": ["lm_head", "blocks.1"]}
    assert stored(LLAMA, strange) == replace(stored(LLAMA, plain), kind="estimate")
    notes: list[str] = []
    spec_from_config({**LLAMA, "quantization_config": strange}, "config.json", "tiny", notes=notes)
    assert notes[0] == ("quantization_config.modules_to_not_convert: 'blocks.1' names no module of this model that "
                        "txcalc knows: nothing was left alone for it")
    with pytest.raises(SpecError, match=r"'blocks\.1' names no module"):
        read(LLAMA, strange, strict=True)


def test_modelopts_file_beside_a_configuration_says_how_it_is_packed(tmp_path: Path) -> None:
    said = {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16, "exclude_modules": ["lm_head"]}
    for folder, config in (("within", {**LLAMA, "quantization_config": {**said, "quant_method": "modelopt"}}),
                           ("beside", LLAMA), ("both", {**LLAMA, "quantization_config": GPTQ})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    plain = load(str(tmp_path / "beside")).model
    for folder in ("beside", "both"):
        beside = {"producer": {"name": "modelopt"}, "quantization": said}
        (tmp_path / folder / "hf_quant_config.json").write_text(json.dumps(beside))
    within, beside, both = (load(str(tmp_path / folder)).model for folder in ("within", "beside", "both"))
    assert plain.quantization is None and beside.quantization == within.quantization is not None
    assert both.quantization is not None and both.quantization.method == "gptq"


# ---------------------------------------------------------------- published totals


def test_gpt_oss_20b_equals_its_index() -> None:
    """``metadata.total_size`` of openai/gpt-oss-20b's model.safetensors.index.json."""
    spec = read(FACTS["gpt-oss-20b"]["config"], None)
    assert spec.quantization is not None
    assert weight_bytes(trace(spec, Workload(seq=3))) == 13_761_264_768


def test_deepseek_awq_equals_its_index() -> None:
    """``total_size`` of an AWQ DeepSeek-V3 with groups of 64 (github.com/kvcache-ai/sglang_awq,
    model.safetensors.index.json). The rest are the routers' correction biases: 16-bit buffers, no parameters."""
    awq = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
    found = stored(FACTS["deepseek-v3"]["config"], awq)
    assert found.value + 58 * 256 * 2 == 364_589_799_936
    assert found.kind == "exact"


def test_deepseek_v3_in_its_files() -> None:
    """688,586,727,753 bytes of files: main model, prediction layer, headers (130 bytes for each of 91,991 tensors).

    The prediction layer is one more layer, copies of embedding and head, a bf16 projection of 2d to d, three norms.
    """
    config = FACTS["deepseek-v3"]["config"]
    main = stored(config, None).value
    layer = stored({**config, "num_hidden_layers": 62}, None).value - main
    prediction = layer + 2 * (2 * 129_280 * 7_168 + 2 * 7_168 * 7_168 + 3 * 7_168)
    headers = 688_586_727_753 - main - prediction - 59 * 256 * 4
    assert 110 < headers / 91_991 < 150


# ---------------------------------------------------------------- libraries' own modules


def state_bytes(tensors: dict[str, Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.parametrize("block", [None, [128, 128], [32, 48]])
@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_fp8_equals_transformers(block: list[int] | None, scheme: str) -> None:
    torch = pytest.importorskip("torch")
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    rng = random.Random(1)
    for _ in range(8):
        out, columns = rng.randrange(1, 400), rng.randrange(1, 400)
        with torch.device("meta"):
            module = fp8.FP8Linear(columns, out, block_size=block, activation_scheme=scheme)
        spec = read({**LLAMA}, {"quant_method": "fp8", "weight_block_size": block, "activation_scheme": scheme})
        assert spec.quantization is not None
        assert stored_bytes(out, columns, spec.quantization, 2) == state_bytes(module.state_dict())


def test_fp8_replaces_the_modules_that_transformers_replaces() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    from transformers.quantizers.base import get_keys_to_not_convert

    config = {"weight_block_size": [128, 128], "quant_method": "fp8", "modules_to_not_convert": None}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).to(torch.bfloat16)
        scheme = transformers.FineGrainedFP8Config(weight_block_size=(128, 128))
        model = fp8.replace_with_fp8_linear(
            model, modules_to_not_convert=list(get_keys_to_not_convert(model)), quantization_config=scheme,
            pre_quantized=True)
    assert stored(LLAMA, config).value == state_bytes(dict(model.named_parameters()))


def test_fbgemm_equals_transformers() -> None:
    torch = pytest.importorskip("torch")
    fbgemm = pytest.importorskip("transformers.integrations.fbgemm_fp8")
    with torch.device("meta"):
        linears = [fbgemm.FbgemmFp8Linear(columns, out, bias=False) for out, columns in LAYER]
    packed = 3 * sum(state_bytes(linear.state_dict()) for linear in linears)
    packing = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}
    assert stored(LLAMA, packing) == Quantity(value=packed + REST, unit="B", kind="exact")


def test_mxfp4_equals_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    sizes = {"num_local_experts": 3, "intermediate_size": 64, "hidden_size": 96}
    with torch.device("meta"):
        experts = mxfp4.Mxfp4GptOssExperts(transformers.GptOssConfig(**sizes))
    packed = state_bytes({n: t for n, t in experts.state_dict().items() if "bias" not in n})
    scales = 3 * (128 * ceil(96 / 32) + 96 * ceil(64 / 32))
    spec = Quantization(method="mxfp4", bits=4, group=32, scale_bytes=1, weights="experts")
    assert packed + scales == 3 * (2 * stored_bytes(64, 96, spec, 2) + stored_bytes(96, 64, spec, 2))


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_bitnet_equals_transformers(linear_class: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    bitnet = pytest.importorskip("transformers.integrations.bitnet")
    config = {"model_type": "bitnet", "architectures": ["BitNetForCausalLM"], "vocab_size": 101, "hidden_size": 36,
              "intermediate_size": 52, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
              "tie_word_embeddings": False}
    with torch.device("meta"):
        model = transformers.BitNetForCausalLM(transformers.BitNetConfig(**config)).to(torch.bfloat16)
        model = bitnet.replace_with_bitnet_linear(model, ["lm_head"])
    packing = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": "offline"}
    found = stored(config, packing)
    assert found == Quantity(value=state_bytes(model.state_dict()), unit="B", kind="exact")
    whole = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    assert stored(config, whole) == stored(config, None)
    assert "linear_class" in refused({**whole, "linear_class": "bitlinear"}, config)
    assert "use_rms_norm" in refused({**packing, "use_rms_norm": True}, config)


@pytest.mark.parametrize("model_type", sorted(modules.FAMILIES))
def test_module_names_are_the_classes(model_type: str) -> None:
    """Every linear layer of a class, experts apart (fused there, one by one in checkpoints), is in the table."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from import_cases import CASES

    if model_type not in CASES:
        pytest.skip("no class of its own")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.pytorch_utils import Conv1D

    from txcalc.huggingface.families import FAMILIES

    fields = {name: values[-1] for name, values in CASES[model_type].items() if name != "attention_types"}
    fields |= {name: 0 for name in ("num_kv_shared_layers", "hidden_size_per_layer_input") if name in fields}
    name = next(iter(FAMILIES[model_type].classes))
    spec = Model.from_data(
        spec_from_config({"model_type": model_type, "architectures": [name], **fields}, "config.json", "tiny"))
    with torch.device("meta"):
        live = getattr(transformers, name)(CONFIG_MAPPING[model_type](**fields))
    family = modules.FAMILIES[model_type]
    theirs = {path for path, module in live.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)
              and any(place in path for place in (family.layers, *family.also))
              and not path.endswith(("mlp.gate", ".router", "router.gate", "gate.wg"))}
    ours = {name for matrix in modules.matrices(family, spec) if ".experts." not in matrix.path
            for part in matrix.parts for name in part if name in theirs or len(part) == 1}
    assert {f"{matrix.layer}.{matrix.path}" for matrix in modules.matrices(modules.FAMILIES[model_type], spec)} <= {
        op.path for op in trace(spec, Workload(seq=3)).ops}
    renamed = {path.replace("block_sparse_moe", "mlp") for path in ours}
    assert {path.replace("block_sparse_moe", "mlp") for path in theirs} == renamed


# ---------------------------------------------------------------- files laid out by hand


def write(path: Path, tensors: dict[str, Any]) -> int:
    """A safetensors file with these tensors beside what a tiny Llama does not pack; the bytes of its tensors."""
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    rest = {"embed": (101, 64), "head": (101, 64)} | {f"norm{i}": (64,) for i in range(7)}
    save({**tensors, **{name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in rest.items()}}, path)
    raw = path.read_bytes()
    return len(raw) - 8 - int.from_bytes(raw[:8], "little")


def layers(make: Any) -> dict[str, Any]:
    return {f"{i}.{j}.{name}": tensor for i in range(3) for j, (out, columns) in enumerate(LAYER)
            for name, tensor in make(out, columns).items()}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [-1, 16, 32])
def test_gptq(tmp_path: Path, bits: int, group: int) -> None:
    torch = pytest.importorskip("torch")

    def make(out: int, columns: int) -> dict[str, Any]:
        groups = 1 if group == -1 else columns // group
        return {"qweight": torch.zeros(columns // 32 * bits, out, dtype=torch.int32),
                "qzeros": torch.zeros(groups, out // 32 * bits, dtype=torch.int32),
                "scales": torch.zeros(groups, out, dtype=torch.float16),
                "g_idx": torch.zeros(columns, dtype=torch.int32)}

    found = stored(LLAMA, {**GPTQ, "bits": bits, "group_size": group})
    assert found == Quantity(value=write(tmp_path / "m.safetensors", layers(make)), unit="B", kind="exact")


@pytest.mark.parametrize("group", [16, 32])
def test_awq(tmp_path: Path, group: int) -> None:
    torch = pytest.importorskip("torch")

    def make(out: int, columns: int) -> dict[str, Any]:
        return {"qweight": torch.zeros(columns, out // 8, dtype=torch.int32),
                "qzeros": torch.zeros(columns // group, out // 8, dtype=torch.int32),
                "scales": torch.zeros(columns // group, out, dtype=torch.float16)}

    found = stored(LLAMA, {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"})
    assert found.value == write(tmp_path / "m.safetensors", layers(make))


def test_bitsandbytes_int8(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def make(out: int, columns: int) -> dict[str, Any]:
        return {"weight": torch.zeros(out, columns, dtype=torch.int8), "SCB": torch.zeros(out, dtype=torch.float32),
                "weight_format": torch.tensor(0, dtype=torch.uint8)}

    found = stored(LLAMA, {"load_in_8bit": True, "load_in_4bit": False})
    assert found == Quantity(value=write(tmp_path / "m.safetensors", layers(make)), unit="B", kind="exact")


@pytest.mark.parametrize("double", [False, True])
def test_bitsandbytes_nf4(tmp_path: Path, double: bool) -> None:
    """All but the description of each matrix, a JSON text of some 170 bytes: an estimate."""
    torch = pytest.importorskip("torch")

    def make(out: int, columns: int) -> dict[str, Any]:
        blocks = ceil(out * columns / 64)
        common = {"weight": torch.zeros(ceil(out * columns / 2), 1, dtype=torch.uint8), "quant_map": torch.zeros(16)}
        if not double:
            return {**common, "absmax": torch.zeros(blocks)}
        return {**common, "absmax": torch.zeros(blocks, dtype=torch.uint8),
                "nested_absmax": torch.zeros(ceil(blocks / 256)), "nested_quant_map": torch.zeros(256)}

    found = stored(LLAMA, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                           "bnb_4bit_use_double_quant": double, "bnb_4bit_compute_dtype": "bfloat16"})
    assert found == Quantity(value=write(tmp_path / "m.safetensors", layers(make)), unit="B", kind="estimate")


def compressed(form: str, weights: dict[str, Any], **rest: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "input_activations": None, "output_activations": None,
             "weights": {"dynamic": False, "symmetric": True, "actorder": None, "block_structure": None, **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"], "kv_cache_scheme": None,
            "quantization_status": "compressed", "config_groups": {"group_0": {**group, **rest}}}


@pytest.mark.parametrize("symmetric", [True, False])
def test_compressed_tensors_packed(tmp_path: Path, symmetric: bool) -> None:
    torch = pytest.importorskip("torch")

    def make(out: int, columns: int) -> dict[str, Any]:
        found = {"weight_packed": torch.zeros(out, ceil(columns * 4 / 32), dtype=torch.int32),
                 "weight_scale": torch.zeros(out, columns // 16, dtype=torch.bfloat16),
                 "weight_shape": torch.zeros(2, dtype=torch.int64)}
        zero = torch.zeros(ceil(out * 4 / 32), columns // 16, dtype=torch.int32)
        return found | ({} if symmetric else {"weight_zero_point": zero})

    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16, "symmetric": symmetric}
    found = stored(LLAMA, compressed("pack-quantized", weights))
    assert found == Quantity(value=write(tmp_path / "m.safetensors", layers(make)), unit="B", kind="exact")


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("strategy", "shape"), [("channel", lambda out, _: (out, 1)), ("tensor", lambda *_: (1,))])
def test_compressed_tensors_float(tmp_path: Path, strategy: str, shape: Any, static: bool) -> None:
    torch = pytest.importorskip("torch")

    def make(out: int, columns: int) -> dict[str, Any]:
        found = {"weight": torch.zeros(out, columns, dtype=torch.float8_e4m3fn),
                 "weight_scale": torch.zeros(shape(out, columns), dtype=torch.bfloat16)}
        return found | ({"input_scale": torch.zeros(1, dtype=torch.bfloat16)} if static else {})

    inputs = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": not static, "symmetric": True}
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "group_size": None}
    found = stored(LLAMA, compressed("float-quantized", weights, input_activations=inputs))
    assert found.value == write(tmp_path / "m.safetensors", layers(make))


def test_compressed_tensors_nvfp4(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def make(out: int, columns: int) -> dict[str, Any]:
        return {"weight_packed": torch.zeros(out, columns // 2, dtype=torch.uint8),
                "weight_scale": torch.zeros(out, columns // 16, dtype=torch.float8_e4m3fn),
                "weight_global_scale": torch.zeros(1), "input_global_scale": torch.zeros(1)}

    weights = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    inputs = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "dynamic": "local", "symmetric": True}
    found = stored(LLAMA, compressed("nvfp4-pack-quantized", weights, input_activations=inputs))
    assert found.value == write(tmp_path / "m.safetensors", layers(make))


@pytest.mark.parametrize(("algorithm", "scales"), [
    ("NVFP4", {"weight_scale_2": 1, "input_scale": 1}), ("FP8", {"weight_scale": 1, "input_scale": 1})])
def test_modelopt(tmp_path: Path, algorithm: str, scales: dict[str, int]) -> None:
    torch = pytest.importorskip("torch")

    def make(out: int, columns: int) -> dict[str, Any]:
        found = {name: torch.zeros((), dtype=torch.float32) for name in scales}
        if algorithm == "FP8":
            return {**found, "weight": torch.zeros(out, columns, dtype=torch.float8_e4m3fn)}
        return {**found, "weight": torch.zeros(out, columns // 2, dtype=torch.uint8),
                "weight_scale": torch.zeros(out, columns // 16, dtype=torch.float8_e4m3fn)}

    packing = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head", "model.layers.*.mlp.gate"],
               "producer": {"name": "modelopt"}, "kv_cache_scheme": None}
    found = stored(LLAMA, packing)
    assert found == Quantity(value=write(tmp_path / "m.safetensors", layers(make)), unit="B", kind="exact")
    assert stored(LLAMA, {**packing, "kv_cache_scheme": {"num_bits": 8, "type": "float"}}).kind == "estimate"
    whole = {**packing, "ignore": ["lm_head", "model.layers.*"]}
    assert stored(LLAMA, whole) == stored(LLAMA, None)


PROJECTIONS = [f"{part}_proj" for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate",
                                           "mlp.up", "mlp.down")]


def test_modelopts_layers_in_formats_of_their_own(tmp_path: Path) -> None:
    """FP8 in attention, NVFP4 in feed-forward layers but for the first, which is whole."""
    torch = pytest.importorskip("torch")
    kinds = {f"model.layers.{i}.{name}": {"quant_algo": "FP8"} if name.startswith("self") else {
        "quant_algo": "NVFP4", "group_size": 16} for i in range(3) for name in PROJECTIONS if i or name[:3] != "mlp"}
    tensors = {}
    for i in range(3):
        for name, (out, columns) in zip(PROJECTIONS, LAYER, strict=True):
            path = f"model.layers.{i}.{name}"
            kind = kinds.get(path, {}).get("quant_algo")
            scalars = {"weight_scale" if kind == "FP8" else "weight_scale_2": 1, "input_scale": 1} if kind else {}
            tensors |= {f"{path}.{each}": torch.zeros((), dtype=torch.float32) for each in scalars}
            codes = (torch.uint8, columns // 2) if kind == "NVFP4" else (
                torch.float8_e4m3fn if kind else torch.bfloat16, columns)
            tensors[f"{path}.weight"] = torch.zeros(out, codes[1], dtype=codes[0])
            if kind == "NVFP4":
                tensors[f"{path}.weight_scale"] = torch.zeros(out, columns // 16, dtype=torch.float8_e4m3fn)
    packing = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": kinds,
               "exclude_modules": ["lm_head"]}
    found = stored(LLAMA, packing)
    assert found == Quantity(value=write(tmp_path / "m.safetensors", tensors), unit="B", kind="exact")
    eight = {**packing, "quantized_layers": {name: {"quant_algo": "FP8"} for name in kinds}}
    assert read(LLAMA, eight).quantization.bits == 8  # type: ignore[union-attr]
    for wrong in ({}, {name: {"quant_algo": "W4A8_AWQ"} for name in kinds}, ["model.layers.0.mlp.up_proj"]):
        assert "quantized_layers: must say of each" in refused({**packing, "quantized_layers": wrong})


def test_modelopts_experts_in_formats_of_their_own() -> None:
    """FP8 in attention, in the first layer's experts and in what widens none; NVFP4 in the others; the router whole."""
    config = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 5}
    sizes = {name: size for name, size in zip(PROJECTIONS, LAYER, strict=True) if name.startswith("self")} | {
        f"block_sparse_moe.experts.{j}.w{w}": (96, 64) if w != 2 else (64, 96) for j in range(5) for w in (1, 2, 3)}
    kinds = {f"model.layers.{i}.{name}": "FP8" if name.startswith("self") or not i or name.endswith("w2") else "NVFP4"
             for i in range(3) for name in sizes}
    packing = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "exclude_modules": ["lm_head"],
               "quantized_layers": {name: {"quant_algo": kind} for name, kind in kinds.items()}}
    packed = sum(8 + out * columns * (16 if kind == "FP8" else 9) // 16 for name, kind in kinds.items()
                 for out, columns in [sizes[name.split(".", 3)[3]]])
    assert stored(config, packing) == Quantity(value=REST + 3 * 2 * 5 * 64 + packed, unit="B", kind="exact")
    own = "model.layers.1.block_sparse_moe.experts.3.w1"
    layers: Any = packing["quantized_layers"]
    for single in ({**layers, own: {"quant_algo": "FP8"}}, {name: layers[name] for name in layers if name != own}):
        assert "experts" in refused({**packing, "quantized_layers": single}, config)


@pytest.mark.parametrize("packing", [
    {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    {"quant_method": "torchao",
     "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 32}}}},
    {"quant_method": "torchao", "quant_type": "int8_weight_only"}, {"quant_method": "quanto", "weights": "int4"},
])
def test_methods_whose_smallest_tensors_are_left_open_are_estimates(packing: dict[str, Any]) -> None:
    found = stored(LLAMA, packing)
    codes = read(LLAMA, packing).quantization.bits / 8  # type: ignore[union-attr]
    packed = quantized_params(trace(read(LLAMA, packing), Workload(seq=3)))
    assert found.kind == "estimate"
    assert 1 < (found.value - stored(LLAMA, None).value + 2 * packed) / (codes * packed) < 1.4


PACKED = json.loads((Path(__file__).parent / "data" / "packed.json").read_text())


@pytest.mark.parametrize("row", PACKED, ids=lambda row: f"{row['tool'].split()[0]} {row['config'].get('format', '')}")
def test_bytes_equal_what_the_tools_hold(row: dict[str, Any]) -> None:
    """Of every matrix that their own code packed (tests/packed_files.py); of Quanto's, of whole groups alone."""
    packing = read(LLAMA, row["config"], strict=True).quantization
    assert packing is not None
    method = row["config"]["quant_method"]
    assert packing.exact == (method in ("compressed-tensors", "auto-round") or row["config"].get("weights") in (
        "int8", "float8"))
    for out, columns, size in row["matrices"]:
        if packing.exact or method == "hqq" or columns % 128 == 0:
            assert stored_bytes(out, columns, packing, 2) == size, (out, columns)


def test_codes_that_fill_no_words_were_packed_otherwise_by_older_versions() -> None:
    rows = [row["config"] for row in PACKED if row["config"].get("format") == "pack-quantized"]
    exact = {(c["config_groups"]["group_0"]["weights"]["num_bits"], version): read(
        LLAMA, {**c, "version": version}).quantization.exact for c in rows for version in ("0.9.1", "0.20.0")}  # type: ignore[union-attr]
    assert exact == {(bits, version): version == "0.20.0" or bits in (2, 4, 8)
                     for bits in range(2, 9) for version in ("0.9.1", "0.20.0")}


def test_every_packing_was_measured() -> None:
    formats = {row["config"].get("format") for row in PACKED} - {None}
    assert formats == {"pack-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized",
                       "mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"}
    assert sum(len(row["matrices"]) for row in PACKED) == 219


# ---------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("name", [
    "model.layers.0.self_attn.q_proj.bias", "mtp.fc", "mtp.layers.0.self_attn.q_proj", "visual", "modality_projection",
    "re:.*shared_experts.*", "re:.*vision_tower.*",
    "model.layers.0.post_attention_layernorm", "re:.*mlp.gate$"])
def test_names_of_what_is_no_matrix_or_is_not_built_leave_nothing_alone(name: str) -> None:
    packing = compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16})
    assert stored(LLAMA, {**packing, "ignore": ["lm_head", name]}) == stored(LLAMA, packing)


@pytest.mark.parametrize("prefix", ["model.language_model.layers", "language_model.model.layers", "model.layers"])
def test_a_stack_of_text_beside_a_tower(prefix: str) -> None:
    """Whatever the list of its layers is called; the tower is left alone, or packed as all else is."""
    text = {"model_type": "qwen3_5_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 101,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
            "linear_value_head_dim": 16, "tie_word_embeddings": True}
    config = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": text,
              "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                                "out_hidden_size": 64}, "tie_word_embeddings": True}
    fp8 = {"quant_method": "fp8", "weight_block_size": [32, 32]}

    def packed(*names: str, place: str = "quantization_config") -> int:
        own = {**fp8, "modules_to_not_convert": ["lm_head", *names]}
        part = {**config, "text_config": {**text, "quantization_config": own}} if place == "text" else {
            **config, "quantization_config": own}
        return int(quantized_params(trace(Model.from_data(spec_from_config(part, "config.json", "x")),
                                          Workload(seq=3))))

    alone = packed("visual")
    layer = 4 * 32 * 32 + 2 * 32 * 48  # of the tower; its squares of four go through two matrices
    assert packed() - alone == 2 * layer + 4 * 32 * (4 * 32 + 64)
    assert packed(place="text") == alone
    attention = 64 * (4 * 16 * 2) + 2 * 64 * 2 * 16 + 4 * 16 * 64
    assert alone - packed("visual", f"{prefix}.3.self_attn") == attention
    both = [f"{prefix}.0.linear_attn.in_proj_{name}" for name in ("qkv", "z")]
    assert alone - packed("visual", *both) == 64 * (2 * 2 * 8 + 2 * 4 * 16)
    with pytest.raises(SpecError, match="a part of what stands as one"):
        read(config, {**fp8, "modules_to_not_convert": ["visual", both[0]]}, strict=True)


def test_parameters_stay_and_what_is_not_packed_is_as_wide_as_the_dtype() -> None:
    plain, packed = read(LLAMA, None), read(LLAMA, GPTQ)
    t = trace(packed, Workload(seq=3))
    assert params(t) == params(trace(plain, Workload(seq=3)))
    assert quantized_params(t) == 3 * sum(out * columns for out, columns in LAYER)
    assert stored(LLAMA, GPTQ, "fp32").value - stored(LLAMA, GPTQ).value == REST
    assert count(plain, Workload(seq=3)).totals.training_state_bytes is not None
    assert count(packed, Workload(seq=3)).totals.training_state_bytes is None


@pytest.mark.parametrize(("names", "left"), [
    (["lm_head"], 0), (["model.layers.1.self_attn"], 64 * 64 * 2 + 32 * 64 * 2), (["down_proj"], 3 * 64 * 96),
    (["model.layers.*.mlp"], 3 * 3 * 64 * 96), (["model.layers.0.self_attn.q_proj", "o_proj"], 4 * 64 * 64),
    (["model.layers.1"], sum(out * columns for out, columns in LAYER)),
    (["self_attn.q_proj"], 3 * 64 * 64), (["model.layers.2.mlp.up_proj$"], 96 * 64),
])
def test_modules_left_alone(names: list[str], left: int) -> None:
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    tied = {**LLAMA, "tie_word_embeddings": True}
    whole = trace(read(tied, fp8), Workload(seq=3))
    part = trace(read(tied, {**fp8, "modules_to_not_convert": names}), Workload(seq=3))
    assert quantized_params(whole) - quantized_params(part) == left


def test_recurrent_matrices_left_alone() -> None:
    config = {**LLAMA, "model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"], "num_hidden_layers": 4,
              "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
              "shared_expert_intermediate_size": 32, "head_dim": 16, "linear_num_key_heads": 2,
              "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 16}
    fp8 = {"quant_method": "fp8", "weight_block_size": [32, 32], "modules_to_not_convert": ["lm_head", "mlp.gate"]}
    whole = trace(read(config, fp8), Workload(seq=3))
    fp8["modules_to_not_convert"] += ["linear_attn.in_proj_qkvz", "linear_attn.out_proj"]
    part = trace(read(config, fp8), Workload(seq=3))
    assert quantized_params(whole) - quantized_params(part) == 3 * (64 * (2 * 16 + 2 * 64) + 64 * 64)


def test_experts_left_alone_are_counted_each() -> None:
    config = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 5}
    awq = {"quant_method": "awq", "bits": 4, "group_size": 32, "modules_to_not_convert": ["gate"]}
    whole = trace(read(config, awq), Workload(seq=3))
    part = trace(read(config, {**awq, "modules_to_not_convert": ["gate", "model.layers.1.block_sparse_moe.experts"]}),
                 Workload(seq=3))
    assert quantized_params(whole) == 3 * (2 * 64 * 64 + 2 * 32 * 64 + 5 * 3 * 64 * 96)
    assert quantized_params(whole) - quantized_params(part) == 5 * 3 * 64 * 96


def test_fused_projections_are_one_matrix() -> None:
    config = {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "vocab_size": 101, "hidden_size": 64,
              "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    spec = read(config, GPTQ)
    assert spec.quantization is not None
    assert spec.fused == (("q", "k", "v"),)
    packed = 3 * sum(stored_bytes(out, columns, spec.quantization, 2)
                     for out, columns in [(192, 64), (64, 64), (96, 64), (64, 96)])
    t = trace(spec, Workload(seq=3))
    assert weight_bytes(t) == packed + 2 * (params(t) - quantized_params(t))


@pytest.mark.parametrize("name", ["left", "mixed"])
def test_a_later_part_of_a_fused_matrix_is_not_named(name: str) -> None:
    part: Any = {"layers.attention.k": 1}
    own = part if name == "left" else ({"bits": 8, "matrices": part},)
    packing = Quantization.from_data({"method": "custom", "bits": 4, name: own})
    spec = read(LLAMA, None).replaced(quantization=packing, fused=(("q", "k", "v"),))
    with pytest.raises(SpecError, match=r"layers\.attention\.k, which is stored with layers\.attention\.q"):
        weight_bytes(trace(spec, Workload(seq=3)))


def test_the_sibling_that_validate_runs_packs_nothing() -> None:
    assert sibling(read(LLAMA, GPTQ)) == sibling(read(LLAMA, None))


def test_a_head_that_is_not_left_alone_is_packed() -> None:
    int8 = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["q_proj"]}
    assert read(LLAMA, int8).quantization.head  # type: ignore[union-attr]
    assert not read({**LLAMA, "tie_word_embeddings": True}, int8).quantization.head  # type: ignore[union-attr]


def test_a_router_that_some_libraries_pack_makes_an_estimate() -> None:
    config = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 5}
    four = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert stored(config, four).kind == "estimate"
    assert stored(config, {**four, "llm_int8_skip_modules": ["lm_head", "gate"]}).kind == "exact"


# ---------------------------------------------------------------- refused by name


@pytest.mark.parametrize(("quantization", "words"), [
    ({"quant_method": "quip"}, "config.json: quantization_config.quant_method: 'quip' is not known"),
    ({}, "config.json"),
    ({"quant_method": None, "bits": 4}, "quantization_config.quant_method: null is not known"),
    ({**GPTQ, "new_layout": 7}, "quantization_config.new_layout: not understood"),
    ({**GPTQ, "bits": 5}, "quantization_config.bits: 5 is not known"),
    ({**GPTQ, "group_size": 0}, "quantization_config.group_size: must be a whole number of at least 1"),
    ({**GPTQ, "checkpoint_format": "marlin"}, "quantization_config.checkpoint_format"),
    ({**GPTQ, "dynamic": {"+:.*": {}}}, "quantization_config.dynamic"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}, "quantization_config.version"),
    ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp.experts.3"]}, "single experts"),
    ({"quant_method": "fp8", "weight_block_size": 128}, "quantization_config.weight_block_size"),
    ({"quant_method": "fp8", "modules_to_not_convert": ["(a*)*b"]}, "it could take too long"),
    ({"quant_method": "fp8", "modules_to_not_convert": ["("]}, "is not a regular expression"),
    ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "must be a list of module names"),
    ({"load_in_4bit": False, "load_in_8bit": False}, "quantization_config.load_in_4bit"),
    (compressed("marlin-24", {"num_bits": 4}), "quantization_config.format: 'marlin-24' is not known"),
    (compressed("pack-quantized", {"num_bits": 4, "strategy": "token"}), "group_0.weights.strategy"),
    ({**compressed("int-quantized", {}), "config_groups": {}}, "quantization_config.config_groups"),
])
def test_what_is_not_understood_is_refused(quantization: dict[str, Any], words: str) -> None:
    if not quantization:
        assert read(LLAMA, quantization).quantization is None
        return
    message = refused(quantization)
    assert words in message
    assert "\n" not in message


def test_a_family_whose_modules_are_not_known_is_refused() -> None:
    bert = {"model_type": "bert", "architectures": ["BertModel"]}
    assert "quantized checkpoints of model_type bert are not understood" in refused({**GPTQ}, bert)


def test_a_packed_part_of_a_model() -> None:
    config = FACTS["gemma-3-4b"]["config"]
    part = {name: {**config[name], "quantization_config": GPTQ} for name in ("text_config", "vision_config")}
    assert stored({**config, "text_config": part["text_config"]}, None) == stored(config, GPTQ)
    with pytest.raises(SpecError, match=r"vision_config\.quantization_config: a packed part"):
        read({**config, "vision_config": part["vision_config"]}, None, strict=True)


@pytest.mark.parametrize("packing", [
    {"quant_method": "torchao", "quant_type": "int8_weight_only", "include_input_output_embeddings": True},
    *[{"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {
        "group_size": size}}}} for size in (-4, "x", True)],
    {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": "4", "group_size": 64}}},
    *[{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {
        "targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": size, "strategy": "group",
                                           "symmetric": True}}}} for size in ("128", 0)],
])
def test_sizes_that_are_none_leave_out_the_bytes_alone(tmp_path: Path, packing: dict[str, Any]) -> None:

    import txcalc

    config = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
              "num_attention_heads": 4, "vocab_size": 1000, "tie_word_embeddings": False}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    plain = txcalc.count(str(path), seq=7).totals
    path.write_text(json.dumps(config | {"quantization_config": packing}), encoding="utf-8")
    found = txcalc.count(str(path), seq=7).totals
    assert (found.params, found.flops_forward, found.weight_bytes) == (plain.params, plain.flops_forward, None)


@pytest.mark.parametrize(("packing", "field"), [
    ({"quant_method": "hqq", "quant_config": {"weight_quant_params": []}}, "quant_config"),
    ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": None}}},
     "quant_type"),
    ({"quant_method": "torchao", "quant_type": {}}, "quant_type"),
])
def test_a_value_of_another_kind_is_named(packing: dict[str, Any], field: str) -> None:
    assert read(LLAMA, packing).unknown_quantization == f"quantization_config.{field}: a value of another kind"
