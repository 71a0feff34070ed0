"""``quantization_config`` of a configuration: how each method stores a matrix, and which ones it leaves alone.

The layouts of most are ``txcalc.spec.weight_formats``; here is what a configuration may choose, and compressed-tensors,
whose ``pack-quantized``, ``int-``, ``float-``, ``naive-``, ``nvfp4-pack-`` and ``mxfp…`` formats say their sizes.
Its layouts, AutoRound's, HQQ's and Quanto's are those of the tools' own tensors (``tests/packed_files.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from txcalc.huggingface import modules
from txcalc.huggingface.build import Data
from txcalc.huggingface.config import Config
from txcalc.huggingface.patterns import Matcher, below_layers, exact_names, globs, module_patterns, only_named
from txcalc.spec.errors import shown
from txcalc.spec.facts import layer_order
from txcalc.spec.inputs import LMHead
from txcalc.spec.layers import MoE
from txcalc.spec.model import Model
from txcalc.spec.weight_formats import filled

FIELD: Final = "quantization_config"


class Method(NamedTuple):
    """A ``quant_method``."""

    layout: Callable[[Config], Data | None]  # that of a matrix, None where none is packed
    passed: str = ""  # fields that change no byte
    fixed: Mapping[str, tuple[Any, ...]] = {}  # fields that must have one of these values
    # What stays whole is in the first of these that is given, or else in the last.
    lists: tuple[str, ...] = ("modules_to_not_convert",)
    default: tuple[str, ...] = ("lm_head",)  # what stays whole where nothing is said
    reads: Callable[[Config, str, Sequence[str]], Matcher] = module_patterns  # how a list is read


def read_quantization(c: Config, model: Model, *, tower: bool = True) -> Data | None:
    """The ``quantization`` of a spec for a ``model`` that was read from the same configuration.

    None where weights are stored whole, and quantized in every forward pass. ``tower``: it may be packed as well.

    Raises ``SpecError`` naming a method, field or module that is not understood, and a family whose modules are not.
    """
    q = c.section(FIELD if FIELD in c.data else "compression_config", "")
    method = METHODS[q.choice("quant_method", {name: name for name in METHODS}, default=_implied(q))]
    text = c.data.get("text_config")
    family = modules.family_of(c.model_type, text.get("model_type") if isinstance(text, Mapping) else None)
    try:
        matrices = modules.matrices(family, model) if family else None
    except KeyError:
        matrices = None
    if family is None or matrices is None or model.per_layer_embedding is not None:  # has matrices of its own
        raise c.error(FIELD, f"quantized checkpoints of model_type {c.model_type} are not understood")
    q.ignore(*method.passed.split())
    for name, values in method.fixed.items():
        q.only(name, *values)
    layout = method.layout(q)
    listed = next((name for name in method.lists if name in q.data), method.lists[-1])
    matcher = method.reads(q, listed, method.default) if layout else None
    q.finish()
    return _chosen(q, layout, matcher, family, matrices, model, tower=tower) if layout and matcher else None


def _implied(q: Config) -> str:
    """The methods whose first files did not name them: bitsandbytes, and ModelOpt's."""
    if "load_in_8bit" in q.data or "load_in_4bit" in q.data:
        return "bitsandbytes"
    return "modelopt" if "quant_algo" in q.data else ""


