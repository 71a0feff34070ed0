"""``quantization_config`` of a configuration: how each method stores a matrix, and which ones it leaves alone.

The layouts of most are ``txcalc.spec.formats``; here is what a configuration may choose, and compressed-tensors, whose
``pack-quantized``, ``int-``, ``float-``, ``naive-`` and ``nvfp4-pack-quantized`` formats say their sizes themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from txcalc.spec.errors import shown
from txcalc.spec.facts import layer_order
from txcalc.spec.formats import filled
from txcalc.spec.huggingface import modules
from txcalc.spec.huggingface.build import Data
from txcalc.spec.huggingface.config import Config
from txcalc.spec.huggingface.patterns import Matcher, exact_names, module_patterns
from txcalc.spec.inputs import LMHead
from txcalc.spec.layers import MoE
from txcalc.spec.model import Model

FIELD: Final = "quantization_config"


def read_quantization(c: Config, model: Model) -> Data | None:
    """The ``quantization`` of a spec for a ``model`` that was read from the same configuration.

    None where weights are stored whole, and quantized in every forward pass.

    Raises ``SpecError`` naming a method, field or module that is not understood, and a family whose modules are not.
    """
    q = c.section(FIELD if FIELD in c.data else "compression_config", "")
    method = q.choice("quant_method", {name: name for name in METHODS}, default=_implied(q))
    family = modules.FAMILIES.get(c.model_type)
    if family is None:
        raise c.error(FIELD, f"quantized checkpoints of model_type {c.model_type} are not understood")
    found = METHODS[method](q)
    q.finish()
    return None if found is None else _chosen(q, *found, family, model)


def _implied(q: Config) -> str:
    """bitsandbytes' first files did not name their method."""
    return "bitsandbytes" if "load_in_8bit" in q.data or "load_in_4bit" in q.data else ""


def _chosen(q: Config, layout: Data, matcher: Matcher, family: modules.Family, model: Model) -> Data:
    """The layout, with what is left alone counted by path."""
    found = modules.matrices(family, model)
    matcher.check(q, [matrix.module for matrix in found], _others(family, model))
    whole = filled(layout)
    linear, experts = (whole["weights"] == kind for kind in ("linear", "experts"))
    left: dict[str, int] = {}
    for matrix in found:
        path, routed = f"{matrix.layer}.{matrix.path}", ".experts." in matrix.path
        gate = matrix.path.endswith("shared_gate") and not linear  # never packed: it has one output
        if matcher.leaves(matrix.module) and not gate and (routed or not experts):
            left[path] = left.get(path, 0) + matrix.copies
    untied = isinstance(model.head, LMHead) and not model.head.tied
    optional: Data = {
        "left": left,
        "head": linear and untied and not matcher.leaves("lm_head"),
    }
    exact = whole.get("exact", True) and not (linear and _packed_router(family, model, matcher))
    return {**layout, **{name: value for name, value in optional.items() if value}, "exact": exact}


def _others(family: modules.Family, model: Model) -> list[str]:
    """Modules that are named in lists though nothing would pack them, or though they are not built."""
    layers = [f"{family.layers}.{i}.{name}" for i in range(model.layers) for name in modules.OTHERS]
    return [*layers, *modules.TOP, f"{family.layers}.{model.layers}.eh_proj", "mtp.layers.0.mlp.gate", "mtp.fc"]


def _packed_router(family: modules.Family, model: Model, matcher: Matcher) -> bool:
    """Whether some libraries would have packed a router of this model."""
    groups = enumerate(block for _, block in layer_order(model))
    routed = [i for i, block in groups if isinstance(block.feed_forward, MoE)]
    return family.router is not None and any(not matcher.leaves(f"{family.layers}.{i}.{family.router}") for i in routed)


