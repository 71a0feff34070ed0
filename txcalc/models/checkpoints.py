"""Checkpoints as models: what the headers of a GGUF or safetensors file say, its weights unread."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from txcalc.huggingface import llama_cpp, modules
from txcalc.huggingface.imported import Imported
from txcalc.models.gguf_header import MAGIC, read_gguf
from txcalc.models.header import Checkpoint, Reader
from txcalc.models.safetensors import read_index, read_safetensors
from txcalc.spec.errors import SpecError
from txcalc.spec.files import Document, explained, open_file
from txcalc.spec.model import Model
from txcalc.spec.weight_formats import WHOLE

_FLOATS: Final = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_FILES: Final = ("model.safetensors.index.json", "model.safetensors")

Place = tuple[int | None, str]
"""The layer of a tensor, and the path of its operation within it."""


def read_checkpoint(path: str) -> Checkpoint:
    """Read the header of a ``.safetensors`` or GGUF file, of an index with its files, or of what a folder holds.

    Raises ``SpecError``, in one line, for a file that is not there, is neither, or is damaged.
    """
    path = _in_folder(path)
    with explained(path, "cannot be read"):
        if path.endswith(".json"):
            return read_index(path)
        with open_file(path) as file:
            if file.read(len(MAGIC)) != MAGIC:
                file.seek(0)
                return read_safetensors(Reader(file, path))
        return read_gguf(path)


def _in_folder(path: str) -> str:
    if not os.path.isdir(path):  # noqa: PTH112
        return path
    inside = [os.path.join(path, file) for file in _FILES]  # noqa: PTH118
    found = next(filter(os.path.isfile, inside), None)
    if found is None:
        raise SpecError(f"holds neither {' nor '.join(_FILES)}", source=path)
    return found


def with_tensors(found: Imported, header: Checkpoint, notes: tuple[str, ...]) -> Imported:
    """A configuration that was read, with its file's weights, and their bytes where they are not all of one width.

    What is after the last layer, and predicts further tokens, is left out, as are a safetensors file's buffers.
    Raises ``SpecError``.
    """
    model = Model.from_data(found.document.data)
    place = llama_cpp.place if header.kind == "gguf" else modules.places(model)
    placed = {name: place(name) for name in header.stored}
    after = {name for name, (layer, _) in placed.items() if layer is not None and layer >= model.layers}
    left = after | (set() if header.kind == "gguf" else header.buffers.keys())
    own = replace(header, stored={name: each for name, each in header.stored.items() if name not in left})
    kinds: Counter[str] = Counter()
    for name, tensor in own.stored.items():
        if name not in own.buffers:
            kinds[tensor.dtype] += tensor.elements
    most = _FLOATS.get(kinds.most_common(1)[0][0]) if kinds and kinds.keys() <= _FLOATS.keys() else None
    if after:
        size = sum(header.stored[name].bytes for name in after)
        notes = (*notes, f"{header.source}: left out {len(after)} tensors after the last layer, {size:,} bytes")
    twice = model.head.kind == "lm" and model.head.tied and any(path == "head" for _, path in placed.values())
    stored = _stored(own, placed, model.layers, most)
    if header.kind != "gguf" and most and len(kinds) == 1 and not twice:
        stored = {name: stored[name] for name in ("method", "elements", "width")}
    fields = {**found.document.data, "stored": stored}
    if not header.stored:
        notes = (*notes, f"{header.source}: its files are not all beside it, so its weights are the {header.bytes:,} "
                 "bytes that it says, of tensors that were not read")
    dtype = most or found.dtype if header.kind != "gguf" else found.dtype
    return replace(found, document=Document(fields), notes=found.notes + notes, dtype=dtype)


def _stored(own: Checkpoint, placed: Mapping[str, Place], layers: int, most: str | None) -> dict[str, Any]:
    inside: dict[str, list[int]] = {}
    outside: Counter[str] = Counter() if own.stored else Counter({"": own.bytes})
    for name, tensor in own.stored.items():
        layer, path = placed[name]
        if layer is None:
            outside[path] += tensor.bytes
        else:
            inside.setdefault(path, [0] * layers)[layer] += tensor.bytes
    alike = {path: each[:1] if len(set(each)) == 1 else each for path, each in inside.items()}
    return {"method": own.kind.partition("-")[0], "layers": alike, "outside": dict(outside),
            "elements": own.parameters, "width": WHOLE[most] if most and own.kind != "gguf" else None}