def _chosen(
    q: Config, layout: Data, matcher: Matcher, family: modules.Family, matrices: Sequence[modules.Matrix], model: Model,
    *, tower: bool,
) -> Data:
    """The layout, with what is left alone counted by path."""
    names = [name for matrix in matrices for part in matrix.parts for name in part]
    predicts = f"{family.layers}.{model.layers}.eh_proj"  # of a layer that is not built
    strange = matcher.strange(q, [*names, predicts])
    apart, mixed = layout.pop("apart", ()), dict[str, int]()
    whole = filled(layout)
    linear, experts = (whole["weights"] == kind for kind in ("linear", "experts"))
    left: dict[str, int] = {}
    split = False
    for matrix in matrices:
        path, routed = f"{matrix.layer}.{matrix.path}", ".experts." in matrix.path
        gate = matrix.path.endswith("shared_gate") and not linear  # never packed: it has one output
        leaves = [matcher.leaves(*part) for part in matrix.parts]
        other = {below_layers(name) in apart for part in matrix.parts for name in part}
        if len({*leaves}) > 1 or len(other) > 1:
            raise q.error(matcher.field, f"leaves alone a part of what stands as one: {' and '.join(names[:2])}")
        if True in other:
            mixed[path] = mixed.get(path, 0) + matrix.copies
        if leaves[0] and not gate and (routed or not experts):
            left[path] = left.get(path, 0) + matrix.copies
        split |= len(leaves) > 1 and not leaves[0]
    untied = isinstance(model.head, LMHead) and not model.head.tied
    seen = model.tower is not None and linear
    optional: Data = {
        "left": left, "mixed": [{"bits": 8, "scale_bytes": 0, "matrices": mixed}] if mixed else [],
        "head": linear and untied and not matcher.leaves("lm_head", "language_model.lm_head"),
    }
    alone = _leaves_tower(matcher) if tower else True
    if seen and alone is not False:
        optional["tower"] = False
    exact = whole.get("exact", True) and not (linear and _packed_router(family, model, matcher))
    # Scales of a matrix, or of several rows, are more where ours is several; lists of a tower's matrices are not read.
    exact = exact and not (split and (whole.get("matrix_bytes") or whole.get("rows", 1) != 1))
    exact = exact and not strange and not (seen and alone is None)
    return {**layout, **{name: value for name, value in optional.items() if value or name == "tower"}, "exact": exact}


def _leaves_tower(matcher: Matcher) -> bool | None:
    """Tell whether a tower and its projector are left alone; None where that is said of single matrices of theirs."""
    def leaves(*names: str, below: str = "any") -> bool:
        return any(matcher.leaves(f"{name}.{below}", f"model.{name}.{below}") for name in names)

    if leaves("visual") or (leaves(*_TOWERS) and leaves(*_PROJECTORS)):
        return True
    named = [text for text, _ in matcher.patterns if re.search("vis|image|projector|connector|merger", text)]
    return None if named else False


_TOWERS: Final = ("vision_tower", "vision_model", "vision_encoder")
_PROJECTORS: Final = ("multi_modal_projector", "connector", "vision_embed", "projector", "mlp1", "embed_vision")
"""Module names of vision encoders and of projectors; ``visual`` holds both."""


def _packed_router(family: modules.Family, model: Model, matcher: Matcher) -> bool:
    """Tell whether some libraries would have packed a router of this model."""
    routed = [i for i, (_, block) in enumerate(layer_order(model)) if isinstance(block.feed_forward, MoE)]
    return family.router is not None and any(
        not matcher.leaves(*(f"{place}.{i}.{family.router}" for place in (family.layers, *family.also)))
        for i in routed)


# ---------------------------------------------------------------- layouts that a configuration may choose


def _group(q: Config) -> int | None:
    """Inputs that share a scale: -1 stands for all."""
    return None if q.take("group_size") == -1 else q.size("group_size")


def _gptq(q: Config) -> Data:
    return {"method": "gptq", "bits": q.choice("bits", {2: 2, 3: 3, 4: 4, 8: 8}), "group": _group(q)}


def _gptq_modules(q: Config, field: str, _: Sequence[str]) -> Matcher:
    """All but these are left alone."""
    chosen = q.take(field, "inside_layer_modules", default=None)
    names = [name for group in chosen or [] for name in (group if isinstance(group, list) else [group])]
    return Matcher(field, only=tuple(map(str, names)))


def _awq(q: Config) -> Data:
    return {"method": "awq", "bits": q.choice("bits", {4: 4}), "group": _group(q),
            "zero_points": q.flag("zero_point", default=True)}


def _bitsandbytes(q: Config) -> Data:
    four, eight = q.flag("load_in_4bit", default=False), q.flag("load_in_8bit", default=False)
    double = q.flag("bnb_4bit_use_double_quant", default=False)
    kind = q.choice("bnb_4bit_quant_type", {"nf4": "nf4", "fp4": "fp4"}, default="fp4")
    if four == eight:
        raise q.error("load_in_4bit", "either this or load_in_8bit must be true")
    return {"method": "int8" if eight else f"{kind}-dq" if double else kind}