def _gptq(q: Config) -> tuple[Data, Matcher]:
    q.ignore("desc_act", "sym", "damp_percent", "static_groups", "true_sequential", "model_name_or_path",
             "model_file_base_name", "dataset", "tokenizer", "batch_size", "cache_block_outputs", "exllama_config",
             "use_exllama", "disable_exllama", "use_cuda_fp16", "model_seqlen", "max_input_length", "backend",
             "quantizer", "meta", "version", "mse", "damp_auto_increment", "block_name_to_quantize",
             "module_name_preceding_first_block", "act_group_aware", "hyb_act")
    for name in ("checkpoint_format", "format"):
        q.only(name, "gptq", "gptq_v2", None)
    q.only("is_marlin_format", False, None)
    q.only("lm_head", False, None)
    q.only("dynamic", None, {})
    q.only("pack_dtype", "int32")
    layout = {"method": "gptq", "bits": q.choice("bits", {2: 2, 3: 3, 4: 4, 8: 8}), **_group(q)}
    chosen = q.take("modules_in_block_to_quantize", "inside_layer_modules", default=None)
    names = [name for group in chosen or [] for name in (group if isinstance(group, list) else [group])]
    return layout, Matcher("modules_in_block_to_quantize", only=tuple(map(str, names)))


def _awq(q: Config) -> tuple[Data, Matcher]:
    q.ignore("do_fuse", "modules_to_fuse", "fuse_max_seq_len", "exllama_config", "backend", "sym", "desc_act")
    q.only("version", "gemm", "GEMM")
    q.only("format", "gemm", None)
    q.only("lm_head", False, None)
    layout = {"method": "awq", "bits": q.choice("bits", {4: 4}), **_group(q),
              "zero_points": q.flag("zero_point", default=True)}
    return layout, module_patterns(q, "modules_to_not_convert")


def _bitsandbytes(q: Config) -> tuple[Data, Matcher]:
    q.ignore("llm_int8_threshold", "llm_int8_enable_fp32_cpu_offload", "bnb_4bit_compute_dtype",
             "bnb_4bit_quant_storage", "_load_in_8bit", "_load_in_4bit")
    q.only("llm_int8_has_fp16_weight", False)
    four, eight = q.flag("load_in_4bit", default=False), q.flag("load_in_8bit", default=False)
    double = q.flag("bnb_4bit_use_double_quant", default=False)
    kind = q.choice("bnb_4bit_quant_type", {"nf4": "nf4", "fp4": "fp4"}, default="fp4")
    if four == eight:
        raise q.error("load_in_4bit", "either this or load_in_8bit must be true")
    method = "int8" if eight else f"{kind}-dq" if double else kind
    return {"method": method}, module_patterns(q, "llm_int8_skip_modules", default=("lm_head",))


def _fp8(q: Config) -> tuple[Data, Matcher]:
    q.ignore("dequantize", "activation_scale_ub")
    q.only("fmt", "e4m3", "float8_e4m3fn")
    q.only("kv_cache_scheme", None)
    q.only("modules_to_convert", None, [])
    rounded = q.choice("scale_fmt", {None: False, "float": False, "ue8m0": True}, default=None)
    static = q.choice("activation_scheme", {"dynamic": False, "static": True}, default="dynamic")
    block = q.take("weight_block_size", default=None)
    if block is not None and not (isinstance(block, list) and [type(size) for size in block] == [int, int]):
        raise q.error("weight_block_size", f"must be two whole numbers, got {shown(block)}")
    rows, group = block or (None, None)
    # Some files round scales to powers of two and keep them in fp32, others in one byte.
    layout = {"method": "fp8", "rows": rows, "group": group, "matrix_bytes": 4 * static, "exact": not rounded}
    field = "ignored_layers" if "ignored_layers" in q.data else "modules_to_not_convert"
    return layout, module_patterns(q, field, default=("lm_head",))


def _mxfp4(q: Config) -> tuple[Data, Matcher]:
    q.ignore("dequantize")
    return {"method": "mxfp4"}, module_patterns(q, "modules_to_not_convert")


