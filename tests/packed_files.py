"""Bytes of single matrices as the tools' own code packs them: ``tests/data/packed.json``.

Written by ``python tests/packed_files.py`` where compressed-tensors, optimum-quanto, hqq and auto-round are installed,
none of which the tests need: each row is a configuration as its tool writes it, and the bytes of what it then holds for
a matrix of (outputs, inputs).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "data" / "packed.json"
SHAPES = ((48, 128), (96, 384), (160, 256))
Measured = tuple[dict[str, Any], tuple[int, int], int]


def held(module: Any) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values() if hasattr(t, "numel"))


def linear(shape: tuple[int, int]) -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(shape[1], shape[0], bias=False, dtype=torch.bfloat16)


def schemes() -> Iterator[dict[str, Any]]:
    """Every scheme that the library has a name for, and what is changed in some."""
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    named = {name: preset_name_to_scheme(name, ["Linear"]).model_dump() for name in PRESET_SCHEMES
             if name != "UNQUANTIZED"}
    yield from named.values()
    for name, change in (
        ("W4A16", {"group_size": 64, "symmetric": False}), ("W8A16", {"symmetric": False}), ("W8A8", {
            "symmetric": False}), ("W4A16", {"actorder": "static"}),
        ("W4A16", {"strategy": "channel", "group_size": None}), ("FP8_BLOCK", {"block_structure": [32, 64]}),
        ("W4A16", {"strategy": "channel", "group_size": None, "symmetric": False}),
        ("W3A16", {"symmetric": False}), ("FP8", {"strategy": "channel"}),
    ):
        yield {**named[name], "weights": {**named[name]["weights"], **change}}


def compressed() -> Iterator[Measured]:
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config

    for scheme in schemes():
        for shape in SHAPES:
            model = torch.nn.Sequential(linear(shape))
            apply_quantization_config(model, QuantizationConfig(config_groups={
                "group_0": QuantizationScheme.model_validate(scheme)}))
            compressor = ModelCompressor.from_pretrained_model(model)
            compressor.compress_model(model)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "config.json")
                path.write_text("{}")
                compressor.update_config(folder)
                yield json.loads(path.read_text())["quantization_config"], shape, held(model)


def quanto() -> Iterator[Measured]:
    import torch
    from optimum.quanto import freeze, qtypes, quantize

    for weights, kind in (("int8", "qint8"), ("float8", "qfloat8"), ("int4", "qint4"), ("int2", "qint2")):
        for shape in (*SHAPES, (36, 96), (40, 160), (44, 288)):
            model = torch.nn.Sequential(linear(shape))
            quantize(model, weights=qtypes[kind])
            freeze(model)
            yield {"quant_method": "quanto", "weights": weights}, shape, held(model)


def hqq() -> Iterator[Measured]:
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    for bits in (1, 2, 4, 8):
        for group in (32, 64):
            for shape in SHAPES:
                config = BaseQuantizeConfig(nbits=bits, group_size=group)
                packed = HQQLinear(linear(shape), config, compute_dtype=torch.bfloat16, device="cpu")
                yield {"quant_method": "hqq", "quant_config": config}, shape, held(packed)


def auto_round() -> Iterator[Measured]:
    """The classes that ``dynamic_import_quant_linear_for_packing`` chooses by the packing's name."""
    from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp

    for name, layer, more in (("auto_round", qlinear_torch, {}), ("auto_round:auto_gptq", qlinear_torch_zp, {}),
                              ("auto_round:gptqmodel", qlinear_torch, {"g_idx": True})):
        for bits in (2, 3, 4, 8):
            for group in (32, -1):
                for shape in SHAPES[1:]:
                    packed = layer.QuantLinear(bits, group, shape[1], shape[0], False, **more)
                    yield ({"quant_method": "auto-round", "bits": bits, "group_size": group, "sym": True,
                            "packing_format": name}, shape, held(packed))


def main() -> None:
    tools = {"compressed-tensors": compressed, "optimum-quanto": quanto, "hqq": hqq, "auto-round": auto_round}
    rows = []
    for tool, measure in tools.items():
        found: dict[str, dict[str, Any]] = {}
        for config, shape, size in measure():
            row = found.setdefault(json.dumps(config, sort_keys=True), {
                "tool": f"{tool} {version(tool)}", "config": config, "matrices": []})
            row["matrices"].append([*shape, size])
        rows += found.values()
    TABLE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