def _fp8(q: Config) -> Data:
    rounded = q.choice("scale_fmt", {None: False, "float": False, "ue8m0": True}, default=None)
    static = q.choice("activation_scheme", {"dynamic": False, "static": True}, default="dynamic")
    block = q.take("weight_block_size", default=None)
    if block is not None and not (isinstance(block, list) and [type(size) for size in block] == [int, int]):
        raise q.error("weight_block_size", f"must be two whole numbers, got {shown(block)}")
    rows, group = block or (None, None)
    # Some files round scales to powers of two and keep them in fp32, others in one byte.
    return {"method": "fp8", "rows": rows, "group": group, "matrix_bytes": 4 * static, "exact": not rounded}


def _bitnet(q: Config) -> Data | None:
    if q.choice("quantization_mode", {"offline": False, "online": True}, default="offline"):
        q.only("linear_class", "autobitlinear")
        return None
    return {"method": "bitnet"}


def _compressed(q: Config) -> Data:
    cache = q.take("kv_cache_scheme", default=None)
    sparsity = q.take("sparsity_config", default=None) or {}
    if sparsity and sparsity.get("format") != "dense":
        raise q.error("sparsity_config", "sparse weights are not understood")
    groups = q.take("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        raise q.error("config_groups", "only one group of modules is understood")
    name, group = next(iter(groups.items()))
    scheme = q.part(f"config_groups.{name}", group, "")
    scheme.only("targets", ["Linear"])
    scheme.only("output_activations", None)
    said, other = (q, scheme) if q.data.get("format") != "mixed-precision" and q.data.get("format") else (scheme, q)
    form = said.choice("format", {form: form for form in _FORMATS})
    other.only("format", None, form, "mixed-precision")
    layout = _stored(scheme.section("weights", ""), form) | {"weights": "linear"}
    layout["matrix_bytes"] = layout.get("matrix_bytes", 0) + _activation_bytes(scheme, form)
    # Codes that do not fill words, as of 3 bits, run on from word to word today; older versions began a new one.
    dense = form != "pack-quantized" or 32 % layout["bits"] == 0 or _numbers(q.data.get("version")) >= [0, 20]
    layout["exact"] = layout.get("exact", True) and dense and not cache  # whose scales stand beside the matrices
    scheme.finish()
    return layout


def _numbers(version: object) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(version))[:2]]


_MX: Final = {"mxfp4-pack-quantized": 4, "mxfp6-pack-quantized": 6, "mxfp8-quantized": 8}
_FORMATS: Final = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
                   *_MX)


def _stored(w: Config, form: str) -> Data:
    w.ignore("observer", "observer_kwargs")
    w.only("dynamic", False)
    for name in ("scale_dtype", "zp_dtype"):
        w.only(name, None, "torch.int8", "torch.float8_e4m3fn", *(["torch.uint8"] if form in _MX else []))
    bits, strategy, kind = w.size("num_bits"), w.take("strategy"), w.take("type", default="int")
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
    if form in _MX:
        for name, known in (("num_bits", _MX[form]), ("strategy", "group"), ("group_size", 32), ("symmetric", True)):
            w.only(name, known)
        return {**layout, "scale_bytes": 1}
    if form == "nvfp4-pack-quantized":
        return {**layout, "scale_bytes": 1, "matrix_bytes": 4}
    if form == "pack-quantized":
        return {**layout, "word_bits": 32, "matrix_bytes": 16, "input_bytes": 4 * order, "exact": not order}
    if bits > 8 or (bits < 8 and kind != "int"):
        raise w.error("num_bits", f"{form} stores 8 bits, got {bits}")
    return {**layout, "bits": 8}  # integers of fewer bits in a byte each


def _activation_bytes(scheme: Config, form: str) -> int:
    """Scales of a matrix's inputs, kept where they do not depend on the inputs."""
    data = scheme.take("input_activations", default=None)
    if not isinstance(data, Mapping):
        return 0
    if form == "nvfp4-pack-quantized":
        return 4
    static = data.get("dynamic") is False
    return (2 if data.get("symmetric", True) else 3) if static else 0


