"""Metadata and tensors of GGUF files as llama.cpp's own converter writes them: ``tests/data/gguf_keys.json``.

Written by ``python tests/gguf_keys.py PATH``, of a checkout of llama.cpp (ggml 0.26): random models of transformers'
classes in the sizes of ``test_model_files.py``, converted without their tokenizers.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from types import MethodType
from typing import Any

TABLE = Path(__file__).parent / "data" / "gguf_keys.json"
# What released configurations say and transformers' own, saved again, leaves out; and classes by their older names.
SAYS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_ctx": 67}, "gpt_neox": {"rotary_pct": 0.25}, "cohere2": {"rotary_pct": 1.0}, "minimax_m2": {
        "rotary_dim": 24}, "falcon": {"num_kv_heads": 1}, "hunyuan_v1_moe": {
        "moe_topk": [2] * 3, "moe_intermediate_size": [96] * 3, "num_shared_expert": [1] * 3},
    "ministral3": {"rope_parameters": {"rope_type": "yarn", "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
                                       "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 67}},
    "phimoe": {"original_max_position_embeddings": 67}}
NAMED = {"phimoe": "PhiMoEForCausalLM", "mistral4": "Mistral3ForConditionalGeneration"}


def converted(case: tuple[str, str, dict[str, Any]], folder: Path) -> list[Any]:
    """The type, its saved configuration, keys of the architecture, and tensors: name, type, shape and layers."""
    import gguf
    import torch
    import transformers
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    from tests.test_model_files import config_of
    from txcalc.huggingface.families import FAMILIES

    model_type, architecture, sizes = case
    config = config_of(model_type, sizes)
    said = config.to_dict()
    model = getattr(transformers, next(iter(FAMILIES[model_type].classes)))(config)
    model.save_pretrained(folder)
    tokens = {"added_tokens": [], "model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(101)}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    read = ModelBase.load_hparams(folder, False) | ({} if "num_kv_heads" in sizes else SAYS.get(model_type, {}))
    read |= {"architectures": [NAMED.get(model_type, type(model).__name__)], "bos_token_id": 0}
    path = folder / "a.gguf"
    made = get_model_class(get_model_architecture(read, ModelType.TEXT), mmproj=False)
    made.no_mtp = True
    with torch.inference_mode():
        converter = made(folder, gguf.LlamaFileType.MOSTLY_F16, path, eager=True, hparams=read)
        for each in (converter, getattr(converter, "impl", converter)):
            each.set_vocab = MethodType(lambda self: self.gguf_writer.add_tokenizer_model("none"), each)
        converter.write()
    reader = gguf.GGUFReader(path)
    keys = {key: field.contents() for key, field in reader.fields.items() if key.startswith(f"{architecture}.")}
    tensors: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}
    for tensor in reader.tensors:
        layer, name = re.fullmatch(r"(?:blk\.(\d+)\.)?(.*)", tensor.name).groups()  # type: ignore[union-attr]
        shape = tuple(map(int, reversed(tensor.shape)))
        tensors.setdefault((name, tensor.tensor_type.name, shape), []).extend([int(layer)] if layer else [])
    said |= {"architectures": [type(model).__name__]}
    return [model_type, said, keys, [[*key, layers] for key, layers in tensors.items()]]


def main(checkout: str) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.test_model_files import CLASSES  # before another package of this name

    sys.path[1:1] = [f"{checkout}/gguf-py", checkout]
    rows = []
    for case in CLASSES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(converted(case, Path(folder)))
    TABLE.write_text("[\n" + ",\n".join(json.dumps(row, default=str) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