def _bitnet(q: Config) -> tuple[Data, Matcher] | None:
    q.ignore("rms_norm_eps", "modules_to_not_convert")
    q.only("linear_class", "bitlinear", "autobitlinear")  # the second unpacks what it loads
    q.only("use_rms_norm", False)
    if q.choice("quantization_mode", {"offline": False, "online": True}, default="offline"):
        q.only("linear_class", "autobitlinear")
        return None
    return {"method": "bitnet"}, module_patterns(q, "modules_to_not_convert", default=("lm_head",))


def _compressed(q: Config) -> tuple[Data, Matcher]:
    q.ignore("quantization_status", "global_compression_ratio", "version", "run_compressed")
    q.only("kv_cache_scheme", None)
    q.only("transform_config", None, {})
    sparsity = q.take("sparsity_config", default=None) or {}
    if sparsity and sparsity.get("format") != "dense":
        raise q.error("sparsity_config", "sparse weights are not understood")
    groups = q.take("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        raise q.error("config_groups", "only one group of modules is understood")
    name, group = next(iter(groups.items()))
    scheme = Config(group, "", source=q.source, path=f"{q.path}config_groups.{name}.")
    scheme.only("targets", ["Linear"])
    scheme.only("output_activations", None)
    form = q.choice("format", {form: form for form in _FORMATS})
    scheme.only("format", None, form)
    layout = _stored(scheme.section("weights", ""), form) | {"weights": "linear"}
    layout["matrix_bytes"] = layout.get("matrix_bytes", 0) + _activation_bytes(scheme, form)
    scheme.finish()
    return layout, exact_names(q, "ignore")


_FORMATS: Final = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized")


def _stored(w: Config, form: str) -> Data:
    w.ignore("observer", "observer_kwargs", "type")
    w.only("dynamic", False)
    for name in ("scale_dtype", "zp_dtype"):
        w.only(name, None, "torch.int8", "torch.float8_e4m3fn")
    bits, strategy = w.size("num_bits"), w.take("strategy")
    order = w.choice("actorder", {None: False, "weight": False, "static": False, "group": True, "dynamic": True},
                     default=None)
    block, group = w.take("block_structure", default=None), w.take("group_size", default=None)
    sizes = {"tensor": (None, None), "channel": (1, None), "block": block, "group": (1, group),
             "tensor_group": (1, group)}
    if strategy not in sizes or (strategy == "block" and not (isinstance(block, list) and len(block) == 2)):
        raise w.error("strategy", f"{shown(strategy)} is not known; txcalc knows {', '.join(sizes)}")
    rows, group = sizes[strategy]
    symmetric = w.flag("symmetric", default=True)
    layout: Data = {"method": f"compressed-tensors {form}", "bits": bits, "rows": rows, "group": group,
                    "zero_points": not symmetric}
    if form == "nvfp4-pack-quantized":
        return {**layout, "scale_bytes": 1, "matrix_bytes": 4}
    if form == "pack-quantized":
        layout |= {"word_bits": 32, "matrix_bytes": 16, "input_bytes": 4 * order, "exact": not order}
    elif bits != 8:
        raise w.error("num_bits", f"{form} stores 8 bits, got {bits}")
    return layout


def _activation_bytes(scheme: Config, form: str) -> int:
    """Scales of a matrix's inputs, kept where they do not depend on the inputs."""
    data = scheme.take("input_activations", default=None)
    if not isinstance(data, Mapping):
        return 0
    if form == "nvfp4-pack-quantized":
        return 4
    static = data.get("dynamic") is False
    return (2 if data.get("symmetric", True) else 3) if static else 0


def _group(q: Config) -> Data:
    size = q.take("group_size")
    if size == -1:
        return {"group": None}
    return {"group": q.size("group_size")}


METHODS: Final[Mapping[str, Callable[[Config], tuple[Data, Matcher] | None]]] = {
    "gptq": _gptq, "awq": _awq, "bitsandbytes": _bitsandbytes, "fp8": _fp8, "mxfp4": _mxfp4,
    "bitnet": _bitnet,
    "compressed-tensors": _compressed,
}