def _modelopt(q: Config) -> Data:
    """ModelOpt's files as its ``export_hf_checkpoint`` writes them, with fp32 scales of each matrix and its inputs."""
    cache = q.take("kv_cache_scheme", "kv_cache_quant_algo", default=None)
    known = {"NVFP4": {"method": "nvfp4"}, "FP8": _custom(8, rows=None, group=None, scale_bytes=4, matrix_bytes=4)}
    layout = q.choice("quant_algo", {**known, "MIXED_PRECISION": {}})
    if not layout:  # each has two fp32 scales, and NVFP4 those of groups beside
        named = q.take("quantized_layers", default=None)
        q.ignore("exclude_modules", "ignore")
        own = {name: str(kind.get("quant_algo") if isinstance(kind, Mapping) else kind)
               for name, kind in (named.items() if isinstance(named, Mapping) else ())}
        four, eight = ({below_layers(name) for name, kind in own.items() if kind == of} for of in known)
        if not own or not known.keys() >= {*own.values()} or eight & four:
            raise q.error("quantized_layers", "must say of each of some layers, experts alike, if it is NVFP4 or FP8")
        layout = {**known["NVFP4"], "apart": eight} if four else known["FP8"]
    return {**layout, "exact": not cache}


def _auto_round(q: Config) -> Data:
    """AutoRound's files in the layout of GPTQ, with its group index or without, or of AWQ."""
    bits = q.choice("bits", {2: 2, 3: 3, 4: 4, 8: 8})
    packing, index = q.choice("packing_format", {
        **dict.fromkeys(("auto_round", "auto_round:auto_gptq", "auto_round:gptq", "auto_round:exllamav2"), ("gptq", 0)),
        **dict.fromkeys(("auto_gptq", "auto_round:gptqmodel"), ("gptq", 4)),
        **dict.fromkeys(("auto_round:auto_awq", "auto_round:awq", "awq"), ("awq", 0))}, default="auto_round:auto_gptq")
    sizes = {"bits": bits, "input_bytes": index} if packing == "gptq" else {}
    plain = {"data_type": ("int",), "act_bits": (16, 32), "super_bits": ()}  # others have scales of another kind
    exact = all(q.take(name, default=None) in (None, *known) for name, known in plain.items())
    return {"method": packing, **sizes, "group": _group(q), "exact": exact}


def _auto_round_modules(q: Config, field: str, _: Sequence[str]) -> Matcher:
    """Matrices with sizes of their own, of which 16 bits are whole."""
    extra = q.take(field, default=None) or {}
    whole = [name for name, own in extra.items() if own.get("bits", q.data["bits"]) >= 16]
    if len(whole) < len(extra):
        raise q.error(field, "matrices with sizes of their own are not understood")
    return Matcher(field, tuple((name, name.__eq__) for name in whole))


def _hqq(q: Config) -> Data:
    """HQQ: codes, and a scale and a zero for each group.

    Sixteen small tensors describe a matrix, one of which is the name of a dtype, here of bfloat16.
    """
    own = q.take("quant_config", default=None) or {}
    weights = own.get("weight_quant_params", own)
    for name in ("nbits", "group_size"):
        _whole(q, name, weights[name])
    return _custom(weights["nbits"], group=weights["group_size"], offsets=True, flat=True, matrix_bytes=69,
                   exact=False)


def _torchao(q: Config) -> Data:
    """Torchao's types: int4 with a scale and a zero for each group, int8 and fp8 with a scale per output."""
    if q.take("include_input_output_embeddings", default=False):
        raise q.error("include_input_output_embeddings", "packed embeddings and heads are not understood")
    kind, arguments = q.take("quant_type"), {}
    if isinstance(kind, Mapping):
        kind = kind["default"]
        kind, arguments = kind["_type"], kind.get("_data", {})
    four = kind in ("int4_weight_only", "Int4WeightOnlyConfig")
    if not four and kind not in _TORCHAO_EIGHT:
        raise q.error("quant_type", f"{shown(kind)} is not known; txcalc knows int4_weight_only, "
                      f"{', '.join(_TORCHAO_EIGHT)}")
    group = arguments.get("group_size") or (q.data.get("quant_type_kwargs") or {}).get("group_size", 128)
    _whole(q, "group_size", group)
    return _custom(4 if four else 8, group=group if four else None, offsets=four, exact=False)


def _whole(q: Config, name: str, value: object) -> None:
    """Raise ``SpecError`` for what is no size."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        field = "quant_config" if "quant_config" in q.data else "quant_type"
        raise q.error(field, f"{name} is {shown(value)}, no size")


_TORCHAO_EIGHT: Final = ("int8_weight_only", "Int8WeightOnlyConfig", "int8_dynamic_activation_int8_weight",
                         "Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig", "float8_weight_only",
                         "Float8DynamicActivationFloat8WeightConfig")


def _quanto(q: Config) -> Data:
    """Quanto: int8 and fp8 with a scale per output, int4 and int2 with a scale and a shift for each 128 inputs.

    Where 128 does not divide them, groups are smaller or none. Each matrix has scales of what goes in and comes out.
    """
    bits = q.choice("weights", {"int8": 8, "float8": 8, "int4": 4, "int2": 2})
    return _custom(bits, group=128 if bits < 8 else None, offsets=bits < 8, matrix_bytes=4, exact=bits == 8)


def _custom(bits: int, **sizes: Any) -> Data:
    return {"method": "custom", "bits": bits, "weights": "linear", **sizes}


_MODELOPT: Final = Method(_modelopt, "config_groups producer quant_type group_size", {}, ("exclude_modules", "ignore"),
                          (), lambda q, *how: only_named(q, "quantized_layers") or globs(q, *how))

METHODS: Final[Mapping[str, Method]] = {
    "gptq": Method(
        _gptq, "desc_act sym damp_percent static_groups true_sequential model_name_or_path model_file_base_name "
        "dataset tokenizer batch_size cache_block_outputs exllama_config use_exllama disable_exllama use_cuda_fp16 "
        "model_seqlen max_input_length backend quantizer meta version mse damp_auto_increment block_name_to_quantize "
        "module_name_preceding_first_block act_group_aware hyb_act",
        {"checkpoint_format": ("gptq", "gptq_v2", None), "format": ("gptq", "gptq_v2", None), "dynamic": (None, {}),
         "is_marlin_format": (False, None), "lm_head": (False, None), "pack_dtype": ("int32",)},
        ("modules_in_block_to_quantize",), reads=_gptq_modules),
    "awq": Method(
        _awq, "do_fuse modules_to_fuse fuse_max_seq_len exllama_config backend sym desc_act",
        {"version": ("gemm", "GEMM"), "format": ("gemm", None), "lm_head": (False, None)}, default=()),
    "bitsandbytes": Method(
        _bitsandbytes, "llm_int8_threshold llm_int8_enable_fp32_cpu_offload bnb_4bit_compute_dtype "
        "bnb_4bit_quant_storage _load_in_8bit _load_in_4bit", {"llm_int8_has_fp16_weight": (False,)},
        ("llm_int8_skip_modules",)),
    "fp8": Method(
        _fp8, "dequantize activation_scale_ub",
        {"fmt": ("e4m3", "float8_e4m3fn"), "kv_cache_scheme": (None,), "modules_to_convert": (None, [])},
        ("ignored_layers", "modules_to_not_convert")),
    "mxfp4": Method(lambda _: {"method": "mxfp4"}, "dequantize", default=()),
    "bitnet": Method(_bitnet, "rms_norm_eps modules_to_not_convert",
                     {"linear_class": ("bitlinear", "autobitlinear"),  # the second unpacks what it loads
                      "use_rms_norm": (False,)}),
    # Transformers' ``FbgemmFp8Linear``: an fp32 scale per output.
    "fbgemm_fp8": Method(lambda _: _custom(8, scale_bytes=4), "activation_scale_ub"),
    "modelopt": _MODELOPT, "modelopt_fp4": _MODELOPT,
    "auto-round": Method(
        _auto_round, "autoround_version batch_size data_type dataset enable_quanted_input iters lr sym "
        "gradient_accumulate_steps low_gpu_mem_usage low_cpu_mem_usage minmax_lr nsamples seqlen scale_dtype amp "
        "enable_minmax_tuning enable_norm_bias_tuning block_name_to_quantize to_quant_block_names backend act_bits "
        "act_data_type act_dynamic act_group_size act_sym quant_block_list super_bits super_group_size "
        "static_kv_dtype train_bs", {}, ("extra_config",), reads=_auto_round_modules),
    "hqq": Method(_hqq, lists=("skip_modules",)),
    "torchao": Method(_torchao, "quant_type_kwargs untie_embedding_weights"),
    "quanto": Method(_quanto, "activations"),
    "compressed-tensors": Method(
        _compressed, "quantization_status global_compression_ratio version run_compressed",
        {"transform_config": (None, {}), "moe_sparsity_config": (None,)}, ("ignore",), (), exact_names),
}
